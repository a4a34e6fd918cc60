"""Peak memory of sampling many pictures beside few, and of a training step beside that of diffusers.

    python benchmarks/memory.py [--only sampling]

Each in a process of its own, whose largest resident set counts, with Python and PyTorch in it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import network
import sampling
import timing
import training

COUNTS = (10_000, 64)
STEPS = 2

TRAINING = """
import sys, torch, network, timing, training
from pathlib import Path
who, folder, smoke = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "True"
bench = timing.Bench(torch.device("cpu"), smoke)
batch = bench.least(training.BATCHES["cifar10"], 2)
if who == "diffusers":
    step = training.diffusers_step("cifar10", folder / "pictures", batch, bench)
else:
    trainer = training.our_trainer("cifar10", folder / "pictures", batch, bench, who)
    step = training.our_step(trainer, folder / who)
step(), step()
"""
"""Two steps of training; the words after it are whose, the folder with the pictures, and whether all is only tried."""


def peak(*words):
    """The largest resident set of a Python process in MiB."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen([sys.executable, *map(str, words)], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"a process of the benchmark failed: {' '.join(map(str, words[-4:]))}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def row(what, ours, theirs, peer, goal=None):
    """A row of two peaks, each taken once."""
    return timing.Row(what, ours, theirs, "MiB", peer, timing.Quartiles.of([ours / theirs]), "memory", goal)


def of_sampling(bench):
    """`leapstep sample` of many small pictures and of one batch."""
    many, few = bench.least(COUNTS, (4, 2))
    with tempfile.TemporaryDirectory() as folder:
        small = timing.Bench(bench.device, smoke=True)
        run = sampling.run_folder("mnist", small, Path(folder, "run"))
        peaks = [
            peak("-m", "leapstep", "sample", run, "--n", n, "--steps", STEPS, "--out", Path(folder, str(n)))
            for n in (many, few)
        ]
    yield row(f"memory of leapstep sample, {many:,} pictures of 28x28", *peaks, f"{few} pictures", 1.05)


def of_training(bench):
    """Two steps of training on the CIFAR-10 layout."""
    with tempfile.TemporaryDirectory() as folder:
        training.write_pictures(Path(folder, "pictures"), network.SIZES["cifar10"], bench.least(64, 4))
        peaks = {who: peak("-c", TRAINING, who, folder, bench.smoke) for who in ("diffusers", "auto")}
    what = "memory of a training step, cifar10 layout, batch 16"
    yield row(f"{what}, defaults", peaks["auto"], peaks["diffusers"], "diffusers", 1.0)


CASES = {"sampling": of_sampling, "training": of_training}


if __name__ == "__main__":
    timing.main(CASES, __doc__)
