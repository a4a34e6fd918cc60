"""Paths of the reverse SDE and of the probability-flow ODE from the same start noise, over the exact density.

    python benchmarks/paths.py docs/paths.png --n 4000

The data are a mixture of three Gaussians on a line, so the denoiser and the density at every time are exact. Prints how
far the samples of both are from exact draws at four times, with exact draws against exact draws as the yardstick, and
how far a sample's quantile moves on its way: on a line the paths of the exact ODE cannot cross, so there it never does.
Then draws the figure (pip install 'leapstep[report]').
"""

import argparse

import torch
from PIL import Image

import leapstep

F64 = torch.float64
DATA = leapstep.GaussianMixture(
    torch.tensor([[-1.4], [0.1], [1.3]], dtype=F64),
    torch.tensor([0.04, 0.02, 0.06], dtype=F64),
    torch.tensor([0.35, 0.25, 0.4], dtype=F64),
)
PROCESS = leapstep.exponential(rate=4.0, power=3.0)  # a clock that gives the parting of the modes room in the picture
METHODS = {  # title, transition, steps
    "SDE": ("reverse SDE: euler_maruyama(), 1000 steps", leapstep.euler_maruyama(), 1000),
    "ODE": ("probability-flow ODE: rk4(), 200 steps", leapstep.rk4(), 200),
}
MOMENTS = (0.5, 0.25, 0.1, 0.0)  # all of them times of both lists
BOTTOM, TOP = -3.2, 3.2


def run(transition, steps, n):
    """The times of a path and x at each of them, `[steps + 1, n]`, always from the same start noise."""
    path = leapstep.times(PROCESS, steps)
    noise = leapstep.Noise(0, range(n), (1,), F64)
    x = PROCESS.sigma(path[0]) * noise(0)
    with torch.no_grad():
        states = leapstep.trajectory(DATA.diffusion(PROCESS), x, path, transition, noise)
        return path, torch.cat([x, *(state.x for state in states)], 1).T


def draws(t, n, seed):
    """Exact draws of x_t, `[n]`."""
    eps = leapstep.Noise(seed, range(n), (1,), F64)(0)
    return PROCESS.add_noise(DATA.sample(n, seed), t, eps)[:, 0]


def distances(a, b):
    """Kolmogorov and Smirnov's distance of two sets of as many numbers, and Wasserstein's."""
    a, b = a.sort().values, b.sort().values
    both = torch.cat([a, b])
    shares = [torch.searchsorted(c, both, right=True) / len(c) for c in (a, b)]
    return (shares[0] - shares[1]).abs().max().item(), (a - b).abs().mean().item()


def cdf(x, t):
    """The share of q(x_t) below each x, of the same shape."""
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    spread = (alpha**2 * DATA.covariances + sigma**2).sqrt()
    return torch.special.ndtr((x[..., None] - alpha * DATA.means[:, 0]) / spread) @ DATA.weights


def measure(runs, n, repeats=20):
    """Print each distance as the mean over as many sets of exact draws."""
    print(f"{n} samples a row, {repeats} sets of exact draws\n{'t':<8}{'':<8}{'KS':>9}{'Wasserstein':>13}")
    for t in MOMENTS:
        truths = [draws(t, n, seed) for seed in range(1, 1 + repeats)]
        others = {"exact": [draws(t, n, seed) for seed in range(101, 101 + repeats)]}
        others |= {name: [x[(path - t).abs().argmin()]] * repeats for name, (path, x) in runs.items()}
        for name, sets in others.items():
            found = torch.tensor([distances(*pair) for pair in zip(truths, sets, strict=True)]).mean(0).tolist()
            print(f"{t:<8}{name:<8}{found[0]:>9.4f}{found[1]:>13.4f}")
    for name, (path, x) in runs.items():
        moved = (cdf(x[-1], path[-1]) - cdf(x[0], path[0])).abs()
        print(f"{name}: from t = 1 to 0 a quantile moves by {moved.mean():.5f} on average, at most {moved.max():.5f}")


def draw(runs, out, shown=12, bins=60):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    t, x = torch.linspace(0, 1, 361, dtype=F64), torch.linspace(BOTTOM, TOP, 361, dtype=F64)
    density = torch.stack([DATA.log_density(x[:, None], PROCESS, now).exp() for now in t], 1)
    plt.rcParams.update({"font.size": 11, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(
        1, 5, figsize=(11, 4.6), sharey=True, gridspec_kw={"width_ratios": [4, 1.1, 0.35, 4, 1.1], "wspace": 0.04}
    )
    figure.subplots_adjust(0.055, 0.125, 0.995, 0.925)
    axes[2].axis("off")
    colours = mpl.colormaps["plasma"](torch.linspace(0.0, 0.88, shown).numpy())
    for place, (name, (path, ways)) in enumerate(runs.items()):
        left, right = axes[3 * place : 3 * place + 2]
        left.imshow(
            density.sqrt().numpy(), extent=(0, 1, BOTTOM, TOP), origin="lower", aspect="auto", cmap="Greys", vmin=0,
            vmax=1.35, interpolation="bilinear",
        )  # fmt: skip
        ranks = ((torch.arange(shown) + 0.5) / shown * ways.shape[1]).long()
        for colour, sample in zip(colours, ways[0].argsort()[ranks], strict=True):
            left.plot(path, ways[:, sample], color=colour, linewidth=0.9 if name == "SDE" else 1.5)
            left.plot(0, ways[-1, sample], "o", color=colour, markersize=4.5, clip_on=False, zorder=5)
        left.set(xlim=(1, 0), ylim=(BOTTOM, TOP), xlabel="time t  (1: noise, 0: data)", title=METHODS[name][0])
        left.set_yticks(range(-3, 4))
        left.xaxis.set_major_formatter("{x:g}")
        right.hist(
            ways[-1].numpy(), bins, range=(BOTTOM, TOP), density=True, orientation="horizontal", color="#9ecae1",
            label=f"{ways.shape[1]} ends",
        )  # fmt: skip
        right.plot(DATA.log_density(x[:, None]).exp(), x, color="black", linewidth=1.2, label="exact")
        right.tick_params(left=False, labelleft=False)
        right.set(xlabel="density", xlim=(-0.06, None), xticks=[0.5])
        right.spines["left"].set_visible(False)
        right.legend(loc="upper right", frameon=False, fontsize=9, handlelength=1.2, borderpad=0, borderaxespad=0)
    axes[3].tick_params(labelleft=True)
    axes[0].set_ylabel("x  (units of the data)")
    figure.set_dpi(130)
    figure.canvas.draw()
    picture = Image.frombuffer("RGBA", figure.canvas.get_width_height(), figure.canvas.buffer_rgba())
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)  # a third of the bytes


def main(out, n):
    runs = {name: run(transition, steps, n) for name, (_, transition, steps) in METHODS.items()}
    measure(runs, n)
    draw(runs, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw paths of the reverse SDE and of the ODE over the exact density.")
    parser.add_argument("out", help="the picture, such as docs/paths.png")
    parser.add_argument("--n", type=int, default=4000)
    arguments = parser.parse_args()
    main(arguments.out, arguments.n)
