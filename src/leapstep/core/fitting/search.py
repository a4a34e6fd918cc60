"""Which of the teacher's times a student with few calls is best to make them at.

Two searches, of coordinate descent both:

- on the teacher's own path, where every step of every choice of times is a small system of equations out of one Gram
  matrix, and no call is made. It takes a step's error for what it costs at the end, weighted by a power of alpha: an
  early error is mended by what comes later.
- on the student's own path, by its error at the end. A choice that begins as an earlier one shares its calls.

References:
    Chen et al. 2024 search the teacher's times by the first, with steps of Euler's method (GITS, arXiv:2405.11326).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from leapstep.core.fitting.linear import combined
from leapstep.core.fitting.reference import Part
from leapstep.core.process import Process
from leapstep.core.spacing import times

Choice = tuple[int, ...]
"""Indices of the teacher's times, increasing, at which a student makes its calls."""

POWERS = (2.0, 4.0, 8.0)
"""Of alpha, which weight the error of a step: one search for each."""

RIDGE = 1e-6
"""Relative to the mean square of a column."""

KEPT = 2**30
"""Bytes of estimates that a search keeps, at most."""


def solve(gram: Tensor, moments: Tensor, ridge: float = RIDGE) -> Tensor:
    """Least squares: coefficients of columns with these products with each other `[m, m]`, and with the target `[m]`.

    Each coefficient is drawn to 0 by `ridge`, as if its column had a mean square of 1.
    """
    size = gram.diagonal().sqrt().clamp(min=1e-30)
    scaled = gram / size / size[:, None] + ridge * torch.eye(len(size), dtype=gram.dtype)
    row: Tensor = torch.linalg.solve(scaled, moments / size) / size
    return row


def choices(part: Part, grid: Tensor, calls: int, free: bool) -> list[Choice]:
    """Some choices of times that are good on the teacher's path; see the head of this module.

    Arguments:
        part: with the teacher's estimates.
        grid: the teacher's times, `[K + 1]`.
        free: whether the first call may be made below the first time, from a Gaussian marginal.
    """
    process, last = part.diffusion.process, len(grid) - 1
    alpha = process.alpha(grid)
    step_error, start_error = _errors(part, grid, free)
    starts = list(dict.fromkeys(_even(process, grid, calls, free)))
    best = []
    for power in POWERS:
        weight = (alpha**power).tolist()

        def cost(choice: Choice, weight: Sequence[float] = weight) -> float:
            ends = (*choice, last)
            errors = [weight[ends[i + 1]] * step_error(ends[: i + 1], ends[i + 1]) for i in range(len(choice))]
            return sum(errors) + weight[choice[0]] * start_error(choice[0])

        best.append(min((descend(choice, last, free, cost) for choice in starts), key=cost))
    return list(dict.fromkeys([*best, *starts]))


def _even(process: Process, grid: Tensor, calls: int, free: bool) -> Iterator[Choice]:
    """The choices next to the usual spacings."""
    last = len(grid) - 1
    for spacing in ("trailing", "log_snr"):
        path = times(process, calls + free, spacing)[int(free) : -1]
        choice: list[int] = []
        for i, nearest in enumerate(torch.searchsorted(-grid, -path).tolist()):
            least = choice[-1] + 1 if choice else 0
            choice.append(0 if i == 0 and not free else min(max(nearest, least), last - calls + i))
        yield tuple(choice)


def _errors(part: Part, grid: Tensor, free: bool) -> tuple[Callable[[Choice, int], float], Callable[[int], float]]:
    """The mean square errors of a least-squares step (of the calls made so far, to a time), and of a start at a time.

    Both are known from the products of everything with everything, where the estimates are the teacher's.
    """
    assert part.x0 is not None
    steps = len(grid) - 1
    starts = [part.start(grid[k]) for k in range(steps if free else 1)]
    values = (*part.x, *part.x0, *starts)
    most = max(1, KEPT // (len(values) * part.eps[0].numel() * part.eps.element_size()))  # samples of a size that fits
    columns = torch.stack([value[:most].flatten() for value in values])
    gram = (columns @ columns.T).cpu().double() / columns.shape[1]
    known: dict[tuple[Choice, int], float] = {}

    def step_error(made: Choice, to: int) -> float:
        if (made, to) not in known:
            index = [2 * steps + 1 + (made[0] if free else 0), *(steps + 1 + k for k in made)]
            products, target = gram[index][:, index], gram[index, to]
            row = solve(products, target)
            known[made, to] = (gram[to, to] - 2 * row @ target + row @ products @ row).clamp(min=0).item()
        return known[made, to]

    def start_error(k: int) -> float:
        s = 2 * steps + 1 + k
        return (gram[s, s] - 2 * gram[s, k] + gram[k, k]).clamp(min=0).item() if free else 0.0

    return step_error, start_error


def descend(
    choice: Choice,
    last: int,
    free: bool,
    cost: Callable[[Choice], float],
    trials: Callable[[], bool] = lambda: True,
    size: int | None = None,
) -> Choice:
    """Move one time after another for as long as it helps, by smaller and smaller numbers of places.

    Arguments:
        last: the index of t = 0, behind all choices.
        free: whether the first time may move too.
        cost: what is to be small.
        trials: whether another may be made.
        size: of the first moves; default: half of the mean distance.
    """
    best, size = cost(choice), size or max(1, last // len(choice) // 2)
    while size:
        moved = False
        for j in range(0 if free else 1, len(choice)):
            for by in (-size, size):
                low, high = choice[j - 1] if j else -1, choice[j + 1] if j + 1 < len(choice) else last
                other = (*choice[:j], choice[j] + by, *choice[j + 1 :])
                if not low < other[j] < high:
                    continue
                if not trials():
                    return choice
                value = cost(other)
                if value < best * (1 - 1e-3):
                    choice, best, moved = other, value, True
                    break
        size = size if moved else size // 2
    return choice


class OwnPath:
    """A student's own path from some noises, every step of which is a least-squares fit to the teacher's.

    Attributes:
        evaluations: of the network so far, counted by sample.
    """

    def __init__(self, part: Part, grid: Tensor) -> None:
        self.part, self.grid, self.evaluations = part, grid, 0
        self._known: OrderedDict[Choice, list[Tensor]] = OrderedDict()
        self._most = max(16, KEPT // max(1, part.eps.numel() * part.eps.element_size()))

    def error(self, choice: Choice) -> float:
        """The mean square error at the end."""
        target = self.part.x[-1]
        return (self._fitted(self._columns(choice), target) - target).cpu().double().square().mean().item()

    def _columns(self, choice: Choice) -> list[Tensor]:
        """X at the start and the estimates at these times."""
        if choice in self._known:
            self._known.move_to_end(choice)
            return self._known[choice]
        if len(choice) == 1:
            x = self.part.start(self.grid[choice[0]])
            columns = [x]
        else:
            columns = self._columns(choice[:-1])
            x = self._fitted(columns, self.part.x[choice[-1]])
        columns = [*columns, self.part.diffusion.denoise(x, self.grid[choice[-1]])]
        self.evaluations += len(x)
        self._known[choice] = columns
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return columns

    @staticmethod
    def _fitted(columns: Sequence[Tensor], target: Tensor) -> Tensor:
        """The combination of columns that is nearest to the target."""
        return combined(solve(*products(columns, target)), columns)


def products(columns: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """The mean products of columns with each other `[m, m]` and with a target `[m]`, float64 on the CPU."""
    kind = torch.float32 if target.device.type == "mps" else torch.float64  # which mps has not
    rows = torch.stack([column.flatten().to(kind) for column in columns])
    gram, moments = rows @ rows.T / rows.shape[1], rows @ target.flatten().to(kind) / rows.shape[1]
    return gram.cpu().double(), moments.cpu().double()
