"""Schemas: the contents of files are checked before they are used.

The schemas themselves stand in the packages that read the files: `workers.schema`, `models.schema`,
`inference.schema` and `evaluation.schema`; here is what they have in common.

A schema knows types, lengths and ranges that no honest file leaves, not what the values mean together: that is for the
code that uses them. Keys that it does not know are kept, unchecked, and nobody reads them. Types are strict: 1 is a
number where "1" is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from leapstep.text import clean, one_line

LEVELS = 100_000
"""The most trained noise levels."""

SIDE = 2**16
"""The most values along one axis of a sample."""

WIDTH = 2**20
"""The most channels, heads, features or rows of anything in a network; its lists have at most 64 entries."""

BLOCKS = 1000
"""The most blocks of a network, in a level or in all."""


def _shown(word: str) -> str:
    if clean(word, keep="") != word:
        raise ValueError("it holds characters that act instead of being shown")
    return word


Word = Annotated[str, Field(max_length=200), AfterValidator(_shown)]
Line = Annotated[str, Field(max_length=5000)]
Name = Annotated[str, Field(max_length=1000)]
Levels = Annotated[int, Field(ge=1, le=LEVELS)]
Side = Annotated[int, Field(ge=1, le=SIDE)]
Width = Annotated[int, Field(ge=0, le=WIDTH)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=WIDTH)], ...], Field(min_length=1, max_length=64)]
Blocks = Annotated[int, Field(ge=1, le=BLOCKS)]
Betas = Annotated[tuple[float, ...], Field(min_length=1, max_length=LEVELS)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Plain = bool | int | float | Name | None


class Schema(BaseModel):
    """A part of a JSON file."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


Kind = TypeVar("Kind", bound=Schema)


def checked(kind: type[Kind], value: Any) -> Kind:
    """What a JSON value says, once it keeps to a schema.

    Arguments:
        kind: the schema.
        value: as `leapstep.files.reading.read_json` returned it.
    Raises:
        ValueError: it does not; with the first key that is missing or wrong, what arrived and what is allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"it holds a {type(value).__name__} where a JSON object is expected")
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """The first thing that a validation found, in one short line."""
    problem = error.errors(include_url=False)[0]
    where = one_line(".".join(str(part) for part in problem["loc"]), 100)
    if problem["type"] == "missing":
        return f"it lacks '{where}'"
    if problem["type"] == "extra_forbidden":
        return f"there is no {where}"
    arrived = one_line(json.dumps(problem["input"], ensure_ascii=False, default=str)[:1000], 60)
    message = problem["msg"].removeprefix("Value error, ")
    return clean(f"{where} is {arrived}: {message[0].lower()}{message[1:]}")
