"""The network whose last layer is a learned feature space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leapstep.core.process import flat

WIDTH = 128
"""How many features a learned classifier has at most: half as many for pictures of 16 pixels or less."""


class Classifier(nn.Module):
    """Classes of samples in model space: x [b, *d] to logits [b, classes].

    Pictures pass through residual blocks that halve their sides until they are 8 pixels or less, through one that keeps
    them, and are averaged; other samples pass through three layers. What the last, linear layer sees are the features.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, pictures: bool) -> None:
        super().__init__()
        self.pictures = pictures
        if pictures:
            halvings = max(1, math.ceil(math.log2(min(shape[1:]) / 8)))
            widths = [min(WIDTH, WIDTH // 4 * 2**level) for level in range(halvings + 1)]
            self.body = _convolutions(shape[0], widths)
        else:
            widths = [math.prod(shape), 2 * WIDTH, 2 * WIDTH, WIDTH]
            self.body = _layers(widths)
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        """The features [b, k] of samples."""
        found: Tensor = self.body(x if self.pictures else flat(x))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The logits [b, classes] of samples."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(widths):
        layers += [nn.Linear(inside, outside, bias=False), nn.BatchNorm1d(outside), nn.ReLU()]
    return nn.Sequential(*layers)


def _convolutions(channels: int, widths: Sequence[int]) -> nn.Sequential:
    first = [nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    blocks = [_Residual(inside, outside, stride=2) for inside, outside in itertools.pairwise(widths)]
    last = _Residual(widths[-1], widths[-1], stride=1)
    return nn.Sequential(*first, *blocks, last, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class _Residual(nn.Module):
    """A residual block; a stride of 2 halves the sides of a picture (rounded up)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inside, outside, 1, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))
