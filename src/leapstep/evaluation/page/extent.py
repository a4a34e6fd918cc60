"""How much a page shows: less, if a call of the network is expensive."""

from __future__ import annotations

from typing import NamedTuple


class Extent(NamedTuple):
    """What a page shows at most.

    Attributes:
        n: samples in the grid, where nobody asked for a number of them.
        together: samples on the slider over numbers of steps, and on the one through time.
        steps: numbers of steps that are compared; the most that the model can take stands for all that are more.
        back: numbers of steps for reconstructions, likewise.
        edge, line: frames along an edge of the interpolation among four noises; between two.
        data: samples that are encoded and decoded.
        levels, per_level: noise levels at which errors are measured, and samples at each.
    """

    n: int
    together: int
    steps: tuple[int, ...]
    back: tuple[int, ...]
    edge: int
    line: int
    data: int
    levels: int
    per_level: int


WHOLE = Extent(256, 256, (1, 2, 3, 5, 10, 20, 50, 100), (5, 10, 20, 50), 9, 21, 32, 20, 64)

EXTENTS = (
    WHOLE,
    Extent(32, 8, (1, 2, 5, 10, 20, 50), (5, 10, 20), 5, 11, 16, 10, 16),
    Extent(8, 4, (1, 2, 5, 10, 20), (5, 10), 3, 5, 4, 5, 4),
    Extent(4, 2, (1, 5, 10), (5,), 2, 3, 2, 3, 2),
)
"""From the whole page to the least that is still one; each asks for about a fourth of what the one before does."""
