"""Methods that inject noise besides DDIM's family: the reverse SDE, EDM's churn and predictor-corrector.

Every marginal q(x_t) is left alone by a step that takes some noise away and puts as much back. So noise may be injected
in the step itself (`euler_maruyama`, after Anderson 1982), before it, going up a little in order to come down from
there (`churned`), or after it, at rest (`corrected`).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.process import Process, everywhere, somewhere, weighted, where
from leapstep.core.tabulated import Coefficient, Mask, tabulated, tabulated_times
from leapstep.core.transitions.family import (
    Draw,
    Step,
    Transition,
    check_downwards,
    ddpm,
    denoised,
    leap,
    leap_coefficients,
    posterior_std,
    stirred,
)
from leapstep.core.transitions.memory import Memory
from leapstep.core.transitions.named import as_transition, named, refuse_returning
from leapstep.core.transitions.ode import heun


@named
def euler_maruyama() -> Transition:
    """Euler and Maruyama's step of the reverse SDE, dx = (f x - g^2 score) dt + g dw. Order 1 in law, one call.

    f = alpha' / alpha and g^2 = 2 sigma sigma' - 2 f sigma^2, by automatic differentiation of the curves. The last step
    adds no noise. Where x_t has no signal, and f no bound, the step is that of the DDPM posterior. Near there f is
    large and the method wants many steps: on `cosine`, start a little below t = 1.

    Raises:
        ValueError: at call, s > t.
    References:
        Anderson 1982, Reverse-time diffusion equation models; Song et al. 2021, eq. 6, arXiv:2011.13456.
    """

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        x0, *_ = denoised(diffusion, x, t)
        of_x, of_x0, added = _euler_maruyama(diffusion.process, t, s)
        return Step(stirred([(of_x, x), (of_x0, x0)], added, noise), x0)

    return transition


def _posterior(process: Process, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    std = posterior_std(process, t, s)
    return std, std


@tabulated
def _euler_maruyama(process: Process, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
    """What a step multiplies x_t, x0 and fresh noise by, with eps = (x_t - alpha x0) / sigma."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    plain = (alpha == 0) | (sigma == 0)
    own_x, own_x0, own_raw, own_added = leap_coefficients(process, t, s, _posterior)
    alpha_slope, sigma_slope = process.derivatives(t)
    f = torch.where(plain, 0.0, alpha_slope / alpha)
    variance = torch.where(plain, 0.0, 2 * sigma * sigma_slope - 2 * f * sigma**2).clamp(min=0)  # g^2
    of_eps = (s - t) * torch.where(plain, 0.0, variance / sigma**2)
    added = torch.where(process.sigma(s) == 0, 0.0, (variance * (t - s)).sqrt())
    return (
        torch.where(plain, own_x, 1 + (s - t) * f + of_eps),
        torch.where(plain, own_x0 + own_raw, -of_eps * alpha),
        torch.where(plain, own_added, added),
    )


@named
def churned(transition: Transition | str, churn: float = 0.5, low: float = 0.0, high: float = math.inf) -> Transition:
    """Go up before every step: fresh noise raises x_t to a noisier time, and the transition leads to s from there.

    In log(sigma / alpha) the way up is `churn` times the step, and at most log(sqrt 2), EDM's bound, which also stands
    for the length of the last step, to no noise. (EDM spreads
    S_churn over all N steps, S_churn / N each; here it is spread over their lengths, so a step need not know N.)

    Arguments:
        transition: deterministic and without memory; by name too, "heun".
        churn: the way up as a share of the step, at least 0.
        low, high: sigma / alpha between which noise is added.
    Raises:
        ValueError: a negative churn, or low above high; at call, s > t.
    References:
        Karras et al. 2022, algorithm 2, arXiv:2206.00364.
    """
    if not (churn >= 0 and low <= high):
        raise ValueError(f"churn={churn}, low={low}, high={high}: churn must be at least 0 and low at most high")

    method: Transition = as_transition(transition)

    def step(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        u = _risen(diffusion.process, t, s, churn, low, high)
        of_x, grown = _raised(diffusion.process, t, u)
        if somewhere(grown > 0):
            x = weighted((of_x, x), (grown, noise()))
        return method(diffusion, x, u, s, memory, lambda draw=0: noise(1 + draw))

    return step


@tabulated_times
def _risen(process: Process, t: Tensor, s: Tensor, churn: float, low: float, high: float) -> Tensor:
    """The time that `churned` goes up to before a step from t to s; t where it does not."""
    check_downwards(t, s)
    rho, rho_s = (torch.exp(-process.log_snr(u) / 2) for u in (t, s))
    stirs = (low <= rho) & (rho <= high) & (rho > 0) & torch.isfinite(rho) & (s < t) & (churn > 0)
    whole = torch.where(rho_s == 0, math.log(2) / 2, (rho / rho_s).log())  # to no noise a step has no end
    rise = (churn * whole).clamp(max=math.log(2) / 2)
    u = torch.where(stirs, torch.maximum(t, process.time(-2 * (rho.log() + rise))), t)
    return torch.where(process.alpha(u) > 0, u, t)


@tabulated
def _raised(process: Process, t: Tensor, u: Tensor) -> tuple[Coefficient, Coefficient]:
    """What x_t and fresh noise are multiplied by, in going up to u."""
    up = (u > t) & (process.alpha(t) > 0)
    signal = torch.where(up, process.alpha(u) / process.alpha(t), 1.0)
    rho_squared, grown = (torch.exp(-process.log_snr(v)) for v in (t, u))
    added = torch.where(up, process.alpha(u) * (grown - rho_squared).clamp(min=0).sqrt(), 0.0)
    return signal, added


@named
def edm(churn: float = 0.5, low: float = 0.0, high: float = math.inf) -> Transition:
    """EDM's stochastic sampler: `churned` Heun. Order 2 in law, two calls.

    Arguments:
        churn, low, high: as of `churned`.
    References:
        Karras et al. 2022, algorithm 2, arXiv:2206.00364.
    """
    return churned(heun(), churn, low, high)


@named
def corrected(transition: Transition | str, corrections: int = 1, snr: float = 0.16) -> Transition:
    """Rest after every step: Langevin dynamics at s, x <- x + h score + sqrt(2 h) z with h = 2 (snr sigma)^2.

    For the ratio of noise to score that h is made of, the paper takes means over the batch; here it is sigma, their
    expectation where noise prevails, so that samples do not depend on each other. And the step is DDIM's from s to s
    with std = 2 snr sigma, which agrees with Langevin's to first order in h and keeps the law of pure noise exactly.

    Arguments:
        transition: the predictor, or its name.
        corrections: Langevin steps (and calls) after each of its steps.
        snr: signal-to-noise ratio of a correction, in (0, 0.5].
    Raises:
        ValueError: corrections below 1, snr out of range, or a method that starts its steps from an x from before the
            corrections (unipc, fitted); at call, s > t.
    References:
        Song et al. 2021, algorithms 4 and 5, arXiv:2011.13456.
    """
    if corrections < 1 or not 0 < snr <= 0.5:
        raise ValueError(f"corrections={corrections}, snr={snr}: at least 1 correction, with 0 < snr <= 0.5")

    method: Transition = as_transition(transition)
    refuse_returning("corrected", method)

    @tabulated
    def stands(process: Process, t: Tensor, s: Tensor) -> Mask:
        """Whether there is nothing to correct."""
        check_downwards(t, s)
        return (t == s) | (process.sigma(s) == 0)

    def spreads(process: Process, s: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        std = 2 * snr * process.sigma(s)
        return std, std

    def step(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        stays = stands(diffusion.process, t, s)
        x, x0, memory = method(diffusion, x, t, s, memory, lambda draw=0: noise(corrections + draw))
        if everywhere(stays):
            return Step(x, x0, memory)
        for i in range(corrections):
            rested = leap(diffusion.process, x, denoised(diffusion, x, s).x0, s, s, spreads, partial(noise, i))
            x = where(stays, x, rested)
        return Step(x, x0, memory)

    return step


@named
def pc(corrections: int = 1, snr: float = 0.16) -> Transition:
    """Predictor and corrector: the step of the DDPM posterior, `corrected`. One call and one for each correction.

    Arguments:
        corrections: of each step.
        snr: the size of a correction, as of `corrected`.
    References:
        Song et al. 2021, section 4.2 and appendix G, arXiv:2011.13456.
    """
    return corrected(ddpm(), corrections, snr)
