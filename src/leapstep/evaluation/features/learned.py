"""Learned feature spaces on disk."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from leapstep import files
from leapstep.core.scaling import Scaling
from leapstep.data.dataset import Data
from leapstep.evaluation.features.classifier import Classifier
from leapstep.evaluation.features.space import (
    Array,
    Features,
    batched,
    check_shape,
)
from leapstep.files import folders, reading
from leapstep.files.cache import hash_of
from leapstep.networks.weights import check_finite, compare
from leapstep.text import reason

MOST_WEIGHTS = 2**30
"""The largest file of a learned classifier, bytes."""

MANIFEST, WEIGHTS = "features.json", "weights.safetensors"
"""The files of a folder that `leapstep features train` made."""

RESULTS = folders.Kind(MANIFEST, "weights_sha256", r"(?!)")
"""Such a folder. A new beginning removes nothing: the results are replaced when the new ones are done."""


def save(folder: str | Path, network: Classifier, record: Mapping[str, Any]) -> None:
    """Write a classifier as `load` reads it: its weights, and then a JSON file that says what it is.

    Arguments:
        folder: made if need be; what it holds under the same names is replaced.
        network: the classifier.
        record: what `train` returned with it.

    Raises:
        ValueError: nothing can be written there.
    """
    from leapstep import __version__

    files.check_writable(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    content = safetensors.torch.save(tensors)
    versions = {"leapstep": __version__, "torch": str(torch.__version__)}
    digest = hashlib.sha256(content).hexdigest()
    if not (Path(folder) / MANIFEST).exists():  # a folder that is cut short here is known as one of features
        files.write_json(Path(folder) / MANIFEST, {"weights_sha256": digest})
    files.write_bytes(Path(folder) / WEIGHTS, content)
    files.write_json(Path(folder) / MANIFEST, {**record, "versions": versions, "weights_sha256": digest})


def learned_features(folder: Path, data: Data, device: torch.device) -> Features:
    """The features of a trained classifier."""
    from leapstep.evaluation.schema import FeatureSpace
    from leapstep.files.schema import checked

    try:
        record = reading.read_json(folder / MANIFEST)
        told = checked(FeatureSpace, record).data
        shape, pictures = told.shape, told.pictures
        scaling = Scaling(told.scaling.shift, told.scaling.scale)
        content = reading.read_bytes(folder / WEIGHTS, MOST_WEIGHTS)
        if hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
            raise ValueError(f"{WEIGHTS} is not the file that {MANIFEST} speaks of")
        state = safetensors.torch.load(content)
        with torch.device("meta"):
            sketched = Classifier(shape, len(told.classes), pictures).state_dict()
        compare(sketched, state)
        network = Classifier(shape, len(told.classes), pictures)
        network.load_state_dict(state)
        check_finite(network)
    except Exception as error:  # whatever is wrong with JSON, its fields, the weights or the disk
        said = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | TypeError) else reason(error)
        raise ValueError(f"the features in {folder} cannot be read ({said}): train them again") from error
    if data.shape != shape or data.is_pictures != pictures:
        kind = "pictures" if pictures else "arrays"
        raise ValueError(
            f"{data.source} holds samples of shape {list(data.shape)}: the features in {folder} were learned from "
            f"{kind} of shape {list(shape)}"
        )
    digest = hash_of("learned", record["weights_sha256"], list(shape), list(scaling))
    classified = record.get("task") != "rotations"  # whose probabilities are of no class of the data
    return Features.made(functools.partial(_map_of, digest, network, shape, scaling, classified), device)


def _map_of(
    digest: str, network: Classifier, shape: tuple[int, ...], scaling: Scaling, classified: bool, device: torch.device
) -> Features:
    """The map that a classifier is, on a device."""
    network = copy.deepcopy(network).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def prepare(values: Array) -> Tensor:
        check_shape(values, shape, "learned")
        return scaling.to_model(values).to(device)

    extract = batched(network.features, prepare, 256)
    probabilities = batched(lambda x: network(x).softmax(1), prepare, 256) if classified else None
    return Features("learned", digest, extract, probabilities)
