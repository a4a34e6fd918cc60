"""From work to a finished job: cut it, make what is missing, collect what was noted."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leapstep import files, launch
from leapstep.files import folders
from leapstep.progress import progress_bar
from leapstep.text import allowed, counted, one_line
from leapstep.workers import job as jobs
from leapstep.workers.engine import SECONDS, Engine
from leapstep.workers.here import Here
from leapstep.workers.job import Job, Shards, Work
from leapstep.workers.torchrun import Torchrun, waited
from leapstep.workers.worker import Pilot, Settle

HERE, RAY, CLUSTER, CLIENT, TORCHRUN = "here", "ray", "ray:auto", "ray://", "torchrun"
ENGINES = (HERE, RAY, CLUSTER, f"{CLIENT}HOST:PORT", TORCHRUN)
"""What may be asked for as `on`."""

ONE, FIRST, ALL = "one", "first", "all"
"""Which of several processes that make the shards of a job get its results."""

Watch = Callable[[Job, int], object]
"""Is told of a job, and how many of its indices are there."""

EACH = 4
"""How many shards a worker has at least where nobody says how large one is. With 16 four minutes on 1,024 GPUs would be
7 % shorter (`benchmarks/scale.py`), and every short job, on whatever machine, four times as many files."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A job of which this process has no more to do.

    Attributes:
        job: the job in its folder.
        complete: whether this process has the results. False: another one has them, of those that share the job.
        records: what was noted of each shard, in order, with `sha256` and the kind of its `device`; empty where it is
            not complete.
    """

    job: Job
    complete: bool
    records: list[dict[str, Any]]

    @property
    def shards(self) -> Shards:
        """The indices of each shard."""
        return self.job.shards

    @property
    def paths(self) -> list[Path]:
        """The files of the shards, in order."""
        return [self.job.path(i) for i in range(len(self.shards))]

    @property
    def settled(self) -> Mapping[str, Any]:
        """What was settled before the first shard."""
        return self.job.settled


def check_engine(on: str, workers: int | None = None) -> None:
    """Make sure that there may be workers of that name, and so many.

    Raises:
        ValueError: there are none; or they are Ray's, which is not installed; or a number of others is asked for.
    """
    client = on.startswith(CLIENT) and re.fullmatch(r"[^\s/:]+:\d+", on.removeprefix(CLIENT))
    if on not in ENGINES[:3] and on != TORCHRUN and not client:
        raise ValueError(f"no workers are called {one_line(on, 60)!r}: {allowed(on, ENGINES)}")
    if on.startswith(RAY) and importlib.util.find_spec("ray") is None:
        raise ValueError(f"{on} needs Ray: pip install 'leapstep[cluster]'")
    if workers is not None and not on.startswith(RAY):
        raise ValueError(f"{workers} workers are asked for, and Ray alone is told how many: leave that out with {on}")
    if workers is not None and workers < 1:
        raise ValueError(f"{workers} workers are asked for: it must be at least 1")


def leads(on: str | None, overwrite: bool = False) -> bool:
    """Whether this process prepares the folder of a job: of those that a launcher started, the first.

    Arguments:
        overwrite: whether what is in the folder may be removed.
    Raises:
        ValueError: it may, and other processes might take what is not removed yet for parts of this job.
    """
    if overwrite and on == TORCHRUN:
        raise ValueError(
            "the processes of torchrun begin at different times, so nothing is overwritten: remove it before"
        )
    return on != TORCHRUN or launch.rank() == 0


def run(
    work: Work,
    folder: str | Path,
    key: Mapping[str, Any],
    n: int,
    *,
    batch_size: int,
    shard: int | None = None,
    on: str = HERE,
    workers: int | None = None,
    device: str | None = None,
    settle: Settle | None = None,
    to: str = ONE,
    progress: bool = True,
    watch: Watch | None = None,
) -> Finished:
    """Make what is missing of a job that is cut into shards.

    Arguments:
        work: what is done to each shard.
        folder: of the job, which this call locks; it is made, and may hold other files. All workers must see it.
        key: what results depend on, JSON. A folder that was begun with another is refused.
        n: the number of indices: 0, 1, ..., n - 1.
        batch_size: how many of them the work computes at once, from the first index of a shard on.
        shard: indices of a shard, rounded up to whole batches, so that no bit depends on it; None: about a minute's
            work, as a worker measures it on a batch, and at least 4 shards a worker. A begun job keeps its own.
        on: whose workers: "here": this process; "ray": processes of this machine, or the cluster of Ray that this
            process is connected to; "ray:auto": the cluster that this machine is in; "ray://host:port": that one;
            "torchrun": the processes of a launcher, all of which call this.
        workers: how many Ray is asked for, also such as wait for machines; None: as there is room for.
        device: of the workers; None: the best that they have.
        settle: called with a worker's device before the first shard is made; what it returns is written down, and all
            workers are given it. `settle=work.method` travels together with the work.
        to: which of the processes of torchrun get the results: `ONE` that finds all shards there, or rank 0 where
            nothing was missing; rank 0, the `FIRST`; `ALL`.
        progress: show a bar on stderr.
        watch: called by the process that directs workers, before the first shard and after each; no worker is given the
            next one meanwhile. Under torchrun the first rank alone calls it, now and then.
    Returns:
        the files of all shards and what was noted of them.
    Raises:
        ValueError: the folder holds another job, or other workers write there; or a shard failed.
        KeyboardInterrupt: with a note of what is kept. The same call goes on.
    """
    check_engine(on, workers)
    for name, number in (("n", n), ("batch_size", batch_size), ("shard", shard)):
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}: it must be at least 1")
    folder, size = Path(folder).absolute(), None if shard is None else _whole(shard, batch_size)
    key = json.loads(json.dumps(key, allow_nan=False))
    files.check_writable(folder)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(contextlib.closing(_engine(on, work, device, settle, workers)))
        if not engine.shared:
            stack.enter_context(folders.locked(folder))

        def begun() -> Job | None:
            return jobs.read(folder, work.suffix, key, n, batch_size, size)

        job = begun()
        if engine.leads:
            _warn_of(job, shard, batch_size)
        if job is None and engine.leads:
            threads = engine.threads()
            pilot = _pilot(engine, folder, n, batch_size, threads, size, settle is not None)
            size = shard_size(n, batch_size, engine.count(), pilot.seconds, SECONDS) if size is None else size
            settled = json.loads(json.dumps(pilot.settled, allow_nan=False))
            how = {"what": work.what, "unit": work.unit, "device": pilot.device}
            job = Job(folder, key, n, batch_size, size, work.suffix, threads, settled, **how)
            job.write()
        elif job is None:
            job = waited(begun)
        stack.enter_context(job.noting())
        missing = job.missing()
        if missing:
            if engine.shared and engine.leads:
                job.offer()
            _make(engine, job, missing, work, progress and engine.leads, watch if engine.leads else None)
        complete = to == ALL or engine.leads
        if to == ONE and missing:
            complete = not job.missing() and (not engine.shared or job.claim())
        if complete:
            job.sweep()
        records = job.records() if complete else []
        if to == ONE or engine.leads:
            _tell_kinds(records)
        return Finished(job, complete, records)


def _tell_kinds(records: Sequence[Mapping[str, Any]]) -> None:
    """Say that shards were made on several kinds of devices, where that is so."""
    made = Counter(record["device"] for record in records if record["device"])
    if len(made) > 1:
        each = "; ".join(f"{counted(number, 'shard')} on {kind}" for kind, number in made.most_common())
        said = "shards were made on several kinds of devices, and agree within rounding, which in bfloat16 can be seen"
        print(f"leapstep: {said}: {each}", file=sys.stderr)


def _warn_of(job: Job | None, shard: int | None, batch_size: int) -> None:
    """Warn of shards that are larger than was asked for, and of damaged ones in a begun job, which are removed."""
    if shard is not None and shard < batch_size:
        warnings.warn(f"a shard of {shard} is less than a batch, so each has {batch_size}", stacklevel=3)
    if job is not None and (damaged := job.damaged()):
        for i in damaged:
            jobs.discard(job.path(i))
        count = "a shard is" if len(damaged) == 1 else f"{len(damaged)} shards are"
        warnings.warn(
            f"{count} not as large as when they were made, such as {job.path(damaged[0])}: made anew", stacklevel=3
        )


def _engine(on: str, work: Work, device: str | None, settle: Settle | None, workers: int | None) -> Engine:
    if on == HERE:
        return Here(work, device, settle)
    if on == TORCHRUN:
        return Torchrun(work, device, settle)
    from leapstep.workers.ray import Ray

    return Ray(work, device, settle, on, workers)


def _pilot(
    engine: Engine, folder: Path, n: int, batch_size: int, threads: int, size: int | None, settles: bool
) -> Pilot:
    """What must be known before the job is cut."""
    measure = size is None and n >= 2 * EACH * engine.count() * batch_size  # else a shard is a batch, however long
    if not settles and not measure:
        return Pilot({}, None, "")
    return engine.pilot(folder, range(min(n, batch_size)), threads, measure)


def shard_size(
    n: int, batch_size: int, workers: int, seconds: float | None, usual: float = SECONDS, fewest: int = EACH
) -> int:
    """The size of a shard, whole batches.

    Arguments:
        n: how many indices there are.
        seconds: what a batch takes; None where a shard has but one in any case.
        usual: seconds that a shard shall take.
        fewest: shards that a worker gets at least.
    Returns:
        how many indices a shard has.
    """
    if seconds is None:
        return batch_size
    most = n // (batch_size * fewest * workers)
    return batch_size * max(1, min(most, round(usual / max(seconds, 1e-9))))


def _whole(shard: int, batch_size: int) -> int:
    """A size, rounded up to whole batches."""
    return -(-shard // batch_size) * batch_size


def _make(engine: Engine, job: Job, missing: Sequence[int], work: Work, progress: bool, watch: Watch | None) -> None:
    """Make shards under a bar."""
    there = job.n - sum(len(job.shards[i]) for i in missing)
    bar = progress_bar(job.n, work.what, work.unit, done=there, show=progress)

    def note(more: int, said: str) -> None:
        nonlocal there
        there += more
        bar.set_postfix_str(said, refresh=False)
        bar.update(more)
        if watch is not None and more:
            watch(job, there)

    try:
        if watch is not None:
            watch(job, there)
        engine.make(job, missing, note)
    finally:
        bar.close()
        if not engine.shared:
            engine.close()
            job.sweep()
