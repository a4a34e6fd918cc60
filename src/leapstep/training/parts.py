"""The parts of a training run: network, devices, learning rate, averaged weights."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leapstep import launch
from leapstep.data.dataset import Data
from leapstep.networks import MLP, UNet
from leapstep.training.configuration import RunConfig, TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def build_network(config: TrainingConfig, data: Data) -> UNet | MLP:
    """Build the network that a configuration describes, with fresh weights, for the shape and classes of the data.

    Raises:
        ValueError: pictures that the U-Net's stages do not divide, labels that the data does not have, and other
            settings that do not fit the data.
    """
    shared: dict[str, Any] = {
        "classes": (len(data.classes) + (config.label_dropout > 0)) if config.labels else None,
        "dropout": config.dropout,
        "time_embedding": config.time_embedding,
        "timesteps": config.timesteps,
    }
    if config.labels and data.labels is None:
        raise ValueError(f"labels were asked for, but {data.source} has none: train without --labels")
    if (config.network or ("unet" if data.is_pictures else "mlp")) == "mlp":
        return MLP(shape=data.shape, width=config.width, depth=config.depth, **shared)
    if len(data.shape) != 3:
        raise ValueError(
            f"a U-Net takes samples of shape (channels, height, width), not {data.shape}: use --network mlp"
        )
    check_sides(data.shape, len(config.channels), config.patch)
    return UNet(
        in_channels=data.shape[0],
        patch=config.patch,
        channels=config.channels,
        attention=config.attention,
        blocks=config.blocks,
        head_channels=config.head_channels,
        groups=config.groups,
        **shared,
    )


def check_sides(shape: tuple[int, ...], stages: int, patch: int = 1) -> None:
    """Raise ValueError where a U-Net of so many stages cannot cut pictures of this shape in patches and halve them."""
    multiple = patch * 2 ** (stages - 1)
    if shape[1] % multiple or shape[2] % multiple:
        patches = f" on patches of {patch}x{patch}" if patch > 1 else ""
        raise ValueError(
            f"pictures of {shape[1]}x{shape[2]} pixels do not fit {stages} stages{patches}, which need "
            f"multiples of {multiple}: pass another --size, or fewer --channels and --attention"
        )


def largest(data: Data) -> float:
    """The largest absolute value of the data in model space."""
    parts = (range(i, min(i + 4096, len(data))) for i in range(0, len(data), 4096))
    return max(data.batch(part).abs().max().item() for part in parts)


def learning_rate(config: RunConfig, step: int) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then constant, or half a cosine down to 0."""
    warm = min(1.0, (step + 1) / (config.warmup + 1))
    if config.lr_schedule == "constant":
        return config.learning_rate * warm
    progress = max(0, step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * warm * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def ema_update(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Average weights with min(decay, (1 + n) / (10 + n)) after n updates, so that the first weights soon fade."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], n: Tensor) -> None:
        kept = min(decay, (1 + n.item()) / (10 + n.item()))
        torch._foreach_lerp_(averaged, current, 1 - kept)

    return update


def keep_memory() -> None:
    """Let the process keep what a step frees for the next step (glibc).

    By default the C library returns large pieces to the system, and the next step touches each of their pages anew. In
    bf16 that takes a sixth of the time of a step on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # as in malloc.h
        mallopt(trim_threshold, -1)
        mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # the largest that older versions allow


def accelerator(config: RunConfig, device: str | None) -> Accelerator:
    """An Accelerator for the device and the accumulation of gradients of a configuration.

    Arguments:
        device: "cpu" to leave a GPU alone; None: the best there is.

    Raises:
        ValueError: If several processes were started, and accelerate does not join them on this device.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # or else the device of an earlier run in this process would be in force
    AcceleratorState._reset_state(reset_partial_state="WORLD_SIZE" not in os.environ)
    cpu = device == "cpu" or not torch.accelerator.is_available()  # accelerate joins CPU processes only if it is told
    with launch.without_fsdp():  # see `sharding`, which also knows CPUs and averages
        made = Accelerator(cpu=cpu, mixed_precision="no", gradient_accumulation_steps=config.accumulate)
    if launch.processes() > made.num_processes:
        raise ValueError(
            f"{launch.processes()} processes were started, which cannot compute one batch together on "
            f"{made.device.type}: use torchrun or accelerate launch, pass --device cpu, or start one process"
        )
    return made
