"""Shards made in this process, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leapstep.workers import devices
from leapstep.workers.engine import Engine, Note
from leapstep.workers.job import Job, Work
from leapstep.workers.worker import Pilot, Settle, Worker


class Here(Engine):
    """One worker: this process.

    Arguments:
        work: what is done to each shard.
        device: None: the best there is.
        settle: called before the first shard; see `leapstep.workers.run`.
    """

    def __init__(self, work: Work, device: str | None, settle: Settle | None) -> None:
        self.work, self.device, self.settle = work, devices.best() if device is None else device, settle
        self.before = devices.threads()
        self.worker: Worker | None = None

    def count(self) -> int:
        """One."""
        return 1

    def threads(self) -> int:
        """Those of this process."""
        return self.before

    def pilot(self, folder: Path, batch: range, threads: int, measure: bool) -> Pilot:
        """See `Worker.pilot`."""
        self.worker = Worker(self.work, self.device, threads, self.settle)
        return self.worker.pilot(folder, batch, measure)

    def make(self, job: Job, missing: Sequence[int], note: Note) -> None:
        """Make the shards of these numbers, in this order. An error ends it, as it was raised."""
        self.worker = self.worker or Worker(self.work, self.device, job.threads)
        for i in missing:
            self.worker.make(job, i)
            note(len(job.shards[i]), "")

    def close(self) -> None:
        """Compute in as many threads as before."""
        devices.set_threads(self.before)
