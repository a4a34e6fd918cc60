"""`leapstep interpolate`: the way from one sample or picture to another, through the latents between theirs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from leapstep import files
from leapstep.cli import latents, options
from leapstep.cli.parsing import FILES, NUMBERS
from leapstep.files import folders
from leapstep.progress import progress_bar
from leapstep.text import allowed

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.core.interpolation import Way
    from leapstep.models.checkpoint import Model

EXAMPLES = """**Examples**

`leapstep interpolate runs/digits --seeds 3 7 --out three-to-seven`

`leapstep interpolate runs/digits --images A.png B.png --frames 21 --out a-to-b`

`leapstep interpolate runs/mnist --seeds 1 2 3 4 --frames 8 --label 5 --path spherical --out fives`
"""


RESULTS = folders.Kind(
    "manifest.json", "interpolation", r"manifest\.json|(strip|grid)\.png|animation\.(gif|mp4)|frames\.npz"
)


def command(
    model: options.ModelSource,
    out: Annotated[Path, typer.Option(help="The folder to make: a picture, an animation, a manifest.")],
    seeds: Annotated[
        list[int] | None, typer.Option(metavar=NUMBERS, help="Two or four ends: the first sample of each seed.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(metavar=FILES, help="Two or four ends: pictures.")] = None,
    frames: Annotated[int, typer.Option(help="How many from end to end; a grid has as many rows and columns.")] = 11,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the sampler; default: 50, or T where that is less; 1 for rk23, rk45.")
    ] = None,
    method: options.MethodName = "ddim",
    settings: options.Settings = None,
    path: Annotated[str, typer.Option(help="slerp | spherical")] = "slerp",
    spacing: Annotated[
        str | None,
        typer.Option(
            help="trailing (default for seeds, rk23, rk45) | leading (default for images) | linspace | quad | log_snr "
            "| karras"
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Class of all pictures, by name or number.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures worked on at a time.")] = 64,
    mp4: Annotated[
        bool, typer.Option("--mp4", help="Also write the animation as a video, animation.mp4; needs ffmpeg.")
    ] = False,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
    no_preview: options.NoPreview = False,
) -> dict[str, Any]:
    """Show what lies between two samples or pictures, or among four, on the arcs between their latents."""
    import torch

    import leapstep
    from leapstep.core.interpolation import PATHS
    from leapstep.core.sampling import beginning
    from leapstep.data.pictures import ffmpeg
    from leapstep.models import checkpoint

    place = options.device(device)
    loaded = checkpoint.load(model, place)
    transition, used = options.transition(method, settings, loaded)
    latents.check_reversible(method, transition, loaded)
    if path not in PATHS:
        raise ValueError(f"--path {path}: {allowed(path, PATHS)}")
    if seeds and images:
        raise ValueError("--seeds and --images exclude each other: the ends are of one kind")
    if len(seeds or []) + len(images or []) not in (2, 4):
        raise ValueError("name two or four ends, as --seeds 3 7 or as --images A.png B.png")
    if frames < 2 or batch_size < 1:
        raise ValueError(f"frames={frames}, batch_size={batch_size}: at least 2 frames, in batches of at least 1")
    if mp4 and not loaded.is_pictures:
        raise ValueError("--mp4: this model's samples are not pictures, leave it out")
    if mp4:
        ffmpeg()
    steps, spacing = options.path(loaded, method, steps, spacing, 50, "leading" if images else "trailing")
    times = leapstep.times(loaded.process, steps, spacing)
    diffusion = loaded.diffusion(options.labels(loaded, [] if label is None else [label], 1))
    ends = _pictures(loaded, images) if images else _noise(loaded, seeds or [])
    manifest = options.origin(model, loaded, method, used, place) | {
        "interpolation": path,
        "seeds": seeds or [],
        "images": [str(image) for image in images or []],
        "frames": frames,
        "steps": steps,
        "spacing": spacing,
        "times": times.tolist(),
        "label": label,
        "batch_size": batch_size,
    }
    options.claim(out, overwrite, RESULTS, manifest | {"finished": False})
    count = frames ** (len(ends) // 2)
    with progress_bar(steps * (-(-count // batch_size) + bool(images)), "interpolating", "step") as bar:
        move: dict[str, Any] = {"transition": transition, "on_step": lambda _: bar.update()}
        if images:
            z = leapstep.encode(diffusion, ends.to(place), times, **move)
        else:
            z = beginning(diffusion, times[0], ends.to(place))
        way = _between(z, frames, PATHS[path])
        parts = (way[i : i + batch_size] for i in range(0, count, batch_size))
        x = torch.cat([leapstep.decode(diffusion, part, times, **move) for part in parts])
    _write(out, loaded, x, frames, mp4)
    files.write_json(out / "manifest.json", manifest := manifest | {"finished": True})
    if loaded.is_pictures:
        options.show(loaded.scaling.to_pixels(x[:frames]), no_preview, evenly=True)
    typer.echo(f"{len(x)} frames: {out}")
    return {"out": out, **manifest}


def _noise(model: Model, seeds: list[int]) -> Tensor:
    """The first start noise of each seed."""
    import torch

    import leapstep

    return torch.cat([leapstep.Noise(seed, range(1), model.shape)(0) for seed in seeds])


def _pictures(model: Model, paths: list[Path]) -> Tensor:
    """Image files in model space, cropped and resized as for training."""
    from leapstep.data.readers import read_picture

    if not model.is_pictures:
        raise ValueError("--images: this model's samples are not pictures, use --seeds")
    channels, height, width = model.shape
    found = []
    for path in paths:
        pixels = read_picture(path, height if height == width else None, channels)
        if pixels.shape != model.shape:
            _, h, w = pixels.shape
            raise ValueError(f"{path} has {w}x{h} pixels: this model's pictures have {width}x{height}, resize it")
        found.append(pixels)
    return model.scaling.to_model(np.stack(found))


def _between(ends: Tensor, frames: int, path: Way) -> Tensor:
    """The latents from one end to the other, or of the grid among four, row by row."""
    import torch

    from leapstep.core.interpolation import interpolation_grid

    if len(ends) == 4:
        return interpolation_grid(ends, frames, frames, path).flatten(0, 1)
    start, end = (z.expand(frames, *z.shape) for z in ends)
    return path(start, end, torch.linspace(0, 1, frames, dtype=torch.float64))


def _write(out: Path, model: Model, x: Tensor, frames: int, mp4: bool) -> None:
    """A strip and an animation there and back; a grid and an animation around it; or an array of what is no picture."""
    from leapstep.data.pictures import animation, grid, save_image, table, video

    if not model.is_pictures:
        files.write_npz(out / "frames.npz", {"frames": model.scaling.to_values(x)})
        return
    pixels = model.scaling.to_pixels(x)
    if len(pixels) == frames:
        save_image(table({"": pixels}, [f"{i / (frames - 1):.2g}" for i in range(frames)]), out / "strip.png")
        tour = [*range(frames), *range(frames - 2, 0, -1)]
    else:
        save_image(grid(pixels, columns=frames), out / "grid.png")
        index = np.arange(frames**2).reshape(frames, frames)
        tour = [*index[0], *index[1:, -1], *index[-1, -2::-1], *index[-2:0:-1, 0]]
    files.write_bytes(out / "animation.gif", animation(pixels[tour]))
    if mp4:
        files.write_bytes(out / "animation.mp4", video(pixels[tour]))
