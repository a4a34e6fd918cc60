"""Data in memory, of arrays and of pictures, with labels in turn."""

import dataclasses

import numpy as np

from leapstep.core.scaling import PIXELS, Scaling
from leapstep.data import Data

rng = np.random.default_rng(0)
PLAIN = Scaling(0.0, 1.0)


def arrays(values, labels=None, scaling=PLAIN):
    classes = () if labels is None else tuple(str(label) for label in range(max(labels) + 1))
    return Data(values, None if labels is None else np.asarray(labels, np.int64), classes, "array", scaling)


def pictures(n, channels, height, width, classes=2):
    values = rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8)
    return dataclasses.replace(arrays(values, np.arange(n) % classes), scaling=PIXELS)
