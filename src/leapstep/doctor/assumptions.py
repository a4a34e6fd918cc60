"""What the user assumes about a network: the arguments that can be assumed, and their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from leapstep.core.convention import CLOCKS, SHAPES
from leapstep.core.process import PREDICTIONS
from leapstep.core.schedules import SCHEDULES
from leapstep.doctor.ranges import RANGES
from leapstep.text import allowed

NAMES: dict[str, tuple[str, ...]] = {
    "range": RANGES,
    "predicts": (*PREDICTIONS, *(f"-{kind}" for kind in PREDICTIONS)),
    "time": tuple(CLOCKS),
    "schedule": tuple(SCHEDULES),
    "reshape": SHAPES,
}
"""Assumptions whose values are names."""

TYPES = {"timesteps": "an integer", "sigma_data": "a number", "reverse": "true or false"}
"""All others, and what they are."""

FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def checked(assume: Mapping[str, Any], ranges: tuple[str, ...] = RANGES) -> dict[str, Any]:
    """The assumptions, if there are such.

    Arguments:
        ranges: the names of those that the data can have.
    Raises:
        ValueError: a name that cannot be assumed, or a value that it cannot have.
    """
    for name, value in assume.items():
        if name not in NAMES and name not in TYPES:
            raise ValueError(f"{name} cannot be assumed: use one of {', '.join((*NAMES, *TYPES))}")
        if name in NAMES and value not in NAMES[name]:
            raise ValueError(f"assumed {name}={value!r}: {allowed(value, NAMES[name])}")
        if name == "range" and value not in ranges:
            raise ValueError(f"assumed range={value!r}: for these data use one of {', '.join(ranges)}")
        if name in ("timesteps", "sigma_data") and value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"assumed {name}={value}: it must be positive")
    return dict(assume)


def parsed(settings: list[str]) -> dict[str, Any]:
    """The assumptions that are written as NAME=VALUE.

    Raises:
        ValueError: another form, a name that cannot be assumed, or a value that it cannot have.
    """
    assume: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not text:
            raise ValueError(f"assumed {setting}: write it as NAME=VALUE")
        try:
            kinds: dict[str, Any] = {"timesteps": int, "sigma_data": float, "reverse": lambda text: FLAGS[text.lower()]}
            assume[name] = kinds.get(name, str)(text)
        except (ValueError, KeyError):
            raise ValueError(f"assumed {setting}: give {TYPES[name]}") from None
    return checked(assume)
