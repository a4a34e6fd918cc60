"""In which order a run takes its samples."""

import numpy as np
import torch

from leapstep.core.scaling import PIXELS
from leapstep.data import Data
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
