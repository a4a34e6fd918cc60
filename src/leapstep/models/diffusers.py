"""The configuration of a diffusers scheduler as a `Convention`, and back.

A scheduler describes variance-preserving processes on trained levels, three predictions, a bound and a spacing;
`to_scheduler` refuses every other convention. Here are dictionaries alone, which `leapstep.models.schema` has checked;
`leapstep.models.checkpoint` reads and writes the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leapstep.core.convention import Clip, Convention, DynamicThreshold
from leapstep.core.process import Process
from leapstep.core.schedules import cosine, flow, from_betas, rescale_zero_terminal_snr, sigmoid
from leapstep.text import SYNONYMS

PREDICTION_TYPES = {ours: theirs for theirs, ours in SYNONYMS.items() if ours in ("eps", "x0", "v")}
"""What a network predicts: our name, diffusers' name."""

VARIANCE_PRESERVING = {  # by class name: whether x0 is clipped where the file does not say
    "DDPMScheduler": True,
    "DDPMParallelScheduler": True,
    "DDIMScheduler": True,
    "DDIMParallelScheduler": True,
    "PNDMScheduler": False,
    "DPMSolverMultistepScheduler": False,
    "DPMSolverSinglestepScheduler": False,
    "DEISMultistepScheduler": False,
    "UniPCMultistepScheduler": False,
    "EulerDiscreteScheduler": False,
    "EulerAncestralDiscreteScheduler": False,
    "HeunDiscreteScheduler": False,
    "LMSDiscreteScheduler": False,
}
"""Schedulers of diffusers that sample networks of the same kind: betas on trained levels, timesteps from 0."""

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range")
"""What a scheduler may say of the variance: ours is the sampler's choice; `learned_range` is the network's answer."""

TIMESTEP_SPACINGS = ("trailing", "leading", "linspace")
"""The spacings that diffusers has the same names for."""


def obstacle(convention: Convention) -> str | None:
    """Why a scheduler's configuration cannot hold a convention; None: it can."""
    if convention.time != "index" or convention.reverse or convention.sigma_data is not None:
        return "the network must be told trained levels counted from 0, and see x_t as it is"
    if _betas(convention.process) is None:
        return "the process must be variance preserving, on trained levels"
    if convention.predicts not in PREDICTION_TYPES:
        return f"the network must predict one of {', '.join(PREDICTION_TYPES)}, not {convention.predicts}"
    if not isinstance(_bound(convention), int | float | DynamicThreshold | None):
        return f"the clip must be a range around 0 or a DynamicThreshold, not {convention.clip}"
    return None


def difference(convention: Convention, scheduler: Convention) -> str | None:
    """On which field a convention and that of the scheduler beside it disagree; None: on nothing that it can hold."""
    if obstacle(convention):
        return None
    ours, theirs = (_betas(one.process) for one in (convention, scheduler))
    if ours is None or theirs is None or len(ours) != len(theirs) or not torch.allclose(ours, theirs, atol=1e-6):
        return "process"
    if convention.predicts != scheduler.predicts:
        return "predicts"
    bounds = _bound(convention), _bound(scheduler)
    numbers = all(isinstance(bound, float) for bound in bounds)
    if not (math.isclose(*bounds) if numbers else bounds[0] == bounds[1]):
        return "clip"
    return "spacing" if convention.spacing in TIMESTEP_SPACINGS and convention.spacing != scheduler.spacing else None


def to_scheduler(convention: Convention) -> dict[str, Any]:
    """Write a convention as the configuration of a diffusers `DDPMScheduler`.

    The betas are written out (`trained_betas`) so that every variance-preserving process, known by name or not, is read
    back as it was.

    Raises:
        ValueError: diffusers has no name for the process, the prediction, the clock or the clip; see `obstacle`.
    """
    if (reason := obstacle(convention)) is not None:
        raise ValueError(f"this convention cannot be saved in the diffusers layout: {reason}")
    betas, bound = _betas(convention.process), _bound(convention)
    assert betas is not None
    config = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(betas),
        "beta_schedule": "linear",  # not used where trained_betas is given
        "trained_betas": betas.tolist(),
        "prediction_type": PREDICTION_TYPES[convention.predicts],
        "variance_type": "learned_range" if convention.learned_variance else "fixed_small",
        "clip_sample": False,
        "timestep_spacing": convention.spacing if convention.spacing in TIMESTEP_SPACINGS else "trailing",
    }
    if bound is None:
        return config
    if isinstance(bound, DynamicThreshold):
        return config | {
            "thresholding": True,
            "dynamic_thresholding_ratio": bound.quantile,
            "sample_max_value": bound.limit,
        }
    return config | {"clip_sample": True, "clip_sample_range": bound}


def _bound(convention: Convention) -> Any:
    """The clip in the network's range: None, b for (-b, b), a DynamicThreshold, or what diffusers has no name for."""
    clip = convention.clip
    if not isinstance(clip, tuple):
        return clip
    low, high = convention.inner().clip  # type: ignore[misc]
    return high if math.isclose(low, -high, rel_tol=1e-12) else (low, high)


def from_scheduler(config: Mapping[str, Any]) -> Convention:
    """Read a diffusers scheduler configuration: how networks that it samples are called, in their own range.

    Arguments:
        config: the content of `scheduler_config.json`.
    Raises:
        KeyError: a key that is missing.
        ValueError, TypeError: a value that is not supported.
    """
    name = config.get("_class_name", "DDPMScheduler")
    if name == "FlowMatchEulerDiscreteScheduler":
        return _read_flow(config)
    if name not in VARIANCE_PRESERVING:
        raise ValueError(f"the scheduler {name} is not one of {', '.join(VARIANCE_PRESERVING)}")
    _refuse(config, "variance_type", (*VARIANCES, None))
    for flag in ("use_flow_sigmas", "use_beta_sigmas", "use_lu_lambdas"):
        _refuse(config, flag, (False, None))
    _refuse(config, "timestep_type", ("discrete",))
    process = _read_betas(config)
    predictions = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in predictions:
        raise ValueError(f"prediction_type {predicts!r} is not one of {', '.join(predictions)}")
    limit = float(config.get("clip_sample_range", 1.0))
    clip: Clip | None = None
    if config.get("thresholding"):
        clip = DynamicThreshold(config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
    elif config.get("clip_sample", VARIANCE_PRESERVING[name]):
        clip = (-limit, limit)
    _refuse(config, "timestep_spacing", TIMESTEP_SPACINGS)
    spacing = config.get("timestep_spacing")
    if config.get("use_karras_sigmas"):
        spacing = "karras"
    elif config.get("use_exponential_sigmas"):
        spacing = "log_snr"
    learned = True if config.get("variance_type") == "learned_range" else None
    return Convention(process, predictions[predicts], clip=clip, spacing=spacing, learned_variance=learned)


def _read_betas(config: Mapping[str, Any]) -> Process:
    timesteps, name = config["num_train_timesteps"], config["beta_schedule"]
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if config.get("trained_betas") is not None:
        process = from_betas([float(beta) for beta in config["trained_betas"]], falling=True)
    elif name == "linear":
        process = from_betas(torch.linspace(start, end, timesteps, dtype=torch.float64))
    elif name == "scaled_linear":
        process = from_betas(torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2)
    elif name == "squaredcos_cap_v2":
        process = cosine(timesteps)
    elif name == "sigmoid":
        process = sigmoid(timesteps, start * timesteps / 1000, end * timesteps / 1000)
    else:
        raise ValueError(f"beta_schedule {name!r} is not one of linear, scaled_linear, squaredcos_cap_v2, sigmoid")
    return rescale_zero_terminal_snr(process) if config.get("rescale_betas_zero_snr") else process


def _read_flow(config: Mapping[str, Any]) -> Convention:
    """A straight line that predicts its velocity and is told 1000 t; only its own even steps."""
    _refuse(config, "num_train_timesteps", (1000,))
    _refuse(config, "shift", (1.0,))
    for shape in ("karras", "exponential", "beta"):
        _refuse(config, f"use_{shape}_sigmas", (False, None))
    _refuse(config, "use_dynamic_shifting", (False,))
    _refuse(config, "invert_sigmas", (False,))
    return Convention(flow(), "flow", "1000t")


def _refuse(config: Mapping[str, Any], key: str, allowed: tuple[Any, ...]) -> None:
    if key in config and config[key] not in allowed:
        raise ValueError(f"{key}={config[key]!r} is not supported, only {' or '.join(map(str, allowed))}")


def _betas(process: Process) -> Tensor | None:
    """The betas of a variance-preserving process on trained levels; None for any other."""
    if process.timesteps is None:
        return None
    t = torch.arange(process.timesteps + 1, dtype=torch.float64) / process.timesteps
    alpha = process.alpha(t)
    if not torch.allclose(alpha**2 + process.sigma(t) ** 2, torch.ones_like(t)):
        return None
    return 1 - (alpha[1:] / alpha[:-1]) ** 2
