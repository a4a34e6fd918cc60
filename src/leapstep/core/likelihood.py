"""How likely a model finds data: the variational bound of its Markov chain, and the density of its ODE.

Both are in nats for each sample, for any process and any list of times t_0 > t_1 > ... > t_n = 0.

**The bound.** Sampling draws x at t_0 from N(0, sigma(t_0)^2 I), or around alpha(t_0) times the model's origin, from
which x0 is then counted, or from the law that an origin has there which is a `Gaussian`; then x_s from p(x_s | x_t), a
Gaussian whose mean is that of the posterior q(x_s | x_t, x0) of `leapstep.core.transitions` (eta = 1) with the estimate
D(x_t) in place of x0. So, in expectation over q(x_t | x0), -log p(x0) <= L_T + sum L_{t->s} + L_0, where T = t_0 and

    L_T      = KL(q(x_T | x0) || N(0, sigma(T)^2 I)) = SNR(T) |x0|^2 / 2
    L_{t->s} = KL(q(x_s | x_t, x0) || p(x_s | x_t))                             for s > 0
             = sum over the values of (r - 1 - log r) / 2 + kappa^2 (x0 - D)^2 / (2 var)
    L_0      = -log p(x0 | x_t)                                                 for the last step, t = t_{n-1}.

With f = 1 - SNR(t) / SNR(s), q has the variance sigma(s)^2 f = r var, and the means differ by kappa (x0 - D) with
kappa = alpha(s) f. For var, the variance of p, there are several choices: see `variational_bound`.

**The ODE.** With the angle phi = atan2(sigma, alpha) and x^ = x / hypot(alpha, sigma) = cos(phi) x0 + sin(phi) eps, the
probability-flow ODE is regular at both ends, for no noise as for no signal, and carries its density along:

    dx^ / dphi = v = cos(phi) eps - sin(phi) D = (cos(phi) x^ - D) / sin(phi),          d log p(x^) / dphi = -div v.

References:
    Ho et al. 2020, eq. 5 to 13, arXiv:2006.11239; Nichol and Dhariwal 2021, arXiv:2102.09672; Kingma et al. 2021,
    arXiv:2107.00630 (the bound in terms of the SNR); Song et al. 2021, section 4.3 and eq. 39, arXiv:2011.13456.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core import finite
from leapstep.core.denoiser import Diffusible, Diffusion, as_diffusion, needed
from leapstep.core.gaussian import Gaussian
from leapstep.core.integrate import DORMAND_PRINCE, Controller, Equation, Values, integrate
from leapstep.core.integrate import step as runge_kutta
from leapstep.core.process import Curve, along, as_time, flat
from leapstep.core.scaling import Scaling
from leapstep.core.transitions import younger
from leapstep.text import allowed

VARIANCES = ("posterior", "beta", "optimal", "learned")


def bits_per_dim(nats: Tensor, shape: Sequence[int]) -> Tensor:
    """Turn nats for a sample of shape `d` into bits for each of its values.

    Arguments:
        nats: any shape.
        shape: of a sample.
    Returns:
        bits, in the shape of `nats`.
    """
    return nats / (math.prod(shape) * math.log(2))


def _path(times: Tensor | Sequence[float]) -> Tensor:
    path = as_time(times)
    if path.ndim != 1 or len(path) < 2 or (path.diff() >= 0).any():
        raise ValueError("times must be two or more, strictly decreasing in [0, 1], as leapstep.times gives them")
    return path


def _between(ends: Tensor) -> str:
    t, s = ends.tolist()
    return f"in the step from t = {t:.4g} to {s:.4g}"


def _sum(values: Tensor) -> Tensor:
    """The sum for each sample, `[b]`, float64 on the CPU."""
    return flat(values).sum(1).cpu().double()


def _levels(x0: Tensor, pixels: Scaling) -> Tensor:
    """The whole numbers from 0 to 255 that x0 stands for, float64 on the CPU."""
    values = x0.cpu().double() * pixels.scale + pixels.shift
    levels: Tensor = values.round()
    if not ((values - levels).abs() < 0.01).all() or levels.min() < 0 or levels.max() > 255:
        raise ValueError(
            f"x0 * {pixels.scale} + {pixels.shift} are not all whole numbers from 0 to 255: pass pixels=None for "
            "continuous data, or the scaling of the 8-bit values"
        )
    return levels


# --- the variational bound -----------------------------------------------------------------------------------------


class Bound(NamedTuple):
    """The terms of a bound on -log p(x0), in nats, float64 on the CPU.

    Attributes:
        prior: L_T, `[b]`.
        steps: L_{t->s} of every step but the last, from noise to data, `[n - 1, b]`.
        reconstruction: L_0, `[b]`; it may be below 0 for continuous data, whose density may be above 1.
    """

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """The bound itself, `[b]`."""
        return self.prior + self.steps.sum(0) + self.reconstruction


@torch.no_grad()
def variational_bound(
    diffusion: Diffusion | Diffusible,
    x0: Tensor,
    times: Tensor | Sequence[float],
    noise: Callable[..., Tensor],
    *,
    variance: str = "posterior",
    spread: Curve | None = None,
    pixels: Scaling | None = None,
    on_term: Callable[[int, Tensor], object] | None = None,
) -> Bound:
    """Estimate the variational bound on -log p(x0), with one draw of x_t for each step and sample.

    The variance of p(x_s | x_t), with the f of this step:

        posterior   sigma(s)^2 f                                     DDPM's smaller one
        beta        sigma(t)^2 f                                     DDPM's larger one
        optimal     sigma(s)^2 f + (alpha(s) f)^2 spread(t)          the best for all values alike
        learned     posterior^(1 - w) beta^w                         w by the network, for each value its own

    At s = 0 the posterior has no variance, and data would have no density: beta's sigma(t)^2 takes its place, and that
    of the step before in "learned", whose networks were trained so. Where the spread is 0, so does it in "optimal".

    Arguments:
        x0: data in model space, `[b, *d]`, in the dtype and on the device for the network.
        times: `[n + 1]`, from noise to 0, any subsequence, as `leapstep.times` gives it.
        noise: called as noise(step) -> `[b, *d]`, step = 1..n; a `leapstep.Noise`.
        variance: one of `VARIANCES`.
        spread: for "optimal", E tr Cov[x0 | x_t] / d as a curve in t: the squared error of an ideal denoiser.
        pixels: how the 8-bit values 0..255 lie in model space: L_0 is then the probability of the value's bin, which at
            0 and 255 is open to the outside. None: continuous data, and L_0 is a density in model space.
        on_term: called after each step as on_term(step, term `[b]`).
    Returns:
        the Bound.
    Raises:
        ValueError: times that do not fall to 0, an unknown variance, one without what it needs, or x0 that is not the
            8-bit values that pixels promises.
    References:
        Ho et al. 2020, eq. 5 and 13, arXiv:2006.11239; Nichol and Dhariwal 2021, eq. 15, arXiv:2102.09672; Bao et al.
        2022 (Analytic-DPM), theorem 1, arXiv:2201.06503.
    """
    diffusion = as_diffusion(diffusion)
    process, path = diffusion.process, _path(times)
    if path[-1] != 0:
        raise ValueError(f"times end at {path[-1].item()}: the bound is on the data, so they must end at 0")
    log_variance = _log_variance(diffusion, variance, spread)
    if pixels is not None:
        _levels(x0, pixels)  # a mistake shows before the work, not after it
    if isinstance(diffusion.origin, Gaussian):
        prior = diffusion.origin.divergence(process, path[0], x0)
    else:
        prior = process.log_snr(path[0]).exp() / 2 * _sum((x0 - torch.as_tensor(diffusion.origin).to(x0)) ** 2)
    terms: list[Tensor] = []
    sums: list[Tensor] = []
    for step, (t, s) in enumerate(pairwise(path), start=1):
        x, f = process.add_noise(x0, t, noise(step)), younger(process, t, s)
        estimate, _, learned = diffusion.estimate(x, t)
        if s > 0:
            log_q = 2 * process.sigma(s).log() + f.log()
            log_p = log_variance(learned, t, s, log_q)
            excess = log_q - log_p  # log r
            error = (2 * (process.alpha(s) * f).log() - log_p).exp() * (x0 - estimate) ** 2
            terms.append(_sum(torch.expm1(excess) - excess + error) / 2)
        else:
            f_before = younger(process, path[-3], t) if step > 1 and variance == "learned" else f
            std = (log_variance(learned, t, s, 2 * process.sigma(t).log() + f_before.log()) / 2).exp()
            terms.append(-_log_probability(x0, estimate, std, pixels))
        sums.append(finite.row_sums(terms[-1]))
        if on_term is not None:
            on_term(step, terms[-1])
    finite.warn_broken(sums, "bounds", lambda step, _: _between(path[step - 1 : step + 1]))
    return Bound(prior, torch.stack([prior, *terms[:-1]])[1:], terms[-1])


_LogVariance = Callable[[Tensor | None, Tensor, Tensor, Tensor], Tensor]


def _log_variance(diffusion: Diffusion, variance: str, spread: Curve | None) -> _LogVariance:
    """Of (`Estimate.learned`, t, s, log of the posterior's variance): that of p(x_s | x_t), `[]`, or `[b, *d]`."""
    process = diffusion.process
    if variance not in VARIANCES:
        raise ValueError(f"unknown variance={variance!r}: {allowed(variance, VARIANCES)}")
    if (variance == "optimal") != (spread is not None):
        raise ValueError(f"variance={variance!r}: spread goes with 'optimal', and only with it")

    def log_variance(learned: Tensor | None, t: Tensor, s: Tensor, posterior: Tensor) -> Tensor:
        f = younger(process, t, s)
        beta = 2 * process.sigma(t).log() + f.log()
        if spread is not None:
            total = process.sigma(s) ** 2 * f + (process.alpha(s) * f) ** 2 * spread(t)
            return torch.where(total > 0, total.log(), posterior)
        if variance == "learned":
            return posterior + (beta - posterior) * needed(learned)
        return beta if variance == "beta" else posterior

    return log_variance


def _log_probability(x0: Tensor, mean: Tensor, std: Tensor, pixels: Scaling | None) -> Tensor:
    """The log of a Gaussian's density at x0, or of its mass in the bins of 8-bit values, `[b]`.

    A bin's mass is a difference of two tails, taken in their logarithms and on the side where they are small.
    """
    x0, mean, std = (value.cpu().double() for value in (x0, mean, std))
    if pixels is None:
        return _sum(-(((x0 - mean) / std) ** 2) / 2 - std.log() - math.log(2 * math.pi) / 2)
    levels = _levels(x0, pixels)
    low, high = (((levels + side - pixels.shift) / pixels.scale - mean) / std for side in (-0.5, 0.5))
    low, high = low.masked_fill(levels == 0, -torch.inf), high.masked_fill(levels == 255, torch.inf)
    right = low + high > 0
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    below, above = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return _sum(above + torch.log(-torch.expm1(below - above)))


# --- the probability-flow ODE --------------------------------------------------------------------------------------


class Density(NamedTuple):
    """What the ODE says of data.

    Attributes:
        log_likelihood: in nats, `[b]`, float64 on the CPU.
        calls: of the denoiser; each was differentiated once for every probe.
    """

    log_likelihood: Tensor
    calls: int


@torch.inference_mode(False)  # for the derivatives
def ode_log_likelihood(
    diffusion: Diffusion | Diffusible,
    x0: Tensor,
    times: Tensor | Sequence[float],
    noise: Callable[..., Tensor],
    *,
    probes: int = 1,
    tolerance: float | None = None,
    pixels: Scaling | None = None,
    on_step: Callable[[float], object] | None = None,
) -> Density:
    """Follow data through the probability-flow ODE to the noise, and sum up how the flow stretches space on the way.

    The data enter at t_min, the last time above 0, as x = alpha x0. So the density is exactly that of x / alpha, where
    x is what the ODE makes of noise on the way from t_0 to t_min. For an ideal model that is the data's, but for a blur
    by sigma / alpha at t_min, to be finer than the data's detail (the first trained level is), and for the signal that
    is left at t_0: where data have a mean besides the model's origin, samples start beside it, which moves a sample's
    log-likelihood by a normal number of deviation a = alpha(t_0) |mean - origin| / sigma(t_0), in nats, and lowers it
    by a^2 / 2 on average (`ve`, 64 values of mean 0.5: a = 0.08).

    8-bit values k are spread evenly over their bins: with u from U(-1/2, 1/2) and d values,

        -log P(k) <= -E log p((k + u - shift) / scale) + d log(scale),      P the mass that p has in the bin of k.

    Arguments:
        x0: data in model space, `[b, *d]`, in the dtype and on the device for the network.
        times: from noise to t_min, where a final 0 is left out. At t_0 the law is N(0, sigma^2 I), as in sampling.
        noise: called as noise(0, k), k = 1..probes, for the probes, and as noise(0) for u; a `leapstep.Noise`.
        probes: estimate the divergence with so many random vectors of signs (Hutchinson), the same on the whole way:
            the result is unbiased. 0: the exact trace, with a derivative for every one of the d values.
        tolerance: None: one Runge-Kutta step of order 5, 6 calls, between neighbouring times. Else, between the first
            and the last of them, as many as keep a step's error below it, relative to 1 + |x|, and in nats a value;
            each sample has its own. This takes a smooth network, called at any time (`fractional`), else many calls.
        pixels: how the 8-bit values 0..255 lie in model space: the result is a log-probability. None: continuous data,
            and the result is a log-density in model space (less d log(scale), it is one in the values' own units).
        on_step: called after each step with the share of the way that is done.
    Returns:
        the Density; a sample's depends on the others in the batch by no more than the network's rounding, or, where
        steps are chosen, by the tolerance.
    Raises:
        ValueError: times that do not fall, too small a tolerance or count of probes, a denoiser without derivatives, or
            x0 that is not the 8-bit values that pixels promises. FloatingPointError: steps that shrink to nothing.
    References:
        Song et al. 2021, section 4.3, eq. 39 and 40, arXiv:2011.13456; Grathwohl et al. 2019, arXiv:1810.01367 (the
        probes); Theis et al. 2016, section 3.1, arXiv:1511.01844 (8-bit values).
    """
    diffusion = as_diffusion(diffusion)
    process, path = diffusion.process, _path(times)
    path = path[path > 0]
    least = 10 * torch.finfo(x0.dtype).eps
    if len(path) < 2 or probes < 0 or not (tolerance is None or tolerance >= least):
        raise ValueError(
            f"probes={probes}, tolerance={tolerance}, {len(path)} times above 0: probes must be 0 or more, tolerance "
            f"None or at least {least:.0e} in {x0.dtype}, and two times or more above 0"
        )
    size = x0[0].numel()
    if probes:
        directions = [noise(0, k).sign() / math.sqrt(probes) for k in range(1, probes + 1)]
    else:
        directions = list(torch.eye(size, dtype=x0.dtype, device=x0.device).reshape(size, 1, *x0.shape[1:]))
    angles = torch.atan2(process.sigma(path), process.alpha(path)).flip(0)
    offset = size * angles[0].cos().log()
    if pixels is not None:
        values = _levels(x0, pixels) + torch.special.ndtr(noise(0).cpu().double()) - 0.5
        x0 = ((values - pixels.shift) / pixels.scale).to(x0.dtype).to(x0.device)
        offset = offset - size * math.log(pixels.scale)
    x, stretch, calls = _transport(diffusion, directions, angles[0].cos() * x0.detach(), angles, tolerance, on_step)
    return Density(_log_of_start(diffusion, x, path[0]) + stretch + offset, calls)


def _log_of_start(diffusion: Diffusion, x: Tensor, t: Tensor) -> Tensor:
    """The log-density of x^ at the time t where sampling starts, `[b]`."""
    alpha, sigma = diffusion.process.alpha(t), diffusion.process.sigma(t)
    norm = torch.hypot(alpha, sigma)
    if isinstance(diffusion.origin, Gaussian):
        return diffusion.origin.log_density(diffusion.process, t, norm * x) + x[0].numel() * norm.log()
    mean = alpha / norm * torch.as_tensor(diffusion.origin, device=x.device)
    return _log_probability(x, mean, sigma / norm, None)


def _slope(diffusion: Diffusion, directions: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """v at x^, `[b, *d]`, and its divergence `[b]`, float64 on the CPU: the sum of z . J z over the directions z."""
    alpha, sigma = diffusion.process.alpha(t), diffusion.process.sigma(t)
    norm = torch.hypot(alpha, sigma)
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        x0 = diffusion.denoise(along(norm, x) * x, t)
        if not x0.requires_grad:
            raise ValueError("the denoiser has no derivative in x: take torch.no_grad() out of it")
        v = (along(alpha / norm, x) * x - x0) / along(sigma / norm, x)
        divergence = torch.zeros(len(x), dtype=torch.float64)
        for k, z in enumerate(directions, start=1):
            (pulled,) = torch.autograd.grad(v, x, z.expand_as(v), retain_graph=k < len(directions))
            divergence += _sum(pulled * z)
    return v.detach(), divergence


def _transport(
    diffusion: Diffusion,
    directions: Sequence[Tensor],
    x: Tensor,
    angles: Tensor,
    tolerance: float | None,
    on_step: Callable[[float], object] | None,
) -> tuple[Tensor, Tensor, int]:
    """Go from the first angle to the last; returns x^ there, the integral of the divergence `[b]`, and the calls."""
    calls = 0
    sums: list[Tensor] = []

    def slope_at(y: Values, t: Tensor) -> Values:
        nonlocal calls
        calls += 1
        return _slope(diffusion, directions, y[0], t)

    def progress(angle: Tensor) -> None:
        if on_step is not None:
            on_step(((angle.min() - angles[0]) / (angles[-1] - angles[0])).item())

    equation = Equation(slope_at, lambda angle: diffusion.process.time(-2 * angle.tan().log()), lambda angle: angle)
    angles = angles if tolerance is None else angles[[0, -1]]
    y: Values = (x, torch.zeros(len(x), dtype=torch.float64))
    slope = slope_at(y, equation.time(angles[0]))
    for start, end in pairwise(angles):
        if tolerance is None:
            times = equation.time(torch.stack([torch.lerp(start, end, node) for node in DORMAND_PRINCE.nodes[1:]]))
            y, slope, _ = runge_kutta(DORMAND_PRINCE, slope_at, y, slope, end - start, times)
            progress(end)
        else:
            first, last = start.expand(len(x)), end.expand(len(x))
            controller = _controller(tolerance)
            y, slope, _ = integrate(DORMAND_PRINCE, equation, controller, y, slope, first, last, first, progress)
        sums.append(finite.row_sums(_sum(y[0]) + y[1]))
    ends = equation.time(angles)
    finite.warn_broken(sums, "likelihoods", lambda number, _: _between(ends[number - 1 : number + 1]))
    return y[0], y[1], calls


def _controller(tolerance: float) -> Controller:
    """Errors of x^, relative to 1 + |x^|, and of the integral of the divergence for each value."""

    def error(y: Values, t: Tensor, ahead: Values, s: Tensor, wrong: Values) -> Tensor:
        size = y[0][0].numel()
        off, scale = ((_sum(value**2) / size).sqrt() for value in (wrong[0], y[0]))
        return (off / (1 + scale) + wrong[1].abs() / size) / tolerance

    return Controller(error, f"tolerance={tolerance}", lambda angle: 1e-6 * (2 * angle).sin())  # 2e-6 in log(rho)
