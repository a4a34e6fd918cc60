"""Linear inverse problems: data of which something linear was observed, y = A x0 + std z with normal noise z.

The posterior p(x0 | y) has a diffusion of its own, whose denoiser is E[x0 | x_t, y]. Were x0, given x_t, normal with
the mean D(x_t) and the covariance C_t, then it would be

    E[x0 | x_t, y] = D + C_t A' V^-1 (y - A D),      V = A C_t A' + std^2 I,

and C_t is known: by Tweedie's formula of second order, C_t = (sigma^2 / alpha) dD/dx. So a product with it is one
vector-Jacobian product, and V^-1 is applied by conjugate gradients, one product each. For Gaussian data this is exact;
for others it is the more nearly so the less noise there is. Everything samples with the result: a `Diffusion`.

Of an ideal network no eigenvalue of alpha dD/dx is negative: it is 0 where x0 is known from x_t, 1 where nothing but
x_t tells of it, and more between two modes. Those of a real one are wrong by some small number, which at high noise
stands for any covariance, as C_t = (sigma / alpha)^2 times alpha dD/dx. Therefore V counts all of them as larger by a
`floor`: where the network cannot tell, the observation acts a little later.

References:
    Chung et al. 2023 (DPS), arXiv:2209.14687; Boys et al. 2023 (TMPD), arXiv:2310.06721; Rozet et al. 2024, section 3
    (moment matching by conjugate gradients), arXiv:2405.13712.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leapstep.core.denoiser import (
    Clipped,
    Denoiser,
    Diffusible,
    Diffusion,
    Estimate,
    as_diffusion,
    as_diffusions,
    clipped,
    estimate,
)
from leapstep.core.operators import Operator
from leapstep.core.printing import shown
from leapstep.core.process import Process, along, as_time, flat
from leapstep.core.sampling import State, checked_shape, sample
from leapstep.core.transitions import Transition, ddim


def given(
    diffusion: Diffusion | Diffusible,
    operator: Operator,
    observed: Tensor,
    std: float = 0.0,
    *,
    iterations: int = 3,
    floor: float = 0.01,
    rows: tuple[range, int] | None = None,
) -> Diffusion:
    """The diffusion of the data that fit an observation, y = operator(x0) + std z: of p(x0 | y).

    Arguments:
        diffusion: of the data; its denoiser must have a derivative in x. A bound (`clipped`) acts after the
            observation.
        operator: takes x `[b, *d]` to y `[b, *e]`, linearly, each sample by itself: any function of tensors, or
            `masked`, `downsampled`, `blurred`.
        observed: y, `[*e]` for all samples or `[b, *e]`. Values that the operator never reaches, such as missing
            pixels, may hold anything.
        std: the standard deviation of the noise in y.
        iterations: of conjugate gradients, at most. Each costs a derivative of the denoiser, which takes about twice
            the time of a call, and there is one besides.
        floor: the error of a network's derivative that is reckoned with, as a share of sigma^2 / alpha^2; 0 for an
            exact denoiser.
        rows: for work in batches, the indices of the samples and the number of all, where `observed` is of all of
            them, `[n, *e]`.
    Returns:
        the Diffusion, for every transition. At alpha = 0, where derivatives in x_t tell nothing, its estimates are
        those without the observation.
    Raises:
        ValueError: std or floor below 0, less than one iteration; at call, an operator that is not linear, an
            observation that does not fit it, or a denoiser without derivatives.
    References:
        Rozet et al. 2024, section 3, arXiv:2405.13712.
    """
    if not (0 <= std < math.inf and 0 <= floor < math.inf and iterations >= 1):
        raise ValueError(
            f"std={std}, floor={floor}, iterations={iterations}: std and floor must be 0 or more, iterations 1 or more"
        )
    values = torch.as_tensor(observed).detach()
    model = as_diffusion(diffusion)
    if isinstance(model.denoise, Clipped):
        free = model._replace(denoise=model.denoise.denoise)
        free = given(free, operator, values, std, iterations=iterations, floor=floor, rows=rows)
        return clipped(free, model.denoise.clip)
    return model._replace(
        denoise=_Given(model.denoise, model.process, operator, values, float(std), iterations, float(floor), rows)
    )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Given:
    denoise: Denoiser
    process: Process
    operator: Operator
    observed: Tensor
    std: float
    iterations: int
    floor: float
    rows: tuple[range, int] | None
    checked: set[tuple[int, ...]] = dataclasses.field(default_factory=set)  # shapes, by `_check_linear`

    def __repr__(self) -> str:
        return f"given({shown(self.denoise)}, {shown(self.operator)}, {shown(self.observed)}, {self.std:g})"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.estimate(x, t).x0

    @torch.inference_mode(False)  # for the derivatives
    @torch.no_grad()
    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            inner = estimate(self.denoise, x, t)
            if not inner.x0.requires_grad:
                raise ValueError("the denoiser has no derivative in x: take torch.no_grad() out of it")
            if tuple(x.shape) not in self.checked:
                _check_linear(self.operator, inner.x0.detach())
                self.checked.add(tuple(x.shape))
            seen = self.operator(inner.x0)
        whole, damping = (along(scale, x) for scale in _scales(self.process, as_time(t), self.floor))

        def transposed(weights: Tensor) -> Tensor:
            """A' weights."""
            return torch.autograd.grad(seen, inner.x0, weights, retain_graph=True)[0]

        def covariance(weights: Tensor) -> Tensor:
            """C_t A' weights."""
            return whole * torch.autograd.grad(seen, x, weights, retain_graph=True)[0]

        def product(weights: Tensor) -> Tensor:
            """V weights."""
            spread = covariance(weights)
            if self.floor > 0:
                spread = spread + damping * transposed(weights)
            return self.operator(spread) + self.std**2 * weights

        reached = self.operator(transposed(_some_weights(seen))) != 0
        misfit = torch.where(reached, self._observed(seen) - seen, 0)
        shift = covariance(_solved(product, misfit, self.iterations))
        learned = None if inner.learned is None else inner.learned.detach()
        return Estimate(inner.x0.detach() + shift, inner.unbounded.detach() + shift, learned)

    def _observed(self, seen: Tensor) -> Tensor:
        y = self.observed
        if self.rows is not None and y.shape == (self.rows[1], *seen.shape[1:]):
            y = y[self.rows[0].start : self.rows[0].stop]
        y = y.to(seen)
        if y.shape not in (seen.shape, seen.shape[1:]):
            raise ValueError(
                f"observed has shape {list(y.shape)}, and the operator makes {list(seen.shape)} of {len(seen)} samples"
                f": give {list(seen.shape[1:])} for all samples, or one for each"
            )
        return y


def _scales(process: Process, t: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """What dD/dx is multiplied by for C_t, and the unit matrix for the floor under it; 0 where alpha is 0."""
    signal = process.alpha(t) > 0
    alpha, variance = torch.where(signal, process.alpha(t), 1.0), process.sigma(t) ** 2
    return torch.where(signal, variance / alpha, 0.0), torch.where(signal, floor * variance / alpha**2, 0.0)


def _some_weights(y: Tensor) -> Tensor:
    """Weights in whose sum over the values of y no value of x is lost by chance."""
    return (1 + torch.arange(y.numel(), device=y.device)).cos().reshape(y.shape).to(y.dtype)


def _check_linear(operator: Operator, x: Tensor) -> None:
    """Raises ValueError for an operator that is not linear, as far as it shows at 0, x and -2 x, or not of tensors."""
    y = operator(x)
    if not isinstance(y, Tensor) or y.shape[:1] != x.shape[:1]:
        kind = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"the operator makes {kind} of {list(x.shape)}: a tensor with a row for each sample is needed")
    off = max((operator(factor * x) - factor * y).abs().max().item() for factor in (0, -2))
    if off > 1e-2 * (1e-6 + y.abs().max().item()):
        raise ValueError(
            "the operator is not linear: operator(a x) differs from a operator(x), so pass one without offsets, "
            "clipping and rounding (for A x + b, the operator x -> A x with observed - b)"
        )


def _solved(product: Callable[[Tensor], Tensor], y: Tensor, iterations: int, tolerance: float = 1e-5) -> Tensor:
    """u with V u = y, by conjugate gradients, for each sample of y `[b, *e]` by itself.

    Arguments:
        product: V times its argument, for a V that is symmetric and not negative. A direction in which it is not, by
            the errors of a network, ends the iterations of that sample.
        tolerance: the size of the residual, as a share of that of y, at which they end.
    """
    u, residual, direction = torch.zeros_like(y), y, y
    size = _dot(y, y)
    least = tolerance**2 * size
    for _ in range(iterations):
        curved = product(direction)
        curvature = _dot(direction, curved)
        goes = (size > least) & (curvature > 0)
        if not goes.any():
            break
        step = along(torch.where(goes, size / torch.where(goes, curvature, 1.0), 0.0), y)
        u, residual = u + step * direction, residual - step * curved
        last, size = size, torch.where(goes, _dot(residual, residual), 0.0)
        direction = residual + along(torch.where(goes, size / torch.where(goes, last, 1.0), 0.0), y) * direction
    return u


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """The scalar product of each sample, `[b]`."""
    return (flat(x) * flat(y)).sum(1)


def restore(
    diffusion: Diffusion | Diffusible | Callable[[range], Diffusion],
    operator: Operator,
    observed: Tensor,
    shape: Sequence[int],
    steps: int | Sequence[float] | Tensor | None = None,
    transition: Transition | str | None = None,
    *,
    std: float = 0.0,
    iterations: int = 3,
    floor: float = 0.01,
    spacing: str = "trailing",
    seed: int = 0,
    batch_size: int | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    on_step: Callable[[State], object] | None = None,
) -> Tensor:
    """Draw data that fit an observation, y = operator(x0) + std z: super-resolution, deblurring, missing pixels.

    Arguments:
        diffusion: as of `sample`.
        operator, std, iterations, floor: as of `given`.
        observed: y, `[*e]` for all samples or `[n, *e]`.
        shape: `(n, *d)`.
        transition: as of `sample`, but `ddim(eta=1)` by default: noise takes away again much of what is wrong in p(y |
            x_t) where it is not normal.
        steps, spacing, seed, batch_size, dtype, device, progress, on_step: as of `sample`.
    Returns:
        `[n, *d]`, of p(x0 | y); samples of one observation differ in what it leaves open.
    Raises:
        ValueError: what `given` and `sample` raise.
    References:
        Chung et al. 2023, arXiv:2209.14687; Rozet et al. 2024, arXiv:2405.13712.
    """
    n, models, values = checked_shape(shape)[0], as_diffusions(diffusion), torch.as_tensor(observed)

    def fitting(rows: range) -> Diffusion:
        return given(models(rows), operator, values, std, iterations=iterations, floor=floor, rows=(rows, n))

    return sample(
        fitting,
        shape,
        steps,
        ddim(eta=1.0) if transition is None else transition,
        spacing=spacing,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        progress=progress,
        on_step=on_step,
    )
