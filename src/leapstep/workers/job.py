"""A job as a folder: what it is, which of its shards are whole, what was noted of them.

    job.json                   the job: its key, number of indices, batch size, shard size, what was settled
    00000.npz, 00001.npz, ...  its shards, each whole: made under a temporary name, flushed to the disk, then renamed
    log-HOST-PID-....jsonl     of each writer: a line for each shard: its size, SHA-256, record, and kind of device

Shard i holds the indices from i times the shard size on. What is missing is what the folder does not list, so a restart
needs nothing else, and it does not matter who made what is there. Nothing that a file says becomes a path: names of
shards are computed from their numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

from leapstep import files
from leapstep.files import folders, reading
from leapstep.text import one_line

if TYPE_CHECKING:
    from leapstep.workers.schema import Entry

JOB = "job.json"
UNCLAIMED = f"{files.PREFIX}unclaimed"
"""The file that one of several processes removes, which is the one that has the results."""

KIND = folders.Kind(JOB, "key", r"job\.json|log-[\w.-]+\.jsonl|\d{5,7}(\.[a-z0-9]+)*", resumable=True)
"""Job folders, and what they are known by. A name of eight digits is left alone: it is a date, and a user's."""

WEIGHTS = ("weights_sha256", "model_sha256")
"""What a key calls the hash of the weights of a model."""

Make = Callable[[range, Path], Mapping[str, Any]]
"""Makes a shard: writes the file (the folder, where the suffix is "") of these indices at this path, and returns a
record of it, small and fit for JSON. The path is a temporary name, and nothing is there yet."""


class Work(Protocol):
    """What is done to each shard.

    It travels to every worker once, pickled: it holds the model, the specification, the names of data.

    Attributes:
        what: the work in a word, for the progress bar, such as "sampling".
        unit: of what indices count, such as "sample".
        suffix: of a shard's file, such as ".npz"; "": a shard is a folder.
    """

    @property
    def what(self) -> str: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def suffix(self) -> str: ...  # noqa: D102

    def start(self, device: str, settled: Mapping[str, Any]) -> Make:
        """Make ready on a worker, once: put the network on its device.

        Arguments:
            device: such as "cpu" or "cuda:0".
            settled: what was settled when the job began, read from `job.json`: {} where nothing was.
        Returns:
            what makes a shard.
        """
        ...


class Shards(Sequence[range]):
    """The ranges of indices of all shards of a job, in order."""

    def __init__(self, n: int, size: int) -> None:
        self.n, self.size = n, size

    def __len__(self) -> int:
        return -(-self.n // self.size)

    @overload
    def __getitem__(self, i: int) -> range: ...
    @overload
    def __getitem__(self, i: slice) -> list[range]: ...
    def __getitem__(self, i: int | slice) -> range | list[range]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        return range(i * self.size, min(self.n, (i + 1) * self.size))


@dataclasses.dataclass(frozen=True)
class Job:
    """A job in its folder.

    Attributes:
        folder: an absolute path.
        key: what its results depend on, JSON.
        n: the number of indices, from 0 on.
        batch_size: how many are computed at once.
        shard: how many a shard has, whole batches; the last may have fewer.
        suffix: of a shard's file; "": it is a folder.
        threads: in how many a worker computes on the processor: the last bits of sums depend on it.
        settled: what was settled on a worker before the first shard.
        what, unit: of the work, see `Work`; for people.
        device: the kind of device that it was begun on, see `devices.described`; "": nobody knows.
    """

    folder: Path
    key: Mapping[str, Any]
    n: int
    batch_size: int
    shard: int
    suffix: str
    threads: int
    settled: Mapping[str, Any]
    what: str = ""
    unit: str = "sample"
    device: str = ""

    @property
    def shards(self) -> Shards:
        """The indices of each shard."""
        return Shards(self.n, self.shard)

    def path(self, i: int) -> Path:
        """The file of shard i, whole once it is there."""
        return self.folder / f"{self._number(i)}{self.suffix}"

    def _number(self, i: int) -> str:
        return f"{i:0{max(5, len(str(len(self.shards) - 1)))}d}"

    def missing(self) -> list[int]:
        """The numbers of the shards that are not there, in order; none where the folder is gone."""
        return self._listed()[0]

    def sweep(self) -> None:
        """Remove what is left of workers and drivers that died, and attempts that are not needed any more."""
        (self.folder / UNCLAIMED).unlink(missing_ok=True)
        for path in self._listed()[1]:
            remove(path)

    def _listed(self) -> tuple[list[int], list[Path]]:
        """The shards that are not there, and attempts at any, with the tokens by which workers knew the folder."""
        count, width = len(self.shards), len(self._number(0))
        whole = re.compile(rf"(\d{{{width}}}){re.escape(self.suffix)}")
        attempt = re.compile(
            rf"{re.escape(files.PREFIX)}((\d{{{width}}}|pilot)-[0-9a-f]{{16}}{re.escape(self.suffix)}|token-[0-9a-f]{{16}})"
        )
        here, attempts = bytearray(count), []
        if not self.folder.is_dir():  # another process of the launcher has found all there, merged and removed them
            return [], []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if attempt.fullmatch(entry.name):
                    attempts.append(Path(entry))
                elif match := whole.fullmatch(entry.name):
                    is_of_kind = entry.is_file if self.suffix else entry.is_dir
                    if int(match[1]) < count and is_of_kind(follow_symlinks=False):
                        here[int(match[1])] = True
        return [i for i in range(count) if not here[i]], attempts

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Add to a request to stop what is kept of the job, and that it goes on from there."""
        try:
            yield
        except KeyboardInterrupt as request:
            if not getattr(request, "__notes__", ()):
                count, left = len(self.shards), len(self.missing())
                request.add_note(f"{count - left} of {count} shards are kept in {self.folder}: go on there")
            raise

    def offer(self) -> None:
        """Let several processes claim the results."""
        os.close(os.open(self.folder / UNCLAIMED, os.O_WRONLY | os.O_CREAT | files.NO_LINK))

    def claim(self) -> bool:
        """Whether this is the first process that finds all shards there, since they were offered."""
        try:
            (self.folder / UNCLAIMED).unlink()
        except FileNotFoundError:  # another was faster, and may have removed the job by now
            return False
        return True

    def make(self, make: Make, i: int, device: str = "") -> None:
        """Make shard i: under a temporary name, flushed, noted in this process's log, renamed.

        Where another worker makes it at the same time, the later one changes nothing but the names.

        Arguments:
            device: the kind of device that makes it.
        """
        temporary = _attempt(self.path(i))
        try:
            record = dict(make(self.shards[i], temporary))
            sha256 = sealed(temporary)
            entry = {"shard": i, "bytes": size_of(temporary), "sha256": sha256, "record": record, "device": device}
            _append(self.folder / _log(os.getpid()), json.dumps(entry, allow_nan=False))
            try:
                os.replace(temporary, self.path(i))
            except OSError:
                if self.suffix or not self.path(i).is_dir():
                    raise
                shutil.rmtree(temporary)  # another worker was faster; no folder takes the place of another
        except BaseException as error:
            remove(temporary)
            if isinstance(error, OSError) and self.path(i).exists():  # who made it may have swept this attempt away
                return
            if isinstance(error, OSError) and error.errno and str(error.filename or temporary) == str(temporary):
                raise OSError(error.errno, error.strerror, str(self.path(i))) from error  # as of a full disk
            raise
        files.sync(self.folder)

    def noted(self) -> dict[int, dict[str, Entry]]:
        """What logs tell of shards, by their number and their SHA-256; of some they may tell nothing, or two things."""
        from leapstep.files.schema import checked
        from leapstep.workers.schema import Entry

        noted: dict[int, dict[str, Entry]] = {}
        for line in _lines(self.folder):
            with contextlib.suppress(ValueError):  # a line that a crash has cut
                entry = checked(Entry, reading.parse_json(line, "a log"))
                noted.setdefault(entry.shard, {})[entry.sha256] = entry
        return noted

    def damaged(self) -> list[int]:
        """The numbers of the shards that are there, and not as large as any that was made."""
        noted, missing = self.noted(), set(self.missing())
        return [i for i in noted if i < len(self.shards) and i not in missing and not self._has_size(i, noted[i])]

    def _has_size(self, i: int, noted: Mapping[str, Entry]) -> bool:
        sizes = {entry.bytes for entry in noted.values()}
        return None in sizes or size_of(self.path(i)) in sizes

    def records(self) -> list[dict[str, Any]]:
        """What was noted of each shard, in order, with `bytes`, `sha256` and the kind of `device`; all must be there.

        Shards that no log tells of, or of which logs tell different things, are read once more for their SHA-256.
        """
        noted, found = self.noted(), []
        for i in range(len(self.shards)):
            told = noted.get(i, {})
            sha256 = next(iter(told)) if len(told) == 1 else sha256_of(self.path(i))
            entry = told.get(sha256)
            size = entry.bytes if entry is not None and entry.bytes is not None else size_of(self.path(i))
            known = {"device": ""} if entry is None else {**entry.record, "device": entry.device}
            found.append({**known, "bytes": size, "sha256": sha256})
        return found

    def write(self) -> None:
        """Write `job.json`."""
        said = {name: value for name, value in vars(self).items() if name != "folder"}
        files.write_json(self.folder / JOB, said)


def opened(folder: Path) -> Job | None:
    """The job that was begun in a folder; None where none was.

    Raises:
        ValueError: `job.json` is not that of a job.
    """
    from leapstep.files.schema import checked
    from leapstep.workers.schema import Job as Said

    path = folder / JOB
    if not path.exists():
        return None
    try:
        said = checked(Said, reading.read_json(path))
        if said.shard % said.batch_size:
            raise ValueError(f"a shard of {said.shard} is no number of whole batches")
    except ValueError as error:
        raise ValueError(f"{path} is not that of a job ({one_line(str(error))}): name another folder") from error
    return Job(folder, **{field.name: getattr(said, field.name) for field in dataclasses.fields(Job)[1:]})


def read(folder: Path, suffix: str, key: Mapping[str, Any], n: int, batch_size: int, shard: int | None) -> Job | None:
    """The job that was begun in a folder; None where none was.

    Arguments:
        suffix, key, n, batch_size: what it must be.
        shard: its shard size, if that is asked for.
    Raises:
        ValueError: it is another job, or `job.json` is not one.
    """
    said = opened(folder)
    if said is None:
        return None
    if said.suffix != suffix:
        before, now = (name or "folders" for name in (said.suffix, suffix))
        raise ValueError(f"{folder} holds a job whose shards are {before}, not {now}: name another folder")
    for name, before, now in differences(
        {**said.key, "n": said.n, "batch size": said.batch_size}, {**key, "n": n, "batch size": batch_size}
    ):
        if name in WEIGHTS:
            raise ValueError(
                f"the weights have changed since {folder} was begun: go on with those of then, or name another folder"
            )
        before, now = (one_line(json.dumps(value), 60) for value in (before, now))
        raise ValueError(f"{folder} holds a job with {name} {before}, not {now}: go on with what it was begun with")
    if shard not in (None, said.shard):
        raise ValueError(f"{folder} holds a job cut into shards of {said.shard}, not {shard}: leave the size out")
    return said


def differences(before: Mapping[str, Any], now: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What differs between two JSON objects: the name, in words of its path, and both values."""
    for name in {**now, **before}:
        pair = before.get(name), now.get(name)
        if isinstance(pair[0], dict) and isinstance(pair[1], dict):
            yield from differences(pair[0], pair[1], f"{inside}{name}.")
        elif pair[0] != pair[1] or (name in before) != (name in now):
            yield f"{inside}{name}", *pair


# --- files -----------------------------------------------------------------------------------------------------------


def _attempt(path: Path) -> Path:
    """A temporary name for a shard."""
    number, dot, suffix = path.name.partition(".")
    return path.with_name(f"{files.PREFIX}{number}-{secrets.token_hex(8)}{dot}{suffix}")


def discard(path: Path) -> None:
    """Remove a shard, a folder as a whole, so that it is made anew."""
    attempt = _attempt(path)
    os.replace(path, attempt)
    remove(attempt)


def remove(path: Path) -> None:
    """Remove an attempt at a shard, a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sealed(path: Path) -> str:
    """Flush a shard to the disk, a file or a folder with all in it; return its SHA-256."""
    for inner in _files(path):
        files.sync(inner)
    for inner in [path, *path.rglob("*")] if path.is_dir() else []:
        if inner.is_dir():
            files.sync(inner)
    return sha256_of(path)


def size_of(path: Path) -> int:
    """The bytes of a shard; of a folder those of all files in it."""
    return sum(inner.stat().st_size for inner in _files(path))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a shard; of a folder that of the list of its files, as `sha256sum` prints it, sorted by name."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = (f"{sha256_of(inner)}  {inner.relative_to(path).as_posix()}\n" for inner in _files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]


@functools.cache
def _log(pid: int) -> str:
    """The name of the log of this process, which no other has, on whatever machine."""
    host = re.sub(r"[^\w.-]", "-", socket.gethostname())[:64]
    return f"log-{host}-{pid}-{secrets.token_hex(4)}.jsonl"


def _append(path: Path, line: str) -> None:
    """Put a line at the end of a file, and flush it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | files.NO_LINK, 0o666)
    with open(descriptor, "ab", buffering=0) as file:
        files.write_all(file, f"\n{line}\n".encode())  # also where a full disk has cut the line before
        os.fsync(file.fileno())


def _lines(folder: Path) -> Iterator[str]:
    """The lines of all logs, each of which may be as long as any text that is read."""
    for path in sorted(folder.glob("log-*.jsonl")):
        with contextlib.suppress(OSError, ValueError), reading.regular(path).open(errors="replace") as file:
            while line := file.readline(reading.TEXT):
                if line.strip():
                    yield line
