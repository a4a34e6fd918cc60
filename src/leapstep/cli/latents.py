"""What the commands that go between data and noise (reconstruct, interpolate, trace) share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

    from leapstep.core.transitions import Transition
    from leapstep.models.checkpoint import Model


def step_counts(model: Model, asked: Sequence[int]) -> list[int]:
    """The numbers of steps that this model can take, ascending, among those that were asked for."""
    most = model.process.timesteps or max(asked)
    fit = sorted({steps for steps in asked if steps <= most})
    if not fit or fit[0] < 1:
        raise ValueError(f"steps {', '.join(map(str, asked))}: this model takes from 1 to {most} steps")
    return fit


def tell_left_out(model: Model, asked: Sequence[int], counts: Sequence[int]) -> None:
    """Name the numbers of steps that the model cannot take, on stderr."""
    if left := sorted(set(asked) - set(counts)):
        levels = model.process.timesteps
        typer.echo(f"left out {', '.join(map(str, left))} steps: the model has {levels} noise levels", err=True)


def check_reversible(method: str, transition: Transition, model: Model, inverse: bool = False) -> None:
    """Make sure that a method runs from data to noise, and if need be that each step can be inverted by itself.

    Raises:
        ValueError: the method injects noise, or its steps lean on earlier ones.
    """
    import torch

    import leapstep

    if not leapstep.TRANSITIONS[method].deterministic:
        others = ", ".join(name for name, entry in leapstep.TRANSITIONS.items() if entry.deterministic)
        raise ValueError(f"--method {method} injects noise, so its samples have no latents: use one of {others}")
    nothing = torch.zeros(1, *model.shape, device=next(model.network.parameters()).device)
    silent = leapstep.Diffusion(model.process, lambda x, t: torch.zeros_like(x))
    data, level = torch.tensor([0, 1 / (model.process.timesteps or 1000)], dtype=torch.float64)
    step = transition(silent, nothing, data, level, None, lambda *_: nothing)  # raises where it would inject noise
    if inverse and step.memory is not None:
        raise ValueError(f"--exact inverts each step by itself, but those of --method {method} lean on earlier ones")


def unit(model: Model) -> str:
    """In what the command measures errors."""
    return "squared pixel values from 0 to 1" if model.is_pictures else "variances of the training data"


def squared_error(model: Model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean squared difference per dimension of each sample, `[n]`, float64, in `unit`."""
    import torch

    from leapstep.core.process import flat

    scale = model.scaling.scale / 255 if model.is_pictures else 1.0
    return flat((x - y).to("cpu", torch.float64) * scale).square().mean(1)
