"""One worker: the process that makes shards, one at a time, on its device and in its number of threads."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from leapstep import files
from leapstep.workers import devices
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
        device: the kind of device that was asked, see `devices.described`; "": none was.
    """

    settled: Mapping[str, Any]
    seconds: float | None
    device: str


class Worker:
    """Makes shards.

    Arguments:
        work: what is done to each.
        device: where.
        threads: in how many this process computes on the processor from now on.
        settle: what settles what all workers share.
    """

    def __init__(self, work: Work, device: str, threads: int, settle: Settle | None = None) -> None:
        devices.set_threads(threads)
        self.work, self.device, self.settle = work, device, settle
        self.kind = devices.described(device)
        self.begun: Make | None = None

    def begin(self, settled: Mapping[str, Any]) -> Make:
        """Make ready, if that is not done."""
        if self.begun is None:
            self.begun = self.work.start(self.device, settled)
        return self.begun

    def pilot(self, folder: Path, batch: range, measure: bool) -> Pilot:
        """Settle what is to be settled, and measure a batch if need be."""
        settled = {} if self.settle is None else dict(self.settle(self.device))
        if not measure:
            return Pilot(settled, None, self.kind)
        make = self.begin(settled)
        seconds = self._timed(make, folder, batch)
        return Pilot(settled, self._timed(make, folder, batch) if seconds < WARM else seconds, self.kind)

    def _timed(self, make: Make, folder: Path, batch: range) -> float:
        path = folder / f"{files.PREFIX}pilot-{secrets.token_hex(8)}{self.work.suffix}"
        began = time.perf_counter()
        try:
            make(batch, path)
        finally:
            remove(path)
        return time.perf_counter() - began

    def make(self, job: Job, i: int) -> None:
        """Make shard i of a job; see `Job.make`. One that was begun on another kind of device goes on, with a line."""
        if self.begun is None and job.device not in ("", self.kind):
            print(f"leapstep: this job was begun on {job.device}, and goes on here on {self.kind}", file=sys.stderr)
        job.make(self.begin(job.settled), i, self.kind)
