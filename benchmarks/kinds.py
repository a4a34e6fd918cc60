"""How far samples of the same seeds lie apart that were made on different kinds of devices.

    python benchmarks/kinds.py
    python benchmarks/kinds.py --run runs/mnist --data mnist/ --features features/mnist --n 8 --measured 500

Without --run a network is trained on the digits first. The kinds are this machine's processor, the same with fewer
instructions, as an older one has them (PyTorch, oneDNN, MKL and NumPy are told by the environment), and its GPU, if it
has one. Each draws the same indices in a process of its own, with one thread. The first kind draws twice, as a control:
there all bits are the same, or the benchmark fails.

Differences are those of samples in [-1, 1], where one of the 256 values of a pixel is 0.0078 wide, from the first kind.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import quality
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__ as NUMPY_UNITS

import leapstep
import timing
from leapstep.data import read
from leapstep.evaluation import features as spaces
from leapstep.evaluation.distances import frechet_distance
from leapstep.inference.engine import draw, values
from leapstep.inference.execution import Execution
from leapstep.inference.spec import SamplingSpec
from leapstep.workers import devices

METHODS = {"ddim": ("ddim", {}), "unipc": ("unipc", {}), "ddim, η = 1": ("ddim", {"eta": 1.0})}
USUAL = 20
STEPS = {"float64": (USUAL,), "float32": (5, USUAL, 80), "bfloat16": (5, USUAL, 80)}
MEASURED = {"method": "unipc", "steps": 10}
"""The method and the steps of the samples whose Fréchet distance is told."""


class Kind(NamedTuple):
    """A kind of device: its name, what PyTorch calls it, and what the environment limits."""

    name: str
    device: str = "cpu"
    limits: dict[str, str] = {}  # noqa: RUF012


def processors():
    """This processor, and as if it had fewer instructions."""
    units = torch.cpu.get_capabilities()
    yield Kind("this processor")
    if units.get("avx512_bf16") or units.get("amx_tile"):
        limits = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
        yield Kind("AVX-512 without bf16", limits=limits | {"MKL_ENABLE_INSTRUCTIONS": "AVX512"})
    if units.get("avx512_f"):
        limits = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
        without = [unit for unit in NUMPY_UNITS if re.match("AVX512|X86_V4", unit)]
        yield Kind("AVX2", limits=limits | {"NPY_DISABLE_CPU_FEATURES": " ".join(without)})
    if units.get("avx2"):
        limits = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
        yield Kind("SSE4.1", limits=limits | {"NPY_DISABLE_CPU_FEATURES": " ".join(NUMPY_UNITS)})


def kinds():
    """All kinds that are there; the others are compared with the first."""
    return [*processors(), *(Kind(device, device) for device in devices.kinds() if device != "cpu")]


# --- what is drawn --------------------------------------------------------------------------------------------------


def plan(n, measured, bench):
    """Specifications by name: each method in each number of steps, and what is measured, also from another seed."""
    cells = {}
    for dtype, steps in STEPS.items():
        for name, (method, options) in METHODS.items():
            for count in bench.least(steps, (USUAL,)):
                spec = SamplingSpec(method, options, count, n=n, batch_size=min(n, 64), dtype=dtype)
                cells[f"{dtype}/{name}/{count}"] = spec
        for seed in range(2) if dtype != "float64" else ():
            spec = SamplingSpec(**MEASURED, n=measured, batch_size=min(measured, 250), dtype=dtype, seed=seed)
            cells[f"{dtype}/measured/{seed}"] = spec
    return cells


def work(run, device, source, target):
    """Draw what a file lists, in the process of one kind."""
    torch.set_num_threads(1)
    model, found = leapstep.load(run, device=device), {}
    for name, said in json.loads(Path(source).read_text()).items():
        spec = SamplingSpec.from_json(said)
        x = torch.cat([x.cpu() for _, x in draw(model, spec, execution=Execution(spec.dtype))])
        measured = name.split("/")[1] == "measured"
        found[name] = values(model, x) if measured else x.double().numpy()
        if not measured:
            found[f"{name}/pixels"] = values(model, x)
    np.savez(target, device=devices.described(device), **found)


def drawn(kind, run, cells, folder):
    """The arrays of one kind."""
    source, target = Path(folder, "cells.json"), Path(folder, "drawn.npz")
    source.write_text(json.dumps({name: spec.to_json() for name, spec in cells.items()}))
    words = [sys.executable, __file__, "--work", run, kind.device, source, target]
    subprocess.run([*map(str, words)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1", **kind.limits})
    with np.load(target) as arrays:
        return dict(arrays)


# --- what is told ---------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """Of two arrays of samples: the largest, the root mean square, and the share of pixels with the same value."""

    largest: float
    rms: float
    equal: float

    @classmethod
    def of(cls, one, other, name):
        x = one[name] - other[name]
        return cls(np.abs(x).max(), np.sqrt((x**2).mean()), (one[f"{name}/pixels"] == other[f"{name}/pixels"]).mean())


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines) + "\n"


def apart(found, first):
    """The table of all kinds, in the usual number of steps; of each cell the worst of the methods."""
    for dtype in STEPS:
        for kind, arrays in found.items():
            each = [Difference.of(arrays, first, f"{dtype}/{method}/{USUAL}") for method in METHODS]
            worst = Difference(*(f(column) for f, column in zip((max, max, min), zip(*each, strict=True), strict=True)))
            yield [dtype, kind, f"{worst.largest:.1e}", f"{worst.rms:.1e}", f"{worst.equal:.3%}"]


def growth(found, first, steps):
    """The root mean square of differences by the number of steps, of each cell the worst of the kinds."""
    for dtype in STEPS:
        for method in METHODS:
            names = [f"{dtype}/{method}/{count}" for count in steps]
            if not first.keys() >= {*names}:
                continue
            worst = [max(Difference.of(arrays, first, name).rms for arrays in found.values()) for name in names]
            yield [dtype, method, *(f"{rms:.1e}" for rms in worst)]


def distances(found, first, data, features):
    """The Fréchet distance to real data by the first kind, how far it is off by the others, and by other seeds."""
    real = read(data, split="train")
    space = spaces.load(features, real)
    reference = spaces.reference(space, real)

    def distance(arrays, dtype, seed):
        return frechet_distance(space.extract(arrays[f"{dtype}/measured/{seed}"]), reference)

    for dtype in STEPS:
        if f"{dtype}/measured/0" not in first:
            continue
        own = distance(first, dtype, 0)
        others = [abs(distance(arrays, dtype, 0) - own) for arrays in found.values()]
        yield [dtype, f"{own:.4g}", f"{max(others):.1e}", f"{abs(distance(first, dtype, 1) - own):.1e}"]


def compare(run, data, features, n, measured, bench):
    """Print the tables of one network."""
    cells, found = plan(n, measured, bench), {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LEAPSTEP_CACHE"] = str(Path(folder, "cache"))
        first, *others = kinds()
        same = {name: spec for name, spec in cells.items() if not name.endswith("/measured/1")}
        control = {name: spec for name, spec in cells.items() if spec.steps == USUAL}
        before, again = drawn(first, run, cells, folder), drawn(first, run, control, folder)
        assert all((before[name] == array).all() for name, array in again.items()), "the same kind gave other bits"
        for kind in others:
            found[kind.name] = drawn(kind, run, same, folder)
        print(f"Kinds: {first.name} is {before['device']}, which drew the same bits twice")
        for name, arrays in found.items():
            print(f"- {name}: {arrays['device']}")
        if not found:
            sys.exit("there is one kind of device here, and nothing to compare")
        print(f"\n{n} samples in {USUAL} steps, differences from {first.name}, the worst of {', '.join(METHODS)}:\n")
        print(markdown(["dtype", "kind", "largest difference", "RMS", "equal pixels"], apart(found, before)))
        steps = sorted({spec.steps for name, spec in cells.items() if "measured" not in name})
        print("RMS of differences by the number of steps, the worst of the kinds:\n")
        print(markdown(["dtype", "method", *map(str, steps)], growth(found, before, steps)))
        print(f"Fréchet distance of {measured} samples, {MEASURED['method']} in {MEASURED['steps']} steps:\n")
        head = ["dtype", first.name, "off by another kind, at most", "off by another seed"]
        print(markdown(head, distances(found, before, data, features)))


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", help="a run folder, in place of a network trained on the digits")
    parser.add_argument("--data", default="digits", help="what it was trained on")
    parser.add_argument("--features", default="pixels", help="the feature space of the distance")
    parser.add_argument("--n", type=int, default=64, help="samples that are compared")
    parser.add_argument("--measured", type=int, default=1000, help="samples whose distance to the data is measured")
    parser.add_argument("--smoke", action="store_true", help="try everything in its smallest setting; figures are void")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(*arguments.work)
    bench = timing.Bench(torch.device("cpu"), arguments.smoke)
    n, measured = bench.least((arguments.n, arguments.measured), (2, 8))
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or quality.trained(Path(folder, "run"), bench)
        compare(run, arguments.data, arguments.features, n, measured, bench)
    return None


if __name__ == "__main__":
    main()
