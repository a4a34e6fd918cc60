"""Coefficients of a student: least squares along its own path, and then all of them together.

Least squares takes one step after another: x at the next time, a sum of what is known with free coefficients, shall be
nearest to the teacher's x there. It needs no gradient, and starts from where the student really is, so each step mends
what it can of the errors before it. What is best for the next x is not yet best for the sample, so a step of Gauss and
Newton follows, on all coefficients together and for the sample alone. Its derivatives are finite differences: what
becomes of the sample when the path is bent a little, at each time in each direction that the student knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leapstep.core.fitting.linear import combined, follow
from leapstep.core.fitting.reference import Part
from leapstep.core.fitting.search import products, solve

BEND = 1e-2
"""The root mean square of a bend in the path, by which derivatives are taken."""

FLAT = 1e-8
"""Directions that are smaller than the largest by this factor, in square, are no directions but rounding."""


def least_squares(parts: Sequence[Part], choice: Sequence[int], grid: Tensor, base: Tensor, ridge: float) -> Tensor:
    """Fit each step along the student's own path.

    Arguments:
        choice: the indices of its times in those of the teacher, `grid`.
        base: the matrix of an untuned method, to which a ridge draws.
        ridge: relative to the mean square of each column.
    Returns:
        a matrix `[n, n + 1]`.
    """
    matrix, n = base.clone(), len(base)
    columns = [[part.start(grid[choice[0]])] for part in parts]
    weights = [part.eps.numel() for part in parts]
    for i in range(n):
        to = choice[i + 1] if i + 1 < n else -1
        gram, moments = torch.zeros(i + 2, i + 2, dtype=torch.float64), torch.zeros(i + 2, dtype=torch.float64)
        for part, known, weight in zip(parts, columns, weights, strict=True):
            x = known[0] if i == 0 else combined(matrix[i - 1], known)
            known.append(part.diffusion.denoise(x, grid[choice[i]]))
            own = products(known, part.x[to] - combined(base[i], known))
            gram, moments = gram + weight / sum(weights) * own[0], moments + weight / sum(weights) * own[1]
        matrix[i, : i + 2] += solve(gram, moments, ridge)
    return matrix


def bends(n: int) -> int:
    """How many evaluations for each noise the derivatives of `together` take, at most, for n calls."""
    return n + sum((i + 2) * (n - 1 - i) for i in range(n - 1))


def together(parts: Sequence[Part], times: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step of Gauss and Newton on all coefficients, for the root mean square error of samples.

    Returns:
        the products of derivatives with each other `[p, p]`, and with the error `[p]`; and what a change of 1 in each
        of the p parameters adds to the matrix, `[p, n, n + 1]`.
    """
    n, total = len(matrix), sum(part.eps.numel() for part in parts)
    first = [follow(part.diffusion, matrix, times, [part.start(times[0])]) for part in parts]
    directions = _directions(matrix, parts, [columns for _, columns in first])
    gram = torch.zeros(len(directions), len(directions), dtype=torch.float64)
    moments = torch.zeros(len(directions), dtype=torch.float64)
    for part, (x, columns) in zip(parts, first, strict=True):
        derivatives = []
        for direction in directions:
            i = int(direction.abs().sum(1).argmax())
            if i == n - 1:
                derivative = combined(direction[i], columns)
            else:
                bent, _ = follow(part.diffusion, matrix + BEND * direction, times, columns[: i + 2])
                derivative = (bent - x) / BEND
            derivatives.append(derivative)
        own = products(derivatives, part.x[-1] - x)
        share = part.eps.numel() / total
        gram, moments = gram + share * own[0], moments + share * own[1]
    return gram, moments, directions


def _directions(matrix: Tensor, parts: Sequence[Part], columns: Sequence[Sequence[Tensor]]) -> Tensor:
    """Changes of the matrix that bend x at one of the times by a root mean square of 1 each, `[p, n, n + 1]`."""
    total, directions = sum(part.eps.numel() for part in parts), []
    for i in range(len(matrix)):
        gram = torch.zeros(i + 2, i + 2, dtype=torch.float64)
        for part, known in zip(parts, columns, strict=True):
            gram += part.eps.numel() / total * products(known[: i + 2], known[0])[0]
        values, vectors = torch.linalg.eigh(gram)
        for value, vector in zip(values, vectors.T, strict=True):
            if value > FLAT * values[-1]:
                direction = torch.zeros_like(matrix)
                direction[i, : i + 2] = vector / value.sqrt()
                directions.append(direction)
    return torch.stack(directions)
