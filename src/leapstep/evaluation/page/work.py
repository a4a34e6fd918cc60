"""The model of a page with its specification, and a count of network calls."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from leapstep.data.dataset import Data
from leapstep.evaluation.page.contents import Array, Plan, Split, Splits, kind
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.models.model import Model

SHOWN = {"pictures": 64, "points": 256, "signals": 16, "numbers": 64}
"""How many samples the grid shows by default."""

TOGETHER = {"pictures": 16, "points": 256, "signals": 4, "numbers": 64}
"""How many samples the slider over step counts shows at most."""


def complete(model: Model, plan: Plan) -> Plan:
    """A plan with nothing left open.

    Raises:
        ValueError: a specification that does not fit the model, or fewer than 2 samples.
    """
    n = min(SHOWN[kind(model.shape, model.is_pictures)], plan.extent.n) if plan.n is None else plan.n
    if n < 2:
        raise SpecError("n", n, "at least 2 samples are shown")
    labels = plan.spec.labels or (tuple(range(len(model.classes))) or None)
    spec = dataclasses.replace(plan.spec, n=n, labels=labels).checked(model, adaptive_steps=20)
    return dataclasses.replace(plan, spec=spec, n=n)


class Work:
    """A model at work on a page.

    Attributes:
        model: the model.
        spec: how samples are drawn.
        certain: the same, with DDIM in place of a method that injects noise, or goes from noise to data only: for what
            must be repeatable or reversible.
        kind: what samples can be shown as.
        extent: what is shown at most.
        together: samples on the slider over numbers of steps.
        tick: to be called after each step.
    """

    def __init__(self, model: Model, plan: Plan, on_step: Callable[[], object] = lambda: None) -> None:
        self.spec, self.extent = complete(model, plan).spec, plan.extent
        self.model = model
        latents = dataclasses.replace(self.spec, start="marginal") if self.spec.start == "gaussian" else self.spec
        self.certain = latents
        if self.spec.method == "fitted":  # its steps are too few for DDIM
            plain = dataclasses.replace(latents, method="ddim", options={}, steps=None, times=None)
            self.certain = plain.checked(model)
        elif not self.spec.entry.deterministic:
            self.certain = dataclasses.replace(latents, method="ddim", options={})
        self.kind = kind(model.shape, model.is_pictures)
        self.together = min(self.spec.n, TOGETHER[self.kind], self.extent.together)
        self.device = model.device
        self.tick: Callable[[Any], object] = lambda state: on_step()

    def batches(self, n: int) -> int:
        """In how many batches so many samples go through the network."""
        return -(-n // self.spec.batch_size)

    def parts(self, n: int) -> Iterator[range]:
        """The rows of each batch."""
        size = self.spec.batch_size
        return (range(i, min(i + size, n)) for i in range(0, n, size))

    def shown(self, x: Tensor) -> Array:
        """As the data would be: pixels of pictures, or else values."""
        if self.kind == "pictures":
            return self.model.scaling.to_pixels(x.nan_to_num())  # black, where there is nothing to see
        return self.model.scaling.to_values(x)

    def counts(self, counts: tuple[int, ...], spec: SamplingSpec) -> list[int]:
        """As many steps as the model can take, without those that would not begin with noise, or were not fitted."""
        most, fitted = self.model.process.timesteps, spec.fitted_steps(self.model)
        fit = []
        for count in fitted or sorted({min(count, most or count) for count in counts}):
            with contextlib.suppress(ValueError):
                fit.append(dataclasses.replace(spec, steps=count, times=None).checked(self.model).steps or count)
        return fit


@contextlib.contextmanager
def counted(network: nn.Module) -> Iterator[list[int]]:
    """Count the calls of a network, and the samples that go through it: a list of the two numbers, which grow."""
    totals = [0, 0]

    def count(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        totals[0] += 1
        totals[1] += len(inputs[0])

    hook = network.register_forward_pre_hook(count)
    try:
        yield totals
    finally:
        hook.remove()


def parts_of(data: Splits) -> list[tuple[str, Split]]:
    """The training data and the held-out data, by name."""
    return [("train", data.train)] + ([] if data.held is None else [(data.held_name, data.held)])


def evenly(data: Data, n: int) -> Array:
    """The places of n of the data, or of all, evenly chosen."""
    n = min(n, len(data))
    return np.arange(n) * len(data) // n
