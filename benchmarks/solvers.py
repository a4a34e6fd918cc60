"""Error against the exact solution of the ODE, over network calls, for every deterministic method.

    python benchmarks/solvers.py docs/solvers.png

The data are a mixture of Gaussians, so the denoiser is exact and the error is the solver's alone: the root mean square
difference, over 256 samples, from the solution with very many steps. Prints a table and draws the figure (pip install
'leapstep[report]').
"""

import sys
from functools import partial

import torch

import leapstep

CALLS = (5, 8, 10, 12, 16, 20, 25, 32, 50, 100)
VARIANTS = {"unipc (order 3)": ("unipc", {"order": 3}), "deis (log_snr)": ("deis", {"variable": "log_snr"})}
TOLERANCES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)


def mixture() -> leapstep.GaussianMixture:
    means = torch.tensor([[1.5, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)
    return leapstep.GaussianMixture(means, torch.tensor([0.3, 0.2, 0.25], dtype=torch.float64))


def solve(diffusion: leapstep.Diffusion, transition: leapstep.Transition, steps: int) -> tuple[torch.Tensor, int]:
    """Where 256 samples end, from noise to data in steps that are even in log-SNR, and how many calls it took."""
    start = leapstep.Noise(0, range(256), (2,), torch.float64)(0)
    path = leapstep.times(diffusion.process, steps, "log_snr")
    with torch.no_grad():
        *_, last = leapstep.trajectory(diffusion, diffusion.process.sigma(path[0]) * start, path, transition)
    return last.x, last.calls


def measure(diffusion: leapstep.Diffusion) -> dict[str, dict[int, float]]:
    """The error of each method by its calls."""
    exact, _ = solve(diffusion, leapstep.rk4(), 1000)
    methods = {name: (name, {}) for name, method in leapstep.TRANSITIONS.items() if method.deterministic} | VARIANTS
    found: dict[str, dict[int, float]] = {}
    for label, (name, options) in methods.items():
        method = leapstep.TRANSITIONS[name]
        make = partial(method.make, **options)
        if method.calls:
            runs = [(make(), (calls - 1) // method.calls + 1) for calls in CALLS]  # the last step is a single call
        else:
            runs = [(make(rtol=tolerance, atol=tolerance), 1) for tolerance in TOLERANCES]
        found[label] = {}
        for transition, steps in runs:
            x, calls = solve(diffusion, transition, steps)
            if CALLS[0] <= calls <= CALLS[-1]:
                found[label][calls] = (x - exact).square().mean().sqrt().item()
    return found


def show(found: dict[str, dict[int, float]], target: float, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
    styles = [(marker, line) for line in ("-", "--", ":") for marker in "osD^vX*"]
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    order = sorted(found, key=lambda label: min(found[label].values()), reverse=True)
    for i, label in enumerate(order):
        marker, line = styles[i % len(styles)]
        calls, errors = zip(*sorted(found[label].items()), strict=True)
        axes.loglog(calls, errors, marker=marker, linestyle=line, color=colours[i % 7], label=label, markersize=5)
    axes.axhline(target, color="grey", linewidth=1)
    axes.annotate("ddim, 50 calls", (100, target), color="#555555", va="bottom", ha="right")
    axes.set_xticks(CALLS, [str(calls) for calls in CALLS])
    axes.minorticks_off()
    axes.set_xlabel("network calls")
    axes.set_ylabel("error: rms distance from the exact solution (data have variance about 1)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    diffusion = mixture().diffusion(leapstep.linear()._replace(timesteps=None))
    found = measure(diffusion)
    target = found["ddim"][50]
    print(f"{'method':<18}" + "".join(f"{calls:>9}" for calls in CALLS) + "   calls to the error of ddim in 50")
    for label, errors in found.items():
        cells = []
        for calls in CALLS:
            within = [error for used, error in errors.items() if used <= calls]
            cells.append(f"{within[-1]:>9.1e}" if within else " " * 8 + "-")
        reached = min((calls for calls, error in errors.items() if error <= target), default="-")
        print(f"{label:<18}" + "".join(cells) + f"{reached:>8}")
    if len(sys.argv) > 1:
        show(found, target, sys.argv[1])


if __name__ == "__main__":
    main()
