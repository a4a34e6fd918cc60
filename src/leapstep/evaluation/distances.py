"""Distances between two sets of samples, which may be of any kind: nothing here knows of diffusion.

Everything is computed in float64. Sets of 10,000 samples with 2048 features are no trouble: what would take a matrix of
all pairs goes block by block.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.text import allowed

Samples = Tensor | npt.NDArray[Any]

METRICS = ("frechet", "kernel", "precision", "recall", "density", "coverage", "inception_score")
"""What `measure` knows."""

LIMITS = {
    "frechet": (0.0, math.inf),
    "recall": (0.0, 1.0),
    "density": (0.0, math.inf),
    "coverage": (0.0, 1.0),
    "inception_score": (1.0, math.inf),
}
"""Values that a metric can take, to which its interval is cut."""

NORMAL = 1.959963984540054
"""Standard errors on either side of a 95 % interval."""

PAIRS = 2**22
"""Entries of a block: 32 MiB in float64."""

LARGEST = 1e25
"""The largest feature: the variance of a kernel distance is of the twelfth power of features."""

ACCURACY = 1e-9
"""Relative error of squared distances that are compared; what is nearer than that to a tie is one."""

LEFT_OUT = 0.2
"""The share of the samples that is left out to see how far a metric depends on which samples there are."""


class Estimate(NamedTuple):
    """A number, and where known a 95 % interval.

    Attributes:
        value: the number.
        low, high: the ends of its interval.
        replicates: the values that other samples may have given, for `difference`; empty where that is not known.
    """

    value: float
    low: float | None = None
    high: float | None = None
    replicates: tuple[float, ...] = ()


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


def frechet_distance(a: Samples, b: Samples) -> float:
    """Fréchet distance between the Gaussians that have the means and covariances of two sets of samples.

        d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)

    This is the squared Wasserstein-2 distance of these Gaussians; on features of the Inception network it is the FID.
    No square root is taken: with C_a = F_a F_a' and C_b = F_b F_b' for any factors, the last trace is the sum of the
    singular values of F_a' F_b, so singular covariances (constant pixels, fewer samples than dimensions) cost no
    precision. The factors come from a QR decomposition of the centred samples. Few samples make the distance too
    large, about in proportion to 1/n: compare only distances of equally many (`measure` warns of too few).

    Arguments:
        a, b: samples [n, *d] and [m, *d], each flattened to a vector of features; computed in float64.

    Returns:
        The squared distance, in squared units of the features, at least 0.

    Raises:
        ValueError: fewer than 2 samples, sets of different dimension, or values that are not finite.

    References:
        Dowson and Landau 1982 (the distance); Heusel et al. 2017, arXiv:1706.08500, eq. 6 (FID).
    """
    a, b = _both(a, b, 2, "a covariance")
    return _frechet(_moments(a), _moments(b))


def kernel_distance(a: Samples, b: Samples) -> Estimate:
    """Kernel distance (KID): the squared maximum mean discrepancy with the kernel k(x, y) = (x.y / d + 1)^3.

        MMD^2 = mean k(a_i, a_j) + mean k(b_i, b_j) - 2 mean k(a_i, b_j),   i != j

    over all samples at once, not over random subsets of them. It is unbiased, so it is below 0 about as often as above
    where both sets come from one distribution, and does not depend on the number of samples. The interval is the
    normal one with the jackknife's standard error: each sample of either set is left out in turn, which takes but the
    sums of the kernel's rows. It covers the distance between the distributions that both sets were drawn from. The
    jackknife errs on the safe side: where the distributions are equal it is too large by a factor of 2^1/2.

    Arguments:
        a, b: samples [n, *d] and [m, *d], each flattened to a vector of d features.

    Returns:
        The distance, in the sixth power of the features' units once those are large, with its 95 % interval.

    Raises:
        ValueError: fewer than 3 samples, sets of different dimension, or values that are not finite.

    References:
        Bińkowski et al. 2018, arXiv:1801.01401 (KID); Gretton et al. 2012, JMLR 13, lemma 6 (unbiased estimate);
        Efron and Stein 1981 (the jackknife's variance is never too small in the mean).
    """
    return _kernel(*_both(a, b, 3, "a kernel distance with its standard error"))[0]


def neighbours(samples: Samples, reference: Samples, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage: how far samples and reference lie within reach of each other.

    Around each point of a set is a ball that reaches to its k-th nearest neighbour in that set, itself not counted.

        precision  share of the samples that lie in the ball of any reference point: quality
        recall     share of the reference points that lie in the ball of any sample: diversity
        density    mean number of balls of reference points that a sample lies in, over k; may exceed 1
        coverage   share of the reference points whose balls hold any sample

    The border belongs to the ball, so a copy of a reference point counts as inside also where duplicates have shrunk
    the ball to a point; distances that differ by less than 1e-9 of themselves are equal. Of two sets from
    one distribution, density is 1 in the mean, coverage 1 - 2^-k where they are large and of equal size.

    Arguments:
        samples, reference: [n, *d] and [m, *d], each flattened to a vector of features.
        k: which neighbour the balls reach to.

    Returns:
        The four, by name.

    Raises:
        ValueError: k below 1, fewer than k + 1 samples in a set, sets of different dimension, values not finite.

    References:
        Kynkäänniemi et al. 2019, arXiv:1904.06991, eqs. 1 and 2 (precision, recall); Naeem et al. 2020,
        arXiv:2002.09797 (density, coverage).
    """
    samples, reference = _with_neighbours(samples, reference, k)
    everything = torch.ones(1, len(samples), dtype=torch.bool)
    return {name: float(values[0]) for name, values in _neighbours(samples, reference, k, everything).items()}


def inception_score(probabilities: Samples) -> float:
    """Inception score: exp(mean KL(p(y | x) || p(y))), with p(y) the mean of p(y | x) over all samples.

    It is 1 where the classifier says the same of every sample, and the number of classes where it is sure of each and
    finds all classes equally often. It sees no reference, and a single picture of each class suffices for the best.

    Arguments:
        probabilities: of each class for each sample [n, classes], in rows that sum to 1.

    Returns:
        The score, from 1 to the number of classes.

    Raises:
        ValueError: what are not probabilities.

    References:
        Salimans et al. 2016, arXiv:1606.03498, sec. 4; not averaged over ten parts of the samples, as is usual there.
    """
    checked = _probabilities(probabilities)
    return float(_scores(checked, torch.ones(1, len(checked), dtype=torch.bool))[0])


def nearest(a: Samples, b: Samples, count: int = 1) -> tuple[Tensor, Tensor]:
    """Find the nearest in b of each in a, by the Euclidean distance.

    Candidates are found by |a|^2 + |b|^2 - 2 a.b about the mean of b, with a bound on what that loses; their distances
    are then taken from the differences a - b, so that near duplicates far from the origin are told apart as well.

    Arguments:
        a, b: samples [n, *d] and [m, *d], each flattened to a vector of features.
        count: how many of the nearest.

    Returns:
        Distances [n, count], float64, ascending; and which of b they are, int64 [n, count], of equals the first.

    Raises:
        ValueError: a count that b does not have, sets of different dimension, an empty set, or values not finite.
    """
    a, b = _both(a, b, 1, "a distance")
    if not 1 <= count <= len(b):
        raise ValueError(f"count={count}: there are {len(b)} to be near to, pass 1 to {len(b)}")
    return _nearest(a, b, count)


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
    share = _wilson(int((ratio <= threshold).sum()), len(ratio))
    expected = _fresh_share(int(near.sum()), len(own), len(ratio))
    return Memorisation(ratio, index[:, 0], share, expected, threshold, typical, median_ratio(distances[:, 0], own))


def from_others(train: Samples, most: int = 1000) -> Tensor:
    """How far samples of a set are from their nearest neighbours in it: up to `most` of them, evenly chosen [n].

    Raises:
        ValueError: fewer than 2 samples, or values that are not finite.
    """
    features = _features(train, 2, "a distance to another one")
    rows = torch.arange(min(most, len(features))) * len(features) // min(most, len(features))
    distances, places = _nearest(features[rows], features, 2)
    return torch.where(places[:, 0] == rows, distances[:, 1], distances[:, 0])


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


def measure(
    samples: Samples,
    reference: Samples,
    *,
    probabilities: Samples | None = None,
    k: int = 5,
    resamples: int = 100,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Measure samples against a reference by several metrics, each with a 95 % interval.

    An interval says how far the value depends on which samples were drawn: other samples, as many, against the same
    reference. It does not say what infinitely many would give: few samples bias the Fréchet distance upwards and move
    the neighbours' metrics, so compare results of equally many. (The kernel distance has no such bias, and its
    interval includes what depends on the choice of the reference.)

    The intervals are normal ones about the value of all samples. Their standard errors come from a bootstrap without
    replacement: the metric without a random fifth of the samples, again and again, its spread times 4^1/2. Drawing with
    replacement would not do, since every duplicate is its own nearest neighbour and lowers the rank of a covariance:
    with 200 samples in 20 dimensions it missed the standard error of recall by 30 % both ways, that of the Fréchet
    distance by 70 %. Where this bootstrap errs, it makes intervals too long: by up to a half where the distributions
    are equal. Precision is a plain share of independent samples, and has Wilson's interval, which does not shrink to
    nothing at 1; those of recall and coverage do, and are too short there.

    Arguments:
        samples, reference: features [n, *d] and [m, *d], each flattened to a vector.
        probabilities: of each class for each sample [n, classes], for the Inception score.
        k: which neighbour the balls of precision, recall, density and coverage reach to.
        resamples: how many times a part of the samples is left out; the relative error of the intervals is about
            (2 resamples)^-1/2.
        seed: of what is left out.
        metrics: names from `METRICS`; None is all, the Inception score only with probabilities.

    Returns:
        The estimates by name, in the order of `METRICS`.

    Raises:
        ValueError: unknown metrics, the Inception score without probabilities, too few samples, sets of different
            dimension, or values that are not finite.

    Warns:
        UserWarning: fewer samples than twice the dimension, for the Fréchet distance.

    References:
        Bickel, Götze and van Zwet 1997 (fewer draws than samples, without replacement); Shao and Wu 1989 (as a
        jackknife: the factor); and those of each metric.
    """
    chosen = _chosen(metrics, probabilities is not None)
    balls = [name for name in ("precision", "recall", "density", "coverage") if name in chosen]
    a, b = _with_neighbours(samples, reference, k) if balls else _both(samples, reference, 2, "a metric")
    kept = _kept(len(a), k + 1 if balls else 2, resamples, seed)
    values: dict[str, Tensor] = {}
    if "inception_score" in chosen:
        checked = _probabilities(probabilities)
        if len(checked) != len(a):
            raise ValueError(f"probabilities of {len(checked)} samples, features of {len(a)}: pass those of the same")
        values["inception_score"] = _scores(checked, kept)
    if "frechet" in chosen:
        _warn_of_few(len(a), len(b), a.shape[1])
        moments = _moments(b)
        whole = torch.tensor([_frechet(_moments(a), moments)], dtype=torch.float64)
        values["frechet"] = torch.cat([whole, _frechet_of_parts(a, moments, kept[1:])])
    if balls:
        values |= _neighbours(a, b, k, kept)
    own: dict[str, Estimate] = {}  # what has an interval of its own
    if "precision" in chosen:
        own["precision"] = _wilson(round(float(values["precision"][0]) * len(a)), len(a))
    if "kernel" in chosen:
        own["kernel"], without = _kernel(a, b)
        shifts = (~kept).double() @ (without - without.mean())  # to first order, what is left out adds up
        values["kernel"] = own["kernel"].value + shifts * (len(a) - 1) / kept.sum(1)
    found: dict[str, Estimate] = {}
    for name in chosen:
        replicates = _replicates(values[name], kept)
        found[name] = own[name] if name in own else _interval(float(values[name][0]), replicates, LIMITS[name])
        found[name] = found[name]._replace(replicates=tuple(replicates.tolist()))
    return found


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


# what arrived


def _features(samples: Samples, least: int, what: str) -> Tensor:
    """Samples as vectors [n, k] in float64. Raises ValueError where they are fewer than `what` needs, or not finite."""
    if isinstance(samples, Tensor):
        features = samples.detach().to("cpu", torch.float64)
    else:
        features = torch.from_numpy(np.array(samples, np.float64))  # a copy: arrays may be read-only
    if features.ndim == 0 or len(features) < least:
        few = f"{least} sample{'s' if least > 1 else ''}"
        raise ValueError(f"samples of shape {list(features.shape)}: {what} needs at least {few}")
    features = features.flatten(1) if features.ndim > 1 else features[:, None]
    if features.shape[1] == 0:
        raise ValueError(f"samples of shape {list(samples.shape)} have no features: pass at least one")
    if not features.isfinite().all():
        raise ValueError(f"samples of shape {list(samples.shape)} hold NaN or infinite values: remove them first")
    if (largest := features.abs().max().item()) > LARGEST:
        raise ValueError(f"samples reach {largest:.3g}, whose distances are beyond float64: divide them by their scale")
    return features


def _both(a: Samples, b: Samples, least: int, what: str) -> tuple[Tensor, Tensor]:
    a, b = _features(a, least, what), _features(b, least, what)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"samples of {a.shape[1]} and {b.shape[1]} features: both sets must have the same dimension")
    return a, b


def _with_neighbours(samples: Samples, reference: Samples, k: int) -> tuple[Tensor, Tensor]:
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    a, b = _both(samples, reference, 1, "a distance")
    if (few := min(len(a), len(b))) <= k:
        raise ValueError(
            f"{few} samples: precision, recall, density and coverage with k={k} need at least {k + 1}; pass more, a "
            "smaller k, or other metrics"
        )
    return a, b


def _probabilities(given: Samples | None) -> Tensor:
    if given is None or given.ndim != 2:
        shape = None if given is None else list(given.shape)
        raise ValueError(f"probabilities of shape {shape}: pass [samples, classes]")
    probabilities = _features(given, 1, "a score")
    if (probabilities < 0).any() or ((probabilities.sum(1) - 1).abs() > 1e-3).any():
        raise ValueError("probabilities below 0, or rows that do not sum to 1: pass the softmax of the logits")
    return probabilities


def _chosen(metrics: Sequence[str] | None, classified: bool) -> list[str]:
    """The metrics asked for, in their order."""
    if metrics is None:
        return [name for name in METRICS if classified or name != "inception_score"]
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"metric {unknown[0]}: {allowed(unknown[0], METRICS)}")
    if "inception_score" in metrics and not classified:
        raise ValueError("inception_score needs the probabilities of a classifier: choose features that have them")
    return [name for name in METRICS if name in metrics]


def _warn_of_few(n: int, m: int, dimension: int) -> None:
    if min(n, m) < 2 * dimension:
        warnings.warn(
            f"{n} and {m} samples for a Fréchet distance in {dimension} dimensions: with so few, covariances are known "
            f"badly and the distance is too large; use at least {2 * dimension}, or features of fewer dimensions",
            stacklevel=3,
        )


# intervals


def _kept(n: int, least: int, resamples: int, seed: int) -> Tensor:
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


def _replicates(values: Tensor, kept: Tensor) -> Tensor:
    """The first value with the deviations of the others, which are of fewer samples, made as small as its own."""
    n, size = kept.shape[1], int(kept[1].sum())
    return values[0] + (values[1:] - values[1:].mean()) * math.sqrt(size / (n - size))


def _interval(value: float, replicates: Tensor, limits: tuple[float, float]) -> Estimate:
    error = NORMAL * float(replicates.std())
    return Estimate(value, max(limits[0], value - error), min(limits[1], value + error))


def _wilson(count: int, n: int) -> Estimate:
    """A share of n independent samples, with Wilson's interval."""
    share, z2 = count / n, NORMAL**2 / n
    centre = (share + z2 / 2) / (1 + z2)
    error = (share * (1 - share) * z2 + z2**2 / 4) ** 0.5 / (1 + z2)
    return Estimate(share, min(share, max(0.0, centre - error)), max(share, min(1.0, centre + error)))


def _fresh_share(rank: int, m: int, n: int) -> Estimate:
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


# the Fréchet distance


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean m [k], and a factor R [min(n, k), k] of the unbiased covariance C = R' R [k, k]."""
    mean = features.mean(0)
    factor = torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R
    return mean, factor


def _frechet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    (mean_a, factor_a), (mean_b, factor_b) = a, b
    overlap = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + factor_a.square().sum() + factor_b.square().sum() - 2 * overlap
    return max(0.0, float(distance))


def _frechet_of_parts(features: Tensor, reference: tuple[Tensor, Tensor], kept: Tensor) -> Tensor:
    """Fréchet distances of parts of the samples.

    The samples are projected on the reference's factor once. Their products are summed over all samples once too: a
    part's are what remains without those left out. The roots of eigenvalues are less precise than singular values, but
    far more so than a standard error has to be.
    """
    mean, factor = reference
    centre = features.mean(0)
    x = features - centre
    size, parts = kept.sum(1), kept.double()
    means = parts @ x / size[:, None]
    traces = (parts @ x.square().sum(1) - size * means.square().sum(1)) / (size - 1)
    projected = x @ factor.T
    few = len(projected) <= projected.shape[1]
    products = projected @ projected.T if few else projected.T @ projected
    overlaps = []
    for part, mean_of_part in zip(kept, means @ factor.T, strict=True):
        if few:
            own = products[part][:, part]
            own = own - own.mean(0) - own.mean(1, keepdim=True) + own.mean()
        else:
            left_out = projected[~part]
            own = products - left_out.T @ left_out - part.sum() * mean_of_part.outer(mean_of_part)
        overlaps.append((torch.linalg.eigvalsh(own).clamp(min=0) / (part.sum() - 1)).sqrt().sum())
    shifts = (centre - mean + means).square().sum(1)
    return (shifts + traces + factor.square().sum() - 2 * torch.stack(overlaps)).clamp(min=0)


# the kernel distance, the Inception score


def _kernel(a: Tensor, b: Tensor) -> tuple[Estimate, Tensor]:
    """As `kernel_distance`; and the distance without each sample of a in turn [n], but for a constant."""
    n, m = len(a), len(b)
    own_a, own_b = _kernel_sums(a, a, others=True)[0], _kernel_sums(b, b, others=True)[0]
    rows, columns = _kernel_sums(a, b)
    within_a, within_b, between = own_a.sum(), own_b.sum(), rows.sum()
    value = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)
    without_a = (within_a - 2 * own_a) / ((n - 1) * (n - 2)) - 2 * (between - rows) / ((n - 1) * m)
    without_b = (within_b - 2 * own_b) / ((m - 1) * (m - 2)) - 2 * (between - columns) / ((m - 1) * n)
    variance = (n - 1) * without_a.var(correction=0) + (m - 1) * without_b.var(correction=0)
    error = NORMAL * float(variance) ** 0.5
    return Estimate(float(value), float(value) - error, float(value) + error), without_a


def _kernel_sums(a: Tensor, b: Tensor, others: bool = False) -> tuple[Tensor, Tensor]:
    """Sums of the kernel over b for each in a, and over a for each in b; with `others` without i = j."""
    rows, columns = torch.zeros(len(a)).double(), torch.zeros(len(b)).double()
    for start in range(0, len(a), step := max(1, PAIRS // len(b))):
        block = ((a[start : start + step] @ b.T) / a.shape[1] + 1) ** 3
        if others:
            block.diagonal(start).zero_()
        rows[start : start + step] = block.sum(1)
        columns += block.sum(0)
    return rows, columns


def _scores(probabilities: Tensor, kept: Tensor) -> Tensor:
    """Inception scores of parts of the samples."""
    parts, size = kept.double(), kept.sum(1)
    marginal = parts @ probabilities / size[:, None]
    own = parts @ torch.xlogy(probabilities, probabilities).sum(1) / size
    divergence = own - torch.xlogy(marginal, marginal).sum(1)
    return divergence.clamp(min=0).exp()


# neighbours


def _squares(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances of all of b from blocks of a, each block [rows, m] with the index of its first row.

    About the mean of b, |a|^2 + |b|^2 - 2 a.b is off by no more than 4 (k + 8) u (|a|^2 + |b|^2), with u half of the
    machine's epsilon (Higham 2002, sec. 3.1). Where that could be more than ACCURACY, it is taken from a - b.
    """
    centre = b.mean(0)
    centred = b - centre
    norms = centred.square().sum(1)
    small = 2 * (a.shape[1] + 8) * torch.finfo(torch.float64).eps / ACCURACY
    for start in range(0, len(a), step := max(1, PAIRS // len(b))):
        block = a[start : start + step] - centre
        sums = block.square().sum(1, keepdim=True) + norms
        squares = sums - 2 * block @ centred.T
        rows, columns = (squares <= small * sums).nonzero(as_tuple=True)
        squares[rows, columns] = _exact_squares(a, b, rows + start, columns)
        yield start, squares


def _exact_squares(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Squared distances of some pairs."""
    squares = torch.empty(len(rows), dtype=torch.float64)
    for start in range(0, len(rows), step := max(1, PAIRS // a.shape[1])):
        part = slice(start, start + step)
        squares[part] = (a[rows[part]] - b[columns[part]]).square().sum(1)
    return squares


def _nearest(a: Tensor, b: Tensor, count: int, others: bool = False) -> tuple[Tensor, Tensor]:
    """As `nearest`; with `others` in a set itself, of which each sample is not its own neighbour."""
    distances, indices = [], []
    for start, squares in _squares(a, b):
        if others:
            squares.diagonal(start).fill_(torch.inf)
        limit = squares.topk(count, largest=False).values[:, -1:] * (1 + 3 * ACCURACY)
        rows, columns = (squares <= limit).nonzero(as_tuple=True)
        exact = _exact_squares(a, b, rows + start, columns)
        order = exact.argsort(stable=True)
        order = order[rows[order].argsort(stable=True)]
        found = rows.bincount(minlength=len(squares))
        first = order[(found.cumsum(0) - found)[:, None] + torch.arange(count)]
        distances.append(exact[first].sqrt())
        indices.append(columns[first])
    return torch.cat(distances), torch.cat(indices)


def _neighbours(samples: Tensor, reference: Tensor, k: int, kept: Tensor) -> dict[str, Tensor]:
    """The metrics of `neighbours` for parts of the samples, each [parts], in one pass over all distances."""
    n, m = len(samples), len(reference)
    tie = 1 + 3 * ACCURACY
    reach = _nearest(reference, reference, k, others=True)[0][:, -1:].square() * tie
    # without a fifth of the samples, the k-th neighbour that is left is among the first 2 k + 20 all but certainly
    listed, which = _nearest(samples, samples, k if len(kept) == 1 else min(n - 1, 2 * k + 20), others=True)
    listed = listed.square() * tie
    last = torch.stack([(part[which].cumsum(1) < k).sum(1).clamp(max=listed.shape[1] - 1) for part in kept])
    last = last.masked_fill(~kept, -1).short()  # samples that are left out reach nothing
    balls, covered, reached = torch.zeros(n).double(), torch.zeros(len(kept)).double(), torch.zeros(len(kept)).double()
    for start, squares in _squares(reference, samples):
        inside = squares <= reach[start : start + len(squares)]
        balls += inside.sum(0)
        covered += (kept.float() @ inside.T.float() > 0).sum(1)
        ranks = torch.searchsorted(listed, squares.T.contiguous(), out_int32=True).short()
        reached += torch.stack([(ranks <= one[:, None]).any(0).sum() for one in last])
    parts, size = kept.double(), kept.sum(1)
    return {
        "precision": parts @ (balls > 0).double() / size,
        "recall": reached / m,
        "density": parts @ balls / (size * k),
        "coverage": covered / m,
    }
