"""A network written and trained without leapstep, sampled in 20 steps instead of 1000.

    python examples/own_network.py      # about half a minute on one core

The first half is what you have: a DDPM of your own. The second half is what you add.
"""

import argparse
import time

import torch
from torch import nn
from tqdm import trange

import leapstep
from leapstep.evaluation.distances import frechet_distance

# --- what you have: data, a network, a noise schedule, a training loop -----------------------------------------------

T = 1000
betas = torch.linspace(1e-4, 0.02, T)
alphas_cumprod = (1 - betas).cumprod(0)


def spiral(n: int) -> torch.Tensor:
    """Points on a noisy spiral, `[n, 2]`, within about [-1, 1]."""
    angle = 1.5 * torch.pi * (1 + 2 * torch.rand(n))
    return torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 15 + 0.02 * torch.randn(n, 2)


class Network(nn.Module):
    """Predicts the noise in x `[b, 2]` at integer timesteps `[b, 1]` from 0 to 999."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Embedding(T, 128)
        self.layers = nn.Sequential(nn.Linear(130, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 2))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The noise, `[b, 2]`."""
        return self.layers(torch.cat([x, self.time(timestep[:, 0])], 1))


def train(steps: int) -> Network:
    net = Network()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc="training", unit="step"):
        x0, noise, k = spiral(512), torch.randn(512, 2), torch.randint(0, T, (512, 1))
        x = alphas_cumprod[k].sqrt() * x0 + (1 - alphas_cumprod[k]).sqrt() * noise
        loss = (net(x, k) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


# --- what you add ----------------------------------------------------------------------------------------------------


def main(training_steps: int, n: int) -> dict[int, float]:
    torch.manual_seed(0)
    net, held_out = train(training_steps), spiral(n)

    diffusion = leapstep.from_network(
        net,
        leapstep.from_betas(betas),  # the schedule that it was trained on
        predicts="eps",
        reshape="[b, 1]",  # this network takes its timesteps as a column
    )
    distance = {}
    for steps, method in ((1000, leapstep.ddpm()), (50, leapstep.ddim()), (20, leapstep.ddim()), (10, leapstep.ddim())):
        began = time.perf_counter()
        x0 = leapstep.sample(diffusion, shape=(n, 2), steps=steps, transition=method)
        seconds, distance[steps] = time.perf_counter() - began, frechet_distance(x0, held_out)
        print(f"{steps:5} steps {seconds:8.2f} s    Fréchet distance to held-out {distance[steps]:.5f}")
    return distance


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sample a network of your own in few steps.")
    parser.add_argument("--training-steps", type=int, default=3000)
    parser.add_argument("--n", type=int, default=4000, help="samples")
    arguments = parser.parse_args()
    main(arguments.training_steps, arguments.n)
