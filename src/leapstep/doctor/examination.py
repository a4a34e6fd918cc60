"""The examination of a network whose convention is known: its errors, its behaviour as a module, its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion, clipped, from_network
from leapstep.core.transitions import ddim
from leapstep.doctor import behaviour, denoising, passages
from leapstep.doctor.conventions import Route, level_of
from leapstep.doctor.curve import counts
from leapstep.doctor.evidence import Concern, Curve, Level, Passage
from leapstep.doctor.probe import Probe
from leapstep.doctor.refinement import Candidate
from leapstep.doctor.samples import Samples
from leapstep.doctor.trials import Trial


def health(
    net: Callable[..., Any], ask: Probe, winner: Candidate, noise: Tensor, clipped: bool
) -> tuple[tuple[Level, ...], tuple[Concern, ...]]:
    """The errors by level, and all that is wrong but the sampling."""
    trial: Trial = winner.trial
    route: Route = trial.route

    def denoise(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        output = ask(route.seen(x, t), route.timestep(t), rows)
        return route.process.split(output, x, t, trial.predicts, route.sigma_data or 1.0)[0]

    plan = ask.budget.looking(max(4, min(200, -(-8000 // noise[0].numel()))))
    levels = denoising.levels(denoise, route, trial.range, plan.n, noise, plan.levels)
    concerns = (
        *behaviour.behaviour(net, ask.steady, ask.separate, ask.broken, ask.calls),
        *behaviour.ema(net),
        *denoising.judge(levels, trial.range.linear.variance, trial.predicts),
        *denoising.leak(route, trial.range, "" if clipped else trial.predicts),
        *behaviour.precision(ask, route, trial.range, noise, plan.rounding),
    )
    return levels, concerns


def adapted(
    net: Callable[..., Any], winner: Candidate, arguments: Mapping[str, Any], samples: Samples, n: int, origin: bool
) -> Diffusion:
    """The network ready to sample for the first n rows; where its answer does not count, samples keep the data.

    Arguments:
        arguments: of `from_network`; with a scaling among them it is in the range of the data as they lie on disk.
        origin: whether it starts around the mean of the data.
    """
    route, span = winner.trial.route, winner.trial.range
    process = route.process._replace(timesteps=route.timesteps)
    diffusion = from_network(net, process, condition=samples.condition(torch.arange(n)), **arguments)
    known = samples.values.float() if "scaling" in arguments else span.values
    if origin:
        diffusion = diffusion._replace(origin=known.mean(0))
    if samples.counts is None:
        return diffusion
    counts, held = samples.counts[:n], known[:n]
    return clipped(diffusion, lambda x0: torch.where(counts.to(x0.device), x0, held.to(x0)))


def sampled(
    ask: Probe, winner: Candidate, arguments: Mapping[str, Any], samples: Samples, how: tuple[int, int, bool]
) -> tuple[tuple[Passage, ...], float | None, float, tuple[Concern, ...]]:
    """Check samples of DDIM, and where they part from the data those with eta = 1: passages, parted, eta, concerns.

    Arguments:
        arguments: of `from_network`, in the network's own range.
        how: the seed, how many samples at most, and whether they start around the data's mean.
    """
    seed, size, origin = how
    plan = ask.budget.sampling(size)
    if plan is None:
        return (), None, 0.0, ()
    inside = adapted(ask.direct, winner, arguments, samples, plan.n, origin)

    def drawn(eta: float) -> tuple[tuple[Passage, ...], float | None]:
        return passages.passages(
            inside,
            winner.trial.range,
            seed,
            *plan,
            transition=ddim(eta),
            conditional=not samples.alike,
            device=ask.device,
        )

    path, parted = drawn(0.0)
    if parted is None or plan.samples > ask.budget.allowed("sampling"):
        return path, parted, 0.0, passages.sampling_concern(path, parted)
    noisy_path, still = drawn(1.0)
    concerns = passages.sampling_concern(path, parted, cured=still is None)
    return (noisy_path, None, 1.0, concerns) if still is None else (path, parted, 0.0, concerns)


def inner(arguments: Mapping[str, Any], winner: Candidate) -> dict[str, Any]:
    """The same arguments in the network's own range."""
    inner = {name: value for name, value in arguments.items() if name not in ("scaling", "clip")}
    if "clip" in arguments:
        span = winner.trial.range
        values = span.values if span.counts is None else span.values[span.counts]
        inner["clip"] = (values.min().item(), values.max().item())
    return inner


def shown_curve(winner: Candidate) -> Curve:
    """The schedule, as it is shown."""
    named = level_of(winner.trial.route, winner.profile.timesteps)
    told = winner.curve.told
    counted = told & counts(winner.profile, named)

    def column(values: Tensor, known: Tensor) -> tuple[float | None, ...]:
        pairs = zip(values.tolist(), known.tolist(), strict=True)
        return tuple(round(value, 3) if here and math.isfinite(value) else None for value, here in pairs)

    everywhere = torch.ones_like(told)
    return Curve(
        tuple(winner.profile.timesteps.tolist()),
        column(winner.curve.log_snr, told),
        column(winner.curve.low, counted),
        column(winner.curve.high, counted),
        column(named, everywhere),
    )
