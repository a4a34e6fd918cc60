"""What the sampling loop costs beside the network calls that it makes, and beside the loop of diffusers.

    python benchmarks/loop.py

Interleaved rounds in one process; each figure is the median of the rounds, as a ratio to the bare network calls.
"""

import argparse
import statistics
import time

import torch
from diffusers import DDIMScheduler

import leapstep
from leapstep.networks import UNet


@torch.no_grad()
def bare(net, x, steps):
    k = torch.full((len(x),), 500)
    for _ in range(steps):
        net(x, k)


def ours(eta):
    def run(net, x, steps):
        diffusion = leapstep.from_network(net, leapstep.linear())
        leapstep.sample(diffusion, x.shape, steps, leapstep.ddim(eta))

    return run


@torch.no_grad()
def diffusers(net, x, steps):
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    for k in scheduler.timesteps:
        x = scheduler.step(net(x, k), k, x).prev_sample


RUNS = {
    "bare network calls": bare,
    "leapstep, eta 0": ours(0.0),
    "leapstep, eta 1": ours(1.0),
    "diffusers, eta 0": diffusers,
}


def main(rounds, steps, batch):
    net = UNet(in_channels=1, channels=(32, 64), blocks=1, attention=(False, True), groups=8).eval()
    x = torch.randn(batch, 1, 8, 8)
    seconds = {name: [] for name in RUNS}
    for round_ in range(rounds + 1):
        for name, run in RUNS.items():
            began = time.perf_counter()
            run(net, x, steps)
            if round_:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    reference = statistics.median(seconds["bare network calls"])
    print(f"{steps} steps, batch of {batch}, 8x8 U-Net of 0.7 million weights, {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name:<22}{1000 * middle / steps:9.2f} ms a step   x{middle / reference:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time the sampling loop against bare network calls and diffusers.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.steps, arguments.batch)
