"""The times of a sampler: how n of the T trained levels are chosen.

Any list is allowed, because a transition between any two times has the right marginals (Song et al. 2021, section 4.2,
arXiv:2010.02502).
"""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from leapstep.core.process import Process, as_time
from leapstep.core.schedules import as_process
from leapstep.text import allowed


def _ramp(n: int) -> Tensor:
    """0 to 1 in n numbers; a single number is the noisy end, 1."""
    return torch.linspace(1, 0, n, dtype=torch.float64).flip(0)


def _even_in_noise(process: Process, n: int, levels: int, rho: float = math.inf) -> Tensor:
    """Levels evenly spaced in (sigma / alpha)^(1 / rho), or in its logarithm where rho is infinite."""
    ends = torch.tensor([1 / levels, 1.0], dtype=torch.float64)
    if process.alpha(ends[1]) == 0:  # no signal, sigma / alpha is infinite: space from the level before
        ends[1] -= ends[0]
    low, high = -process.log_snr(ends) / 2
    if rho == math.inf:
        noise = torch.lerp(low, high, _ramp(n))
    else:
        noise = rho * torch.lerp((low / rho).exp(), (high / rho).exp(), _ramp(n)).log()
    level = process.time(-2 * noise) * levels
    level[-1] = levels
    return level


SPACINGS: dict[str, Callable[[Process, int, int], Tensor]] = {
    "trailing": lambda _, n, levels: torch.arange(1, n + 1, dtype=torch.float64) * levels / n,
    "leading": lambda _, n, levels: 1 + torch.arange(n, dtype=torch.float64) * levels / n,
    "linspace": lambda _, n, levels: 1 + (levels - 1) * _ramp(n),
    "quad": lambda _, n, levels: 1 + 0.8 * levels * _ramp(n) ** 2,
    "log_snr": _even_in_noise,
    "karras": partial(_even_in_noise, rho=7.0),
}
"""How to choose n of T levels, by name; each (process, n, T) -> n levels in [1, T], ascending, before rounding.

trailing: every (T / n)th, counted from T down, so it starts at pure noise. leading: every (T / n)th, counted from 1 up,
the DDIM paper's uniform subsequence (it starts below T). linspace: evenly, with both ends. quad: floor(c i^2), the DDIM
paper's quadratic subsequence, up to 0.8 T. log_snr: even in log-SNR (Lu et al. 2022, arXiv:2206.00927). karras: even in
(sigma / alpha)^(1/7) (Karras et al. 2022, eq. 5, arXiv:2206.00364)."""


def times(process: Process | str, steps: int | Sequence[float] | Tensor, spacing: str = "trailing") -> Tensor:
    """List the times of a sampler that takes exactly `steps` steps.

    On a process with trained levels every time is one of them (k / T), no two alike: where rounding would let levels
    coincide, they move to the nearest free ones.

    Arguments:
        process: a Process, or its name.
        steps: number of steps n, from 1 to T, or the list of times itself, strictly decreasing in [0, 1] (a final 0 is
            added where it is missing).
        spacing: one of `SPACINGS`; does not apply to an explicit list.
    Returns:
        `[n + 1]`, float64, strictly decreasing, ending at 0.
    Raises:
        ValueError: steps out of range, unknown spacing, or a list that is not strictly decreasing in [0, 1].
    """
    if isinstance(steps := number_or_times(steps), Tensor):
        return steps
    process = as_process(process)
    if spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {spacing!r}: {allowed(spacing, SPACINGS)}")
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1 step is needed")
    if process.timesteps is not None and steps > process.timesteps:
        raise ValueError(
            f"steps={steps}: the network was trained on {process.timesteps} levels, so at most as many steps"
        )
    levels = process.timesteps or max(1000, steps)
    level = SPACINGS[spacing](process, steps, levels)
    if process.timesteps is not None:
        # level j = 1..n must leave room for j - 1 below and n - j above it
        index = torch.arange(1, steps + 1)
        level = (level + 1e-9).floor() if spacing in ("leading", "quad") else level.round()  # as in the papers
        level = index + (level - index).clamp(0, levels - steps).cummax(0).values
    return torch.cat([level.flip(0) / levels, level.new_zeros(1)]).double()


def times_below(
    process: Process | str,
    strength: float,
    steps: int | Sequence[float] | Tensor | None = None,
    spacing: str = "trailing",
) -> Tensor:
    """List the times from a strength down to 0: the part below it of a list of `times` that is longer where it must be.

    Arguments:
        process: a Process, or its name.
        strength: the first time, in [0, 1]; on a process with trained levels, the nearest of them.
        steps: number of steps n, all of which lie below the strength; or a list of times, of which those below it are
            taken. None: 20, or as many as there are levels.
        spacing: one of `SPACINGS`; does not apply to an explicit list.
    Returns:
        `[n + 1]`, float64, strictly decreasing from the strength to 0; `[1]`, nothing but 0, where it is 0. At
        strength 1, what `times` returns, which some spacings begin below 1.
    Raises:
        ValueError: a strength outside [0, 1], more steps than there are levels below it, and what `times` raises.
    """
    process = as_process(process)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength}: a time from 0 (nothing changes) to 1 (a new sample)")
    levels = process.timesteps
    level = None if levels is None else round(strength * levels)
    first = torch.tensor([strength if level is None or levels is None else level / levels], dtype=torch.float64)
    steps = number_or_times(min(20, level or 20) if steps is None else steps)
    if isinstance(steps, Tensor):
        return torch.cat([first, steps[steps < first]]) if first > 0 else first
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1 step is needed")
    if first in (0, 1):
        return first if first == 0 else times(process, steps, spacing)
    if level is not None and steps > level:
        raise ValueError(
            f"steps={steps}: below time {strength:g} there are {level} of {levels} trained levels, so at most as many"
        )

    def below(longer: int) -> Tensor:
        path = times(process, longer, spacing)
        return path[(path < first) & (path > 0)]

    # of the lists that have the right number of times below the strength, the longest begins the farthest below
    most = levels or max(1000, math.ceil(2 * steps / strength))
    number = bisect.bisect_right(range(most + 1), steps - 1, lo=1, key=lambda longer: len(below(longer))) - 1
    rest = below(number) if number else first[:0]
    return torch.cat([first, rest, first.new_zeros(1)])


def number_or_times(steps: int | Sequence[float] | Tensor) -> int | Tensor:
    """The number of steps, or their times, ending at 0, where they are listed."""
    if isinstance(steps, SupportsIndex) and not isinstance(steps, Tensor) and not np.ndim(steps):
        return operator.index(steps)
    path = as_time(steps)
    if path.ndim != 1 or len(path) == 0 or (path.diff() >= 0).any() or path[0] == 0:
        raise ValueError("a list of times must be strictly decreasing and lie in [0, 1]")
    return path if path[-1] == 0 else torch.cat([path, path.new_zeros(1)])
