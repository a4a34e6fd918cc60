"""In which order samples are taken: a function of a seed and the number of the epoch alone."""

from __future__ import annotations

import functools

import numpy as np

from leapstep.data.values import Blocks, Rows


@functools.lru_cache(maxsize=2)  # a batch may lie across two epochs
def order(seed: int, epoch: int, n: int, blocks: Blocks | None = None) -> Rows:
    """In which order an epoch takes n samples, a function of the seed and the epoch.

    Where samples are read in blocks, the blocks are shuffled, and then the samples of each window of so many blocks as
    may be in memory: neighbours in the data come within a window of each other, and each block is read once. What comes
    before a place in the order need not be read to go on from there.

    The samplers of PyTorch and accelerate shuffle by seed + epoch, so that a run with the next seed sees the same
    orders one epoch earlier.
    """
    random = np.random.default_rng([seed, epoch])
    if blocks is None:
        return random.permutation(n)
    parts = np.split(np.arange(n), blocks.starts[1:-1])
    turn = random.permutation(len(parts))
    windows = (turn[first : first + blocks.window] for first in range(0, len(turn), blocks.window))
    return np.concatenate([random.permutation(np.concatenate([parts[i] for i in window])) for window in windows])
