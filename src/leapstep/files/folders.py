"""Result folders: one process writes at a time, and only earlier results are removed.

Whoever writes into a folder holds its lock, `.leapstep-lock`, an advisory lock of the operating system that ends with
its process, however that ends. Where a file system cannot lock, a warning says so and the work goes on.

A folder of results is known by its mark, a file that is written before any result. So a folder that a crash or a full
disk left unfinished is still known, and can be replaced or gone on with. Temporaries of `leapstep.files` that are left
there by processes that died are removed; they and the lock (all names with `.leapstep-`) never count as contents.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import lock_descriptor

from leapstep import files
from leapstep.files import reading
from leapstep.text import one_line

LOCK = f"{files.PREFIX}lock"


class Kind(NamedTuple):
    """What folders of one kind of results hold, and what they are known by.

    Attributes:
        mark: the JSON file that is written first and tells of all the rest.
        key: a name that the object in it has; None: any.
        names: a regular expression for the names of all results; those that it does not match are left alone.
        resumable: whether what was stopped there can be gone on with, by --resume.
    """

    mark: str
    key: str | None
    names: str
    resumable: bool = False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder; make it if need be, and remove it if it then stays empty.

    Raises:
        ValueError: another process writes there, which is named, or nothing can be written there.
    """
    with _lock(folder / LOCK, folder):
        yield


@contextlib.contextmanager
def locked_file(path: Path, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Keep other processes from writing a file of results; see `locked`, also for the folder that it lies in.

    Arguments:
        wait: called with who writes there, before that is waited for; None: it is refused.
    """
    with _lock(path.parent / f"{LOCK}-{path.name}", path, wait):
        yield


def check_free(folder: Path, overwrite: bool, kind: Kind) -> None:
    """Make sure that results of a kind may be written into a folder; see `begin`.

    Raises:
        ValueError: the folder holds results, which are not to be replaced, or something else.
    """
    if not _contents(folder):
        return
    if not overwrite:
        ways = "--resume it, --overwrite it" if kind.resumable else "--overwrite it"
        raise ValueError(f"{folder} exists and is not empty: {ways}, or name another folder")
    if not _is_of(folder, kind):
        raise ValueError(f"{folder} holds something else, so it is not overwritten: name another folder")


def begin(folder: Path, overwrite: bool, kind: Kind, record: Mapping[str, Any] | None) -> None:
    """Mark a folder, of which the lock is held, as one of results, and clear it of earlier ones.

    Arguments:
        overwrite: whether earlier results may be removed; nothing else ever is.
        record: what the mark says until it says more; None: whoever writes the results writes the mark before them.
    Raises:
        ValueError: what `check_free` raises, or another process writes in one of the folders that are to be removed.
    """
    check_free(folder, overwrite, kind)
    earlier = [path for path in _contents(folder) if re.fullmatch(kind.names, path.name)]
    for path in earlier:
        if (path / LOCK).exists():
            with locked(path):  # raises where somebody is still writing there
                pass
    tidy(folder)
    if record is not None:
        files.write_json(folder / kind.mark, record)
    for path in earlier:
        if record is None or path.name != kind.mark:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def inner(folder: Path, name: str) -> Path:
    """Make a folder within a folder of results, if need be, to write in it.

    Raises:
        ValueError: it is a link that leads elsewhere: what lies there, nobody has named.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is a link that leads out of {folder}, where nothing is written: remove it")
    path.mkdir(parents=True, exist_ok=True)
    return path


def tidy(folder: Path) -> None:
    """Remove the temporaries that processes left in a folder when they died; not in folders in it that are locked."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            if not (Path(entry) / LOCK).exists():
                tidy(Path(entry))
        elif re.fullmatch(files.TEMPORARY, entry.name) and entry.is_file(follow_symlinks=False):
            files.remove_left(Path(entry))


def _contents(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(files.PREFIX)] if folder.is_dir() else []


def _is_of(folder: Path, kind: Kind) -> bool:
    try:
        record = reading.read_json(folder / kind.mark)
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and (kind.key is None or kind.key in record)


@contextlib.contextmanager
def _lock(lock: Path, what: Path, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    made = [path for path in lock.parents if not path.exists()]
    descriptor = _take(lock, what, wait)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file; an old lock does no harm
            lock.unlink()
        os.close(descriptor)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def _take(lock: Path, what: Path, wait: Callable[[str], object] | None) -> int:
    """The descriptor of a lock file that this process has locked, with who it is in it.

    The file is removed before it is unlocked, so that which was opened may be gone when it is locked: then once more.
    """
    while True:
        files.check_writable(lock.parent)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | files.NO_LINK, 0o666)
        except FileNotFoundError:  # the folder went with another process that left it empty
            continue
        except OSError as error:
            raise ValueError(f"cannot lock {what} ({lock}: {error.strerror}): name another place") from error
        try:
            if not lock_descriptor(descriptor, blocking=False):
                holder = _holder(descriptor)
                if wait is None:
                    raise ValueError(
                        f"{what} is being written by another process{holder}: wait for it, or name another place"
                    )
                wait(holder)
                lock_descriptor(descriptor, blocking=True)
        except OSError as error:
            print(f"{what} cannot be locked ({error.strerror}): let no other process write there", file=sys.stderr)
        except BaseException:
            os.close(descriptor)
            raise
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                _sign(descriptor)
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    """Write who holds the lock, from the second byte on: Windows locks the first, so that others cannot read it."""
    me = {"command": _command(), "pid": os.getpid(), "host": socket.gethostname(), "since": _now().isoformat()}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b" " + json.dumps(me).encode())


def _holder(descriptor: int) -> str:
    """Who holds the lock, in brackets after a space; nothing where it does not say."""
    try:
        os.lseek(descriptor, 1, os.SEEK_SET)
        signature = reading.parse_json(os.read(descriptor, 4096).decode(), LOCK)
        since = datetime.datetime.fromisoformat(signature["since"])
        when = since.strftime("%H:%M" if since.date() == _now().date() else "%Y-%m-%d %H:%M")
        return " " + one_line(f"({signature['command']}, pid {signature['pid']} on {signature['host']}, since {when})")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _command() -> str:
    """How this process was called, without what may be private."""
    program = Path(sys.argv[0])
    if program.name in ("__main__.py", "leapstep"):
        return " ".join(["leapstep", *sys.argv[1:2]])
    return program.name or "python"


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()
