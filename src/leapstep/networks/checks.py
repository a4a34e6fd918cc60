"""Checks shared by all networks: their configurations and their inputs."""

import dataclasses
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor


def check_fields(config: Any) -> None:
    """Turn the lists of a configuration, as JSON has them, into tuples, and check the fields that are a choice.

    Raises:
        ValueError: if a field of a Literal type has another value.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list):
            object.__setattr__(config, field.name, tuple(value))
        if get_origin(field.type) is Literal and value not in get_args(field.type):
            choices = [repr(choice) for choice in get_args(field.type)]
            raise ValueError(f"{field.name} is {value!r}; use {', '.join(choices[:-1])} or {choices[-1]}")


def check_stages(config: Any, stages: int, *names: str) -> None:
    """Raise ValueError if one of these fields does not have one entry per stage."""
    for name in names:
        if (entries := len(getattr(config, name))) != stages:
            raise ValueError(f"{name} has {entries} entries for {stages} stages; give one per stage")


def check_images(x: Tensor, channels: int, stages: int, patch: int = 1) -> None:
    """Raise ValueError if x is not [b, channels, h, w] with sides that a U-Net can cut in patches and then halve."""
    multiple = patch * 2 ** (stages - 1)
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"x has shape {list(x.shape)}; this network takes [batch, {channels}, height, width]")
    if x.shape[2] % multiple or x.shape[3] % multiple:
        patches = f" on patches of {patch} x {patch}" if patch > 1 else ""
        raise ValueError(
            f"x is {x.shape[2]} x {x.shape[3]} pixels; with {stages} stages{patches} height and width must be multiples"
            f" of {multiple}: pad or resize x, or build the network with fewer stages"
        )


def one_per_sample(timestep: Tensor | float, x: Tensor) -> Tensor:
    """Return one timestep per sample, [b], in float32, or in float64 if x is."""
    batch = x.shape[0]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if not isinstance(timestep, Tensor):
        return torch.full((batch,), timestep, dtype=dtype, device=x.device)
    if timestep.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"timestep is {timestep.dtype}, too coarse for integers to 1000; pass integers or float32")
    if timestep.ndim > 1 or (timestep.ndim == 1 and timestep.shape[0] != batch):
        raise ValueError(
            f"timestep has shape {list(timestep.shape)} for a batch of {batch};"
            f" pass one of shape [{batch}], a 0-dim one or a number"
        )
    return timestep.to(x.device, dtype).expand(batch)
