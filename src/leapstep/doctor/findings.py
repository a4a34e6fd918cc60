"""The result of a search as findings and as a complete convention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from leapstep.core.convention import CLOCKS, NOISE_CLOCKS, Condition, Convention, as_scaling
from leapstep.core.process import Process
from leapstep.doctor.conventions import family, is_table, level_of, shift_of
from leapstep.doctor.curve import counts
from leapstep.doctor.denoising import LEAKS, signal_left
from leapstep.doctor.evidence import IGNORED, Finding
from leapstep.doctor.fits import SAME, Fit, alike
from leapstep.doctor.probe import Probe
from leapstep.doctor.refinement import CERTAIN, FITS, LIKELY, OFF, PROBABLE, SURE, Candidate
from leapstep.doctor.samples import Samples
from leapstep.doctor.search import (
    BELIEFS,
    NOISE_FITS,
    WEAK,
    Search,
    agrees,
    confidence,
    denied,
    explained,
    margin,
)
from leapstep.doctor.trials import Trial

PREDICTS = {
    "eps": "eps, the noise",
    "x0": "x0, the data",
    "v": "v = alpha eps - sigma x0",
    "score": "the score, -eps / sigma",
    "flow": "the flow velocity dx/dt = eps - x0, towards noise",
    "-flow": "the flow velocity x0 - eps, towards data",
    "F": "EDM's preconditioned F",
}

CONFIDENCES = ("unsure", "likely", "sure")


def findings(search: Search, ask: Probe, assume: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Range, prediction, clock and schedule, with how sure they are and what comes next."""
    winner = search.winners[0]
    trial = winner.trial
    weak = trial.score > WEAK
    variance = ", with a learned variance in a second half of channels" if ask.learned else ""
    rows = [
        _finding("range", _range(trial), search, lambda one: one.range.name, _range, weak),
        _finding(
            "predicts",
            PREDICTS.get(trial.predicts, trial.predicts)
            + ("" if trial.convention.sigma_data is None else ", for x of variance 1")
            + variance,
            search,
            lambda one: (one.predicts, one.convention.sigma_data is None),
            _prediction,
            weak,
        ),
        *_size(winner, weak),
        *((_clock(search, ask, weak), _schedule(search, weak)) if ask.timed else _untimed(search, weak)),
        *(_levels(winner, assume) if ask.timed and ask.limit is None else ()),
    ]
    return tuple(rows)


def _prediction(trial: Trial) -> str:
    """The prediction of another convention, in words."""
    size = trial.convention.sigma_data
    return PREDICTS.get(trial.predicts, trial.predicts) + ("" if size is None else f", with sigma_data {size:g}")


def _size(winner: Candidate, weak: bool) -> Iterator[Finding]:
    """The sigma_data, of a network that has one."""
    if winner.size is None:
        return
    meaning, beyond = winner.size
    value = winner.convention.sigma_data or 1.0
    yield Finding(
        "sigma_data",
        f"{value:g}, {meaning}: the network sees x / sqrt(sigma^2 + {value:g}^2)",
        _capped(confidence(beyond, LIKELY, LIKELY / 4), weak),
        f"the error of x0 is {math.exp(-beyond):.2g} times that with {math.exp(OFF):.2g} times as much or as little",
    )


def _range(trial: Trial) -> str:
    """The range and its map, in words."""
    span = trial.range
    if not isinstance(span.shift, float) or not isinstance(span.scale, float):
        return f"{span.name}: (y - mean) / std"
    if (span.shift, span.scale) == (0.0, 1.0):
        return f"{span.name}: the network sees y"
    return f"{span.name}: the network sees {scaled(span.shift, span.scale)}"


def scaled(shift: float, scale: float, y: str = "y") -> str:
    """(y - shift) / scale as one would write it."""
    if scale < 0:
        top = f"({shift:.5g} - {y})" if shift else f"-{y}"
    else:
        top = f"({y} {'-' if shift > 0 else '+'} {abs(shift):.5g})" if shift else y
    size = abs(scale)
    if size == 1:
        return top if top[0] != "(" else top[1:-1]
    return f"{top} / {size:.5g}" if size > 1 else f"{1 / size:.5g} {top}"


def _finding(
    name: str,
    value: str,
    result: Search,
    attribute: Callable[[Trial], Any],
    words: Callable[[Trial], str],
    weak: bool,
) -> Finding:
    """A finding that trials decide."""
    ahead, rival = margin(result, attribute)
    if rival is None:
        return Finding(name, value, "likely" if weak else "sure", "nothing else was possible")
    evidence = f"the error of x0 is {math.exp(-ahead):.2g} times that with {words(rival)}"
    return Finding(name, value, _capped(_margin_in_words(ahead, result), weak), evidence, words(rival))


def _margin_in_words(ahead: float, result: Search) -> str:
    """How sure a margin makes; less so where there was time for few samples, or not for every convention."""
    word = confidence(ahead, SURE * result.caution, LIKELY * result.caution)
    return word if result.complete else min(word, "likely", key=CONFIDENCES.index)


def _capped(word: str, weak: bool) -> str:
    """Less sure, where the network does poorly in every convention."""
    return CONFIDENCES[max(0, CONFIDENCES.index(word) - 1)] if weak else word


def _clock(search: Search, ask: Probe, weak: bool) -> Finding:
    """How time is counted: the axis is decided by trials, the place of zero by the schedule's fit."""
    winner = search.winners[0]
    convention, chosen = winner.convention, winner.fits[0]
    ahead, rival = margin(search, lambda one: (BELIEFS["time"](one), one.convention.reverse))
    word, runner = _margin_in_words(ahead, search), "" if rival is None else _axis(rival)
    evidence = f"the error of x0 is {math.exp(-ahead):.2g} times that with {runner}"
    same = [each for each in winner.fits[1:] if _is_another_clock(each, chosen)]
    if not winner.is_recovered and same:
        nearest = min(same, key=lambda each: each.misfit)
        if (nearest.misfit - chosen.misfit) * len(winner.profile.timesteps) < CERTAIN:
            word = min(word, "likely", key=CONFIDENCES.index)
            time = str(nearest.convention.time)
            runner = f"{time} ({CLOCKS[time]}), a step of one level that hardly matters"
    evidence = evidence if rival is not None else "no other clock was possible"
    return Finding("time", _time_in_words(convention, ask), _capped(word, weak), evidence, runner)


def _is_another_clock(one: Fit, other: Fit) -> bool:
    """Whether two fits are the same schedule on different clocks."""
    a, b = one.convention, other.convention
    same = one.schedule == other.schedule and shift_of(a.process) == shift_of(b.process)
    return same and a.time != b.time and a.levels in (b.levels, None)


def _untimed(search: Search, weak: bool) -> tuple[Finding, Finding]:
    """The clock and the schedule of a network that ignores its timestep: it knows of the noise what x tells."""
    process = search.winners[0].convention.process
    ahead, rival = margin(search, lambda one: family(one.convention.process))
    other = "" if rival is None else f"any with {_family(rival.convention.process)}"
    evidence = f"the error of x0 is {math.exp(-ahead):.2g} times that with the best other, {other}" if other else ""
    value, word = f"any with {_family(process)}", _capped(confidence(ahead, SURE, LIKELY), weak)
    return (
        Finding("time", IGNORED, "sure", "at the same x its answers agree to rounding, whatever it is told"),
        Finding("schedule", value, word, evidence, other),
    )


def _axis(trial: Trial) -> str:
    return f"{trial.convention.time}{', running from noise to data' if trial.convention.reverse else ''}"


def _time_in_words(convention: Convention, ask: Probe) -> str:
    time = str(convention.time)
    parts = [f"{time}: {CLOCKS[time]}"]
    if convention.reverse:
        parts.append("counted from noise to data")
    if convention.levels is not None and not time.startswith("fraction"):
        parts.append(f"T = {convention.levels}")
    parts.append(f"shape {ask.reshape}")
    if ask.integers:
        parts.append("integers only" + ("" if ask.limit is None else f", a table of {ask.limit}"))
    elif not ask.fractional:
        parts.append("fractions are rounded")
    return ", ".join(parts)


def _schedule(search: Search, weak: bool) -> Finding:
    """The noise schedule: a name, or the curve itself."""
    winner = search.winners[0]
    chosen, convention, profile = winner.fits[0], winner.convention, winner.profile
    places = int((winner.curve.readable & counts(profile, level_of(convention, profile.timesteps))).sum())
    read = f"read at {places} of {len(profile.timesteps)} timesteps"
    silent = f"at none of {len(profile.timesteps)} timesteps does the network tell its noise level: its errors decide"
    if winner.is_recovered:
        evidence = (
            f"no schedule with a name fits (the nearest, {chosen.code}, has a misfit of {chosen.misfit:.2g}, and up to "
            f"{FITS:g} is a fit); {f'the level was {read}' if places else silent}"
        )
        word = "likely" if chosen.misfit > 2 * FITS else "unsure"
        return Finding("schedule", "a curve without a name, recovered", _capped(word, weak), evidence, chosen.code)
    limit = f"about 1 is as good as it gets, up to {FITS:g} is a fit"
    evidence = f"its misfit is {chosen.misfit:.2g} ({limit}), {read}" if places else silent
    if convention.time in NOISE_CLOCKS:
        value = f"any with {_family(convention.process)}: the clock says the noise level itself"
        word = "sure" if places and chosen.misfit < NOISE_FITS else "likely"
        return Finding("schedule", value, _capped(word, weak), evidence)
    variance = winner.trial.range.linear.variance
    same = [
        each.code
        for each in winner.fits[1:]
        if each.schedule != chosen.schedule and alike(chosen, each, profile.timesteps, variance)
    ]
    evidence += f"; {same[0]} is the same within {SAME:g} in log-SNR" if same else ""
    rival, beyond = _next(winner)
    word = confidence(beyond, CERTAIN, PROBABLE) if places and chosen.misfit < FITS else "unsure"
    if shift_of(convention.process) != 1 or is_table(convention.process):  # another time axis may be as near
        evidence += "; no time axis with a formula fits" if is_table(convention.process) else ""
        word = min(word, "likely", key=CONFIDENCES.index)
    return Finding("schedule", chosen.title, _capped(word, weak), evidence, "" if rival is None else rival.title)


def _levels(winner: Candidate, assume: Mapping[str, Any]) -> Iterator[Finding]:
    """The number of levels, where the clock does not tell it."""
    levels, is_fraction = winner.convention.levels, str(winner.convention.time).startswith("fraction")
    if levels is None or (not winner.is_recovered and not is_fraction):
        return
    value = f"T = {levels}{', as you assumed' if assume.get('timesteps') == levels else ''}"
    if is_fraction:
        if not winner.is_recovered and winner.fits[0].plain:
            return  # they are part of the schedule's name
        evidence = "cannot be seen of a network that is told a fraction: any near works"
        yield Finding("levels", value, "open", evidence)
    elif "assumed" not in value:
        evidence = "a curve without a name does not say where it ends: it was read as far as this"
        yield Finding("levels", value, "unsure", evidence)


def _family(process: Process) -> str:
    return {"vp": "alpha^2 + sigma^2 = 1", "ve": "alpha = 1", "flow": "alpha + sigma = 1"}[family(process)]


def _next(winner: Candidate) -> tuple[Fit | None, float]:
    """The best schedule that is another curve, and how far it is behind, in squared deviations.

    The network's error with it counts as well: a margin that is sure there is certain here.
    """
    profile, chosen = winner.profile, winner.fits[0]
    named = level_of(chosen.convention, profile.timesteps)
    variance = math.log(winner.trial.range.linear.variance)
    best: Fit | None = None
    least = math.inf
    for each in winner.fits[1:]:
        stretched = each.convention.levels != chosen.convention.levels and each.plain == chosen.plain
        if each.title == chosen.title or (each.schedule == chosen.schedule and stretched):
            continue  # the same curve a level apart, or a little stretched
        other = level_of(each.convention, profile.timesteps)
        inside = (named + variance).abs() < 5  # where a network tells
        apart = (named - other)[inside].abs()
        if not (apart.nan_to_num(0.0) > 0.4).any():
            continue
        beyond = (each.misfit - chosen.misfit) * len(profile.timesteps)
        if each.title in winner.scores and beyond > -PROBABLE:
            behind = winner.scores[each.title] - winner.scores.get(chosen.title, math.inf)
            beyond = max(beyond, CERTAIN * behind / SURE)
        if beyond < least:
            best, least = each, beyond
    return best, least


def judged(
    rows: tuple[Finding, ...], result: Search, ask: Probe, assume: Mapping[str, Any]
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Weigh the beliefs that the search did not follow.

    A belief is contradicted where what was found explains the network and is at least likely in this; elsewhere the
    finding says that it is open.

    Arguments:
        rows: see `findings`.
    Returns:
        the findings, and the contradictions, one sentence each.
    """
    named = {row.name: row for row in rows}
    sentences = []
    for name, sentence in _denials(result, ask, assume).items():
        owner = {"reverse": "time", "timesteps": "levels" if "levels" in named else "schedule"}.get(name, name)
        row = named.get(owner)
        if row is None or (row.confidence in ("sure", "likely") and explained(result.winners[0])):
            sentences.append(sentence)
        else:
            evidence = f"{row.evidence}; you assumed {name}={assume[name]}, and that is not refuted"
            named[owner] = replace(row, evidence=evidence.removeprefix("; "))
    return tuple(named.values()), tuple(sentences)


def _denials(result: Search, ask: Probe, assume: Mapping[str, Any]) -> dict[str, str]:
    """What speaks against the beliefs that the search did not follow, a sentence for each."""
    winner = result.winners[0]
    convention = winner.convention
    sentences = {}
    for name in denied(result, assume):
        lost, held = _as_found(result, name, assume[name])
        factor = "was never small" if math.isinf(lost) else f"is {math.exp(lost):.3g} times as large"
        sentences[name] = (
            f"you assumed {name}={assume[name]}, but the network's answers fit {name}={BELIEFS[name](winner.trial)}: "
            f"with yours and {held} the error of x0 {factor}"
        )
    actual: dict[str, Any] = {"timesteps": convention.levels, "schedule": winner.fits[0].schedule}
    actual |= {"reshape": ask.reshape} | ({"time": convention.time} if "time" not in sentences else {})
    for name, value in actual.items():
        if assume.get(name) not in (None, value) and not (name == "timesteps" and value is None):
            sentences[name] = _against(name, assume[name], value, winner)
    return sentences


def _as_found(result: Search, name: str, value: Any) -> tuple[float, str]:
    """How far the best trial with this belief, and all else as it was found, is behind; any, if there is none such.

    Also what else of it was held fixed, in words.
    """
    winner = result.winners[0].trial
    rivals = [one for one in result.trials if agrees(name, one, value)]
    others = [one for one in BELIEFS if one != name]
    near = [one for one in rivals if all(agrees(other, one, BELIEFS[other](winner)) for other in others)]
    held = "all else as it was found" if near else "whatever else fits best"
    return min((one.score for one in near or rivals), default=math.inf) - winner.score, held


def _against(name: str, believed: Any, value: Any, winner: Candidate) -> str:
    """One sentence on a belief about the schedule or the clock's details."""

    def detail(fit: Fit, name: str) -> Any:
        return {"schedule": fit.schedule, "timesteps": fit.convention.levels, "time": fit.convention.time}.get(name)

    chosen = winner.fits[0]
    details = [one for one in ("time", "timesteps", "schedule") if one != name]
    nearest = [each for each in winner.fits if detail(each, name) == believed]
    nearest = [each for each in nearest if all(detail(each, one) == detail(chosen, one) for one in details)] or nearest
    reason = (
        f"the best such schedule has a misfit of {min(each.misfit for each in nearest):.2g}, this one of "
        f"{chosen.misfit:.2g} (up to {FITS:g} is a fit)"
        if nearest
        else "nothing that was tried with it fits"
    )
    return f"you assumed {name}={believed}, but the network's answers fit {name}={value}: {reason}"


def complete(winner: Candidate, ask: Probe, samples: Samples) -> Convention:
    """The convention that was found, with all that `from_network` must know."""
    span, first = winner.trial.range, torch.arange(2)
    plain = isinstance(span.shift, float) and isinstance(span.scale, float) and (span.shift, span.scale) != (0.0, 1.0)
    has_signal = signal_left(winner.convention.process, span) > LEAKS[0]
    return replace(
        winner.convention,
        fractional=str(winner.convention.time).startswith("index") and ask.fractional,
        reshape=ask.reshape,
        scaling=as_scaling((span.shift, span.scale)) if plain else None,
        clip=_clip(winner),
        learned_variance=True if ask.learned else None,
        origin=span.values.mean(0) if has_signal else 0.0,
        conditions=tuple(
            Condition(name)
            for name, value in samples.condition(first).items()
            if isinstance(value, torch.Tensor) and value.shape[:1] == first.shape
        ),
        shape=tuple(samples.values.shape[1:]),
    )


def _clip(winner: Candidate) -> tuple[float, float] | None:
    """The range that pictures cannot leave, or data whose estimate from pure noise would be without bound."""
    span, convention = winner.trial.range, winner.convention
    if not isinstance(span.scale, float) or not isinstance(span.shift, float):
        return None
    counted = span.values if span.counts is None else span.values[span.counts]
    values = counted.double() * span.scale + span.shift
    low, high = values.min().item(), values.max().item()
    for a, b in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if abs(low - a) < 0.01 * (b - a) and abs(high - b) < 0.01 * (b - a) and span.values[0].ndim >= 3:
            return a, b
    faint = convention.process.log_snr(1.0).item() + math.log(span.linear.variance) < -15
    return (low, high) if faint and convention.predicts.removeprefix("-") in ("eps", "score") else None
