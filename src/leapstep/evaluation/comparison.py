"""A few specifications of one model side by side, against real data: time, distance, samples."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapstep.data.dataset import Data
from leapstep.evaluation.distances import frechet_distance
from leapstep.inference.engine import Array, draw, values
from leapstep.inference.spec import SamplingSpec
from leapstep.models.model import Model
from leapstep.progress import progress_bar


class Result(NamedTuple):
    """What a specification made.

    Attributes:
        values: pixels, or values as in the training data, `[n, *d]`.
        seconds: for all samples.
        distance: their Fréchet distance from the real data, in model space.
    """

    values: Array
    seconds: float
    distance: float


def measure(model: Model, spec: SamplingSpec, real: Tensor) -> Result:
    """Draw the samples of a specification, with a progress bar, and measure how far they are from real data.

    Arguments:
        real: real data in model space, `[m, *d]`.
    """
    spec, began = spec.checked(model), time.perf_counter()
    spec = dataclasses.replace(spec, dtype="float32")  # the same for all that stand side by side
    calls = (spec.steps or 1) * spec.entry.calls * -(-spec.n // spec.batch_size)
    with progress_bar(calls, f"{spec.label}, {spec.steps} steps", "call") as bar:
        x = torch.cat([x for _, x in draw(model, spec, on_step=lambda _: bar.update())])
    seconds, drawn = round(time.perf_counter() - began, 2), values(model, x)
    return Result(drawn, seconds, frechet_distance(model.scaling.to_model(drawn), real))


def of_real_data(data: Data, n: int, real: Tensor, draws: int = 20) -> tuple[float, float]:
    """The Fréchet distance that n other real data have, as many of each class: its mean and its spread over draws."""
    labels, random = np.asarray(data.labels), np.random.default_rng(0)
    distances = []
    for _ in range(draws):
        order = random.permutation(len(data))
        rank = np.empty(len(data), int)
        for label in np.unique(labels):
            rank[order[labels[order] == label]] = np.arange(np.count_nonzero(labels == label))
        distances.append(frechet_distance(data.batch(np.lexsort((labels, rank))[:n]), real))
    return float(np.mean(distances)), float(np.std(distances))
