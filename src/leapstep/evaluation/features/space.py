"""A feature space: a map applied in batches, with a hash of everything that determines it."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.data.ahead import Ahead
from leapstep.data.dataset import Data
from leapstep.data.values import Elsewhere, Values, threads_of
from leapstep.evaluation.features.cache import remembered
from leapstep.files.cache import hash_of
from leapstep.progress import progress_bar

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Features:
    """A map from samples to vectors.

    Attributes:
        name: "pixels", "learned", "inception", or "file.py:function" as it was given.
        hash: SHA-256, in hexadecimal digits, of everything that determines the map.
        extract: values as in `Data.values`, [n, *d], to features [n, k], float32 on the CPU; it works in batches.
        probabilities: the same values to the probabilities of classes, [n, classes]; None where there are no classes.
        make: makes the same map on a device, wherever it is called; it can be pickled, and the map is as it. None: the
            map stays where it is.
    """

    name: str
    hash: str
    extract: Callable[[Array], Tensor]
    probabilities: Callable[[Array], Tensor] | None = None
    make: Callable[[torch.device], Features] | None = None

    @classmethod
    def made(cls, make: Callable[[torch.device], Features], device: torch.device) -> Features:
        """What a function makes on a device."""
        return replace(make(device), make=make)

    def on(self, device: str | torch.device) -> Features:
        """The same map on a device. Raises ValueError where a file that makes it makes another one there."""
        if self.make is None:
            return self
        there = Features.made(self.make, torch.device(device))
        if there.hash != self.hash:
            raise ValueError(
                f"the features {self.name} are others on this worker: its file must make the same anywhere"
            )
        return there

    def __reduce__(self) -> Any:
        """Another process makes them on its CPU, to be moved from there."""
        return super().__reduce__() if self.make is None else (Features.made, (self.make, torch.device("cpu")))


def fingerprint(data: Data) -> str:
    """SHA-256 of the values of a data set, their type and their shape.

    That of values which are decoded on demand is remembered: by this process, and on the disk as long as the paths,
    the sizes and the times of change of their files are the same.
    """
    values = data.values
    if not isinstance(values, Elsewhere):
        return _sha256(values).hex()
    if values not in _known:
        _known[values] = _remembered(values)
    return _known[values]


_known: weakref.WeakKeyDictionary[Elsewhere, str] = weakref.WeakKeyDictionary()


def _remembered(values: Elsewhere) -> str:
    """The SHA-256 of values, from the disk where it is known; it is kept where they are the same after it as before.

    Beside it lies the SHA-256 of both names, which tells a damaged entry.
    """
    state = values.state
    key = "" if state is None else hash_of("values", state)

    def compute() -> dict[str, Tensor]:
        found = _sha256(values)
        return {"sha256": _as_bytes(found), "check": _as_bytes(_check(key, found))}

    def fits(tensors: Mapping[str, Tensor]) -> bool:
        if set(tensors) != {"sha256", "check"}:
            return False
        found, check = (bytes(tensors[name].tolist()) for name in ("sha256", "check"))
        return check == _check(key, found)

    def still() -> bool:
        return values.state == state

    return bytes(remembered(key or None, compute, fits, still)["sha256"].tolist()).hex()


def _check(key: str, sha256: bytes) -> bytes:
    return hashlib.sha256(key.encode() + sha256).digest()


def _as_bytes(digest: bytes) -> Tensor:
    return torch.tensor(list(digest), dtype=torch.uint8)


def _sha256(values: Values) -> bytes:
    """Of the type, the shape and the values, taken in blocks, as they may be memory-mapped or decoded."""
    whole = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    for block in in_blocks(values, "hash"):
        whole.update(np.ascontiguousarray(block).tobytes())
    return whole.digest()


def digest_of_weights(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: the same for the same numbers, whatever file they came in."""
    whole = hashlib.sha256()
    for name, each in sorted(state.items()):
        whole.update(f"{name} {each.dtype} {list(each.shape)}".encode())
        whole.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def block_size(values: Values, numbers: int) -> int:
    """How many samples hold about so many numbers, at least 1."""
    return max(1, numbers * len(values) // max(1, values.size))


def rows_of_block(values: Values) -> int:
    """How many samples `in_blocks` takes at once."""
    return min(256, block_size(values, 2**22))


def in_blocks(values: Values, what: str, show: bool = True, within: range | None = None) -> Iterator[Array]:
    """Values in turn, all or a range of them, under a progress bar that shows after a second."""
    rows, within = rows_of_block(values), range(len(values)) if within is None else within
    starts = within[::rows]

    def block_at(i: int) -> Array:
        start = within.start + i * rows
        return np.asarray(values[start : min(start + rows, within.stop)])

    ahead = Ahead(block_at, 2 * threads_of(values), threads_of(values))
    try:
        with progress_bar(len(within), what, " samples", show=show) as bar:
            for i in range(len(starts)):
                block = ahead.take(i)
                yield block
                bar.update(len(block))
    finally:
        ahead.close()


def batched(call: Callable[[Tensor], Tensor], prepare: Callable[[Array], Tensor], size: int) -> Callable[..., Tensor]:
    """A map of arrays of any length from a map of batches, without gradients; results come to the CPU."""

    def extract(values: Array) -> Tensor:
        values = np.asarray(values)
        starts = range(0, max(1, len(values)), size)
        with torch.no_grad():
            return torch.cat([call(prepare(values[start : start + size])).cpu() for start in starts])

    return extract


def check_shape(values: Values, shape: tuple[int, ...], name: str) -> None:
    """Raise ValueError where samples are not of the shape that features take."""
    if values.shape[1:] != shape:
        raise ValueError(f"samples of shape {list(values.shape[1:])}: the features {name} take {list(shape)}")
