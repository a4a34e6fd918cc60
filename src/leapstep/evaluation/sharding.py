"""Samples of one or several specifications, drawn and tallied in shards by any number of workers.

The indices of a job are those of the samples of all its cells, one cell after the other, each rounded up to whole
batches (blocks, where statistics are merged). A shard's file holds the tallies of its samples, cell by cell; merged in
order of index they are the tally that one process makes of all, to the bit.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leapstep.core.finite import NotFinite
from leapstep.evaluation.distances import Blocks
from leapstep.evaluation.drawing import batches
from leapstep.evaluation.tally import Tally
from leapstep.evaluation.yardstick import Yardstick
from leapstep.files import reading
from leapstep.inference.execution import Execution, choose
from leapstep.inference.provenance import versions
from leapstep.inference.spec import SamplingSpec
from leapstep.models.checkpoint import fingerprint
from leapstep.models.model import Model
from leapstep.workers import Finished, Make, Workers, run
from leapstep.workers.job import JOB, Job
from leapstep.workers.running import Watch


class Elsewhere(SystemExit):
    """Another process of the same job will find all shards and go on; this one has no more to do, and ends well."""


@dataclasses.dataclass(frozen=True)
class Tallying:
    """The work of drawing samples and tallying them; see `leapstep.workers.Work`.

    Attributes:
        model: whose samples are drawn.
        specs: what is drawn, a cell each, equally many samples; checked, but for the dtype.
        yardstick: by what they are measured.
        blocks: how the samples of a cell are cut; None: their features are kept.
        with_values: whether the values of those that are kept are kept too.
    """

    model: Model
    specs: tuple[SamplingSpec, ...]
    yardstick: Yardstick
    blocks: Blocks | None = None
    with_values: bool = False
    what: str = "sampling"
    unit: str = "sample"
    suffix: str = ".npz"

    @property
    def unit_size(self) -> int:
        """How many samples are tallied at once: a batch, or a block."""
        return self.specs[0].batch_size if self.blocks is None else self.blocks.size

    @property
    def stride(self) -> int:
        """How many indices each cell has, more than samples where the last unit is not full."""
        return -(-self.specs[0].n // self.unit_size) * self.unit_size

    def cells_in(self, rows: range) -> Iterator[tuple[int, range]]:
        """The cells in a range of indices of the job, and the indices of their samples in it."""
        for cell in range(rows.start // self.stride, -(-rows.stop // self.stride)):
            first = cell * self.stride
            own = range(max(rows.start - first, 0), min(rows.stop - first, self.specs[0].n))
            if own:
                yield cell, own

    def settle(self, device: str) -> Mapping[str, Any]:
        """Choose on a worker what the network computes in, for all of them."""
        return dataclasses.asdict(choose(self.model.to(device), *self.specs))

    def start(self, device: str, settled: Mapping[str, Any]) -> Make:
        """See `leapstep.workers.Work`."""
        execution, model = Execution(**settled), self.model.to(device)
        yardstick = dataclasses.replace(self.yardstick, features=self.yardstick.features.on(device))
        if self.blocks is not None:
            yardstick.__dict__["against"] = self.yardstick.against  # which was made once, and travelled with it

        def make(rows: range, path: Path) -> Mapping[str, Any]:
            began = time.perf_counter()
            arrays: dict[str, Any] = {}
            for cell, own in self.cells_in(rows):
                spec = dataclasses.replace(
                    self.specs[cell],
                    first=self.specs[cell].first + own.start,
                    n=len(own),
                    dtype=execution.dtype,
                )
                tally = Tally(yardstick, self.blocks, own.start, self.with_values)
                try:
                    tally.add(batches(model, spec, execution=execution))
                except NotFinite as broken:
                    raise ValueError(f"{spec.label}, {spec.steps} steps, {spec.spacing}: {broken}") from broken
                arrays |= {f"{cell}/{name}": value for name, value in tally.to_arrays().items()}
            with path.open("wb") as file:
                np.savez(file, **arrays)
            return {"seconds": round(time.perf_counter() - began, 3)}

        return make

    def run(
        self, workers: Workers, folder: Path, source: str, progress: bool = True, watch: Watch | None = None
    ) -> Finished:
        """Make what is missing of the job in a folder.

        Arguments:
            source: how the model is called.
            progress, watch: as of `leapstep.workers.run`.
        Raises:
            Elsewhere: under torchrun, where other processes are still at work.
        """
        key = {
            "model": source,
            "model_sha256": fingerprint(self.model.network),
            "specs": [spec.to_json() for spec in self.specs],
            "blocks": None if self.blocks is None else self.blocks._asdict(),
            "values": self.with_values,
            **{name: value for name, value in self.yardstick.conditions.items() if name != "features_source"},
            "versions": versions(),
        }
        finished = run(
            self,
            folder,
            key,
            self.stride * len(self.specs),
            batch_size=self.unit_size,
            shard=workers.shard,
            **workers.options,
            settle=self.settle,
            progress=progress,
            watch=watch,
        )
        if not finished.complete:
            raise Elsewhere(0)
        return finished

    def files_of(self, job: Job, cell: int) -> Iterator[Path]:
        """The shards with samples of a cell, in order."""
        first, last = cell * self.stride, (cell + 1) * self.stride - 1
        return map(job.path, range(first // job.shard, last // job.shard + 1))

    def collected(self, job: Job, cell: int) -> Tally:
        """The tally of all samples of a cell, all of whose shards are there; one file is in memory at a time."""
        tally = Tally(self.yardstick, self.blocks, with_values=self.with_values)
        for path in self.files_of(job, cell):
            own = {
                name.partition("/")[2]: value
                for name, value in reading.read_npz(path).items()
                if name.partition("/")[0] == str(cell)
            }
            if own:
                tally.take(own)
        return tally


class Arriving:
    """Cells of a job, each as soon as all of its shards are there.

    Arguments:
        work: of the job.
        cells: their numbers.
    """

    def __init__(self, work: Tallying, cells: Iterable[int]) -> None:
        self.work, self.waiting = work, dict.fromkeys(cells, 0)

    def new(self, job: Job) -> Iterator[tuple[int, Tally]]:
        """Those that were not there when this was called last, and what their samples tally to."""
        for cell in list(self.waiting):
            paths = [*self.work.files_of(job, cell)]
            while self.waiting[cell] < len(paths) and paths[self.waiting[cell]].exists():
                self.waiting[cell] += 1
            if self.waiting[cell] == len(paths):
                del self.waiting[cell]
                yield cell, self.work.collected(job, cell)


def specs_of_job(folder: Path) -> list[SamplingSpec] | None:
    """The cells of a job that was begun in a folder; None where none was, or nobody can tell."""
    try:
        return [SamplingSpec.from_json(spec) for spec in reading.read_json(folder / JOB)["key"]["specs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def order(specs: Sequence[SamplingSpec]) -> list[SamplingSpec]:
    """The cells of a job: first one of about the mean number of calls, by which shards are cut, then the dearest."""
    calls = [spec.entry.calls * (spec.steps or 1) for spec in specs]
    mean = sum(calls) / len(calls)
    usual = min(range(len(specs)), key=lambda i: abs(calls[i] - mean))
    rest = sorted((i for i in range(len(specs)) if i != usual), key=lambda i: -calls[i])
    return [specs[i] for i in (usual, *rest)]
