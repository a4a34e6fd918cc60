"""How well a network denoises, once its convention is known.

The denoising error is measured level by level against two baselines, the data's mean (error 1 in units of their
variance) and their best linear denoiser. What an error costs depends on the level: sampling carries alpha x0 + sigma
eps, so an error e of x0 spoils the share

    harm = alpha^2 e / (alpha^2 variance + sigma^2)

of x_t. A network that predicts eps with an error of 1 % is far worse than the data's mean where there is only noise;
one that predicts x0 so is far worse than the linear denoiser where there is almost none; and both cost 1 % of x_t,
which is natural and no cause for alarm. Levels that were never trained cost nearly all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import median

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.doctor.evidence import GAIN, Concern, Level
from leapstep.doctor.ranges import F64, Range
from leapstep.text import percent

REACH = 8.0
"""Errors are measured where |log of the variance of alpha x0 over that of the noise| is at most this."""

BOUND = 1e6
"""What stands for numbers that are larger, or not finite."""

RATIO, MEAN = 3.0, 1.1
"""A level is bad where the error exceeds so many times the linear denoiser's, or so many times the mean's."""

HARMS = (0.005, 0.03, 0.3)
"""The harm from which on bad levels weigh 1, 2 and 3."""

NEVER = 0.5
"""Error of the network's own prediction, over the power of its target, of levels that were never trained."""

LEAKS = (0.03, 0.1)
"""Signal over noise at t = 1 from which on it weighs 1 and 2."""

FAINT = 5e-4
"""Signal over noise at t = 1 under which a network that predicts eps had better not be asked for x0."""


def levels(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
    convention: Convention,
    span: Range,
    n: int,
    noise: Tensor,
    count: int = 12,
) -> tuple[Level, ...]:
    """Measure the error of x0 from data to noise, at levels even in log-SNR over the trained range.

    The error is measured as a ratio to the linear denoiser's on the same samples, so that the luck of few samples
    cancels. Samples whose answer is not finite are left out; where none is finite the error is `BOUND`.

    Arguments:
        denoise: takes x_t `[n, *d]`, times `[n]` and the rows `[n]` of the data that x_t comes from; returns x0.
        n: samples at each level, other ones each time.
        noise: standard normal, `[m, *d]`.
        count: how many levels; fewer where fewer were trained.
    Returns:
        the levels, from data to noise.
    """
    linear, process = span.linear, convention.process
    t = _level_times(convention, linear.variance, count)
    log_snr, timesteps = process.log_snr(t), convention.timestep(t)
    unit = linear.error(log_snr) / linear.variance
    measured = []
    for i in range(len(t)):
        rows = (i * n + torch.arange(n)) % len(noise)
        index, when = rows % len(span.values), t[i].expand(n)
        x = process.add_noise(span.values[index], when, noise[rows])
        with torch.no_grad():
            errors = _error(denoise(x, when, index), index, span)
        known = process.add_noise((span.values if span.complete is None else span.complete)[index], when, noise[rows])
        best = _error(linear.denoise(known, process.alpha(when), process.sigma(when)), index, span)
        kept = errors.isfinite()
        ratio = (errors[kept].mean() / best[kept].mean().clamp(min=1e-300)).item() if kept.any() else BOUND
        error = min(BOUND, ratio * unit[i].item())
        measured.append(Level(t[i].item(), timesteps[i].item(), log_snr[i].item(), error, unit[i].item()))
    return tuple(measured)


def _level_times(convention: Convention, variance: float, count: int) -> Tensor:
    """Times even in log-SNR, from data to noise, no two alike; trained ones where levels are counted."""
    process, levels, shift = convention.process, convention.levels, math.log(variance)
    first = 1 / (levels or 1000)
    start, end = process.log_snr(first).item(), process.log_snr(1.0).item()
    high, low = min(start, REACH - shift), max(end, -REACH - shift)
    if low >= high:  # all of it is further out: no bound then
        high, low = start, max(end, start - 100)
    t = process.time(torch.linspace(high, low, count, dtype=F64)).clamp(first, 1)
    t = (t * levels).round() / levels if levels else t
    return t[torch.cat([torch.ones(1, dtype=torch.bool), t.diff() > 0])]


def _error(estimate: Tensor, rows: Tensor, span: Range) -> Tensor:
    """Mean squared error of each sample `[b]`, float64; not finite where the estimate is not."""
    return span.mean((estimate.to("cpu", F64) - span.values[rows].to(F64)).square(), rows)


def judge(levels: Sequence[Level], variance: float = 1.0, predicts: str = "") -> tuple[Concern, ...]:
    """Find levels that were never trained, and networks that learned nothing.

    Arguments:
        levels: as `levels` found them.
        variance: of the data in the range of the network.
        predicts: the kind of prediction; if it is known, levels are told that were not trained but cost little.
    Returns:
        one concern for the whole if it is clearly worse than the linear denoiser; else one for each run of levels that
        are bad; else one for the whole if it is nowhere better than the linear denoiser.
    """
    ratios = [level.ratio for level in levels]
    if not ratios:
        return ()
    nowhere = min(ratios) > GAIN
    if nowhere and median(ratios) > 1.5:
        return (_nowhere(levels, median(ratios)),)
    bad = [level.error > min(RATIO * level.linear, MEAN) for level in levels]
    for order in (range(1, len(bad)), range(len(bad) - 2, -1, -1)):  # a run goes on while the error is large
        for i in order:
            bad[i] = bad[i] or (ratios[i] > 1.5 and bad[i - order.step])
    runs = [[levels[i] for i in run] for failed, run in groupby(range(len(levels)), key=lambda i: bad[i]) if failed]
    concerns = tuple(concern for run in runs if (concern := _untrained(run, levels, variance, predicts)))
    return concerns if concerns or not nowhere else (_nowhere(levels, median(ratios)),)


def _nowhere(levels: Sequence[Level], typical: float) -> Concern:
    """The network is nowhere better than the linear denoiser."""
    what = (
        f"the network is nowhere better than the best linear denoiser of the data: from t = {levels[0].t:.3g} to "
        f"t = {levels[-1].t:.3g} its error is typically {_times(typical)} as large"
    )
    if typical < 1.1:
        return Concern(
            1,
            what,
            "if the data are Gaussian this is as good as it gets; if not, it has learned no more than their mean and "
            "covariance: train longer, or make sure that these are the data it was trained on",
        )
    return Concern(
        3 if typical > RATIO else 2 if typical > 1.5 else 1,
        what,
        "make sure that these are the data it was trained on, that the right weights are loaded, and that it is given "
        "what else it needs (condition=); if so, train it longer",
    )


def _untrained(run: list[Level], levels: Sequence[Level], variance: float, predicts: str) -> Concern | None:
    """The concern that a run of bad levels gives, or none."""
    snr = [math.exp(min(700.0, level.log_snr + math.log(variance))) for level in run]
    excess = [max(0.0, level.error - level.linear) for level in run]
    harm = max(e * r / (1 + r) for e, r in zip(excess, snr, strict=True))
    kind = predicts.removeprefix("-")
    scale = {"": [r / (1 + r) for r in snr], "x0": [1.0] * len(snr), "eps": snr, "score": snr}
    factors = scale.get(kind, [1 + r for r in snr])  # of x0's error to the prediction's, over the power of its target
    never = max(e * r for e, r in zip(excess, factors, strict=True)) > NEVER
    weight = max(sum(harm > limit for limit in HARMS), int(never))
    if weight == 0 or (weight == 1 and len(run) == 1 and not never):
        return None
    first, last, level = run[0], run[-1], max(run, key=lambda level: level.ratio)
    where = f"t = {first.t:.3g} to {last.t:.3g} (timesteps {first.timestep:.4g} to {last.timestep:.4g})"
    if first is last:
        where = f"t = {first.t:.3g} (timestep {first.timestep:.4g})"
    what = (
        f"at {where} the network's error is up to {_times(level.ratio)} that of the best linear denoiser: "
        f"{level.error:.3g} of the data's variance at t = {level.t:.3g}, and spoils up to "
        f"{percent(min(harm, 1))} of x_t"
    )
    if weight > 1 or never:
        avoid = ""
        if last is levels[-1] and first is not levels[0]:
            avoid = f", or start sampling below t = {first.t:.3g}"
        seem = "never to have been trained" if never else "to have been trained badly"
        return Concern(weight, f"{what}; these levels seem {seem}", f"train on them{avoid}")
    usual, other = ("x0", "v or eps") if level.log_snr + math.log(variance) > 0 else ("eps", "v or x0")
    return Concern(
        1,
        f"{what}; this is usual for a network that predicts {usual}",
        f"nothing need be done; a network that predicts {other} does better there",
    )


def _times(ratio: float) -> str:
    """A ratio in words."""
    return f"{ratio:.3g} times" if ratio < 1000 else "over 1000 times"


def signal_left(process: Process, span: Range) -> float:
    """Signal over noise at t = 1, root mean square; above `LEAKS` sampling should start around the data's mean."""
    one = torch.ones((), dtype=F64)
    size = span.mean(span.values.to(F64).square(), torch.arange(len(span.values))).mean().sqrt().item()
    return (process.alpha(one) / process.sigma(one)).item() * size


def leak(process: Process, span: Range, predicts: str = "") -> tuple[Concern, ...]:
    """Compare the last level with the noise that sampling starts from, N(0, sigma(1)^2).

    Arguments:
        predicts: the kind of prediction, where it is known: from eps x0 cannot be had without signal.
    """
    alpha, signal = process.alpha(torch.ones((), dtype=F64)).item(), signal_left(process, span)
    if signal > LEAKS[0]:
        mean = span.linear.mean.square().mean().sqrt().item()
        return (
            Concern(
                2 if signal > LEAKS[1] else 1,
                f"at t = 1 the data still are {signal:.3g} of the noise (root mean square of alpha x0 over sigma), and "
                "sampling starts from noise alone",
                f"start around alpha(1) = {alpha:.3g} times the data's mean (root mean square {mean:.3g}), as "
                "diffusion._replace(origin=mean) does in the lines to paste, or train on "
                "leapstep.rescale_zero_terminal_snr(process)",
            ),
        )
    if predicts.removeprefix("-") not in ("eps", "score") or signal > FAINT:
        return ()
    start = process.time(-9 - math.log(span.linear.variance)).item()
    if (levels := process.timesteps) is not None:
        start = max(1, min(levels - 1, math.floor(start * levels))) / levels
    cure = f"start sampling at t = {start:.4g}, as in steps=torch.linspace({start:.4g}, 0, 21)"
    if alpha == 0:
        return (Concern(3, f"at t = 1 there is no signal (alpha = 0), so {predicts} says nothing of x0 there", cure),)
    return (
        Concern(
            1,
            f"at t = 1 the signal is {signal:.2g} of the noise, so that an error of {predicts} is {1 / signal:.2g} "
            "times as large in x0",
            f"{cure}, or bound the estimate with clip=",
        ),
    )
