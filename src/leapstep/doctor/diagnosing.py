"""`diagnose`: find the convention of a network, and how well it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from leapstep.doctor import assumptions
from leapstep.doctor.behaviour import untimed
from leapstep.doctor.budget import Budget
from leapstep.doctor.diagnosis import Diagnosis
from leapstep.doctor.examination import Check, adapted, health, sampled, shown_curve
from leapstep.doctor.findings import complete, findings, judged
from leapstep.doctor.probe import Probe, device_of, probe
from leapstep.doctor.ranges import ranges
from leapstep.doctor.refinement import whole_reading
from leapstep.doctor.samples import LEAST, Given, Samples, draw
from leapstep.doctor.search import Search, pairs_of, search, whole_race
from leapstep.doctor.snippet import snippet


def diagnose(
    net: Callable[..., Any],
    data: Any,
    *,
    condition: Given = None,
    counts: Any = None,
    assume: Mapping[str, Any] | None = None,
    pictures: bool | None = None,
    seed: int = 0,
    n: int = 300,
    check: bool = True,
    budget: float = 120.0,
    on_estimate: Callable[[float, float], object] = lambda seconds, unbounded: None,
    on_stage: Callable[[str], object] = lambda stage: None,
    on_call: Callable[[int], object] = lambda samples: None,
) -> Diagnosis:
    """Find out which convention a network follows, and how well it does.

    Arguments:
        net: called as `net(x, timestep, **condition)`, on any device.
        data: real samples as they lie on disk, `[m, *d]`, an array or a tensor; a few hundred are enough.
        condition: for a conditional network, arrays aligned with the data by keyword, or a function from rows of the
            data `[b]` to the keyword arguments for them.
        counts: for a network that answers only in some places (an imputer, inpainting, padded sequences), 1 where its
            answer counts and 0 elsewhere, `[m, *d]`, or `[*d]` for all data: errors are measured only there, and
            elsewhere samples keep the data.
        assume: what you believe, by name: range, predicts, time, schedule, reshape, timesteps, sigma_data, reverse. It
            decides where the evidence does not, and is contradicted where it does.
        pictures: whether the data are pixels from 0 to 255; default: if they are uint8.
        seed: of the noise and of the choice of samples.
        n: how many samples to use at most.
        check: whether to sample a batch and compare its way with the data's.
        budget: seconds that it may take, about; `math.inf` is no bound. What a call costs is measured first, and where
            there is no time for everything fewer samples, timesteps and conventions are tried, and less is sure.
        on_estimate: called before the search with the seconds that it will take, and with those without a bound.
        on_stage: called with what begins.
        on_call: called with the number of samples that went through the network.
    Returns:
        the Diagnosis; print it.
    Raises:
        ValueError: data that cannot be used, a network that cannot be called or raises anything, an unknown
            assumption, or a network too slow for the budget.
        MemoryError, torch.OutOfMemoryError: there is too little memory even for a few samples.
    """
    time, beliefs = Budget(budget), assumptions.checked(assume or {})
    _check(net, n, seed, budget)
    generator = torch.Generator().manual_seed(seed)
    samples = draw(data, condition, counts, n, generator, device_of(net))
    is_picture = samples.values.dtype == torch.uint8 if pictures is None else pictures
    spans = ranges(samples.values, is_picture, samples.counts)
    assumptions.checked(beliefs, tuple(span.name for span in spans))
    number = len(samples) if samples.values[0].numel() >= 64 else max(2000, len(samples))
    noise = torch.randn(number, *samples.values.shape[1:], generator=generator)
    on_stage("calling the network")
    samples.condition(torch.arange(1))  # a mistake in it is not the network's
    ask = probe(net, spans[0].values, samples.condition, beliefs, time)
    ask.on_call = on_call
    pairs, size = pairs_of(ask, spans, beliefs), min(64, len(samples)) * check
    on_estimate(*time.estimate(whole_race(pairs, noise), whole_reading(noise), size))
    result = search(ask, pairs, noise, beliefs, on_stage)
    return _examined(ask, result, beliefs, samples, noise, (size, seed), on_stage)


def _examined(
    ask: Probe,
    result: Search,
    beliefs: Mapping[str, Any],
    samples: Samples,
    noise: Tensor,
    drawn: tuple[int, int],
    on_stage: Callable[[str], object],
) -> Diagnosis:
    """Check up the network by the convention that the search found.

    Arguments:
        drawn: how many samples are drawn at most, 0 where sampling is not checked, and their seed.
    """
    on_stage("looking at every level")
    winner, searched = result.winners[0], ask.calls
    span, convention = winner.trial.range, complete(winner, ask, samples)
    ask.broken = ask.calls = 0  # of the convention that was found alone
    levels, concerns = health(ask, winner, noise, convention.clip is not None)
    check = Check()
    if drawn[0]:
        on_stage("sampling")
        check = sampled(ask, convention, span, samples, *drawn)
    if not ask.timed:
        concerns.insert(0, untimed(bool(check.passages) and check.parted is None))
    rows, contradictions = judged(findings(result, ask, beliefs), result, ask, beliefs)
    known = samples.values.float() if convention.scaling is not None else span.values
    return Diagnosis(
        findings=rows,
        concerns=(*concerns, *check.concerns),
        code=snippet(convention, samples, isinstance(span.scale, Tensor), check.eta, str(ask.device)),
        convention=convention,
        diffusion=adapted(ask.net, convention, samples, known),
        curve=shown_curve(winner),
        levels=levels,
        passages=check.passages,
        parted=check.parted,
        contradictions=contradictions,
        calls=searched + ask.calls,
        seconds=round(ask.budget.elapsed, 1),
        cuts=tuple(ask.budget.cuts),
        eta=check.eta,
        counted=None if samples.counts is None else round(samples.counts.double().mean().item(), 4),
    )


def _check(net: Callable[..., Any], n: int, seed: int, budget: float) -> None:
    if n < LEAST:
        raise ValueError(f"n={n}: at least {LEAST} samples are needed, best 300")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed}: use an integer from 0 to 2^63 - 1")
    if not budget > 0:
        raise ValueError(f"budget={budget}: give seconds, more than 0")
    if isinstance(net, type):
        raise ValueError(f"the network is the class {net.__name__}: give an instance of it, {net.__name__}(...)")
