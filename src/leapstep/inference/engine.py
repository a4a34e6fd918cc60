"""From a model and a specification to samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.core.sampling import State, sample_in_batches
from leapstep.inference.execution import Execution, choose
from leapstep.inference.spec import SamplingSpec
from leapstep.models.model import Model

Array = npt.NDArray[Any]


def draw(
    model: Model,
    spec: SamplingSpec,
    *,
    device: torch.device | str | None = None,
    on_step: Callable[[State], object] | None = None,
    execution: Execution | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """Draw the samples of a specification batch by batch.

    Arguments:
        spec: it is checked at the call, before the first batch is drawn.
        device: where samples are made; None: where the network is. The network must be there.
        on_step: called with the State after each step of each batch.
        execution: how the network is computed; None: what `choose` says, at the call.
    Returns:
        an iterator over the indices of the samples of a batch, and the samples in model space, `[b, *d]`; see `values`.
    Raises:
        ValueError: what `SamplingSpec.checked` raises.
    Warns:
        UserWarning: a distilled model, in other steps or by another method than it was distilled for.
    """
    spec = spec.checked(model)
    spec.warn_of_distillation(model)
    execution = choose(model, spec) if execution is None else execution
    spec, model = dataclasses.replace(spec, dtype=execution.dtype), execution.of(model)
    return sample_in_batches(
        lambda rows: spec.diffusion(model, rows),
        (spec.n, *model.shape),
        spec.times_for(model),
        spec.transition(model),
        start=spec.start,
        seed=spec.seed,
        batch_size=spec.batch_size,
        first=spec.first,
        dtype=spec.state_dtype,
        device=model.device if device is None else device,
        on_step=on_step,
    )


def values(model: Model, x: Tensor) -> Array:
    """Samples `[b, *d]` as files hold them: uint8 pixels, or values in the units of the training data."""
    return model.scaling.to_pixels(x) if model.is_pictures else model.scaling.to_values(x)
