"""Image files that tests write."""

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    image.save(path, **how)


def grey(value, size=4):
    return np.full((size, size), value, np.uint8)


def colours(n, size=4):
    return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
