"""The computation of a page's contents."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from leapstep.core.convention import Clip, DynamicThreshold
from leapstep.core.schedules import SCHEDULES
from leapstep.data.dataset import same_source
from leapstep.evaluation.page import folder
from leapstep.evaluation.page.contents import (
    Page,
    Plan,
    Splits,
)
from leapstep.evaluation.page.drawn import between, consistency, drawn_samples
from leapstep.evaluation.page.measured import neighbours, noise_levels, reconstructions
from leapstep.evaluation.page.standing import standing
from leapstep.evaluation.page.work import Work, counted, parts_of
from leapstep.inference.encoding import unit
from leapstep.inference.execution import as_specified
from leapstep.inference.provenance import versions
from leapstep.models.checkpoint import fingerprint
from leapstep.models.model import Model

TRAINED = {"batch_size": "Batch size", "learning_rate": "Learning rate", "ema_decay": "EMA decay"}
"""Settings of the training that a page names, and how."""


def gather(
    model: Model,
    data: Splits | None = None,
    plan: Plan | None = None,
    *,
    source: str = "",
    opening: Sequence[str] = (),
    sweep: str | Path | None = None,
    on_step: Callable[[], object] | None = None,
) -> Page:
    """Run a model and collect what a page about it shows.

    Arguments:
        data: what the model is held against; None leaves those parts out.
        plan: how samples are drawn and how much is shown; None: `Plan()`.
        source: where the model lies, which the page and its commands name. Where it is a folder, the log and the
            pictures of the training are taken from there.
        opening: options with which commands open the model beside its name, such as `("--convention", "c.json")`.
        sweep: a folder that `leapstep sweep` made; default: `sweep/` in the source, where that is one.
        on_step: called after every step of a sampler and every measurement, `effort` times.
    Returns:
        the page.
    Raises:
        ValueError: a specification that does not fit the model, or a sweep that cannot be read or is of another model.
        NotFinite: samples that are not finite.
    """
    began, run = time.perf_counter(), Path(source) if source and Path(source).is_dir() else None
    _check_labels(model, data)
    weights = fingerprint(model.network)
    swept, left_out = (None, "") if sweep is None else folder.sweep(Path(sweep), weights)
    if sweep is None and run is not None and (run / "sweep" / "results.json").is_file():
        swept, left_out = folder.sweep(run / "sweep", weights, named=False)
    work = Work(model, plan or Plan(), on_step or (lambda: None))
    spec = work.spec
    work.model = model = as_specified(model, spec)
    numbers = spec.labels_for(model, range(spec.n))
    all_classes = numbers is None or len(set(spec.labels or ())) == len(model.classes)
    with counted(model.network) as totals:
        x, way = drawn_samples(work)
        page = Page(
            source=source,
            opening=tuple(opening),
            kind=work.kind,
            facts=_facts(model, weights),
            noun=_noun(model, work.kind),
            classes=model.classes,
            spec=spec,
            extent=work.extent,
            spacing=model.spacing or "trailing",
            unit=unit(model),
            samples=work.shown(x),
            labels=() if numbers is None else tuple(model.classes[number] for number in numbers.tolist()),
            consistency=consistency(work),
            way=way,
            between=between(work),
            data=None if data is None else data.source,
            own=data is not None and is_own(model, data.source),
            held="train" if data is None or data.held is None else data.held_name,
            curves={} if run is None else folder.curves(run),
            strips=[] if run is None else folder.strips(run),
            reconstructions=None if data is None else reconstructions(work, data),
            levels=None if data is None else noise_levels(work, data),
            standing=standing(work.shown(x), data) if data is not None and all_classes else None,
            neighbours=None if data is None else neighbours(work, x, data),
            sweep=swept,
            left_out=left_out,
        )
    return dataclasses.replace(
        page,
        seconds=time.perf_counter() - began,
        calls=totals[0],
        evaluations=totals[1],
        versions=versions() | {"Python": platform.python_version()},
        created=datetime.now().astimezone().isoformat(" ", "minutes"),
    )


def _check_labels(model: Model, data: Splits | None) -> None:
    """Raise ValueError where data have no labels and the model cannot do without."""
    parts = [] if data is None else parts_of(data)
    if model.classes and model.null_label is None and any(split.labels is None for _, split in parts):
        assert data is not None
        raise ValueError(f"{data.source} has no labels, and this model knows one class at a time: name data that have")


def is_own(model: Model, source: str) -> bool:
    """Whether a source of data is the one that the model was trained on, as far as its folder says."""
    trained = model.details.get("data", {}).get("source")
    return trained is not None and same_source(trained, source)


def _noun(model: Model, kind: str) -> str:
    """What the model draws."""
    if kind == "pictures":
        channels, height, width = model.shape
        return f"{width} × {height} {'grey' if channels == 1 else 'colour'} pictures"
    if kind == "points":
        return "points in the plane"
    shape = " × ".join(map(str, model.shape))
    return f"signals of {shape} values" if kind == "signals" else f"arrays of {shape} numbers"


def _facts(model: Model, weights: str) -> dict[str, str]:
    """What the model is, by name."""
    training, data = model.details.get("training", {}), model.details.get("data", {})
    schedule = training.get("schedule") or _schedule(model)
    levels = model.process.timesteps
    first, last = (model.process.log_snr(t).item() for t in (1 / (levels or 1000), 1.0))
    facts = {
        "Network": type(model.network).__name__,
        "Parameters": f"{sum(parameter.numel() for parameter in model.network.parameters()):,}",
        "Shape": " × ".join(map(str, model.shape)),
        "Schedule": f"{schedule or 'betas'}, {f'T = {levels:,} levels' if levels else 'continuous time'}",
        "log-SNR": f"{first:.1f} to {last:.1f}".replace("-", "−"),
        "Predicts": model.predicts,
        "Clipped to": _clip(model.clip),
        "Classes": _listed(model.classes),
        "Trained on": _trained_on(data),
        "Trained for": f"{model.details['step']:,} steps" if isinstance(model.details.get("step"), int) else "",
        **{said: str(training.get(name) or "") for name, said in TRAINED.items()},
        "Made with": ", ".join(f"{name} {version}" for name, version in model.details.get("versions", {}).items()),
        "Weights": f"SHA-256 {weights[:12]}…",
    }
    return {name: value for name, value in facts.items() if value}


def _schedule(model: Model) -> str:
    """The name of the schedule that made the process, where it has one."""
    name = model.process.schedule.make.__name__ if model.process.schedule else ""
    return name if name in SCHEDULES else ""


def _trained_on(data: Mapping[str, Any]) -> str:
    """How many samples of what a model was trained on, and how many were held out."""
    if not {"samples", "source"} <= set(data):
        return ""
    held = (data.get("holdout") or {}).get("samples", 0)
    said = f"{data['samples'] - held:,} samples of {data['source']}"
    return f"{said}, {held:,} held out" if held else said


def _clip(clip: Clip | None) -> str:
    """To what estimates of x0 are clipped."""
    if clip is None or isinstance(clip, tuple):
        return "" if clip is None else f"{clip[0]:.3g} to {clip[1]:.3g}".replace("-", "−")
    return "a quantile of each sample" if isinstance(clip, DynamicThreshold) else "a function"


def _listed(names: tuple[str, ...]) -> str:
    """All of a few names, or how many there are."""
    return ", ".join(names) if len(names) <= 12 else f"{len(names)}, from {names[0]} to {names[-1]}"
