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
    sde_dpmpp_2m    as dpmpp_2m, in the step of the DDPM posterior
    deis            eps of two to four times, a polynomial in t, in lambda or in rho
    ipndm           eps of one to four times, a polynomial in the number of the step
    dpm_2           eps at the middle of the step itself

With the exact average the order is the number of points, but for `ipndm`, which takes all steps for equally long. A
method begins with as many points as it knows, and a step with an end that has no noise or no signal is DDIM's, for each
sample by itself.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.process import Process, either, everywhere, where
from leapstep.core.tabulated import Coefficient, Mask, tabulated, tabulated_times
from leapstep.core.transitions.family import (
    Draw,
    Step,
    Terms,
    Transition,
    denoised,
    estimate,
    leap,
    leap_by_eps,
    posterior_std,
    steep,
)
from leapstep.core.transitions.memory import Memory
from leapstep.core.transitions.named import named


class Point(NamedTuple):
    """An estimate that a polynomial goes through.

    Attributes:
        value: of x0 or eps, `[b, *d]`.
        t: when it was made, one time for all samples `[]` or one each `[b]`.
        exists: whether a sample has taken the step that made it, `[b]`; None: all have.
    """

    value: Tensor
    t: Tensor
    exists: Tensor | None = None


VARIABLES = ("t", "log_snr", "rho")
AVERAGES = ("middle", "exact")

_NODES, _WEIGHTS = (torch.from_numpy(c) for c in np.polynomial.legendre.leggauss(24))
QUADRATURE = ((_NODES + 1) / 2, _WEIGHTS)
"""Nodes in [0, 1] and weights of Gauss and Legendre's rule, by which polynomials are averaged."""

MIDDLE = (torch.tensor([0.5], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
"""The same for the value in the middle."""


@named
def dpmpp_2m(average: str = "middle") -> Transition:
    """DPM-Solver++ 2M. Second order, one call.

    Arguments:
        average: of the line through two estimates of x0: "middle" (its value in the middle of the step, as published)
            or "exact" (weighted by e^lambda, as in RES).
    Raises:
        ValueError: another average.
    References:
        Lu et al. 2022, algorithm 2, arXiv:2211.01095; Zhang et al. 2023, arXiv:2308.02157.
    """
    if average not in AVERAGES:
        raise ValueError(f"unknown average={average!r}: use {' or '.join(AVERAGES)}")
    return _multistep("x0", order=2, middle=average == "middle")


@named
def dpmpp_3m() -> Transition:
    """DPM-Solver++ 3M. Third order, one call.

    The parabola is averaged exactly. The formula that is in use elsewhere takes the second divided difference for the
    second derivative, of which it is half, and is of second order.

    References:
        Lu et al. 2022, section 4 and appendix, arXiv:2211.01095.
    """
    return _multistep("x0", order=3)


@named
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


@named
def deis(order: int = 3, variable: str = "t") -> Transition:
    """DEIS: Adams-Bashforth for eps, exact in the linear part. Of the order that is chosen, one call.

    Arguments:
        order: 2, 3 or 4, the number of points.
        variable: what the polynomial is in: "t" (tAB-DEIS), "log_snr" (which diffusers has), or "rho", sigma / alpha
            (rhoAB-DEIS; with order 4 it is the linear multistep method of k-diffusion).
    Raises:
        ValueError: another order or variable.
    References:
        Zhang and Chen 2023, eq. 14 and 15, arXiv:2204.13902.
    """
    _check_order(order, (2, 3, 4))
    if variable not in VARIABLES:
        raise ValueError(f"unknown variable={variable!r}: use {', '.join(VARIABLES[:-1])} or {VARIABLES[-1]}")
    return _multistep("eps", order, variable)


@named
def ipndm(order: int = 4) -> Transition:
    """iPNDM: DDIM's step with Adams and Bashforth's weights for *even* steps, of the last estimates of eps. One call.

        e0;  (3 e0 - e1) / 2;  (23 e0 - 16 e1 + 5 e2) / 12;  (55 e0 - 59 e1 + 37 e2 - 9 e3) / 24

    for 1, 2, 3 and 4 points, e0 the newest; it begins with one. Where times are even in rho = sigma / alpha it is of
    the order that is chosen, and the same as `deis(order, "rho")`. On uneven steps its formal order is 1; it is 2 where
    the length of a step changes smoothly along the way, as in all of `SPACINGS`.

    Arguments:
        order: 1, 2, 3 or 4, the number of points; 1 is `ddim()`.
    Raises:
        ValueError: another order.
    References:
        Liu et al. 2022, eq. 12, arXiv:2202.09778; Zhang and Chen 2023, section 4, arXiv:2204.13902.
    """
    _check_order(order, (1, 2, 3, 4))
    return _multistep("eps", order, "step")


def _check_order(order: int, allowed: Sequence[int]) -> None:
    if order not in allowed:
        *others, last = allowed
        raise ValueError(f"order={order}: use {', '.join(map(str, others))} or {last}")


def _multistep(kind: str, order: int, variable: str = "log_snr", eta: float = 0.0, middle: bool = True) -> Transition:
    def spreads(process: Process, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        replaced = eta * posterior_std(process, t, s)
        return replaced, replaced

    injected = spreads if eta else None

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        process = diffusion.process
        x0, *_ = denoised(diffusion, x, t)
        newest = Point(x0 if kind == "x0" else process.convert(x0, x, t, "x0", "eps"), t)
        averaged = _average(process, [newest, *_remembered(memory, order - 1)], t, s, kind, variable, middle)
        if kind == "x0":
            x_s = leap(process, x, averaged, t, s, injected, noise)
        else:
            x_s = _leap_where(_smooth(process, t, s), process, x, x0, averaged, t, s)
        kept = _remember(newest, memory, order - 1) if order > 1 else None
        return Step(x_s, x0, kept)

    return transition


def _leap_where(mask: Mask, process: Process, x: Tensor, x0: Tensor, eps: Terms, t: Tensor, s: Tensor) -> Tensor:
    """The step by eps where the mask is set; elsewhere by x0, which without signal does not follow from eps."""
    start = torch.where(mask, t, 0.5) if isinstance(mask, Tensor) else t  # any time, where it does not count
    return either(mask, lambda: leap_by_eps(process, x, eps, start, s), lambda: leap(process, x, x0, t, s))


@named
def dpmpp_2s() -> Transition:
    """DPM-Solver++ 2S: a DDIM step with the x0 estimate from its middle in lambda. Second order, two calls, no memory.

    References:
        Lu et al. 2022, algorithm 1 with r = 1/2, arXiv:2211.01095.
    """
    return _from_the_middle("x0")


@named
def dpm_2() -> Transition:
    """DPM-Solver 2: a DDIM step with the eps estimate from its middle in lambda. Second order, two calls, no memory.

    Where the signal is nearly gone (rho above 10) and rho changes more than 20-fold it takes DDIM's step, as `heun`
    does.

    References:
        Lu et al. 2022, algorithm 1, arXiv:2206.00927.
    """
    return _from_the_middle("eps")


def _from_the_middle(kind: str) -> Transition:
    @tabulated
    def plain(process: Process, t: Tensor, s: Tensor) -> Mask:
        infinite = ~torch.isfinite(process.log_snr(t) + process.log_snr(s))
        return infinite | steep(process, t, s) if kind == "eps" else infinite

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        process = diffusion.process
        x0, *_ = denoised(diffusion, x, t)
        ddim = plain(process, t, s)
        if everywhere(ddim):
            return Step(leap(process, x, x0, t, s), x0)
        u = _middle(process, t, s)
        x_u = leap(process, x, x0, t, u)
        if kind == "x0":
            inner = denoised(diffusion, x_u, u).x0
            return Step(leap(process, x, where(ddim, x0, inner), t, s), x0)
        _, eps = estimate(diffusion, x_u, u)
        changed = ~ddim if isinstance(ddim, Tensor) else not ddim
        return Step(_leap_where(changed, process, x, x0, [(1.0, eps)], t, s), x0)

    return transition


@tabulated_times
def _middle(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """The time in the middle of the step in lambda; t where that is infinite."""
    middle = (process.log_snr(t) + process.log_snr(s)) / 2
    return torch.where(torch.isfinite(middle), process.time(middle), t)


@named
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
    _check_order(order, (2, 3))

    def transition(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        process = diffusion.process
        x0, *_ = denoised(diffusion, x, t)
        newest, earlier = Point(x0, t), _remembered(memory, order)
        if memory is not None and earlier:
            last = earlier[0]
            averaged = _average(process, [*earlier, newest], last.t, t, "x0", "log_snr")
            smooth, x_last = _smooth(process, last.t, t), memory["x"]
            known = smooth if last.exists is None else smooth & last.exists
            predicted = x
            x = either(known, lambda: leap(process, x_last, averaged, last.t, t), lambda: predicted)
        averaged = _average(process, [newest, *earlier[: order - 1]], t, s, "x0", "log_snr")
        return Step(leap(process, x, averaged, t, s), x0, {**_remember(newest, memory, order), "x": x})

    return transition


def _remembered(memory: Memory, most: int) -> list[Point]:
    """The points in memory, the newest first: as many as the sample has that has the most."""
    if memory is None:
        return []
    count = _shared(memory["count"])
    known = int(count.max() if count.ndim else count)
    return [
        Point(memory[f"value_{j}"], _shared(memory[f"t_{j}"]), count > j if count.ndim else None)
        for j in range(min(most, known))
    ]


def _remember(newest: Point, memory: Memory, most: int) -> dict[str, Tensor]:
    """Memory with one more point for each sample, of which it keeps so many at most."""
    batch, earlier = len(newest.value), memory or {}
    shifted = {
        f"{name}_{j + 1}": earlier[f"{name}_{j}"]
        for j in range(most - 1)
        for name in ("value", "t")
        if f"{name}_{j}" in earlier
    }
    count = _shared(earlier["count"]) if memory else torch.tensor(0)
    return {
        "value_0": newest.value,
        "t_0": newest.t if newest.t.ndim else newest.t.expand(batch),
        **shifted,
        "count": (count + 1).clamp(max=most).expand(batch),
    }


def _shared(values: Tensor) -> Tensor:
    """The one value `[]` of a batch whose rows `[b]` agree, as tables know single times; else all of them."""
    agree = values.stride(0) == 0 or (values == values[0]).all()  # a value that was expanded need not be looked at
    return values[0] if agree else values


def _is_smooth(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """Whether a step has a length, and noise and signal at both ends."""
    return (t != s) & torch.isfinite(process.log_snr(t)) & torch.isfinite(process.log_snr(s))


_smooth: Callable[[Process, Tensor, Tensor], Mask] = tabulated(_is_smooth)


def _average(
    process: Process, points: Sequence[Point], t: Tensor, s: Tensor, kind: str, variable: str, middle: bool = True
) -> Terms:
    """The polynomial through the points, averaged from t to s, as a weighted sum of their values.

    A later point is left out, for each sample by itself, where it does not exist, has no finite lambda or coincides
    with another.

    Arguments:
        variable: what the polynomial is in: one of `VARIABLES`, or "step", in which the points that are of use stand at
            0, -1, -2, ... and the step leads from 0 to 1.
        middle: of two points of x0 let the value in the middle of the step stand for the average, as published.
    """
    if len(points) == 1:
        return [(1.0, points[0].value)]
    times, exist = [point.t for point in points], [point.exists for point in points if point.exists is not None]
    if exist and len(exist) < len(points):
        exist = [torch.tensor(True) if point.exists is None else point.exists for point in points]
    weights = _weights(process, kind, variable, middle, len(points), t, s, *times, *exist)
    return [(weight, point.value) for weight, point in zip(weights, points, strict=True)]


@tabulated
def _weights(
    process: Process, kind: str, variable: str, middle: bool, number: int, t: Tensor, s: Tensor, *points: Tensor
) -> tuple[Coefficient, ...]:
    """The weights of `_average`, one for each of so many points.

    Arguments:
        points: their times; then, if not all of them exist for all samples, whether each does.
    """
    times, existing = points[:number], points[number:] or [torch.tensor(True)] * number
    smooth = _is_smooth(process, t, s)
    # from here on the last axis is that of the quadrature
    start = torch.where(smooth, process.log_snr(t) / 2, 0.0)[..., None]
    end = torch.where(smooth, process.log_snr(s) / 2, 1.0)[..., None]
    positions = [process.log_snr(time)[..., None] / 2 for time in times]
    exist = [(smooth & exists)[..., None] for exists in existing]
    useful = [position.isfinite() & exists for position, exists in zip(positions, exist, strict=True)]
    for j in range(1, number):
        apart = [~useful[i] | ((positions[j] - positions[i]).abs() > 1e-12) for i in range(j)]
        useful[j] = functools.reduce(torch.logical_and, apart, useful[j])
    if variable == "t":
        positions = [time[..., None] for time in times]
    elif variable == "rho":
        positions = [torch.exp(-position) for position in positions]
    elif variable == "step":
        positions = [1.0 - count for count in itertools.accumulate(point.double() for point in useful)]

    def weights_by(nodes: Tensor, mass: Tensor) -> list[Tensor]:
        if variable in ("rho", "step"):  # in rho all of a step weighs the same
            at = nodes if variable == "step" else torch.lerp(torch.exp(-start), torch.exp(-end), nodes)
            return _lagrange(at, mass / mass.sum(), positions, useful)
        inside = start + nodes * (end - start)  # lambda, [quadrature] or [b, quadrature]
        mass = mass * torch.exp((inside - end) if kind == "x0" else (start - inside))
        at = process.time(2 * inside) if variable == "t" else inside
        return _lagrange(at, mass / mass.sum(-1, keepdim=True), positions, useful)

    two = functools.reduce(torch.add, (point.long() for point in useful)) == 2
    middle = middle and kind == "x0"
    if middle and two.all():
        weights = weights_by(*MIDDLE)
    else:
        weights = weights_by(*QUADRATURE)
        if middle and two.any():
            weights = [torch.where(two, *pair) for pair in zip(weights_by(*MIDDLE), weights, strict=True)]
    first = 1 - functools.reduce(torch.add, weights)
    return tuple(weight[..., 0] for weight in (first, *weights))


def _lagrange(at: Tensor, mass: Tensor, positions: Sequence[Tensor], useful: Sequence[Tensor]) -> list[Tensor]:
    """Average each Lagrange polynomial but the first: the weight of its estimate, `[1]` or `[b, 1]`."""
    averages = []
    for j in range(1, len(positions)):
        basis = torch.ones_like(at)
        for i, other in enumerate(positions):
            if i != j:
                used = useful[i] & useful[j]
                ratio = (at - other) / torch.where(used, positions[j] - other, 1.0)
                basis = basis * torch.where(used, ratio, 1.0)
        averages.append(torch.where(useful[j], (mass * basis).sum(-1, keepdim=True), 0.0))
    return averages
