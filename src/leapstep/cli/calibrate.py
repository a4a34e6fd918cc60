"""`leapstep calibrate`: measure what the optimal variance needs, and keep it with the model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from leapstep.cli import options
from leapstep.progress import progress_bar

EXAMPLES = """**Examples**

`leapstep calibrate runs/digits digits`

`leapstep sample runs/digits --steps 20 --method ddpm --variance optimal --out samples`

`leapstep sample runs/digits --steps 3 --method unipc --start gaussian --out samples`
"""


@options.on_model
def command(
    model: options.Source,
    data: Annotated[str, typer.Argument(help="The training data: `digits`, a folder, a file, a name on the Hub.")],
    split: options.TrainSplit = None,
    per_level: Annotated[int, typer.Option(help="Noised samples per trained level.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Samples per network call.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    condition: options.DataCondition = None,
) -> dict[str, Any]:
    """Measure what --variance optimal needs, a model's errors at every trained level, and keep it with the model.

    With it the data's mean and covariance, for --start gaussian, which cost no call of the network.
    """
    options.check_data(data)
    from leapstep.files import folders
    from leapstep.inference.calibration import calibrate, levels, moments
    from leapstep.inference.provenance import versions
    from leapstep.inference.spec import SamplingSpec
    from leapstep.models import checkpoint
    from leapstep.models.data import parts_of
    from leapstep.models.opening import file_of

    out = file_of(model.name, model.convention, checkpoint.CALIBRATION)
    if not out.parent.is_dir():
        raise ValueError(
            f"{model.name} is not a folder: a model on the Hub must be downloaded before it can be calibrated"
        )
    loaded = model.open()
    options.hold(out.parent)
    folders.tidy(out.parent)
    split, (samples, labels) = options.part(parts_of(loaded, data), data, split, "train")
    with progress_bar(levels(loaded) * per_level, "calibrating", "sample") as bar:
        measured = calibrate(
            loaded,
            samples,
            labels,
            condition=SamplingSpec(conditions=condition).conditions_for(range(len(samples))),
            per_level=per_level,
            batch_size=batch_size,
            seed=seed,
            on_batch=bar.update,
        )
    details = {"data": data, "split": split, "per_level": per_level, "seed": seed, "versions": versions()}
    checkpoint.save_calibration(out, loaded, measured, details)
    laws, n = moments(loaded, samples, labels, seed)
    kept = file_of(model.name, model.convention, checkpoint.MOMENTS)
    checkpoint.save_moments(kept, loaded, laws, {**details, "source": "data", "n": n})
    power, error = measured.power, measured.error
    typer.echo(
        f"from the first to the last of {len(power)} levels, E||eps||^2 / d goes from {power[0]:.3f} to "
        f"{power[-1]:.3f}\n"
        f"and E||x0 - estimate||^2 / d from {error[0]:.4f} to {error[-1]:.4f}: {out}\n"
        f"Now --variance optimal is there for ddpm and ddim,\n"
        f"and --start gaussian for every method, of the mean and covariance of {n:,} samples: {kept}"
    )
    return {
        "out": out,
        "moments": kept,
        **details,
        "times": measured.times.tolist(),
        "eps_power": power.tolist(),
        "x0_error": error.tolist(),
    }
