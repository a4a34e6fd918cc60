"""Data to measure."""

import numpy as np
import pytest

from leapstep.core.scaling import Scaling
from leapstep.data import read
from small_data import arrays, rng


@pytest.fixture(scope="session")
def digits():
    return read("digits"), read("digits", split="test")


@pytest.fixture
def blobs():
    """Points in 3 dimensions around one centre for each of 3 classes, far apart."""
    labels = np.arange(240) % 3
    return arrays(np.eye(3)[labels] * 20 + 50 + rng.standard_normal((240, 3)), labels, Scaling(56.0, 10.0))
