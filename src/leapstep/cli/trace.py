"""`leapstep trace`: the way of a sample from noise to data, and what the number of steps does to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from leapstep import files
from leapstep.cli import latents, options
from leapstep.cli.parsing import NUMBERS
from leapstep.files import folders
from leapstep.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm import tqdm

    from leapstep.core.denoiser import Diffusion
    from leapstep.core.sampling import Noise
    from leapstep.core.transitions import Transition
    from leapstep.models.checkpoint import Model

EXAMPLES = """**Examples**

`leapstep trace runs/digits --out trace`

`leapstep trace runs/digits --steps 1000 --method ddpm --consistency 10 100 1000 --out ddpm`

`leapstep trace runs/mnist --label 3 --n 4 --method unipc --spacing log_snr --steps 8 --out threes`

`leapstep trace runs/digits --steps 50 --gif --mp4 --out film`
"""

CONSISTENCY = [10, 20, 50, 100, 1000]

COLUMNS = 12
"""How many times the picture of the way shows at most."""

ROWS = 4
"""How many samples the picture of consistency shows at least, and the animation at most."""

FRAMES = 60
"""How many times the animation shows at most."""

FRAME = 1_000_000
"""How many pixels the pictures of a frame have at most."""

HOLD = 1.5
"""How long the animation rests on the sample, seconds."""


RESULTS = folders.Kind(
    "manifest.json", "consistency", r"manifest\.json|(trace|consistency)\.(png|npz)|trace\.(gif|mp4)"
)


def command(
    model: options.ModelSource,
    out: Annotated[
        Path, typer.Option(help="The folder to make: two pictures, a manifest, and what else is asked for.")
    ],
    steps: Annotated[
        int | None, typer.Option(help="Steps from noise to data; default: 20, or T where that is less.")
    ] = None,
    method: options.MethodName = "ddim",
    settings: options.Settings = None,
    spacing: options.OwnSpacing = None,
    seed: Annotated[int, typer.Option(help="Sample i is a function of the seed and i, as in `sample`.")] = 0,
    n: Annotated[int, typer.Option(help="How many samples.")] = 1,
    label: Annotated[str | None, typer.Option(help="Class of all samples, by name or number.")] = None,
    consistency: Annotated[
        list[int] | None,
        typer.Option(metavar=NUMBERS, help="Numbers of steps to compare; default: 10 20 50 100 1000."),
    ] = None,
    gif: Annotated[
        bool, typer.Option("--gif", help="Also show the way of pictures as an animation, trace.gif.")
    ] = False,
    mp4: Annotated[bool, typer.Option("--mp4", help="Also as a video, trace.mp4; needs ffmpeg.")] = False,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
    no_preview: options.NoPreview = False,
) -> dict[str, Any]:
    """Show a sample's way from noise to data, and the same start noise at different numbers of steps."""
    import leapstep
    from leapstep.data.pictures import ffmpeg
    from leapstep.models import checkpoint

    if n < 1:
        raise ValueError(f"n={n}: must be at least 1")
    place = options.device(device)
    loaded = checkpoint.load(model, place)
    transition, used = options.transition(method, settings, loaded)
    steps = min(20, loaded.process.timesteps or 20) if steps is None else steps  # those that are shown, of any method
    steps, spacing = options.path(loaded, method, steps, spacing)
    times = leapstep.times(loaded.process, steps, spacing)
    asked = consistency or CONSISTENCY
    counts = latents.step_counts(loaded, asked)
    options.path(loaded, method, counts[0], spacing)
    noise = leapstep.Noise(seed, range(n), loaded.shape, device=place)
    diffusion = loaded.diffusion(options.labels(loaded, [] if label is None else [label], 1))
    if (gif or mp4) and not loaded.is_pictures:
        raise ValueError(f"--{'gif' if gif else 'mp4'}: this model's samples are not pictures, leave it out")
    if mp4:
        ffmpeg()
    manifest = options.origin(model, loaded, method, used, place) | {
        "steps": steps,
        "spacing": spacing,
        "times": times.tolist(),
        "seed": seed,
        "n": n,
        "label": label,
        "consistency": [],
    }
    options.claim(out, overwrite, RESULTS, manifest | {"finished": False})
    latents.tell_left_out(loaded, asked, counts)
    with progress_bar(steps, "tracing", "step") as bar:
        way = _way(diffusion, noise, times, transition, bar)
    _show_way(out, loaded, times, way)
    _animate(out, loaded, times, way, gif, mp4)
    samples = {}
    with progress_bar(sum(counts), "consistency", "step") as bar:
        for count in counts:
            samples[count] = leapstep.sample(
                diffusion,
                (max(n, ROWS), *loaded.shape),
                count,
                transition,
                spacing=spacing,
                seed=seed,
                device=place,
                on_step=lambda _: bar.update(),
            )
    best = samples[counts[-1]]
    errors = {count: latents.squared_error(loaded, x, best).mean().item() for count, x in samples.items()}
    _show_samples(out, loaded, samples)
    manifest["consistency"] = [{"steps": count, "error": error} for count, error in errors.items()]
    files.write_json(out / "manifest.json", manifest := manifest | {"finished": True})
    if loaded.is_pictures:
        options.show(loaded.scaling.to_pixels(way[0][:, 0]), no_preview, evenly=True)
    for count in counts[:-1]:
        typer.echo(
            f"{count} steps are {errors[count]:.2g} from {counts[-1]}: mean squared error in {latents.unit(loaded)}"
        )
    typer.echo(f"written: {out}")
    return {"out": out, **manifest}


def _way(
    diffusion: Diffusion, noise: Noise, times: Tensor, transition: Transition, bar: tqdm[Any]
) -> tuple[Tensor, Tensor]:
    """X at each of the times and the estimate of x0 that was made of it, each `[n + 1, b, *d]`; at the end, x twice."""
    import torch

    import leapstep
    from leapstep.core.sampling import beginning

    x = beginning(diffusion, times[0], noise(0))
    seen, estimates = [x], []
    with torch.no_grad():
        for state in leapstep.trajectory(diffusion, x, times, transition, noise):
            seen.append(state.x)
            estimates.append(state.x0)
            bar.update()
    return torch.stack(seen), torch.stack([*estimates, seen[-1]])


def _evenly(n: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many of n indices, evenly chosen, with the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(np.int64))


def _show_way(out: Path, model: Model, times: Tensor, way: tuple[Tensor, Tensor]) -> None:
    """Write x above x0, from noise to data: a picture, or arrays of what is no picture."""
    from leapstep.data.pictures import save_image, table

    x, x0 = way
    if not model.is_pictures:
        arrays = {"times": times.numpy(), "x": model.scaling.to_values(x), "x0": model.scaling.to_values(x0)}
        files.write_npz(out / "trace.npz", arrays)
        return
    shown = _evenly(len(times), COLUMNS)
    noisy, clean = (model.scaling.to_pixels(each[shown]) for each in way)
    rows: dict[str, npt.NDArray[np.uint8]] = {}
    for i in range(x.shape[1]):
        which = f" of {i}" if x.shape[1] > 1 else ""
        rows |= {f"x_t{which}": noisy[:, i], f"x0 estimate{which}": clean[:, i]}
    save_image(table(rows, [f"t = {times[j]:.3g}" for j in shown]), out / "trace.png")


def _animate(out: Path, model: Model, times: Tensor, way: tuple[Tensor, Tensor], gif: bool, mp4: bool) -> None:
    """Write x beside x0, from noise to data, as a film that rests on the sample."""
    from leapstep.data.pictures import animation, captioned, table, video

    if not gif and not mp4:
        return
    frames = []
    for j in _evenly(len(times), FRAMES):
        pair = np.stack([model.scaling.to_pixels(each[j, :ROWS]) for each in way], 1)
        rows = {f"sample {i}" if len(pair) > 1 else "": both for i, both in enumerate(pair)}
        image = table(rows, ["x_t", "x0 estimate"], side=160, most=FRAME)
        frames.append(np.asarray(captioned({f"t = {times[j]:.3f}": image})).transpose(2, 0, 1))
    if gif:
        files.write_bytes(out / "trace.gif", animation(np.stack(frames), HOLD))
    if mp4:
        files.write_bytes(out / "trace.mp4", video(np.stack(frames), HOLD))


def _show_samples(out: Path, model: Model, samples: dict[int, Tensor]) -> None:
    """Write samples from the same noise side by side, by their steps: a picture, or arrays of what is no picture."""
    from leapstep.data.pictures import save_image, table

    if not model.is_pictures:
        arrays = {f"{steps} steps": model.scaling.to_values(x) for steps, x in samples.items()}
        files.write_npz(out / "consistency.npz", arrays)
        return
    pixels = np.stack([model.scaling.to_pixels(x) for x in samples.values()], 1)
    rows = {f"sample {i}": row for i, row in enumerate(pixels)}
    save_image(table(rows, [f"{steps} steps" for steps in samples]), out / "consistency.png")
