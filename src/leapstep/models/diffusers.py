"""The configuration of a diffusers scheduler as a `Convention`, and back.

Read are variance-preserving processes on trained levels, straight lines (flow matching) and EDM's networks; written is
what a `DDPMScheduler` can hold, the first of these with three predictions, a bound and a spacing. Here are dictionaries
alone, which `leapstep.models.schema` has checked; `leapstep.models.checkpoint` reads and writes the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leapstep.core.convention import Clip, Convention, DynamicThreshold
from leapstep.core.process import Process
from leapstep.core.schedules import (
    cosine,
    flow,
    from_alphas_cumprod,
    from_betas,
    karras,
    rescale_zero_terminal_snr,
    sigmoid,
)
from leapstep.text import SYNONYMS

PREDICTION_TYPES = {ours: theirs for theirs, ours in SYNONYMS.items() if ours in ("eps", "x0", "v")}
"""What a network predicts: our name, diffusers' name."""

VARIANCE_PRESERVING = {  # by class name: whether x0 is clipped where the file does not say
    "DDPMScheduler": True,
    "DDPMParallelScheduler": True,
    "DDIMScheduler": True,
    "DDIMParallelScheduler": True,
    "DDIMInverseScheduler": True,
    "CogVideoXDDIMScheduler": False,
    "CogVideoXDPMScheduler": False,
    "PNDMScheduler": False,
    "DPMSolverMultistepScheduler": False,
    "DPMSolverMultistepInverseScheduler": False,
    "DPMSolverSinglestepScheduler": False,
    "DPMSolverSDEScheduler": False,
    "DEISMultistepScheduler": False,
    "UniPCMultistepScheduler": False,
    "SASolverScheduler": False,
    "EulerDiscreteScheduler": False,
    "EulerAncestralDiscreteScheduler": False,
    "HeunDiscreteScheduler": False,
    "KDPM2DiscreteScheduler": False,
    "KDPM2AncestralDiscreteScheduler": False,
    "LMSDiscreteScheduler": False,
    "LCMScheduler": False,
    "TCDScheduler": False,
}
"""Schedulers of diffusers that sample networks of the same kind: betas on trained levels, timesteps from 0."""

FLOWS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
)
"""Those of straight lines from data to noise, whose networks predict the velocity and are told 1000 sigma."""

EDM = {  # by class name: what is predicted and the range of sigma, where the file does not say
    "EDMEulerScheduler": ("epsilon", 0.002, 80.0, 0.5),
    "EDMDPMSolverMultistepScheduler": ("epsilon", 0.002, 80.0, 0.5),
    "CosineDPMSolverMultistepScheduler": ("v_prediction", 0.3, 500.0, 1.0),
}
"""Those of networks that see x_t / sqrt(sigma_data^2 + sigma^2) and are told of sigma itself."""

ORIGIN = "original_class_name"
"""The key under which a scheduler of `leapstep.diffusers` keeps the class that its configuration was written for."""

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range")
"""What a scheduler may say of the variance: ours is the sampler's choice; `learned_range` is the network's answer."""

ANY = 1e6
"""What stands for no bound in `sample_max_value`, which diffusers has even if nothing is said."""

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
    bound = _bound(convention)
    if isinstance(bound, DynamicThreshold) and bound.limit != 1:
        return f"a DynamicThreshold must bring x0 back to 1, not to {bound.limit:g}"
    if not isinstance(bound, int | float | DynamicThreshold | None):
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
            "sample_max_value": bound.most or ANY,
        }
    return config | {"clip_sample": True, "clip_sample_range": bound}


def _bound(convention: Convention) -> Any:
    """The clip in the network's range: None, b for (-b, b), a DynamicThreshold, or what diffusers has no name for."""
    clip = convention.clip
    if not isinstance(clip, tuple):
        return clip
    low, high = convention.inner().clip  # type: ignore[misc]
    return high if math.isclose(low, -high, rel_tol=1e-12) else (low, high)


def class_of(config: Mapping[str, Any]) -> str:
    """The scheduler that a configuration was written for; where it has no name, the one that has its keys."""
    name = config.get(ORIGIN, config.get("_class_name"))
    if isinstance(name, str):
        return name
    if "sigma_data" in config and "prediction_type" not in config:
        return "CMStochasticIterativeScheduler"
    if "sigma_data" in config:
        cosine = "solver_order" in config and "thresholding" not in config
        return "CosineDPMSolverMultistepScheduler" if cosine else "EDMEulerScheduler"
    if "beta_schedule" in config or "shift" not in config:
        return "DDPMScheduler" if "clip_sample" in config else "EulerDiscreteScheduler"  # which never clips
    return "FlowMatchEulerDiscreteScheduler"


def from_scheduler(config: Mapping[str, Any], mu: float | None = None) -> Convention:
    """Read a diffusers scheduler configuration: how networks that it samples are called, in their own range.

    Arguments:
        config: the content of `scheduler_config.json`.
        mu: how far time is shifted, where the configuration has `use_dynamic_shifting` and leaves that to the size of
            the image; None: as it says itself.
    Raises:
        KeyError: a key that is missing.
        ValueError, TypeError: a value that is not supported.
    """
    name = class_of(config)
    if name in FLOWS or config.get("use_flow_sigmas"):
        return _read_flow(config, mu)
    if name in EDM:
        return _read_edm(config, name)
    if name not in VARIANCE_PRESERVING:
        raise ValueError(f"the scheduler {name} is not one of {', '.join((*VARIANCE_PRESERVING, *FLOWS, *EDM))}")
    _refuse(config, "variance_type", (*VARIANCES, None))
    process = _read_betas(config)
    predictions = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in predictions:
        raise ValueError(f"prediction_type {predicts!r} is not one of {', '.join(predictions)}")
    spacing = _spacing(config)
    if config.get("timestep_type") == "continuous" and predicts == "v_prediction":
        return _read_continuous(config, process, spacing)
    learned = True if config.get("variance_type") == "learned_range" else None
    clip = _read_clip(config, VARIANCE_PRESERVING[name])
    return Convention(process, predictions[predicts], clip=clip, spacing=spacing, learned_variance=learned)


def _read_clip(config: Mapping[str, Any], clips: bool) -> Clip | None:
    if config.get("thresholding"):
        most = config.get("sample_max_value", 1.0)
        return DynamicThreshold(config.get("dynamic_thresholding_ratio", 0.995), 1.0, None if most >= ANY else most)
    limit = float(config.get("clip_sample_range", 1.0))
    return (-limit, limit) if config.get("clip_sample", clips) else None


def _spacing(config: Mapping[str, Any]) -> str | None:
    """Our name for how the steps are spaced; None where it is not said, or we have none."""
    _refuse(config, "timestep_spacing", (*TIMESTEP_SPACINGS, None))
    if config.get("use_karras_sigmas"):
        return "karras"
    if config.get("use_exponential_sigmas") or config.get("use_lu_lambdas"):
        return "log_snr"
    return None if config.get("use_beta_sigmas") else config.get("timestep_spacing")


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
    default = 3.0 if class_of(config).startswith("CogVideoX") else 1.0
    if (snr_shift := config.get("snr_shift_scale", default)) != 1:
        levels = torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps
        kept = process.alpha(levels) ** 2
        process = from_alphas_cumprod(kept / (snr_shift + (1 - snr_shift) * kept))
    return rescale_zero_terminal_snr(process) if config.get("rescale_betas_zero_snr") else process


def _read_flow(config: Mapping[str, Any], mu: float | None) -> Convention:
    """A straight line, its time shifted, whose network predicts the velocity and is told 1000 sigma."""
    _refuse(config, "num_train_timesteps", (1000,))
    _refuse(config, "prediction_type", ("flow_prediction", None))
    if not config.get("use_flow_sigmas") and (config.get("sigma_max") or 1.0) > 1:
        raise ValueError(
            f"sigma_max={config['sigma_max']!r} is not supported with flow matching, whose sigma is at most 1: "
            "Cosmos's pipelines make x_t / alpha of it themselves"
        )
    shift = config.get("flow_shift" if config.get("use_flow_sigmas") else "shift") or 1.0
    if config.get("use_dynamic_shifting"):
        kind = config.get("time_shift_type", "exponential")
        if kind not in ("exponential", "linear"):
            raise ValueError(f"time_shift_type={kind!r} is not supported, only exponential or linear")
        shift = 1.0 if mu is None else math.exp(mu) if kind == "exponential" else mu
    inverted = bool(config.get("invert_sigmas"))
    clip = _read_clip(config, False) if config.get("thresholding") else None
    spacing = _spacing({name: value for name, value in config.items() if name != "timestep_spacing"})
    predicts, clock = "-flow" if inverted else "flow", "1000t" if shift == 1 else "1000sigma"
    return Convention(flow(shift=shift), predicts, clock, reverse=inverted, clip=clip, spacing=spacing)


def _read_edm(config: Mapping[str, Any], name: str) -> Convention:
    """Variance exploding, with a network that sees x_t at variance 1 and predicts EDM's F or its negative."""
    predicts, low, high, sigma_data = EDM[name]
    predicts = config.get("prediction_type", predicts)
    kinds = {"epsilon": "F", "v_prediction": "-F"}
    if predicts not in kinds:
        raise ValueError(f"prediction_type {predicts!r} is not one of {', '.join(kinds)}")
    cosine_clock = name == "CosineDPMSolverMultistepScheduler"
    exponential = config.get("sigma_schedule", "exponential" if cosine_clock else "karras") == "exponential"
    return Convention(
        karras(
            sigma_min=config.get("sigma_min", low), sigma_max=config.get("sigma_max", high), rho=config.get("rho", 7.0)
        ),
        kinds[predicts],
        "angle" if cosine_clock else "log_sigma/4",
        sigma_data=config.get("sigma_data", sigma_data),
        clip=_read_clip(config, False) if config.get("thresholding") else None,
        spacing="log_snr" if exponential else "linspace",  # in sigma^(1 / rho), which is linear in t
    )


def _read_continuous(config: Mapping[str, Any], process: Process, spacing: str | None) -> Convention:
    """What `EulerDiscreteScheduler` makes of continuous timesteps and v: EDM's network for data of variance 1."""
    levels = torch.tensor([1 / (process.timesteps or 1), 1.0], dtype=torch.float64)
    low, high = torch.exp(-process.log_snr(levels) / 2).tolist()
    low, high = (config.get(name) or end for name, end in (("sigma_min", low), ("sigma_max", high)))
    return Convention(
        karras(sigma_min=low, sigma_max=high), "-F", "log_sigma/4", sigma_data=1.0, spacing=spacing or "karras"
    )


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
