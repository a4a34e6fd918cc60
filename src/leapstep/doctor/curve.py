"""Which noise level a timestep stands for, read from the network.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core import schedules
from leapstep.core.process import Process, along
from leapstep.doctor.conventions import F64, Ask, Range, Route
from leapstep.doctor.warp import SHIFTS

FAMILIES = {"flow": "flow", "ve": "ve", "karras": "ve"}
"""How the curves of a schedule relate: "vp" where it is not listed."""

GRID = (-9.0, 10.0, 0.75)
"""Log-SNRs, of data of variance 1, at which profiles are measured: from, to (further where a schedule starts), step."""

TOLERANCE = 0.02
"""What an honest network's product may be off zero, as a share of its output's power."""

CLEAN, KNOWS = 5.0, -1.5
"""With so little noise (log-SNR of data of variance 1) most networks are not what they were trained to be, and tell
little of their schedule; but for those that know the data, with so small an error (its log over the linear one's)."""

SAME = 0.1
"""Schedules whose log-SNRs do not differ by more than this are one, whatever their names."""

LUCK = 0.6
"""Misfits below this do not differ by more than luck."""

LEVELS = (1000, 100, 200, 300, 500, 4000, 50, 250, 2000, 400, 128, 256, 512, 1024, 150, 600, 800, 1500)
"""Numbers of trained levels that people choose, the most common first."""


BETAS = (
    ("linear", 1e-4, 0.02),
    ("scaled_linear", 0.00085, 0.012),
    ("quadratic", 1e-4, 0.02),
    ("sigmoid", 1e-4, 0.02),
    ("linear", 0.00085, 0.012),
)
"""Betas with their ends for T = 1000, the most common first; many take them as they are with another T."""

STEEP = (
    ("quadratic", 1e-4, 0.5),
    ("linear", 1e-4, 0.1),
    ("linear", 1e-4, 0.05),
    ("linear", 1e-4, 0.5),
    ("linear", 1e-4, 0.2),
    ("quadratic", 1e-4, 0.2),
)
"""Betas with ends that people choose for few levels."""

TOTALS = (0.45, 25.0)
"""The sums of betas that are believed: with less there is hardly noise at the end, and more is a waste of levels."""


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
        """A column `[m, l]` at one level for each timestep `[m]`."""
        place = (log_snr - self.log_snr[0]) / (self.log_snr[1] - self.log_snr[0])
        place = place.nan_to_num(0.0, 1e9, -1e9).clamp(0, len(self.log_snr) - 1.001)
        left = place.floor().long()[:, None]
        return torch.lerp(column.gather(1, left)[:, 0], column.gather(1, left + 1)[:, 0], place - left[:, 0])


def family(schedule: str) -> str:
    """ "vp", "ve" or "flow"."""
    return FAMILIES.get(schedule, "vp")


def scales(kind: str, log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at a log-SNR, in a family."""
    if kind == "ve":
        return torch.ones_like(log_snr), (-log_snr / 2).exp()
    if kind == "flow":
        return (log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid()
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def measure(ask: Ask, span: Range, route: Route, predicts: str, timesteps: Tensor, n: int, noise: Tensor) -> Profile:
    """Measure the profile of a network at these timesteps on n samples.

    Arguments:
        span, route, predicts: the convention; of the route only the family and sigma_data matter.
    """
    low, high, step = GRID
    shift = math.log(span.linear.variance)
    start = route.process.log_snr(1 / (route.timesteps or 1000)).item() + shift
    log_snr = torch.arange(low, max(high, min(start, 20.0)) + step, step, dtype=F64) - shift
    levels, m = len(log_snr), len(timesteps)
    alpha, sigma = scales(family(route.schedule), log_snr)
    flat = Process(lambda t: alpha[t_index(t)], lambda t: sigma[t_index(t)])

    def t_index(t: Tensor) -> Tensor:
        return (t * levels).round().long().clamp(0, levels - 1)

    t = (torch.arange(levels, dtype=F64) / levels).repeat_interleave(n)
    a, b = _target(route, predicts, alpha, sigma)
    factor = (sigma / (alpha * b - sigma * a))[:, None]  # x0 = (b x - sigma f) / (alpha b - sigma a)
    unit = span.linear.error(log_snr)
    product, spread, error = (torch.empty(m, levels, dtype=F64) for _ in range(3))
    for i, timestep in enumerate(timesteps):  # other samples at each, so that their luck averages out
        rows = ((i * n + torch.arange(n)) % len(noise)).repeat(levels)
        index = rows % len(span.values)
        x0, eps = span.values[index], noise[rows]
        x = flat.add_noise(x0, t, eps)
        y = along(a.repeat_interleave(n), x) * x0 + along(b.repeat_interleave(n), x) * eps
        output = ask(route._replace(process=flat).seen(x, t), timestep.expand(len(x)), index)
        y, f = y.to(F64), output.to(F64)
        gap, squared, off = (span.mean(value, index).reshape(levels, n) for value in ((y - f) * f, f * f, (f - y) ** 2))
        power = squared.mean(1).clamp(min=1e-12)
        doubt = (span.doubt * (a**2 + b**2 * log_snr.exp()) / power).clamp(max=0.5)
        product[i] = gap.mean(1) / power
        spread[i] = ((gap.std(1) / n**0.5 / power) ** 2 + (2 * doubt) ** 2).sqrt()
        error[i] = (off * factor**2).mean(1) / unit
    return Profile(timesteps, log_snr, product, spread, error.clamp(min=1e-9).log())


def _target(route: Route, predicts: str, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) of the prediction at these scales."""
    fixed = Process(lambda t: alpha + 0 * t, lambda t: sigma + 0 * t)
    if predicts.removeprefix("-") == "flow":
        sign = -1.0 if predicts.startswith("-") else 1.0
        return -sign * torch.ones_like(alpha), sign * torch.ones_like(alpha)
    return fixed.mixture(predicts, torch.full_like(alpha, 0.5), route.sigma_data or 1.0)


# --- schedules that have names -------------------------------------------------------------------------------------


def time_at(route: Route, timestep: Tensor) -> Tensor:
    """The time that a timestep stands for; not bounded, so that what lies outside of [0, 1] can be told."""
    ends = route._replace(warp=None).timestep(torch.tensor([0.5, 1.0], dtype=F64))
    t = 1 - 0.5 * (ends[1] - timestep) / (ends[1] - ends[0])
    return (
        t if route.warp is None else torch.where((t - t.clamp(0, 1)).abs() < 1e-9, route.warp.meant(t.clamp(0, 1)), t)
    )


def level_of(route: Route, timesteps: Tensor) -> Tensor:
    """The log-SNR at which a network on this route believes to be, nan where it was not trained, `[m]`."""
    if route.time in ("log_snr", "-log_snr"):
        return timesteps if route.time == "log_snr" else -timesteps
    if route.time == "log_sigma/4":
        return -8 * timesteps
    if route.time == "sigma":
        return -2 * timesteps.clamp(min=1e-12).log()
    t = time_at(route, timesteps)
    first = 1 / (route.timesteps or 10**9)
    inside = (t > 0.999 * first) & (t < 1 + 1e-9)
    return torch.where(inside, route.process.log_snr(t.clamp(1e-9, 1)), torch.nan)


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


class Fit(NamedTuple):
    """A schedule and clock, and how far they are from the zeros of a network's profile.

    Attributes:
        route: they, with the network's range and so on.
        code: the schedule in Python.
        misfit: see `misfit`; 1 is as good as can be expected.
        share: the share of error of the network.
        rarity: a penalty for what few people use, in misfits.
    """

    route: Route
    code: str
    misfit: float
    share: float
    rarity: float

    @property
    def rank(self) -> float:
        """The misfit with the penalty; less is better."""
        return max(self.misfit, LUCK) + self.rarity

    @property
    def title(self) -> str:
        """The schedule in Python, and the clock if it does not run evenly."""
        if self.route.warp is None:
            return self.code
        own = "of its own" if self.route.warp.read else f"that is {self.route.warp.code}"
        return f"{self.code} on a clock {own}"

    @property
    def plain(self) -> bool:
        """Whether its betas are taken as they are, whatever T, so that the curve says T."""
        return "from_betas" in self.code


def fit(profile: Profile, route: Route, limit: int | None, integers: bool, timesteps: int | None = None) -> list[Fit]:
    """Compare every named schedule and clock in the family of a route and on its axis; the best first.

    Arguments:
        limit: rows of the network's table of timesteps, where it has one.
        integers: whether it takes integers only.
        timesteps: T, where somebody believes to know it.
    """
    found = []
    for candidate, code, rarity in _candidates(route, limit, integers, timesteps):
        distance, share = misfit(profile, level_of(candidate, profile.timesteps))
        found.append(Fit(candidate, code, distance, share, rarity / len(profile.timesteps)))
    return sorted(found, key=lambda each: each.rank)


def alike(one: Fit, other: Fit, timesteps: Tensor, variance: float) -> bool:
    """Whether two fits are one curve on one clock, within `SAME` wherever data and noise are of comparable size."""
    a, b = one.route, other.route
    stretched = a.time != "fraction" and len({a.timesteps, b.timesteps} - {None}) > 1
    if (a.time, a.reverse) != (b.time, b.reverse) or stretched:
        return False
    levels, others = level_of(a, timesteps), level_of(b, timesteps)
    inside = (levels + math.log(variance)).abs() < 5
    return bool(((levels - others)[inside].abs() < SAME).all()) and bool(inside.any())


def usual(fits: list[Fit], chosen: Fit, timesteps: Tensor, variance: float) -> Fit:
    """Of the fits that are one curve with the chosen one, that by whose name most people know it."""
    same = [each for each in fits if alike(chosen, each, timesteps, variance)]
    return min([chosen, *same], key=lambda each: each.rarity)


def _candidates(
    route: Route, limit: int | None, integers: bool, timesteps: int | None
) -> Iterator[tuple[Route, str, float]]:
    """Route, code, and rarity: added to the sum of squared deviations, it decides between schedules that fit alike."""
    if route.time not in ("index", "fraction"):
        yield route, f"leapstep.{route.schedule}()", 0.0
        return
    clocks = ("index", "index_from_1", "1000t") if route.time == "index" else ("fraction", "fraction_from_0")
    if family(route.schedule) == "flow" and route.time == "index":
        clocks = ("1000t", "index", "index_from_1")
    known = LEVELS if timesteps is None else dict.fromkeys((timesteps, *LEVELS))
    for rank, levels in enumerate(known if limit is None else _rows(limit)):
        for order, (name, code, make) in enumerate(_named(family(route.schedule), levels)):
            process = make()._replace(timesteps=None)
            for place, clock in enumerate(clocks):
                if limit is not None and (clock, levels) not in (("index", limit), ("index_from_1", limit - 1)):
                    continue
                if clock == "1000t" and (levels != 1000 or integers):
                    continue
                free = clock in ("1000t", "fraction") and name in ("flow", "vp", "exponential", "karras")
                if free and rank > 0:
                    continue  # it does not depend on T
                candidate = Route(name, process, clock, route.reverse, None if free else levels, route.sigma_data)
                bright = process.log_snr(1.0).item() > -2  # so much signal is hardly meant to be left, but happens
                weak = bright * (2.0 if "from_betas" in code else 6.0)
                unseen = 12.0 * (rank > 0 and route.time == "fraction")
                rarity = 3.0 * (rank > 0) + 0.8 * rank + 5.0 * place + 0.3 * order + weak + unseen
                yield candidate, f"leapstep.{name}()" if free else code, rarity
                for further, warp in enumerate(SHIFTS if name == "flow" else ()):
                    yield (
                        candidate._replace(warp=warp),
                        f"leapstep.{name}()" if free else code,
                        rarity + 2 + further / 2,
                    )


def _rows(limit: int) -> tuple[int, ...]:
    """How many levels a table of so many rows holds: as many, or one less where it is counted from 1."""
    usual = (*LEVELS, 10, 20, 25)
    return (limit - 1,) if limit - 1 in usual and limit not in usual else (limit,)


_Named = tuple[str, str, Callable[[], Process]]


def _named(kind: str, levels: int) -> Iterator[_Named]:
    """The schedules of a family with the parameters that people give them: name, arguments in Python, maker."""
    count = "" if levels == 1000 else str(levels)

    def written(*options: str) -> str:
        return ", ".join(option for option in (count, *options) if option)

    def scaled(name: str, start: float, end: float, usual: bool = True) -> _Named:
        ends = "" if usual else f"beta_start={start:g}, beta_end={end:g}"
        return name, f"leapstep.{name}({written(ends)})", partial(getattr(schedules, name), levels, start, end)

    def plain(name: str, start: float, end: float) -> Iterator[_Named]:
        root = math.sqrt(start * end)
        total = (
            levels
            * {"scaled_linear": start + root + end, "quadratic": start + root + end}.get(name, 1.5 * (start + end))
            / 3
        )
        if levels != 1000 and TOTALS[0] < total < TOTALS[1]:
            line = {
                "linear": f"torch.linspace({start:g}, {end:g}, {levels})",
                "sigmoid": f"torch.linspace(-6, 6, {levels}).sigmoid() * {end - start:g} + {start:g}",
            }.get(name, f"torch.linspace({start:g}**0.5, {end:g}**0.5, {levels}) ** 2")
            make = partial(getattr(schedules, name), levels, start * levels / 1000, end * levels / 1000)
            yield name, f"leapstep.from_betas({line})", make

    if kind == "flow":
        yield "flow", f"leapstep.flow({count})", schedules.flow
    elif kind == "ve":
        for low in (0.01, 0.002, 0.02, 0.05, 0.1, 0.005, 0.001):
            for high in (50.0, 1.0, 2.0, 5.0, 10.0, 20.0, 25.0, 80.0, 90.0, 100.0, 348.0, 1348.0):
                ends = "" if (low, high) == (0.01, 50.0) else f"sigma_min={low:g}, sigma_max={high:g}"
                yield "ve", f"leapstep.ve({written(ends)})", partial(schedules.ve, levels, low, high)
        yield "karras", f"leapstep.karras({count})", partial(schedules.karras, levels)
    else:
        yield scaled("linear", 1e-4, 0.02)
        yield "cosine", f"leapstep.cosine({count})", partial(schedules.cosine, levels)
        for name, start, end in BETAS[1:4]:
            yield scaled(name, start, end)
        yield scaled(*BETAS[4], usual=False)
        yield "vp", f"leapstep.vp({count})", schedules.vp
        yield "exponential", f"leapstep.exponential({count})", schedules.exponential
        for name, start, end in (*BETAS, *(STEEP if levels <= 200 else ())):
            yield from plain(name, start, end)


# --- schedules that have none --------------------------------------------------------------------------------------


class Recovered(NamedTuple):
    """The curve itself, read from the zeros of a profile.

    Attributes:
        log_snr: `[m]`, not increasing in time, interpolated where the network does not tell.
        low, high: between which levels the network cannot tell the true one, `[m]`; log_snr is one of them.
        told: at which timesteps it does, `[m]`, bool.
    """

    log_snr: Tensor
    low: Tensor
    high: Tensor
    told: Tensor


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
        return torch.stack([profile.at(level.expand(m), column) for level in fine], 1)

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
    told = log_snr.isfinite() & (high - low < 3)
    curve = _monotone(log_snr, weight, told, increasing)
    return Recovered(curve, torch.minimum(low, curve), torch.maximum(high, curve), told)


def named_levels(curve: Recovered, profile: Profile, route: Route) -> dict[int, float]:
    """The recovered curve at the trained levels that were looked at, fit for `leapstep.from_log_snr`."""
    count = route.timesteps or 1000
    t = time_at(route, profile.timesteps)
    inside = (t * count >= 0.999) & (t <= 1 + 1e-9)
    pairs = zip(t[inside].tolist(), curve.log_snr[inside].tolist(), strict=True)
    found = {round(when * count): value for when, value in pairs}
    ordered: dict[int, float] = {}
    last = math.inf
    for k in sorted(found):
        last = round(min(found[k], last - 0.02), 2)
        ordered[k] = last
    known = sorted(ordered)
    if len(known) > 1 and known[-1] < count:  # the last level, as the curve goes on
        slope = (ordered[known[-1]] - ordered[known[-2]]) / (known[-1] - known[-2])
        ordered[count] = round(last + slope * (count - known[-1]) - 0.01, 2)
    return ordered


def _monotone(log_snr: Tensor, weight: Tensor, told: Tensor, increasing: bool) -> Tensor:
    """The nearest monotone curve through what was told, linear in between and beyond."""
    from sklearn.isotonic import isotonic_regression

    if told.sum() < 3:
        return log_snr
    place = told.nonzero()[:, 0].to(F64)
    known = torch.from_numpy(
        isotonic_regression(log_snr[told].numpy(), sample_weight=weight[told].numpy(), increasing=not increasing).copy()
    )
    everywhere = torch.arange(len(log_snr), dtype=F64)
    right = torch.searchsorted(place, everywhere).clamp(1, len(place) - 1)
    left = right - 1
    return known[left] + (known[right] - known[left]) * (everywhere - place[left]) / (place[right] - place[left])
