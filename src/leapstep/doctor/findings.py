"""The result of a search as findings and as Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from leapstep.core.convention import CLOCKS
from leapstep.core.schedules import SCHEDULES
from leapstep.doctor.conventions import Route, family, level_of
from leapstep.doctor.curve import counts
from leapstep.doctor.evidence import IGNORED, Finding
from leapstep.doctor.fits import SAME, Fit, alike
from leapstep.doctor.probe import Probe
from leapstep.doctor.refinement import CERTAIN, FITS, LIKELY, OFF, PROBABLE, SURE, Candidate
from leapstep.doctor.search import (
    BELIEFS,
    COUNTED,
    TOLD,
    WEAK,
    Search,
    agrees,
    confidence,
    denied,
    explained,
    margin,
)
from leapstep.doctor.trials import Trial
from leapstep.doctor.warp import Told, told

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


def findings(found: Search, ask: Probe, assume: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Range, prediction, clock and schedule, with how sure they are and what comes next."""
    winner = found.winners[0]
    trial, route = winner.trial, winner.trial.route
    weak = trial.score > WEAK
    sigma = "" if route.sigma_data is None else ", for x of variance 1"
    variance = ", with a learned variance in a second half of channels" if ask.channels == 2 else ""
    rows = [
        _finding("range", _range(trial), found, lambda one: one.range.name, _range, weak),
        _finding(
            "predicts",
            PREDICTS.get(trial.predicts, trial.predicts) + sigma + variance,
            found,
            lambda one: (one.predicts, one.route.sigma_data is None),
            lambda one: (
                PREDICTS.get(one.predicts, one.predicts)
                + ("" if one.route.sigma_data is None else f", with sigma_data {one.route.sigma_data:g}")
            ),
            weak,
        ),
        *_size(winner, weak),
        *((_clock(found, ask, weak), _schedule(found, weak)) if ask.timed else _untimed(found, weak)),
        *(_levels(winner, assume) if ask.timed and ask.limit is None else ()),
    ]
    return tuple(rows)


def _size(winner: Candidate, weak: bool) -> Iterator[Finding]:
    """The sigma_data, of a network that has one."""
    if winner.size is None:
        return
    meaning, beyond = winner.size
    value = winner.trial.route.sigma_data or 1.0
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
    found: Search,
    attribute: Callable[[Trial], Any],
    words: Callable[[Trial], str],
    weak: bool,
) -> Finding:
    """A finding that trials decide."""
    ahead, rival = margin(found, attribute)
    if rival is None:
        return Finding(name, value, "likely" if weak else "sure", "nothing else was possible")
    evidence = f"the error of x0 is {math.exp(-ahead):.2g} times that with {words(rival)}"
    return Finding(name, value, _capped(_margin_in_words(ahead, found), weak), evidence, words(rival))


def _margin_in_words(ahead: float, found: Search) -> str:
    """How sure a margin makes; less so where there was time for few samples, or not for every convention."""
    word = confidence(ahead, SURE * found.caution, LIKELY * found.caution)
    return word if found.complete else min(word, "likely", key=CONFIDENCES.index)


def _capped(word: str, weak: bool) -> str:
    """Less sure, where the network does poorly in every convention."""
    return CONFIDENCES[max(0, CONFIDENCES.index(word) - 1)] if weak else word


def _clock(found: Search, ask: Probe, weak: bool) -> Finding:
    """How time is counted: the axis is decided by trials, the place of zero by the schedule's fit."""
    winner = found.winners[0]
    route = winner.trial.route
    kind = _time_in_words(route, ask)
    ahead, rival = margin(found, lambda one: (BELIEFS["time"](one), one.route.reverse))
    word = _margin_in_words(ahead, found)
    evidence = (
        "no other clock was possible"
        if rival is None
        else f"the error of x0 is {math.exp(-ahead):.2g} times that with {_axis(rival)}"
    )
    runner = "" if rival is None else _axis(rival)
    same = [
        each
        for each in winner.fits[1:]
        if each.route.schedule == route.schedule
        and each.route.time != route.time
        and each.route.timesteps in (route.timesteps, None)
        and each.route.warp == route.warp
    ]
    if winner.levels is None and same:
        beyond = (min(each.misfit for each in same) - winner.fits[0].misfit) * len(winner.profile.timesteps)
        if beyond < CERTAIN:
            first = min(same, key=lambda each: each.misfit)
            word = min(word, "likely", key=CONFIDENCES.index)
            runner = f"{first.route.time} ({CLOCKS[first.route.time]}), a step of one level that hardly matters"
    return Finding("time", kind, _capped(word, weak), evidence, runner)


def _untimed(found: Search, weak: bool) -> tuple[Finding, Finding]:
    """The clock and the schedule of a network that ignores its timestep: it knows of the noise what x tells."""
    route = found.winners[0].trial.route
    ahead, rival = margin(found, lambda one: family(one.route.schedule))
    said = "" if rival is None else f"any with {_family(rival.route)}"
    evidence = f"the error of x0 is {math.exp(-ahead):.2g} times that with the best other, {said}" if said else ""
    return (
        Finding("time", IGNORED, "sure", "at the same x its answers agree to rounding, whatever it is told"),
        Finding(
            "schedule", f"any with {_family(route)}", _capped(confidence(ahead, SURE, LIKELY), weak), evidence, said
        ),
    )


def _axis(trial: Trial) -> str:
    return f"{trial.route.time}{', running from noise to data' if trial.route.reverse else ''}"


def _time_in_words(route: Route, ask: Probe) -> str:
    parts = [f"{route.time}: {CLOCKS[route.time]}"]
    if route.warp is not None:
        parts.append("not evenly, " + ("as it was read" if route.warp.read else f"but {route.warp.code} for t"))
    if route.reverse:
        parts.append("counted from noise to data")
    if route.timesteps is not None and not route.time.startswith("fraction"):
        parts.append(f"T = {route.timesteps}")
    parts.append(f"shape {ask.reshape}")
    if ask.integers:
        parts.append("integers only" + ("" if ask.limit is None else f", a table of {ask.limit}"))
    elif not ask.fractional:
        parts.append("fractions are rounded")
    return ", ".join(parts)


def _schedule(found: Search, weak: bool) -> Finding:
    """The noise schedule: a name, or the curve itself."""
    winner = found.winners[0]
    chosen, route, profile = winner.fits[0], winner.trial.route, winner.profile
    places = int((winner.curve.told & counts(profile, level_of(route, profile.timesteps))).sum())
    read = f"read at {places} of {len(profile.timesteps)} timesteps"
    silent = f"at none of {len(profile.timesteps)} timesteps does the network tell its noise level: its errors decide"
    if winner.levels is not None:
        evidence = (
            f"no schedule with a name fits (the nearest, {chosen.code}, has a misfit of {chosen.misfit:.2g}, and up to "
            f"{FITS:g} is a fit); {f'the level was {read}' if places else silent}"
        )
        word = "likely" if chosen.misfit > 2 * FITS else "unsure"
        return Finding("schedule", "a curve without a name, recovered", _capped(word, weak), evidence, chosen.code)
    limit = f"about 1 is as good as it gets, up to {FITS:g} is a fit"
    evidence = f"its misfit is {chosen.misfit:.2g} ({limit}), {read}" if places else silent
    if route.time not in COUNTED:
        value = f"any with {_family(route)}: the clock says the noise level itself"
        word = "sure" if places and chosen.misfit < TOLD else "likely"
        return Finding("schedule", value, _capped(word, weak), evidence)
    variance = winner.trial.range.linear.variance
    same = [
        each.code
        for each in winner.fits[1:]
        if each.route.schedule != route.schedule and alike(chosen, each, profile.timesteps, variance)
    ]
    evidence += f"; {same[0]} is the same within {SAME:g} in log-SNR" if same else ""
    rival, beyond = _next(winner)
    word = confidence(beyond, CERTAIN, PROBABLE) if places and chosen.misfit < FITS else "unsure"
    if route.warp is not None:  # another clock may be as near as this one
        evidence += "; no clock with a formula fits" if route.warp.read else ""
        word = min(word, "likely", key=CONFIDENCES.index)
    return Finding("schedule", chosen.title, _capped(word, weak), evidence, "" if rival is None else rival.title)


def _levels(winner: Candidate, assume: Mapping[str, Any]) -> Iterator[Finding]:
    """The number of levels, where the clock does not tell it."""
    chosen, route = winner.fits[0], winner.trial.route
    if route.timesteps is None or (winner.levels is None and not route.time.startswith("fraction")):
        return
    value = f"T = {route.timesteps}{', as you assumed' if assume.get('timesteps') == route.timesteps else ''}"
    if route.time.startswith("fraction"):
        if winner.levels is None and chosen.plain:
            return  # they are part of the schedule's name
        evidence = "cannot be seen of a network that is told a fraction: any near works"
        yield Finding("levels", value, "open", evidence)
    elif "assumed" not in value:
        evidence = "a curve without a name does not say where it ends: it was read as far as this"
        yield Finding("levels", value, "unsure", evidence)


def _family(route: Route) -> str:
    return {"vp": "alpha^2 + sigma^2 = 1", "ve": "alpha = 1", "flow": "alpha + sigma = 1"}[family(route.schedule)]


def _next(winner: Candidate) -> tuple[Fit | None, float]:
    """The best schedule that is another curve, and how far it is behind, in squared deviations.

    The network's error with it counts as well: a margin that is sure there is certain here.
    """
    profile, chosen = winner.profile, winner.fits[0]
    own = level_of(chosen.route, profile.timesteps)
    variance = math.log(winner.trial.range.linear.variance)
    best: Fit | None = None
    least = math.inf
    for each in winner.fits[1:]:
        stretched = each.route.timesteps != chosen.route.timesteps and each.plain == chosen.plain
        if each.title == chosen.title or (each.route.schedule == chosen.route.schedule and stretched):
            continue  # the same curve a level apart, or a little stretched
        other = level_of(each.route, profile.timesteps)
        inside = (own + variance).abs() < 5  # where a network tells
        apart = (own - other)[inside].abs()
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
    rows: tuple[Finding, ...], found: Search, ask: Probe, assume: Mapping[str, Any]
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
    said = []
    for name, sentence in _denials(found, ask, assume).items():
        owner = {"reverse": "time", "timesteps": "levels" if "levels" in named else "schedule"}.get(name, name)
        row = named.get(owner)
        if row is None or (row.confidence in ("sure", "likely") and explained(found.winners[0])):
            said.append(sentence)
        else:
            evidence = f"{row.evidence}; you assumed {name}={assume[name]}, and that is not refuted"
            named[owner] = replace(row, evidence=evidence.removeprefix("; "))
    return tuple(named.values()), tuple(said)


def _denials(found: Search, ask: Probe, assume: Mapping[str, Any]) -> dict[str, str]:
    """What speaks against the beliefs that the search did not follow, a sentence for each."""
    winner = found.winners[0]
    route = winner.trial.route
    said = {}
    for name in denied(found, assume):
        lost, held = _as_found(found, name, assume[name])
        factor = "was never small" if math.isinf(lost) else f"is {math.exp(lost):.3g} times as large"
        said[name] = (
            f"you assumed {name}={assume[name]}, but the network's answers fit {name}={BELIEFS[name](winner.trial)}: "
            f"with yours and {held} the error of x0 {factor}"
        )
    own = {"timesteps": route.timesteps, "schedule": winner.fits[0].route.schedule, "reshape": ask.reshape}
    own |= {"time": route.time} if "time" not in said else {}
    for name, value in own.items():
        if assume.get(name) not in (None, value) and not (name == "timesteps" and value is None):
            said[name] = _against(name, assume[name], value, winner)
    return said


def _as_found(found: Search, name: str, value: Any) -> tuple[float, str]:
    """How far the best trial with this belief, and all else as it was found, is behind; any, if there is none such.

    Also what else of it was held fixed, in words.
    """
    winner = found.winners[0].trial
    rivals = [one for one in found.trials if agrees(name, one, value)]
    others = [one for one in BELIEFS if one != name]
    near = [one for one in rivals if all(agrees(other, one, BELIEFS[other](winner)) for other in others)]
    held = "all else as it was found" if near else "whatever else fits best"
    return min((one.score for one in near or rivals), default=math.inf) - winner.score, held


def _against(name: str, believed: Any, value: Any, winner: Candidate) -> str:
    """One sentence on a belief about the schedule or the clock's details."""
    nearest = [each for each in winner.fits if getattr(each.route, name, None) == believed]
    details = [one for one in ("time", "timesteps", "schedule") if one != name]
    same = winner.fits[0].route
    nearest = [
        each for each in nearest if all(getattr(each.route, one) == getattr(same, one) for one in details)
    ] or nearest
    reason = (
        f"the best such schedule has a misfit of {min(each.misfit for each in nearest):.2g}, this one of "
        f"{winner.fits[0].misfit:.2g} (up to {FITS:g} is a fit)"
        if nearest
        else "nothing that was tried with it fits"
    )
    return f"you assumed {name}={believed}, but the network's answers fit {name}={value}: {reason}"


def arguments_of(winner: Candidate, reshape: str, fractional: bool) -> dict[str, Any]:
    """The arguments of `from_network` that say what was found, but for the process and the condition."""
    route, span = winner.trial.route, winner.trial.range
    whole = isinstance(span.shift, float) and isinstance(span.scale, float)
    counted = route.timesteps is not None and winner.levels is None and _endless(winner.fits[0].code)
    found: dict[str, Any] = {"predicts": winner.trial.predicts, "time": route.time}
    if route.warp is not None:
        code, rounded = told(route.warp, route.time, route.reverse, route.timesteps, not fractional)
        found["time"] = Told(code, route.timestep, rounded)
    found |= {"timesteps": route.timesteps} if counted else {}
    found |= {"fractional": True} if route.time.startswith("index") and fractional and route.warp is None else {}
    found |= {"reverse": True} if route.reverse and route.warp is None else {}
    found |= {"reshape": reshape} if reshape != "[b]" else {}
    found |= {"sigma_data": route.sigma_data} if route.sigma_data is not None else {}
    found |= {"scaling": (span.shift, span.scale)} if whole and (span.shift, span.scale) != (0.0, 1.0) else {}
    clip = _clip(winner)
    return found | ({"clip": clip} if clip is not None else {})


def _endless(code: str) -> bool:
    """Whether a process in Python has no trained levels of its own."""
    return code in [f"leapstep.{name}()" for name, make in SCHEDULES.items() if make().timesteps is None]


def _clip(winner: Candidate) -> tuple[float, float] | None:
    """The range that pictures cannot leave, or data whose estimate from pure noise would be without bound."""
    span, route = winner.trial.range, winner.trial.route
    if not isinstance(span.scale, float) or not isinstance(span.shift, float):
        return None
    own = span.values if span.counts is None else span.values[span.counts]
    values = own.double() * span.scale + span.shift
    low, high = values.min().item(), values.max().item()
    for a, b in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if abs(low - a) < 0.01 * (b - a) and abs(high - b) < 0.01 * (b - a) and span.values[0].ndim >= 3:
            return a, b
    faint = route.process.log_snr(1.0).item() + math.log(span.linear.variance) < -15
    return (low, high) if faint and winner.trial.predicts.removeprefix("-") in ("eps", "score") else None
