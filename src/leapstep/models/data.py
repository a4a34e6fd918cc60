"""Data as a model sees them: its size, channels, scaling and numbers of classes.

Of the data that it was trained on, "train" is what it saw and "test" what it did not (see `leapstep.data.holdout`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from leapstep.data import holdout, readers
from leapstep.data.dataset import Data, NoSplit
from leapstep.data.readers import is_image, read
from leapstep.files import reading
from leapstep.models.model import Model

T = TypeVar("T")

Parts = Callable[[str], tuple[Data, Tensor | None]]
"""Reads a part of a source by its name: the samples, and the model's numbers of their classes `[n]` or None."""


def parts_of(model: Model, source: str) -> Parts:
    """The parts of a source as a model sees them; what they share is decoded once.

    Arguments:
        source: see `leapstep.data.read`.
    Returns:
        a function of the name of a part, which raises ValueError for what `leapstep.data.read` refuses, and for data or
        classes that the model does not know.
    """
    size = channels = None
    if model.is_pictures:
        channels, height, width = model.shape
        size = height if height == width else None
    part = shared_parts(model.details, source, size=size, channels=channels)

    def read_part(split: str) -> tuple[Data, Tensor | None]:
        try:
            data = part(split)
        except ValueError as error:  # which may speak of options of `read` that nobody here has
            text = str(error).removesuffix(": pass neither size nor channels")
            if text == str(error):
                raise
            raise ValueError(f"{text}: the model's samples are pictures, give uint8 from 0 to 255") from error
        return fitted(model, data)

    return read_part


class Chosen(NamedTuple):
    """Some samples of a part of a source, evenly chosen, by name: what is pickled instead of data.

    Attributes:
        source: see `leapstep.data.read`.
        split: the part.
        n: how many.
        sha256: `Selection.sha256`.
    """

    source: str
    split: str
    n: int
    sha256: str

    def read(self, model: Model) -> Selection:
        """The samples, as a model sees them; see `parts_of`.

        Raises:
            ValueError: what `parts_of` raises, or other data than those that were meant.
        """
        samples = Selection(*parts_of(model, self.source)(self.split), self.n)
        if samples.sha256 != self.sha256:
            raise ValueError(
                f"{self.source} ({self.split}) holds other data on {platform.node()} than where it was named"
            )
        return samples


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some samples of a data set, evenly chosen, which are read when they are asked for.

    Attributes:
        data: all of them.
        numbers: the model's numbers of the classes of all, or None.
        n: how many are chosen.
    """

    data: Data
    numbers: Tensor | None
    n: int

    def indices(self, rows: Sequence[int]) -> list[int]:
        """Which samples of the data set these of the chosen are."""
        return [row * len(self.data) // self.n for row in rows]

    def batch(self, rows: Sequence[int]) -> Tensor:
        """These of the chosen in model space, `[len(rows), *d]`."""
        return self.data.batch(self.indices(rows))

    def labels(self, rows: Sequence[int]) -> Tensor | None:
        """The model's numbers of their classes, `[len(rows)]`, or None."""
        return None if self.numbers is None else self.numbers[self.indices(rows)]

    def named(self, source: str, split: str) -> Chosen:
        """What is pickled instead of them: they are part `split` of a source."""
        return Chosen(source, split, self.n, self.sha256)

    @property
    def sha256(self) -> str:
        """Of the number and shape of the samples, their labels, and the values of 64 of them, evenly chosen.

        It tells that the same name stands for other data, without all of them being read.
        """
        hashed = hashlib.sha256(json.dumps([len(self.data), list(self.data.shape), self.n]).encode())
        some = np.asarray(self.data.values[np.array(evenly(len(self.data), 64))])
        hashed.update(np.ascontiguousarray(some).tobytes())
        if self.numbers is not None:
            hashed.update(self.numbers.numpy().tobytes())
        return hashed.hexdigest()


def samples_in(model: Model, sources: Sequence[str | Path]) -> Tensor:
    """What lies in some files, in model space, `[n, *d]`: images, cropped and resized as for training, or other data.

    Arguments:
        sources: image files; or arrays `[n, *d]`, folders and all else that `leapstep.data.read` takes as a whole.
    Raises:
        ValueError: a file that cannot be read, or data of another shape than the model's.
    """
    found = [_image(model, path) if is_image(path) else _all_of(model, str(path)) for path in sources]
    return torch.cat(found)


def mask_in(model: Model, path: str | Path) -> Tensor:
    """The mask in a file, from 0 to 1, of the shape of one sample: a grey image, black to white, or an npy array.

    Raises:
        ValueError: it cannot be read, has another shape or values beyond 0 and 1, or keeps everything.
    """
    if is_image(path):
        height, width = model.shape[-2:]
        grey = readers.read_picture(path, height if height == width else None, 1)
        values = torch.from_numpy(grey / 255.0).to(torch.float32)
    else:
        values = torch.from_numpy(np.array(reading.read_npy(path), dtype=np.float32))
    try:
        mask = values.expand(model.shape)
    except RuntimeError:
        raise ValueError(
            f"{path} is a mask of shape {list(values.shape)}: the samples are {list(model.shape)}"
        ) from None
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError(f"{path} has values beyond 0 (kept) and 1 (made anew)")
    if not mask.any():
        raise ValueError(f"{path} keeps everything: white, or 1, is what is made anew")
    return mask


def _image(model: Model, path: str | Path) -> Tensor:
    if not model.is_pictures:
        raise ValueError(
            f"{path} is an image, and this model's samples are not: give an array, [n, ...] in an npy file"
        )
    channels, height, width = model.shape
    pixels = readers.read_picture(path, height if height == width else None, channels)
    if pixels.shape != model.shape:
        _, h, w = pixels.shape
        raise ValueError(f"{path} has {w}x{h} pixels: this model's pictures have {width}x{height}, resize it")
    return model.scaling.to_model(pixels[None])


def _all_of(model: Model, source: str) -> Tensor:
    data, _ = parts_of(model, source)("all")
    reading.check_memory(5 * data.values.size, f"all of {source}, {len(data):,} samples,")  # and as files hold them
    return data.batch(range(len(data)))


def fitted(model: Model, data: Data) -> tuple[Data, Tensor | None]:
    """Data with the scaling of a model, and the model's numbers of their classes `[n]`, or None.

    Raises:
        ValueError: data of another shape, or classes that the model does not know.
    """
    if data.shape != model.shape or data.is_pictures != model.is_pictures:
        raise ValueError(
            f"{data.source} holds samples of shape {list(data.shape)}: the model's are {list(model.shape)}"
        )
    data = dataclasses.replace(data, scaling=model.scaling)
    if not model.classes or data.labels is None:
        return data, None
    if unknown := sorted(set(data.classes) - set(model.classes)):
        raise ValueError(f"{data.source} has classes {', '.join(unknown[:5])} that the model does not know")
    number = torch.tensor([model.classes.index(name) for name in data.classes])
    return data, number[torch.from_numpy(data.labels)]


def shared_parts(details: Mapping[str, Any], source: str, **options: Any) -> Callable[[str], Data]:
    """The parts of a source as the training of a model means them; the whole source is decoded once for all of them.

    Arguments:
        details: the content of the model's `leapstep.json`.
        options: of `leapstep.data.read`.
    """
    options["on_demand"] = holdout.on_demand(details)
    whole = functools.cache(lambda split: read(source, split=split, **options))
    return functools.cache(lambda split: holdout.part(details, source, split, whole))


def warn(text: str) -> None:
    """Warn of what was done to data."""
    warnings.warn(text, stacklevel=3)


def usual_part(
    read_part: Callable[[str], T],
    source: str,
    split: str | None,
    usual: str = "test",
    tell: Callable[[str], object] = warn,
) -> tuple[str, T]:
    """Read the part of the data that was asked for, or the usual one, or all of a source that has no such part.

    Arguments:
        read_part: reads a part of the data.
        source: its name.
        split: the part; None: the usual one.
        usual: "test" to measure a model, on what it has not seen; "train" to learn from the data.
        tell: called with a line where all of the source is taken.
    Returns:
        the name of the part, and what was read.
    """
    if split is not None:
        return split, read_part(split)
    try:
        return usual, read_part(usual)
    except NoSplit:
        data = read_part("all")
        nor = ", and no run held out any of it (train --holdout)" if usual == "test" else ""
        more = ", training data too" if usual == "test" else ""
        tell(f"{source} has no part {usual}{nor}: all of it is taken{more}")
        return "all", data


def evenly(count: int, n: int) -> list[int]:
    """The indices of n of so many samples, or of all where there are fewer, evenly chosen."""
    n = min(n, count)
    return [i * count // n for i in range(n)]
