"""Previews during training: grids of samples, and the strip of the same start noise over the training."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from leapstep.core.finite import NotFinite
from leapstep.data.pictures import cut, grid, save_image, table
from leapstep.files import folders
from leapstep.inference.engine import draw, values
from leapstep.inference.execution import Execution
from leapstep.inference.spec import SamplingSpec
from leapstep.models.model import Model

if TYPE_CHECKING:
    from PIL import Image

STRIP_COLUMNS, STRIP_ROWS, STRIP_PIXELS = 12, 10, 2_000_000
"""How many times and how many start noises the strip shows at most, and with how many pixels together."""


def preview(
    model: Model,
    run: Path | None,
    step: int,
    batch_size: int,
    device: torch.device,
    n: int = 64,
    execution: Execution | None = None,
) -> Image.Image | None:
    """Write a grid of samples, always from the same start noise, by 20 DDIM steps.

    With classes, they come in turns, and n is rounded down to whole turns. The first samples of this grid and of
    earlier ones then make the strip.

    Arguments:
        model: a model of pictures.
        run: the run folder; None: another process writes the same there, and this one takes part in its calls.
        step: of the training.
        batch_size: samples drawn at a time.
        device: where the network is.
        n: how many samples to draw.
        execution: how the network is computed; None: as `choose` says.
    Returns:
        the grid, if it was written.
    """
    period = max(1, len(model.classes))
    n -= n % period if n > period else 0
    spec = SamplingSpec(
        n=n, labels=tuple(range(min(n, len(model.classes)))) or None, batch_size=batch_size, dtype="float32"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always", NotFinite)  # of samples that are broken a run is told, and goes on
        drawn = draw(model, spec, device=device, execution=execution)
        pixels = np.concatenate([values(model, x) for _, x in drawn])
    if run is None:
        return None
    folder = folders.inner(run, "samples")
    sheet = grid(pixels, period=period)
    save_image(sheet, folder / f"step-{step:08d}.png")
    if seen := first_samples(folder, step, model.shape, n, period):
        save_image(strip(seen, model.classes), folder / "strip.png")
    return sheet


def first_samples(
    folder: Path, step: int, shape: tuple[int, ...], n: int, period: int
) -> dict[int, npt.NDArray[np.uint8]]:
    """The first samples of the grids that `preview` made up to a step, by their steps: of a dozen at most.

    A grid that cannot be read, or that another version laid out otherwise, is left out: nothing that lies in the folder
    may end a training.
    """
    from PIL import Image

    names = [re.fullmatch(r"step-(\d+)\.png", path.name) for path in folder.iterdir()]
    steps = {at for name in names if name and (at := int(name[1])) <= step}
    rows: dict[int, npt.NDArray[np.uint8]] = {}
    while chosen := spread(steps, STRIP_COLUMNS):
        for at in chosen - rows.keys():
            try:
                with Image.open(folder / f"step-{at:08d}.png") as sheet:
                    rows[at] = cut(sheet, shape, n, period)[:STRIP_ROWS].copy()  # the others are not kept in memory
            except Exception:  # a broken file can raise anything
                steps.discard(at)
        if chosen <= steps:
            return {at: rows[at] for at in sorted(chosen)}
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
