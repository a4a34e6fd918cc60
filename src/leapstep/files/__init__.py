"""Atomic writes: a file has its old contents or its new ones, never a part.

Whatever happens while a file is written (an exception, a full disk, a crash, a power cut), its final name
holds either all of the old contents or all of the new, and never a part. The bytes go to a temporary name beside the
final one, are flushed to the disk, and only then take the final name, which is one atomic step of the file system. An
exception removes the temporary; after a crash it may stay behind, under a name that begins with `.leapstep-`, until
`leapstep.files.folders` begins anew there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from filelock import lock_descriptor

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer


PREFIX = ".leapstep-"
"""How the names begin of all files that are no results: temporaries, locks."""

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""That a symbolic link is an error and not followed when a file is opened, where the system can tell."""

TEMPORARY = rf"{re.escape(PREFIX)}[0-9a-f]{{16}}"
"""A regular expression for the names of temporaries."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Give a stream whose bytes become a file's contents at the end of the block, whole or not at all.

    Arguments:
        path: the file to write or to replace; its folder must exist. A symbolic link of that name is not followed but
            replaced, so that no file elsewhere is ever changed.

    Raises:
        OSError: with the path in it, where the disk is full, the folder is missing or writing is not allowed. What
            was there before is untouched.
    """
    with replacing_file(path) as file:
        yield cast(IO[bytes], _Stream(file))


@contextlib.contextmanager
def replacing_file(path: str | Path) -> Iterator[io.FileIO]:
    """Give the file itself where `replacing` gives a stream: it can be read, and written anywhere (`write_all`)."""
    final = Path(path)
    temporary = final.with_name(f"{PREFIX}{secrets.token_hex(8)}")  # in the same folder, thus on the same disk
    try:
        with open(temporary, "x+b", buffering=0) as file:
            with contextlib.suppress(OSError):  # the lock tells `remove_left` that somebody is still writing
                lock_descriptor(file.fileno(), blocking=False)
            yield file
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error  # the name that the caller knows
        raise
    sync(final.parent)


class _Stream(io.RawIOBase):
    """A file that takes all of what it is given; it can only be written, from its beginning to its end."""

    def __init__(self, file: io.FileIO) -> None:
        self.file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        return write_all(self.file, data)


def write_all(file: io.FileIO, data: Buffer) -> int:
    """Write all bytes at the position of a file, where its own `write` may take some of them; return how many."""
    rest = memoryview(data).cast("B")
    size = len(rest)
    while rest:
        rest = rest[_write(file, rest) :]
    return size


def remove_left(path: Path) -> None:
    """Remove a temporary, unless a process that lives is writing it."""
    with contextlib.suppress(OSError):  # it is gone, or it cannot be told and stays
        descriptor = os.open(path, os.O_RDWR)
        try:
            if lock_descriptor(descriptor, blocking=False):
                path.unlink()
        finally:
            os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file, whole or not at all: see `replacing`."""
    with replacing(path) as stream:
        stream.write(data)


def extend(path: str | Path, head: bytes, at: int, data: bytes) -> None:
    """Replace the end of a file, and then its beginning, which tells of the end; make the file if need be.

    Each is on the disk before the next is begun: where the beginning is as before, so is all that it speaks of.

    Arguments:
        path: the file; a symbolic link of that name is not followed.
        head: the new beginning, as long as the old one.
        at: where the new end begins; what lay behind is cut off.
        data: the new end.

    Raises:
        OSError: with the path in it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        with open(descriptor, "r+b", buffering=0) as file:
            for position, part in ((at, data), (0, head)):
                if position:
                    file.truncate(position)
                file.seek(position)
                write_all(file, part)
                os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all: see `replacing`."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, keys in the order they have, whole or not at all: see `replacing`.

    Raises:
        ValueError: where the value holds a NaN or an infinity, which JSON does not know.
        TypeError: where it holds something else that JSON does not know.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_npz(path: str | Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as a compressed npz file, whole or not at all: see `replacing`."""
    import numpy as np

    with replacing(path) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def check_writable(path: str | Path) -> None:
    """Make sure, before hours of work, that files can be written in a folder; make it and those above it if need be.

    Arguments:
        path: the folder.

    Raises:
        ValueError: one line that says why nothing can be written there.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # permission bits alone do not tell of a read-only disk or a quota
    except FileExistsError as error:
        raise ValueError(f"{path} is a file, not a folder: name another folder to write in") from error
    except OSError as error:
        raise ValueError(f"cannot write in {path} ({error.strerror}): name another folder to write in") from error


def _write(file: io.FileIO, data: memoryview) -> int:
    """Hand bytes to the operating system; it says how many it took. Every byte written here passes through."""
    return file.write(data)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder, and keeps its names safe by itself
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
