"""The schemas of run folders and of diffusers' pipeline folders."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, create_model

from leapstep.core.schema import Convention
from leapstep.files.reading import CLASSES
from leapstep.files.schema import (
    LEVELS,
    SIDE,
    Betas,
    Blocks,
    Count,
    Levels,
    Line,
    Name,
    Plain,
    Positive,
    Schema,
    Seconds,
    Share,
    Side,
    Width,
    Widths,
    Word,
    first_problem,
)
from leapstep.text import one_line

CALLS = 200
"""The most network calls of a solver that was fitted."""

# --- run folders: leapstep.json ------------------------------------------------------------------------------------


class Scaling(Schema):
    """How model space relates to pixels or values."""

    shift: float
    scale: Positive


class Data(Schema):
    """What a model was trained on."""

    source: Name = "unknown data"
    samples: Count = 0
    shape: Annotated[tuple[Side, ...], Field(max_length=16)] | None = None
    scaling: Scaling | None = None
    classes: Annotated[tuple[Name, ...], Field(max_length=CLASSES)] | None = None


class Imported(Schema):
    """Where an imported model came from."""

    file: Name | None = None
    sha256: Word | None = None
    evidence: Annotated[tuple[Line, ...], Field(max_length=1000)] | None = None


class Teacher(Schema):
    """The model that a student was distilled from."""

    source: Name
    weights_sha256: Word
    step: Count | None = None
    condition: Name | None = None


class Distillation(Schema):
    """What a student was distilled from, and the settings of that."""

    __pydantic_extra__: dict[str, Plain | list[Plain]]
    teacher: Teacher
    calls: Annotated[int, Field(ge=1)]
    guidance: float = 1.0


class Loss(Schema):
    """Losses after a step of a training, always on the same samples."""

    step: Count
    held_out: float
    training: float | None = None


class Losses(Schema):
    """The course of these losses: the last, those of the least on held-out data, and how long it has risen."""

    last: Loss
    least: Loss
    rising: Count = 0


class Run(Schema):
    """`leapstep.json`."""

    versions: dict[Word, Word] | None = None
    step: Count | None = None
    seconds: Seconds | None = None
    data: Data | None = None
    training: dict[Word, Plain | list[Plain]] | None = None
    losses: Losses | None = None
    convention: Convention | None = None
    imported: Imported | None = None
    distillation: Distillation | None = None


class State(Schema):
    """The values of a training state."""

    step: Count
    seconds: Seconds | None = None
    data: Data | None = None
    training: dict[Word, Any] | None = None
    losses: Losses | None = None
    distillation: Distillation | None = None


class Measured(Schema):
    """`calibration.json`."""

    weights_sha256: Word
    data_variance: Annotated[float, Field(ge=0)]
    times: Annotated[tuple[float, ...], Field(min_length=2, max_length=LEVELS)]
    eps_power: Annotated[tuple[float, ...], Field(min_length=2, max_length=LEVELS)]
    x0_error: Annotated[tuple[float, ...], Field(min_length=2, max_length=LEVELS)]


Error = Annotated[float, Field(ge=0)]
Coefficient = Annotated[float, Field(ge=-1e6, le=1e6)]


class Untuned(Schema):
    """A method as it is, in `tuned.json`."""

    method: Word
    options: dict[Word, int | float | Word]
    steps: Levels
    spacing: Word
    start: Word
    error: Error
    standard_error: Error


class Solver(Schema):
    """A solver that was fitted; whether its coefficients fit its times is checked by what makes it."""

    calls: Annotated[int, Field(ge=1, le=CALLS)]
    start: Word
    error: Error
    standard_error: Error
    evaluations: Count
    seconds: Seconds
    times: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(max_length=CALLS + 1)]
    coefficients: Annotated[
        tuple[Annotated[tuple[Coefficient, ...], Field(max_length=CALLS + 1)], ...], Field(max_length=CALLS)
    ]
    gaussian_sha256: Word | None = None


class Tuning(Schema):
    """The solvers that were fitted to one teacher."""

    guidance: float
    rescale: Annotated[float, Field(ge=0, le=1)]
    labels: Literal["all"] | Annotated[tuple[Count, ...], Field(max_length=CLASSES)]
    conditions_sha256: Word | None
    teacher: dict[Word, Any]
    solvers: Annotated[tuple[Solver, ...], Field(max_length=CALLS)]
    untuned: Annotated[tuple[Untuned, ...], Field(max_length=10_000)]


class Tuned(Schema):
    """`tuned.json`."""

    version: Count
    weights_sha256: Word
    convention_sha256: Word | None
    tunings: Annotated[tuple[Tuning, ...], Field(max_length=1000)]


# --- diffusers -----------------------------------------------------------------------------------------------------


class Scheduler(Schema):
    """`scheduler_config.json`, of any scheduler."""

    num_train_timesteps: Levels | None = None
    beta_schedule: Word | None = None
    beta_start: Share | None = None
    beta_end: Share | None = None
    trained_betas: Betas | None = None
    prediction_type: Word | None = None
    variance_type: Word | None = None
    clip_sample: bool | None = None
    clip_sample_range: Positive | None = None
    thresholding: bool | None = None
    dynamic_thresholding_ratio: Share | None = None
    sample_max_value: Positive | None = None
    timestep_spacing: Word | None = None
    rescale_betas_zero_snr: bool | None = None
    use_karras_sigmas: bool | None = None
    use_exponential_sigmas: bool | None = None
    use_beta_sigmas: bool | None = None
    use_lu_lambdas: bool | None = None
    use_flow_sigmas: bool | None = None
    flow_shift: Positive | None = None
    shift: Positive | None = None
    use_dynamic_shifting: bool | None = None
    time_shift_type: Word | None = None
    invert_sigmas: bool | None = None
    timestep_type: Word | None = None
    snr_shift_scale: Positive | None = None
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    sigma_data: Positive | None = None
    sigma_schedule: Word | None = None
    rho: Positive | None = None


Blocknames = Annotated[tuple[Word, ...], Field(max_length=64)]


class UNet2DModel(Schema):
    """`config.json` of diffusers' network."""

    sample_size: Side | tuple[Side, Side] | None = None
    in_channels: Blocks
    out_channels: Blocks
    block_out_channels: Widths
    layers_per_block: Blocks
    down_block_types: Blocknames
    up_block_types: Blocknames
    add_attention: bool = True
    attention_head_dim: Width | None = None
    attn_norm_num_groups: Width | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    num_class_embeds: Annotated[int, Field(ge=1, le=CLASSES)] | None = None
    num_train_timesteps: Levels | None = None
    norm_num_groups: Blocks = 32
    norm_eps: Positive = 1e-5
    downsample_padding: Width = 1
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Field(ge=-1, le=100)] = 0
    time_embedding_type: Word = "positional"
    downsample_type: Word = "conv"
    upsample_type: Word = "conv"
    resnet_time_scale_shift: Word = "default"


class Pipeline(Schema):
    """`model_index.json`: the parts of a pipeline, each with its library and its class."""

    __pydantic_extra__: dict[str, Any]


# --- networks ----------------------------------------------------------------------------------------------------


def network_fields(kind: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a network's configuration, a dataclass, once they keep to its types and to the bounds above.

    Raises:
        ValueError: a field that there is not, or one of another type or size.
    """
    listed = Field(max_length=64)
    bounds: dict[Any, Any] = {
        int: Width,
        int | None: Width | None,
        tuple[int, ...]: Annotated[tuple[Width, ...], listed],
        tuple[bool, ...]: Annotated[tuple[bool, ...], listed],
    }
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        bounded = bounds.get(field.type, field.type)
        bounded = Blocks if field.name in ("blocks", "depth") else bounded
        fields[field.name] = (bounded, field.default)
    schema = create_model("Network", __config__=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False), **fields)
    try:
        made = schema.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    return {name: getattr(made, name) for name in value}


def sample_shape(value: Any, name: str) -> tuple[int, ...]:
    """The shape of one sample.

    Raises:
        ValueError: it is none, or one of more values than a network is ever asked for.
    """
    whole = isinstance(value, list | tuple) and all(type(side) is int and 1 <= side <= SIDE for side in value)
    if not whole or len(value) > 8 or math.prod(value) > 2**31:
        raise ValueError(f"{name} is {one_line(str(value), 60)}: it must be the shape of one sample")
    return tuple(value)
