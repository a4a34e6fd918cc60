"""Edits as images: each result in a file of its own, and what they came from beside them in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep import files
from leapstep.data.pictures import save_image, table
from leapstep.inference.engine import values
from leapstep.inference.latents import Decoding
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


def write_decoded(
    out: Path, model: Model, original: npt.NDArray[Any], results: Tensor, wanted: Sequence[Decoding]
) -> npt.NDArray[np.uint8] | None:
    """Write decoded latents: pictures with a grid, or `samples.npz` of all else.

    The grid has a row for each latent, its original and what it was decoded to; or one row of what lies between two.

    Arguments:
        original: what was encoded, as files hold it, `[k, *d]`.
        results: in model space, `[n, *d]`.
        wanted: what each of them is.
    Returns:
        the first row of the grid, or None where there are no pictures.
    """
    made = values(model, results)
    if not model.is_pictures:
        files.write_npz(out / FINAL, {"samples": made, "original": original})
        return None
    Pictures(out).keep(range(len(made)), made)
    if wanted[0].fraction is None:
        each = made.reshape(len(original), -1, *model.shape)
        rows = np.concatenate([original[:, None], each], axis=1)[:SHOWN]
        named = ["" if one.label is None else model.classes[one.label] for one in wanted]
        captions = ["original", *(named[: each.shape[1]] if each.shape[1] > 1 or len(set(named)) == 1 else ["decoded"])]
    else:
        rows = np.concatenate([original[:1], made, original[1:]])[None]
        captions = ["original", *(f"{one.fraction:g}" for one in wanted), *["original"] * (len(original) - 1)]
    write_rows(out, rows, captions)
    first: npt.NDArray[np.uint8] = rows[0]
    return first


def write_rows(out: Path, rows: npt.NDArray[np.uint8], columns: Sequence[str]) -> None:
    """Write pictures uint8 `[rows, n, c, h, w]` as `grid.png`, with captions of the first columns."""
    named = {" " * i: row for i, row in enumerate(rows)}  # rows go by their captions, which must differ
    save_image(table(named, [*columns, *[""] * (rows.shape[1] - len(columns))]), out / "grid.png")
