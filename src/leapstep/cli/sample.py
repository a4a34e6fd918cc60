"""`leapstep sample`: draw samples of a model into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import options

EXAMPLES = """**Examples**

`leapstep sample runs/digits --out samples`

`leapstep sample runs/digits --steps 1000 --method ddpm --out slow`

`leapstep sample runs/digits --steps 8 --method unipc --set order=3 --spacing log_snr --out fast`

`leapstep sample runs/mnist --label 3 --guidance 2 --n 16 --out threes`

`leapstep sample google/ddpm-cifar10-32 --steps 50 --eta 0 --spacing quad --n 5000 --batch-size 250 --out cifar`

`leapstep sample runs/digits --n 5000 --out many --resume`

`leapstep sample runs/digits --spec many/manifest.json --out again`
"""


@options.on_model
@options.sampling()
def command(
    model: options.Source,
    out: Annotated[Path, typer.Option(help="The folder to make, with images, a grid and a manifest.")],
    stated: options.Spec,
    format: Annotated[str | None, typer.Option(help="png (default for images) | npz")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue where this command was stopped; start if the folder is empty.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the samples in the folder.")] = False,
    no_preview: options.NoPreview = False,
) -> dict[str, Any]:
    """Draw samples of a trained model, in as few network calls as you like."""
    from leapstep.inference.store import check_place

    check_place(out, resume, overwrite)
    from leapstep.inference.writing import GRID, first_samples, write_samples

    loaded, spec = model.open(), stated.made()
    how: Any = {"format": format, "source": model.name, "resume": resume, "overwrite": overwrite}
    manifest = write_samples(loaded, spec, out, **how, tell=lambda line: typer.echo(line, err=True))
    shown = first_samples(out, min(spec.n, GRID)) if loaded.is_pictures else None
    if shown is not None:
        options.show(shown, no_preview)
    typer.echo(f"{spec.n} samples in {manifest['seconds']} s, {manifest['calls']} network calls each: {out}")
    if shown is not None:
        typer.echo(f"the first {len(shown)} at a glance: {out / 'grid.png'}")
    return {"out": out, **manifest}
