"""`leapstep trace`: the trajectory of a sample, and the effect of the number of steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep import files
from leapstep.cli import options, previews
from leapstep.cli.parsing import NUMBERS
from leapstep.files import folders
from leapstep.progress import progress_bar

if TYPE_CHECKING:
    from leapstep.models.model import Model

EXAMPLES = """**Examples**

`leapstep trace runs/digits --out trace`

`leapstep trace runs/digits --steps 1000 --method ddpm --consistency 10 100 1000 --out ddpm`

`leapstep trace runs/mnist --label 3 --n 4 --method unipc --spacing log_snr --steps 8 --out threes`

`leapstep trace runs/digits --steps 50 --gif --mp4 --out film`
"""

CONSISTENCY = [10, 20, 50, 100, 1000]
"""Numbers of steps that are compared by default."""

LEAST = 4
"""How many samples are compared at least."""

RESULTS = folders.Kind(
    "manifest.json", "consistency", r"manifest\.json|(trace|consistency)\.(png|npz)|trace\.(gif|mp4)"
)


@options.on_model
@options.sampling(n=1, shown={"steps": "20, or T where that is less"})
def command(
    model: options.Source,
    out: Annotated[
        Path, typer.Option(help="The folder to make, with two images, a manifest, and animations on request.")
    ],
    stated: options.Spec,
    consistency: Annotated[
        list[int] | None,
        typer.Option(
            metavar=NUMBERS,
            help="Numbers of steps to compare; default: 10 20 50 100 1000, or all that --method fitted has.",
        ),
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="Also write the trajectory as an animation, trace.gif.")] = False,
    mp4: Annotated[bool, typer.Option("--mp4", help="Also write it as a video, trace.mp4; needs ffmpeg.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
    no_preview: previews.NoPreview = False,
) -> dict[str, Any]:
    """Show a sample's way from noise to data, and the same start noise at different numbers of steps."""
    options.check_free(out, overwrite, RESULTS)
    from leapstep.inference.encoding import squared_error, step_counts, unit
    from leapstep.inference.engine import values
    from leapstep.inference.execution import choose
    from leapstep.inference.provenance import provenance
    from leapstep.inference.tracing import by_steps, in_steps, trace
    from leapstep.views.trajectory import write_by_steps, write_film, write_trace

    loaded = model.open()
    spec = stated.made().checked(loaded, adaptive_steps=20)
    asked = consistency or spec.fitted_steps(loaded) or CONSISTENCY
    counts = step_counts(loaded, asked)
    compared = dataclasses.replace(spec, n=max(spec.n, LEAST), batch_size=max(spec.n, LEAST))
    _check_film(loaded, gif, mp4)
    execution = choose(loaded, spec, *in_steps(loaded, compared, counts))
    spec = dataclasses.replace(spec, dtype=execution.dtype)
    manifest = provenance(loaded, spec, source=model.name) | {
        "execution": execution.to_json(),
        "times": spec.times_for(loaded).tolist(),
        "consistency": [],
    }
    options.claim(out, overwrite, RESULTS, manifest | {"finished": False})
    options.tell_left_out(loaded, asked, counts)
    with progress_bar(spec.steps, "tracing", "step") as bar:
        states = trace(loaded, spec, on_step=lambda _: bar.update(), execution=execution)
    write_trace(out, loaded, states)
    write_film(out, loaded, states, gif=gif, mp4=mp4)
    with progress_bar(sum(counts), "consistency", "step") as bar:
        samples = by_steps(loaded, compared, counts, on_step=lambda _: bar.update(), execution=execution)
    best = samples[counts[-1]]
    errors = {count: squared_error(loaded, x, best).mean().item() for count, x in samples.items()}
    write_by_steps(out, loaded, samples)
    manifest["consistency"] = [{"steps": count, "error": error} for count, error in errors.items()]
    files.write_json(out / "manifest.json", manifest := manifest | {"finished": True})
    if loaded.is_pictures:
        previews.show(values(loaded, states.x[:, 0]), no_preview, evenly=True)
    for count in counts[:-1]:
        typer.echo(f"{count} steps are {errors[count]:.2g} from {counts[-1]}: mean squared error in {unit(loaded)}")
    typer.echo(f"written: {out}")
    return {"out": out, **manifest}


def _check_film(model: Model, gif: bool, mp4: bool) -> None:
    """Raise ValueError where a film cannot be made."""
    if (gif or mp4) and not model.is_pictures:
        raise ValueError(f"--{'gif' if gif else 'mp4'}: this model's samples are not pictures, leave it out")
    if mp4:
        from leapstep.data.pictures import ffmpeg

        ffmpeg()
