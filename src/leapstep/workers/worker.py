"""One worker: the process, thread or machine that makes shards, one at a time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from leapstep import files
from leapstep.workers.job import Job, Make, Work, remove

Settle = Callable[[str], Mapping[str, Any]]
"""Called with a worker's device before the first shard; what it returns, fit for JSON, is passed to all."""

WARM = 5.0
"""A first batch of fewer seconds may have spent them on beginning, so the second is what is measured."""


class Pilot(NamedTuple):
    """What is known before a job is cut.

    Attributes:
        settled: what was settled.
        seconds: what a batch takes; None: not measured.
    """

    settled: Mapping[str, Any]
    seconds: float | None


class Worker:
    """Makes shards.

    Arguments:
        work: what is done to each.
        device: where.
    """

    def __init__(self, work: Work, device: str) -> None:
        self.work, self.device = work, device
        self.started: Make | None = None

    def _start(self, settled: Mapping[str, Any]) -> Make:
        if self.started is None:
            self.started = self.work.start(self.device, settled)
        return self.started

    def pilot(self, folder: Path, batch: range, settle: Settle | None, measure: bool) -> Pilot:
        """Settle what is to be settled, and measure a batch if need be."""
        settled = {} if settle is None else dict(settle(self.device))
        if not measure:
            return Pilot(settled, None)
        make = self._start(settled)
        seconds = self._timed(make, folder, batch)
        return Pilot(settled, self._timed(make, folder, batch) if seconds < WARM else seconds)

    def _timed(self, make: Make, folder: Path, batch: range) -> float:
        path = folder / f"{files.PREFIX}pilot-{secrets.token_hex(8)}{self.work.suffix}"
        began = time.perf_counter()
        try:
            make(batch, path)
        finally:
            remove(path)
        return time.perf_counter() - began

    def make(self, job: Job, i: int) -> None:
        """Make shard i of a job; see `Job.make`."""
        job.make(self._start(job.settled), i)
