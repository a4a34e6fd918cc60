"""The strip: what the same start noises became over the steps of a training, put together from its grids of samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from leapstep.data.pictures import cut, table

if TYPE_CHECKING:
    from PIL import Image

STRIP_COLUMNS, STRIP_ROWS, STRIP_PIXELS = 12, 10, 2_000_000
"""How many times and how many start noises the strip shows at most, and with how many pixels together."""


def first_samples(
    folder: Path, step: int, shape: tuple[int, ...], n: int, period: int
) -> dict[int, npt.NDArray[np.uint8]]:
    """The first samples of the grids that `Trainer.preview` made up to a step, by their steps: of a dozen at most.

    A grid that cannot be read, or that another version laid out otherwise, is left out: nothing that lies in the folder
    may end a training.
    """
    from PIL import Image

    names = [re.fullmatch(r"step-(\d+)\.png", path.name) for path in folder.iterdir()]
    steps = {at for name in names if name and (at := int(name[1])) <= step}
    found: dict[int, npt.NDArray[np.uint8]] = {}
    while chosen := spread(steps, STRIP_COLUMNS):
        for at in chosen - found.keys():
            try:
                with Image.open(folder / f"step-{at:08d}.png") as sheet:
                    found[at] = cut(sheet, shape, n, period)[:STRIP_ROWS].copy()  # the others are not kept in memory
            except Exception:  # a broken file can raise anything
                steps.discard(at)
        if chosen <= steps:
            return {at: found[at] for at in sorted(chosen)}
    return {}


def spread(steps: set[int], most: int) -> set[int]:
    """At most so many of the steps, spread evenly over time, with the first and the last."""
    if len(steps) <= most:
        return steps.copy()
    targets = np.linspace(min(steps), max(steps), most)
    return {min(steps, key=lambda step: (abs(step - target), step)) for target in targets.tolist()}


def strip(seen: dict[int, npt.NDArray[np.uint8]], classes: tuple[str, ...]) -> Image.Image:
    """A row for each start noise, by its class if there are classes, and a column for each step."""
    rows = {}
    for i, row in enumerate(np.stack(list(seen.values()), 1)):
        turn, which = divmod(i, len(classes)) if classes else (0, i)
        name = f"{classes[which]} ({turn + 1})" if turn else classes[which] if classes else f"sample {i}"
        rows[name] = row
    return table(rows, [f"step {step}" for step in seen], most=STRIP_PIXELS)
