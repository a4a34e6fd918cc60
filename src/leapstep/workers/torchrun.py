"""Shards made by the ranks of torchrun, or of any launcher that numbers its processes.

Rank r of R makes the missing shards i with i mod R = r, in order. Nothing passes between ranks but files: rank 0 writes
`job.json`, for which the others wait. A rank that has made its own helps others, from the end of what is missing; what
is missing first of a rank's own is left to that rank, which is at it now. When nothing else is left, all wait for these
last shards, some times as long as a shard takes: those that are then still missing are of ranks that died, or were
never started, and others make them. So no shard is made twice, but for those where a helper and its rank meet; and any
number of ranks can go on where others were stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from leapstep import launch
from leapstep.workers import devices
from leapstep.workers.engine import Note
from leapstep.workers.here import Here
from leapstep.workers.job import Job, Work
from leapstep.workers.worker import Settle

T = TypeVar("T")

PATIENCE = 30 * 60
"""Seconds that other ranks wait for the first, which may have to load a model and to measure it."""

POLL, LOOK = 0.5, 10.0
"""Seconds between looks for `job.json`, and between looks of the first rank at what the others have made."""

LEFT, TIMES = 180.0, 3
"""Seconds that the last shard of another rank is left to it, or so many times those of this rank's slowest shard."""


class Torchrun(Here):
    """The worker of a rank."""

    shared = True

    def __init__(self, work: Work, device: str | None, settle: Settle | None) -> None:
        self.rank, self.ranks = launch.rank(), launch.processes()
        super().__init__(work, _own(device or devices.best()), settle)
        self.leads = self.rank == 0

    def count(self) -> int:
        """The number of ranks."""
        return self.ranks

    def _owns(self, i: int) -> bool:
        """Whether a shard is one of this rank's."""
        return i % self.ranks == self.rank

    def make(self, job: Job, missing: Sequence[int], note: Note) -> None:
        """Make this rank's shards, then those that wait for others, until all are there."""
        seen, looked, slowest = set(missing), time.monotonic(), 0.0

        def look(left: Sequence[int]) -> None:
            made = seen.difference(left)
            seen.difference_update(made)
            note(sum(len(job.shards[i]) for i in made), f"{self.ranks} ranks")

        def make(i: int) -> None:
            nonlocal looked, slowest
            began = time.monotonic()
            self._make(job, i)
            now = time.monotonic()
            slowest = max(slowest, now - began)
            if self.leads and now >= looked:
                look(job.missing())
                looked = time.monotonic() + max(LOOK, 100 * (time.monotonic() - now))

        for i in filter(self._owns, missing):
            if not job.path(i).exists():
                make(i)
        idle, began = None, time.monotonic()
        while left := job.missing():
            now = time.monotonic()
            if (late := self._waiting(left)) is None:
                idle = now if idle is None else idle
                if now < idle + max(LEFT, TIMES * slowest):
                    look(left)
                    time.sleep(max(POLL, 100 * (now - began)))  # of what the listing takes
                    began = time.monotonic()
                    continue
                late = left[self.rank % len(left)]
            make(late)
            began = time.monotonic()
        look([])

    def _make(self, job: Job, i: int) -> None:
        """Make a shard, which another rank may have made meanwhile, and merged, and removed with all others."""
        try:
            super().make(job, [i], lambda more, said: None)
        except OSError:
            if job.folder.is_dir():
                raise

    def _waiting(self, missing: Sequence[int]) -> int | None:
        """One of the missing shards that its own rank has not come to; None where there is none."""
        begun: set[int] = set()
        waiting = []
        for i in missing:
            if i % self.ranks in begun or self._owns(i):
                waiting.append(i)
            begun.add(i % self.ranks)
        return waiting[-1 - self.rank % len(waiting)] if waiting else None


def waited(read: Callable[[], T | None]) -> T:
    """What the first rank writes, once it is there.

    Raises:
        ValueError: it does not come.
    """
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE:
        if (found := read()) is not None:
            return found
        time.sleep(POLL)
    raise ValueError(f"rank 0 has not begun in {PATIENCE // 60} minutes: start it, too, with the same folder")


def _own(device: str) -> str:
    """The device of this process, of which its machine may have several."""
    if device != "cuda":
        return device
    import torch

    local = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{int(local) % max(1, torch.cuda.device_count())}" if local.isdecimal() else device
