"""`leapstep push`: publish a model on the Hub, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import options
from leapstep.cli.completion import model_folders
from leapstep.models import opening
from leapstep.models.repository import PUBLISHED, check

EXAMPLES = """**Examples**

`leapstep push runs/photos user/photos --license apache-2.0 --private`

`leapstep push runs/photos user/photos --out published`

`leapstep push runs/photos user/photos --dataset user/pictures --overwrite`
"""


def command(
    run: Annotated[
        str, typer.Argument(help="A run folder, or another folder of a model.", autocompletion=model_folders)
    ],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository on the Hub to make.")],
    private: Annotated[bool, typer.Option("--private", help="Only its owner may see it.")] = False,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Such as apache-2.0 or cc-by-4.0; default: none is stated.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="OWNER/NAME ...", help="What it was trained on, on the Hub."),
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Publish the TensorBoard log, too.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write here what would be pushed, and push nothing.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model in a repository, or folder, that is there.")
    ] = False,
) -> dict[str, Any]:
    """Publish a model on the Hugging Face Hub with a model card, as one commit that leapstep and diffusers open.

    Training states, logs and paths of this machine stay here. The token is that of `hf auth login`, or HF_TOKEN.
    """
    check(repo, license, dataset or ())
    opening.check(run)
    if out is not None:
        options.check_free(out, overwrite, PUBLISHED)
    from leapstep.views.publishing import push

    given: dict[str, Any] = {"private": private, "license": license, "datasets": dataset or (), "logs": logs}
    made = push(run, repo, out=out, overwrite=overwrite, tell=lambda line: typer.echo(line, err=True), **given)
    for name in made.files:
        typer.echo(name)
    if out is None:
        typer.echo(f"pushed: {made.url}    next: leapstep sample {repo} --out samples")
    else:
        typer.echo(f"written, not pushed: {out}    next: leapstep sample {out} --out samples")
    return {"files": list(made.files), "url": made.url, "out": out}
