"""Clocks of flow networks that do not run evenly.

A velocity eps - x0 belongs to the straight line x_u = (1 - u) x0 + u eps, whatever the network is told of u. Some are
told a time t of which u is a function, such as the shift

    u = s t / (1 + (s - 1) t),        t = u / (s - (s - 1) u),

with which large pictures are noised for longer (Esser et al. 2024, eq. 23, arXiv:2403.03206). A `Warp` is this function
and its inverse, with the inverse in Python, since `from_network` takes it as `time`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Warp:
    """How the time that a network counts goes with that of its process.

    Attributes:
        code: the counted time in Python, of the process's `t`.
        counted: the same, of times in [0, 1], elementwise.
        meant: the inverse: the process's time at a counted one.
        read: whether it was read from the network, and has no formula.
    """

    code: str
    counted: Callable[[Tensor], Tensor] = field(compare=False, repr=False)
    meant: Callable[[Tensor], Tensor] = field(compare=False, repr=False)
    read: bool = field(default=False, compare=False)


def shifted(s: int, inverse: bool = False) -> Warp:
    """The shift by s, or, counted from the other end or shifted the other way, by 1 / s.

    Arguments:
        s: above 1.
    """

    def more(t: Tensor) -> Tensor:
        return s * t / (1 + (s - 1) * t)

    def less(t: Tensor) -> Tensor:
        return t / (s - (s - 1) * t)

    rest = "t" if s == 2 else f"{s - 1} * t"
    return Warp(f"{s} * t / (1 + {rest})", more, less) if inverse else Warp(f"t / ({s} - {rest})", less, more)


def tabled(counted: Sequence[float], meant: Sequence[float]) -> Warp:
    """The clock on which these counted times mean these times of the process; both rise from 0 to 1."""

    def along(t: Tensor, known: Sequence[float], values: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.interp(t.numpy(), known, values))

    return Warp(
        f"torch.from_numpy(numpy.interp(t, {list(meant)}, {list(counted)}))",
        lambda t: along(t, meant, counted),
        lambda t: along(t, counted, meant),
        read=True,
    )


def drawn(counted: Tensor, meant: Tensor) -> Warp | None:
    """The clock through times that were read, as far as they rise; None where these are fewer than four.

    To its ends it goes on as a power of the distance from them, as the last two times say.
    """
    known: list[tuple[float, float]] = []
    for time, value in sorted(zip(counted.tolist(), meant.tolist(), strict=True)):
        if 0 < time < 1 and 0 < value < 1 and (not known or (time > known[-1][0] and value > known[-1][1] + 1e-3)):
            known.append((time, value))
    if len(known) < 4:
        return None
    clean = _towards_zero(*known[:2])
    noisy = _towards_zero(*((1 - time, 1 - value) for time, value in reversed(known[-2:])))
    points = [*clean, *known, *((1 - time, 1 - value) for time, value in reversed(noisy))]
    times, values = zip(*((round(time, 4), round(value, 4)) for time, value in points), strict=True)
    return tabled([0.0, *times, 1.0], [0.0, *values, 1.0])


def _towards_zero(near: tuple[float, float], far: tuple[float, float]) -> list[tuple[float, float]]:
    """Points between zero and two known ones, on the power law through them, from zero on."""
    power = math.log(far[1] / near[1]) / math.log(far[0] / near[0])
    power = min(max(power, 0.5), 3.0)
    return [(near[0] * share, near[1] * share**power) for share in (0.1, 0.25, 0.5, 0.75)]


SHIFTS = tuple(shifted(s, inverse) for s in (3, 2, 4, 5, 6, 8, 10, 12) for inverse in (False, True))
"""The shifts that people choose, the most common first."""


@dataclass(frozen=True)
class Told:
    """What a network is told at time t, as `from_network` takes it for `time`: a function that knows its text.

    Attributes:
        code: the timestep in Python, of the time `t` `[b]`.
        timestep: the same.
        whole: whether it is rounded.
    """

    code: str
    timestep: Callable[[Tensor], Tensor] = field(compare=False, repr=False)
    whole: bool = False

    def __call__(self, t: Tensor) -> Tensor:
        """The timestep at times `[b]`."""
        told = self.timestep(t)
        return told.round().long() if self.whole else told

    def __str__(self) -> str:
        """The function in Python."""
        return f"lambda t: ({self.code}).round().long()" if self.whole else f"lambda t: {self.code}"


def told(warp: Warp, time: str, reverse: bool, levels: int | None, whole: bool) -> tuple[str, bool]:
    """What a network with this warp is told at time `t`, in Python, and whether that is rounded.

    Arguments:
        time: "fraction", "1000t", "index" or "index_from_1"; with `reverse` and the number of levels as in
            `from_network`.
        whole: whether the network takes integers only.
    """
    if time == "fraction":
        return f"1 - {warp.code}" if reverse else warp.code, False
    if time == "1000t":
        return f"1000 * (1 - {warp.code})" if reverse else f"1000 * {warp.code}", False
    level, first = f"({levels} * {warp.code}).clamp(min=1)", int(time == "index_from_1")
    if reverse:
        return f"{(levels or 0) + first} - {level}", whole
    return level if first else f"{level} - 1", whole
