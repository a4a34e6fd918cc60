"""Options of commands whose work can be cut into shards, for workers here or elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leapstep import files
from leapstep.files import folders
from leapstep.workers import ENGINES, Workers, check_engine, leads
from leapstep.workers.job import JOB
from leapstep.workers.merging import check_place

On = Annotated[
    str | None,
    typer.Option(
        metavar="WORKERS",
        help=f"Cut the work into shards for workers: {' | '.join(ENGINES)}; what was stopped then goes on.",
    ),
]
Shard = Annotated[
    int | None,
    typer.Option(
        help="With --on: how many a shard has, rounded up to whole batches; default: about a minute's work, measured."
    ),
]

Count = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="With Ray: how many workers, also such as wait for machines; default: as there is room for.",
    ),
]


def check(on: str | None, shard: int | None, workers: int | None = None) -> None:
    """Make sure, before a model is opened, that there are such workers.

    Raises:
        ValueError: there are none, or a shard size is asked for without them.
    """
    if on is not None:
        check_engine(on, workers)
    elif workers is not None:
        raise ValueError(f"--workers {workers} are those of --on ray: pass --on, too, or leave it out")
    elif shard is not None:
        raise ValueError(f"--shard {shard} cuts the work of --on: pass --on here, or leave it out")
    if shard is not None and shard < 1:
        raise ValueError(f"--shard {shard}: it must be at least 1")


def asked(
    on: str | None, shard: int | None, workers: int | None, device: str | None, out: Path | None, overwrite: bool
) -> Workers | None:
    """The workers that these options name, and the folder of results, once `check` has seen them; None without --on."""
    check(on, shard, workers)
    return None if on is None else Workers(on, shard, out, device, workers, overwrite)


def check_free(out: Path, overwrite: bool, kind: folders.Kind, workers: Workers | None) -> None:
    """As `options.check_free`; a job that is cut into shards may go on in the folder."""
    if workers is None:
        folders.check_free(out, overwrite, kind)
    else:
        check_place(out, kind, workers)


def beside(out: Path, on: str) -> Path:
    """The folder of a job beside the file of its result, which is removed when that is there.

    Raises:
        ValueError: a folder of that name holds something else.
    """
    path = out.with_name(f"{out.stem}-shards")
    names = [inner.name for inner in path.iterdir()] if leads(on) and path.is_dir() else []
    if JOB not in names and not all(name.startswith(files.PREFIX) for name in names):
        raise ValueError(f"{path}, where shards would be, holds something else: name another --out")
    return path
