"""What arrays of numbers are as data: images or not, and how they are scaled."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import numpy.typing as npt

from leapstep.core.scaling import Scaling
from leapstep.data.values import Array, Values


def as_pixels(values: Values) -> npt.NDArray[np.uint8] | None:
    """Return a view as images [n, c, h, w], or None if the array does not hold images."""
    if values.dtype != np.uint8 or values.ndim not in (3, 4):
        return None
    if values.ndim == 3:
        return values[:, None]
    if values.shape[1] in (1, 3):
        return cast(Array, values)
    return np.moveaxis(cast(Array, values), -1, 1) if values.shape[-1] in (1, 3) else None


def standardised(values: Values, source: str) -> Scaling:
    """Compute mean and standard deviation over all values, in two passes of bounded memory."""
    rows = max(1, 2**22 * len(values) // values.size)
    starts = range(0, len(values), rows)
    total, bad, low, high = 0.0, 0, math.inf, -math.inf
    first: tuple[int, ...] = ()
    for start in starts:
        chunk = values[start : start + rows].astype(np.float64)
        faults = np.argwhere(~np.isfinite(chunk))
        if len(faults) and not bad:
            first = (start + int(faults[0][0]), *(int(index) for index in faults[0][1:]))
        bad += len(faults)
        total += chunk.sum() if not bad else 0.0
        low, high = min(low, chunk.min()), max(high, chunk.max())
    if bad:
        raise ValueError(f"{source} holds {bad} NaN or infinite values, the first at index {list(first)}: remove them")
    mean = total / values.size
    squares = sum(np.square(values[start : start + rows].astype(np.float64) - mean).sum() for start in starts)
    if low == high:
        raise ValueError(f"all values of {source} are {values[0].flat[0]}: there is nothing to learn")
    return Scaling(float(mean), math.sqrt(squares / values.size))
