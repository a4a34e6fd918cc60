"""Samples of DDPM and of DDIM on their way from the same noise to the data, as a moving picture.

    python benchmarks/moving_paths.py docs/moving-paths.gif

The data are a mixture of Gaussians along a spiral, so the denoiser and the density at every time are exact. Both
methods take the same number of steps from the same start noise and end in the data: DDPM on paths that shake, DDIM on
smooth ones. Grey is the exact density of x_t; a few samples leave a trail. Prints how far the samples are from exact
draws and how long their paths are. Needs the extra `report`.
"""

import argparse
import math

import torch
from PIL import Image

import leapstep

F64 = torch.float64
ANGLES = torch.linspace((0.5 * math.pi) ** 2, (3.2 * math.pi) ** 2, 90, dtype=F64).sqrt()  # even along the spiral
DATA = leapstep.GaussianMixture(
    torch.stack([ANGLES * ANGLES.cos() - 1, ANGLES * ANGLES.sin()], 1) / 4.2, torch.full((90,), 0.006, dtype=F64)
)
PROCESS = leapstep.vp()
METHODS = {"DDPM": leapstep.ddpm(), "DDIM": leapstep.ddim()}
LIMIT, COLOURS = 3.0, ("#d1495b", "#e08e1b", "#00798c", "#7b3fb0", "#3f9142", "#8d5524")
POINT, INK = "#3c5a78", "#101418"


def paths(steps, n):
    """The times and, for each method, x at each of them, `[steps + 1, n, 2]`, from the same start noise."""
    log_snr = torch.linspace(-6.0, 8.0, steps, dtype=F64)  # even steps: the spiral appears in the middle of the film
    times = torch.cat([PROCESS.time(log_snr), torch.zeros(1, dtype=F64)])
    noise = leapstep.Noise(3, range(n), (2,), F64)
    x = PROCESS.sigma(times[0]) * noise(0)
    ways = {}
    for name, transition in METHODS.items():
        states = leapstep.trajectory(DATA.diffusion(PROCESS), x, times, transition, noise)
        ways[name] = torch.stack([x, *(state.x for state in states)])
    return times, ways


def energy(a, b):
    """The energy distance of two sets of points: 0 if and only if their laws are the same."""
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


def measure(ways, n):
    exact = DATA.sample(n, seed=1)
    print(f"{'':<8}{'energy distance to exact draws':>32}{'length of a path':>18}")
    print(f"{'exact':<8}{energy(DATA.sample(n, seed=2), exact):>32.5f}")
    for name, way in ways.items():
        length = way.diff(dim=0).norm(dim=2).sum(0).mean().item()
        print(f"{name:<8}{energy(way[-1], exact):>32.5f}{length:>18.2f}")


def densities(times, cells=90):
    """The square root of the density of x_t on a grid, `[steps + 1, cells, cells]`, each with its maximum 1."""
    axis = torch.linspace(-LIMIT, LIMIT, cells, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    log = torch.stack([DATA.log_density(grid, PROCESS, t) for t in times]).reshape(-1, cells, cells)
    return ((log - log.amax((1, 2), keepdim=True)) / 2).exp().mT


def palette():
    """Shades of grey, the colours of the trails, and these on white, so that no frame changes a colour."""
    shades = [(v, v, v) for v in range(255, 95, -5)]
    inks = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (*COLOURS, POINT, INK)]
    mixed = [tuple((c * share + 255 * (3 - share)) // 3 for c in ink) for ink in inks for share in (1, 2, 3)]
    image = Image.new("P", (1, 1))
    image.putpalette([value for colour in shades + mixed for value in colour])
    return image


def draw(times, ways, out, tail=12, hold=4000, milliseconds=80):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 12})
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 4.5), dpi=80, facecolor="white")
    figure.subplots_adjust(0.01, 0.03, 0.99, 0.88, wspace=0.03)
    heat = densities(times)
    last = len(times) - 1
    images, clouds, trails, heads = [], [], [], []
    for axis, name in zip(axes, ways, strict=True):
        axis.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], aspect="equal")
        axis.set_title({"DDPM": "DDPM: fresh noise in every step", "DDIM": "DDIM: no noise but the start"}[name])
        extent = (-LIMIT, LIMIT, -LIMIT, LIMIT)
        images.append(
            axis.imshow(heat[0], extent=extent, origin="lower", cmap="Greys", vmin=0, vmax=2, interpolation="bilinear")
        )
        clouds.append(axis.plot([], [], "o", color=POINT, markersize=2.4, markeredgewidth=0)[0])
        trails.append([axis.plot([], [], color=colour, linewidth=1.4)[0] for colour in COLOURS])
        heads.append([axis.plot([], [], "o", color=colour, markersize=6)[0] for colour in COLOURS])
    clock = figure.text(0.5, 0.96, "", ha="center", va="center", color=INK)
    frames = []
    for k in range(last + 1):
        begin = max(0, k - tail) if k < last else 0  # at the end, the whole way
        for place, way in enumerate(ways.values()):
            images[place].set_data(heat[k])
            clouds[place].set_data(way[k, :, 0], way[k, :, 1])
            for i in range(len(COLOURS)):
                trails[place][i].set_data(way[begin : k + 1, i, 0], way[begin : k + 1, i, 1])
                heads[place][i].set_data(way[k, i : i + 1, 0], way[k, i : i + 1, 1])
        clock.set_text(f"the same denoiser, the same start, step {k} of {last}")
        figure.canvas.draw()
        size = figure.canvas.get_width_height()
        frames.append(Image.frombuffer("RGBA", size, figure.canvas.buffer_rgba()).convert("RGB"))
    plt.close(figure)
    small = [frame.quantize(palette=palette(), dither=Image.Dither.NONE) for frame in frames]
    durations = [8 * milliseconds, *[milliseconds] * (last - 1), hold]
    small[0].save(out, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)


def main(out, steps, n):
    times, ways = paths(steps, n)
    measure(ways, n)
    draw(times, ways, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw samples of DDPM and of DDIM on their way to the data.")
    parser.add_argument("out", help="the picture, such as docs/moving-paths.gif")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--n", type=int, default=600)
    arguments = parser.parse_args()
    main(arguments.out, arguments.steps, arguments.n)
