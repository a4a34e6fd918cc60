"""The noise level of each timestep, read from the network.

A network that was trained on a squared error predicts its target y = a x0 + b eps by f = E[y | x_t], and a posterior
mean is orthogonal to its own error,

    E <y - f, f> = 0,

but only when x_t has the noise level that the timestep stands for: with less noise than the network expects the product
is positive, with more it is negative. So at each timestep the level is where the product crosses zero (`Profile`), and
a schedule that somebody claims is right if it runs along these zeros (`misfit`). Where the product hardly depends on
the level, as for eps at great noise, the timestep says nothing, and such places weigh nothing. A network that errs a
little everywhere has a product a little below zero everywhere, by the power of its error; that number is fitted too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process, along
from leapstep.doctor.conventions import family, time_at
from leapstep.doctor.ranges import F64, Range
from leapstep.doctor.trials import Ask

GRID = (-9.0, 10.0, 0.75)
"""Log-SNRs, of data of variance 1, at which profiles are measured: from, to (further where a schedule starts), step."""

TOLERANCE = 0.02
"""What an honest network's product may be off zero, as a share of its output's power."""

CLEAN, KNOWS = 5.0, -1.5
"""With so little noise (log-SNR of data of variance 1) most networks are not what they were trained to be, and tell
little of their schedule; but for those that know the data, with so small an error (its log over the linear one's)."""


@dataclass(frozen=True)
class Profile:
    """The product E<y - f, f> / E<f, f> of a network over timesteps and noise levels.

    Attributes:
        timesteps: `[m]`.
        log_snr: `[l]`.
        product, noise: the product and its standard error, `[m, l]`, with what the doubt about the range adds to it.
        error: log of the error of x0 over that of the linear denoiser, `[m, l]`.
    """

    timesteps: Tensor
    log_snr: Tensor
    product: Tensor
    noise: Tensor
    error: Tensor

    def only(self, which: Tensor) -> Profile:
        """The same at some of the timesteps `[m]`, bool."""
        columns = (self.product, self.noise, self.error)
        return Profile(self.timesteps[which], self.log_snr, *(column[which] for column in columns))

    def at(self, log_snr: Tensor, column: Tensor) -> Tensor:
        """A column `[m, l]` at one level for each timestep `[m]`, or at k levels for each `[m, k]`."""
        place = (log_snr - self.log_snr[0]) / (self.log_snr[1] - self.log_snr[0])
        place = place.nan_to_num(0.0, 1e9, -1e9).clamp(0, len(self.log_snr) - 1.001)
        below = place.floor()
        left = below.long().reshape(len(column), -1)
        values = torch.lerp(column.gather(1, left), column.gather(1, left + 1), (place - below).reshape(left.shape))
        return values.reshape(log_snr.shape)


def scales(kind: str, log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at a log-SNR, in a family."""
    if kind == "ve":
        return torch.ones_like(log_snr), (-log_snr / 2).exp()
    if kind == "flow":
        return (log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid()
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def measure(ask: Ask, span: Range, convention: Convention, timesteps: Tensor, n: int, noise: Tensor) -> Profile:
    """Measure the profile of a network at these timesteps on n samples.

    Arguments:
        span, convention: of the convention only the prediction, sigma_data and the family of the process matter.
    """
    low, high, step = GRID
    shift = math.log(span.linear.variance)
    start = convention.process.log_snr(1 / (convention.levels or 1000)).item() + shift
    log_snr = torch.arange(low, max(high, min(start, 20.0)) + step, step, dtype=F64) - shift
    levels, m = len(log_snr), len(timesteps)
    alpha, sigma = scales(family(convention.process), log_snr)
    flat = Process(lambda t: alpha[level_index(t)] + 0 * t, lambda t: sigma[level_index(t)] + 0 * t)

    def level_index(t: Tensor) -> Tensor:
        return (t * levels).round().long().clamp(0, levels - 1)

    each = torch.arange(levels, dtype=F64) / levels
    t = each.repeat_interleave(n)
    a, b = flat.mixture(convention.predicts, each, convention.sigma_data or 1.0)
    factor = (sigma / (alpha * b - sigma * a))[:, None]  # x0 = (b x - sigma f) / (alpha b - sigma a)
    unit = span.linear.error(log_snr)
    product, spread, error = (torch.empty(m, levels, dtype=F64) for _ in range(3))
    for i, timestep in enumerate(timesteps):  # other samples at each, so that their luck averages out
        rows = ((i * n + torch.arange(n)) % len(noise)).repeat(levels)
        index = rows % len(span.values)
        x0, eps = span.values[index], noise[rows]
        x = flat.add_noise(x0, t, eps)
        y = along(a.repeat_interleave(n), x) * x0 + along(b.repeat_interleave(n), x) * eps
        output = ask(flat.normalized(x, t, convention.sigma_data), timestep.expand(len(x)), index)
        y, f = y.to(F64), output.to(F64)
        gap, squared, off = (span.mean(value, index).reshape(levels, n) for value in ((y - f) * f, f * f, (f - y) ** 2))
        power = squared.mean(1).clamp(min=1e-12)
        doubt = (span.doubt * (a**2 + b**2 * log_snr.exp()) / power).clamp(max=0.5)
        product[i] = gap.mean(1) / power
        spread[i] = ((gap.std(1) / n**0.5 / power) ** 2 + (2 * doubt) ** 2).sqrt()
        error[i] = (off * factor**2).mean(1) / unit
    return Profile(timesteps, log_snr, product, spread, error.clamp(min=1e-9).log())


def misfit(profile: Profile, levels: Tensor) -> tuple[float, float]:
    """How far a schedule that puts these log-SNRs `[m]` at the profile's timesteps is from its zeros.

    Returns:
        the mean squared deviation in units of its tolerance (about 1 for the right one; bounded for each timestep, so
        that a few untrained ones do not decide), and the network's share of error that it was found with.
    """
    known = _within(profile, levels)
    if known.sum() < max(3, len(levels) // 3):
        return 99.0, 0.0
    product, spread = profile.at(levels, profile.product), profile.at(levels, profile.noise)
    spread = (spread**2 + (10 * TOLERANCE * _weak(profile, levels)) ** 2).sqrt()
    shares = torch.linspace(-0.08, 0.03, 23, dtype=F64)
    deviation = (product[None] - shares[:, None]) / (spread**2 + TOLERANCE**2).sqrt()
    squared = (deviation**2).clamp(max=25)[:, known].mean(1) + (shares / 0.03) ** 2 / len(levels)
    best = squared.argmin()
    # where the schedule has no level, or one too far out to tell: as good as usual, unless the network works well there
    works = (profile.error.min(1).values < 0.5) & ~levels.isfinite()
    beyond = torch.where(works, 3.0, 0.5)[~known].sum().item() / len(levels)
    return squared[best].item() * known.to(F64).mean().item() + beyond, shares[best].item()


def counts(profile: Profile, levels: Tensor) -> Tensor:
    """Where the zeros speak for or against a schedule that puts these log-SNRs `[m]` there, `[m]`, bool.

    Not where it has no level or one out of the profile, and not where so little noise is left that what `misfit` adds
    to its tolerance is more than the tolerance itself.
    """
    return _within(profile, levels) & (10 * _weak(profile, levels) < 1)


def _within(profile: Profile, levels: Tensor) -> Tensor:
    """Which of these levels the profile reaches."""
    low, high = profile.log_snr[0] - 0.4, profile.log_snr[-1] + 0.4
    return (levels >= low) & (levels <= high)


def _weak(profile: Profile, levels: Tensor) -> Tensor:
    """How little a network tells at these levels: 1 with hardly any noise, 0 with more, or where it knows the data."""
    clean = (2 * (levels.nan_to_num(0.0) - profile.log_snr[0] + GRID[0] - CLEAN)).sigmoid()
    weak: Tensor = (profile.at(levels, profile.error) - KNOWS).clamp(0, 1) * clean
    return weak


class Recovered(NamedTuple):
    """The curve itself, read from the zeros of a profile.

    Attributes:
        log_snr: `[m]`, not increasing in time, interpolated where the network does not tell.
        low, high: between which levels the network cannot tell the true one, `[m]`; log_snr is one of them.
        readable: at which timesteps it does, `[m]`, bool.
    """

    log_snr: Tensor
    low: Tensor
    high: Tensor
    readable: Tensor


def recover(profile: Profile, share: float, increasing: bool, near: Tensor | None = None) -> Recovered:
    """Read the level of each timestep from the zeros of the product.

    Arguments:
        share: the network's share of error, that its product is off zero.
        increasing: whether the noise grows with the timestep.
        near: log-SNRs `[m]`, not finite where they are not known: of several zeros the nearest to them is taken;
            without them the one at which the network denoises best.
    """
    fine = torch.linspace(profile.log_snr[0], profile.log_snr[-1], 40 * (len(profile.log_snr) - 1) + 1, dtype=F64)
    m = len(profile.timesteps)

    def refine(column: Tensor) -> Tensor:
        return profile.at(fine.expand(m, -1), column)

    product, error = refine(profile.product) - share, refine(profile.error)
    width = (refine(profile.noise) ** 2 + TOLERANCE**2).sqrt()
    crossing = (product[:, :-1] < 0) & (product[:, 1:] >= 0)
    log_snr, low, high, weight = (torch.full((m,), torch.nan, dtype=F64) for _ in range(4))
    for i in range(m):
        places = crossing[i].nonzero()[:, 0]
        if len(places) == 0:
            continue
        known = near is not None and bool(near[i].isfinite())
        away = (fine[places] - near[i]).abs() if near is not None and known else error[i, places]
        place = places[away.argmin()]
        if fine[place] - profile.log_snr[0] + GRID[0] > CLEAN and error[i, place] > KNOWS:
            continue
        inside = product[i].abs() <= width[i]
        left, right = int(place), int(place) + 1
        while left > 0 and inside[left]:
            left -= 1
        while right < len(fine) - 1 and inside[right]:
            right += 1
        log_snr[i], low[i], high[i] = fine[place], fine[left], fine[right]
        weight[i] = 1 / (0.05 + fine[right] - fine[left]) ** 2
    readable = log_snr.isfinite() & (high - low < 3)
    curve = _monotone(log_snr, weight, readable, increasing)
    return Recovered(curve, torch.minimum(low, curve), torch.maximum(high, curve), readable)


def named_levels(curve: Recovered, profile: Profile, convention: Convention) -> dict[int, float]:
    """The recovered curve at the trained levels that were looked at, fit for `leapstep.from_log_snr`."""
    count = convention.levels or 1000
    t = time_at(convention, profile.timesteps)
    inside = (t * count >= 0.999) & (t <= 1 + 1e-9)
    pairs = zip(t[inside].tolist(), curve.log_snr[inside].tolist(), strict=True)
    levels = falling({round(time * count): value for time, value in pairs})
    known = sorted(levels)
    if len(known) > 1 and known[-1] < count:  # the last level, as the curve goes on
        slope = (levels[known[-1]] - levels[known[-2]]) / (known[-1] - known[-2])
        levels[count] = round(levels[known[-1]] + slope * (count - known[-1]) - 0.01, 2)
    return levels


def falling(levels: Mapping[int, float]) -> dict[int, float]:
    """The same log-SNRs to two digits, each below the one before."""
    ordered: dict[int, float] = {}
    last = math.inf
    for k in sorted(levels):
        ordered[k] = last = round(min(levels[k], last - 0.02), 2)
    return ordered


def straight_levels(t: Tensor, sigma: Tensor, count: int) -> dict[int, float] | None:
    """The straight line alpha + sigma = 1 on a time axis on which these times have these sigmas.

    Towards its ends it goes on as a power of the distance from them, as the last two times say.

    Arguments:
        count: the number of levels into which the axis is cut.
    Returns:
        log-SNRs by level, fit for `leapstep.from_log_snr`; None where fewer than four times are known, as far as the
        sigmas rise.
    """
    known: list[tuple[float, float]] = []
    for time, value in sorted(zip(t.tolist(), sigma.tolist(), strict=True)):
        if 0 < time < 1 and 0 < value < 1 and (not known or (time > known[-1][0] and value > known[-1][1] + 1e-3)):
            known.append((time, value))
    if len(known) < 4:
        return None
    (first, _), (last, _) = known[0], known[-1]
    clean = _power_law(*known[:2])
    noisy = _power_law(*((1 - time, 1 - value) for time, value in reversed(known[-2:])))
    levels: dict[int, float] = {}
    for share in (0.0, 0.1, 0.25, 0.5, 0.75):
        low, high = max(1, round(share * first * count)), round(share * (1 - last) * count)
        levels[low] = clean(low / count)
        levels[count - high] = 1 - noisy(max(high, 0.1) / count)
    levels |= {round(time * count): value for time, value in known}
    return falling({k: 2 * math.log(1 / value - 1) for k, value in levels.items()})


def _power_law(near: tuple[float, float], far: tuple[float, float]) -> Callable[[float], float]:
    """The power law through two points, from zero to the nearer one."""
    power = math.log(far[1] / near[1]) / math.log(far[0] / near[0])
    power = min(max(power, 0.5), 3.0)
    return lambda at: near[1] * (at / near[0]) ** power


def _monotone(log_snr: Tensor, weight: Tensor, readable: Tensor, increasing: bool) -> Tensor:
    """The nearest monotone curve through what is readable, linear in between and beyond."""
    if readable.sum() < 3:
        return log_snr
    place = readable.nonzero()[:, 0].to(F64)
    sign = -1 if increasing else 1
    known = sign * isotonic(sign * log_snr[readable], weight[readable])
    everywhere = torch.arange(len(log_snr), dtype=F64)
    right = torch.searchsorted(place, everywhere).clamp(1, len(place) - 1)
    left = right - 1
    return known[left] + (known[right] - known[left]) * (everywhere - place[left]) / (place[right] - place[left])


def isotonic(values: Tensor, weights: Tensor) -> Tensor:
    """The values that do not fall and are nearest to these, in weighted squares, `[n]`.

    Wherever values fall, they and the blocks next to them are pooled to their mean.

    References:
        Ayer et al. 1955, An empirical distribution function for sampling with incomplete information.
    """
    blocks: list[tuple[float, float, int]] = []  # the mean, the weight and the number of values of each
    for block in zip(values.tolist(), weights.tolist(), [1] * len(values), strict=True):
        mean, total, number = block
        while blocks and blocks[-1][0] >= mean:
            before, heavy, many = blocks.pop()
            mean = (before * heavy + mean * total) / (heavy + total)
            total, number = total + heavy, number + many
        blocks.append((mean, total, number))
    means, _, numbers = (torch.tensor(column, dtype=F64) for column in zip(*blocks, strict=True))
    return means.repeat_interleave(numbers.long())
