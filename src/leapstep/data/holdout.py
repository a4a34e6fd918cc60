"""Samples that a training run never sees, to tell learning from copying.

A sample is held out if the hash of its values, as the run reads them, is at most a threshold. So every run on the same
data holds out the same samples, a held-out sample stays held out when others join or leave the data, and duplicates are
never on both sides. Where values are decoded on demand the hash is that of the sample's name in the source: nothing has
to be decoded to know it, and duplicates under other names may be on both sides. The threshold is recorded in the run's
`leapstep.json` (`Holdout`), and `part` reads the parts of the data for whoever measures the run.

If a source has a split `test`, that is held out and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leapstep.data.dataset import Data, NoSplit, hashes, same_source
from leapstep.data.readers import read

LEAST, USUAL, MOST = 100, 0.1, 1000
"""By default a tenth is held out, at most 1000 samples, if there are at least 100."""


DECODE = {"auto": None, "before": False, "on-demand": True}
"""The argument `on_demand` of `leapstep.data.read`, by what a run's setting `decode` calls it."""


class Holdout(BaseModel):
    """Which samples of a source a run held out.

    Attributes:
        samples: their number.
        of: the number of samples in the source.
        threshold: the largest hash of a held-out sample, 16 hexadecimal digits.
        sha256: of the hashes of the held-out samples, which identifies the data under another name.
        by: what is hashed of a sample.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(ge=1)
    of: int = Field(ge=1)
    threshold: str = Field(pattern="^[0-9a-f]{16}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    by: Literal["values", "names"] = "values"

    @classmethod
    def recorded(cls, details: Mapping[str, Any]) -> Holdout | None:
        """Read the record in a run's `leapstep.json`; None if the run held out nothing.

        Raises:
            ValueError: the record is damaged.
        """
        record = (details.get("data") or {}).get("holdout")
        try:
            return None if record is None else cls.model_validate(record)
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"leapstep.json: data.holdout.{problem['loc'][0]}: {problem['msg'].lower()}") from error


def choose(data: Data, amount: str) -> Holdout | None:
    """Choose the samples of a source to hold out.

    Arguments:
        data: the whole source.
        amount: a number of samples ("30"), a share of them ("10%"), or "auto".
    Returns:
        The record; None if "auto" holds out nothing, because of fewer than `LEAST` samples or too many duplicates.
    Raises:
        ValueError: fewer than 2 samples would be left, or there are too many duplicates.
    """
    n = len(data)
    if amount == "auto":
        count = min(MOST, round(USUAL * n)) if n >= LEAST else 0
    else:
        count = max(1, round(float(amount[:-1]) / 100 * n)) if amount.endswith("%") else int(amount)
        if count > n - 2:
            raise ValueError(f"--holdout {amount} of {n} samples leaves fewer than 2 to train on: hold out less")
    if not count:
        return None
    by: Literal["values", "names"] = "values" if data.names is None else "names"
    hashes = _hashes(data, by)
    threshold = np.sort(hashes)[count - 1]
    below = hashes[hashes <= threshold]
    if len(below) > 1.1 * count + 1 or len(below) > n - 2:
        if amount == "auto":
            return None
        raise ValueError(
            f"--holdout {amount}: many samples of {data.source} are equal, and equal samples are held out together: "
            "leave --holdout out, or remove the copies"
        )
    return Holdout(samples=len(below), of=n, threshold=f"{threshold:016x}", sha256=_digest(below), by=by)


def again(data: Data, earlier: Holdout) -> Holdout | None:
    """Choose by the threshold of an earlier run, so that nothing that its weights were trained on is held out.

    Returns:
        The record; None if it would hold out nothing, or leave fewer than 2 samples to train on.
    """
    hashes = _hashes(data, earlier.by)
    train, test = _split(hashes, earlier)
    if not len(test) or len(train) < 2:
        return None
    return earlier.model_copy(update={"samples": len(test), "of": len(data), "sha256": _digest(hashes[test])})


def rows(data: Data, holdout: Holdout | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of a source that are trained on, and those that are held out, each in order.

    Arguments:
        data: the whole source.
        holdout: the record of the run; None: everything is trained on.
    """
    if holdout is None:
        return np.arange(len(data)), np.arange(0)
    return _split(_hashes(data, holdout.by), holdout)


def on_demand(details: Mapping[str, Any]) -> bool | None:
    """How `leapstep.data.read` is to read data for a model: as its run did, so that what it held out is known.

    What was held out by values is known from these alone, so they are decoded once, and kept.
    """
    if (holdout := Holdout.recorded(details)) is not None:
        return holdout.by == "names"
    return DECODE.get((details.get("training") or {}).get("decode", "auto"))


def part(details: Mapping[str, Any], source: str, split: str, read: Callable[[str], Data]) -> Data:
    """Read a split of some data from the view of a model: "train" is what it saw, "test" what it did not.

    If the run held out samples of this source, these are "test". The source is recognised by its name or by the
    held-out samples themselves. Otherwise the source's own splits are read.

    Arguments:
        details: the content of the model's `leapstep.json`.
        source: the data, see `leapstep.data.read`.
        split: "train", "test", another split of the source, or "all".
        read: reads a split of the source, in the model's size and channels.
    Raises:
        ValueError: the data cannot be read, or none of the samples that the run held out is left.
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
        return read(split)  # other data, which have this split nevertheless
    hashes = _hashes(data, holdout.by)
    train, test = _split(hashes, holdout)
    if not named and (len(test) != holdout.samples or _digest(hashes[test]) != holdout.sha256):
        return data if split == "train" else read(split)
    if not len(test) or not len(train):
        raise ValueError(
            f"{source} has changed since the run was trained: of {holdout.samples} samples that were held out "
            f"{len(test)} are left, of the others {len(train)}: pass --split all, or the original data"
        )
    return data.subset(train if split == "train" else test)


def relation(details: Mapping[str, Any], source: str, split: str, data: Data) -> Literal["held-out", "training", "?"]:
    """Return the relation of some data to a model: never trained on, at least partly trained on, or unknown.

    Arguments:
        details: the content of the model's `leapstep.json`.
        source: the data, see `leapstep.data.read`.
        split: the split that was read.
        data: the result of `part`.
    """
    holdout = Holdout.recorded(details)
    if holdout is not None and split == "test" and _digest(_hashes(data, holdout.by)) == holdout.sha256:
        return "held-out"
    trained = (details.get("data") or {}).get("source")
    if trained is None or not same_source(str(trained), source):
        return "?"
    return "training" if split in ("train", "all") else "held-out"


def own_test(data: Data, **options: Any) -> Data | None:
    """Read the split `test` of a source whose split `train` is `data`; None if there is none.

    A source without splits whose name contains the word test is read whole as either split; a result equal to the data
    counts as none.

    Arguments:
        data: the split `train`.
        options: of `leapstep.data.read`; the channels are those of the data.
    Raises:
        ValueError: the split exists, but cannot be read.
    """
    try:
        channels = data.shape[0] if data.is_pictures else None
        test = read(data.source, split="test", channels=channels, **options)
    except NoSplit:
        return None
    by: Literal["values", "names"] = "values" if data.names is None else "names"
    same = test.values.shape == data.values.shape and np.array_equal(_hashes(test, by), _hashes(data, by))
    return None if same else test


def _hashes(data: Data, by: Literal["values", "names"]) -> npt.NDArray[np.uint64]:
    """A hash of each sample, [n]; of arrays, which have no names, that of their values."""
    if by == "names" and data.names is not None:
        return data.names
    return hashes(data.values) if data.hashes is None else data.hashes


def _split(hashes: npt.NDArray[np.uint64], holdout: Holdout) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows of samples with these hashes that are trained on, and those that are held out."""
    is_test = hashes <= np.uint64(int(holdout.threshold, 16))
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _digest(hashes: npt.NDArray[np.uint64]) -> str:
    return hashlib.sha256(np.sort(hashes).astype(">u8").tobytes()).hexdigest()
