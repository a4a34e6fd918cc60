"""What the manifest beside samples may say."""

from __future__ import annotations

from leapstep.files.schema import Name, Plain, Schema, Word


class TrainedOn(Schema):
    """What the model of some samples was trained on."""

    source: Name | None = None
    holdout: dict[Word, Plain] | None = None


class Manifest(Schema):
    """`manifest.json` of `leapstep sample`."""

    seed: int | None = None
    guidance: float | None = None
    trained_on: TrainedOn | None = None
