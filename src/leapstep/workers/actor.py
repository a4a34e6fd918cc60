"""A worker of Ray as its own process sees it: what it is given, what it is asked, what it answers."""

from __future__ import annotations

import functools
import pickle
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from leapstep.text import one_line, reason
from leapstep.workers.job import Job
from leapstep.workers.worker import Pilot, Worker


class Failure(NamedTuple):
    """What went wrong on a worker, in one line: errors of other libraries may be such as cannot be sent.

    Attributes:
        text: the error, and on which machine.
        unseen: whether it is that the machine does not see the folder.
    """

    text: str
    unseen: bool = False


class Parcel(NamedTuple):
    """What every worker is given; it is small, and what is large is fetched from the object store.

    Attributes:
        work: a reference to the work and what settles, `packed`; in a list, since Ray resolves others before the call.
        device, threads: of the worker.
        token: a file in the folder of the job, by which a worker knows that it sees that folder.
        search: where modules are found, such as that of a class of the work.
    """

    work: list[Any]
    device: str
    threads: int
    token: Path
    search: Sequence[str]


class _Unseen(ValueError):
    """A machine does not see the folder of the job."""


def _told(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that returns its error, as a `Failure`."""

    @functools.wraps(method)
    def run(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            text = one_line(f"{kind}{reason(error)} (on {socket.gethostname()})", 1000)
            return Failure(text, isinstance(error, _Unseen))

    return run


def packed(content: Any) -> list[Any]:
    """Something as it travels to workers: pickled at once, and its arrays beside it, which workers of a machine share.

    Nobody on its way needs to find the modules of its classes, as the server of a Ray Client could not.
    """
    arrays: list[pickle.PickleBuffer] = []
    rest = ray.cloudpickle.dumps(content, protocol=5, buffer_callback=arrays.append)  # type: ignore[no-untyped-call]
    return [np.frombuffer(part, np.uint8) for part in (rest, *(array.raw() for array in arrays))]


def _unpacked(parts: list[Any]) -> Any:
    return pickle.loads(parts[0], buffers=parts[1:])


class Actor:
    """A `Worker` in a process of Ray's."""

    worker: Worker | None = None
    job: Job

    def ready(self) -> None:
        """Answer, once there is a process."""

    def _open(self, parcel: Parcel) -> Worker:
        if not parcel.token.is_file():
            raise _Unseen(f"{parcel.token.parent} is not the same folder here: name one that all machines share")
        if self.worker is None:
            sys.path.extend(path for path in parcel.search if path not in sys.path)
            work, settle = _unpacked(ray.get(parcel.work[0]))
            self.worker = Worker(work, parcel.device, parcel.threads, settle)
        return self.worker

    @_told
    def pilot(self, parcel: Parcel, folder: Path, batch: range, measure: bool) -> Pilot:
        """See `Worker.pilot`."""
        return self._open(parcel).pilot(folder, batch, measure)

    @_told
    def join(self, parcel: Parcel, job: Job) -> None:
        """Make ready for a job."""
        self.job = job
        self._open(parcel).begin(job.settled)

    @_told
    def make(self, i: int) -> None:
        """Make a shard."""
        assert self.worker is not None
        self.worker.make(self.job, i)
