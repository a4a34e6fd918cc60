"""Safe reading of files from elsewhere: regular files only, bounded memory, errors in one line.

A path may lead to a pipe that nobody writes to or to a device without an end; a small archive may unpack to more than
there is memory; JSON and YAML may be nested until the parser breaks. Here each of these is a ValueError of one line.
What a file says is another question, which `leapstep.files.schema` asks.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import stat
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leapstep.text import one_line, reason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

TEXT = 32 * 2**20
"""Bytes of the largest text (JSON, YAML, flags) that is read."""

CLASSES = 100_000
"""The most classes of data, and of a network."""

YAML = 2**18
"""Characters of the largest YAML text: its parser is slow."""

DEPTH = 64
"""The most levels of a value in JSON or YAML."""

PICKLED = "holds pickled Python objects, which are not read: save an array of numbers with np.save"

CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux tells of the limits of the container that a process is in."""

RATIO, SMALL = 200, 64 * 2**20
"""An archive that unpacks to more than so many times its size, and to more than so many bytes, is none of data."""


def regular(path: str | Path) -> Path:
    """The path, where it leads to a regular file.

    Raises:
        FileNotFoundError: to nothing.
        ValueError: to a folder, a pipe, a socket or a device.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        raise ValueError(f"{path} is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file")
    return path


def read_bytes(path: str | Path, most: int = TEXT) -> bytes:
    """The content of a regular file of at most so many bytes.

    Raises:
        OSError: the file is missing, or cannot be read.
        ValueError: it is not a regular file, or is larger.
    """
    with regular(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is larger than {most / 2**20:g} MiB, more than such a file ever needs")
    return content


def read_text(path: str | Path) -> str:
    """The content of a UTF-8 text file.

    Raises:
        OSError, ValueError: as `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_json(path: str | Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError, ValueError: as `read_text`; or it is not JSON.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, name: str) -> Any:
    """The value that a JSON text stands for; `name` is what an error calls it.

    Raises:
        ValueError: it is not JSON, or is nested too deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is nested too deep to be read") from None
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {one_line(str(error))}") from error
    _check_depth(value, name)
    return value


def parse_yaml(text: str, name: str) -> Any:
    """The value that a YAML text stands for, plain values alone; `name` is what an error calls it.

    Raises:
        ValueError: it is not YAML, is nested too deep, or has aliases: a few of them can stand for any amount of data.
    """
    import yaml

    class Plain(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("it has aliases (*name): write out what they stand for")
            return super().compose_node(parent, index)

    if len(text) > YAML:
        raise ValueError(f"{name} is {len(text)} characters of YAML: settings take at most {YAML}")
    try:
        value = yaml.load(text, Plain)  # a SafeLoader, and less
    except RecursionError:
        raise ValueError(f"{name} is nested too deep to be read") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date of month 13, a number of 5000 digits
        raise ValueError(f"{name} is not YAML: {one_line(str(error))}") from error
    _check_depth(value, name)
    return value


def _check_depth(value: Any, name: str) -> None:
    """Make sure that whoever walks through a value by recursion comes to an end."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH):
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [part for parts in inner for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise ValueError(f"{name} is nested too deep to be read: {DEPTH} levels are allowed")


def read_yaml(path: str | Path) -> Any:
    """The value in a YAML file.

    Raises:
        OSError, ValueError: as `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path), str(path))


# --- memory --------------------------------------------------------------------------------------------------------


def check_memory(needed: int, what: str) -> None:
    """Make sure, before anything is allocated, that something fits.

    Arguments:
        needed: bytes.
        what: what needs them, the subject of the error.
    Raises:
        ValueError: it takes more than the memory that is free now.
    """
    free = free_memory()
    if needed > free:
        raise ValueError(f"{what} takes {needed / 2**30:.3g} GiB of memory, of which {free / 2**30:.3g} GiB are free")


def free_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, and of the container that it is in."""
    import psutil

    free: int = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # not Linux with cgroup 2, or no limit
        most = int((CONTAINER / "memory.max").read_text())
        counted = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        used = int((CONTAINER / "memory.current").read_text()) - int(counted.get("inactive_file", 0))
        free = min(free, max(0, most - used))
    return free


# --- arrays --------------------------------------------------------------------------------------------------------


def read_npy(path: str | Path) -> Array:
    """The array in an npy file, memory-mapped.

    Raises:
        OSError: the file is missing, or cannot be read.
        ValueError: it is not a regular npy file, or holds Python objects.
    """
    import numpy as np

    regular(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever numpy raises on a broken file
        if "Python objects" in str(error):
            raise ValueError(f"{path} {PICKLED}") from error
        raise ValueError(f"cannot read {path}: {reason(error)}") from error


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays in an npz file, by their names: those of more than `SMALL` bytes that are not compressed are
    memory-mapped, the others are read once it is clear that they fit in memory.

    Arguments:
        names: of those that are wanted; None: all.

    Raises:
        OSError: the file is missing, or cannot be read.
        ValueError: it is not a regular npz file, holds Python objects, or unpacks to more than there is memory, or to
            more than `SMALL` bytes and `RATIO` times its size.
    """
    regular(path)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if names is None or _name(member) in names]
            _check_archive(path, members)
            arrays = {}
            for member in members:
                array = _mapped(path, archive, member) if _is_mapped(member) else _member(archive, member)
                arrays[_name(member)] = array
            return arrays
    except _Refused as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:  # whatever zipfile, zlib and numpy raise on a broken file
        raise ValueError(f"cannot read {path}: {reason(error)}") from error


def kinds_in_npz(path: str | Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """The shapes and types of the arrays in an npz file, by their names, of which no more than the heads are read.

    Raises:
        OSError, ValueError: as `read_npz`.
    """
    regular(path)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            heads = {_name(member): _header(archive, member) for member in archive.infolist()}
            return {name: (shape, dtype) for name, (shape, _, dtype, _) in heads.items()}
    except _Refused as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:  # whatever zipfile, zlib and numpy raise on a broken file
        raise ValueError(f"cannot read {path}: {reason(error)}") from error


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


class _Refused(Exception):
    """The file is whole, but is not read."""


def _check_archive(path: str | Path, members: list[zipfile.ZipInfo]) -> None:
    packed, size = Path(path).stat().st_size, sum(member.file_size for member in members)
    if size > max(SMALL, RATIO * packed):
        raise _Refused(f"would unpack to {size / packed:.0f} times its size, which no data do: save them with np.savez")
    check_memory(sum(member.file_size for member in members if not _is_mapped(member)), f"unpacking {path}")


def _is_mapped(member: zipfile.ZipInfo) -> bool:
    """Whether an array lies in an archive as in a file of its own, and is worth to be mapped from there."""
    return member.compress_type == zipfile.ZIP_STORED and member.file_size > SMALL and not member.flag_bits & 1


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """An array of an archive, whose header must not speak of more than the archive holds."""
    import numpy as np

    _header(archive, member)
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _mapped(path: str | Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """The same where it is not compressed, memory-mapped; its checksum is not compared."""
    import numpy as np

    shape, is_fortran, dtype, start = _header(archive, member)
    with open(path, "rb") as file:
        file.seek(member.header_offset + 26)  # in a local header of 30 bytes: how long the two fields after it are
        name, extra = struct.unpack("<2H", file.read(4))
    begin = member.header_offset + 30 + name + extra + start
    return np.memmap(path, dtype, "r", begin, shape, "F" if is_fortran else "C")


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """The shape of an array, whether its first index runs fastest, its type, and where in the file its values begin."""
    import numpy as np

    with archive.open(member) as opened:
        file = io.BytesIO(opened.read(64 * 1024))
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise _Refused(PICKLED)
    if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
        name = one_line(member.filename, 60)
        raise ValueError(f"{name} is {member.file_size} bytes, which is not what its header speaks of: {list(shape)}")
    return shape, is_fortran, dtype, file.tell()
