"""The search for the convention that a network follows.

First all ranges, processes, clocks and kinds of prediction race, on few samples, and those that explain the network's
answers worst drop out. For the few that are left the schedule is read from the network (`curve`), named if it has a
name, and they are measured again with it. A finding is as sure as the best convention without it is behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from leapstep.core.convention import NOISE_CLOCKS, Convention
from leapstep.doctor.budget import ROUNDS, Race, Reading
from leapstep.doctor.conventions import AXES, axis, conventions, family, schedule_of
from leapstep.doctor.fits import Fit
from leapstep.doctor.probe import Probe
from leapstep.doctor.ranges import Range
from leapstep.doctor.refinement import CERTAIN, FITS, LIKELY, OFF, Candidate, few_samples, refined, whole_reading
from leapstep.doctor.trials import LEVELS, Pair, Trial, compare_all

WEAK = 0.3
"""The mean log error above which a network does so poorly in every convention that nothing found of it is certain."""

NOISE_FITS = 6.0
"""The limit of `FITS` for a clock that says the noise level itself, where nothing else is to be told apart."""

RARITY = {"linear": 0.0, "cosine": 0.5, "flow": 1.0, "karras": 1.5}
"""How rare schedules are among strangers, as they are tried where there is no time for all; others are rarer."""


@dataclass
class Search:
    """What the search found.

    Attributes:
        winners: the candidates, the best first.
        trials: everything that was measured, the best first.
        caution: how many times larger a margin must be, since there was time for fewer samples.
        complete: whether there was time to compare all conventions.
    """

    winners: list[Candidate]
    trials: list[Trial] = field(default_factory=list)
    caution: float = 1.0
    complete: bool = True


def key(trial: Trial) -> tuple[Any, ...]:
    """What makes two trials different conventions, whatever their schedules."""
    convention = trial.convention
    process = family(convention.process), convention.sigma_data is None
    return trial.range.name, trial.predicts, process, axis(convention), convention.reverse


def pairs_of(ask: Probe, spans: list[Range], assume: Mapping[str, Any]) -> list[Pair]:
    """All ranges and conventions that are compared, the most common first, and before them those that are assumed.

    Arguments:
        spans: the ranges to consider.
        assume: what somebody believes, see `BELIEFS`.
    """
    counts = (1000, 300, 100, 30, 4000) if ask.limit is None else (ask.limit,)
    if ask.limit is None and assume.get("timesteps"):
        counts = tuple(dict.fromkeys((int(assume["timesteps"]), *counts)))
    size = assume.get("sigma_data")
    pairs = [(span, convention) for span in spans for convention in conventions(span, counts, ask.integers, size)]
    pairs = pairs if ask.timed else _one_clock(pairs)
    believed = {name: value for name, value in _believed(assume).items() if name != "predicts"}
    ranks = {span.name: rank for rank, span in enumerate(spans)}

    def rarity(pair: Pair) -> float:
        span, convention = pair
        schedule = schedule_of(convention.process)
        levels = 0 if convention.levels is None else counts.index(convention.levels)
        backwards = 3.0 if convention.reverse and schedule != "flow" else 0.0
        rare = 1.5 * ranks[span.name] + RARITY.get(schedule, 2.0) + 1.5 * levels + backwards
        denials = [name for name, value in believed.items() if not agrees(name, Trial(*pair, Tensor(), 0), value)]
        return rare + 100 * len(denials)

    return sorted(pairs, key=rarity)


def search(
    ask: Probe,
    pairs: list[Pair],
    noise: Tensor,
    assume: Mapping[str, Any],
    on_stage: Callable[[str], object] = lambda stage: None,
) -> Search:
    """Find the convention of a network.

    Arguments:
        pairs: see `pairs_of`.
        noise: standard normal, as many as there are data or more.
        assume: what somebody believes, see `BELIEFS`; it decides where the evidence does not.
        on_stage: called with what begins.
    """
    whole = whole_race(pairs, noise)
    race = ask.budget.race(whole)
    n = race.n
    on_stage("comparing conventions")
    trials, race, complete = _raced(ask, pairs, noise, race)
    on_stage("reading the schedule")
    reading = ask.budget.reading(whole_reading(noise))
    best = next(trial for trial in trials if trial.n > n).score
    finalists: dict[tuple[Any, ...], Trial] = {}
    for trial in trials:
        if trial.n > n and trial.score < best + 0.4 and len(finalists) < reading.finalists:
            finalists.setdefault(key(trial), trial)
    winners: list[Candidate] = []
    for trial in finalists.values():
        if winners and ask.budget.over(len(winners) / len(finalists) + 0.2):
            break
        winners.append(refined(ask, trial, noise, assume, reading))
    winners.sort(key=lambda one: one.trial.score)
    result = Search(winners, trials, math.sqrt(whole.evidence / race.evidence), complete)
    return _believing(result, ask, noise, assume, reading)


def _raced(ask: Probe, pairs: list[Pair], noise: Tensor, race: Race) -> tuple[list[Trial], Race, bool]:
    """The trials of a race, the best first, the race as it was run, and whether there was time to compare all pairs."""
    n, chosen = race.n, pairs[: race.pairs]
    trials: list[Trial] = []
    tried, planned = 0, len(chosen)
    for kinds in compare_all(ask, chosen, n, noise, levels=race.levels):
        trials, tried = trials + kinds, tried + 1
        if ask.budget.over(race.pairs * len(race.levels) * n / race.samples):
            break
    if tried < planned:
        ask.budget.cuts.append(f"calls turned out slower, and only {tried} of {planned} conventions were compared")
    trials = _sorted(trials)
    run = [ask.budget.round(race, 0)]
    for rounds in (1, 2):
        kept, factor = run[-1]
        first = n * 4**rounds
        again = compare_all(ask, _pairs(trials, kept), factor * n, noise, first, race.levels)
        renewed = {(trial.range.name, trial.convention): trial for kinds in again for trial in kinds}
        more = ((trial, renewed.get((trial.range.name, trial.convention))) for trial in trials)
        trials = _sorted(trial if other is None else trial.merged(other) for trial, other in more)
        run += [ask.budget.round(race, 1)] if rounds == 1 else []
    return trials, race._replace(rounds=(run[0], run[1])), tried == planned and len(chosen) == len(pairs)


def whole_race(pairs: list[Pair], noise: Tensor) -> Race:
    """How conventions are compared where there is time for everything."""
    return Race(len(pairs), few_samples(noise, 300, 200), LEVELS, ROUNDS)


BELIEFS: dict[str, Callable[[Trial], Any]] = {
    "range": lambda trial: trial.range.name,
    "predicts": lambda trial: trial.predicts,
    "time": lambda trial: axis(trial.convention),
    "reverse": lambda trial: trial.convention.reverse,
    "sigma_data": lambda trial: trial.convention.sigma_data,
}
"""What can be believed of a convention, and where it stands; the schedule and T are the affair of `Fit`."""


def agrees(name: str, trial: Trial, value: Any) -> bool:
    """Whether a trial has what is believed; a sigma_data that is nearly the same is the same."""
    actual, believed = BELIEFS[name](trial), AXES.get(value, value)
    if name == "sigma_data" and actual is not None and believed is not None:
        return abs(math.log(actual / believed)) < OFF / 2
    return bool(actual == believed)


def explained(winner: Candidate) -> bool:
    """Whether what was result explains the network: it denoises so, and its timesteps stand for the levels result."""
    chosen = winner.fits[0]
    limit = NOISE_FITS if winner.convention.time in NOISE_CLOCKS else FITS
    return winner.trial.score <= WEAK and (winner.is_recovered or chosen.misfit <= limit)


def denied(result: Search, assume: Mapping[str, Any]) -> dict[str, float]:
    """The beliefs that the winner does not share, with the margin by which they lose, in mean log error."""
    wrong = {}
    for name, value in _believed(assume).items():
        if not agrees(name, result.winners[0].trial, value):
            rivals = [trial.score for trial in _rivals(result) if agrees(name, trial, value)]
            wrong[name] = min(rivals, default=math.inf) - result.winners[0].trial.score
    return wrong


def _believed(assume: Mapping[str, Any]) -> dict[str, Any]:
    return {name: AXES.get(value, value) for name, value in assume.items() if name in BELIEFS}


def _believing(result: Search, ask: Probe, noise: Tensor, assume: Mapping[str, Any], reading: Reading) -> Search:
    """Where the evidence leaves it open, the convention that somebody believes in comes first."""
    wrong, winner = denied(result, assume), result.winners[0]
    even = max(wrong.values(), default=0.0) < LIKELY * result.caution
    beliefs = _believed(assume)
    agreeing = [one for one in result.trials if all(agrees(name, one, value) for name, value in beliefs.items())]
    if wrong and agreeing and (even or not explained(winner)):
        believed = refined(ask, agreeing[0], noise, assume, reading)
        if even or believed.trial.score < winner.trial.score + LIKELY:
            result.winners.insert(0, believed)
    winner = result.winners[0]
    named = {name: assume[name] for name in ("time", "schedule", "timesteps") if assume.get(name) is not None}
    count = len(winner.profile.timesteps)
    for each in winner.fits if named else ():
        if _keeps(each, named) and (each.misfit - winner.fits[0].misfit) * count < CERTAIN:
            winner.take(each)
            break
    return result


def _one_clock(pairs: list[Pair]) -> list[Pair]:
    """Of the pairs that differ in their clocks only, which mean nothing to a network that ignores them, the first."""
    chosen: dict[tuple[Any, ...], Pair] = {}
    for span, convention in pairs:
        chosen.setdefault((span.name, convention.process, convention.sigma_data), (span, convention))
    return list(chosen.values())


def _sorted(trials: Iterable[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: trial.score)


def _pairs(trials: list[Trial], kept: int) -> list[Pair]:
    """The pairs of the best trials, and the best pair of every range and kind, so that each has its say."""
    chosen: dict[tuple[str, Convention], Pair] = {}
    seen: set[str] = set()
    for rank, trial in enumerate(trials):
        if rank < kept or not {trial.range.name, trial.predicts} <= seen:
            seen |= {trial.range.name, trial.predicts}
            convention = replace(trial.convention, predicts="eps")  # for all kinds of prediction
            chosen.setdefault((trial.range.name, convention), (trial.range, convention))
    return list(chosen.values())


def _keeps(fit: Fit, assume: Mapping[str, Any]) -> bool:
    names = {"time": fit.convention.time, "timesteps": fit.convention.levels, "schedule": fit.schedule}
    return all(names[name] == assume[name] for name in names if assume.get(name) is not None)


def confidence(margin: float, sure: float, likely: float) -> str:
    """In words."""
    return "sure" if margin > sure else "likely" if margin > likely else "unsure"


def _rivals(result: Search) -> list[Trial]:
    """All trials but the winner's; those that were refined with their own schedule."""
    refined = {key(each.trial) for each in result.winners}
    return [each.trial for each in result.winners[1:]] + [one for one in result.trials if key(one) not in refined]


def margin(result: Search, attribute: Callable[[Trial], Any]) -> tuple[float, Trial | None]:
    """How far the best trial with another value of this attribute falls behind the winner, and that trial."""
    winner = result.winners[0].trial
    rivals = [trial for trial in _rivals(result) if attribute(trial) != attribute(winner)]
    if not rivals:
        return math.inf, None
    rival = min(rivals, key=lambda trial: trial.score)
    return rival.score - winner.score, rival
