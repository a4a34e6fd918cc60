"""The precision in which a network is trained, where the configuration leaves it open.

bf16 means autocast: matrix products and convolutions compute in bf16; weights, their gradients, normalisations, the
loss and the optimiser stay in float32. A GPU that computes in bf16 is taken to be faster with it. On a CPU that depends
on the processor and on the network, as small layers spend more time on casts than on products; so it is measured on the
network itself, unless the run is short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

Precision = Literal["float32", "bf16"]

LONG = 2e13
"""Floating-point operations of the shortest run that is measured: about two minutes of two cores in float32."""

BRIEF = 0.2
"""Seconds of a pass that are enough for a measurement."""

GAIN = 1.1
"""How many times as fast bf16 must be."""


def known(setting: str, device: torch.device) -> Precision | None:
    """The precision of a run, as far as it needs no measurement.

    Arguments:
        setting: "float32", "bf16" or "auto".
    Returns:
        the precision; None for "auto" on a CPU.
    """
    if setting == "bf16" or (setting == "auto" and _native_on_gpu(device)):
        return "bf16"
    return None if setting == "auto" and device.type == "cpu" else "float32"


def _native_on_gpu(device: torch.device) -> bool:
    return device.type == "cuda" and bool(torch.cuda.is_bf16_supported(including_emulation=False))


def operations(loss: Callable[[int], Tensor]) -> float:
    """Floating-point operations of training on one sample: the backward pass takes twice those of the forward pass.

    Arguments:
        loss: of so many samples, as a number.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss(1)
    return 3 * float(counter.get_total_flops())


def seconds(loss: Callable[[int], Tensor], parameters: Sequence[Tensor], most: int) -> tuple[float, float, int]:
    """Time a forward and backward pass in float32 and in bf16, side by side.

    Arguments:
        loss: of so many samples, as a number.
        parameters: those that are trained.
        most: the samples of a pass in training.
    Returns:
        the least seconds in float32 and in bf16, and of how many samples: `most`, or fewer that take long enough.
    """

    def timed(n: int, bf16: bool) -> float:
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(n)
        torch.autograd.grad(value, parameters, allow_unused=True)
        return time.perf_counter() - began

    n = 1
    while (best := min(timed(n, False) for _ in range(2))) < BRIEF and n < most:
        n = min(4 * n, most)
    timed(n, True)  # warms up, as the first of the two above did
    pairs = [(timed(n, True), timed(n, False)) for _ in range(2)]
    return min(best, *(pair[1] for pair in pairs)), min(pair[0] for pair in pairs), n
