"""A diffusion process is two curves.

Data x0 seen at time t is a Gaussian around a shrunken copy of itself,

    q(x_t | x0) = N(alpha(t) x0, sigma(t)^2 I),        x_t = alpha(t) x0 + sigma(t) eps,

with t = 0 the data and t = 1 the noise. Neither the training loss nor any sampler needs more than this marginal
(Song et al. 2021, arXiv:2010.02502, section 3), so a process *is* the pair (alpha, sigma). A network may predict x0,
eps, or any mixture a x0 + b eps of the two. Together with the equation above these are two linear equations in two
unknowns, so all conversions are one formula (`Process.convert`, `Process.split` and its inverse `Process.combine`):

    eps     a = 0        b = 1
    x0      a = 1        b = 0
    v       a = -sigma   b = alpha      Salimans and Ho 2022, arXiv:2202.00512
    flow    a = alpha'   b = sigma'     the velocity dx_t/dt; Lipman et al. 2023, arXiv:2210.02747. On the straight
                                        line, alpha + sigma = 1, a = -1 and b = 1 whatever its time axis, as rectified
                                        flow trains it: the velocity in sigma; Liu et al. 2023, arXiv:2209.03003
    score   a = 0        b = -1/sigma   grad log q(x_t | x0); Song et al. 2021, arXiv:2011.13456
    F       a = sigma/(c d)  b = -alpha d/c   with d the data's standard deviation and c^2 = alpha^2 d^2 + sigma^2:
                                        -v once x_t and x0 are scaled to variance 1; Karras et al. 2022,
                                        eq. 7 and table 1, arXiv:2206.00364

A minus in front, as in `-flow`, changes the sign of the prediction.

A DDPM is trained at T discrete levels k = 1..T, at the times t = k / T. With alpha = cos(phi) and sigma = sin(phi), a
table of levels becomes a curve by interpolating the angle phi: exact at every level, monotone between levels, and
finite at both ends (phi = 0 is data, phi = pi/2 is zero signal).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, SupportsIndex, cast, overload

import numpy as np
import torch
from torch import Tensor

from leapstep.core.printing import name_of
from leapstep.core.tabulated import Coefficient, Mask, is_tabulated, tabulated
from leapstep.text import allowed

Curve = Callable[[Tensor], Tensor]
"""A function of times in [0, 1], elementwise, in float64."""

PREDICTIONS = ("eps", "x0", "v", "score", "flow", "F")


def as_time(t: Tensor | float | Sequence[float]) -> Tensor:
    """Convert a time, or one time per sample, to float64 on the CPU, where all coefficients are computed.

    Raises:
        ValueError: a time outside [0, 1], such as an integer timestep.
    """
    if is_tabulated(t):
        return cast(Tensor, t)
    try:
        t = torch.as_tensor(t.copy() if isinstance(t, np.ndarray) else t, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"t={t!r}: times are numbers in [0, 1]") from None
    inside = 0 <= t.item() <= 1 if t.ndim == 0 else bool(((t >= 0) & (t <= 1)).all())
    if not inside:
        raise ValueError(f"t={t.tolist()}: times lie in [0, 1]; the trained level k of T is t = k / T")
    return t


@overload
def along(coefficient: Tensor, x: Tensor) -> Tensor: ...
@overload
def along(coefficient: Coefficient, x: Tensor) -> Coefficient: ...
def along(coefficient: Coefficient, x: Tensor) -> Coefficient:
    """Reshape a coefficient, one for all samples or one for each `[b]`, to broadcast with x `[b, *d]`."""
    if isinstance(coefficient, Tensor) and coefficient.ndim:
        return coefficient.to(x.dtype).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
    return coefficient  # a number or a 0-dim tensor takes the dtype and the device of x


def weighted(*terms: tuple[Coefficient, Tensor]) -> Tensor:
    """Add tensors `[b, *d]`, each times its coefficient, in one pass over memory each; those times 0 take none."""
    total, added = None, False
    for coefficient, x in terms:
        factor = along(coefficient, x)
        if isinstance(factor, Tensor) and factor.ndim == 0 and not factor.requires_grad:
            factor = factor.item()
        if isinstance(factor, Tensor):
            total = factor * x if total is None else torch.addcmul(total, factor, x)
        elif factor == 0:
            continue
        elif total is None:
            total = x if factor == 1 else factor * x
            added = factor != 1
            continue
        elif added and (total.shape, total.dtype) == (x.shape, x.dtype):  # the sum so far is nobody else's
            total = total.add_(x, alpha=factor)
        else:
            total = torch.add(total, x, alpha=factor)
        added = True
    if total is None:
        return torch.zeros_like(terms[0][1])
    return total if added else total.clone()


def flat(x: Tensor) -> Tensor:
    """Flatten each sample of x `[b, *d]` to a row, `[b, D]`; samples may be single numbers, `[b]`."""
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def everywhere(mask: Mask) -> bool:
    """Whether something holds of all samples."""
    return bool(mask.all()) if isinstance(mask, Tensor) else mask


def somewhere(mask: Mask) -> bool:
    """Whether something holds of any sample."""
    return bool(mask.any()) if isinstance(mask, Tensor) else mask


def where(mask: Mask, x: Tensor, y: Tensor) -> Tensor:
    """Select x `[b, *d]` where the mask, one for all samples or one for each `[b]`, is true, and y elsewhere."""
    return either(mask, lambda: x, lambda: y)


def either(mask: Mask, x: Callable[[], Tensor], y: Callable[[], Tensor]) -> Tensor:
    """The same of what functions return; a function that no sample needs is not called."""
    if not isinstance(mask, Tensor) or mask.ndim == 0:
        return x() if mask else y()
    if not mask.any():
        return y()
    if mask.all():
        return x()
    rest = y()
    return torch.where(along(mask, rest).bool().to(rest.device), x(), rest)


class Schedule(NamedTuple):
    """How a process is made: a function of `leapstep.core.schedules`, and all of its arguments.

    Attributes:
        make: the function, which can be imported by its name.
        arguments: (name, value) of each, with tables as tuples.
    """

    make: Callable[..., Process]
    arguments: tuple[tuple[str, Any], ...]

    def process(self, timesteps: int | None) -> Process:
        """Make the process, with this number of trained levels on its curves."""
        return self.make(**dict(self.arguments))._replace(timesteps=timesteps)

    def __repr__(self) -> str:
        arguments = (
            f"{name}=[{len(value)} numbers]" if isinstance(value, tuple) else f"{name}={value!r}"
            for name, value in self.arguments
        )
        return f"{self.make.__name__}({', '.join(arguments)})"


class _Curves(NamedTuple):
    alpha: Curve
    sigma: Curve
    timesteps: int | None = None
    schedule: Schedule | None = None


class Process(_Curves):
    """The marginals q(x_t | x0) = N(alpha(t) x0, sigma(t)^2 I) of a diffusion.

    Processes made by a schedule or from a table can be pickled, and are equal if their schedules and levels are.

    Attributes:
        alpha: scale of the signal, a curve on [0, 1].
        sigma: scale of the noise, a curve on [0, 1] with sigma(0) = 0; sigma / alpha does not decrease.
        timesteps: T, the number of trained levels k = 1..T, at t = k / T; None for a process in continuous time, which
            allows any number of steps.
        schedule: the schedule that made it, one of `leapstep.core.schedules`; None for curves of your own.
    """

    __slots__ = ()

    def _replace(self, **changes: Any) -> Process:
        """Replace fields; a process with another curve loses its schedule."""
        if not changes.keys().isdisjoint(("alpha", "sigma")):
            changes = {"schedule": None} | changes
        return super()._replace(**changes)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Process) and self.schedule is not None:
            return (self.schedule, self.timesteps) == (other.schedule, other.timesteps)
        return tuple.__eq__(self, other) if isinstance(other, tuple) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        if self.schedule is not None:  # without its arguments, of which a table may be long
            return hash((self.schedule.make, self.timesteps))
        return tuple.__hash__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.schedule is not None:
            return Schedule.process, (self.schedule, self.timesteps)
        return Process, tuple(self)

    def __repr__(self) -> str:
        if self.schedule is None:
            return f"Process(alpha: {_ends(self.alpha)}, sigma: {_ends(self.sigma)}, timesteps={self.timesteps})"
        made = dict(self.schedule.arguments).get("timesteps", self.timesteps)
        return f"{self.schedule!r}" + ("" if made == self.timesteps else f" with timesteps={self.timesteps}")

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2 / sigma^2): +inf at t = 0, decreasing in t. The DPM-Solver papers' lambda is half of it."""
        t = as_time(t)
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time(self, log_snr: Tensor | float) -> Tensor:
        """Invert `log_snr`, to the last bit of a float64 time. Values out of range give 1, or 0 up to that bit.

        A search like bisection, which for few values divides the interval by 64 in each round, and so needs a sixth of
        the rounds; for many values, which cost more than rounds, by 8.
        """
        target = torch.as_tensor(log_snr, dtype=torch.float64, device="cpu")
        parts, rounds = (64, 9) if target.numel() < 16 else (8, 18)
        nodes = torch.arange(1, parts, dtype=torch.float64) / parts
        high = torch.ones(target.numel(), dtype=torch.float64)
        for power in range(rounds):
            width = float(parts) ** -power
            inside = (high - width)[:, None] + width * nodes
            cleaner = 2 * (self.alpha(inside).log() - self.sigma(inside).log()) >= target.reshape(-1, 1)
            high = high - width * (parts - 1 - cleaner.sum(1)) / parts
        return high.reshape(target.shape)

    def add_noise(self, x0: Tensor, t: Tensor | float, eps: Tensor) -> Tensor:
        """Draw x_t = alpha(t) x0 + sigma(t) eps.

        Arguments:
            x0: data, `[b, *d]`.
            t: one time, or one per sample `[b]`.
            eps: standard normal noise, `[b, *d]`.
        """
        alpha, sigma = curves(self, as_time(t))
        return weighted((alpha, x0), (sigma, eps))

    def derivatives(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Differentiate the curves, (alpha'(t), sigma'(t)), by automatic differentiation."""
        with torch.inference_mode(False), torch.enable_grad():
            t = as_time(t).detach().clone().requires_grad_()
            slopes = [
                torch.autograd.grad(curve.sum(), t)[0] if curve.requires_grad else torch.zeros_like(t)
                for curve in (self.alpha(t), self.sigma(t))
            ]
        return slopes[0].detach(), slopes[1].detach()

    def mixture(self, kind: str, t: Tensor | float, sigma_data: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return (a, b) of the prediction a x0 + b eps called `kind` in the table at the head of this module.

        Arguments:
            sigma_data: d in the last row of the table.
        Raises:
            ValueError: unknown kind.
        """
        t = as_time(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        if kind.startswith("-"):
            a, b = self.mixture(kind[1:], t, sigma_data)
            return -a, -b
        match kind:
            case "eps":
                return torch.zeros_like(t), torch.ones_like(t)
            case "x0":
                return torch.ones_like(t), torch.zeros_like(t)
            case "v":
                return -sigma, alpha
            case "flow":
                slopes = a, b = self.derivatives(t)
                straight = ((alpha + sigma - 1).abs() < 1e-9) & ((a + b).abs() <= 1e-9 * b.abs())
                return torch.where(straight, -1.0, slopes[0]), torch.where(straight, 1.0, slopes[1])
            case "score":
                return torch.zeros_like(t), -1 / sigma
            case "F":
                size = self.size(t, sigma_data)
                return sigma / (size * sigma_data), -alpha * sigma_data / size
        raise ValueError(f"unknown prediction {kind!r}: {allowed(kind, PREDICTIONS)}")

    def size(self, t: Tensor | float, sigma_data: float = 1.0) -> Tensor:
        """Return the root mean square of x_t, sqrt(alpha^2 d^2 + sigma^2), for data of mean 0 and variance d^2."""
        t = as_time(t)
        return (self.alpha(t) ** 2 * sigma_data**2 + self.sigma(t) ** 2).sqrt()

    def normalized(self, x: Tensor, t: Tensor | float, sigma_data: float | None) -> Tensor:
        """x_t `[b, *d]` as a network sees it: over `size`, or as it is where `sigma_data` is None."""
        return x if sigma_data is None else x / along(_size(self, as_time(t), sigma_data), x)

    def combine(self, x0: Tensor, eps: Tensor, t: Tensor | float, kind: str) -> Tensor:
        """Combine x0 and eps to a x0 + b eps, the training target of a network that predicts this kind."""
        a, b = self.mixture(kind, t)
        return weighted((a, x0), (b, eps))

    def split(
        self, value: Tensor, x: Tensor, t: Tensor | float, kind: str, sigma_data: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Solve x_t = alpha x0 + sigma eps and value = a x0 + b eps for (x0, eps).

        The result is finite wherever the two equations determine it. At sigma = 0, x_t = x0 does not determine eps,
        which is then 0, its limit for data with a smooth density. At alpha = 0, eps does not determine x0, which is
        then not finite.

        Arguments:
            value: the prediction, `[b, *d]`.
            x: x_t, `[b, *d]`.
            t: one time, or one per sample `[b]`.
            kind: one of `PREDICTIONS`, or one of them with a minus in front.
            sigma_data: the data's standard deviation, used if the kind is "F".
        Returns:
            (x0, eps), each `[b, *d]`.
        Raises:
            ValueError: unknown kind.
        """
        return self.convert(value, x, t, kind, "x0", sigma_data), self.convert(value, x, t, kind, "eps", sigma_data)

    def convert(
        self, value: Tensor, x: Tensor, t: Tensor | float, source: str, target: str, sigma_data: float = 1.0
    ) -> Tensor:
        """Convert a prediction at x_t from one kind to another; see `split` for shapes and for alpha or sigma = 0."""
        if source == target:
            return value
        of_x, of_value = _conversion(self, as_time(t), source, target, sigma_data)
        return weighted((of_x, x), (of_value, value))


@tabulated
def curves(process: Process, t: Tensor) -> tuple[Coefficient, Coefficient]:
    """(alpha(t), sigma(t))."""
    return process.alpha(t), process.sigma(t)


@tabulated
def _size(process: Process, t: Tensor, sigma_data: float) -> Coefficient:
    return process.size(t, sigma_data)


@tabulated
def _conversion(
    process: Process, t: Tensor, source: str, target: str, sigma_data: float
) -> tuple[Coefficient, Coefficient]:
    """(m, n) with which the target is m x_t + n value, for a value of the source's kind."""
    x0, eps = _solution(process, t, source, sigma_data)
    if target in ("x0", "eps"):
        return x0 if target == "x0" else eps
    a, b = process.mixture(target, t, sigma_data)
    return a * x0[0] + b * eps[0], a * x0[1] + b * eps[1]


def _solution(
    process: Process, t: Tensor, kind: str, sigma_data: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two pairs (m, n), with which x0 and eps are m x_t + n value; see `Process.split`."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    none, whole = torch.zeros_like(t), torch.ones_like(t)
    if kind.startswith("-"):
        x0, eps = _solution(process, t, kind[1:], sigma_data)
        return (x0[0], -x0[1]), (eps[0], -eps[1])
    if kind == "x0":
        clean = sigma == 0
        share = torch.where(clean, 0.0, 1 / torch.where(clean, 1.0, sigma))
        return (none, whole), (share, -alpha * share)
    if kind == "eps":
        return (1 / alpha, -sigma / alpha), (none, whole)
    if kind == "score":  # which is -eps / sigma, infinite at sigma = 0
        return (1 / alpha, sigma**2 / alpha), (none, -sigma)
    a, b = process.mixture(kind, t, sigma_data)
    determinant = alpha * b - sigma * a
    return (b / determinant, -sigma / determinant), (-a / determinant, alpha / determinant)


def _ends(curve: Curve) -> str:
    """A curve by its values at t = 0 and t = 1, or by its name where it has none."""
    try:
        start, end = curve(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    except Exception:  # of a function of somebody's own: a process prints nevertheless
        return name_of(curve)
    return f"{start:.3g} to {end:.3g}"


def checked(process: Process) -> Process:
    """Return the process, if its curves are finite, without noise at t = 0, and noisier with t.

    Raises:
        ValueError: they are not, with the first time at which they are not.
    """
    try:
        hash(process)
    except TypeError:  # unhashable curves are checked at each call
        _check.__wrapped__(process)
    else:
        _check(process)
    return process


@lru_cache(maxsize=4096)
@torch.inference_mode(False)
def _check(process: Process) -> None:
    if process.timesteps is not None and (not isinstance(process.timesteps, SupportsIndex) or process.timesteps < 1):
        raise ValueError(f"timesteps={process.timesteps!r}: must be an integer of at least 1")
    t = torch.linspace(0, 1, 257, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    for name, curve in (("alpha", alpha), ("sigma", sigma)):
        invalid = ~curve.isfinite() | (curve < 0)
        if invalid.any():
            t_first, value = t[invalid][0], curve[invalid][0]
            raise ValueError(f"{name}({t_first:.4g}) = {value:.4g}: curves must be finite and not negative")
    if sigma[0] != 0 or alpha[0] == 0:
        raise ValueError(
            f"alpha(0) = {alpha[0]:.4g} and sigma(0) = {sigma[0]:.4g}: t = 0 is the data, without noise: alpha must be "
            "above 0 there, and sigma 0"
        )
    falls = torch.atan2(sigma, alpha).diff() < -1e-12
    if falls.any() or sigma[-1] == 0:
        at = t[:-1][falls][0].item() if falls.any() else 0.0
        raise ValueError(f"sigma / alpha does not rise beyond t = {at:.4g}: t = 0 is the data, and t = 1 the noise")
