"""How far samples are from real data, and whether they are copies of it: of one specification, or of a folder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapstep.data.dataset import Data, NoSplit
from leapstep.data.readers import read
from leapstep.data.values import Rows, Values
from leapstep.evaluation.cells import as_json
from leapstep.evaluation.distances import METRICS, Blocks, Estimate, Memorisation, memorisation
from leapstep.evaluation.drawing import USUAL, Batch, batches
from leapstep.evaluation.extraction import extraction
from leapstep.evaluation.sharding import Tallying
from leapstep.evaluation.tally import FIRST, Tally, blocks_for, condition
from leapstep.evaluation.yardstick import (
    Measure,
    Reference,
    Yardstick,
    comparable,
    features_of,
    reference,
    taken,
    trained_on,
)
from leapstep.files import reading
from leapstep.inference.engine import Array
from leapstep.inference.execution import Execution, choose
from leapstep.inference.provenance import provenance, versions
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.inference.store import FINAL, PART
from leapstep.models import checkpoint
from leapstep.models.data import Parts, parts_of, shared_parts, warn
from leapstep.models.model import Model
from leapstep.progress import progress_bar
from leapstep.workers import Workers

PAIRS = 12
"""How many of the pairs of a sample and its nearest training sample a result names."""

PAIRWISE, MANY = ("kernel", "precision", "recall", "density", "coverage"), 200_000
"""Metrics that compare all pairs of real samples, and of how many of these a line says so."""


class Copies(NamedTuple):
    """The search for copies of training data among samples.

    Attributes:
        memorisation: what it found, see `distances.memorisation`.
        training: the data that the model was trained on.
        known: what the distances are compared with, in words.
        order: which ones of a folder the samples are [n]; None: the first, or those that a model draws.
    """

    memorisation: Memorisation
    training: Data
    known: str
    order: Rows | None = None

    def to_json(self) -> dict[str, Any]:
        """As a result file keeps it, with the closest pairs as [sample, training sample, ratio]."""
        found, numbers = self.memorisation, range(len(self.memorisation.ratio)) if self.order is None else self.order
        return {
            "samples": len(found.ratio),
            "training": len(self.training),
            "known": self.known,
            **as_json({"relative": found.relative, "share": found.share, "expected": found.expected}),
            "threshold": found.threshold,
            "median_ratio": found.ratio.median().item(),
            "nearest": [
                [int(numbers[i]), int(found.index[i]), float(found.ratio[i])] for i in found.ratio.argsort()[:PAIRS]
            ],
        }


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured of samples.

    Attributes:
        metrics: estimates by name.
        conditions: what they depend on besides the model and the specification, as JSON.
        origin: how the samples were made: their provenance with the specification, calls and seconds; or their folder.
        relation: of the reference to the model, see `holdout.relation`.
        warnings: what speaks against the estimates.
        copies: of training data, where these are known.
        values: the samples as they were measured: pixels [n, c, h, w], or numbers [n, *d]; the first of them where
            statistics were merged.
    """

    metrics: Mapping[str, Estimate]
    conditions: Mapping[str, Any]
    origin: Mapping[str, Any]
    relation: str
    warnings: list[str]
    copies: Copies | None
    values: Array

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {estimate}" for name, estimate in self.metrics.items())
        return f"Evaluation({self.conditions['n']} samples, {metrics})"

    def to_json(self) -> dict[str, Any]:
        """As `leapstep evaluate --out` writes it."""
        record = {
            "evaluation": dict(self.origin),
            "conditions": dict(self.conditions),
            "metrics": as_json(self.metrics),
            "relation": self.relation,
            "warnings": self.warnings,
        }
        return record if self.copies is None else record | {"memorisation": self.copies.to_json()}


def evaluate(
    samples: Model | str | Path,
    data: str | Path | None = None,
    spec: SamplingSpec = USUAL,
    measure: Measure | None = None,
    *,
    split: str | None = None,
    train_split: str | None = None,
    size: int | None = None,
    source: str | None = None,
    pairs: bool = False,
    device: torch.device | str | None = None,
    on: str | None = None,
    shard: int | None = None,
    workers: int | None = None,
    folder: str | Path | None = None,
    tell: Callable[[str], object] = warn,
    progress: bool = True,
) -> Evaluation:
    """Measure samples against real data, and look for copies of training data among them.

    Of more than 50,000 samples (`Measure.merged`), statistics are merged and the first 10,000 are kept: of these are
    the recall, the search for copies and `Evaluation.values`. Memory then does not grow with the number of samples.

    Arguments:
        samples: a model to draw them from, or where it lies; or samples: a folder of images or of `leapstep sample`, an
            npy or npz file.
        data: real data, see `leapstep.data.read`; None: what the model was trained on.
        spec: how a model's samples are drawn, by default 1000. Without labels, a model of classes draws them as often
            as they are in the reference. Of samples in a folder `spec.n` are taken, see `yardstick.taken`.
        measure: the features and metrics.
        split: the part of the data that is the reference; None: "test", or all where nothing is held out.
        train_split: the part that the model was trained on; None: "train", where there is one.
        size: side that a folder's pictures are cut and resized to, pixels.
        source: how the result names the model; None: as it was given.
        pairs: the closest pairs of a sample and a training sample are to be looked at: raise ValueError before the work
            where there are none, or they are no pictures.
        device: where a model that is loaded here and the networks of features run; None: where the model is.
        on, shard, workers: who draws a model's samples in shards, how large these are, and how many workers Ray is
            asked for, see `leapstep.workers.run`; `device` is then that of workers, and the numbers are the same. The
            features of real data that are not in the cache are made by them, too. None: this process draws them, and
            writes no file.
        folder: of these shards, which all workers see; it is left there, so that what was stopped goes on. None: a
            temporary one, where all workers are on this machine.
        tell: called with a line on what was done to the data to make them comparable.
        progress: show a bar on stderr.

    Returns:
        the metrics with 95 % intervals, their conditions, and the search for copies.

    Raises:
        ValueError: data that do not fit the samples, or what `SamplingSpec.checked` and `Measure.against` raise.
    """
    name = source or (str(samples) if isinstance(samples, str | Path) else None)
    made: _Drawn | _Kept
    if isinstance(samples, str | Path) and Path(samples).exists() and not checkpoint.is_model(samples):
        if on is not None:
            raise SpecError("on", on, f"{samples} holds samples, which are drawn already: leave it out")
        made = _Kept(str(samples), spec, size, tell, progress)
    elif size is not None:
        raise SpecError("size", size, f"{name} is a model, whose samples have a size; leave it out")
    else:
        elsewhere = None if on is None else Workers.named(on, shard, folder, device, workers)
        device = device if on is None else "cpu"
        model = samples if isinstance(samples, Model) else checkpoint.load(samples, device or "cpu")
        made = _Drawn(model, spec, name, elsewhere, progress)
    origin = trained_on(made.details, name or "the model") if data is None else str(data)
    parts = made.parts(origin)
    real = reference(parts, made.details, origin, split, tell)
    if pairs and not real.data.is_pictures:
        raise ValueError("pairs are drawn of pictures, and these samples are arrays: leave them out")
    trained = _trained(parts, made.details, origin, train_split)
    if pairs and trained is None:
        raise ValueError(f"pairs need the data that the model was trained on: name its part of {origin} by train_split")
    measure = measure or Measure()
    slow = [name for name in PAIRWISE if name in (measure.metrics or METRICS)]
    if slow and len(real.data) > MANY:
        tell(
            f"{origin} ({real.split}) holds {len(real.data):,} samples, all pairs of which are compared for "
            f"{', '.join(slow)}: that takes long, leave these metrics out or name a smaller part"
        )
    yardstick = measure.against(real, made.device if device is None else device, made.extract)
    tally, conditions = made.tally(yardstick, real, measure.merged)
    metrics, doubts = tally.measured()
    conditions = {**yardstick.conditions, **conditions, "versions": versions()}
    copies = None
    if trained is not None:
        among = made.extract(yardstick.features, trained)
        copies = _copies(yardstick, tally.part.seen, real, trained.data, among)._replace(order=made.order)
    return Evaluation(metrics, conditions, made.origin, real.relation, doubts, copies, np.concatenate(tally.values))


def _trained(parts: Parts, details: Mapping[str, Any], source: str, split: str | None) -> Reference | None:
    """The training data, where they are known."""
    try:
        return reference(parts, details, source, split or "train", tell=lambda line: None)
    except NoSplit:
        if split is None:
            return None
        raise


def _copies(yardstick: Yardstick, seen: Tensor, real: Reference, trained: Data, among: Tensor) -> Copies:
    """How near samples come to training data, beside how near fresh data do, or training data where none are fresh."""
    fresh = None if real.split in ("train", "all") else yardstick.reference
    known = "other training data" if fresh is None else "data that were not trained on"
    return Copies(memorisation(seen, among, fresh), trained, known)


class _Drawn:
    """Samples that a model draws."""

    def __init__(self, model: Model, spec: SamplingSpec, name: str | None, workers: Workers | None, bar: bool) -> None:
        self.model, self.spec, self.name, self.workers, self.bar = model, spec, name, workers, bar
        self.details, self.device = model.details, model.device
        self.origin: dict[str, Any] = {}
        self.order: Rows | None = None
        self.extract = extraction(model, workers, bar)

    def parts(self, source: str) -> Parts:
        return parts_of(self.model, source)

    def tally(self, yardstick: Yardstick, real: Reference, merged: bool | None) -> tuple[Tally, dict[str, Any]]:
        """Draw them, and keep of them what is measured; return this, and what the result depends on."""
        spec, conditions = comparable(self.model, self.spec, real.labels)
        blocks = blocks_for(yardstick, spec.n, spec.batch_size, merged)
        make = self._here if self.workers is None else functools.partial(self._elsewhere, self.workers)
        tally, execution = make(yardstick, spec, blocks)
        spec = dataclasses.replace(spec, dtype=execution.dtype)
        self.origin = provenance(self.model, spec, source=self.name, device=self.device)
        self.origin |= {"execution": execution.to_json(), "label": spec.label, "calls": tally.calls}
        self.origin |= tally.seconds
        return tally, conditions | execution.condition | condition(blocks)

    def _here(self, yardstick: Yardstick, spec: SamplingSpec, blocks: Blocks | None) -> tuple[Tally, Execution]:
        execution = choose(self.model, spec)
        calls = spec.entry.calls * (spec.steps or 1) * spec.n
        with progress_bar(calls or None, "sampling", "call", show=self.bar) as bar:
            drawn = batches(self.model, spec, bar.update, execution)
            return Tally(yardstick, blocks, with_values=True).add(drawn), execution

    def _elsewhere(
        self, workers: Workers, yardstick: Yardstick, spec: SamplingSpec, blocks: Blocks | None
    ) -> tuple[Tally, Execution]:
        work = Tallying(self.model, (spec,), yardstick, blocks, with_values=True)
        with workers.place() as folder:
            finished = work.run(workers, folder, self.name or "the model", self.bar)
            return work.collected(finished.job, 0), Execution(**finished.settled)


class _Kept:
    """Samples that are there already."""

    device = torch.device("cpu")
    extract = staticmethod(features_of)

    def __init__(
        self, source: str, spec: SamplingSpec, size: int | None, tell: Callable[[str], object], bar: bool
    ) -> None:
        for field in dataclasses.fields(spec):
            value = getattr(spec, field.name)
            if field.name not in ("n", "batch_size") and value != getattr(USUAL, field.name):
                raise SpecError(field.name, value, f"{source} holds samples, which are drawn already: name a model")
        self.source, self.n, self.size, self.tell, self.bar = source, spec.n, size, tell, bar
        self.order: Rows | None = None
        manifest, kept = self.manifest, ("spec", "model", "trained_steps", "trained_on", "weights_sha256", "calls")
        self.details = {"data": manifest.get("trained_on", {})}
        self.origin = {"samples": source} | {name: manifest[name] for name in kept if name in manifest}
        if "spec" in manifest:
            self.origin["label"] = SamplingSpec.from_json(manifest["spec"]).label

    @functools.cached_property
    def manifest(self) -> Mapping[str, Any]:
        """What `leapstep sample` says of them, if they are its."""
        from leapstep.files.schema import checked
        from leapstep.inference.schema import Manifest

        try:
            manifest: dict[str, Any] = reading.read_json(Path(self.source) / "manifest.json")
            checked(Manifest, manifest)
        except (OSError, ValueError):
            return {}
        return manifest

    @property
    def values(self) -> Values:
        return self.data.values

    @functools.cached_property
    def data(self) -> Data:
        arrays = [Path(self.source, name) for name in (FINAL, PART)]  # of `leapstep sample`, if it drew no pictures
        path = next((path for path in arrays if path.is_file()), self.source)
        return read(str(path), split="all", size=self.size)

    def parts(self, source: str) -> Parts:
        """Data in the size and the channels of the samples."""
        shape, fit = self.values.shape[1:], {}
        if self.values.dtype == np.uint8 and len(shape) == 3:
            fit = {"size": shape[1] if shape[1] == shape[2] else None, "channels": shape[0]}
        part = shared_parts(self.details, source, **fit)

        def read_part(split: str) -> tuple[Data, None]:
            data = part(split)
            if data.shape != shape:
                raise ValueError(
                    f"{source} holds samples of shape {list(data.shape)}: those of {self.source} are {list(shape)}"
                )
            return data, None

        return read_part

    def tally(self, yardstick: Yardstick, real: Reference, merged: bool | None) -> tuple[Tally, dict[str, Any]]:
        """As of `_Drawn`."""
        spec, n = self.manifest.get("spec", {}), min(self.n, len(self.values))
        conditions = {name: spec[name] for name in ("seed", "guidance") if name in spec}
        blocks, none = blocks_for(yardstick, n, 1, merged), torch.zeros(0, 2, dtype=torch.float64)
        size = n if blocks is None else blocks.size
        self.order, labels = taken(self.data, n, blocks is not None), self.data.labels
        if blocks is not None and labels is not None and self.order is not None:
            first, classes = len(np.unique(labels[self.order[:FIRST]])), len(np.unique(labels))
            if first < classes:
                self.tell(
                    f"{self.source} is read in blocks that hold few classes, {first} of {classes} in the first "
                    f"{FIRST:,} samples: the kernel distance, recall and copies are of these; write it in another order"
                )
        with progress_bar(n, "measuring", "sample", show=self.bar) as bar:
            tally = Tally(yardstick, blocks, with_values=True)
            for start in range(0, n, size):
                rows = slice(start, min(n, start + size))
                values = np.asarray(self.values[rows if self.order is None else self.order[rows]])
                tally.add([Batch(values, 0, none)])
                bar.update(len(values))
        return tally, {"n": n} | conditions | condition(blocks)
