"""`leapstep info`: describe a model, or a folder of samples or of a job."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import options
from leapstep.cli.completion import model_folders
from leapstep.cli.parsing import Verdict
from leapstep.models import folder

if TYPE_CHECKING:
    from leapstep.inference.folder import Folder

EXAMPLES = """**Examples**

`leapstep info runs/digits`

`leapstep info google/ddpm-cifar10-32 --json`

`leapstep sample runs/digits --n 5000 --on here --out shards`

`leapstep info shards`

`leapstep info shards --verify`
"""

Named = Annotated[
    str,
    typer.Argument(
        metavar="MODEL-or-FOLDER",
        help="A model, as all commands take it; or a folder of samples, or of a job of another command with --on.",
        autocompletion=model_folders,
    ),
]


@functools.partial(options.on_model, annotation=Named, or_samples=True)
def command(
    model: options.Source,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare each shard in the folder with the SHA-256 that it was made with.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="With --verify: remove damaged shards, which then are made anew.")
    ] = False,
) -> dict[str, Any] | Verdict:
    """Say what a model is: its network, its noise schedule, its data; or what a folder of samples or of a job holds."""
    if discard and not verify:
        raise ValueError("--discard removes what --verify finds damaged: pass that, too")
    if not folder.is_model(model.name):
        from leapstep.inference.folder import opened

        if (found := opened(model.name)) is not None:
            return _verified(found, discard) if verify else _told(found.described())
    if verify:
        raise ValueError(f"{model.name} is no folder of samples or of a job, of which alone --verify compares shards")
    model = model.checked()
    from leapstep.models.description import describe

    return _told({"model": model.name, **describe(model.open())})


def _verified(found: Folder, discard: bool) -> Verdict:
    """A line for all that is wrong; exit code 1 where something is."""
    if not found.shards:
        raise ValueError(f"{found.path} holds samples that are not in shards: no SHA-256 of them is kept")
    problems = found.problems(hashes=True)
    for problem in problems:
        typer.echo(str(problem))
    damaged = [path for problem in problems if problem.damaged for path in problem.paths]
    if discard and damaged:
        found.discard(problems)
    count = len(found.there()) - len(damaged)
    typer.echo(f"{count} of {len(found.shards)} shards are there, as they were made: {found.place}")
    if damaged and discard:
        typer.echo(f"removed: {len(damaged)}; made anew by: {found.command()}")
    elif damaged:
        typer.echo(f"--discard removes the {len(damaged)} that are damaged, for --resume to make anew")
    elif count < len(found.shards):
        typer.echo(f"what is missing is made by: {found.command()}")
    return Verdict({"folder": found.path, "problems": [str(problem) for problem in problems]}, int(bool(problems)))


def _told(facts: dict[str, Any]) -> dict[str, Any]:
    """The same, once it is printed."""
    for name, value in facts.items():
        if isinstance(value, dict):
            value = [f"{key} {item}" for key, item in value.items()]
        if isinstance(value, list) and isinstance(value[0], str):
            value = (f"\n{'':<16}" if name in ("evidence", "problems") else ", ").join(value)
        typer.echo(f"{name.replace('_', ' '):<16}{value}")
    return facts
