"""`leapstep interpolate`: interpolate between samples or images through their latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep import files
from leapstep.cli import options, previews
from leapstep.cli.parsing import FILES, NUMBERS
from leapstep.files import folders
from leapstep.progress import progress_bar

EXAMPLES = """**Examples**

`leapstep interpolate runs/digits --seeds 3 7 --out three-to-seven`

`leapstep interpolate runs/digits --images A.png B.png --frames 21 --out a-to-b`

`leapstep interpolate runs/mnist --seeds 1 2 3 4 --frames 8 --label 5 --path spherical --out fives`
"""

RESULTS = folders.Kind(
    "manifest.json", "interpolation", r"manifest\.json|(strip|grid)\.png|animation\.(gif|mp4)|frames\.npz"
)


@options.on_model
@options.sampling(
    *("n", "first", "eta", "variance", "seed"),
    shown={
        "steps": "50, or T where that is less; 1 for rk23 and rk45",
        "spacing": "leading for --images, else trailing; trailing for rk23 and rk45",
    },
    dtype="float32",
)
def command(
    model: options.Source,
    out: Annotated[Path, typer.Option(help="The folder to make, with an image, an animation and a manifest.")],
    stated: options.Spec,
    seeds: Annotated[
        list[int] | None, typer.Option(metavar=NUMBERS, help="Two or four seeds, whose first samples are the ends.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(metavar=FILES, help="Two or four images as ends.")] = None,
    frames: Annotated[
        int, typer.Option(help="Number of frames from end to end, or of rows and columns of a grid.")
    ] = 11,
    path: Annotated[str, typer.Option(help="slerp | spherical")] = "slerp",
    mp4: Annotated[
        bool, typer.Option("--mp4", help="Also write the animation as a video, animation.mp4; needs ffmpeg.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
    no_preview: previews.NoPreview = False,
) -> dict[str, Any]:
    """Show what lies between two samples or pictures, or among four, on the arcs between their latents."""
    options.check_free(out, overwrite, RESULTS)
    if seeds and images:
        raise ValueError("--seeds and --images exclude each other: the ends are of one kind")
    if len(seeds or []) + len(images or []) not in (2, 4):
        raise ValueError("name two or four ends, as --seeds 3 7 or as --images A.png B.png")
    from leapstep.data.pictures import ffmpeg
    from leapstep.inference.encoding import checked_between, interpolate
    from leapstep.inference.engine import values
    from leapstep.inference.provenance import provenance
    from leapstep.models.data import samples_in
    from leapstep.views.encoding import write_frames

    loaded = model.open()
    if mp4 and not loaded.is_pictures:
        raise ValueError("--mp4: this model's samples are not pictures, leave it out")
    if mp4:
        ffmpeg()
    if images and not loaded.is_pictures:
        raise ValueError("--images: this model's samples are not pictures, use --seeds")
    ends = samples_in(loaded, images) if images else seeds or []
    spec = checked_between(loaded, stated.made(), ends, frames, path)
    manifest = provenance(loaded, spec, source=model.name) | {
        "interpolation": path,
        "seeds": seeds or [],
        "images": [str(image) for image in images or []],
        "frames": frames,
        "times": spec.times_for(loaded).tolist(),
    }
    options.claim(out, overwrite, RESULTS, manifest | {"finished": False})
    batches = -(-(frames ** (len(ends) // 2)) // spec.batch_size) + bool(images)
    with progress_bar((spec.steps or 1) * batches, "interpolating", "step") as bar:
        x = interpolate(loaded, spec, ends, frames, path, on_step=lambda _: bar.update())
    write_frames(out, loaded, x, frames, mp4=mp4)
    files.write_json(out / "manifest.json", manifest := manifest | {"finished": True})
    if loaded.is_pictures:
        previews.show(values(loaded, x[:frames]), no_preview, evenly=True)
    typer.echo(f"{len(x)} frames: {out}")
    return {"out": out, **manifest}
