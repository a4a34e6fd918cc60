"""The times of a scheduler's steps: as its configuration has them, as pipelines ask for them, or by a spacing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.spacing import times

Numbers = Sequence[float] | Tensor | np.ndarray[Any, Any]


def default(config: Mapping[str, Any], convention: Convention, steps: int) -> Tensor:
    """So many steps as the configuration has them, `[n + 1]`, the last of them 0.

    Flow matching without a spacing goes evenly down to a thousandth, which `FlowMatchEulerDiscreteScheduler` shifts
    twice; `steps_offset` moves "leading" steps towards noise.
    """
    process, spacing = convention.process, convention.spacing
    levels = process.timesteps
    if steps < 1:
        raise ValueError(f"num_inference_steps={steps}: at least 1 step is needed")
    if levels is None and spacing is None and not config.get("use_flow_sigmas"):
        thousandth = torch.tensor(0.001, dtype=torch.float64)
        least = thousandth if config.get("use_dynamic_shifting") else process.sigma(thousandth)
        path = torch.linspace(1, float(least), steps, dtype=torch.float64)
        return _ending(path)
    path = times(process, steps, spacing or "trailing")
    offset = config.get("steps_offset") or 0
    if levels is not None and spacing == "leading" and offset:
        path = _ending((path[:-1] + offset / levels).clamp(max=1))
    return path


def by_timesteps(convention: Convention, timesteps: Numbers) -> Tensor:
    """Steps at which the network is told these timesteps.

    Raises:
        ValueError: they do not go down to the data.
    """
    return _falling(convention.time_of(_numbers("timesteps", timesteps)), "timesteps", timesteps)


def by_sigmas(convention: Convention, sigmas: Numbers) -> Tensor:
    """Steps at these sigmas, with or without a last 0.

    For flow matching they are, as in diffusers, what is then shifted (and stretched to `shift_terminal`), so times; for
    all others sigma / alpha.

    Raises:
        ValueError: they do not go down to 0.
    """
    values = _numbers("sigmas", sigmas)
    values = values[:-1] if len(values) > 1 and values[-1] == 0 else values
    if convention.predicts.removeprefix("-") != "flow":
        return _falling(convention.process.time(-2 * values.log()), "sigmas", sigmas)
    if not bool(((values > 0) & (values <= 1)).all()):
        raise ValueError(f"sigmas={_listed(sigmas)}: for flow matching they lie in (0, 1]")
    return _falling(values, "sigmas", sigmas)


def stretched(config: Mapping[str, Any], convention: Convention, path: Tensor) -> Tensor:
    """Steps along a straight line, stretched so that the last sigma above 0 is `shift_terminal`, if there is one."""
    terminal = config.get("shift_terminal")
    if not terminal or len(path) < 3:
        return path
    signal = 1 - convention.process.sigma(path[:-1])
    sigma = 1 - signal * (1 - terminal) / signal[-1]
    return _ending(convention.process.time(2 * ((1 - sigma).log() - sigma.log())))


def is_even(sigmas: Numbers) -> bool:
    """Whether these are the n even steps from 1 to 1 / n, or to 1 / 1000, that pipelines pass of themselves."""
    n, given = len(sigmas), [float(sigma) for sigma in sigmas]
    ends = [(1 / n, 1e-6), (0.001, 1.001e-3)]  # in thousandths, which are cut off
    lines = [([1 - (1 - end) * i / max(n - 1, 1) for i in range(n)], tolerance) for end, tolerance in ends]
    return any(
        all(abs(one - other) < tolerance for one, other in zip(given, line, strict=True)) for line, tolerance in lines
    )


def are_times(timesteps: Numbers, sigmas: Numbers) -> bool:
    """Whether timesteps are 1000 times these sigmas, up to a whole number that was cut off."""
    given = [float(timestep) for timestep in timesteps]
    return len(given) == len(sigmas) and all(
        abs(one - 1000 * float(other)) < 1 for one, other in zip(given, sigmas, strict=True)
    )


def _ending(path: Tensor) -> Tensor:
    return torch.cat([path, path.new_zeros(1)])


def _numbers(name: str, values: Numbers) -> Tensor:
    numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)
    if not len(numbers) or not bool(numbers.isfinite().all()):
        raise ValueError(f"{name}={_listed(values)}: pass a list of numbers that falls")
    return numbers


def _falling(path: Tensor, name: str, given: Numbers) -> Tensor:
    if bool((path.diff() >= 0).any()) or not path[-1] > 0:
        raise ValueError(f"{name}={_listed(given)}: they must fall from noise to data, each below the one before")
    return _ending(path)


def _listed(values: Numbers) -> list[Any]:
    entries = list(values)
    shown: list[Any] = [round(float(value), 6) for value in entries[:6] if math.isfinite(float(value))]
    return shown + ["..."] * (len(entries) > 6)
