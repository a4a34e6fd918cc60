"""`leapstep sample`: draw samples of a model into a folder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import options
from leapstep.models.folder import TUNED

if TYPE_CHECKING:
    from leapstep.inference.spec import SamplingSpec

EXAMPLES = """**Examples**

`leapstep sample runs/digits --out samples`

`leapstep sample runs/digits --steps 1000 --method ddpm --out slow`

`leapstep sample runs/digits --steps 8 --method unipc --set order=3 --spacing log_snr --out fast`

`leapstep sample runs/mnist --label 3 --guidance 2 --n 16 --out threes`

`leapstep sample google/ddpm-cifar10-32 --steps 50 --eta 0 --spacing quad --n 5000 --batch-size 250 --out cifar`

`leapstep sample runs/digits --n 5000 --out many --resume`

`leapstep sample runs/digits --spec many/manifest.json --out again`

`leapstep sample stable-diffusion --prompt "a cat in the snow" --steps 12 --method unipc --n 4 --out cats`

`leapstep sample DiT-XL-2-256 --label 207 360 --guidance 4 --n 8 --out dogs-and-otters`
"""


@functools.partial(options.on_model, or_pipeline=True)
@options.asking("prompt", "tuned")
@options.sampling(shown={"n": "64; of a pipeline one for each prompt or label"})
def command(
    model: options.Source,
    out: Annotated[Path, typer.Option(help="The folder to make, with images, a grid and a manifest.")],
    stated: options.Spec,
    asked: dict[str, Any],
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

    how: Any = {"format": format, "source": model.name, "resume": resume, "overwrite": overwrite}
    if model.is_pipeline or any(value is not None for value in asked.values()):
        spec, manifest = _drawn(model, stated, asked, out, how)
        pictures = (out / "grid.png").exists()
    else:
        loaded, spec = model.open(), stated.made()
        manifest = write_samples(loaded, spec, out, **how, tell=lambda line: typer.echo(line, err=True))
        pictures = loaded.is_pictures
    shown = first_samples(out, min(spec.n, GRID)) if pictures else None
    if shown is not None:
        options.show(shown, no_preview)
    typer.echo(f"{spec.n} samples in {manifest['seconds']} s, {manifest['calls']} network calls each: {out}")
    if shown is not None:
        typer.echo(f"the first {len(shown)} at a glance: {out / 'grid.png'}")
    return {"out": out, **manifest}


def _drawn(
    model: options.Source, stated: options.Spec, asked: dict[str, Any], out: Path, how: dict[str, Any]
) -> tuple[SamplingSpec, dict[str, Any]]:
    """Draw what a pipeline of diffusers makes of prompts."""
    from leapstep.diffusers.drawing import Asked, Drawing, write_drawn
    from leapstep.diffusers.folder import open_pipeline

    pipe = open_pipeline(model.name, dtype=stated.fields.get("dtype"), device=options.device(model.device))
    said = Asked(tuple(asked["prompt"] or ()), asked["negative_prompt"], asked["height"], asked["width"])
    drawing = Drawing(pipe, stated.fields, said, (asked["tuned"] or Path(model.name)) / TUNED)
    return drawing.spec, write_drawn(drawing, out, **how)
