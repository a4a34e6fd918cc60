"""A Gaussian law of data, whose flow from noise is known: a first step of sampling that calls no network.

Where data have the law N(m, C), x_t has N(alpha m, alpha^2 C + sigma^2 I), and the probability-flow ODE moves each
principal direction of C by itself. On a way that begins in pure noise, x_1 = alpha(1) m + (alpha(1)^2 C + sigma(1)^2
I)^(1/2) eps with eps from N(0, I), it passes at any time t through

    x_t = alpha m + (alpha^2 C + sigma^2 I)^(1/2) eps,                     with the symmetric root.

Other data have nearly this flow as long as noise hides all of their law but the mean and the covariance, so sampling
can begin at a t below 1. For the noise that is left at t the denoiser is asked, as always.

References:
    Wang and Vastola 2024, "The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its
    Applications", arXiv:2412.09726.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.core.printing import summary
from leapstep.core.process import Process, along, as_time, flat

RANK = 256
"""Principal directions that are kept, at most: at the noise where a start is of use, the others look alike."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Gaussian:
    """A Gaussian law of data, N(m, C) with C = basis' diag(variances - rest) basis + rest I.

    As `Diffusion.origin` it is the law that sampling begins from, at the first time of any list.

    Attributes:
        mean: m, of one sample `[*d]`; or one for each sample of a batch, or for each class, `[b, *d]`.
        basis: principal directions of the flattened data, orthonormal, `[r, D]`.
        variances: along them, `[r]`.
        rest: the variance along every direction that is orthogonal to them.
    Raises:
        ValueError: shapes that do not fit, or negative variances.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float

    def __post_init__(self) -> None:
        """Check the shapes."""
        shapes = [list(part.shape) for part in (self.mean, self.basis, self.variances)]
        fits = self.basis.ndim == 2 and shapes[2] == shapes[1][:1] and self.mean.numel() > 0
        if not fits or self.mean.numel() % self.basis.shape[1]:
            raise ValueError(
                f"mean {shapes[0]}, basis {shapes[1]} and variances {shapes[2]} do not fit: give a mean [*d] or "
                "[b, *d], r directions [r, D] of the D values of a sample, and the variances along them, [r]"
            )
        if not self.rest >= 0 or not (self.variances >= 0).all():
            raise ValueError(f"rest={self.rest} and variances must be 0 or more")

    @classmethod
    def of(
        cls, samples: Tensor, labels: Tensor | None = None, *, classes: int | None = None, rank: int = RANK
    ) -> Gaussian:
        """Estimate the law of data, of few samples too.

        Arguments:
            samples: `[n, *d]`.
            labels: the class of each, `[n]`, integers from 0. The mean is then one for each class, see `of_classes`,
                and the covariance that within a class, the same for all.
            classes: their number k; None: as many as labels need. A class without samples has the mean of all.
            rank: directions to keep, at most.
        Returns:
            the Gaussian, float32 on the CPU; its mean is `[*d]`, or `[k, *d]` with labels.
        Raises:
            ValueError: fewer than 2 samples, values that are not finite, or labels that are not one for each sample.
        """
        if samples.ndim == 0 or len(samples) < 2 or samples.numel() == 0 or not samples.isfinite().all():
            raise ValueError(f"samples of shape {list(samples.shape)}: give two or more, of finite values")
        rows = flat(samples.detach()).to("cpu", torch.float64)
        counts = torch.tensor([len(rows)])
        of_row = torch.zeros(len(rows), dtype=torch.int64)
        if labels is not None:
            of_row = _classes(labels, len(rows), classes)
            counts = torch.bincount(of_row, minlength=classes or 0)
        sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, of_row, rows)
        means = sums / counts.clamp(min=1)[:, None]
        offsets = rows - means[of_row]
        free = len(rows) - int((counts > 0).sum())
        if free < 1:
            raise ValueError(f"{len(rows)} samples of as many classes: give more than one of some class")
        basis, variances, rest = _covariance(offsets, free, rank)
        means = _towards_common(means, counts, (variances.sum() + rest * (rows.shape[1] - len(variances))).item())
        shape = samples.shape[1:] if labels is None else (len(means), *samples.shape[1:])
        return cls(means.reshape(shape).float(), basis.float(), variances.float(), rest)

    def of_classes(self, labels: Tensor) -> Gaussian:
        """Of a Gaussian with a mean for each class: that with the means of these classes, `[b]`, in their order."""
        return dataclasses.replace(self, mean=self.mean[labels.to(self.mean.device)])

    def marginal(self, process: Process, t: Tensor | float, eps: Tensor) -> Tensor:
        """x_t = alpha m + (alpha^2 C + sigma^2 I)^(1/2) eps: where the ODE of this law takes noise.

        Arguments:
            t: one time, or one for each sample `[b]`.
            eps: standard normal noise, `[b, *d]`.
        Returns:
            x_t, in the dtype and on the device of eps.
        """
        t = as_time(t)
        inside, across = self._deviations(process, t)
        return along(process.alpha(t), eps) * self._mean(eps) + self._stretched(eps, inside, across)

    def latent(self, process: Process, t: Tensor | float, x: Tensor) -> Tensor:
        """The inverse of `marginal`: the noise eps that the ODE of this law takes to x, `[b, *d]`, at time t."""
        t = as_time(t)
        inside, across = self._deviations(process, t)
        return self._stretched(x - along(process.alpha(t), x) * self._mean(x), 1 / inside, 1 / across)

    def log_density(self, process: Process, t: Tensor | float, x: Tensor) -> Tensor:
        """The log of the density of x_t under this law at x, in nats, `[b]`, float64 on the CPU."""
        x = x.detach().to("cpu", torch.float64)
        squares = flat(self.latent(process, t, x)).square().sum(1)
        variances = self._deviations(process, as_time(t), whole=True)[0].square()
        return -(squares + (2 * math.pi * variances).log().sum(-1)) / 2

    def divergence(self, process: Process, t: Tensor | float, x0: Tensor) -> Tensor:
        """KL(q(x_t | x0) || the law of x_t) of each x0 `[b, *d]`, in nats, `[b]`, float64 on the CPU."""
        t, x0 = as_time(t), x0.detach().to("cpu", torch.float64)
        squares = flat(self.latent(process, t, along(process.alpha(t), x0) * x0)).square().sum(1)
        ratios = process.sigma(t)[..., None] ** 2 / self._deviations(process, t, whole=True)[0].square()
        return (squares + (ratios - 1 - ratios.log()).sum(-1)) / 2

    def information(self, process: Process, t: Tensor | float) -> Tensor:
        """What x_t tells of x0 where this is the law of the data, log det(I + SNR(t) C) / 2 nats."""
        t = as_time(t)
        return (self._deviations(process, t, whole=True)[0] / process.sigma(t)[..., None]).log().sum(-1)

    def scaled(self, shift: Any, scale: float) -> Gaussian:
        """The law of scale x + shift, for data x of this law; see `leapstep.scaled`."""
        mean = self.mean * scale + torch.as_tensor(shift).to(self.mean)
        return Gaussian(mean, self.basis, self.variances * scale**2, self.rest * scale**2)

    def _deviations(self, process: Process, t: Tensor, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Standard deviations of x_t along the basis, `[r]` or `[b, r]`, and across it; whole: in all D directions."""
        variances = self.variances.to("cpu", torch.float64)
        if whole:
            variances = torch.cat([variances, variances.new_full([self.basis.shape[1] - len(variances)], self.rest)])
        signal, noise = process.alpha(t) ** 2, process.sigma(t) ** 2
        return (signal[..., None] * variances + noise[..., None]).sqrt(), (signal * self.rest + noise).sqrt()

    def _mean(self, x: Tensor) -> Tensor:
        """The mean to broadcast with x `[b, *d]`."""
        mean = self.mean.to(x).reshape(-1, *x.shape[1:])
        if len(mean) not in (1, len(x)):
            raise ValueError(f"a Gaussian with {len(mean)} means for {len(x)} samples: choose with of_classes(labels)")
        return mean

    def _stretched(self, x: Tensor, inside: Tensor, across: Tensor) -> Tensor:
        """x with its parts along the basis and across it stretched by these factors."""
        basis = self.basis.to(x)
        more = (flat(x) @ basis.T) * (inside - across[..., None]).to(x)
        return along(across, x) * x + (more @ basis).reshape(x.shape)

    def __repr__(self) -> str:
        return summary(self, vars(self).items())


class Moments(NamedTuple):
    """What a model draws as Gaussians, of any class and of each.

    Attributes:
        whole: the law of all of it.
        each: one law for each class, with a mean `[k, *d]`; None: classes are not told apart.
    """

    whole: Gaussian
    each: Gaussian | None = None

    @classmethod
    def of(cls, samples: Tensor, labels: Tensor | None = None, classes: int | None = None) -> Moments:
        """Estimate both from samples `[n, *d]`, and from labels `[n]` where there are any; see `Gaussian.of`."""
        return cls(Gaussian.of(samples), None if labels is None else Gaussian.of(samples, labels, classes=classes))

    def law(self, labels: Tensor | None) -> Gaussian:
        """Of the samples of a batch with these labels, `[b]`; None: with samples of any class."""
        return self.whole if labels is None or self.each is None else self.each.of_classes(labels.reshape(-1))

    def __repr__(self) -> str:
        return summary(self, self._asdict().items())


def _classes(labels: Tensor, n: int, classes: int | None) -> Tensor:
    """Labels as an index. Raises ValueError where they are none for n samples of so many classes."""
    whole = not labels.is_floating_point() and labels.shape == (n,)
    if not whole or labels.min() < 0 or (classes is not None and labels.max() >= classes):
        most = "" if classes is None else f" to {classes - 1}"
        raise ValueError(f"labels of shape {list(labels.shape)} for {n} samples: give each an integer from 0{most}")
    return labels.to("cpu", torch.int64)


def _covariance(offsets: Tensor, free: int, rank: int) -> tuple[Tensor, Tensor, float]:
    """Principal directions `[r, D]`, the variances along them `[r]`, and the average of those across them.

    They are as the samples have them, not drawn towards their average: the sigma^2 of x_t does that already.

    Arguments:
        offsets: of samples from their means, `[n, D]`, float64.
        free: degrees of freedom, n less the number of means.
    """
    n, size = offsets.shape
    if n > size:
        values, vectors = torch.linalg.eigh(offsets.T @ offsets / free)
        basis = vectors.T
    else:  # the same directions, from the products of samples with each other
        values, vectors = torch.linalg.eigh(offsets @ offsets.T / free)
        basis = (vectors.T @ offsets) / (values.clamp(min=1e-300) * free).sqrt()[:, None]
    values, total = values.flip(0).clamp(min=0), values.sum().item()
    rank = min(rank, int((values > 1e-12 * total).sum()))
    rest = values[rank:].sum().item() / (size - rank) if rank < size else 0.0
    return basis.flip(0)[:rank], values[:rank], rest


def _towards_common(means: Tensor, counts: Tensor, variance: float) -> Tensor:
    """Means of classes `[k, D]` drawn towards the common mean, where they have few samples.

    By chance, a mean of c samples is off by variance / c in squared distance, where `variance` is the sum over all
    directions; by what their squared distances exceed this, the means really differ. (The posterior mean where both
    are normal: Efron and Morris 1973.)
    """
    chance, there = variance / counts, counts > 0
    common = counts.double() @ means / counts.sum()
    apart = (means - common).square().sum(1) - chance
    real = apart[there].mean().clamp(min=0)
    weight = torch.where(there & (real > 0), real / (real + chance), 0.0)
    return common + weight[:, None] * (means - common)
