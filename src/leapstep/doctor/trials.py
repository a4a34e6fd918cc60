"""The error of a network under a convention.

A *convention* is complete when it says what the network is given (data in which range, noised by which process, at
which timestep) and what it gives back. Whether it is the right one is a matter of measurement: put noise on real data
accordingly, call the network, read x0 from the answer, and compare the error with that of the best linear denoiser of
the same data at the same level (`Linear`). The right convention beats it or is near it at every level; a wrong one is
far above at most of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.doctor.conventions import kinds
from leapstep.doctor.ranges import F64, Range

LEVELS = (4.0, 2.0, 0.5, -1.0, -2.5)
"""Where conventions are compared: log of the variance of alpha x0 over that of the noise."""


class Trial(NamedTuple):
    """A range and a convention, with how far they explain the network.

    Attributes:
        scores: log of the error of x0 over that of the linear denoiser, by level `[k]`; less is better.
        n: how many samples they were measured on.
    """

    range: Range
    convention: Convention
    scores: Tensor
    n: int

    @property
    def predicts(self) -> str:
        """What the network predicts."""
        return self.convention.predicts

    @property
    def score(self) -> float:
        """The mean over levels."""
        return self.scores.mean().item()

    def merged(self, other: Trial) -> Trial:
        """The same convention measured on more samples."""
        total = self.n + other.n
        return self._replace(scores=(self.scores * self.n + other.scores * other.n) / total, n=total)


Ask = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The network as the doctor calls it: x `[b, *d]`, timesteps `[b]` in float64 and the rows `[b]` of the data that x
comes from (for their conditions), to the output `[b, *d]`."""

Pair = tuple[Range, Convention]
"""What is compared in one go, for all kinds of prediction: a range, and a convention whose prediction is left open."""


def times_of(convention: Convention, variance: float, levels: Sequence[float] = LEVELS) -> Tensor:
    """The times at which the signal-to-noise ratio of data of this variance has these logarithms; those in reach."""
    return _times_of(convention.process, convention.levels, variance, tuple(levels))


@lru_cache(maxsize=4096)
def _times_of(process: Process, count: int | None, variance: float, levels: tuple[float, ...]) -> Tensor:
    """The same by what it depends on, which many conventions share."""
    target = torch.tensor(levels, dtype=F64) - math.log(variance)
    t = process.time(target).clamp(1 / (count or 1000), 0.999)
    if count is not None:
        t = (t * count).round().clamp(min=1) / count
    near = (process.log_snr(t) - target).abs() < 1
    return t[near] if near.any() else t[:1]


def compare(
    ask: Ask, pairs: Sequence[Pair], n: int, noise: Tensor, first: int = 0, levels: Sequence[float] = LEVELS
) -> list[list[Trial]]:
    """Try ranges and conventions at these levels on n samples from the `first` on, all with the same noise.

    Returns:
        for each pair one Trial for each kind of prediction.
    """
    rows = (first + torch.arange(n)) % len(noise)
    plans, inputs, timesteps = [], [], []
    for span, convention in pairs:
        t = times_of(convention, span.linear.variance, levels).repeat_interleave(n)
        process = _known(convention.process, t)
        noise_rows = rows.repeat(len(t) // n)
        index = noise_rows % len(span.values)
        x = process.add_noise(span.values[index], t, noise[noise_rows])
        plans.append((process, t, index, x))
        inputs.append(process.normalized(x, t, convention.sigma_data))
        timesteps.append(convention.timestep(t))
    output = ask(torch.cat(inputs), torch.cat(timesteps), torch.cat([index for _, _, index, _ in plans]))
    outputs = torch.split(output, [len(x) for x in inputs])
    trials = []
    for (span, convention), (process, t, index, x), output in zip(pairs, plans, outputs, strict=True):
        read_as = [dataclasses.replace(convention, predicts=kind) for kind in kinds(convention)]
        sigma_data, linear = convention.sigma_data or 1.0, span.linear.error(process.log_snr(t))
        estimates = (process.convert(output, x, t, each.predicts, "x0", sigma_data) for each in read_as)
        scores = (_errors(span, x0, index, linear).reshape(-1, n).mean(1) for x0 in estimates)
        trials.append([Trial(span, each, score, n) for each, score in zip(read_as, scores, strict=True)])
    return trials


def compare_all(
    ask: Ask, pairs: Sequence[Pair], n: int, noise: Tensor, first: int = 0, levels: Sequence[float] = LEVELS
) -> Iterator[list[Trial]]:
    """Trials of all pairs, in portions that neither fill the memory nor take long."""
    portion = max(1, min(2**22 // (5 * n * noise[0].numel()), -(-len(pairs) // 10)))
    for start in range(0, len(pairs), portion):
        yield from compare(ask, pairs[start : start + portion], n, noise, first, levels)


def _known(process: Process, t: Tensor) -> Process:
    """The process at the times `[b]` alone, with the values of its curves: every reading of an answer asks for them."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return process._replace(alpha=lambda _: alpha, sigma=lambda _: sigma)


def _errors(span: Range, x0: Tensor, rows: Tensor, linear: Tensor) -> Tensor:
    """Log of the error of x0 over that of the linear denoiser, for each sample `[b]`, bounded."""
    error = span.mean((x0 - span.values[rows]).to(F64).square(), rows)
    return (error / linear).log().nan_to_num(9.0, 9.0, -9.0).clamp(-5, 3)
