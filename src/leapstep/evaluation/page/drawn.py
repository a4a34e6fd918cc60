"""What a page shows of samples alone: the trajectory, numbers of steps, an interpolation."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import torch
from torch import Tensor

from leapstep.core.finite import NotFinite
from leapstep.core.noise import Noise
from leapstep.core.sampling import State, beginning
from leapstep.evaluation.page.contents import Between, Consistency, Way, chosen
from leapstep.evaluation.page.work import Work
from leapstep.inference.encoding import interpolate, squared_error
from leapstep.inference.engine import draw
from leapstep.inference.tracing import by_steps

TRAVELLERS = {"pictures": 8, "points": 256, "signals": 4, "numbers": 64}
"""How many samples the slider through time shows at most."""

POSITIONS = 25
"""How many times the slider through time has at most."""


def drawn_samples(work: Work) -> tuple[Tensor, Way]:
    """The samples of the grid, on the CPU, and the way of the first of them."""
    spec, count = work.spec, min(work.together, TRAVELLERS[work.kind])
    times = spec.times_for(work.model)
    first = Noise(spec.seed, range(count), work.model.shape, spec.state_dtype, work.device)(0)
    noisy: list[list[Tensor]] = [[] for _ in times]  # for each time, the batches
    clean: list[list[Tensor]] = [[] for _ in times]
    noisy[0].append(beginning(spec.diffusion(work.model, range(count)), times[0], first, spec.start))

    def note(state: State) -> None:
        if sum(map(len, noisy[state.step])) < count:
            clean[state.step - 1].append(state.x0)
            noisy[state.step].append(state.x)
        work.tick(state)

    with warnings.catch_warnings():
        warnings.simplefilter("error", NotFinite)  # there is nothing to show
        x = torch.cat([x for _, x in draw(work.model, spec, on_step=note)])
    clean[-1] = noisy[-1]
    positions, sizes = chosen(len(times), POSITIONS), work.model.process.size(times)
    shown = [
        np.stack([work.shown(torch.cat(batches[i])[:count] / scale[i].item()) for i in positions])
        for batches, scale in ((noisy, sizes), (clean, torch.ones_like(sizes)))
    ]
    return x.cpu(), Way(tuple(times[positions].tolist()), *shown)


def consistency(work: Work) -> Consistency:
    """The same start noises in different numbers of steps."""
    spec = dataclasses.replace(work.spec, n=work.together)
    counts = work.counts(work.extent.steps, spec)
    samples = [x.cpu() for x in by_steps(work.model, spec, counts, on_step=work.tick).values()]
    best = samples[-1]
    errors = [squared_error(work.model, x, best).mean().item() for x in samples]
    # the mean over all pairs of |x - y|^2 is twice the variance
    apart = 2 * len(best) / (len(best) - 1) * squared_error(work.model, best, best.mean(0)).mean().item()
    return Consistency(tuple(counts), np.stack([work.shown(x) for x in samples]), tuple(errors), apart)


def between(work: Work) -> Between:
    """Four noises and what lies among them for pictures; else two."""
    model, spec = work.model, work.certain
    labels = spec.labels if spec.labels is not None and len(spec.labels) == 1 < len(model.classes) else None
    if labels is None and model.classes and (model.null_label is None or spec.guidance != 1):
        labels = (0,)
    edge = work.extent.edge if work.kind == "pictures" else work.extent.line
    seeds = tuple((spec.seed + i) % 2**64 for i in range(4 if work.kind == "pictures" else 2))
    x = interpolate(model, dataclasses.replace(spec, labels=labels), seeds, edge, on_step=work.tick)
    frames = work.shown(x).reshape(edge if len(seeds) == 4 else 1, -1, *model.shape)
    return Between(frames, seeds, spec.method, None if labels is None else int(labels[0]))
