"""Ten million 64x64 samples on 8, 64 and 1,024 GPUs, as a discrete-event model: how long, and where the time goes.

    python benchmarks/scale.py [--out scale/] [--seeds 5]

It prints a page, and with --out writes it (`scale.md`) and two figures. Nothing is sampled: workers, nodes, a driver
and a file system are processes of SimPy that wait for each other. Every cost is a field of `Costs`, and `SOURCES` says
where it is from: measured by `benchmarks/cluster.py`, published, or assumed. All times are in seconds, sizes in bytes.

A worker starts, loads the model, and makes shard after shard: it waits for the driver, computes, writes. Workers and
nodes die at exponential times; what was begun is lost, and the shard goes to whoever is free next. All seconds of all
workers are accounted for by one of `CAUSES`, so their shares add up to one. What the model leaves out: the driver's own
death (a restart lists the folder, and loses what was in work), and networks that are shared with others.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import io
import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import simpy
from PIL import Image

from leapstep import files
from leapstep.views import plots
from leapstep.workers import running

SAMPLES, GPUS, A_NODE = 10_000_000, (8, 64, 1024), 8
DAY, MINUTE = 86_400.0, 60.0

CAUSES = {
    "work": "samples",
    "start": "start of workers",
    "model": "model load",
    "driver": "waiting for the driver",
    "write": "writing",
    "slow": "slow GPUs",
    "failures": "lost to failures",
    "tail": "nothing left to do",
}
"""What a worker's seconds went into."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """What things cost, in seconds, bytes, and operations of the file system.

    Attributes:
        sample: seconds that a GPU of usual speed computes for a sample.
        batch: samples in a batch, of which shards are made.
        shard_spread, gpu_spread: standard deviation of the logarithm of a shard's seconds on one GPU, and of the speed
            of GPUs, whose means are 1.
        slow, slowdown: how many GPUs are outliers, and how many times as long they take.
        ray: until the engine is up on the driver's machine.
        listing: until the driver knows of a shard whether its file is there.
        start, start_spread: until a worker's process can load a model, and the standard deviation of its logarithm.
        to_gpu: from the model in a machine's memory to a GPU that has computed a first batch.
        model, written: size of the network, and of a sample in a file.
        store: bytes/s at which all nodes together get the model through the object store.
        bandwidth, most_bandwidth: bytes/s of the shared file system, and of one worker at it.
        creates, most_creates: files/s that the file system makes, and for one worker.
        dispatch: for which the driver is busy with a shard.
        worker_life, node_life: mean time until a worker dies, and until a node does with all its workers.
        worker_back, node_back: until a process, and a node, is there again.
    """

    sample: float = 2 * 110e9 * 20 / (0.3 * 989e12)
    batch: int = 256
    shard_spread: float = 0.02
    gpu_spread: float = 0.04
    slow: float = 0.01
    slowdown: float = 1.5
    ray: float = 5.0
    listing: float = 1e-6
    start: float = 15.0
    start_spread: float = 0.2
    to_gpu: float = 5.0
    model: float = 4 * 296e6
    written: float = 3 * 64 * 64
    store: float = 50 * 2**30 / 16.94
    bandwidth: float = 10e9
    most_bandwidth: float = 1e9
    creates: float = 27e3
    most_creates: float = 1.1e3
    dispatch: float = 2e-3
    worker_life: float = 16_384 * 54 * DAY / 246
    node_life: float = 2_048 * 54 * DAY / 173
    worker_back: float = 5.0
    node_back: float = 300.0


SOURCES = {
    "sample": "assumed: 20 calls of ADM's network for ImageNet-64 (296M weights, 110 G multiply-adds a call, Karras et "
    "al. 2024, arXiv:2312.02696) at 30 % of an H100's 989 TFLOP/s in bf16",
    "batch": "assumed",
    "shard_spread": "assumed",
    "gpu_spread": "published: 8 % between GPUs of one kind (Sinha et al. 2022, arXiv:2208.11035), taken for two "
    "standard deviations",
    "slow": "assumed",
    "slowdown": "published: outliers up to 1.5 times as slow (Sinha et al. 2022)",
    "ray": "assumed: two thirds of the 7.4 s that start and end take on two cores, as measured",
    "listing": "measured: 86 ms for 100,000 shards",
    "start": "assumed",
    "start_spread": "assumed",
    "to_gpu": "assumed",
    "model": "known: that network's weights in float32",
    "written": "known: three bytes a pixel, as in npz",
    "store": "published: 1 GiB to 50 nodes in 16.9 s (Ray's release tests, scalability/object_store.json)",
    "bandwidth": "assumed: a small parallel file system",
    "most_bandwidth": "assumed",
    "creates": "published: mdtest on Dell's Lustre solution, 27,000 creates/s by 240 threads",
    "most_creates": "published: the same by one thread, 1,100/s",
    "dispatch": "measured: 1.2 ms of the driver's processor with 5,000 shards, rounded up",
    "worker_life": "published: 246 of 419 interruptions by GPUs, 16,384 GPUs, 54 days (Llama 3, arXiv:2407.21783)",
    "node_life": "published: the other 173 of the same, taken for those of 2,048 nodes",
    "worker_back": "assumed",
    "node_back": "assumed: a spare node is given within five minutes",
}
"""Where each of the costs is from."""

PREEMPTIBLE = 2 * 3600.0
"""The mean life of a node that others may take away; assumed."""


class Layout(NamedTuple):
    """How a job is cut and kept.

    Attributes:
        seconds: of work in a shard.
        fewest: shards that a worker gets at least: where there is less work, shards are smaller.
        model: how it travels: once to each node through the object "store"; read from the file system once by each
            "node", whose memory keeps files that were read; or by each "worker".
        tree: whether each sample is a file; otherwise each shard.
    """

    seconds: float = running.SECONDS
    fewest: int = running.EACH
    model: str = "store"
    tree: bool = False

    def shard(self, costs: Costs, samples: int, workers: int) -> int:
        """Samples in a shard, in whole batches."""
        batch = costs.batch * costs.sample
        return running.shard_size(samples, costs.batch, workers, batch, self.seconds, self.fewest)


# --- what is waited for ---------------------------------------------------------------------------------------------

Waiting = Generator[simpy.Event, Any, None]


class Shared:
    """What all that use it share equally, each up to a rate of its own: bandwidth, or operations a second.

    With k users each proceeds at r = min(most, rate / k). The server keeps the integral of r over time, its level: an
    amount a that comes at the level L is done at the level L + a, whatever k does meanwhile.
    """

    def __init__(self, env: simpy.Environment, rate: float, most: float = math.inf) -> None:
        self.env, self.rate, self.most = env, rate, most
        self.level, self.at, self.version = 0.0, 0.0, 0
        self.waiting: list[tuple[float, int, simpy.Event]] = []
        self.number = itertools.count()

    def use(self, amount: float) -> Waiting:
        """Wait until an amount is done; who is interrupted leaves the others more."""
        self._advance()
        entry = (self.level + amount, next(self.number), self.env.event())
        heapq.heappush(self.waiting, entry)
        self._plan()
        try:
            yield entry[2]
        except simpy.Interrupt:
            if entry in self.waiting:
                self._advance()
                self.waiting.remove(entry)
                heapq.heapify(self.waiting)
                self._plan()
            raise

    def _speed(self) -> float:
        return min(self.most, self.rate / len(self.waiting))

    def _advance(self) -> None:
        if self.waiting:
            self.level += (self.env.now - self.at) * self._speed()
        self.at = self.env.now

    def _plan(self) -> None:
        self.version += 1
        if self.waiting:
            wait = max(0.0, self.waiting[0][0] - self.level) / self._speed()
            event = self.env.timeout(wait, value=self.version)
            event.callbacks.append(self._done)

    def _done(self, event: simpy.Event) -> None:
        if event.value != self.version:
            return  # someone came or left since
        self._advance()
        self.level = max(self.level, self.waiting[0][0])  # not less by rounding
        while self.waiting and self.waiting[0][0] <= self.level:
            heapq.heappop(self.waiting)[2].succeed()
        self._plan()


# --- the job --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Worker:
    """A worker: its node, its process, how many times the usual a shard takes it, and until when it has accounted."""

    node: Node
    slowness: float
    process: simpy.Process | None = None
    since: float = 0.0
    up: bool = False


@dataclasses.dataclass
class Node:
    """A machine: its workers, and the model on its way to it or there."""

    workers: list[Worker] = dataclasses.field(default_factory=list)
    model: simpy.Process | None = None


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        seconds: until its last shard was written.
        spent: seconds of all workers, by cause; they add up to workers times seconds.
        shards: how many times each was finished.
        deaths: of workers, alone or with their node.
    """

    seconds: float
    spent: Mapping[str, float]
    shards: Counter[int]
    deaths: int

    def share(self, cause: str) -> float:
        return self.spent[cause] / sum(self.spent.values())


class Job:
    """A job of so many samples on so many workers, from its start to its last shard.

    The same seed gives the same GPUs, and the same times of death as long as the same things happen before.
    """

    def __init__(self, workers: int, costs: Costs, layout: Layout, seed: int, samples: int = SAMPLES) -> None:
        self.env, self.costs, self.layout = simpy.Environment(), costs, layout
        self.random = random.Random(seed)
        size = layout.shard(costs, samples, workers)
        self.sizes = [min(size, samples - first) for first in range(0, samples, size)]
        self.missing = simpy.Store(self.env)
        self.missing.items.extend(range(len(self.sizes)))
        self.driver = simpy.Resource(self.env)
        self.disk = Shared(self.env, costs.bandwidth, costs.most_bandwidth)
        self.names = Shared(self.env, costs.creates, costs.most_creates)
        self.store = Shared(self.env, costs.store)
        self.spent = dict.fromkeys(CAUSES, 0.0)
        self.shards: Counter[int] = Counter()
        self.deaths, self.over = 0, self.env.event()
        self.nodes = [Node() for _ in range(math.ceil(workers / A_NODE))]
        self.workers = [Worker(self.nodes[i // A_NODE], self._slowness()) for i in range(workers)]

    def run(self) -> Outcome:
        for worker in self.workers:
            worker.node.workers.append(worker)
            worker.process = self.env.process(self._lives(worker))
            self._mortal(worker, self.costs.worker_life, self.costs.worker_back, [worker])
        for node in self.nodes:
            self._mortal(node, self.costs.node_life, self.costs.node_back, node.workers)
        self.env.run(self.over)
        for worker in self.workers:
            self._spend(worker, "tail")
        return Outcome(self.env.now, self.spent, self.shards, self.deaths)

    # who dies

    def _mortal(self, what: Worker | Node, life: float, back: float, workers: Sequence[Worker]) -> None:
        if life < math.inf:
            self.env.process(self._dies(what, life, back, workers))

    def _dies(self, what: Worker | Node, life: float, back: float, workers: Sequence[Worker]) -> Waiting:
        """Kill workers again and again; who is down has no process that could die."""
        while True:
            yield self.env.timeout(self.random.expovariate(1 / life))
            if isinstance(what, Node):
                if not any(worker.up for worker in workers):
                    continue
                if what.model is not None and what.model.is_alive:
                    what.model.interrupt()
                what.model = None
            for worker in workers:
                if worker.up:
                    self.deaths += 1
                    worker.up = False
                    worker.process.interrupt(back)

    # what a worker does

    def _lives(self, worker: Worker) -> Waiting:
        """A worker's processes, one after the other; whatever a death or a return takes is lost to failures."""
        yield self.env.timeout(self.costs.ray + self.costs.listing * len(self.sizes))
        lost = 0.0
        while True:
            try:
                yield self.env.timeout(lost)
                worker.up = True
                yield from self._begin(worker, again=lost > 0)
                while True:
                    yield from self._next_shard(worker)
            except simpy.Interrupt as death:
                self._spend(worker, "failures")
                lost = death.cause

    def _begin(self, worker: Worker, again: bool) -> Waiting:
        costs = self.costs
        yield self.env.timeout(costs.start * self._lognormal(costs.start_spread))
        self._spend(worker, "failures" if again else "start")
        if self.layout.model == "worker":
            yield from self.disk.use(costs.model)
        else:
            if worker.node.model is None:
                worker.node.model = self.env.process(self._fetch())
            yield worker.node.model
        yield self.env.timeout(costs.to_gpu)
        self._spend(worker, "failures" if again else "model")

    def _fetch(self) -> Waiting:
        """The model on its way to a node, which goes on when the worker that asked for it dies."""
        try:
            yield from (self.store if self.layout.model == "store" else self.disk).use(self.costs.model)
        except simpy.Interrupt:
            return  # with the node

    def _next_shard(self, worker: Worker) -> Waiting:
        got = self.missing.get()
        try:
            number = yield got
        except simpy.Interrupt:
            got.cancel()
            if got.triggered:
                self._give_back(got.value)
            raise
        self._spend(worker, "tail")
        try:
            began = self.env.now
            with self.driver.request() as turn:
                yield turn
                yield self.env.timeout(self.costs.dispatch)
            told = self.env.now
            usual = self.sizes[number] * self.costs.sample
            yield self.env.timeout(usual * worker.slowness * self._lognormal(self.costs.shard_spread))
            computed = self.env.now
            yield from self.names.use(self.sizes[number] if self.layout.tree else 1)
            yield from self.disk.use(self.sizes[number] * self.costs.written)
        except simpy.Interrupt:
            self._give_back(number)
            raise
        self.spent["driver"] += told - began
        self.spent["work"] += usual
        self.spent["slow"] += computed - told - usual
        self.spent["write"] += self.env.now - computed
        worker.since = self.env.now
        self.shards[number] += 1
        if len(self.shards) == len(self.sizes):
            self.over.succeed()

    def _give_back(self, number: int) -> None:
        self.missing.put(number)

    def _spend(self, worker: Worker, cause: str) -> None:
        """Account for a worker's seconds since it last did."""
        self.spent[cause] += self.env.now - worker.since
        worker.since = self.env.now

    # chance

    def _lognormal(self, spread: float) -> float:
        """A factor of mean 1."""
        return self.random.lognormvariate(-(spread**2) / 2, spread) if spread else 1.0

    def _slowness(self) -> float:
        costs = self.costs
        outlier = costs.slowdown if self.random.random() < costs.slow else 1.0
        return outlier * self._lognormal(costs.gpu_spread)


def saturated(costs: Costs, layout: Layout, samples: int = SAMPLES) -> dict[str, float]:
    """How many GPUs keep each shared thing busy all the time: more of them gain nothing."""
    size = layout.shard(costs, samples, 1)
    seconds = size * costs.sample
    return {
        "driver": seconds / costs.dispatch,
        "bandwidth": costs.bandwidth * costs.sample / costs.written if costs.written else math.inf,
        "file creation": costs.creates * seconds / (size if layout.tree else 1),
    }


# --- the page -------------------------------------------------------------------------------------------------------

Case = tuple[Costs, Layout]

USUAL = Costs()
SLOWER = dataclasses.replace(USUAL, sample=USUAL.sample * 250 / 20)
ONE_SERVER = dataclasses.replace(USUAL, bandwidth=1e9, creates=2e3)

SHARES: dict[str, Case] = {
    "20 calls a sample": (USUAL, Layout()),
    "250 calls a sample": (SLOWER, Layout()),
    "250 calls, nodes that live 2 hours": (dataclasses.replace(SLOWER, node_life=PREEMPTIBLE), Layout()),
}
"""Jobs as leapstep cuts them, whose seconds are told by cause."""

OTHERWISE: dict[str, Case] = {
    "as leapstep does": (USUAL, Layout()),
    "16 shards a worker at least": (USUAL, Layout(fewest=16)),
    "one shard a worker": (USUAL, Layout(seconds=1e9, fewest=1)),
    "shards of ten minutes": (USUAL, Layout(seconds=10 * MINUTE, fewest=1)),
    "the model read by each worker": (USUAL, Layout(model="worker")),
    "the model read once by each node": (USUAL, Layout(model="node")),
    "a file for each sample": (USUAL, Layout(tree=True)),
    "one file server (1 GB/s, 2,000 creates/s)": (ONE_SERVER, Layout()),
    "one file server, the model read by each worker": (ONE_SERVER, Layout(model="worker")),
    "one file server, a file for each sample": (ONE_SERVER, Layout(tree=True)),
}
"""The first of those jobs, and what would become of it otherwise."""

LENGTHS = (4, 8, 15, 30, 60, 140, 300, 600, 1200, 1800)
"""Seconds of a shard in the figure of its size."""


class Simulated(NamedTuple):
    """Medians over seeds of a job's seconds and shares, and the least and the greatest of its seconds."""

    seconds: float
    least: float
    greatest: float
    shards: int
    deaths: float
    shares: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """What takes most of what is not work, and how much."""
        cause = max(set(CAUSES) - {"work"}, key=lambda cause: self.shares[cause])
        return f"{CAUSES[cause]} {percent(self.shares[cause])}"


Table = Mapping[tuple[str, int], Simulated]
"""Simulated jobs by name and number of GPUs."""


def simulated(workers: int, case: Case, seeds: int, samples: int = SAMPLES) -> Simulated:
    """A job with each of the seeds 0, 1, ..."""
    outcomes = [Job(workers, *case, seed, samples).run() for seed in range(seeds)]
    assert all(set(outcome.shards.values()) == {1} for outcome in outcomes)
    seconds = [outcome.seconds for outcome in outcomes]
    shares = {cause: statistics.median(outcome.share(cause) for outcome in outcomes) for cause in CAUSES}
    deaths = statistics.mean(outcome.deaths for outcome in outcomes)
    return Simulated(statistics.median(seconds), min(seconds), max(seconds), len(outcomes[0].shards), deaths, shares)


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds, of which no more than three digits count."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "0"


def shares_table(found: Table) -> str:
    rows = [
        [
            f"{name}, {gpus:,}",
            f"{row.shards:,}",
            duration(row.seconds),
            *(percent(row.shares[cause]) for cause in CAUSES),
            f"{row.deaths:.0f}",
        ]
        for (name, gpus), row in found.items()
    ]
    return table(["job, GPUs", "shards", "takes", *CAUSES.values(), "deaths"], rows)


def otherwise_table(found: Table) -> str:
    rows = []
    for name in OTHERWISE:
        row = [name]
        for gpus in GPUS:
            here, usual = found[name, gpus], found[next(iter(OTHERWISE)), gpus]
            times = "" if here is usual else f", × {here.seconds / usual.seconds:.2f}"
            row.append(f"{duration(here.seconds)}{times}: {here.bottleneck}")
        rows.append(row)
    return table(["", *(f"{gpus:,} GPUs" for gpus in GPUS)], rows)


def saturation_table() -> str:
    cases = {
        "shards of a minute": (USUAL, Layout()),
        "shards of a second": (USUAL, Layout(seconds=1.0)),
        "a file for each sample": (USUAL, Layout(tree=True)),
        "one file server": (ONE_SERVER, Layout()),
        "one file server, a file for each sample": (ONE_SERVER, Layout(tree=True)),
    }
    found = {name: saturated(*case) for name, case in cases.items()}
    rows = [[name, *(f"{gpus:,.0f}" for gpus in row.values())] for name, row in found.items()]
    return table(["GPUs that keep it busy", *next(iter(found.values()))], rows)


def costs_table() -> str:
    rows = [[f"`{name}`", f"{getattr(USUAL, name):.4g}", text] for name, text in SOURCES.items()]
    return table(["cost", "seconds, bytes, or a second", "source"], rows)


def page(shares: Table, otherwise: Table, seeds: int) -> str:
    return "\n\n".join(
        [
            f"{SAMPLES:,} samples of 64x64, medians of {seeds} seeds. Shares are of the seconds of all workers.",
            shares_table(shares),
            "The first of these jobs otherwise: how long it takes, and what then takes most of what is not work.",
            otherwise_table(otherwise),
            "How many GPUs keep a shared thing busy all the time, by arithmetic: more of them gain nothing.",
            saturation_table(),
            costs_table(),
        ]
    )


# --- figures --------------------------------------------------------------------------------------------------------

COLOURS = dict(
    zip(CAUSES, ("#c9ced4", "#0072b2", "#56b4e9", "#a3417f", "#007a5a", "#8a6d00", "#c25400", "#5a5f66"), strict=True)
)


def draw_shares(found: Table) -> plots.Draw:
    """A bar for each job: its seconds by cause."""

    def draw(figure, colours):
        axes = figure.subplots()
        names = [f"{name}, {gpus:,} GPUs" for name, gpus in found]
        left = [0.0] * len(found)
        for cause, words in CAUSES.items():
            widths = [100 * row.shares[cause] for row in found.values()]
            axes.barh(names, widths, left=left, color=COLOURS[cause], label=words, height=0.7)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for place, row in enumerate(found.values()):
            axes.text(101, place, duration(row.seconds), va="center")
        axes.invert_yaxis()
        axes.grid(False)
        axes.set(xlim=(0, 100), xlabel="share of the seconds of all workers, %")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=4)

    return draw


Losses = Mapping[str, Sequence[tuple[float, float]]]
"""By name of a line: the seconds of a shard, and the share of all workers' seconds that is not work."""


def losses(seeds: int) -> Losses:
    """Of the first job, by the size of its shards; means over seeds, as deaths are few."""
    taken = dataclasses.replace(USUAL, node_life=PREEMPTIBLE)
    lines = {f"{gpus:,} GPUs": (gpus, USUAL) for gpus in GPUS} | {"64 GPUs, nodes that live 2 hours": (64, taken)}
    found = {}
    for name, (gpus, costs) in lines.items():
        layouts = [Layout(seconds, fewest=1) for seconds in LENGTHS if seconds * gpus <= SAMPLES * costs.sample]
        found[name] = [
            (
                layout.shard(costs, SAMPLES, gpus) * costs.sample,
                1 - statistics.mean(Job(gpus, costs, layout, seed).run().share("work") for seed in range(seeds)),
            )
            for layout in layouts
        ]
    return found


def draw_losses(found: Losses) -> plots.Draw:
    """Loss by seconds of a shard."""

    def draw(figure, colours):
        axes = figure.subplots()
        styles = zip(found.items(), (0, 1, 2, 1), ("-", "-", "-", "--"), strict=True)
        for (name, line), number, dashes in styles:
            style = {"color": colours.series[number], "marker": plots.MARKERS[number]}
            axes.plot(*zip(*line, strict=True), dashes, label=name, **style)
        axes.set(xscale="log", yscale="log", xlabel="seconds of a shard", ylabel="share that is not work")
        plots.ticks_at(axes.xaxis, (4, 15, 60, 300, 1800))
        plots.plain_numbers(axes.yaxis)
        figure.legend(loc="outside upper center", ncols=4)

    return draw


def write_png(path: Path, draw: plots.Draw, size: tuple[float, float]) -> None:
    """A picture in as few colours as it has."""
    picture = Image.open(io.BytesIO(plots.png(draw, size)))
    written = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    files.write_bytes(path, written.getvalue())


def main(out: Path | None, seeds: int) -> None:
    shares = {(name, gpus): simulated(gpus, case, seeds) for name, case in SHARES.items() for gpus in GPUS}
    otherwise = {(name, gpus): simulated(gpus, case, seeds) for name, case in OTHERWISE.items() for gpus in GPUS}
    text = page(shares, otherwise, seeds)
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        files.write_text(out / "scale.md", text + "\n")
        write_png(out / "scale-shares.png", draw_shares(shares), (8.0, 4.2))
        write_png(out / "scale-shards.png", draw_losses(losses(seeds)), (7.0, 3.6))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Simulate ten million samples on 8, 64 and 1,024 GPUs.")
    parser.add_argument("--out", type=Path, help="a folder for the page and its figures")
    parser.add_argument("--seeds", type=int, default=5, help="of which medians are told")
    arguments = parser.parse_args()
    main(arguments.out, arguments.seeds)
