"""The coefficients of a method that is linear in what it knows, and the path that coefficients make.

A matrix has a row for each of n steps, `[n, n + 1]`, float64: row i holds the coefficients of x at the start and of the
estimates D_0, ..., D_i in x at the next time, and zeros behind them; see `leapstep.core.transitions.fitted`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.process import Process
from leapstep.core.sampling import trajectory
from leapstep.core.transitions import Transition


def coefficients(process: Process, transition: Transition, times: Tensor) -> Tensor:
    """The matrix of a deterministic method with one call a step: what it makes of unit vectors.

    Arguments:
        times: `[n + 1]`, decreasing to 0.
    Returns:
        `[n, n + 1]`, float64. Its paths are where the network is called: for UniPC, which corrects a step once it knows
        the estimate at its end, x before the correction.
    Raises:
        ValueError: a method with more calls.
    """
    n = len(times) - 1
    asked: list[Tensor] = []

    units = torch.eye(n + 1, dtype=torch.float64)

    def unit(x: Tensor, t: Tensor) -> Tensor:
        asked.append(x[0])
        return units[[min(len(asked), n)]]

    x = units[:1]
    for state in trajectory(Diffusion(process, unit), x, times, transition):
        x = state.x
    if len(asked) != n:
        raise ValueError(f"the method made {len(asked)} calls in {n} steps: only those with one call a step are linear")
    return torch.stack([*asked[1:], x[0]])


def combined(row: Tensor, columns: Sequence[Tensor]) -> Tensor:
    """The sum of columns `[b, *d]`, x at the start and the estimates, with the coefficients of a row."""
    factors = row.tolist()
    total: Tensor = factors[0] * columns[0]
    for factor, column in zip(factors[1:], columns[1:], strict=False):  # behind it there are zeros
        total = total + factor * column
    return total


def follow(
    diffusion: Diffusion, matrix: Tensor, times: Tensor, columns: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Go on from where some steps have been taken, to the data.

    Arguments:
        columns: x at the start, and the estimates so far.
    Returns:
        the samples `[b, *d]`, and all columns.
    """
    known = list(columns)
    x = combined(matrix[len(known) - 2], known) if len(known) > 1 else known[0]
    for i in range(len(known) - 1, len(matrix)):
        known.append(diffusion.denoise(x, times[i]))
        x = combined(matrix[i], known)
    return x, known
