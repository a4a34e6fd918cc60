"""Run folders: reading and writing models and training states.

    model_index.json                                a diffusers pipeline folder: DDPMPipeline.from_pretrained opens it
    unet/config.json
    unet/diffusion_pytorch_model.safetensors        the EMA weights
    scheduler/scheduler_config.json                 the convention, as far as diffusers can hold it
    leapstep.json                                   the convention of the network; data, training, step
    calibration.json                                how far x0 spreads around its estimate, from `leapstep calibrate`
    moments.safetensors                             mean and covariance of the data, for samples that begin below t = 1
    tuned.json                                      solvers that were fitted to the weights, from `leapstep tune`
    tuned.safetensors                               the mean and covariance of data, from which they start
    state/step-00010000.safetensors                 everything that an exact resume needs

A network that diffusers does not know lies in a folder of another name (one of `NETWORKS`), or in `unet/` under our own
class name, and there is no `model_index.json`. Every file is replaced in one atomic step (`leapstep.files`), a
training state is one file, and only safetensors and JSON are written: a run that is cut at any byte still has its last
good checkpoint, and no file can execute anything.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from leapstep import files
from leapstep.core.convention import Condition, Convention
from leapstep.core.scaling import PIXELS
from leapstep.files import folders, reading
from leapstep.models import diffusers
from leapstep.models.beside import encoded, naming, read_calibration, read_json, read_moments, read_tuned
from leapstep.models.beside import fingerprint as fingerprint
from leapstep.models.beside import save_calibration as save_calibration
from leapstep.models.beside import save_moments as save_moments
from leapstep.models.beside import save_tuned as save_tuned
from leapstep.models.folder import CALIBRATION as CALIBRATION
from leapstep.models.folder import IMPORTED as IMPORTED
from leapstep.models.folder import MOMENTS as MOMENTS
from leapstep.models.folder import PICKLED as PICKLED
from leapstep.models.folder import RUN as RUN
from leapstep.models.folder import TUNED as TUNED
from leapstep.models.folder import WEIGHTS as WEIGHTS
from leapstep.models.folder import is_model as is_model
from leapstep.models.folder import kind_of, located
from leapstep.models.model import Model
from leapstep.networks import CONFIGURATIONS, NETWORKS, UNet, layout, weights
from leapstep.networks.weights import sketch

# --- models --------------------------------------------------------------------------------------------------------


def save(model: Model, folder: str | Path) -> None:
    """Write a model into its run folder, replacing an older one file by file.

    Arguments:
        model: one of the networks of this library, with its convention.
        folder: it is made where it is missing; `load` reads it, and so does diffusers where it has words for the model.
    Raises:
        ValueError: a network that is none of `NETWORKS`, or a process or clipping that cannot be written down.
        OSError: the disk is full, or the folder is not writable; each file is then old or new, never a part.
    """
    if not isinstance(model, Model):
        raise ValueError(f"model is a {type(model).__name__}: pass a leapstep.Model, and then the folder")
    kind = next((name for name, network in NETWORKS.items() if type(model.network) is network), None)
    if kind is None:
        names = ", ".join(network.__name__ for network in NETWORKS.values())
        raise ValueError(f"only {names} can be saved in a run folder, not a {type(model.network).__name__}")
    config, convention = _network_config(model), model.convention
    details = {**model.details, "convention": convention.to_json()}
    scheduler = None if diffusers.obstacle(convention) else diffusers.to_scheduler(convention)
    run = Path(folder)
    run.mkdir(parents=True, exist_ok=True)
    network = folders.inner(run, kind)
    files.write_bytes(network / WEIGHTS, encoded(model.network.state_dict(), {"format": "pt"}))
    files.write_json(network / "config.json", config)
    files.write_json(run / "leapstep.json", details)
    if scheduler is not None:
        files.write_json(folders.inner(run, "scheduler") / "scheduler_config.json", scheduler)
    ours_only = config["_class_name"] != "UNet2DModel" or model.scaling != PIXELS
    if scheduler is None or ours_only:
        (run / "model_index.json").unlink(missing_ok=True)
    else:
        index = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
        files.write_json(run / "model_index.json", {"_class_name": "DDPMPipeline", **index})


def _network_config(model: Model) -> dict[str, Any]:
    """A network's `config.json`: diffusers' where it has words for it, else our own fields."""
    chosen: Any = model.network.config
    fields = dataclasses.asdict(chosen)
    if isinstance(model.network, UNet) and layout.obstacle(fields) is None:
        _, height, width = model.shape
        return layout.to_diffusers(fields, height if height == width else (height, width))
    return {"_class_name": type(model.network).__name__, "_sample_shape": list(model.shape), **fields}


def load(source: str | Path, device: torch.device | str = "cpu") -> Model:
    """Load a model: a run folder, a diffusers pipeline folder with a UNet2DModel, or such a folder's name on the Hub.

    Arguments:
        source: a folder, or `owner/name`.
        device: where the network goes; it is in evaluation mode.
    Returns:
        the Model, in evaluation mode.
    Raises:
        ValueError: one line that names the file that is missing, broken or not supported, or the weights that are not
            finite.
    """
    from leapstep.models.schema import Pipeline, Run

    folder = located(str(source))
    details: dict[str, Any] = {}
    if (folder / "leapstep.json").exists():
        with read_json(folder / "leapstep.json", Run) as said:
            details = {name: value for name, value in said.items() if value is not None}
    if (folder / "model_index.json").exists():
        with read_json(folder / "model_index.json", Pipeline):
            pass  # what is wrong with it shows
    kind = kind_of(folder)
    assert kind is not None  # located has looked
    with read_json(folder / kind / "config.json") as config:
        network, shape = _network(kind, config)
    convention = _convention(folder, details, network, shape)  # before the weights, which take longer
    network = _filled(network, folder / kind)
    model = Model(
        network=network.to(device).eval(),
        convention=convention,
        details={name: value for name, value in details.items() if name != "convention"},
        calibration=read_calibration(folder / CALIBRATION, network),
        moments=read_moments(folder / MOMENTS, network, convention.shape, len(convention.classes)),
    )
    return dataclasses.replace(model, tuned=read_tuned(folder / TUNED, model))


def labels(classes: int | None) -> tuple[Condition, ...]:
    """The condition of a network that knows so many classes, by their numbers; none for a network without."""
    return (Condition("class_labels", tuple(map(str, range(classes)))),) if classes else ()


def _convention(folder: Path, details: Mapping[str, Any], network: Any, shape: tuple[int, ...]) -> Convention:
    """How the network of a folder is called, as `leapstep.json` says it, or else the scheduler.

    Raises:
        ValueError: neither does, or what is said does not fit the network.
    """
    from leapstep.models.schema import Scheduler

    path, scheduler_path = folder / "leapstep.json", folder / "scheduler" / "scheduler_config.json"
    known = getattr(network.config, "classes", None)
    scheduler: Convention | None = None
    if "convention" not in details or scheduler_path.exists():
        with read_json(scheduler_path, Scheduler) as config:
            scheduler = diffusers.from_scheduler(config)
    if "convention" in details:
        with naming(path):
            convention = Convention.from_json(details["convention"])
        convention = dataclasses.replace(convention, shape=convention.shape or shape)
        if len(convention.shape or ()) != len(shape) or convention.shape[:1] != shape[:1]:  # type: ignore[index]
            raise ValueError(f"{path} says samples of shape {convention.shape}, but the network takes {shape}")
        if scheduler is not None and (name := diffusers.difference(convention, scheduler)):
            raise ValueError(f"{path} and {scheduler_path} disagree on {name}: correct either, or remove the latter")
    else:
        assert scheduler is not None
        convention = dataclasses.replace(scheduler, shape=shape).scaled(PIXELS)
        convention = dataclasses.replace(convention, conditions=labels(known))
    for condition in convention.conditions:
        null = condition.null if isinstance(condition.null, int) else -1
        if condition.classes and not max(len(condition.classes), null + 1) <= (known or 0):
            raise ValueError(
                f"{path} has {len(condition.classes)} classes and null {condition.null}, but the network knows "
                f"{known or 'no'} labels: correct its convention.conditions"
            )
    return convention


def _network(kind: str, config: Mapping[str, Any]) -> tuple[Any, tuple[int, ...]]:
    """Sketch the network that a `config.json` describes, and say what shape its samples have."""
    from leapstep.models.schema import network_fields, sample_shape

    if kind == "unet" and config.get("_class_name") != UNet.__name__:
        return unet(config)
    network_type = NETWORKS[kind]
    fields = {name: value for name, value in config.items() if not name.startswith("_")}
    network: Any = sketch(network_type, network_fields(CONFIGURATIONS[kind], fields))
    shape = config.get("_sample_shape", getattr(network.config, "shape", None))
    return network, sample_shape(shape, "_sample_shape")


def unet(config: Mapping[str, Any]) -> tuple[UNet, tuple[int, ...]]:
    """Sketch the network that a diffusers `config.json` describes, and say what shape its samples have.

    Raises:
        ValueError: a key that is missing, wrong or not supported.
    """
    from leapstep.files.schema import checked
    from leapstep.models.schema import UNet2DModel

    checked(UNet2DModel, config)
    network, size = sketch(UNet, layout.from_diffusers(config)), config.get("sample_size")
    if size is None:
        raise ValueError("sample_size is None: it must be the height and width of the pictures")
    return network, (network.config.in_channels, *((size, size) if isinstance(size, int) else size))


def _filled(network: Any, folder: Path) -> Any:
    """The network of a sketch, with the weights in its folder: safetensors, or a pickle that holds tensors only."""
    path = next((folder / name for name in (WEIGHTS, PICKLED) if (folder / name).exists()), None)
    if path is None:
        raise ValueError(f"{folder} has no weights: expected {WEIGHTS}")
    state = layout.modern_keys(weights.read(path))
    try:
        return weights.fill(network, state)
    except weights.Misfit as error:
        raise ValueError(f"{path} does not fit its config.json: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


# --- training states -----------------------------------------------------------------------------------------------


def save_state(run: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write the training state after a step, whole or not at all; then remove the states of earlier steps.

    Arguments:
        tensors: by name, on any device.
        values: what is not a tensor, as JSON.
    Raises:
        OSError: the disk is full; the last good state is still there.
    """
    folder = folders.inner(run, "state")
    folders.tidy(folder)  # of what a crash in the middle of a write has left, which may be as large
    newest = folder / f"step-{step:08d}.safetensors"
    files.write_bytes(newest, encoded(tensors, {"values": json.dumps({**values, "step": step})}))
    for old in folder.glob("step-*.safetensors"):
        if old != newest:
            old.unlink()


def find_state(run: Path) -> tuple[Path, dict[str, Any]]:
    """Find the newest training state that is whole: its file, and its values with "step" among them.

    Raises:
        ValueError: there is none.
    """
    from leapstep.files.schema import checked
    from leapstep.models.schema import State

    if not run.is_dir():
        raise ValueError(f"there is no run folder {run} to resume")
    broken = ""
    for path in sorted((run / "state").glob("step-*.safetensors"), reverse=True):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                values = reading.parse_json(file.metadata()["values"], path.name)
                checked(State, values)
                return path, values
        except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            broken = f" ({path.name}: {error})"
    raise ValueError(f"{run} has no training state to resume from{broken}: train from the start with --overwrite")
