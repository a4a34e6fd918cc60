"""Tables of results: the table of a sweep for a terminal, as Markdown, for a spreadsheet and on a page; comparisons.

All of them are made of one `Table`. The best of a column is the cell with the best value; of equal ones, that of the
fewest network calls, and of these the first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from leapstep import files
from leapstep.evaluation.cells import (
    EVEN,
    NAMES,
    REFERENCE,
    Cell,
    best_of_columns,
    even,
    nearness,
    reference_of,
    row_name,
    rows_of,
    shown,
)
from leapstep.evaluation.distances import Estimate
from leapstep.evaluation.evaluate import PAIRS, Evaluation
from leapstep.evaluation.results import Comparison
from leapstep.evaluation.sweep import Sweep
from leapstep.inference.spec import SamplingSpec
from leapstep.models.data import warn
from leapstep.text import clean, counted, duration, percent
from leapstep.views import plots
from leapstep.views.quality import plot


class Entry(NamedTuple):
    """A cell as a table shows it.

    Attributes:
        value: of the metric, with half its interval.
        effort: calls and seconds.
        is_best: of its column.
        is_even: its samples do not tell it from the best of its column.
    """

    value: str
    effort: str
    is_best: bool
    is_even: bool


class Table(NamedTuple):
    """The table of a sweep, as in the DDIM paper: rows of methods, columns of steps.

    Attributes:
        title: what is measured.
        columns: numbers of steps, ascending.
        rows: a name and an entry for each column, None where there is no cell.
        note: what the signs in it mean; empty where there are none.
    """

    title: str
    columns: list[int]
    rows: list[tuple[str, list[Entry | None]]]
    note: str


def table(cells: Sequence[Cell], metric: str, planned: Sequence[SamplingSpec] = ()) -> Table:
    """Lay out cells by one metric, with room for those that are still to come."""
    rows, alike, firsts = rows_of(cells), even(cells, metric), best_of_columns(cells, metric)
    for spec in planned:
        rows.setdefault((spec.label, spec.spacing or ""), {})
    columns = sorted({*firsts, *(spec.steps for spec in planned if spec.steps is not None)})

    def entry(cell: Cell | None) -> Entry | None:
        if cell is None:
            return None
        value = shown(cell, metric)
        return Entry(value, effort(cell), cell is firsts[cell["steps"]] and value != "–", cell in alike)

    entries = [(row_name(row, rows), [entry(line.get(steps)) for steps in columns]) for row, line in rows.items()]
    return Table(NAMES.get(metric, metric), columns, entries, EVEN if alike else "")


def effort(cell: Cell) -> str:
    """What a cell takes: network calls a sample, and the time of all its samples."""
    seconds = cell.get("seconds")
    return counted(round(cell["calls"]), "call") + ("" if seconds is None else f", {duration(seconds)}")


def markdown(cells: Sequence[Cell], metric: str) -> str:
    """The table of a sweep as Markdown: the best of a column is bold."""
    title, columns, rows, note = table(cells, metric)
    lines = [f"| {title} | {' | '.join(map(counted, columns))} |", f"| --- |{' --- |' * len(columns)}"]
    for name, entries in rows:
        texts = []
        for entry in entries:
            value = "" if entry is None else f"**{entry.value}**" if entry.is_best else entry.value
            texts.append("" if entry is None else f"{'≈ ' if entry.is_even else ''}{value}<br>{entry.effort}")
        lines.append(f"| {name} | {' | '.join(texts)} |")
    lines += ["", note] if note else []
    return "\n".join(lines) + "\n"


def terminal(cells: Sequence[Cell], metric: str, planned: Sequence[SamplingSpec] = ()) -> Any:
    """The table of a sweep as rich prints it, with room for the cells that are still to come."""
    from rich.markup import escape
    from rich.table import Table as Grid

    title, columns, rows, note = table(cells, metric, planned)
    grid = Grid(title=None, header_style="bold", caption=note or None)
    grid.add_column(title)
    for steps in columns:
        grid.add_column(counted(steps), justify="right")
    for name, entries in rows:
        texts = []
        for entry in entries:
            value = "" if entry is None else f"[bold]{entry.value}[/bold]" if entry.is_best else entry.value
            sign = "≈ " if entry is not None and entry.is_even else ""
            texts.append("" if entry is None else f"{sign}{value}\n[dim]{entry.effort}[/dim]")
        grid.add_row(escape(clean(name)), *texts)
    return grid


def spreadsheet(cells: Sequence[Cell]) -> str:
    """All cells as CSV, a line each, with every metric and its interval."""
    metrics = [name for name in NAMES if any(name in cell["metrics"] for cell in cells)]
    parts = ["value", "low", "high"]
    if any("first" in measured for cell in cells for measured in cell["metrics"].values()):
        parts.append("first")
    plain = ("method", "label", "steps", "spacing", "calls", "seconds", "seconds_low", "seconds_high", "n")
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([*plain, *(name if part == "value" else f"{name}_{part}" for name in metrics for part in parts)])
    for cell in cells:
        numbers = [cell["metrics"].get(name, {}).get(part) for name in metrics for part in parts]
        writer.writerow([*(_inert(cell.get(name)) for name in plain), *numbers])
    return written.getvalue()


def _inert(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula: a text that begins as one gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    text = clean(value, keep="")
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def caption(sweep: Sweep) -> str:
    """What the numbers of a table are, for who sees it alone."""
    under = sweep.conditions
    text = (
        f"{sweep.model}: {under['n']} samples a cell against {reference_of(sweep.to_json())}, features "
        f"{under['features_source']}. ±: half a 95 % interval; bold: best of its column."
    )
    return "\n\n".join([text, *(f"Warning: {warning}" for warning in sweep.warnings)])


def write(sweep: Sweep, tell: Callable[[str], object] = warn) -> None:
    """Write `table.md`, `table.csv` and, of a sweep that is finished, `quality.png` beside its results.

    Arguments:
        tell: called with a line where the plot cannot be drawn, without matplotlib.
    """
    if not sweep.cells or sweep.folder is None:
        return
    files.write_text(sweep.folder / "table.md", f"{markdown(sweep.cells, sweep.metric)}\n{caption(sweep)}\n")
    files.write_text(sweep.folder / "table.csv", spreadsheet(sweep.cells))
    if sweep.finished:
        try:
            drawn = plots.png(plot(sweep.cells, sweep.metric), (9.0, 4.5))
        except ValueError as error:
            tell(f"no plot: {error}")
        else:
            files.write_bytes(sweep.folder / "quality.png", drawn)


def comparison(compared: Comparison, metric: str) -> str:
    """Results side by side as Markdown; those of other conditions are marked and explained below."""
    lines = [f"| result | model | method | steps | calls | {NAMES[metric]} | time |", f"|{' --- |' * 7}"]
    for row in compared.rows:
        value = shown(row, metric) + (f" <sup>{row['mark']}</sup>" if row["mark"] else "")
        time = "" if row.get("seconds") is None else duration(row["seconds"])
        first = (row.get(name, "") for name in ("result", "model", "label", "steps", "calls"))
        lines.append(f"| {' | '.join(str(text).replace('|', '/') for text in (*first, value, time))} |")
    if trained := [str(row["result"]) for row in compared.rows if row["relation"] == "training"]:
        lines.append(f"\n{', '.join(dict.fromkeys(trained))}: against data {REFERENCE['training']}")
    if compared.notes:
        lines.append("\nNot comparable with the first row without a thought:\n")
        lines += [f"- {note}" for note in compared.notes]
    return "\n".join(lines)


def summary(result: Mapping[str, Any]) -> str:
    """A result of `evaluate`, as JSON, for a terminal: the metrics, copies, and what speaks against them."""
    made, under = result["evaluation"], result["conditions"]
    spec = made.get("spec", {})
    what = made.get("samples")
    if what is None:
        spacing = spec["spacing"] or "times of its own"
        what = f"{made['model']}: {made['label']}, {counted(spec['steps'])}, {spacing}"
    lines = [
        f"{what}; {under['n']} samples against {reference_of(result)}; features: {under['features_source']}",
        "",
        *(f"{NAMES[name]:<18}{shown(result, name):>20}" for name in NAMES if name in result["metrics"]),
        "",
        "± is half of a 95 % interval. Distances: less is better; all else: more is better.",
    ]
    if "memorisation" in result:
        lines += copies(result["memorisation"], under["n"])
    return "\n".join([*lines, *(f"warning: {warning}" for warning in result["warnings"])])


def copies(search: Mapping[str, Any], n: int) -> list[str]:
    """What the search for copies among n samples found, as JSON, in sentences."""
    share, expected, known = search["share"], search["expected"], search["known"]
    searched = search.get("samples", n)
    among = "the samples" if searched == n else f"the first {searched:,} samples"
    text = (
        f"Copies: {percent(share['value'])} of {among} are as near to a training sample as the nearest 1 % of "
        f"{known}; luck alone gives {percent(expected['low'])} to {percent(expected['high'])}"
    )
    more = share["value"] > expected["high"]
    return [
        nearness(Estimate(**search["relative"]), known),
        text + (": look at the closest pairs (--pairs)." if more else "."),
    ]


def closest_pairs(result: Evaluation, path: Path) -> None:
    """Draw the samples nearest to training data for what is usual, each beside the nearest, as a PNG."""
    from leapstep.data.pictures import captioned, save_image
    from leapstep.data.pictures import table as sheet

    found = result.copies
    assert found is not None, "an evaluation for pairs has looked for copies"
    nearest = found.memorisation.ratio.argsort()[:PAIRS]
    index, ratios = found.memorisation.index[nearest].tolist(), found.memorisation.ratio[nearest].tolist()
    rows = {"sample": result.values[nearest.numpy()], "nearest in training": np.asarray(found.training.values[index])}
    columns = [
        f"sample {i}\ntraining {j}\nratio {ratio:.2f}"
        for i, j, ratio in zip(nearest.tolist(), index, ratios, strict=True)
    ]
    title = (
        f"The {len(nearest)} of {len(result.values)} samples that are nearest to one of {len(found.training)} training "
        f"samples\nratio: the distance over the median one of {found.known}; 1 is as far as fresh data, 0 a copy"
    )
    save_image(captioned({title: sheet(rows, columns)}), path)
