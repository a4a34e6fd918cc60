"""One page about a model, as one HTML file that needs nothing else.

    leapstep.report("runs/digits", out="report.html")

`leapstep.evaluation.page.gather` runs the model and collects what the page shows; `render` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from leapstep import files
from leapstep.evaluation import page as pages
from leapstep.evaluation.page import Page, Plan
from leapstep.inference.spec import SamplingSpec
from leapstep.models import checkpoint
from leapstep.models.data import warn
from leapstep.models.model import Model
from leapstep.progress import progress_bar
from leapstep.text import duration
from leapstep.views import plots
from leapstep.views.report import rendering
from leapstep.views.report.rendering import render
from leapstep.views.report.words import cost, lead, quality

__all__ = ["Report", "cost", "lead", "quality", "render", "report"]


class Report(NamedTuple):
    """A page about a model: what it shows, and the HTML file."""

    page: Page
    html: str

    def __repr__(self) -> str:
        return f"Report({self.page.source or 'a model'!r}, {len(self.html):,} characters of HTML)\n{self.verdict}"

    @property
    def verdict(self) -> str:
        """What the model is, how good its samples are and what few steps cost, in a few sentences."""
        return " ".join(text for text in (lead(self.page), quality(self.page), cost(self.page)) if text)


def report(
    model: Model | str | Path,
    data: str | Path | None = None,
    spec: SamplingSpec | None = None,
    *,
    n: int | None = None,
    out: str | Path | None = None,
    sweep: str | Path | None = None,
    budget: float = 600.0,
    source: str = "",
    opening: Sequence[str] = (),
    device: torch.device | str = "cpu",
    tell: Callable[[str], object] = warn,
    progress: bool = True,
) -> Report:
    """Make one page about a model: samples, what few steps cost, the way from noise to data, and more beside data.

    Arguments:
        model: it, or where it lies.
        data: what it was trained on, for its quality, reconstructions, errors by noise level and nearest neighbours;
            None: what its folder says, where that is on this machine.
        spec: how samples are drawn; its `n` does not count.
        n: samples in the grid; None: 64 pictures, 16 signals, or 256 points.
        out: the HTML file to write; None: none.
        sweep: a folder that `leapstep.sweep` made; None: `sweep` in the model's folder, where that is one.
        budget: seconds that it may take: of a slow network, less is shown.
        source: how the page names the model; where that is a folder, the log of its training is shown.
        opening: options with which commands open the model beside its name, such as `("--convention", "c.json")`.
        device: where a model that is loaded here runs.
        tell: called with a line where nothing is held out, or less is shown.
        progress: show a bar on stderr.

    Returns:
        what the page shows, and its HTML.

    Raises:
        ValueError: a specification that does not fit the model, data that cannot be read, a sweep of another model, or
            matplotlib or jinja2 is not installed.
    """
    plots.require()
    rendering.require()
    if not isinstance(model, Model):
        model, source = checkpoint.load(model, device), source or str(model)
    plan = Plan(spec or SamplingSpec(), n)
    pages.complete(model, plan)
    origin = pages.trained_on(model) if data is None else str(data)
    splits = None if origin is None else pages.read_splits(model, origin, tell)
    price = pages.price(model, plan)
    whole = pages.evaluations(model, splits, plan) * price
    plan, takes = pages.fitted(model, splits, plan, budget, price)
    if whole > budget:
        tell(
            f"a sample takes the network {duration(price)}, so the whole page would take about {duration(whole)}: it "
            f"shows less, which takes about {duration(takes)} (--budget)"
        )
    with progress_bar(pages.effort(model, splits, plan), "drawing the page", "step", show=progress) as bar:
        page = pages.gather(model, splits, plan, source=source, opening=opening, sweep=sweep, on_step=bar.update)
    made = Report(page, render(page))
    if out is not None:
        files.write_text(out, made.html)
    return made
