"""Latents in a file: the start noise that data were encoded to, with what is needed to decode it.

`latents.npz` holds `latents` and `original` `[k, *d]`, in model space and in the units of files, and `record`, a JSON
object as bytes: the specification by which they were encoded, the model and the hash of its weights, and the errors of
the way there and back; those of a data set are an array of their own, `errors` `[k]`.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapstep import files
from leapstep.core.denoiser import Diffusion
from leapstep.core.editing import blended
from leapstep.core.interpolation import slerp
from leapstep.core.sampling import decode
from leapstep.core.spacing import times_below
from leapstep.files import reading
from leapstep.inference import fields
from leapstep.inference.encoding import OnStep, check_reversible
from leapstep.inference.engine import Array
from leapstep.inference.execution import as_specified
from leapstep.inference.spec import SamplingSpec
from leapstep.models.checkpoint import fingerprint
from leapstep.models.model import Model

FILE = "latents.npz"


class Latents(NamedTuple):
    """What `leapstep invert` writes.

    Attributes:
        x: at the first of the specification's times, `[k, *d]`, in model space.
        original: the data, as files hold them, `[k, *d]`.
        spec: by which they were encoded, checked; latent i is of the class that the labels have for i.
    """

    x: Tensor
    original: Array
    spec: SamplingSpec


def write_latents(path: Path, arrays: Mapping[str, Array], record: Mapping[str, Any]) -> None:
    """Write arrays, `latents` and `original` among them; the record holds the specification as `spec`, and
    `weights_sha256`."""
    said = np.frombuffer(json.dumps(record, allow_nan=False).encode(), dtype=np.uint8)
    files.write_npz(path, {**arrays, "record": said})


def read_latents(path: str | Path, model: Model) -> Latents:
    """Read latents for a model, from a file or from the folder that holds it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else, or latents of another shape.
    Warns:
        UserWarning: latents of other weights.
    """
    path = file_in(path)
    arrays = reading.read_npz(path)
    try:
        record = reading.parse_json(bytes(arrays["record"].astype(np.uint8)).decode(), "the record")
        said, sha256 = fields.parsed(record["spec"]), str(record["weights_sha256"])
        x, original = torch.from_numpy(arrays["latents"]), arrays["original"]
        if not x.is_floating_point() or len(x) == 0 or original.shape != x.shape or said.get("times") is None:
            raise ValueError("they do not fit each other")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no latents as leapstep invert writes them: {error}") from error
    if x.shape[1:] != model.shape:
        raise ValueError(
            f"{path} holds latents of shape {list(x.shape[1:])}: the model's samples are {list(model.shape)}"
        )
    spec = SamplingSpec(**said).checked(model)
    if sha256 != fingerprint(model.network):
        warnings.warn(
            f"{path} was encoded by other weights than these, which decode it to something else", stacklevel=2
        )
    return Latents(x, original, spec)


def file_in(path: str | Path) -> Path:
    """The file of latents that is meant by its name, or by that of its folder."""
    return Path(path) / FILE if Path(path).is_dir() else Path(path)


def decoding(model: Model, latents: Latents, stated: Mapping[str, Any]) -> SamplingSpec:
    """The specification by which latents are decoded: their own, but for what is stated otherwise.

    Other steps and spacings begin at the time to which the latents belong.

    Arguments:
        stated: fields of a specification.
    Raises:
        ValueError: what `SamplingSpec.checked` and `check_reversible` raise.
    """
    own = latents.spec
    said = {field.name: getattr(own, field.name) for field in dataclasses.fields(SamplingSpec)}
    if stated.get("method", own.method) != own.method:
        said["options"] = {}
    spec = SamplingSpec(**{**said, **stated, "times": None, "steps": None}).checked(model)
    check_reversible(model, spec)
    path, adaptive = own.times_for(model), spec.entry.calls == 0
    same = "spacing" not in stated and adaptive == (own.entry.calls == 0)
    asked = stated.get("steps") or (path.tolist() if same else 1 if adaptive else None)
    spacing = stated.get("spacing") or ("trailing" if adaptive else "leading")
    path = times_below(model.process, path[0].item(), asked, spacing)
    return dataclasses.replace(spec, times=tuple(path.tolist()), steps=None, spacing=None).checked(model)


class Decoding(NamedTuple):
    """What to make of a latent.

    Attributes:
        row: which latent it is.
        label: the number of the class under which it is decoded; None: any.
        other: of a second class that is blended in; None: none.
        fraction: how far this lies from the first towards the second of what is blended, None where nothing is.
    """

    row: int
    label: int | None = None
    other: int | None = None
    fraction: float | None = None


def each_under(model: Model, latents: Latents, labels: Sequence[str | int] | None) -> tuple[Tensor, list[Decoding]]:
    """Each latent under each of some classes, or under its own; the first latent's come first."""
    k = len(latents.x)
    if labels is None:
        return latents.x, [Decoding(row, label) for row, label in enumerate(_own_labels(model, latents))]
    numbers = _numbers(model, latents, labels)
    return latents.x, [Decoding(row, label) for row in range(k) for label in numbers]


def between(
    model: Model, latents: Latents, labels: Sequence[str | int] | None, fractions: Sequence[float]
) -> tuple[Tensor, list[Decoding]]:
    """What lies between two latents on the arc from one to the other, or between one under two classes, or both.

    Arguments:
        labels: one class for all, or two to go between; None: those of the latents.
        fractions: from 0, the first, to 1, the second.
    Returns:
        the latents, one for each fraction, and what to make of them.
    Raises:
        ValueError: there is nothing, or more than two, to go between; latents with other conditions than labels.
    """
    ends = _own_labels(model, latents) if labels is None else _numbers(model, latents, labels)
    k, *first_and_last = len(latents.x), ends[0], ends[-1]
    if k > 2 or len(ends) > 2 or (k == 1 and first_and_last[0] == first_and_last[1]):
        raise ValueError(
            f"a blend goes between two latents, or between two labels of one, and here are {k} latents and "
            f"{len(set(ends))} labels"
        )
    if latents.spec.conditions is not None:
        raise ValueError(
            "a blend goes between latents and between labels, and these have other conditions: leave it out"
        )
    one, other = (end.expand(len(fractions), *end.shape) for end in (latents.x[0], latents.x[-1]))
    x = one if k == 1 else slerp(one, other, torch.tensor(list(fractions), dtype=torch.float64))
    label, second = first_and_last
    second = None if second == label else second
    return x, [Decoding(row, label, second, fraction) for row, fraction in enumerate(fractions)]


def _own_labels(model: Model, latents: Latents) -> list[int | None]:
    numbers = latents.spec.labels_for(model, range(len(latents.x)))
    return [None] * len(latents.x) if numbers is None else numbers.tolist()


def _numbers(model: Model, latents: Latents, labels: Sequence[str | int]) -> list[int]:
    """The numbers of classes that are given by name or number."""
    spec = dataclasses.replace(latents.spec, labels=tuple(labels)).checked(model)
    return [int(label) for label in spec.labels or ()]


def decoded(
    model: Model,
    spec: SamplingSpec,
    latents: Tensor,
    wanted: Sequence[Decoding],
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Decode latents, each as it is wanted.

    Arguments:
        spec: as `decoding` returns it.
        latents: `[k, *d]`.
        wanted: n of them.
    Returns:
        `[n, *d]`, in model space, on the CPU.
    """
    model = as_specified(model, spec)
    parts = []
    for low in range(0, len(wanted), spec.batch_size):
        batch = wanted[low : low + spec.batch_size]
        rows = [one.row for one in batch]
        diffusion = _under(model, spec, rows, [one.label for one in batch])
        if any(one.other is not None for one in batch):
            fraction = torch.tensor([one.fraction or 0.0 for one in batch], dtype=torch.float64)
            diffusion = blended(diffusion, _under(model, spec, rows, [one.other for one in batch]), fraction)
        x = latents[rows].to(model.device, spec.state_dtype)
        parts.append(decode(diffusion, x, spec.times_for(model), spec.transition(model), on_step=on_step).cpu())
    return torch.cat(parts)


def _under(model: Model, spec: SamplingSpec, rows: Sequence[int], labels: Sequence[int | None]) -> Diffusion:
    """The model under these classes, with the other conditions of these rows."""
    named = tuple(label for label in labels if label is not None) or None
    return dataclasses.replace(spec, labels=named).diffusion(model, range(len(rows)), spec.conditions_for(rows))
