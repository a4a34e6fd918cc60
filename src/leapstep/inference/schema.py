"""The schemas of specifications and manifests."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from leapstep.files.schema import LEVELS, Count, Levels, Name, Plain, Positive, Schema, Word


class SamplingSpec(Schema):
    """What to draw, and how: in a file of its own, or as `spec` in a manifest."""

    model_config = ConfigDict(extra="forbid")
    version: Count = 1
    method: Word = "ddim"
    options: dict[Word, int | float | Word] = Field(default_factory=dict)
    steps: Levels | None = None
    times: Annotated[tuple[float, ...], Field(min_length=1, max_length=LEVELS + 1)] | None = None
    spacing: Word | None = None
    start: Word = "marginal"
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    first: Count = 0
    n: Count = 1
    labels: Annotated[tuple[int | Name, ...], Field(max_length=10_000_000)] | None = None
    conditions: Name | None = None
    guidance: float = 1.0
    rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    dtype: Word = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 1


class TrainedOn(Schema):
    """What the model of some samples was trained on."""

    source: Name | None = None
    holdout: dict[Word, Plain] | None = None


class Manifest(Schema):
    """`manifest.json` of `leapstep sample`."""

    spec: SamplingSpec
    trained_on: TrainedOn | None = None
    model: Name | None = None
    pipeline: dict[str, Any] | None = None
    format: Word | None = None
    device: Word | None = None
    versions: dict[Word, Word] = Field(default_factory=dict)


class Trial(Schema):
    """What was measured of a network, in the user's cache."""

    operations: Positive
    seconds: dict[Word, Positive]
    errors: dict[Word, Annotated[float, Field(ge=0)]]
    failures: dict[Word, Name]
