"""Why eta = 0 wins at few steps and may lose at many: the law of the samples of a network with known errors.

    python benchmarks/eta.py

The data are a mixture of three narrow Gaussians in the plane, so the denoiser is exact, and an error is what this
script adds: none, one at all noise levels, or one at high noise (t > 0.5) only. The distance is the 1-Wasserstein
distance to exact draws, averaged over 32 directions (20,000 samples; the head line has it for two sets of exact draws).
"""

import math

import torch

import leapstep

N = 20_000
STEPS = (5, 10, 20, 50, 100, 300, 1000)
SIZES = {"exact denoiser": (0.0, 0.0), "error of 30% at all levels": (0.3, 0.0), "error of 30% at t > 0.5": (0.3, 0.5)}


def mixture() -> leapstep.GaussianMixture:
    means = torch.tensor([[1.5, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)
    return leapstep.GaussianMixture(means, torch.tensor([0.02, 0.02, 0.02], dtype=torch.float64))


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    angles = torch.arange(32, dtype=torch.float64) * (math.pi / 32)
    across = torch.stack([angles.cos(), angles.sin()])
    return ((x @ across).sort(0).values - (y @ across).sort(0).values).abs().mean().item()


def wrong(diffusion: leapstep.Diffusion, size: float, above: float) -> leapstep.Diffusion:
    """Add an error of this share of the spread of data with variance 1, at times above the one given."""
    process = diffusion.process

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        spread = (process.sigma(t) ** 2 / (process.alpha(t) ** 2 + process.sigma(t) ** 2)).sqrt()
        error = size * spread * (t > above) * torch.tensor([1.0, -1.0], dtype=x.dtype)
        return diffusion.denoise(x, t) + error

    return leapstep.Diffusion(process, denoise)


def main() -> None:
    data, others = (mixture().sample(N, seed) for seed in (9, 10))
    print(f"distance to exact draws (exact draws: {distance(data, others):.3f})\n")
    for name, (size, above) in SIZES.items():
        print(f"{name:<30}" + "".join(f"{steps:>8}" for steps in STEPS) + "  steps")
        diffusion = wrong(mixture().diffusion(leapstep.linear()), size, above)
        for eta in (0.0, 0.5, 1.0):
            ends = (
                leapstep.sample(diffusion, (N, 2), steps, leapstep.ddim(eta), dtype=torch.float64, seed=1)
                for steps in STEPS
            )
            print(f"  eta = {eta:<24}" + "".join(f"{distance(x, data):>8.3f}" for x in ends))


if __name__ == "__main__":
    main()
