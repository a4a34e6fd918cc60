"""Edits with a model: of data, by a specification, as a whole or in the part that a mask names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from leapstep.core.editing import edit
from leapstep.core.inverse import given
from leapstep.core.names import STARTS
from leapstep.core.operators import masked
from leapstep.core.sampling import State
from leapstep.core.spacing import times_below
from leapstep.core.transitions import Transition, inpainted
from leapstep.inference.execution import as_specified
from leapstep.inference.fields import AUTO, FITTED, KEEPERS, SpecError
from leapstep.inference.spec import SamplingSpec
from leapstep.models.model import Model


@dataclasses.dataclass(frozen=True)
class Edit:
    """What is done to data.

    Attributes:
        strength: the time to go up to, above 0.
        mask: what is made anew, from 0 to 1, `[*d]`; None: everything.
        resample: how often each step is taken; see `leapstep.inpainted`.
        by: one of `KEEPERS`; for "guidance" everything is made anew where the mask is not 0.
    """

    strength: float = 0.6
    mask: Tensor | None = None
    resample: int = 1
    by: str = KEEPERS[0]


def checked_edit(model: Model, spec: SamplingSpec, change: Edit) -> SamplingSpec:
    """A specification that is checked against a model, with the times below the strength of an edit.

    Raises:
        ValueError: what `SamplingSpec.checked`, `times_below` and `inpainted` raise; a solver that was fitted, or what
            was measured, for whole paths; a start, which an edit has in its data.
    """
    if spec.method in (AUTO, FITTED):
        raise SpecError("method", spec.method, "it is for the whole path from noise: name another, such as dpmpp_2m")
    if spec.start != STARTS[0]:
        raise SpecError("start", spec.start, "an edit starts from its data: leave it out")
    whole = dataclasses.replace(spec, first=0).checked(model)
    alone = spec.entry.calls == 0 and (change.mask is None or change.by == "guidance")  # no step for what is kept
    steps = spec.times or spec.steps or model.steps or (1 if alone else None)
    path = times_below(model.process, change.strength, steps, whole.spacing or "trailing")
    spec = dataclasses.replace(whole, times=tuple(path.tolist()), steps=None, spacing=None).checked(model)
    _kept(model, spec, change, torch.zeros(1, *model.shape))
    return spec


def edited(
    model: Model,
    spec: SamplingSpec,
    change: Edit,
    x0: Tensor,
    *,
    on_step: Callable[[State], object] | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """Edit each of some data `spec.n` times, batch by batch.

    Arguments:
        spec: as `checked_edit` returns it. Result i is of datum i // n, of the noise and the class of sample i.
        x0: data in model space, `[k, *d]`.
        on_step: called with the State after each step of each batch.
    Yields:
        the indices of the results of a batch, and the results in model space, `[b, *d]`, of `k n` in all. Where a mask
        is 0 they are exactly the data.
    """
    model = as_specified(model, spec)
    for low in range(0, len(x0) * spec.n, spec.batch_size):
        rows = range(low, min(low + spec.batch_size, len(x0) * spec.n))
        data = x0[torch.tensor(rows) // spec.n].to(model.device, spec.state_dtype)
        diffusion, transition = spec.diffusion(model, rows), _kept(model, spec, change, data)
        if change.mask is not None and change.by == "guidance":
            diffusion = given(diffusion, masked(change.mask), data)
        x = edit(
            diffusion, data, change.strength, spec.times, transition, seed=spec.seed, first=low, on_step=on_step or bool
        )
        yield rows, x if change.mask is None else torch.where(change.mask.to(x) == 0, data, x)


def _kept(model: Model, spec: SamplingSpec, change: Edit, data: Tensor) -> Transition:
    """The method of a specification, which keeps what it is to keep of the data by replacement."""
    method = spec.transition(model)
    if change.mask is None or change.by == "guidance":
        return method
    return inpainted(method, data, change.mask, change.resample)
