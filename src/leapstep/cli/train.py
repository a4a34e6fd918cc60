"""`leapstep train`: train a network; the options are the fields of `TrainingConfig`."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from leapstep.training.configuration import CPU_PRESET, GPU_PRESET, PRESETS, TrainingConfig

EXAMPLES = """**Examples**

`leapstep train digits --out runs/digits`

`leapstep train photos/ --out runs/photos --flip`

`leapstep train photos/ --out runs/photos --preset photos --size 128 --batch-size 32`

`leapstep train mnist/ --preset mnist --labels --out runs/mnist`

`leapstep train signals.npy --out runs/signals --config settings.yaml`

`leapstep train photos/ --out runs/photos --resume`

`leapstep train photos/ --init-from runs/photos --out runs/photos-2`

`accelerate launch -m leapstep train photos/ --out runs/photos`
"""


def command(
    data: Annotated[
        str,
        typer.Argument(
            help="`digits`, a folder of images (sub-folders are labels), a parquet, arrow, npy or npz file, a folder "
            "of parquet files, or `owner/name` on the Hub."
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


def _options() -> list[inspect.Parameter]:
    """An option for every setting. Numbers and switches are parsed here, everything else by the configuration."""
    parameters = []
    for name, field in TrainingConfig.model_fields.items():
        annotation: Any = field.annotation
        union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
        kinds = typing.get_args(annotation) if union else (annotation,)
        kind: Any = next((kind for kind in (bool, int, float) if kind in kinds), str)
        choices = [
            str(choice) for kind in kinds if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)
        ]
        default = ",".join(map(str, map(int, field.default))) if isinstance(field.default, tuple) else field.default
        notes = [" | ".join(choices)] * bool(choices) + [f"default: {default}"] * (default is not None)
        text = f"{field.description} [{'; '.join(notes)}]" if notes else field.description
        option = Annotated[kind | None, typer.Option(help=text, rich_help_panel="Settings")]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option))
    return parameters


def _with_options(function: types.FunctionType) -> None:
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = inspect.Signature([*own, *_options()])  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in [*own, *_options()]}


_with_options(command)  # type: ignore[arg-type]
