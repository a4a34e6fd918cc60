"""What a page reads from a run folder: the training log, sample grids, a sweep."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from leapstep.evaluation.page.contents import Curve, Strip, chosen
from leapstep.evaluation.sweep import Sweep
from leapstep.files.reading import read_bytes

HELD_OUT, TRAINING = "loss_alike/held_out", "loss_alike/training"
"""What the log calls the losses on samples that are always the same."""

CURVES = {
    "loss": "loss",
    HELD_OUT: "held-out data",
    TRAINING: "training data",
    "gradient_norm": "gradient norm",
    "learning_rate": "learning rate",
}
"""What the log of a training calls the quantities that a page shows, and what the page calls them."""

POINTS = 300
"""So many points a curve has at most; of more, means are shown."""

STRIPS = 8
"""How many pictures of the training a page shows at most."""


def curves(run: Path) -> dict[str, Curve]:
    """Read the curves of a training from `log/`, by their names in `CURVES`; those that are not there are left out."""
    return {name: thinned(curve) for name, curve in scalars(run, CURVES).items()}


def scalars(run: Path, names: Iterable[str]) -> dict[str, Curve]:
    """Read what TensorBoard's log of a run has by these names, but for what it has less than two values of."""
    logs = [*(run / "log").glob("*tfevents*")]
    if not logs or not all(log.is_file() for log in logs):  # a pipe among them would never end
        return {}
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        STORE_EVERYTHING_SIZE_GUIDANCE,
        EventAccumulator,
    )

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # a log that was cut off is not worth a word
    log = EventAccumulator(str(run / "log"), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    log.Reload()
    there = log.Tags()["scalars"]
    found = {}
    for name in names:
        events = log.Scalars(name) if name in there else []
        if len(events) > 1:
            found[name] = Curve(tuple(event.step for event in events), tuple(event.value for event in events))
    return found


def thinned(curve: Curve) -> Curve:
    """Means of neighbours, where there are too many points."""
    parts = min(POINTS, len(curve.steps))
    means = [[float(np.mean(part)) for part in np.array_split(np.asarray(each), parts)] for each in curve]
    return Curve(tuple(round(step) for step in means[0]), tuple(means[1]))


def strips(run: Path) -> list[Strip]:
    """Read the pictures of `samples/step-*.png` as they are; of many, some with the first and the last."""
    found = []
    for path in sorted((run / "samples").glob("step-*.png")):
        if number := re.fullmatch(r"step-(\d+)\.png", path.name):
            found.append((int(number[1]), path))
    return [Strip(found[i][0], read_bytes(found[i][1])) for i in (chosen(len(found), STRIPS) if found else [])]


def sweep(folder: Path, weights: str = "", named: bool = True) -> tuple[Sweep | None, str]:
    """Read the results of `leapstep sweep`.

    Arguments:
        folder: where `results.json` is.
        weights: the SHA-256 of the weights that the page is about.
        named: somebody asked for this folder. One that only lies in the run folder may be of weights that were trained
            on since: then it is left out.
    Returns:
        the sweep, or None and why it is left out.
    Raises:
        ValueError: the file is missing, is no such thing, or is of other weights though it was named.
    """
    try:
        results = Sweep.read(folder)
    except FileNotFoundError:
        raise ValueError(f"there is no {folder / 'results.json'}: name a folder that `leapstep sweep` made") from None
    if not weights or str(results.conditions.get("model_sha256", weights)) == weights:
        return results, ""
    if named:
        raise ValueError(f"{folder} is a sweep of {results.model} with other weights: name a sweep of this model")
    return None, f"{folder} holds a sweep of other weights than those of this page, so it is not shown: repeat it."
