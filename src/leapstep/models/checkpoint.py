"""Run folders: reading and writing models and training states.

    model_index.json                                a diffusers pipeline folder: DDPMPipeline.from_pretrained opens it
    unet/config.json
    unet/diffusion_pytorch_model.safetensors        the EMA weights
    scheduler/scheduler_config.json                 the process, and what the network predicts
    leapstep.json                                   what diffusers has no place for: data, classes, training, step
    calibration.json                                how far x0 spreads around its estimate, from `leapstep calibrate`
    state/step-00010000.safetensors                 everything that an exact resume needs

A network that diffusers does not know lies in a folder of another name (one of `NETWORKS`), or in `unet/` under our own
class name, and there is no `model_index.json`; conventions that a scheduler has no words for (another process, another
clock) are in `leapstep.json`. Every file is replaced in one
atomic step (`leapstep.files`), a training state is one file, and only safetensors and JSON are written: a run that is
cut at any byte still has its last good checkpoint, and no file can execute anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from leapstep import files
from leapstep.core.calibration import Calibration
from leapstep.core.convention import Clip
from leapstep.core.denoiser import Diffusion, clipped, from_network, guided
from leapstep.core.process import Curve, Process
from leapstep.core.scaling import PIXELS, Scaling
from leapstep.files import folders, reading
from leapstep.models import pipelines
from leapstep.models.conventions import Conventions, own_words, read_own_words, read_scheduler, scheduler_config
from leapstep.networks import CONFIGURATIONS, NETWORKS, UNet, layout, weights
from leapstep.networks.weights import sketch
from leapstep.text import one_line, reason

UNIT_PIXELS = Scaling(0.0, 255.0)
"""Pictures in [0, 1]."""

CALIBRATION = "calibration.json"

MODEL = "|".join(map(re.escape, (*NETWORKS, "scheduler", "model_index.json", "leapstep.json", CALIBRATION)))
"""A regular expression for the names of all that belongs to a model in its folder."""

IMPORTED = folders.Kind("leapstep.json", "imported", MODEL)
RUN = folders.Kind("leapstep.json", None, rf"{MODEL}|state|samples|log", resumable=True)
"""Folders of a model that was imported, and of any."""

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED = "diffusion_pytorch_model.bin"


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network with everything that one must know to use it.

    Attributes:
        network: called as `network(x, timestep, class_labels)`, timesteps counted from 0.
        process: the process it was trained on.
        predicts: "eps", "x0" or "v".
        shape: `d`, the shape of one sample.
        scaling: how model space relates to pixels or values.
        clip: the range that data cannot leave in model space, or None.
        classes: names of the classes; empty for a network without labels.
        null_label: the label that stands for "no label", where the network was trained with one.
        details: the content of `leapstep.json`, without conventions; empty for a folder that others wrote.
        calibration: what `leapstep calibrate` measured of these weights, or None.
        time: how the network counts time, one of `leapstep.core.denoiser.CLOCKS`.
        spacing: the steps that the checkpoint says it is to be sampled at, one of `SPACINGS`; None: it does not say.
        schedule: how `process` is made, `{"name": one of SCHEDULES, parameter: value}`; saving needs it for a process
            that is not variance preserving on trained levels.
    """

    network: nn.Module
    process: Process
    predicts: str
    shape: tuple[int, ...]
    scaling: Scaling = PIXELS
    clip: Clip | None = (-1.0, 1.0)
    classes: tuple[str, ...] = ()
    null_label: int | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calibration: Calibration | None = dataclasses.field(default=None, repr=False)
    time: str = "index"
    spacing: str | None = None
    schedule: Mapping[str, Any] | None = None

    @property
    def spread(self) -> Curve | None:
        """E tr Cov[x0 | x_t] / d as a curve in t, for the optimal variance; None for a model without calibration."""
        return None if self.calibration is None else self.calibration.spread(self.process)

    @property
    def is_pictures(self) -> bool:
        """Whether samples are pictures with pixels from 0 to 255."""
        return self.scaling in (PIXELS, UNIT_PIXELS)

    def diffusion(
        self,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        dtype: torch.dtype | None = None,
        rescale: float = 0.0,
    ) -> Diffusion:
        """Adapt the network for sampling.

        Arguments:
            labels: the class of each sample in the batch, `[b]`; None for samples of any class.
            guidance: scale of classifier-free guidance: 1 follows the labels, more exaggerates them.
            dtype: what the network computes in.
            rescale: share of the contrast that guidance adds and that is taken back; see `guided`.
        Raises:
            ValueError: labels for a network without, or none for a network that needs them; guidance without labels, or
                of a network that was trained without dropping labels.
        """
        self._check(labels, guidance)
        free = None if self.null_label is None else torch.tensor(self.null_label)
        wanted = (labels, free) if guidance != 1 else (free if labels is None else labels,)

        def call(x: Tensor, timestep: Tensor) -> Any:
            told = [_for_each(label, len(x) // len(wanted)) for label in wanted if label is not None]
            if not told:
                return self.network(x, timestep)
            return self.network(x, timestep, class_labels=torch.cat(told).to(x.device))

        fractional = getattr(getattr(self.network, "config", None), "time_embedding", None) == "sinusoidal"
        diffusion = from_network(call, self.process, self.predicts, self.time, fractional=fractional, dtype=dtype)
        if guidance != 1:
            diffusion = guided(diffusion, guidance, rescale)
        return diffusion if self.clip is None else clipped(diffusion, self.clip)

    def _check(self, labels: Tensor | None, guidance: float) -> None:
        last = len(self.classes) - 1
        if not math.isfinite(guidance):
            raise ValueError(f"guidance={guidance} must be a finite number")
        if guidance != 1 and labels is None:
            raise ValueError(f"guidance={guidance} needs a label to guide towards: pass one")
        if labels is None and self.classes and self.null_label is None:
            raise ValueError(f"this network samples one class at a time: pass a label from 0 to {last}")
        if labels is not None and not self.classes:
            raise ValueError("this network was trained without labels: it cannot be asked for one")
        if labels is not None and (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool):
            raise ValueError(f"labels are {str(labels.dtype).removeprefix('torch.')}: pass integers from 0 to {last}")
        if labels is not None and ((labels < 0) | (labels > last)).any():
            raise ValueError(f"labels must lie between 0 and {last} ({', '.join(self.classes)})")
        if guidance != 1 and self.null_label is None:
            raise ValueError("guidance needs a network that was trained with some labels dropped (label_dropout)")


def _for_each(labels: Tensor, count: int) -> Tensor:
    """One label for each of so many samples `[count]`, from as many, or from one for all."""
    if labels.ndim > 1 or labels.numel() not in (1, count):
        raise ValueError(f"labels of shape {list(labels.shape)} for {count} samples: pass one for all, or one for each")
    return labels.reshape(-1).expand(count)


# --- models --------------------------------------------------------------------------------------------------------


def save(run: Path, model: Model) -> None:
    """Write a model into its run folder, replacing an older one file by file.

    Raises:
        ValueError: a network that is none of `NETWORKS`, or a process or clipping that cannot be written down.
        OSError: the disk is full, or the folder is not writable; each file is then old or new, never a part.
    """
    kind = next((name for name, network in NETWORKS.items() if type(model.network) is network), None)
    if kind is None:
        names = ", ".join(network.__name__ for network in NETWORKS.values())
        raise ValueError(f"only {names} can be saved in a run folder, not a {type(model.network).__name__}")
    conventions = Conventions(model.process, model.predicts, model.clip, model.spacing, model.time, model.schedule)
    config, words = _network_config(model), own_words(conventions)
    if model.scaling._asdict() != model.details.get("data", {}).get("scaling", PIXELS._asdict()):
        words = {"scaling": model.scaling._asdict(), **words}
    details = {name: value for name, value in model.details.items() if name != "conventions"}
    learned = bool(model.shape) and getattr(model.network.config, "out_channels", None) == 2 * model.shape[0]
    scheduler = None if "predicts" in words else scheduler_config(conventions, learned)
    run.mkdir(parents=True, exist_ok=True)
    folder = folders.inner(run, kind)
    files.write_bytes(folder / WEIGHTS, _encoded(model.network.state_dict(), {"format": "pt"}))
    files.write_json(folder / "config.json", config)
    files.write_json(run / "leapstep.json", details | ({"conventions": words} if words else {}))
    if scheduler is not None:
        files.write_json(folders.inner(run, "scheduler") / "scheduler_config.json", scheduler)
    ours_only = config["_class_name"] != "UNet2DModel" or model.time != "index" or model.scaling != PIXELS
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
    Raises:
        ValueError: one line that names the file that is missing, broken or not supported, or the weights that are not
            finite.
    """
    from leapstep.models.schema import Pipeline, Run

    folder = _folder(str(source))
    details: dict[str, Any] = {}
    if (folder / "leapstep.json").exists():
        with _reading(folder / "leapstep.json", Run) as said:
            details = {name: value for name, value in said.items() if value is not None}
    if (folder / "model_index.json").exists():
        with _reading(folder / "model_index.json", Pipeline):
            pass  # what is wrong with it shows
    kind = _kind(folder)
    assert kind is not None  # _folder has looked
    with _reading(folder / kind / "config.json") as config:
        network, shape = _network(kind, config)
    names, null_label = _labels(folder, details, getattr(network.config, "classes", None))
    scaling = (details.get("conventions") or {}).get("scaling") or details.get("data", {}).get("scaling")
    conventions = _read_conventions(folder, details)  # before the weights, which take longer
    network = _filled(network, folder / kind)
    return Model(
        network=network.to(device).eval(),
        shape=shape,
        scaling=PIXELS if scaling is None else Scaling(scaling["shift"], scaling["scale"]),
        classes=names,
        null_label=null_label,
        details={name: value for name, value in details.items() if name != "conventions"},
        calibration=_read_calibration(folder / CALIBRATION, network),
        **conventions._asdict(),
    )


def _labels(folder: Path, details: Mapping[str, Any], known: int | None) -> tuple[tuple[str, ...], int | None]:
    """The names of the classes, and the label for none, of a network that knows so many labels; None: it knows none."""
    names, null_label = tuple(details.get("data", {}).get("classes") or ()), details.get("null_label")
    if known is None:
        return (), None
    if len(names) > known or (null_label is not None and null_label >= known):
        raise ValueError(
            f"{folder / 'leapstep.json'} has {len(names)} classes and null_label {null_label}, but the network knows "
            f"{known} labels: correct its data.classes or null_label"
        )
    return names or tuple(str(label) for label in range(known)), null_label


def _read_conventions(folder: Path, details: Mapping[str, Any]) -> Conventions:
    """The conventions of a folder: the scheduler's, and what `leapstep.json` says besides or instead."""
    from leapstep.models.schema import Scheduler

    with _naming(folder / "leapstep.json"):
        said = read_own_words(details.get("conventions", {}))
    if {"process", "predicts", "clip"} <= set(said):
        return Conventions(**said)
    with _reading(folder / "scheduler" / "scheduler_config.json", Scheduler) as scheduler:
        found = read_scheduler(scheduler)
    return found._replace(**said)


def save_calibration(run: Path, model: Model, calibration: Calibration, details: Mapping[str, Any]) -> None:
    """Write what was measured of a model's weights into its folder; `load` takes it while the weights are the same.

    Arguments:
        details: what else is worth knowing of the measurement, as JSON.
    Raises:
        OSError: the folder is not writable, or the disk is full; an earlier calibration is still there.
    """
    measured = {
        "weights_sha256": fingerprint(model.network),
        **details,
        "data_variance": calibration.variance,
        "times": calibration.times.tolist(),
        "eps_power": calibration.power.tolist(),
        "x0_error": calibration.error.tolist(),
    }
    files.write_json(run / CALIBRATION, measured)


def _read_calibration(path: Path, network: nn.Module) -> Calibration | None:
    """What was measured of these weights; None where nothing was, of others, or nothing that can be read."""
    from leapstep.models.schema import Measured

    if not path.exists():
        return None
    try:
        with _reading(path, Measured) as measured:
            columns = (measured[key] for key in ("times", "eps_power", "x0_error"))
            times, power, error = (torch.tensor(column, dtype=torch.float64) for column in columns)
            if not len(times) == len(power) == len(error) or (times.diff() <= 0).any():
                raise ValueError("times, eps_power and x0_error must be of one length, and times increase")
    except (ValueError, OSError) as wrong:  # whoever needs it is told to run leapstep calibrate, which replaces it
        warnings.warn(f"{wrong}; it is ignored", stacklevel=3)
        return None
    if measured["weights_sha256"] != fingerprint(network):
        return None
    return Calibration(times, power, error, float(measured["data_variance"]))


@contextlib.contextmanager
def _reading(path: Path, schema: Any = None) -> Iterator[dict[str, Any]]:
    """Give what a JSON file holds; whatever then proves wrong with it is one line that begins with the file's name.

    Arguments:
        path: the file.
        schema: one of `leapstep.models.schema` that it must keep to; None: whoever reads on checks it.
    """
    from leapstep.files.schema import checked
    from leapstep.models.schema import Pipeline

    try:
        value = reading.read_json(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    with _naming(path):
        checked(schema or Pipeline, value)
        yield value


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Begin the line of whatever proves wrong with the content of a file with its name."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} lacks {one_line(str(error))}") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(str(error), 1000)}") from error


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's weights, hexadecimal: the same weights, the same fingerprint, wherever they lie."""
    return hashlib.sha256(_encoded(network.state_dict())).hexdigest()


def _encoded(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors on any device and of any memory layout as the bytes of a safetensors file."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)


def is_model(source: str | Path) -> bool:
    """Whether a folder holds a model."""
    return Path(source).is_dir() and _kind(Path(source)) is not None


def _folder(source: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        pipelines.refuse(folder, source)
        there = (folder / name for name in (WEIGHTS, PICKLED))
        if _kind(folder) is None and (folder / "config.json").is_file() and any(path.is_file() for path in there):
            raise ValueError(
                f"{source} holds a network without its noise schedule: leapstep import {source} --out RUN makes a "
                "model of it, and says what it assumed"
            )
        if _kind(folder) is None:
            places = ", ".join(f"{kind}/config.json" for kind in NETWORKS)
            raise ValueError(f"{source} is not a model: it has none of {places}")
        return folder
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise ValueError(
            f"there is no model folder {source}: name a run folder, a diffusers folder, or owner/name on the Hub"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "scheduler/*.json", "unet/*.bin"]
    wanted += [f"{kind}/{name}" for kind in NETWORKS for name in ("*.json", WEIGHTS)]
    try:
        folder = Path(snapshot_download(source, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"there is no folder {source}, and the Hub did not give a model of that name: {reason(error)}"
        ) from error
    pipelines.refuse(folder, source)
    return folder


def _kind(folder: Path) -> str | None:
    """Which of `NETWORKS` a folder holds."""
    return next((kind for kind in reversed(NETWORKS) if (folder / kind / "config.json").exists()), None)


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
    files.write_bytes(newest, _encoded(tensors, {"values": json.dumps({**values, "step": step})}))
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
