"""Classifier-free guidance: a network of handwritten digits, trained with labels of which some were dropped.

    python examples/guided_digits.py      # about half a minute on one core

Guidance pushes samples towards their class; a classifier of real digits measures how far. It also raises the contrast:
`rescale` brings that of each estimate back to that of the conditional one.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from tqdm import trange

import leapstep

# --- what you have: digits and labels, a network with an eleventh label for none, a training loop --------------------

T, NONE = 1000, 10
alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, T)).cumprod(0)

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # [1797, 1, 8, 8] in [-1, 1]
labels = torch.tensor(digits.target)


class Network(nn.Module):
    """Predicts the noise in x `[b, 1, 8, 8]` at timesteps `[b]` from 0 to 999, given labels `[b]`, 10 for none."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.time, self.label = nn.Linear(20, width), nn.Embedding(11, width)
        self.enter, self.leave = nn.Linear(64, width), nn.Linear(width, 64)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.linear = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The noise, `[b, 1, 8, 8]`."""
        angles = timestep[:, None] / T * 2.0 ** torch.arange(10)
        embedding, h = self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.label(y), self.enter(x.flatten(1))
        for norm, linear in zip(self.norms, self.linear, strict=True):
            h = h + linear(nn.functional.silu(norm(h) + embedding))
        return self.leave(h).reshape(x.shape)


def train(steps: int) -> Network:
    net = Network()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc="training", unit="step"):
        rows, eps, k = torch.randint(0, len(images), (256,)), torch.randn(256, 1, 8, 8), torch.randint(0, T, (256,))
        a = alphas_cumprod[k][:, None, None, None]
        y = torch.where(torch.rand(256) < 0.15, NONE, labels[rows])
        loss = (net(a.sqrt() * images[rows] + (1 - a).sqrt() * eps, k, y) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


# --- what you add ----------------------------------------------------------------------------------------------------


def main(training_steps: int, n: int) -> dict[tuple[float, float], tuple[float, float]]:
    torch.manual_seed(0)
    net, classes = train(training_steps), torch.arange(n) % 10
    classifier = LogisticRegression(C=0.1, max_iter=1000).fit(images.flatten(1).numpy(), labels.numpy())

    results = {}
    print(f"guidance  rescale   probability of the class   contrast (digits: {images.flatten(1).std(1).mean():.3f})")
    for guidance, rescale in ((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0), (4.0, 0.7)):
        diffusion = leapstep.from_network(
            net,
            leapstep.linear(),
            predicts="eps",
            condition={"y": classes},
            null={"y": NONE},
            guidance=guidance,  # 0: no condition; 1: the condition; above 1: exaggerated
            rescale=rescale,
        )
        x = leapstep.sample(diffusion, shape=(n, 1, 8, 8), steps=20).flatten(1)
        probability = classifier.predict_proba(x.numpy())[torch.arange(n), classes].mean()
        results[guidance, rescale] = float(probability), x.std(1).mean().item()
        print(f"{guidance:8.1f}{rescale:9.1f}{probability:27.3f}{results[guidance, rescale][1]:11.3f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw digits of given classes.")
    parser.add_argument("--training-steps", type=int, default=4000)
    parser.add_argument("--n", type=int, default=500, help="samples")
    arguments = parser.parse_args()
    main(arguments.training_steps, arguments.n)
