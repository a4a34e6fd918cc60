"""A page about several training runs: losses over steps and time, what they differ in, their quality and samples.

leapstep.views.runs.compare(["runs/a", "runs/b"], out="page.html")
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leapstep import files
from leapstep.evaluation.cells import LESS_IS_BETTER, NAMES, shown
from leapstep.evaluation.page.contents import Curve
from leapstep.evaluation.page.folder import HELD_OUT, TRAINING
from leapstep.evaluation.runs import Run, differences, quality, read_runs, unlike
from leapstep.text import clean, counted, duration, one_line, short
from leapstep.views import plots
from leapstep.views.report import figures, rendering
from leapstep.views.report.sections import Block, Section

WIDE = 448
"""How wide a grid of samples is on the page at most, pixels."""


class Runs(NamedTuple):
    """Runs side by side, and the page about them; None where none was asked for."""

    runs: list[Run]
    html: str | None = None

    @property
    def text(self) -> str:
        """The numbers and the differences as Markdown tables."""
        parts = [_markdown(numbers(self.runs), self.runs)]
        if unequal := differences(self.runs):
            parts.append(_markdown({name: list(map(said, values)) for name, values in unequal.items()}, self.runs))
        return "\n\n".join([*parts, *remarks(self.runs)])


def compare(folders: Sequence[str | Path], out: str | Path | None = None) -> Runs:
    """Put training runs side by side, and write a page about them.

    Arguments:
        folders: of two or more runs.
        out: the HTML file; None: no page is made.

    Returns:
        the runs, and the page.

    Raises:
        ValueError: fewer than two runs, what is no run, or matplotlib or jinja2 is not installed.
    """
    if out is None:
        return Runs(read_runs(folders))
    plots.require()
    rendering.require()
    runs = read_runs(folders)
    html = render(runs, shlex.join(["leapstep", "compare", *map(str, folders), "--out", str(out)]))
    files.write_text(Path(out), html)
    return Runs(runs, html)


def render(runs: Sequence[Run], again: str) -> str:
    """The page as one HTML file, by the template of the report: nothing is fetched, all text is escaped."""
    makers = (_losses, _numbers, _differences, _quality, _samples)
    sections = [section for make in makers if (section := make(runs)) is not None]
    unequal = differences(runs)
    lead = f"{len(runs)} training runs, which differ in {counted(len(unequal), 'setting')}."
    return rendering.written(
        title=", ".join(run.name for run in runs),
        kind="comparison",
        lead=[lead],
        sections=sections,
        footer=["Curves are read from TensorBoard's log in the run folders, all else from leapstep.json."],
        again=again,
    )


# --- what is said --------------------------------------------------------------------------------------------------


def said(value: Any) -> str:
    """A setting, in a line."""
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return one_line(", ".join(map(str, value)), 80)
    return one_line({True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value), 80)


def numbers(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The size, the time, the speed and the losses of each run, by what it is."""

    def loss(run: Run, name: str, key: str = "held_out") -> str:
        one = run.losses.get(name)
        return "–" if one is None else f"{short(one[key])} at step {one['step']:,}"

    rows: Mapping[str, Any] = {
        "weights": lambda run: f"{run.weights:,}",
        "steps": lambda run: "–" if run.step is None else f"{run.step:,}",
        "time": lambda run: "–" if run.took is None else duration(run.took),
        "steps a second": lambda run: short(run.speed),
        "held-out loss, last": lambda run: loss(run, "last"),
        "held-out loss, least": lambda run: loss(run, "least"),
    }
    return {name: [read(run) for run in runs] for name, read in rows.items()}


def remarks(runs: Sequence[Run]) -> list[str]:
    """What is to be known before losses are compared, and what is not shown."""
    lines = []
    if names := unlike(runs):
        lines.append(f"Losses are not comparable as they are: {', '.join(names)} differ.")
    for run in runs:
        if not run.curves:
            lines.append(f"{run.name} has no TensorBoard log with curves.")
        if run.results.outdated:
            outdated = ", ".join(path.name for path in run.results.outdated)
            lines.append(f"Left out of {run.name}, as they are of other weights: {one_line(outdated)}.")
    return lines


def _markdown(rows: Mapping[str, Sequence[str]], runs: Sequence[Run]) -> str:
    lines = [
        ["", *(run.name for run in runs)],
        ["---"] * (len(runs) + 1),
        *([name, *row] for name, row in rows.items()),
    ]
    return "\n".join(f"| {' | '.join(clean(cell).replace('|', '/') for cell in line)} |" for line in lines)


# --- sections ------------------------------------------------------------------------------------------------------


def _table(rows: Mapping[str, Sequence[str]], runs: Sequence[Run]) -> Block:
    cells = [[name, *row] for name, row in rows.items()]
    return {"type": "table", "heads": ["", *(run.name for run in runs)], "rows": cells, "summary": "", "strong": []}


def _losses(runs: Sequence[Run]) -> Section | None:
    blocks: list[Block] = []
    for name, what in ((HELD_OUT, "held-out data"), (TRAINING, "training data"), ("loss", "the batches")):
        by_step: dict[str, Curve] = {run.name: run.curves[name] for run in runs if name in run.curves}
        by_time = {run.name: curve for run in runs if (curve := run.over_seconds(name)) is not None}
        drawn = [
            figures.lines(curves, over, f"Loss on {what}", f"loss-{len(blocks)}-{over[:4]}")
            for curves, over in ((by_step, "training step"), (by_time, "seconds of training"))
            if curves
        ]
        if drawn:
            blocks.append({"type": "plots", "plots": drawn, "look": ""})
    if not blocks:
        return None
    text = (
        "Held-out and training data: of the averaged weights, on samples, noise and times that are always the same. "
        "The batches: of the weights that are trained. Seconds are those of training, without stops."
    )
    if told := remarks(runs):
        blocks.append({"type": "remarks", "remarks": told, "quiet": ""})
    return Section("losses", "Losses", text, blocks, [])


def _numbers(runs: Sequence[Run]) -> Section:
    return Section("numbers", "In numbers", "", [_table(numbers(runs), runs)], [])


def _differences(runs: Sequence[Run]) -> Section:
    unequal = {name.replace("_", " "): list(map(said, values)) for name, values in differences(runs).items()}
    text = "All other settings are the same." if unequal else "No setting differs."
    return Section("settings", "What differs", text, [_table(unequal, runs)] if unequal else [], [])


def _quality(runs: Sequence[Run]) -> Section | None:
    compared = quality(runs)
    if compared is None:
        return None
    names = [name for name in NAMES if any(name in row["metrics"] for row in compared.rows)]
    rows = []
    for row in compared.rows:
        values = [shown(row, name) if name in row["metrics"] else "–" for name in names]
        mark = f" ({row['mark']})" if row["mark"] else ""
        rows.append([f"{row['run']}{mark}", str(row.get("label", "")), str(row.get("steps", "")), *values])
    heads = ["run", "method", "steps", *(f"{NAMES[name]} {'↓' if name in LESS_IS_BETTER else '↑'}" for name in names)]
    notes = [f"Not comparable with the first row without a thought: {note}" for note in compared.notes]
    blocks: list[Block] = [{"type": "table", "heads": heads, "rows": rows, "summary": "", "strong": []}]
    if notes:
        blocks.append({"type": "remarks", "remarks": notes, "quiet": ""})
    text = "Results of evaluate and sweep in the run folders, of their present weights. ± is half of a 95 % interval."
    return Section("quality", "Quality", text, blocks, [])


def _samples(runs: Sequence[Run]) -> Section | None:
    from PIL import Image

    rows = []
    for run in runs:
        if run.grid is None:
            continue
        step, png = run.grid
        png = figures.strip(png, figures.LIMIT)
        with Image.open(io.BytesIO(png)) as image:
            width, height = image.size
        sprite = figures.Sprite(png, width, height, 1, 1, 1)
        alt = f"Samples of {run.name} after {counted(step)}."
        rows.append({"name": run.name, "value": f"step {step:,}", "sprite": sprite, "alt": alt})
    if not rows:
        return None
    alike = len({run.model for run in runs if run.grid is not None}) == 1
    text = "The last grid of each training, by 20 steps of DDIM." + (
        " The same place has the same start noise in all of them." if alike else ""
    )
    return Section("samples", "Samples", text, [{"type": "rows", "rows": rows, "width": WIDE}], [])
