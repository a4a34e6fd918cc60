"""Seconds until samples of a quality: that of 50 steps of DDIM, by `DDIMPipeline` and by leapstep's fitted solver.

    python benchmarks/quality.py
    python benchmarks/quality.py --run runs/mnist --data mnist/ --features features/mnist

Without arguments a network is trained on the digits first, by `leapstep train digits`. `leapstep tune` fits the solvers
to a copy of the run. Of the numbers of calls for which there is one, the fewest count at which the Fréchet distance of
the samples to real data is no more than 5 % above that of the pipeline's samples. The samples are as many, from other
noise; labels are not used, since the pipeline knows none.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

import sampling
import timing
from leapstep.data import read
from leapstep.evaluation import features as spaces
from leapstep.evaluation.distances import frechet_distance
from leapstep.inference.spec import SamplingSpec
from leapstep.models import checkpoint

CALLS = (3, 4, 5)
STEPS = 50
CLOSE = 1.05
"""How many times the distance of the pipeline's samples counts as no worse."""


def leapstep_command(*words):
    """A command of leapstep, whose output nobody reads."""
    subprocess.run([sys.executable, "-m", "leapstep", *map(str, words)], check=True, capture_output=True)


def trained(folder, bench):
    """A run on the digits."""
    smallest = ("--steps", 2, "--channels", "8,8", "--attention", "0,0", "--groups", 8, "--timesteps", 100)
    leapstep_command("train", "digits", "--out", folder, *bench.least(("--steps", 500), smallest))
    return folder


def compared(run, data, features, bench):
    """The rows of one network."""
    n, calls = bench.least(1000, 8), bench.least(CALLS, (2,))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LEAPSTEP_CACHE"] = str(Path(folder, "cache"))
        fitted = Path(folder, "fitted")
        fewer = bench.least((), ("--noises", 16, "--teacher-steps", 6))
        leapstep_command("tune", run, "--out", fitted, "--calls", *calls, *fewer)
        pipe, model = sampling.pipeline(run, bench), checkpoint.load(fitted, bench.device)
        real = read(data, split="train")
        space = spaces.load(features, real)
        reference = spaces.reference(space, real)

        def distance(pictures):
            return frechet_distance(space.extract(pictures), reference)

        torch.manual_seed(0)
        goal = distance(sampling.theirs(pipe, n, STEPS).transpose(0, 3, 1, 2))
        found = {}
        for count in calls:
            spec = SamplingSpec("fitted", n=n, steps=count, seed=1, batch_size=250)
            found[count] = distance(np.concatenate(sampling.ours(model, spec))), spec
            if found[count][0] <= CLOSE * goal:
                break
        reached, spec = found[count]
        runs = {
            "leapstep, fitted": partial(sampling.ours, model, spec),
            "DDIMPipeline": lambda: [
                sampling.theirs(pipe, bench.least(250, n), STEPS) for _ in range(max(1, n // 250))
            ],
        }
        seconds = bench.rounds(runs, seconds=20.0)
    name = f"{n} samples as good as {STEPS} steps of DDIM, {Path(data).name}"
    told = f"{count} fitted calls, Fréchet distance {reached:.3g} to {goal:.3g}"
    row = seconds.speed(f"{name} ({told})", "leapstep, fitted", "DDIMPipeline", n, "images", 20.0)
    yield row if reached <= CLOSE * goal or bench.smoke else row._replace(what=f"{row.what}: not as good")


def digits(bench):
    with tempfile.TemporaryDirectory() as folder:
        yield from compared(trained(Path(folder, "run"), bench), "digits", "pixels", bench)


OPTIONS = {
    "--run": "a run folder of a network without labels, in place of one trained on the digits",
    "--data": "what it was trained on",
    "--features": "the feature space of the distance; default: pixels",
}


def named(arguments):
    """The run that was named."""
    if arguments.run is None:
        return {}
    if arguments.data is None:
        sys.exit("--run needs --data: name what it was trained on")
    return {"run": lambda bench: compared(arguments.run, arguments.data, arguments.features or "pixels", bench)}


CASES = {"digits": digits}


if __name__ == "__main__":
    timing.main(CASES, __doc__, OPTIONS, named)
