"""Reconstructions and interpolations as images, animations and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from leapstep import files
from leapstep.data.pictures import animation, grid, save_image, table, video
from leapstep.inference.engine import Array, values
from leapstep.models.model import Model

SHOWN = 12
"""How many samples the picture of reconstructions shows."""


def shown(model: Model) -> int | None:
    """How many samples `write_reconstructions` takes; None: all."""
    return SHOWN if model.is_pictures else None


def write_reconstructions(out: Path, model: Model, rows: Mapping[str, Array]) -> None:
    """Write data and their reconstructions by name: `reconstructions.png`, or `.npz` of what is no picture.

    Arguments:
        rows: as files hold them, `[n, *d]`; see `leapstep.inference.engine.values`.
    """
    if model.is_pictures:
        save_image(table({name: x[:SHOWN] for name, x in rows.items()}), out / "reconstructions.png")
    else:
        files.write_npz(out / "reconstructions.npz", rows)


def write_frames(out: Path, model: Model, x: Tensor, frames: int, *, mp4: bool = False) -> None:
    """Write what lies between two samples, or in the grid among four.

    Pictures become `strip.png` or `grid.png`, and `animation.gif`, which goes there and back or around the grid; all
    else `frames.npz`.

    Arguments:
        x: `[frames, *d]`, or `[frames * frames, *d]` row by row.
        mp4: write the animation as `animation.mp4` as well.
    """
    if not model.is_pictures:
        files.write_npz(out / "frames.npz", {"frames": values(model, x)})
        return
    pixels = values(model, x)
    if len(pixels) == frames:
        save_image(table({"": pixels}, [f"{i / (frames - 1):.2g}" for i in range(frames)]), out / "strip.png")
        tour = [*range(frames), *range(frames - 2, 0, -1)]
    else:
        save_image(grid(pixels, columns=frames), out / "grid.png")
        index = np.arange(frames**2).reshape(frames, frames)
        tour = [*index[0], *index[1:, -1], *index[-1, -2::-1], *index[-2:0:-1, 0]]
    files.write_bytes(out / "animation.gif", animation(pixels[tour]))
    if mp4:
        files.write_bytes(out / "animation.mp4", video(pixels[tour]))
