"""Linear inverse problems: data of which something linear was observed, y = A x0 + s z with normal noise z.

The posterior p(x0 | y) has a diffusion of its own, whose denoiser is E[x0 | x_t, y]. Were x0, given x_t, normal with
the mean D(x_t) and the covariance C_t, then it would be

    E[x0 | x_t, y] = D + C_t A' V^-1 (y - A D),      V = A C_t A' + s^2 I,

and C_t is known: by Tweedie's formula of second order, C_t = (sigma^2 / alpha) dD/dx. So a product with it is one
vector-Jacobian product, and V^-1 is solved by conjugate gradients, one product each. For Gaussian data this is exact;
for others it is the more nearly so the less noise there is. Everything samples with the result: a `Diffusion`.

References:
    Chung et al. 2023 (DPS), arXiv:2209.14687; Song et al. 2023 (PiGDM), ICLR; Boys et al. 2023 (TMPD),
    arXiv:2310.06721; Rozet et al. 2024, section 3, arXiv:2405.13712.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leapstep.core.denoiser import Denoiser, Diffusible, Diffusion, Estimate, as_diffusion, as_diffusions, estimate
from leapstep.core.operators import Operator
from leapstep.core.printing import shown
from leapstep.core.process import Process, along, as_time, flat
from leapstep.core.sampling import State, checked_shape, sample
from leapstep.core.transitions import Transition


def given(
    diffusion: Diffusion | Diffusible,
    operator: Operator,
    observed: Tensor,
    std: float = 0.0,
    *,
    iterations: int = 5,
) -> Diffusion:
    """The diffusion of the data that fit an observation, y = operator(x0) + std z: of p(x0 | y).

    Arguments:
        diffusion: of the data. Its denoiser must have a derivative in x.
        operator: takes x `[b, *d]` to y `[b, *e]`, linearly; see `leapstep.core.operators`.
        observed: y, `[*e]` for all samples or `[b, *e]`. Values that the operator never reaches, such as missing
            pixels, may hold anything.
        std: the standard deviation s of the noise in y.
        iterations: of conjugate gradients, at most. Each takes a derivative of the denoiser, and there is one besides.
    Returns:
        the Diffusion. It composes with `clipped`, and with every transition.
    Raises:
        ValueError: a negative std, less than one iteration; at call, an operator that is not linear or does not fit
            the observation, or a denoiser without derivatives.
    """
    if not 0 <= std < float("inf") or iterations < 1:
        raise ValueError(f"std={std}, iterations={iterations}: std must be 0 or more, and iterations at least 1")
    model = as_diffusion(diffusion)
    return model._replace(denoise=_Given(model.denoise, model.process, operator, observed, float(std), iterations))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Given:
    denoise: Denoiser
    process: Process
    operator: Operator
    observed: Tensor
    std: float
    iterations: int
    checked: set[tuple[int, ...]] = dataclasses.field(default_factory=set)  # shapes, by `_check_linear`

    def __repr__(self) -> str:
        return f"given({shown(self.denoise)}, {shown(self.operator)}, {shown(self.observed)}, {self.std:g})"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.estimate(x, t).x0

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            inner = estimate(self.denoise, x, t)
            seen = self.operator(inner.x0)
            if not seen.requires_grad:
                raise ValueError("the denoiser or the operator has no derivative in x: take torch.no_grad() out of it")
            (some,) = torch.autograd.grad(seen, inner.x0, _some_weights(seen), retain_graph=True)
        x0, of_jacobian = inner.x0.detach(), along(_of_jacobian(self.process, as_time(t)), x)

        def covariance(weights: Tensor) -> Tensor:
            """C A' weights."""
            (pulled,) = torch.autograd.grad(seen, x, weights, retain_graph=True)
            return of_jacobian * pulled

        def spread(weights: Tensor) -> Tensor:
            return self.operator(covariance(weights)) + self.std**2 * weights

        with torch.inference_mode(False), torch.no_grad():
            if tuple(x.shape) not in self.checked:
                _check_linear(self.operator, x0)
                self.checked.add(tuple(x.shape))
            misfit = torch.where(self.operator(some) != 0, self._observed(seen) - seen, 0)
            shift = covariance(_solved(spread, misfit, self.iterations))
        learned = None if inner.learned is None else inner.learned.detach()
        return Estimate(x0 + shift, inner.unbounded.detach() + shift, learned)

    def _observed(self, seen: Tensor) -> Tensor:
        y = self.observed.to(seen)
        if y.shape not in (seen.shape, seen.shape[1:]):
            raise ValueError(
                f"observed has shape {list(y.shape)} and the operator makes {list(seen.shape)} of {len(seen)} samples: "
                f"give {list(seen.shape[1:])} for all samples, or one for each"
            )
        return y


def _of_jacobian(process: Process, t: Tensor) -> Tensor:
    """What the Jacobian dD/dx is multiplied by for the covariance of x0 given x_t.

    At alpha = 0 a derivative in x_t says nothing of it, and the estimate stays as it is.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    return torch.where(alpha > 0, sigma**2 / torch.where(alpha > 0, alpha, 1.0), 0.0)


def _some_weights(y: Tensor) -> Tensor:
    """Weights in whose sum over the values of y no value of x is lost by chance."""
    return (1 + torch.arange(y.numel(), device=y.device)).cos().reshape(y.shape).to(y.dtype)


def _check_linear(operator: Operator, x: Tensor) -> None:
    """Raises ValueError for an operator that is not linear, as far as it shows at 0, x and -2 x."""
    y = operator(x)
    off = max((operator(factor * x) - factor * y).abs().max().item() for factor in (0, -2))
    if off > 1e-2 * (1e-6 + y.abs().max().item()):
        raise ValueError(
            "the operator is not linear: operator(a x) differs from a operator(x), so pass one without offsets, "
            "clipping and rounding (an affine one, A x + b, as x -> A x with observed - b)"
        )


def _solved(product: Callable[[Tensor], Tensor], y: Tensor, iterations: int, tolerance: float = 1e-5) -> Tensor:
    """u with V u = y, by conjugate gradients, for each sample by itself: rows of y `[b, *e]`.

    Arguments:
        product: V times its argument, for a V that is symmetric and not negative. A direction in which it is not, by
            the errors of a network, ends the iterations of that sample.
    """
    u, residual = torch.zeros_like(y), y
    direction, size = residual, _dot(residual, residual)
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
    iterations: int = 5,
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
        operator, std, iterations: as of `given`.
        observed: y, `[*e]` for all samples or `[n, *e]`.
        shape: `(n, *d)`.
        steps, transition, spacing, seed, batch_size, dtype, device, progress, on_step: as of `sample`.
    Returns:
        `[n, *d]`, of p(x0 | y); samples of one observation differ in what it leaves open.
    Raises:
        ValueError: what `given` and `sample` raise.
    References:
        see `leapstep.core.inverse`.
    """
    n, models = checked_shape(shape)[0], as_diffusions(diffusion)
    each = len(observed) == n and observed.ndim > 0

    def fitting(rows: range) -> Diffusion:
        y = observed[rows.start : rows.stop] if each else observed
        return given(models(rows), operator, y, std, iterations=iterations)

    return sample(
        fitting,
        shape,
        steps,
        transition,
        spacing=spacing,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        progress=progress,
        on_step=on_step,
    )
