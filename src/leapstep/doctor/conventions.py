"""What a network can be like: every range, process and clock that the doctor considers, and how far each fits it.

A *convention* is complete when it says what the network is given (data in which range, noised by which process, at
which timestep) and what it gives back. Whether it is the right one is a matter of measurement: put noise on real data
accordingly, call the network, read x0 from the answer, and compare the error with that of the best linear denoiser of
the same data at the same level (`Linear`). The right convention beats it or is near it at every level; a wrong one is
far above at most of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import clock
from leapstep.core.process import Process, along
from leapstep.core.schedules import cosine, flow, karras, linear, ve
from leapstep.doctor.warp import SHIFTS, Warp

F64 = torch.float64
LEVELS = (4.0, 2.0, 0.5, -1.0, -2.5)
"""Where conventions are compared: log of the variance of alpha x0 over that of the noise."""


class Linear:
    """The best linear denoiser of a data set: what any network should beat, and the unit of all errors here.

    With the data's mean m and covariance C, D(x) = m + alpha C (alpha^2 C + sigma^2 I)^-1 (x - alpha m). The covariance
    of few samples in many dimensions is shrunk towards a multiple of the identity.

    Arguments:
        values: `[n, *d]`, in the range of the network.
        counts: where errors count, bool `[n, *d]`; None: everywhere.
    References:
        Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices.
    """

    def __init__(self, values: Tensor, counts: Tensor | None = None) -> None:
        from sklearn.covariance import ledoit_wolf_shrinkage

        flat = values.flatten(1).to(F64)
        self.mean = flat.mean(0)
        centered = flat - self.mean
        n, self.size = centered.shape
        shrinkage = ledoit_wolf_shrinkage(centered.numpy(), assume_centered=True) if self.size > 1 else 0.0
        _, singular, self.basis = torch.linalg.svd(centered, full_matrices=False)
        spread = singular**2 / n
        self.floor = shrinkage * spread.sum().item() / self.size
        self.spectrum = (1 - shrinkage) * spread + self.floor
        weights = (torch.ones_like(flat) if counts is None else counts.flatten(1)).to(F64)
        weights /= weights.sum(1, keepdim=True)
        self.shares = self.basis.square() @ weights.mean(0)
        self.rest = max(0.0, 1 - self.shares.sum().item())
        if counts is not None:  # what does not count may vary less, or not at all
            factor = (weights * centered.square()).sum(1).mean().item() / self.variance
            self.floor, self.spectrum = factor * self.floor, factor * self.spectrum

    @property
    def variance(self) -> float:
        """Of the data, in the mean over the values that count."""
        return float((self.shares @ self.spectrum).item() + self.rest * self.floor)

    def error(self, log_snr: Tensor) -> Tensor:
        """Mean squared error of x0 for each value, at these log-SNRs, `[k]`."""
        noise = (-log_snr).exp()[:, None]  # sigma^2 / alpha^2
        inside = (self.spectrum * noise / (self.spectrum + noise)) @ self.shares
        total: Tensor = inside + self.rest * (self.floor * noise / (self.floor + noise))[:, 0]
        return total

    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """D(x) for x `[b, *d]` and one alpha and sigma for each sample `[b]`."""
        alpha, variance = alpha[:, None], sigma[:, None] ** 2
        offset = x.flatten(1).to(F64) - alpha * self.mean
        along_basis = offset @ self.basis.T
        gain = alpha * self.spectrum / (alpha**2 * self.spectrum + variance)
        floor = alpha * self.floor / (alpha**2 * self.floor + variance)
        x0 = self.mean + (along_basis * (gain - floor)) @ self.basis + floor * offset
        estimate: Tensor = x0.reshape(x.shape).to(x.dtype)
        return estimate


@dataclass(frozen=True)
class Range:
    """One way in which the data on disk may have been scaled for training: z = (y - shift) / scale.

    Attributes:
        name: as people say it.
        shift, scale: numbers, or tensors that broadcast to one sample.
        doubt: the mean squared error, in the network's units, that the map itself may have: the mean of a few hundred
            samples is not that of the training set.
        values: the data so scaled, `[n, *d]`, float32.
        linear: their best linear denoiser.
        counts: where the network's answer counts, bool `[n, *d]`; None: everywhere.
        complete: the values with those at the mean of the others that do not count and are no data; None: all are.
    """

    name: str
    shift: float | Tensor
    scale: float | Tensor
    doubt: float
    values: Tensor = field(repr=False, compare=False)
    linear: Linear = field(repr=False, compare=False)
    counts: Tensor | None = field(default=None, repr=False, compare=False)
    complete: Tensor | None = field(default=None, repr=False, compare=False)

    def mean(self, values: Tensor, rows: Tensor) -> Tensor:
        """The mean of something measured on these rows `[b]`, `[b, *d]`, over the values that count, `[b]`."""
        if self.counts is None:
            return values.flatten(1).mean(1)
        weights = self.counts[rows].flatten(1).to(values)
        return (values.flatten(1) * weights).sum(1) / weights.sum(1)

    def kept(self, values: Tensor, rows: Tensor) -> Tensor:
        """The same with 0 where it does not count, `[b, *d]`."""
        return values if self.counts is None else torch.where(self.counts[rows].to(values.device), values, 0.0)


RANGES = (
    "[-1, 1]",
    "[0, 1]",
    "standardised",
    "[-0.5, 0.5]",
    "[0, 255]",
    "as it is",
    "inverted [1, -1]",
    "inverted [1, 0]",
    "standardised per feature",
    "standardised per channel",
)
"""The names of all ranges; which of them there are depends on the data."""


def ranges(values: Tensor, pictures: bool, counts: Tensor | None = None) -> list[Range]:
    """List the ranges that a network may have been trained on, the plainest first; alike ones once.

    Arguments:
        values: the data as they are on disk, `[n, *d]`.
        pictures: whether they are pixels from 0 to 255.
        counts: where the network's answer counts, bool `[n, *d]`, somewhere in every row; None: everywhere. Elsewhere
            there may be data (which the network is told) or something else (padding).
    """
    wide = values.to(F64)
    full = torch.ones_like(wide, dtype=torch.bool) if counts is None else counts
    own = wide[full]
    low, high = (0.0, 255.0) if pictures else _ends(own)
    mean, std = own.mean().item(), own.std().item()
    width = high - low
    complete = wide if counts is None else _completed(wide, counts)

    def between(a: float, b: float) -> tuple[float, float]:
        return low - a * width / (b - a), width / (b - a)

    exact = pictures or (low, high) in _USUAL
    n, samples = len(wide), complete.flatten(1)
    ends = 0.0 if exact else _gap(samples.max(1).values) ** 2 + _gap(-samples.min(1).values) ** 2
    moments = samples.mean(1).var().item() / n + (samples - mean).square().mean(1).sqrt().var().item() / n
    doubts = {"standardised": moments, "as it is": 0.0}

    maps: dict[str, tuple[Any, Any]] = {
        "[-1, 1]": between(-1, 1),
        "[0, 1]": between(0, 1),
        "standardised": (mean, std),
        "[-0.5, 0.5]": between(-0.5, 0.5),
        "[0, 255]": between(0, 255),
        "as it is": (0.0, 1.0),
        "inverted [1, -1]": between(1, -1),
        "inverted [1, 0]": between(1, 0),
    }
    if wide.shape[1] > 1:
        name = "standardised per feature" if wide.ndim == 2 else "standardised per channel"
        centre, spread = channel_moments(wide, full)
        maps[name] = (centre, spread.clamp(min=1e-6 * std))
    found: list[Range] = []
    plain = Linear((complete - mean) / std, counts)
    for name, (shift, scale) in maps.items():
        scaled = (wide - shift) / scale
        size = scaled[full].std()
        if not any((scaled - other.values)[full].abs().max() < 0.02 * size for other in found):
            same = (complete - shift) / scale
            if isinstance(scale, float):
                linear, doubt = _rescaled(plain, same, std / scale), doubts.get(name, ends) / scale**2
            else:
                linear, doubt = Linear(same, counts), 1.5 / n
            filled = None if counts is None else same.float()
            found.append(Range(name, shift, scale, doubt, scaled.float(), linear, counts, filled))
    return found


def channel_moments(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel `[c, 1, ...]` (of each feature `[c]`) over the values that count."""
    axes = (0, *range(2, values.ndim))
    number = counts.sum(axes, keepdim=True).clamp(min=2)
    mean = torch.where(counts, values, 0.0).sum(axes, keepdim=True) / number
    squares = torch.where(counts, values - mean, 0.0).square().sum(axes, keepdim=True)
    return mean[0], (squares / (number - 1)).sqrt()[0]


def _completed(values: Tensor, counts: Tensor) -> Tensor:
    """The values; those that do not count and are no data, as they lie elsewhere, at the mean of the others."""
    own, others = values[counts], values[~counts]
    if len(others) == 0:
        return values
    apart = (others.mean() - own.mean()).abs() / own.std()
    if apart < 0.5 and 0.5 < others.std() / own.std() < 2:
        return values
    number = counts.sum(0)
    mean = torch.where(number > 0, torch.where(counts, values, 0.0).sum(0) / number.clamp(min=1), own.mean())
    return torch.where(counts, values, mean)


def _rescaled(plain: Linear, scaled: Tensor, factor: float) -> Linear:
    """The linear denoiser of the same data on another scale, without another decomposition."""
    other = object.__new__(Linear)
    other.size, other.basis = plain.size, plain.basis
    other.shares, other.rest = plain.shares, plain.rest
    other.mean = scaled.flatten(1).mean(0)
    other.floor, other.spectrum = plain.floor * factor**2, plain.spectrum * factor**2
    return other


_USUAL = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 255.0))


def _gap(extremes: Tensor) -> float:
    """How far the largest stands above the next: about as far as another sample of the data would move it."""
    top = extremes.topk(min(2, len(extremes))).values
    return (top[0] - top[-1]).item()


def _ends(values: Tensor) -> tuple[float, float]:
    """The range that data on disk seem to be in: a usual one that they fill, or else their own ends."""
    low, high = values.min().item(), values.max().item()
    for a, b in _USUAL:
        if a <= low <= a + 0.02 * (b - a) and b - 0.02 * (b - a) <= high <= b:
            return a, b
    return low, high


SPREAD = (0.25, 0.35, 0.7)
"""Values of sigma_data that are tried beside those with a reason, so that one of all is within 20 % or so."""


class Route(NamedTuple):
    """A process, and the clock by which the network is told where on it x_t stands.

    Attributes:
        schedule: the name of the process.
        process: in continuous time.
        time, reverse, timesteps: as in `from_network`.
        sigma_data: as in `from_network`, None where the network sees x_t as it is.
        warp: how the time that is counted goes with that of the process, None where the two are the same.
    """

    schedule: str
    process: Process
    time: str
    reverse: bool = False
    timesteps: int | None = None
    sigma_data: float | None = None
    warp: Warp | None = None

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told at times `[b]`, float64."""
        counted = t if self.warp is None else self.warp.counted(t)
        return clock(self.process, self.time, self.timesteps, True, self.reverse)(counted).to(F64)

    def seen(self, x: Tensor, t: Tensor) -> Tensor:
        """What the network is given for x_t `[b, *d]`."""
        return x if self.sigma_data is None else x / along(self.process.size(t, self.sigma_data), x)

    def kinds(self) -> tuple[str, ...]:
        """The predictions that make sense here."""
        if self.sigma_data is not None:
            return ("F", "-F", "eps", "x0")
        common: tuple[str, ...] = ("eps", "x0", "v", "score", "-eps", "-v", "-score")
        if self.time == "log_sigma/4" and self.schedule == "cosine":
            common = ("eps", "x0", "v", "score")  # there -v is EDM's F for data of variance 1
        return (*common, "flow", "-flow") if self.schedule == "flow" else common


def sizes(span: Range, assumed: float | None = None) -> dict[float, str]:
    """The values of sigma_data that people take in this range, and what each is; what somebody believes first."""
    named = {} if assumed is None else {float(assumed): "as you assumed"}
    named |= {0.5: "as in EDM", 1.0: "as for data of variance 1"}
    named.setdefault(_rounded(span.values.std().item()), "the standard deviation of all values of your data")
    named.setdefault(_rounded(span.linear.variance**0.5), "the deviation of your data from their mean sample")
    return named


def _rounded(size: float) -> float:
    """To four digits."""
    return float(f"{size:.4g}")


def routes(span: Range, timesteps: Sequence[int], counts_only: bool, assumed: float | None = None) -> list[Route]:
    """The processes and clocks that the first comparison tries; each stands for others that are near it.

    Arguments:
        span: the range considered.
        timesteps: how many levels an index may count.
        counts_only: whether the network only takes integers.
        assumed: a value of sigma_data to try beside the usual ones.
    """
    spread: list[float] = []
    for size in (*sizes(span, assumed), *SPREAD):
        spread += [] if any(abs(math.log(size / other)) < 0.1 for other in spread) else [size]
    found = []
    forms = [("linear", linear()), ("cosine", cosine()), ("flow", flow()), ("ve", ve()), ("karras", karras())]
    forms += [("ve", ve(sigma_max=10.0)), ("ve", ve(sigma_max=2.0))]
    for name, process in forms:
        free = process._replace(timesteps=None)
        if name != "karras":
            for reverse in (False, True):
                found += [Route(name, free, "index", reverse, levels) for levels in timesteps]
                if not counts_only:
                    found.append(Route(name, free, "fraction", reverse))
            if name == "flow":
                even = [each for each in found if each.schedule == name and each.timesteps in (None, timesteps[0])]
                found += [each._replace(warp=warp) for warp in SHIFTS[:2] for each in even]
        if counts_only:
            continue
        if name == "cosine":
            found += [Route(name, free, "log_snr"), Route(name, free, "-log_snr"), Route(name, free, "log_sigma/4")]
        if name == "karras":
            found += [Route(name, free, "sigma"), Route(name, free, "log_sigma/4")]
            found += [Route(name, free, time, sigma_data=size) for time in ("log_sigma/4", "sigma") for size in spread]
    return found


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


def errors(span: Range, route: Route, kind: str, t: Tensor, rows: Tensor, x: Tensor, output: Tensor) -> Tensor:
    """Log of the error of x0 over that of the linear denoiser, for each sample `[b]`, bounded."""
    estimate, _ = route.process.split(output, x, t, kind, route.sigma_data or 1.0)
    error = span.mean((estimate - span.values[rows]).to(F64).square(), rows)
    return (error / span.linear.error(route.process.log_snr(t))).log().nan_to_num(9.0, 9.0, -9.0).clamp(-5, 3)
