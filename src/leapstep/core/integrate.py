"""Explicit Runge-Kutta methods, of which each sample takes steps of its own.

Three things that know nothing of each other: a `Tableau` is a method, `step` applies it once to any equation, and
`integrate` repeats that in steps which a `Controller` keeps as long as the estimated error allows.

References:
    Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I, sections II.1 (tableaux) and II.4
    (embedded solutions, the choice of steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.process import weighted, where
from leapstep.core.tabulated import Coefficient

Values = tuple[Tensor, ...]
"""What is integrated, or its slope: tensors with a row for each sample."""


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method.

    Attributes:
        order: of convergence.
        nodes: where in the step each slope is taken, 0 to 1.
        stages: for each slope, how much of each earlier one leads to it.
        weights: of the slopes in the step.
        embedded: the weights of a second solution, one order lower, by which the error is judged; or None.
    """

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    embedded: tuple[float, ...] | None = None


HEUN = Tableau(2, (0, 1), ((), (1,)), (1 / 2, 1 / 2))

RK4 = Tableau(4, (0, 1 / 2, 1 / 2, 1), ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))

BOGACKI_SHAMPINE = Tableau(
    order=3,
    nodes=(0, 1 / 2, 3 / 4, 1),
    stages=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    weights=(2 / 9, 1 / 3, 4 / 9, 0),
    embedded=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
)

DORMAND_PRINCE = Tableau(
    order=5,
    nodes=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    stages=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    weights=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
    embedded=(5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
)


class Equation(NamedTuple):
    """dy / dv = slope(y, t), where the variable v and the time t follow from each other.

    Attributes:
        slope: (y, t) -> dy / dv.
        time: v -> t, elementwise.
        variable: position -> v, elementwise; the lengths of steps are differences of positions.
    """

    slope: Callable[[Values, Tensor], Values]
    time: Callable[[Tensor], Tensor]
    variable: Callable[[Tensor], Tensor]


class Controller(NamedTuple):
    """How long steps may be.

    Attributes:
        error: (y, t, y ahead, t ahead, its estimated error) -> `[b]`, at most 1 where the step is accepted.
        tolerance: what error stands for, in words.
        shortest: the length below which a step from a position is given up.
        longest: the length of the longest step.
    """

    error: Callable[[Values, Tensor, Values, Tensor, Values], Tensor]
    tolerance: str
    shortest: Callable[[Tensor], Tensor | float]
    longest: float = math.inf


def step(
    method: Tableau,
    slope: Callable[[Values, Tensor], Values],
    y: Values,
    first: Values,
    size: Coefficient,
    times: Sequence[Tensor] | Tensor,
) -> tuple[Values, Values, Values]:
    """Take one step.

    Arguments:
        slope: (y, t) -> dy / dv.
        y: at the start.
        first: the slope there.
        size: of the step in v, `[]` or `[b]`.
        times: of the other nodes, each `[]` or `[b]`.
    Returns:
        y at the end, the slope of the last node, and the difference of y to the embedded solution (zeros without one).
    """
    slopes = [first]
    for shares, t in zip(method.stages[1:], times, strict=True):
        slopes.append(slope(_moved(y, size, shares, slopes), t))
    wrong = [weight - other for weight, other in zip(method.weights, method.embedded or method.weights, strict=True)]
    error = _moved(None, size, wrong, slopes)
    return _moved(y, size, method.weights, slopes), slopes[-1], error


def _moved(y: Values | None, size: Coefficient, shares: Sequence[float], slopes: Sequence[Values]) -> Values:
    """From y, or from 0, a step along the slopes in these shares."""
    weights = [size * share for share in shares]
    moved = []
    for i, part in enumerate(slopes[0]):
        terms = [(weight, slope[i]) for weight, slope, share in zip(weights, slopes, shares, strict=True) if share]
        start = [] if y is None else [(1.0, y[i])]
        moved.append(weighted(*start, *terms) if terms else torch.zeros_like(part))
    return tuple(moved)


def integrate(
    method: Tableau,
    equation: Equation,
    controller: Controller,
    y: Values,
    slope: Values,
    start: Tensor,
    end: Tensor,
    size: Tensor,
    on_step: Callable[[Tensor], object] | None = None,
) -> tuple[Values, Values, Tensor]:
    """Lead each sample from its start to its end, upwards or downwards; one whose start is its end stays as it is.

    Arguments:
        method: with an embedded solution; its last slope is that of the next step (first same as last).
        y, slope: at the start.
        start, end: positions, `[b]`.
        size: the length of the first step, `[b]`.
        on_step: called with the positions `[b]` after each step.
    Returns:
        y and the slope at the end, and the length of the step that would come next, `[b]`.
    Raises:
        FloatingPointError: the error is too large in steps however short.
    """
    position, v = start, equation.variable(start)
    t = equation.time(v)
    while (active := position != end).any():
        rest = torch.where(active, end - position, 0.0)
        last = rest.abs() <= size * (1 + 1e-9)
        length = torch.where(last, rest.abs(), size)
        if (stuck := active & ~last & (length < controller.shortest(position))).any():
            raise FloatingPointError(
                f"no step from t = {t[stuck][0]:.4g} is small enough for {controller.tolerance}: the network's output "
                "is not finite there, or jumps: take a larger tolerance, or a method with fixed steps"
            )
        ahead = torch.where(last, end, position + rest.sign() * length)
        v_ahead = equation.variable(ahead)
        times = equation.time(torch.stack([torch.lerp(v, v_ahead, node) for node in method.nodes[1:]]))
        y_ahead, last_slope, wrong = step(method, equation.slope, y, slope, v_ahead - v, times)
        error = controller.error(y, t, y_ahead, times[-1], wrong).detach().nan_to_num(torch.inf)
        accepted = active & (error <= 1)
        y, slope = (
            tuple(where(accepted, new, old) for new, old in zip(*pair, strict=True))
            for pair in ((y_ahead, y), (last_slope, slope))
        )
        position, v, t = (
            torch.where(accepted, new, old) for new, old in ((ahead, position), (v_ahead, v), (times[-1], t))
        )
        # not a power: its last bit depends on the place in a batch
        longer = length * (0.9 * (error.clamp(min=1e-9).log() / -method.order).exp()).clamp(0.2, 5.0)
        longer = torch.where(accepted & last, torch.maximum(size, longer), longer)
        size = torch.where(active, longer, size).clamp(max=controller.longest)
        if on_step is not None:
            on_step(position)
    return y, slope, size
