"""What many workers cost beside one process: start, bookkeeping of shards, the driver's memory, listing.

    python benchmarks/cluster.py [--only listing] [--shards 100000]

Workers are processes of Ray on this machine. Work that does nothing but touch a file stands for sampling where the
rest is measured. `benchmarks/scale.py` computes with what is measured here.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

import sampling
import timing
from leapstep.inference.spec import SamplingSpec
from leapstep.inference.writing import write_samples
from leapstep.models import checkpoint
from leapstep.workers import run
from leapstep.workers.job import Job

MANY = 100_000
"""Shards whose files are listed."""

DRIVEN = {"here": (100_000, 1_000), "ray": (5_000, 500)}
"""By engine, of how many shards the driver is compared."""

CORES = 2
"""Workers that are compared with one process of as many threads."""

STARTED = "import ray; ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)"


class Nothing:
    """The work of making empty files."""

    what, unit, suffix = "measuring", "sample", ".bin"

    def start(self, device, settled):
        return lambda rows, path: path.touch() or {}


def memory_folder():
    """A temporary folder in memory where there is one, so that flushing to the disk is not what is measured."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


# --- samples --------------------------------------------------------------------------------------------------------


def drawing(bench):
    """Samples a second of two workers, beside one process with two threads.

    Of each the time of a short job is taken from that of a long one, so that starts do not count.
    """
    shard, long = bench.least((16, 12), (2, 4))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LEAPSTEP_CACHE"] = str(Path(folder, "cache"))
        model = checkpoint.load(sampling.run_folder("mnist", bench, Path(folder, "run")), bench.device)

        def seconds(on, shards):
            spec = SamplingSpec("ddim", n=shard * shards, steps=bench.least(5, 2), batch_size=shard, dtype="float32")
            with tempfile.TemporaryDirectory(dir=folder) as out:
                began = time.perf_counter()
                write_samples(model, spec, Path(out, "samples"), on=on, shard=shard, progress=False)
                return time.perf_counter() - began

        taken = timing.Seconds({"here": [], "ray": []})
        for _ in range(bench.least(2, 1)):
            for on in taken:
                torch.set_num_threads(CORES)
                taken[on].append(max(1e-9, seconds(on, long) - seconds(on, CORES)))
    what = f"sampling, mnist layout, {CORES} workers of Ray with a thread each"
    yield taken.speed(what, "ray", "here", shard * (long - CORES), "images")


# --- shards that cost nothing ---------------------------------------------------------------------------------------


def by_hand(folder, n):
    """Make empty files as safely, and no more: written, flushed, renamed."""
    descriptor = os.open(folder, os.O_RDONLY)
    for i in range(n):
        with open(folder / f".{i}", "wb") as file:
            os.fsync(file.fileno())
        os.replace(folder / f".{i}", folder / f"{i}")
        os.fsync(descriptor)
    os.close(descriptor)


def in_new(folder, make):
    """Call a function with a new folder."""
    make(Path(tempfile.mkdtemp(dir=folder)))


def bookkeeping(bench):
    """A shard's names, flushes, hash and log, beside a file written by hand; in memory and on the disk."""
    n = bench.least(200, 3)
    for where, place in (("in memory", memory_folder()), ("on the disk", tempfile.TemporaryDirectory(dir="."))):
        with place as folder:
            shards = partial(run, Nothing(), key={}, n=n, batch_size=1, shard=1, progress=False)
            runs = {
                "shards": partial(in_new, folder, lambda new, shards=shards: shards(folder=new)),
                "by hand": partial(in_new, folder, lambda new: by_hand(new, n)),
            }
            seconds = bench.rounds(runs, 10.0)
        yield seconds.cost(f"an empty shard, {where}", "shards", "by hand", calls=n)


def listing(bench):
    """Which of 100,000 shards are missing, where every other one is, beside the names in the folder."""
    n = bench.least(MANY, 10)
    with memory_folder() as name:
        folder = Path(name)
        job = Job(folder, {}, n, 1, 1, ".bin", 1, {})
        for i in range(0, n, 2):
            job.path(i).touch()
        assert job.missing() == [*range(1, n, 2)]
        seconds = bench.rounds({"missing": job.missing, "names": partial(os.listdir, folder)}, 10.0)
    yield seconds.cost(f"what is missing of {n:,} shards", "missing", "names")


def drive(on, folder, n, report):
    """Be the driver of a job of empty shards; report its largest resident set and its seconds of the processor."""
    run(Nothing(), folder, {}, int(n), batch_size=1, shard=1, on=on, progress=False)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    Path(report).write_text(json.dumps({"MiB": usage.ru_maxrss / 2**10, "seconds": usage.ru_utime + usage.ru_stime}))


def driven(on, n):
    """What the driver of so many shards took, in a process of its own."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    with memory_folder() as folder:
        words = [on, f"{folder}/job", str(n), f"{folder}/report.json"]
        program = "import cluster, sys; cluster.drive(*sys.argv[1:])"
        subprocess.run([sys.executable, "-c", program, *words], env=environment, check=True)
        return json.loads(Path(folder, "report.json").read_text())


def driver(bench, driven_by=DRIVEN):
    """The driver's memory with many shards and with few; with Ray also the seconds of its processor for a shard."""
    for on, counts in driven_by.items():
        many, few = bench.least(counts, (20, 4))
        large, small = driven(on, many), driven(on, few)
        ratio = timing.Quartiles.of([large["MiB"] / small["MiB"]])
        what, peer = f"memory of a driver, --on {on}, {many:,} shards", f"{few:,} shards"
        yield timing.Row(what, large["MiB"], small["MiB"], "MiB", peer, ratio, "memory")
    each = max(1e-9, (large["seconds"] - small["seconds"]) / (many - few))
    ratio = timing.Quartiles.of([each / 60])
    what, peer = "seconds of the driver's processor for a shard, --on ray", "a shard of a minute"
    yield timing.Row(what, 1000 * each, 60_000.0, "ms", peer, ratio, "time")


def start(bench):
    """Ray on one machine, beside the import of torch."""
    runs = {
        name: partial(subprocess.run, [sys.executable, "-c", program], check=True, capture_output=True)
        for name, program in (("ray", STARTED), ("import torch", "import torch"))
    }
    yield bench.rounds(runs, 30.0).cost("Ray starts and ends", "ray", "import torch")


CASES = {
    "listing": listing,
    "bookkeeping": bookkeeping,
    "driver": driver,
    "start": start,
    "drawing": drawing,
}


def named(arguments):
    """The driver alone, of so many shards on Ray."""
    few = DRIVEN["ray"][1]
    return {"driver": partial(driver, driven_by={"ray": (int(arguments.shards), few)})} if arguments.shards else {}


if __name__ == "__main__":
    options = {"--shards": "measure the driver alone, with so many shards on Ray; 100000 take half an hour"}
    timing.main(CASES, __doc__, options, named)
