"""A transition moves x from time t to time s, and the choice of transition is the choice of sampler.

DDIM's observation: any joint law with the right marginals q(x_t | x0) is as good as the Markovian one. Given x_t and x0
(hence eps), x_s may be drawn from

    x_s = alpha(s) x0 + sqrt(sigma(s)^2 - std^2) eps + std z,        z ~ N(0, I),

for *any* 0 <= std <= sigma(s) and any pair of times, since both noises add up to sigma(s)^2. Let

    f(t, s) = 1 - SNR(t) / SNR(s)

be the fraction of x_t's noise variance that is younger than s. Then std = eta sigma(s) sqrt(f), where eta = 0 is DDIM,
a deterministic map, and eta = 1 the posterior q(x_s | x_t, x0) of the Markov chain, so DDPM (eq. 12 and 16 of Song et
al. 2021, arXiv:2010.02502, for a general alpha and sigma).

The deterministic map is Euler's step on an ordinary differential equation, d(x / alpha) = eps d(sigma / alpha), so
every solver of such equations is a sampler as well: those below take better steps of the same ODE.

A transition keeps no state: memory of earlier steps and randomness come in, memory goes out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.denoiser import Diffusion
from leapstep.process import Process, along, where

Memory = Any
"""What a multistep method carries from step to step; None before the first."""

Noise = Callable[..., Tensor]
"""Standard normal noise `[b, *d]` of this step; `noise(1)`, `noise(2)` ... are further independent draws."""


class Step(NamedTuple):
    """What a transition returns: x at time s, the x0 estimate that it used, memory for the next step."""

    x: Tensor
    x0: Tensor
    memory: Memory = None


Transition = Callable[[Diffusion, Tensor, Tensor, Tensor, Memory, Noise], Step]
"""(diffusion, x, t, s, memory, noise) -> Step, with t and s float64 on the CPU, one for all `[]` or one each `[b]`."""


def estimate(diffusion: Diffusion, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate (x0, eps) from x_t. At sigma(t) = 0 nothing is left to denoise: x0 is x / alpha, eps is 0."""
    alpha, clean = diffusion.process.alpha(t), diffusion.process.sigma(t) == 0
    if clean.all():
        return x / along(alpha, x), torch.zeros_like(x)
    x0 = where(clean, x / along(alpha, x), diffusion.denoise(x, t))
    return diffusion.process.split(x0, x, t, "x0")


def younger(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """f(t, s) = 1 - SNR(t) / SNR(s), in [0, 1] for s <= t, below 0 for s > t, and 0 for s = t."""
    return torch.where(t == s, 0.0, -torch.expm1(process.log_snr(t) - process.log_snr(s)))


def ddim(eta: float = 0.0) -> Transition:
    """DDIM's family, from the deterministic map (eta = 0) to the DDPM posterior (eta = 1). First order.

    With eta = 0 it runs in both directions: s > t encodes.

    Arguments:
        eta: share of the posterior's standard deviation that each step injects, in [0, 1].
    Raises:
        ValueError: eta outside [0, 1]; at call, s > t with eta > 0.
    References:
        Song et al. 2021, eq. 12 and 16, arXiv:2010.02502.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: must lie between 0 (DDIM) and 1 (DDPM); for more noise use ddpm(variance='beta')")

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Noise) -> Step:
        if eta == 0:
            return _leap(diffusion, x, t, s, noise)
        posterior = diffusion.process.sigma(s) * younger(diffusion.process, t, s).clamp(min=0).sqrt()
        return _leap(diffusion, x, t, s, noise, replaced=eta, std=eta * posterior)

    return transition


def ddpm(variance: str = "posterior") -> Transition:
    """Ancestral sampling: the mean of the DDPM posterior q(x_s | x_t, x0), and a choice of noise around it.

    Arguments:
        variance: "posterior" (the posterior's own, sigma(s)^2 f; the same as `ddim(1)`), "beta" (the larger
            sigma(t)^2 f, which is beta_t for neighbours: sigma-hat of the DDIM paper), or "none" (the bare mean). No
            noise is added to a result at sigma(s) = 0.
    Raises:
        ValueError: unknown variance; at call, s > t.
    References:
        Ho et al. 2020, eq. 6, 7 and section 3.2, arXiv:2006.11239; Song et al. 2021, section 5.
    """
    if variance not in ("posterior", "beta", "none"):
        raise ValueError(f"unknown variance={variance!r}: use posterior, beta or none")

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Noise) -> Step:
        sigma_t, sigma_s = diffusion.process.sigma(t), diffusion.process.sigma(s)
        scale = {"posterior": sigma_s, "beta": torch.where(sigma_s == 0, 0.0, sigma_t), "none": torch.zeros_like(s)}
        std = scale[variance] * younger(diffusion.process, t, s).clamp(min=0).sqrt()
        return _leap(diffusion, x, t, s, noise, replaced=1.0, std=std)

    return transition


def _leap(
    diffusion: Diffusion,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    noise: Noise,
    replaced: float = 0.0,
    std: Tensor | None = None,
) -> Step:
    """The formula at the head of this module; eps gives up what `replaced` (an eta) says, std z comes in its place."""
    process = diffusion.process
    sigma = process.sigma(s)
    if replaced:
        if (s > t).any():
            raise ValueError("a step from data towards noise (s > t) must be deterministic: use ddim with eta = 0")
        sigma = sigma * (1 - replaced**2 * younger(process, t, s)).sqrt()
    x0, eps = estimate(diffusion, x, t)
    x_s = along(process.alpha(s), x) * x0 + along(sigma, x) * eps
    if std is not None and (std > 0).any():
        x_s = x_s + along(std, x) * noise()
    return Step(x_s, x0)


# --- the deterministic map as an ordinary differential equation -------------------------------------------------------


def heun() -> Transition:
    """Heun's method on the ODE: a DDIM step, then the slope averaged over both of its ends. Second order, two calls.

    References:
        Karras et al. 2022, algorithm 1, arXiv:2206.00364.
    """
    return _runge_kutta(nodes=[0.0, 1.0], stages=[[], [1.0]], weights=[0.5, 0.5])


def rk4() -> Transition:
    """The classical Runge-Kutta method on the ODE. Fourth order, four calls."""
    return _runge_kutta(
        nodes=[0.0, 0.5, 0.5, 1.0],
        stages=[[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]],
        weights=[1 / 6, 1 / 3, 1 / 3, 1 / 6],
    )


def _runge_kutta(nodes: list[float], stages: list[list[float]], weights: list[float]) -> Transition:
    """An explicit Runge-Kutta step, by its Butcher tableau, of d(x / alpha) = eps d(sigma / alpha).

    Its Euler step is DDIM, which is also taken where one end has no noise or no signal: eps is not known at the one,
    and the coordinates are infinite at the other.

    References:
        Song et al. 2021, eq. 14, arXiv:2010.02502.
    """

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Noise) -> Step:
        process = diffusion.process
        x0, eps = estimate(diffusion, x, t)
        euler = process.add_noise(x0, s, eps)
        plain = (process.sigma(t) * process.sigma(s) == 0) | (process.alpha(t) * process.alpha(s) == 0)
        if plain.all():
            return Step(euler, x0)
        start, end = (torch.exp(-process.log_snr(u) / 2) for u in (t, s))  # sigma / alpha
        slopes = [eps]

        def ahead(shares: list[float], u: Tensor) -> Tensor:
            slope = torch.stack([share * known for share, known in zip(shares, slopes, strict=True) if share]).sum(0)
            return along(process.alpha(u), x) * (x / along(process.alpha(t), x) + along(end - start, x) * slope)

        for node, shares in zip(nodes[1:], stages[1:], strict=True):
            u = s if node == 1 else process.time(-2 * torch.lerp(start, end, node).log())
            slopes.append(estimate(diffusion, ahead(shares, u), u)[1])
        return Step(where(plain, euler, ahead(weights, s)), x0)

    return transition


# --- the same, exact in the linear part: DPM-Solver++ -----------------------------------------------------------------


def dpmpp_2m() -> Transition:
    """DPM-Solver++ 2M: a DDIM step with x0 extrapolated from this step's estimate and the last one's. Second order.

    In lambda = log(alpha / sigma) the estimate is taken as a line, and the rest of the ODE is solved exactly. One call
    a step. The first step, and a step that begins or ends without noise or signal, is DDIM's.

    References:
        Lu et al. 2022, algorithm 2, arXiv:2211.01095.
    """

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Noise) -> Step:
        process = diffusion.process
        x0, _ = estimate(diffusion, x, t)
        ahead = x0
        if memory is not None:
            last_x0, last_t = memory
            now, then, before = (process.log_snr(u) for u in (t, s, last_t))
            share = ((then - now) / (2 * (now - before))).nan_to_num(0.0, 0.0, 0.0)
            share = torch.where(torch.isfinite(then - now), share, 0.0)
            ahead = x0 + along(share, x) * (x0 - last_x0)
        return Step(_with_estimate(process, x, ahead, t, s), x0, (x0, t))

    return transition


def dpmpp_2s() -> Transition:
    """DPM-Solver++ 2S: a DDIM step with the x0 estimate from its middle in lambda. Second order, two calls, no memory.

    References:
        Lu et al. 2022, algorithm 1 with r = 1/2, arXiv:2211.01095.
    """

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Noise) -> Step:
        process = diffusion.process
        x0, _ = estimate(diffusion, x, t)
        middle = (process.log_snr(t) + process.log_snr(s)) / 2
        plain = ~torch.isfinite(middle)
        if plain.all():
            return Step(_with_estimate(process, x, x0, t, s), x0)
        u = torch.where(plain, t, process.time(middle))
        inner, _ = estimate(diffusion, _with_estimate(process, x, x0, t, u), u)
        return Step(_with_estimate(process, x, where(plain, x0, inner), t, s), x0)

    return transition


def _with_estimate(process: Process, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """DDIM's step from x_t with this x0, and the eps that goes with it."""
    x0, eps = process.split(x0, x, t, "x0")
    return process.add_noise(x0, s, eps)


TRANSITIONS: dict[str, Callable[..., Transition]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "heun": heun,
    "rk4": rk4,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2s": dpmpp_2s,
}
"""Every sampling method, by the name that the command line uses."""
