"""The teacher: fine paths from noise to samples, which a solver with few calls is fitted to and judged by."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import Counted, Diffusible, Diffusion, as_diffusions
from leapstep.core.gaussian import Gaussian
from leapstep.core.noise import Noise
from leapstep.core.printing import summary
from leapstep.core.process import Process, flat
from leapstep.core.sampling import beginning, network_device, trajectory
from leapstep.core.spacing import times
from leapstep.core.transitions import Transition, as_transition, unipc

DRAW = 1
"""Which draw of a sample's start noise fits a solver: sampling takes draw 0, so no sample is ever one of these."""

SHARES = {"fit": 0.625, "choose": 0.125, "judge": 0.25}
"""What becomes of the noises: coefficients are fitted to the first, the best of several fits is chosen on the second,
and its error is told on the third, which has had no part in either."""


class Part(NamedTuple):
    """Some of the noises, and the teacher's paths from them.

    Attributes:
        rows: their indices.
        diffusion: the model, conditioned for them, with the origin that its students start from.
        eps: standard normal noise, `[b, *d]`.
        x: at every time of the teacher, `[K + 1, b, *d]`, in the end its samples; of noises that nothing is fitted to
            only these, `[1, b, *d]`.
        x0: the teacher's estimates, `[K, b, *d]`, of the first part only.
    """

    rows: range
    diffusion: Diffusion
    eps: Tensor
    x: Tensor
    x0: Tensor | None

    def start(self, t: Tensor) -> Tensor:
        """Where a student begins at time t, `[b, *d]`."""
        return beginning(self.diffusion, t, self.eps)


class Distance(NamedTuple):
    """How far samples are from the teacher's, from the same noise.

    Attributes:
        rms: the root mean square over all values.
        standard_error: of that, over samples.
    """

    rms: float
    standard_error: float


class Reference(NamedTuple):
    """The teacher's paths from some noises; see `refer`.

    Attributes:
        times: of the teacher, `[K + 1]`.
        fit, choose, judge: the noises by what they are for, see `SHARES`.
        evaluations: how many evaluations of the network it took, counted by sample.
    """

    times: Tensor
    fit: tuple[Part, ...]
    choose: tuple[Part, ...]
    judge: tuple[Part, ...]
    evaluations: int

    def __repr__(self) -> str:
        counts = {name: sum(len(part.eps) for part in getattr(self, name)) for name in SHARES}
        return summary(self, [("times", self.times), *counts.items(), ("evaluations", self.evaluations)])

    @property
    def process(self) -> Process:
        """The process of the model."""
        return self.fit[0].diffusion.process

    @property
    def samples(self) -> Tensor:
        """The teacher's samples from all noises but those that judge, `[n, *d]`, in the order of their rows."""
        return torch.cat([part.x[-1] for part in (*self.fit, *self.choose)])

    def starting(self, origin: Gaussian | Callable[[range], Gaussian]) -> Reference:
        """The same, for students that start from a Gaussian marginal, below t = 1.

        Arguments:
            origin: the law of the data, or a function from rows of noises to that of theirs.
        """

        def started(part: Part) -> Part:
            law = origin if isinstance(origin, Gaussian) else origin(part.rows)
            return part._replace(diffusion=part.diffusion._replace(origin=law))

        fit, choose, judge = (tuple(map(started, parts)) for parts in (self.fit, self.choose, self.judge))
        return self._replace(fit=fit, choose=choose, judge=judge)

    @torch.no_grad()
    def measure(self, transition: Transition | str, times: Tensor) -> Distance:
        """The distance of a method's samples from the teacher's, from the noises that judge.

        Arguments:
            times: `[n + 1]`, decreasing to 0.
        """
        squares = []
        for part in self.judge:
            for state in trajectory(part.diffusion, part.start(times[0]), times, transition):
                x = state.x
            squares.append(flat(x - part.x[-1]).cpu().double().square().mean(1))
        return _distance(torch.cat(squares))


def _distance(squares: Tensor) -> Distance:
    """Of the mean squares of samples, `[b]`."""
    rms = squares.mean().sqrt().item()
    error = squares.std().item() / math.sqrt(len(squares)) if len(squares) > 1 else math.nan
    return Distance(rms, error / (2 * rms) if rms else 0.0)  # d sqrt(m) = dm / (2 sqrt(m))


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Whoever is followed from some noises, never those of samples; part by part: parts are independent.

    Arguments:
        diffusion: as of `leapstep.sample`: a model, or a function from rows of noises to it, conditioned for them.
        shape: of one sample, `d`.
        noises: their number, 16 or more.
        steps: of the teacher, whose times those of a fitted solver are chosen from.
        transition: the teacher's method, deterministic; default `unipc(order=3)`.
        seed: of the noises.
        batch_size: how many to work on at a time.
        dtype, device: as of `leapstep.sample`.
        on_call: called with the number of samples of each call of the network, before it; by students too.
    Raises:
        ValueError: too few noises, and what `times` raises.
    """

    diffusion: Diffusion | Diffusible | Callable[[range], Diffusion]
    shape: Sequence[int]
    _: dataclasses.KW_ONLY
    noises: int = 256
    steps: int = 40
    transition: Transition | str | None = None
    seed: int = 0
    batch_size: int = 64
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None
    on_call: Callable[[int], object] | None = None

    def __post_init__(self) -> None:
        if self.noises < 16 or self.batch_size < 1:
            raise ValueError(f"noises={self.noises}, batch_size={self.batch_size}: give 16 or more, and 1 or more")
        assert len(self.path) == self.steps + 1

    @functools.cached_property
    def path(self) -> Tensor:
        """The times of its steps, `[K + 1]`."""
        return times(self._models(range(1)).process, self.steps)

    @functools.cached_property
    def _models(self) -> Callable[[range], Diffusion]:
        return as_diffusions(self.diffusion)

    def parts(self) -> list[tuple[str, range]]:
        """What each part is for, see `SHARES`, and its rows, in order."""
        parts: list[tuple[str, range]] = []
        row = 0
        for name, share in SHARES.items():
            stop = self.noises if name == "judge" else row + round(share * self.noises)
            starts = range(row, stop, self.batch_size)
            parts += [(name, range(start, min(stop, start + self.batch_size))) for start in starts]
            row = stop
        return parts

    @torch.no_grad()
    def followed(self, number: int) -> tuple[Part, int]:
        """The teacher's paths of a part, and how many evaluations of the network it took, counted by sample."""
        name, rows = self.parts()[number]
        part, counted = self._begun(rows)
        x = beginning(part.diffusion, self.path[0], part.eps)
        xs, x0s = [x], []
        for state in trajectory(part.diffusion, x, self.path, as_transition(self.transition or unipc(order=3))):
            xs = [*xs, state.x] if name == "fit" else [state.x]
            if number == 0:
                x0s.append(state.x0)
        followed = part._replace(x=torch.stack(xs), x0=torch.stack(x0s) if number == 0 else None)
        return followed, counted.calls * len(rows)

    def known(self, number: int, x: Tensor, x0: Tensor | None) -> Part:
        """A part whose paths were followed elsewhere."""
        part, _ = self._begun(self.parts()[number][1])
        return part._replace(x=x.to(part.eps.device), x0=None if x0 is None else x0.to(part.eps.device))

    def _begun(self, rows: range) -> tuple[Part, Counted]:
        """A part without paths, and what counts its calls."""
        model = self._models(rows)
        counted = Counted(model.denoise, self.on_call)
        model = model._replace(denoise=counted)
        place = network_device(model) if self.device is None else self.device
        eps = Noise(self.seed, rows, tuple(self.shape), self.dtype, place)(0, DRAW)
        return Part(rows, model, eps, eps[None], None), counted

    def reference(self, parts: Sequence[Part], evaluations: int) -> Reference:
        """All parts, in their order.

        Raises:
            FloatingPointError: the samples are not finite.
        """
        uses: dict[str, list[Part]] = {name: [] for name in SHARES}
        for (name, _), part in zip(self.parts(), parts, strict=True):
            uses[name].append(part)
        fit, choose, judge = map(tuple, uses.values())
        result = Reference(self.path, fit, choose, judge, evaluations)
        if not result.samples.isfinite().all():
            raise FloatingPointError("the teacher's samples are not finite: nothing can be fitted to them")
        return result


def refer(teacher: Teacher) -> Reference:
    """Follow a teacher from all of its noises.

    Arguments:
        teacher: whom to follow, such as `Teacher(diffusion, (3, 32, 32))`.
    Returns:
        the Reference, which `fit` learns from. It holds the paths of the noises for fitting, 4 `steps` D bytes each.
    Raises:
        FloatingPointError: the teacher's samples are not finite.
    """
    parts, evaluations = zip(*map(teacher.followed, range(len(teacher.parts()))), strict=True)
    return teacher.reference(parts, sum(evaluations))
