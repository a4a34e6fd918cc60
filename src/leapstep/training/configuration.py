"""The configuration of a training run: its fields, their checks, and presets.

A setting comes from, later ones first: the command line, a YAML file, a preset, the defaults below. The same fields
make the options of `leapstep train`, the keys of the YAML file and the record in the run folder.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from leapstep.files.reading import read_yaml
from leapstep.text import SYNONYMS, allowed, near, one_line


def _listed(value: Any) -> Any:
    """Accept "32,64" for [32, 64], as a list on the command line, and a single value for a list of one."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",")]
    return [value] if isinstance(value, int) else value


TRACKERS = ("tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio")
"""The trackers that a run may be logged to, by accelerate's names for them; see `training.tracking`."""


def _trackers(value: Any) -> Any:
    """Accept "tensorboard,wandb", and what YAML makes of "no"."""
    if value is False or value in ("no", ""):
        return ()
    names = tuple(dict.fromkeys(_listed(value) if isinstance(value, str) else value))
    known = sys.modules.get("accelerate.tracking")  # in which a program may have registered others
    others = [name for name in getattr(known, "LOGGER_TYPE_TO_CLASS", ()) if name not in TRACKERS]
    for name in names:
        if name not in (*TRACKERS, *others):
            raise ValueError(f"unknown tracker {name!r}: {allowed(name, (*TRACKERS, *others))}, or no")
    return names


def _held_out(value: Any) -> Any:
    """Accept the number of samples, and what YAML makes of "no"."""
    return "no" if value is False or value in (0, "0") else str(value) if type(value) is int else value


def _ours(value: Any) -> Any:
    """Our word for one of diffusers'."""
    return SYNONYMS.get(value, value) if isinstance(value, str) else value


Widths = Annotated[tuple[int, ...], BeforeValidator(_listed)]
Flags = Annotated[tuple[bool, ...], BeforeValidator(_listed)]
Names = Annotated[tuple[str, ...], BeforeValidator(_trackers)]


class RunConfig(BaseModel):
    """The settings of every run that trains a network; each field's description is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # optimisation
    steps: int = Field(100_000, ge=1, description="optimiser steps")
    batch_size: int = Field(128, ge=1, description="samples per optimiser step, over all processes")
    accumulate: int = Field(1, ge=1, description="number of parts in which a batch is computed")
    learning_rate: float = Field(2e-4, gt=0, description="of AdamW")
    lr_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="course of the learning rate after warm-up"
    )
    warmup: int = Field(500, ge=0, description="steps of linear learning-rate warm-up")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    clip_gradient: float = Field(1.0, gt=0, description="bound on the gradient's norm")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights, after a warm-up")
    fsdp: bool = Field(
        False, description="share weights, their average and the optimiser's state among the processes (FSDP2)"
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="auto: bf16 if the run is long and bf16 is measured to be faster here"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the initial weights, the data order and the noise")
    # record
    log: Names = Field(
        ("tensorboard",),
        description=f"where to log, with commas between: {' | '.join(TRACKERS)}, each if installed; or no",
    )
    project: str | None = Field(
        None, min_length=1, max_length=100, description="of the run in trackers; default: theirs, or leapstep"
    )
    log_every: int = Field(50, ge=1, description="steps between the scalars that are logged")
    holdout_every: int = Field(200, ge=1, description="steps between losses on held-out samples")
    sample_every: int = Field(2000, ge=1, description="steps between sample grids")
    save_every: int = Field(1000, ge=1, description="steps between checkpoints")

    @model_validator(mode="after")
    def _divides(self) -> RunConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        return self


Kind = TypeVar("Kind", bound=RunConfig)


class TrainingConfig(RunConfig):
    """The settings of a training run."""

    minutes: float | None = Field(
        None, gt=0, description="train so long: chooses all other settings that are not given, by timing steps here"
    )
    # data
    size: int | None = Field(None, ge=1, description="crop and resize images to squares of this side, pixels")
    grey: bool | None = Field(None, description="greyscale (yes) or RGB (no); default: as the images are")
    flip: bool = Field(False, description="mirror half of the images at random")
    labels: bool = Field(False, description="train on the data's labels, for `sample --label`")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels dropped, for classifier-free guidance")
    decode: Literal["auto", "before", "on-demand"] = Field(
        "auto",
        description="images before the work, once, into the cache; or on demand, in every epoch; "
        "auto: on demand if they take more than 4 GiB",
    )
    strict: bool = Field(False, description="fail on a broken image instead of skipping it")
    holdout: Annotated[str, BeforeValidator(_held_out)] = Field(
        "auto",
        pattern=r"^(auto|no|[1-9]\d*|\d{1,2}(\.\d+)?%)$",
        description="samples never trained on, to measure against: a number, a share such as 10%, or no; "
        "auto: 10%, at most 1000, if the data have no split test and at least 100 samples",
    )
    # diffusion
    schedule: Annotated[
        Literal["linear", "scaled_linear", "quadratic", "cosine", "sigmoid", "exponential", "exponential_s"],
        BeforeValidator(_ours),
    ] = Field("linear", description="noise schedule")
    timesteps: int = Field(1000, ge=1, description="T, the number of noise levels")
    zero_terminal_snr: bool = Field(False, description="rescale the schedule so that level T holds no signal")
    predicts: Annotated[Literal["eps", "x0", "v"], BeforeValidator(_ours)] = Field(
        "eps", description="what the network predicts"
    )
    loss: Literal["eps", "x0", "v", "min_snr", "variational"] | None = Field(
        None, description="quantity whose squared error is the loss, or a weight; default: what the network predicts"
    )
    min_snr_gamma: float = Field(5.0, gt=0, description="gamma of --loss min_snr")
    # network
    network: Literal["unet", "mlp"] | None = Field(None, description="default: unet for images, mlp for arrays")
    patch: int = Field(1, ge=1, description="U-Net: side of the squares of pixels that its stages see as one pixel")
    channels: Widths = Field((64, 128, 128), description="U-Net: channels of each stage")
    attention: Flags = Field(
        (False, False, True),
        description="U-Net: self-attention at each stage, 0 or 1; default for other numbers of stages: the last",
    )
    blocks: int = Field(2, ge=1, description="U-Net: residual blocks per stage")
    head_channels: int | None = Field(None, ge=1, description="U-Net: channels of an attention head; default: one head")
    groups: int = Field(32, ge=1, description="U-Net: groups of a group normalisation; fewer if --channels require it")
    width: int = Field(256, ge=2, description="MLP: features of each layer")
    depth: int = Field(4, ge=1, description="MLP: residual blocks")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout inside residual blocks")
    time_embedding: Literal["sinusoidal", "learned"] = Field("sinusoidal", description="embedding of the timestep")

    @model_validator(mode="after")
    def _fits(self) -> TrainingConfig:
        if self.predicts == "eps" and self.zero_terminal_snr:
            raise ValueError("zero_terminal_snr needs --predicts v or x0: at zero signal eps says nothing of the data")
        if self.zero_terminal_snr and self.loss in ("eps", "min_snr"):
            raise ValueError(f"loss {self.loss} gives level T no weight under zero_terminal_snr: use v or x0")
        return self


class DistillationConfig(RunConfig):
    """The settings of a distillation, of which the usual ones are not those of a training."""

    calls: int = Field(1, ge=1, description="network calls of a sample of the student")
    guidance: float = Field(1.0, description="scale of classifier-free guidance that the student takes over; 1 is none")
    teacher_steps: int = Field(16, ge=1, description="steps of the teacher from noise to data, at least")
    reuse: int = Field(8, ge=1, description="steps in which a sample of the teacher is used, on average")
    steps: int = Field(2000, ge=1, description="steps; the student's weights change once for each of its calls in each")
    lr_schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="course of the learning rate after warm-up"
    )
    warmup: int = Field(20, ge=0, description="steps of linear learning-rate warm-up")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="decay of the averaged weights, after a warm-up")
    sample_every: int = Field(500, ge=1, description="steps between sample grids")
    save_every: int = Field(250, ge=1, description="steps between checkpoints")


CPU_PRESET, GPU_PRESET = "photos-cpu", "photos"
"""The presets for a folder of pictures, by where they are trained."""

PRESETS: dict[str, dict[str, Any]] = {
    CPU_PRESET: {
        "size": 32,
        "channels": (32, 64, 128),
        "attention": (False, False, True),
        "blocks": 1,
        "groups": 8,
        "schedule": "cosine",
        "batch_size": 32,
        "steps": 10_000,
        "learning_rate": 5e-4,
        "lr_schedule": "cosine",
        "warmup": 200,
        "ema_decay": 0.999,
        "sample_every": 500,
        "save_every": 250,
    },
    GPU_PRESET: {
        "size": 64,
        "channels": (64, 128, 256, 256),
        "attention": (False, False, True, True),
        "schedule": "cosine",
        "dropout": 0.1,
        "batch_size": 64,
        "steps": 100_000,
        "ema_decay": 0.9995,
    },
    "digits": {
        "channels": (32, 64),
        "attention": (False, True),
        "blocks": 1,
        "groups": 8,
        "schedule": "cosine",
        "batch_size": 64,
        "steps": 1200,
        "learning_rate": 1e-3,
        "lr_schedule": "cosine",
        "warmup": 50,
        "ema_decay": 0.995,
        "log_every": 10,
        "sample_every": 300,
        "save_every": 300,
    },
    "mnist": {
        "channels": (32, 64, 128),
        "attention": (False, False, True),
        "blocks": 1,
        "groups": 8,
        "schedule": "cosine",
        "steps": 20_000,
        "learning_rate": 5e-4,
        "ema_decay": 0.999,
    },
    "cifar10": {  # the network and the settings of Ho et al. 2020, appendix B
        "channels": (128, 256, 256, 256),
        "attention": (False, True, False, False),
        "dropout": 0.1,
        "flip": True,
        "steps": 800_000,
        "warmup": 5000,
        "save_every": 5000,
        "sample_every": 5000,
    },
}
"""Settings by the name of the data that they are for."""


def parameters(kind: type[RunConfig]) -> list[inspect.Parameter]:
    """The settings of a kind as keyword arguments of a function, where None leaves a setting as it is."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=field.annotation)
        for name, field in kind.model_fields.items()
    ]


def configure(
    overrides: Mapping[str, Any],
    preset: str | None = None,
    file: str | Path | None = None,
    base: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """Put the configuration of a training together.

    Arguments:
        overrides: settings that win over all others.
        preset: a name in `PRESETS`.
        file: a YAML file of settings.
        base: settings that all others win over, such as those of a run that is resumed.
    Raises:
        ValueError: one line that names the setting, what arrived and what is allowed; for an unknown key, its nearest
            neighbour.
    """
    _check_preset(preset)
    settings: dict[str, Any] = {}
    for layer in (base or {}, PRESETS.get(preset or "", {}), _read_yaml(file), overrides):
        settings |= layer
        if "channels" in layer:
            settings = _fitting(settings, layer)
    return checked(TrainingConfig, settings)


def checked(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """A configuration of these values, by the names of its fields.

    Raises:
        ValueError: one line that names the setting, what arrived and what is allowed; for an unknown key, its nearest
            neighbour.
    """
    _check_names(kind, values)
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError("; ".join(_line(problem) for problem in error.errors())) from error


def check_each(
    kind: type[RunConfig],
    overrides: Mapping[str, Any],
    preset: str | None = None,
    file: str | Path | None = None,
) -> None:
    """Check what is asked of a run, each setting by itself, before it is known what all others are.

    Arguments:
        kind: of the run.
        overrides, preset, file: as of `configure`; None stands for a setting that is not asked for.
    Raises:
        ValueError: an unknown preset or setting, a value that none may have, or a file that cannot be read.
    """
    _check_preset(preset)
    given = {name: value for name, value in overrides.items() if value is not None}
    for values in (_read_yaml(file), given):
        _check_names(kind, values)
        try:
            check_installed(kind(**values).log)
        except ValidationError as error:
            if own := [problem for problem in error.errors() if problem["loc"]]:  # not of several together
                raise ValueError("; ".join(map(_line, own))) from error


def check_installed(trackers: Iterable[str]) -> None:
    """Raise ValueError where a tracker that is asked for is not installed; none is imported."""
    for name in trackers:
        if name in TRACKERS and importlib.util.find_spec(name) is None:
            raise ValueError(f"log={name}: {name} is not installed: pip install {name}, or leave it out of --log")


def _check_preset(preset: str | None) -> None:
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: {allowed(preset, PRESETS)}")


def _check_names(kind: type[RunConfig], values: Mapping[str, Any]) -> None:
    for key in values:
        if key not in kind.model_fields:
            begins = [name for name in kind.model_fields if name.startswith(str(key))]
            nearest = begins or difflib.get_close_matches(str(key), kind.model_fields, n=1, cutoff=0.0)
            raise ValueError(f"unknown setting {key!r}: did you mean {nearest[0]!r}?")


def _fitting(settings: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of which a layer names the channels: what goes with them, where it does not name that, and it must."""
    try:
        widths = [int(width) for width in _listed(layer["channels"])]
    except (TypeError, ValueError):  # told below
        return settings
    fields = TrainingConfig.model_fields
    stages = len(_listed(settings.get("attention", fields["attention"].default)) or ())
    fit: dict[str, Any] = {}
    if stages != len(widths):
        fit["attention"] = [False] * (len(widths) - 1) + [True]
    groups = settings.get("groups", fields["groups"].default)
    if isinstance(groups, int) and any(width % groups for width in widths):
        fit["groups"] = math.gcd(groups, *widths)
    return settings | {name: value for name, value in fit.items() if name not in layer}


def _read_yaml(file: str | Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        settings = read_yaml(file)
    except OSError as error:
        raise ValueError(f"cannot read the configuration {file}: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must hold settings, one `name: value` a line")
    return settings


def _line(problem: Any) -> str:
    if not problem["loc"]:
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch":  # of the one field that has a pattern, its words
        allows = TrainingConfig.model_fields[problem["loc"][0]].description
        return f"{problem['loc'][0]}={one_line(repr(problem['input']), 60)}: {allows}"
    meant = None
    if problem["type"] == "literal_error":
        meant = near(str(problem["input"]), re.findall(r"'([^']+)'", problem["ctx"]["expected"]))
    guess = "" if meant is None else f": did you mean {meant}?"
    return f"{problem['loc'][0]}={one_line(repr(problem['input']), 60)}: {problem['msg'].lower()}{guess}"
