"""The kernel distance and the Inception score."""

import torch
from torch import Tensor

from leapstep.evaluation.distances.arrival import PAIRS, Samples, pair_of, probabilities_of
from leapstep.evaluation.distances.intervals import NORMAL, Estimate


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
    return kernel_of(*pair_of(a, b, 3, "a kernel distance with its standard error"))[0]


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
    checked = probabilities_of(probabilities)
    return float(scores_of(checked, torch.ones(1, len(checked), dtype=torch.bool))[0])


def kernel_of(a: Tensor, b: Tensor) -> tuple[Estimate, Tensor]:
    """As `kernel_distance`; and the distance without each sample of a in turn [n], but for a constant."""
    n, m = len(a), len(b)
    own_a, own_b = kernel_sums(a, a, others=True)[0], kernel_sums(b, b, others=True)[0]
    rows, columns = kernel_sums(a, b)
    within_a, within_b, between = own_a.sum(), own_b.sum(), rows.sum()
    value = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)
    without_a = (within_a - 2 * own_a) / ((n - 1) * (n - 2)) - 2 * (between - rows) / ((n - 1) * m)
    without_b = (within_b - 2 * own_b) / ((m - 1) * (m - 2)) - 2 * (between - columns) / ((m - 1) * n)
    variance = (n - 1) * without_a.var(correction=0) + (m - 1) * without_b.var(correction=0)
    error = NORMAL * float(variance) ** 0.5
    return Estimate(float(value), float(value) - error, float(value) + error), without_a


def kernel_sums(a: Tensor, b: Tensor, others: bool = False) -> tuple[Tensor, Tensor]:
    """Sums of the kernel over b for each in a, and over a for each in b; with `others` without i = j."""
    rows, columns = torch.zeros(len(a)).double(), torch.zeros(len(b)).double()
    for start in range(0, len(a), step := max(1, PAIRS // len(b))):
        block = ((a[start : start + step] @ b.T) / a.shape[1] + 1) ** 3
        if others:
            block.diagonal(start).zero_()
        rows[start : start + step] = block.sum(1)
        columns += block.sum(0)
    return rows, columns


def scores_of(probabilities: Tensor, kept: Tensor) -> Tensor:
    """Inception scores of parts of the samples."""
    parts, size = kept.double(), kept.sum(1)
    marginal = parts @ probabilities / size[:, None]
    own = parts @ torch.xlogy(probabilities, probabilities).sum(1) / size
    divergence = own - torch.xlogy(marginal, marginal).sum(1)
    return divergence.clamp(min=0).exp()
