"""What was found of a model's weights, in files beside it: its calibration, its moments, its solvers.

Each file has the hash of the weights, and is read while they are the same. One that cannot be read is ignored with a
warning: whoever needs it is told by which command to make it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
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
from leapstep.core.gaussian import Gaussian, Moments
from leapstep.files import reading
from leapstep.models.model import Model
from leapstep.models.tuned import Tuned, convention_sha256
from leapstep.models.tuned import text as as_text
from leapstep.networks import weights
from leapstep.text import one_line, reason


def save_calibration(path: Path, model: Model, calibration: Calibration, details: Mapping[str, Any]) -> None:
    """Write what was measured of a model's weights; it is read while the weights are the same.

    Arguments:
        path: the file; in a model's folder, `CALIBRATION`.
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
    files.write_json(path, measured)


def read_calibration(path: Path, network: nn.Module) -> Calibration | None:
    """What was measured of these weights; None where nothing was, of others, or nothing that can be read."""
    from leapstep.models.schema import Measured

    if not path.exists():
        return None
    try:
        with read_json(path, Measured) as measured:
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


def save_moments(path: Path, model: Model, moments: Moments, details: Mapping[str, Any]) -> None:
    """Write what a model draws as Gaussians; it is read while the weights are the same.

    Arguments:
        path: the file; in a model's folder, `MOMENTS`.
        moments: in model space, of the data or of the model's own samples.
        details: where they come from, as JSON: "source" ("data" or "samples"), their number "n", for samples the
            "guidance", and what else is worth knowing.
    Raises:
        OSError: the folder is not writable, or the disk is full; earlier moments are still there.
    """
    tensors = {
        f"{name}.{part}": tensor
        for name, law in moments._asdict().items()
        if law is not None
        for part, tensor in tensors_of(law).items()
    }
    metadata = {"weights_sha256": fingerprint(model.network), "details": json.dumps(dict(details))}
    files.write_bytes(path, encoded(tensors, metadata))


def read_moments(path: Path, network: nn.Module, shape: tuple[int, ...] | None, classes: int) -> Moments | None:
    """What `save_moments` wrote of these weights; None where nothing was, of others, or nothing that can be read.

    Arguments:
        shape, classes: of a sample, and how many classes the network takes; 0: none, or they are not known.
    """
    if not path.exists():
        return None
    try:
        tensors = weights.read(path)
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        laws = {name: _law(tensors, name, shape, classes) for name in Moments._fields if f"{name}.mean" in tensors}
        moments = Moments(**laws)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, safetensors.SafetensorError) as wrong:
        warnings.warn(f"{path} holds no moments ({one_line(reason(wrong))}); it is ignored", stacklevel=3)
        return None
    return moments if metadata.get("weights_sha256") == fingerprint(network) else None


def _law(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...] | None, classes: int) -> Gaussian:
    """One of the laws in a file of moments. Raises ValueError or KeyError where it is none of such samples."""
    mean, basis, variances, rest = (tensors[f"{name}.{part}"] for part in ("mean", "basis", "variances", "rest"))
    if not all(part.is_floating_point() and part.isfinite().all() for part in (mean, basis, variances, rest)):
        raise ValueError(f"{name}: numbers must be finite")
    if mean.shape[mean.ndim > len(shape or ()) :] != shape or (name == "whole" and mean.shape != shape):
        raise ValueError(f"{name}: a mean of shape {list(mean.shape)} is none of samples {list(shape or ())}")
    if classes and mean.shape != shape and len(mean) != classes:
        raise ValueError(f"{name}: means of {len(mean)} classes, where the network has {classes}")
    return Gaussian(mean, basis, variances, rest.item())


def save_tuned(path: Path, model: Model, tuned: Tuned) -> None:
    """Write the solvers that were fitted to a model; they are read while weights and convention are the same.

    Arguments:
        path: the file; in a model's folder, `TUNED`. The laws that solvers start from lie beside it, in a file of the
            same name that ends in .safetensors.
    Raises:
        OSError: the folder is not writable, or the disk is full; an earlier file is still there.
    """
    used = {solver.gaussian_sha256 for tuning in tuned.tunings for solver in tuning.solvers}
    laws = {
        f"{name}.{part}": tensor
        for name, law in tuned.laws.items()
        if name in used
        for part, tensor in tensors_of(law).items()
    }
    if laws:  # before what speaks of them
        files.write_bytes(path.with_suffix(".safetensors"), encoded(laws))
    files.write_text(path, as_text(tuned.to_json(fingerprint(model.network))) + "\n")


def read_tuned(path: Path, model: Model) -> Tuned | None:
    """The solvers that were fitted to a model; None where there are none, of other weights, or that can be read."""
    from leapstep.models.schema import Tuned as Schema

    if not path.exists():
        return None
    try:
        with read_json(path, Schema) as said:
            tuned = Tuned.from_json(said, _laws(path.with_suffix(".safetensors"), model))
    except (ValueError, OSError) as wrong:  # whoever needs it is told to run leapstep tune, which replaces it
        warnings.warn(f"{wrong}; it is ignored", stacklevel=3)
        return None
    of_these = tuned.convention_sha256 == convention_sha256(model.convention)
    return tuned if of_these and said["weights_sha256"] == fingerprint(model.network) else None


def tensors_of(law: Gaussian) -> dict[str, Tensor]:
    """A Gaussian as tensors by name."""
    rest = torch.tensor([law.rest], dtype=torch.float64)
    return {"mean": law.mean, "basis": law.basis, "variances": law.variances, "rest": rest}


def gaussian_sha256(law: Gaussian) -> str:
    """SHA-256 of a Gaussian, hexadecimal."""
    return hashlib.sha256(encoded(tensors_of(law))).hexdigest()


def _laws(path: Path, model: Model) -> dict[str, Gaussian]:
    """The laws of a model's samples in a file, by their hash. Raises ValueError where the file is broken."""
    state = weights.read(path) if path.exists() else {}
    try:
        names = {key.partition(".")[0] for key in state}
        laws = {name: _law(state, name, model.shape, len(model.classes)) for name in names}
    except (ValueError, KeyError, RuntimeError) as wrong:
        raise ValueError(f"{path} holds no laws ({one_line(reason(wrong))})") from wrong
    if any(gaussian_sha256(law) != name for name, law in laws.items()):
        raise ValueError(f"{path} holds other laws than their names say")
    return laws


# --- reading and hashing ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def read_json(path: Path, schema: Any = None) -> Iterator[dict[str, Any]]:
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
    with naming(path):
        checked(schema or Pipeline, value)
        yield value


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Begin the line of whatever proves wrong with the content of a file with its name."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} lacks {one_line(str(error))}") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(str(error), 1000)}") from error


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's weights, hexadecimal: the same weights, the same fingerprint, wherever they lie."""
    return hashlib.sha256(encoded(network.state_dict())).hexdigest()


def encoded(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors on any device and of any memory layout as the bytes of a safetensors file."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
