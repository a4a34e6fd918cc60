"""The options that the commands that measure samples (evaluate, sweep) share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataSource = Annotated[
    str | None,
    typer.Argument(help="Real data: `digits`, a folder, a file, a name on the Hub; default: what it was trained on."),
]
FeatureSpace = Annotated[
    str,
    typer.Option(
        help="What samples are compared in: pixels (their principal components) | inception (as FID and KID are) | the "
        "folder that `leapstep features train` made | file.py:function, which sees values as they lie on disk"
    ),
]
Weights = Annotated[Path | None, typer.Option(help="A local file of weights for --features inception.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME ...",
        help="frechet | kernel | precision | recall | density | coverage | inception_score; default: all that the "
        "features allow.",
    ),
]
Neighbours = Annotated[int, typer.Option("--k", help="Which nearest neighbour bounds precision, recall and so on.")]
Resamples = Annotated[int, typer.Option(help="Of the bootstrap that makes the intervals.")]

DRAWN = {"label": "as often as in the reference"}
"""Defaults of the specification, as the help of these commands shows them."""


def tell(text: str) -> None:
    """Print a line on what was done to the data, beside the results."""
    typer.echo(text, err=True)
