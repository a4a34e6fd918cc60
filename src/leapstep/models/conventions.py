"""Conventions in files: diffusers' `scheduler_config.json`, and `leapstep.json` beside it.

The first has words for variance-preserving processes on trained levels and three predictions; what it cannot say is
under `conventions` in the second. Here are dictionaries alone, which `leapstep.models.schema` has checked;
`leapstep.models.checkpoint` reads and writes the files.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.core.convention import CLOCKS, Clip
from leapstep.core.denoiser import dynamic_threshold
from leapstep.core.process import PREDICTIONS, Process
from leapstep.core.schedules import SCHEDULES, cosine, flow, from_betas, rescale_zero_terminal_snr, sigmoid
from leapstep.text import SYNONYMS, allowed

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


@dataclasses.dataclass(frozen=True)
class Thresholding:
    """Bound x0 as `dynamic_threshold` does; a function that can be written down."""

    quantile: float = 0.995
    limit: float = 1.0

    def __call__(self, x0: Tensor) -> Tensor:
        """Bound x0 `[b, *d]`."""
        return dynamic_threshold(self.quantile, self.limit)(x0)


class Conventions(NamedTuple):
    """The fields of a `Model` that a scheduler's configuration, or `leapstep.json`, decides."""

    process: Process
    predicts: str
    clip: Clip | None
    spacing: str | None = None
    time: str = "index"
    schedule: Mapping[str, Any] | None = None


# --- as diffusers says it ------------------------------------------------------------------------------------------


def scheduler_config(said: Conventions, learned: bool = False) -> dict[str, Any]:
    """Write conventions as the configuration of a diffusers `DDPMScheduler`.

    The betas are written out (`trained_betas`) so that every variance-preserving process, known by name or not, is read
    back as it was.

    Arguments:
        said: the conventions.
        learned: whether the network's output has a learned variance in it.
    Raises:
        ValueError: a process that is not variance preserving or not on trained levels, or a prediction or clipping that
            diffusers has no name for.
    """
    betas = _betas(said.process)
    if betas is None:
        raise ValueError("only variance-preserving processes on trained levels can be saved in the diffusers layout")
    if said.predicts not in PREDICTION_TYPES:
        raise ValueError(f"only eps, x0 and v can be saved in the diffusers layout, not {said.predicts}")
    config = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(betas),
        "beta_schedule": "linear",  # not used where trained_betas is given
        "trained_betas": betas.tolist(),
        "prediction_type": PREDICTION_TYPES[said.predicts],
        "variance_type": "learned_range" if learned else "fixed_small",
        "clip_sample": False,
        "timestep_spacing": said.spacing if said.spacing in TIMESTEP_SPACINGS else "trailing",
    }
    match said.clip:
        case None:
            return config
        case Thresholding(quantile, limit):
            return config | {
                "thresholding": True,
                "dynamic_thresholding_ratio": quantile,
                "sample_max_value": limit,
            }
        case (low, high) if low == -high:
            return config | {"clip_sample": True, "clip_sample_range": high}
    raise ValueError(f"only a symmetric range or Thresholding can be saved in the diffusers layout, not {said.clip}")


def read_scheduler(config: Mapping[str, Any]) -> Conventions:
    """Read the process, the prediction, the clipping and the spacing of a diffusers scheduler configuration.

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
        clip = Thresholding(config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
    elif config.get("clip_sample", VARIANCE_PRESERVING[name]):
        clip = (-limit, limit)
    _refuse(config, "timestep_spacing", TIMESTEP_SPACINGS)
    spacing = config.get("timestep_spacing")
    if config.get("use_karras_sigmas"):
        spacing = "karras"
    elif config.get("use_exponential_sigmas"):
        spacing = "log_snr"
    return Conventions(process, predictions[predicts], clip, spacing)


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


def _read_flow(config: Mapping[str, Any]) -> Conventions:
    """A straight line that predicts its velocity and is told 1000 t; only its own even steps."""
    _refuse(config, "num_train_timesteps", (1000,))
    _refuse(config, "shift", (1.0,))
    for shape in ("karras", "exponential", "beta"):
        _refuse(config, f"use_{shape}_sigmas", (False, None))
    _refuse(config, "use_dynamic_shifting", (False,))
    _refuse(config, "invert_sigmas", (False,))
    return Conventions(flow(), "flow", None, None, "1000t", {"name": "flow"})


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


# --- what leapstep.json says besides -------------------------------------------------------------------------------


def own_words(said: Conventions) -> dict[str, Any]:
    """What `leapstep.json` must say because `scheduler_config` cannot; with "predicts" in it, it says all.

    Raises:
        ValueError: a process or a clipping that cannot be written down.
    """
    words: dict[str, Any] = {}
    if said.time != "index":
        words["time"] = said.time
    if said.schedule is not None:
        made, t = _made(said.schedule), torch.linspace(0, 1, 101, dtype=torch.float64)
        if not all(torch.allclose(a(t), b(t)) for a, b in zip(made[:2], said.process[:2], strict=True)):
            raise ValueError(f"the schedule {dict(said.schedule)} does not make the model's process: correct either")
        words["process"] = dict(said.schedule)
    clip, betas = said.clip, _betas(said.process)
    if callable(clip) and not isinstance(clip, Thresholding):
        raise ValueError(f"only a range or Thresholding can be saved, not clip={clip}")
    symmetric = not isinstance(clip, tuple) or clip[0] == -clip[1]
    expressible = symmetric and said.predicts in PREDICTION_TYPES and betas is not None
    if not expressible:
        words["predicts"] = said.predicts
        words["clip"] = dataclasses.asdict(clip) if isinstance(clip, Thresholding) else clip
    if not expressible and "process" not in words:
        if betas is None:
            raise ValueError(
                "a process without trained levels, or one that is not variance-preserving, is saved by its name: give "
                f"the model schedule={{'name': ..., ...}}, with one of {', '.join(SCHEDULES)}"
            )
        words["process"] = {"name": "betas", "betas": betas.tolist()}
    if said.spacing is not None and (not expressible or said.spacing not in TIMESTEP_SPACINGS):
        words["spacing"] = said.spacing
    return words


def read_own_words(words: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Conventions` that `own_words` wrote down; all that must be known where "predicts" is among them.

    Raises:
        ValueError: a word that nobody knows.
    """
    said = {name: value for name, value in words.items() if name != "scaling"}
    if "process" in said:
        schedule = said["process"]
        said["process"] = _made(schedule)
        said["schedule"] = None if schedule["name"] == "betas" else schedule
    if "clip" in said:
        clip = said["clip"]
        said["clip"] = clip and (Thresholding(**clip) if isinstance(clip, dict) else tuple(clip))
    if said.get("predicts", "eps").removeprefix("-") not in PREDICTIONS:
        raise ValueError(f"predicts={said['predicts']!r} is not one of {', '.join(PREDICTIONS)}, or -flow and so on")
    if said.get("time", "index") not in CLOCKS:
        raise ValueError(f"time={said['time']!r} is not one of {', '.join(CLOCKS)}")
    return said


def _made(schedule: Mapping[str, Any]) -> Process:
    """Make a process as `{"name": ..., parameter: value}` says."""
    parameters = {**schedule}
    name = parameters.pop("name", None)
    makers: dict[str, Any] = {**SCHEDULES, "betas": from_betas}
    if name not in makers:
        raise ValueError(f"there is no process {name!r}: {allowed(name, makers)}")
    if unknown := set(parameters) - set(inspect.signature(makers[name]).parameters):
        raise ValueError(f"the process {name} has no parameter {', '.join(sorted(unknown))}")
    process: Process = makers[name](**parameters)
    return process
