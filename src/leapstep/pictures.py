"""From arrays of pixels to image files: grids, and grids with captions."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from leapstep import files

if TYPE_CHECKING:
    from PIL import Image


def grid(
    pixels: npt.NDArray[np.uint8], columns: int | None = None, padding: int = 2, zoom: int | None = None
) -> Image.Image:
    """Lay pictures out row by row on mid-grey.

    Arguments:
        pixels: uint8 [n, c, h, w] with c = 1 or 3.
        columns: pictures in a row; None makes the grid as square as can be.
        padding: grey pixels around and between the pictures.
        zoom: pixels of the grid for each pixel of a picture; None makes the longer side at least 40.

    Returns:
        A greyscale or RGB image.

    Raises:
        ValueError: where the array does not hold pictures.
    """
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise ValueError(f"a {pixels.dtype} array of shape {list(pixels.shape)}: a grid needs uint8 [n, 1 or 3, h, w]")
    n, c, h, w = pixels.shape
    zoom = zoom or math.ceil(40 / max(h, w))
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    high, wide = h * zoom + padding, w * zoom + padding
    canvas = np.full((rows * high + padding, columns * wide + padding, c), 128, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = i // columns * high + padding, i % columns * wide + padding
        large = picture.repeat(zoom, 1).repeat(zoom, 2).transpose(1, 2, 0)
        canvas[top : top + h * zoom, left : left + w * zoom] = large
    return Image.fromarray(canvas[..., 0] if c == 1 else canvas)


def captioned(images: Mapping[str, Image.Image], size: int = 15) -> Image.Image:
    """Stack images on white, each below its caption.

    Arguments:
        images: by their captions, from top to bottom.
        size: height of the letters, pixels.

    Returns:
        An RGB image.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, strip = ImageFont.load_default(size), 2 * size
    height = sum(image.height + strip for image in images.values())
    canvas = Image.new("RGB", (max(image.width for image in images.values()), height), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for caption, image in images.items():
        draw.text((2, top + strip / 2), caption, "black", font, anchor="lm")
        canvas.paste(image.convert("RGB"), (0, top + strip))
        top += strip + image.height
    return canvas


def save_image(image: Image.Image, path: str | Path) -> None:
    """Save an image as PNG, whole or not at all.

    Arguments:
        image: any that PNG can hold.
        path: a name that ends in .png.

    Raises:
        ValueError: where the name ends otherwise.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"cannot save an image as {path}: images are saved as PNG, pass a name that ends in .png")
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    files.write_bytes(path, encoded.getvalue())
