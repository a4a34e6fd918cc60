"""All metrics of samples against a reference, each with its interval."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from leapstep.evaluation.distances.arrival import Samples, pair_of, probabilities_of, with_neighbours
from leapstep.evaluation.distances.balls import neighbours_of
from leapstep.evaluation.distances.gaussian import frechet_of_moments, frechet_of_parts, moments
from leapstep.evaluation.distances.intervals import (
    Estimate,
    kept_samples,
    normal_interval,
    replicates_of,
    wilson_interval,
)
from leapstep.evaluation.distances.scores import kernel_of, scores_of
from leapstep.text import allowed

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
    chosen = chosen_metrics(metrics, probabilities is not None)
    balls = [name for name in ("precision", "recall", "density", "coverage") if name in chosen]
    a, b = with_neighbours(samples, reference, k) if balls else pair_of(samples, reference, 2, "a metric")
    kept = kept_samples(len(a), k + 1 if balls else 2, resamples, seed)
    values: dict[str, Tensor] = {}
    if "inception_score" in chosen:
        checked = probabilities_of(probabilities)
        if len(checked) != len(a):
            raise ValueError(f"probabilities of {len(checked)} samples, features of {len(a)}: pass those of the same")
        values["inception_score"] = scores_of(checked, kept)
    if "frechet" in chosen:
        warn_of_few(len(a), len(b), a.shape[1])
        of_reference = moments(b)
        whole = torch.tensor([frechet_of_moments(moments(a), of_reference)], dtype=torch.float64)
        values["frechet"] = torch.cat([whole, frechet_of_parts(a, of_reference, kept[1:])])
    if balls:
        values |= neighbours_of(a, b, k, kept)
    own: dict[str, Estimate] = {}  # what has an interval of its own
    if "precision" in chosen:
        own["precision"] = wilson_interval(round(float(values["precision"][0]) * len(a)), len(a))
    if "kernel" in chosen:
        own["kernel"], without = kernel_of(a, b)
        shifts = (~kept).double() @ (without - without.mean())  # to first order, what is left out adds up
        values["kernel"] = own["kernel"].value + shifts * (len(a) - 1) / kept.sum(1)
    found: dict[str, Estimate] = {}
    for name in chosen:
        replicates = replicates_of(values[name], kept)
        found[name] = own[name] if name in own else normal_interval(float(values[name][0]), replicates, LIMITS[name])
        found[name] = found[name]._replace(replicates=tuple(replicates.tolist()))
    return found


def chosen_metrics(metrics: Sequence[str] | None, classified: bool) -> list[str]:
    """The metrics asked for, in their order."""
    if metrics is None:
        return [name for name in METRICS if classified or name != "inception_score"]
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"metric {unknown[0]}: {allowed(unknown[0], METRICS)}")
    if "inception_score" in metrics and not classified:
        raise ValueError("inception_score needs the probabilities of a classifier: choose features that have them")
    return [name for name in METRICS if name in metrics]


def warn_of_few(n: int, m: int, dimension: int) -> None:
    """Warn of fewer samples than a Fréchet distance in so many dimensions needs."""
    if min(n, m) < 2 * dimension:
        warnings.warn(
            f"{n} and {m} samples for a Fréchet distance in {dimension} dimensions: with so few, covariances are known "
            f"badly and the distance is too large; use at least {2 * dimension}, or features of fewer dimensions",
            stacklevel=3,
        )
