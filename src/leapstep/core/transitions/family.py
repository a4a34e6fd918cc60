"""DDIM's family: the formula of a step from time t to time s, on which all methods rest.

DDIM's observation: any joint law with the right marginals q(x_t | x0) is as good as the Markovian one. Given x_t and x0
(hence eps), x_s may be drawn from

    x_s = alpha(s) x0 + sqrt(sigma(s)^2 - std^2) eps + std z,        z ~ N(0, I),

for *any* 0 <= std <= sigma(s) and any pair of times, since both noises add up to sigma(s)^2. Let

    f(t, s) = 1 - SNR(t) / SNR(s)

be the fraction of x_t's noise variance that is younger than s. Then std = eta sigma(s) sqrt(f), where eta = 0 is DDIM,
a deterministic map, and eta = 1 the posterior q(x_s | x_t, x0) of the Markov chain, so DDPM (eq. 12 and 16 of Song et
al. 2021, arXiv:2010.02502, for a general alpha and sigma).

The formula wants an x0 that is known only up to a spread, Cov[x0 | x_t], and x_s holds x0 with the factor
kappa = alpha(s) - sqrt(sigma(s)^2 - std^2) alpha(t) / sigma(t). Among Gaussian steps with this mean, the one nearest
to the true reverse step adds what the estimate left out: a variance of std^2 + kappa^2 E tr Cov[x0 | x_t] / d
(Analytic-DPM, Bao et al. 2022, theorem 1, arXiv:2201.06503).

A transition keeps no state: memory of earlier steps and randomness come in, memory goes out. What becomes of a sample
depends on its own row of x, t, s, memory and noise alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion, Estimate, needed
from leapstep.core.printing import summary
from leapstep.core.process import Curve, Process, along, everywhere, somewhere, weighted, where
from leapstep.core.tabulated import Coefficient, Mask, tabulated
from leapstep.core.transitions.memory import Memory
from leapstep.core.transitions.named import named

Draw = Callable[..., Tensor]
"""Standard normal noise `[b, *d]` of this step; `noise(1)`, `noise(2)` ... are further independent draws."""


class Step(NamedTuple):
    """What a transition returns: x at time s, the x0 estimate that it used, memory for the next step."""

    x: Tensor
    x0: Tensor
    memory: Memory = None

    def __repr__(self) -> str:
        return summary(self, self._asdict().items())


Transition = Callable[[Diffusion, Tensor, Tensor, Tensor, Memory, Draw], Step]
"""(diffusion, x, t, s, memory, noise) -> Step, with t and s float64 on the CPU, one for all `[]` or one each `[b]`."""


def estimate(diffusion: Diffusion, x: Tensor, t: Tensor, raw: bool = False) -> tuple[Tensor, Tensor]:
    """Estimate (x0, eps) from x_t. At sigma(t) = 0 nothing is left to denoise: x0 is x / alpha, eps is 0.

    Arguments:
        raw: where x0 is bounded, return the eps of before; else that which follows from the bounded x0.
    """
    x0, unbounded, _ = denoised(diffusion, x, t)
    return x0, diffusion.process.convert(unbounded if raw else x0, x, t, "x0", "eps")


def denoised(diffusion: Diffusion, x: Tensor, t: Tensor) -> Estimate:
    """The same without eps, which few methods need beside x_t and x0."""
    clean, alpha = _clean(diffusion.process, t)
    if everywhere(clean):
        known = x / along(alpha, x)
        return Estimate(known, known, torch.zeros_like(x))
    network = diffusion.estimate(x, t)
    if not somewhere(clean):
        return network
    known = x / along(alpha, x)
    return network._replace(x0=where(clean, known, network.x0), unbounded=where(clean, known, network.unbounded))


@tabulated
def _clean(process: Process, t: Tensor) -> tuple[Mask, Coefficient]:
    """Whether x_t has no noise, and what x0 is multiplied by there; 1 elsewhere."""
    clean = process.sigma(t) == 0
    return clean, torch.where(clean, process.alpha(t), 1.0)


def younger(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """f(t, s) = 1 - SNR(t) / SNR(s), in [0, 1] for s <= t, below 0 for s > t, and 0 for s = t."""
    return torch.where(t == s, 0.0, -torch.expm1(process.log_snr(t) - process.log_snr(s)))


Spreads = Callable[[Process, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(process, t, s) -> the standard deviations `replaced`, which eps gives up, and `added`, of the fresh noise."""

Terms = Sequence[tuple[Coefficient, Tensor]]
"""Estimates with their weights, which stand for their sum."""


def leap(
    process: Process,
    x: Tensor,
    x0: Tensor | Terms,
    t: Tensor,
    s: Tensor,
    spreads: Spreads | None = None,
    noise: Draw | None = None,
    raw: Tensor | None = None,
) -> Tensor:
    """The formula at the head of this module: x_s = alpha x0 + sqrt(sigma^2 - replaced^2) eps + added z.

    With eps from x_t = alpha x0 + sigma eps it is a sum of x_t, x0 and z, and is computed as such.

    Arguments:
        x0: an estimate at t, or a weighted sum of several.
        spreads: the noise, replaced and added; None: none, the deterministic map.
        raw: the estimate that eps follows from; None: x0.
    """
    of_x, of_x0, of_raw, added = _leap_coefficients(process, t, s, spreads)
    terms: list[tuple[Coefficient, Tensor]] = [(of_x, x)]
    if raw is not None:
        terms.append((of_raw, raw))
    share = of_x0 if raw is not None else of_x0 + of_raw
    terms += [(share, x0)] if isinstance(x0, Tensor) else [(share * weight, value) for weight, value in x0]
    return stirred(terms, added, noise)


def stirred(terms: Terms, added: Coefficient, noise: Draw | None) -> Tensor:
    """The sum of some terms, with noise of this standard deviation where there is any."""
    if noise is None or not somewhere(added > 0):
        return weighted(*terms)
    return weighted(*terms, (added, noise()))


def leap_coefficients(
    process: Process, t: Tensor, s: Tensor, spreads: Spreads | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `leap` multiplies by: x_t, x0, the estimate that eps follows from, and z."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    replaced, added = spreads(process, t, s) if spreads else (torch.zeros_like(sigma),) * 2
    kept = (process.sigma(s) ** 2 - replaced**2).clamp(min=0).sqrt() if spreads else process.sigma(s)
    of_x = torch.where(sigma == 0, 0.0, kept / torch.where(sigma == 0, 1.0, sigma))
    return of_x, process.alpha(s), -of_x * alpha, added


_leap_coefficients: Callable[[Process, Tensor, Tensor, Spreads | None], tuple[Coefficient, ...]] = tabulated(
    leap_coefficients
)


def leap_by_eps(process: Process, x: Tensor, eps: Terms, t: Tensor, s: Tensor) -> Tensor:
    """The deterministic `leap` of estimates of eps in place of x0, at a t at which there is a signal."""
    of_x, of_eps = _leap_by_eps(process, t, s)
    return weighted((of_x, x), *((of_eps * weight, value) for weight, value in eps))


@tabulated
def _leap_by_eps(process: Process, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient]:
    """What x_t and eps are multiplied by."""
    of_x = process.alpha(s) / process.alpha(t)
    return of_x, process.sigma(s) - of_x * process.sigma(t)


def steep(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """Whether rho = sigma / alpha is above 10 and changes more than 20-fold: there no line in rho is a guess."""
    rho, rho_s = (torch.exp(-process.log_snr(u) / 2) for u in (t, s))
    high = torch.maximum(rho, rho_s)
    return (high > 10) & (high > 20 * torch.minimum(rho, rho_s))


def check_downwards(t: Tensor, s: Tensor) -> None:
    """Raise ValueError for a step that injects noise on the way up, s > t."""
    if (s > t).any():
        raise ValueError("a step from data towards noise (s > t) must be deterministic: use ddim with eta = 0")


def posterior_std(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """sigma(s) sqrt(f(t, s)), the standard deviation of q(x_s | x_t, x0) in the Markov chain.

    Raises:
        ValueError: s > t.
    References:
        Ho et al. 2020, eq. 7, arXiv:2006.11239; Song et al. 2021, eq. 16 with eta = 1.
    """
    check_downwards(t, s)
    return process.sigma(s) * younger(process, t, s).sqrt()


@named
def ddim(
    eta: float = 0.0,
    variance: str = "eta",
    spread: Curve | None = None,
    last_std: float | None = None,
    eps: str = "consistent",
) -> Transition:
    """DDIM's family, from the deterministic map (eta = 0) to the DDPM posterior (eta = 1). First order.

    With eta = 0 it runs in both directions: s > t encodes.

    Arguments:
        eta: share of the posterior's standard deviation that each step injects, in [0, 1].
        variance: "eta" (only that), or "optimal", which adds what the spread of x0 calls for.
        spread: for the optimal variance, E tr Cov[x0 | x_t] / d as a curve in t; see `leapstep.calibrate`.
        last_std: for the optimal variance, the most that the step to the first trained level may add.
        eps: what goes beside an x0 that was clipped: "consistent" (the eps that makes x_t of the clipped x0) or "raw"
            (the network's own, as in diffusers, where x0 and eps then no longer add up to x_t).
    Raises:
        ValueError: eta outside [0, 1]; an unknown variance or eps; optimal without spread, or spread without optimal;
            at call, s > t with noise.
    References:
        Song et al. 2021, eq. 12 and 16, arXiv:2010.02502; Bao et al. 2022, theorem 1, arXiv:2201.06503.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: must lie between 0 (DDIM) and 1 (DDPM); for more noise use ddpm(variance='beta')")
    if variance not in ("eta", "optimal"):
        raise ValueError(f"unknown variance={variance!r}: use eta or optimal")
    if eps not in ("consistent", "raw"):
        raise ValueError(f"unknown eps={eps!r}: use consistent or raw")
    optimal = _optimal(variance, spread, last_std)

    def spreads(process: Process, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        replaced = eta * posterior_std(process, t, s)
        return replaced, optimal(process, t, s, replaced) if optimal else replaced

    injected = spreads if eta or optimal else None

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        x0, unbounded, _ = denoised(diffusion, x, t)
        raw = unbounded if eps == "raw" else None
        return Step(leap(diffusion.process, x, x0, t, s, injected, noise, raw), x0)

    return transition


@named
def ddpm(variance: str = "posterior", spread: Curve | None = None, last_std: float | None = None) -> Transition:
    """Ancestral sampling: the mean of the DDPM posterior q(x_s | x_t, x0), and a choice of noise. First order.

    Arguments:
        variance: "posterior" (the posterior's own, sigma(s)^2 f; the same as `ddim(1)`), "beta" (the larger
            sigma(t)^2 f, which is beta_t for neighbours: sigma-hat of the DDIM paper), "none" (the bare mean),
            "learned" (between posterior and beta in the logarithm, as the network says), or "optimal" (for the spread
            of x0). No noise is added to a result at sigma(s) = 0.
        spread: for the optimal variance, E tr Cov[x0 | x_t] / d as a curve in t; see `leapstep.calibrate`.
        last_std: for the optimal variance, the most that the step to the first trained level may add.
    Raises:
        ValueError: unknown variance; optimal without spread, or spread without optimal; at call, s > t, or a learned
            variance of a network that has none.
    References:
        Ho et al. 2020, eq. 6, 7 and section 3.2, arXiv:2006.11239; Song et al. 2021, section 5; Nichol and Dhariwal
        2021, eq. 15, arXiv:2102.09672; Bao et al. 2022, theorem 1, arXiv:2201.06503.
    """
    if variance not in ("posterior", "beta", "none", "learned", "optimal"):
        raise ValueError(f"unknown variance={variance!r}: use posterior, beta, none, learned or optimal")
    optimal = _optimal(variance, spread, last_std)

    def spreads(process: Process, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        posterior = posterior_std(process, t, s)
        if variance == "beta":
            return posterior, _beta_std(process, t, s)
        if optimal is not None:
            return posterior, optimal(process, t, s, posterior)
        return posterior, posterior if variance == "posterior" else torch.zeros_like(posterior)

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        process = diffusion.process
        x0, _, learned = denoised(diffusion, x, t)
        x_s = leap(process, x, x0, t, s, spreads, noise)
        if variance == "learned":
            posterior, ratio = _learned_range(process, t, s)
            # not a power: its last bit depends on the place in a batch
            std = along(posterior, x) * (along(ratio, x) * needed(learned)).exp()
            if somewhere(posterior > 0):
                x_s = x_s + std * noise()
        return Step(x_s, x0)

    return transition


def _beta_std(process: Process, t: Tensor, s: Tensor) -> Tensor:
    return torch.where(process.sigma(s) == 0, 0.0, process.sigma(t) * younger(process, t, s).sqrt())


@tabulated
def _learned_range(process: Process, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient]:
    """Between what a learned variance chooses: the posterior's std, and the logarithm of beta's in units of it."""
    posterior, beta = posterior_std(process, t, s), _beta_std(process, t, s)
    return posterior, torch.where(beta == 0, 1.0, beta / posterior).log()


def _optimal(
    variance: str, spread: Curve | None, last_std: float | None
) -> Callable[[Process, Tensor, Tensor, Tensor], Tensor] | None:
    """The std of the optimal variance, of (process, t, s, replaced); None for other variances."""
    if variance != "optimal":
        if spread is not None or last_std is not None:
            raise ValueError(f"spread and last_std do not apply to variance={variance!r}, only to 'optimal'")
        return None
    if spread is None:
        raise ValueError("variance='optimal' needs spread, the curve that leapstep.calibrate estimates")

    def std(process: Process, t: Tensor, s: Tensor, replaced: Tensor) -> Tensor:
        sigma = process.sigma(s)
        kept = (sigma**2 - replaced**2).clamp(min=0).sqrt()
        kappa = process.alpha(s) - (kept * process.alpha(t) / process.sigma(t)).nan_to_num(0.0, 0.0, 0.0)
        total = (replaced**2 + kappa**2 * spread(t)).sqrt()
        if last_std is not None and process.timesteps is not None:
            total = torch.where(s * process.timesteps <= 1, total.clamp(max=last_std), total)
        return torch.where((sigma == 0) | (t == s), 0.0, total)

    return std
