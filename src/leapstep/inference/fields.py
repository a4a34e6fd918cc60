"""The fields of a specification, as far as they can be read and checked without a model, and without PyTorch.

A command that must be refused is refused at once: PyTorch takes longer to import than all of this.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leapstep.core.names import DTYPES, METHODS, SPACINGS, STARTS, ours, refusal
from leapstep.files import reading
from leapstep.text import allowed, near, one_line

VERSION = 1
"""Of the JSON format."""

Option = int | float | str

AUTO, FITTED = "auto", "fitted"
"""Methods that are known for a model alone: the best for a number of calls, and the solver that was fitted for it."""

KEEPERS = ("replacement", "guidance")
"""How what the mask of an edit keeps acts on the rest: put in its place after each step, or by the gradient of the
denoiser."""

SOLVER = "solver"
"""The option of "fitted" that tells which solver it is, see `leapstep.models.tuned.Solver.short_sha256`."""

LIMITS = {"seed": (0, 2**64 - 1), "first": (0, None), "n": (1, None), "batch_size": (1, None)}
"""The least and the most of whole numbers."""


class SpecError(ValueError):
    """A field of a specification that does not fit.

    Attributes:
        field: its name, for who knows it by another, such as an option of the command line.
        value: what arrived.
        problem: what is wrong with it, and what is allowed.
    """

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(f"{field}={one_line(str(value), 60)}: {problem}")
        self.field, self.value, self.problem = field, value, problem


# --- options -------------------------------------------------------------------------------------------------------


def defaults(method: str) -> dict[str, Option]:
    """The options of a method with their defaults, without those that come from a calibration or from a tuning."""
    return {SOLVER: ""} if method == FITTED else METHODS[method]


def not_default(method: str, options: Mapping[str, Option]) -> dict[str, Option]:
    """The options of a method that are not at their defaults, as the types that they have by default.

    Raises:
        ValueError: an option that the method does not have, or a value of another type.
    """
    known = defaults(method)
    for name in options:
        if name not in known:
            listed = (
                " and ".join(f"{key} (default {value})" for key, value in known.items() if value != "") or "no options"
            )
            meant = near(name, known)
            guess = "" if meant is None else f": did you mean {meant}?"
            raise ValueError(f"{name} does not apply to method {method}, which takes {listed}{guess}")
    typed = {name: _typed(name, value, known[name]) for name, value in options.items()}
    return {name: value for name, value in typed.items() if value != known[name]}


def _typed(name: str, value: Option, default: Option) -> Option:
    """A value of the type of an option's default; a text that stands for a number is read."""
    kind = type(default)
    if kind not in (int, float) or type(value) is kind:
        return value
    try:
        number = float(value) if kind is float else int(value) if isinstance(value, str) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value}: give {'an integer' if kind is int else 'a number'}") from None
    return number


# --- all fields ----------------------------------------------------------------------------------------------------


def check(values: Mapping[str, Any]) -> None:
    """Check what can be told of a specification without a model.

    Arguments:
        values: all fields of `SamplingSpec` by name.
    Raises:
        SpecError: the first that is wrong, or contradicts another.
        ValueError: an option that the method does not have.
    """
    method, implied = ours(values["method"])
    check_methods("method", [method], (FITTED, AUTO))
    if values["start"] not in STARTS:
        raise SpecError("start", values["start"], allowed(values["start"], STARTS))
    if values["spacing"] is not None:
        check_spacings("spacing", [values["spacing"]])
    if values["dtype"] not in (AUTO, *DTYPES):
        raise SpecError("dtype", values["dtype"], "use auto, float32, bfloat16 or float64")
    for name, (least, most) in LIMITS.items():
        value = values[name]
        if not is_whole(value) or value < least or (most is not None and value > most):
            limit = f"at least {least}" if most is None else f"an integer from {least} to 2^64 - 1"
            raise SpecError(name, value, f"must be {limit}")
    steps = values["steps"]
    if steps is not None and (not is_whole(steps) or operator.index(steps) < 1):
        raise SpecError("steps", steps, "give an integer, at least 1")
    if values["guidance"] == 1 and values["rescale"] != 0:
        raise SpecError("rescale", values["rescale"], "applies to guidance, and guidance 1 is none: set one")
    if method != AUTO:
        not_default(method, {**implied, **values["options"]})


def check_methods(field: str, methods: Iterable[str], more: Iterable[str] = (FITTED,)) -> None:
    """Check the names of methods, as they are here or elsewhere; `more` are those that are known for a model alone."""
    for method, _ in map(ours, methods):
        if method not in (known := (*METHODS, *more)):
            raise SpecError(field, method, refusal(method, known))


def check_spacings(field: str, spacings: Iterable[str]) -> None:
    """Check the names of spacings."""
    for spacing in spacings:
        if spacing not in SPACINGS:
            raise SpecError(field, spacing, allowed(spacing, SPACINGS))


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of any type but bool."""
    return not isinstance(value, bool) and hasattr(value, "__index__")


def usual() -> dict[str, Any]:
    """The fields that nothing is said of, as the schema of specifications has them."""
    from leapstep.inference import schema

    return {name: value for name, value in schema.SamplingSpec() if name != "version"}


def parsed(value: Any) -> dict[str, Any]:
    """The fields that a JSON object states.

    Raises:
        ValueError: no object, another version, an unknown key, or a value of the wrong type or size.
    """
    from leapstep.files.schema import checked
    from leapstep.inference import schema

    if not isinstance(value, Mapping):
        raise ValueError(f"a specification is a JSON object, not a {type(value).__name__}")
    if (version := value.get("version", VERSION)) != VERSION:
        raise ValueError(f"version is {version!r}: this leapstep reads specifications of version {VERSION}")
    known = list(usual())
    for name in value:
        if name not in known and name != "version":
            raise ValueError(f"unknown key {one_line(str(name), 60)!r}: {allowed(name, known)}")
    checked(schema.SamplingSpec, value)
    return {name: item for name, item in value.items() if name != "version"}


def read(path: str | Path) -> dict[str, Any]:
    """The fields in a file of a specification, or in a manifest, which holds one as `spec`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else; the message begins with the path.
    """
    value = reading.read_json(path)
    if isinstance(value, Mapping) and "spec" in value:
        value = value["spec"]
    try:
        return parsed(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
