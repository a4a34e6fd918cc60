"""Samples of one specification on their way into a feature space, and how long the network took for them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapstep import files
from leapstep.core.sampling import State
from leapstep.evaluation.yardstick import Yardstick
from leapstep.files import reading
from leapstep.inference.engine import Array, draw, values
from leapstep.inference.execution import Execution
from leapstep.inference.spec import SamplingSpec
from leapstep.models.model import Model

USUAL = SamplingSpec(n=1000, batch_size=250)
"""What is drawn where nothing else is asked for."""


class Batch(NamedTuple):
    """Some samples of a specification, as they were drawn.

    Attributes:
        values: pixels [b, c, h, w], or numbers [b, *d].
        calls: of the network, for each of them.
        timing: of each step the seconds that it took, and how often it called the network for a single sample [s, 2].
    """

    values: Array
    calls: int
    timing: Tensor


def batches(
    model: Model,
    spec: SamplingSpec,
    on_calls: Callable[[int], object] = lambda calls: None,
    execution: Execution | None = None,
) -> Iterator[Batch]:
    """Draw the samples of a specification batch by batch, and time the steps.

    Arguments:
        on_calls: called after each step with the number of single samples for which it called the network.
        execution: as of `draw`.
    """
    newest, clock = 0, time.perf_counter()
    timing: list[tuple[float, int]] = []

    def note(state: State) -> None:
        nonlocal newest, clock
        if state.x.device.type != "cpu":  # so that the clock is read when the work is done
            torch.accelerator.synchronize(state.x.device)
        calls = (state.calls - (newest if state.step > 1 else 0)) * len(state.x)
        newest = state.calls
        if calls:  # the time of a step that has none is part of the next
            timing.append((time.perf_counter() - clock, calls))
            on_calls(calls)
            clock = time.perf_counter()

    for _, x in draw(model, spec, on_step=note, execution=execution):
        yield Batch(values(model, x), newest, torch.tensor(timing, dtype=torch.float64))
        timing.clear()
        clock = time.perf_counter()


def warm_up(model: Model, spec: SamplingSpec) -> None:
    """Call the network once with a batch of a specification: the first call of all is slower than the others."""
    once = dataclasses.replace(spec, method="ddim", options={}, steps=model.steps or 1, times=None, spacing="trailing")
    next(batches(model, once))


class Part(NamedTuple):
    """The samples of a specification that have been drawn so far, in feature space.

    Attributes:
        seen: [b, k].
        probabilities: [b, classes], or None.
        calls: of the network, for each sample.
        timing: as of `Batch`, of all steps so far; empty for samples that were not drawn here.
    """

    seen: Tensor
    probabilities: Tensor | None = None
    calls: int = 0
    timing: Tensor = torch.zeros(0, 2, dtype=torch.float64)

    @property
    def seconds(self) -> dict[str, float]:
        """What so many samples take, see `seconds_of`."""
        return self.seconds_of(self.work)

    @property
    def work(self) -> float:
        """How often the network was called for a single sample."""
        return float(self.timing[:, 1].sum())

    def seconds_of(self, work: float) -> dict[str, float]:
        """What samples take: `seconds`, `seconds_low`, `seconds_high`, to three digits.

        Arguments:
            work: how often the network is called for a single one of them.

        So many calls at the median pace of a call, with the method's own work in its step; and at the paces
        that the fastest and the slowest quarter of the calls had at least. What happens once, such as starting up or
        another process for a moment, moves a sum but not these.
        """
        paces = quantiles(self.timing[:, 0] / self.timing[:, 1], self.timing[:, 1], (0.5, 0.25, 0.75))
        names = ("seconds", "seconds_low", "seconds_high")
        return {name: float(f"{pace * work:.3g}") for name, pace in zip(names, paces, strict=True)}


def quantiles(values: Tensor, weights: Tensor, shares: Sequence[float]) -> list[float]:
    """For each share the least of the values [m] that, with all below it, have this share of the weights [m]."""
    order = values.argsort()
    reached = weights[order].cumsum(0)
    index = torch.searchsorted(reached, torch.tensor(shares, dtype=reached.dtype) * reached[-1])
    chosen: list[float] = values[order][index.clamp(max=len(values) - 1)].tolist()
    return chosen


def joined(parts: Sequence[Part]) -> Part:
    """Parts of the samples of a specification that follow each other, as one."""
    classified = [part.probabilities for part in parts if part.probabilities is not None]
    return Part(
        torch.cat([part.seen for part in parts]),
        torch.cat(classified) if classified else None,
        max(part.calls for part in parts),
        torch.cat([part.timing for part in parts]),
    )


def gather(yardstick: Yardstick, drawn: Iterable[Batch], part: Part | None = None) -> Iterator[Part]:
    """Bring batches into feature space one after the other; yield all that is there so far after each."""
    for pixels, calls, timing in drawn:
        newest = Part(*yardstick.seen(pixels), calls, timing)
        part = newest if part is None else joined([part, newest])
        yield part


def arrays_of(part: Part) -> dict[str, Any]:
    """A part as files hold it, by names."""
    arrays: dict[str, Any] = {"seen": part.seen.numpy(), "calls": np.array(part.calls), "timing": part.timing.numpy()}
    return arrays if part.probabilities is None else arrays | {"probabilities": part.probabilities.numpy()}


def part_in(arrays: Mapping[str, Any]) -> Part:
    """What `arrays_of` made arrays of. Raises KeyError where one is missing."""
    probabilities = torch.from_numpy(arrays["probabilities"]) if "probabilities" in arrays else None
    return Part(
        torch.from_numpy(arrays["seen"]), probabilities, int(arrays["calls"]), torch.from_numpy(arrays["timing"])
    )


def save_part(path: Path, key: str, part: Part) -> None:
    """Keep a part on the disk, under what it belongs to."""
    files.write_npz(path, {"key": np.array(key), **arrays_of(part)})


def load_part(path: Path, key: str) -> Part | None:
    """What `save_part` wrote under the same key; None where there is nothing of the kind."""
    try:
        arrays = reading.read_npz(path)
        return part_in(arrays) if str(arrays["key"]) == key else None
    except Exception:  # missing or broken, whatever numpy and zipfile raise: it is drawn anew
        return None
