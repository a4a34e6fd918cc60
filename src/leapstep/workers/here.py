"""Shards made in this process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from leapstep.workers import devices
from leapstep.workers.job import Job, Work
from leapstep.workers.worker import Pilot, Settle, Worker


class Here:
    """One worker: this process.

    Arguments:
        device: None: the best there is.
    """

    def __init__(self, work: Work, device: str | None) -> None:
        self.worker = Worker(work, devices.best() if device is None else device)

    def count(self) -> int:
        """The number of workers."""
        return 1

    def pilot(self, folder: Path, batch: range, settle: Settle | None, measure: bool) -> Pilot:
        """See `Worker.pilot`."""
        return self.worker.pilot(folder, batch, settle, measure)

    def make(self, job: Job, missing: Sequence[int], note: Callable[[int, int], None]) -> None:
        """Make the shards of these numbers.

        Arguments:
            note: called with the number of indices that are there since the last call, and that of failures so far.
        """
        for i in missing:
            self.worker.make(job, i)
            note(len(job.shards[i]), 0)

    def close(self) -> None:
        """Nothing is left to be done."""
