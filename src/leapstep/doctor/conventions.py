"""Every process and clock that the doctor tries, and the noise level of a timestep on each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process, along
from leapstep.core.schedules import cosine, flow, karras, linear, ve
from leapstep.doctor.ranges import F64, Range
from leapstep.doctor.warp import SHIFTS, Warp

SPREAD = (0.25, 0.35, 0.7)
"""Values of sigma_data that are tried beside those with a reason, so that one of all is within 20 % or so."""

FAMILIES = {"flow": "flow", "ve": "ve", "karras": "ve"}
"""How the curves of a schedule relate: "vp" where it is not listed."""

AXES: dict[str, str] = {"index_from_1": "index", "1000t": "index", "999t": "index", "fraction_from_0": "fraction"}
"""Clocks that cannot be told apart before the schedule is read, and the one that stands for them."""


class Route(NamedTuple):
    """A process, and the clock by which the network is told where on it x_t stands.

    Attributes:
        schedule: the name of the process.
        process: in continuous time.
        time, reverse, timesteps: as in `from_network`.
        sigma_data: as in `from_network`, None where the network sees x_t as it is.
        warp: how the time that is counted goes with that of the process, None where the two are the same.
    """

    schedule: str
    process: Process
    time: str
    reverse: bool = False
    timesteps: int | None = None
    sigma_data: float | None = None
    warp: Warp | None = None

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told at times `[b]`, float64."""
        counted = t if self.warp is None else self.warp.counted(t)
        free = self.process._replace(timesteps=None)
        convention = Convention(free, time=self.time, timesteps=self.timesteps, fractional=True, reverse=self.reverse)
        return convention.timestep(counted).to(F64)

    def seen(self, x: Tensor, t: Tensor) -> Tensor:
        """What the network is given for x_t `[b, *d]`."""
        return x if self.sigma_data is None else x / along(self.process.size(t, self.sigma_data), x)

    def kinds(self) -> tuple[str, ...]:
        """The predictions that make sense here."""
        if self.sigma_data is not None:
            return ("F", "-F", "eps", "x0")
        common: tuple[str, ...] = ("eps", "x0", "v", "score", "-eps", "-v", "-score")
        if self.time == "log_sigma/4" and self.schedule == "cosine":
            common = ("eps", "x0", "v", "score")  # there -v is EDM's F for data of variance 1
        return (*common, "flow", "-flow") if self.schedule == "flow" else common


def family(schedule: str) -> str:
    """ "vp", "ve" or "flow"."""
    return FAMILIES.get(schedule, "vp")


def time_at(route: Route, timestep: Tensor) -> Tensor:
    """The time that a timestep stands for; not bounded, so that what lies outside of [0, 1] can be told."""
    ends = route._replace(warp=None).timestep(torch.tensor([0.5, 1.0], dtype=F64))
    t = 1 - 0.5 * (ends[1] - timestep) / (ends[1] - ends[0])
    return (
        t if route.warp is None else torch.where((t - t.clamp(0, 1)).abs() < 1e-9, route.warp.meant(t.clamp(0, 1)), t)
    )


def level_of(route: Route, timesteps: Tensor) -> Tensor:
    """The log-SNR at which a network on this route believes to be, nan where it was not trained, `[m]`."""
    if route.time in ("log_snr", "-log_snr"):
        return timesteps if route.time == "log_snr" else -timesteps
    if route.time == "log_sigma/4":
        return -8 * timesteps
    if route.time == "sigma":
        return -2 * timesteps.clamp(min=1e-12).log()
    t = time_at(route, timesteps)
    first = 1 / (route.timesteps or 10**9)
    inside = (t > 0.999 * first) & (t < 1 + 1e-9)
    return torch.where(inside, route.process.log_snr(t.clamp(1e-9, 1)), torch.nan)


def sizes(span: Range, assumed: float | None = None) -> dict[float, str]:
    """The values of sigma_data that people take in this range, and what each is; what somebody believes first."""
    named = {} if assumed is None else {float(assumed): "as you assumed"}
    named |= {0.5: "as in EDM", 1.0: "as for data of variance 1"}
    named.setdefault(_rounded(span.values.std().item()), "the standard deviation of all values of your data")
    named.setdefault(_rounded(span.linear.variance**0.5), "the deviation of your data from their mean sample")
    return named


def _rounded(size: float) -> float:
    """To four digits."""
    return float(f"{size:.4g}")


def routes(span: Range, timesteps: Sequence[int], counts_only: bool, assumed: float | None = None) -> list[Route]:
    """The processes and clocks that the first comparison tries; each stands for others that are near it.

    Arguments:
        span: the range considered.
        timesteps: how many levels an index may count.
        counts_only: whether the network only takes integers.
        assumed: a value of sigma_data to try beside the usual ones.
    """
    spread: list[float] = []
    for size in (*sizes(span, assumed), *SPREAD):
        spread += [] if any(abs(math.log(size / other)) < 0.1 for other in spread) else [size]
    found = []
    forms = [("linear", linear()), ("cosine", cosine()), ("flow", flow()), ("ve", ve()), ("karras", karras())]
    forms += [("ve", ve(sigma_max=10.0)), ("ve", ve(sigma_max=2.0))]
    for name, process in forms:
        free = process._replace(timesteps=None)
        if name != "karras":
            for reverse in (False, True):
                found += [Route(name, free, "index", reverse, levels) for levels in timesteps]
                if not counts_only:
                    found.append(Route(name, free, "fraction", reverse))
            if name == "flow":
                even = [each for each in found if each.schedule == name and each.timesteps in (None, timesteps[0])]
                found += [each._replace(warp=warp) for warp in SHIFTS[:2] for each in even]
        if counts_only:
            continue
        if name == "cosine":
            found += [Route(name, free, "log_snr"), Route(name, free, "-log_snr"), Route(name, free, "log_sigma/4")]
        if name == "karras":
            found += [Route(name, free, "sigma"), Route(name, free, "log_sigma/4")]
            found += [Route(name, free, time, sigma_data=size) for time in ("log_sigma/4", "sigma") for size in spread]
    return found
