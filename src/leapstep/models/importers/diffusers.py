"""Models of diffusers: a pipeline folder, or the weights of a UNet2DModel alone.

Weights alone need their `config.json`, which lies beside them or is given as `config`; in it under `scheduler`, is what
their `scheduler_config.json` says. What it does not say is as diffusers makes it by default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapstep.core.scaling import PIXELS
from leapstep.files.schema import checked
from leapstep.models import checkpoint
from leapstep.models.diffusers import from_scheduler
from leapstep.models.importers.reading import Import, Settings, State
from leapstep.models.model import Model
from leapstep.models.schema import Scheduler
from leapstep.networks import layout
from leapstep.networks.weights import fill

SCHEDULER: dict[str, tuple[Any, str]] = {
    "num_train_timesteps": (1000, "noise levels"),
    "beta_schedule": ("linear", "betas"),
    "beta_start": (1e-4, "first beta"),
    "beta_end": (0.02, "last beta"),
    "prediction_type": ("epsilon", "prediction"),
}
"""What must be known of a scheduler: its default in diffusers, and what it decides."""

OTHERS = (
    "_class_name",
    "trained_betas",
    "rescale_betas_zero_snr",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "timestep_spacing",
    "use_karras_sigmas",
    "use_exponential_sigmas",
)
"""What else of it is followed where it is said."""

SETTINGS = (
    *dict.fromkeys((*layout.NAMES.values(), *layout.DEFAULTS, *layout.FIXED)),
    *("sample_size", "down_block_types", "up_block_types", "scheduler"),
    *(f"scheduler.{name}" for name in (*SCHEDULER, *OTHERS)),
)
"""All that can be said of weights alone."""


def load(folder: Path, config: Mapping[str, Any]) -> Import:
    """Read a pipeline folder, which leaves nothing to say.

    Raises:
        ValueError: settings, which a folder has itself; or what `leapstep.models.checkpoint.load` says of the folder.
    """
    if config:
        raise ValueError(f"{folder} is a folder with a configuration of its own: change that, and give no settings")
    model = checkpoint.load(folder)
    said = f"{model.process.timesteps} levels, predicts {model.predicts}, spacing {model.spacing or 'not said'}"
    evidence = ("format: diffusers, told by its config.json", f"conventions: {said}, as its scheduler says")
    return Import(model, evidence)


def alone(folder: Path) -> Path | None:
    """The weights of a network that was saved without its pipeline, beside their `config.json`; None for others."""
    if checkpoint.is_model(folder) or not (folder / "config.json").is_file():
        return None
    names = (checkpoint.WEIGHTS, checkpoint.PICKLED)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def matches(state: State) -> bool:
    """Whether these are the keys of a UNet2DModel, today's or older ones."""
    keys = {"conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.norm1.weight"}
    return keys <= set(state) and not any(".transformer_blocks." in key for key in state)


def read(state: State, config: Mapping[str, Any]) -> Import:
    """Make the model from weights and the content of their `config.json`, which may have `scheduler` in it.

    Raises:
        ValueError: no such configuration, or one that is not supported or does not fit the weights.
    """
    if "block_out_channels" not in config:
        raise ValueError(
            "weights of diffusers need their config.json: name the folder instead, or --config config.json"
        )
    scheduler = config.get("scheduler") or {}
    if not isinstance(scheduler, Mapping):
        raise ValueError(
            f"scheduler is {scheduler}: give the content of scheduler_config.json, or one setting of it, as "
            "--set scheduler.prediction_type=v_prediction"
        )
    settings = Settings({"scheduler": scheduler})
    if scheduler.get("_class_name") != "FlowMatchEulerDiscreteScheduler":  # which has no betas
        needed = {name: settings.take(f"scheduler.{name}", *default) for name, default in SCHEDULER.items()}
        scheduler = {**scheduler, **needed}
    try:
        network, shape = checkpoint.unet(config)
        checked(Scheduler, scheduler)
        convention = dataclasses.replace(from_scheduler(scheduler), shape=shape).scaled(PIXELS)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the configuration: {error}") from error
    network = fill(network, layout.modern_keys(state))
    conditions = checkpoint.labels(network.config.classes)
    model = Model(network.eval(), dataclasses.replace(convention, conditions=conditions))
    if others := [f"scheduler.{name}" for name in OTHERS if scheduler.get(name) is not None]:
        settings.say(f"followed as well: {', '.join(others)}")
    return Import(model, ("network: as config.json says", *settings.evidence))
