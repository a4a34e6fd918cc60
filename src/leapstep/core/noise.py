"""Noise of which every sample has its own.

The noise of sample i at step j is a function of (seed, i, j) alone, from a counter-based generator (Salmon et al. 2011,
Parallel random numbers: as easy as 1, 2, 3), whatever the batch, the device and the number of workers.
"""

from __future__ import annotations

import itertools
import math
import operator
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.core.printing import summary

_PART = 8192
"""How many words are made normal at a time, so that what lies between them and the numbers stays in the cache."""


@dataclass(frozen=True, repr=False)
class Noise:
    """Standard normal noise of which every sample has its own, the same on every device.

    Attributes:
        seed: an integer from 0 to 2^64 - 1, one for all samples or one each.
        rows: the indices i of the samples in this batch, integers from 0 on.
        shape: `d`, the shape of one sample.
        dtype: floating-point type of the noise.
        device: where it is put.
    """

    seed: int | Sequence[int]
    rows: Sequence[int]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __repr__(self) -> str:
        return summary(self, vars(self).items())

    def __post_init__(self) -> None:
        _words("seed", self.seed, len(self.rows))
        if len(self.rows) and min(self.rows) < 0:
            raise ValueError(f"rows={self.rows}: the indices of samples are integers from 0 on")

    def __call__(self, step: int | Sequence[int] | Tensor, draw: int = 0) -> Tensor:
        """Draw `[b, *d]` for this step, one for all samples or one each; step 0 is the start noise.

        Raises:
            ValueError: a step or a draw that is not an integer from 0 to 2^64 - 1.
        """
        n, size = len(self.rows), math.prod(self.shape)
        blocks = -(-size // 8)  # Philox makes four words a count, and row i owns the counts from i * blocks on
        draw, words, low = _word("draw", draw), np.empty((n, 4 * blocks), np.uint64), 0
        generator = _generator()
        for seed, number, row, length in self._runs(step):
            # as one integer, not as four words, of which the first would end at 2^64
            _turn_to(generator, seed, row * blocks + (draw << 128) + (number << 192))
            words[low : low + length] = generator.random_raw((length, 4 * blocks))
            low += length
        z = np.empty((n, 8 * blocks), np.float64 if self.dtype == torch.float64 else np.float32)
        for part in range(0, words.size, _PART):
            normal(words.reshape(-1)[part : part + _PART], z.reshape(-1)[2 * part : 2 * (part + _PART)])
        return torch.from_numpy(z)[:, :size].reshape(-1, *self.shape).to(self.dtype).to(self.device)

    def _runs(self, step: int | Sequence[int] | Tensor) -> Iterator[tuple[int, int, int, int]]:
        """Neighbouring rows of one seed and step: (seed, step, first row, number of rows)."""
        n = len(self.rows)
        seeds, steps = _words("seed", self.seed, n), _words("step", step, n)
        if isinstance(self.rows, range) and self.rows.step == 1 and len(seeds) == len(steps) == 1:
            yield seeds[0], steps[0], self.rows.start, n
            return
        rows = enumerate(zip(itertools.cycle(seeds), itertools.cycle(steps), self.rows))
        for (seed, number, offset), run in itertools.groupby(rows, lambda at: (*at[1][:2], at[1][2] - at[0])):
            indices = [index for index, _ in run]
            yield seed, number, offset + indices[0], len(indices)


def _word(name: str, value: Any) -> int:
    try:
        word = operator.index(value)
    except TypeError:
        word = -1
    if not 0 <= word < 2**64:
        raise ValueError(f"{name}={value}: must be an integer from 0 to 2^64 - 1")
    return word


def _words(name: str, values: int | Sequence[int] | Tensor, n: int) -> list[int]:
    """The seeds or steps of n samples: one for each, or a single one for all."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if not isinstance(values, Sequence):
        return [_word(name, values)]
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} values for {n} samples: give one for all, or one for each")
    return [_word(name, value) for value in values]


_OF_THIS_THREAD = threading.local()


def _generator() -> np.random.Philox:
    """A generator to be turned to any seed and counter: to make one anew takes ten times as long."""
    if not hasattr(_OF_THIS_THREAD, "generator"):
        _OF_THIS_THREAD.generator = np.random.Philox(0)
    generator: np.random.Philox = _OF_THIS_THREAD.generator
    return generator


def _turn_to(generator: np.random.Philox, key: int, counter: int) -> None:
    words = [counter >> shift & 2**64 - 1 for shift in (0, 64, 128, 192)]
    generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": np.array(words, np.uint64), "key": np.array([key, 0], np.uint64)},
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,  # empty
        "has_uint32": 0,
        "uinteger": 0,
    }


def normal(words: npt.NDArray[np.uint64], z: npt.NDArray[np.floating[Any]]) -> None:
    """Two standard normal numbers of each word, by Box and Muller's formula, sqrt(-2 log u) (cos a, sin a).

    u in (0, 1) is of the high half of the word, and the angle a in [-pi, pi) of the low half. No number is larger than
    6.8. What float32 results depend on is the word alone, not its place; they are within 2e-6 of those in float64.

    Arguments:
        words: `[n]`.
        z: `[2 n]`, float32 or float64: where the numbers go.
    References:
        Box and Muller 1958, A note on the generation of random normal deviates.
    """
    low, high = words.astype(np.uint32).view(np.int32), (words >> np.uint64(32)).astype(np.float64)
    high += 0.5
    high *= 2.0**-32
    np.log(high, out=high)
    high *= -2.0
    radius = np.sqrt(high, out=high).astype(z.dtype, copy=False)
    angle = low.astype(z.dtype)
    angle *= z.dtype.type(math.pi * 2.0**-31)
    np.multiply(radius, np.cos(angle), out=z[0::2])
    np.multiply(radius, np.sin(angle), out=z[1::2])
