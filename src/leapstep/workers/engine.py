"""What `leapstep.workers.run` asks of whoever has workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from leapstep.workers.job import Job
from leapstep.workers.worker import Pilot

SECONDS = 60.0
"""How long a shard takes where nobody says how large it is."""

Note = Callable[[int, str], None]
"""Called with how many more indices are there, and with what is to be said beside the progress bar."""


class Engine(ABC):
    """Workers, of which this process is one, or which it directs.

    Attributes:
        leads: whether this process says what the job is; others that are started together with it wait for that.
        shared: whether other processes make shards of the job in the same folder.
    """

    leads = True
    shared = False

    @abstractmethod
    def count(self) -> int:
        """The number of workers."""

    @abstractmethod
    def threads(self) -> int:
        """In how many threads each computes in a new job."""

    @abstractmethod
    def pilot(self, folder: Path, batch: range, threads: int, measure: bool) -> Pilot:
        """What a worker settles and measures before a job is cut; see `leapstep.workers.worker.Worker.pilot`."""

    @abstractmethod
    def make(self, job: Job, missing: Sequence[int], note: Note) -> None:
        """Make the shards of these numbers, in any order.

        Raises:
            ValueError: a shard failed; the others are kept.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers, and give back what they hold."""
