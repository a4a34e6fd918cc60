"""Estimates with 95 % intervals: a bootstrap without replacement, and shares."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.text import with_error

NORMAL = 1.959963984540054
"""Standard errors on either side of a 95 % interval."""

LEFT_OUT = 0.2
"""The share of the samples that is left out to see how far a metric depends on which samples there are."""


class Estimate(NamedTuple):
    """A number, and where known a 95 % interval.

    Attributes:
        value: the number.
        low, high: the ends of its interval.
        replicates: the values that other samples may have given, for `difference`; empty where that is not known.
        first: of how many of the samples it is, where it is of the first ones alone.
    """

    value: float
    low: float | None = None
    high: float | None = None
    replicates: tuple[float, ...] = ()
    first: int | None = None

    def __str__(self) -> str:
        """The value and half its interval, and of which samples it is if not of all."""
        text = with_error(self.value, None if self.low is None or self.high is None else (self.high - self.low) / 2)
        return text if self.first is None else f"{text} (first {self.first:,})"


def difference(a: Estimate, b: Estimate) -> Estimate | None:
    """How much larger one value is than another, of samples that belong together one by one.

    Two methods that start from the same noise make similar samples, and share most of their luck. `measure` leaves out
    the same samples of all sets of one size by one seed, so the spread of the differences between replicates is the
    standard error of the difference. It is often far smaller than the intervals of the two, which may overlap.

    Arguments:
        a, b: of one metric, by `measure` with the same reference, number of samples, `resamples` and `seed`.

    Returns:
        The difference a - b with its 95 % interval; None where there are no replicates, or not equally many.
    """
    pair = a.replicates, b.replicates
    if len(pair[0]) != len(pair[1]) or len(pair[0]) < 2:
        return None
    value = a.value - b.value
    error = NORMAL * float(torch.tensor([x - y for x, y in zip(*pair, strict=True)], dtype=torch.float64).std())
    return Estimate(value, value - error, value + error)


def median_ratio(a: Tensor, b: Tensor, resamples: int = 500) -> Estimate:
    """The median of a over that of b, with its 95 % interval by the bootstrap of both.

    Arguments:
        a, b: independent numbers [n] and [m], those of b mostly positive.
        resamples: how often both are drawn again, with replacement.

    References:
        Efron and Tibshirani 1993, chapter 13 (percentile interval).
    """
    generator = torch.Generator().manual_seed(0)

    def medians(values: Tensor) -> Tensor:
        drawn = (torch.randint(len(values), (len(values),), generator=generator) for _ in range(resamples))
        return torch.stack([values[rows].median() for rows in drawn])

    a, b = a.sort().values, b.sort().values  # whose order says nothing, so it changes nothing
    value = float(a.median() / b.median())
    low, high = (medians(a) / medians(b)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value, min(low, value), max(high, value))


def kept_samples(n: int, least: int, resamples: int, seed: int) -> Tensor:
    """Which samples are there [1 + resamples, n]: all in the first row, then all but a random fifth."""
    if resamples < 2:
        raise ValueError(f"resamples={resamples}: must be at least 2")
    left_out = max(1, round(LEFT_OUT * n))
    if n - left_out < least:
        enough = next(i for i in range(n, 2 * n + 3) if i - max(1, round(LEFT_OUT * i)) >= least)
        raise ValueError(f"{n} samples: an interval leaves a fifth out, and {least} must stay; pass at least {enough}")
    generator = torch.Generator().manual_seed(seed)
    kept = torch.ones(1 + resamples, n, dtype=torch.bool)
    for row in kept[1:]:
        row[torch.randperm(n, generator=generator)[:left_out]] = False
    return kept


def replicates_of(values: Tensor, kept: Tensor) -> Tensor:
    """The first value with the deviations of the others, which are of fewer samples, made as small as its own."""
    n, size = kept.shape[1], int(kept[1].sum())
    return values[0] + (values[1:] - values[1:].mean()) * math.sqrt(size / (n - size))


def normal_interval(value: float, replicates: Tensor, limits: tuple[float, float]) -> Estimate:
    """A value with the normal interval of its replicates, cut to what it can be."""
    error = NORMAL * float(replicates.std())
    return Estimate(value, max(limits[0], value - error), min(limits[1], value + error))


def student(freedom: int) -> float:
    """Standard errors on either side of a 95 % interval by Student's law: of 2 degrees of freedom to 1 %, of 9 to 1e-4.

    References:
        Abramowitz and Stegun 1964, eq. 26.7.5.
    """
    x, f = NORMAL, 4 * freedom
    terms = (
        (x**3 + x) / f,
        (5 * x**5 + 16 * x**3 + 3 * x) / (6 * f**2),
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (6 * f**3),
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / (360 * f**4),
    )
    return x + sum(terms)


def wilson_interval(count: int, n: int) -> Estimate:
    """A share of n independent samples, with Wilson's interval."""
    share, z2 = count / n, NORMAL**2 / n
    centre = (share + z2 / 2) / (1 + z2)
    error = (share * (1 - share) * z2 + z2**2 / 4) ** 0.5 / (1 + z2)
    return Estimate(share, min(share, max(0.0, centre - error)), max(share, min(1.0, centre + error)))
