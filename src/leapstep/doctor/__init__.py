"""Which convention does a network follow? `leapstep.diagnose` asks the network.

It needs the network as a callable and a few hundred real samples; no labels, gradients or training code. `conventions`
lists what networks are like, `probe` finds how this one is called, `search` which convention explains its answers,
`curve` which noise level each timestep stands for, `examination` how well it does. What comes out is a `Diagnosis`: the
findings with how sure they are, what is wrong, and the lines of Python to paste.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from leapstep.core.denoiser import CLOCKS, SHAPES
from leapstep.core.process import PREDICTIONS
from leapstep.core.schedules import SCHEDULES
from leapstep.doctor.behaviour import untimed
from leapstep.doctor.budget import Budget
from leapstep.doctor.denoising import LEAKS, signal_left
from leapstep.doctor.diagnosis import Diagnosis
from leapstep.doctor.evidence import Concern, Curve, Finding, Level, Passage
from leapstep.doctor.examination import adapted, health, inner, sampled, shown_curve
from leapstep.doctor.findings import arguments_of, findings, judged
from leapstep.doctor.probe import device_of, probe
from leapstep.doctor.ranges import ranges
from leapstep.doctor.refinement import whole_reading
from leapstep.doctor.samples import LEAST, Given, draw
from leapstep.doctor.search import pairs_of, search, whole_race
from leapstep.doctor.snippet import Sampling, snippet

__all__ = ["Concern", "Curve", "Diagnosis", "Finding", "Level", "Passage", "diagnose"]

KNOWN = ("range", "predicts", "time", "reverse", "timesteps", "schedule", "sigma_data", "reshape")
"""What can be assumed."""


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
        assume: what you believe, with keys among `KNOWN`; it decides where the evidence does not, and is contradicted
            where it does.
        pictures: whether the data are pixels from 0 to 255; default: if they are uint8.
        seed: of the noise and of the choice of samples.
        n: how many samples to use at most.
        check: whether to sample a batch and compare its way with the data's.
        budget: seconds that it may take, about; `math.inf` is no bound. What a call costs is measured first, and where
            there is no time for everything fewer samples, timesteps and conventions are tried, and less is sure.
        on_estimate: told, before the search begins, how many seconds it will take, and how many without a bound.
        on_stage: told what begins.
        on_call: told how many samples went through the network.
    Returns:
        the Diagnosis; print it.
    Raises:
        ValueError: data that cannot be used, a network that cannot be called or raises anything, an unknown
            assumption, or a network too slow for the budget.
        MemoryError, torch.OutOfMemoryError: there is too little memory even for a few samples.
    """
    time = Budget(budget)
    beliefs = _checked(assume or {})
    _check(net, n, budget)
    generator = torch.Generator().manual_seed(seed)
    samples = draw(data, condition, counts, n, generator, device_of(net))
    values = samples.values
    spans = ranges(values, values.dtype == torch.uint8 if pictures is None else pictures, samples.counts)
    if beliefs.get("range") and beliefs["range"] not in [span.name for span in spans]:
        names = ", ".join(span.name for span in spans)
        raise ValueError(f"assumed range={beliefs['range']!r}: for these data use one of {names}")
    number = len(samples) if values[0].numel() >= 64 else max(2000, len(samples))
    noise = torch.randn(number, *values.shape[1:], generator=generator)
    on_stage("calling the network")
    samples.condition(torch.arange(1))  # a mistake in it is not the network's
    ask = probe(net, spans[0].values, samples.condition, beliefs, time)
    ask.on_call = on_call
    pairs, size = pairs_of(ask, spans, beliefs), min(64, len(samples))
    on_estimate(*time.estimate(whole_race(pairs, noise), whole_reading(noise), size * check))
    found = search(ask, pairs, noise, beliefs, on_stage)
    winner = found.winners[0]
    searched = ask.calls
    on_stage("looking at every level")
    arguments = arguments_of(winner, ask.reshape, ask.fractional)
    ask.broken = ask.calls = 0  # of the convention that was found alone
    levels, concerns = health(net, ask, winner, noise, "clip" in arguments)
    origin = signal_left(winner.trial.route, winner.trial.range) > LEAKS[0]
    passages: tuple[Passage, ...] = ()
    parted, eta = None, 0.0
    if check:
        on_stage("sampling")
        passages, parted, eta, more = sampled(ask, winner, inner(arguments, winner), samples, (seed, size, origin))
        concerns += more
    if not ask.timed:
        concerns = (untimed(bool(passages) and parted is None), *concerns)
    rows, contradictions = judged(findings(found, ask, beliefs), found, ask, beliefs)
    return Diagnosis(
        findings=rows,
        concerns=concerns,
        code=snippet(winner, arguments, samples, Sampling(origin, eta, str(ask.device))),
        arguments=arguments,
        diffusion=adapted(net, winner, arguments, samples, len(samples), origin),
        curve=shown_curve(winner),
        levels=levels,
        passages=passages,
        parted=parted,
        contradictions=contradictions,
        calls=searched + ask.calls,
        seconds=round(time.elapsed, 1),
        cuts=tuple(time.cuts),
        eta=eta,
        counted=None if samples.counts is None else round(samples.counts.double().mean().item(), 4),
    )


def _check(net: Callable[..., Any], n: int, budget: float) -> None:
    if n < LEAST:
        raise ValueError(f"n={n}: at least {LEAST} samples are needed, best 300")
    if not budget > 0:
        raise ValueError(f"budget={budget}: give seconds, more than 0")
    if isinstance(net, type):
        raise ValueError(f"the network is the class {net.__name__}: give an instance of it, {net.__name__}(...)")


def _checked(assume: Mapping[str, Any]) -> dict[str, Any]:
    """The assumptions, if there are such."""
    allowed: dict[str, tuple[str, ...]] = {
        "predicts": tuple(sign + kind for kind in PREDICTIONS for sign in ("", "-")),
        "time": tuple(CLOCKS),
        "reshape": SHAPES,
        "schedule": tuple(SCHEDULES),
    }
    for name, value in assume.items():
        if name not in KNOWN:
            raise ValueError(f"{name} cannot be assumed: use one of {', '.join(KNOWN)}")
        if name in allowed and value not in allowed[name]:
            raise ValueError(f"assumed {name}={value!r}: use one of {', '.join(allowed[name])}")
    return dict(assume)
