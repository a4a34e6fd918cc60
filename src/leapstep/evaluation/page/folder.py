"""What a page reads from a run folder: the training log, sample grids, a sweep."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leapstep.evaluation import quality
from leapstep.evaluation.distances import Estimate
from leapstep.evaluation.page.contents import Cell, Curve, Strip, Sweep, chosen
from leapstep.files.reading import read_bytes

CURVES = {"loss": "loss", "gradient_norm": "gradient norm", "learning_rate": "learning rate"}
"""What the log of a training calls the quantities that a page shows, and what the page calls them."""

POINTS = 300
"""So many points a curve has at most; of more, means are shown."""

STRIPS = 8
"""How many pictures of the training a page shows at most."""


def curves(run: Path) -> dict[str, Curve]:
    """Read the curves of a training from `log/`, by their names in `CURVES`; those that are not there are left out."""
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
    for name in CURVES:
        events = log.Scalars(name) if name in there else []
        if len(events) > 1:
            found[name] = _thinned([event.step for event in events], [event.value for event in events])
    return found


def _thinned(steps: Sequence[int], values: Sequence[float]) -> Curve:
    """Means of neighbours, where there are too many."""
    parts = min(POINTS, len(steps))
    means = [[float(np.mean(part)) for part in np.array_split(np.asarray(each), parts)] for each in (steps, values)]
    return Curve(tuple(round(step) for step in means[0]), tuple(means[1]))


def strips(run: Path) -> list[Strip]:
    """Read the pictures of `samples/step-*.png` as they are; of many, some with the first and the last."""
    found = []
    for path in sorted((run / "samples").glob("step-*.png")):
        if number := re.fullmatch(r"step-(\d+)\.png", path.name):
            found.append((int(number[1]), path))
    return [Strip(found[i][0], read_bytes(found[i][1])) for i in (chosen(len(found), STRIPS) if found else [])]


def sweep(folder: Path, weights: str = "", named: bool = True) -> Sweep:
    """Read the results of `leapstep sweep`.

    Arguments:
        folder: where `results.json` is.
        weights: the SHA-256 of the weights that the page is about.
        named: somebody asked for this folder. One that only lies in the run folder may be of weights that were trained
            on since: then its cells are left out, with a remark.
    Raises:
        ValueError: the file is missing, is no such thing, or is of other weights though it was named.
    """
    path = folder / "results.json"
    try:
        content = quality.results(path)
    except FileNotFoundError:
        raise ValueError(f"there is no {path}: name a folder that `leapstep sweep` made") from None
    if "cells" not in content:
        raise ValueError(f"{path} holds one result, of `leapstep evaluate`: name a folder that `leapstep sweep` made")
    metric, conditions = content["metric"], content["conditions"]
    alike = quality.even(content["cells"], metric)
    cells = [
        cell._replace(even=each in alike) for each in content["cells"] if (cell := _cell(each, metric)) is not None
    ]
    if len({cell.spacing for cell in cells}) > 1:
        cells = [cell._replace(label=f"{cell.label}, {cell.spacing}") for cell in cells]
    remarks = [] if content.get("finished") else ["The sweep is not finished: cells are missing."]
    advice = tuple(content.get("advice", ()))
    others, model = str(conditions.get("model_sha256", weights)), content.get("model")
    metrics = tuple(dict.fromkeys(name for each in content["cells"] for name in each["metrics"]))
    if weights and others != weights:
        if named:
            raise ValueError(f"{folder} is a sweep of {model} with other weights: name a sweep of this model")
        left_out = f"{folder} holds a sweep of other weights than those of this page, so it is not shown: repeat it."
        return Sweep(str(folder), metric, (), (), (left_out,), {})
    return Sweep(
        str(folder), metric, tuple(cells), advice, tuple(remarks), conditions, metrics, content.get("relation") or "?"
    )


def _cell(cell: Mapping[str, Any], metric: str) -> Cell | None:
    """A cell, or None where it has no value."""
    measured = cell.get("metrics", {}).get(metric)
    if measured is None or measured.get("value") is None:
        return None
    low, high, seconds, fastest, slowest = (
        None if value is None else float(value)
        for value in (
            *(measured.get(end) for end in ("low", "high")),
            *(cell.get(name) for name in ("seconds", "seconds_low", "seconds_high")),
        )
    )
    time = None if seconds is None else Estimate(seconds, fastest, slowest)
    names = str(cell["method"]), dict(cell.get("settings") or {}), str(cell["label"]), str(cell.get("spacing") or "")
    return Cell(*names, int(cell["steps"]), float(cell["calls"]), time, float(measured["value"]), low, high)
