"""From arrays of pixels to image files: grids, tables with captions, animations."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
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
    large = _enlarged(pixels, 40, zoom)
    n, h, w, c = large.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    high, wide = h + padding, w + padding
    canvas = np.full((rows * high + padding, columns * wide + padding, c), 128, np.uint8)
    for i, picture in enumerate(large):
        top, left = i // columns * high + padding, i % columns * wide + padding
        canvas[top : top + h, left : left + w] = picture
    return _image(canvas)


def table(rows: Mapping[str, npt.NDArray[np.uint8]], columns: Sequence[str] = (), size: int = 14) -> Image.Image:
    """Lay pictures out in rows on white, each in a thin grey frame: captions before the rows and above the columns.

    Arguments:
        rows: uint8 [n, c, h, w] with c = 1 or 3, by their captions, from top to bottom; all of one h and w.
        columns: captions of the columns, from left to right.
        size: height of the letters, pixels.

    Returns:
        An RGB image, in which the longer side of a picture is at least 64.

    Raises:
        ValueError: where an array does not hold pictures.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, gap = ImageFont.load_default(size), size // 2
    large = {caption: _enlarged(pixels, 64) for caption, pixels in rows.items()}
    _, h, w, _ = next(iter(large.values())).shape
    wide = gap + max(w, *(math.ceil(font.getlength(caption)) for caption in (*columns, "")))
    left = 2 * gap + max(math.ceil(font.getlength(caption)) for caption in rows)
    top = 2 * size if columns else gap
    most = max(len(pictures) for pictures in large.values())
    canvas = Image.new("RGB", (left + most * wide, top + len(rows) * (h + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, caption in enumerate(columns):
        draw.text((left + i * wide + (wide - gap) / 2, top / 2), caption, "black", font, anchor="mm")
    for j, (caption, pictures) in enumerate(large.items()):
        y = top + j * (h + gap)
        draw.text((gap, y + h / 2), caption, "black", font, anchor="lm")
        for i, picture in enumerate(pictures):
            x = left + i * wide + (wide - gap - w) // 2
            draw.rectangle((x - 1, y - 1, x + w, y + h), "grey")
            canvas.paste(_image(picture), (x, y))
    return canvas


def animation(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode pictures as a GIF that shows them one after the other, ten a second, over and over.

    Arguments:
        pixels: the frames, uint8 [n, c, h, w] with c = 1 or 3; enlarged until the longer side is at least 160.

    Returns:
        The file. Greys are exact; of colours, a frame has its own 256.

    Raises:
        ValueError: where the array does not hold pictures.
    """
    images = [_image(frame) for frame in _enlarged(pixels, 160)]
    encoded = io.BytesIO()
    images[0].save(encoded, "GIF", save_all=True, append_images=images[1:], duration=100, loop=0)
    return encoded.getvalue()


def _enlarged(pixels: npt.NDArray[np.uint8], side: int, zoom: int | None = None) -> npt.NDArray[np.uint8]:
    """Pictures [n, h, w, c], each pixel repeated `zoom` times, or until the longer side is at least `side`."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise ValueError(
            f"a {pixels.dtype} array of shape {list(pixels.shape)}: pictures are uint8 [n, 1 or 3, h, w], at least one"
        )
    zoom = zoom or math.ceil(side / max(pixels.shape[2:]))
    return pixels.repeat(zoom, 2).repeat(zoom, 3).transpose(0, 2, 3, 1)


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


def _image(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Pixels [h, w, c] as greyscale or RGB."""
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
