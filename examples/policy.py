"""A policy: a network that draws actions for states, each sample for another state.

    python examples/policy.py      # about ten seconds on one core

A vehicle at a position in [-1, 1]^2 drives to the origin and passes an obstacle on the left or on the right, with
probabilities that depend on the position. The mean of the two leads straight into the obstacle, so actions must be
drawn, not averaged. The true distribution is known, and drawn actions are compared with it.
"""

import argparse

import torch
from torch import nn
from tqdm import trange

import leapstep

# --- what you have: states and actions, a network, the betas of a schedule, a training loop --------------------------

T = 100
f = torch.cos((torch.linspace(0, 1, T + 1, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2
betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
alphas_cumprod = (1 - betas).cumprod(0)


def states(n: int) -> torch.Tensor:
    """Positions of the vehicle, `[n, 2]`, at least 0.3 from the origin."""
    angle, radius = 2 * torch.pi * torch.rand(n), 0.3 + 0.7 * torch.rand(n)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def share_left(state: torch.Tensor) -> torch.Tensor:
    """The probability of passing on the left at each state, `[n]`."""
    return torch.sigmoid(4 * state[:, 0])


def headings(state: torch.Tensor) -> torch.Tensor:
    """The mean actions for passing on the left and right, `[n, 2, 2]`: 45 degrees off the direction to the origin."""
    ahead, turn = -torch.view_as_complex(state), torch.tensor([1 + 1j, 1 - 1j])
    return torch.view_as_real((ahead / ahead.abs())[:, None] * turn / 2**0.5)


def actions(state: torch.Tensor) -> torch.Tensor:
    """Draw what the expert does, `[n, 2]`."""
    right = (torch.rand(len(state)) > share_left(state)).long()
    return headings(state)[torch.arange(len(state)), right] + 0.1 * torch.randn(len(state), 2)


class Policy(nn.Module):
    """Predicts the action behind x `[b, 2]` at integer timesteps `[b]` from 0 to 99, given states `[b, 2]`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *[nn.Linear(20, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()],
            nn.Linear(128, 2),
        )

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The action x0, `[b, 2]`."""
        angles = timestep[:, None] / T * 2.0 ** torch.arange(8)
        return self.layers(torch.cat([x, state, angles.sin(), angles.cos()], 1))


def train(steps: int) -> Policy:
    net = Policy()
    optimizer = torch.optim.Adam(net.parameters(), 6e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc="training", unit="step"):
        state = states(256)
        x0, eps, k = actions(state), torch.randn(256, 2), torch.randint(0, T, (256,))
        a = alphas_cumprod[k].float()[:, None]
        loss = (net(a.sqrt() * x0 + (1 - a).sqrt() * eps, k, state) - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


# --- what you add ----------------------------------------------------------------------------------------------------


def main(training_steps: int, n: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net, state = train(training_steps), states(n)

    def for_states(rows: range) -> leapstep.Diffusion:
        """The policy for the states of one batch; without batches, `condition={"state": state}` is enough."""
        return leapstep.from_network(
            net,
            leapstep.from_betas(betas),  # the schedule that it was trained on
            predicts="x0",
            condition={"state": state[rows.start : rows.stop]},
        )

    x = leapstep.sample(for_states, shape=(n, 2), steps=10, transition=leapstep.dpmpp_2m(), batch_size=1000)
    distance = (x[:, None] - headings(state)).square().sum(2)
    spread, left = distance.amin(1).mean().div(2).sqrt(), (distance.argmin(1) == 0).float()
    others = (x[:, None] - headings(state.flip(0))).square().sum(2).amin(1).mean().div(2).sqrt()
    print(f"spread about the nearer heading: {spread:.3f} (expert: 0.100); about those of another state: {others:.3f}")
    for low, high in ((-1.0, -0.3), (-0.3, 0.3), (0.3, 1.0)):
        here = (state[:, 0] >= low) & (state[:, 0] < high)
        drawn, expected = left[here].mean(), share_left(state)[here].mean()
        print(f"x from {low:4.1f} to {high:4.1f}: passed on the left {drawn:.3f} (expert: {expected:.3f})")
    return {"states": state, "actions": x, "left": left, "spread": spread, "others": others}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw actions for many states at once.")
    parser.add_argument("--training-steps", type=int, default=3000)
    parser.add_argument("--n", type=int, default=6000, help="states, and actions")
    arguments = parser.parse_args()
    main(arguments.training_steps, arguments.n)
