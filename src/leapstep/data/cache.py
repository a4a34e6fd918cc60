"""Decoded images: in memory up to a limit, and beyond that in a file of the cache, from which they are memory-mapped.

An entry of the cache is `NAME.pixels`, uint8 [n, c, h, w], and `NAME.safetensors`, which is written after it and holds
the labels, the hash of each image and all else that a data set is made of. The name is the SHA-256 of the source,
split, size and channels; the entry says from which state of the source it was made, and is replaced when that has
changed.

While one process writes an entry, others that need it wait for it. What a killed process left is removed by the next
one that writes. Entries that nobody has used for a month go, and the oldest go where the disk has too little room.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import safe_open

from leapstep import files
from leapstep.core.scaling import PIXELS
from leapstep.data import dataset
from leapstep.data.dataset import Data
from leapstep.files import folders, reading
from leapstep.files.cache import cache_folder
from leapstep.launch import processes
from leapstep.text import memory

VERSION = 1
"""Of the entries and of how images are decoded: others are not read."""

SHARE = 0.25
"""By default, images of up to this share of the free memory are kept in memory."""

SLOW = 10.0
"""Seconds of reading beyond which images are worth a place in the cache that would fit in memory."""

UNUSED = 30 * 86400
"""Seconds after which an entry that nobody has used is removed."""

RESERVE = 0.1
"""The share of the disk that is left free where older entries can make room."""

BUFFER = 2**20
"""Bytes that are written at once."""

CURE = "make room, pass a smaller size, or name a folder on a larger disk in LEAPSTEP_CACHE"

Pixels = npt.NDArray[np.uint8]


class Key(NamedTuple):
    """What decoded images are known by.

    Attributes:
        name: the SHA-256 of the source, the split, the size and the channels.
        state: the SHA-256 of what the images are read from; None if nobody can tell, and any will do.
    """

    name: str
    state: str | None

    @property
    def record(self) -> Path:
        """The file that is there once the entry is complete."""
        return _folder() / f"{self.name}.safetensors"

    @property
    def pixels(self) -> Path:
        """The file of the images."""
        return _folder() / f"{self.name}.pixels"


def key(source: str, split: str, size: int | None, channels: int | None, state: str | None) -> Key:
    """The key of a source, as `leapstep.data.read` takes it; see `Key`."""
    import PIL

    name = os.path.realpath(source) if os.path.exists(source) else source
    text = json.dumps([VERSION, PIL.__version__, name, split, size, channels])
    return Key(hashlib.sha256(text.encode()).hexdigest(), state)


def state_of(paths: Iterable[Path]) -> str | None:
    """The SHA-256 of the names, sizes and times of change of some files, in their order; None if one is missing."""
    whole = hashlib.sha256()
    try:
        for path in paths:
            status = os.stat(path)
            whole.update(os.fsencode(path))
            whole.update(b"\0%d %d %d\0" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except OSError:
        return None
    return whole.hexdigest()


def find(key: Key, source: str) -> Data | None:
    """The images that the cache has of a source in its present state; None if there are none."""
    try:
        with safe_open(key.record, "numpy") as file:
            details = json.loads(file.metadata()["data"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if key.state not in (None, details["state"]) or key.pixels.stat().st_size != np.prod(details["shape"]):
            return None
        values = np.memmap(key.pixels, np.uint8, "r", shape=tuple(details["shape"]))
        os.utime(key.record)
    except Exception:  # there is none, or it is broken in any way: it is made anew
        return None
    return Data(
        values=values,
        labels=tensors.get("labels"),
        classes=tuple(details["classes"]),
        source=source,
        scaling=PIXELS,
        skipped=tuple(details["skipped"]),
        originals=Counter({(width, height): count for width, height, count in details["originals"]}),
        hashes=tensors["hashes"],
    )


class Ready(Exception):
    """Another process has written the entry meanwhile."""


class ImageStack(contextlib.AbstractContextManager["ImageStack"]):
    """Images of one size, in memory up to a number of bytes, and in a file beyond that.

    The first image in colour converts all of them to colour. A file without a key ends with the process; at the end of
    the block, what was not kept is gone.

    Arguments:
        key: of the entry of the cache; None: the images are not to be kept.
        limit: bytes in memory; None: a share of what is free.
        total: how many images there will be at most, if that is known.
        say: whether to tell, on stderr, what is kept.
    """

    def __init__(self, key: Key | None, limit: int | None, total: int | None, say: bool) -> None:
        self.key, self.total, self.say = key, total, say
        self.limit = int(SHARE * reading.free_memory() / processes()) if limit is None else limit
        self.memory = bytearray()
        self.file: io.FileIO | None = None
        self.hashes: list[npt.NDArray[np.uint64]] = []  # of the images in the file
        self.first: str | Path = ""
        self.shape: tuple[int, ...] = ()
        self.count = 0
        self.began = time.monotonic()
        self.writing, self.locked = contextlib.ExitStack(), contextlib.ExitStack()

    def __exit__(self, *error: Any) -> None:
        with self.locked:
            self.writing.__exit__(*error)

    def add(self, name: str | Path, pixels: Pixels) -> None:
        """Append an image [c, h, w].

        Raises:
            Ready: `find` has all of them.
            ValueError: the image has another size than the first one, or the disk is full.
        """
        if not self.shape:
            self.first, self.shape = name, pixels.shape
        if pixels.shape[1:] != self.shape[1:]:
            (_, height, width), (_, h, w) = self.shape, pixels.shape
            raise ValueError(
                f"the images differ in size: {self.first} has {width}x{height} pixels and {name} has {w}x{h}; pass a "
                "size to crop and resize all of them to"
            )
        with self._explained():
            if len(pixels) > self.shape[0]:
                self._add_colours(len(pixels))
            self.memory += np.broadcast_to(pixels, self.shape).tobytes()
            self.count += 1
            if len(self.memory) > (self.limit if self.file is None else BUFFER):
                self._flush()

    def values(self) -> Pixels:
        """All images, [n, c, h, w]: those in a file memory-mapped, and under their final name if they are kept."""
        if self.file is None and self.key is not None and time.monotonic() - self.began > SLOW:
            try:
                self._flush()
            except (OSError, ValueError) as error:  # there is no room: they stay in memory
                with contextlib.suppress(OSError):
                    self.writing.__exit__(type(error), error, None)
                self.file = self.key = None
        if self.file is None:
            return np.frombuffer(self.memory, np.uint8).reshape(-1, *self.shape)
        with self._explained():
            self._flush()
            shape = (self.count, *self.shape)
            if self.key is None:
                return np.memmap(self.file, np.uint8, "r", shape=shape)
            self.writing.close()
            return np.memmap(self.key.pixels, np.uint8, "r", shape=shape)

    def kept(self, data: Data) -> Data:
        """A data set of the `values`, with their hashes if they are in a file; complete its entry of the cache."""
        if self.file is None:
            return data
        hashes = np.concatenate(self.hashes)
        data = replace(data, hashes=hashes)
        if self.key is None:
            return data
        details = {
            "state": self.key.state,
            "shape": data.values.shape,
            "classes": data.classes,
            "skipped": data.skipped,
            "originals": [[*size, count] for size, count in data.originals.items()],
        }
        tensors: dict[str, npt.NDArray[Any]] = {"hashes": hashes}
        if data.labels is not None:
            tensors["labels"] = data.labels
        with self._explained():
            files.write_bytes(self.key.record, safetensors.numpy.save(tensors, {"data": json.dumps(details)}))
        self._tell(
            f"{self.count:,} decoded images ({memory(data.values.nbytes)}) are kept in {_folder()}, where the "
            "next command finds them (LEAPSTEP_CACHE names another folder)"
        )
        return data

    def _add_colours(self, channels: int) -> None:
        """Convert the images so far, which are grey: in place, from the last on, so that none is overwritten unread."""
        _, h, w = self.shape
        size = self.count * channels * h * w
        if self.file is None:
            self.memory.extend(bytes(size - len(self.memory)))
            buffer: Any = self.memory
        else:
            self._flush()
            os.ftruncate(self.file.fileno(), size)
            os.lseek(self.file.fileno(), 0, os.SEEK_END)
            buffer = mmap.mmap(self.file.fileno(), size)
        whole = np.frombuffer(buffer, np.uint8)
        grey, colour = whole[: self.count * h * w].reshape(-1, h, w), whole.reshape(-1, channels, h, w)
        for i in reversed(range(self.count)):
            colour[i] = grey[i].copy()
        self.shape = (channels, h, w)
        if self.file is not None:
            self.hashes = [dataset.hashes(colour)]

    def _flush(self) -> None:
        """Move what is in memory to the file."""
        if self.file is None:
            self.file = self._begun()
        if self.memory:
            self.hashes.append(dataset.hashes(np.frombuffer(self.memory, np.uint8).reshape(-1, *self.shape)))
        files.write_all(self.file, self.memory)
        self.memory = bytearray()

    def _begun(self) -> io.FileIO:
        """A file: the cache's if the images are to be kept, once no other process writes it."""
        if self.key is not None:
            try:
                files.check_writable(_folder())
            except ValueError as error:
                self._tell(f"the decoded images are not kept: {error}, in LEAPSTEP_CACHE")
                self.key = None
        if self.key is None:
            return self.writing.enter_context(tempfile.TemporaryFile(buffering=0))
        self.locked.enter_context(folders.locked_file(self.key.record, self._wait))
        if find(self.key, "") is not None:
            raise Ready
        _make_room(max(self.count, self.total or 0) * int(np.prod(self.shape)))
        self.key.record.unlink(missing_ok=True)  # of another state: it would speak of the new images
        return self.writing.enter_context(files.replacing_file(self.key.pixels))

    def _wait(self, holder: str) -> None:
        self._tell(f"another process{holder} decodes the same images: waiting for it")

    def _tell(self, line: str) -> None:
        if self.say:
            print(line, file=sys.stderr)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what to do where the images cannot be written."""
        try:
            yield
        except OSError as error:
            size = self.count * np.prod(self.shape) / 2**30
            file = "a temporary file" if self.key is None else self.key.pixels
            raise ValueError(
                f"{self.count:,} decoded images ({size:.3g} GiB) cannot be written to {file} ({error.strerror}): {CURE}"
            ) from error


def _make_room(needed: int) -> None:
    """Remove what dead processes left, entries that nobody uses, and the oldest where the disk has too little room.

    Raises:
        ValueError: the disk has too little room nevertheless.
    """
    folder = _folder()
    folders.tidy(folder)
    used = {path: _used(path) for path in folder.glob("*.pixels")}
    for path in sorted(used, key=used.__getitem__):
        disk = shutil.disk_usage(folder)
        if time.time() - used[path] > UNUSED or disk.free - needed < RESERVE * disk.total:
            for name in (path.with_suffix(".safetensors"), path):
                with contextlib.suppress(OSError):
                    name.unlink(missing_ok=True)
    if needed > (free := shutil.disk_usage(folder).free):
        raise ValueError(
            f"the decoded images take {needed / 2**30:.3g} GiB, and {folder} has room for {free / 2**30:.3g}: {CURE}"
        )


def _used(path: Path) -> float:
    """When an entry was last used."""
    with contextlib.suppress(OSError):
        return path.with_suffix(".safetensors").stat().st_mtime
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _folder() -> Path:
    return cache_folder() / "images"
