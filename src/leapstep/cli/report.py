"""`leapstep report`: one HTML page about a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep import files
from leapstep.cli import options
from leapstep.progress import progress_bar
from leapstep.text import duration

if TYPE_CHECKING:
    from leapstep.evaluation.page import Settings, Splits
    from leapstep.models.model import Model

EXAMPLES = """**Examples**

`leapstep report runs/digits --out report.html`

`leapstep report runs/digits --data digits --out report.html`

`leapstep report runs/mnist --data mnist/ --method unipc --steps 10 --sweep mnist-sweep --out mnist.html`
"""

HELD = ("test", "validation")
"""The splits that may hold what a model was not trained on, the first that is there."""


def command(
    model: options.ModelSource,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page to write.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="The training data, for quality, reconstructions, errors by noise level and nearest "
            "neighbours; default: those named in the run folder, if they are on this machine."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Number of samples in the grid; default: 64 images, 16 signals, 256 points.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps from noise to data; default: 20, or T where that is less.")
    ] = None,
    method: options.MethodName = "ddim",
    seed: Annotated[int, typer.Option(help="Sample i is a function of the seed and i, as in `sample`.")] = 0,
    label: Annotated[
        str | None, typer.Option(help="Class of all samples, by name or number; default: the classes in turn.")
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A folder made by `leapstep sweep`; default: MODEL/sweep, if it exists."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per batch.")] = 64,
    budget: Annotated[
        str, typer.Option(help="Time limit, such as 10m or 1h; with a slow network the page shows less.")
    ] = "10m",
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> dict[str, Any]:
    """Write one HTML page: samples, what few steps cost, the way from noise to data, and more with --data.

    The page is a single file that needs no network: pictures, sliders and the commands that repeat each figure.
    """
    _check(out, overwrite)
    from leapstep.evaluation import page as pages
    from leapstep.inference.spec import SamplingSpec
    from leapstep.models import checkpoint
    from leapstep.views import report

    loaded = checkpoint.load(model, options.device(device))
    chosen = SamplingSpec(labels=None if label is None else (label,)).labels_for(loaded, range(1))
    settings = pages.Settings(n, seed, method, steps, None if chosen is None else int(chosen), batch_size)
    pages.complete(loaded, settings)
    data = _own(loaded) if data is None else data
    held = None if data is None else _read(loaded, data)
    settings = pages.complete(loaded, _fitted(loaded, held, settings, budget))
    with progress_bar(pages.effort(loaded, held, settings), "drawing the page", "step") as bar:
        page = pages.gather(loaded, held, settings, source=model, sweep=sweep, on_step=bar.update)
    text = report.render(page)
    files.write_text(out, text)
    said = " ".join(text for text in (report.lead(page), report.quality(page), report.cost(page)) if text)
    typer.echo(said)
    typer.echo(f"written: {out}")
    return {"out": out, "verdict": said}


def _check(out: Path, overwrite: bool) -> None:
    """Make sure, before the work, that the page can be drawn and written."""
    from leapstep.views import plots
    from leapstep.views.report import rendering

    plots.require()
    rendering.require()
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: name a file that ends in .html")
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name a file")
    options.claim_file(out, overwrite)


def _fitted(model: Model, held: Splits | None, settings: Settings, budget: str) -> Settings:
    """What there is time for; said where that is not everything, or takes longer all the same."""
    from leapstep.evaluation import page as pages

    seconds = options.budget(budget)
    price = pages.price(model, settings)
    whole = pages.evaluations(model, held, settings) * price
    settings, takes = pages.fitted(model, held, settings, seconds, price)
    if whole > seconds:
        typer.echo(
            f"a sample takes the network {duration(price)}, so the whole page would take about {duration(whole)}: it "
            f"shows less, which takes about {duration(takes)} (--budget)",
            err=True,
        )
    return settings


def _own(model: Model) -> str | None:
    """What the model was trained on, as its folder says, where it need not be fetched."""
    source = (model.details.get("data") or {}).get("source")
    return source if isinstance(source, str) and (source == "digits" or Path(source).exists()) else None


def _read(model: Model, source: str) -> Splits:
    """The training data, and what is held out, if there is such a split."""
    from leapstep.data.dataset import NoSplit
    from leapstep.evaluation.page import Split, Splits
    from leapstep.models.data import parts_of

    parts = parts_of(model, source)
    train, reasons = Split(*parts("train")), []
    for name in HELD:
        try:
            return Splits(source, train, Split(*parts(name)), name)
        except NoSplit:
            continue
        except ValueError as error:
            reasons.append(str(error))
    why = reasons[0] if reasons else f"{source} has no part {' or '.join(HELD)}, and no run held out any of it"
    typer.echo(
        f"{why}: the page shows its part train alone, training data where the model was trained on them", err=True
    )
    return Splits(source, train)
