"""`leapstep compare`: training runs on one page, or results of `evaluate` and `sweep` in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import options
from leapstep.models import folder
from leapstep.text import allowed

EXAMPLES = """**Examples**

`leapstep compare ddim.json unipc.json`

`leapstep compare sweep-a sweep-b/results.json mine.json --metric kernel > table.md`

`leapstep compare runs/digits runs/mnist --out page.html`
"""


def command(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT|RUN ...",
            help="Files of `evaluate --out`, folders or files of `sweep`; or two or more run folders.",
        ),
    ],
    metric: Annotated[
        str | None,
        typer.Option(help="Of results: frechet (default) | kernel | precision | recall | density | coverage | ..."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="The page to write about runs; default: their numbers are printed only."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> dict[str, Any]:
    """Put training runs side by side: losses, settings, speed, quality, samples; or results of evaluations in a table.

    The page is a single file that needs no network. In the Markdown table of results, what was measured under other
    conditions is marked and explained below.
    """
    runs = [path for path in results if folder.is_model(path)]
    if runs and len(runs) < len(results):
        other = next(path for path in results if path not in runs)
        raise ValueError(f"{runs[0]} is a run and {other} is not: compare runs with runs, and results with results")
    if runs:
        if metric is not None:
            raise ValueError(f"--metric {metric} is for results: of runs all that was measured is shown, leave it out")
        return _runs(runs, out, overwrite)
    metric = metric or "frechet"
    if out is not None:
        raise ValueError(f"--out {out} is for run folders: a table of results is printed, > table.md keeps it")
    from leapstep.evaluation.cells import NAMES
    from leapstep.evaluation.results import compare
    from leapstep.views import tables

    if metric not in NAMES:
        raise ValueError(f"--metric {metric}: {allowed(metric, NAMES)}")
    compared = compare(results)
    typer.echo(tables.comparison(compared, metric))
    return compared._asdict()


def _runs(runs: list[Path], out: Path | None, overwrite: bool) -> dict[str, Any]:
    """Compare training runs."""
    if len(runs) < 2:
        raise ValueError(f"{runs[0]} alone is nothing to compare: name two or more runs; leapstep report shows one")
    if out is not None:
        options.check_page(out)
        options.claim_file(out, overwrite)
    from leapstep.evaluation.runs import differences
    from leapstep.views.runs import compare, numbers

    compared = compare(runs, out)
    typer.echo(compared.text)
    if out is not None:
        typer.echo(f"\nwritten: {out}")
    names = [run.name for run in compared.runs]
    return {"runs": names, "numbers": numbers(compared.runs), "differences": differences(compared.runs), "out": out}
