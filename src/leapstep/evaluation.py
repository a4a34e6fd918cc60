"""Distances between two sets of samples, which may be of any kind: nothing here knows of diffusion."""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

Samples = Tensor | npt.NDArray[Any]


def frechet_distance(a: Samples, b: Samples) -> float:
    """Fréchet distance between the Gaussians that have the means and covariances of two sets of samples.

        d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)

    This is the squared Wasserstein-2 distance of these Gaussians; on features of the Inception network it is the FID.
    No square root is taken: with C_a = F_a F_a' and C_b = F_b F_b' for any factors, the last trace is the sum of the
    singular values of F_a' F_b, so singular covariances (constant pixels, fewer samples than dimensions) cost no
    precision. The factors come from a QR decomposition of the centred samples.

    Arguments:
        a, b: samples [n, *d] and [m, *d], each flattened to a vector of features; computed in float64.

    Returns:
        The squared distance, in squared units of the features, at least 0.

    Raises:
        ValueError: fewer than 2 samples, sets of different dimension, or values that are not finite.

    References:
        Dowson and Landau 1982 (the distance); Heusel et al. 2017, arXiv:1706.08500, eq. 6 (FID).
    """
    mean_a, factor_a = _moments(a)
    mean_b, factor_b = _moments(b)
    if len(mean_a) != len(mean_b):
        raise ValueError(f"samples of {len(mean_a)} and {len(mean_b)} features: both sets must have the same dimension")
    overlap = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + factor_a.square().sum() + factor_b.square().sum() - 2 * overlap
    return max(0.0, float(distance))


def _moments(samples: Samples) -> tuple[Tensor, Tensor]:
    """Mean m [k], and a factor R [min(n, k), k] of the unbiased covariance C = R' R [k, k]."""
    tensor = samples if isinstance(samples, Tensor) else torch.tensor(samples)  # a copy: arrays may be read-only
    features = tensor.detach().to("cpu", torch.float64)
    if features.ndim == 0 or len(features) < 2:
        raise ValueError(f"samples of shape {list(features.shape)}: a covariance needs at least 2 samples")
    features = features.flatten(1) if features.ndim > 1 else features[:, None]
    if not features.isfinite().all():
        raise ValueError(f"samples of shape {list(samples.shape)} hold NaN or infinite values: remove them first")
    mean = features.mean(0)
    factor = torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R
    return mean, factor
