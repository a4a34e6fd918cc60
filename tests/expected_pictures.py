"""Pictures: those that commands should draw, by the library; how alike two are; a folder of some."""

import itertools

import numpy as np
import torch
from PIL import Image

import leapstep


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def same_picture(path, image):
    """The same but for a pixel's rounding, which a batch of another size may change."""
    seen, expected = pixels_of(path).astype(int), np.asarray(image.convert("RGB")).astype(int)
    return seen.shape == expected.shape and abs(seen - expected).max() <= 1


def noise(seed, shape=(1, 8, 8)):
    return leapstep.Noise(seed, range(1), shape)(0)


def decoded(model, z, steps, spacing="trailing", transition=None, label=None):
    loaded = leapstep.load(model)
    diffusion = loaded.diffusion(None if label is None else torch.tensor([label]))
    first = leapstep.times(loaded.process, steps, spacing)[0]
    x = leapstep.decode(diffusion, loaded.process.sigma(first) * z, steps, transition, spacing=spacing)
    return loaded.scaling.to_pixels(x)


def near(a, b):
    """The same pixels but for their rounding, which a batch of another size may change."""
    return a.shape == b.shape and abs(a.astype(int) - b.astype(int)).max() <= 1


def way(model, steps, n=1, seed=0, spacing="trailing", transition=None, label=None):
    """Rows of pixels for the times of a sampler, by the library."""
    loaded = leapstep.load(model)
    times = leapstep.times(loaded.process, steps, spacing)
    z = leapstep.Noise(seed, range(n), loaded.shape)
    x = loaded.process.sigma(times[0]) * z(0)
    xs, estimates = [x], []
    diffusion = loaded.diffusion(None if label is None else torch.tensor([label]))
    with torch.no_grad():
        for state in leapstep.trajectory(diffusion, x, times, transition, z):
            xs.append(state.x)
            estimates.append(state.x0)
    to_pixels = loaded.scaling.to_pixels
    return times, to_pixels(torch.stack(xs)), to_pixels(torch.stack([*estimates, xs[-1]]))


def write_insects(folder, classes, **counts):
    """A folder of 8x8 pictures in these classes: so many of each class in each split, drawn in this order."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name, i in itertools.product(classes, range(count)):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            picture = np.kron(rng.integers(0, 256, (4, 4)), np.ones((2, 2))).astype(np.uint8)
            Image.fromarray(picture).save(folder / split / name / f"{i}.png")
    return folder
