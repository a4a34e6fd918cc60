"""Starting from existing weights: what they determine, and which options contradict them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.core.scaling import PIXELS
from leapstep.core.schedules import SCHEDULES, rescale_zero_terminal_snr
from leapstep.data.dataset import Data
from leapstep.models import checkpoint
from leapstep.models import data as models_data
from leapstep.models.model import Model
from leapstep.networks import MLP, UNet
from leapstep.training.configuration import PRESETS, TrainingConfig, configure

OF_THE_NETWORK = (
    *("network", "patch", "channels", "attention", "blocks", "head_channels", "groups", "width", "depth", "dropout"),
    *("time_embedding", "schedule", "timesteps", "zero_terminal_snr", "predicts", "labels"),
)
"""Settings that say how a network is built and called: they come with the weights."""

UNUSUAL = ("reverse", "reshape", "sigma_data")
"""Fields of a convention in which training knows nothing but the default."""


class Start(NamedTuple):
    """The model whose weights a run begins with, and what the run records of it."""

    model: Model
    record: dict[str, Any]

    @property
    def source(self) -> str:
        """Where they come from."""
        return str(self.record["source"])


def weights(run: Path, resumed: Mapping[str, Any] | None, source: str | None) -> Start | None:
    """The model that a run begins with; for a resumed run, its own network and its record of where it began."""
    if resumed is not None:
        if source is not None:
            raise ValueError("--resume goes on with the run's own weights: leave --init-from out")
        record = resumed.get("init_from")
        return None if record is None else Start(checkpoint.load(run), record)
    if source is None:
        return None
    if run.is_dir() and Path(source).is_dir() and run.samefile(source):
        raise ValueError(f"{run} is where the weights come from: name another folder for the new run")
    model = load(source)
    step, sha256 = model.details.get("step"), checkpoint.fingerprint(model.network)
    return Start(model, {"source": source, "step": step, "weights_sha256": sha256})


def load(source: str) -> Model:
    """Load a model to train on.

    Arguments:
        source: a run folder, an imported one, a diffusers pipeline folder, or such a folder's name on the Hub.
    Raises:
        ValueError: there is none, or it is of a kind that can be sampled but not trained.
    """
    model = checkpoint.load(source)
    reason = ""
    if model.process.timesteps is None or model.time != "index":
        reason = f"its network counts time as {model.time!r}, not in trained levels from 0"
    elif model.predicts not in typing.get_args(TrainingConfig.model_fields["predicts"].annotation):
        reason = f"its network predicts {model.predicts}, not eps, x0 or v"
    elif model.is_pictures and model.scaling != PIXELS:
        reason = "its pictures lie in [0, 1], not in [-1, 1]"
    if unusual := [name for name in UNUSUAL if getattr(model.convention, name) != getattr(Convention, name)]:
        reason = reason or f"its convention has {unusual[0]}={getattr(model.convention, unusual[0])!r}"
    if reason:
        raise ValueError(f"{source} cannot be trained on: {reason}")
    return model


def settings(model: Model) -> dict[str, Any]:
    """The settings that come with a model: all that `TrainingConfig` has words for."""
    config: Any = model.network.config
    known: dict[str, Any] = {"predicts": model.predicts, "timesteps": model.process.timesteps}
    known["labels"] = bool(model.classes)
    if model.classes and model.null_label is None:
        known["label_dropout"] = 0.0
    if isinstance(model.network, UNet | MLP):
        known["network"] = "mlp" if isinstance(model.network, MLP) else "unet"
        known |= {name: getattr(config, name) for name in OF_THE_NETWORK if hasattr(config, name)}
    if model.is_pictures:
        channels, height, width = model.shape
        known |= {"grey": channels == 1} | ({"size": height} if height == width else {})
    return known | _schedule(model.process)


def _schedule(process: Process) -> dict[str, Any]:
    """Which schedule a process with trained levels follows, as settings; nothing for one of another kind."""
    assert process.timesteps is not None
    t = torch.arange(1, process.timesteps + 1, dtype=torch.float64) / process.timesteps
    for name in typing.get_args(TrainingConfig.model_fields["schedule"].annotation):
        plain = SCHEDULES[name](process.timesteps)
        for rescaled in (False, True):
            made = rescale_zero_terminal_snr(plain) if rescaled else plain
            if torch.allclose(made.alpha(t), process.alpha(t)) and torch.allclose(made.sigma(t), process.sigma(t)):
                return {"schedule": name, "zero_terminal_snr": rescaled}
    return {}


def configured(
    model: Model,
    overrides: Mapping[str, Any],
    preset: str | None,
    file: str | Path | None,
    base: Mapping[str, Any],
) -> TrainingConfig:
    """Put together the configuration of a run that begins with a model; see `configuration.configure`.

    How the network is built and called comes with the model. All other settings are those of the run that trained it,
    if it was trained here; the preset and the base fill in the rest. Where that run was logged counts for nothing: what
    leaves the machine is asked for anew.
    """
    configure({}, preset)  # whether there is such a preset
    recorded = model.details.get("training") or base
    earlier = {**recorded, **PRESETS.get(preset or "", {})}
    rest = set(TrainingConfig.model_fields) - {*OF_THE_NETWORK, "size", "grey", "minutes", "log", "project"}
    kept = {name: value for name, value in earlier.items() if name in rest}
    return configure(overrides, None, file, {**kept, **settings(model)})


def fitted(config: TrainingConfig, start: Start) -> TrainingConfig:
    """A configuration with the settings that come with a model.

    Raises:
        ValueError: a setting contradicts the model.
    """
    known = settings(start.model)
    fixed = {name: value for name, value in known.items() if name not in ("size", "grey")}
    for name in [name for name in (*OF_THE_NETWORK, "label_dropout") if name in config.model_fields_set]:
        value = getattr(config, name)
        if (name in fixed and value != fixed[name]) or (name in OF_THE_NETWORK and name not in fixed):
            has = f"{name}={fixed[name]}" if name in fixed else f"no {name}"
            raise ValueError(
                f"{start.source} has {has}, not {value}, and its weights cannot do otherwise: leave {name} out"
            )
    return config.model_copy(update=fixed)


def fitting(data: Data, start: Start) -> Data:
    """Data in a model's scaling, with its numbers of the classes.

    Raises:
        ValueError: samples or classes that the model's network does not take.
    """
    model = start.model
    if model.classes and data.labels is None:
        raise ValueError(
            f"{start.source} was trained on labels, and {data.source} has none: put its pictures in sub-folders"
        )
    if isinstance(model.network, UNet) and len(data.shape) == 3 and data.shape[0] == model.shape[0]:
        model = model.with_convention(shape=data.shape)  # a U-Net takes pictures of any size
    try:
        data, labels = models_data.fitted(model, data)
    except ValueError as error:
        raise ValueError(f"{error}: bring the data to {start.source}, or train without --init-from") from error
    return data if labels is None else dataclasses.replace(data, labels=labels.numpy(), classes=model.classes)
