"""Coefficients of all steps at once.

What a step multiplies tensors by depends on its times alone. So a formula of times that is marked as `tabulated` is
evaluated for every step of a trajectory when it is first needed for one, in a single pass over vectors, and looked up
from then on. A formula is written, and called, as if there were no table; without one, as where a transition is called
by itself, and for times that are not in it, the formula is evaluated as it stands.

The n + 1 times of a trajectory are the first column of its `Table`, and times that formulas make of them, such as the
middle of each step, are further ones. A formula is recognised by where in the columns its times stand, relative to each
other: whoever asks for f(t_3, t_4, t_2) is given f(t_i, t_(i+1), t_(i-1)), for i = 3, and next for i = 4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

Coefficient = Tensor | float
"""What a tensor `[b, *d]` is multiplied by: a number, or a tensor on the CPU for all samples `[]` or for each `[b]`."""

Mask = Tensor | bool
"""Of which samples something holds: a truth value, or a tensor on the CPU for all samples `[]` or for each `[b]`."""

Place = tuple[int, int]
"""Where in a table a time stands: its column, and the row."""


class Table:
    """What formulas give at the times of a trajectory; used while it is entered (`with table:`).

    Arguments:
        times: `[n + 1]`, or `[n + 1, b]`. Formulas then give numbers of Python, or tensors `[b]`.
    Attributes:
        times: each by itself, as formulas are to be asked for them.
    """

    def __init__(self, times: Tensor) -> None:
        self.times = times.unbind()
        self._columns: list[dict[int, Tensor]] = []
        self._places: dict[int, Place] = {}
        self._append(dict(enumerate(self.times)))
        self._numbers = {t: (0, i) for i, t in enumerate(times.tolist())} if times.ndim == 1 else {}
        self._results: dict[tuple[Any, ...], Any] = {}  # by a formula, and by the identity of its arguments,
        self._arguments: list[tuple[Any, ...]] = []  # all of which are kept, so that none is used anew
        self._token: Token[Table | None] | None = None

    def __enter__(self) -> None:
        self._token = _IN_USE.set(self)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _IN_USE.reset(self._token)

    def __contains__(self, t: object) -> bool:
        return id(t) in self._places

    def result(self, formula: Callable[..., Any], arguments: tuple[Any, ...], makes_times: bool) -> Any:
        """What a formula gives; None where one of its times is not here, or where it has a gradient."""
        result = self._results.get((formula, *map(id, arguments)))
        if result is not None:
            return result
        places = {j: self._place(argument) for j, argument in enumerate(arguments) if isinstance(argument, Tensor)}
        own = {j: place for j, place in places.items() if place is not None}
        if len(own) < len(places):
            return None
        kept = tuple(self._columns[own[j][0]][own[j][1]] if j in own else value for j, value in enumerate(arguments))
        key = (formula, *map(id, kept))
        if key not in self._results:
            self._fill(formula, kept, own, makes_times)
        return self._results.get(key)

    def _place(self, t: Tensor) -> Place | None:
        place = self._places.get(id(t))
        if place is None and t.ndim == 0 and t.dtype == torch.float64 and not t.requires_grad:
            return self._numbers.get(t.item())
        return place

    def _append(self, column: dict[int, Tensor]) -> None:
        self._places |= {id(t): (len(self._columns), i) for i, t in column.items()}
        self._columns.append(column)

    def _fill(
        self, formula: Callable[..., Any], arguments: tuple[Any, ...], places: dict[int, Place], makes_times: bool
    ) -> None:
        """Evaluate a formula wherever the columns hold times that stand to each other as those of the arguments do."""
        first, origin = next(iter(places.values()))
        moved = {j: (self._columns[column], row - origin) for j, (column, row) in places.items()}
        rows = [i for i in self._columns[first] if all(i + by in column for column, by in moved.values())]
        each = [
            tuple(moved[j][0][i + moved[j][1]] if j in moved else value for j, value in enumerate(arguments))
            for i in rows
        ]
        stacked = [torch.stack(of_all) if j in moved else of_all[0] for j, of_all in enumerate(zip(*each, strict=True))]
        shape = stacked[next(iter(moved))].shape
        values = formula(*stacked)
        alone = isinstance(values, Tensor)
        vectors = [value.broadcast_to(shape) for value in ((values,) if alone else values)]
        if any(vector.requires_grad for vector in vectors):
            return
        parts: list[Any] = [vector.unbind() if makes_times or len(shape) > 1 else vector.tolist() for vector in vectors]
        if makes_times:
            for part in parts:
                self._append(dict(zip(rows, part, strict=True)))
        self._arguments.append(arguments)
        for those, *result in zip(each, *parts, strict=True):
            self._results[formula, *map(id, those)] = result[0] if alone else tuple(result)


_IN_USE: ContextVar[Table | None] = ContextVar("table in use", default=None)


def is_tabulated(t: object) -> bool:
    """Whether a time is one of the table in use, and so known to be valid."""
    table = _IN_USE.get()
    return table is not None and t in table


def tabulated(formula: Callable[P, R]) -> Callable[P, R]:
    """Look up what a formula gives in the table in use.

    Arguments:
        formula: of times (its tensors) and other things (which go by their identity), by position; elementwise in the
            times. Returns a tensor of a coefficient or a mask, or several. With keywords it is always evaluated.
    """
    return _looked_up(formula, makes_times=False)


def tabulated_times(formula: Callable[P, R]) -> Callable[P, R]:
    """The same for a formula that makes times, of which other formulas may be tabulated in turn."""
    return _looked_up(formula, makes_times=True)


def _looked_up(formula: Callable[P, R], makes_times: bool) -> Callable[P, R]:
    @functools.wraps(formula)
    def looked_up(*arguments: P.args, **keywords: P.kwargs) -> R:
        table = _IN_USE.get()
        result = None if table is None or keywords else table.result(formula, arguments, makes_times)
        return formula(*arguments, **keywords) if result is None else cast(R, result)

    return looked_up
