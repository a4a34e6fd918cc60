"""What a page shows of a model beside data: reconstructions, errors by noise level, nearest neighbours."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from leapstep.core.noise import Noise
from leapstep.core.process import flat
from leapstep.data.dataset import Data
from leapstep.evaluation.distances import median_ratio, nearest_in_parts
from leapstep.evaluation.page.contents import (
    Denoising,
    Levels,
    Neighbours,
    Reconstructions,
    Split,
    Splits,
)
from leapstep.evaluation.page.work import Work, evenly, parts_of
from leapstep.inference.encoding import reconstruct

ORIGINALS = 8
"""How many of the samples that are encoded and decoded are shown."""

PAIRS = 8
"""How many samples are shown with their nearest training data."""

MOVED = 500
"""How many held-out samples say how far data lie from the training data."""


def reconstructions(work: Work, data: Splits) -> Reconstructions:
    """As `leapstep reconstruct` does it, by default."""
    split, name = (data.train, "train") if data.held is None else (data.held, data.held_name)
    rows = evenly(split.data, work.extent.data)
    x0, labels = split.data.batch(rows), None if split.labels is None else tuple(split.labels[rows].tolist())
    guidance = 1.0 if labels is None else work.certain.guidance
    spec = dataclasses.replace(work.certain, spacing="leading", labels=labels, guidance=guidance)
    counts, samples, errors, deviations = work.counts(work.extent.back, spec), [], [], []
    for count in counts:
        counted = dataclasses.replace(spec, steps=count)
        again = reconstruct(work.model, counted, x0, condition=spec.conditions_for(rows.tolist()), on_step=work.tick)
        samples.append(work.shown(again.x[:ORIGINALS]))
        errors.append(again.errors.mean().item())
        deviations.append(again.errors.std().item() / math.sqrt(len(x0)) if len(x0) > 1 else math.nan)
    return Reconstructions(
        work.shown(x0[:ORIGINALS]),
        tuple(counts),
        np.stack(samples),
        tuple(errors),
        tuple(deviations),
        len(x0),
        name,
        spec.method,
    )


def level_times(work: Work) -> Tensor:
    """The middles of equal parts of (0, 1], on trained levels where there are such: where training draws its times."""
    t = (torch.arange(work.extent.levels, dtype=torch.float64) + 0.5) / work.extent.levels
    levels = work.model.process.timesteps
    return t if levels is None else torch.unique((t * levels).ceil()) / levels


def noise_levels(work: Work, data: Splits) -> Levels:
    """Errors of the network by noise level, on each part of the data."""
    t = level_times(work)
    train = data.train.data
    some = train.batch(evenly(train, 4096)).double()
    variance = (some - some.mean(0)).square().mean().item()
    parts = tuple(_denoising(work, name, split, t, variance) for name, split in parts_of(data))
    return Levels(tuple(t.tolist()), tuple(work.model.process.log_snr(t).tolist()), parts)


@torch.no_grad()
def _denoising(work: Work, name: str, split: Split, t: Tensor, variance: float) -> Denoising:
    """Errors on one part of the data, at these times."""
    process = work.model.process
    rows = evenly(split.data, work.extent.per_level)
    x0, labels = split.data.batch(rows), None if split.labels is None else tuple(split.labels[rows].tolist())
    spec, condition = (
        dataclasses.replace(work.spec, labels=labels, guidance=1.0),
        work.spec.conditions_for(rows.tolist()),
    )
    errors = torch.zeros(2, len(t), dtype=torch.float64)
    for level, time in enumerate(t):
        for part in work.parts(len(x0)):
            clean = x0[part.start : part.stop].to(work.device, work.spec.state_dtype)
            eps = Noise(work.spec.seed, part, work.model.shape, work.spec.state_dtype, work.device)(level + 1)
            x = process.add_noise(clean, time, eps)
            own = {name: value[part.start : part.stop] for name, value in condition.items()}
            diffusion = spec.diffusion(work.model, part, own)
            estimate = diffusion.estimate(x, time)
            noise = process.split(estimate.unbounded, x, time, "x0")[1]
            for total, wrong in ((errors[0], estimate.x0 - clean), (errors[1], noise - eps)):
                total[level] += flat(wrong).double().square().mean(1).sum().cpu() / len(x0)
            work.tick(None)
    relative = errors[0] / variance if variance > 0 else torch.full_like(errors[0], math.nan)
    return Denoising(name, len(x0), tuple(relative.tolist()), tuple(errors[1].tolist()))


def neighbours(work: Work, x: Tensor, data: Splits) -> Neighbours:
    """The samples that are nearest to training data, as these see them: pixels where they are pictures."""
    train = data.train.data
    if work.kind == "pictures":  # or else a sample could be told from data by its fractions of pixels
        x = work.model.scaling.to_model(work.shown(x))
    distances, rows = nearest_data(x, train)
    if data.held is None:
        known = evenly(train, MOVED)
        usual = nearest_data(train.batch(known), train, torch.from_numpy(known))[0]
    else:
        usual = nearest_data(data.held.data.batch(evenly(data.held.data, MOVED)), train)[0]
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


def nearest_data(x: Tensor, data: Data, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far the nearest of the data is from each of x, and which it is: `[n]` each; a part of the data at a time.

    Arguments:
        own: which of the data each of x is itself, `[n]`, for the nearest of the others; None: none of them.
    """
    starts = part_starts(data)
    parts = (data.batch(range(start, min(start + starts.step, len(data)))) for start in starts)
    distances, rows = nearest_in_parts(x, parts, own=own)
    return distances[:, 0], rows[:, 0]


def part_starts(data: Data) -> range:
    """Where the parts of the data begin that are looked at one after the other: of 2^24 values each."""
    return range(0, len(data), max(64, 2**24 // math.prod(data.shape)))
