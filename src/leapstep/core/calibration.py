"""The variance of x0 around its estimate, measured on data, for the optimal variance of reverse steps.

Two measures of the same thing, for a network that has learned the posterior mean (Tweedie's formula; Bao et al. 2022,
theorem 1, arXiv:2201.06503): with power(t) = E ||eps(x_t, t)||^2 / d,

    spread(t) = E tr Cov[x0 | x_t] / d = E ||x0 - D(x_t, t)||^2 / d = (sigma^2 / alpha^2) (1 - power(t)).

The last is a small difference with a large factor where little signal is left, and 0 or too much by chance. The middle
one has no such trouble, and for a network with errors it is what a step really lacks (Bao et al. 2022,
arXiv:2206.07309), so samplers use it. Both are measured. Neither exceeds sigma^2 c / (alpha^2 c + sigma^2), the error
of the best linear estimate of data with variance c.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusible, Diffusion, as_diffusions
from leapstep.core.printing import summary
from leapstep.core.process import Curve, Process, flat
from leapstep.core.sampling import network_device


class Rows(Protocol):
    """Data `[n, *d]` that are made when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Those of these indices `[b]`, `[b, *d]`."""
        ...


class Calibration(NamedTuple):
    """What `calibrate` measured.

    Attributes:
        times: `[m]`, float64, increasing.
        power: `[m]`, E ||eps||^2 / d at these times.
        error: `[m]`, E ||x0 - D||^2 / d at these times.
        variance: c, of the data around their mean, per value.
    """

    times: Tensor
    power: Tensor
    error: Tensor
    variance: float

    def __repr__(self) -> str:
        return summary(self, self._asdict().items())

    def spread(self, process: Process) -> Curve:
        """E tr Cov[x0 | x_t] / d as a curve in t; between the times, a line."""
        return partial(_spread, self, process)


def _spread(calibration: Calibration, process: Process, t: Tensor) -> Tensor:
    times, error, c = calibration.times, calibration.error, calibration.variance
    right = torch.searchsorted(times, t).clamp(1, len(times) - 1)
    left = right - 1
    between = torch.lerp(error[left], error[right], ((t - times[left]) / (times[right] - times[left])).clamp(0, 1))
    alpha, sigma = process.alpha(t), process.sigma(t)
    return between.minimum(sigma**2 * c / (alpha**2 * c + sigma**2))


@torch.no_grad()
def calibrate(
    diffusion: Diffusion | Diffusible | Callable[[Tensor], Diffusion],
    x0: Tensor | Rows,
    times: Tensor | None = None,
    *,
    per_time: int = 16,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> Calibration:
    """Measure the size of a network's noise estimate, and the error of its x0 estimate, at each trained level.

    Arguments:
        diffusion: the model as it is sampled; where data have conditions of their own, a function from the indices of
            some of them, `[b]`, to the Diffusion that is conditioned for these.
        x0: data, `[n, *d]`; they are used in turn, no more than `batch_size` at a time.
        times: where to measure, `[m]` in (0, 1], increasing; None: every trained level, or 1000 times.
        per_time: noisy data at each time.
        batch_size: network evaluations at a time.
        device: where the network is called; None: where its weights are.
        on_batch: called with the number of evaluations of each batch, for progress.
    Returns:
        a Calibration at these times.
    Raises:
        ValueError: no data, fewer than two times, or times that do not increase.
        FloatingPointError: the network's output is not finite.
    References:
        Bao et al. 2022, eq. 8, arXiv:2201.06503, and section 4, arXiv:2206.07309.
    """
    models = as_diffusions(diffusion)
    first = models(torch.arange(1))
    process, device = first.process, network_device(first) if device is None else device
    if times is None:
        count = process.timesteps or 1000
        times = torch.arange(1, count + 1, dtype=torch.float64) / count
    if len(x0) == 0 or per_time < 1 or len(times) < 2 or (times.diff() <= 0).any():
        raise ValueError(
            f"{len(x0)} data, {per_time} at each of {len(times)} times: give data, and increasing times, two or more"
        )
    generator = torch.Generator().manual_seed(seed)
    levels = torch.arange(len(times)).repeat_interleave(per_time)
    samples = torch.randperm(len(x0), generator=generator).repeat(-(-len(levels) // len(x0)))[: len(levels)]
    power, error = torch.zeros(2, len(times), dtype=torch.float64)
    for level, rows in zip(torch.split(levels, batch_size), torch.split(samples, batch_size), strict=True):
        model = models(rows)
        data, t = x0[rows].to(device), times[level]
        x = process.add_noise(data, t, torch.randn(data.shape, dtype=data.dtype, generator=generator).to(device))
        estimate = model.denoise(x, t)
        eps = process.split(estimate, x, t, "x0")[1]
        for total, values in ((power, eps), (error, data - estimate)):
            total.index_add_(0, level, flat(values.double().square()).mean(1).cpu())
        if on_batch is not None:
            on_batch(len(rows))
    if not (error + power).isfinite().all():
        t = times[~(error + power).isfinite()][0]
        raise FloatingPointError(f"the network's output is not finite, first at t = {t:.4g}: nothing is calibrated")
    return Calibration(times, power / per_time, error / per_time, _variance(x0, batch_size))


def _variance(x0: Tensor | Rows, batch_size: int) -> float:
    """Of data around their mean, per value.

    References:
        Chan, Golub and LeVeque 1983, eq. 1.5 (batches together).
    """
    mean, squares, n = torch.zeros(()).double(), 0.0, 0
    for rows in torch.split(torch.arange(len(x0)), batch_size):
        x, b = x0[rows].double(), len(rows)
        apart = x.mean(0) - mean
        squares += float((x - x.mean(0)).square().sum() + apart.square().sum() * n * b / (n + b))
        mean, n = mean + apart * b / (n + b), n + b
    return squares / (n * mean.numel())
