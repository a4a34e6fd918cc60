"""Volumes: a 3-D convolutional network, trained as a rectified flow.

    python examples/volume_3d.py      # about half a minute on one core

The data are balls of three densities in a cube of 8 x 8 x 8 voxels, with soft edges. Samples must be balls, too:
little may be left of one when the ball that fits it best is subtracted.
"""

import argparse

import torch
from torch import nn
from tqdm import trange

import leapstep

# --- what you have: volumes [n, 1, 8, 8, 8], a network, a training loop -----------------------------------------------

GRID = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij"))


def balls(center: torch.Tensor, radius: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """Volumes `[n, 1, 8, 8, 8]` of centers `[n, 3]`, radii and densities `[n]`."""
    distance = (GRID - center[:, :, None, None, None]).square().sum(1, keepdim=True).sqrt()
    return density[:, None, None, None, None] * torch.sigmoid(2 * (radius[:, None, None, None, None] - distance))


def volumes(n: int) -> torch.Tensor:
    """Balls at random positions, `[n, 1, 8, 8, 8]`."""
    density = torch.tensor([1.0, 1.5, 2.0])[torch.randint(0, 3, (n,))]
    return balls(2.5 + 2 * torch.rand(n, 3), 1.5 + torch.rand(n), density)


class Network(nn.Module):
    """Predicts the velocity eps - x0 at x `[b, 1, 8, 8, 8]` and times `[b]` from 0 (data) to 1 (noise)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.enter, self.leave = nn.Conv3d(1, width, 2, stride=2), nn.ConvTranspose3d(width, 1, 2, stride=2)
        self.convs = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(3))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The velocity, `[b, 1, 8, 8, 8]`."""
        embedding, h = self.time(t[:, None])[:, :, None, None, None], self.enter(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = h + conv(nn.functional.silu(norm(h) + embedding))
        return self.leave(h)


def train(steps: int) -> Network:
    net = Network()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc="training", unit="step"):
        x0, eps, t = volumes(32), torch.randn(32, 1, 8, 8, 8), torch.rand(32)
        x = torch.lerp(x0, eps, t[:, None, None, None, None])
        loss = (net(x, t) - (eps - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


# --- what you add ----------------------------------------------------------------------------------------------------


def residue(x: torch.Tensor) -> torch.Tensor:
    """The rest of volumes `[n, 1, 8, 8, 8]` without the nearest of 10,000 balls, as a share of their squared norm."""
    torch.manual_seed(1)
    nearest = torch.cdist(x.flatten(1), volumes(10_000).flatten(1)).min(1).values
    return nearest.square() / x.flatten(1).square().sum(1)


def main(training_steps: int, n: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    diffusion = leapstep.from_network(
        train(training_steps),
        leapstep.flow(),  # x_t = (1 - t) x0 + t eps
        predicts="flow",  # eps - x0; "-flow" if the velocity points to the data
        time="fraction",
    )
    x = leapstep.sample(diffusion, shape=(n, 1, 8, 8, 8), steps=20, transition=leapstep.dpmpp_2m())
    groups = {"data": volumes(n), "samples": x, "noise": torch.randn(n, 1, 8, 8, 8)}
    print("          mass    its spread    left without the nearest ball")
    for name, values in groups.items():
        mass = values.flatten(1).sum(1)
        print(f"{name:<8}{mass.mean():6.1f}{mass.std():14.1f}{residue(values).mean():17.3f}")
    return groups


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sample a network for volumes.")
    parser.add_argument("--training-steps", type=int, default=2000)
    parser.add_argument("--n", type=int, default=300, help="samples")
    arguments = parser.parse_args()
    main(arguments.training_steps, arguments.n)
