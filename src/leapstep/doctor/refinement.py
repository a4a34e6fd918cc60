"""The refinement of a convention: its schedule is read from the network, named if possible, and measured again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.core.schedules import from_log_snr
from leapstep.doctor.budget import Reading
from leapstep.doctor.conventions import axis, family, is_table, level_of, made, shift_of, sizes, time_at
from leapstep.doctor.curve import (
    Profile,
    Recovered,
    counts,
    measure,
    misfit,
    named_levels,
    recover,
    straight_levels,
)
from leapstep.doctor.fits import Fit, fit, usual
from leapstep.doctor.probe import Probe
from leapstep.doctor.ranges import F64, Range
from leapstep.doctor.trials import LEVELS, Trial, compare, compare_all, times_of

FITS = 2.2
"""The misfit from which on no named schedule is said to be the network's."""

FREE = 0.3
"""What a clock that is read adds to the mean log error: free as it is, it makes much look like a velocity."""

SURE, LIKELY = 0.3, 0.1
"""Margins in mean log error that a range, a prediction or a process must have over the next."""

OFF = 0.2
"""How far off, in its logarithm, a sigma_data is compared with the one that was found."""

CERTAIN, PROBABLE = 12.0, 8.0
"""Margins in summed squared deviations that a schedule or a clock must have over the next."""


@dataclass
class Candidate:
    """A convention with its schedule.

    Attributes:
        trial: how well it explains the network, with a penalty for a schedule that does not run along its zeros.
        fits: the named schedules and clocks, the one that was taken first, then by how well they fit.
        scores: the error that the network has with some of them, by the title of the fit.
        profile, curve: the measurement, and the curve read from it.
        size: what sigma_data is, and how much larger the mean log error is where it is `OFF` larger or smaller; None
            where the network sees x_t as it is.
    """

    trial: Trial
    fits: list[Fit]
    scores: dict[str, float]
    profile: Profile
    curve: Recovered
    size: tuple[str, float] | None = None

    @property
    def convention(self) -> Convention:
        """The convention, in the network's own range."""
        return self.trial.convention

    @property
    def is_recovered(self) -> bool:
        """Whether its schedule is the curve itself, since no schedule with a name explains it."""
        return is_table(self.convention.process) and self.convention != self.fits[0].convention

    def take(self, chosen: Fit) -> None:
        """Put another of the fits first, and take its convention."""
        self.fits.remove(chosen)
        self.fits.insert(0, chosen)
        self.trial = self.trial._replace(convention=chosen.convention)


def whole_reading(noise: Tensor) -> Reading:
    """How schedules are read where there is time for everything."""
    n = few_samples(noise, 2000, 500)
    return Reading(3, 21, max(2, n), 24, max(4, n // 2))


def refined(ask: Probe, trial: Trial, noise: Tensor, assume: Mapping[str, Any], reading: Reading) -> Candidate:
    """Read the schedule of one convention, and measure it again with it."""
    size = None
    if trial.convention.sigma_data is not None:
        trial, size = sized(ask, trial, noise, assume.get("sigma_data"), reading)
    timesteps = _timesteps(ask, trial.convention, trial.range, reading.places)
    timesteps = timesteps if ask.timed else timesteps[:1]  # its zeros lie at one level, whatever it is told
    profile = measure(ask, trial.range, trial.convention, timesteps, reading.n, noise)
    fits = fit(profile, trial.convention, ask.limit, ask.integers, assume.get("timesteps"))
    if not ask.timed:
        fits = [each for each in fits if each.convention.levels == trial.convention.levels] or fits
    chosen, same, scores = _measured(ask, trial, fits, noise, reading)
    chosen = usual([each for each in fits if each.misfit < FITS], chosen, timesteps, trial.range.linear.variance)
    candidate = Candidate(same, fits, scores, profile, _curve(profile, chosen), size)
    candidate.take(chosen)
    if not ask.timed:
        return candidate
    counts_time = trial.convention.time in ("index", "fraction")
    if counts_time and trial.predicts.endswith("flow"):
        if chosen.misfit > 1 and not _read_axis(ask, candidate, noise, reading):
            candidate.trial = _penalized(candidate.trial, chosen, len(timesteps))
    elif counts_time and chosen.misfit > FITS:
        _recover(ask, candidate, noise, assume.get("timesteps"), reading)
    elif chosen.misfit > 1:
        candidate.trial = _penalized(candidate.trial, chosen, len(timesteps))
    return candidate


def _penalized(trial: Trial, chosen: Fit, timesteps: int) -> Trial:
    """The trial with what a schedule that does not run along the zeros adds to the mean log error.

    On a time axis of its own much looks like a velocity, so that there the zeros decide as they do between schedules.
    """
    penalty = 0.05 * min(chosen.misfit - 1, 10)
    if shift_of(chosen.convention.process) != 1:
        penalty = SURE * (chosen.misfit - 1) * timesteps / CERTAIN
    return trial._replace(scores=trial.scores + penalty)


def sized(
    ask: Probe, trial: Trial, noise: Tensor, assumed: float | None, reading: Reading
) -> tuple[Trial, tuple[str, float]]:
    """The same with the sigma_data of least error on a line about it, and `Candidate.size`.

    The error is nearly a parabola in log sigma_data; a value that people take, and is as good, is preferred.
    """

    def scores(values: Iterable[float]) -> dict[float, Trial]:
        pairs = [(trial.range, replace(trial.convention, sigma_data=value)) for value in values]
        compared = compare_all(ask, pairs, min(few_samples(noise, 1000, 250), 5 * reading.n), noise)
        same = (each for kinds in compared for each in kinds if each.predicts == trial.predicts)
        return {each.convention.sigma_data or 0.0: each for each in same}

    best = trial.convention.sigma_data or 1.0
    for width in (0.4, 0.08, 0.016):
        line = scores(best * math.exp(width * step / 4) for step in range(-4, 5))
        best = min(line, key=lambda value: line[value].score)
    known = sizes(trial.range, assumed)
    near = [value for value in known if abs(math.log(value / best)) < OFF / 2]
    ends = [best * math.exp(OFF), best / math.exp(OFF)]
    measured = scores([*near, best, *ends])
    chosen = next(
        (value for value in near if measured[value].score < measured[best].score + 0.02), float(f"{best:.3g}")
    )
    beyond = min(measured[end].score for end in ends) - measured[best].score
    convention = replace(trial.convention, sigma_data=chosen)
    return trial._replace(convention=convention), (known.get(chosen, "fitted"), beyond)


def _curve(profile: Profile, chosen: Fit) -> Recovered:
    """The curve read from a profile; which way it runs is known from the schedule that is nearest."""
    level = level_of(chosen.convention, profile.timesteps)
    known = level[level.isfinite()]
    return recover(profile, chosen.share, bool(known[-1] < known[0]), level)


def _recover(ask: Probe, candidate: Candidate, noise: Tensor, timesteps: int | None, reading: Reading) -> None:
    """Take the curve itself, where it explains the network better than every schedule that has a name."""
    trial, chosen, profile = candidate.trial, candidate.fits[0], candidate.profile
    time, count = axis(trial.convention), ask.limit or timesteps or 1000
    counted = replace(trial.convention, process=made("flow", count), time=time, timesteps=None)  # for its clock alone
    if time == "index" and count != chosen.convention.levels:
        places = _timesteps(ask, counted, trial.range, reading.places)
        profile = measure(ask, trial.range, trial.convention, places, reading.n, noise)
    t = time_at(counted, profile.timesteps)
    profile = profile.only((t * count >= 0.999) & (t <= 1 + 1e-9))
    level = level_of(chosen.convention, profile.timesteps)
    curve = recover(profile, chosen.share, not counted.reverse, level)
    levels = named_levels(curve, profile, counted)
    if len(levels) < 4 or not all(map(math.isfinite, levels.values())):
        return
    kind = family(trial.convention.process)
    same = _compared_as(ask, trial, replace(counted, process=from_log_snr(levels, kind)), noise, reading)
    if kind != "vp":
        same = same._replace(scores=same.scores + 0.05)  # of two that explain it alike, most preserve the variance
    if same.score < trial.score + 0.1:
        candidate.trial, candidate.profile, candidate.curve = same, profile, curve


def _read_axis(ask: Probe, candidate: Candidate, noise: Tensor, reading: Reading) -> bool:
    """Take the time axis of a velocity as it is read, where that explains the network as well; whether it was taken.

    A velocity eps - x0 belongs to alpha = 1 - sigma, so that the level of a timestep says its sigma.
    """
    trial, chosen, profile = candidate.trial, candidate.fits[0], candidate.profile
    convention, count = chosen.convention, chosen.convention.levels
    t, share = time_at(convention, profile.timesteps), 0.0
    for _ in range(2):  # the share of error that the zeros are off is known once there is an axis
        curve = recover(profile, share, not convention.reverse)
        level = curve.log_snr
        good = profile.at(level, profile.error) < SURE
        known = curve.readable & good & counts(profile, level) & (t > 0.005) & (t < 0.995)
        levels = straight_levels(t[known], (-level[known] / 2).sigmoid(), count or 1000)
        if levels is None:
            return False
        process: Process = from_log_snr(levels, "flow")._replace(timesteps=count)
        convention = replace(convention, process=process)
        distance, share = misfit(profile, level_of(convention, profile.timesteps))
    same = _compared_as(ask, trial, convention, noise, reading)
    same = same._replace(scores=same.scores + FREE)
    if same.score >= trial.score + FREE + LIKELY:
        return False
    candidate.trial, candidate.curve = same, curve
    candidate.fits.insert(0, chosen._replace(convention=convention, misfit=distance, share=share))
    return True


def _compared_as(ask: Probe, trial: Trial, convention: Convention, noise: Tensor, reading: Reading) -> Trial:
    """A trial of another convention with the same prediction."""
    n = min(few_samples(noise, 1000, 250), 5 * reading.n)
    ((*trials,),) = compare(ask, [(trial.range, convention)], n, noise)
    return next(each for each in trials if each.predicts == trial.predicts)


def _measured(
    ask: Probe, trial: Trial, fits: list[Fit], noise: Tensor, reading: Reading
) -> tuple[Fit, Trial, dict[str, float]]:
    """The first of the fits with which the network denoises as well as with any, its trial, and what others score.

    Where the network's zeros decide little, its error does: the best fit of every schedule and size is tried. A
    fraction does not show the size.
    """
    tried: dict[Any, Fit] = {}
    for each in fits:
        if len(tried) < reading.fits and each.rank < fits[0].rank + 3:
            size = each.convention.levels if each.plain or trial.convention.time != "fraction" else None
            tried.setdefault((each.schedule, each.plain, size, shift_of(each.convention.process)), each)
    pairs = [(trial.range, each.convention) for each in tried.values()]
    compared = compare_all(ask, pairs, reading.each, noise)
    trials = [each for kinds in compared for each in kinds if each.predicts == trial.predicts]
    levels = [by_level(each) for each in trials]
    gaps = [max(behind(one, other) for other in levels) for one in levels]
    first = next((i for i, gap in enumerate(gaps) if gap < 0.05), gaps.index(min(gaps)))
    chosen = trials[first]
    beside = [chosen.score + behind(one, levels[first]) for one in levels]
    scores = {fit.title: score for fit, score in zip(tried.values(), beside, strict=True)}
    return list(tried.values())[first], chosen, scores


def behind(one: dict[int, float], other: dict[int, float]) -> float:
    """How much larger the mean of one's scores by level is, at the levels that the schedules of both reach."""
    both = one.keys() & other.keys()
    return sum(one[level] - other[level] for level in both) / len(both) if both else 0.0


def by_level(trial: Trial) -> dict[int, float]:
    """The scores by the place of their level among `LEVELS`; a schedule that leaves much signal does not reach all."""
    variance = trial.range.linear.variance
    reached = trial.convention.process.log_snr(times_of(trial.convention, variance)) + math.log(variance)
    places = (reached[:, None] - torch.tensor(LEVELS, dtype=F64)).abs().argmin(1)
    return dict(zip(places.tolist(), trial.scores.tolist(), strict=True))


def few_samples(noise: Tensor, values: int, most: int) -> int:
    """How many samples hold so many values; few of large ones, and more of those that are cheap."""
    size = noise[0].numel()
    return max(1, min(most, -(-values * (4 if size < 64 else 1) // size)))


def _timesteps(ask: Probe, convention: Convention, span: Range, count: int) -> Tensor:
    """Where the profile is measured, at so many timesteps at most: on the whole axis, closer at its clean end."""
    if convention.time not in ("index", "fraction"):
        t = times_of(convention, span.linear.variance, tuple(torch.linspace(8, -5, min(16, count)).tolist()))
        return convention.timestep(torch.unique(t))
    share = torch.tensor(
        [0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.1, 0.15, 0.22, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        dtype=F64,
    )
    if ask.limit is None and convention.time == "index":
        share = torch.cat([share, torch.tensor([1.3, 1.7], dtype=F64)])
    share = share[torch.linspace(0, len(share) - 1, min(count, len(share))).round().long()]
    end = 1.0 if convention.time == "fraction" else float(convention.levels or 1000)
    timesteps = share
    if convention.time == "index":
        timesteps = (share * end).round().clamp(max=(ask.limit or 10**9) - 1)
    chosen: Tensor = torch.unique((end - timesteps).clamp(min=0) if convention.reverse else timesteps)
    return chosen
