"""Run folders: what is on disk between training, sampling and other people's tools.

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
import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from leapstep import files
from leapstep.calibration import Calibration
from leapstep.data import PIXELS, Scaling
from leapstep.denoiser import CLOCKS, Clip, Diffusion, clipped, dynamic_threshold, from_network, guided
from leapstep.networks import NETWORKS, UNet, layout
from leapstep.process import (
    PREDICTIONS,
    SCHEDULES,
    Curve,
    Process,
    cosine,
    flow,
    from_betas,
    rescale_zero_terminal_snr,
    sigmoid,
)

PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
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

UNIT_PIXELS = Scaling(0.0, 255.0)
"""Pictures in [0, 1]."""

CALIBRATION = "calibration.json"
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
        time: how the network counts time, one of `leapstep.denoiser.CLOCKS`.
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
        self, labels: Tensor | None = None, guidance: float = 1.0, dtype: torch.dtype | None = None
    ) -> Diffusion:
        """Adapt the network for sampling.

        Arguments:
            labels: the class of each sample in the batch, `[b]`; None for samples of any class.
            guidance: scale of classifier-free guidance: 1 follows the labels, more exaggerates them.
            dtype: what the network computes in.
        Raises:
            ValueError: labels for a network without, or none for a network that needs them; guidance without labels, or
                of a network that was trained without dropping labels.
        """
        self._check(labels, guidance)
        free = None if self.null_label is None else torch.tensor(self.null_label)
        wanted = free if labels is None else labels
        if guidance != 1 and labels is not None and free is not None:
            wanted = torch.cat([labels, free.expand(len(labels))])

        def call(x: Tensor, timestep: Tensor) -> Any:
            if wanted is None:
                return self.network(x, timestep)
            return self.network(x, timestep, class_labels=wanted.to(x.device).expand(len(x)))

        fractional = getattr(getattr(self.network, "config", None), "time_embedding", None) == "sinusoidal"
        diffusion = from_network(call, self.process, self.predicts, self.time, fractional=fractional, dtype=dtype)
        if guidance != 1:
            diffusion = guided(diffusion, guidance)
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
        if labels is not None and ((labels < 0) | (labels > last)).any():
            raise ValueError(f"labels must lie between 0 and {last} ({', '.join(self.classes)})")
        if guidance != 1 and self.null_label is None:
            raise ValueError("guidance needs a network that was trained with some labels dropped (label_dropout)")


@dataclasses.dataclass(frozen=True)
class Thresholding:
    """Bound x0 as `dynamic_threshold` does; a function that can be written down."""

    quantile: float = 0.995
    limit: float = 1.0

    def __call__(self, x0: Tensor) -> Tensor:
        """Bound x0 `[b, *d]`."""
        return dynamic_threshold(self.quantile, self.limit)(x0)


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
    config, conventions = _network_config(model), _conventions(model)
    details = {name: value for name, value in model.details.items() if name != "conventions"}
    scheduler = None if "predicts" in conventions else scheduler_config(model)
    (run / kind).mkdir(parents=True, exist_ok=True)
    files.write_bytes(run / kind / WEIGHTS, _encoded(model.network.state_dict(), {"format": "pt"}))
    files.write_json(run / kind / "config.json", config)
    files.write_json(run / "leapstep.json", details | ({"conventions": conventions} if conventions else {}))
    if scheduler is not None:
        (run / "scheduler").mkdir(exist_ok=True)
        files.write_json(run / "scheduler" / "scheduler_config.json", scheduler)
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


def _conventions(model: Model) -> dict[str, Any]:
    """What `leapstep.json` must say because `scheduler_config.json` cannot; with "predicts" in it, it says all."""
    said: dict[str, Any] = {}
    if model.scaling._asdict() != model.details.get("data", {}).get("scaling", PIXELS._asdict()):
        said["scaling"] = model.scaling._asdict()
    if model.time != "index":
        said["time"] = model.time
    if model.schedule is not None:
        made, t = _process(model.schedule), torch.linspace(0, 1, 101, dtype=torch.float64)
        if not all(torch.allclose(a(t), b(t)) for a, b in zip(made[:2], model.process[:2], strict=True)):
            raise ValueError(f"the schedule {dict(model.schedule)} does not make the model's process: correct either")
        said["process"] = dict(model.schedule)
    clip = model.clip
    if callable(clip) and not isinstance(clip, Thresholding):
        raise ValueError(f"only a range or Thresholding can be saved, not clip={clip}")
    symmetric = not isinstance(clip, tuple) or clip[0] == -clip[1]
    expressible = symmetric and model.predicts in PREDICTION_TYPES and _betas(model.process) is not None
    if not expressible:
        said["predicts"] = model.predicts
        said["clip"] = dataclasses.asdict(clip) if isinstance(clip, Thresholding) else clip
    if not expressible and "process" not in said:
        betas = _betas(model.process)
        if betas is None:
            raise ValueError(
                "a process without trained levels, or one that is not variance-preserving, is saved by its name: give "
                f"the model schedule={{'name': ..., ...}}, with one of {', '.join(SCHEDULES)}"
            )
        said["process"] = {"name": "betas", "betas": betas.tolist()}
    if model.spacing is not None and (not expressible or model.spacing not in TIMESTEP_SPACINGS):
        said["spacing"] = model.spacing
    return said


def _betas(process: Process) -> Tensor | None:
    """The betas of a variance-preserving process on trained levels; None for any other."""
    if process.timesteps is None:
        return None
    t = torch.arange(process.timesteps + 1, dtype=torch.float64) / process.timesteps
    alpha = process.alpha(t)
    if not torch.allclose(alpha**2 + process.sigma(t) ** 2, torch.ones_like(t)):
        return None
    return 1 - (alpha[1:] / alpha[:-1]) ** 2


def _process(schedule: Mapping[str, Any]) -> Process:
    """Make a process as `{"name": ..., parameter: value}` says."""
    parameters = {**schedule}
    name = parameters.pop("name", None)
    makers: dict[str, Any] = {**SCHEDULES, "betas": from_betas}
    if name not in makers:
        raise ValueError(f"there is no process {name!r}: use one of {', '.join(makers)}")
    if unknown := set(parameters) - set(inspect.signature(makers[name]).parameters):
        raise ValueError(f"the process {name} has no parameter {', '.join(sorted(unknown))}")
    process: Process = makers[name](**parameters)
    return process


def load(source: str | Path, device: torch.device | str = "cpu") -> Model:
    """Load a model: a run folder, a diffusers pipeline folder with a UNet2DModel, or such a folder's name on the Hub.

    Arguments:
        source: a folder, or `owner/name`.
        device: where the network goes; it is in evaluation mode.
    Raises:
        ValueError: one line that names the file that is missing, broken or not supported.
    """
    folder = _folder(str(source))
    details: dict[str, Any] = {}
    scaling, names, null_label = PIXELS, (), None
    if (folder / "leapstep.json").exists():
        with _reading(folder / "leapstep.json") as details:
            data, null_label = details.get("data", {}), details.get("null_label")
            given = details.get("conventions", {}).get("scaling", data.get("scaling", PIXELS._asdict()))
            scaling, names = Scaling(**given), tuple(data.get("classes", ()))
    if (folder / "model_index.json").exists():
        with _reading(folder / "model_index.json") as index:
            others = [name for name in index if not name.startswith("_") and name not in ("unet", "scheduler")]
            if others:
                raise ValueError(f"a pipeline with {', '.join(others)} is not supported, only a unet and a scheduler")
    kind = _kind(folder)
    assert kind is not None  # _folder has looked
    with _reading(folder / kind / "config.json") as config:
        network, shape = _network(kind, config)
        classes = getattr(network.config, "classes", None)
    network.load_state_dict(_weights(network, folder / kind))
    return Model(
        network=network.to(device).eval(),
        shape=shape,
        scaling=scaling,
        classes=(names or tuple(str(label) for label in range(classes))) if classes else (),
        null_label=null_label,
        details={name: value for name, value in details.items() if name != "conventions"},
        calibration=_read_calibration(folder / CALIBRATION, network),
        **_read_conventions(folder, details)._asdict(),
    )


def _read_conventions(folder: Path, details: Mapping[str, Any]) -> Conventions:
    """The conventions of a folder: the scheduler's, and what `leapstep.json` says besides or instead."""
    with _reading(folder / "leapstep.json", {"conventions": details.get("conventions", {})}) as content:
        said = {name: value for name, value in content["conventions"].items() if name != "scaling"}
        if unknown := set(said) - {"time", "spacing", "process", "predicts", "clip"}:
            raise ValueError(f"there is no convention {', '.join(sorted(unknown))}")
        if "process" in said:
            schedule = said["process"]
            said["process"] = _process(schedule)
            said["schedule"] = None if schedule["name"] == "betas" else schedule
        if "clip" in said:
            clip = said["clip"]
            said["clip"] = clip and (Thresholding(**clip) if isinstance(clip, dict) else tuple(clip))
        if said.get("predicts", "eps") not in PREDICTIONS:
            raise ValueError(f"predicts={said['predicts']!r} is not one of {', '.join(PREDICTIONS)}")
        if said.get("time", "index") not in CLOCKS:
            raise ValueError(f"time={said['time']!r} is not one of {', '.join(CLOCKS)}")
    if {"process", "predicts", "clip"} <= set(said):
        return Conventions(**said)
    with _reading(folder / "scheduler" / "scheduler_config.json") as scheduler:
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
    """What was measured of these weights; None where nothing was that can be read, or of others."""
    try:
        with _reading(path) as measured:
            if measured["weights_sha256"] != fingerprint(network):
                return None
            columns = (measured[key] for key in ("times", "eps_power", "x0_error"))
            times, power, error = (torch.tensor(column, dtype=torch.float64) for column in columns)
            return Calibration(times, power, error, float(measured["data_variance"]))
    except ValueError:
        return None  # whoever needs it is told to run leapstep calibrate, which replaces it


@contextlib.contextmanager
def _reading(path: Path, content: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Give what a JSON file holds; whatever then proves wrong with it is one line that begins with the file's name."""
    try:
        value = json.loads(path.read_text()) if content is None else content
        if not isinstance(value, dict):
            raise ValueError(f"holds a {type(value).__name__} where a JSON object is expected")
        yield value
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


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
        return Path(snapshot_download(source, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"there is no folder {source}, and the Hub did not give a model of that name: {reason}"
        ) from error


def _kind(folder: Path) -> str | None:
    """Which of `NETWORKS` a folder holds."""
    return next((kind for kind in reversed(NETWORKS) if (folder / kind / "config.json").exists()), None)


def _network(kind: str, config: Mapping[str, Any]) -> tuple[Any, tuple[int, ...]]:
    """Make a network from its `config.json`, and say what shape its samples have."""
    if kind == "unet" and config.get("_class_name") != UNet.__name__:
        return unet(config)
    network = NETWORKS[kind](**{name: value for name, value in config.items() if not name.startswith("_")})
    shape = config.get("_sample_shape", getattr(network.config, "shape", None))
    if not isinstance(shape, list | tuple):
        raise ValueError(f"_sample_shape is {shape}: it must be the shape of one sample")
    return network, tuple(shape)


def unet(config: Mapping[str, Any]) -> tuple[UNet, tuple[int, ...]]:
    """Make the network that a diffusers `config.json` describes, and say what shape its samples have.

    Raises:
        KeyError, TypeError, ValueError: a key that is missing, wrong or not supported.
    """
    network, size = UNet(**layout.from_diffusers(config)), config.get("sample_size")
    if isinstance(size, int):
        size = (size, size)
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"sample_size is {size}: it must be the height and width of the pictures")
    return network, (network.config.in_channels, *size)


def _weights(network: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The state dict in a network's folder, from safetensors or else from a pickle that may hold tensors only."""
    path, pickled = folder / WEIGHTS, folder / PICKLED
    if path.exists():
        try:
            state = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}): it is truncated or not a safetensors file") from error
    elif pickled.exists():
        try:
            state = torch.load(pickled, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds; none of them may run the file's code
            raise ValueError(f"{pickled} was not loaded: it holds more than tensors, or is truncated") from error
        path = pickled
    else:
        raise ValueError(f"{folder} has no weights: expected {WEIGHTS}")
    state, expected = layout.modern_keys(state), network.state_dict()
    if wrong := sorted(set(state) ^ set(expected)):
        raise ValueError(
            f"{path} does not fit its config.json: {len(wrong)} keys differ, among them {', '.join(wrong[:3])}"
        )
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise ValueError(
                f"{path} does not fit its config.json: {name} is {list(state[name].shape)}, not {list(value.shape)}"
            )
    return state


# --- the process, as diffusers writes it ---------------------------------------------------------------------------


class Conventions(NamedTuple):
    """The fields of a `Model` that a scheduler's configuration, or `leapstep.json`, decides."""

    process: Process
    predicts: str
    clip: Clip | None
    spacing: str | None = None
    time: str = "index"
    schedule: Mapping[str, Any] | None = None


def scheduler_config(model: Model) -> dict[str, Any]:
    """Describe a model's process as the configuration of a diffusers `DDPMScheduler`.

    The betas are written out (`trained_betas`) so that every variance-preserving process, known by name or not, is read
    back as it was.

    Raises:
        ValueError: a process that is not variance preserving or not on trained levels, or a prediction or clipping that
            diffusers has no name for.
    """
    betas = _betas(model.process)
    if betas is None:
        raise ValueError("only variance-preserving processes on trained levels can be saved in the diffusers layout")
    if model.predicts not in PREDICTION_TYPES:
        raise ValueError(f"only eps, x0 and v can be saved in the diffusers layout, not {model.predicts}")
    learned = bool(model.shape) and getattr(model.network.config, "out_channels", None) == 2 * model.shape[0]
    config = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(betas),
        "beta_schedule": "linear",  # not used where trained_betas is given
        "trained_betas": betas.tolist(),
        "prediction_type": PREDICTION_TYPES[model.predicts],
        "variance_type": "learned_range" if learned else "fixed_small",
        "clip_sample": False,
        "timestep_spacing": model.spacing if model.spacing in TIMESTEP_SPACINGS else "trailing",
    }
    match model.clip:
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
    raise ValueError(f"only a symmetric range or Thresholding can be saved in the diffusers layout, not {model.clip}")


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
        process = from_betas([float(beta) for beta in config["trained_betas"]])
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


# --- training states -----------------------------------------------------------------------------------------------


def save_state(run: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write the training state after a step, whole or not at all; then remove the states of earlier steps.

    Arguments:
        tensors: by name, on any device.
        values: what is not a tensor, as JSON.
    Raises:
        OSError: the disk is full; the last good state is still there.
    """
    folder = run / "state"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".leapstep-*"):  # by a crash in the middle of a write
        left.unlink()
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
    if not run.is_dir():
        raise ValueError(f"there is no run folder {run} to resume")
    broken = ""
    for path in sorted((run / "state").glob("step-*.safetensors"), reverse=True):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return path, json.loads(file.metadata()["values"])
        except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            broken = f" ({path.name}: {error})"
    raise ValueError(f"{run} has no training state to resume from{broken}: train from the start with --overwrite")
