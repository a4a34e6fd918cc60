"""The values of a data set: an array, or what is indexed like one and holds its samples elsewhere."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]


WINDOW = 2**26
"""Bytes of blocks within which samples are shuffled."""

LARGEST = 2**30
"""Bytes of the largest block that is read as a whole."""

FEWEST = 4
"""At least so many blocks are shuffled together."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Runs of neighbouring samples that are read together, where one alone would cost as much as all of its run.

    Attributes:
        starts: int64 [b + 1], the first sample of each block, and the number of all samples.
        window: how many blocks may be held in memory together.
    """

    starts: Rows
    window: int

    def of(self, rows: Rows) -> Blocks:
        """The blocks of a selection of the samples, numbered anew; their rows are ascending."""
        return Blocks(np.unique(np.searchsorted(rows, self.starts)), self.window)


def window_of(sizes: Sequence[int]) -> int:
    """How many blocks of these sizes, in bytes, are held in memory together."""
    return max(FEWEST, WINDOW * len(sizes) // max(1, sum(sizes)))


class Values(Protocol):
    """Samples [n, *d], which are indexed as an array is: by a number, a slice, or an array of numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, *d]."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a value."""
        ...

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        ...

    @property
    def size(self) -> int:
        """The number of values."""
        ...

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Array: ...

    def __array__(self) -> Array: ...


class Elsewhere(ABC):
    """Values that are read when they are indexed, and are not kept.

    Arguments:
        shape: [n, *d].
        dtype: of the values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype

    @abstractmethod
    def take(self, rows: Rows) -> Array:
        """The samples of these rows, [b, *d], a new array."""

    @property
    @abstractmethod
    def blocks(self) -> Blocks | None:
        """Which samples are read together; None where each is reached alone."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """How many threads at a time shorten the reading; 0 where it takes nearly no time."""

    @property
    @abstractmethod
    def state(self) -> str | None:
        """As long as it is the same, so are the samples; None where nothing short of them tells that."""

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.size * self.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Array:
        if isinstance(index, tuple):
            found = self[index[0]]
            return np.asarray(found[index[1:]] if found.ndim < self.ndim else found[(slice(None), *index[1:])])
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return np.asarray(self.take(rows[None])[0])
        return self.take(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:].astype(dtype or self.dtype, copy=False)


class Selection(Elsewhere):
    """Some samples of values that are mapped from a file or read when they are indexed; nothing is copied.

    Arguments:
        values: the whole.
        rows: [n] indices into them.
    """

    def __init__(self, values: Values, rows: Rows) -> None:
        super().__init__((len(rows), *values.shape[1:]), values.dtype)
        self.values, self.rows = values, rows

    def take(self, rows: Rows) -> Array:
        """As of `Elsewhere`."""
        return np.asarray(self.values[self.rows[rows]])

    @property
    def blocks(self) -> Blocks | None:
        """Those of the whole, as far as they are selected; None where the selection is not in order."""
        whole = blocks_of(self.values)
        return None if whole is None or (np.diff(self.rows) < 0).any() else whole.of(self.rows)

    @property
    def state(self) -> str | None:
        """As of the whole."""
        whole = self.values.state if isinstance(self.values, Elsewhere) else None
        return whole and hashlib.sha256(whole.encode() + self.rows.tobytes()).hexdigest()

    @property
    def threads(self) -> int:
        """As of the whole."""
        return threads_of(self.values)


def blocks_of(values: Values) -> Blocks | None:
    """Which samples of some values are read together; None where each is reached alone."""
    return values.blocks if isinstance(values, Elsewhere) else None


def threads_of(values: Values) -> int:
    """How many threads at a time shorten the reading of some values; 0 where it takes nearly no time."""
    return values.threads if isinstance(values, Elsewhere) else 0
