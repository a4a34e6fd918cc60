"""`leapstep sample`: draw samples of a model into a folder."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy.typing as npt
import typer

from leapstep import files
from leapstep.cli import options
from leapstep.files import folders, reading
from leapstep.progress import progress_bar
from leapstep.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.core.denoiser import Diffusion
    from leapstep.core.sampling import State
    from leapstep.inference.store import Store
    from leapstep.models.checkpoint import Model

Array = npt.NDArray[Any]
Draw = Callable[[int, "Callable[[State], None]"], Iterator[tuple[range, Array]]]
"""Draws the samples from an index on, a batch at a time, and calls a function with the state after every step."""

EXAMPLES = """**Examples**

`leapstep sample runs/digits --out samples`

`leapstep sample runs/digits --steps 1000 --method ddpm --out slow`

`leapstep sample runs/digits --steps 8 --method unipc --set order=3 --spacing log_snr --out fast`

`leapstep sample runs/mnist --label 3 --guidance 2 --n 16 --out threes`

`leapstep sample google/ddpm-cifar10-32 --steps 50 --eta 0 --spacing quad --n 5000 --batch-size 250 --out cifar`

`leapstep sample runs/digits --n 5000 --out many --resume`
"""

MANIFEST = "manifest.json"
RESULTS = folders.Kind(
    MANIFEST, "weights_sha256", r"\d{5,}\.png|grid\.png|samples\.npz|part\.npy|manifest\.json", resumable=True
)

ELSEWHERE = ("model", "trained_steps")
"""What may differ when a drawing goes on: how the model is called, since its weights are compared."""

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
        str, typer.Option(help="marginal (noise of the size at the first time) | unit (of size 1, as in diffusers)")
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where this command was stopped; begin in an empty folder.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the samples in the folder.")] = False,
    no_preview: options.NoPreview = False,
) -> dict[str, Any]:
    """Draw samples of a trained model, in as few network calls as you like."""
    import torch

    import leapstep
    from leapstep.core.sampling import STARTS
    from leapstep.inference.store import Growing, Pictures
    from leapstep.models import checkpoint

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
    record = _begin(out, manifest, resume, overwrite)
    state = torch.float64 if precision == torch.float64 else torch.float32
    one = _values(loaded, torch.zeros(1, *loaded.shape, dtype=state))
    store: Store = Pictures(out) if form == "png" else Growing(out, n, loaded.shape, one.dtype)

    def draw(first: int, on_step: Callable[[State], None]) -> Iterator[tuple[range, Array]]:
        for rows, x in leapstep.sample_in_batches(
            diffusion,
            (n - first, *loaded.shape),
            times,
            transition,
            start=start,
            seed=seed,
            batch_size=batch_size,
            first=first,
            dtype=state,
            device=place,
            on_step=on_step,
        ):
            yield rows, _values(loaded, x)

    _draw(out, store, manifest, record, draw)
    shown = store.first(min(n, GRID)) if loaded.is_pictures else None
    store.close(manifest["labels"])
    if shown is not None:
        _show_first(out, shown, manifest["labels"])
        options.show(shown, no_preview)
    typer.echo(f"{n} samples in {record['seconds']} s, {record['calls']} network calls each: {out}")
    if shown is not None:
        typer.echo(f"the first {len(shown)} at a glance: {out / 'grid.png'}")
    return {"out": out, **manifest, **record}


def _begin(out: Path, manifest: dict[str, Any], resume: bool, overwrite: bool) -> dict[str, Any]:
    """Take the folder: a new one, or that of the same command, which was stopped; return what its manifest counts.

    Raises:
        ValueError: the folder is not to be had, or its samples were drawn otherwise.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: choose one")
    options.hold(out)
    record = {"finished": 0, "calls": 0, "seconds": 0.0}
    if not resume or not (out / MANIFEST).exists():
        folders.begin(out, overwrite or resume, RESULTS, manifest | record)  # without a manifest nothing is removed
        return record
    folders.tidy(out)
    earlier = reading.read_json(out / MANIFEST)
    for name, now in json.loads(json.dumps(manifest)).items():
        had = earlier.get(name) if isinstance(earlier, dict) else None
        if name not in ELSEWHERE and had != now:
            had, now = (one_line(json.dumps(value), 60) for value in (had, now))
            raise ValueError(
                f"{out} holds samples with {name} {had}, not {now}: --resume with what they were drawn with"
            )
    return {name: earlier[name] if type(earlier.get(name)) is type(none) else none for name, none in record.items()}


def _draw(out: Path, store: Store, manifest: dict[str, Any], record: dict[str, Any], draw: Draw) -> None:
    """Draw what is missing, a batch at a time, and keep the manifest true to it.

    The batch that a stop cut is drawn again as a whole: then every bit is as if there had been no stop.
    """
    n, size, steps, newest = manifest["n"], manifest["batch_size"], manifest["steps"], 0
    start = min(store.finished(), record["finished"])  # of samples after a kill, nobody knows what they cost
    start = n if start >= n else start - start % size
    began = time.perf_counter() - record["seconds"]

    def note(state: State) -> None:
        nonlocal newest
        newest = state.calls
        bar.update()

    def tell(finished: int) -> None:
        record.update(finished=finished, seconds=round(time.perf_counter() - began, 3))
        files.write_json(out / MANIFEST, manifest | record)

    bar = progress_bar(-(-n // size) * steps, "sampling", "step", done=-(-start // size) * steps)
    try:
        if start == n:  # all were there, and nothing but the end was missing
            tell(n)
            return
        for rows, values in draw(start, note):
            record["calls"] = max(record["calls"], newest)
            store.keep(rows, values)
            if 100 * rows.stop // n > 100 * rows.start // n:  # not more often: a manifest may be as long as its labels
                tell(rows.stop)
    except BaseException as error:
        finished = store.finished()
        with contextlib.suppress(OSError):  # the disk may be full
            tell(finished)
        if isinstance(error, KeyboardInterrupt) and finished:
            error.add_note(f"{finished} of {n} samples are kept in {out}: go on with --resume")
        raise
    finally:
        bar.close()


def _values(model: Model, x: Tensor) -> Array:
    """Samples as they are written: pixels, or values as in the training data."""
    return model.scaling.to_pixels(x) if model.is_pictures else model.scaling.to_values(x)


def _show_first(out: Path, pixels: Array, labels: list[int] | None) -> None:
    """Write the grid, with a column for each class where there are several in turn."""
    from leapstep.data.pictures import grid, save_image

    shown = [0] if labels is None else labels[: len(pixels)]
    period = next(p for p in range(1, len(shown) + 1) if shown[p:] == shown[:-p])  # of the classes in turn
    save_image(grid(pixels, period=period), out / "grid.png")


def _form(asked: str | None, model: Model) -> str:
    allowed = ("png", "npz") if model.is_pictures else ("npz",)
    if asked is not None and asked not in allowed:
        raise ValueError(f"--format {asked}: this model's samples can be written as {' or '.join(allowed)}")
    return asked or allowed[0]
