"""In which order a run takes its samples."""

import numpy as np
import pytest
import torch

from leapstep.core.scaling import PIXELS
from leapstep.data import Data
from leapstep.data.values import Blocks
from leapstep.training.samples import Samples, order


def test_a_batch_is_a_function_of_the_position_alone_also_across_epochs():
    pixels = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    data = Data(pixels, np.arange(20) % 3, ("a", "b", "c"), "here", PIXELS)
    rows = np.arange(3, 14)
    samples = Samples(data, rows, None, None)
    stream = np.concatenate([rows[order(5, epoch, len(rows))] for epoch in range(6)])
    for start, size in ((0, 4), (9, 5), (10, 1), (11, 11), (8, 40), (22, 30)):
        x0, labels = samples.batch(5, start, size)
        expected = stream[start : start + size]
        assert torch.equal(x0, data.batch(expected))
        np.testing.assert_array_equal(labels, expected % 3)


BLOCKS = Blocks(np.array([0, 7, 9, 20, 21, 33, 40, 50, 64]), 3)


@pytest.mark.parametrize("blocks", [None, BLOCKS])
def test_each_epoch_takes_each_sample_once_in_an_order_of_its_own(blocks):
    orders = [order(seed, epoch, 64, blocks).tolist() for seed in range(3) for epoch in range(3)]
    assert all(sorted(one) == list(range(64)) for one in orders)
    assert len(set(map(tuple, orders))) == 9
    order.cache_clear()
    assert order(1, 2, 64, blocks).tolist() == orders[5]  # whatever was asked for before


def test_an_order_by_windows_reads_each_block_once_and_mixes_what_it_holds():
    positions = []
    for epoch in range(400):
        block = np.searchsorted(BLOCKS.starts, order(0, epoch, 64, BLOCKS), "right") - 1
        first = list(dict.fromkeys(block.tolist()))
        sizes = np.diff(BLOCKS.starts)
        ends = [sizes[first_three].sum() for first_three in (sorted(set(first[:3])),)]
        assert set(block[: ends[0]]) == set(first[:3])  # the first window, and nothing else
        assert len(set(np.diff(np.flatnonzero(block == first[0])))) > 1 or sizes[first[0]] < 3
        positions.append(np.argsort(order(0, epoch, 64, BLOCKS)))
    mean = np.mean(positions, 0)  # of a uniform position 31.5, with a standard error of 18.5 / 20
    assert abs(mean - 31.5).max() < 5 * 18.5 / 20
