"""The search for the convention that a network follows.

First all ranges, processes, clocks and kinds of prediction race, on few samples, and those that explain the network's
answers worst drop out. For the few that are left the schedule is read from the network (`curve`), named if it has a
name, and they are measured again with it. A finding is as sure as the best convention without it is behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from leapstep.core.schedules import from_log_snr
from leapstep.doctor.budget import ROUNDS, Race, Reading
from leapstep.doctor.conventions import F64, LEVELS, Range, Route, Trial, compare, routes, sizes, times_of
from leapstep.doctor.curve import (
    Fit,
    Profile,
    Recovered,
    counts,
    family,
    fit,
    level_of,
    measure,
    misfit,
    named_levels,
    recover,
    time_at,
    usual,
)
from leapstep.doctor.probe import Probe
from leapstep.doctor.warp import drawn

FITS = 2.2
"""The misfit from which on no named schedule is said to be the network's."""

WEAK = 0.3
"""The mean log error above which a network does so poorly in every convention that nothing found of it is certain."""

FREE = 0.3
"""What a clock that is read adds to the mean log error: free as it is, it makes much look like a velocity."""

TOLD = 6.0
"""The same limit for a clock that says the noise level itself, where nothing else is to be told apart."""

COUNTED = ("index", "index_from_1", "1000t", "999t", "fraction", "fraction_from_0")
"""The clocks that count time, and say nothing of the noise level."""

SURE, LIKELY = 0.3, 0.1
"""Margins in mean log error that a range, a prediction or a process must have over the next."""

OFF = 0.2
"""How far off, in its logarithm, a sigma_data is compared with the one that was found."""

CERTAIN, PROBABLE = 12.0, 8.0
"""Margins in summed squared deviations that a schedule or a clock must have over the next."""

RARITY = {"linear": 0.0, "cosine": 0.5, "flow": 1.0, "karras": 1.5}
"""How rare schedules are among strangers, as they are tried where there is no time for all; others are rarer."""


@dataclass
class Candidate:
    """A convention with its schedule.

    Attributes:
        trial: how well it explains the network, with a penalty for a schedule that does not run along its zeros.
        fits: the named schedules and clocks, the one that was taken first, then by how well they fit.
        scores: the error that the network has with some of them, by the code of the fit.
        profile, curve: the measurement, and the curve read from it.
        levels: the curve as `from_log_snr` takes it, where no named schedule explains it; else None.
        size: what sigma_data is, and how much larger the mean log error is where it is `OFF` larger or smaller; None
            where the network sees x_t as it is.
    """

    trial: Trial
    fits: list[Fit]
    scores: dict[str, float]
    profile: Profile
    curve: Recovered
    levels: dict[int, float] | None = None
    size: tuple[str, float] | None = None


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
    route = trial.route
    time = AXES.get(route.time, route.time)
    return trial.range.name, trial.predicts, family(route.schedule), route.sigma_data is None, time, route.reverse


def pairs_of(ask: Probe, spans: list[Range], assume: Mapping[str, Any]) -> list[tuple[Range, Route]]:
    """All ranges and routes that are compared, the most common first, and before them those that somebody believes in.

    Arguments:
        spans: the ranges to consider.
        assume: what somebody believes, see `BELIEFS`.
    """
    counts = (1000, 300, 100, 30, 4000) if ask.limit is None else (ask.limit,)
    if ask.limit is None and assume.get("timesteps"):
        counts = tuple(dict.fromkeys((int(assume["timesteps"]), *counts)))
    size = assume.get("sigma_data")
    pairs = [(span, route) for span in spans for route in routes(span, counts, ask.integers, size)]
    pairs = pairs if ask.timed else _one_clock(pairs)
    wanted = {name: value for name, value in _wanted(assume).items() if name != "predicts"}
    ranks = {span.name: rank for rank, span in enumerate(spans)}

    def rarity(pair: tuple[Range, Route]) -> float:
        span, route = pair
        levels = 0 if route.timesteps is None else counts.index(route.timesteps)
        backwards = 3.0 if route.reverse and route.schedule != "flow" else 0.0
        rare = 1.5 * ranks[span.name] + RARITY.get(route.schedule, 2.0) + 1.5 * levels + backwards
        trial = Trial(span, route, "", Tensor(), 0)
        denied = [name for name, value in wanted.items() if not agrees(name, trial, value)]
        return rare + 100 * len(denied)

    return sorted(pairs, key=rarity)


def search(
    ask: Probe,
    pairs: list[tuple[Range, Route]],
    noise: Tensor,
    assume: Mapping[str, Any],
    on_stage: Callable[[str], object] = lambda stage: None,
) -> Search:
    """Find the convention of a network.

    Arguments:
        pairs: see `pairs_of`.
        noise: standard normal, as many as there are data or more.
        assume: what somebody believes, see `BELIEFS`; it decides where the evidence does not.
        on_stage: told what begins.
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
        winners.append(_refined(ask, trial, noise, assume, reading))
    winners.sort(key=lambda one: one.trial.score)
    found = Search(winners, trials, math.sqrt(whole.evidence / race.evidence), complete)
    return _believing(found, ask, noise, assume, reading)


def _raced(ask: Probe, pairs: list[tuple[Range, Route]], noise: Tensor, race: Race) -> tuple[list[Trial], Race, bool]:
    """The trials of a race, the best first, the race as it was run, and whether there was time to compare all pairs."""
    n, chosen = race.n, pairs[: race.pairs]
    trials: list[Trial] = []
    for kinds in _compared(ask, chosen, n, noise, levels=race.levels):
        trials += kinds
        if ask.budget.over(race.pairs * len(race.levels) * n / race.samples):
            break
    tried = len({(trial.range.name, *_route(trial.route)) for trial in trials})
    planned = len({(span.name, *_route(route)) for span, route in chosen})
    if tried < planned:
        ask.budget.cuts.append(f"calls turned out slower, and only {tried} of {planned} conventions were compared")
    trials = _sorted(trials)
    run = [ask.budget.round(race, 0)]
    for rounds in (1, 2):
        kept, factor = run[-1]
        first = n * 4**rounds
        again = _pairs(trials, kept)
        renewed = {
            _identity(trial): trial
            for kinds in _compared(ask, again, factor * n, noise, first, race.levels)
            for trial in kinds
        }
        trials = _sorted(
            trial.merged(renewed[_identity(trial)]) if _identity(trial) in renewed else trial for trial in trials
        )
        run += [ask.budget.round(race, 1)] if rounds == 1 else []
    return trials, race._replace(rounds=(run[0], run[1])), tried == planned and len(chosen) == len(pairs)


def whole_race(pairs: list[tuple[Range, Route]], noise: Tensor) -> Race:
    """How conventions are compared where there is time for everything."""
    return Race(len(pairs), _samples(noise, 300, 200), LEVELS, ROUNDS)


def whole_reading(noise: Tensor) -> Reading:
    """How schedules are read where there is time for everything."""
    n = _samples(noise, 2000, 500)
    return Reading(3, 21, max(2, n), 24, max(4, n // 2))


AXES: dict[str, str] = {"index_from_1": "index", "1000t": "index", "999t": "index", "fraction_from_0": "fraction"}
"""Clocks that cannot be told apart before the schedule is read, and the one that stands for them."""

BELIEFS: dict[str, Callable[[Trial], Any]] = {
    "range": lambda trial: trial.range.name,
    "predicts": lambda trial: trial.predicts,
    "time": lambda trial: AXES.get(trial.route.time, trial.route.time),
    "reverse": lambda trial: trial.route.reverse,
    "sigma_data": lambda trial: trial.route.sigma_data,
}
"""What can be believed of a convention, and where it stands; the schedule and T are the affair of `Fit`."""


def agrees(name: str, trial: Trial, value: Any) -> bool:
    """Whether a trial has what is believed; a sigma_data that is nearly the same is the same."""
    own, wanted = BELIEFS[name](trial), AXES.get(value, value)
    if name == "sigma_data" and own is not None and wanted is not None:
        return abs(math.log(own / wanted)) < OFF / 2
    return bool(own == wanted)


def explained(winner: Candidate) -> bool:
    """Whether what was found explains the network: it denoises so, and its timesteps stand for the levels found."""
    chosen = winner.fits[0]
    limit = FITS if winner.trial.route.time in COUNTED else TOLD
    return winner.trial.score <= WEAK and (winner.levels is not None or chosen.misfit <= limit)


def denied(found: Search, assume: Mapping[str, Any]) -> dict[str, float]:
    """The beliefs that the winner does not share, with the margin by which they lose, in mean log error."""
    wrong = {}
    for name, value in _wanted(assume).items():
        if not agrees(name, found.winners[0].trial, value):
            rivals = [trial.score for trial in _rivals(found) if agrees(name, trial, value)]
            wrong[name] = min(rivals, default=math.inf) - found.winners[0].trial.score
    return wrong


def _wanted(assume: Mapping[str, Any]) -> dict[str, Any]:
    return {name: AXES.get(value, value) for name, value in assume.items() if name in BELIEFS}


def _believing(found: Search, ask: Probe, noise: Tensor, assume: Mapping[str, Any], reading: Reading) -> Search:
    """Where the evidence leaves it open, the convention that somebody believes in comes first."""
    wrong, winner = denied(found, assume), found.winners[0]
    even = max(wrong.values(), default=0.0) < LIKELY * found.caution
    wanted = _wanted(assume)
    agreeing = [one for one in found.trials if all(agrees(name, one, value) for name, value in wanted.items())]
    if wrong and agreeing and (even or not explained(winner)):
        believed = _refined(ask, agreeing[0], noise, assume, reading)
        if even or believed.trial.score < winner.trial.score + LIKELY:
            found.winners.insert(0, believed)
    winner = found.winners[0]
    named = {name: assume[name] for name in ("time", "schedule", "timesteps") if assume.get(name) is not None}
    count = len(winner.profile.timesteps)
    for each in winner.fits if named else ():
        if _keeps(each.route, named) and (each.misfit - winner.fits[0].misfit) * count < CERTAIN:
            winner.fits.remove(each)
            winner.fits.insert(0, each)
            winner.trial, winner.levels = winner.trial._replace(route=each.route), None
            break
    return found


def _compared(
    ask: Probe,
    pairs: list[tuple[Range, Route]],
    n: int,
    noise: Tensor,
    first: int = 0,
    levels: Sequence[float] = LEVELS,
) -> Iterator[list[Trial]]:
    """Trials of all pairs, in portions that neither fill the memory nor take long."""
    portion = max(1, min(2**22 // (5 * n * noise[0].numel()), -(-len(pairs) // 10)))
    for start in range(0, len(pairs), portion):
        yield from compare(ask, pairs[start : start + portion], n, noise, first, levels)


def _one_clock(pairs: list[tuple[Range, Route]]) -> list[tuple[Range, Route]]:
    """Of the pairs that differ in their clocks only, which mean nothing to a network that ignores them, the first."""
    chosen: dict[tuple[Any, ...], tuple[Range, Route]] = {}
    for span, route in pairs:
        chosen.setdefault((span.name, route.process, route.sigma_data), (span, route))
    return list(chosen.values())


def _identity(trial: Trial) -> tuple[Any, ...]:
    return trial.range.name, trial.predicts, *_route(trial.route)


def _route(route: Route) -> tuple[Any, ...]:
    middle = round(route.process.log_snr(0.9).item(), 3)
    return middle, *route._replace(process=None)  # type: ignore[arg-type]


def _sorted(trials: Iterable[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: trial.score)


def _pairs(trials: list[Trial], kept: int) -> list[tuple[Range, Route]]:
    """The pairs of the best trials, and the best pair of every range and kind, so that each has its say."""
    chosen: dict[tuple[Any, ...], tuple[Range, Route]] = {}
    seen: set[str] = set()
    for rank, trial in enumerate(trials):
        if rank < kept or not {trial.range.name, trial.predicts} <= seen:
            seen |= {trial.range.name, trial.predicts}
            chosen.setdefault((trial.range.name, *_identity(trial)[2:]), (trial.range, trial.route))
    return list(chosen.values())


def _refined(ask: Probe, trial: Trial, noise: Tensor, assume: Mapping[str, Any], reading: Reading) -> Candidate:
    """Read the schedule of one convention, and measure it again with it."""
    size = None
    if trial.route.sigma_data is not None:
        trial, size = _sized(ask, trial, noise, assume.get("sigma_data"), reading)
    places = _timesteps(ask, trial.route, trial.range, reading.places)
    places = places if ask.timed else places[:1]  # its zeros lie at one level, whatever it is told
    profile = measure(ask, trial.range, trial.route, trial.predicts, places, reading.n, noise)
    fits = fit(profile, trial.route, ask.limit, ask.integers, assume.get("timesteps"))
    if not ask.timed:
        fits = [each for each in fits if each.route.timesteps == trial.route.timesteps] or fits
    chosen, same, scores = _measured(ask, trial, fits, noise, reading)
    chosen = usual([each for each in fits if each.misfit < FITS], chosen, places, trial.range.linear.variance)
    same = same._replace(route=chosen.route)
    fits.remove(chosen)
    counts = trial.route.time in ("index", "fraction")
    found = Candidate(same, [chosen, *fits], scores, profile, _curve(profile, chosen), size=size)
    if not ask.timed:
        return found
    if counts and trial.predicts.endswith("flow"):
        if chosen.misfit > 1 and not _rewarped(ask, found, noise, reading):
            found.trial = same._replace(scores=same.scores + _off(chosen, len(places)))
    elif counts and chosen.misfit > FITS:
        _recovered(ask, found, noise, assume.get("timesteps"), reading)
    elif chosen.misfit > 1:
        found.trial = same._replace(scores=same.scores + _off(chosen, len(places)))
    return found


def _off(chosen: Fit, places: int) -> float:
    """What a schedule that does not run along the zeros adds to the mean log error.

    With a clock of its own much looks like a velocity, so that there the zeros decide as they do between schedules.
    """
    if chosen.route.warp is None:
        return 0.05 * min(chosen.misfit - 1, 10)
    return SURE * (chosen.misfit - 1) * places / CERTAIN


def _sized(
    ask: Probe, trial: Trial, noise: Tensor, assumed: float | None, reading: Reading
) -> tuple[Trial, tuple[str, float]]:
    """The same with the sigma_data of least error on a line about it, and `Candidate.size`.

    The error is nearly a parabola in log sigma_data; a value that people take, and is as good, is preferred.
    """

    def scores(values: Iterable[float]) -> dict[float, Trial]:
        pairs = [(trial.range, trial.route._replace(sigma_data=value)) for value in values]
        compared = _compared(ask, pairs, min(_samples(noise, 1000, 250), 5 * reading.n), noise)
        same = (each for kinds in compared for each in kinds if each.predicts == trial.predicts)
        return {each.route.sigma_data or 0.0: each for each in same}

    best = trial.route.sigma_data or 1.0
    for width in (0.4, 0.08, 0.016):
        line = scores(best * math.exp(width * place / 4) for place in range(-4, 5))
        best = min(line, key=lambda value: line[value].score)
    known = sizes(trial.range, assumed)
    near = [value for value in known if abs(math.log(value / best)) < OFF / 2]
    ends = [best * math.exp(OFF), best / math.exp(OFF)]
    measured = scores([*near, best, *ends])
    chosen = next(
        (value for value in near if measured[value].score < measured[best].score + 0.02), float(f"{best:.3g}")
    )
    beyond = min(measured[end].score for end in ends) - measured[best].score
    route = trial.route._replace(sigma_data=chosen)
    return trial._replace(route=route), (known.get(chosen, "fitted"), beyond)


def _curve(profile: Profile, chosen: Fit) -> Recovered:
    """The curve read from a profile; which way it runs is known from the schedule that is nearest."""
    level = level_of(chosen.route, profile.timesteps)
    known = level[level.isfinite()]
    return recover(profile, chosen.share, bool(known[-1] < known[0]), level)


def _recovered(ask: Probe, found: Candidate, noise: Tensor, timesteps: int | None, reading: Reading) -> None:
    """Take the curve itself, where it explains the network better than every schedule that has a name."""
    trial, chosen = found.trial, found.fits[0]
    time = AXES.get(trial.route.time, trial.route.time)
    count = ask.limit or timesteps or 1000
    route = Route("", chosen.route.process, time, trial.route.reverse, count)
    profile = found.profile
    if time == "index" and count != chosen.route.timesteps:
        places = _timesteps(ask, route, trial.range, reading.places)
        profile = measure(ask, trial.range, trial.route, trial.predicts, places, reading.n, noise)
    t = time_at(route, profile.timesteps)
    profile = profile.only((t * count >= 0.999) & (t <= 1 + 1e-9))
    curve = recover(profile, chosen.share, not trial.route.reverse, level_of(chosen.route, profile.timesteps))
    levels = named_levels(curve, profile, route)
    if len(levels) < 4 or not all(map(math.isfinite, levels.values())):
        return
    process = from_log_snr(levels, family(trial.route.schedule))._replace(timesteps=None)
    own = Route(trial.route.schedule, process, route.time, route.reverse, count, trial.route.sigma_data)
    ((*trials,),) = compare(ask, [(trial.range, own)], min(_samples(noise, 1000, 250), 5 * reading.n), noise)
    same = next(each for each in trials if each.predicts == trial.predicts)
    if family(trial.route.schedule) != "vp":
        same = same._replace(scores=same.scores + 0.05)  # of two that explain it alike, most preserve the variance
    if same.score < trial.score + 0.1:
        found.trial, found.levels, found.profile, found.curve = same, levels, profile, curve


def _rewarped(ask: Probe, found: Candidate, noise: Tensor, reading: Reading) -> bool:
    """Take the clock of a velocity as it is read, where that explains the network as well; whether it was taken.

    A velocity eps - x0 belongs to alpha = 1 - u and sigma = u, so that the level of a timestep says its u.
    """
    trial, chosen, profile = found.trial, found.fits[0], found.profile
    even = chosen.route._replace(warp=None)
    t, share = time_at(even, profile.timesteps), 0.0
    for _ in range(2):  # the share of error that the zeros are off is known once there is a clock
        curve = recover(profile, share, not even.reverse)
        level = curve.log_snr
        good = profile.at(level, profile.error) < SURE
        known = curve.told & good & counts(profile, level) & (t > 0.005) & (t < 0.995)
        warp = drawn(t[known], (-level[known] / 2).sigmoid())
        if warp is None:
            return False
        route = even._replace(warp=warp)
        distance, share = misfit(profile, level_of(route, profile.timesteps))
    ((*trials,),) = compare(ask, [(trial.range, route)], min(_samples(noise, 1000, 250), 5 * reading.n), noise)
    same = next(each for each in trials if each.predicts == trial.predicts)
    same = same._replace(scores=same.scores + FREE)
    if same.score >= trial.score + FREE + LIKELY:
        return False
    found.trial, found.curve = same, curve
    found.fits.insert(0, chosen._replace(route=route, misfit=distance, share=share))
    return True


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
            size = each.route.timesteps if each.plain or trial.route.time != "fraction" else None
            tried.setdefault((each.route.schedule, each.plain, size, each.route.warp), each)
    pairs = [(trial.range, each.route) for each in tried.values()]
    compared = _compared(ask, pairs, reading.each, noise)
    trials = [each for kinds in compared for each in kinds if each.predicts == trial.predicts]
    behind = [max(_behind(one, other) for other in trials) for one in trials]
    place = next((i for i, gap in enumerate(behind) if gap < 0.05), behind.index(min(behind)))
    chosen = trials[place]
    scores = {fit.title: chosen.score + _behind(one, chosen) for fit, one in zip(tried.values(), trials, strict=True)}
    return list(tried.values())[place], chosen, scores


def _behind(one: Trial, other: Trial) -> float:
    """How much larger the mean log error of one is, at the levels that the schedules of both reach."""
    first, second = _by_level(one), _by_level(other)
    both = first.keys() & second.keys()
    return sum(first[level] - second[level] for level in both) / len(both) if both else 0.0


def _by_level(trial: Trial) -> dict[int, float]:
    """The scores by the place of their level among `LEVELS`; a schedule that leaves much signal does not reach all."""
    variance = trial.range.linear.variance
    reached = trial.route.process.log_snr(times_of(trial.route, variance)) + math.log(variance)
    places = (reached[:, None] - torch.tensor(LEVELS, dtype=F64)).abs().argmin(1)
    return dict(zip(places.tolist(), trial.scores.tolist(), strict=True))


def _samples(noise: Tensor, values: int, most: int) -> int:
    """How many samples hold so many values; few of large ones, and more of those that are cheap."""
    size = noise[0].numel()
    return max(1, min(most, -(-values * (4 if size < 64 else 1) // size)))


def _keeps(route: Route, assume: Mapping[str, Any]) -> bool:
    names = {"time": route.time, "timesteps": route.timesteps, "schedule": route.schedule}
    return all(names[name] == assume[name] for name in names if assume.get(name) is not None)


def _timesteps(ask: Probe, route: Route, span: Range, count: int) -> Tensor:
    """Where the profile is measured, at so many places at most: on the whole axis, closer at its clean end."""
    if route.time not in ("index", "fraction"):
        t = times_of(route, span.linear.variance, tuple(torch.linspace(8, -5, min(16, count)).tolist()))
        return route.timestep(torch.unique(t))
    share = torch.tensor(
        [0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.1, 0.15, 0.22, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        dtype=F64,
    )
    if ask.limit is None and route.time == "index":
        share = torch.cat([share, torch.tensor([1.3, 1.7], dtype=F64)])
    share = share[torch.linspace(0, len(share) - 1, min(count, len(share))).round().long()]
    end = 1.0 if route.time == "fraction" else float(route.timesteps or 1000)
    if route.time == "index":
        places = (share * end).round().clamp(max=(ask.limit or 10**9) - 1)
    else:
        places, end = share, 1.0
    found: Tensor = torch.unique((end - places).clamp(min=0) if route.reverse else places)
    return found


def confidence(margin: float, sure: float, likely: float) -> str:
    """In words."""
    return "sure" if margin > sure else "likely" if margin > likely else "unsure"


def _rivals(found: Search) -> list[Trial]:
    """All trials but the winner's; those that were refined with their own schedule."""
    refined = {key(each.trial) for each in found.winners}
    return [each.trial for each in found.winners[1:]] + [one for one in found.trials if key(one) not in refined]


def margin(found: Search, attribute: Callable[[Trial], Any]) -> tuple[float, Trial | None]:
    """How far the best trial with another value of this attribute falls behind the winner, and that trial."""
    winner = found.winners[0].trial
    rivals = [trial for trial in _rivals(found) if attribute(trial) != attribute(winner)]
    if not rivals:
        return math.inf, None
    rival = min(rivals, key=lambda trial: trial.score)
    return rival.score - winner.score, rival
