"""Every process and clock that the doctor tries, and the noise level of a timestep on each.

In the search a `Convention` is in the network's own range, and its index may lie between two integers; `findings` makes
it complete.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from leapstep.core import schedules
from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.doctor.ranges import F64, Range

SPREAD = (0.25, 0.35, 0.7)
"""Values of sigma_data that are tried beside those with a reason, so that one of all is within 20 % or so."""

FAMILIES = {"flow": "flow", "ve": "ve", "karras": "ve"}
"""How the curves of a schedule relate: "vp" where it is not listed."""

AXES: dict[str, str] = {"index_from_1": "index", "1000t": "index", "999t": "index", "fraction_from_0": "fraction"}
"""Clocks that cannot be told apart before the schedule is read, and the one that stands for them."""

SHIFTS = tuple(shift for s in (3, 2, 4, 5, 6, 8, 10, 12) for shift in (float(s), 1 / s))
"""The shifts of a flow that people choose, the most common first; 1 / s is s counted from the other end."""


@lru_cache(maxsize=4096)
def made(name: str, *arguments: Any, **options: Any) -> Process:
    """The process of a named schedule; many conventions share it."""
    return schedules.SCHEDULES[name](*arguments, **options)


def schedule_of(process: Process) -> str:
    """The name of a process's schedule; of a table of log-SNRs, its family."""
    name = "" if process.schedule is None else process.schedule.make.__name__
    return str(parameter(process, "family", name))


def parameter(process: Process, name: str, default: Any) -> Any:
    """A parameter of a process's schedule, or the default where it has none of this name."""
    return default if process.schedule is None else dict(process.schedule.arguments).get(name, default)


def shift_of(process: Process) -> float:
    """The shift of a flow's time axis; 1 where it runs evenly, and of other processes."""
    return float(parameter(process, "shift", 1.0))


def is_table(process: Process) -> bool:
    """Whether a process was read from a network, and has no name."""
    return process.schedule is not None and process.schedule.make.__name__ == "from_log_snr"


def family(process: Process) -> str:
    """ "vp", "ve" or "flow"."""
    return FAMILIES.get(schedule_of(process), "vp")


def axis(convention: Convention) -> str:
    """The clock of a convention, or the one that stands for it before the schedule is read."""
    return AXES.get(str(convention.time), str(convention.time))


def kinds(convention: Convention) -> tuple[str, ...]:
    """The predictions that make sense on a process and clock."""
    if convention.sigma_data is not None:
        return ("F", "-F", "eps", "x0")
    common: tuple[str, ...] = ("eps", "x0", "v", "score", "-eps", "-v", "-score")
    if convention.time == "log_sigma/4" and schedule_of(convention.process) == "cosine":
        common = ("eps", "x0", "v", "score")  # there -v is EDM's F for data of variance 1
    return (*common, "flow", "-flow") if family(convention.process) == "flow" else common


def time_at(convention: Convention, timestep: Tensor) -> Tensor:
    """The time that a timestep stands for; not bounded, so that what lies outside of [0, 1] can be told."""
    ends = convention.timestep(torch.tensor([0.5, 1.0], dtype=F64))
    return 1 - 0.5 * (ends[1] - timestep) / (ends[1] - ends[0])


def level_of(convention: Convention, timesteps: Tensor) -> Tensor:
    """The log-SNR at which a network believes to be, nan where it was not trained, `[m]`."""
    if convention.time in ("log_snr", "-log_snr"):
        return timesteps if convention.time == "log_snr" else -timesteps
    if convention.time == "log_sigma/4":
        return -8 * timesteps
    if convention.time == "sigma":
        return -2 * timesteps.clamp(min=1e-12).log()
    t = time_at(convention, timesteps)
    first = 1 / (convention.levels or 10**9)
    inside = (t > 0.999 * first) & (t < 1 + 1e-9)
    return torch.where(inside, convention.process.log_snr(t.clamp(1e-9, 1)), torch.nan)


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


def conventions(
    span: Range, timesteps: Sequence[int], counts_only: bool, assumed: float | None = None
) -> list[Convention]:
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
    forms: list[tuple[str, dict[str, float]]] = [
        ("linear", {}),
        ("cosine", {}),
        ("flow", {}),
        ("ve", {}),
        ("karras", {}),
    ]
    forms += [("ve", {"sigma_max": 10.0}), ("ve", {"sigma_max": 2.0})]
    out: list[Convention] = []

    def add(process: Process, time: str, levels: int | None = None, **options: Any) -> None:
        out.append(Convention(process, time=time, timesteps=levels, fractional=True, **options))

    for name, options in forms:
        process = made(name, **options)._replace(timesteps=None)
        if name != "karras":
            for shift in (1.0, *SHIFTS[:2]) if name == "flow" else (1.0,):
                process = process if shift == 1 else made("flow", shift=shift)
                for reverse in (False, True):
                    for levels in timesteps if shift == 1 else timesteps[:1]:
                        add(process, "index", levels, reverse=reverse)
                    if not counts_only:
                        add(process, "fraction", reverse=reverse)
        if counts_only:
            continue
        if name == "cosine":
            for time in ("log_snr", "-log_snr", "log_sigma/4"):
                add(process, time)
        if name == "karras":
            add(process, "sigma")
            add(process, "log_sigma/4")
            for time in ("log_sigma/4", "sigma"):
                for size in spread:
                    add(process, time, sigma_data=size)
    return out
