"""The randomness of a step, by the place of each sample in the batch.

What sample i of the batch of step j is given is a function of (seed, j, i) alone. So however many processes share a
batch, in however many parts each of them computes its own, they train on the same noise, at the same times.

Few numbers to a sample (a time, a mirrored picture, a dropped label) are drawn for the whole batch by every process,
which keeps those of its own samples. The noise of a sample has a generator of its own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from leapstep.core.noise import Noise


def _sequence(*entropy: int) -> np.random.SeedSequence:
    """That of some integers and of how many they are: NumPy takes those that end in zeros for the same."""
    return np.random.SeedSequence((len(entropy), *entropy))


def seeded(*entropy: int) -> int:
    """A seed for PyTorch's generators that is a function of some integers, another one for each number of them."""
    return int(_sequence(*entropy).generate_state(1, np.uint64)[0])


def generator(*entropy: int) -> torch.Generator:
    """A generator on the CPU that begins with `seeded`."""
    return torch.Generator().manual_seed(seeded(*entropy))


def normal(seed: int, step: int, rows: range, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal noise for some samples of a batch, each a function of (seed, step, row) alone.

    On a CPU it is that of `leapstep.core.noise`, which the processor makes anyway. Elsewhere the device's own generator
    is turned to each sample, since noise made on the CPU would be waited for; its numbers are those of that device.

    Arguments:
        rows: the places of the samples in the batch, b of them.
        shape: d, of a sample.
    Returns:
        float32 `[b, *d]` on the device.
    """
    if device.type == "cpu":
        return Noise(seeded(seed), rows, shape)(step)
    return by_generators(seed, step, rows, shape, device)


def by_generators(seed: int, step: int, rows: range, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """What `normal` is on a device that has a generator."""
    seeds = _sequence(seed, step).generate_state(rows.stop, np.uint64)  # the first do not depend on n
    chance, eps = torch.Generator(device), torch.empty(len(rows), *shape, device=device)
    for sample, row in zip(eps, rows, strict=True):
        sample.normal_(generator=chance.manual_seed(int(seeds[row])))
    return eps
