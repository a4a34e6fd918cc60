"""Likelihoods, reconstructions and latents of data sets, in shards that any number of workers make.

Data travel by name: each worker reads them where it is, batch by batch. A shard holds what came of a range of samples;
what is merged in the end, in order of index and one shard in memory at a time, is what one process finds.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapstep import files
from leapstep.files import reading
from leapstep.inference.encoding import joined, reconstructions
from leapstep.inference.engine import Array, values
from leapstep.inference.likelihood import Likelihood, Measured
from leapstep.inference.provenance import provenance
from leapstep.inference.spec import SamplingSpec
from leapstep.inference.store import depends
from leapstep.models.data import Chosen, Selection
from leapstep.models.model import Model
from leapstep.workers import Finished, Make

CALLS = "calls"
"""The name of the calls of the network among the terms of a shard of likelihoods."""


def _key(record: Mapping[str, Any], chosen: Chosen) -> dict[str, Any]:
    """What results depend on, of what their record says, and the data; see `leapstep.workers.run`."""
    return depends(record) | {"chosen": chosen._asdict()}


# --- likelihoods ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Measuring:
    """The likelihoods of samples as work: a shard holds the terms of each, in nats; see `leapstep.workers.Work`.

    Attributes:
        options: all of the method, see `Likelihood`.
        conditions, seed, batch_size: see `Likelihood.measure`.
    """

    model: Model
    method: str
    options: Mapping[str, Any]
    chosen: Chosen
    conditions: str | None
    seed: int
    batch_size: int
    what: str = "measuring"
    unit: str = "sample"
    suffix: str = ".npz"

    def key(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What results depend on, of which their record says a part; see `leapstep.workers.run`."""
        variance: dict[str, Any] = {"variance": "optimal"} if self.options.get("variance") == "optimal" else {}
        depends = provenance(self.model, SamplingSpec(options=variance, conditions=self.conditions))
        return _key({**depends, **record}, self.chosen)

    def start(self, device: str, settled: Mapping[str, Any]) -> Make:  # noqa: D102
        model = self.model.to(device)
        likelihood, samples = Likelihood(model, self.method, **self.options), self.chosen.read(model)

        def make(rows: range, path: Path) -> Mapping[str, Any]:
            found = likelihood.measure(
                samples, rows, conditions=self.conditions, seed=self.seed, batch_size=self.batch_size
            )
            terms = {name: nats.numpy() for name, nats in found.terms.items()}
            files.write_npz(path, terms | {CALLS: np.array(found.calls)})
            return {"seconds": round(found.seconds, 3)}

        return make


def measured(finished: Finished) -> Measured:
    """What `Measuring` found of all samples."""
    parts = []
    for arrays, record in _read(finished):
        calls = int(arrays.pop(CALLS))
        terms = {name: torch.from_numpy(nats) for name, nats in arrays.items()}
        parts.append(Measured(terms, calls, record.get("seconds", 0.0)))
    return Measured.joined(parts)


def _read(finished: Finished) -> Iterator[tuple[dict[str, Array], dict[str, Any]]]:
    """The arrays of each shard in order, and what was noted of it."""
    for path, record in zip(finished.paths, finished.records, strict=True):
        yield reading.read_npz(path), record


# --- there and back ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Encoding:
    """The encoding and decoding of samples as work; see `leapstep.workers.Work`.

    A shard of b samples holds, for k specifications, `errors [k, b]`, `calls [k]`, `again [s, k, *d]` of the s of its
    samples that are shown, `original [s, *d]`, and `notes`, JSON as bytes. With latents it holds `latents [b, *d]`
    of the first specification, and `original [b, *d]`. Data are as files hold them, latents in model space.

    Attributes:
        specs: checked, and alike but for their steps; where they have no labels, each sample is of its own class.
        shown: how many samples, from the first on, are kept decoded; None: all.
        exact: see `reconstruct`.
        latents: whether they are kept.
    """

    model: Model
    specs: tuple[SamplingSpec, ...]
    chosen: Chosen
    shown: int | None
    exact: bool = False
    latents: bool = False
    what: str = "encoding"
    unit: str = "sample"
    suffix: str = ".npz"

    def key(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What results depend on, of which their record says a part; see `leapstep.workers.run`."""
        return _key(dict(record) | {"spec": [spec.to_json() for spec in self.specs]}, self.chosen)

    def start(self, device: str, settled: Mapping[str, Any]) -> Make:  # noqa: D102
        model = self.model.to(device)
        samples = self.chosen.read(model)
        specs = [labelled(spec, samples) for spec in self.specs]

        def data(rows: range) -> tuple[Tensor, dict[str, Tensor]]:
            return samples.batch(rows), specs[0].conditions_for(samples.indices(rows))

        def make(rows: range, path: Path) -> Mapping[str, Any]:
            found = [
                joined([part for _, part in reconstructions(model, spec, data, rows, exact=self.exact)])
                for spec in specs
            ]
            kept = len(rows) if self.shown is None else min(len(rows), max(0, self.shown - rows.start))
            original = samples.batch(rows)[: None if self.latents else kept]
            arrays = {
                "errors": torch.stack([part.errors for part in found]).numpy(),
                "calls": np.array([part.calls for part in found]),
                "again": np.stack([values(model, part.x[:kept]) for part in found], 1),
                "original": values(model, original),
                "notes": np.frombuffer(json.dumps([part.notes for part in found]).encode(), np.uint8),
            }
            files.write_npz(path, arrays | ({"latents": found[0].latents.numpy()} if self.latents else {}))
            return {"seconds": [part.seconds for part in found]}

        return make


def labelled(spec: SamplingSpec, samples: Selection) -> SamplingSpec:
    """A specification of these samples, each of which is of its own class, unless it names classes itself."""
    labels = samples.labels(range(samples.n))
    if spec.labels is None and labels is not None:
        spec = dataclasses.replace(spec, labels=tuple(labels.tolist()))
    return dataclasses.replace(spec, n=samples.n)


class Encoded(NamedTuple):
    """What `Encoding` made of n samples: of each specification, and then of all.

    Attributes:
        errors: `[k, n]`, float64; see `leapstep.inference.encoding.squared_error`.
        calls, seconds, notes: as of a `Reconstruction`.
        arrays: `again`, `original` and `latents` as in shards, of all samples; mapped from a file.
    """

    errors: Tensor
    calls: list[int]
    seconds: list[float]
    notes: list[list[str]]
    arrays: dict[str, Array]


def encoded(finished: Finished) -> Encoded:
    """What `Encoding` made of all samples; no more than a shard of them is in memory."""
    errors, calls, seconds, notes = [], [], [], []
    stored: dict[str, _Stored] = {}
    for arrays, record in _read(finished):
        errors.append(torch.from_numpy(arrays.pop("errors")))
        calls.append(arrays.pop("calls"))
        notes.append(json.loads(arrays.pop("notes").tobytes()))
        seconds.append(record.get("seconds", [0.0] * len(notes[0])))
        for name, part in arrays.items():
            if name not in stored:
                stored[name] = _Stored(finished.job.folder, part)
            stored[name].put(part)
    return Encoded(
        torch.cat(errors, 1),
        np.stack(calls).max(0).tolist(),
        [round(sum(each), 3) for each in zip(*seconds, strict=True)],
        [sorted({note for part in each for note in part}) for each in zip(*notes, strict=True)],
        {name: each.mapped() for name, each in stored.items()},
    )


class _Stored:
    """An array that grows along its first axis, in a file without a name, which not even a crash leaves behind."""

    def __init__(self, folder: Path, like: Array) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.dtype, self.shape = like.dtype, like.shape[1:]

    def put(self, part: Array) -> None:
        """Put rows at the end."""
        self.file.write(np.ascontiguousarray(part).tobytes())

    def mapped(self) -> Array:
        """All rows; they need no memory."""
        with self.file:
            self.file.flush()
            return np.memmap(self.file, self.dtype, "r").reshape(-1, *self.shape)
