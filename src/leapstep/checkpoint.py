"""Run folders: what is on disk between training, sampling and other people's tools.

    model_index.json                                a diffusers pipeline folder: DDPMPipeline.from_pretrained opens it
    unet/config.json
    unet/diffusion_pytorch_model.safetensors        the EMA weights
    scheduler/scheduler_config.json                 the process, and what the network predicts
    leapstep.json                                   what diffusers has no place for: data, classes, training, step
    calibration.json                                how far x0 spreads around its estimate, from `leapstep calibrate`
    state/step-00010000.safetensors                 everything that an exact resume needs

A network that diffusers does not know (the MLP) lies in `mlp/`, in the same manner. Every file is replaced in one
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from leapstep import files
from leapstep.calibration import Calibration
from leapstep.data import PIXELS, Scaling
from leapstep.denoiser import Clip, Diffusion, clipped, dynamic_threshold, from_network, guided
from leapstep.networks import MLP, UNet, layout
from leapstep.process import Curve, Process, cosine, from_betas, rescale_zero_terminal_snr, sigmoid

PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
"""What a network predicts: our name, diffusers' name."""

CALIBRATION = "calibration.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


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
        details: the content of `leapstep.json`; empty for a folder that others wrote.
        calibration: what `leapstep calibrate` measured of these weights, or None.
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

    @property
    def spread(self) -> Curve | None:
        """E tr Cov[x0 | x_t] / d as a curve in t, for the optimal variance; None for a model without calibration."""
        return None if self.calibration is None else self.calibration.spread(self.process)

    @property
    def is_pictures(self) -> bool:
        """Whether samples are pictures with pixels from 0 to 255."""
        return self.scaling == PIXELS

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
        diffusion = from_network(call, self.process, self.predicts, fractional=fractional, dtype=dtype)
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


# --- models --------------------------------------------------------------------------------------------------------


def save(run: Path, model: Model) -> None:
    """Write a model into its run folder, replacing an older one file by file.

    Raises:
        OSError: the disk is full, or the folder is not writable; each file is then old or new, never a part.
    """
    if isinstance(model.network, UNet):
        folder, (_, height, width) = run / "unet", model.shape
        size = height if height == width else (height, width)
        config = layout.to_diffusers(dataclasses.asdict(model.network.config), size)
    elif isinstance(model.network, MLP):
        folder, config = run / "mlp", {"_class_name": "MLP", **dataclasses.asdict(model.network.config)}
    else:
        raise ValueError(f"only a UNet or an MLP can be saved in a run folder, not a {type(model.network).__name__}")
    folder.mkdir(parents=True, exist_ok=True)
    (run / "scheduler").mkdir(exist_ok=True)
    files.write_bytes(folder / WEIGHTS, _encoded(model.network.state_dict(), {"format": "pt"}))
    files.write_json(folder / "config.json", config)
    files.write_json(run / "scheduler" / "scheduler_config.json", scheduler_config(model))
    files.write_json(run / "leapstep.json", dict(model.details))
    if isinstance(model.network, UNet):
        index = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
        files.write_json(run / "model_index.json", {"_class_name": "DDPMPipeline", **index})


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
            scaling, names = Scaling(**data.get("scaling", PIXELS._asdict())), tuple(data.get("classes", ()))
    if (folder / "model_index.json").exists():
        with _reading(folder / "model_index.json") as index:
            others = [name for name in index if not name.startswith("_") and name not in ("unet", "scheduler")]
            if others:
                raise ValueError(f"a pipeline with {', '.join(others)} is not supported, only a unet and a scheduler")
    inner = folder / ("mlp" if (folder / "mlp" / "config.json").exists() else "unet")
    with _reading(inner / "config.json") as config:
        network, shape = _mlp(config) if inner.name == "mlp" else _unet(config)
        classes = network.config.classes
    with _reading(folder / "scheduler" / "scheduler_config.json") as scheduler:
        process, predicts, clip = read_scheduler(scheduler)
    network.load_state_dict(_weights(network, inner))
    return Model(
        network=network.to(device).eval(),
        process=process,
        predicts=predicts,
        shape=shape,
        scaling=scaling,
        clip=clip,
        classes=(names or tuple(str(label) for label in range(classes))) if classes else (),
        null_label=null_label,
        details=details,
        calibration=_read_calibration(folder / CALIBRATION, network),
    )


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
def _reading(path: Path) -> Iterator[dict[str, Any]]:
    """Give what a JSON file holds; whatever then proves wrong with it is one line that begins with the file's name."""
    try:
        value = json.loads(path.read_text())
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


def _folder(source: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "unet" / "config.json").exists() and not (folder / "mlp" / "config.json").exists():
            raise ValueError(f"{source} is not a model: it has neither unet/config.json nor mlp/config.json")
        return folder
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise ValueError(
            f"there is no model folder {source}: name a run folder, a diffusers folder, or owner/name on the Hub"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [
        "*.json",
        "scheduler/*.json",
        "unet/*.json",
        f"unet/{WEIGHTS}",
        "unet/*.bin",
        f"mlp/{WEIGHTS}",
        "mlp/*.json",
    ]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"there is no folder {source}, and the Hub did not give a model of that name: {reason}"
        ) from error


def _mlp(config: Mapping[str, Any]) -> tuple[MLP, tuple[int, ...]]:
    mlp = MLP(**{name: value for name, value in config.items() if name != "_class_name"})
    return mlp, mlp.config.shape


def _unet(config: Mapping[str, Any]) -> tuple[UNet, tuple[int, ...]]:
    unet, size = UNet(**layout.from_diffusers(config)), config.get("sample_size")
    if isinstance(size, int):
        size = (size, size)
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"sample_size is {size}: it must be the height and width of the pictures")
    return unet, (unet.config.in_channels, *size)


def _weights(network: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The state dict in a network's folder, from safetensors or else from a pickle that may hold tensors only."""
    path, pickled = folder / WEIGHTS, folder / "diffusion_pytorch_model.bin"
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


def scheduler_config(model: Model) -> dict[str, Any]:
    """Describe a model's process as the configuration of a diffusers `DDPMScheduler`.

    The betas are written out (`trained_betas`) so that every variance-preserving process, known by name or not, is read
    back as it was.

    Raises:
        ValueError: a process that is not variance preserving or not on trained levels, or a prediction that diffusers
            has no name for.
    """
    process, timesteps = model.process, model.process.timesteps
    if timesteps is None or model.predicts not in PREDICTION_TYPES:
        raise ValueError("only eps, x0 and v predictions on trained levels can be saved in the diffusers layout")
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha = process.alpha(t)
    if isinstance(model.clip, tuple) and model.clip[0] != -model.clip[1]:
        raise ValueError(f"only a symmetric range can be saved in the diffusers layout, not clip={model.clip}")
    if not torch.allclose(alpha**2 + process.sigma(t) ** 2, torch.ones_like(t)):
        raise ValueError("only variance-preserving processes can be saved in the diffusers layout")
    config = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": timesteps,
        "beta_schedule": "linear",  # not used where trained_betas is given
        "trained_betas": (1 - (alpha[1:] / alpha[:-1]) ** 2).tolist(),
        "prediction_type": PREDICTION_TYPES[model.predicts],
        "variance_type": "fixed_small",
        "clip_sample": isinstance(model.clip, tuple),
        "timestep_spacing": "trailing",
    }
    return config | ({"clip_sample_range": model.clip[1]} if isinstance(model.clip, tuple) else {})


def read_scheduler(config: Mapping[str, Any]) -> tuple[Process, str, Clip | None]:
    """Read the process, the prediction and the clipping of a diffusers scheduler configuration.

    Arguments:
        config: the content of `scheduler_config.json`.
    Raises:
        KeyError: a key that is missing.
        ValueError, TypeError: a value that is not supported.
    """
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
    if config.get("rescale_betas_zero_snr"):
        process = rescale_zero_terminal_snr(process)
    predictions = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in predictions:
        raise ValueError(f"prediction_type {predicts!r} is not one of {', '.join(predictions)}")
    limit = float(config.get("clip_sample_range", 1.0))
    clip: Clip | None = None
    if config.get("thresholding"):
        clip = dynamic_threshold(config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
    elif config.get("clip_sample", config.get("_class_name") in ("DDPMScheduler", "DDIMScheduler")):
        clip = (-limit, limit)
    return process, predictions[predicts], clip


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
