"""`leapstep calibrate`: measure what the optimal variance needs, and keep it with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import options
from leapstep.progress import progress_bar

EXAMPLES = """**Examples**

`leapstep calibrate runs/digits digits`

`leapstep sample runs/digits --steps 20 --method ddpm --variance optimal --out samples`
"""


def command(
    model: Annotated[
        Path, typer.Argument(help="A run folder or a diffusers pipeline folder, to which the result is written.")
    ],
    data: Annotated[str, typer.Argument(help="The training data: `digits`, a folder, a file, a name on the Hub.")],
    split: options.TrainSplit = None,
    per_level: Annotated[int, typer.Option(help="Noised samples per trained level.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Samples per network call.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    device: options.Device = None,
) -> dict[str, Any]:
    """Measure a model's errors at every trained level, which --variance optimal needs, and keep them with the model."""
    from leapstep.files import folders
    from leapstep.inference.calibration import calibrate, levels
    from leapstep.inference.provenance import versions
    from leapstep.models import checkpoint
    from leapstep.models.data import parts_of

    if not model.is_dir():
        raise ValueError(f"{model} is not a folder: a model on the Hub must be downloaded before it can be calibrated")
    loaded = checkpoint.load(model, options.device(device))
    options.hold(model)
    folders.tidy(model)
    split, (samples, labels) = options.part(parts_of(loaded, data), data, split, "train")
    with progress_bar(levels(loaded) * per_level, "calibrating", "sample") as bar:
        measured = calibrate(
            loaded, samples, labels, per_level=per_level, batch_size=batch_size, seed=seed, on_batch=bar.update
        )
    details = {"data": data, "split": split, "per_level": per_level, "seed": seed, "versions": versions()}
    checkpoint.save_calibration(model, loaded, measured, details)
    power, error = measured.power, measured.error
    typer.echo(
        f"from the first to the last of {len(power)} levels, E||eps||^2 / d goes from {power[0]:.3f} to "
        f"{power[-1]:.3f}\n"
        f"and E||x0 - estimate||^2 / d from {error[0]:.4f} to {error[-1]:.4f}: {model / checkpoint.CALIBRATION}\n"
        "Now --variance optimal is there for ddpm and ddim."
    )
    return {
        "out": model / checkpoint.CALIBRATION,
        **details,
        "times": measured.times.tolist(),
        "eps_power": power.tolist(),
        "x0_error": error.tolist(),
    }
