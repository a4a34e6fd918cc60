"""Learning from images without labels by rotations, and a test of feature spaces on damaged images.

A network that tells by how much a picture was turned must know what is in it (Gidaris et al. 2018, arXiv:1803.07728);
it needs no labels, since whoever turns the picture knows the answer. That says nothing yet of whether its features are
good for comparing sets of pictures. So the features are also asked what they are for: by how much farther from the data
are copies with a damage that the task never showed?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.evaluation.distances import frechet_distance

Array = npt.NDArray[Any]


def angles(shape: tuple[int, ...]) -> tuple[str, ...]:
    """By how many degrees pictures [c, h, w] are turned: quarter turns need squares."""
    return ("0", "90", "180", "270") if shape[1] == shape[2] else ("0", "180")


def turned(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [b, c, h, w], each turned by one of `angles` at random, and the numbers of these, [b]."""
    count = len(angles(tuple(x.shape[1:])))
    number = torch.randint(0, count, (len(x),), generator=generator)
    turns = torch.stack([x.rot90(turn * 4 // count, (2, 3)) for turn in range(count)])
    return turns[number, torch.arange(len(x))], number


def all_turned(values: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Pictures [n, c, h, w] turned by each of `angles`, [n x angles, c, h, w], and the numbers of these."""
    count = len(angles(values.shape[1:]))
    turns = [np.rot90(values, turn * 4 // count, (2, 3)) for turn in range(count)]
    return np.concatenate(turns), np.arange(count).repeat(len(values))


def _blurred(x: Tensor) -> Tensor:
    """The mean of each pixel and its eight neighbours."""
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _noisy(x: Tensor) -> Tensor:
    """A tenth of the range as standard deviation."""
    return x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def _pale(x: Tensor) -> Tensor:
    """Half of the contrast."""
    return 0.5 * x


def _tinted(x: Tensor) -> Tensor:
    """The first channel brighter and the last one darker by a tenth of the range; grey pictures brighter."""
    return x + 0.2 * torch.linspace(1, -1, max(2, x.shape[1]))[: x.shape[1], None, None]


def _swapped(x: Tensor) -> Tensor:
    """The left half and the right half have changed places."""
    return x.roll(x.shape[3] // 2, 3)


COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "blurred": _blurred,
    "noisy": _noisy,
    "pale": _pale,
    "tinted": _tinted,
    "halves swapped": _swapped,
}
"""Damages to pictures [b, c, h, w] in model space, by name."""


def farther(extract: Callable[[Tensor], Tensor], data: Tensor, held: Tensor) -> dict[str, float]:
    """How many times as far from the data as held-out pictures their damaged copies lie, in a feature space.

    Arguments:
        extract: pictures [b, c, h, w] in model space to features [b, k].
        data: pictures that the space was learned from.
        held: others, at least 2.
    Returns:
        for each of `COPIES` the Fréchet distance of the copies to the data, divided by that of the originals: 1 where
        the space does not see the damage. Both are of equally many pictures; with few of them both are too large, and
        the ratio too near to 1.
    """
    reference = extract(data)
    usual = max(frechet_distance(extract(held), reference), 1e-12)
    return {
        name: frechet_distance(extract(damage(held).clamp(-1, 1)), reference) / usual for name, damage in COPIES.items()
    }
