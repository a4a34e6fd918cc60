"""A diffusion process is two curves.

Data x0 seen at time t is a Gaussian around a shrunken copy of itself,

    q(x_t | x0) = N(alpha(t) x0, sigma(t)^2 I),        x_t = alpha(t) x0 + sigma(t) eps,

with t = 0 the data and t = 1 the noise. Neither the training loss nor any sampler needs more than this marginal
(Song et al. 2021, arXiv:2010.02502, section 3), so a process *is* the pair (alpha, sigma). A network may be trained to
predict x0, eps, or any mixture a x0 + b eps of the two. With the equation above, each of these is two linear equations
in two unknowns, so all conversions are one formula (`Process.split` and its inverse `Process.combine`):

    eps     a = 0        b = 1
    x0      a = 1        b = 0
    v       a = -sigma   b = alpha      Salimans and Ho 2022, arXiv:2202.00512
    flow    a = alpha'   b = sigma'     the velocity dx_t/dt; Lipman et al. 2023, arXiv:2210.02747
    score   a = 0        b = -1/sigma   grad log q(x_t | x0); Song et al. 2021, arXiv:2011.13456
    F       a = sigma/(c d)  b = -alpha d/c   with d the data's standard deviation and c^2 = alpha^2 d^2 + sigma^2:
                                        -v once x_t and x0 are scaled to variance 1; Karras et al. 2022,
                                        eq. 7 and table 1, arXiv:2206.00364

A minus in front, as in `-flow`, is the same prediction with the other sign.

A DDPM is trained at T discrete levels k = 1..T, which stand at the times t = k / T. Writing alpha = cos(phi) and
sigma = sin(phi), a table of levels becomes a curve by interpolating the angle phi: exact at every level, monotone
between them, and finite at both ends (phi = 0 is data, phi = pi/2 is zero signal).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from leapstep.text import allowed

Curve = Callable[[Tensor], Tensor]
"""A function of times in [0, 1], elementwise, in float64."""

PREDICTIONS = ("eps", "x0", "v", "score", "flow", "F")


def as_time(t: Tensor | float | Sequence[float]) -> Tensor:
    """Bring a time, or one time per sample, to float64 on the CPU, where all coefficients are computed.

    Raises:
        ValueError: a time outside [0, 1], such as an integer timestep.
    """
    try:
        t = torch.as_tensor(t.copy() if isinstance(t, np.ndarray) else t, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"t={t!r}: times are numbers in [0, 1]") from None
    inside = 0 <= t.item() <= 1 if t.ndim == 0 else bool(((t >= 0) & (t <= 1)).all())
    if not inside:
        raise ValueError(f"t={t.tolist()}: times lie in [0, 1]; the trained level k of T is t = k / T")
    return t


def along(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient, one for all samples `[]` or one per sample `[b]`, so that it multiplies x `[b, *d]`."""
    if coefficient.ndim == 0:
        return coefficient  # a 0-dim tensor takes on the dtype and the device of x
    return coefficient.to(x.dtype).to(x.device).reshape(-1, *[1] * (x.ndim - 1))


def flat(x: Tensor) -> Tensor:
    """Write each sample of x `[b, *d]` as a row, `[b, D]`, also a sample that is a single number, `[b]`."""
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def where(mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Take x `[b, *d]` where the mask, one for all samples `[]` or one each `[b]`, is set, and y elsewhere."""
    if not mask.any():
        return y
    return torch.where(along(mask, y).bool().to(y.device), x, y)


class Process(NamedTuple):
    """The marginals q(x_t | x0) = N(alpha(t) x0, sigma(t)^2 I) of a diffusion.

    Attributes:
        alpha: signal scale, a curve on [0, 1] that does not increase.
        sigma: noise scale, a curve on [0, 1] with sigma(0) = 0.
        timesteps: T, the number of levels k = 1..T (at t = k / T) at which networks are trained; None for a process in
            continuous time, on which any number of steps is allowed.
    """

    alpha: Curve
    sigma: Curve
    timesteps: int | None = None

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2 / sigma^2): +inf at t = 0, decreasing in t. The DPM-Solver papers' lambda is half of it."""
        t = as_time(t)
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time(self, log_snr: Tensor | float) -> Tensor:
        """Invert `log_snr`, to the last bit of a float64 time. Values out of range give 1, or 0 but for that bit.

        Each round cuts the interval in which the time lies into 64: as bisection, but in a sixth of the rounds.
        """
        target = torch.as_tensor(log_snr, dtype=torch.float64, device="cpu")
        cuts, high = torch.arange(1, 64, dtype=torch.float64) / 64, torch.ones(target.numel(), dtype=torch.float64)
        for power in range(9):
            width = 64.0**-power
            inside = (high - width)[:, None] + width * cuts
            cleaner = 2 * (self.alpha(inside).log() - self.sigma(inside).log()) >= target.reshape(-1, 1)
            high = high - width * (63 - cleaner.sum(1)) / 64
        return high.reshape(target.shape)

    def add_noise(self, x0: Tensor, t: Tensor | float, eps: Tensor) -> Tensor:
        """Draw x_t = alpha(t) x0 + sigma(t) eps.

        Arguments:
            x0: data, `[b, *d]`.
            t: one time, or one per sample `[b]`.
            eps: standard normal noise, `[b, *d]`.
        """
        t = as_time(t)
        return along(self.alpha(t), x0) * x0 + along(self.sigma(t), x0) * eps

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
        """Look up (a, b) of the prediction a x0 + b eps that `kind` names (the table in the module's docstring).

        Arguments:
            sigma_data: d in the table's last row.
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
                return self.derivatives(t)
            case "score":
                return torch.zeros_like(t), -1 / sigma
            case "F":
                size = self.size(t, sigma_data)
                return sigma / (size * sigma_data), -alpha * sigma_data / size
        raise ValueError(f"unknown prediction {kind!r}: {allowed(kind, PREDICTIONS)}")

    def size(self, t: Tensor | float, sigma_data: float = 1.0) -> Tensor:
        """Root mean square of x_t, sqrt(alpha^2 d^2 + sigma^2), for centered data of standard deviation d."""
        t = as_time(t)
        return (self.alpha(t) ** 2 * sigma_data**2 + self.sigma(t) ** 2).sqrt()

    def combine(self, x0: Tensor, eps: Tensor, t: Tensor | float, kind: str) -> Tensor:
        """Mix x0 and eps into what a network of this kind predicts, a x0 + b eps: the target it is trained on."""
        a, b = self.mixture(kind, t)
        return along(a, x0) * x0 + along(b, x0) * eps

    def split(
        self, value: Tensor, x: Tensor, t: Tensor | float, kind: str, sigma_data: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Solve x_t = alpha x0 + sigma eps and value = a x0 + b eps for (x0, eps).

        Finite wherever the two equations determine the answer. At sigma = 0, x_t is x0 and says nothing of eps, which
        is then 0, its limit for data with a smooth density. At alpha = 0, eps says nothing of x0, which is then not
        finite.

        Arguments:
            value: the prediction, `[b, *d]`.
            x: x_t, `[b, *d]`.
            t: one time, or one per sample `[b]`.
            kind: one of `PREDICTIONS`, or one of them with a minus in front.
            sigma_data: the data's standard deviation, where the kind is "F".
        Returns:
            (x0, eps), each `[b, *d]`.
        Raises:
            ValueError: unknown kind.
        """
        t = as_time(t)
        if kind.startswith("-"):
            kind, value = kind[1:], -value
        alpha, sigma = along(self.alpha(t), x), along(self.sigma(t), x)
        if kind == "x0":
            clean = self.sigma(t) == 0
            eps = (x - alpha * value) / along(torch.where(clean, 1.0, self.sigma(t)), x)
            return value, where(clean, torch.zeros_like(eps), eps)
        if kind == "score":
            kind, value = "eps", -sigma * value
        if kind == "eps":
            return (x - sigma * value) / alpha, value
        a, b = (along(c, x) for c in self.mixture(kind, t, sigma_data))
        determinant = alpha * b - sigma * a
        return (b * x - sigma * value) / determinant, (alpha * value - a * x) / determinant

    def convert(self, value: Tensor, x: Tensor, t: Tensor | float, source: str, target: str) -> Tensor:
        """Convert a prediction at x_t from one kind to another; see `split` for shapes and for the ends."""
        if source == target:
            return value
        x0, eps = self.split(value, x, t, source)
        return {"x0": x0, "eps": eps}[target] if target in ("x0", "eps") else self.combine(x0, eps, t, target)


def checked(process: Process) -> Process:
    """Return the process, if its curves are those of one: finite, without noise at t = 0, and ever noisier.

    Raises:
        ValueError: they are not.
    """
    try:
        hash(process)
    except TypeError:  # curves that cannot be remembered are checked each time
        _check.__wrapped__(process)
    else:
        _check(process)
    return process


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _check(process: Process) -> None:
    if process.timesteps is not None:
        _count(timesteps=process.timesteps)
    t = torch.linspace(0, 1, 257, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    for name, curve in (("alpha", alpha), ("sigma", sigma)):
        wrong = ~curve.isfinite() | (curve < 0)
        if wrong.any():
            raise ValueError(f"{name}({t[wrong][0]:.4g}) = {curve[wrong][0]:.4g}: curves are finite and not negative")
    if sigma[0] != 0 or alpha[0] == 0:
        raise ValueError(
            f"alpha(0) = {alpha[0]:.4g} and sigma(0) = {sigma[0]:.4g}: t = 0 is the data, without noise: alpha must be "
            "above 0 there, and sigma 0"
        )
    falls = torch.atan2(sigma, alpha).diff() < -1e-12
    if falls.any() or sigma[-1] == 0:
        at = t[:-1][falls][0].item() if falls.any() else 0.0
        raise ValueError(f"sigma / alpha does not rise beyond t = {at:.4g}: t = 0 is the data, and t = 1 the noise")


def _count(**given: object) -> None:
    """Raise ValueError for a number of levels that is none."""
    for name, value in given.items():
        if not isinstance(value, SupportsIndex) or operator.index(value) < 1:
            raise ValueError(f"{name}={value!r}: must be an integer of at least 1")


def _numbers(low: float = 0.0, high: float = math.inf, *, with_low: bool = False, **given: float) -> None:
    """Raise ValueError for a parameter that is not a finite number between low (itself excluded) and high."""
    for name, value in given.items():
        if not (math.isfinite(value) and (low < value <= high or (with_low and value == low))):
            most = "" if high == math.inf else f" and at most {high:g}"
            raise ValueError(f"{name}={value}: must be {'at least' if with_low else 'above'} {low:g}{most}")


# --- from the numbers that a DDPM was trained with -----------------------------------------------------------------


@torch.inference_mode(False)  # so that the table can be differentiated along, wherever it was made
def from_alphas_cumprod(alphas_cumprod: Tensor | Sequence[float]) -> Process:
    """Make the variance-preserving process with alpha(k / T)^2 = alphas_cumprod[k - 1], sigma^2 = 1 - alpha^2.

    Arguments:
        alphas_cumprod: `[T]`, strictly decreasing, below 1; the last may be 0 (zero terminal SNR).
    Raises:
        ValueError: not a non-empty, strictly decreasing list in [0, 1).
    References:
        Ho et al. 2020, eq. 4, arXiv:2006.11239 (there alpha-bar).
    """
    table = torch.as_tensor(alphas_cumprod, dtype=torch.float64, device="cpu")
    if table.ndim != 1 or len(table) == 0:
        raise ValueError(f"alphas_cumprod has shape {tuple(table.shape)}: give a list of T >= 1 numbers")
    if (table.diff() >= 0).any() or table[-1] < 0 or table[0] >= 1:
        raise ValueError(
            "alphas_cumprod must fall strictly, from below 1 to 0 or above: give the running product of 1 - beta"
        )
    angles = torch.cat([torch.zeros(1, dtype=torch.float64), torch.atan2((1 - table).sqrt(), table.sqrt())])
    timesteps = len(table)

    def angle(t: Tensor) -> Tensor:
        position = t * timesteps
        level = position.detach().floor().clamp(0, timesteps - 1).long()
        return torch.lerp(angles[level], angles[level + 1], position - level)

    # sin(pi/2 - phi), not cos(phi), so that zero signal is exactly 0
    alpha, sigma = _remembered(lambda t: (math.pi / 2 - angle(t)).sin()), _remembered(lambda t: angle(t).sin())
    return checked(Process(alpha, sigma, timesteps))


def _remembered(curve: Curve) -> Curve:
    """Keep the values at single times: a sampler asks for the same few again and again, between small networks."""

    @lru_cache(maxsize=4096)
    @torch.inference_mode(False)
    def at(t: float) -> Tensor:
        return curve(torch.tensor(t, dtype=torch.float64))

    return lambda t: at(t.item()).clone() if t.ndim == 0 and not t.requires_grad else curve(t)


def from_betas(betas: Tensor | Sequence[float], falling: bool = False) -> Process:
    """Make the process of a DDPM with q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1}, beta_k I).

    Arguments:
        betas: `[T]`, each in (0, 1]; only the last may be 1.
        falling: allow betas that fall from each to the next, as no published schedule has them.
    Raises:
        ValueError: a beta outside (0, 1]; a falling list that is not said to be one.
    References:
        Ho et al. 2020, eq. 2 and 4, arXiv:2006.11239.
    """
    betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
    if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0) & (betas <= 1)).all():
        raise ValueError("betas must be a list of T >= 1 numbers in (0, 1]")
    if not falling and len(betas) > 1 and (betas.diff() < 0).all():
        raise ValueError(
            f"betas fall from {betas[0]:.4g} to {betas[-1]:.4g}, so they are in reverse order: give them from data to "
            "noise, or say falling=True"
        )
    return from_alphas_cumprod((1 - betas).cumprod(0))


def rescale_zero_terminal_snr(process: Process) -> Process:
    """Shift and scale alpha so that the last trained level holds no signal and the first is unchanged.

    Raises:
        ValueError: a process without trained levels.
    References:
        Lin et al. 2024, algorithm 1, arXiv:2305.08891.
    """
    if process.timesteps is None:
        raise ValueError("zero-terminal-SNR rescaling needs a process with trained levels: set its timesteps")
    alpha = process.alpha(torch.arange(1, process.timesteps + 1, dtype=torch.float64) / process.timesteps)
    alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
    return from_alphas_cumprod(alpha**2)


# --- the schedules that have names ---------------------------------------------------------------------------------


def _scaled(betas: Tensor) -> Process:
    """Betas were published for T = 1000; with another T each step must do 1000 / T as much."""
    return from_betas((betas * (1000 / len(betas))).clamp(max=0.999))


def _betas(timesteps: int, beta_start: float, beta_end: float) -> None:
    """Raise ValueError for parameters of betas that are out of range."""
    _count(timesteps=timesteps)
    _numbers(0, 1, beta_start=beta_start, beta_end=beta_end)
    if beta_start > beta_end:
        raise ValueError(f"beta_start={beta_start}, beta_end={beta_end}: betas rise, from data to noise")


def linear(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Process:
    """Linear betas, for T = 1000 from 1e-4 to 0.02 (Ho et al. 2020, arXiv:2006.11239), scaled for another T."""
    _betas(timesteps, beta_start, beta_end)
    return _scaled(torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64))


def scaled_linear(timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Process:
    """Betas linear in their square root, with latent diffusion's ends (Rombach et al. 2022, arXiv:2112.10752)."""
    _betas(timesteps, beta_start, beta_end)
    return _scaled(torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2)


def quadratic(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Process:
    """Betas linear in their square root, with the ends of the DDPM schedule ("quad" in the DDPM and DDIM code)."""
    return scaled_linear(timesteps, beta_start, beta_end)


def sigmoid(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Process:
    """Betas on a logistic curve from -6 to 6 (GeoDiff, Xu et al. 2022, arXiv:2203.02923)."""
    _betas(timesteps, beta_start, beta_end)
    curve = torch.linspace(-6, 6, timesteps, dtype=torch.float64).sigmoid()
    return _scaled(beta_start + (beta_end - beta_start) * curve)


def cosine(timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Process:
    """Squared-cosine alphas_cumprod, betas clipped at 0.999 (Nichol and Dhariwal 2021, eq. 17, arXiv:2102.09672)."""
    _count(timesteps=timesteps)
    _numbers(offset=offset, with_low=True)
    _numbers(0, 1, max_beta=max_beta)
    t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    signal = ((t + offset) / (1 + offset) * (math.pi / 2)).cos() ** 2
    return from_betas((1 - signal[1:] / signal[:-1]).clamp(max=max_beta))


def exponential(timesteps: int | None = None, rate: float = 5.0, power: float = 2.0) -> Process:
    """alpha(t) = exp(-rate t^power), variance preserving; rate 5 and power 2 are the continuous limit of `linear`."""
    _numbers(rate=rate, power=power)

    def sigma(t: Tensor) -> Tensor:
        exponent = 2 * rate * t**power
        nonzero = torch.where(exponent == 0, 1.0, exponent)  # so that the slope at t = 0 is its limit, not 0 / 0
        return t ** (power / 2) * (2 * rate * torch.where(exponent == 0, 1.0, -torch.expm1(-nonzero) / nonzero)).sqrt()

    return checked(Process(lambda t: (-rate * t**power).exp(), sigma, timesteps))


def exponential_s(timesteps: int | None = None, rate: float = 5.0) -> Process:
    """The process of `exponential` on the clock s = t^2: alpha(s) = exp(-rate s), a constant-rate (OU) noising."""
    return exponential(timesteps, rate, power=1.0)


def ve(timesteps: int = 1000, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    """Variance exploding: alpha = 1, sigma geometric over the trained levels from sigma_min to sigma_max.

    Below the first level sigma falls linearly to 0, so that t = 0 is the data.

    References:
        Song and Ermon 2019, arXiv:1907.05600; Song et al. 2021, eq. 30, arXiv:2011.13456.
    """
    _count(timesteps=timesteps)
    low = _least(timesteps, sigma_min, sigma_max)

    def sigma(t: Tensor) -> Tensor:
        level = t * timesteps
        geometric = low * (sigma_max / low) ** ((level - 1) / max(timesteps - 1, 1))
        return torch.where(level < 1, low * level, geometric)

    return checked(Process(torch.ones_like, sigma, timesteps))


def _least(timesteps: int | None, sigma_min: float, sigma_max: float) -> float:
    """Sigma at the first level of many; a single level is the last. Raises ValueError for ends that do not rise."""
    _numbers(sigma_min=sigma_min, sigma_max=sigma_max)
    if not sigma_min < sigma_max:
        raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: the first must be below the second")
    return sigma_max if timesteps == 1 else sigma_min


def karras(
    timesteps: int | None = None, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Process:
    """Variance exploding, alpha = 1, with sigma^(1 / rho) even in t between its ends, which t = 0 undercuts with 0.

    Networks that are told sigma itself (`time="log_sigma/4"` or `"sigma"`) fit any curve sigma(t); this one spaces the
    steps as their authors do.

    References:
        Karras et al. 2022, eq. 5, arXiv:2206.00364.
    """
    if timesteps is not None:
        _count(timesteps=timesteps)
    _numbers(rho=rho)
    low, first = _least(timesteps, sigma_min, sigma_max), 1 / (timesteps or 1000)
    start, end = torch.tensor([low, sigma_max], dtype=torch.float64) ** (1 / rho)

    def sigma(t: Tensor) -> Tensor:
        share = ((t - first) / (1 - first if first < 1 else 1.0)).clamp(min=0)
        return torch.where(t < first, low * t / first, (start + share * (end - start)) ** rho)

    return checked(Process(torch.ones_like, sigma, timesteps))


def vp(timesteps: int | None = None, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """The variance-preserving SDE, beta(t) linear: alpha = exp(-beta_min t / 2 - (beta_max - beta_min) t^2 / 4).

    References:
        Song et al. 2021, eq. 33, arXiv:2011.13456.
    """
    _numbers(beta_min=beta_min, with_low=True)
    _numbers(beta_max=beta_max)

    def exponent(t: Tensor) -> Tensor:
        return beta_min * t / 2 + (beta_max - beta_min) * t**2 / 4

    def sigma(t: Tensor) -> Tensor:
        squared = -torch.expm1(-2 * exponent(t))
        return torch.where(t == 0, 0.0, torch.where(t == 0, 1.0, squared).sqrt())

    return checked(Process(lambda t: (-exponent(t)).exp(), sigma, timesteps))


def subvp(timesteps: int | None = None, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """The sub-VP SDE: alpha of `vp`, and the noise scale that is its variance, sigma = 1 - alpha^2.

    References:
        Song et al. 2021, eq. 29, arXiv:2011.13456.
    """
    like = vp(timesteps, beta_min, beta_max)
    return like._replace(sigma=lambda t: like.sigma(t) ** 2)


def from_log_snr(levels: Mapping[int, float] | Tensor | Sequence[float], family: str = "vp") -> Process:
    """Make the process whose trained level k has a known log-SNR.

    This is how a schedule that nobody wrote down is used: `leapstep.diagnose` recovers these numbers from a network.

    Arguments:
        levels: `[T]`, the log-SNRs of the levels 1..T, strictly decreasing; or those of some levels, as {k: log-SNR}
            with T the largest k, between and below which it is linear in k.
        family: what alpha and sigma do: "vp" alpha^2 + sigma^2 = 1, "ve" alpha = 1, "flow" alpha + sigma = 1.
    Raises:
        ValueError: not finite, strictly decreasing numbers, or an unknown family.
    """
    if isinstance(levels, Mapping):
        known = sorted(levels)
        if len(known) < 2 or known[0] < 1:
            raise ValueError("levels must name two or more of the trained levels 1..T and their log-SNRs")
        k, values = torch.arange(1, known[-1] + 1), torch.tensor([levels[each] for each in known], dtype=torch.float64)
        right = torch.searchsorted(torch.tensor(known), k).clamp(1, len(known) - 1)
        left = torch.tensor(known)[right - 1]
        share = (k - left) / (torch.tensor(known)[right] - left)
        levels = torch.lerp(values[right - 1], values[right], share.double())
    table = torch.as_tensor(levels, dtype=torch.float64, device="cpu")
    if table.ndim != 1 or len(table) == 0 or (table.diff() >= 0).any() or not table.isfinite().all():
        raise ValueError("log-SNRs must be a list of T >= 1 finite numbers that fall strictly, from data to noise")
    preserving = from_alphas_cumprod(table.sigmoid())
    alpha, sigma = preserving.alpha, preserving.sigma
    if family == "vp":
        return preserving
    if family == "ve":
        return checked(Process(torch.ones_like, lambda t: sigma(t) / alpha(t), preserving.timesteps))
    if family == "flow":
        signal, noise = (lambda t, curve=curve: curve(t) / (alpha(t) + sigma(t)) for curve in (alpha, sigma))
        return checked(Process(signal, noise, preserving.timesteps))
    raise ValueError(f"unknown family {family!r}: use vp, ve or flow")


def flow(timesteps: int | None = None) -> Process:
    """The straight line alpha = 1 - t, sigma = t (rectified flow, Liu et al. 2023, arXiv:2209.03003)."""
    return checked(Process(lambda t: 1 - t, lambda t: t, timesteps))


SCHEDULES: dict[str, Callable[..., Process]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "quadratic": quadratic,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "exponential": exponential,
    "exponential_s": exponential_s,
    "vp": vp,
    "subvp": subvp,
    "ve": ve,
    "karras": karras,
    "flow": flow,
}
"""Every named schedule, by name; each takes `timesteps` first."""
