"""Signals of several channels, in their own units: a 1-D convolutional network that predicts v.

    python examples/signal_1d.py      # about half a minute on one core

The data are damped oscillations about 100 mm, two channels of 32 values each, 25 ms apart: the position of a mass in
mm, and its velocity in mm per 0.1 s. So the second channel must be the slope of the first, in samples as in the data.
"""

import argparse

import torch
from torch import nn
from tqdm import trange

import leapstep

# --- what you have: signals [n, 2, 32], a network, a schedule, a training loop ----------------------------------------

T = 1000
alphas_cumprod = torch.cos((torch.arange(T, dtype=torch.float64) + 1) / (T + 1) * torch.pi / 2) ** 2
SHIFT, SCALE = torch.tensor([[100.0], [0.0]]), 30.0  # the network sees (signal - SHIFT) / SCALE


def signals(n: int) -> torch.Tensor:
    """Positions in mm and velocities in mm per 0.1 s, `[n, 2, 32]`."""
    t, size = torch.arange(32) * 0.25, 30 + 30 * torch.rand(n, 1)
    rate, damping, phase = 0.6 + 0.8 * torch.rand(n, 1), 0.3 * torch.rand(n, 1), 2 * torch.pi * torch.rand(n, 1)
    wave = size * torch.exp((1j * rate - damping) * t + 1j * phase)
    return torch.stack([100 + wave.real, ((1j * rate - damping) * wave).real], 1)


class Network(nn.Module):
    """Predicts v for x `[b, 2, 32]` at integer timesteps `[b]` from 0 to 999."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.enter, self.leave = nn.Conv1d(2, width, 4, stride=4), nn.ConvTranspose1d(width, 2, 4, stride=4)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(4))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(4))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """v, `[b, 2, 32]`."""
        angles = timestep[:, None] / T * 2.0 ** torch.arange(8)
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None]
        h = self.enter(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = h + conv(nn.functional.silu(norm(h) + embedding))
        return self.leave(h)


def train(steps: int) -> Network:
    net = Network()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc="training", unit="step"):
        x0, eps, k = (signals(64) - SHIFT) / SCALE, torch.randn(64, 2, 32), torch.randint(0, T, (64,))
        alpha, sigma = (c.sqrt().float()[:, None, None] for c in (alphas_cumprod[k], 1 - alphas_cumprod[k]))
        loss = (net(alpha * x0 + sigma * eps, k) - (alpha * eps - sigma * x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


# --- what you add ----------------------------------------------------------------------------------------------------


def slope_error(x: torch.Tensor) -> float:
    """The difference between velocities and slopes of the positions, as a share of the variance of the velocities."""
    slope = (x[:, 0, 2:] - x[:, 0, :-2]) / (2 * 0.25)
    return ((slope - x[:, 1, 1:-1]).var() / x[:, 1].var()).item()


def main(training_steps: int, n: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    diffusion = leapstep.from_network(
        train(training_steps),
        leapstep.from_alphas_cumprod(alphas_cumprod),
        predicts="v",
        scaling=(SHIFT, SCALE),  # samples come in mm and mm per 0.1 s
    )
    x = leapstep.sample(diffusion, shape=(n, 2, 32), steps=20, transition=leapstep.dpmpp_2m())
    groups = {"data": signals(n), "samples": x, "noise": SHIFT + SCALE * torch.randn(n, 2, 32)}
    print("           position       velocity     velocity less slope, share of variance")
    for name, values in groups.items():
        means, stds = values.mean((0, 2)).tolist(), values.std((0, 2)).tolist()
        print(f"{name:<8}{means[0]:6.1f} ± {stds[0]:4.1f}{means[1]:7.1f} ± {stds[1]:4.1f}{slope_error(values):11.3f}")
    return groups


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sample a network for signals.")
    parser.add_argument("--training-steps", type=int, default=3000)
    parser.add_argument("--n", type=int, default=1000, help="samples")
    arguments = parser.parse_args()
    main(arguments.training_steps, arguments.n)
