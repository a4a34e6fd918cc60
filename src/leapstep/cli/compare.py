"""`leapstep compare`: results of `evaluate` and `sweep` in one table that marks what is not comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.text import allowed, duration

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
    from leapstep.evaluation.quality import NAMES, REFERENCE, marks, shown

    if metric not in NAMES:
        raise ValueError(f"--metric {metric}: {allowed(metric, NAMES)}")
    rows = [row for path in results for row in _rows(path)]
    if not rows:
        raise ValueError("there is no finished cell in these results: nothing to compare")
    marked, notes = marks([row["conditions"] for row in rows])
    typer.echo(f"| result | model | method | steps | calls | {NAMES[metric]} | time |\n|{' --- |' * 7}")
    for row, mark in zip(rows, marked, strict=True):
        value = shown(row, metric) + (f" <sup>{mark}</sup>" if mark else "")
        time = "" if row.get("seconds") is None else duration(row["seconds"])
        told = (row.get(name, "") for name in ("result", "model", "label", "steps", "calls"))
        typer.echo(f"| {' | '.join(str(cell).replace('|', '/') for cell in (*told, value, time))} |")
    if trained := [str(row["result"]) for row in rows if row["relation"] == "training"]:
        typer.echo(f"\n{', '.join(dict.fromkeys(trained))}: against data {REFERENCE['training']}")
    if notes:
        typer.echo("\nNot comparable with the first row without a thought:\n")
        typer.echo("\n".join(f"- {note}" for note in notes))
    return {
        "rows": [{**row, "mark": mark or None} for row, mark in zip(rows, marked, strict=True)],
        "notes": notes,
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    """The results in a file, one for each setting, with their conditions."""
    from leapstep.evaluation import quality

    file = path / "results.json" if path.is_dir() else path
    try:
        found = quality.results(file)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    try:
        own = dict(found["conditions"])
        own.pop("model_sha256", None)  # in which results of other models differ by nature
        own["features"] = f"{own['features']} {own.pop('features_sha256')[:8]}"  # whatever folder they were in
        own.pop("features_source", None)
        shared = {"result": path, "conditions": own, "relation": found.get("relation")}
        if "cells" in found:
            return [{**cell, "model": found["model"], **shared} for cell in found["cells"]]
        made = found["evaluation"]
        model = made.get("model") or made["samples"]
        return [{**made, "model": model, "metrics": found["metrics"], **shared}]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a result of leapstep evaluate or sweep") from error
