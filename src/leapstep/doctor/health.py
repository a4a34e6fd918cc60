"""How well a network does, once it is known what it does, and what is wrong with it.

The denoising error is measured level by level against two baselines, the data's mean (error 1 in units of their
variance) and their best linear denoiser. What an error costs depends on the level: sampling carries alpha x0 + sigma
eps, so an error e of x0 spoils the share

    harm = alpha^2 e / (alpha^2 variance + sigma^2)

of x_t. A network that predicts eps with an error of 1 % is far worse than the data's mean where there is only noise;
one that predicts x0 so is far worse than the linear denoiser where there is almost none; and both cost 1 % of x_t,
which is natural and no cause for alarm. Levels that were never trained cost nearly all of it.

Then sampling itself: a batch goes from noise to data, and at each level its mean, its spread and its variances along
the data's principal axes are held against those of q(x_t), and against how far as many draws of q(x_t) miss them.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapstep.core.denoiser import Diffusion
from leapstep.core.finite import NotFinite
from leapstep.core.sampling import Noise, beginning, times, trajectory
from leapstep.core.transitions import Transition
from leapstep.doctor.conventions import F64, Range, Route
from leapstep.doctor.evidence import GAIN, Concern, Level, Passage
from leapstep.doctor.probe import Probe

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

ROUNDING = 0.02
"""Change of the output by timesteps in bfloat16, relative to its size, that is worth knowing."""

AXES = 16
"""Principal axes along which samples are compared."""

PARTED = (0.25, 0.22, 0.25)
"""How far mean, log of the spread and shape may be off: the first two if luck would not do it (four standard deviations
from what is usual for draws of q(x_t)), the shape in addition to three times what is usual for them."""


# --- denoising -----------------------------------------------------------------------------------------------------


def levels(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
    route: Route,
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
    linear, process = span.linear, route.process
    t = _level_times(route, linear.variance, count)
    log_snr, timesteps, unit = process.log_snr(t), route.timestep(t), linear.error(process.log_snr(t)) / linear.variance
    found = []
    for i in range(len(t)):
        rows = (i * n + torch.arange(n)) % len(noise)
        index, when = rows % len(span.values), t[i].expand(n)
        x = process.add_noise(span.values[index], when, noise[rows])
        with torch.no_grad():
            own = _error(denoise(x, when, index), index, span)
        known = process.add_noise((span.values if span.complete is None else span.complete)[index], when, noise[rows])
        best = _error(linear.denoise(known, process.alpha(when), process.sigma(when)), index, span)
        kept = own.isfinite()
        ratio = (own[kept].mean() / best[kept].mean().clamp(min=1e-300)).item() if kept.any() else BOUND
        error = min(BOUND, ratio * unit[i].item())
        found.append(Level(t[i].item(), timesteps[i].item(), log_snr[i].item(), error, unit[i].item()))
    return tuple(found)


def _level_times(route: Route, variance: float, count: int) -> Tensor:
    """Times even in log-SNR, from data to noise, no two alike; trained ones where levels are counted."""
    process, shift = route.process, math.log(variance)
    first = 1 / (route.timesteps or 1000)
    start, end = process.log_snr(first).item(), process.log_snr(1.0).item()
    high, low = min(start, REACH - shift), max(end, -REACH - shift)
    if low >= high:  # all of it is further out: no bound then
        high, low = start, max(end, start - 100)
    t = process.time(torch.linspace(high, low, count, dtype=F64)).clamp(first, 1)
    t = (t * route.timesteps).round() / route.timesteps if route.timesteps else t
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
    concerns = tuple(found for run in runs if (found := _untrained(run, levels, variance, predicts)))
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
    own = scale.get(kind, [1 + r for r in snr])  # of x0's error to the prediction's, over the power of its target
    never = max(e * r for e, r in zip(excess, own, strict=True)) > NEVER
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
        f"{_percent(min(harm, 1))} of x_t"
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


def _percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _times(ratio: float) -> str:
    """A ratio in words."""
    return f"{ratio:.3g} times" if ratio < 1000 else "over 1000 times"


# --- the start -----------------------------------------------------------------------------------------------------


def signal_left(route: Route, span: Range) -> float:
    """Signal over noise at t = 1, root mean square; above `LEAKS` sampling should start around the data's mean."""
    one = torch.ones((), dtype=F64)
    size = span.mean(span.values.to(F64).square(), torch.arange(len(span.values))).mean().sqrt().item()
    return (route.process.alpha(one) / route.process.sigma(one)).item() * size


def leak(route: Route, span: Range, predicts: str = "") -> tuple[Concern, ...]:
    """Compare the last level with the noise that sampling starts from, N(0, sigma(1)^2).

    Arguments:
        predicts: the kind of prediction, where it is known: from eps x0 cannot be had without signal.
    """
    alpha, signal = route.process.alpha(torch.ones((), dtype=F64)).item(), signal_left(route, span)
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
    start = route.process.time(-9 - math.log(span.linear.variance)).item()
    if route.timesteps is not None:
        start = max(1, min(route.timesteps - 1, math.floor(start * route.timesteps))) / route.timesteps
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


# --- the network as a module ---------------------------------------------------------------------------------------


def behaviour(net: Callable[..., Any], steady: bool, separate: bool, broken: int, calls: int) -> tuple[Concern, ...]:
    """Judge how the network answered: train mode, randomness, samples that depend on each other, what is not finite.

    Arguments:
        steady: whether it gave the same answer twice.
        separate: whether a sample's answer does not depend on the others in the batch.
        broken, calls: samples whose answer was not finite, of how many.
    """
    drops, norms = _train_mode(net)
    training = isinstance(net, nn.Module) and any(module.training for module in net.modules())
    concerns = []
    if broken:
        concerns.append(
            Concern(
                3 if broken > 0.01 * calls else 2,
                f"{broken} of {calls} answers ({_percent(broken / max(calls, 1))}) were not finite",
                "look for a division by zero or an overflow in the network, in half precision above all",
            )
        )
    if drops or norms:
        effects = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) {effect}"
            for names, kind, effect in (
                (drops, "dropout", "at work, which makes every answer noisy"),
                (norms, "batch normalisation", "at work, by which the samples of a batch influence each other"),
            )
            if names
        ]
        concerns.append(
            Concern(2, f"the network is in train mode with {' and '.join(effects)}", "call net.eval() before sampling")
        )
    mode = "call net.eval() before sampling; if that does not help, " if training else ""
    if not steady and not drops:
        concerns.append(
            Concern(
                2,
                "the network gave 2 different answers to 1 question",
                f"{mode}look for what is random in it (functional dropout, noise that it adds)",
            )
        )
    if not separate and not norms:
        concerns.append(
            Concern(
                2,
                "the answer for 1 sample depends on the others in its batch",
                f"{mode}look for statistics over the batch (batch normalisation without running statistics, a mean "
                "over dimension 0, a timestep that is taken from the first sample)",
            )
        )
    return tuple(concerns)


def untimed(follows: bool) -> Concern:
    """Say that a network ignores its timestep; the few that were trained without one sample well nevertheless.

    Arguments:
        follows: whether samples are known to follow the data.
    """
    return Concern(
        1 if follows else 3,
        "the network ignores its timestep: at the same x its answers are the same whatever it is told",
        "does your wrapper pass it on? If it does, the network was trained without one: then any clock will do, and of "
        "the schedule only what it says of the data's scale matters",
    )


def _train_mode(net: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The names of the dropouts and of the batch normalisations that are in train mode."""
    drops: list[str] = []
    norms: list[str] = []
    for name, module in net.named_modules() if isinstance(net, nn.Module) else ():
        if not module.training:
            continue
        attention = isinstance(module, nn.MultiheadAttention) and module.dropout > 0
        if attention or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0):
            drops.append(name or type(module).__name__)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            norms.append(name or type(module).__name__)
    return drops, norms


def ema(net: Callable[..., Any]) -> tuple[Concern, ...]:
    """Find an averaged copy of the weights beside the raw ones, where the two differ.

    Two modules are copies if the names (but for dots) and shapes of what they hold agree, apart from counters, and the
    name of one says that it is an average: ema, ema_model, model_ema, averaged, shadow, swa.
    """
    if not isinstance(net, nn.Module):
        return ()
    modules = {name: module for name, module in net.named_modules() if name}
    for name, module in modules.items():
        if not (_averages(name) or isinstance(module, torch.optim.swa_utils.AveragedModel)):
            continue
        own = _contents(module)
        for other, twin in modules.items():
            if _averages(other) or f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}."):
                continue
            theirs = _contents(twin)
            if not own or {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in theirs.items()}:
                continue
            distance = sum((own[key] - theirs[key]).square().sum().item() for key in own)
            share = math.sqrt(distance / max(sum(value.square().sum().item() for value in own.values()), 1e-300))
            return (_two_copies(name, module, other, share),) if distance > 0 else ()
    return ()


def _averages(name: str) -> bool:
    """Whether the last part of a module's name says that it holds averaged weights."""
    return bool(re.search(r"(^|_)(ema|average|averaged|avg|shadow|swa)($|_|\d)", name.rsplit(".", 1)[-1].lower()))


def _contents(module: nn.Module) -> dict[str, Tensor]:
    """What a module holds, by name without dots and without the wrapper's prefix, without counters and rates."""
    plain = {
        re.sub(r"^(module\.)+", "", name).replace(".", ""): value.detach().to("cpu", F64)
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0
    }
    return dict(sorted(plain.items()))


def _two_copies(name: str, module: nn.Module, other: str, share: float) -> Concern:
    silent = type(module).forward is nn.Module.forward
    load = f"load the weights of `{name}` into `{other}`"
    cure = load if silent else f"pass `net.{name}` itself, or {load}"
    return Concern(
        2,
        f"the network holds two copies of its weights, `{other}` and the averaged `{name}`, which differ by "
        f"{_percent(share)}; which of them answered is not known",
        f"sample with the averaged one: {cure}",
    )


def precision(ask: Probe, route: Route, span: Range, noise: Tensor, n: int = 4) -> tuple[Concern, ...]:
    """Measure what timesteps in half precision would do, and tell if the parameters are.

    bfloat16 holds 8 bits: of the integers above 256 only every second, above 512 every fourth. The timesteps are
    rounded so and back, where that moves them most; the network is never given another dtype.

    Arguments:
        ask: the network; one whose answers are not steady is not asked.
        n: samples at each of 12 timesteps; 0 asks nothing.
    """
    concerns = list(_half_parameters(ask.net))
    if not ask.steady or n == 0:
        return tuple(concerns)
    t = _rounded_most(route)
    told = route.timestep(t)
    rounded = told.to(torch.bfloat16).to(F64)
    rows = torch.arange(n * len(t)) % len(noise)
    index, when = rows % len(span.values), t.repeat_interleave(n)
    x = route.seen(route.process.add_noise(span.values[index], when, noise[rows]), when)
    answers = (ask(x, timestep.repeat_interleave(n), index).to(F64) for timestep in (told, rounded))
    one, two = (span.kept(answer, index).reshape(len(t), -1) for answer in answers)
    change = (one - two).square().mean(1).sqrt() / one.square().mean(1).sqrt().clamp(min=1e-12)
    worst = int(change.argmax())
    if change[worst] > ROUNDING:
        concerns.append(
            Concern(
                1,
                f"timesteps in bfloat16 change the output by up to {_percent(change[worst].item())} (timestep "
                f"{told[worst].item():.6g} becomes {rounded[worst].item():.6g})",
                "keep timesteps in float32 or as integers; under autocast, compute their embedding outside of it",
            )
        )
    return tuple(concerns)


def _rounded_most(route: Route, count: int = 12) -> Tensor:
    """A time in each of `count` parts of the range, that whose timestep bfloat16 moves most."""
    levels = route.timesteps or 1000
    t = torch.arange(1, levels + 1, dtype=F64) / levels
    told = route.timestep(t)
    moved = (told.to(torch.bfloat16).to(F64) - told).abs()
    return torch.stack([part[gap.argmax()] for part, gap in zip(t.chunk(count), moved.chunk(count), strict=True)])


def _half_parameters(net: Callable[..., Any]) -> Iterator[Concern]:
    parameters = list(net.parameters()) if isinstance(net, nn.Module) else []
    half = [p for p in parameters if p.dtype in (torch.bfloat16, torch.float16)]
    if half:
        name = str(half[0].dtype).removeprefix("torch.")
        yield Concern(
            1,
            f"{len(half)} of the network's {len(parameters)} parameters are in {name}, of about "
            f"{2 if half[0].dtype == torch.bfloat16 else 3} digits",
            f"tell from_network dtype=torch.{name} and keep the timesteps in float32; where there is memory for it, "
            "net.float() is more accurate",
        )


# --- sampling ------------------------------------------------------------------------------------------------------


class _Moments(NamedTuple):
    """Mean of each value `[D]`, mean variance of all, and variances along the axes `[a]`."""

    mean: Tensor
    total: Tensor
    axes: Tensor


class _Noised(NamedTuple):
    """Moments of x0, of the noise, and the covariances of the two, from which those of x_t follow at all levels."""

    x0: _Moments
    both: _Moments
    eps: _Moments

    def at(self, alpha: float, sigma: float) -> _Moments:
        """Moments of alpha x0 + sigma eps."""
        mean = alpha * self.x0.mean + sigma * self.eps.mean
        total, axes = (
            alpha**2 * x0 + 2 * alpha * sigma * both + sigma**2 * eps
            for x0, both, eps in zip(self.x0[1:], self.both[1:], self.eps[1:], strict=True)
        )
        return _Moments(mean, total, axes)


def _moments(x: Tensor, y: Tensor, basis: Tensor) -> _Moments:
    """Mean of x `[b, D]`, and covariances with y `[b, D]`."""
    mean = x.mean(0)
    x, y = x - mean, y - y.mean(0)
    return _Moments(mean, (x * y).mean(), ((x @ basis.T) * (y @ basis.T)).mean(0))


def passages(
    diffusion: Diffusion,
    span: Range,
    seed: int,
    n: int = 64,
    steps: int = 20,
    *,
    transition: Transition | None = None,
    conditional: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[tuple[Passage, ...], float | None]:
    """Sample a batch and compare it, level by level, with q(x_t) from the data.

    Arguments:
        diffusion: in the network's range; a conditional one is conditioned for rows 0..n-1 of the data.
        n: samples; with fewer than 64 luck may speak. At most as many as there are data where it is conditional.
        steps: their number, fewer where fewer levels were trained.
        transition: default: DDIM.
        conditional: compare with these n rows only, rather than with all.
        device: where the network computes.
    Returns:
        the passages from noise to data, the start among them, and the time from which on all differ (None: they do
        not); see `PARTED`.
    """
    count = min(n, len(span.values)) if conditional else len(span.values)
    n, rows = min(n, count) if conditional else n, torch.arange(count)
    centre = span.linear.mean
    values = span.kept(span.values[:count].to(F64) - centre.reshape(span.values.shape[1:]), rows).flatten(1)
    mask = span.kept(torch.ones_like(span.values[:count], dtype=F64), rows).flatten(1)
    noise = Noise(seed, range(n), tuple(span.values.shape[1:]), span.values.dtype, device)
    process = diffusion.process
    path = _path(diffusion, times(process, min(steps, process.timesteps or steps)), noise(0))
    basis = span.linear.basis[:AXES]
    data = _moments(values, values, basis)
    zero, noised = (
        _Moments(0 * data.mean, share.mean(), basis.square() @ share) for share in (0 * data.mean, mask.mean(0))
    )
    law, draws = _Noised(data, zero, noised), _draws(values, mask, basis, n, seed)
    found: list[Passage] = []

    def compare(x: Tensor, s: Tensor, before: Tensor) -> None:
        alpha, sigma = process.alpha(s).item(), process.sigma(s).item()
        flat = x.flatten(1).to("cpu", F64).nan_to_num(BOUND, BOUND, -BOUND).clamp(-BOUND, BOUND)
        flat = (flat - alpha * centre) * mask[torch.arange(n) % count]
        # the last step ends at the mean of x0, and loses what varies less than the noise that it removes
        lost = (process.sigma(before) / process.alpha(before)).item() ** 2 if sigma == 0 else 0.0
        total = data.total.item()
        wanted, least = law.at(alpha, sigma), max(0.01 * alpha**2 * total, min(lost, total))
        mean, spread, shape = _distances(_moments(flat, flat, basis), wanted, least).tolist()
        limits, luck = _luck(torch.stack([_distances(draw.at(alpha, sigma), wanted, least) for draw in draws]))
        narrow = -limits[1] - math.log1p(min(lost / total, 1)) / 2
        allowed = (limits[0], math.exp(narrow), math.exp(limits[1]), limits[2])
        found.append(Passage(s.item(), mean, math.exp(spread), shape, luck, allowed))

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotFinite)  # the passages say so
        x = beginning(diffusion, path[0], noise(0))
        compare(x, path[0], path[0])
        for state in trajectory(diffusion, x, path, transition, noise=noise):
            compare(state.x, state.s, state.t)
    differing = next((i for i in reversed(range(len(found))) if not found[i].failed()), -1) + 1
    return tuple(found), found[differing].t if differing < len(found) else None


def _path(diffusion: Diffusion, path: Tensor, x: Tensor) -> Tensor:
    """The times; from below 1 where there is no signal at 1 and the network therefore says nothing of x0."""
    if diffusion.process.alpha(path[0]) == 0:
        with torch.no_grad():
            try:
                finite = bool(diffusion.denoise(x, path[0]).isfinite().any())
            except ValueError:
                finite = False
        if not finite:
            levels = diffusion.process.timesteps
            start = path[:2].mean() if levels is None else path[0] - 1 / levels
            return torch.cat([start[None], path[path < start]])
    return path


def _distances(drawn: _Moments, wanted: _Moments, least: float) -> Tensor:
    """How far moments are from those wanted: mean, log of the spread, shape, `[3]`.

    Arguments:
        least: what is added to the variances along axes, so that those with hardly any do not count.
    """
    tiny = 1e-12 * wanted.total
    mean = ((drawn.mean - wanted.mean).square().mean() / wanted.total).sqrt()
    spread = ((drawn.total + tiny) / wanted.total).log() / 2
    shape = ((drawn.axes + least + tiny) / (wanted.axes + least + tiny)).log().abs().mean()
    return torch.stack([mean, spread, shape])


def _draws(values: Tensor, mask: Tensor, basis: Tensor, n: int, seed: int, repeats: int = 24) -> list[_Noised]:
    """Moments of n draws of the data and of noise where it counts, some times over."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    found = []
    for _ in range(repeats):
        rows = torch.randint(len(values), (n,), generator=generator)
        x0 = values[rows]
        eps = torch.randn(x0.shape, generator=generator, dtype=F64) * mask[rows]
        found.append(_Noised(*(_moments(a, b, basis) for a, b in ((x0, x0), (x0, eps), (eps, eps)))))
    return found


def _luck(distances: Tensor) -> tuple[list[float], float]:
    """From the distances of draws `[r, 3]` how much mean, log of the spread and shape may be off, and luck's shape."""
    size = distances.abs()
    usual, deviation = size.mean(0), size.std(0)
    rare = torch.maximum(torch.tensor(PARTED, dtype=F64), usual + 4 * deviation)
    shape = usual[2].item()
    return [rare[0].item(), rare[1].item(), follows(shape)], shape


def follows(luck: float) -> float:
    """Up to which value of `Passage.shape` samples follow the data, where luck alone makes so much of it."""
    return PARTED[2] + 3 * luck


def sampling_concern(passages: Sequence[Passage], parted: float | None, cured: bool = False) -> tuple[Concern, ...]:
    """Say where sampling and data part.

    Arguments:
        passages, parted: as `passages` found them.
        cured: whether they do not with eta = 1.
    """
    if parted is None:
        return ()
    place = next(i for i, passage in enumerate(passages) if passage.t == parted)
    end = passages[-1]
    spoiled = end.mean > 0.6 or not 0.6 < end.spread < 1.6 or end.shape > 1 + 3 * end.luck

    def told(passage: Passage) -> str:
        """The criteria that it fails."""
        return ", ".join(passage.failed())

    if cured:
        cure = (
            "sample with eta = 1, transition=leapstep.ddim(eta=1), as the lines to paste do: with it samples follow "
            "the data, as the noise of each step makes up for errors of the network"
        )
    elif place == 1 and spoiled:
        cure = (
            "the first step goes wrong: bound the estimate with clip=, or start sampling below t = 1, where a small "
            "error of eps is a large one of x0; if neither helps, prediction, schedule or clock are wrong"
        )
    elif place == 0:
        cure = (
            "the start noise is not what the last level looks like: start from x_1 = alpha(1) mean + sigma(1) eps, or "
            "make sure of range and schedule"
        )
    else:
        cure = (
            f"look at the network's error at t = {passages[place - 1].t:.3g} and above: if it is small, take more "
            "steps or bound the estimate with clip=; if not, the network or its convention is wrong there"
        )
    what = f"samples of DDIM part from the data at t = {parted:.3g}: {told(passages[place])}"
    what += "" if passages[place] is end else f"; at the end: {told(end)}"
    return (Concern(3 if spoiled and not cured else 2, what, cure),)
