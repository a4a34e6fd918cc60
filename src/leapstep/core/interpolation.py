"""Interpolation between latents, along an arc instead of a straight line.

A latent z (what `encode` returns, or start noise) is a draw from N(0, sigma^2 I). In many dimensions nearly all draws
have the norm sigma sqrt(d), and nearly all pairs are at right angles. The middle of the straight line between two of
them has 1 / sqrt(2) of that norm (its variance is (1 - f)^2 + f^2, so 1/2 at f = 1/2). The network never saw such an
input at this noise level, and what it decodes to lacks contrast. On an arc,

    z = (sin((1 - f) theta) z1 + sin(f theta) z2) / sin(theta),        0 <= f <= 1,

the weights depend on the angle theta:

    slerp        theta is the angle between z1 and z2, so that a common norm is kept exactly     (eq. 67 of the DDIM
                 paper, Song et al. 2021, arXiv:2010.02502; Shoemake 1985)
    spherical    theta = pi/2, z = cos(f pi/2) z1 + sin(f pi/2) z2, so that the distribution is kept exactly: for
                 independent z1 and z2 the variance is cos^2 + sin^2 = 1 times theirs

In many dimensions they agree. Both are scale free, path(c z1, c z2, f) = c path(z1, z2, f), so latents can be
interpolated at whatever sigma they have.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from leapstep.core.process import along, flat

Interpolation = Callable[[Tensor, Tensor, Tensor | float], Tensor]
"""(z1 `[b, *d]`, z2 `[b, *d]`, fraction) -> `[b, *d]`, with z1 at fraction 0 and z2 at 1."""


def slerp(z1: Tensor, z2: Tensor, fraction: Tensor | float) -> Tensor:
    """Interpolate along the great circle from z1 to z2, at constant speed, for each sample by its own angle.

    If the norms differ, the norm changes gradually. If z1 and z2 have the same direction, the arc is a line.

    Arguments:
        z1, z2: latents, `[b, *d]`.
        fraction: position between z1 (0) and z2 (1), one for all samples or one for each, `[b]`.
    Returns:
        `[b, *d]`.
    Raises:
        ValueError: different shapes, a fraction outside [0, 1], or opposite z1 and z2, between which no arc is the
            shortest.
    References:
        Song et al. 2021, eq. 67, arXiv:2010.02502; Shoemake 1985, Animating rotation with quaternion curves.
    """
    fraction = _checked(z1, z2, fraction)
    u, v = (_directions(z) for z in (z1, z2))
    angle = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))  # exact for small angles, where arccos is not
    if (angle > math.pi - 1e-6).any():
        raise ValueError("z1 and z2 are opposite, so no arc between them is the shortest: go through a third latent")
    return _arc(z1, z2, fraction, angle)


def spherical(z1: Tensor, z2: Tensor, fraction: Tensor | float) -> Tensor:
    """Interpolate so that between independent draws of N(0, sigma^2 I) lie draws of N(0, sigma^2 I).

    z = cos(f pi/2) z1 + sin(f pi/2) z2

    Arguments:
        z1, z2: latents, `[b, *d]`.
        fraction: position between z1 (0) and z2 (1), one for all samples or one for each, `[b]`.
    Returns:
        `[b, *d]`.
    Raises:
        ValueError: different shapes, or a fraction outside [0, 1].
    """
    return _arc(z1, z2, _checked(z1, z2, fraction), torch.tensor(math.pi / 2, dtype=torch.float64))


def interpolation_grid(corners: Tensor, rows: int, columns: int, path: Interpolation = slerp) -> Tensor:
    """Interpolate a grid between four latents: along its left and right edges, then along each row.

    Arguments:
        corners: top left, top right, bottom left, bottom right, `[4, *d]`.
        rows, columns: size of the grid, each at least 2.
        path: `slerp` or `spherical`.
    Returns:
        `[rows, columns, *d]`.
    Raises:
        ValueError: not four corners, or fewer than 2 rows or columns.
    """
    if len(corners) != 4 or rows < 2 or columns < 2:
        raise ValueError(
            f"{len(corners)} corners, {rows} rows, {columns} columns: give 4 corners, 2 rows or more, 2 columns or more"
        )
    down, across = (torch.linspace(0, 1, n, dtype=torch.float64) for n in (rows, columns))
    top, bottom = (pair.repeat(rows, *[1] * (corners.ndim - 1)) for pair in (corners[:2], corners[2:]))
    edges = path(top, bottom, down.repeat_interleave(2))
    left, right = (edge.repeat_interleave(columns, 0) for edge in (edges[0::2], edges[1::2]))
    return path(left, right, across.repeat(rows)).reshape(rows, columns, *corners.shape[1:])


PATHS: dict[str, Interpolation] = {"slerp": slerp, "spherical": spherical}
"""Every interpolation between two latents, by name."""


def _arc(z1: Tensor, z2: Tensor, fraction: Tensor, angle: Tensor) -> Tensor:
    """The formula at the head of this module, and its limit, the line, for an angle of 0."""
    sine = angle.sin()
    weights = [
        along(torch.where(sine < 1e-6, share, (share * angle).sin() / sine), z1) for share in (1 - fraction, fraction)
    ]
    return weights[0] * z1 + weights[1] * z2


def _directions(z: Tensor) -> Tensor:
    """Flatten and normalise to unit norm, `[b, D]`, in float64."""
    rows = flat(z).to("cpu", torch.float64)
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return unit


def _checked(z1: Tensor, z2: Tensor, fraction: Tensor | float) -> Tensor:
    fraction = torch.as_tensor(fraction, dtype=torch.float64, device="cpu")
    if z1.shape != z2.shape:
        raise ValueError(f"z1 has shape {list(z1.shape)} and z2 {list(z2.shape)}: they must be equal")
    if fraction.shape not in ((), z1.shape[:1]):
        raise ValueError(f"fraction has shape {list(fraction.shape)}: pass one number, or one for each of {len(z1)}")
    if not ((fraction >= 0) & (fraction <= 1)).all():
        raise ValueError(f"fraction={fraction.tolist()}: must lie between 0 (z1) and 1 (z2)")
    return fraction
