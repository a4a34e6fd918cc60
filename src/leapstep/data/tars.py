"""Pictures in WebDataset tars: one scan finds where each lies, and from then on each is read by itself.

Files of a tar that follow each other and have the same name up to the first dot of its last part are one sample, such
as 00012.jpg and 00012.cls. The first image of it is the picture, `.cls`, a number from 0 on, its label.

What the scan found is kept in the cache, and is found there while the tars are the same.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from leapstep import files
from leapstep.data import cache
from leapstep.data.decoding import Item
from leapstep.data.on_demand import Encoded, name_hash, within
from leapstep.data.values import Rows
from leapstep.files.cache import cache_folder
from leapstep.files.reading import CLASSES, regular
from leapstep.progress import progress_bar
from leapstep.text import one_line

VERSION = 2
"""Of what the cache keeps: others are not read."""

BLOCK = 512
"""Bytes of which a tar is made."""

MOST = 2**28
"""Bytes of the largest picture, and of the largest name."""

NEAR, FAR = 2**18, 2**13
"""Bytes that are read at once where files are small, and where they are large."""

REGULAR = (b"0", b"\0", b"7")
SKIPPED = (b"1", b"2", b"3", b"4", b"5", b"6", b"g")
"""Links, devices, folders, pipes and remarks on the whole archive."""

ZEROS = bytes(BLOCK)


class Index(NamedTuple):
    """Where the pictures of some tars lie.

    Attributes:
        starts: int64 [tars + 1], the number of the first picture of each tar, and of all.
        offsets: int64 [n], the first byte of each in its tar.
        sizes: int64 [n], how many bytes there are.
        labels: int64 [n], -1 where there is none.
        names: uint64 [n], the hash of the name.
    """

    starts: Rows
    offsets: Rows
    sizes: Rows
    labels: Rows
    names: npt.NDArray[np.uint64]


class Broken(Exception):
    """What is wrong with a tar."""


class Tars(Encoded):
    """The pictures of some tars; see `leapstep.data.on_demand.Encoded`.

    Arguments:
        paths: of the tars.
        source: the name of the data: a folder, or one of them.
        suffixes: of images, with their dots.
        progress: show a progress bar where the scan takes more than a second.
        classes: the names of the classes; those that it does not name, and all where it is empty, have their number.

    Raises:
        ValueError: one of them is not a tar, or is not whole.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        source: str,
        suffixes: Sequence[str],
        progress: bool = True,
        classes: Sequence[str] = (),
    ) -> None:
        self.paths = [regular(path) for path in paths]
        self.index = _index(self.paths, source, frozenset(suffix[1:].encode() for suffix in suffixes), progress)
        labels = self.index.labels
        labelled = len(labels) > 0 and int(labels.min()) >= 0
        self.labels = labels if labelled else None
        numbers = range(len(classes), int(labels.max()) + 1) if labelled else ()
        self.classes = (*classes, *map(str, numbers)) if labelled else ()

    def __len__(self) -> int:
        return len(self.index.names)

    @property
    def names(self) -> npt.NDArray[np.uint64]:
        """As of the index."""
        return self.index.names

    @property
    def state(self) -> str | None:
        """As of `Encoded`."""
        return cache.state_of(self.paths)

    def items(self, rows: Iterable[int]) -> Iterator[Item]:
        """As of `Encoded`."""
        numbers = np.fromiter(rows, np.int64)
        tars = np.searchsorted(self.index.starts, numbers, "right") - 1
        opened, file = -1, -1
        try:
            for row, tar in zip(numbers.tolist(), tars.tolist(), strict=True):
                if tar != opened:
                    if file >= 0:
                        os.close(file)
                    file, opened = os.open(self.paths[tar], os.O_RDONLY), tar
                offset, size = int(self.index.offsets[row]), int(self.index.sizes[row])
                content = os.pread(file, size, offset)
                label = None if self.labels is None else int(self.labels[row])
                whole = content if len(content) == size else "the tar has become shorter"
                yield Item(f"{self.paths[tar]}, the picture at byte {offset}", label, whole)
        finally:
            if file >= 0:
                os.close(file)


def _index(paths: Sequence[Path], source: str, suffixes: frozenset[bytes], progress: bool) -> Index:
    """The index of some tars, from the cache where that has it."""
    state, tars = cache.state_of(paths), [within(str(path), source) for path in paths]
    key = json.dumps([VERSION, state, tars, sorted(map(os.fsdecode, suffixes))])
    kept = cache_folder() / "tars" / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    with contextlib.suppress(Exception):  # there is none, or it is broken in any way: it is made anew
        found = safetensors.numpy.load_file(kept)
        check = found.pop("check")
        if check == _check(index := Index(**found)):
            return index
    total = sum(path.stat().st_size for path in paths)
    scanned = []
    with progress_bar(total, "looking through tars", "B", show=progress) as bar:
        for path, tar in zip(paths, tars, strict=True):
            try:
                scanned.append(scan(path, tar, suffixes))
            except (Broken, OSError) as error:
                raise ValueError(f"cannot read {path}: {error}") from error
            bar.update(path.stat().st_size)
    starts = np.cumsum([0, *(len(part[0]) for part in scanned)])
    index = Index(starts, *(np.concatenate(column) for column in zip(*scanned, strict=True)))
    if state is not None:
        with contextlib.suppress(OSError, ValueError):  # a cache that cannot be written costs time, nothing else
            kept.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(kept, safetensors.numpy.save({**index._asdict(), "check": _check(index)}))
    return index


def _check(index: Index) -> npt.NDArray[np.uint32]:
    """By which a damaged index is known: CRC-32."""
    return np.array([functools.reduce(lambda crc, column: zlib.crc32(column.tobytes(), crc), index, 0)], np.uint32)


def scan(path: Path, tar: str, suffixes: frozenset[bytes]) -> tuple[Rows, Rows, Rows, npt.NDArray[np.uint64]]:
    """Find the pictures of a tar: `offsets`, `sizes`, `labels` and `names` of an `Index`.

    Arguments:
        tar: its name, which is a part of those of its pictures.
        suffixes: of images.

    Raises:
        Broken: the file is not a tar, or is not whole.
    """
    offsets: list[int] = []
    sizes: list[int] = []
    labels: list[int] = []
    names: list[int] = []
    key, fields, label, picture = b"", set[bytes](), -1, None

    def end() -> None:
        if picture is not None:
            offsets.append(picture[0])
            sizes.append(picture[1])
            labels.append(label)
            names.append(name_hash(f"{tar}/{os.fsdecode(key)}"))

    with path.open("rb", buffering=0) as file:
        for name, offset, size, content in members(file.fileno(), os.fstat(file.fileno()).st_size):
            base = name.rfind(b"/") + 1
            dot = name.find(b".", base + 1)
            if dot < 0 or name[base : base + 1] == b".":
                continue
            extension = name[dot + 1 :].lower()
            if name[:dot] != key or extension in fields:
                end()
                key, fields, label, picture = name[:dot], set(), -1, None
            fields.add(extension)
            if extension == b"cls":
                label = _label(content, name)
            elif picture is None and extension.rpartition(b".")[2] in suffixes:
                if size > MOST:
                    raise Broken(f"{_shown(name)} has {size / 2**20:.0f} MiB, more than any picture that is read")
                picture = (offset, size)
        end()
    return np.array(offsets, int), np.array(sizes, int), np.array(labels, int), np.array(names, np.uint64)


def _label(content: bytes, name: bytes) -> int:
    try:
        label = int(content)
    except ValueError:
        raise Broken(f"{_shown(name)} holds {one_line(repr(content), 40)}, not the number of a class") from None
    if not 0 <= label < CLASSES:
        raise Broken(f"{_shown(name)} holds {label}: number the classes from 0, with at most {CLASSES} of them")
    return label


def members(file: int, length: int) -> Iterator[tuple[bytes, int, int, bytes]]:
    """The files in a tar: name, first byte, size, and the content of those that have at most 32 bytes.

    Arguments:
        file: the descriptor of the tar, which is read wherever others have read.
        length: its bytes.
    Raises:
        Broken: it is not a tar, or is not whole.
    """
    position, start, chunk = 0, 0, b""
    ahead = NEAR
    long_name: bytes | None = None
    long_size: int | None = None
    while True:
        at = position - start
        if at + BLOCK + 32 > len(chunk):
            start, at, chunk = position, 0, os.pread(file, ahead, position)
            if len(chunk) < BLOCK:
                raise Broken("it ends without the mark of a tar's end: it is not a tar, or not whole")
        header = chunk[at : at + BLOCK]
        if header[:1] == b"\0" and header == ZEROS:
            return
        size, kind = _size(header, position), header[156:157]
        offset = position + BLOCK
        if kind in (b"x", b"L"):
            if size > 2**20:
                raise Broken(f"the name at byte {offset} has {size} bytes")
            content = os.pread(file, size, offset)
            if kind == b"L":
                long_name = content.rstrip(b"\0")
            else:
                records = _records(content, offset)
                long_name = records.get(b"path", long_name)
                if b"size" in records:
                    long_size = int(records[b"size"]) if records[b"size"].isdigit() else -1
        else:
            size = size if long_size is None else long_size
            if size < 0 or offset + size > length:
                raise Broken(f"the file at byte {position} would have {size} bytes: it is not a tar, or not whole")
            if kind in REGULAR:
                small = size <= 32
                content = chunk[at + BLOCK : at + BLOCK + size] if small else b""
                yield long_name or _name(header), offset, size, content
            elif kind not in SKIPPED and kind != b"K":
                raise Broken(f"the entry at byte {position} is of the unknown kind {one_line(repr(kind))}")
            if kind != b"K":
                long_name = long_size = None
        position = offset + -(-size // BLOCK) * BLOCK
        ahead = NEAR if size < NEAR // 4 else FAR


def _size(header: bytes, position: int) -> int:
    """The size that a header tells, once it is clear that it is one."""
    if header[257:262] != b"ustar" and not _summed(header):
        packed = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "Zstandard"}.get(header[:2])
        if position == 0 and packed:
            raise Broken(f"it is packed with {packed}: unpack it, for no file can be reached by itself in there")
        raise Broken(f"there is no header at byte {position}: it is not a tar, or is damaged")
    digits = header[124:136]
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    try:
        return int(digits.rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        raise Broken(f"the header at byte {position} tells no size: the tar is damaged") from None


def _summed(header: bytes) -> bool:
    """Whether a header has the sum that it tells."""
    with contextlib.suppress(ValueError):
        return int(header[148:156].strip(b"\0 "), 8) == sum(header) - sum(header[148:156]) + 8 * 32
    return False


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        return header[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _records(content: bytes, offset: int) -> dict[bytes, bytes]:
    """The records of an extended header: "LENGTH NAME=VALUE\\n"."""
    records = {}
    while content:
        length, space, _ = content.partition(b" ")
        if not space or not length.isdigit() or not len(length) + 3 < int(length) <= len(content):
            raise Broken(f"the extended header at byte {offset} is damaged")
        name, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        records[name] = value
        content = content[int(length) :]
    return records


def _shown(name: bytes) -> str:
    return one_line(os.fsdecode(name), 60)
