"""Models of diffusers: a pipeline folder, which says all there is to know, or the weights of its UNet2DModel alone.

Weights alone need their `config.json` as `config`, and the `scheduler_config.json` in it under `scheduler`; without the
latter it is the DDPMScheduler as diffusers makes it by default. `leapstep.checkpoint` does the reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapstep import checkpoint
from leapstep.checkpoint import Model
from leapstep.foreign.reading import Import, State, fill
from leapstep.networks import layout

SCHEDULER = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def load(folder: Path, config: Mapping[str, Any]) -> Import:
    """Read a pipeline folder, which leaves nothing to say.

    Raises:
        ValueError: settings, which a folder has itself; or what `leapstep.checkpoint.load` says of the folder.
    """
    if config:
        raise ValueError(f"{folder} is a folder with a configuration of its own: change that, and give no settings")
    model = checkpoint.load(folder)
    said = f"{model.process.timesteps} levels, predicts {model.predicts}, spacing {model.spacing or 'not said'}"
    evidence = ("format: diffusers, told by its config.json", f"conventions: {said}, as its scheduler says")
    return Import(model, evidence)


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
    given = config.get("scheduler")
    try:
        network, shape = checkpoint.unet(config)
        conventions = checkpoint.read_scheduler(SCHEDULER if given is None else given)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the configuration lacks {error} or has it wrong") from error
    fill(network, layout.modern_keys(state))
    classes = tuple(str(label) for label in range(network.config.classes or 0))
    model = Model(network.eval(), shape=shape, classes=classes, **conventions._asdict())
    said = "as scheduler says" if given else "assumed: diffusers' DDPMScheduler (give its configuration as scheduler)"
    return Import(model, ("network: as config.json says", f"schedule and conventions: {said}"))
