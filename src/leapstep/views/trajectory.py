"""Trajectories of samples as images, animations and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from leapstep import files
from leapstep.data.pictures import animation, captioned, save_image, table, video
from leapstep.inference.engine import values
from leapstep.inference.tracing import Trace
from leapstep.models.model import Model

COLUMNS = 12
"""How many times the picture of a trace shows at most."""

ROWS = 4
"""How many samples the animation shows at most."""

FRAMES = 60
"""How many times the animation shows at most."""

FRAME = 1_000_000
"""How many pixels the pictures of a frame have at most."""

HOLD = 1.5
"""How long the animation rests on the sample, seconds."""


def write_trace(out: Path, model: Model, trace: Trace) -> None:
    """Write x above the estimate of x0, from noise to data: `trace.png`, or `trace.npz` of what is no picture."""
    if not model.is_pictures:
        arrays = {"times": trace.times.numpy(), "x": values(model, trace.x), "x0": values(model, trace.x0)}
        files.write_npz(out / "trace.npz", arrays)
        return
    shown = _evenly(len(trace.times), COLUMNS)
    noisy, clean = (values(model, x[shown]) for x in (trace.x, trace.x0))
    rows: dict[str, npt.NDArray[np.uint8]] = {}
    for i in range(trace.x.shape[1]):
        which = f" of {i}" if trace.x.shape[1] > 1 else ""
        rows |= {f"x_t{which}": noisy[:, i], f"x0 estimate{which}": clean[:, i]}
    save_image(table(rows, [f"t = {trace.times[j]:.3g}" for j in shown]), out / "trace.png")


def write_film(out: Path, model: Model, trace: Trace, *, gif: bool, mp4: bool) -> None:
    """Write x beside the estimate of x0, from noise to data: `trace.gif`, `trace.mp4`."""
    if not gif and not mp4:
        return
    frames = []
    for j in _evenly(len(trace.times), FRAMES):
        pair = np.stack([values(model, x[j, :ROWS]) for x in (trace.x, trace.x0)], 1)
        rows = {f"sample {i}" if len(pair) > 1 else "": both for i, both in enumerate(pair)}
        image = table(rows, ["x_t", "x0 estimate"], side=160, most=FRAME)
        frames.append(np.asarray(captioned({f"t = {trace.times[j]:.3f}": image})).transpose(2, 0, 1))
    if gif:
        files.write_bytes(out / "trace.gif", animation(np.stack(frames), HOLD))
    if mp4:
        files.write_bytes(out / "trace.mp4", video(np.stack(frames), HOLD))


def write_by_steps(out: Path, model: Model, samples: Mapping[int, Tensor]) -> None:
    """Write samples side by side by their number of steps: `consistency.png`, or `.npz` of what is no picture."""
    if not model.is_pictures:
        files.write_npz(out / "consistency.npz", {f"{n} steps": values(model, x) for n, x in samples.items()})
        return
    pixels = np.stack([values(model, x) for x in samples.values()], 1)
    rows = {f"sample {i}": row for i, row in enumerate(pixels)}
    save_image(table(rows, [f"{steps} steps" for steps in samples]), out / "consistency.png")


def _evenly(n: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many of n indices, evenly chosen, with the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(np.int64))
