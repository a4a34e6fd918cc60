"""What the start without a call is worth: Fréchet distance to all data, and distance to a fine solver, by calls.

    leapstep demo && leapstep calibrate demo/run digits && python benchmarks/starts.py demo/run digits --n 600

All rows start from the same noise, in turn of each class; the fine solver takes 100 steps from pure noise.
"""

import argparse

import torch

import leapstep
from leapstep.data import read
from leapstep.evaluation.distances import frechet_distance
from leapstep.inference.engine import draw

STEPS, SEED = (2, 3, 4, 5, 8), 1000


def main(run, data, n, methods):
    model = leapstep.load(run)
    parts = [read(data, split=split) for split in ("train", "test")]
    real = torch.cat([part.batch(range(len(part))) for part in parts])
    labels = tuple(range(len(model.classes))) or None

    def samples(method, **given):
        return torch.cat(
            [x for _, x in draw(model, leapstep.SamplingSpec(method, n=n, seed=SEED, labels=labels, **given))]
        )

    fine = samples("unipc", options={"order": 3}, steps=100)
    print(f"{n} samples a cell: Fréchet distance (RMSE); 100 calls are at {frechet_distance(fine, real):.3f}")
    print(f"{'method':<12}{'start':<12}" + "".join(f"{steps:>16}" for steps in STEPS))
    for method in methods:
        for start in ("marginal", "gaussian"):
            cells = []
            for steps in STEPS:
                x = samples(method, steps=steps, start=start)
                error = (x - fine).square().mean().sqrt()
                cells.append(f"{frechet_distance(x, real):.3f} ({error:.3f})")
            print(f"{method:<12}{start:<12}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the start without a call against calls.")
    parser.add_argument("run", help="a run folder that leapstep calibrate has seen")
    parser.add_argument("data", help="its data, with the parts train and test")
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--methods", nargs="+", default=["ddim", "unipc", "dpmpp_2m"])
    arguments = parser.parse_args()
    main(arguments.run, arguments.data, arguments.n, arguments.methods)
