"""Nearest neighbours: precision, recall, density and coverage."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from leapstep.evaluation.distances.arrival import PAIRS, Samples, features_of, parts_of, with_neighbours

ACCURACY = 1e-9
"""Relative error of squared distances that are compared; what is nearer than that to a tie is one."""

TIE = 1 + 3 * ACCURACY
"""The ratio of squared distances up to which they are equal."""


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
    samples, reference = with_neighbours(samples, reference, k)
    everything = torch.ones(1, len(samples), dtype=torch.bool)
    return {name: float(values[0]) for name, values in neighbours_of(samples, reference, k, everything).items()}


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
    among = b.shape[0] if b.ndim else 0
    if among and not 1 <= count <= among:
        raise ValueError(f"count={count}: there are {among} to be near to, pass 1 to {among}")
    return nearest_in_parts(a, parts_of(b, 1, "a distance"), count)


def nearest_in_parts(
    a: Samples, parts: Iterable[Samples], count: int = 1, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `nearest`, in a set of which parts are given one after the other, and are not kept.

    Arguments:
        own: which of the set each in a is itself [n], and is no neighbour of; None: none of them.
    """
    a = features_of(a, 1, "a distance")
    distances, places = torch.zeros(len(a), 0, dtype=torch.float64), torch.zeros(len(a), 0, dtype=torch.int64)
    start = 0
    for part in parts:
        b = features_of(part, 1, "a distance")
        if a.shape[1] != b.shape[1]:
            raise ValueError(
                f"samples of {a.shape[1]} and {b.shape[1]} features: both sets must have the same dimension"
            )
        found, which = nearest_of(a, b, min(len(b), count + (own is not None)))
        if own is not None:
            found = found.masked_fill(which + start == own[:, None], torch.inf)
        distances, places = torch.cat([distances, found], 1), torch.cat([places, which + start], 1)
        order = distances.argsort(dim=1, stable=True)[:, :count]
        distances, places = distances.gather(1, order), places.gather(1, order)
        start += len(b)
    return distances, places


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


def nearest_of(a: Tensor, b: Tensor, count: int, others: bool = False) -> tuple[Tensor, Tensor]:
    """As `nearest`; with `others` in a set itself, of which each sample is not its own neighbour."""
    distances, indices = [], []
    for start, squares in _squares(a, b):
        if others:
            squares.diagonal(start).fill_(torch.inf)
        limit = squares.topk(count, largest=False).values[:, -1:] * TIE
        rows, columns = (squares <= limit).nonzero(as_tuple=True)
        exact = _exact_squares(a, b, rows + start, columns)
        order = exact.argsort(stable=True)
        order = order[rows[order].argsort(stable=True)]
        found = rows.bincount(minlength=len(squares))
        first = order[(found.cumsum(0) - found)[:, None] + torch.arange(count)]
        distances.append(exact[first].sqrt())
        indices.append(columns[first])
    return torch.cat(distances), torch.cat(indices)


def reaches(points: Tensor, k: int) -> Tensor:
    """Squared radii [m, 1] of the balls around points, with what is as good as on their borders."""
    return nearest_of(points, points, k, others=True)[0][:, -1:].square() * TIE


def within(reference: Tensor, reach: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls around reference points each sample lies in [n], and how many samples each ball holds [m]."""
    balls, held = torch.zeros(len(samples), dtype=torch.int64), torch.zeros(len(reference), dtype=torch.int64)
    for start, squares in _squares(reference, samples):
        inside = squares <= reach[start : start + len(squares)]
        balls += inside.sum(0)
        held[start : start + len(squares)] = inside.sum(1)
    return balls, held


def neighbours_of(samples: Tensor, reference: Tensor, k: int, kept: Tensor) -> dict[str, Tensor]:
    """The metrics of `neighbours` for parts of the samples, each [parts], in one pass over all distances."""
    n, m = len(samples), len(reference)
    reach = reaches(reference, k)
    # without a fifth of the samples, the k-th neighbour that is left is among the first 2 k + 20 all but certainly
    listed, which = nearest_of(samples, samples, k if len(kept) == 1 else min(n - 1, 2 * k + 20), others=True)
    listed = listed.square() * TIE
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
