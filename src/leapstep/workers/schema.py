"""The schemas of a job folder: `job.json`, and the lines of its logs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from leapstep.files.schema import Count, Schema

Size = Annotated[int, Field(ge=1, lt=2**53)]


class Job(Schema):
    """What a job is, and how it is cut into shards."""

    key: dict[str, Any]
    n: Size
    batch_size: Size
    shard: Size
    suffix: Annotated[str, Field(max_length=32, pattern=r"^(\.[a-z0-9]+)*$")]
    threads: Annotated[int, Field(ge=1, le=4096)]
    settled: dict[str, Any]


class Entry(Schema):
    """What a writer noted of a shard."""

    shard: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    record: dict[str, Any]
