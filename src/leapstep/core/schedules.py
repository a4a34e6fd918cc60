"""Noise schedules: processes by name and parameters, or from the numbers that a network was trained with.

A *schedule* is the name of one of these functions with its parameters. Processes are written to files, compared and
pickled by their schedule.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ParamSpec, SupportsIndex, cast

import numpy as np
import torch
from torch import Tensor

from leapstep.core import instead
from leapstep.core.printing import name_of
from leapstep.core.process import Curve, Process, Schedule, checked
from leapstep.text import SYNONYMS, allowed, one_line

P = ParamSpec("P")


def _schedule(make: Callable[P, Process]) -> Callable[P, Process]:
    """Record in the process the function that made it, and its arguments, by which it is made only once."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def made(*args: P.args, **options: P.kwargs) -> Process:
        numbers = all(value is None or isinstance(value, int | float) for value in (*args, *options.values()))
        return (once if numbers else anew)(*args, **options)  # a table may change under us

    def anew(*args: P.args, **options: P.kwargs) -> Process:
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        process = make(*args, **options)
        arguments = tuple((name, _frozen(value)) for name, value in bound.arguments.items())
        return process._replace(schedule=Schedule(made, arguments))

    once = cast("Callable[P, Process]", lru_cache(maxsize=64, typed=True)(torch.inference_mode(False)(anew)))
    return made


def _frozen(value: Any) -> Any:
    """A parameter as JSON has it: a table as a tuple of numbers or of pairs (level, number), a scalar as Python's."""
    if getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, Mapping):
        return tuple((int(level), float(number)) for level, number in sorted(value.items()))
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return value
    rows = torch.as_tensor(value, dtype=torch.float64, device="cpu").tolist()
    return tuple((int(row[0]), row[1]) if isinstance(row, list) else row for row in rows)


def check_count(**numbers: object) -> None:
    """Raise ValueError for a number of levels that is not an integer of at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, SupportsIndex) or operator.index(value) < 1:
            raise ValueError(f"{name}={value!r}: must be an integer of at least 1")


def _numbers(low: float = 0.0, high: float = math.inf, *, with_low: bool = False, **numbers: float) -> None:
    """Raise ValueError for a parameter that is not finite and in (low, high], or [low, high] with `with_low`."""
    for name, value in numbers.items():
        if not (math.isfinite(value) and (low < value <= high or (with_low and value == low))):
            most = "" if high == math.inf else f" and at most {high:g}"
            raise ValueError(f"{name}={value}: must be {'at least' if with_low else 'above'} {low:g}{most}")


# --- from the numbers that a DDPM was trained with -----------------------------------------------------------------


@_schedule
@torch.inference_mode(False)  # so that the curves can be differentiated wherever they were made
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
            "alphas_cumprod must decrease strictly, from below 1 to 0 or above: give the running product of 1 - beta"
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
    """Cache the values at single times: samplers evaluate the same few again and again."""

    @lru_cache(maxsize=4096)
    @torch.inference_mode(False)
    def at(t: float) -> Tensor:
        return curve(torch.tensor(t, dtype=torch.float64))

    def remembered(t: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return at(t.item()).clone() if t.ndim == 0 and not t.requires_grad else curve(t)

    return remembered


@_schedule
def from_betas(betas: Tensor | Sequence[float], falling: bool = False) -> Process:
    """Make the process of a DDPM with q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1}, beta_k I).

    Arguments:
        betas: `[T]`, each in (0, 1]; only the last may be 1.
        falling: allow betas that decrease throughout, which no published schedule does.
    Raises:
        ValueError: a beta outside (0, 1]; a decreasing list without `falling`.
    References:
        Ho et al. 2020, eq. 2 and 4, arXiv:2006.11239.
    """
    betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
    if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0) & (betas <= 1)).all():
        raise ValueError("betas must be a list of T >= 1 numbers in (0, 1]")
    if not falling and len(betas) > 1 and (betas.diff() < 0).all():
        raise ValueError(
            f"betas fall from {betas[0]:.4g} to {betas[-1]:.4g}, so they are in reverse order: give them from data to "
            "noise, or pass falling=True"
        )
    return from_alphas_cumprod((1 - betas).cumprod(0))


def rescale_zero_terminal_snr(process: Process) -> Process:
    """Shift and scale alpha so that the last trained level holds no signal and the first is unchanged.

    Arguments:
        process: one with trained levels and alpha^2 + sigma^2 = 1.
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


# --- named schedules -----------------------------------------------------------------------------------------------


def _scaled(betas: Tensor) -> Process:
    """Scale betas published for T = 1000 to another T, at which each level adds 1000 / T times as much noise."""
    return from_betas((betas * (1000 / len(betas))).clamp(max=0.999))


def _betas(timesteps: int, beta_start: float, beta_end: float) -> None:
    """Raise ValueError for parameters of betas that are out of range."""
    check_count(timesteps=timesteps)
    _numbers(0, 1, beta_start=beta_start, beta_end=beta_end)
    if beta_start > beta_end:
        raise ValueError(f"beta_start={beta_start}, beta_end={beta_end}: betas must not decrease from data to noise")


@_schedule
def linear(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Process:
    """Linear betas, for T = 1000 from 1e-4 to 0.02 (Ho et al. 2020, arXiv:2006.11239), scaled for another T.

    Arguments:
        timesteps: the number of trained levels.
        beta_start, beta_end: the first and the last beta for T = 1000.
    """
    _betas(timesteps, beta_start, beta_end)
    return _scaled(torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64))


@_schedule
def scaled_linear(timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Process:
    """Betas linear in their square root, with latent diffusion's ends (Rombach et al. 2022, arXiv:2112.10752).

    Arguments:
        timesteps: the number of trained levels.
        beta_start, beta_end: the first and the last beta for T = 1000.
    """
    _betas(timesteps, beta_start, beta_end)
    return _scaled(torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2)


@_schedule
def quadratic(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Process:
    """Betas linear in their square root, with the ends of the DDPM schedule ("quad" in the DDPM and DDIM code).

    Arguments:
        timesteps: the number of trained levels.
        beta_start, beta_end: the first and the last beta for T = 1000.
    """
    return scaled_linear(timesteps, beta_start, beta_end)


@_schedule
def sigmoid(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Process:
    """Betas on a logistic curve from -6 to 6 (GeoDiff, Xu et al. 2022, arXiv:2203.02923).

    Arguments:
        timesteps: the number of trained levels.
        beta_start, beta_end: the ends of the curve for T = 1000.
    """
    _betas(timesteps, beta_start, beta_end)
    curve = torch.linspace(-6, 6, timesteps, dtype=torch.float64).sigmoid()
    return _scaled(beta_start + (beta_end - beta_start) * curve)


@_schedule
def cosine(timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Process:
    """Squared-cosine alphas_cumprod, betas clipped at 0.999 (Nichol and Dhariwal 2021, eq. 17, arXiv:2102.09672).

    Arguments:
        timesteps: the number of trained levels.
        offset: added to t, so that the first betas are not too small.
        max_beta: the largest beta.
    """
    check_count(timesteps=timesteps)
    _numbers(offset=offset, with_low=True)
    _numbers(0, 1, max_beta=max_beta)
    t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    signal = ((t + offset) / (1 + offset) * (math.pi / 2)).cos() ** 2
    return from_betas((1 - signal[1:] / signal[:-1]).clamp(max=max_beta))


@_schedule
def exponential(timesteps: int | None = None, rate: float = 5.0, power: float = 2.0) -> Process:
    """alpha(t) = exp(-rate t^power), variance preserving; rate 5 and power 2 are the continuous limit of `linear`.

    Arguments:
        timesteps: the number of trained levels; None: continuous time.
        rate, power: as in the formula, above 0.
    """
    _numbers(rate=rate, power=power)

    def sigma(t: Tensor) -> Tensor:
        exponent = 2 * rate * t**power
        nonzero = torch.where(exponent == 0, 1.0, exponent)  # makes the slope at t = 0 its limit, not 0 / 0
        return t ** (power / 2) * (2 * rate * torch.where(exponent == 0, 1.0, -torch.expm1(-nonzero) / nonzero)).sqrt()

    return checked(Process(lambda t: (-rate * t**power).exp(), sigma, timesteps))


@_schedule
def exponential_s(timesteps: int | None = None, rate: float = 5.0) -> Process:
    """The process of `exponential` in the time s = t^2: alpha(s) = exp(-rate s), an Ornstein-Uhlenbeck process.

    Arguments:
        timesteps: the number of trained levels; None: continuous time.
        rate: as in the formula, above 0.
    """
    return exponential(timesteps, rate, power=1.0)


@_schedule
def ve(timesteps: int = 1000, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    """Variance exploding: alpha = 1, sigma geometric over the trained levels from sigma_min to sigma_max.

    Below the first level sigma falls linearly to 0, so that t = 0 is the data.

    Arguments:
        timesteps: the number of trained levels.
        sigma_min, sigma_max: sigma at the first and at the last trained level.
    References:
        Song and Ermon 2019, arXiv:1907.05600; Song et al. 2021, eq. 30, arXiv:2011.13456.
    """
    check_count(timesteps=timesteps)
    low = _least(timesteps, sigma_min, sigma_max)

    def sigma(t: Tensor) -> Tensor:
        level = t * timesteps
        geometric = low * (sigma_max / low) ** ((level - 1) / max(timesteps - 1, 1))
        return torch.where(level < 1, low * level, geometric)

    return checked(Process(torch.ones_like, sigma, timesteps))


def _least(timesteps: int | None, sigma_min: float, sigma_max: float) -> float:
    """Return sigma at the first level, or at the last if there is one only. Raises ValueError for ends out of order."""
    _numbers(sigma_min=sigma_min, sigma_max=sigma_max)
    if not sigma_min < sigma_max:
        raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: sigma_min must be below sigma_max")
    return sigma_max if timesteps == 1 else sigma_min


@_schedule
def karras(
    timesteps: int | None = None, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Process:
    """Variance exploding, alpha = 1, with sigma^(1 / rho) linear in t between its ends, and sigma = 0 at t = 0.

    Networks that take sigma itself (`time="log_sigma/4"` or `"sigma"`) fit any curve sigma(t); this one spaces steps as
    their authors do.

    Arguments:
        timesteps: the number of trained levels; None: continuous time.
        sigma_min, sigma_max: the least sigma above 0, and sigma at t = 1.
        rho: the exponent.
    References:
        Karras et al. 2022, eq. 5, arXiv:2206.00364.
    """
    if timesteps is not None:
        check_count(timesteps=timesteps)
    _numbers(rho=rho)
    low, first = _least(timesteps, sigma_min, sigma_max), 1 / (timesteps or 1000)
    start, end = torch.tensor([low, sigma_max], dtype=torch.float64) ** (1 / rho)

    def sigma(t: Tensor) -> Tensor:
        share = ((t - first) / (1 - first if first < 1 else 1.0)).clamp(min=0)
        return torch.where(t < first, low * t / first, (start + share * (end - start)) ** rho)

    return checked(Process(torch.ones_like, sigma, timesteps))


@_schedule
def vp(timesteps: int | None = None, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """The variance-preserving SDE with linear beta(t): alpha = exp(-beta_min t / 2 - (beta_max - beta_min) t^2 / 4).

    Arguments:
        timesteps: the number of trained levels; None: continuous time.
        beta_min, beta_max: beta at t = 0 and at t = 1.
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


@_schedule
def subvp(timesteps: int | None = None, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """The sub-VP SDE: the alpha of `vp`, and sigma = 1 - alpha^2.

    Arguments:
        timesteps: the number of trained levels; None: continuous time.
        beta_min, beta_max: beta at t = 0 and at t = 1.
    References:
        Song et al. 2021, eq. 29, arXiv:2011.13456.
    """
    preserving = vp(timesteps, beta_min, beta_max)
    return preserving._replace(sigma=lambda t: preserving.sigma(t) ** 2)


@_schedule
def from_log_snr(
    levels: Mapping[int, float] | Sequence[tuple[int, float]] | Tensor | Sequence[float], family: str = "vp"
) -> Process:
    """Make the process whose trained level k has a known log-SNR.

    For a schedule without a name: `leapstep.diagnose` reads these numbers from a network.

    Arguments:
        levels: `[T]`, the log-SNRs of the levels 1..T, strictly decreasing; or those of some levels, as {k: log-SNR} or
            pairs, with T the largest k, between and below which it is linear in k.
        family: how alpha and sigma are related: "vp" alpha^2 + sigma^2 = 1, "ve" alpha = 1, "flow" alpha + sigma = 1.
    Raises:
        ValueError: not finite, strictly decreasing numbers, or an unknown family.
    """
    if not isinstance(levels, Mapping) and np.ndim(levels) == 2:
        pairs: Any = levels
        levels = {int(level): number for level, number in pairs}
    if isinstance(levels, Mapping):
        known = sorted(levels)
        if len(known) < 2 or known[0] < 1:
            raise ValueError("levels must map two or more of the trained levels 1..T to their log-SNRs")
        k, values = (
            torch.arange(1, known[-1] + 1),
            torch.tensor([levels[level] for level in known], dtype=torch.float64),
        )
        right = torch.searchsorted(torch.tensor(known), k).clamp(1, len(known) - 1)
        left = torch.tensor(known)[right - 1]
        share = (k - left) / (torch.tensor(known)[right] - left)
        levels = torch.lerp(values[right - 1], values[right], share.double())
    table = torch.as_tensor(levels, dtype=torch.float64, device="cpu")
    if table.ndim != 1 or len(table) == 0 or (table.diff() >= 0).any() or not table.isfinite().all():
        raise ValueError("log-SNRs must be a list of T >= 1 finite numbers that decrease strictly, from data to noise")
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


@_schedule
def flow(timesteps: int | None = None, shift: float = 1.0) -> Process:
    """The straight line alpha = 1 - sigma, sigma = s t / (1 + (s - 1) t); with s = 1 it is sigma = t (rectified flow).

    A shift s above 1 spends more of the time at high noise, as large images need.

    Arguments:
        timesteps: the number of trained levels; None: continuous time.
        shift: s, above 0.
    References:
        Liu et al. 2023, arXiv:2209.03003; Esser et al. 2024, eq. 23 (shift), arXiv:2403.03206.
    """
    _numbers(shift=shift)
    if shift == 1:
        return checked(Process(lambda t: 1 - t, lambda t: t, timesteps))
    return checked(
        Process(lambda t: (1 - t) / (1 + (shift - 1) * t), lambda t: shift * t / (1 + (shift - 1) * t), timesteps)
    )


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

TABLES: dict[str, Callable[..., Process]] = {
    "from_betas": from_betas,
    "from_alphas_cumprod": from_alphas_cumprod,
    "from_log_snr": from_log_snr,
}
"""Every function that makes a process from the numbers of its levels, by name."""


def as_process(value: Any) -> Process:
    """The process that is meant by a name in `SCHEDULES`, by one of its functions, called or not, or by a Process.

    Raises:
        ValueError: an unknown name, a process that is none, or something else.
    """
    if isinstance(value, str):
        value = SYNONYMS.get(value, value)
        if value not in SCHEDULES:
            raise ValueError(f"there is no process {one_line(value, 60)!r}: {allowed(value, SCHEDULES)}")
        return SCHEDULES[value]()
    if any(value is make for make in SCHEDULES.values()):  # not called, such as leapstep.linear
        value = value()
    elif any(value is make for make in TABLES.values()):
        raise ValueError(f"process={name_of(value)} makes a process of a table: call it with one")
    if not isinstance(value, Process):
        raise ValueError(f"process is {instead.of_process(value)}")
    return checked(value)
