"""Noise of which every sample has its own.

The noise of sample i at step j is a function of (seed, i, j) alone, from a counter-based generator (Salmon et al. 2011,
Parallel random numbers: as easy as 1, 2, 3), whatever the batch, the device and the number of workers.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.core.printing import summary


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
        blocks = -(-size // 4)  # Philox makes four words a count, and row i owns the counts from i * blocks on
        draw, words, low = _word("draw", draw), np.empty((n, 4 * blocks), np.uint64), 0
        for seed, number, row, length in self._runs(step):
            # as one integer, not as four words, of which the first would end at 2^64
            counter = row * blocks + (draw << 128) + (number << 192)
            words[low : low + length] = np.random.Philox(key=seed, counter=counter).random_raw((length, 4 * blocks))
            low += length
        z: Tensor = torch.special.ndtri(torch.from_numpy(_uniform(words[:, :size])))
        return z.reshape(-1, *self.shape).to(self.dtype).to(self.device)

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
    if not isinstance(value, SupportsIndex) or not 0 <= operator.index(value) < 2**64:
        raise ValueError(f"{name}={value}: must be an integer from 0 to 2^64 - 1")
    return operator.index(value)


def _words(name: str, values: int | Sequence[int] | Tensor, n: int) -> list[int]:
    """The seeds or steps of n samples: one for each, or a single one for all."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if not isinstance(values, Sequence):
        return [_word(name, values)]
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} values for {n} samples: give one for all, or one for each")
    return [_word(name, value) for value in values]


def _uniform(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Numbers strictly inside (0, 1) of the first 53 bits of words; the largest would round to 1."""
    numbers: npt.NDArray[np.float64] = np.minimum(((words >> np.uint64(11)) + 0.5) * 2.0**-53, 1 - 2.0**-53)
    return numbers
