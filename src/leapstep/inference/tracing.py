"""Trajectories of samples, and the effect of the number of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.noise import Noise
from leapstep.core.sampling import State, beginning, trajectory
from leapstep.inference.engine import draw
from leapstep.inference.execution import Execution, choose
from leapstep.inference.spec import SamplingSpec
from leapstep.models.model import Model


class Trace(NamedTuple):
    """Samples on their way from noise to data.

    Attributes:
        times: `[n + 1]`.
        x: x at each of the times, `[n + 1, b, *d]`.
        x0: the estimates of x0 that were made of these, `[n + 1, b, *d]`; at the end, x itself.
    """

    times: Tensor
    x: Tensor
    x0: Tensor


@torch.no_grad()
def trace(
    model: Model,
    spec: SamplingSpec,
    *,
    device: torch.device | str | None = None,
    on_step: Callable[[State], object] | None = None,
    execution: Execution | None = None,
) -> Trace:
    """Draw the samples of a specification, all in one batch, and keep every state.

    Arguments:
        spec: its default are 20 steps, also of a method that chooses its own within each.
        device: where samples are made; None: where the network is.
        on_step: called with the State after each step.
        execution: how the network is computed; None: what `choose` says.
    Raises:
        ValueError: what `SamplingSpec.checked` raises.
    """
    spec = spec.checked(model, adaptive_steps=20)
    execution = choose(model, spec) if execution is None else execution
    spec, model = dataclasses.replace(spec, dtype=execution.dtype), execution.of(model)
    rows, times = range(spec.first, spec.first + spec.n), spec.times_for(model)
    diffusion = spec.diffusion(model, rows)
    noise = Noise(spec.seed, rows, model.shape, spec.state_dtype, model.device if device is None else device)
    x = beginning(diffusion, times[0], noise(0), spec.start)
    states, estimates = [x], []
    for state in trajectory(diffusion, x, times, spec.transition(model), noise):
        states.append(state.x)
        estimates.append(state.x0)
        if on_step is not None:
            on_step(state)
    return Trace(times, torch.stack(states), torch.stack([*estimates, states[-1]]))


def in_steps(model: Model, spec: SamplingSpec, counts: Sequence[int]) -> list[SamplingSpec]:
    """A specification in each of these numbers of steps, checked. Raises ValueError for what does not fit the model."""
    return [dataclasses.replace(spec, steps=count, times=None).checked(model) for count in counts]


def by_steps(
    model: Model,
    spec: SamplingSpec,
    counts: Sequence[int],
    *,
    device: torch.device | str | None = None,
    on_step: Callable[[State], object] | None = None,
    execution: Execution | None = None,
) -> dict[int, Tensor]:
    """The samples of a specification, `[n, *d]`, in each of these numbers of steps from the same start noise."""
    specs = in_steps(model, spec, counts)
    execution = choose(model, *specs) if execution is None else execution
    samples: dict[int, Tensor] = {}
    for count, each in zip(counts, specs, strict=True):
        batches = draw(model, each, device=device, on_step=on_step, execution=execution)
        samples[count] = torch.cat([x for _, x in batches])
    return samples
