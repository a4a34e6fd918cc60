"""Samples written to a folder batch by batch, so that a stopped job can be resumed.

How many samples a folder holds is read from its samples, never from what was noted of them: pictures are counted,
and an array in growth says its length itself, which it does only after what it speaks of is on the disk.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from leapstep import files, workers
from leapstep.data import shards
from leapstep.data.pictures import grid, save_image
from leapstep.data.shards import MANIFEST
from leapstep.files import folders, reading

Array = npt.NDArray[Any]

PART, FINAL = "part.npy", "samples.npz"
"""An array of samples in growth, and in the end."""


RESULTS = folders.Kind(
    MANIFEST,
    "weights_sha256",
    rf"\d{{5,}}\.png|grid\.png|samples\.npz|part\.npy|manifest\.json|{workers.KIND.names}",
    resumable=True,
)
"""Folders of samples, and what they are known by."""

ELSEWHERE = ("model", "trained_steps", "execution")
"""What of a manifest, or of another record, may differ when work goes on: how the model is called, since its weights
are compared; and how its network is computed, but for the dtype, which is part of the specification."""

GRID = 400
"""How many pictures the grid shows."""


def depends(record: Mapping[str, Any]) -> dict[str, Any]:
    """What results depend on, of what their record says; where each worker has a device of its own, not on that."""
    return {name: value for name, value in record.items() if name not in (*ELSEWHERE, "device")}


def in_shards(folder: Path, format: str | None, on: str | None, shard: int | None, resume: bool) -> bool:
    """Whether samples are drawn in shards: where it is asked for, and where what goes on was begun so."""
    asked = on is not None or shard is not None or format in shards.ALWAYS
    return asked or (resume and shards.of_folder(folder) is not None)


def check_place(folder: Path, resume: bool, overwrite: bool, on: str | None = None) -> None:
    """Make sure that samples may be drawn into a folder, or go on there.

    Arguments:
        on: whose workers draw them, see `leapstep.workers.run`; of those of torchrun only the first looks.
    Raises:
        ValueError: both are asked for, or to overwrite under torchrun; or what `leapstep.files.folders.check_free`
            raises.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other: choose one")
    if workers.leads(on, overwrite) and (not resume or not (folder / MANIFEST).exists()):
        folders.check_free(folder, overwrite or resume, RESULTS)


class Store(Protocol):
    """Samples in a folder, from the first one on without a gap."""

    def finished(self) -> int:
        """How many samples are there, whole."""

    def keep(self, rows: range, values: Array) -> None:
        """Write samples `[len(rows), *d]` of these indices; there are none behind them then."""

    def first(self, n: int) -> Array:
        """The first n of the samples that are there, `[n, *d]`."""

    def close(self, labels: Sequence[int] | None) -> None:
        """Give all samples their final form, with their labels where the form has room for them."""


class Pictures:
    """Samples as PNG, uint8 `[c, h, w]`, each in a file of its own: `00000.png`, `00001.png` and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finished(self) -> int:
        """How many pictures are there; each file is whole, as all are that `leapstep.files` writes."""
        return next(i for i in itertools.count() if not self._path(i).is_file())

    def keep(self, rows: range, values: Array) -> None:
        """Write a file for each picture."""
        for i, picture in zip(rows, values, strict=True):
            save_image(grid(picture[None], padding=0, zoom=1), self._path(i))

    def first(self, n: int) -> Array:
        """The first n pictures, uint8 `[n, c, h, w]`."""
        from PIL import Image

        pictures = []
        for i in range(n):
            with Image.open(self._path(i)) as image:
                pictures.append(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1))
        return np.stack(pictures)

    def close(self, labels: Sequence[int] | None) -> None:
        """Nothing is left to be done."""

    def _path(self, i: int) -> Path:
        return self.folder / f"{i:05d}.png"


class Growing:
    """Samples as one array: `PART` while it grows, which can be read at any time, and `FINAL` in the end.

    No more than a batch is ever in memory.
    """

    def __init__(self, folder: Path, n: int, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        self.part, self.final, self.n = folder / PART, folder / FINAL, n
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)

    @classmethod
    def begun(cls, folder: Path, n: int) -> Growing | None:
        """The array of n samples that was begun in a folder, or is there; None where there is none."""
        if (folder / FINAL).is_file():
            return cls(folder, n, (), float)  # it says itself what is in it
        try:
            rows = np.lib.format.open_memmap(reading.regular(folder / PART), mode="r")
        except (OSError, ValueError, EOFError):
            return None
        return cls(folder, n, rows.shape[1:], rows.dtype)

    def finished(self) -> int:
        """How many samples are there."""
        return self.n if self.final.is_file() else self._length()

    def keep(self, rows: range, values: Array) -> None:
        """Put samples at the end, and only then say that they are there.

        Raises:
            ValueError: those before them are missing.
        """
        if rows.start > self._length():
            raise ValueError(f"{self.part} lacks samples before {rows.start}: draw them anew, with --overwrite")
        head = self._head(rows.stop)
        at = len(head) + rows.start * int(np.prod(self.shape)) * self.dtype.itemsize
        files.extend(self.part, head, at, np.ascontiguousarray(values, self.dtype).tobytes())

    def first(self, n: int) -> Array:
        """The first n samples."""
        if self.part.is_file():
            return np.array(self._rows()[:n])
        with np.load(self.final, allow_pickle=False) as arrays:
            return np.array(arrays["samples"][:n])

    def close(self, labels: Sequence[int] | None) -> None:
        """Write `samples.npz`, with `samples` and `labels`, and remove the array that grew."""
        if self.part.is_file():
            arrays = {"samples": self._rows()} | ({} if labels is None else {"labels": np.array(labels)})
            files.write_npz(self.final, arrays)
            del arrays  # Windows removes no file that is in use
            self.part.unlink()

    def _length(self) -> int:
        try:
            rows = self._rows()
        except (OSError, ValueError, EOFError):  # none, or one that died before its first batch was there
            return 0
        return len(rows) if rows.shape[1:] == self.shape and rows.dtype == self.dtype else 0

    def _rows(self) -> Array:
        return np.asarray(np.lib.format.open_memmap(reading.regular(self.part), mode="r"))

    def _head(self, n: int) -> bytes:
        """What an npy file of n samples begins with; numpy leaves room, so that its size does not depend on n."""
        said = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (n, *self.shape)}
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, said)
        return head.getvalue()


def write_grid(out: Path, shown: Array, labels: Sequence[int] | None) -> None:
    """Write the grid of the first pictures, with a column for each class where there are several in turn."""
    turns = [0] if labels is None else labels[: len(shown)]
    period = next(p for p in range(1, len(turns) + 1) if turns[p:] == turns[:-p])  # of the classes in turn
    save_image(grid(shown, period=period), out / "grid.png")
