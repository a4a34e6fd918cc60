"""What a page shows of samples alone: the trajectory, numbers of steps, an interpolation."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from leapstep.core.finite import NotFinite
from leapstep.core.interpolation import interpolation_grid, slerp
from leapstep.core.noise import Noise
from leapstep.core.sampling import State, beginning, decode, sample
from leapstep.core.spacing import times
from leapstep.evaluation.page.contents import (
    Between,
    Consistency,
    Way,
    chosen,
)
from leapstep.evaluation.page.work import Work, step_counts

TRAVELLERS = {"pictures": 8, "points": 256, "signals": 4, "numbers": 64}
"""How many samples the slider through time shows at most."""

POSITIONS = 25
"""How many times the slider through time has at most."""


def drawn_samples(work: Work) -> tuple[Tensor, Way]:
    """The samples of the grid, on the CPU, and the way of the first of them."""
    model, seed, count = work.model, work.settings.seed, min(work.together, TRAVELLERS[work.kind])
    path = times(model.process, work.steps, work.spacing)
    first = Noise(seed, range(count), model.shape, device=work.device)(0)
    noisy: list[list[Tensor]] = [[] for _ in path]  # for each time, the batches
    clean: list[list[Tensor]] = [[] for _ in path]
    noisy[0].append(beginning(work.diffusion(work.labels(range(1))), path[0], first))

    def note(state: State) -> None:
        if sum(map(len, noisy[state.step])) < count:
            clean[state.step - 1].append(state.x0)
            noisy[state.step].append(state.x)
        work.tick()

    with warnings.catch_warnings():
        warnings.simplefilter("error", NotFinite)  # there is nothing to show
        x = sample(
            lambda rows: work.diffusion(work.labels(rows)),
            (work.n, *model.shape),
            path,
            work.transition,
            seed=seed,
            batch_size=work.settings.batch_size,
            device=work.device,
            on_step=note,
        )
    clean[-1] = noisy[-1]
    places, sizes = chosen(len(path), POSITIONS), model.process.size(path)
    shown = [
        np.stack([work.shown(torch.cat(each[i])[:count] / scale[i].item()) for i in places])
        for each, scale in ((noisy, sizes), (clean, torch.ones_like(sizes)))
    ]
    return x.cpu(), Way(tuple(path[places].tolist()), *shown)


def consistency(work: Work) -> Consistency:
    """The same start noises in different numbers of steps."""
    counts, found = step_counts(work.model, work.extent.steps), []
    for count in counts:
        found.append(
            sample(
                lambda rows: work.diffusion(work.labels(rows)),
                (work.together, *work.model.shape),
                count,
                work.transition,
                spacing=work.spacing,
                seed=work.settings.seed,
                batch_size=work.settings.batch_size,
                device=work.device,
                on_step=work.tick,
            ).cpu()
        )
    errors = [work.squared_error(x, found[-1]).mean().item() for x in found]
    # the mean over all pairs of |x - y|^2 is twice the variance
    apart = 2 * len(found[-1]) / (len(found[-1]) - 1) * work.squared_error(found[-1], found[-1].mean(0)).mean().item()
    return Consistency(tuple(counts), np.stack([work.shown(x) for x in found]), tuple(errors), apart)


def between(work: Work) -> Between:
    """Four noises and what lies among them for pictures; else two."""
    model, settings = work.model, work.settings
    name, transition = work.deterministic()
    label = settings.label
    if label is None and model.classes and model.null_label is None:
        label = 0
    path = times(model.process, work.steps, work.spacing)
    seeds = tuple((settings.seed + i) % 2**64 for i in range(4 if work.kind == "pictures" else 2))
    ends = torch.cat([Noise(seed, range(1), model.shape, device=work.device)(0) for seed in seeds])
    diffusion = work.diffusion(None if label is None else torch.tensor([label]))
    ends = beginning(diffusion, path[0], ends)
    if len(ends) == 4:
        z = interpolation_grid(ends, work.extent.edge, work.extent.edge, slerp).flatten(0, 1)
    else:
        start, end = (each.expand(work.extent.line, *each.shape) for each in ends)
        z = slerp(start, end, torch.linspace(0, 1, work.extent.line, dtype=torch.float64))
    parts = [decode(diffusion, z[rows], path, transition, on_step=work.tick) for rows in map(list, work.parts(len(z)))]
    frames = work.shown(torch.cat(parts))
    rows = work.extent.edge if len(ends) == 4 else 1
    return Between(frames.reshape(rows, -1, *model.shape), seeds, name, label)
