"""Named noise schedules, and their distance from the schedule read from a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from torch import Tensor

from leapstep.core import schedules
from leapstep.core.process import Process
from leapstep.doctor.conventions import Route, family, level_of
from leapstep.doctor.curve import Profile, misfit
from leapstep.doctor.warp import SHIFTS

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
    for candidate, code, rarity in candidates(route, limit, integers, timesteps):
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


def candidates(
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
