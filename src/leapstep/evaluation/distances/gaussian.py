"""The Fréchet distance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.evaluation.distances.arrival import Samples, pair_of


def frechet_distance(a: Samples, b: Samples) -> float:
    """Fréchet distance between the Gaussians that have the means and covariances of two sets of samples.

        d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)

    This is the squared Wasserstein-2 distance of these Gaussians; on features of the Inception network it is the FID.
    No square root is taken: with C_a = F_a F_a' and C_b = F_b F_b' for any factors, the last trace is the sum of the
    singular values of F_a' F_b, so singular covariances (constant pixels, fewer samples than dimensions) cost no
    precision. The factors come from a QR decomposition of the centred samples. Few samples make the distance too
    large, about in proportion to 1/n: compare only distances of equally many (`measure` warns of too few).

    Arguments:
        a, b: samples [n, *d] and [m, *d], each flattened to a vector of features; computed in float64.

    Returns:
        The squared distance, in squared units of the features, at least 0.

    Raises:
        ValueError: fewer than 2 samples, sets of different dimension, or values that are not finite.

    References:
        Dowson and Landau 1982 (the distance); Heusel et al. 2017, arXiv:1706.08500, eq. 6 (FID).
    """
    a, b = pair_of(a, b, 2, "a covariance")
    return frechet_of_moments(moments(a), moments(b))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean m [k], and a factor R [min(n, k), k] of the unbiased covariance C = R' R [k, k]."""
    mean = features.mean(0)
    factor = torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R
    return mean, factor


def frechet_of_moments(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """The Fréchet distance of two Gaussians, by their `moments`."""
    (mean_a, factor_a), (mean_b, factor_b) = a, b
    overlap = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + factor_a.square().sum() + factor_b.square().sum() - 2 * overlap
    return max(0.0, float(distance))


def factor_of(covariance: Tensor) -> Tensor:
    """A factor R [k, k] of a covariance C = R' R, from its eigenvectors: C may be singular."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    factor: Tensor = eigenvalues.clamp(min=0).sqrt()[:, None] * vectors.T
    return factor


class Overlap(NamedTuple):
    """How a covariance C overlaps with C_b = F' F: tr (F C F')^1/2, and what that becomes where C changes a little.

    Attributes:
        value: the trace.
        transport: T = F' (F C F')^-1/2 F [k, k], for which T C T = C_b: it maps samples of one Gaussian to the other.
            Half of it is the derivative of the trace by C.

    References:
        Dowson and Landau 1982; Olkin and Pukelsheim 1982 (the map).
    """

    value: float
    transport: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Overlap:
        """That of two covariances, by their factors [*, k], from one decomposition."""
        _, values, vectors = torch.linalg.svd(a @ b.T, full_matrices=False)
        known = values > values.max() * torch.finfo(torch.float64).eps ** 0.5  # nobody is mapped in other directions
        root = (vectors[known] @ b) / values[known].sqrt()[:, None]
        return cls(float(values.sum()), root.T @ root)

    def near(self, covariance: Tensor) -> float:
        """The trace for another covariance instead of C, to first order: never too small, as the trace is concave."""
        return (self.value + float((self.transport * covariance).sum())) / 2


def frechet_of_parts(features: Tensor, reference: tuple[Tensor, Tensor], kept: Tensor) -> Tensor:
    """Fréchet distances of parts of the samples.

    The samples are projected on the reference's factor once. Their products are summed over all samples once too: a
    part's are what remains without those left out. The roots of eigenvalues are less precise than singular values, but
    far more so than a standard error has to be.
    """
    mean, factor = reference
    centre = features.mean(0)
    x = features - centre
    size, parts = kept.sum(1), kept.double()
    means = parts @ x / size[:, None]
    traces = (parts @ x.square().sum(1) - size * means.square().sum(1)) / (size - 1)
    projected = x @ factor.T
    few = len(projected) <= projected.shape[1]
    products = projected @ projected.T if few else projected.T @ projected
    overlaps = []
    for part, mean_of_part in zip(kept, means @ factor.T, strict=True):
        if few:
            own = products[part][:, part]
            own = own - own.mean(0) - own.mean(1, keepdim=True) + own.mean()
        else:
            left_out = projected[~part]
            own = products - left_out.T @ left_out - part.sum() * mean_of_part.outer(mean_of_part)
        overlaps.append((torch.linalg.eigvalsh(own).clamp(min=0) / (part.sum() - 1)).sqrt().sum())
    shifts = (centre - mean + means).square().sum(1)
    return (shifts + traces + factor.square().sum() - 2 * torch.stack(overlaps)).clamp(min=0)
