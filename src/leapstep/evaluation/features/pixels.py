"""The feature space `pixels`: principal components of the values in model space."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from leapstep.core.process import flat
from leapstep.core.scaling import Scaling
from leapstep.data.dataset import Data
from leapstep.evaluation.features.cache import remembered
from leapstep.evaluation.features.space import (
    Array,
    Features,
    batched,
    block_size,
    check_shape,
    fingerprint,
    in_blocks,
)
from leapstep.files.cache import hash_of

COMPONENTS = 64
"""How many principal components `pixels` keeps at most."""

EXACT = 4096
"""Up to this many values a sample, `pixels` takes the eigenvectors of the whole covariance matrix."""


def pixels_features(data: Data, cache: bool) -> Features:
    """Coordinates along the principal axes of the data, in units of model space, not whitened.

    Where there are fewer axes than values, the distance from the space of the axes is one more coordinate: noise is
    nearly at right angles to the axes of pictures, and without it would pass for their mean. There are then at most a
    quarter as many axes as data, to which they would fit too well, so that fresh data would seem to lie off them.

    The hash is that of the data, not of the axes: these differ in their last digits with the number of threads.
    """
    size = math.prod(data.shape)
    whole = size <= min(COMPONENTS, len(data) - 1)
    count = size if whole else max(1, min(COMPONENTS, size, len(data) // 4))
    digest = hash_of("pixels", fingerprint(data), [float(number) for number in data.scaling], count, whole)

    def compute() -> dict[str, Tensor]:
        return dict(zip(("mean", "axes"), principal_axes(data, count), strict=True))

    def fits(tensors: Mapping[str, Tensor]) -> bool:
        return {name: list(each.shape) for name, each in tensors.items()} == {"mean": [size], "axes": [size, count]}

    fitted = remembered(hash_of("axes", digest) if cache else None, compute, fits)
    rows = block_size(data.values, 2**22)
    make = functools.partial(_projection, digest, fitted, data.shape, data.scaling, whole, rows)
    return Features.made(make, torch.device("cpu"))


def _projection(
    digest: str,
    fitted: Mapping[str, Tensor],
    shape: tuple[int, ...],
    scaling: Scaling,
    whole: bool,
    rows: int,
    device: torch.device,
) -> Features:
    """The map to coordinates along axes, on the CPU whatever the device: not every other one knows float64."""

    def prepare(values: Array) -> Tensor:
        check_shape(values, shape, "pixels")
        return flat(scaling.to_model(values)).double()

    def project(x: Tensor) -> Tensor:
        centred = x - fitted["mean"]
        along = centred @ fitted["axes"]
        if whole:
            return along.float()
        off = (centred - along @ fitted["axes"].T).norm(dim=1, keepdim=True)
        return torch.cat([along, off], 1).float()

    return Features("pixels", digest, batched(project, prepare, rows))


def principal_axes(data: Data, count: int) -> tuple[Tensor, Tensor]:
    """The mean [d] and the first principal axes [d, count] of data in model space, float64.

    The axes are eigenvectors of the covariance; where that has more than `EXACT` rows, block power iteration finds
    them in passes over the data (Halko et al. 2011, algorithm 4.4, arXiv:0909.4061). The largest entry of each axis is
    positive.
    """

    def blocks(what: str) -> Iterator[Tensor]:
        return (flat(data.scaling.to_model(block)).double() for block in in_blocks(data.values, what))

    size = math.prod(data.shape)
    mean = torch.zeros(size, dtype=torch.float64)
    for x in blocks("mean"):
        mean += x.sum(0) / len(data)
    if size <= EXACT:
        covariance = torch.zeros(size, size, dtype=torch.float64)
        for x in blocks("principal axes"):
            covariance.addmm_((x - mean).T, x - mean)
        axes = torch.linalg.eigh(covariance).eigenvectors
    else:
        start = torch.randn(size, count + 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        basis = torch.linalg.qr(start).Q
        for turn in range(8):
            basis = torch.linalg.qr(sum((x - mean).T @ ((x - mean) @ basis) for x in blocks(f"pass {turn + 1} of 8"))).Q
        within = sum(((x - mean) @ basis).T @ ((x - mean) @ basis) for x in blocks("principal axes"))
        axes = basis @ torch.linalg.eigh(within).eigenvectors
    axes = axes[:, -count:].flip(1)
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return mean, (axes * signs).contiguous()
