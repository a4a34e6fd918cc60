"""Samples drawn in shards by any number of workers: the very samples that one process draws."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from leapstep import files
from leapstep.data import shards
from leapstep.data.shards import FORMS, MANIFEST, Batch
from leapstep.files import folders, reading
from leapstep.inference.engine import draw, values
from leapstep.inference.execution import Execution, choose
from leapstep.inference.fields import AUTO
from leapstep.inference.spec import SamplingSpec
from leapstep.inference.store import GRID, RESULTS, check_place, depends, write_grid
from leapstep.models.model import Model
from leapstep.workers import Finished, Make, leads, run
from leapstep.workers.job import JOB

Batches = Callable[[range, Callable[[int], object]], Iterator[Batch]]
"""Draws the samples of a range of indices, counted from the first of the specification; the function that it is given
is called after each step with the calls of the network for a batch so far."""


class Drawing(Protocol):
    """What is drawn, as it travels to workers: a model or a pipeline, with its specification."""

    @property
    def spec(self) -> SamplingSpec:
        """What to draw; it is checked."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that labels number; empty where samples have none."""

    def settle(self, device: str) -> Mapping[str, Any]:
        """Choose on a worker what must be the same on all of them, as JSON."""

    def open(self, device: str, settled: Mapping[str, Any]) -> Batches:
        """Make ready to draw on a worker."""


@dataclasses.dataclass(frozen=True)
class OfModel:
    """Drawing from a model; see `Drawing`. Its weights travel in the memory of the processor."""

    model: Model
    spec: SamplingSpec

    def __reduce__(self) -> tuple[Any, ...]:
        return OfModel, (_on(self.model, "cpu"), self.spec)

    @property
    def classes(self) -> tuple[str, ...]:  # noqa: D102
        return () if self.spec.labels is None else self.model.classes

    def settle(self, device: str) -> Mapping[str, Any]:
        """The dtype of the network and how it is computed; see `leapstep.inference.execution`."""
        execution = choose(_on(self.model, device), self.spec)
        return {"dtype": execution.dtype, "execution": execution.to_json(), "device": torch.device(device).type}

    def open(self, device: str, settled: Mapping[str, Any]) -> Batches:  # noqa: D102
        execution = Execution.stated(settled["dtype"], settled["execution"])
        model = execution.of(_on(self.model, device))
        spec, as_it_is = dataclasses.replace(self.spec, dtype=execution.dtype), Execution(execution.dtype)

        def batches(rows: range, note: Callable[[int], object]) -> Iterator[Batch]:
            part = dataclasses.replace(spec, first=spec.first + rows.start, n=len(rows))
            drawn = draw(model, part, device=device, on_step=lambda state: note(state.calls), execution=as_it_is)
            for own, x in drawn:
                labels = spec.labels_for(model, own)
                yield Batch(own, values(model, x), None if labels is None else labels.tolist())

        return batches


def _on(model: Model, device: str) -> Model:
    """A model on a device, a copy where it is elsewhere."""
    here = torch.device(device)
    if model.device.type == here.type and here.index in (None, model.device.index):
        return model
    return dataclasses.replace(model, network=copy.deepcopy(model.network).to(here))


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The work of drawing samples into shards of a form; see `leapstep.workers.Work`."""

    drawing: Drawing
    form: str
    what: str = "sampling"
    unit: str = "sample"

    @property
    def suffix(self) -> str:  # noqa: D102
        return FORMS[self.form].suffix

    def settle(self, device: str) -> Mapping[str, Any]:  # noqa: D102
        return self.drawing.settle(device)

    def start(self, device: str, settled: Mapping[str, Any]) -> Make:  # noqa: D102
        batches, classes = self.drawing.open(device, settled), self.drawing.classes

        def make(rows: range, path: Path) -> Mapping[str, Any]:
            began, calls = time.perf_counter(), 0

            def note(count: int) -> None:
                nonlocal calls
                calls = max(calls, count)

            FORMS[self.form].write(path, len(rows), batches(rows, note), classes)
            return {"calls": calls, "seconds": round(time.perf_counter() - began, 3)}

        return make


def write_shards(
    drawing: Drawing,
    out: Path,
    manifest: Mapping[str, Any],
    *,
    on: str = "here",
    shard: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Draw samples into a folder of shards, with a manifest and a grid of the first pictures.

    Arguments:
        drawing: what is drawn.
        manifest: what is known of the samples before they are drawn, with their `format`, one of
            `leapstep.data.shards.FORMS`.
        on, shard, workers, device: see `leapstep.workers.run`.
        resume, overwrite, progress: see `leapstep.inference.writing.write_samples`.
    Returns:
        what the manifest says. Where torchrun has started several processes, that of those which end before the last
        counts no shards.
    Raises:
        ValueError: the folder is not to be had, or holds samples of another job.
    """
    spec, none = drawing.spec, {"finished": 0, "calls": 0, "seconds": 0.0, "shards": []}
    key = depends(manifest)
    manifest = {**manifest, "classes": list(drawing.classes), **none}
    shards.check_form(manifest["format"])
    check_place(out, resume, overwrite, on)
    if leads(on):
        with folders.locked(out):
            _begin(out, manifest, resume, overwrite)
    work = Sampling(drawing, manifest["format"])
    finished = run(
        work,
        out,
        key,
        spec.n,
        batch_size=spec.batch_size,
        shard=shard,
        on=on,
        workers=workers,
        device=device,
        settle=work.settle,
        progress=progress,
    )
    with finished.job.noting():
        return manifest | _close(out, manifest, finished) if finished.complete else manifest


def as_begun(spec: SamplingSpec, out: Path) -> SamplingSpec:
    """A specification with the dtype that the shards in a folder were begun with, if it may go on with that."""
    try:
        job = reading.read_json(out / JOB)
        before, settled = job["key"]["spec"]["dtype"], job["settled"]["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return spec
    return dataclasses.replace(spec, dtype=before) if spec.dtype in (AUTO, settled) else spec


def form_begun(out: Path) -> str | None:
    """The form of the shards in a folder; None where nobody can tell."""
    try:
        return str(reading.read_json(out / JOB)["key"]["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _begin(out: Path, manifest: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
    """Mark a new folder; in one that is gone on with, `run` looks whether it is that of the same job."""
    if not resume or not (out / MANIFEST).exists():
        folders.begin(out, overwrite or resume, RESULTS, manifest)
    elif shards.of_folder(out) is None:
        raise ValueError(f"{out} holds samples that are not in shards: --resume as they were begun")


def _close(out: Path, manifest: Mapping[str, Any], finished: Finished) -> dict[str, Any]:
    """Write the manifest of what is there, and the grid."""
    records, settled, first = finished.records, finished.settled, manifest["spec"]["first"]
    counted = {
        "spec": {**manifest["spec"], "dtype": settled["dtype"]},
        **{name: settled[name] for name in ("execution", "device") if name in settled},
        "finished": manifest["spec"]["n"],
        "calls": max(record.get("calls", 0) for record in records),
        "seconds": round(sum(record.get("seconds", 0.0) for record in records), 3),
        "shards": [
            {"file": path.name, "first": first + rows.start, "n": len(rows)}
            | {name: record[name] for name in ("bytes", "sha256", "device")}
            for path, rows, record in zip(finished.paths, finished.shards, records, strict=True)
        ],
    }
    files.write_json(out / MANIFEST, {**manifest, **counted})
    found = shards.of_folder(out)
    assert found is not None
    shown = found.first(GRID)
    if shards.are_pictures(shown.values):
        write_grid(out, shown.values, shown.labels)
    return counted
