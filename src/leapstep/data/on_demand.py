"""Pictures that are decoded when they are asked for, from wherever they can be reached one by one.

Sets whose decoded pictures take at most `LARGE` bytes are decoded before the work, see `leapstep.data.decoding`: each
picture once, and all that is wrong with them is known at the start. Of larger ones only their number, labels and names
are read, so that work begins at once, and memory does not grow with their number. That depends on the data and on the
size and channels that are asked for, never on the machine, so that a run is resumed as it began.

What needs all pixels goes by something else here: which samples are held out depends on their names; whether there are
colours is seen from `LOOKED_AT` of them; a picture that cannot be read is found when it is needed, and the next one of
the same class that can be read is taken for it, a function of the data alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import statistics
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leapstep.core.scaling import PIXELS
from leapstep.data import cache
from leapstep.data.dataset import Data
from leapstep.data.decoding import REPAIR, SMALL, Decoded, Item, Options, cores, decode, encoded_size
from leapstep.data.values import Array, Blocks, Elsewhere, Rows
from leapstep.launch import neighbours

LARGE = 2**32
"""Bytes of decoded pictures beyond which they are decoded on demand."""

LOOKED_AT = 32
"""From how many pictures, evenly spread, shape and colours of a large set are known."""

TRIED = 100
"""So many pictures are tried for one that cannot be read."""


class Encoded(ABC):
    """Encoded pictures that are reached by their index.

    Attributes:
        labels: int64 [n], negative where there is none; None: there are none at all.
        classes: the names of the classes.
        blocks: which of them are read together; None where each is reached alone.
    """

    labels: Rows | None
    classes: tuple[str, ...]
    blocks: Blocks | None = None

    @property
    @abstractmethod
    def names(self) -> npt.NDArray[np.uint64]:
        """The hash of each one's name, [n]."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def items(self, rows: Iterable[int]) -> Iterator[Item]:
        """The pictures of these rows, in this order."""

    @property
    def state(self) -> str | None:
        """That of the files that they lie in, see `cache.state_of`; None where it is not known."""
        return None


def decoded_on_demand(encoded: Encoded, source: str, options: Options) -> Data | None:
    """Make a data set of encoded pictures that are decoded on demand; None where they are to be decoded before.

    Arguments:
        encoded: the pictures.
        source: their name.
        options: of `leapstep.data.read`.
    """
    if options.on_demand is False:
        return None
    if options.on_demand is None:
        if options.size is not None and not are_large(len(encoded), (options.size, options.size), options):
            return None
        first = _shape(encoded, options, 1) or _shape(encoded, options, LOOKED_AT)
        if first is None or not are_large(len(encoded), first[1:], options):
            return None
    if (shape := _shape(encoded, options, LOOKED_AT)) is None:
        raise ValueError(f"no image of {source} can be read, of {LOOKED_AT} that were looked at: {REPAIR}")
    labels = encoded.labels
    labelled = labels is not None and len(labels) > 0 and int(labels.min()) >= 0
    return Data(
        values=OnDemand(encoded, shape, source, options),
        labels=labels if labelled else None,
        classes=encoded.classes if labelled else (),
        source=source,
        scaling=PIXELS,
        names=encoded.names,
    )


def are_large(n: int, sides: tuple[int, ...], options: Options) -> bool:
    """Whether n pictures of these sides are decoded on demand where nothing else is asked for."""
    return n * (options.channels or 3) * math.prod(sides) > LARGE


def _shape(encoded: Encoded, options: Options, count: int) -> tuple[int, int, int] | None:
    """(c, h, w) of decoded pictures, by so many of them; None where none of these can be read."""
    rows = np.arange(min(count, len(encoded)))  # of one block, or spread evenly
    rows = rows if encoded.blocks is not None else rows * len(encoded) // len(rows)
    found = [decode(options.size, options.channels, item) for item in encoded.items(rows.tolist())]
    shapes = [result.pixels.shape for result in found if isinstance(result, Decoded)]
    return (max(c for c, _, _ in shapes), *shapes[0][1:]) if shapes else None


class OnDemand(Elsewhere):
    """Pictures, uint8 [n, c, h, w], that are decoded when they are indexed; by any number of threads at once.

    Arguments:
        encoded: where they come from.
        shape: (c, h, w) of each.
        source: the name of the data, for messages.
        options: of `leapstep.data.read`.
    """

    def __init__(self, encoded: Encoded, shape: tuple[int, int, int], source: str, options: Options) -> None:
        super().__init__((len(encoded), *shape), np.dtype(np.uint8))
        self.encoded, self.source, self.options = encoded, source, options
        sizes = [encoded_size(item) for item in encoded.items(range(min(8, len(encoded))))]
        self._is_small = statistics.median(sizes) < SMALL
        self._told: set[int] = set()
        self._telling = threading.Lock()

    @property
    def blocks(self) -> Blocks | None:
        """Those of the encoded pictures."""
        return self.encoded.blocks

    @property
    def threads(self) -> int:
        """One for small pictures, whose decoding is mostly interpreted code, or all cores of the process."""
        return 1 if self._is_small else max(1, min(8, cores() // neighbours()))

    @property
    def state(self) -> str | None:
        """Of the files as they are now, the names of the pictures in them, and the options."""
        import PIL

        files = self.encoded.state
        said = json.dumps(
            [cache.VERSION, PIL.__version__, files, self.shape, self.options.size, self.options.channels]
        ).encode()
        return files and hashlib.sha256(said + self.encoded.names.tobytes()).hexdigest()

    def take(self, rows: Rows) -> Array:
        """As of `Elsewhere`; in the order in which they lie, each once."""
        distinct, back = np.unique(rows, return_inverse=True)
        pixels = np.empty((len(distinct), *self.shape[1:]), np.uint8)
        for i, item in enumerate(self.encoded.items(distinct.tolist())):
            found = self._decoded(item)
            pixels[i] = self._instead(int(distinct[i]), found, item) if isinstance(found, str) else found
        return pixels if len(rows) == len(distinct) and (back[1:] > back[:-1]).all() else pixels[back]

    def _decoded(self, item: Item) -> npt.NDArray[np.uint8] | str:
        """The pixels of a picture [c, h, w], or the reason why there are none."""
        found = decode(self.options.size, self.options.channels, item)
        if isinstance(found, str):
            return found
        (c, h, w), shape = self.shape[1:], found.pixels.shape
        if shape[1:] != (h, w):
            raise ValueError(
                f"the images differ in size: the first of {self.source} has {w}x{h} pixels and {item.name} has "
                f"{shape[2]}x{shape[1]}; pass a size to crop and resize all of them to"
            )
        if shape[0] > c:
            raise ValueError(
                f"{item.name} is in colour, and those of {self.source} that were looked at first are grey: pass "
                "channels 3, or 1 to make all of them grey"
            )
        return np.broadcast_to(found.pixels, (c, h, w))

    def _instead(self, row: int, why: str, item: Item) -> npt.NDArray[np.uint8]:
        """The next picture of the same class that can be read."""
        if self.options.strict:
            raise ValueError(f"{item.name}: {why}; {REPAIR}")
        with self._telling:
            if row not in self._told:
                self._told.add(row)
                print(f"{item.name}: {why}; the next one of its class is taken for it", file=sys.stderr)
        labels, n = self.encoded.labels, len(self)
        others = np.arange(row + 1, row + n) % n if n <= 2**16 else (row + 1 + np.arange(2**16)) % n
        if labels is not None:
            others = others[labels[others] == labels[row]]
        for other in self.encoded.items(others[:TRIED].tolist()):
            found = self._decoded(other)
            if not isinstance(found, str):
                return found
        raise ValueError(f"{item.name}: {why}, nor can any of the {TRIED} after it be read")


class Files(Encoded):
    """Pictures in files; see `Encoded`.

    Arguments:
        paths: relative to the folder.
        labels: the class of each, or None.
        classes: the names of the classes.
        folder: in which they lie.
    """

    def __init__(self, paths: Sequence[str], labels: Rows | None, classes: tuple[str, ...], folder: Path) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(path) for path in encoded])
        self._paths = b"".join(encoded)  # a string of its own would take twice as much for each
        self.folder, self.labels, self.classes = folder, labels, classes

    def __len__(self) -> int:
        return len(self._ends)

    @functools.cached_property
    def names(self) -> npt.NDArray[np.uint64]:
        """The hash of each path, [n]."""
        return np.fromiter((name_hash(self._path(row)) for row in range(len(self))), np.uint64, len(self))

    def items(self, rows: Iterable[int]) -> Iterator[Item]:
        """As of `Encoded`."""
        for row in rows:
            path = self.folder / self._path(row)
            yield Item(path, None if self.labels is None else int(self.labels[row]), path)

    @property
    def state(self) -> str | None:
        """As of `Encoded`."""
        return cache.state_of(self.folder / self._path(row) for row in range(len(self)))

    def _path(self, row: int) -> str:
        return os.fsdecode(self._paths[int(self._ends[row - 1]) if row else 0 : self._ends[row]])


def within(path: str, source: str) -> str:
    """The name of a file in the folder that is read, or its own, which stay when the data are moved."""
    return os.path.relpath(path, source) if os.path.isdir(source) else path.rpartition("/")[2]


def name_hash(name: str) -> int:
    """The hash of a name, 64 bits: BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def numbered(name: str, numbers: Rows) -> npt.NDArray[np.uint64]:
    """The hashes of numbered parts of something that has a name: SplitMix64 of its hash and the number."""
    with np.errstate(over="ignore"):
        mixed = np.uint64(name_hash(name)) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))
