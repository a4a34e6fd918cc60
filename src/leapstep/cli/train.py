"""`leapstep train`: its options are the fields of `TrainingConfig`."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from leapstep.training.configuration import CPU_PRESET, GPU_PRESET, PRESETS, TrainingConfig, configure

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
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; the options below win over it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the run folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the run folder.")] = False,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Begin with these weights, and with their network, schedule and prediction: a run folder, an imported "
            "one, a diffusers pipeline folder, or `owner/name` on the Hub.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="`cpu` to leave a GPU alone; default: the best there is.")] = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a denoising network and leave a run folder that leapstep and diffusers can open."""
    import torch

    from leapstep.training import initial
    from leapstep.training.estimate import usual_settings
    from leapstep.training.run import train

    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: choose one")
    if device not in (None, "cpu"):
        raise ValueError(f"--device {device}: only cpu can be asked for; CUDA_VISIBLE_DEVICES chooses among GPUs")
    given = {name: value for name, value in settings.items() if value is not None}
    last = _last(out) if resume else {}
    usual, base = None, last.get("training", {})
    if preset is None and not resume:
        usual, base = usual_settings(data, device != "cpu" and torch.cuda.is_available())
    if init_from is not None and not resume:
        begun = initial.load(init_from)
        chosen = initial.configured(begun, given, preset, config, base)
        usual = None if "training" in begun.details else usual
    else:
        chosen = configure(given, preset, config, base)
    note = f"settings: --preset {usual}, but for those that were given" if usual else ""
    model = train(chosen, data, out, resume=resume, overwrite=overwrite, init_from=init_from, device=device, note=note)
    if last.get("step", 0) >= chosen.steps:
        typer.echo(f"{out} already was at step {last['step']}: to train on, --resume it with more --steps")
    typer.echo(f"trained: {out}    next: leapstep sample {out} --out samples")
    return {"out": out, **model.details}


def _last(run: Path) -> dict[str, Any]:
    """What the last checkpoint says. Raises ValueError where there is none, naming the process that trains there."""
    from leapstep import launch
    from leapstep.files import folders
    from leapstep.models import checkpoint

    try:
        return checkpoint.find_state(run)[1]
    except ValueError:
        if run.is_dir() and launch.rank() == 0:
            with folders.held(run):
                pass
        raise


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
