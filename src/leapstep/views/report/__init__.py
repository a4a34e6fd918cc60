"""One page about a model: what it is, what few steps cost it, and what it makes of data.

`gather` runs the model and collects numbers and arrays; `render` writes them as one HTML file that needs nothing else.

    model = leapstep.load("runs/digits")
    page = gather(model, source="runs/digits")
    pathlib.Path("report.html").write_text(render(page))
"""

from __future__ import annotations

import dataclasses
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leapstep.core.denoiser import Clip, Diffusion, clipped
from leapstep.core.finite import NotFinite
from leapstep.core.interpolation import interpolation_grid, slerp
from leapstep.core.process import flat
from leapstep.core.sampling import Noise, State, beginning, decode, encode, sample, times
from leapstep.core.transitions import TRANSITIONS, Transition
from leapstep.data.dataset import Data, same_source
from leapstep.evaluation.distances import median_ratio, nearest
from leapstep.models.checkpoint import Model, fingerprint
from leapstep.models.conventions import Thresholding
from leapstep.text import allowed
from leapstep.views.report import folder
from leapstep.views.report.beside_data import standing
from leapstep.views.report.contents import (
    Array,
    Between,
    Consistency,
    Denoising,
    Levels,
    Neighbours,
    Page,
    Reconstructions,
    Settings,
    Split,
    Splits,
    Way,
    chosen,
    kind,
)
from leapstep.views.report.extent import EXTENTS
from leapstep.views.report.rendering import render
from leapstep.views.report.words import cost, lead, quality

__all__ = [
    "Page",
    "Settings",
    "Split",
    "Splits",
    "complete",
    "cost",
    "effort",
    "evaluations",
    "fitted",
    "gather",
    "lead",
    "price",
    "quality",
    "render",
]

SHOWN = {"pictures": 64, "points": 256, "signals": 16, "numbers": 64}
"""How many samples the grid shows by default."""

TOGETHER = {"pictures": 16, "points": 256, "signals": 4, "numbers": 64}
"""How many samples the slider over step counts shows at most."""

TRAVELLERS = {"pictures": 8, "points": 256, "signals": 4, "numbers": 64}
"""How many samples the slider through time shows at most."""

POSITIONS = 25
"""How many times the slider through time has at most."""

ORIGINALS = 8
"""How many of the samples that are encoded and decoded are shown."""

PAIRS = 8
"""How many samples are shown with their nearest training data."""

TRAINED = {"batch_size": "Batch size", "learning_rate": "Learning rate", "ema_decay": "EMA decay"}
"""Settings of the training that a page names, and how."""

MOVED = 500
"""How many held-out samples say how far data lie from the training data."""


# --- the whole -----------------------------------------------------------------------------------------------------


def gather(
    model: Model,
    data: Splits | None = None,
    settings: Settings | None = None,
    *,
    source: str = "",
    sweep: str | Path | None = None,
    on_step: Callable[[], object] | None = None,
) -> Page:
    """Run a model and collect what a page about it shows.

    Arguments:
        data: what the model is held against; None leaves those parts out.
        settings: of the samples; default `Settings()`.
        source: where the model lies, which the page and its commands name. Where it is a folder, the log and the
            pictures of the training are taken from there.
        sweep: a folder that `leapstep sweep` made; default: `sweep/` in the source, where that is one.
        on_step: called after every step of a sampler and every measurement, `effort` times.
    Returns:
        the page.
    Raises:
        ValueError: settings that do not fit the model, or a sweep that cannot be read or is of another model.
        NotFinite: samples that are not finite.
    """
    began, run = time.perf_counter(), Path(source) if source and Path(source).is_dir() else None
    settings = complete(model, settings or Settings())
    _check_labels(model, data)
    weights = fingerprint(model.network)
    found = None if sweep is None else folder.sweep(Path(sweep), weights)
    if sweep is None and run is not None and (run / "sweep" / "results.json").is_file():
        found = folder.sweep(run / "sweep", weights, named=False)
    work = _Work(model, settings, on_step or (lambda: None))
    x, way = _samples(work)
    labels = work.labels(range(len(x)))
    page = Page(
        source=source,
        kind=work.kind,
        facts=_facts(model, weights),
        noun=_noun(model, work.kind),
        classes=model.classes,
        settings=settings,
        spacing=work.spacing,
        unit="squared pixel values from 0 to 1" if model.is_pictures else "variances of the training data",
        samples=work.shown(x),
        labels=() if labels is None else tuple(model.classes[label] for label in labels.tolist()),
        consistency=_consistency(work),
        way=way,
        between=_between(work),
        data=None if data is None else data.source,
        own=data is not None and _is_own(model, data.source),
        held="train" if data is None or data.held is None else data.held_name,
        curves={} if run is None else folder.curves(run),
        strips=[] if run is None else folder.strips(run),
        reconstructions=None if data is None else _reconstructions(work, data),
        levels=None if data is None else _levels(work, data),
        standing=None if data is None or settings.label is not None else standing(work.shown(x), data),
        neighbours=None if data is None else _neighbours(work, x, data),
        sweep=found,
    )
    return dataclasses.replace(
        page,
        seconds=time.perf_counter() - began,
        calls=work.calls,
        evaluations=work.evaluations,
        versions=_versions(),
        created=datetime.now().astimezone().isoformat(" ", "minutes"),
    )


def complete(model: Model, settings: Settings) -> Settings:
    """Settings with nothing left open.

    Raises:
        ValueError: settings that do not fit the model.
    """
    shown = min(SHOWN[kind(model.shape, model.is_pictures)], settings.extent.n)
    n = shown if settings.n is None else settings.n
    most = model.process.timesteps
    steps = min(20, most or 20) if settings.steps is None else settings.steps
    if n < 2 or settings.batch_size < 1:
        raise ValueError(f"n={n}, batch_size={settings.batch_size}: at least 2 samples, in batches of at least 1")
    if settings.method not in TRANSITIONS:
        raise ValueError(f"unknown method {settings.method!r}: {allowed(settings.method, TRANSITIONS)}")
    if settings.label is not None and not 0 <= settings.label < len(model.classes):
        raise ValueError(f"label={settings.label}: the model has {len(model.classes)} classes, counted from 0")
    times(model.process, steps)
    Noise(settings.seed, range(0), ())
    return dataclasses.replace(settings, n=n, steps=steps)


def _check_labels(model: Model, data: Splits | None) -> None:
    """Raise ValueError where data have no labels and the model cannot do without."""
    parts = [] if data is None else _parts(data)
    if model.classes and model.null_label is None and any(split.labels is None for _, split in parts):
        assert data is not None
        raise ValueError(f"{data.source} has no labels, and this model knows one class at a time: name data that have")


def effort(model: Model, data: Splits | None = None, settings: Settings | None = None) -> int:
    """How often `gather` calls `on_step`: the steps of all samplers, batch by batch, and the measurements."""
    work = _Work(model, complete(model, settings or Settings()), lambda: None)
    return sum(times * work.batches(n) for times, _, n in _runs(work, data))


def evaluations(model: Model, data: Splits | None = None, settings: Settings | None = None) -> int:
    """How many samples `gather` puts through the network, about: those of adaptive methods are not known before."""
    work = _Work(model, complete(model, settings or Settings()), lambda: None)
    return sum(times * calls * n for times, calls, n in _runs(work, data))


def _runs(work: _Work, data: Splits | None) -> list[tuple[int, int, int]]:
    """What is drawn and measured: steps, calls in each, and samples."""
    model, extent, calls = work.model, work.extent, max(1, TRANSITIONS[work.settings.method].calls)
    certain = max(1, TRANSITIONS[work.deterministic()[0]].calls)
    frames = extent.edge**2 if work.kind == "pictures" else extent.line
    runs = [(work.steps, calls, work.n), (work.steps, certain, frames)]
    runs.append((sum(_counts(model, extent.steps)), calls, work.together))
    if data is not None:
        n = min(extent.data, len((data.held or data.train).data))
        runs.append((2 * sum(_counts(model, extent.back)), certain, n))
        levels = len(_level_times(work))
        runs += [(levels, 1, min(extent.per_level, len(split.data))) for _, split in _parts(data)]
    return runs


@torch.no_grad()
def price(model: Model, settings: Settings | None = None) -> float:
    """Seconds that the network takes for a sample, in small batches; of a quick network the second call counts."""
    work = _Work(model, complete(model, settings or Settings()), lambda: None)
    for n in (1, 4):
        x = Noise(0, range(n), model.shape, device=work.device)(0)
        diffusion, began = work.diffusion(work.labels(range(n))), time.perf_counter()
        float(diffusion.denoise(x, torch.tensor(0.5, dtype=torch.float64)).sum())  # which waits for an accelerator
        seconds = (time.perf_counter() - began) / n
        if seconds > 1:
            break
    return seconds


def fitted(
    model: Model, data: Splits | None, settings: Settings, seconds: float, price: float
) -> tuple[Settings, float]:
    """The most that a page can show in some time, and how many seconds that takes, about; more where the least does.

    Arguments:
        seconds: that the page may take.
        price: seconds for a sample, see `price`.
    """
    for extent in EXTENTS:
        chosen = dataclasses.replace(settings, extent=extent)
        if (takes := evaluations(model, data, chosen) * price) <= seconds:
            break
    return chosen, takes


class _Work:
    """A model at work, with its settings; it counts calls of the network."""

    def __init__(self, model: Model, settings: Settings, on_step: Callable[[], object]) -> None:
        assert settings.n is not None
        assert settings.steps is not None
        self.model, self.settings = model, settings
        self.n, self.steps, self.spacing = settings.n, settings.steps, model.spacing or "trailing"
        self.kind = kind(model.shape, model.is_pictures)
        self.extent = settings.extent
        self.together = min(self.n, TOGETHER[self.kind], self.extent.together)
        self.transition = TRANSITIONS[settings.method].make()
        self.device = next(model.network.parameters()).device
        self.calls = self.evaluations = 0
        self._on_step = on_step

    def batches(self, n: int) -> int:
        return -(-n // self.settings.batch_size)

    def parts(self, n: int) -> Iterator[range]:
        size = self.settings.batch_size
        return (range(i, min(i + size, n)) for i in range(0, n, size))

    def tick(self, _: State | None = None) -> None:
        self._on_step()

    def labels(self, rows: range) -> Tensor | None:
        """The classes of these samples: the one that was asked for, or all in turn."""
        if not self.model.classes:
            return None
        if self.settings.label is not None:
            return torch.full((len(rows),), self.settings.label)
        return torch.tensor(rows) % len(self.model.classes)

    def diffusion(self, labels: Tensor | None, clip: bool = True) -> Diffusion:
        """The model for samples of these classes, clipped or not, counting its calls."""
        model = self.model if clip else dataclasses.replace(self.model, clip=None)
        diffusion = model.diffusion(labels)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            self.calls, self.evaluations = self.calls + 1, self.evaluations + len(x)
            return diffusion.denoise(x, t)

        return diffusion._replace(denoise=denoise)

    def deterministic(self) -> tuple[str, Transition]:
        """The method, or DDIM where that injects noise: for ways that must be repeatable, or reversible."""
        if TRANSITIONS[self.settings.method].deterministic:
            return self.settings.method, self.transition
        return "ddim", TRANSITIONS["ddim"].make()

    def shown(self, x: Tensor) -> Array:
        """As the data would be: pixels of pictures, or else values."""
        if self.kind == "pictures":
            return self.model.scaling.to_pixels(x.nan_to_num())  # black, where there is nothing to see
        return self.model.scaling.to_values(x)

    def squared_error(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean squared difference per dimension of each sample, `[n]`, float64, in the page's unit."""
        scale = self.model.scaling.scale / 255 if self.model.is_pictures else 1.0
        return flat((x - y).to("cpu", torch.float64) * scale).square().mean(1)


# --- samples -------------------------------------------------------------------------------------------------------


def _samples(work: _Work) -> tuple[Tensor, Way]:
    """The samples of the grid, on the CPU, and the way of the first of them."""
    model, seed, count = work.model, work.settings.seed, min(work.together, TRAVELLERS[work.kind])
    path = times(model.process, work.steps, work.spacing)
    first = Noise(seed, range(count), model.shape, device=work.device)(0)
    noisy: list[list[Tensor]] = [[] for _ in path]  # for each time, the batches
    clean: list[list[Tensor]] = [[] for _ in path]
    noisy[0].append(beginning(work.diffusion(work.labels(range(1))), path[0], first))

    def note(state: State) -> None:
        if sum(map(len, noisy[state.step])) < count:
            clean[state.step - 1].append(state.x0)
            noisy[state.step].append(state.x)
        work.tick()

    with warnings.catch_warnings():
        warnings.simplefilter("error", NotFinite)  # there is nothing to show
        x = sample(
            lambda rows: work.diffusion(work.labels(rows)),
            (work.n, *model.shape),
            path,
            work.transition,
            seed=seed,
            batch_size=work.settings.batch_size,
            device=work.device,
            on_step=note,
        )
    clean[-1] = noisy[-1]
    places, sizes = chosen(len(path), POSITIONS), model.process.size(path)
    shown = [
        np.stack([work.shown(torch.cat(each[i])[:count] / scale[i].item()) for i in places])
        for each, scale in ((noisy, sizes), (clean, torch.ones_like(sizes)))
    ]
    return x.cpu(), Way(tuple(path[places].tolist()), *shown)


def _counts(model: Model, counts: tuple[int, ...]) -> list[int]:
    """As many steps as the model can take."""
    return sorted({min(count, model.process.timesteps or count) for count in counts})


def _consistency(work: _Work) -> Consistency:
    counts, found = _counts(work.model, work.extent.steps), []
    for count in counts:
        found.append(
            sample(
                lambda rows: work.diffusion(work.labels(rows)),
                (work.together, *work.model.shape),
                count,
                work.transition,
                spacing=work.spacing,
                seed=work.settings.seed,
                batch_size=work.settings.batch_size,
                device=work.device,
                on_step=work.tick,
            ).cpu()
        )
    errors = [work.squared_error(x, found[-1]).mean().item() for x in found]
    # the mean over all pairs of |x - y|^2 is twice the variance
    apart = 2 * len(found[-1]) / (len(found[-1]) - 1) * work.squared_error(found[-1], found[-1].mean(0)).mean().item()
    return Consistency(tuple(counts), np.stack([work.shown(x) for x in found]), tuple(errors), apart)


def _between(work: _Work) -> Between:
    """Four noises and what lies among them for pictures; else two."""
    model, settings = work.model, work.settings
    name, transition = work.deterministic()
    label = settings.label
    if label is None and model.classes and model.null_label is None:
        label = 0
    path = times(model.process, work.steps, work.spacing)
    seeds = tuple((settings.seed + i) % 2**64 for i in range(4 if work.kind == "pictures" else 2))
    ends = torch.cat([Noise(seed, range(1), model.shape, device=work.device)(0) for seed in seeds])
    diffusion = work.diffusion(None if label is None else torch.tensor([label]))
    ends = beginning(diffusion, path[0], ends)
    if len(ends) == 4:
        z = interpolation_grid(ends, work.extent.edge, work.extent.edge, slerp).flatten(0, 1)
    else:
        start, end = (each.expand(work.extent.line, *each.shape) for each in ends)
        z = slerp(start, end, torch.linspace(0, 1, work.extent.line, dtype=torch.float64))
    parts = [decode(diffusion, z[rows], path, transition, on_step=work.tick) for rows in map(list, work.parts(len(z)))]
    frames = work.shown(torch.cat(parts))
    rows = work.extent.edge if len(ends) == 4 else 1
    return Between(frames.reshape(rows, -1, *model.shape), seeds, name, label)


# --- against data --------------------------------------------------------------------------------------------------


def _is_own(model: Model, source: str) -> bool:
    """Whether a source of data is the one that the model was trained on, as far as its folder says."""
    trained = model.details.get("data", {}).get("source")
    return trained is not None and same_source(trained, source)


def _parts(data: Splits) -> list[tuple[str, Split]]:
    """The training data and the held-out data, by name."""
    return [("train", data.train)] + ([] if data.held is None else [(data.held_name, data.held)])


def _evenly(data: Data, n: int) -> Array:
    """The places of n of the data, or of all, evenly chosen."""
    n = min(n, len(data))
    return np.arange(n) * len(data) // n


def _reconstructions(work: _Work, data: Splits) -> Reconstructions:
    """As `leapstep reconstruct` does it, by default."""
    split, name = (data.train, "train") if data.held is None else (data.held, data.held_name)
    rows = _evenly(split.data, work.extent.data)
    method, transition = work.deterministic()
    x0, labels = split.data.batch(rows), None if split.labels is None else split.labels[rows]
    counts, samples, errors, deviations = _counts(work.model, work.extent.back), [], [], []
    move: dict[str, Any] = {"transition": transition, "spacing": "leading", "on_step": work.tick}
    for count in counts:
        parts = []
        for part in map(list, work.parts(len(x0))):
            diffusion = work.diffusion(None if labels is None else labels[part])
            z = encode(diffusion, x0[part].to(work.device), count, **move)
            parts.append(decode(diffusion, z, count, **move).cpu())
        back = torch.cat(parts)
        error = work.squared_error(back, x0)
        samples.append(work.shown(back[:ORIGINALS]))
        errors.append(error.mean().item())
        deviations.append(error.std().item() / math.sqrt(len(error)) if len(error) > 1 else math.nan)
    return Reconstructions(
        work.shown(x0[:ORIGINALS]),
        tuple(counts),
        np.stack(samples),
        tuple(errors),
        tuple(deviations),
        len(x0),
        name,
        method,
    )


def _level_times(work: _Work) -> Tensor:
    """The middles of equal parts of (0, 1], on trained levels where there are such: where training draws its times."""
    t = (torch.arange(work.extent.levels, dtype=torch.float64) + 0.5) / work.extent.levels
    levels = work.model.process.timesteps
    return t if levels is None else torch.unique((t * levels).ceil()) / levels


def _levels(work: _Work, data: Splits) -> Levels:
    t = _level_times(work)
    train = data.train.data
    some = train.batch(_evenly(train, 4096)).double()
    variance = (some - some.mean(0)).square().mean().item()
    parts = tuple(_denoising(work, name, split, t, variance) for name, split in _parts(data))
    return Levels(tuple(t.tolist()), tuple(work.model.process.log_snr(t).tolist()), parts)


def _denoising(work: _Work, name: str, split: Split, t: Tensor, variance: float) -> Denoising:
    """Errors on one part of the data, at these times."""
    process, clip = work.model.process, work.model.clip
    rows = _evenly(split.data, work.extent.per_level)
    x0, labels = split.data.batch(rows), None if split.labels is None else split.labels[rows]
    errors = torch.zeros(2, len(t), dtype=torch.float64)
    for level, time_ in enumerate(t):
        for part in work.parts(len(x0)):
            clean = x0[part.start : part.stop].to(work.device)
            eps = Noise(work.settings.seed, part, work.model.shape, device=work.device)(level + 1)
            chosen_labels = None if labels is None else labels[part.start : part.stop]
            x = process.add_noise(clean, time_, eps)
            with torch.no_grad():
                plain = work.diffusion(chosen_labels, clip=False)
                estimate = plain.denoise(x, time_)
            used = estimate if clip is None else _bounded(plain, estimate, clip)
            found = process.split(estimate, x, time_, "x0")[1]
            for total, wrong in ((errors[0], used - clean), (errors[1], found - eps)):
                total[level] += flat(wrong).double().square().mean(1).sum().cpu() / len(x0)
            work.tick()
    relative = errors[0] / variance if variance > 0 else torch.full_like(errors[0], math.nan)
    return Denoising(name, len(x0), tuple(relative.tolist()), tuple(errors[1].tolist()))


def _bounded(diffusion: Diffusion, estimate: Tensor, clip: Clip) -> Tensor:
    """What samplers make of an estimate of x0."""
    known = diffusion._replace(denoise=lambda x, t: estimate)
    return clipped(known, clip).denoise(estimate, torch.zeros((), dtype=torch.float64))


def _neighbours(work: _Work, x: Tensor, data: Splits) -> Neighbours:
    """The samples that are nearest to training data, as these see them: pixels where they are pictures."""
    train = data.train.data
    if work.kind == "pictures":  # or else a sample could be told from data by its fractions of pixels
        x = work.model.scaling.to_model(work.shown(x))
    distances, rows = _nearest(x, train)
    if data.held is None:
        known = _evenly(train, MOVED)
        usual = _nearest(train.batch(known), train, torch.from_numpy(known))[0]
    else:
        usual = _nearest(data.held.data.batch(_evenly(data.held.data, MOVED)), train)[0]
    typical = usual.median().item()
    ratios, relative = (distances / typical, median_ratio(distances, usual)) if typical > 0 else (None, None)
    order = distances.argsort(stable=True)[:PAIRS]
    return Neighbours(
        rows=tuple(order.tolist()),
        samples=work.shown(x[order]),
        nearest=work.shown(train.batch(rows[order])),
        distances=tuple(distances[order].tolist()),
        ratios=None if ratios is None else tuple(ratios[order].tolist()),
        relative=relative,
        n=len(x),
        among=len(train),
    )


def _nearest(x: Tensor, data: Data, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far the nearest of the data is from each of x, and which it is: `[n]` each; a part of the data at a time.

    Arguments:
        own: which of the data each of x is itself, `[n]`, for the nearest of the others; None: none of them.
    """
    best, rows = torch.full((len(x),), math.inf, dtype=torch.float64), torch.zeros(len(x), dtype=torch.int64)
    starts = _part(data)
    for start in starts:
        part = range(start, min(start + starts.step, len(data)))
        distances, places = nearest(x, data.batch(part), min(len(part), 1 if own is None else 2))
        if own is not None:
            distances = distances.masked_fill(places + start == own[:, None], math.inf)
        distance, which = distances.min(1)
        place = places.gather(1, which[:, None])[:, 0] + start
        best, rows = torch.where(distance < best, distance, best), torch.where(distance < best, place, rows)
    return best, rows


def _part(data: Data) -> range:
    """Where the parts of the data begin that are looked at one after the other: of 2^24 values each."""
    return range(0, len(data), max(64, 2**24 // math.prod(data.shape)))


# --- words ---------------------------------------------------------------------------------------------------------


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
    schedule = (model.schedule or {}).get("name") or training.get("schedule")
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
    return "a quantile of each sample" if isinstance(clip, Thresholding) else "a function"


def _listed(names: tuple[str, ...]) -> str:
    """All of a few names, or how many there are."""
    return ", ".join(names) if len(names) <= 12 else f"{len(names)}, from {names[0]} to {names[-1]}"


def _versions() -> dict[str, str]:
    from leapstep import __version__

    return {"leapstep": __version__, "torch": str(torch.__version__), "Python": platform.python_version()}
