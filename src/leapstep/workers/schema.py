"""The schemas of a job folder: `job.json`, the lines of its logs, and the shards that a manifest lists."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from leapstep.files.schema import Count, Schema, Word

Size = Annotated[int, Field(ge=1, lt=2**53)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Job(Schema):
    """What a job is, and how it is cut into shards."""

    key: dict[str, Any]
    n: Size
    batch_size: Size
    shard: Size
    suffix: Annotated[str, Field(max_length=32, pattern=r"^(\.[a-z0-9]+)*$")]
    threads: Annotated[int, Field(ge=1, le=4096)]
    settled: dict[str, Any]
    what: Word = ""
    unit: Word = "sample"
    device: Word = ""


class Entry(Schema):
    """What a writer noted of a shard."""

    shard: Count
    bytes: Count | None = None
    sha256: Sha256
    record: dict[str, Any]
    device: Word = ""


class Listed(Schema):
    """What a manifest says of a shard."""

    file: Annotated[str, Field(pattern=r"^\d{5,7}(\.[a-z0-9]+)?$")]
    first: Count
    n: Size
    bytes: Count | None = None
    sha256: Sha256


class Listing(Schema):
    """The shards in a manifest; none where the job is not finished."""

    shards: list[Listed]
