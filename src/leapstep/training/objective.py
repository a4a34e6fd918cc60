"""The training loss: the squared error of the x0 estimate, weighted by noise level,

    L(t) = w(t) |x0 - D(x_t, t)|^2,        x_t = alpha(t) x0 + sigma(t) eps.

A squared error in anything else that a network may predict is this one with another weight: a value a x0 + b eps (see
`core.process`) is off by (a - b alpha / sigma) times what x0 is off by, since x_t is given. So Ho et al.'s simple
loss on eps is w = SNR, whatever the network predicts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.process import PREDICTIONS, Process, flat
from leapstep.text import allowed


def _squared_error_of(kind: str) -> Callable[[Process, Tensor, float], Tensor]:
    def weight(process: Process, t: Tensor, gamma: float) -> Tensor:
        a, b = process.mixture(kind, t)
        return (a - b * process.alpha(t) / process.sigma(t)) ** 2

    return weight


def _min_snr(process: Process, t: Tensor, gamma: float) -> Tensor:
    return process.log_snr(t).exp().clamp(max=gamma)


def _variational(process: Process, t: Tensor, gamma: float) -> Tensor:
    if process.timesteps is None:
        raise ValueError("the variational weight needs a process with trained levels")
    before = (t - 1 / process.timesteps).clamp(min=1 / process.timesteps)
    level = torch.maximum(t, before + 1 / process.timesteps)  # level 1 has the weight of level 2: its own is infinite
    return process.timesteps / 2 * (process.log_snr(before).exp() - process.log_snr(level).exp())


WEIGHTS: dict[str, Callable[[Process, Tensor, float], Tensor]] = {
    **{kind: _squared_error_of(kind) for kind in PREDICTIONS},
    "min_snr": _min_snr,
    "variational": _variational,
}
"""Weights w(t) on the squared error of x0, by name: each (process, t, gamma) -> w.

eps, x0, v, score, flow: the plain squared error of that prediction (eps: L_simple, Ho et al. 2020, eq. 14). min_snr:
min(SNR, gamma) (Hang et al. 2023, arXiv:2303.09556). variational: T/2 (SNR(s) - SNR(t)) for neighbouring levels s < t,
the variational bound in nats (Kingma et al. 2021, eq. 13, arXiv:2107.00630)."""


def loss(diffusion: Diffusion, x0: Tensor, t: Tensor, eps: Tensor, weight: str = "eps", gamma: float = 5.0) -> Tensor:
    """Score a denoiser on noised data.

    Arguments:
        x0: data, `[b, *d]`.
        t: times in (0, 1], `[b]`.
        eps: standard normal noise, `[b, *d]`.
        weight: one of `WEIGHTS`.
        gamma: of "min_snr".
    Returns:
        the weighted squared error of each sample, averaged over its dimensions, `[b]`.
    Raises:
        ValueError: unknown weight.
    """
    if weight not in WEIGHTS:
        raise ValueError(f"unknown weight {weight!r}: {allowed(weight, WEIGHTS)}")
    process = diffusion.process
    error = diffusion.denoise(process.add_noise(x0, t, eps), t) - x0
    w = WEIGHTS[weight](process, t.cpu().double(), gamma).to(error.dtype).to(error.device)
    return w * flat(error).square().mean(1)


def stratified_times(n: int, timesteps: int, chance: torch.Generator | None = None) -> Tensor:
    """Draw n levels from 1..T, one from each n-th of the range, in random order: uniform, with less variance.

    Arguments:
        chance: what they are drawn by; None: PyTorch's global generator.
    Returns:
        times k / T, `[n]`, float64.
    """
    position = (torch.randperm(n, generator=chance) + torch.rand(n, dtype=torch.float64, generator=chance)) / n
    return ((position * timesteps).floor().clamp(max=timesteps - 1) + 1) / timesteps
