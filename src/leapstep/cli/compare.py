"""`leapstep compare`: results of `evaluate` and `sweep` in one table that marks what is not comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.text import allowed

EXAMPLES = """**Examples**

`leapstep compare ddim.json unipc.json`

`leapstep compare sweep-a sweep-b/results.json mine.json --metric kernel > table.md`
"""


def command(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT ...", help="Files of `evaluate --out`, folders or files of `sweep`.")
    ],
    metric: Annotated[
        str, typer.Option(help="frechet | kernel | precision | recall | density | coverage | ...")
    ] = "frechet",
) -> dict[str, Any]:
    """Put results into one Markdown table; what was measured under other conditions is marked and explained below."""
    from leapstep.evaluation.cells import NAMES
    from leapstep.evaluation.results import compare
    from leapstep.views import tables

    if metric not in NAMES:
        raise ValueError(f"--metric {metric}: {allowed(metric, NAMES)}")
    compared = compare(results)
    typer.echo(tables.comparison(compared, metric))
    return compared._asdict()
