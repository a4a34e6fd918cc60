"""A data set: samples in memory or mapped from a file, their labels, and their scaling to model space."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from leapstep.core.printing import summary
from leapstep.core.scaling import PIXELS, Scaling
from leapstep.data.values import Array as Array
from leapstep.data.values import Elsewhere, Selection, Values

if TYPE_CHECKING:
    from torch import Tensor


class NoSplit(ValueError):
    """The source has no such split."""


@dataclass(frozen=True, repr=False)
class Data:
    """A data set.

    Attributes:
        values: [n, *d]; uint8 [n, c, h, w] for images, any integer or float type and shape for arrays. They may be
            memory-mapped, or decoded when they are indexed.
        labels: int64 [n], indices into `classes`, or None.
        classes: the names of the classes; empty without labels.
        source: the name that was read.
        scaling: how values map to model space.
        skipped: a line for each image that could not be read: its name and the reason.
        originals: number of images by their original (width, height); empty for arrays.
        hashes: uint64 [n], those that `hashes` gives, where they are known.
        names: uint64 [n], the hash of each sample's name in the source, where the values are decoded on demand.
    """

    values: Values
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    source: str
    scaling: Scaling
    skipped: tuple[str, ...] = ()
    originals: Mapping[tuple[int, int], int] = field(default_factory=dict)
    hashes: npt.NDArray[np.uint64] | None = None
    names: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        fields = {"values": self.values, "labels": self.labels, "classes": self.classes, "source": self.source}
        return summary(self, {**fields, "scaling": self.scaling}.items())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape d of one sample."""
        return self.values.shape[1:]

    @property
    def is_pictures(self) -> bool:
        """Whether the values are uint8 images [n, c, h, w]."""
        return self.scaling == PIXELS and self.values.dtype == np.uint8

    def batch(self, indices: Sequence[int] | Array | Tensor) -> Tensor:
        """Return samples in model space.

        Arguments:
            indices: [b] integers in [0, n).

        Returns:
            float32 [b, *d], a copy.
        """
        return self.scaling.to_model(np.asarray(self.values[np.asarray(indices)]))

    def subset(self, indices: Array) -> Data:
        """Select samples as a data set: a copy where they lie in memory, otherwise a view.

        Arguments:
            indices: [b] integers in [0, n).
        """
        view = isinstance(self.values, np.memmap | Elsewhere)
        return replace(
            self,
            values=Selection(self.values, np.asarray(indices)) if view else self.values[indices],
            labels=None if self.labels is None else self.labels[indices],
            skipped=(),
            hashes=None if self.hashes is None else self.hashes[indices],
            names=None if self.names is None else self.names[indices],
        )


def hashes(values: Values) -> npt.NDArray[np.uint64]:
    """The hash of each sample's values, [n]: BLAKE2b of 8 bytes."""
    size = max(1, 2**24 * len(values) // max(1, values.nbytes))
    digests = bytearray()
    for start in range(0, len(values), size):
        for row in np.ascontiguousarray(values[start : start + size]):
            digests += hashlib.blake2b(row.tobytes(), digest_size=8).digest()
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def resizing(data: Data) -> str | None:
    """Describe in one line how images were brought to one size; None if they had it."""
    others = {size: count for size, count in data.originals.items() if size != data.shape[:0:-1]}
    if not others:
        return None
    (width, height), _ = max(others.items(), key=lambda item: item[1])
    sizes = f"{width}x{height}" if len(others) == 1 else f"{len(others)} sizes, most often {width}x{height},"
    cropped = "cropped to squares and " if any(w != h for w, h in others) else ""
    _, h, w = data.shape
    enlarged = sum(count for size, count in others.items() if min(size) < min(h, w))
    note = f"; {enlarged} of them were smaller, and become blurred" if enlarged else ""
    return f"{sum(others.values())} images of {sizes} are {cropped}resized to {w}x{h}{note}"


def same_source(a: str, b: str) -> bool:
    """Whether two names are the same source of data: equal, or the same file or folder."""
    return a == b or (Path(a).exists() and Path(b).exists() and Path(a).samefile(b))
