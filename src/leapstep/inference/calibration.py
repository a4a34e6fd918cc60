"""Calibration of a model: its errors at each noise level, measured on data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from leapstep.core import calibration
from leapstep.core.calibration import Calibration
from leapstep.core.denoiser import Diffusion
from leapstep.core.gaussian import Moments
from leapstep.core.scaling import Scaling
from leapstep.data.dataset import Array, Data
from leapstep.files import reading
from leapstep.inference.spec import SpecError
from leapstep.models.model import Model


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Samples as files hold them, of which those that are asked for are brought to model space."""

    values: Array
    scaling: Scaling

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.scaling.to_model(self.values[rows.numpy()])


def calibrate(
    model: Model,
    data: Data,
    labels: Tensor | None = None,
    *,
    condition: Mapping[str, Tensor] | None = None,
    per_level: int = 16,
    batch_size: int = 256,
    seed: int = 0,
    on_batch: Callable[[int], object] | None = None,
) -> Calibration:
    """Measure what the optimal variance needs, as `leapstep.calibrate`, on samples drawn at random.

    Arguments:
        data: as the model sees them; see `leapstep.models.data`.
        labels: the numbers of their classes, `[n]`, or None.
        condition: what the network takes besides, by name, a row for each of the data.
        per_level: noisy samples at each trained level, or at each of 1000 times in continuous time.
        batch_size: network evaluations at a time.
        seed: of the samples and the noise.
        on_batch: called with the number of evaluations of each batch.
    Raises:
        ValueError: per_level or batch_size below 1.
        FloatingPointError: the network's output is not finite.
    """
    for name, value in (("per_level", per_level), ("batch_size", batch_size)):
        if value < 1:
            raise SpecError(name, value, "must be at least 1")
    device = model.device
    chosen = np.random.default_rng(seed).permutation(len(data))[: levels(model) * per_level]
    reading.check_memory(
        2 * len(chosen) * math.prod(data.shape) * data.values.itemsize,
        f"calibrating on {len(chosen):,} samples, fewer where per_level is less than {per_level},",
    )

    def diffusion(rows: Tensor) -> Diffusion:
        those = chosen[rows.numpy()]
        own = {name: value[those].to(device) for name, value in (condition or {}).items()}
        return model.diffusion(None if labels is None else labels[those], condition=own)

    return calibration.calibrate(
        diffusion,
        _Chosen(np.asarray(data.values[chosen]), data.scaling),
        per_time=per_level,
        batch_size=batch_size,
        seed=seed,
        device=device,
        on_batch=on_batch,
    )


def moments(model: Model, data: Data, labels: Tensor | None = None, seed: int = 0) -> tuple[Moments, int]:
    """Take the mean and the covariance of data, and for a network with classes the mean of each; no call is made.

    Arguments:
        data, labels, seed: as of `calibrate`.
    Returns:
        the Moments in model space, and of how many samples: of all, or of as many as 2^25 values hold.
    """
    n = min(len(data), max(64, 2**25 // math.prod(data.shape)))
    chosen = np.random.default_rng(seed).permutation(len(data))[:n]
    own = None if labels is None or not model.classes else labels[chosen]
    return Moments.of(data.batch(chosen), own, len(model.classes)), n


def levels(model: Model) -> int:
    """At how many times `calibrate` measures."""
    return model.process.timesteps or 1000
