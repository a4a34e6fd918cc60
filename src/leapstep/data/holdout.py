"""Samples that a training run never sees, to tell learning from copying.

Whether a sample is held out is a property of the sample alone: its hash, of its values as the run reads them, is at
most a threshold. So every run on the same data holds out the same samples, a sample that is held out stays so whatever
joins or leaves the data, and equal samples are never on both sides. A run's `leapstep.json` keeps the threshold
(`Holdout`); `part` gives the parts of the data to whoever measures the run.

A source with a part `test` of its own keeps that, and nothing else of it is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leapstep.data.dataset import Data, NoSplit, same_source
from leapstep.data.readers import read

LEAST, USUAL, MOST = 100, 0.1, 1000
"""By default a tenth is held out, at most 1000 samples, of data of at least 100 samples."""


class Holdout(BaseModel):
    """Which samples of a source a run held out.

    Attributes:
        samples: how many they are.
        of: how many samples the source held.
        threshold: the largest hash of a held-out sample, 16 hexadecimal digits.
        sha256: of the hashes of the held-out samples, by which the data are known under another name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(ge=1)
    of: int = Field(ge=1)
    threshold: str = Field(pattern="^[0-9a-f]{16}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @classmethod
    def recorded(cls, details: Mapping[str, Any]) -> Holdout | None:
        """What a run's `leapstep.json` says; None for a run that held out nothing.

        Raises:
            ValueError: the record is damaged.
        """
        record = (details.get("data") or {}).get("holdout")
        try:
            return None if record is None else cls.model_validate(record)
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"leapstep.json: data.holdout.{problem['loc'][0]}: {problem['msg'].lower()}") from error


def choose(data: Data, size: str) -> Holdout | None:
    """Choose the samples of a source that are held out.

    Arguments:
        data: the whole source.
        size: a number of samples ("30"), a share of them ("10%"), or "auto".
    Returns:
        what a run records; None where "auto" holds out nothing: of fewer than `LEAST` samples, and where samples repeat
        so often that no part of the size can be held out.
    Raises:
        ValueError: more than can be held out, or samples that repeat too often.
    """
    n = len(data)
    if size == "auto":
        count = min(MOST, round(USUAL * n)) if n >= LEAST else 0
    else:
        count = max(1, round(float(size[:-1]) / 100 * n)) if size.endswith("%") else int(size)
        if count > n - 2:
            raise ValueError(f"--holdout {size} of {n} samples leaves fewer than 2 to train on: hold out less")
    if not count:
        return None
    hashes = _hashes(data)
    threshold = np.sort(hashes)[count - 1]
    below = hashes[hashes <= threshold]
    if len(below) > 1.1 * count + 1 or len(below) > n - 2:
        if size == "auto":
            return None
        raise ValueError(
            f"--holdout {size}: many samples of {data.source} are equal, and equal samples are held out together: "
            "leave --holdout out, or remove the copies"
        )
    return Holdout(samples=len(below), of=n, threshold=f"{threshold:016x}", sha256=_digest(below))


def again(data: Data, earlier: Holdout) -> Holdout | None:
    """What a run holds out that goes on from weights of another run: by the same threshold, so nothing that these saw.

    Returns:
        None where that is none of the data, or so much that fewer than 2 samples are left to train on.
    """
    hashes = _hashes(data)
    kept, left_out = _parted(hashes, earlier)
    if not len(left_out) or len(kept) < 2:
        return None
    return Holdout(samples=len(left_out), of=len(data), threshold=earlier.threshold, sha256=_digest(hashes[left_out]))


def rows(data: Data, holdout: Holdout | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows of a source that are trained on, and those that are held out, each in order.

    Arguments:
        data: the whole source.
        holdout: what the run records; None: everything is trained on.
    """
    if holdout is None:
        return np.arange(len(data)), np.arange(0)
    return _parted(_hashes(data), holdout)


def part(details: Mapping[str, Any], source: str, split: str, read: Callable[[str], Data]) -> Data:
    """Read a part of some data as a model's training means it: "train" is what it saw, "test" what it did not.

    Where the run held out a part of this very source, that part is "test". The source is known by its name, or, under
    another name, by the held-out samples themselves. In all other cases the source's own parts count.

    Arguments:
        details: the content of the model's `leapstep.json`.
        source: the data, see `leapstep.data.read`.
        split: "train", "test", another part that the source has itself, or "all".
        read: reads a part of the source, in the model's size and channels.
    Raises:
        ValueError: what reading raises; the run held out a part of this source, and nothing of it is there any more.
    """
    holdout = Holdout.recorded(details)
    if holdout is None or split not in ("train", "test"):
        return read(split)
    named = same_source(str(details["data"].get("source")), source)
    try:
        data = read("train")
    except NoSplit:
        if named or split == "train":
            raise
        return read(split)  # other data, which have this part all the same
    hashes = _hashes(data)
    kept, left_out = _parted(hashes, holdout)
    if not named and (len(left_out) != holdout.samples or _digest(hashes[left_out]) != holdout.sha256):
        return data if split == "train" else read(split)
    if not len(left_out) or not len(kept):
        raise ValueError(
            f"{source} has changed since the run was trained: of {holdout.samples} samples that were held out "
            f"{len(left_out)} are there, of the others {len(kept)}: pass --split all, or the data of that time"
        )
    return data.subset(kept if split == "train" else left_out)


def relation(details: Mapping[str, Any], source: str, split: str, data: Data) -> Literal["held-out", "training", "?"]:
    """What some data are to a model: never trained on, trained on (all or some of them), or nobody knows.

    Arguments:
        details: the content of the model's `leapstep.json`.
        source: what was read.
        split: which part of it.
        data: what `part` made of that.
    """
    holdout = Holdout.recorded(details)
    if holdout is not None and split == "test" and _digest(_hashes(data)) == holdout.sha256:
        return "held-out"
    trained = (details.get("data") or {}).get("source")
    if trained is None or not same_source(str(trained), source):
        return "?"
    return "training" if split in ("train", "all") else "held-out"


def own_test(data: Data, **options: Any) -> Data | None:
    """The part `test` of the source that `data` is the part `train` of; None where it has none.

    A source without parts whose name has the word test in it is read whole as any part, so that what equals the data
    is none.

    Arguments:
        data: what is trained on.
        options: of `leapstep.data.read`; the channels are those of the data.
    Raises:
        ValueError: there is such a part, but it cannot be read.
    """
    try:
        channels = data.shape[0] if data.is_pictures else None
        test = read(data.source, split="test", channels=channels, **options)
    except NoSplit:
        return None
    same = test.values.shape == data.values.shape and np.array_equal(test.values, data.values)
    return None if same else test


def _hashes(data: Data) -> npt.NDArray[np.uint64]:
    """A hash of each sample, [n]."""
    size = max(1, 2**24 // max(1, data.values[:1].nbytes))
    digests = bytearray()
    for start in range(0, len(data), size):
        for row in np.ascontiguousarray(data.values[start : start + size]):
            digests += hashlib.blake2b(row.tobytes(), digest_size=8).digest()
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _parted(hashes: npt.NDArray[np.uint64], holdout: Holdout) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows of samples with these hashes that are trained on, and those that are held out."""
    left_out = hashes <= np.uint64(int(holdout.threshold, 16))
    return np.flatnonzero(~left_out), np.flatnonzero(left_out)


def _digest(hashes: npt.NDArray[np.uint64]) -> str:
    return hashlib.sha256(np.sort(hashes).astype(">u8").tobytes()).hexdigest()
