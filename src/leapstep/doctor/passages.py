"""Whether samples follow the noised data on their trajectory.

A batch goes from noise to data, and at each level its mean, its spread and its variances along the data's principal
axes are held against those of q(x_t), and against how far as many draws of q(x_t) miss them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.finite import NotFinite
from leapstep.core.noise import Noise
from leapstep.core.sampling import beginning, trajectory
from leapstep.core.spacing import times
from leapstep.core.transitions import Transition
from leapstep.doctor.denoising import BOUND
from leapstep.doctor.evidence import Concern, Passage
from leapstep.doctor.ranges import F64, Range

AXES = 16
"""Principal axes along which samples are compared."""

PARTED = (0.25, 0.22, 0.25)
"""How far mean, log of the spread and shape may be off: the first two if luck would not do it (four standard deviations
from what is usual for draws of q(x_t)), the shape in addition to three times what is usual for them."""


class _Moments(NamedTuple):
    """Mean of each value `[D]`, mean variance of all, and variances along the axes `[a]`."""

    mean: Tensor
    total: Tensor
    axes: Tensor


class _Noised(NamedTuple):
    """Moments of x0, of the noise, and the covariances of the two, from which those of x_t follow at all levels."""

    x0: _Moments
    both: _Moments
    eps: _Moments

    def at(self, alpha: float, sigma: float) -> _Moments:
        """Moments of alpha x0 + sigma eps."""
        mean = alpha * self.x0.mean + sigma * self.eps.mean
        total, axes = (
            alpha**2 * x0 + 2 * alpha * sigma * both + sigma**2 * eps
            for x0, both, eps in zip(self.x0[1:], self.both[1:], self.eps[1:], strict=True)
        )
        return _Moments(mean, total, axes)


def _moments(x: Tensor, y: Tensor, basis: Tensor) -> _Moments:
    """Mean of x `[b, D]`, and covariances with y `[b, D]`."""
    mean = x.mean(0)
    x, y = x - mean, y - y.mean(0)
    return _Moments(mean, (x * y).mean(), ((x @ basis.T) * (y @ basis.T)).mean(0))


def passages(
    diffusion: Diffusion,
    span: Range,
    seed: int,
    n: int = 64,
    steps: int = 20,
    *,
    transition: Transition | None = None,
    conditional: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[tuple[Passage, ...], float | None]:
    """Sample a batch and compare it, level by level, with q(x_t) from the data.

    Arguments:
        diffusion: in the network's range; a conditional one is conditioned for rows 0..n-1 of the data.
        n: samples; with fewer than 64 luck may speak. At most as many as there are data where it is conditional.
        steps: their number, fewer where fewer levels were trained.
        transition: default: DDIM.
        conditional: compare with these n rows only, rather than with all.
        device: where the network computes.
    Returns:
        the passages from noise to data, the start among them, and the time from which on all differ (None: they do
        not); see `PARTED`.
    """
    count = min(n, len(span.values)) if conditional else len(span.values)
    n, rows = min(n, count) if conditional else n, torch.arange(count)
    centre = span.linear.mean
    values = span.kept(span.values[:count].to(F64) - centre.reshape(span.values.shape[1:]), rows).flatten(1)
    mask = span.kept(torch.ones_like(span.values[:count], dtype=F64), rows).flatten(1)
    noise = Noise(seed, range(n), tuple(span.values.shape[1:]), span.values.dtype, device)
    process = diffusion.process
    path = _path(diffusion, times(process, min(steps, process.timesteps or steps)), noise(0))
    basis = span.linear.basis[:AXES]
    data = _moments(values, values, basis)
    zero, noised = (
        _Moments(0 * data.mean, share.mean(), basis.square() @ share) for share in (0 * data.mean, mask.mean(0))
    )
    law, draws = _Noised(data, zero, noised), _draws(values, mask, basis, n, seed)
    stages: list[Passage] = []

    def compare(x: Tensor, s: Tensor, before: Tensor) -> None:
        alpha, sigma = process.alpha(s).item(), process.sigma(s).item()
        flat = x.flatten(1).to("cpu", F64).nan_to_num(BOUND, BOUND, -BOUND).clamp(-BOUND, BOUND)
        flat = (flat - alpha * centre) * mask[torch.arange(n) % count]
        # the last step ends at the mean of x0, and loses what varies less than the noise that it removes
        lost = (process.sigma(before) / process.alpha(before)).item() ** 2 if sigma == 0 else 0.0
        total = data.total.item()
        wanted, least = law.at(alpha, sigma), max(0.01 * alpha**2 * total, min(lost, total))
        mean, spread, shape = _distances(_moments(flat, flat, basis), wanted, least).tolist()
        limits, luck = _luck(torch.stack([_distances(draw.at(alpha, sigma), wanted, least) for draw in draws]))
        narrow = -limits[1] - math.log1p(min(lost / total, 1)) / 2
        allowed = (limits[0], math.exp(narrow), math.exp(limits[1]), limits[2])
        stages.append(Passage(s.item(), mean, math.exp(spread), shape, luck, allowed))

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotFinite)  # the passages say so
        x = beginning(diffusion, path[0], noise(0))
        compare(x, path[0], path[0])
        for state in trajectory(diffusion, x, path, transition, noise=noise):
            compare(state.x, state.s, state.t)
    differing = next((i for i in reversed(range(len(stages))) if not stages[i].failed()), -1) + 1
    return tuple(stages), stages[differing].t if differing < len(stages) else None


def _path(diffusion: Diffusion, path: Tensor, x: Tensor) -> Tensor:
    """The times; from below 1 where there is no signal at 1 and the network therefore says nothing of x0."""
    if diffusion.process.alpha(path[0]) == 0:
        with torch.no_grad():
            try:
                finite = bool(diffusion.denoise(x, path[0]).isfinite().any())
            except ValueError:
                finite = False
        if not finite:
            levels = diffusion.process.timesteps
            start = path[:2].mean() if levels is None else path[0] - 1 / levels
            return torch.cat([start[None], path[path < start]])
    return path


def _distances(drawn: _Moments, wanted: _Moments, least: float) -> Tensor:
    """How far moments are from those wanted: mean, log of the spread, shape, `[3]`.

    Arguments:
        least: what is added to the variances along axes, so that those with hardly any do not count.
    """
    tiny = 1e-12 * wanted.total
    mean = ((drawn.mean - wanted.mean).square().mean() / wanted.total).sqrt()
    spread = ((drawn.total + tiny) / wanted.total).log() / 2
    shape = ((drawn.axes + least + tiny) / (wanted.axes + least + tiny)).log().abs().mean()
    return torch.stack([mean, spread, shape])


def _draws(values: Tensor, mask: Tensor, basis: Tensor, n: int, seed: int, repeats: int = 24) -> list[_Noised]:
    """Moments of n draws of the data and of noise where it counts, some times over."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    draws = []
    for _ in range(repeats):
        rows = torch.randint(len(values), (n,), generator=generator)
        x0 = values[rows]
        eps = torch.randn(x0.shape, generator=generator, dtype=F64) * mask[rows]
        draws.append(_Noised(*(_moments(a, b, basis) for a, b in ((x0, x0), (x0, eps), (eps, eps)))))
    return draws


def _luck(distances: Tensor) -> tuple[list[float], float]:
    """From the distances of draws `[r, 3]` how much mean, log of the spread and shape may be off, and luck's shape."""
    size = distances.abs()
    usual, deviation = size.mean(0), size.std(0)
    rare = torch.maximum(torch.tensor(PARTED, dtype=F64), usual + 4 * deviation)
    shape = usual[2].item()
    return [rare[0].item(), rare[1].item(), follows(shape)], shape


def follows(luck: float) -> float:
    """Up to which value of `Passage.shape` samples follow the data, where luck alone makes so much of it."""
    return PARTED[2] + 3 * luck


def sampling_concern(passages: Sequence[Passage], parted: float | None, cured: bool = False) -> tuple[Concern, ...]:
    """Say where sampling and data part.

    Arguments:
        passages, parted: as `passages` found them.
        cured: whether they do not with eta = 1.
    """
    if parted is None:
        return ()
    place = next(i for i, passage in enumerate(passages) if passage.t == parted)
    end = passages[-1]
    spoiled = end.mean > 0.6 or not 0.6 < end.spread < 1.6 or end.shape > 1 + 3 * end.luck

    def criteria(passage: Passage) -> str:
        """The criteria that it fails."""
        return ", ".join(passage.failed())

    if cured:
        cure = (
            "sample with eta = 1, transition=leapstep.ddim(eta=1), as the lines to paste do: with it samples follow "
            "the data, as the noise of each step makes up for errors of the network"
        )
    elif place == 1 and spoiled:
        cure = (
            "the first step goes wrong: bound the estimate with clip=, or start sampling below t = 1, where a small "
            "error of eps is a large one of x0; if neither helps, prediction, schedule or clock are wrong"
        )
    elif place == 0:
        cure = (
            "the start noise is not what the last level looks like: start from x_1 = alpha(1) mean + sigma(1) eps, or "
            "make sure of range and schedule"
        )
    else:
        cure = (
            f"look at the network's error at t = {passages[place - 1].t:.3g} and above: if it is small, take more "
            "steps or bound the estimate with clip=; if not, the network or its convention is wrong there"
        )
    what = f"samples of DDIM part from the data at t = {parted:.3g}: {criteria(passages[place])}"
    what += "" if passages[place] is end else f"; at the end: {criteria(end)}"
    return (Concern(3 if spoiled and not cured else 2, what, cure),)
