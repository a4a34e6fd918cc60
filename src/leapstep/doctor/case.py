"""A network and its data opened by name, as on the command line: `open_case(MODEL, DATA).diagnose()`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from leapstep import plugin
from leapstep.data.dataset import Data
from leapstep.data.readers import read
from leapstep.doctor.diagnosing import diagnose
from leapstep.doctor.diagnosis import Diagnosis
from leapstep.doctor.disagreement import disagreements
from leapstep.doctor.snippet import loaded
from leapstep.files.reading import read_npy, read_npz
from leapstep.models import checkpoint
from leapstep.models.data import parts_of, usual_part, warn
from leapstep.models.model import Model
from leapstep.text import one_line

HINTS = ("condition", "counts", "assume", "pictures", "seed", "n", "check", "budget")
"""The arguments of `leapstep.diagnose` that a file may return beside its network."""

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with its data.

    Attributes:
        network: the network.
        data: its data.
        options: arguments of `leapstep.diagnose`: conditions and a mask, and what a user's file says.
        model: what a folder says of the network; None of a user's own.
        code: lines of Python that load the network, the data, the condition and the mask, by these names.
    """

    network: Callable[..., Any]
    data: Data
    options: Mapping[str, Any]
    model: Model | None
    code: Mapping[str, list[str]]

    def diagnose(self, assume: Mapping[str, Any] | None = None, **options: Any) -> Diagnosis:
        """Diagnose the network, and compare what is found with what its folder says.

        Arguments:
            assume, options: of `leapstep.diagnose`; those that are None are as the user's file says, or by default.
        """
        given = {name: value for name, value in options.items() if value is not None}
        believed = {**(self.options.get("assume") or {}), **(assume or {})}
        diagnosis = diagnose(self.network, self.data.values, **{**self.options, **given, "assume": believed})
        contradictions = diagnosis.contradictions
        if self.model is not None:
            contradictions = (*contradictions, *disagreements(self.model, diagnosis))
        return dataclasses.replace(diagnosis, code=loaded(diagnosis.code, self.code), contradictions=contradictions)


def open_case(
    source: str,
    data: str,
    *,
    split: str | None = None,
    size: int | None = None,
    condition: Path | None = None,
    label_argument: str | None = None,
    counts: Path | None = None,
    device: torch.device | None = None,
    tell: Callable[[str], object] = warn,
) -> Case:
    """Read a network and its data.

    Arguments:
        source: `file.py:function`, a run folder, a diffusers pipeline folder, or `owner/name` on the Hub.
        data: see `leapstep.data.read`.
        split: part of the data; default: train, or all where there is no such part.
        size: side of pictures, of a user's own network.
        condition: npz file of further arguments of the network, an array a keyword, aligned with the data.
        label_argument: the keyword under which a user's own network takes the labels of the data.
        counts: npy file, see `leapstep.diagnose`.
        device: where the network goes; default: where the function put it, or the CPU.
        tell: called with a line where all of the data are taken in place of a part that is not there.
    Raises:
        ValueError: anything that cannot be read, does not fit, or is given twice.
    """
    path, function = plugin.parts(source)
    mask = {} if counts is None else {"counts": _read_counts(counts)}
    known: dict[str, Array]
    if function:
        network, hints = _own_network(path, function, device)
        model = None
        _, samples = usual_part(lambda part: read(data, split=part, size=size), data, split, "train", tell)
        if label_argument is not None and samples.labels is None:
            raise ValueError(f"label_argument={label_argument}: {samples.source} has no labels")
        known = {label_argument: samples.labels} if label_argument is not None and samples.labels is not None else {}
    else:
        for name, value in (("size", size), ("label_argument", label_argument)):
            if value is not None:
                raise ValueError(f"{name} is for file.py:function: the folder {source} says it itself")
        model, hints = checkpoint.load(source, device or "cpu"), {}
        network = model.network
        _, (samples, labels) = usual_part(parts_of(model, data), data, split, "train", tell)
        known = _class_labels(model, samples, labels, source)
    conditions = {} if condition is None else _read_conditions(condition, len(samples))
    if twice := known.keys() & conditions.keys():
        raise ValueError(f"{twice.pop()} is given twice, as labels and in {condition}: choose one")
    if (known or conditions) and hints.get("condition") is not None:
        raise ValueError("a condition is given twice, by the file and by an option: choose one")
    options = hints | mask | ({"condition": known | conditions} if known or conditions else {})
    code = _loading(samples, (data, split, size), model, (condition, label_argument, counts))
    code["net"] = _loading_network(source, device, bool(hints))
    return Case(network, samples, options, model, code)


def _own_network(path: Path, function: str, device: torch.device | None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The network that a user's function returns, and arguments for `leapstep.diagnose`."""
    network, hints = plugin.network(path, function)
    if unknown := sorted(str(name) for name in hints if name not in HINTS):
        raise ValueError(
            f"{path}:{function} returned an argument {unknown[0]}: leapstep.diagnose has {', '.join(HINTS)}"
        )
    if device is not None:
        if not isinstance(network, nn.Module):
            raise ValueError(f"device {device}: {path}:{function} returned no nn.Module: put it there yourself")
        network = network.to(device)
    return network, hints


def _class_labels(model: Model, samples: Data, labels: torch.Tensor | None, source: str) -> dict[str, Array]:
    """The labels of the data, as the network of a folder takes them."""
    if labels is not None:
        return {"class_labels": labels.numpy()}
    if model.classes and model.null_label is not None:
        return {"class_labels": np.full(len(samples), model.null_label)}
    if model.classes:
        raise ValueError(
            f"{source} samples one class at a time, and {samples.source} has no labels: name data that have"
        )
    return {}


def _read_conditions(path: Path, rows: int) -> dict[str, Array]:
    """Further arguments of the network, a value for each of so many samples."""
    try:
        arrays = read_npz(path)
    except FileNotFoundError:
        raise ValueError(f"condition: there is no file {path}") from None
    except ValueError as error:
        raise ValueError(f"condition {path} cannot be read as an npz file: {error}") from error
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != rows:
            size = f"{len(array)} rows" if array.ndim else "one number"
            raise ValueError(f"condition {path}: {name} holds {size}, the data {rows}: give each its own")
    return arrays


def _read_counts(path: Path) -> Array:
    """A mask of where the answer counts; its shape is checked with the data."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        return read_npy(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"counts {path} cannot be read as an npy file: {one_line(str(error))}") from error


# --- the same in Python --------------------------------------------------------------------------------------------


def _loading_network(source: str, device: torch.device | None, has_hints: bool) -> list[str]:
    """Lines of Python that load the network."""
    path, function = plugin.parts(source)
    if not function:
        return [f"model = leapstep.load({_quoted(source)})", "net = model.network"]
    names = "net, hints" if has_hints else "net"
    moved = [f"net = net.to({_quoted(device)})"] if device is not None else []
    if path.stem.isidentifier() and path.parent == Path():
        return [f"from {path.stem} import {function}", f"{names} = {function}()", *moved]
    lines = ["from pathlib import Path", "from leapstep import plugin"]
    return [*lines, f"{names} = plugin.make(Path({_quoted(path)}), {_quoted(function)})", *moved]


def _loading(
    samples: Data,
    source: tuple[str, str | None, int | None],
    model: Model | None,
    beside: tuple[Path | None, str | None, Path | None],
) -> dict[str, list[str]]:
    """Lines of Python that load the data, the condition and the mask, by these names.

    Arguments:
        samples: the data.
        source: their name, the part of them, and the side of pictures.
        model: for which they were read.
        beside: the file of conditions, the keyword of labels, and the file of the mask, where there are such.
    """
    (data, split, size), (condition, label_argument, counts) = source, beside
    pictures = model is not None and model.is_pictures
    size = model.shape[1] if model is not None and pictures else size
    arguments = [f"split={_quoted(split or 'train')}", *([f"size={size}"] if size is not None else [])]
    arguments += [f"channels={model.shape[0]}"] if model is not None and pictures else []
    reading = ["import numpy as np", f"source = leapstep.data.read({_quoted(data)}, {', '.join(arguments)})"]
    conditions = [f"dict(np.load({_quoted(condition)}))"] if condition is not None else []
    conditions += [f"{{{_quoted(label_argument)}: source.labels}}"] if label_argument is not None else []
    if model is not None and model.classes:
        labels = "np.array([model.classes.index(source.classes[label]) for label in source.labels])"
        labels = f"np.full(len(source), {model.null_label})" if samples.labels is None else labels
        conditions.append(f'{{"class_labels": {labels}}}')
    lines = [*reading, f"condition = {' | '.join(conditions)}"] if conditions else ['condition = hints["condition"]']
    mask = 'hints["counts"]' if counts is None else f"np.load({_quoted(counts)})"
    return {
        "net": [],
        "data": [*reading, "data = np.array(source.values)"],
        "condition": lines,
        "counts": ["import numpy as np", f"counts = {mask}"],
    }


def _quoted(value: object) -> str:
    """A string of Python, in the quotes that all other lines have."""
    return json.dumps(str(value), ensure_ascii=False)
