"""`leapstep train`: train a network; the options are the fields of `TrainingConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import configured, options
from leapstep.models import folder, opening
from leapstep.training.configuration import CPU_PRESET, GPU_PRESET, PRESETS, TrainingConfig, check_each

EXAMPLES = """**Examples**

`leapstep train digits --out runs/digits`

`leapstep train photos/ --out runs/photos --minutes 10`

`leapstep train photos/ --out runs/photos --flip`

`leapstep train photos/ --out runs/photos --preset photos --size 128 --batch-size 32`

`leapstep train mnist/ --preset mnist --labels --out runs/mnist`

`leapstep train signals.npy --out runs/signals --config settings.yaml`

`leapstep train photos/ --out runs/photos --resume`

`leapstep train photos/ --out runs/photos --log tensorboard,wandb --project photos`

`leapstep train photos/ --init-from runs/photos --out runs/photos-2`

`accelerate launch -m leapstep train photos/ --out runs/photos`

`torchrun --nproc-per-node=4 -m leapstep train photos/ --out runs/photos --fsdp`
"""


def command(
    data: Annotated[
        str,
        typer.Argument(
            help="`digits`, a folder of images (sub-folders are labels), a tar, parquet, arrow, npy or npz file, a "
            "folder of tar or parquet files, or `owner/name` on the Hub."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Settings known to work: {' | '.join(PRESETS)}; without one, `digits` are trained with digits, and "
            f"pictures with {GPU_PRESET} on a GPU and {CPU_PRESET} on a CPU."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of options; options on the command line override it.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in the run folder.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the run folder.")] = False,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Start from these weights, with their network, schedule and prediction: a run folder,"
            " an imported one, a diffusers pipeline folder, or `owner/name` on the Hub.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="`cpu` to leave a GPU unused; default: the best available.")
    ] = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a denoising network and leave a run folder that leapstep and diffusers can open."""
    if not resume:
        options.check_free(out, overwrite, folder.RUN)
    options.check_data(data)
    if init_from is not None:
        opening.check(init_from)
    check_each(TrainingConfig, settings, preset, config)
    from leapstep.training.run import train

    model = train(
        data,
        out,
        preset=preset,
        config=config,
        resume=resume,
        overwrite=overwrite,
        init_from=init_from,
        device=device,
        **settings,
    )
    typer.echo(f"trained: {out}    next: leapstep sample {out} --out samples")
    return {"out": out, **model.details}


configured.with_fields(command, TrainingConfig)  # type: ignore[arg-type]
