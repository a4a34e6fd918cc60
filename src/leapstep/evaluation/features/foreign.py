"""Feature spaces from functions in Python files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from leapstep import plugin
from leapstep.evaluation.features.space import (
    Array,
    Features,
    batched,
    digest_of_weights,
)
from leapstep.files.cache import hash_of


def foreign_features(name: str, path: Path, function: str, device: torch.device) -> Features:
    """The map that a function in a Python file makes."""
    if not function.isidentifier():
        raise ValueError(f"{name}: name the function that makes the map as well, as in {path}:features")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    made = _map_of(name, path, function, device)
    return dataclasses.replace(made, make=functools.partial(_map_of, name, path.absolute(), function))


def _map_of(name: str, path: Path, function: str, device: torch.device) -> Features:
    """The map that a function makes, wherever its file can be read."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    extract = plugin.make(path, function)
    if not callable(extract):
        raise ValueError(
            f"{name} returned {type(extract).__name__}: return a function of values [b, *d] that gives features [b, k]"
        )
    weights = ""
    if isinstance(extract, nn.Module):
        weights = digest_of_weights(
            {name: each for name, each in extract.state_dict().items() if isinstance(each, Tensor)}
        )
        extract = extract.to(device).eval()

    def call(x: Tensor) -> Tensor:
        found: Tensor = plugin.execute(path, lambda: torch.as_tensor(extract(x)))
        if found.ndim != 2 or len(found) != len(x) or found.is_complex():
            raise ValueError(
                f"{name} made {str(found.dtype).removeprefix('torch.')} {list(found.shape)} of {len(x)} samples: "
                f"return numbers [{len(x)}, k]"
            )
        return found if found.is_floating_point() else found.float()

    def prepare(values: Array) -> Tensor:  # a copy in the machine's own byte order: arrays may be read-only
        return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="))).to(device)

    return Features(name, hash_of(function, content, weights), batched(call, prepare, 256))
