"""The cost of a page, and how much of it fits into a given time."""

from __future__ import annotations

import dataclasses
import time

import torch

from leapstep.core.noise import Noise
from leapstep.evaluation.page.contents import Plan, Splits
from leapstep.evaluation.page.extent import EXTENTS
from leapstep.evaluation.page.measured import level_times
from leapstep.evaluation.page.work import Work, parts_of
from leapstep.inference.execution import as_specified
from leapstep.inference.spec import SamplingSpec
from leapstep.models.model import Model


def effort(model: Model, data: Splits | None = None, plan: Plan | None = None) -> int:
    """How often `gather` calls `on_step`: the steps of all samplers, batch by batch, and the measurements."""
    work = Work(model, plan or Plan())
    return sum(times * work.batches(n) for times, _, n in _runs(work, data))


def evaluations(model: Model, data: Splits | None = None, plan: Plan | None = None) -> int:
    """How many samples `gather` puts through the network, about: those of adaptive methods are not known before."""
    return sum(times * calls * n for times, calls, n in _runs(Work(model, plan or Plan()), data))


def _runs(work: Work, data: Splits | None) -> list[tuple[int, int, int]]:
    """What is drawn and measured: steps, calls in each, and samples."""

    def calls(spec: SamplingSpec) -> int:
        return max(1, spec.entry.calls)

    extent, spec, certain, steps = work.extent, work.spec, work.certain, work.spec.steps or 1
    frames = extent.edge**2 if work.kind == "pictures" else extent.line
    runs = [(steps, calls(spec), spec.n), (steps, calls(certain), frames)]
    runs.append((sum(work.counts(extent.steps, spec)), calls(spec), work.together))
    if data is not None:
        n = min(extent.data, len((data.held or data.train).data))
        back = work.counts(extent.back, dataclasses.replace(certain, spacing="leading"))
        runs.append((2 * sum(back), calls(certain), n))
        levels = len(level_times(work))
        runs += [(levels, 1, min(extent.per_level, len(split.data))) for _, split in parts_of(data)]
    return runs


@torch.no_grad()
def price(model: Model, plan: Plan | None = None) -> float:
    """Seconds that the network takes for a sample, in small batches; of a quick network the second call counts."""
    work = Work(model, plan or Plan())
    model, spec = as_specified(model, work.spec), work.spec
    for n in (1, 4):
        x = Noise(0, range(n), model.shape, spec.state_dtype, work.device)(0)
        diffusion, began = spec.diffusion(model, range(n)), time.perf_counter()
        float(diffusion.denoise(x, torch.tensor(0.5, dtype=torch.float64)).sum())  # which waits for an accelerator
        seconds = (time.perf_counter() - began) / n
        if seconds > 1:
            break
    return seconds


def fitted(model: Model, data: Splits | None, plan: Plan, seconds: float, price: float) -> tuple[Plan, float]:
    """The most that a page can show in some time, and how many seconds that takes, about; more where the least does.

    Arguments:
        seconds: that the page may take.
        price: seconds for a sample, see `price`.
    """
    for extent in EXTENTS:
        chosen = dataclasses.replace(plan, extent=extent)
        if (takes := evaluations(model, data, chosen) * price) <= seconds:
            break
    return chosen, takes
