"""The provenance of a result: the hash of the weights, the data, the device and the versions of libraries."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from leapstep.inference.spec import SamplingSpec
from leapstep.models.checkpoint import fingerprint
from leapstep.models.model import Model


def versions() -> dict[str, str]:
    """Of the libraries that numbers depend on."""
    from leapstep import __version__

    return {"leapstep": __version__, "torch": str(torch.__version__)}


def provenance(
    model: Model, spec: SamplingSpec | None = None, *, source: str | None = None, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """What a result says of itself, as JSON.

    Arguments:
        spec: how the samples are drawn; None: no samples are.
        source: how the model is called.
        device: where the network runs.
    """
    data = model.details.get("data") or {}
    record = {
        "spec": None if spec is None else spec.to_json(),
        "model": source,
        "convention": _written(model),
        "trained_steps": model.details.get("step"),
        "trained_on": {name: data[name] for name in ("source", "holdout") if name in data},
        "weights_sha256": fingerprint(model.network),
        "device": str(device),
        "versions": versions(),
    }
    if spec is not None and spec.conditions is not None:
        record["conditions_sha256"] = hashlib.sha256(Path(spec.conditions).read_bytes()).hexdigest()
    if spec is None:
        del record["spec"]
        return record
    if spec.options.get("variance") == "optimal" and model.calibration is not None:
        record["calibration_sha256"] = hashlib.sha256(model.calibration.error.numpy().tobytes()).hexdigest()
    if spec.start == "gaussian" and model.moments is not None:
        law = model.moments.law(spec.labels_for(model, range(1)))
        record["moments_sha256"] = hashlib.sha256(law.mean.numpy().tobytes() + law.basis.numpy().tobytes()).hexdigest()
    return record


def _written(model: Model) -> dict[str, Any] | None:
    """How the network is called, as JSON; None where a function of the user's says it."""
    try:
        return model.convention.to_json()
    except ValueError:
        return None
