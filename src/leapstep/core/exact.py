"""Exact denoisers, for data whose posterior mean has a closed form.

They are the yardstick that every sampler is tested against.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.operators import Operator
from leapstep.core.printing import summary
from leapstep.core.process import Process, along, as_time, flat
from leapstep.core.schedules import as_process

_Posterior = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]


class GaussianMixture(NamedTuple):
    """Data with a known law, sum_m w_m N(mu_m, C_m), hence an exact denoiser, exact samples and an exact density.

    At time t each component is N(alpha mu_m, alpha^2 C_m + sigma^2 I). With r_m the probability that x_t came from
    component m,

        E[x0 | x_t] = sum_m r_m (mu_m + alpha C_m (alpha^2 C_m + sigma^2 I)^-1 (x_t - alpha mu_m)).

    Attributes:
        means: `[m, *d]`.
        covariances: variances `[m]` of isotropic components, or full matrices `[m, D, D]` on the flattened data.
        weights: `[m]`, positive; None: all the same.
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor | None = None

    def __repr__(self) -> str:
        return summary(self, self._asdict().items())

    def diffusion(self, process: Process | str) -> Diffusion:
        """Pair a process, or that of a name, with this data's exact denoiser. Raises ValueError for misfits."""
        process = as_process(process)
        posterior = self._posterior()

        def posterior_mean(x: Tensor, t: Tensor) -> Tensor:
            t, y = as_time(t), flat(x)
            logits, mean_of = posterior(y, along(process.alpha(t), y), along(process.sigma(t), y))
            return mean_of(logits.softmax(1)).reshape(x.shape)

        return Diffusion(process, posterior_mean)

    def log_density(self, x: Tensor, process: Process | str | None = None, t: Tensor | float = 0.0) -> Tensor:
        """log q(x_t) `[b]` in nats, of the data itself (no process) or of what the process makes of it at time t."""
        y, t = flat(x), as_time(t)
        if process is None:
            alpha, sigma = torch.ones((), dtype=x.dtype), torch.zeros((), dtype=x.dtype)
        else:
            process = as_process(process)
            alpha, sigma = along(process.alpha(t), y), along(process.sigma(t), y)
        return self._posterior()(y, alpha, sigma)[0].logsumexp(1) - y.shape[1] / 2 * math.log(2 * math.pi)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw n points of the data, `[n, *d]`, in the dtype of the means."""
        self._check()
        generator = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self._log_weights().exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means[0].numel(), dtype=self.means.dtype, generator=generator)
        if self.covariances.ndim == 1:
            spread = self.covariances.sqrt()[component, None] * z
        else:
            values, vectors = torch.linalg.eigh(self.covariances)
            root = vectors * values.clamp(min=0).sqrt()[:, None, :]
            spread = torch.einsum("nij,nj->ni", root[component], z)
        return self.means[component] + spread.reshape(n, *self.means.shape[1:])

    def given(self, operator: Operator | Tensor, observed: Tensor, std: float = 0.0) -> GaussianMixture:
        """The posterior of data of which y = A x0 + std z was observed, a mixture again. (Bishop 2006, section 2.3.3.)

        With S_m = A C_m A' + std^2 I and the gain K_m = C_m A' S_m^-1, component m becomes
        N(mu_m + K_m (y - A mu_m), C_m - K_m A C_m), with a weight in proportion to w_m N(y; A mu_m, S_m).

        Arguments:
            operator: takes x `[b, *d]` to y `[b, *e]`, linearly; or its matrix, `[E, D]` on the flattened data.
            observed: y, `[*e]`.
            std: the standard deviation of the noise in y.
        Raises:
            ValueError: an observation that does not fit, or one without noise of data that have no density.
        """
        self._check()
        size, means = self.means[0].numel(), flat(self.means)
        if isinstance(operator, Tensor):
            matrix = operator.to(means)
        else:
            basis = torch.eye(size, dtype=means.dtype, device=means.device)
            matrix = flat(operator(basis.reshape(size, *self.means.shape[1:]))).T
        y = observed.to(means).reshape(-1)
        if matrix.shape != (len(y), size):
            raise ValueError(f"the operator is a matrix {list(matrix.shape)}, for {len(y)} observed of {size} values")
        left, scales, right = torch.linalg.svd(matrix, full_matrices=False)
        known = scales > torch.finfo(scales.dtype).eps ** 0.5 * scales.max()  # the rest of y is noise, or rounding
        matrix, y = scales[known, None] * right[known], left[:, known].T @ y
        covariances = self.covariances
        if covariances.ndim == 1:
            covariances = covariances[:, None, None] * torch.eye(size, dtype=means.dtype, device=means.device)
        seen = matrix @ covariances  # [m, E, D]
        spread = seen @ matrix.T + std**2 * torch.eye(len(y), dtype=means.dtype, device=means.device)
        root, failed = torch.linalg.cholesky_ex(spread)
        if failed.any():
            raise ValueError(f"std={std}: data of points have no density given what was observed: give a std above 0")
        offset = y - means @ matrix.T
        gain = torch.cholesky_solve(seen, root).mT
        white = torch.linalg.solve_triangular(root, offset[..., None], upper=False)[..., 0]
        logits = self._log_weights() - white.square().sum(1) / 2 - root.diagonal(dim1=1, dim2=2).log().sum(1)
        rest = covariances - gain @ seen
        moved = means + torch.einsum("mij,mj->mi", gain, offset)
        return GaussianMixture(moved.reshape(self.means.shape), (rest + rest.mT) / 2, logits.softmax(0))

    def _check(self) -> None:
        m, size = len(self.means), self.means[0].numel()
        if self.covariances.shape not in [(m,), (m, size, size)]:
            raise ValueError(
                f"covariances of shape {tuple(self.covariances.shape)} do not fit {m} means of {size} values: "
                f"give [{m}] variances or [{m}, {size}, {size}] matrices"
            )
        if self.weights is not None and (self.weights.shape != (m,) or not (self.weights > 0).all()):
            raise ValueError(f"weights must be {m} positive numbers, one for each mean")

    def _log_weights(self) -> Tensor:
        weights = torch.ones(len(self.means), dtype=self.means.dtype) if self.weights is None else self.weights
        return (weights / weights.sum()).log().to(self.means)

    def _posterior(self) -> _Posterior:
        """Of (x `[b, D]`, alpha, sigma): joint log densities `[b, m]` less the 2 pi, and the mean that weights give."""
        self._check()
        return self._isotropic() if self.covariances.ndim == 1 else self._full()

    def _isotropic(self) -> _Posterior:
        center = flat(self.means).mean(0)  # distances are taken from here, where they cancel least
        offsets = flat(self.means) - center

        def posterior(x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            mu, variances, y = offsets.to(x), self.covariances.to(x), x - alpha * center.to(x)
            spread = (alpha**2 * variances + sigma**2).clamp(min=1e-30)  # a point mass at t = 0: the nearest point
            distance = (y**2).sum(1, keepdim=True) - 2 * alpha * (y @ mu.T) + alpha**2 * (mu**2).sum(1)
            logits = self._log_weights().to(x) - distance.clamp(min=0) / (2 * spread) - x.shape[1] / 2 * spread.log()
            gain = alpha * variances / spread

            def mean_of(r: Tensor) -> Tensor:
                return center.to(x) + (r * (1 - alpha * gain)) @ mu + (r * gain).sum(1, keepdim=True) * y

            return logits, mean_of

        return posterior

    def _full(self) -> _Posterior:
        """The same for full covariances, each in its own eigenbasis."""
        eigenvalues, eigenvectors = torch.linalg.eigh(self.covariances)  # [m, D], [m, D, D]

        def posterior(x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            means, values, vectors = (c.to(x) for c in (flat(self.means), eigenvalues, eigenvectors))
            alpha, sigma = (c if c.ndim == 0 else c[:, :, None] for c in (alpha, sigma))
            spread = (alpha**2 * values + sigma**2).clamp(min=1e-30)  # [m, D] or [b, m, D]
            offset = torch.einsum("bmi,mij->bmj", x[:, None] - alpha * means, vectors)
            logits = self._log_weights().to(x) - (offset**2 / spread + spread.log()).sum(2) / 2
            given = means + torch.einsum("bmj,mij->bmi", alpha * values / spread * offset, vectors)
            return logits, lambda r: torch.einsum("bm,bmi->bi", r, given)

        return posterior


def empirical(process: Process | str, data: Tensor) -> Diffusion:
    """Pair the process with the exact denoiser of a finite data set, the softmax-weighted mean of its points.

    This is what a network would become if it learned its training set perfectly; sampling it returns that set.

    Arguments:
        process: a Process, or its name.
        data: `[n, *d]`.
    """
    return GaussianMixture(data, torch.zeros(len(data), dtype=data.dtype)).diffusion(process)
