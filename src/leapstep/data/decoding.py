"""Decoding of image files: upright, 8 bits, one size."""

from __future__ import annotations

import functools
import io
import itertools
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from leapstep.core.scaling import PIXELS
from leapstep.data.dataset import Array, Data
from leapstep.files.reading import regular
from leapstep.progress import progress_bar
from leapstep.text import reason

if TYPE_CHECKING:
    from PIL import Image

WAITING = 2**28
"""About how many bytes of decoded images may wait in memory."""


class Options(NamedTuple):
    """The arguments of `leapstep.data.read`."""

    split: str
    size: int | None
    channels: int | None
    strict: bool
    memory_limit: int
    progress: bool


class Item(NamedTuple):
    """An image to decode, with its label."""

    name: str | Path
    label: int | None
    content: Path | bytes | Array | str | None  # a file, its bytes, pixels [c, h, w], or the reason why there are none


def from_pixels(
    pixels: npt.NDArray[np.uint8], labels: Array | None, classes: tuple[str, ...], source: str, options: Options
) -> Data:
    """Make a data set of decoded images [n, c, h, w], unchanged if size and channels agree."""
    size, channels = options.size, options.channels
    if channels in (None, pixels.shape[1]) and (size is None or pixels.shape[2:] == (size, size)):
        return Data(pixels, labels, classes, source, PIXELS)
    items = [
        Item(f"{source}, sample {i}", None if labels is None else int(labels[i]), pixels[i]) for i in range(len(pixels))
    ]
    return from_images(items, classes, source, options)


def from_images(items: Iterable[Item], classes: tuple[str, ...], source: str, options: Options) -> Data:
    """Decode images into a data set, each once."""
    from PIL import Image

    stack = _ImageStack(options.memory_limit)
    labels: list[int | None] = []
    skipped: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        sizes: list[tuple[int, int]] = []
        decode_item = functools.partial(decode, options.size, options.channels, sizes)
        for item, pixels in _in_parallel(items, decode_item, options):
            if not isinstance(pixels, str):
                stack.add(item.name, pixels)
                labels.append(item.label)
            elif options.strict:
                raise ValueError(f"{item.name}: {pixels}; repair or remove it, or read without strict to skip it")
            else:
                skipped.append(f"{item.name}: {pixels}")
    if not labels:
        raise ValueError(f"no image of {source} can be read; the first of {len(skipped)} is {''.join(skipped[:1])}")
    known = [label for label in labels if label is not None and label >= 0]
    labelled = len(known) == len(labels)
    return Data(
        values=stack.values(),
        labels=np.array(known, dtype=np.int64) if labelled else None,
        classes=classes if labelled else (),
        source=source,
        scaling=PIXELS,
        skipped=tuple(skipped),
        originals=Counter(sizes),
    )


def _in_parallel(
    items: Iterable[Item], decode_item: Callable[[Item], Array | str], options: Options
) -> Iterator[tuple[Item, Array | str]]:
    """Yield each item with its pixels or the reason why it has none, in order, decoding several at a time."""
    together = min(8, max(1, WAITING // (16 * 3 * (options.size or 1) ** 2)))  # a task per image is slow

    def several(block: list[Item]) -> list[tuple[Item, Array | str]]:
        return [(item, decode_item(item)) for item in block]

    rest = iter(progress_bar(None, "reading", " images", items=items, show=options.progress))
    blocks = iter(lambda: list(itertools.islice(rest, together)), [])
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while window := list(itertools.islice(blocks, 16)):  # few, because decoded images wait in memory
            yield from itertools.chain.from_iterable(pool.map(several, window))


def decode(size: int | None, channels: int | None, sizes: list[tuple[int, int]], item: Item) -> Array | str:
    """Return the pixels [c, h, w] of an item, or the reason why it has none; append (width, height) to `sizes`."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with _open(item) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened), channels)
    except UnidentifiedImageError:
        return "not an image of a known format"
    except Exception as error:  # a broken file can raise anything
        return reason(error)
    sizes.append(image.size)
    if size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _open(item: Item) -> Image.Image:
    from PIL import Image

    match item.content:
        case None:
            raise ValueError("no image")
        case str() as reason:
            raise ValueError(reason)
        case np.ndarray() as pixels:
            return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        case content:
            image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else regular(content))
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a JPEG of some cameras, with a preview behind the image
        image.close()
        raise ValueError(f"animated ({frames} frames): save the frames as single images")
    return image


def _eight_bits(image: Image.Image, channels: int | None) -> Image.Image:
    """Convert an image of any mode to L (1 channel, or None and greyscale) or RGB."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no standard white: save them with 8 or 16 bits, or as an npy array")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))  # 65535 = 257 * 255; Pillow itself would clip
    if image.mode == "F":
        raise ValueError(
            "floating-point pixels have no standard white: save them with 8 or 16 bits, or as an npy array"
        )
    grey = channels == 1 or (channels is None and image.mode in ("1", "L", "LA", "La"))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


class _ImageStack:
    """Images of one size, in memory up to a number of bytes, and in a temporary file beyond that.

    The first image in colour converts all of them to colour.
    """

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.memory = bytearray()
        self.file: Any = None
        self.first: str | Path = ""
        self.shape: tuple[int, ...] = ()

    def add(self, name: str | Path, pixels: Array) -> None:
        """Append an image [c, h, w]."""
        if not self.shape:
            self.first, self.shape = name, pixels.shape
        if pixels.shape[1:] != self.shape[1:]:
            (_, height, width), (_, h, w) = self.shape, pixels.shape
            raise ValueError(
                f"the images differ in size: {self.first} has {width}x{height} pixels and {name} has {w}x{h}; pass a "
                "size to crop and resize all of them to"
            )
        if len(pixels) > self.shape[0]:
            grey, self.memory, self.file, self.shape = self.values(), bytearray(), None, pixels.shape
            for earlier in grey:
                self._append(earlier)
        self._append(pixels)

    def _append(self, pixels: Array) -> None:
        self.memory += np.broadcast_to(pixels, self.shape).tobytes()
        if self.file is None and len(self.memory) > self.memory_limit:
            # A file without a name, which not even a crash leaves behind; `values` closes it.
            self.file = tempfile.TemporaryFile()  # noqa: SIM115
        if self.file is not None:
            self.file.write(self.memory)
            self.memory.clear()

    def values(self) -> npt.NDArray[np.uint8]:
        """All images, [n, c, h, w]."""
        if self.file is None:
            return np.frombuffer(self.memory, np.uint8).reshape(-1, *self.shape)
        self.file.flush()
        values = np.memmap(self.file, np.uint8, "r").reshape(-1, *self.shape)
        self.file.close()
        return values
