"""Checks of features and probabilities, and their conversion to float64."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Samples = Tensor | npt.NDArray[Any]

LARGEST = 1e25
"""The largest feature: the variance of a kernel distance is of the twelfth power of features."""

PAIRS = 2**22
"""Entries of a block: 32 MiB in float64."""

PART = 2**22
"""Entries of a part of a large set, which may be mapped from a file: 32 MiB in float64."""


def features_of(samples: Samples, least: int, what: str) -> Tensor:
    """Samples as vectors [n, k] in float64. Raises ValueError where they are fewer than `what` needs, or not finite."""
    if isinstance(samples, Tensor):
        features = samples.detach().to("cpu", torch.float64)
    else:
        features = torch.from_numpy(np.array(samples, np.float64))  # a copy: arrays may be read-only
    if features.ndim == 0 or len(features) < least:
        few = f"{least} sample{'s' if least > 1 else ''}"
        raise ValueError(f"samples of shape {list(features.shape)}: {what} needs at least {few}")
    features = features.flatten(1) if features.ndim > 1 else features[:, None]
    if features.shape[1] == 0:
        raise ValueError(f"samples of shape {list(samples.shape)} have no features: pass at least one")
    if not features.isfinite().all():
        raise ValueError(f"samples of shape {list(samples.shape)} hold NaN or infinite values: remove them first")
    if (largest := features.abs().max().item()) > LARGEST:
        raise ValueError(f"samples reach {largest:.3g}, whose distances are beyond float64: divide them by their scale")
    return features


def parts_of(samples: Samples, least: int, what: str) -> Iterator[Samples]:
    """Samples part by part, as a large set is never whole in float64. Raises ValueError where they are too few."""
    if samples.ndim == 0 or len(samples) < least:
        features_of(samples, least, what)
    rows = max(1, PART * len(samples) // max(1, math.prod(samples.shape)))
    for start in range(0, len(samples), rows):
        yield samples[start : start + rows]


def pair_of(a: Samples, b: Samples, least: int, what: str) -> tuple[Tensor, Tensor]:
    """Two sets of samples as vectors [n, k] and [m, k]; see `features_of`."""
    a, b = features_of(a, least, what), features_of(b, least, what)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"samples of {a.shape[1]} and {b.shape[1]} features: both sets must have the same dimension")
    return a, b


def with_neighbours(samples: Samples, reference: Samples, k: int) -> tuple[Tensor, Tensor]:
    """As `pair_of`, where each sample of a set has k others beside it."""
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    a, b = pair_of(samples, reference, 1, "a distance")
    if (few := min(len(a), len(b))) <= k:
        raise ValueError(
            f"{few} samples: precision, recall, density and coverage with k={k} need at least {k + 1}; pass more, a "
            "smaller k, or other metrics"
        )
    return a, b


def probabilities_of(given: Samples | None) -> Tensor:
    """The probabilities of classes [n, classes] in float64. Raises ValueError for what are none."""
    if given is None or given.ndim != 2:
        shape = None if given is None else list(given.shape)
        raise ValueError(f"probabilities of shape {shape}: pass [samples, classes]")
    probabilities = features_of(given, 1, "a score")
    if (probabilities < 0).any() or ((probabilities.sum(1) - 1).abs() > 1e-3).any():
        raise ValueError("probabilities below 0, or rows that do not sum to 1: pass the softmax of the logits")
    return probabilities
