"""What a page shows of a model beside data: reconstructions, errors by noise level, nearest neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leapstep.core.noise import Noise
from leapstep.core.process import flat
from leapstep.core.sampling import decode, encode
from leapstep.data.dataset import Data
from leapstep.evaluation.distances import median_ratio, nearest
from leapstep.evaluation.page.contents import (
    Denoising,
    Levels,
    Neighbours,
    Reconstructions,
    Split,
    Splits,
)
from leapstep.evaluation.page.work import Work, evenly, parts_of, step_counts

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
    method, transition = work.deterministic()
    x0, labels = split.data.batch(rows), None if split.labels is None else split.labels[rows]
    counts, samples, errors, deviations = step_counts(work.model, work.extent.back), [], [], []
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


def _denoising(work: Work, name: str, split: Split, t: Tensor, variance: float) -> Denoising:
    """Errors on one part of the data, at these times."""
    process = work.model.process
    rows = evenly(split.data, work.extent.per_level)
    x0, labels = split.data.batch(rows), None if split.labels is None else split.labels[rows]
    errors = torch.zeros(2, len(t), dtype=torch.float64)
    for level, time_ in enumerate(t):
        for part in work.parts(len(x0)):
            clean = x0[part.start : part.stop].to(work.device)
            eps = Noise(work.settings.seed, part, work.model.shape, device=work.device)(level + 1)
            chosen_labels = None if labels is None else labels[part.start : part.stop]
            x = process.add_noise(clean, time_, eps)
            with torch.no_grad():
                network = work.diffusion(chosen_labels).estimate(x, time_)
            noise = process.split(network.unbounded, x, time_, "x0")[1]
            for total, wrong in ((errors[0], network.x0 - clean), (errors[1], noise - eps)):
                total[level] += flat(wrong).double().square().mean(1).sum().cpu() / len(x0)
            work.tick()
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
    best, rows = torch.full((len(x),), math.inf, dtype=torch.float64), torch.zeros(len(x), dtype=torch.int64)
    starts = part_starts(data)
    for start in starts:
        part = range(start, min(start + starts.step, len(data)))
        distances, places = nearest(x, data.batch(part), min(len(part), 1 if own is None else 2))
        if own is not None:
            distances = distances.masked_fill(places + start == own[:, None], math.inf)
        distance, which = distances.min(1)
        place = places.gather(1, which[:, None])[:, 0] + start
        best, rows = torch.where(distance < best, distance, best), torch.where(distance < best, place, rows)
    return best, rows


def part_starts(data: Data) -> range:
    """Where the parts of the data begin that are looked at one after the other: of 2^24 values each."""
    return range(0, len(data), max(64, 2**24 // math.prod(data.shape)))
