"""`leapstep distill`: teach a network to take few large steps; the options are the fields of `DistillationConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import configured, options
from leapstep.models import opening
from leapstep.training.configuration import DistillationConfig, check_each

EXAMPLES = """**Examples**

`leapstep distill runs/digits --calls 1 2 4 --out runs/fast --budget 5m`

`leapstep distill runs/mnist --calls 2 --guidance 3 --out runs/mnist-2`

`leapstep distill runs/mnist --calls 2 --guidance 3 --out runs/mnist-2 --resume`
"""


def command(
    teacher: options.ModelSource,
    out: Annotated[
        Path, typer.Option(help="The run folder to make; for several numbers of calls, the folder that theirs lie in.")
    ],
    calls: Annotated[
        list[int] | None,
        typer.Option(metavar="S ...", help="Network calls of a sample, a student for each; default: 1, 2, 4."),
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.npz", help="What the network takes besides labels: an array a keyword; rows in turn."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="How long it may take, such as 5m, in place of --steps, for all students together."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this command was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the runs in the folder.")] = False,
    device: Annotated[
        str | None, typer.Option(help="`cpu` to leave a GPU unused; default: the best available.")
    ] = None,
    **settings: Any,
) -> dict[str, Any]:
    """Distil a model into students that draw a sample in one to four calls, without data."""
    opening.check(teacher)
    check_each(DistillationConfig, settings)
    seconds = None if budget is None else options.budget(budget)
    from leapstep.training.distillation import distill, place

    numbers = calls or [1, 2, 4]
    students = distill(
        teacher,
        out,
        numbers,
        condition=condition,
        budget=seconds,
        resume=resume,
        overwrite=overwrite,
        device=device,
        **settings,
    )
    folders = [place(out, n, numbers) for n in numbers]
    for folder in folders:
        typer.echo(f"distilled: {folder}    next: leapstep sample {folder} --out samples")
    return {
        "out": out,
        "students": [{"out": folder, **student.details} for folder, student in zip(folders, students, strict=True)],
    }


configured.with_fields(command, DistillationConfig, without=["calls"])  # type: ignore[arg-type]
