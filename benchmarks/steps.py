"""Quality against steps on a trained model of the digits: Fréchet distance to held-out digits, for every method.

    leapstep demo && leapstep calibrate demo/run digits && python benchmarks/steps.py demo/run --n 600

All rows start from the same noise, as many of each class; seconds are of one run each.
"""

import argparse
import time

import torch

import leapstep
from leapstep.data import read
from leapstep.evaluation.distances import frechet_distance

FAST = [
    "ddim",
    "dpmpp_2m",
    "dpmpp_3m",
    "unipc",
    "deis",
    "ipndm",
    "sde_dpmpp_2m",
    "ddpm",
    "ddpm, optimal",
    "ddim, optimal",
]
ROWS = [("ddpm", 1000), ("ddim", 100), *[(label, steps) for label in FAST for steps in (20, 10, 5)]]


def main(run, n):
    model, held_out = leapstep.load(run), read("digits", split="test")
    print(f"{n} samples a row\n{'method':<15}{'calls':>6}{'seconds':>9}{'distance':>10}")
    for label, steps in ROWS:
        method, _, variance = label.partition(", ")
        options = {"variance": "optimal", "spread": model.spread} if variance else {}
        began = time.perf_counter()
        x = leapstep.sample(
            lambda rows: model.diffusion(torch.tensor(rows) % len(model.classes)),
            (n, *model.shape),
            steps,
            leapstep.TRANSITIONS[method].make(**options),
            batch_size=120,
        )
        seconds = time.perf_counter() - began
        values = model.scaling.to_model(model.scaling.to_pixels(x))
        distance = frechet_distance(values, held_out.batch(range(len(held_out))))
        print(f"{label:<15}{steps:>6}{seconds:>9.1f}{distance:>10.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure quality against steps on a model of the digits.")
    parser.add_argument("run", help="a run folder trained on the digits with --labels, such as demo/run")
    parser.add_argument("--n", type=int, default=600)
    arguments = parser.parse_args()
    main(arguments.run, arguments.n)
