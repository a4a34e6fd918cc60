"""Run folders side by side, and what one holds beside its model: the course of the training, results, samples."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from leapstep.evaluation import results
from leapstep.evaluation.page.contents import Curve
from leapstep.evaluation.page.folder import HELD_OUT, TRAINING, scalars, thinned
from leapstep.files.reading import read_bytes
from leapstep.models import checkpoint
from leapstep.text import one_line

SPEED = "samples_per_second"
"""What the log calls the speed of a training."""

OF_THE_LOSS = ("loss", "predicts", "schedule", "timesteps", "zero_terminal_snr", "min_snr_gamma", "label_dropout")
"""Settings that change what a loss measures."""

NOT_OF_THE_RUN = ("log", "project", "log_every", "holdout_every", "sample_every", "save_every", "strict")
"""Settings that change nothing of what is trained."""


class Results(NamedTuple):
    """Files of results in a run folder: of the weights that lie there, and of others, such as earlier ones."""

    current: list[Path]
    outdated: list[Path]


def results_of(run: Path, weights: str) -> Results:
    """Find the results of `evaluate --out` and `sweep` that lie in a run folder, or one folder below.

    Arguments:
        weights: the SHA-256 of the weights in the folder.
    """
    found = Results([], [])
    for path in sorted([*run.glob("*.json"), *run.glob("*/results.json")]):
        if not path.is_file() or not path.resolve().is_relative_to(run.resolve()):
            continue
        try:
            content = results.read(path)
        except (OSError, ValueError):
            continue
        of = content.get("evaluation", {}).get("weights_sha256") or content["conditions"].get("model_sha256")
        (found.current if of == weights else found.outdated).append(path)
    return found


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run as it lies in its folder.

    Attributes:
        folder: where it lies.
        name: of it among the runs that it is compared with.
        configuration: of the training or distillation, and of its data, by name.
        weights: how many the network has.
        step: how many it was trained for.
        curves: by steps, as the log calls them: "loss", `HELD_OUT` and `TRAINING`.
        seconds: of training after each step of the log that says so, a curve; None without a log.
        losses: the last and the least on held-out data, as `leapstep.json` has them.
        grid: the last grid of samples, a PNG file; None: there is none.
        results: files with its quality.
        model: what the pictures are of: shape and number of classes, the same for grids that may stand side by side.
    """

    folder: Path
    name: str
    configuration: Mapping[str, Any]
    weights: int
    step: int | None
    curves: Mapping[str, Curve]
    seconds: Curve | None
    losses: Mapping[str, Any]
    grid: tuple[int, bytes] | None
    results: Results
    model: tuple[Any, ...]

    @property
    def took(self) -> float | None:
        """Seconds of the training, as far as the log goes."""
        return None if self.seconds is None else self.seconds.values[-1]

    @property
    def speed(self) -> float | None:
        """Steps a second, on average over the log."""
        return None if not self.took or self.seconds is None else self.seconds.steps[-1] / self.took

    def over_seconds(self, name: str) -> Curve | None:
        """One of the curves over the seconds of the training."""
        if self.seconds is None or name not in self.curves:
            return None
        curve = self.curves[name]
        at = np.interp(curve.steps, (0, *self.seconds.steps), (0.0, *self.seconds.values))
        return Curve(tuple(round(second) for second in at.tolist()), curve.values)


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read run folders that are to be compared.

    Raises:
        ValueError: fewer than two, one of them twice, or what is no model.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise ValueError("one run is nothing to compare: name two or more")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("a run is named twice: name each once")
    return [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """Names by which runs are told apart: their folders', with as many of those above as it takes."""
    parts = [path.resolve().parts for path in paths]
    depth = next(n for n in range(1, 1 + max(map(len, parts))) if len({part[-n:] for part in parts}) == len(parts))
    names = [one_line("/".join(part[-depth:]), 60) for part in parts]
    return [name if names.count(name) == 1 else f"{i}: {name}"[:60] for i, name in enumerate(names, start=1)]


def _read(path: Path, name: str) -> Run:
    model = checkpoint.load(path)
    details = model.details
    training = details.get("training") or {
        key: value for key, value in (details.get("distillation") or {}).items() if not isinstance(value, Mapping)
    }
    data = details.get("data") or {}
    holdout = data.get("holdout")
    settings = {key: value for key, value in training.items() if key not in NOT_OF_THE_RUN}
    settings |= {"data": data.get("source"), "samples": data.get("samples"), "precision": details.get("precision")}
    settings |= {"held out": holdout["samples"] if isinstance(holdout, Mapping) else None}
    settings |= {"begins with": (details.get("init_from") or {}).get("source")}
    logged = scalars(path, ("loss", HELD_OUT, TRAINING, SPEED))
    return Run(
        path,
        name,
        settings,
        sum(weight.numel() for weight in model.network.parameters()),
        details.get("step"),
        {key: thinned(curve) for key, curve in logged.items() if key != SPEED},
        _seconds(logged.get(SPEED), training.get("batch_size")),
        details.get("losses") or _losses(logged.get(HELD_OUT)),
        _grid(path),
        results_of(path, checkpoint.fingerprint(model.network)),
        (model.shape, len(model.classes)),
    )


def _losses(held_out: Curve | None) -> dict[str, Any]:
    """The last and the least loss on held-out data as the log has them, for `leapstep.json` of earlier versions."""
    if held_out is None:
        return {}
    pairs = list(zip(held_out.values, held_out.steps, strict=True))
    return {
        name: {"step": step, "held_out": value} for name, (value, step) in (("last", pairs[-1]), ("least", min(pairs)))
    }


def _seconds(speed: Curve | None, batch_size: Any) -> Curve | None:
    """Seconds of training after the steps of a log; what lay between a stop and the resumption is none of it."""
    if speed is None or not isinstance(batch_size, int) or not all(value > 0 for value in speed.values):
        return None
    steps = np.diff(np.asarray((0, *speed.steps)))
    return Curve(speed.steps, tuple(np.cumsum(steps * batch_size / np.asarray(speed.values)).tolist()))


def _grid(path: Path) -> tuple[int, bytes] | None:
    from PIL import Image

    for sheet in sorted((path / "samples").glob("step-*.png"), reverse=True):
        number = sheet.stem.removeprefix("step-")
        if number.isdecimal() and sheet.is_file():
            png = read_bytes(sheet)
            try:
                with Image.open(io.BytesIO(png)) as image:
                    image.load()
            except Exception:  # a broken file can raise anything
                continue
            return int(number), png
    return None


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings in which runs differ, by name: the value of each, None where it has none."""
    names = dict.fromkeys(name for run in runs for name in run.configuration)
    values = {name: [run.configuration.get(name) for run in runs] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def unlike(runs: Sequence[Run]) -> list[str]:
    """The settings for which the losses of runs do not measure the same."""
    found = differences(runs)
    return [name for name in (*OF_THE_LOSS, "data", "samples", "held out", "size", "grey") if name in found]


def quality(runs: Sequence[Run]) -> results.Comparison | None:
    """The results in the folders of runs, of their present weights, in one table; None where there are none."""
    paths = {path: run.name for run in runs for path in run.results.current}
    if not paths:
        return None
    try:
        compared = results.compare(list(paths))
    except ValueError:  # sweeps without a finished cell
        return None
    return results.Comparison([{**row, "run": paths[row["result"]]} for row in compared.rows], compared.notes)
