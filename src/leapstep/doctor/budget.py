"""The budget of a diagnosis: the cost of a sample is measured, and the counts follow from it.

Each part of a diagnosis (`SHARES`) has a share of the time that is left when it begins, so that what one part saves the
next may spend, and calls that turn out slower cost counts, not minutes. Where there is time for everything nothing is
cut, and a diagnosis depends on its seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple, TypeVar

from leapstep.doctor.trials import LEVELS
from leapstep.text import duration

SHARES = {"comparing": 0.42, "reading": 0.30, "looking": 0.06, "sampling": 0.22}
"""The parts of a diagnosis in their order, and their shares of its time."""

GRID_LEVELS = 27
"""Noise levels at which a profile is measured at each timestep, about."""

OWN = 18
"""Pairs beyond those kept for their rank in a round: the best of each range and prediction."""

ROUNDS, LAST_ROUNDS = ((40, 3), (12, 8)), ((4, 1), (2, 2))
"""Of a race: how many pairs are kept and how many times as many samples they get, with time for everything and with the
least."""

LEAST_PAIRS = 40
"""Pairs of range and route that are compared whatever the budget."""


class Race(NamedTuple):
    """How conventions are compared.

    Attributes:
        pairs: of range and route, at most.
        n: samples at each level.
        levels: see `conventions.LEVELS`.
        rounds: of those that follow, how many pairs are kept and how many times n samples they get.
    """

    pairs: int
    n: int
    levels: tuple[float, ...]
    rounds: tuple[tuple[int, int], tuple[int, int]]

    @property
    def samples(self) -> int:
        """That go through the network."""
        again = sum((kept + OWN) * factor for kept, factor in self.rounds)
        return len(self.levels) * self.n * (self.pairs + again)

    @property
    def evidence(self) -> int:
        """Samples at all levels that decide between the last conventions."""
        return len(self.levels) * self.n * (1 + sum(factor for _, factor in self.rounds))


class Reading(NamedTuple):
    """How schedules are read.

    Attributes:
        finalists: conventions whose schedule is read.
        places: timesteps.
        n: samples at each timestep and level.
        fits, each: named schedules whose error is measured, and samples at each level for it.
    """

    finalists: int
    places: int
    n: int
    fits: int
    each: int

    @property
    def samples(self) -> int:
        """That go through the network."""
        return self.finalists * (self.places * GRID_LEVELS * self.n + self.fits * len(LEVELS) * self.each)


class Looking(NamedTuple):
    """How errors are measured: the number of levels, samples at each, and samples for what rounding does."""

    levels: int
    n: int
    rounding: int

    @property
    def samples(self) -> int:
        """That go through the network."""
        return self.levels * self.n + 24 * self.rounding


class Sampling(NamedTuple):
    """How sampling is checked: samples and steps."""

    n: int
    steps: int

    @property
    def samples(self) -> int:
        """That go through the network."""
        return self.n * self.steps


LAST_READING, LAST_LOOKING = Reading(1, 8, 2, 6, 1), Looking(6, 1, 0)
"""What is read and looked at whatever the budget."""

_Plan = TypeVar("_Plan", Race, Reading, Looking, Sampling)


class Budget:
    """The time that a diagnosis may take, and what a sample costs of it.

    Arguments:
        seconds: the time; `math.inf` is no bound.
    Attributes:
        began: when it began, by the clock of the machine.
        price: seconds that the network takes for a sample, by the latest calls; 0 before any was timed.
        cuts: what was cut for want of time, in words.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self.began = monotonic()
        self.price = 0.0
        self.cuts: list[str] = []
        self._part = 0.0, math.inf  # when the part began that is at work, and how long it may take
        self._since, self._samples = self.began, 0

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return monotonic() - self.began

    @property
    def cost(self) -> float:
        """Seconds that a sample takes with all that is done around the call."""
        around = (monotonic() - self._since) / self._samples if self._samples else 0.0
        return max(self.price, around)

    def start(self, price: float) -> None:
        """Begin to count, at so many seconds for a sample."""
        self.price, self._since, self._samples = price, monotonic(), 0

    def paid(self, samples: int, seconds: float) -> None:
        """Learn from a call what a sample costs."""
        self.price += 0.2 * (seconds / samples - self.price)
        self._samples += samples

    def allowed(self, part: str) -> float:
        """How many samples a part may take that begins now."""
        left = max(0.0, self.seconds - self.elapsed)
        later = list(SHARES)[list(SHARES).index(part) :]
        seconds = left * SHARES[part] / sum(SHARES[each] for each in later)
        self._part = self.elapsed, seconds
        return seconds / self.cost if self.cost > 0 else math.inf

    def over(self, share: float) -> bool:
        """Whether the part that is at work has used up this share of its time."""
        began, seconds = self._part
        return self.elapsed - began > share * seconds

    def race(self, whole: Race) -> Race:
        """The race that there is time for, at most this one."""
        steps = [whole._replace(n=n) for n in range(whole.n, 0, -1)]
        one = steps[-1]
        steps += [
            one._replace(rounds=((20, 2), (8, 4))),
            one._replace(levels=whole.levels[::2], rounds=((12, 2), (6, 3))),
            one._replace(levels=whole.levels[1::2], rounds=LAST_ROUNDS),
        ]
        plan, allowed = self._fitting("comparing", steps)
        if plan.samples > allowed:
            room = int(allowed - plan._replace(pairs=0).samples) // len(plan.levels)
            plan = plan._replace(pairs=min(whole.pairs, max(LEAST_PAIRS, room)))
        if plan.evidence != whole.evidence:
            self.cuts.append(f"conventions were compared on {plan.evidence} of {whole.evidence} samples each")
        if plan.pairs != whole.pairs:
            self.cuts.append(f"only the {plan.pairs} most common of {whole.pairs} were compared")
        return plan

    def round(self, race: Race, number: int) -> tuple[int, int]:
        """The pairs kept and the factor of a round of a race, 0 or 1, fewer where calls turned out slower."""
        kept, factor = race.rounds[number]
        began, seconds = self._part
        left = max(0.0, seconds - (self.elapsed - began)) / self.cost if self.cost > 0 else math.inf
        room = left * (0.45, 1.0)[number] / (len(race.levels) * race.n)
        while (kept + OWN) * factor > room and (kept, factor) > LAST_ROUNDS[number]:
            kept, factor = (kept, factor - 1) if factor > LAST_ROUNDS[number][1] else (max(2, kept // 2), factor)
        return kept, factor

    def reading(self, whole: Reading) -> Reading:
        """The reading of schedules that there is time for, at most this one."""
        each = (max(2, whole.each * n // whole.n) for n in range(whole.n, 1, -1))
        steps = [whole._replace(n=n, each=few) for n, few in zip(range(whole.n, 1, -1), each, strict=True)]
        least = steps[-1]._replace(finalists=2)
        steps += [least, least._replace(places=12, fits=12), least._replace(finalists=1, places=12, fits=12)]
        plan, _ = self._fitting("reading", [*steps, LAST_READING])
        if plan.places != whole.places:
            self.cuts.append(f"the schedule was read at {plan.places} timesteps in place of {whole.places}")
        elif plan != whole:
            self.cuts.append(f"the schedule was read on {plan.n} samples at each level in place of {whole.n}")
        return plan

    def looking(self, n: int) -> Looking:
        """The measurement of errors that there is time for, with n samples at each level at most."""
        steps = [Looking(12, few, 4) for few in range(n, 0, -1)]
        plan, _ = self._fitting("looking", [*steps, Looking(12, 1, 1), Looking(12, 1, 0), LAST_LOOKING])
        if plan.n != n:
            self.cuts.append(f"errors were measured on {plan.n} of {n} samples at each level")
        return plan

    def sampling(self, n: int) -> Sampling | None:
        """The check of sampling that there is time for, with n samples at most, or none."""
        steps = [Sampling(min(n, most), steps) for most, steps in ((64, 20), (32, 20), (24, 16), (16, 12))]
        plan, allowed = self._fitting("sampling", steps)
        if plan.samples > allowed:
            self.cuts.append("sampling was not checked")
            return None
        if plan != steps[0]:
            self.cuts.append(f"{plan.n} samples were drawn in {plan.steps} steps in place of {steps[0].n} in 20")
        return plan

    def _fitting(self, part: str, steps: Sequence[_Plan]) -> tuple[_Plan, float]:
        """The first of these plans that there is time for, or else the last, and how many samples there is time for."""
        allowed = self.allowed(part)
        return next((step for step in steps if step.samples <= allowed), steps[-1]), allowed

    def estimate(self, race: Race, reading: Reading, drawn: int) -> tuple[float, float]:
        """How many seconds all of it will take, as far as that can be known before, and how many without a bound.

        Arguments:
            race, reading: those with time for everything.
            drawn: samples that are drawn, 0 where sampling is not checked.
        Raises:
            ValueError: the least that tells anything takes longer than the time.
        """
        few = race._replace(n=1, pairs=min(race.pairs, LEAST_PAIRS), levels=race.levels[1::2], rounds=LAST_ROUNDS)
        least = few.samples + LAST_READING.samples + LAST_LOOKING.samples
        if least * self.cost > self.seconds - self.elapsed:
            needed = 60 * math.ceil((1.2 * least * self.cost + self.elapsed) / 60)
            raise ValueError(
                f"the network takes {duration(self.cost)} for a sample, so that the least that tells anything, {least} "
                f"samples, takes {duration(least * self.cost)}, and the budget is {duration(self.seconds)}: give a "
                f"budget of {duration(needed)}, a faster device, or smaller samples"
            )
        whole = (race.samples + reading.samples + 20 * drawn) * self.cost + self.elapsed
        return min(whole, self.seconds), whole
