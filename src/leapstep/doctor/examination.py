"""The examination of a network whose convention is known: its errors, its behaviour as a module, its samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.denoiser import Diffusion, clipped, from_network
from leapstep.core.transitions import ddim
from leapstep.doctor import behaviour, denoising, passages
from leapstep.doctor.conventions import level_of
from leapstep.doctor.curve import counts
from leapstep.doctor.evidence import Concern, Curve, Level, Passage
from leapstep.doctor.probe import Probe
from leapstep.doctor.ranges import Range
from leapstep.doctor.refinement import Candidate
from leapstep.doctor.samples import Samples


def health(ask: Probe, winner: Candidate, noise: Tensor, clipped: bool) -> tuple[tuple[Level, ...], list[Concern]]:
    """The errors by level, and all that is wrong but the sampling."""
    convention, span = winner.convention, winner.trial.range
    process, sigma_data = convention.process, convention.sigma_data

    def denoise(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        output = ask(process.normalized(x, t, sigma_data), convention.timestep(t), rows)
        return process.split(output, x, t, convention.predicts, sigma_data or 1.0)[0]

    plan = ask.budget.looking(max(4, min(200, -(-8000 // noise[0].numel()))))
    levels = denoising.levels(denoise, convention, span, plan.n, noise, plan.levels)
    return levels, [
        *behaviour.behaviour(ask.net, ask.steady, ask.separate, ask.broken, ask.calls),
        *behaviour.ema(ask.net),
        *denoising.judge(levels, span.linear.variance, convention.predicts),
        *denoising.leak(process, span, "" if clipped else convention.predicts),
        *behaviour.precision(ask, convention, span, noise, plan.rounding),
    ]


def adapted(net: Callable[..., Any], convention: Convention, samples: Samples, known: Tensor) -> Diffusion:
    """The network ready to sample for the first rows; where its answer does not count, samples keep the data.

    Arguments:
        known: the data of these rows, `[n, *d]`, in the range that the convention has outside.
    """
    n = len(known)
    diffusion = from_network(net, convention, condition=samples.condition(torch.arange(n)))
    if samples.counts is None:
        return diffusion
    counts = samples.counts[:n]
    return clipped(diffusion, lambda x0: torch.where(counts.to(x0.device), x0, known.to(x0)))


class Check(NamedTuple):
    """How sampling goes: see `Diagnosis`, whose fields these are."""

    passages: tuple[Passage, ...] = ()
    parted: float | None = None
    eta: float = 0.0
    concerns: tuple[Concern, ...] = ()


def sampled(ask: Probe, convention: Convention, span: Range, samples: Samples, n: int, seed: int) -> Check:
    """Check samples of DDIM, and where they part from the data those with eta = 1.

    Arguments:
        convention: complete; it samples in the network's own range.
        n: samples at most.
    """
    plan = ask.budget.sampling(n)
    if plan is None:
        return Check()
    inside = adapted(ask.direct, convention.inner(), samples, span.values[: plan.n])

    def drawn(eta: float) -> tuple[tuple[Passage, ...], float | None]:
        return passages.passages(
            inside, span, seed, *plan, transition=ddim(eta), conditional=not samples.alike, device=ask.device
        )

    path, parted = drawn(0.0)
    if parted is None or plan.samples > ask.budget.allowed("sampling"):
        return Check(path, parted, 0.0, passages.sampling_concern(path, parted))
    noisy_path, still = drawn(1.0)
    concerns = passages.sampling_concern(path, parted, cured=still is None)
    return Check(noisy_path, None, 1.0, concerns) if still is None else Check(path, parted, 0.0, concerns)


def shown_curve(winner: Candidate) -> Curve:
    """The schedule, as it is shown."""
    profile, curve = winner.profile, winner.curve
    named = level_of(winner.convention, profile.timesteps)
    counted = curve.readable & counts(profile, named)

    def column(values: Tensor, known: Tensor) -> tuple[float | None, ...]:
        pairs = zip(values.tolist(), known.tolist(), strict=True)
        return tuple(round(value, 3) if here and math.isfinite(value) else None for value, here in pairs)

    return Curve(
        tuple(profile.timesteps.tolist()),
        column(curve.log_snr, curve.readable),
        column(curve.low, counted),
        column(curve.high, counted),
        column(named, torch.ones_like(curve.readable)),
    )
