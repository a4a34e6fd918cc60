"""How far samples that fit an observation are from the exact posterior: inpainting and restoration side by side.

    python benchmarks/editing.py

Data are signals of 8 values from a mixture of three Gaussians, of which every third value is known exactly. So the
denoiser is exact, and so is the posterior (`GaussianMixture.given`): what remains are the errors of a method and of its
steps. The distance is the 1-Wasserstein distance to exact draws along 64 directions, averaged over these and over four
observations, 500 samples each, as a share of the posterior's standard deviation. All methods sample with the noise of
DDPM's posterior, `ddim(eta=1)`.

A method may cost more than its calls of the denoiser: derivatives of it. The first table has as many calls for all
methods, the second one as many calls and derivatives together.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

import leapstep
from leapstep.core.process import along

F64 = torch.float64
BUDGETS = (20, 50, 100, 250)
MASK = torch.arange(8) % 3 != 0  # true where a value is missing
OBSERVATIONS = 4
SCALES = (0.1, 0.3, 1.0, 3.0)
"""Step sizes of DPS, of which each figure is for the best."""


def mixture() -> leapstep.GaussianMixture:
    """Three kinds of signals, smooth and rough, whose means overlap."""
    places = torch.arange(8, dtype=F64)
    apart = (places[:, None] - places).square() / 2
    kinds = [(0.3, 2.0, 1, 0.0), (0.2, 4.0, 1, 2.0), (0.15, 1.0, 2, 4.0)]  # variance, length, frequency, phase
    covariances = [v * torch.exp(-apart / length**2) + 0.01 * torch.eye(8, dtype=F64) for v, length, _, _ in kinds]
    means = [0.5 * torch.sin(2 * torch.pi * k * places / 8 + phase) for _, _, k, phase in kinds]
    return leapstep.GaussianMixture(
        torch.stack(means), torch.stack(covariances), torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    )


def distance(x: Tensor, exact: Tensor) -> float:
    """Sliced, as a share of the standard deviation of the exact draws."""
    across = torch.randn(x.shape[1], 64, dtype=F64, generator=torch.Generator().manual_seed(3))
    across[~MASK] = 0
    across = across / across.norm(dim=0)
    gap = ((x @ across).sort(0).values - (exact @ across).sort(0).values).abs().mean()
    return (gap / (exact @ across).std(0).mean()).item()


def dps(observed: Tensor, scale: float) -> leapstep.Transition:
    """The step of DDPM's posterior, less a multiple of the gradient of |y - A D| (Chung et al. 2023, algorithm 1)."""
    operator, step = leapstep.masked(MASK), leapstep.ddim(eta=1.0)

    def transition(diffusion, x, t, s, memory, noise):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = diffusion.denoise(x, t)
            misfit = (observed - operator(x0)).flatten(1).norm(dim=1)
            (slope,) = torch.autograd.grad(misfit.sum(), x)
        known = leapstep.Diffusion(diffusion.process, lambda *_: x0.detach())
        moved = step(known, x.detach(), t, s, memory, noise)
        return moved._replace(x=moved.x - scale * slope)

    return transition


def isotropic(diffusion: leapstep.Diffusion, observed: Tensor) -> leapstep.Diffusion:
    """As `given`, with C_t = r^2 I in V, r^2 = sigma^2 / (alpha^2 + sigma^2) (Song et al. 2023, PiGDM)."""
    operator, process = leapstep.masked(MASK), diffusion.process

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t), process.sigma(t)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = diffusion.denoise(x, t)
            (slope,) = torch.autograd.grad(x0, x, observed - operator(x0.detach()))
        return x0.detach() + along((alpha**2 + sigma**2) / alpha, x) * slope

    return diffusion._replace(denoise=denoise)


class Bench:
    """Four observations, their exact posteriors, and every method for a batch of all of them."""

    def __init__(self, n: int) -> None:
        self.n, self.diffusion = n, mixture().diffusion("cosine")
        self.truth = torch.where(MASK, 0.0, mixture().sample(OBSERVATIONS, seed=1))
        self.posteriors = [mixture().given(leapstep.masked(MASK), y) for y in self.truth]
        self.exact = [posterior.sample(n, seed=2) for posterior in self.posteriors]
        self.observed = self.truth.repeat_interleave(n, 0)

    def rows(self) -> dict[str, tuple[int, int]]:
        """Every method, and what a step costs: calls, and calls and derivatives together."""
        return {
            "exact conditional denoiser": (1, 1),
            "replacement": (1, 1),
            "RePaint, resample=5": (5, 5),
            "RePaint, resample=20": (20, 20),
            "DPS": (1, 2),
            "isotropic (PiGDM)": (1, 2),
            "given, iterations=1": (1, 3),
            "given, iterations=3": (1, 5),
            "given, iterations=3, floor=0": (1, 5),
        }

    def samples(self, method: str, steps: int, scale: float = 1.0) -> Tensor:
        diffusion, transition, y = self.diffusion, leapstep.ddim(eta=1.0), self.observed
        kind, *options = method.split(", ")
        values = {name: float(value) for name, value in (option.split("=") for option in options)}
        if kind == "exact conditional denoiser":
            each = [posterior.diffusion("cosine") for posterior in self.posteriors]

            def conditional(x: Tensor, t: Tensor) -> Tensor:
                return torch.cat([one.denoise(part, t) for one, part in zip(each, x.chunk(OBSERVATIONS), strict=True)])

            diffusion = diffusion._replace(denoise=conditional)
        elif kind in ("replacement", "RePaint"):
            transition = leapstep.inpainted(transition, y, MASK.double(), resample=int(values.get("resample", 1)))
        elif kind == "DPS":
            transition = dps(y, scale)
        elif kind == "isotropic (PiGDM)":
            diffusion = isotropic(diffusion, y)
        else:
            values["iterations"] = int(values["iterations"])  # type: ignore[assignment]
            diffusion = leapstep.given(diffusion, leapstep.masked(MASK), y, **values)  # type: ignore[arg-type]
        return leapstep.sample(diffusion, y.shape, steps, transition, dtype=F64, progress=False)

    def mean_distance(self, parts: Sequence[Tensor]) -> float:
        """The distance of samples for each observation from its posterior, averaged."""
        return sum(map(distance, parts, self.exact)) / OBSERVATIONS

    def error(self, method: str, steps: int) -> float:
        """The distance from the exact posteriors; of DPS, with the step size that makes it least."""
        return min(
            self.mean_distance(self.samples(method, steps, scale).chunk(OBSERVATIONS))
            for scale in (SCALES if method == "DPS" else (1.0,))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Distance of inpainting and restoration from the exact posterior.")
    parser.add_argument("--n", type=int, default=500, help="samples for each observation")
    bench = Bench(parser.parse_args().n)
    least = bench.mean_distance([posterior.sample(bench.n, seed=4) for posterior in bench.posteriors])
    prior = bench.mean_distance([mixture().sample(bench.n, seed=5)] * OBSERVATIONS)
    print(f"two sets of exact draws: {least:.3f}; the prior: {prior:.2f}")
    for index, what in enumerate(("calls", "calls and derivatives")):
        print(f"\n| {what} | " + " | ".join(map(str, BUDGETS)) + " |\n| --- |" + " --- |" * len(BUDGETS))
        for method, cost in bench.rows().items():
            steps = [budget // cost[index] for budget in BUDGETS]
            figures = [f"{bench.error(method, n):.3f}" if n > 1 else "-" for n in steps]
            print(f"| {method} | " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
