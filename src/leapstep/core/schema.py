"""The schema of a convention's JSON file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from leapstep.files.reading import CLASSES
from leapstep.files.schema import LEVELS, Levels, Name, Positive, Schema, Share, Side, Word, checked

__all__ = ["Convention", "checked"]

Table = Annotated[list[float | tuple[int, float]], Field(max_length=LEVELS)]


class Process(Schema):
    """A process by the name of its schedule; the parameters are checked by what makes it."""

    __pydantic_extra__: dict[str, bool | Word | float | Table | None]
    name: Word
    timesteps: Levels | None = None
    trained_levels: Levels | None = None


class Scaling(Schema):
    """How the network's range relates to the user's: a shift, which may be a nested list, and a scale."""

    model_config = ConfigDict(extra="forbid")
    shift: float | list[Any]
    scale: float


class DynamicThreshold(Schema):
    """Dynamic thresholding."""

    model_config = ConfigDict(extra="forbid")
    quantile: Share = 0.995
    limit: Positive = 1.0
    most: Positive | None = None


class Condition(Schema):
    """An argument that the network takes besides."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    classes: Annotated[tuple[Name, ...], Field(max_length=CLASSES)] = ()
    null: bool | int | float | list[Any] | None = None


class Convention(Schema):
    """How a network is called; the names are checked by what reads them."""

    model_config = ConfigDict(extra="forbid")
    convention: Annotated[int, Field(ge=1)]
    process: Process
    predicts: Word
    time: Word
    timesteps: Levels | None = None
    fractional: bool = False
    reverse: bool = False
    reshape: Word = "[b]"
    scaling: Scaling | None = None
    sigma_data: Positive | None = None
    clip: DynamicThreshold | tuple[float, float] | None = None
    learned_variance: bool | None = None
    origin: float | list[Any] = 0.0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=64)] = ()
    shape: Annotated[tuple[Side, ...], Field(max_length=16)] | None = None
    spacing: Word | None = None
    steps: Levels | None = None
