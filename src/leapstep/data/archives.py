"""Samples in npz archives, which are unpacked one at a time.

A compressed archive has to be unpacked as a whole for one of its samples, so that archives are the `Blocks` of these;
those that were unpacked last are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leapstep.data import cache
from leapstep.data.ahead import Recent
from leapstep.data.decoding import Item
from leapstep.data.on_demand import Encoded, numbered, within
from leapstep.data.values import Array, Blocks, Elsewhere, Rows, window_of
from leapstep.files import reading
from leapstep.progress import progress_bar


class Archives(Elsewhere):
    """The samples of some archives, `samples` [b, *d] and `labels` [b] of each.

    Arguments:
        paths: of the archives, in order.
        source: the name of the data: the folder that they are in.
        progress: show a progress bar where looking through them takes more than a second.

    Raises:
        ValueError: one of them cannot be read, or holds samples of another shape or type than the first.
    """

    def __init__(self, paths: Sequence[Path], source: str, progress: bool = True) -> None:
        self.paths = list(paths)
        counts, labels = [], []
        first: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        for path in progress_bar(len(paths), "looking through archives", " files", items=paths, show=progress):
            kinds = reading.kinds_in_npz(path)
            if "samples" not in kinds:
                raise ValueError(f"{path} holds no samples: remove it")
            shape, dtype = kinds["samples"]
            first = first or (shape[1:], dtype)
            if not shape or (shape[1:], dtype) != first:
                raise ValueError(f"{path} holds {dtype} {list(shape[1:])} and {paths[0]} {first[1]} {list(first[0])}")
            counts.append(shape[0])
            known = reading.read_npz(path, ["labels"]).get("labels", np.full(shape[0], -1))
            if known.shape != shape[:1] or known.dtype.kind not in "iu":
                raise ValueError(
                    f"{path} holds {shape[0]} samples and {known.dtype} labels {list(known.shape)}: remove it"
                )
            labels.append(known)
        assert first is not None, "there are archives"
        starts = np.cumsum([0, *counts])
        super().__init__((int(starts[-1]), *first[0]), first[1])
        numbers = np.concatenate(labels)
        self.labels: Rows | None = numbers.astype(np.int64) if len(numbers) and numbers.min() >= 0 else None
        self.names = np.concatenate(
            [numbered(within(str(path), source), np.arange(n)) for path, n in zip(paths, counts, strict=True)]
        )
        sizes = [n * (self.nbytes // max(1, len(self))) for n in counts]
        self.largest = max(sizes)
        self._blocks = Blocks(starts, window_of(sizes))
        self._unpacked = Recent(
            lambda number: reading.read_npz(paths[number], ["samples"])["samples"], 2 * self._blocks.window
        )

    def take(self, rows: Rows) -> Array:
        """As of `Elsewhere`."""
        numbers = self.archives_of(rows)
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            values[here] = self._unpacked.take(number)[rows[here] - self._blocks.starts[number]]
        return values

    def archives_of(self, rows: Rows) -> Rows:
        """In which archive each of these rows is."""
        return np.searchsorted(self._blocks.starts, rows, "right") - 1

    @property
    def blocks(self) -> Blocks | None:
        """As of `Elsewhere`: the archives."""
        return self._blocks

    @property
    def threads(self) -> int:
        """As of `Elsewhere`."""
        return 1

    @property
    def state(self) -> str | None:
        """As of `Elsewhere`."""
        return cache.state_of(self.paths)


class Pictures(Encoded):
    """Archives whose samples are pictures; see `leapstep.data.on_demand.Encoded`."""

    def __init__(self, archives: Archives, classes: tuple[str, ...]) -> None:
        self.archives, self.labels, self.classes, self.blocks = archives, archives.labels, classes, archives.blocks

    def __len__(self) -> int:
        return len(self.archives)

    @property
    def names(self) -> npt.NDArray[np.uint64]:
        """As of `Encoded`."""
        return self.archives.names

    @property
    def state(self) -> str | None:
        """As of `Encoded`."""
        return self.archives.state

    def items(self, rows: Iterable[int]) -> Iterator[Item]:
        """As of `Encoded`."""
        for row in rows:
            pixels = self.archives.take(np.array([row]))[0]
            path = self.archives.paths[int(self.archives.archives_of(np.array(row)))]
            yield Item(f"{path}, sample {row}", None if self.labels is None else int(self.labels[row]), pixels)
