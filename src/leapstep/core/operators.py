"""What is observed of data, as linear operators: the missing pixels, super-resolution and deblurring of `restore`.

Any callable that takes x `[b, *d]` to y `[b, *e]` and is linear in x will do; these are the common ones. Their
transposes come from automatic differentiation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from leapstep.core.printing import shown

Operator = Callable[[Tensor], Tensor]
"""Takes x `[b, *d]` to y `[b, *e]`, each sample by itself, linearly."""


def masked(mask: Tensor) -> Operator:
    """Values under a mask are missing: y = x where the mask is 0, and 0 where it is not. (Inpainting.)

    Arguments:
        mask: 1 where a value is missing and 0 where it is known, as of `inpainted`; `[*d]`, or what broadcasts to it,
            such as `[h, w]` for pictures `[c, h, w]`.
    Returns:
        the operator, `[b, *d]` to `[b, *d]`. What x holds for missing values does not matter, and may be NaN.
    """
    return _Masked(torch.as_tensor(mask) != 0)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Masked:
    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.mask.to(x.device), 0, x)

    def __repr__(self) -> str:
        return f"masked({shown(self.mask)})"


def downsampled(factor: int, dims: int = 2) -> Operator:
    """Blocks are seen by their means: average pooling. (Super-resolution.)

    Arguments:
        factor: the side of a block, in pixels; it must divide the size of a sample along each of the last dimensions.
        dims: how many of the last dimensions are pooled: 1 for signals, 2 for pictures, 3 for volumes.
    Returns:
        the operator, `[b, c, h, w]` to `[b, c, h / factor, w / factor]`.
    Raises:
        ValueError: a factor or a number of dimensions below 1; at call, a size that the factor does not divide.
    """
    if factor < 1 or dims < 1:
        raise ValueError(f"factor={factor}, dims={dims}: both must be at least 1")
    return _Downsampled(factor, dims)


@dataclasses.dataclass(frozen=True)
class _Downsampled:
    factor: int
    dims: int

    def __call__(self, x: Tensor) -> Tensor:
        sizes = x.shape[-self.dims :]
        if x.ndim <= self.dims or any(size % self.factor for size in sizes):
            raise ValueError(
                f"samples of shape {list(x.shape[1:])} have no blocks of {self.factor} along {self.dims} dimensions: "
                "use a factor that divides their sizes"
            )
        blocks = [part for size in sizes for part in (size // self.factor, self.factor)]
        return x.reshape(*x.shape[: -self.dims], *blocks).mean(tuple(range(-2 * self.dims + 1, 0, 2)))

    def __repr__(self) -> str:
        return f"downsampled({self.factor}, {self.dims})"


def blurred(width: float, dims: int = 2) -> Operator:
    """Every value is seen as the mean of its neighbours, with the weights of a Gaussian. (Deblurring.)

    The weights are cut off at four widths; beyond its edges a sample is 0.

    Arguments:
        width: the standard deviation of the Gaussian, in pixels.
        dims: how many of the last dimensions are blurred: 1 for signals, 2 for pictures, 3 for volumes.
    Returns:
        the operator, `[b, *d]` to `[b, *d]`.
    Raises:
        ValueError: a width that is not above 0, or a number of dimensions below 1.
    """
    if not (width > 0 and math.isfinite(width)) or dims < 1:
        raise ValueError(f"width={width}, dims={dims}: give a width above 0, in pixels, and at least 1 dimension")
    return _Blurred(width, dims)


@dataclasses.dataclass(frozen=True)
class _Blurred:
    width: float
    dims: int

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim <= self.dims:
            raise ValueError(f"samples of shape {list(x.shape[1:])} cannot be blurred along {self.dims} dimensions")
        for dim in range(-self.dims, 0):
            places = torch.arange(x.shape[dim], dtype=torch.float64)
            apart = places[:, None] - places
            weights = torch.exp(-(apart**2) / (2 * self.width**2)) * (apart.abs() <= math.ceil(4 * self.width))
            whole = torch.arange(-math.ceil(4 * self.width), math.ceil(4 * self.width) + 1, dtype=torch.float64)
            weights = weights / torch.exp(-(whole**2) / (2 * self.width**2)).sum()
            x = torch.movedim(torch.movedim(x, dim, -1) @ weights.to(x), -1, dim)
        return x

    def __repr__(self) -> str:
        return f"blurred({self.width:g}, {self.dims})"
