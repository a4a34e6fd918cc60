"""From a teacher's paths to a solver with a given number of calls."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusible, Diffusion
from leapstep.core.fitting.linear import coefficients, follow
from leapstep.core.fitting.reference import Distance, Part, Reference, Teacher, refer
from leapstep.core.fitting.refine import bends, least_squares, together
from leapstep.core.fitting.search import Choice, OwnPath, choices, descend
from leapstep.core.gaussian import Gaussian
from leapstep.core.process import flat
from leapstep.core.spacing import times
from leapstep.core.transitions import Transition, deis, dpmpp_2m, fitted, unipc
from leapstep.core.transitions.named import NamedTransition

RIDGES = (1e-6, 1e-4, 1e-2)
"""Of least squares; the best is chosen on noises of its own."""

DAMPING = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
"""Of a step of Gauss and Newton, relative to the mean square derivative."""

ROUNDS = 2
"""Steps of Gauss and Newton, at most."""

UNTUNED: tuple[tuple[Callable[[], Transition], int], ...] = (
    (lambda: unipc(order=2), 1),
    (lambda: unipc(order=3), 3),
    (dpmpp_2m, 1),
    (deis, 3),
)
"""Methods that a fitted solver must not be worse than, and from how many calls on they are worth a try."""


class Fitted(NamedTuple):
    """A solver that was fitted to a network.

    Attributes:
        calls: of the network for a sample.
        transition: `leapstep.fitted(times, coefficients)`.
        origin: the law of the data that it starts from, as `Diffusion.origin`; None: it starts from pure noise.
        distance: of its samples from the teacher's, on noises that had no part in the fit.
        evaluations: of the network by the fit, counted by sample; the teacher's not among them.
        seconds: of the fit.
    """

    calls: int
    transition: NamedTransition
    origin: Gaussian | None
    distance: Distance
    evaluations: int
    seconds: float

    @property
    def times(self) -> tuple[float, ...]:
        """Of its calls, and 0."""
        result: tuple[float, ...] = self.transition.options["times"]
        return result


class _Candidate(NamedTuple):
    error: float
    times: Tensor
    matrix: Tensor


class _Fit:
    """A fit of a number of calls: what it may spend, and what it has spent."""

    def __init__(self, reference: Reference, calls: int, effort: float, budget: float | None) -> None:
        self.reference, self.calls, self.began, self.budget = reference, calls, time.monotonic(), budget
        self.most, self.spent = effort * reference.evaluations, 0

    def goes_on(self) -> bool:
        return self.budget is None or time.monotonic() - self.began < self.budget

    def candidate(self, path: Tensor, matrix: Tensor) -> _Candidate:
        """With its error on the noises that choose: the mean of the samples' root mean squares.

        Not the root of their mean: that would let a single sample choose, which went to another mode of the data.
        """
        errors = []
        for part in self.reference.choose:
            x, _ = follow(part.diffusion, matrix, path, [part.start(path[0])])
            errors.append(flat(x - part.x[-1]).cpu().double().square().mean(1).sqrt())
            self.spent += len(x) * len(matrix)
        return _Candidate(torch.cat(errors).mean().item(), path, matrix)

    def searched(self, free: bool) -> Choice:
        """The times with the least error on the student's own path."""
        grid, part = self.reference.times, self.reference.fit[0]
        own = OwnPath(part, grid)

        def trials() -> bool:
            return own.evaluations < self.most / 4 and self.goes_on()

        first, *others = choices(part, grid, self.calls, free)
        best = min((first, *itertools.takewhile(lambda _: trials(), others)), key=own.error)
        size = max(1, (len(grid) - 1) // self.calls // 3)
        best = descend(best, len(grid) - 1, free, own.error, trials, size)
        self.spent += own.evaluations
        return best

    def fitted(self, choice: Choice) -> _Candidate:
        """Least squares at these times, with the ridge that is best."""
        grid, parts = self.reference.times, self.reference.fit
        path = torch.cat([grid[list(choice)], grid[-1:]])
        base = coefficients(self.reference.process, unipc(order=2), path)
        candidates = []
        for ridge in RIDGES:
            matrix = least_squares(parts, choice, grid, base, ridge)
            self.spent += sum(len(part.eps) for part in parts) * self.calls
            candidates.append(self.candidate(path, matrix))
        return min(candidates, key=lambda candidate: candidate.error)

    def refined(self, best: _Candidate) -> _Candidate:
        """Gauss and Newton, for as long as it helps."""
        parts = self._affordable((self.most - self.spent) / ROUNDS / bends(self.calls))
        cost = sum(len(part.eps) for part in parts) * bends(self.calls)
        for _ in range(ROUNDS):
            if not self.goes_on() or self.spent + cost > self.most:
                break
            gram, moments, directions = together(parts, best.times, best.matrix)
            self.spent += cost
            mean = gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
            changes = [torch.linalg.solve(gram + damping * mean, moments) for damping in DAMPING]
            matrices = [best.matrix + torch.tensordot(change, directions, 1) for change in changes]
            better = min((self.candidate(best.times, matrix) for matrix in matrices), key=lambda c: c.error)
            if not better.error < best.error * (1 - 1e-2):
                return min(best, better, key=lambda candidate: candidate.error)
            best = better
        return best

    def untuned(self, free: bool) -> Iterator[_Candidate]:
        """Methods as they are."""
        process = self.reference.process
        for skipped in range(1 + free):
            path = times(process, self.calls + skipped)[skipped:]
            for make, least in UNTUNED:
                if self.calls >= least:
                    yield self.candidate(path, coefficients(process, make(), path))

    def _affordable(self, noises: float) -> list[Part]:
        """The first of the noises for fitting, about as many as may be used."""
        parts = list(self.reference.fit[:1])
        for part in self.reference.fit[1:]:
            if sum(len(other.eps) for other in parts) + len(part.eps) / 2 < noises:
                parts.append(part)
        return parts


def _check(calls: int, steps: int) -> None:
    """Raise ValueError for a number of calls that cannot be fitted to a teacher with so many steps."""
    if not 1 <= calls < steps:
        raise ValueError(f"calls={calls}: at least 1, and fewer than the teacher's {steps} steps")


@torch.no_grad()
def fit(
    reference: Reference,
    calls: int,
    *,
    origin: Gaussian | Callable[[range], Gaussian] | None = None,
    effort: float = 2.0,
    budget: float | None = None,
) -> Fitted:
    """Fit a solver with a number of calls to a network: its times, and its coefficients.

    Arguments:
        reference: the teacher's paths, of `refer`.
        calls: of the network for a sample, 1 or more.
        origin: the law of the data, or a function from rows of noises to that of theirs, for a start from its marginal
            below t = 1: a first step without a call. None: from pure noise.
        effort: how many evaluations of the network the fit may spend on what is optional, the search and the steps of
            Gauss and Newton, in units of the teacher's; it takes less where nothing more helps.
        budget: seconds after which it makes do with what it has.
    Returns:
        the best solver found: never worse, on the noises that choose, than the untuned methods of `UNTUNED`.
    Raises:
        ValueError: more calls than the teacher has steps, or none.
    """
    _check(calls, len(reference.times) - 1)
    free = origin is not None
    if origin is not None:
        reference = reference.starting(origin)
    work = _Fit(reference, calls, effort, budget)
    best = work.refined(work.fitted(work.searched(free)))
    best = min(best, *work.untuned(free), key=lambda candidate: candidate.error)
    rows = [row[: i + 2] for i, row in enumerate(best.matrix.tolist())]
    transition = fitted(tuple(best.times.tolist()), tuple(tuple(row) for row in rows))
    distance = reference.measure(transition, best.times)
    law = origin if isinstance(origin, Gaussian) else None
    return Fitted(calls, transition, law, distance, work.spent, time.monotonic() - work.began)


def tune(
    diffusion: Diffusion | Diffusible | Callable[[range], Diffusion],
    shape: Sequence[int],
    calls: Sequence[int] = (2, 3, 4, 5, 6, 8, 10),
    *,
    origin: Gaussian | Callable[[range], Gaussian] | str = "samples",
    noises: int = 256,
    steps: int = 40,
    transition: Transition | str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    effort: float = 2.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    on_call: Callable[[int], object] | None = None,
) -> Iterator[Fitted]:
    """Fit solvers with few calls to a network, in seconds, without data and without gradients.

        for solver in leapstep.tune(diffusion, (3, 32, 32), calls=[3, 5]):
            model = diffusion._replace(origin=solver.origin)
            x0 = leapstep.sample(model, (16, 3, 32, 32), transition=solver.transition)

    Arguments:
        diffusion: as of `leapstep.sample`: a model, or a function from rows of noises to it, conditioned for them.
        shape: of one sample, `d`.
        calls: numbers of them, a solver for each.
        origin: the law of the data that solvers start from: a Gaussian, a function from rows of noises to that of
            theirs; "samples": that of the teacher's samples; "noise": solvers start from pure noise.
        noises, steps, transition, seed, batch_size, dtype, device, on_call: as of `Teacher`.
        effort: as of `fit`.
    Yields:
        a Fitted for each number of calls, as soon as it is ready.
    Raises:
        ValueError: what `Teacher` and `fit` raise.
    """
    if isinstance(origin, str) and origin not in ("samples", "noise"):
        raise ValueError(f"origin={origin!r}: pass samples, noise, or a leapstep.Gaussian")
    for count in calls:
        _check(count, steps)
    followed = Teacher(
        diffusion,
        shape,
        noises=noises,
        steps=steps,
        transition=transition,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        on_call=on_call,
    )
    reference = refer(followed)
    law = None if origin == "noise" else Gaussian.of(reference.samples) if origin == "samples" else origin
    assert not isinstance(law, str)
    for count in calls:
        yield fit(reference, count, origin=law, effort=effort)
