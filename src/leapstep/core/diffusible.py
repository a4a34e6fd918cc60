"""What a sampler takes for a diffusion: a Diffusion, a model that has one, or a function from rows to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from leapstep.core import arguments, instead
from leapstep.core.denoiser import Diffusion


class Diffusible(Protocol):
    """What has a diffusion, such as a `leapstep.Model` that needs no conditions."""

    def diffusion(self) -> Diffusion: ...  # noqa: D102


def as_diffusion(value: Diffusion | Diffusible) -> Diffusion:
    """The diffusion that is meant: itself, or that of a model without conditions.

    Raises:
        ValueError: something else, such as a network whose process nobody named.
    """
    if isinstance(value, Diffusion):
        return value
    make = getattr(value, "diffusion", None)
    made = make() if callable(make) and not isinstance(value, type) and arguments.takes(make) else None
    if not isinstance(made, Diffusion):
        raise ValueError(f"diffusion is {instead.of_diffusion(value)}")
    return made


def as_diffusions(value: Diffusion | Diffusible | Callable[[Any], Diffusion]) -> Callable[[Any], Diffusion]:
    """From some rows of a batch to the diffusion that is conditioned for them: a function of rows, or one for all."""
    if callable(value) and not isinstance(value, torch.nn.Module | type) and arguments.takes(value, None):
        return lambda rows: as_diffusion(value(rows))
    diffusion = as_diffusion(value)  # type: ignore[arg-type]  # which tells what else it is
    return lambda rows: diffusion
