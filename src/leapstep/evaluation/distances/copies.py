"""Copies: how near samples are to the training data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leapstep.evaluation.distances.arrival import Samples, parts_of
from leapstep.evaluation.distances.balls import nearest, nearest_in_parts
from leapstep.evaluation.distances.intervals import (
    Estimate,
    median_ratio,
    wilson_interval,
)


@dataclass(frozen=True)
class Memorisation:
    """How near samples are to what a model was trained on; see `memorisation`."""

    ratio: Tensor
    """[n] distance of each sample to the nearest training sample, over `typical`."""
    index: Tensor
    """[n] which training sample that is."""
    share: Estimate
    """The share of the samples with a ratio of at most `threshold`."""
    expected: Estimate
    """That share for fresh samples of the data: its mean, and the range that holds it 95 times of 100."""
    threshold: float
    """The smallest ratio that at least 1 % of the test samples do not exceed."""
    typical: float
    """Median distance of a test sample to the nearest training sample, in units of the features."""
    relative: Estimate
    """The median of the ratios, with its 95 % interval; fresh samples of the data are at 1, copies at 0."""


def memorisation(samples: Samples, train: Samples, test: Samples | None = None) -> Memorisation:
    """Compare how near samples are to the training data with how near test data are, which nobody can have copied.

    A ratio of 1 is the distance at which half of the test samples have a training sample; a copy is at 0. `threshold`
    is the smallest ratio that at least 1 % of the test samples do not exceed, and `share` is how many of the samples do
    not exceed it, with Wilson's interval. `expected` says which shares luck alone gives if samples, like the test set,
    are fresh draws from the data: that follows from ranks, whatever the distances. A share above `expected.high` is
    more than luck. Then look at the pairs: samples that vary less than data (blurred ones, or a model that misses
    modes) are also nearer to the training data, and a test set from elsewhere is farther. Test samples that occur in
    the training set make the threshold 0, at which copies alone are counted.

    Arguments:
        samples: [n, *d], each flattened to a vector of features.
        train: what the model was trained on [m, *d].
        test: data that it was not trained on, of the same distribution [l, *d]. None where all data were trained on:
            then up to 1000 training samples take their place, each with its nearest among the others. They are as far
            from them as fresh data would be, unless the data hold near duplicates.

    Returns:
        For each sample the ratio and the nearest training sample, and how many are suspiciously near.

    Raises:
        ValueError: sets of different dimension, an empty set, values that are not finite, or a test set of which at
            least half are in the training set.

    References:
        Meehan et al. 2020, arXiv:2004.05675 (test-to-train distances as the measure of copying); Wilson 1927.
    """
    distances, index = nearest(samples, train)
    own = (from_others(train) if test is None else nearest(test, train)[0][:, 0]).sort().values
    typical = float(own.median())
    if typical == 0:
        what = "training samples occur twice" if test is None else "test samples are in the training set"
        raise ValueError(f"at least half of {len(own)} {what}: pass held-out data")
    near = own <= own[math.ceil(len(own) / 100) - 1]
    threshold = float(own[near][-1]) / typical
    ratio = distances[:, 0] / typical
    share = wilson_interval(int((ratio <= threshold).sum()), len(ratio))
    expected = fresh_share(int(near.sum()), len(own), len(ratio))
    return Memorisation(ratio, index[:, 0], share, expected, threshold, typical, median_ratio(distances[:, 0], own))


def from_others(train: Samples, most: int = 1000) -> Tensor:
    """How far samples of a set are from their nearest neighbours in it: up to `most` of them, evenly chosen [n].

    Raises:
        ValueError: fewer than 2 samples, or values that are not finite.
    """
    parts = parts_of(train, 2, "a distance to another one")
    rows = torch.arange(min(most, len(train))) * len(train) // max(1, min(most, len(train)))
    return nearest_in_parts(train[rows], parts, own=rows)[0][:, 0]


def fresh_share(rank: int, m: int, n: int) -> Estimate:
    """The share of n draws that are at most the rank-th smallest of m other draws from the same distribution.

    All orders of the m + n are equally likely, so the number c of them has the probability
    binom(c + rank - 1, c) binom(n - c + m - rank, n - c) / binom(n + m, n).
    """
    c = torch.arange(n + 1, dtype=torch.float64)
    logs = _log_binomial(c + rank - 1, c) + _log_binomial(n - c + m - rank, n - c)
    cumulated = (logs - _log_binomial(torch.tensor(float(n + m)), torch.tensor(float(n)))).exp().cumsum(0)
    low, high = ((cumulated < tail).sum().item() / n for tail in (0.025, 0.975))
    return Estimate(rank / (m + 1), low, min(1.0, high))


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    n, k = n.double(), k.double()
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
