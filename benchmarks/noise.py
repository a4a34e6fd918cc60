"""Noise of which every sample has its own, beside torch.randn, which knows no samples.

    python benchmarks/noise.py

Nanoseconds a number on one thread.
"""

import math

import torch

import timing
from leapstep import Noise

SHAPES = ((16, 1, 8, 8), (16, 3, 32, 32), (64, 3, 64, 64))


def noise(bench):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for n, *shape in bench.least(SHAPES, SHAPES[:1]):
            ours = Noise(0, range(n), tuple(shape), device=bench.device)
            runs = {
                "leapstep": lambda ours=ours: ours(1),
                "torch.randn": lambda size=(n, *shape): torch.randn(size, device=bench.device),
            }
            row = bench.rounds(runs, seconds=2.0).cost(f"noise, {n} samples of {shape}", "leapstep", "torch.randn")
            each = 1e6 / (n * math.prod(shape))
            yield row._replace(ours=row.ours * each, theirs=row.theirs * each, unit="ns a number")
    finally:
        torch.set_num_threads(threads)


CASES = {"noise": noise}


if __name__ == "__main__":
    timing.main(CASES, __doc__)
