"""The error of a network under a convention.

A *convention* is complete when it says what the network is given (data in which range, noised by which process, at
which timestep) and what it gives back. Whether it is the right one is a matter of measurement: put noise on real data
accordingly, call the network, read x0 from the answer, and compare the error with that of the best linear denoiser of
the same data at the same level (`Linear`). The right convention beats it or is near it at every level; a wrong one is
far above at most of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.doctor.conventions import Route
from leapstep.doctor.ranges import F64, Range

LEVELS = (4.0, 2.0, 0.5, -1.0, -2.5)
"""Where conventions are compared: log of the variance of alpha x0 over that of the noise."""


class Trial(NamedTuple):
    """A range, a route and a kind of prediction, with how far they explain the network.

    Attributes:
        scores: log of the error of x0 over that of the linear denoiser, by level `[k]`; less is better.
        n: how many samples they were measured on.
    """

    range: Range
    route: Route
    predicts: str
    scores: Tensor
    n: int

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


def times_of(route: Route, variance: float, levels: Sequence[float] = LEVELS) -> Tensor:
    """The times at which the signal-to-noise ratio of data of this variance has these logarithms; those in reach."""
    wanted = torch.tensor(levels, dtype=F64) - math.log(variance)
    first = 1 / (route.timesteps or 1000)
    t = route.process.time(wanted).clamp(first, 0.999)
    if route.timesteps is not None and route.warp is None:
        t = (t * route.timesteps).round().clamp(min=1) / route.timesteps
    near = (route.process.log_snr(t) - wanted).abs() < 1
    return t[near] if near.any() else t[:1]


def compare(
    ask: Ask,
    pairs: Sequence[tuple[Range, Route]],
    n: int,
    noise: Tensor,
    first: int = 0,
    levels: Sequence[float] = LEVELS,
) -> list[list[Trial]]:
    """Try ranges and routes, each at these levels on n samples from the `first` on, all with the same noise.

    Returns:
        for each pair one Trial for each kind of prediction.
    """
    rows = (first + torch.arange(n)) % len(noise)
    plans = []
    for span, route in pairs:
        t = times_of(route, span.linear.variance, levels).repeat_interleave(n)
        which = rows.repeat(len(t) // n)
        index = which % len(span.values)
        plans.append((t, index, route.process.add_noise(span.values[index], t, noise[which])))
    seen = [route.seen(x, t) for (_, route), (t, _, x) in zip(pairs, plans, strict=True)]
    told = [route.timestep(t) for (_, route), (t, _, _) in zip(pairs, plans, strict=True)]
    output = ask(torch.cat(seen), torch.cat(told), torch.cat([index for _, index, _ in plans]))
    outputs = torch.split(output, [len(x) for x in seen])
    return [
        [
            Trial(span, route, kind, errors(span, route, kind, t, index, x, output).reshape(-1, n).mean(1), n)
            for kind in route.kinds()
        ]
        for (span, route), (t, index, x), output in zip(pairs, plans, outputs, strict=True)
    ]


def compare_all(
    ask: Ask,
    pairs: list[tuple[Range, Route]],
    n: int,
    noise: Tensor,
    first: int = 0,
    levels: Sequence[float] = LEVELS,
) -> Iterator[list[Trial]]:
    """Trials of all pairs, in portions that neither fill the memory nor take long."""
    portion = max(1, min(2**22 // (5 * n * noise[0].numel()), -(-len(pairs) // 10)))
    for start in range(0, len(pairs), portion):
        yield from compare(ask, pairs[start : start + portion], n, noise, first, levels)


def errors(span: Range, route: Route, kind: str, t: Tensor, rows: Tensor, x: Tensor, output: Tensor) -> Tensor:
    """Log of the error of x0 over that of the linear denoiser, for each sample `[b]`, bounded."""
    estimate, _ = route.process.split(output, x, t, kind, route.sigma_data or 1.0)
    error = span.mean((estimate - span.values[rows]).to(F64).square(), rows)
    return (error / span.linear.error(route.process.log_snr(t))).log().nan_to_num(9.0, 9.0, -9.0).clamp(-5, 3)
