"""Metrics of samples that nobody keeps: statistics of blocks of samples, which merge.

Samples are seen once, in blocks of consecutive ones. Of a block remain its number, the mean and the summed outer
products of its features about their mean, and sums over its samples of what the other metrics are made of (`Against`):

    frechet          mean m and products M merge by d = m_b - m_a: m = m_a + d n_b / n, M = M_a + M_b + d d' n_a n_b / n
    kernel           pairs of samples from two quarters of the same block, against the whole reference (or PART of it)
    precision, density, coverage    the numbers of balls and of samples in them, against the whole reference
    inception_score  the sums of the probabilities and of their negative entropies
    recall           does not merge: the balls of samples reach to neighbours among all of them

Blocks merge pairwise, along a binary tree over their positions (`Tree`), up to `Blocks.level`: what is merged with what
depends on their number alone, so the result does not depend, to the bit, on who computed which part of them, in which
order, and into how many shards they were cut. The error of such sums grows with the logarithm of the number of blocks.
The nodes at the level of the tree, at most `MOST` and at least half as many where there are as many blocks, are the
groups from which intervals come.

Memory: the outer products of k features are symmetric, and one half of them is kept: 4 k^2 bytes, 16 MiB for 2048.
There are one for each group, and one for each level below while the groups grow: together no more than `BYTES` and the
logarithm of the number of samples.

Time: a group is left out in O(k^2), the Fréchet distance's trace to first order: the intervals of all groups take one
singular value decomposition. A quarter of a block has the labels of samples in the proportions of the whole, where they
are drawn in these. So two of them are independent, and the kernel distance is that of a mixture, which it would not be
by pairs from one quarter: these are too seldom of the same class.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.evaluation.distances.arrival import (
    Samples,
    features_of,
    pair_of,
    probabilities_of,
    with_neighbours,
)
from leapstep.evaluation.distances.balls import reaches, within
from leapstep.evaluation.distances.gaussian import Overlap, factor_of, moments
from leapstep.evaluation.distances.intervals import (
    NORMAL,
    Estimate,
    normal_interval,
    student,
    wilson_interval,
)
from leapstep.evaluation.distances.metrics import LIMITS, METRICS, chosen_metrics, warn_of_few
from leapstep.evaluation.distances.scores import kernel_sums

MERGED = tuple(name for name in METRICS if name != "recall")
"""The metrics that merge."""

MOST, LEAST, BYTES = 64, 20, 2**29
"""How many groups there may be: as many as have products of so many bytes in all, but at most 64; 20 always."""

BLOCK = 1000
"""Samples of a block, at least: as many as are usual for a kernel distance."""

QUARTERS = 4
"""Into how many runs of samples a block is cut, for pairs that are independent."""

PART = 10_000
"""How many of the reference the kernel distance takes, evenly chosen where there are more."""

Sums = dict[str, Tensor]
"""Statistics of consecutive samples, by name."""


class Blocks(NamedTuple):
    """How many samples are cut into blocks, and these into groups.

    Attributes:
        n: number of samples.
        size: of a block; the last one may be smaller.
        level: of the groups in the tree: each is of 2^level blocks, the last one of those that are left.
    """

    n: int
    size: int
    level: int

    @classmethod
    def of(cls, n: int, features: int, batch_size: int = 1) -> Blocks:
        """The blocks of n samples with so many features, of whole batches.

        They have at least twice as many samples as features, so that their products take no more room than themselves;
        but fewer, at least 2, where there would be fewer than `LEAST` of them.

        Raises:
            ValueError: fewer than 3 blocks, too few for an interval.
        """
        size = batch_size * math.ceil(max(2, min(max(BLOCK, 2 * features), n / LEAST)) / batch_size)
        if n <= 2 * size:
            raise ValueError(
                f"{n} samples in blocks of {size}: an interval of merged statistics needs 3 blocks, so take more "
                "samples, or smaller batches"
            )
        most = min(MOST, max(LEAST, BYTES // (4 * features * (features + 1))))
        level = 0
        while -(-math.ceil(n / size) // 2**level) > most:
            level += 1
        return cls(n, size, level)


class Node(NamedTuple):
    """The statistics of 2^level blocks from position 2^level on, or of as many of them as there are.

    Attributes:
        level, position: in the tree.
        sums: the statistics.
    """

    level: int
    position: int
    sums: Sums


class Tree:
    """Statistics of blocks that come in order of their index, merged along a binary tree as they come.

    Arguments:
        level: of the groups, which are not merged here.
        nodes: to begin with, see `add`.
    """

    def __init__(self, level: int, nodes: Iterable[Node] = ()) -> None:
        self.level = level
        self.nodes: list[Node] = []
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> None:
        """Add the next node: a block, at level 0, or what another tree holds of consecutive blocks."""
        self.nodes.append(node)
        while len(self.nodes) > 1:
            a, b = self.nodes[-2:]
            if not (a.level == b.level < self.level and a.position % 2 == 0 and b.position == a.position + 1):
                break
            self.nodes[-2:] = [Node(a.level + 1, a.position // 2, merged(a.sums, b.sums))]

    def groups(self) -> list[Sums]:
        """The statistics of each group; what is left at the end is merged from the largest to the smallest."""
        found: dict[int, Sums] = {}
        for node in self.nodes:
            group = node.position >> (self.level - node.level)
            found[group] = merged(found[group], node.sums) if group in found else node.sums
        return list(found.values())

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As a file holds it."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "nodes": np.array([(node.level, node.position) for node in self.nodes], np.int64).reshape(-1, 2)
        }
        for index, node in enumerate(self.nodes):
            arrays |= {f"{index}.{name}": value.numpy() for name, value in node.sums.items()}
        return arrays

    @staticmethod
    def nodes_in(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[Node]:
        """The nodes in what `to_arrays` made. Raises ValueError for something else."""
        try:
            for index, (level, position) in enumerate(arrays["nodes"].tolist()):
                prefix = f"{index}."
                sums = {
                    name.removeprefix(prefix): torch.from_numpy(np.array(array))
                    for name, array in arrays.items()
                    if name.startswith(prefix)
                }
                if "products" in sums:
                    unpacked(sums["products"], len(sums["mean"]))
                yield Node(level, position, sums)
        except (KeyError, TypeError, IndexError, RuntimeError) as error:
            raise ValueError(f"these are no merged statistics ({error}): remove the file") from error


@functools.lru_cache(maxsize=1)
def _upper(k: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(k, k)
    return rows, columns


def packed(symmetric: Tensor) -> Tensor:
    """The upper triangle of a matrix [k, k], row by row [k (k + 1) / 2]."""
    return symmetric[_upper(len(symmetric))]


def unpacked(triangle: Tensor, k: int) -> Tensor:
    """The symmetric matrix [k, k] with an upper triangle."""
    whole = torch.zeros(k, k, dtype=torch.float64)
    whole[_upper(k)] = triangle
    return whole + whole.triu(1).T


def merged(a: Sums, b: Sums) -> Sums:
    """The statistics of two sets of samples together.

    References:
        Chan, Golub and LeVeque 1983, eq. 1.5 (means and products).
    """
    both = {name: a[name] + b[name] for name in a if name not in ("mean", "products")}
    if "mean" in a:
        n, m = int(a["n"]), int(b["n"])
        apart = b["mean"] - a["mean"]
        both["mean"] = a["mean"] + apart * (m / (n + m))
        root = apart * math.sqrt(n * m / (n + m))
        both["products"] = (a["products"] + b["products"]).add_(packed(root.outer(root)))
    return both


def without(whole: Sums, part: Sums) -> Sums:
    """The statistics of a set of samples without those of a part of it: what `merged` makes whole again."""
    rest = {name: whole[name] - part[name] for name in whole if name not in ("mean", "products")}
    if "mean" in whole:
        n, m = int(rest["n"]), int(part["n"])
        apart = (part["mean"] - whole["mean"]) * ((n + m) / n)  # of the part from the rest
        rest["mean"] = part["mean"] - apart
        root = apart * math.sqrt(n * m / (n + m))
        rest["products"] = (whole["products"] - part["products"]).sub_(packed(root.outer(root)))
    return rest


# --- against a reference -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Against:
    """A reference, and what of it all blocks need; made by `against`.

    Attributes:
        reference: features [m, k], float64.
        metrics: names from `MERGED`.
        k: which neighbour the balls of precision, density and coverage reach to.
        moments: mean and factor of the covariance of the reference, see `gaussian.moments`.
        reach: squared radii of the balls [m, 1].
        part: the rows of the reference that the kernel distance takes [p].
        own: sums of the kernel over the other rows of the part, for each of them [p].
    """

    reference: Tensor
    metrics: tuple[str, ...]
    k: int
    moments: tuple[Tensor, Tensor]
    reach: Tensor
    part: Tensor
    own: Tensor

    def block(self, samples: Samples, probabilities: Samples | None = None) -> Sums:
        """The statistics of a block of samples.

        Arguments:
            samples: features [b, *d].
            probabilities: of each class [b, classes], for the Inception score.

        Raises:
            ValueError: samples of another dimension, values that are not finite, or what are not probabilities.
        """
        x = features_of(samples, 1, "a metric")
        if x.shape[1] != self.reference.shape[1]:
            had, features = self.reference.shape[1], x.shape[1]
            raise ValueError(f"samples of {features} and {had} features: both sets must have the same dimension")
        sums: Sums = {"n": torch.tensor(len(x))}
        if "frechet" in self.metrics:
            sums["mean"] = x.mean(0)
            centred = x - sums["mean"]
            sums["products"] = packed(centred.T @ centred)
        if "kernel" in self.metrics:
            sums["within"], sums["pairs"] = _between_quarters(x)
            sums["between"] = kernel_sums(x, self.reference[self.part])[1]
        if not BALLS.isdisjoint(self.metrics):
            balls, sums["held"] = within(self.reference, self.reach, x)
            sums["inside"], sums["balls"] = (balls > 0).sum(), balls.sum()
        if "inception_score" in self.metrics:
            p = probabilities_of(probabilities)
            sums["classes"], sums["certainty"] = p.sum(0), torch.xlogy(p, p).sum()
        return sums

    def estimates(self, groups: Sequence[Sums]) -> dict[str, Estimate]:
        """The metrics of all samples, each with a 95 % interval from the differences between groups of them.

        Each group is left out in turn, from the Fréchet distance's trace to first order (`Overlap.near`). The variance
        is that of the jackknife for groups of any sizes, the interval Student's for one less than their number; the
        kernel distance's includes what depends on the choice of the reference, and precision has Wilson's, as by
        `measure`. `difference` takes these estimates too.

        Arguments:
            groups: the statistics of consecutive samples, see `Tree.groups`.

        Raises:
            ValueError: fewer than 3 groups.

        Warns:
            UserWarning: fewer samples than twice the dimension, for the Fréchet distance.

        References:
            Busing, Meijer and van der Leeden 1999, Statistics and Computing 9, 3-8 (the variance).
        """
        if len(groups) < 3:
            raise ValueError(f"{len(groups)} blocks of samples: an interval needs 3, so pass more samples")
        whole = functools.reduce(merged, groups)
        n = int(whole["n"])
        shares = torch.tensor([int(group["n"]) / n for group in groups], dtype=torch.float64)
        overlap = self._overlap(whole) if "frechet" in self.metrics else None
        values, left = self._values(whole), []
        if overlap is not None:
            values["frechet"] = max(0.0, self._distance(whole, lambda covariance: overlap.value))
        for group in groups:
            left.append(self._values(rest := without(whole, group)))
            if overlap is not None:
                left[-1]["frechet"] = self._distance(rest, overlap.near)
        found: dict[str, Estimate] = {}
        for name in self.metrics:
            value, each = values[name], torch.tensor([rest[name] for rest in left], dtype=torch.float64)
            replicates = value + deviations(value, each, shares)
            if name == "precision":
                estimate = wilson_interval(int(whole["inside"]), n)
            elif name == "kernel":
                error = NORMAL * math.hypot(float(replicates.std()), self._kernel_error(whole))
                estimate = Estimate(value, value - error, value + error)
            else:
                estimate = normal_interval(value, replicates, LIMITS[name])
            found[name] = estimate._replace(replicates=tuple(replicates.tolist()))
        return found

    def _values(self, sums: Sums) -> dict[str, float]:
        """The metrics of a set of samples, but for the Fréchet distance."""
        n, values = int(sums["n"]), {}
        if "kernel" in self.metrics:
            m = len(self.part)
            within_samples, within_reference = sums["within"] / sums["pairs"], self.own.sum() / (m * (m - 1))
            values["kernel"] = float(within_samples + within_reference - 2 * sums["between"].sum() / (n * m))
        if "held" in sums:
            values["precision"], values["density"] = int(sums["inside"]) / n, int(sums["balls"]) / (n * self.k)
            values["coverage"] = float((sums["held"] > 0).double().mean())
        if "inception_score" in self.metrics:
            marginal = sums["classes"] / n
            values["inception_score"] = math.exp(
                max(0.0, float(sums["certainty"] / n - torch.xlogy(marginal, marginal).sum()))
            )
        return values

    def _overlap(self, sums: Sums) -> Overlap:
        """How the covariances of samples and reference overlap."""
        warn_of_few(int(sums["n"]), len(self.reference), self.reference.shape[1])
        return Overlap.of(factor_of(covariance_of(sums)), self.moments[1])

    def _distance(self, sums: Sums, overlap: Callable[[Tensor], float]) -> float:
        """The Fréchet distance of a set of samples, by what says how their covariance overlaps with the reference's."""
        (mean, factor), covariance = self.moments, covariance_of(sums)
        variances = covariance.trace() + factor.square().sum()
        return float((sums["mean"] - mean).square().sum() + variances) - 2 * overlap(covariance)

    def _kernel_error(self, sums: Sums) -> float:
        """The standard error of the kernel distance by the choice of the reference: as of `kernel_distance`."""
        n, m, between = int(sums["n"]), len(self.part), sums["between"]
        left = (self.own.sum() - 2 * self.own) / ((m - 1) * (m - 2)) - 2 * (between.sum() - between) / ((m - 1) * n)
        return math.sqrt((m - 1) * float(left.var(correction=0)))


def covariance_of(sums: Sums) -> Tensor:
    """The covariance [k, k] of a set of samples."""
    return unpacked(sums["products"] / (int(sums["n"]) - 1), len(sums["mean"]))


def _between_quarters(x: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the kernel over pairs of samples from two quarters of a block, and the number of such pairs."""
    total, before, pairs = torch.zeros(()).double(), 0, 0
    for quarter in x.tensor_split(QUARTERS):
        if before and len(quarter):
            total += kernel_sums(quarter, x[:before])[0].sum()
        pairs, before = pairs + before * len(quarter), before + len(quarter)
    return total, torch.tensor(pairs)


BALLS = frozenset({"precision", "density", "coverage"})


def against(
    reference: Samples, *, k: int = 5, metrics: Sequence[str] | None = None, classified: bool = False
) -> Against:
    """Prepare a reference for statistics of samples that merge.

    Arguments:
        reference: features [m, *d].
        k: which neighbour the balls of precision, density and coverage reach to.
        metrics: names from `METRICS`, of which recall is left out; None: all, the Inception score only if `classified`.
        classified: whether there are probabilities of classes.

    Raises:
        ValueError: unknown metrics, the Inception score without probabilities, too small a reference, or values that
            are not finite.
    """
    names = tuple(name for name in chosen_metrics(metrics, classified) if name in MERGED)
    balls = not BALLS.isdisjoint(names)
    b, _ = with_neighbours(reference, reference, k) if balls else pair_of(reference, reference, 3, "a metric")
    part = torch.arange(len(b)) if len(b) <= PART else torch.arange(PART) * len(b) // PART
    nothing = torch.zeros(0, dtype=torch.float64)
    return Against(
        b,
        names,
        k,
        moments(b) if "frechet" in names else (nothing, nothing),
        reaches(b, k) if balls else nothing,
        part,
        kernel_sums(b[part], b[part], others=True)[0] if "kernel" in names else nothing,
    )


def deviations(value: float, left: Tensor, shares: Tensor) -> Tensor:
    """What groups of samples move a value by, with a variance that is that of the value over other samples.

    Arguments:
        value: of all samples.
        left: the values without each group [g].
        shares: of the groups in the samples [g].
    Returns:
        [g], of mean 0; wider than normal by as much as Student's interval is, for so few groups.
    """
    count, inverse = len(left), 1 / shares
    pseudo = inverse * value - (inverse - 1) * left
    apart = (pseudo - (pseudo / inverse).sum()) / (inverse - 1).sqrt()
    return (apart - apart.mean()) * math.sqrt((count - 1) / count) * student(count - 1) / NORMAL
