"""Contradictions between a network and the files it was loaded from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from leapstep.doctor.diagnosis import Diagnosis
from leapstep.doctor.findings import scaled
from leapstep.models.model import Model


def disagreements(model: Model, diagnosis: Diagnosis) -> list[str]:
    """What a folder says and its network contradicts, as far as that is sure; a line for each."""
    sure = {finding.name: finding.value for finding in diagnosis.findings if finding.confidence == "sure"}
    lines = []
    if "predicts" in sure and diagnosis.convention.predicts != model.predicts:
        lines.append(f"the folder says that the network predicts {model.predicts}; it predicts {sure['predicts']}")
    if "range" in sure and not _same_range(diagnosis.convention.scaling, model.scaling):
        seen = scaled(*model.scaling, "value")
        lines.append(f"the folder says that the network sees {seen}; it was trained on {sure['range']}")
    elif (gap := _widest_gap(model, diagnosis)) is not None and "schedule" in sure:
        timestep, named, read = gap
        lines.append(
            f"the folder's schedule and clock put timestep {timestep:g} at log-SNR {named:.2f}, the network at "
            f"{read:.2f}; its schedule is {sure['schedule']}"
        )
    return lines


def _same_range(one: Any, other: tuple[float, float]) -> bool:
    """Whether two scalings put values at the same point, to a fiftieth of their scale."""
    shift, scale = (np.asarray(value, dtype=np.float64) for value in ((0.0, 1.0) if one is None else one))
    return bool((abs(shift - other[0]) < 0.02 * abs(other[1])).all() and (abs(scale / other[1] - 1) < 0.02).all())


def _widest_gap(model: Model, diagnosis: Diagnosis) -> tuple[float, float, float] | None:
    """Where the folder's levels leave the intervals read from the network furthest: timestep, level, and level read.

    None where they do so at no more than a quarter of the timesteps.
    """
    count = model.process.timesteps or 1000
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    timesteps = dataclasses.replace(model.convention, fractional=True).timestep(t).numpy()
    levels = model.process.log_snr(t).numpy()
    order = np.argsort(timesteps)
    curve = diagnosis.curve
    outside, known = [], 0
    for timestep, read, low, high in zip(curve.timesteps, curve.read, curve.low, curve.high, strict=True):
        if read is None or low is None or high is None or not timesteps.min() <= timestep <= timesteps.max():
            continue
        known += 1
        level = float(np.interp(timestep, timesteps[order], levels[order]))
        if not low - 0.1 <= level <= high + 0.1:
            outside.append((max(low - level, level - high), timestep, level, read))
    return max(outside)[1:] if 4 * len(outside) > known else None
