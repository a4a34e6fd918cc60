"""Options of commands whose work can be cut into shards, for workers here or elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from leapstep.workers import ENGINES, check_engine

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


def check(on: str | None, shard: int | None) -> None:
    """Make sure, before a model is opened, that there are such workers.

    Raises:
        ValueError: there are none, or a shard size is asked for without them.
    """
    if on is not None:
        check_engine(on)
    elif shard is not None:
        raise ValueError(f"--shard {shard} cuts the work of --on: pass --on here, or leave it out")
    if shard is not None and shard < 1:
        raise ValueError(f"--shard {shard}: it must be at least 1")
