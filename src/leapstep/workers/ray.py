"""Shards made by Ray: a worker for each GPU of a cluster, or for each processor where there is none.

A worker is an actor. The work, with its model, is put into the object store once, from which each machine takes it
once. Ray starts a worker again whose process or machine died, on a machine that is there; here is only who makes which
shard: a shard goes to a worker that is ready; one whose worker died goes to another; one that fails is tried `TRIES`
times, by different workers where there are, and then ends the job. Machines that join are given workers, too.

At any time there is one call for each worker and nothing else, however many shards wait.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import math
import os
import secrets
import signal
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a change to come

import ray
from ray import exceptions

from leapstep import files, plugin
from leapstep.stopping import REQUESTS, Stopped
from leapstep.text import counted, duration, reason
from leapstep.workers.actor import Actor, Failure, Parcel, packed
from leapstep.workers.engine import SECONDS, Engine, Note
from leapstep.workers.job import Job, Work
from leapstep.workers.worker import Pilot, Settle

TRIES = 3
"""How often a shard may fail, and how often the first batch may."""

DEATHS = 10
"""How often workers may die over one shard, and how often a worker may die without a shard in between. Machines that
are taken away come to far fewer; a shard that kills whoever makes it, or a model that is too large, to any number."""

LATE = 10.0
"""How many times as long as others, and as the minute that a shard is meant to take, a shard may take until another
worker makes it as well: a worker may hang without dying. GPUs of one kind differ by up to 1.5 times (Sinha et al. 2022,
arXiv:2208.11035), and a shard that is made twice for nothing costs a worker one shard of its time."""

PATIENCE = 60.0
"""Seconds without any worker that is ready, after which that is said."""

TICK, LOOK = 1.0, 5.0
"""Seconds between looks at requests to stop, and between looks for machines that have joined."""


class Death(NamedTuple):
    """That a worker died, in Ray's words.

    Attributes:
        text: the first line of them.
        final: whether Ray does not start the worker again.
        away: whether the call never came to it, as Ray is starting it again, once there is a machine for it.
    """

    text: str
    final: bool
    away: bool


@dataclasses.dataclass(eq=False)
class Member:
    """A worker as the driver knows it.

    Attributes:
        actor: its handle.
        late: whether it came, or came again, when others were at work.
        deaths: how often it died since it last finished anything.
    """

    actor: Any
    late: bool
    deaths: int = 0


class Call(NamedTuple):
    """What a worker does.

    Attributes:
        member: the worker.
        shard: the number of the shard that it makes; None: it joins.
        began: when it was asked.
    """

    member: Member
    shard: int | None
    began: float


class Queue:
    """The shards that nobody is making, or that another worker shall make as well.

    Arguments:
        shards: their numbers, in the order in which they are handed out.
    """

    def __init__(self, shards: Sequence[int]) -> None:
        self.first = iter(shards)
        self.again: list[int] = []
        self.failures: dict[int, list[Member]] = collections.defaultdict(list)
        self.deaths: collections.Counter[int] = collections.Counter()

    def next(self, member: Member, ready: Set[Member]) -> int | None:
        """A shard for a worker; none that has failed there, as long as others are ready that have not tried it."""
        for i in self.again:
            if member not in self.failures[i] or ready <= {*self.failures[i]}:
                self.again.remove(i)
                return i
        return next(self.first, None)


class Ray(Engine):
    """The workers of a cluster.

    Arguments:
        work: what is done to each shard.
        device: of the workers, "cpu" or "cuda"; None: GPUs where there are any.
        settle: called before the first shard; see `leapstep.workers.run`.
        on: "ray" (processes of this machine, or the cluster that this process is connected to), "ray:auto" (the cluster
            that this machine is in) or "ray://host:port".
        workers: how many there shall be; those that there is no room for wait for it, and that is what an autoscaler
            sees. None: as many as there is room for.
    """

    def __init__(
        self, work: Work, device: str | None, settle: Settle | None, on: str, workers: int | None = None
    ) -> None:
        if device not in (None, "cpu", "cuda"):
            raise ValueError(f"device {device}: workers of Ray have cpu or cuda, which Ray chooses among")
        self.content, self.device, self.on, self.workers = (work, settle), device, on, workers
        self.seen = time.monotonic()  # when a worker was ready; never, once it was said that none is
        self.parcel: Parcel | None = None
        self.sent: Any = None
        self.members: set[Member] = set()
        self.ready: set[Member] = set()
        self.idle: list[Member] = []
        self.away: list[Member] = []
        self.left_out = self.failed = 0
        self.calls: dict[Any, Call] = {}  # what is under way
        self.took: collections.deque[float] = collections.deque(maxlen=100)  # seconds of the last shards
        self.late: set[int] = set()
        self.open = contextlib.ExitStack()

    # --- workers -----------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """The number of workers that are asked for, or else that the cluster has room for, at least one."""
        self._connect()
        if self.workers is not None:
            return self.workers
        if self.device == "cuda":
            return max(1, sum(_there("GPU")))
        return max(1, sum(number // self._processors() for number in _there("CPU")))

    def threads(self) -> int:
        """As many as the environment variable OMP_NUM_THREADS says; else one."""
        said = os.environ.get("OMP_NUM_THREADS", "")
        return max(1, int(said)) if said.isdecimal() else 1

    def _processors(self) -> int:
        """How many processors a worker takes."""
        return self.parcel.threads if self.parcel and self.device == "cpu" else 1

    def _connect(self) -> None:
        if self.sent is None:
            self.open.enter_context(connected(self.on))
            self.device = self.device or ("cuda" if any(_there("GPU")) else "cpu")
            if self.device == "cuda" and self.workers is None and not any(_there("GPU")):
                raise ValueError("device cuda: no machine of this cluster has a GPU")
            for module in plugin.executed():  # a network of the user's own travels with its class
                ray.cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
            self.sent = ray.put(packed(self.content))

    def _staff(self, folder: Path, threads: int) -> None:
        """Have as many workers as are to be."""
        self._connect()
        if self.parcel is None:
            token = folder / f"{files.PREFIX}token-{secrets.token_hex(8)}"
            files.write_text(token, "")
            self.open.callback(token.unlink, missing_ok=True)
            self.parcel = Parcel([self.sent], self.device or "cpu", threads, token, [*sys.path])
            self.members = {Member(self._actor(), late=False) for _ in range(self.count())}

    def _actor(self) -> Any:
        needs = {"num_cpus": self._processors(), "num_gpus": 1 if self.device == "cuda" else 0}
        return ray.remote(Actor).options(**needs, max_restarts=-1).remote()

    def _join(self, member: Member, job: Any) -> None:
        self._call(member, None, member.actor.join.remote(self.parcel, job))

    def _call(self, member: Member, shard: int | None, call: Any) -> None:
        self.calls[call] = Call(member, shard, time.monotonic())

    def _leave_out(self, member: Member, why: str) -> None:
        """Go on without a worker.

        Raises:
            ValueError: it was the last.
        """
        self.members.discard(member)
        self.ready.discard(member)
        self.left_out += 1
        ray.kill(member.actor)
        if not self.members:
            raise ValueError(f"no worker can begin: {why}")
        print(f"leapstep: a worker is left out: {why}", file=sys.stderr)

    # --- the job -----------------------------------------------------------------------------------------------------

    def pilot(self, folder: Path, batch: range, threads: int, measure: bool) -> Pilot:
        """See `Worker.pilot`; where its worker dies, another takes its place."""
        self._staff(folder, threads)
        begun = {member.actor.ready.remote(): member for member in self.members}
        for _ in range(TRIES):
            while not (first := ray.wait([*begun], timeout=TICK)[0]):
                self._look(False)
            member = begun.pop(first[0])
            begun[first[0]] = member  # which comes behind the others now
            call = member.actor.pilot.remote(self.parcel, folder, batch, measure)
            while not ray.wait([call], timeout=TICK)[0]:
                pass
            outcome = _outcome(call)
            if isinstance(outcome, Pilot):
                return outcome
            if isinstance(outcome, Failure) and outcome.unseen:
                break
        raise ValueError(f"no worker can begin: {outcome.text}")

    def make(self, job: Job, missing: Sequence[int], note: Note) -> None:
        """Make the shards of these numbers, each on the next worker that is ready."""
        self._staff(job.folder, job.threads)
        sent, queue, left = ray.put(job), Queue(missing), set(missing)
        looked = asked = time.monotonic()
        self._look(True)
        for member in self.members:
            self._join(member, sent)
        while left:
            if time.monotonic() > looked + LOOK:
                self._grow(sent)
                self._look_for_late(job, queue)
                looked = time.monotonic()
            if time.monotonic() > asked + TICK:
                away, self.away = self.away, []
                for member in away:
                    self._join(member, sent)
                asked = time.monotonic()
            self._hand_out(queue)
            self._look(bool(self.ready))
            if not self.calls:
                time.sleep(TICK)  # all workers are away
            for call in ray.wait([*self.calls], timeout=TICK)[0]:
                member, i, began = self.calls.pop(call)
                outcome = _outcome(call)
                if i in left and (outcome is None or (isinstance(outcome, Death) and job.path(i).exists())):
                    left.remove(i)
                    self.took.append(time.monotonic() - began)
                    queue.again = [other for other in queue.again if other != i]
                    self._end_others(i)
                    note(len(job.shards[i]), self._said())
                elif i in left:
                    self._count_failure(queue, job, i, member, outcome)
                    note(0, self._said())
                self._go_on(member, i, outcome, sent)

    def _look(self, ready: bool) -> None:
        """Say that no worker is ready, once until one is: they may wait for machines without an end."""
        if ready:
            self.seen = time.monotonic()
        elif time.monotonic() > self.seen + PATIENCE:
            self.seen = math.inf
            needs = "a GPU" if self.device == "cuda" else counted(self._processors(), "processor")
            print(
                f"leapstep: no worker has been ready for {duration(PATIENCE)}: they begin, or wait for a machine with "
                f"{needs} to spare",
                file=sys.stderr,
            )

    def _look_for_late(self, job: Job, queue: Queue) -> None:
        """Have shards that take far longer than others made by others as well, each once."""
        limit = LATE * max(SECONDS, statistics.median(self.took)) if self.took else math.inf
        for member, i, began in self.calls.values():
            if i is not None and i not in self.late and time.monotonic() > began + limit:
                self.late.add(i)
                queue.again.append(i)
                alone = "no other worker is ready; if it hangs, stop the job, and go on"
                then = "another worker makes it as well" if self.ready - {member} else alone
                print(
                    f"leapstep: {_named(job, i)} has taken {duration(limit)}, {LATE:.0f} times what others do: {then}",
                    file=sys.stderr,
                )

    def _end_others(self, i: int) -> None:
        """Start workers again that are still at a shard that is there."""
        for member, shard, _ in self.calls.values():
            if shard == i:
                ray.kill(member.actor, no_restart=False)

    def _said(self) -> str:
        """What stands beside the bar."""
        return counted(len(self.ready), "worker") + (f", {self.failed} failed" if self.failed else "")

    def _grow(self, job: Any) -> None:
        """Start workers on machines that have joined."""
        for _ in range(self.count() - self.left_out - len(self.members)):
            member = Member(self._actor(), late=True)
            self.members.add(member)
            self._join(member, job)

    def _hand_out(self, queue: Queue) -> None:
        """Give shards to workers that have nothing to do."""
        waiting, self.idle = self.idle, []
        for member in waiting:
            i = queue.next(member, self.ready)
            if i is None:
                self.idle.append(member)
            else:
                self._call(member, i, member.actor.make.remote(i))

    def _count_failure(self, queue: Queue, job: Job, i: int, member: Member, outcome: Failure | Death) -> None:
        """Have a shard made once more.

        Raises:
            ValueError: it has failed too often.
        """
        self.failed += 1
        if isinstance(outcome, Failure):
            queue.failures[i].append(member)
            times, most, what = len(queue.failures[i]), TRIES, "failed"
        else:
            queue.deaths[i] += 1
            times, most, what = queue.deaths[i], DEATHS, "lost its worker"
        if times >= most:
            raise ValueError(f"{_named(job, i)} {what} {times} times: {outcome.text}; the others are kept")
        queue.again.append(i)

    def _go_on(self, member: Member, i: int | None, outcome: Failure | Death | None, job: Any) -> None:
        """What is next for a worker whose call has ended."""
        if isinstance(outcome, Death):
            member.late = member.late or member in self.ready
            self.ready.discard(member)
            if outcome.away and i is None:
                self.away.append(member)
                return None
            member.deaths += 1
            if member.deaths >= DEATHS:
                return self._leave_out(member, f"it died {member.deaths} times in a row: {outcome.text}")
            if outcome.final:
                member.actor = self._actor()
            return self._join(member, job)
        if i is None and isinstance(outcome, Failure):
            if outcome.unseen and not member.late:
                raise ValueError(outcome.text)
            return self._leave_out(member, outcome.text)
        if outcome is None:
            member.deaths = 0
        self.ready.add(member)
        self.idle.append(member)
        return None

    def close(self) -> None:
        """End the workers, and Ray where it was started here."""
        for member in self.members:
            with contextlib.suppress(Exception):  # of a cluster that is no more
                ray.kill(member.actor)
        self.members, self.ready, self.calls, self.away, self.sent = set(), set(), {}, [], None
        self.open.close()


def _named(job: Job, i: int) -> str:
    """A shard in words."""
    return f"shard {i} ({job.shards[i].start} to {job.shards[i].stop - 1})"


def _outcome(call: Any) -> Any:
    """What a call returned, or that its worker died."""
    try:
        return ray.get(call)
    except exceptions.RayError as error:
        away = isinstance(error, exceptions.ActorUnavailableError) and "restarting" in str(error)
        return Death(reason(error), isinstance(error, exceptions.ActorDiedError), away)


def _there(resource: str) -> list[int]:
    """How many of a resource each machine of the cluster has that lives."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [int(node["Resources"].get(resource, 0)) for node in nodes if node["Alive"]]


@contextlib.contextmanager
def connected(on: str, **options: Any) -> Iterator[None]:
    """A connection to Ray, without a word of Ray's on the terminal; one that is there is used, and left.

    Arguments:
        on: as of `Ray`.
        options: further ones of `ray.init`.
    Raises:
        ValueError: there is no such cluster.
    """
    if ray.is_initialized():
        yield
        return
    address = {"ray": "local", "ray:auto": "auto"}.get(on, on)
    options |= {"include_dashboard": False} if on == "ray" else {}
    with _handlers_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a Ray Client that finds nobody warns before it raises
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
            raise ValueError(f"{on}: no cluster of Ray answers there: {reason(error)}") from error
    module = sys.modules["ray._private.worker"]  # Ray tells of a worker's death, whatever it was asked to tell
    before = vars(module).get("_worker_logs_enabled")
    vars(module)["_worker_logs_enabled"] = False
    try:
        yield
    finally:
        ray.shutdown()
        vars(module)["_worker_logs_enabled"] = before


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; requests to stop are ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in REQUESTS}
    try:
        yield
    except SystemExit as request:  # which is what Ray makes of it while it starts
        raise Stopped(signal.SIGTERM) from request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
