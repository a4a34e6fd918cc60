"""`leapstep compare`: results of `evaluate` and `sweep` in one table, with a mark on whatever is not comparable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

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
) -> None:
    """Put results into one Markdown table; what was measured under other conditions is marked and explained below."""
    from leapstep.quality import NAMES, duration, marks, shown

    if metric not in NAMES:
        raise ValueError(f"--metric {metric}: use one of {', '.join(NAMES)}")
    rows = [row for path in results for row in _rows(path)]
    if not rows:
        raise ValueError("there is no finished cell in these results: nothing to compare")
    marked, notes = marks([row["conditions"] for row in rows])
    typer.echo(f"| model | method | steps | calls | {NAMES[metric]} | time |\n| --- | --- | --- | --- | --- | --- |")
    for row, mark in zip(rows, marked, strict=True):
        value = shown(row, metric) + (f" <sup>{mark}</sup>" if mark else "")
        time = "" if row.get("seconds") is None else duration(row["seconds"])
        cells = (row["model"], row.get("label", ""), row.get("steps", ""), row.get("calls", ""), value, time)
        typer.echo(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    if notes:
        typer.echo("\nNot comparable with the first row without a thought:\n")
        typer.echo("\n".join(f"- {note}" for note in notes))


def _rows(path: Path) -> list[dict[str, Any]]:
    """The results in a file, one for each setting, with their conditions."""
    file = path / "results.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text())
        if "cells" in found:
            own = {name: value for name, value in found["conditions"].items() if name != "model_sha256"}
            return [{**cell, "model": found["model"], "conditions": own} for cell in found["cells"]]
        made = found["evaluation"]
        model = made.get("model") or made["samples"]
        return [{**made, "model": model, "metrics": found["metrics"], "conditions": found["conditions"]}]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a result of leapstep evaluate or sweep") from error
