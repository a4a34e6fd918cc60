"""Quality over network calls and over seconds: the plots of a sweep, in its folder and on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from leapstep.evaluation.cells import LESS_IS_BETTER, NAMES, Cell, estimate, row_name, rows_of, value_of
from leapstep.evaluation.distances import Estimate
from leapstep.views import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {"calls": "network calls a sample", "seconds": "seconds for {n} samples, at median pace"}
"""What quality is plotted over."""


def over(axes: Any, cells: Sequence[Cell], metric: str, cost: str, colours: plots.Palette) -> None:
    """Draw quality over one of the `AXES`, a line for each method, with intervals."""
    plots.curves(axes, series(cells, metric, cost), colours)
    if cost == "calls":
        plots.ticks_at(axes.xaxis, [cell["calls"] for cell in _drawn(cells, metric)])
    axes.set(xlabel=AXES[cost].format(n=cells[0].get("n", "all")))


def series(cells: Sequence[Cell], metric: str, cost: str) -> dict[str, list[plots.Point]]:
    """The points of each row of cells; seconds are those at the median pace of the row."""
    rows, lines = rows_of(cells), {}
    for row, by_steps in rows.items():
        line = _drawn(list(by_steps.values()), metric)
        calls = [cell["calls"] for cell in line]
        if cost == "calls":
            costs = [Estimate(number) for number in calls]
        else:
            ends = ("seconds", "seconds_low", "seconds_high")
            costs = plots.at_one_pace(calls, [Estimate(*(cell.get(end) for end in ends)) for cell in line])  # type: ignore[arg-type]
        values = [estimate(cell, metric) or Estimate(math.nan) for cell in line]
        lines[row_name(row, rows)] = [plots.Point(*pair) for pair in zip(costs, values, strict=True)]
    return lines


def _drawn(cells: Sequence[Cell], metric: str) -> list[Cell]:
    """The cells that have a finite value and a place on a logarithmic axis."""
    return [cell for cell in cells if cell["calls"] > 0 and math.isfinite(value_of(cell, metric))]


def plot(cells: Sequence[Cell], metric: str) -> plots.Draw:
    """Quality over network calls and over seconds, side by side."""

    def draw(figure: Figure, colours: plots.Palette) -> None:
        for axes, cost in zip(figure.subplots(1, 2, sharey=True), AXES, strict=True):
            over(axes, cells, metric, cost, colours)
            if cost == "calls":
                better = "less" if metric in LESS_IS_BETTER else "more"
                axes.set(ylabel=f"{NAMES[metric]} ({better} is better)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)

    return draw
