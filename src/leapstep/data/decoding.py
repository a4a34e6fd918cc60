"""Decoding of image files: upright, 8 bits, one size."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import statistics
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from leapstep.core.scaling import PIXELS
from leapstep.data import cache
from leapstep.data.cache import Key
from leapstep.data.dataset import Data
from leapstep.data.values import Array
from leapstep.files.reading import regular
from leapstep.progress import progress_bar
from leapstep.text import reason

if TYPE_CHECKING:
    from PIL import Image

WAITING = 2**28
"""About how many bytes of decoded images may wait in memory."""

SMALL, LARGE = 2**13, 2**16
"""Bytes of an encoded image below which threads cost more than they save, and from which each has a task of its own."""

FINER = 3
"""A JPEG is decoded in an eighth, a quarter or half of its size if that is so many times the size asked for."""

REPAIR = "repair or remove it, or read without strict to skip it"


class Options(NamedTuple):
    """The arguments of `leapstep.data.read`."""

    split: str
    size: int | None
    channels: int | None
    strict: bool
    memory_limit: int | None
    progress: bool
    on_demand: bool | None


class Item(NamedTuple):
    """An image to decode, with its label."""

    name: str | Path
    label: int | None
    content: Path | bytes | Array | str | None  # a file, its bytes, pixels [c, h, w], or the reason why there are none


class Decoded(NamedTuple):
    """An image [c, h, w], and the (width, height) that it had."""

    pixels: npt.NDArray[np.uint8]
    original: tuple[int, int]


def from_pixels(
    pixels: npt.NDArray[np.uint8],
    labels: Array | None,
    classes: tuple[str, ...],
    source: str,
    options: Options,
    key: Key | None = None,
) -> Data:
    """Make a data set of decoded images [n, c, h, w], unchanged if size and channels agree; see `from_images`."""
    size, channels = options.size, options.channels
    if channels in (None, pixels.shape[1]) and (size is None or pixels.shape[2:] == (size, size)):
        return Data(pixels, labels, classes, source, PIXELS)
    items = (
        Item(f"{source}, sample {i}", None if labels is None else int(labels[i]), pixels[i]) for i in range(len(pixels))
    )
    return kept(key, source, options) or from_images(items, classes, source, options, key, len(pixels))


def kept(key: Key | None, source: str, options: Options) -> Data | None:
    """What the cache has of a source in its present state; None if that is nothing.

    Raises:
        ValueError: it was read without an image that cannot be read, and the options are strict.
    """
    data = None if key is None else cache.find(key, source)
    if data is not None and data.skipped and options.strict:
        raise ValueError(f"{data.skipped[0]}; {REPAIR}")
    return data


def from_images(
    items: Iterable[Item],
    classes: tuple[str, ...],
    source: str,
    options: Options,
    key: Key | None = None,
    total: int | None = None,
) -> Data:
    """Decode images into a data set, each once.

    Arguments:
        items: the images.
        classes: the names that the labels number.
        source: the name of the data.
        options: of `leapstep.data.read`.
        key: the images go to the cache if they are many, or take long; None: never.
        total: the number of items, if that is known.
    """
    from PIL import Image

    labels: list[int | None] = []
    skipped: list[str] = []
    sizes: Counter[tuple[int, int]] = Counter()
    decode_item = functools.partial(decode, options.size, options.channels)
    try:
        with warnings.catch_warnings(), cache.ImageStack(key, options.memory_limit, total, options.progress) as stack:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for item, result in _in_parallel(items, decode_item, options, total):
                if not isinstance(result, str):
                    stack.add(item.name, result.pixels)
                    labels.append(item.label)
                    sizes[result.original] += 1
                elif options.strict:
                    raise ValueError(f"{item.name}: {result}; {REPAIR}")
                else:
                    skipped.append(f"{item.name}: {result}")
            if not labels:
                raise ValueError(
                    f"no image of {source} can be read; the first of {len(skipped)} is {''.join(skipped[:1])}"
                )
            known = [label for label in labels if label is not None and label >= 0]
            labelled = len(known) == len(labels)
            return stack.kept(
                Data(
                    values=stack.values(),
                    labels=np.array(known, dtype=np.int64) if labelled else None,
                    classes=classes if labelled else (),
                    source=source,
                    scaling=PIXELS,
                    skipped=tuple(skipped),
                    originals=sizes,
                )
            )
    except cache.Ready:
        if (data := kept(key, source, options)) is None:  # the items that were taken are gone: these would be too few
            raise ValueError(
                f"another process kept the images of {source}, and they were removed at once: read them again"
            ) from None
        return data


def _in_parallel(
    items: Iterable[Item], decode_item: Callable[[Item], Decoded | str], options: Options, total: int | None
) -> Iterator[tuple[Item, Decoded | str]]:
    """Yield each item with its pixels or the reason why it has none, in order, decoding several at a time.

    Threads, since Pillow leaves the interpreter to others while it decodes: two of them decode photographs 1.7 times as
    fast as one, and two processes, which have to hand over the pixels, less than 1.2 times. Small images are mostly
    interpreted code, and two threads take nearly twice as long as one.
    """
    together = min(8, max(1, WAITING // (16 * 3 * (options.size or 1) ** 2)))  # a task per image is slow

    def several(block: list[Item]) -> list[tuple[Item, Decoded | str]]:
        return [(item, decode_item(item)) for item in block]

    rest = iter(progress_bar(total, "reading", " images", items=items, show=options.progress))
    waiting: deque[Future[list[tuple[Item, Decoded | str]]]] = deque()
    workers = min(8, cores())
    with ThreadPoolExecutor(workers) as pool:
        for first in rest:
            block = [first, *itertools.islice(rest, together - 1 if encoded_size(first) < LARGE else 0)]
            small = statistics.median(map(encoded_size, block)) < SMALL
            if not small:
                waiting.append(pool.submit(several, block))
            while waiting and (small or len(waiting) > 2 * workers):  # few, because decoded images wait in memory
                yield from waiting.popleft().result()
            if small:
                yield from several(block)
        for last in waiting:
            yield from last.result()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encoded_size(item: Item) -> int:
    """Bytes of an encoded image."""
    match item.content:
        case bytes() as content:
            return len(content)
        case np.ndarray() as pixels:
            return pixels.nbytes
        case Path() as path:
            with contextlib.suppress(OSError):
                return path.stat().st_size
    return 0


def decode(size: int | None, channels: int | None, item: Item) -> Decoded | str:
    """Decode an item, or return the reason why it cannot be."""
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with _open(item) as opened:
            width, height = opened.size
            if size is not None and opened.format in ("JPEG", "MPO"):
                opened.draft(None, (FINER * size, FINER * size))
            reduced = opened.size
            ImageOps.exif_transpose(opened, in_place=True)
            image = _eight_bits(opened, channels)
    except UnidentifiedImageError:
        return "not an image of a known format"
    except Exception as error:  # a broken file can raise anything
        return reason(error)
    original = (width, height) if image.size == reduced else (height, width)
    if size is not None:
        image = _square(image, original, size)
    pixels = np.asarray(image)
    return Decoded(np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), original)


def _square(image: Image.Image, original: tuple[int, int], size: int) -> Image.Image:
    """The central square of an image, resized; the image may be decoded in a part of its original size."""
    from PIL import Image

    (width, height), side = original, min(original)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    if image.size == original:
        return image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    part = round(min(original) / min(image.size))  # the last pixel of a row or column may show less
    x0, y0, x1, y1 = (edge / part for edge in box)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))


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
