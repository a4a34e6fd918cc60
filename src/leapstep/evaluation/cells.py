"""Cells of a sweep: which is best, which cannot be told from it, what to take; and what may stand in one table.

A cell is one method and number of steps with what was measured of it, as JSON: `method`, `options`, `steps` and
`spacing`, which tell it from the others; `label`, `calls`, `n`, `metrics` with their intervals, `replicates` of these;
and `seconds`, with `seconds_low` and `seconds_high` where its calls were timed one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from leapstep.evaluation.distances import Estimate, difference

Cell = Mapping[str, Any]

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

REFERENCE = {
    "held-out": "which the model was not trained on",
    "training": "which the model was trained on: a copy of them would do best",
}
"""What a reference is to a model, by `holdout.relation`, as a reader is told."""

EVEN = "≈: these samples do not tell it from the best of its column (95 % interval of the difference, same noise)."
"""What the sign in a table means."""


def estimate(cell: Cell, metric: str) -> Estimate | None:
    """What a cell has for a metric, with the ends of its interval; None where it has nothing."""
    measured = cell["metrics"].get(metric)
    if measured is None or measured["value"] is None:
        return None
    replicates = cell.get("replicates", {}).get(metric, ())
    ends = measured.get("low"), measured.get("high")
    return Estimate(measured["value"], *ends, tuple(replicates), measured.get("first"))


def as_json(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Estimates as a result file keeps them, without their replicates."""
    return {
        name: {"value": found.value, "low": found.low, "high": found.high}
        | ({} if found.first is None else {"first": found.first})
        for name, found in metrics.items()
    }


def value_of(cell: Cell, metric: str) -> float:
    """What a cell has for a metric; an infinity that loses where it has nothing."""
    measured = estimate(cell, metric)
    worst = math.inf if metric in LESS_IS_BETTER else -math.inf
    return worst if measured is None else measured.value


def shown(cell: Cell, metric: str) -> str:
    """A value with half the width of its interval."""
    measured = estimate(cell, metric)
    return "–" if measured is None else str(measured)


def best(cells: Sequence[Cell], metric: str) -> Cell:
    """The cell with the best value; of equal ones, that of the fewest calls, and of these the first."""
    sign = 1 if metric in LESS_IS_BETTER else -1
    return min(cells, key=lambda cell: (sign * value_of(cell, metric), cell["calls"]))


def best_of_columns(cells: Sequence[Cell], metric: str) -> dict[int, Cell]:
    """The best cell of each number of steps, in ascending order of these."""
    columns: dict[int, list[Cell]] = {}
    for cell in cells:
        columns.setdefault(cell["steps"], []).append(cell)
    return {steps: best(columns[steps], metric) for steps in sorted(columns)}


def behind(cell: Cell, first: Cell, metric: str) -> Estimate | None:
    """How much worse a cell is than another from the same start noise, with a 95 % interval; None if not known."""
    pair = [estimate(cell, metric), estimate(first, metric)]
    one, other = pair if metric in LESS_IS_BETTER else pair[::-1]
    return None if one is None or other is None else difference(one, other)


def is_even(cell: Cell, first: Cell, metric: str) -> bool:
    """Whether the samples do not tell a cell from a better one: the interval of their difference holds 0."""
    gap = None if cell is first else behind(cell, first, metric)
    return gap is not None and gap.low is not None and gap.low <= 0


def even(cells: Sequence[Cell], metric: str) -> list[Cell]:
    """The cells that their samples do not tell from the best of their column."""
    firsts = best_of_columns(cells, metric)
    return [cell for cell in cells if is_even(cell, firsts[cell["steps"]], metric)]


def rows_of(cells: Sequence[Cell]) -> dict[tuple[str, str], dict[int, Cell]]:
    """Cells by row (label, spacing) and column (steps), in the order in which they come."""
    rows: dict[tuple[str, str], dict[int, Cell]] = {}
    for cell in cells:
        rows.setdefault((cell["label"], cell["spacing"]), {})[cell["steps"]] = cell
    return rows


def sort(cells: list[Cell], planned: Sequence[Mapping[str, Any]]) -> None:
    """Put cells into the order in which they were planned, by what tells them apart; others stay before them."""
    cells.sort(key=lambda cell: sum(i for i, own in enumerate(planned, 1) if own.items() <= cell.items()))


def row_name(row: tuple[str, str], rows: Mapping[tuple[str, str], Any]) -> str:
    """The label of a row, with its spacing where rows differ in it; a fitted solver has none."""
    several = len({spacing for _, spacing in rows if spacing}) > 1
    return f"{row[0]}, {row[1]}" if several and row[1] else row[0]


# --- advice --------------------------------------------------------------------------------------------------------


def advice(cells: Sequence[Cell], metric: str, spread: float = math.inf) -> list[str]:
    """Say what to take: the cheapest that is as good as the best or within 2 % of it, and the best for few calls.

    Where the Fréchet distance of every cell is larger than the reference's spread (`Yardstick.spread`), so that the
    data's mean alone would be nearer to them, say first that nothing here is good.
    """
    if not cells:
        return []
    rows = rows_of(cells)

    def named(cell: Cell) -> str:
        return f"{row_name((cell['label'], cell['spacing']), rows)}, {cell['steps']} steps: {shown(cell, metric)}"

    first = best(cells, metric)
    top = value_of(first, metric)

    def cheapest(among: Sequence[Cell]) -> Cell:
        return min(among, key=lambda cell: (cell["calls"], abs(value_of(cell, metric) - top)))  # never by the seconds

    cheap = cheapest([cell for cell in cells if abs(value_of(cell, metric) - top) <= 0.02 * abs(top)] or [first])
    lines = []
    distances = [value_of(cell, "frechet") for cell in cells if "frechet" in cell["metrics"]]
    if distances and min(distances) > spread:
        lines.append(
            f"no cell is as near to the data as their mean alone would be (Fréchet distance {spread:.3g}): the network "
            "has not learned them; train it longer, or ask leapstep doctor"
        )
    if cheap is first:
        lines.append(f"best and cheapest: {named(first)}")
    else:
        lines.append(f"cheapest within 2 % of the best ({named(first)}): {named(cheap)}")
    if alike := [cell for cell in cells if cell["calls"] < cheap["calls"] and is_even(cell, first, metric)]:
        cell = cheapest(alike)
        lines.append(f"cheapest that {cell['n']} samples do not tell from the best: {named(cell)}")
    for cell, budgets in _budgets(cells, metric):
        lines.append(f"best for {' or '.join(map(str, budgets))} calls: {named(cell)}")
    return lines


def _budgets(cells: Sequence[Cell], metric: str) -> list[tuple[Cell, list[int]]]:
    """The best cells for 5, 10 and 20 calls, each with the budgets that it is best for."""
    chosen: list[tuple[Cell, list[int]]] = []
    for calls in (5, 10, 20):
        if affordable := [cell for cell in cells if cell["calls"] <= calls]:
            cell = best(affordable, metric)
            if chosen and chosen[-1][0] is cell:
                chosen[-1][1].append(calls)
            else:
                chosen.append((cell, [calls]))
    return chosen


# --- what a reader is told -----------------------------------------------------------------------------------------


def reference_of(result: Mapping[str, Any]) -> str:
    """The reference of a result of `evaluate` or `sweep`, as a reader is told of it."""
    conditions = result["conditions"]
    text = f"{conditions['reference']} of {conditions['data']} ({conditions['split']})"
    relation = REFERENCE.get(result.get("relation") or "?")
    return text if relation is None else f"{text}, {relation}"


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
        meaning = ": nearer than fresh data, as copies are, and samples that vary too little, such as blurred ones"
    elif low > 1:
        meaning = ": farther than fresh data, so no copies, but not quite like the data either"
    else:
        meaning = ": as far as fresh data, no sign of copies"
    return (
        f"From the nearest {among}, samples are {relative.value:.2f} times as far as {known} are (medians; 95 % "
        f"interval {low:.2f} to {high:.2f}){meaning if judged else ''}."
    )
