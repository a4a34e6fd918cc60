"""What is wrong with a network as a module: train mode, randomness, averaged weights beside raw ones, precision."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from leapstep.core.convention import Convention
from leapstep.doctor.evidence import Concern
from leapstep.doctor.probe import Probe
from leapstep.doctor.ranges import F64, Range
from leapstep.text import percent

ROUNDING = 0.02
"""Change of the output by timesteps in bfloat16, relative to its size, that is worth knowing."""


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
                f"{broken} of {calls} answers ({percent(broken / max(calls, 1))}) were not finite",
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
        f"{percent(share)}; which of them answered is not known",
        f"sample with the averaged one: {cure}",
    )


def precision(ask: Probe, convention: Convention, span: Range, noise: Tensor, n: int = 4) -> tuple[Concern, ...]:
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
    t = _rounded_most(convention)
    exact = convention.timestep(t)
    rounded = exact.to(torch.bfloat16).to(F64)
    rows = torch.arange(n * len(t)) % len(noise)
    index, when = rows % len(span.values), t.repeat_interleave(n)
    x = convention.process.add_noise(span.values[index], when, noise[rows])
    x = convention.process.normalized(x, when, convention.sigma_data)
    answers = (ask(x, timestep.repeat_interleave(n), index).to(F64) for timestep in (exact, rounded))
    one, two = (span.kept(answer, index).reshape(len(t), -1) for answer in answers)
    change = (one - two).square().mean(1).sqrt() / one.square().mean(1).sqrt().clamp(min=1e-12)
    worst = int(change.argmax())
    if change[worst] > ROUNDING:
        concerns.append(
            Concern(
                1,
                f"timesteps in bfloat16 change the output by up to {percent(change[worst].item())} (timestep "
                f"{exact[worst].item():.6g} becomes {rounded[worst].item():.6g})",
                "keep timesteps in float32 or as integers; under autocast, compute their embedding outside of it",
            )
        )
    return tuple(concerns)


def _rounded_most(convention: Convention, count: int = 12) -> Tensor:
    """A time in each of `count` parts of the range, that whose timestep bfloat16 moves most."""
    levels = convention.levels or 1000
    t = torch.arange(1, levels + 1, dtype=F64) / levels
    exact = convention.timestep(t)
    moved = (exact.to(torch.bfloat16).to(F64) - exact).abs()
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
