"""Named noise schedules, and their distance from the schedule read from a network."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.doctor.conventions import SHIFTS, family, is_table, level_of, made, schedule_of
from leapstep.doctor.curve import Profile, misfit

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
    """A convention with a schedule, and how far it is from the zeros of a network's profile.

    Attributes:
        convention: the convention.
        misfit: see `misfit`; 1 is as good as can be expected.
        share: the share of error of the network.
        rarity: a penalty for what few people use, in misfits.
    """

    convention: Convention
    misfit: float
    share: float
    rarity: float

    @property
    def rank(self) -> float:
        """The misfit with the penalty; less is better."""
        return max(self.misfit, LUCK) + self.rarity

    @property
    def schedule(self) -> str:
        """The name of the schedule."""
        return schedule_of(self.convention.process)

    @property
    def code(self) -> str:
        """The schedule in Python."""
        return code(self.convention.process)

    @property
    def title(self) -> str:
        """The schedule in Python, or that it is a line on a time axis that was read."""
        axis_was_read = is_table(self.convention.process)
        return "alpha + sigma = 1 on a time axis of its own, as it was read" if axis_was_read else self.code

    @property
    def plain(self) -> bool:
        """Whether its betas are taken as they are, whatever T, so that the curve says T."""
        return _plain_ends(self.convention.process) is not None


def fit(
    profile: Profile, convention: Convention, limit: int | None, integers: bool, timesteps: int | None = None
) -> list[Fit]:
    """Compare every named schedule and clock in the family of a process and on its axis; the best first.

    Arguments:
        limit: rows of the network's table of timesteps, where it has one.
        integers: whether it takes integers only.
        timesteps: T, where somebody believes to know it.
    """
    fits = []
    for candidate, rarity in candidates(convention, limit, integers, timesteps):
        distance, share = misfit(profile, level_of(candidate, profile.timesteps))
        fits.append(Fit(candidate, distance, share, rarity / len(profile.timesteps)))
    return sorted(fits, key=lambda each: each.rank)


def alike(one: Fit, other: Fit, timesteps: Tensor, variance: float) -> bool:
    """Whether two fits are one curve on one clock, within `SAME` wherever data and noise are of comparable size."""
    a, b = one.convention, other.convention
    stretched = a.time != "fraction" and len({a.levels, b.levels} - {None}) > 1
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
    convention: Convention, limit: int | None, integers: bool, timesteps: int | None
) -> Iterator[tuple[Convention, float]]:
    """The convention with each schedule and clock, and how rare that is.

    Rarity is added to the sum of squared deviations: it decides between schedules that fit alike.
    """
    if convention.time not in ("index", "fraction"):
        yield dataclasses.replace(convention, process=made(schedule_of(convention.process))), 0.0
        return
    kind = family(convention.process)
    clocks: tuple[str, ...] = ("fraction", "fraction_from_0")
    if convention.time == "index":
        clocks = ("1000t", "index", "index_from_1") if kind == "flow" else ("index", "index_from_1", "1000t")
    known = LEVELS if timesteps is None else dict.fromkeys((timesteps, *LEVELS))
    for rank, levels in enumerate(known if limit is None else _rows(limit)):
        for order, named in enumerate(_named(kind, levels)):
            name, plain = schedule_of(named), _plain_ends(named) is not None
            bright = named.log_snr(1.0).item() > -2  # so much signal is hardly meant to be left, but happens
            for place, clock in enumerate(clocks):
                if limit is not None and (clock, levels) not in (("index", limit), ("index_from_1", limit - 1)):
                    continue
                if clock == "1000t" and (levels != 1000 or integers):
                    continue
                free = clock in ("1000t", "fraction") and name in ("flow", "vp", "exponential", "karras")
                if free and rank > 0:
                    continue  # it does not depend on T
                weak = bright * (2.0 if plain else 6.0)
                unseen = 12.0 * (rank > 0 and convention.time == "fraction")
                rarity = 3.0 * (rank > 0) + 0.8 * rank + 5.0 * place + 0.3 * order + weak + unseen
                process = made(name) if free else named
                counted = dataclasses.replace(convention, process=process, time=clock, timesteps=None)
                yield counted, rarity
                for further, shift in enumerate(SHIFTS if name == "flow" else ()):
                    shifted = made("flow", None if free else levels, shift)
                    yield dataclasses.replace(counted, process=shifted), rarity + 2 + further / 2


def _rows(limit: int) -> tuple[int, ...]:
    """How many levels a table of so many rows holds: as many, or one less where it is counted from 1."""
    usual = (*LEVELS, 10, 20, 25)
    return (limit - 1,) if limit - 1 in usual and limit not in usual else (limit,)


def _named(kind: str, levels: int) -> Iterator[Process]:
    """The schedules of a family with the parameters that people give them."""
    if kind == "flow":
        yield made("flow", levels)
    elif kind == "ve":
        for low in (0.01, 0.002, 0.02, 0.05, 0.1, 0.005, 0.001):
            for high in (50.0, 1.0, 2.0, 5.0, 10.0, 20.0, 25.0, 80.0, 90.0, 100.0, 348.0, 1348.0):
                yield made("ve", levels, low, high)
        yield made("karras", levels)
    else:
        yield made("linear", levels)
        yield made("cosine", levels)
        for name, start, end in BETAS[1:]:
            yield made(name, levels, start, end)
        yield made("vp", levels)
        yield made("exponential", levels)
        for name, start, end in (*BETAS, *(STEEP if levels <= 200 else ())):
            root = math.sqrt(start * end) if name in ("scaled_linear", "quadratic") else (start + end) / 2
            if levels != 1000 and TOTALS[0] < levels * (start + root + end) / 3 < TOTALS[1]:
                yield made(name, levels, start * levels / 1000, end * levels / 1000)


# --- in Python -----------------------------------------------------------------------------------------------------


def _plain_ends(process: Process) -> tuple[float, float] | None:
    """The ends of betas that are taken as they are with another T than 1000; None where T scales them."""
    values = {} if process.schedule is None else dict(process.schedule.arguments)
    if "beta_start" not in values or values["timesteps"] == 1000:
        return None
    start, end, factor = values["beta_start"], values["beta_end"], 1000 / values["timesteps"]
    return None if (schedule_of(process), start, end) in BETAS else (start * factor, end * factor)


def code(process: Process) -> str:
    """The process in Python."""
    assert process.schedule is not None
    make, values = process.schedule.make, dict(process.schedule.arguments)
    made_levels = make(**values).timesteps if "timesteps" not in values else values["timesteps"]
    after = "" if made_levels == process.timesteps else f"._replace(timesteps={process.timesteps})"
    if (ends := _plain_ends(process)) is not None:
        return f"leapstep.from_betas({_betas(schedule_of(process), *ends, values['timesteps'])}){after}"
    defaults = {name: each.default for name, each in inspect.signature(make).parameters.items()}
    words = [
        literal(value) if name in ("timesteps", "levels", "betas", "alphas_cumprod") else f"{name}={literal(value)}"
        for name, value in values.items()
        if value != defaults[name]
    ]
    return f"leapstep.{make.__name__}({', '.join(words)}){after}"


def _betas(name: str, start: float, end: float, levels: int) -> str:
    """Betas in Python."""
    if name == "sigmoid":
        return f"torch.linspace(-6, 6, {levels}).sigmoid() * {end - start:g} + {start:g}"
    if name == "linear":
        return f"torch.linspace({start:g}, {end:g}, {levels})"
    return f"torch.linspace({start:g}**0.5, {end:g}**0.5, {levels}) ** 2"


def literal(value: Any) -> str:
    """A value in Python."""
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return repr(dict(value))
    if isinstance(value, float):
        inverse = 1 / value if value else 0.0
        if value < 1 and abs(inverse - round(inverse)) < 1e-9 and float(f"{value:.6g}") != value:
            return f"1 / {round(inverse)}"
        return f"{value:.6g}" if float(f"{value:.6g}") == value else repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(f'{each:.6g}' for each in value)})"
    return f'"{value}"' if isinstance(value, str) else repr(value)
