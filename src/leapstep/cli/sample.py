"""`leapstep sample`: draw samples of a model into a folder."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import options, previews, sharding
from leapstep.models.folder import TUNED
from leapstep.text import counted, duration

EXAMPLES = """**Examples**

`leapstep sample runs/digits --out samples`

`leapstep sample runs/digits --steps 1000 --method ddpm --out slow`

`leapstep sample runs/digits --steps 8 --method unipc --set order=3 --spacing log_snr --out fast`

`leapstep sample runs/mnist --label 3 --guidance 2 --n 16 --out threes`

`leapstep sample google/ddpm-cifar10-32 --steps 50 --eta 0 --spacing quad --n 5000 --batch-size 250 --out cifar`

`leapstep sample runs/digits --n 5000 --out many --resume`

`leapstep sample runs/digits --n 5000 --format webdataset --on here --shard 1000 --out tars`

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
    format: Annotated[
        str | None,
        typer.Option(
            help="png (default for images) | npz (default of shards) | parquet | webdataset; the last two are shards."
        ),
    ] = None,
    on: sharding.On = None,
    shard: sharding.Shard = None,
    workers: sharding.Count = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue where this command was stopped; start if the folder is empty.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the samples in the folder.")] = False,
    no_preview: previews.NoPreview = False,
) -> dict[str, Any]:
    """Draw samples of a trained model, in as few network calls as you like."""
    from leapstep.inference.store import GRID, check_place, in_shards
    from leapstep.workers.running import HERE

    cut = in_shards(out, format, on, None, resume)
    on = HERE if cut and on is None else on
    sharding.check(on, shard, workers)
    check_place(out, resume, overwrite, on)
    from leapstep.inference.writing import first_samples, write_samples

    how: Any = {"format": format, "resume": resume, "overwrite": overwrite}
    elsewhere = on not in (None, HERE)  # a model travels to workers, which have devices of their own
    if cut:
        how |= {"on": on, "shard": shard, "workers": workers}
        how |= {"device": model.device if elsewhere else str(options.device(model.device))}
    if model.is_pipeline or any(value is not None for value in asked.values()):
        manifest = _drawn(model, stated, asked, out, how)
    else:
        loaded = dataclasses.replace(model, device="cpu" if elsewhere else model.device).open()
        how |= {"source": model.name, "tell": lambda line: typer.echo(line, err=True)}
        manifest = write_samples(loaded, stated.made(), out, **how)
    n = manifest["spec"]["n"]
    if manifest["finished"] < n:
        typer.echo(f"this process has no more to draw; another one tells of all samples: {out}")
        return {"out": out, **manifest}
    shown = first_samples(out, min(n, GRID)) if (out / "grid.png").exists() else None
    if shown is not None:
        previews.show(shown, no_preview)
    took = duration(manifest["seconds"]) + (" of all workers together" if elsewhere else "")
    typer.echo(f"{n} samples in {took}, {counted(manifest['calls'], 'network call')} each: {out}")
    if shown is not None:
        typer.echo(f"the first {len(shown)} at a glance: {out / 'grid.png'}")
    return {"out": out, **manifest}


def _drawn(
    model: options.Source, stated: options.Spec, asked: dict[str, Any], out: Path, how: dict[str, Any]
) -> dict[str, Any]:
    """Draw what a pipeline of diffusers makes of prompts."""
    from leapstep.diffusers.drawing import Asked, Drawing, write_drawn
    from leapstep.diffusers.folder import open_pipeline
    from leapstep.diffusers.sharding import write_drawn_shards

    said = Asked(tuple(asked["prompt"] or ()), asked["negative_prompt"], asked["height"], asked["width"])
    tuned = (asked["tuned"] or Path(model.name)) / TUNED
    if "on" in how:
        return write_drawn_shards(model.name, stated.fields, said, tuned, out, **how)
    pipe = open_pipeline(model.name, dtype=stated.fields.get("dtype"), device=options.device(model.device))
    return write_drawn(Drawing(pipe, stated.fields, said, tuned), out, source=model.name, **how)
