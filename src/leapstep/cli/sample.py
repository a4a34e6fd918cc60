"""`leapstep sample`: draw samples of a model into a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from leapstep import files, folders
from leapstep.cli import options
from leapstep.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.checkpoint import Model
    from leapstep.denoiser import Diffusion
    from leapstep.sampling import State

EXAMPLES = """**Examples**

`leapstep sample runs/digits --out samples`

`leapstep sample runs/digits --steps 1000 --method ddpm --out slow`

`leapstep sample runs/digits --steps 8 --method unipc --set order=3 --spacing log_snr --out fast`

`leapstep sample runs/mnist --label 3 --guidance 2 --n 16 --out threes`

`leapstep sample google/ddpm-cifar10-32 --steps 50 --eta 0 --spacing quad --n 5000 --batch-size 250 --out cifar`
"""

RESULTS = folders.Kind("manifest.json", "weights_sha256", r"\d{5,}\.png|grid\.png|samples\.npz|manifest\.json")

GRID = 400
"""How many pictures the grid shows."""


def command(
    model: options.ModelSource,
    out: Annotated[Path, typer.Option(help="The folder to make: images, a grid and a manifest.")],
    n: Annotated[int, typer.Option(help="How many samples.")] = 64,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps from noise to data; default: 20, or T where that is less; 1 for rk23 and rk45."),
    ] = None,
    method: options.MethodName = "ddim",
    eta: Annotated[float | None, typer.Option(help="ddim, sde_dpmpp_2m: noise injected, 0 to 1.")] = None,
    variance: Annotated[
        str | None,
        typer.Option(
            help="ddpm: posterior (default) | beta | none | learned | optimal; ddim: eta (default) | optimal."
        ),
    ] = None,
    settings: options.Settings = None,
    spacing: options.OwnSpacing = None,
    start: Annotated[
        str, typer.Option(help="marginal: noise of the size at the first time | unit: of size 1, as in diffusers.")
    ] = "marginal",
    seed: Annotated[int, typer.Option(help="Sample i is a function of the seed and i.")] = 0,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME ...", help="Classes, by name or number, in turn.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Samples worked on at a time.")] = 64,
    format: Annotated[str | None, typer.Option(help="png (default for pictures) | npz")] = None,
    device: options.Device = None,
    dtype: Annotated[str, typer.Option(help="What the network computes in: float32 | bfloat16 | float64")] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the samples in the folder.")] = False,
    no_preview: options.NoPreview = False,
) -> dict[str, Any]:
    """Draw samples of a trained model, in as few network calls as you like."""
    import torch

    import leapstep
    from leapstep import checkpoint
    from leapstep.sampling import STARTS

    place, precision = options.device(device), options.dtype(dtype)
    loaded = checkpoint.load(model, place)
    transition, used = options.transition(method, settings, loaded, eta=eta, variance=variance)
    form = _form(format, loaded)
    labels = options.labels(loaded, label or [], n)
    steps, spacing = options.path(loaded, method, steps, spacing)
    times = leapstep.times(loaded.process, steps, spacing)
    if start not in STARTS:
        raise ValueError(f"--start {start}: use {' or '.join(STARTS)}")
    leapstep.Noise(seed, range(0), ())  # a wrong seed, number, label or guidance shows before anything is written
    if n < 1 or batch_size < 1:
        raise ValueError(f"n={n}, batch_size={batch_size}: both must be at least 1")
    manifest = options.origin(model, loaded, method, used, place) | {
        "n": n,
        "steps": steps,
        "spacing": spacing,
        "times": times.tolist(),
        "start": start,
        "seed": seed,
        "labels": None if labels is None else labels.tolist(),
        "guidance": guidance,
        "batch_size": batch_size,
        "dtype": dtype,
        "format": form,
    }
    loaded.network.to(precision)

    def diffusion(rows: range) -> Diffusion:
        chosen = None if labels is None else labels[rows.start : rows.stop]
        return loaded.diffusion(chosen, guidance, precision)

    diffusion(range(1))
    options.claim(out, overwrite, RESULTS, manifest | {"finished": 0})
    kept: list[np.ndarray[Any, Any]] = []  # all of them, or as many as the grid shows
    finished, calls, newest, began = 0, 0, 0, time.perf_counter()
    bar = progress_bar(-(-n // batch_size) * steps, "sampling", "step")

    def note(state: State) -> None:
        nonlocal newest
        newest = state.calls
        bar.update()

    try:
        for rows, x in leapstep.sample_in_batches(
            diffusion,
            (n, *loaded.shape),
            times,
            transition,
            start=start,
            seed=seed,
            batch_size=batch_size,
            dtype=torch.float64 if precision == torch.float64 else torch.float32,
            device=place,
            on_step=note,
        ):
            values = _keep(out, form, loaded, rows, x)
            if form == "npz" or finished < GRID:
                kept.append(values)
            finished, calls = rows.stop, max(calls, newest)
    except KeyboardInterrupt as request:
        if finished:
            request.add_note(f"{finished} of {n} samples are kept in {out}")
        raise
    finally:  # Ctrl-C keeps what is finished
        bar.close()
        if finished:
            seconds = round(time.perf_counter() - began, 3)
            record = {"finished": finished, "calls": calls, "seconds": seconds}
            first = _finish(out, form, loaded, np.concatenate(kept), manifest | record)
    if loaded.is_pictures:
        options.show(first, no_preview)
    typer.echo(f"{n} samples in {seconds} s, {calls} network calls each: {out}")
    if loaded.is_pictures:
        typer.echo(f"the first {min(n, GRID)} at a glance: {out / 'grid.png'}")
    return {"out": out, **manifest, **record}


def _form(asked: str | None, model: Model) -> str:
    allowed = ("png", "npz") if model.is_pictures else ("npz",)
    if asked is not None and asked not in allowed:
        raise ValueError(f"--format {asked}: this model's samples can be written as {' or '.join(allowed)}")
    return asked or allowed[0]


def _keep(out: Path, form: str, model: Model, rows: range, x: Tensor) -> np.ndarray[Any, Any]:
    """Turn a finished batch into pixels or values; write the pictures one by one."""
    from leapstep.pictures import grid, save_image

    if not model.is_pictures:
        return model.scaling.to_values(x)
    pixels = model.scaling.to_pixels(x)
    if form == "png":
        for row, picture in zip(rows, pixels, strict=True):
            save_image(grid(picture[None], padding=0, zoom=1), out / f"{row:05d}.png")
    return pixels


def _finish(
    out: Path, form: str, model: Model, values: np.ndarray[Any, Any], manifest: dict[str, Any]
) -> np.ndarray[Any, Any]:
    """Write the array, the grid, and what is needed to repeat it all; return what the grid shows."""
    from leapstep.pictures import grid, save_image

    if form == "npz":
        arrays = {"samples": values}
        if manifest["labels"] is not None:
            arrays["labels"] = np.array(manifest["labels"][: len(values)])
        files.write_npz(out / "samples.npz", arrays)
    if model.is_pictures:
        labels = (manifest["labels"] or [None])[: len(values[:GRID])]
        period = next(p for p in range(1, len(labels) + 1) if labels[p:] == labels[:-p])  # of the classes in turn
        save_image(grid(values[:GRID], period=period), out / "grid.png")
    files.write_json(out / "manifest.json", manifest)
    return values[:GRID]
