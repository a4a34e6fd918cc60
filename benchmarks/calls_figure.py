"""The figure of quality against network calls, of folders that `benchmarks/calls.py` made.

    python benchmarks/calls_figure.py docs/few-calls.png calls/digits="Digits, 8x8" calls/mnist="MNIST, 28x28"

For each folder a panel with the Fréchet distance, with `--rmse` one with the distance to the teacher beside it, and
below samples from the same noise at 3 calls and of the teacher.
"""

import argparse
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from calls import REAL
from PIL import Image

from leapstep import files
from leapstep.evaluation.cells import estimate, rows_of
from leapstep.evaluation.sweep import Sweep
from leapstep.files import reading
from leapstep.views import plots

AXES = {"frechet": "Fréchet distance to real data", "rmse": "RMSE to the teacher"}
TICKS = (1, 2, 3, 5, 10, 20, 50)
CALLS, ACROSS = 3, 8
"""The number of calls of the samples below a panel, and how many of them."""


class Line(NamedTuple):
    """How the row of a table is drawn."""

    name: str
    colour: str
    marker: str
    width: float
    behind: int


LINES = {
    ("fitted", None): Line("fitted to the network", plots.LIGHT.series[0], "o", 2.4, 6),
    ("ddim", "trailing"): Line("DDIM", "#3d4147", "s", 1.4, 4),
    ("unipc, order = 3", "trailing"): Line("UniPC", "#6d737b", "^", 1.2, 3),
    ("dpmpp_2m", "trailing"): Line("DPM-Solver++", "#8d939b", "D", 1.2, 3),
    ("deis", "trailing"): Line("DEIS", "#a3a9b1", "v", 1.2, 3),
    ("ipndm", "trailing"): Line("iPNDM", "#a3a9b1", "P", 1.2, 3),
    ("diffusers UniPC", "leading"): Line("diffusers: UniPC, leading", "#b9bec5", "x", 1.0, 2),
    ("diffusers DPM-Solver++", "leading"): Line("diffusers: DPM-Solver++, leading", "#b9bec5", "+", 1.0, 2),
}
"""The rows that are drawn, by label and spacing (None: any), in the order of the legend."""

STRIPS = (("ddim", "trailing"), ("unipc, order = 3", "trailing"), ("fitted", None))
"""The rows of which samples are shown."""

ROW_NAMES = (f"DDIM, {CALLS} calls", f"UniPC, {CALLS} calls", f"fitted, {CALLS} calls", "the teacher")


def panel(axes, sweep, metric, title):
    """Draw the lines of a folder, and how near real data are to each other."""
    rows = rows_of([cell for cell in sweep.cells if metric in cell["metrics"]])
    real = next((cell for cell in sweep.cells if cell["label"] == REAL and metric in cell["metrics"]), None)
    shown = []
    for (label, spacing), line in LINES.items():
        row = next((cells for name, cells in rows.items() if name[0] == label and spacing in (None, name[1])), {})
        points = [(cell["calls"], estimate(cell, metric)) for _, cell in sorted(row.items())]
        points = [(calls, found) for calls, found in points if calls > 1]
        if not points:
            continue
        calls, values = [point[0] for point in points], [point[1].value for point in points]
        style = {"color": line.colour, "linewidth": line.width, "zorder": line.behind}
        axes.plot(calls, values, marker=line.marker, markersize=3 + line.width, label=line.name, **style)
        if line.width > 2:
            axes.fill_between(
                calls,
                [found.low for _, found in points],
                [found.high for _, found in points],
                color=line.colour,
                alpha=0.15,
                linewidth=0,
            )
        shown += values
    if real is not None:
        floor = estimate(real, metric).value
        axes.axhline(floor, color=plots.LIGHT.ink, linestyle=":", linewidth=1.2)
        axes.text(50, floor, "real data ", ha="right", va="bottom", fontsize=7.5)
        shown.append(floor)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plots.ticks_at(axes.xaxis, TICKS)
    plots.plain_numbers(axes.yaxis)
    axes.set(title=title, xlim=(1.85, 56), xlabel="network calls a sample", ylabel=AXES[metric])
    axes.set_ylim(0.87 * min(shown), 1.15 * max(shown))


def strips(axes, folder, across, row_names):
    """Show samples from the same noise, a row for each of `STRIPS` and for the teacher."""
    kept = reading.read_npz(folder / "samples.npz")
    names = {tuple(name.split("|")): name for name in kept}

    def of(label, spacing, calls):
        found = (
            names[name]
            for name in names
            if name[0] == label and spacing in (None, name[1]) and calls in (None, name[2])
        )
        return next(found, None)

    teacher = kept[of("teacher", None, None)][:across]
    found = [of(label, spacing, str(CALLS)) for label, spacing in STRIPS]
    rows = [*(np.full_like(teacher, 255) if name is None else kept[name][:across] for name in found), teacher]
    shape = rows[0].shape
    images = np.stack(rows)
    sheet = np.full((len(rows), shape[2] + 1, across, shape[3] + 1, shape[1]), 255, np.uint8)
    sheet[:, :-1, :, :-1] = images.transpose(0, 3, 1, 4, 2)
    axes.imshow(sheet.reshape(len(rows) * (shape[2] + 1), -1, shape[1]).squeeze(), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.grid(False)
    middles = [(shape[2] + 1) * (row + 0.5) - 1 for row in range(len(rows))]
    axes.set_yticks(middles if row_names else [], ROW_NAMES if row_names else [])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def main(out, folders, metrics):
    def draw(figure, colours):
        grid = figure.add_gridspec(2, len(folders) * len(metrics), height_ratios=[2.1, 1])
        panels = []
        for place, text in enumerate(folders):
            folder, _, title = text.partition("=")
            first = place * len(metrics)
            for column, metric in enumerate(metrics, first):
                panels.append(figure.add_subplot(grid[0, column]))
                panel(panels[-1], Sweep.read(folder), metric, "" if column > first else title or folder)
            below = figure.add_subplot(grid[1, first : first + len(metrics)])
            strips(below, Path(folder), ACROSS * len(metrics), place == 0)
        handles = {}
        for ax in panels:
            for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
                handles.setdefault(name, handle)
        order = [line.name for line in LINES.values() if line.name in handles]
        figure.legend([handles[name] for name in order], order, loc="outside upper center", ncols=4)

    picture = Image.open(io.BytesIO(plots.png(draw, (3.6 * len(folders) * len(metrics), 5.0))))
    written = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    files.write_bytes(out, written.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Draw quality against network calls, of folders of benchmarks/calls.py."
    )
    parser.add_argument("out", help="the picture, such as docs/few-calls.png")
    parser.add_argument("folders", nargs="+", metavar="FOLDER[=TITLE]", help="what benchmarks/calls.py wrote")
    parser.add_argument("--rmse", action="store_true", help="with the distance to the teacher")
    arguments = parser.parse_args()
    main(arguments.out, arguments.folders, ["frechet", "rmse"] if arguments.rmse else ["frechet"])
