"""Deterministic methods: solvers of the probability-flow ODE, and exact inverses of steps.

In the coordinates x / alpha and rho = sigma / alpha, DDIM's step is Euler's on

    d(x / alpha) = eps d rho        (Song et al. 2021, eq. 14, arXiv:2010.02502),

so every solver of such equations is a sampler as well, and runs in both directions. The same flow in the time t itself
is dx / dt = alpha' x0 + sigma' eps (`pf_euler`): it can be solved there, too, but straight lines in t are a worse guess
than straight lines in rho.

Where one end of a step has no noise or no signal, eps is not known or the coordinates are infinite; and where the
signal is nearly gone (rho above 10) and rho changes more than 20-fold in one step, a straight line in it is no guess.
There DDIM's own step, which is safe, takes the place of the solver's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.integrate import (
    BOGACKI_SHAMPINE,
    DORMAND_PRINCE,
    HEUN,
    RK4,
    Controller,
    Equation,
    Tableau,
    Values,
    integrate,
    step,
)
from leapstep.core.process import Process, along, curves, either, everywhere, flat, weighted, where
from leapstep.core.tabulated import Coefficient, Mask, tabulated, tabulated_times
from leapstep.core.transitions.family import (
    Draw,
    Step,
    Transition,
    denoised,
    estimate,
    leap,
    leap_by_eps,
    steep,
)
from leapstep.core.transitions.memory import Memory
from leapstep.core.transitions.named import as_transition, named

LONGEST = 1.0
"""The longest adaptive step in log(rho): at most a factor of e.

Where the estimate of x0 stands still, as below the detail of the data and in pure noise, every step seems exact and the
next may be longer. Without a bound such steps leap over the noise levels at which data are decided, and no stage, hence
no estimate of the error, is there to see it."""


@named
def heun() -> Transition:
    """Heun's method: a DDIM step, then the slope averaged over both of its ends. Second order, two calls.

    References:
        Karras et al. 2022, algorithm 1, arXiv:2206.00364.
    """
    return runge_kutta(HEUN)


@named
def rk4() -> Transition:
    """The classical Runge-Kutta method. Fourth order, four calls."""
    return runge_kutta(RK4)


@named
def rk23(rtol: float = 1e-2, atol: float = 1e-2) -> Transition:
    """Bogacki and Shampine's pair, of orders 3 and 2, which chooses its own steps. See `adaptive`.

    Arguments:
        rtol, atol: the relative and the absolute tolerance of a step, as of `adaptive`.
    """
    return adaptive(BOGACKI_SHAMPINE, rtol, atol)


@named
def rk45(rtol: float = 1e-3, atol: float = 1e-3) -> Transition:
    """Dormand and Prince's pair, of orders 5 and 4, which chooses its own steps. See `adaptive`.

    Arguments:
        rtol, atol: the relative and the absolute tolerance of a step, as of `adaptive`.
    """
    return adaptive(DORMAND_PRINCE, rtol, atol)


def _noisy_signal(process: Process, t: Tensor) -> Tensor:
    """Whether x_t holds both noise and signal, so that rho is neither 0 nor infinite."""
    return (process.sigma(t) > 0) & (process.alpha(t) > 0)


def _rho(process: Process, t: Tensor) -> Tensor:
    return torch.exp(-process.log_snr(t) / 2)


def _slope(diffusion: Diffusion, y: Values, t: Tensor) -> Values:
    """D(x / alpha) / d rho = eps, of x / alpha at time t."""
    alpha, _ = curves(diffusion.process, t)
    return (estimate(diffusion, along(alpha, y[0]) * y[0], t)[1],)


def runge_kutta(method: Tableau) -> Transition:
    """One explicit Runge-Kutta step of d(x / alpha) = eps d rho from t to s."""
    inner = tuple(node for node in method.nodes if 0 < node < 1)

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        process = diffusion.process
        x0, *_ = denoised(diffusion, x, t)
        plain = _plain(process, t, s)
        if everywhere(plain):
            return Step(leap(process, x, x0, t, s), x0)
        start, end, *between = _nodes(process, t, s, inner)
        alpha, alpha_end, length = _coordinates(process, start, end)
        known = dict(zip(inner, between, strict=True))
        times = [known.get(node, end) for node in method.nodes[1:]]
        y, eps = x / along(alpha, x), process.convert(x0, x, t, "x0", "eps")
        (y_s,), _, _ = step(method, partial(_slope, diffusion), (y,), (eps,), length, times)
        return Step(either(plain, lambda: leap(process, x, x0, t, s), lambda: along(alpha_end, x) * y_s), x0)

    return transition


def _is_plain(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """Whether DDIM's own step takes the place of the solver's."""
    return ~(_noisy_signal(process, t) & _noisy_signal(process, s)) | steep(process, t, s)


_plain: Callable[[Process, Tensor, Tensor], Mask] = tabulated(_is_plain)


@tabulated_times
def _nodes(process: Process, t: Tensor, s: Tensor, inner: tuple[float, ...]) -> tuple[Tensor, ...]:
    """The start and the end of a step, and the times of the nodes between them; any times where they do not count."""
    plain = _is_plain(process, t, s)
    start, end = torch.where(plain, 0.5, t), torch.where(plain, 0.5, s)
    rho, rho_s = _rho(process, start), _rho(process, end)
    between = [torch.lerp(rho, rho_s, node).log() for node in inner]
    return start, end, *(process.time(-2 * torch.stack(between)) if inner else ())


@tabulated
def _coordinates(process: Process, start: Tensor, end: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
    """The alphas of both ends, and the length of the step in rho."""
    return process.alpha(start), process.alpha(end), _rho(process, end) - _rho(process, start)


def adaptive(method: Tableau, rtol: float, atol: float) -> Transition:
    """From t to s in as many Runge-Kutta steps as an error below atol + rtol |x| takes, for each sample its own.

    Steps are sized in log(rho), none longer than `LONGEST`; the error of a step is the root mean square over a sample's
    values, in units of the tolerance, and a step above 1 is tried again, smaller. Where an end has no noise or no
    signal, a DDIM step joins it to the nearest trained level (or thousandth of the time), and its error stays, whatever
    the tolerance. The batch is done when its last sample is, so calls are those of the sample that needs most.

    Arguments:
        method: with embedded weights, whose last slope is taken at the step's end (so that it is the next one's first).
        rtol, atol: relative and absolute tolerance of a step, both positive.
    Raises:
        ValueError: a tolerance that is not positive; FloatingPointError, at call: no step is small enough.
    References:
        Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I, section II.4.
    """
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol={rtol}, atol={atol}: tolerances must be positive, such as 1e-3")

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        process = diffusion.process
        start, end = _inner(process, t, s, len(x))
        x0, eps = estimate(diffusion, x, t)
        moved = start != t
        if moved.any():
            x = where(moved, leap(process, x, x0, t, start), x)
            eps = where(moved, estimate(diffusion, x, start)[1], eps)
        goes = start != end
        low, high = (torch.where(goes, process.log_snr(u) / -2, 0.0) for u in (start, end))  # log(rho)
        y = (x / along(torch.where(goes, process.alpha(start), 1.0), x),)
        size = torch.zeros(len(x), dtype=torch.float64) if memory is None else memory["size"]
        size = torch.where(size == 0, 0.5, size)
        equation = Equation(partial(_slope, diffusion), lambda rho: process.time(-2 * rho.log()), torch.exp)
        controller = _controller(process, rtol, atol)
        (y_end,), (eps,), size = integrate(method, equation, controller, y, (eps,), low, high, size)
        x = where(goes, along(process.alpha(end), x) * y_end, x)
        return Step(where(end == s, x, leap_by_eps(process, x, [(1.0, eps)], end, s)), x0, {"size": size})

    return transition


def _controller(process: Process, rtol: float, atol: float) -> Controller:
    """The root mean square over a sample's values, of errors in x in units of atol + rtol |x|."""

    def error(y: Values, t: Tensor, y_s: Values, s: Tensor, wrong: Values) -> Tensor:
        alpha, alpha_s = along(process.alpha(t), y[0]), along(process.alpha(s), y[0])
        allowed = atol + rtol * torch.maximum((alpha * y[0]).abs(), (alpha_s * y_s[0]).abs())
        return _rms(alpha_s * wrong[0] / allowed)

    return Controller(error, f"rtol={rtol}, atol={atol}", lambda _: 1e-6, LONGEST)


def _inner(process: Process, t: Tensor, s: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """From where to where between t and s there are both noise and signal, each `[b]`; equal where there is nothing."""
    t, s = t.expand(samples), s.expand(samples)
    level = 1 / (process.timesteps or 1000)
    low, high = torch.minimum(t, s), torch.maximum(t, s)
    nearest = torch.where(process.sigma(low) == 0, high.clamp(max=level), low)
    farthest = torch.where(process.alpha(high) == 0, torch.maximum(nearest, high - level), high)
    down = s < t
    start, end = torch.where(down, farthest, nearest), torch.where(down, nearest, farthest)
    still = (t == s) | ~_noisy_signal(process, start)
    return torch.where(still, t, start), torch.where(still, t, end)


@named
def pf_euler() -> Transition:
    """Euler's method in the time t on the probability-flow ODE, dx / dt = f x - g^2 score / 2. First order, one call.

    With f = alpha' / alpha and g^2 = 2 sigma sigma' - 2 f sigma^2 the right-hand side is alpha' x0 + sigma' eps. On
    `exponential()`, alpha = exp(-5 t^2), that is 10 t (eps / sigma - x); on `exponential_s()`, the same process on the
    clock s = t^2, it is 5 (eps / sigma - x). DDIM's map is the same on both, this is not, which shows what coordinates
    cost. Where x_t has no noise, and sigma' no bound, the step is DDIM's.

    References:
        Song et al. 2021, eq. 13, arXiv:2011.13456.
    """

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        x0, *_ = denoised(diffusion, x, t)
        of_x, of_x0 = _euler(diffusion.process, t, s)
        return Step(weighted((of_x, x), (of_x0, x0)), x0)

    return transition


@tabulated
def _euler(process: Process, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient]:
    """What `pf_euler` multiplies x_t and x0 by, with eps = (x_t - alpha x0) / sigma."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    alpha_slope, sigma_slope = process.derivatives(t)
    clean = sigma == 0
    of_eps = (s - t) * torch.where(clean, 0.0, sigma_slope / torch.where(clean, 1.0, sigma))
    of_x0 = torch.where(clean, process.alpha(s), (s - t) * alpha_slope - of_eps * alpha)
    return torch.where(clean, 0.0, 1 + of_eps), of_x0


@named
def inverted(transition: Transition | str, tolerance: float | None = None, limit: int = 100) -> Transition:
    """The exact inverse of a deterministic transition: from x_t find the x_s that it would take from s to t.

    So `encode(..., inverted(ddim()))` and `decode(..., ddim())` make a round trip that loses nothing, whatever the
    number of steps. DDIM upwards starts the search; then x_s moves by as much as it missed x_t, times the factor that
    is exact for data of unit variance, accelerated by the last two misses. One call of the transition a try.

    Arguments:
        transition: deterministic and without memory, such as `ddim()` or `heun()`.
        tolerance: the root mean square miss that a sample is done with, relative to x; None: 50 roundings of its dtype,
            or where the search stands still, 1000.
        limit: tries; a sample that is not done by then keeps its best x_s, and a warning tells the miss.
    References:
        Anderson 1965, Iterative procedures for nonlinear integral equations, with a depth of one.
    """

    method: Transition = as_transition(transition)

    def inverse(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        process = diffusion.process
        rounding = torch.finfo(x.dtype).eps
        bound, fair = (50 * rounding, 1000 * rounding) if tolerance is None else (tolerance, tolerance)
        gain = along(_gain(process, t, s), x)
        x0, *_ = denoised(diffusion, x, t)
        guess = best = leap(process, x, x0, t, s)
        last_guess, last_move = torch.zeros_like(x), torch.zeros_like(x)
        least = torch.full((len(x),), torch.inf, dtype=torch.float64)
        still = torch.zeros(len(x), dtype=torch.int64)  # tries since a sample came nearer by a tenth
        searching = torch.full((len(x),), True)
        for attempt in range(limit):
            miss = x - method(diffusion, guess, s, t, None, noise).x
            size = _rms(miss) / _rms(x).clamp(min=1e-30)
            still = torch.where(size < 0.9 * least, 0, still + 1)
            nearer = searching & (size < least)
            best, least = where(nearer, guess, best), torch.where(nearer, size, least)
            searching = searching & (least > torch.where(still >= 5, fair, bound)) & size.isfinite()
            if not searching.any():
                break
            move = gain * miss
            ahead = guess + move
            if attempt:
                turn = move - last_move
                share = flat(turn * move).sum(1) / flat(turn).square().sum(1).clamp(min=1e-300)
                share = share.double().cpu().nan_to_num(0.0)
                ahead = ahead - along(share, x) * (ahead - last_guess - last_move)
            last_guess, last_move, guess = guess, move, ahead
        else:
            warnings.warn(
                f"a step was inverted only to {least[searching].max():.1e} of x: take more steps, the map may have no "
                "inverse",
                stacklevel=2,
            )
        return Step(best, x0)

    return inverse


@tabulated
def _gain(process: Process, t: Tensor, s: Tensor) -> Coefficient:
    """By what a miss at t moves x_s: exactly, for data of unit variance."""
    (a_t, a_s), (s_t, s_s) = ((curve(t), curve(s)) for curve in (process.alpha, process.sigma))
    return (a_s**2 + s_s**2) / (a_t * a_s + s_t * s_s)


def _rms(x: Tensor) -> Tensor:
    return flat(x).double().square().mean(1).sqrt().cpu()
