"""Multistep methods: one formula, and a choice of what is averaged over the step.

Between two times the linear part of the ODE is solved exactly, and what remains is an average of the estimate over the
step: with rho = sigma / alpha and lambda = -log rho,

    x_s = DDIM's step with  x0 -> average of x0(lambda), weighted by e^lambda        (DPM-Solver++, UniPC)
    x_s = DDIM's step with eps -> average of eps(lambda), weighted by e^-lambda      (DEIS)

Estimates of this and earlier steps are known, so a polynomial through them stands for the curve and is averaged. The
average is then a sum of the known estimates with weights that depend on the times alone, and everything here is which
estimates, which polynomial and which of the two rows:

    dpmpp_2m        x0 of two times, a line in lambda; the average is taken at the middle of the step, as published
    dpmpp_3m        x0 of three times, a parabola in lambda
    dpmpp_2s        x0 at the middle of the step itself
    unipc           as the first two, and once x0 at s is known the step to s is repeated with it among the points
    deis            eps of two or three times, a polynomial in t or in lambda
    sde_dpmpp_2m    as dpmpp_2m, in the step of the DDPM posterior

With the exact average the order is the number of points. A method begins with as many points as it knows, and a step
with an end that has no noise or no signal is DDIM's, for each sample by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.process import Process, along, where
from leapstep.core.transitions.family import Memory, Noise, Step, Transition, estimate, leap, posterior_std

Known = tuple[tuple[Tensor, Tensor], ...]
"""Estimates `[b, *d]` of x0 or eps and the times they were made at, the newest first."""

VARIABLES = ("t", "log_snr")

_NODES, _WEIGHTS = (torch.from_numpy(c) for c in np.polynomial.legendre.leggauss(24))
QUADRATURE = ((_NODES + 1) / 2, _WEIGHTS)
"""Nodes in [0, 1] and weights of Gauss and Legendre's rule, by which polynomials are averaged."""

MIDDLE = (torch.tensor([0.5], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
"""The same for the value in the middle."""


def dpmpp_2m() -> Transition:
    """DPM-Solver++ 2M. Second order, one call.

    References:
        Lu et al. 2022, algorithm 2, arXiv:2211.01095.
    """
    return _multistep("x0", order=2)


def dpmpp_3m() -> Transition:
    """DPM-Solver++ 3M. Third order, one call.

    The parabola is averaged exactly. The formula that is in use elsewhere takes the second divided difference for the
    second derivative, of which it is half, and is of second order.

    References:
        Lu et al. 2022, section 4 and appendix, arXiv:2211.01095.
    """
    return _multistep("x0", order=3)


def sde_dpmpp_2m(eta: float = 1.0) -> Transition:
    """SDE-DPM-Solver++ 2M: the average of `dpmpp_2m` in the stochastic step of `ddim(eta)`. Order 2 in law, one call.

    Arguments:
        eta: share of the posterior's standard deviation that each step injects, in [0, 1].
    Raises:
        ValueError: eta outside [0, 1]; at call, s > t.
    References:
        Lu et al. 2022, section 5 and eq. 18, arXiv:2211.01095.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: must lie between 0 (dpmpp_2m) and 1")
    return _multistep("x0", order=2, eta=eta)


def deis(order: int = 3, variable: str = "t") -> Transition:
    """DEIS: Adams-Bashforth for eps, exact in the linear part. Of the order that is chosen, one call.

    Arguments:
        order: 2 or 3, the number of points.
        variable: what the polynomial is in: "t" (tAB-DEIS) or "log_snr" (which diffusers has).
    Raises:
        ValueError: another order or variable.
    References:
        Zhang and Chen 2023, eq. 14 and 15, arXiv:2204.13902.
    """
    _check_order(order)
    if variable not in VARIABLES:
        raise ValueError(f"unknown variable={variable!r}: use {' or '.join(VARIABLES)}")
    return _multistep("eps", order, variable)


def _check_order(order: int) -> None:
    if order not in (2, 3):
        raise ValueError(f"order={order}: use 2 or 3")


def _multistep(kind: str, order: int, variable: str = "log_snr", eta: float = 0.0) -> Transition:
    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Noise) -> Step:
        process = diffusion.process
        x0, eps = estimate(diffusion, x, t)
        known = _remembered((x0 if kind == "x0" else eps, t), memory or (), t == s, order)
        replaced = eta * posterior_std(process, t, s) if eta else None
        averaged = _average(process, known, t, s, kind, variable)
        if averaged is not None:
            # where there is no signal, x0 does not follow from eps
            x0_used, eps_used = process.split(averaged, x, t, kind)
            x0_used = where(process.alpha(t) == 0, x0, x0_used)
        else:
            x0_used, eps_used = x0, eps
        return Step(leap(process, x0_used, eps_used, s, noise, replaced), x0, known)

    return transition


def dpmpp_2s() -> Transition:
    """DPM-Solver++ 2S: a DDIM step with the x0 estimate from its middle in lambda. Second order, two calls, no memory.

    References:
        Lu et al. 2022, algorithm 1 with r = 1/2, arXiv:2211.01095.
    """

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Noise) -> Step:
        process = diffusion.process
        x0, eps = estimate(diffusion, x, t)
        middle = (process.log_snr(t) + process.log_snr(s)) / 2
        plain = ~torch.isfinite(middle)
        if plain.all():
            return Step(leap(process, x0, eps, s), x0)
        u = torch.where(plain, t, process.time(middle))
        inner, _ = estimate(diffusion, leap(process, x0, eps, u), u)
        used = process.split(where(plain, x0, inner), x, t, "x0")
        return Step(leap(process, *used, s), x0)

    return transition


def unipc(order: int = 2) -> Transition:
    """UniPC: a multistep prediction, and a correction of it by the call that the next step makes anyway.

    x at s is predicted from `order` estimates of x0. When the estimate at s is known, x at s is computed again with it
    as one more point, and the next step starts from there. One call, and one order more than the prediction has.

    Arguments:
        order: 2 or 3, the number of points of the prediction.
    Raises:
        ValueError: another order.
    References:
        Zhao et al. 2023, algorithms 1 and 2 with B_2(h), arXiv:2302.04867.
    """
    _check_order(order)

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Noise) -> Step:
        process = diffusion.process
        x0, _ = estimate(diffusion, x, t)
        waits = t == s
        last_x, last_t, earlier = memory or (x, t, ())
        averaged = _average(process, (*earlier, (x0, t)), last_t, t, "x0", "log_snr")
        if averaged is not None:
            corrected = leap(process, *process.split(averaged, last_x, last_t, "x0"), t)
            x = where(_smooth(process, last_t, t) & ~waits, corrected, x)
        known = _remembered((x0, t), earlier, waits, order)
        averaged = _average(process, known, t, s, "x0", "log_snr")
        used = process.split(x0 if averaged is None else averaged, x, t, "x0")
        return Step(leap(process, *used, s), x0, (where(waits, last_x, x), torch.where(waits, last_t, t), known))

    return transition


def _remembered(newest: tuple[Tensor, Tensor], earlier: Known, waits: Tensor, order: int) -> Known:
    """What is known now, at most as many points as the order; a sample that waits keeps what it had."""
    known: Known = (newest, *earlier)[:order]
    if not earlier or not waits.any():
        return known
    kept = (*earlier, *known[len(earlier) :])
    return tuple(
        (where(waits, old, new), torch.where(waits, old_t, new_t))
        for (old, old_t), (new, new_t) in zip(kept, known, strict=False)
    )


def _smooth(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """Whether a step has a length, and noise and signal at both ends."""
    return (t != s) & torch.isfinite(process.log_snr(t)) & torch.isfinite(process.log_snr(s))


def _average(process: Process, known: Known, t: Tensor, s: Tensor, kind: str, variable: str) -> Tensor | None:
    """The polynomial through the known estimates, averaged from t to s; the first one where nothing else is of use.

    A later point is left out, for each sample by itself, where it has no finite lambda or is a point that there already
    is. Of two points of x0 the value in the middle of the step stands for the average, as published. None stands for
    the first estimate.
    """
    smooth = _smooth(process, t, s)
    if len(known) == 1 or not smooth.any():
        return None
    start = torch.where(smooth, process.log_snr(t) / 2, 0.0)
    end = torch.where(smooth, process.log_snr(s) / 2, 1.0)
    places = [process.log_snr(u) / 2 for _, u in known]
    useful = [torch.isfinite(place) & smooth for place in places]
    if variable == "t":
        places = [u for _, u in known]
    for j in range(1, len(places)):
        apart = [~useful[i] | ((places[j] - places[i]).abs() > 1e-12) for i in range(j)]
        useful[j] = functools.reduce(torch.logical_and, apart, useful[j])

    def shares(nodes: Tensor, mass: Tensor) -> list[Tensor]:
        nodes, mass = (c.reshape(-1, *[1] * start.ndim) for c in (nodes, mass))
        inside = start + nodes * (end - start)  # lambda, [quadrature] or [quadrature, b]
        mass = mass * torch.exp((inside - end) if kind == "x0" else (start - inside))
        at = process.time(2 * inside) if variable == "t" else inside
        return _lagrange(at, mass / mass.sum(0), places, useful)

    weights = shares(*(MIDDLE if kind == "x0" and len(known) == 2 else QUADRATURE))
    if kind == "x0" and len(known) > 2:
        two = functools.reduce(torch.add, (point.long() for point in useful)) == 2
        if two.any():
            weights = [torch.where(two, *pair) for pair in zip(shares(*MIDDLE), weights, strict=True)]
    first = known[0][0]
    others = [along(w, first) * (value - first) for w, (value, _) in zip(weights[1:], known[1:], strict=True)]
    return first + torch.stack(others).sum(0)


def _lagrange(at: Tensor, mass: Tensor, places: Sequence[Tensor], useful: Sequence[Tensor]) -> list[Tensor]:
    """Average each Lagrange polynomial: how much of each estimate the averaged polynomial holds, `[]` or `[b]`."""
    averages = []
    for j, place in enumerate(places):
        basis = torch.ones_like(at)
        for i, other in enumerate(places):
            if i != j:
                used = useful[i] & useful[j]
                basis = basis * torch.where(used, (at - other) / torch.where(used, place - other, 1.0), 1.0)
        averages.append(torch.where(useful[j], (mass * basis).sum(0), 0.0))
    return averages
