"""The options that the commands that measure samples (evaluate, sweep) share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataSource = Annotated[
    str | None,
    typer.Argument(help="Real data: `digits`, a folder, a file, a name on the Hub; default: the training data."),
]
FeatureSpace = Annotated[
    str,
    typer.Option(
        help="The feature space of the comparison: pixels (principal components) | inception (FID,"
        " KID) | a folder made by `leapstep features train` | file.py:function, which gets "
        "values as they are on disk"
    ),
]
Weights = Annotated[Path | None, typer.Option(help="A local file of weights for --features inception.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME ...",
        help="frechet | kernel | precision | recall | density | coverage | inception_score; "
        "default: all that the features support.",
    ),
]
Neighbours = Annotated[
    int, typer.Option("--k", help="Number of nearest neighbours for precision, recall, density and coverage.")
]
Resamples = Annotated[int, typer.Option(help="Number of resamples for the intervals.")]

Merged = Annotated[
    bool,
    typer.Option(
        "--merged",
        help="Merge statistics of blocks of samples instead of keeping all features, so that memory does not grow with "
        "--n; default: from 50,001 samples on.",
    ),
]

DRAWN = {"label": "as often as in the reference"}
"""Defaults of the specification, as the help of these commands shows them."""


def tell(text: str) -> None:
    """Print a line on what was done to the data, beside the results."""
    typer.echo(text, err=True)
