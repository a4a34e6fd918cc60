"""The data ranges that the doctor tries, each with its linear denoiser, the unit of all errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


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
        flat = values.flatten(1).to(F64)
        self.mean = flat.mean(0)
        centered = flat - self.mean
        n, self.size = centered.shape
        _, singular, self.basis = torch.linalg.svd(centered, full_matrices=False)
        spread = singular**2 / n
        shrinkage = _shrinkage(centered, spread)
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


def _shrinkage(centered: Tensor, spread: Tensor) -> float:
    """The share of the multiple of the identity with which the covariance of data `[n, D]` has the least error.

    It is b^2 / d^2 of Ledoit and Wolf's lemmas 3.2 to 3.4: d^2 is how far the covariance of the samples is from that
    multiple, and b^2 how far it is from the true one, as far as the samples tell.

    Arguments:
        spread: the eigenvalues of the covariance but for zeros, `[k]`.
    """
    n, size = centered.shape
    power = spread.square().sum().item()
    apart = power - spread.sum().item() ** 2 / size
    error = (centered.square().sum(1).square().mean().item() - power) / n
    return min(max(error, 0.0) / apart, 1.0) if size > 1 and apart > 0 else 0.0


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
    counted = wide[full]
    low, high = (0.0, 255.0) if pictures else _ends(counted)
    mean, std = counted.mean().item(), counted.std().item()
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
    spans: list[Range] = []
    plain = Linear((complete - mean) / std, counts)
    for name, (shift, scale) in maps.items():
        scaled = (wide - shift) / scale
        size = scaled[full].std()
        if not any((scaled - other.values)[full].abs().max() < 0.02 * size for other in spans):
            same = (complete - shift) / scale
            if isinstance(scale, float):
                linear, doubt = _rescaled(plain, same, std / scale), doubts.get(name, ends) / scale**2
            else:
                linear, doubt = Linear(same, counts), 1.5 / n
            filled = None if counts is None else same.float()
            spans.append(Range(name, shift, scale, doubt, scaled.float(), linear, counts, filled))
    return spans


def channel_moments(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel `[c, 1, ...]` (of each feature `[c]`) over the values that count."""
    axes = (0, *range(2, values.ndim))
    number = counts.sum(axes, keepdim=True).clamp(min=2)
    mean = torch.where(counts, values, 0.0).sum(axes, keepdim=True) / number
    squares = torch.where(counts, values - mean, 0.0).square().sum(axes, keepdim=True)
    return mean[0], (squares / (number - 1)).sqrt()[0]


def _completed(values: Tensor, counts: Tensor) -> Tensor:
    """The values; those that do not count and are no data, as they lie elsewhere, at the mean of the others."""
    counted, others = values[counts], values[~counts]
    if len(others) == 0:
        return values
    apart = (others.mean() - counted.mean()).abs() / counted.std()
    if apart < 0.5 and 0.5 < others.std() / counted.std() < 2:
        return values
    number = counts.sum(0)
    mean = torch.where(number > 0, torch.where(counts, values, 0.0).sum(0) / number.clamp(min=1), counted.mean())
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
