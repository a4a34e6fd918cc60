"""The schemas of the results of sweeps and evaluations, and of a feature space's record."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from leapstep.files.reading import CLASSES
from leapstep.files.schema import LEVELS, Count, Line, Name, Plain, Schema, Seconds, Side, Word
from leapstep.inference.schema import SamplingSpec
from leapstep.models.schema import Scaling


class Value(Schema):
    """A number with its interval."""

    value: float | None
    low: float | None
    high: float | None
    first: Count | None = None


class Cell(Schema):
    """What a sweep measured of one setting."""

    method: Word
    options: dict[Word, Plain]
    label: Word
    steps: Annotated[int, Field(ge=1, le=LEVELS)]
    spacing: Word
    calls: Annotated[float, Field(ge=0)]
    seconds: Seconds | None
    seconds_low: Seconds | None = None
    seconds_high: Seconds | None = None
    n: Count | None = None
    metrics: dict[Word, Value]
    replicates: dict[Word, Annotated[list[float | None], Field(max_length=100_000)]] = Field(default_factory=dict)


class Sweep(Schema):
    """`results.json` of `leapstep sweep`."""

    model: Name | None = None
    spec: SamplingSpec | None = None
    conditions: dict[Word, Any]
    metric: Word
    finished: bool = False
    warnings: list[Line] = Field(default_factory=list)
    advice: list[Line] = Field(default_factory=list)
    cells: Annotated[list[Cell], Field(max_length=100_000)]
    relation: Word | None = None


class Evaluated(Schema):
    """How the samples of an evaluation were made."""

    model: Name | None = None
    samples: Name | None = None
    spec: SamplingSpec | None = None
    label: Word | None = None
    calls: Annotated[float, Field(ge=0)] | None = None
    seconds: Seconds | None = None


class Evaluation(Schema):
    """The file of `leapstep evaluate --out`."""

    evaluation: Evaluated
    conditions: dict[Word, Any]
    metrics: dict[Word, Value]
    relation: Word | None = None


class Learned(Schema):
    """What the features of a folder were learned from."""

    shape: Annotated[tuple[Side, ...], Field(max_length=8)]
    pictures: bool
    scaling: Scaling
    classes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=CLASSES)]


class FeatureSpace(Schema):
    """`features.json`."""

    weights_sha256: Word
    data: Learned
