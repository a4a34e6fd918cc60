"""Edits as images: each result in a file of its own, and what they came from beside them in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep import files
from leapstep.data.pictures import save_image, table
from leapstep.inference.engine import values
from leapstep.inference.store import FINAL, Pictures
from leapstep.models.model import Model

SHOWN = 12
"""How many data the grid shows, and how many results of each."""


def write_edits(
    out: Path, model: Model, x0: Tensor, results: Tensor, mask: Tensor | None = None
) -> npt.NDArray[np.uint8] | None:
    """Write edits: pictures with a grid of original, mask and results, a row each; or `samples.npz` of all else.

    Arguments:
        x0: what was edited, in model space, `[k, *d]`.
        results: of the first, of the second and so on, `[k n, *d]`.
        mask: from 0 to 1, `[*d]`.
    Returns:
        the first row of the grid, or None where there are no pictures.
    """
    made, original = values(model, results), values(model, x0)
    if not model.is_pictures:
        files.write_npz(out / FINAL, {"samples": made, "original": original})
        return None
    Pictures(out).keep(range(len(made)), made)
    before = [original[:, None]]
    if mask is not None:
        before.append(np.broadcast_to((mask * 255).round().to(torch.uint8).numpy(), original.shape)[:, None])
    each = made.reshape(len(original), -1, *model.shape)[:, :SHOWN]
    rows = np.concatenate([*before, each], axis=1)
    write_rows(out, rows[:SHOWN], ["original", "mask"][: len(before)])
    first: npt.NDArray[np.uint8] = rows[0]
    return first


def write_rows(out: Path, rows: npt.NDArray[np.uint8], columns: Sequence[str], captions: Sequence[str] = ()) -> None:
    """Write pictures uint8 `[rows, n, c, h, w]` as `grid.png`, with captions of the columns and of the rows."""
    named = dict(zip(captions or [" " * i for i in range(len(rows))], rows, strict=True))
    save_image(table(named, [*columns, *[""] * (rows.shape[1] - len(columns))]), out / "grid.png")
