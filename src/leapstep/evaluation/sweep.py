"""A table of quality against steps and noise: many specifications measured alike, in a folder that can be gone on with.

All cells share their start noise, so their differences are known far better than their values. A cell is in
`results.json` as soon as it is measured, and the samples of the one in work are kept batch by batch in `part.npz`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from leapstep import files
from leapstep.core.finite import NotFinite
from leapstep.evaluation import results
from leapstep.evaluation.cells import Cell, advice, as_json, sort
from leapstep.evaluation.distances import METRICS
from leapstep.evaluation.drawing import USUAL, Part, batches, gather, load_part, save_part, warm_up
from leapstep.evaluation.extraction import extraction
from leapstep.evaluation.planning import left_out, plan
from leapstep.evaluation.sharding import Arriving, Tallying, order, specs_of_job
from leapstep.evaluation.tally import Tally, blocks_for, condition
from leapstep.evaluation.yardstick import Measure, comparable, reference, trained_on
from leapstep.files import folders
from leapstep.files.cache import hash_of
from leapstep.inference.execution import Execution, choose
from leapstep.inference.fields import AUTO
from leapstep.inference.provenance import versions
from leapstep.inference.spec import DTYPES, SamplingSpec, SpecError
from leapstep.models import checkpoint
from leapstep.models.checkpoint import fingerprint
from leapstep.models.data import parts_of, warn
from leapstep.models.model import Model
from leapstep.progress import progress_bar
from leapstep.text import allowed
from leapstep.workers import TORCHRUN, Workers, leads
from leapstep.workers.job import Job

RESULTS = folders.Kind(
    "results.json", "cells", r"results\.json|table\.(md|csv)|quality\.png|part\.npz|shards-[0-9a-f]{8}"
)
"""A folder of a sweep."""

OnCalls = Callable[[SamplingSpec | None, int, bool], object]
"""Is told of calls of the network, see `Run.finish`."""

APART = ("method", "options", "steps", "spacing")
"""The fields of specifications that tell cells apart."""


@dataclasses.dataclass
class Sweep:
    """What a sweep has measured so far.

    Attributes:
        model: how it is called.
        spec: what all cells share; their method, options, steps and spacing are their own.
        conditions: what the numbers depend on besides the specifications, as JSON.
        metric: by which the cells are judged.
        relation: of the reference to the model, see `holdout.relation`.
        cells: in the order in which they were measured, see `leapstep.evaluation.cells`.
        warnings: what speaks against the numbers.
        advice: what to take, a line each.
        finished: whether all cells are there.
        folder: where it lies, if anywhere.
    """

    model: str
    spec: SamplingSpec | None
    conditions: dict[str, Any]
    metric: str = "frechet"
    relation: str = "?"
    cells: list[Cell] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    advice: list[str] = dataclasses.field(default_factory=list)
    finished: bool = False
    folder: Path | None = None

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"Sweep({self.model!r}, {len(self.cells)} cells by {self.metric}, {state}, folder={self.folder})"

    @classmethod
    def read(cls, folder: str | Path) -> Sweep:
        """Read the folder of a sweep.

        Raises:
            OSError: there is no `results.json`, or it cannot be read.
            ValueError: it holds something else.
        """
        path = Path(folder) / "results.json"
        content = results.read(path)
        if "cells" not in content:
            raise ValueError(
                f"{path} holds one result, of `leapstep evaluate`: name a folder that `leapstep sweep` made"
            )
        spec = SamplingSpec.from_json(content["spec"]) if "spec" in content else None
        names = {field.name for field in dataclasses.fields(cls)} - {"spec", "folder"}
        known = {name: value for name, value in content.items() if name in names and value is not None}
        return cls(**({"model": ""} | known), spec=spec, folder=Path(folder))

    def to_json(self) -> dict[str, Any]:
        """As `results.json` keeps it."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content.pop("folder")
        return content | {"spec": None if self.spec is None else self.spec.to_json()}

    def save(self) -> None:
        """Write `results.json`, where it has a folder."""
        if self.folder is not None:
            files.write_json(self.folder / RESULTS.mark, self.to_json())


class Run:
    """A sweep that is ready to be run: everything is checked, and nothing has been written yet.

    Attributes:
        model: whose samples are measured.
        specs: the cells that are asked for, checked against the model.
        yardstick: what the samples are measured against.
        sweep: what is there so far.
        execution: how the network is computed, in all cells alike.
        open: whether that was left to choose.
        workers: who draws the samples, in shards; None: this process.
    """

    def __init__(
        self,
        model: Model,
        data: str | Path | None,
        specs: Sequence[SamplingSpec],
        measure: Measure | None = None,
        *,
        metric: str = "frechet",
        split: str | None = None,
        source: str = "",
        workers: Workers | None = None,
        tell: Callable[[str], object] = warn,
    ) -> None:
        measure = measure or Measure()
        if metric not in METRICS or (measure.metrics and metric not in measure.metrics):
            raise SpecError("metric", metric, allowed(metric, measure.metrics or METRICS))
        if len({tuple((name, value) for name, value in _shared(spec).items()) for spec in specs}) != 1:
            raise ValueError("the specifications of a sweep differ in more than method, options, steps and spacing")
        self.model = model
        origin = trained_on(model.details, source or "the model") if data is None else str(data)
        self.specs = [spec.checked(model) for spec in specs]
        real = reference(parts_of(model, origin), model.details, origin, split, tell)
        self.yardstick = measure.against(real, model.device, extraction(model, workers))
        if metric == "inception_score" and self.yardstick.features.probabilities is None:
            raise SpecError("metric", metric, f"needs a classifier, which features {measure.features} lack")
        compared = [comparable(model, spec, real.labels) for spec in self.specs]
        first = compared[0][0]
        self.blocks = blocks_for(self.yardstick, first.n, first.batch_size, measure.merged)
        self.workers = Workers() if workers is None and self.blocks is not None else workers
        self.open = any(spec.dtype == AUTO for spec, _ in compared)
        # workers choose on their own devices, when they begin
        self.execution = Execution() if self.workers else choose(model, *(spec for spec, _ in compared))
        dtype = AUTO if self.workers and self.open else self.execution.dtype
        self.specs = [dataclasses.replace(spec, dtype=dtype) for spec, _ in compared]
        conditions = {
            "model_sha256": fingerprint(model.network),
            **self.yardstick.conditions,
            **compared[0][1],
            **condition(self.blocks),
            **self.execution.condition,
            "versions": versions(),
        }
        shared = dataclasses.replace(self.specs[0], method="ddim", options={}, steps=None, spacing=None, times=None)
        self.sweep = Sweep(source, shared, conditions, metric, real.relation)

    @property
    def missing(self) -> list[SamplingSpec]:
        """The specifications that are not measured yet."""
        measured = [{name: cell[name] for name in APART} for cell in self.sweep.cells]
        return [spec for spec in self.specs if _apart(spec) not in measured]

    def work(self, spec: SamplingSpec) -> int:
        """How often the network is called for single samples of a specification, about."""
        return spec.entry.calls * (spec.steps or 1) * spec.n

    def begin(self, folder: Path, overwrite: bool = False, leads: bool = True) -> None:
        """Take a folder, of which the lock is held: a new one, or that of an earlier sweep, which goes on.

        Arguments:
            overwrite: begin anew where there are results.
            leads: False: another process takes it, and holds the lock; see `leapstep.workers.running.leads`.
        Raises:
            ValueError: it holds something else, or cells that were measured under other conditions.
        """
        sweep, earlier = self.sweep, None if overwrite else _earlier(folder)
        if earlier is not None:
            self._go_on(earlier)
            results.check_conditions(folder, earlier.conditions if earlier.cells else {}, sweep.conditions)
            sweep.cells, sweep.warnings = earlier.cells, earlier.warnings
        elif leads:
            folders.begin(folder, overwrite, RESULTS, sweep.to_json())
        sweep.folder = folder
        if leads:
            folders.tidy(folder)
            self._record()

    def _go_on(self, earlier: Sweep) -> None:
        """Compute in what the cells of an earlier sweep were computed in, where nobody asked for a dtype."""
        dtype = str(earlier.conditions.get("dtype", "float32"))
        if self.open and earlier.cells and dtype in DTYPES and dtype != self.execution.dtype:
            self._compute_in(Execution(dtype))

    def _compute_in(self, execution: Execution) -> None:
        """Compute in what was chosen elsewhere."""
        self.execution, dtype = execution, execution.dtype
        self.specs = [dataclasses.replace(spec, dtype=dtype) for spec in self.specs]
        self.sweep.conditions.pop("dtype", None)
        self.sweep.conditions.update(self.execution.condition)
        if self.sweep.spec is not None:
            self.sweep.spec = dataclasses.replace(self.sweep.spec, dtype=dtype)

    def finish(
        self,
        on_cell: Callable[[Sweep], object] = lambda sweep: None,
        on_calls: OnCalls = lambda spec, calls, before: None,
        progress: bool = True,
    ) -> Sweep:
        """Measure what is missing.

        Arguments:
            on_cell: called after each cell, when it is in the folder.
            on_calls: called with the specification in work (None: workers draw those of several), the number of single
                samples for which the network was called since the last time, and whether that was in an earlier run.
            progress: whether workers show a bar.

        Raises:
            ValueError: samples that are not finite.
        """
        if self.workers is not None:
            return self._finish_elsewhere(self.workers, on_cell, on_calls, progress)
        sweep, missing = self.sweep, self.missing
        key = hash_of(sweep.conditions)
        path = None if sweep.folder is None else sweep.folder / "part.npz"
        if missing:
            warm_up(self.model, missing[0])
        try:
            for spec in missing:
                part = self._drawn(spec, path, key + json.dumps(_apart(spec)), on_calls)
                self._measure(spec, Tally.of(self.yardstick, part))
                if path is not None:
                    path.unlink(missing_ok=True)
                on_cell(sweep)
        except KeyboardInterrupt as stop:
            if sweep.folder is not None:
                kept = f"{len(sweep.cells)} of {len(self.specs)} cells are kept in {sweep.folder}"
                stop.add_note(f"{kept}: the same command goes on from there")
            raise
        sweep.finished = True
        self._record()
        return sweep

    def _drawn(self, spec: SamplingSpec, path: Path | None, key: str, on_calls: OnCalls) -> Part:
        """All samples of a cell, those that a stopped sweep has drawn among them."""
        part = None if path is None else load_part(path, key)
        done = 0 if part is None else len(part.seen)
        on_calls(spec, self.work(spec) * done // spec.n, True)
        if part is None or done < spec.n:
            rest = dataclasses.replace(spec, first=spec.first + done, n=spec.n - done)
            try:
                drawn = batches(self.model, rest, lambda calls: on_calls(spec, calls, False), self.execution)
                for part in gather(self.yardstick, drawn, part):  # noqa: B020
                    if path is not None:
                        save_part(path, key, part)
            except NotFinite as broken:
                raise ValueError(f"{spec.label}, {spec.steps} steps, {spec.spacing}: {broken}") from broken
        assert part is not None
        return part

    def _finish_elsewhere(
        self, workers: Workers, on_cell: Callable[[Sweep], object], on_calls: OnCalls, progress: bool
    ) -> Sweep:
        """As `finish`: workers draw the samples of all that is missing, and cells are measured here as they arrive."""
        sweep, missing = self.sweep, self.missing
        place = contextlib.nullcontext(self._shards(missing)) if sweep.folder else workers.place()
        with place as folder:
            if missing:
                drawn, total, seen = specs_of_job(folder) or order(missing), sum(map(self.work, missing)), -1
                cells = {[*map(_apart, drawn)].index(_apart(spec)): spec for spec in missing}
                work = Tallying(self.model, tuple(drawn), self.yardstick, self.blocks)
                arriving = Arriving(work, cells)

                def watch(job: Job, there: int) -> None:
                    nonlocal seen
                    self._compute_in(Execution(**job.settled))
                    before, seen = seen, total * there // job.n
                    on_calls(None, seen - max(0, before), before < 0)
                    for cell, tally in arriving.new(job):
                        self._measure(cells[cell], tally)
                        on_cell(sweep)

                finished = work.run(workers, folder, sweep.model, progress, None if workers.on == TORCHRUN else watch)
                watch(finished.job, finished.job.n)
            sort(sweep.cells, [_apart(spec) for spec in self.specs])
            sweep.finished = True
            self._record()
        if sweep.folder is not None and workers.on != TORCHRUN:
            shutil.rmtree(folder, ignore_errors=True)
        return sweep

    def _shards(self, missing: Sequence[SamplingSpec]) -> Path:
        """The folder of a job with all that is missing: one that was begun, or else a new one."""
        assert self.sweep.folder is not None
        wanted = [_apart(spec) for spec in missing]
        for path in sorted(self.sweep.folder.glob("shards-*")):
            if all(cell in map(_apart, specs_of_job(path) or ()) for cell in wanted):
                return path
        return self.sweep.folder / f"shards-{hash_of([spec.to_json() for spec in missing])[:8]}"

    def _measure(self, spec: SamplingSpec, tally: Tally) -> None:
        """Make a cell of the samples of a specification."""
        metrics, doubts = tally.measured()
        replicates = {name: [float(f"{x:.6g}") for x in found.replicates] for name, found in metrics.items()}
        cell = {**_apart(spec), "label": spec.label, "calls": tally.calls, **tally.seconds, "n": spec.n}
        self.sweep.cells.append({**cell, "metrics": as_json(metrics), "replicates": replicates})
        self.sweep.warnings = doubts  # those of any cell are those of all: it is their number that counts
        self._record()

    def _record(self) -> None:
        """Write what is there."""
        self.sweep.advice = advice(self.sweep.cells, self.sweep.metric, self.yardstick.spread)
        self.sweep.save()


def _apart(spec: SamplingSpec) -> dict[str, Any]:
    """What tells a cell from the others; a fitted solver has no spacing."""
    said = spec.to_json()
    return {name: said[name] for name in said if name in APART} | {"spacing": spec.spacing or ""}


def _shared(spec: SamplingSpec) -> dict[str, Any]:
    """What the cells of a sweep have in common."""
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.name not in APART}


def _earlier(folder: Path) -> Sweep | None:
    """What an earlier sweep into this folder has measured; None where there was none."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return Sweep.read(folder)
    return None


def sweep(
    model: Model | str | Path,
    data: str | Path | None = None,
    specs: Sequence[SamplingSpec] | None = None,
    measure: Measure | None = None,
    *,
    methods: Sequence[str] | None = None,
    etas: Sequence[str | float] | None = None,
    steps: Sequence[int] | None = None,
    spacings: Sequence[str] | None = None,
    spec: SamplingSpec = USUAL,
    metric: str = "frechet",
    split: str | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    source: str = "",
    device: torch.device | str | None = None,
    on: str | None = None,
    shard: int | None = None,
    workers: int | None = None,
    tell: Callable[[str], object] = warn,
    progress: bool = True,
) -> Sweep:
    """Measure samples for many methods, noises and steps: the table of the DDIM paper for a model.

    Arguments:
        model: it, or where it lies.
        data: real data, see `leapstep.data.read`; None: what the model was trained on.
        specs: the cells, which differ in method, options, steps and spacing alone; None: those of `plan` for the
            `methods`, `etas`, `steps` and `spacings`, with all else as in `spec`.
        measure: the features and metrics.
        metric: the one by which cells are judged.
        split: the part of the data that is the reference; None: "test", or all where nothing is held out.
        folder: where `results.json` is kept; a sweep that was stopped goes on there. None: nowhere.
        overwrite: begin anew in a folder that has results.
        source: how the results name the model.
        device: where a model that is loaded here runs; None: on the CPU, of workers the best that they have.
        on, shard, workers: who draws the samples of all cells in shards, as of `leapstep.evaluate`; None: this process.
        tell: called with a line on what is left out, or was done to the data.
        progress: show a bar on stderr.

    Returns:
        the cells, with advice on what to take. `leapstep.views.tables` shows them.

    Raises:
        ValueError: what does not fit the model, or a folder that holds something else.

    References:
        Song et al. 2021, arXiv:2010.02502, table 1.
    """
    elsewhere = None if on is None else Workers.named(on, shard, folder, device, workers)
    if not isinstance(model, Model):
        model, source = checkpoint.load(model, "cpu" if on or device is None else device), source or str(model)
    if specs is None:
        if line := left_out(model, steps):
            tell(line)
        specs = plan(model, spec, methods=methods, etas=etas, steps=steps, spacings=spacings)
    run = Run(model, data, specs, measure, metric=metric, split=split, source=source, workers=elsewhere, tell=tell)
    with contextlib.ExitStack() as held:
        if folder is not None:
            begins = on is None or leads(on, overwrite)
            held.enter_context(folders.locked(Path(folder)) if begins else contextlib.nullcontext())
            run.begin(Path(folder), overwrite, begins)
        if run.workers is not None:
            return run.finish(progress=progress)
        bar = held.enter_context(progress_bar(sum(map(run.work, run.missing)), "sweeping", "call", show=progress))
        return run.finish(on_calls=lambda spec, calls, before: bar.update(calls))
