"""The quality of samples against real data, for one setting or many, and tables of it.

A number says nothing without what it depends on: the reference and the features, how many samples, their seed and
labels. So a `Yardstick` carries its conditions, every result repeats them, and where results of different conditions
meet in one table, each deviation gets a mark.
"""

from __future__ import annotations

import csv
import inspect
import io
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.sampling import State, sample_in_batches
from leapstep.core.transitions import TRANSITIONS, Transition, ddim
from leapstep.evaluation.distances import Estimate, difference, measure
from leapstep.evaluation.features import Features
from leapstep.files import reading
from leapstep.models.checkpoint import Model
from leapstep.text import clean, duration
from leapstep.views import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

# --- one setting ---------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """How samples are made.

    Attributes:
        method: its name in `TRANSITIONS`.
        options: those of the method that are not as they are by default.
        steps: their number.
        spacing: one of `SPACINGS`.
    """

    method: str
    options: Mapping[str, Any]
    steps: int
    spacing: str

    @property
    def label(self) -> str:
        """The method with its options, as a table names it."""
        return label(self.method, self.options)


def label(method: str, options: Mapping[str, Any]) -> str:
    """A method, its eta and what is not as by default: `ddim, η = 0.5`; the DDPM paper's larger variance is `σ̂`."""
    if method == "ddpm" and options.get("variance") == "beta":
        return "ddpm, σ̂"
    defaults = inspect.signature(TRANSITIONS[method].make).parameters
    told = [
        f"{'η' if name == 'eta' else name} = {f'{value:g}' if isinstance(value, float) else value}"
        for name, value in options.items()
        if name == "eta" or (name in defaults and value != defaults[name].default)
    ]
    return ", ".join([method, *told])


@dataclass(frozen=True)
class Yardstick:
    """What samples are measured against.

    Attributes:
        features: the space in which they are compared.
        reference: real data in it, [m, k].
        conditions: what a result depends on besides the model and the setting, as JSON.
        metrics: which, of `evaluation.METRICS`; None: all that can be computed.
        k: neighbours of the k-nearest-neighbour metrics.
        resamples: of the bootstrap.
    """

    features: Features
    reference: Tensor
    conditions: Mapping[str, Any]
    metrics: Sequence[str] | None = None
    k: int = 5
    resamples: int = 100

    @property
    def spread(self) -> float:
        """The total variance of the reference: how far, in Fréchet distance, nothing but its mean is from it."""
        reference = self.reference.double()
        return float((reference - reference.mean(0)).square().sum(1).mean())

    def seen(self, values: Array) -> tuple[Tensor, Tensor | None]:
        """Samples [n, *d] in feature space, and their class probabilities where the features come with a classifier."""
        classify = self.features.probabilities
        return self.features.extract(values), None if classify is None else classify(values)

    def measure(self, seen: Tensor, probabilities: Tensor | None = None) -> tuple[dict[str, Estimate], list[str]]:
        """Every metric of samples in feature space [n, k] with its 95 % interval, and what speaks against them."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = measure(
                seen,
                self.reference,
                probabilities=probabilities,
                k=self.k,
                resamples=self.resamples,
                metrics=self.metrics,
            )
        return found, [str(each.message) for each in told]


def interleaved(labels: Array) -> npt.NDArray[np.intp]:
    """An order of data, [m], in which every beginning holds the classes in the proportions of the whole."""
    rank, count = np.empty(len(labels)), np.empty(len(labels))
    for label in np.unique(labels):
        where = labels == label
        rank[where], count[where] = np.arange(where.sum()), where.sum()
    return np.lexsort((labels, (rank + 0.5) / count))


def draw(
    model: Model,
    setting: Setting,
    transition: Transition,
    n: int,
    *,
    labels: Tensor | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    on_calls: Callable[[int], object] = lambda calls: None,
) -> Iterator[Batch]:
    """Draw samples first to n of a model, batch by batch.

    Arguments:
        labels: the class of every sample from 0, [n]; None: of any.
        on_calls: told, after each step, for how many more single samples the network was called.
    """
    newest, clock = 0, time.perf_counter()
    timing: list[tuple[float, int]] = []

    def note(state: State) -> None:
        nonlocal newest, clock
        _await(state.x.device)
        calls = (state.calls - (newest if state.step > 1 else 0)) * len(state.x)
        newest = state.calls
        if calls:  # the time of a step that has none is part of the next
            timing.append((time.perf_counter() - clock, calls))
            on_calls(calls)
            clock = time.perf_counter()

    def conditioned(rows: range) -> Diffusion:
        return model.diffusion(None if labels is None else labels[rows.start : rows.stop], guidance)

    batches = sample_in_batches(
        conditioned,
        (n - first, *model.shape),
        setting.steps,
        transition,
        spacing=setting.spacing,
        seed=seed,
        first=first,
        batch_size=batch_size,
        device=device,
        on_step=note,
    )
    for _, x in batches:
        values = model.scaling.to_pixels(x) if model.is_pictures else model.scaling.to_values(x)
        yield Batch(values, newest, torch.tensor(timing, dtype=torch.float64))
        timing.clear()
        clock = time.perf_counter()


def warm_up(model: Model, n: int, *, labels: Tensor | None = None, guidance: float = 1.0, **where: Any) -> None:
    """Call the network once with a batch, as `draw` would for n samples: the first call of all is not like the others.

    Arguments:
        where: batch_size and device, as of `draw`.
    """
    next(draw(model, Setting("ddim", {}, 1, "trailing"), ddim(), n, labels=labels, guidance=guidance, **where))


def _await(device: torch.device) -> None:
    """Wait until an accelerator has done what it was told to, so that a clock can be read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class Batch(NamedTuple):
    """Some samples of a setting, as they were drawn.

    Attributes:
        values: pixels [b, c, h, w], or numbers [b, *d].
        calls: of the network, for each of them.
        timing: of each step the seconds that it took, and how often it called the network for a single sample [s, 2].
    """

    values: Array
    calls: int
    timing: Tensor


class Part(NamedTuple):
    """The samples of a setting that are there so far, in feature space.

    Attributes:
        seen: [b, k].
        probabilities: [b, classes], or None.
        calls: of the network, for each sample.
        timing: as of `Batch`, of all steps so far; empty where the samples were there before.
    """

    seen: Tensor
    probabilities: Tensor | None = None
    calls: int = 0
    timing: Tensor = torch.zeros(0, 2, dtype=torch.float64)

    @property
    def seconds(self) -> dict[str, float]:
        """What so many samples take: `seconds`, `seconds_low`, `seconds_high`.

        The calls of all samples at the median pace of a call, with the method's own work in its step; and at the paces
        that the fastest and the slowest quarter of the calls had at least. What happens once, such as starting up or
        another process for a moment, moves a sum but not these.
        """
        paces = quantiles(self.timing[:, 0] / self.timing[:, 1], self.timing[:, 1], (0.5, 0.25, 0.75))
        work = float(self.timing[:, 1].sum())
        return dict(zip(("seconds", "seconds_low", "seconds_high"), (pace * work for pace in paces), strict=True))


def quantiles(values: Tensor, weights: Tensor, shares: Sequence[float]) -> list[float]:
    """For each share the least of the values [m] that, with all below it, have this share of the weights [m]."""
    order = values.argsort()
    reached = weights[order].cumsum(0)
    places = torch.searchsorted(reached, torch.tensor(shares, dtype=reached.dtype) * reached[-1])
    found: list[float] = values[order][places.clamp(max=len(values) - 1)].tolist()
    return found


def gather(yardstick: Yardstick, batches: Iterable[Batch], part: Part | None = None) -> Iterator[Part]:
    """Put batches of `draw` into feature space, one after the other; yield all that is there so far after each."""
    for values, calls, timing in batches:
        seen, probabilities = yardstick.seen(values)
        if part is None:
            part = Part(seen, probabilities, calls, timing)
        else:
            more = None if probabilities is None or part.probabilities is None else [part.probabilities, probabilities]
            part = Part(
                torch.cat([part.seen, seen]),
                None if more is None else torch.cat(more),
                max(part.calls, calls),
                torch.cat([part.timing, timing]),
            )
        yield part


REFERENCE = {
    "held-out": "which the model was not trained on",
    "training": "which the model was trained on: a copy of them would do best",
}
"""What a reference is to a model, by `holdout.relation`, as a reader is told."""


def nearness(relative: Estimate, known: str, among: str = "training data", judged: bool = True) -> str:
    """How far samples are from the training data, and what that means.

    Arguments:
        relative: their median distance to the nearest training sample, over that of real data.
        known: which real data these are.
        among: what the training data are called.
        judged: whether to say what it means.
    """
    low, high = relative.low or 0.0, relative.high or 0.0
    if high < 1:
        meant = ": nearer than fresh data, as copies are, and samples that vary too little, such as blurred ones"
    elif low > 1:
        meant = ": farther than fresh data, so no copies, but not quite like the data either"
    else:
        meant = ": as far as fresh data, no sign of copies"
    return (
        f"From the nearest {among}, samples are {relative.value:.2f} times as far as {known} are (medians; 95 % "
        f"interval {low:.2f} to {high:.2f}){meant if judged else ''}."
    )


def as_json(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Estimates as a result file keeps them."""
    return {name: {"value": each.value, "low": each.low, "high": each.high} for name, each in metrics.items()}


# --- tables of many ------------------------------------------------------------------------------------------------

LESS_IS_BETTER = ("frechet", "kernel")

NAMES = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "inception_score": "Inception Score",
}
"""The metrics, as a reader knows them."""

Cell = Mapping[str, Any]
"""A finished setting: method, settings, label, steps, spacing, calls, seconds, n, metrics; as JSON.

Where its calls were timed one by one, it has `seconds_low` and `seconds_high` as well (see `Part.seconds`).
"""


def value_of(cell: Cell, metric: str) -> float:
    """What a cell has for a metric; an infinity that loses where it has nothing."""
    found = cell["metrics"].get(metric)
    worst = math.inf if metric in LESS_IS_BETTER else -math.inf
    return worst if found is None or found["value"] is None else found["value"]


def best(cells: Sequence[Cell], metric: str) -> Cell:
    """The cell with the best value; of equal ones, that of the fewest calls."""
    sign = 1 if metric in LESS_IS_BETTER else -1
    return min(cells, key=lambda cell: (sign * value_of(cell, metric), cell["calls"]))


def behind(cell: Cell, first: Cell, metric: str) -> Estimate | None:
    """How much worse a cell is than another from the same start noise, with a 95 % interval; None if not known."""
    pair = [
        Estimate(value_of(each, metric), replicates=tuple(each.get("replicates", {}).get(metric, ())))
        for each in (cell, first)
    ]
    return difference(*(pair if metric in LESS_IS_BETTER else reversed(pair)))


def is_even(cell: Cell, first: Cell, metric: str) -> bool:
    """Whether the samples do not tell a cell from a better one: the interval of their difference holds 0."""
    found = None if cell is first else behind(cell, first, metric)
    return found is not None and found.low is not None and found.low <= 0


def even(cells: Sequence[Cell], metric: str) -> list[Cell]:
    """The cells that their samples do not tell from the best of their column."""
    columns: dict[int, list[Cell]] = {}
    for cell in cells:
        columns.setdefault(cell["steps"], []).append(cell)
    firsts = {steps: best(column, metric) for steps, column in columns.items()}
    return [cell for cell in cells if is_even(cell, firsts[cell["steps"]], metric)]


EVEN = "≈: these samples do not tell it from the best of its column (95 % interval of the difference, same noise)."
"""What the sign in a table means."""


def shown(cell: Cell, metric: str) -> str:
    """A value with half the width of its interval."""
    found = cell["metrics"].get(metric)
    if found is None or found["value"] is None:
        return "-"
    value, low, high = found["value"], found.get("low"), found.get("high")
    if low is None or high is None:
        return f"{value:.4g}"
    half = (high - low) / 2
    digits = max(0, 1 - int(f"{half:.1e}".partition("e")[2])) if half > 0 else 3  # two of them are of half
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def rows_of(cells: Sequence[Cell]) -> dict[tuple[str, str], dict[int, Cell]]:
    """Cells by row (label, spacing) and column (steps), in the order in which they come."""
    rows: dict[tuple[str, str], dict[int, Cell]] = {}
    for cell in cells:
        rows.setdefault((cell["label"], cell["spacing"]), {})[cell["steps"]] = cell
    return rows


def row_name(row: tuple[str, str], rows: Mapping[tuple[str, str], Any]) -> str:
    """The label of a row, with its spacing where rows differ in it."""
    return row[0] if len({spacing for _, spacing in rows}) == 1 else f"{row[0]}, {row[1]}"


def markdown(cells: Sequence[Cell], metric: str) -> str:
    """Write the table as in the DDIM paper: rows of methods, columns of steps.

    The best of a column is bold; what cannot be told from it has a sign, which a line below the table explains.
    """
    rows, alike = rows_of(cells), even(cells, metric)
    columns = sorted({cell["steps"] for cell in cells})
    lines = [
        f"| {NAMES[metric]} | {' | '.join(f'{steps} steps' for steps in columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    for row, found in rows.items():
        texts = []
        for steps in columns:
            cell = found.get(steps)
            if cell is None:
                texts.append("")
                continue
            text = shown(cell, metric)
            text = f"**{text}**" if cell is best([c for c in cells if c["steps"] == steps], metric) else text
            text = f"≈ {text}" if cell in alike else text
            texts.append(f"{text}<br>{cell['calls']} calls, {duration(cell['seconds'])}")
        lines.append(f"| {row_name(row, rows)} | {' | '.join(texts)} |")
    lines += ["", EVEN] if alike else []
    return "\n".join(lines) + "\n"


def spreadsheet(cells: Sequence[Cell]) -> str:
    """Write all cells as CSV, a line each, with every metric and its interval."""
    metrics = [name for name in NAMES if any(name in cell["metrics"] for cell in cells)]
    plain = ("method", "label", "steps", "spacing", "calls", "seconds", "seconds_low", "seconds_high", "n")
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([*plain, *(f"{name}{part}" for name in metrics for part in ("", "_low", "_high"))])
    for cell in cells:
        numbers = [cell["metrics"].get(name, {}).get(part) for name in metrics for part in ("value", "low", "high")]
        writer.writerow([*(_inert(cell.get(name)) for name in plain), *numbers])
    return written.getvalue()


def _inert(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula: a text that begins as one gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    shown = clean(value, keep="")
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def results(path: Path) -> dict[str, Any]:
    """Read what `leapstep sweep` or `leapstep evaluate --out` wrote.

    Raises:
        OSError: the file is missing, or cannot be read.
        ValueError: it holds something else.
    """
    from leapstep.evaluation import schema
    from leapstep.files.schema import checked

    found = reading.read_json(path)
    kind = schema.Sweep if isinstance(found, dict) and "cells" in found else schema.Evaluation
    try:
        checked(kind, found)
    except ValueError as error:
        raise ValueError(f"{path} is not a result of leapstep evaluate or sweep: {error}") from error
    content: dict[str, Any] = found
    return content


def plot(cells: Sequence[Cell], metric: str) -> plots.Draw:
    """Quality over network calls, and over seconds, a line for each method, with its intervals."""
    rows = rows_of(cells)
    finite = {
        row_name(row, rows): [cell for cell in found.values() if math.isfinite(value_of(cell, metric))]
        for row, found in rows.items()
    }

    def draw(figure: Figure, colours: plots.Palette) -> None:
        for axes, over in zip(figure.subplots(1, 2, sharey=True), ("calls", "seconds"), strict=True):
            series = {
                name: [
                    plots.Point(x, _range(cell["metrics"][metric]))
                    for x, cell in zip(_costs(line, over), line, strict=True)
                ]
                for name, line in finite.items()
            }
            plots.curves(axes, series, colours)
            if over == "calls":
                better = "less" if metric in LESS_IS_BETTER else "more"
                axes.set(xlabel="network calls a sample", ylabel=f"{NAMES[metric]} ({better} is better)")
                plots.ticks_at(axes.xaxis, [cell["calls"] for cell in cells])
            else:
                axes.set(xlabel=f"seconds for {cells[0]['n']} samples, at each row's median pace")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)

    return draw


def _costs(cells: Sequence[Cell], over: str) -> list[Estimate]:
    """The calls of cells of one row, or their seconds at the row's pace."""
    calls = [cell["calls"] for cell in cells]
    if over == "calls" or not cells:
        return [Estimate(number) for number in calls]
    return plots.at_one_pace(calls, [_range(cell, over) for cell in cells])


def _range(found: Mapping[str, Any], name: str = "") -> Estimate:
    """A number with its ends, as a cell or an estimate of it keeps them."""
    low, high = (found.get(f"{name}_{end}" if name else end) for end in ("low", "high"))
    return Estimate(found[name or "value"], low, high)


def advice(cells: Sequence[Cell], metric: str, spread: float = math.inf) -> list[str]:
    """Say what to take: the cheapest that is as good as the best or within 2 % of it, and the best for few calls.

    Where the Fréchet distance of every cell is larger than the reference's spread (`Yardstick.spread`), so that the
    data's mean alone would be nearer to them, say first that nothing here is good.
    """
    rows = rows_of(cells)

    def named(cell: Cell) -> str:
        return f"{row_name((cell['label'], cell['spacing']), rows)}, {cell['steps']} steps: {shown(cell, metric)}"

    first = best(cells, metric)
    top = value_of(first, metric)
    near = [cell for cell in cells if abs(value_of(cell, metric) - top) <= 0.02 * abs(top)]
    cheap = min(near, key=lambda cell: (cell["calls"], abs(value_of(cell, metric) - top)))  # never by the seconds
    if cheap is first:
        lines = [f"best and cheapest: {named(first)}"]
    else:
        lines = [f"cheapest within 2 % of the best ({named(first)}): {named(cheap)}"]
    even_with_it = [cell for cell in cells if cell["calls"] < cheap["calls"] and is_even(cell, first, metric)]
    if even_with_it:
        cell = min(even_with_it, key=lambda cell: (cell["calls"], abs(value_of(cell, metric) - top)))
        lines.append(f"cheapest that {cell['n']} samples do not tell from the best: {named(cell)}")
    distances = [value_of(cell, "frechet") for cell in cells if "frechet" in cell["metrics"]]
    if distances and min(distances) > spread:
        lines.insert(
            0,
            f"no cell is as near to the data as their mean alone would be (Fréchet distance {spread:.3g}): the network "
            "has not learned them; train it longer, or ask leapstep doctor",
        )
    for cell, budgets in _budgets(cells, metric):
        lines.append(f"best for {' or '.join(map(str, budgets))} calls: {named(cell)}")
    return lines


def _budgets(cells: Sequence[Cell], metric: str) -> list[tuple[Cell, list[int]]]:
    """The best cells for 5, 10 and 20 calls, each with the budgets that it is best for."""
    found: list[tuple[Cell, list[int]]] = []
    for calls in (5, 10, 20):
        if fit := [cell for cell in cells if cell["calls"] <= calls]:
            cell = best(fit, metric)
            if found and found[-1][0] is cell:
                found[-1][1].append(calls)
            else:
                found.append((cell, [calls]))
    return found


# --- what may stand in one table -----------------------------------------------------------------------------------


def marks(conditions: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Find where results deviate from the conditions of the first one.

    Arguments:
        conditions: of each result.
    Returns:
        the marks of each, such as "a b", empty where all is as in the first; and a footnote for each mark.
    """
    notes: dict[str, str] = {}
    marked = []
    for each in conditions:
        names = [name for name in {**conditions[0], **each} if each.get(name) != conditions[0].get(name)]
        letters = []
        for name in names:
            note = f"{name} is {_brief(each.get(name))}, not {_brief(conditions[0].get(name))}"
            letters.append(notes.setdefault(note, chr(ord("a") + len(notes) % 26) * (1 + len(notes) // 26)))
        marked.append(" ".join(letters))
    return marked, [f"{letter}: {note}" for note, letter in notes.items()]


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
