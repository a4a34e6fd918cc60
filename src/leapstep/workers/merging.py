"""Results that are merged from shards: the job lies in their folder until they are there."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leapstep import files
from leapstep.files import folders, reading
from leapstep.workers.asked import Workers
from leapstep.workers.job import JOB, Work
from leapstep.workers.running import TORCHRUN, Finished, leads, run
from leapstep.workers.torchrun import waited

SHARDS = "shards"
"""The folder of the job in that of the results, among whose names it must be."""


def check_place(out: Path, kind: folders.Kind, workers: Workers) -> None:
    """Make sure that results may be made in a folder, or go on there; see `folders.check_free`."""
    if leads(workers.on, workers.overwrite) and (workers.overwrite or not _begun(out, kind)):
        folders.check_free(out, workers.overwrite, kind)


def _begun(out: Path, kind: folders.Kind) -> bool:
    return (out / SHARDS).is_dir() and (out / kind.mark).is_file()


def _under_way(out: Path, kind: folders.Kind, record: Mapping[str, Any]) -> bool | None:
    """Whether a job has begun in a folder; False: its results are there already; None: neither."""
    if _begun(out, kind):
        return True
    try:
        said = reading.read_json(out / kind.mark)
    except (OSError, ValueError):
        return None
    return None if said == json.loads(json.dumps(record)) else False


@contextlib.contextmanager
def merging(
    work: Work,
    workers: Workers,
    kind: folders.Kind,
    record: Mapping[str, Any],
    key: Mapping[str, Any],
    n: int,
    batch_size: int,
) -> Iterator[Finished | None]:
    """Make the shards of a job, and hold the folder of its results while they are merged; then the shards go.

    Arguments:
        workers: whose, and the folder of results.
        kind: of these results, whose names have `SHARDS` among them.
        record: what the mark of the folder says until the results are there.
        key, n, batch_size: see `run`.
    Yields:
        the finished job; None in processes of torchrun that end while others are still at work.
    Raises:
        ValueError: what `folders.begin` and `run` raise.
    """
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(workers.place())
        shards = out / SHARDS
        if leads(workers.on, workers.overwrite):
            with folders.locked(out):
                check_place(out, kind, workers)
                if workers.overwrite or not _begun(out, kind):
                    folders.begin(out, workers.overwrite, kind, record)
                    folders.inner(out, SHARDS)
        elif not waited(lambda: _under_way(out, kind, record)):
            yield None
            return
        finished = run(work, shards, key, n, batch_size=batch_size, shard=workers.shard, **workers.options)
        merges = finished.complete
        if merges:
            try:
                stack.enter_context(folders.locked(out))
            except ValueError:
                if workers.on != TORCHRUN:
                    raise
                merges = False  # another rank, which ended at the same moment, does
        merges = merges and (shards / JOB).exists()
        with finished.job.noting():
            yield finished if merges else None
        if merges:  # at once, so that ranks that are late find all of it or nothing
            shutil.rmtree(shards.rename(out / f"{files.PREFIX}{secrets.token_hex(8)}"))
