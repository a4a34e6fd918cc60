"""A method whose times and coefficients were fitted to a network.

Every solver that calls the network once a step is linear in what it knows. From x at the start and the estimates D_0,
..., D_i of x0 so far, made at times t_0, ..., t_i, it takes

    x at t_(i+1) = c_i x + sum_j c_ij D_j,

and DDIM, DPM-Solver++, UniPC, DEIS and iPNDM differ in nothing but the coefficients, which depend on times alone. Where
they are fitted to a network instead (`leapstep.fitting`), this takes the same step with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.process import everywhere, weighted, where
from leapstep.core.tabulated import Coefficient, tabulated
from leapstep.core.transitions.family import Draw, Step, Transition, denoised
from leapstep.core.transitions.memory import Memory
from leapstep.core.transitions.named import named


@named
def fitted(times: Sequence[float], coefficients: Sequence[Sequence[float]]) -> Transition:
    """A solver with coefficients of its own. One call a step, along its own times only.

    Arguments:
        times: `[n + 1]`, strictly decreasing in [0, 1], the last of them 0.
        coefficients: n rows, of which row i has i + 2 numbers: those of x at the start, and of the estimates at
            `times[0]`, ..., `times[i]`. Their sum is x at `times[i + 1]`.
    Raises:
        ValueError: times that do not decrease to 0, coefficients that do not fit them or are not finite; at call, a
            step that is not one of its own, or that comes before those it builds on.
    """
    path, table = _checked(times, coefficients)
    rising, n = path.flip(0), len(table)

    @tabulated
    def own(t: Tensor, s: Tensor) -> tuple[Coefficient, ...]:
        """The number of a step, -1 for one that is not among these, and then its coefficients."""
        number = (n - torch.searchsorted(rising, t)).clamp(0, n - 1)
        is_own = (path[number] == t) & (path[number + 1] == s)
        return torch.where(is_own, number, -1).double(), *table[number].unbind(-1)

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        known = dict(memory or {})
        number, of_start, *others = own(t, s)
        follows = number >= 0 if known else number == 0
        if not everywhere(follows) and not everywhere(follows | (t == s)):
            raise ValueError(
                f"a fitted solver takes its own steps, in their order: from t = {t.flatten()[0]:.4g} to "
                f"{s.flatten()[0]:.4g} is not the next; pass its times {[round(time, 4) for time in path.tolist()]}"
            )
        x0, *_ = denoised(diffusion, x, t)
        known["start"] = where(number == 0, x, known.get("start", x))
        terms = [(of_start, known["start"])]
        for j in range(int(torch.as_tensor(number).max()) + 1):
            earlier = known.get(f"x0_{j}")
            if earlier is None:
                earlier = x0 if everywhere(number == j) else torch.zeros_like(x0)
            known[f"x0_{j}"] = where(number == j, x0, earlier)
            terms.append((others[j], known[f"x0_{j}"]))
        return Step(weighted(*terms), x0, known)

    return transition


def _checked(times: Sequence[float], coefficients: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """The times `[n + 1]`, and the coefficients in a square `[n, n + 1]` with zeros. Raises ValueError for misfits."""
    path = torch.tensor([float(time) for time in times], dtype=torch.float64)
    n = len(path) - 1
    if n < 1 or not path[0] <= 1 or path[-1] != 0 or not (path.diff() < 0).all():
        raise ValueError(f"times={list(times)}: strictly decreasing, from 1 or less to 0")
    if [len(row) for row in coefficients] != list(range(2, n + 2)):
        raise ValueError(f"{n} steps need {n} rows of 2, 3, ..., {n + 1} coefficients")
    if not all(math.isfinite(value) for row in coefficients for value in row):
        raise ValueError("coefficients must be finite")
    table = torch.zeros(n, n + 1, dtype=torch.float64)
    for i, row in enumerate(coefficients):
        table[i, : i + 2] = torch.tensor([float(value) for value in row], dtype=torch.float64)
    return path, table
