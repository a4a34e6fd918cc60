"""A time-series imputer: a network that draws what is missing, given what was observed and where.

    python examples/imputer.py      # about half a minute on one core

The series are two coupled channels of 24 hours, a Gaussian process. So the right answer is known: the mean and the
standard deviation of the missing values of each series, given its observed ones. The network is conditioned on
(observed, mask), arrays aligned with the samples; the observed values stay as they are.
"""

import argparse

import torch
from torch import nn
from tqdm import trange

import leapstep

# --- what you have: series [n, 2, 24] with holes, a network, the betas of a schedule, a training loop -----------------

T = 50
betas = torch.linspace(1e-4**0.5, 0.5**0.5, T, dtype=torch.float64) ** 2
alphas_cumprod = (1 - betas).cumprod(0)

hours = torch.arange(24.0)
ALONG = torch.exp(-(hours[:, None] - hours).abs() / 6)
COVARIANCE = torch.kron(torch.tensor([[1.0, 0.8], [0.8, 1.0]]), ALONG)  # [48, 48], of both channels
ROOT = torch.linalg.cholesky(COVARIANCE)


def series(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Complete series `[n, 2, 24]`, and masks of that shape, 1 where observed: single values and a gap are missing."""
    x, start = (torch.randn(n, 48) @ ROOT.T).reshape(n, 2, 24), torch.randint(0, 18, (n, 1, 1))
    gap = (hours >= start) & (hours < start + 6) & (torch.rand(n, 2, 1) < 0.7)
    return x, ((torch.rand(n, 2, 24) < 0.6) & ~gap).float()


class Imputer(nn.Module):
    """Predicts v for x `[b, 2, 24]` at timesteps `[b]` from 0 to 49, given observed values and mask."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time, self.enter = nn.Linear(16, width), nn.Conv1d(6, width, 5, padding=2)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(3))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(3))
        self.leave = nn.Conv1d(width, 2, 1)

    def forward(self, x: torch.Tensor, k: torch.Tensor, observed: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """v, `[b, 2, 24]`; trained where values are missing only, arbitrary elsewhere."""
        angles = k[:, None] / T * 2.0 ** torch.arange(8)
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None]
        h = self.enter(torch.cat([x * (1 - mask), observed * mask, mask], 1))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = h + conv(nn.functional.silu(norm(h) + embedding))
        return self.leave(h)


def train(steps: int) -> Imputer:
    net = Imputer()
    optimizer = torch.optim.Adam(net.parameters(), 6e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc="training", unit="step"):
        (x0, mask), eps, k = series(64), torch.randn(64, 2, 24), torch.randint(0, T, (64,))
        alpha, sigma = (c.sqrt().float()[:, None, None] for c in (alphas_cumprod[k], 1 - alphas_cumprod[k]))
        error = net(alpha * x0 + sigma * eps, k, x0, mask) - (alpha * eps - sigma * x0)
        loss = ((1 - mask) * error.square()).sum() / (1 - mask).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def conditional(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every value given the observed ones, `[2, 24]` each, for one series."""
    seen = mask.flatten().bool()
    gain = torch.linalg.solve(COVARIANCE[seen][:, seen], COVARIANCE[seen]).T
    variance = COVARIANCE.diagonal() - (gain * COVARIANCE[:, seen]).sum(1)
    return (gain @ x.flatten()[seen]).reshape(2, 24), variance.clamp(min=0).sqrt().reshape(2, 24)


# --- what you add ----------------------------------------------------------------------------------------------------


def main(training_steps: int, n: int, draws: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net, (x, mask) = train(training_steps), series(n)
    observed = x * mask
    known, known_mask = (part.repeat_interleave(draws, 0) for part in (observed, mask))  # impute each several times

    diffusion = leapstep.from_network(
        net,
        leapstep.from_betas(betas),
        predicts="v",
        condition={"observed": known, "mask": known_mask},
        clip=lambda x0: torch.where(known_mask.bool(), known, x0),  # every estimate has the observed values
    )
    drawn = leapstep.sample(diffusion, shape=known.shape, steps=20, transition=leapstep.dpmpp_2m())
    drawn = drawn.reshape(n, draws, 2, 24)

    mean, std = (torch.stack(part) for part in zip(*map(conditional, x, mask), strict=True))
    missing = mask == 0
    error = ((drawn.mean(1) - mean)[missing].square().mean() / mean[missing].square().mean()).sqrt()
    spread = (drawn.var(1)[missing].mean() / std[missing].square().mean()).sqrt()
    change = (drawn - observed[:, None]).abs().amax(1)[mask == 1].max()
    print(f"missing: {missing.float().mean():.0%}; largest change to an observed value: {change:.1e}")
    print(f"error of the mean of {draws} draws, relative to the true mean: {error:.3f}")
    print(f"standard deviation of the draws, relative to the true one: {spread:.3f}")
    return {"drawn": drawn, "observed": observed, "mask": mask, "mean": mean, "std": std}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fill in the missing values of time series with draws from a network.")
    parser.add_argument("--training-steps", type=int, default=3000)
    parser.add_argument("--n", type=int, default=50, help="series")
    parser.add_argument("--draws", type=int, default=40, help="draws for each series")
    arguments = parser.parse_args()
    main(arguments.training_steps, arguments.n, arguments.draws)
