"""`leapstep reconstruct`: how much of data is left after encoding and decoding, by the number of steps."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from leapstep import files
from leapstep.cli import latents, options
from leapstep.cli.parsing import NUMBERS
from leapstep.files import folders
from leapstep.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.core.denoiser import Diffusion
    from leapstep.core.sampling import State
    from leapstep.data.dataset import Data
    from leapstep.models.checkpoint import Model

EXAMPLES = """**Examples**

`leapstep reconstruct runs/digits digits --out there-and-back`

`leapstep reconstruct runs/digits digits --steps 10 20 50 --n 200 --method heun --out heun`

`leapstep reconstruct runs/photos photos/ --split all --steps 20 --exact --out exact`
"""

PAPER = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}
"""Errors on CIFAR-10 by steps (Song et al. 2021, table 2, arXiv:2010.02502)."""

SHOWN = 12
"""How many samples the picture shows."""

RESULTS = folders.Kind("results.json", "reconstruction", r"results\.json|reconstructions\.(png|npz)")

Move = Callable[..., "Tensor"]
"""`encode` or `decode`, which lacks only (diffusion, x, steps, on_step=)."""


def command(
    model: options.ModelSource,
    data: Annotated[str, typer.Argument(help="What to encode: `digits`, a folder, a file, a name on the Hub.")],
    out: Annotated[Path, typer.Option(help="The folder to make: results and a picture.")],
    steps: Annotated[
        list[int] | None,
        typer.Option(
            metavar=NUMBERS, help="Numbers of steps, as in --steps 10 20 50; default: 10 to 1000; 1 for rk23, rk45."
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="How many samples, evenly chosen from the data.")] = 64,
    method: options.MethodName = "ddim",
    settings: options.Settings = None,
    exact: Annotated[bool, typer.Option("--exact", help="Encode with the exact inverse of each step.")] = False,
    spacing: Annotated[
        str | None,
        typer.Option(help="leading (default) | trailing (default for rk23, rk45) | linspace | quad | log_snr | karras"),
    ] = None,
    split: options.Split = None,
    batch_size: Annotated[int, typer.Option(help="Samples worked on at a time.")] = 64,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
) -> dict[str, Any]:
    """Encode data and decode it again: what is lost, by the number of steps, as in table 2 of the DDIM paper."""
    import leapstep
    from leapstep.models import checkpoint

    place = options.device(device)
    loaded = checkpoint.load(model, place)
    transition, used = options.transition(method, settings, loaded)
    latents.check_reversible(method, transition, loaded, exact)
    adaptive = leapstep.TRANSITIONS[method].calls == 0  # chooses its own steps
    asked = steps or ([1] if adaptive else list(PAPER))
    counts = latents.step_counts(loaded, asked)
    _, spacing = options.path(loaded, method, counts[0], spacing, otherwise="leading")
    split, (held, known) = options.part(lambda name: options.data_for(loaded, data, name), data, split)
    x0, labels = _some(held, known, n)
    batches = _batches(loaded, x0, labels, batch_size)
    record = options.origin(model, loaded, method, used, place) | {
        "exact": exact,
        "spacing": spacing,
        "data": data,
        "split": split,
        "n": len(x0),
        "labels": labels is not None,
        "unit": latents.unit(loaded),
        "batch_size": batch_size,
    }
    options.claim(out, overwrite, RESULTS, {"reconstruction": record, "results": []})
    latents.tell_left_out(loaded, asked, counts)
    back = functools.partial(leapstep.decode, transition=transition, spacing=spacing)
    upwards = leapstep.inverted(transition) if exact else transition
    there = functools.partial(leapstep.encode, transition=upwards, spacing=spacing)
    found: dict[str, Tensor] = {"original": x0}
    rows: list[dict[str, Any]] = []
    for count in counts:
        try:
            again, row = _measure(batches, count, there, back)
        except KeyboardInterrupt as request:
            if rows:
                request.add_note(f"the results of up to {rows[-1]['steps']} steps are kept in {out}")
            raise
        errors = latents.squared_error(loaded, again, x0)
        spread = (errors.std() / len(errors) ** 0.5).item() if len(errors) > 1 else None
        rows.append({"steps": count, "error": errors.mean().item(), "standard_error": spread, **row})
        found[f"{count} steps"] = again
        files.write_json(out / "results.json", {"reconstruction": record, "results": rows})
        _show(out, loaded, found)
        _print(record, rows)
    typer.echo(f"written: {out}")
    return {"reconstruction": record, "results": rows}


def _some(data: Data, labels: Tensor | None, n: int) -> tuple[Tensor, Tensor | None]:
    """Samples in model space, `[n, *d]`, and their labels: n, or as many as there are, evenly chosen."""
    if n < 1:
        raise ValueError(f"n={n}: must be at least 1")
    n = min(n, len(data))
    chosen = np.arange(n) * len(data) // n
    return data.batch(chosen), None if labels is None else labels[chosen]


def _batches(model: Model, x0: Tensor, labels: Tensor | None, size: int) -> list[tuple[Diffusion, Tensor]]:
    """The data in parts, each with the diffusion that knows its labels."""
    if size < 1:
        raise ValueError(f"batch_size={size}: must be at least 1")
    parts, place = [slice(i, i + size) for i in range(0, len(x0), size)], next(model.network.parameters()).device
    return [(model.diffusion(None if labels is None else labels[part]), x0[part].to(place)) for part in parts]


def _measure(
    batches: list[tuple[Diffusion, Tensor]], steps: int, there: Move, back: Move
) -> tuple[Tensor, dict[str, Any]]:
    """Encode and decode: the reconstructions, and what it took."""
    import torch

    began, parts, calls = time.perf_counter(), [], [0, 0]
    with progress_bar(2 * steps * len(batches), f"{steps} steps", "step") as bar:

        def note(direction: int, state: State) -> None:
            calls[direction] = state.calls
            bar.update()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)  # those of `inverted`
            for diffusion, x in batches:
                for direction, move in enumerate((there, back)):
                    x = move(diffusion, x, steps, on_step=functools.partial(note, direction))
                parts.append(x.cpu())
    seconds = round(time.perf_counter() - began, 3)
    notes = sorted({str(warning.message) for warning in caught})
    return torch.cat(parts), {"calls": sum(calls), "seconds": seconds, "notes": notes}


def _show(out: Path, model: Model, found: dict[str, Tensor]) -> None:
    """Write the pairs: a picture, or an array where samples are not pictures."""
    from leapstep.data.pictures import save_image, table

    if model.is_pictures:
        rows = {caption: model.scaling.to_pixels(x[:SHOWN]) for caption, x in found.items()}
        save_image(table(rows), out / "reconstructions.png")
    else:
        files.write_npz(out / "reconstructions.npz", {name: model.scaling.to_values(x) for name, x in found.items()})


def _print(record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The newest row of the table, below its head if it is the first."""
    compares = "pixel" in record["unit"] and record["method"] == "ddim" and not record["exact"]
    if len(rows) == 1:
        typer.echo(
            f"{record['n']} samples of {record['data']}, there and back with {record['method']}: squared error per "
            f"dimension, in {record['unit']}\n\n"
            f"{'steps':>6}{'network calls':>15}{'error':>11}{'std. error':>12}"
            + (f"{'DDIM paper, CIFAR-10':>23}" if compares else "")
        )
    row = rows[-1]
    error, spread = f"{row['error']:.3g}", "-" if row["standard_error"] is None else f"{row['standard_error']:.1g}"
    typer.echo(
        f"{row['steps']:>6}{row['calls']:>15}{error:>11}{spread:>12}"
        + (f"{PAPER.get(row['steps'], '-'):>23}" if compares else "")
    )
    for note in row["notes"]:
        typer.echo(f"       {note}")
