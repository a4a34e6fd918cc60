"""Features of real data, made in shards by any number of workers.

A shard's file holds the features of a range of the data. Merged in order of index they are those that one process
makes, to the bit, as shards are whole blocks of the data that it takes at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from leapstep import files
from leapstep.data.dataset import Data
from leapstep.evaluation import features as spaces
from leapstep.evaluation.features import Features
from leapstep.evaluation.yardstick import Reference, features_of
from leapstep.files import folders, reading
from leapstep.files.cache import hash_of
from leapstep.inference.provenance import versions
from leapstep.models.data import Chosen, Selection
from leapstep.models.model import Model
from leapstep.workers import TORCHRUN, Finished, Make, Workers, run

FEW = 8
"""The features of fewer blocks are made in this process."""


@dataclasses.dataclass(frozen=True)
class Extracting:
    """The features of real data as work; see `leapstep.workers.Work`.

    Attributes:
        model: as which the data are read.
        chosen: all samples of the data, by name.
        features: the feature space.
    """

    model: Model
    chosen: Chosen
    features: Features
    what: str = "features"
    unit: str = "sample"
    suffix: str = ".safetensors"

    def start(self, device: str, settled: Mapping[str, Any]) -> Make:
        """See `leapstep.workers.Work`."""
        features, data = self.features.on(device), self.chosen.read(self.model).data

        def make(rows: range, path: Path) -> Mapping[str, Any]:
            began = time.perf_counter()
            found = torch.cat(list(spaces.extracted(features, data, rows)))
            files.write_bytes(path, safetensors.torch.save({"features": found}))
            return {"seconds": round(time.perf_counter() - began, 3)}

        return make


def merged(finished: Finished) -> Iterator[Tensor]:
    """The features of all data, shard by shard."""
    for path in finished.paths:
        yield safetensors.torch.load(reading.read_bytes(path, path.stat().st_size))["features"]


def extraction(model: Model, workers: Workers | None, progress: bool = True) -> Callable[[Features, Reference], Tensor]:
    """What makes the features of real data [n, k], or takes them from the cache: workers, or this process.

    Processes of torchrun make them each for itself: each has a cache of its own, and needs all of them.

    Arguments:
        model: as which the data were read.
        workers: None: this process.
        progress: show a bar on stderr.
    """
    if workers is None or workers.on == TORCHRUN:
        return features_of

    def extract(features: Features, real: Reference) -> Tensor:
        data, rows = real.data, spaces.rows_of_block(real.data.values)
        if len(data) < FEW * rows:
            return features_of(features, real)
        with contextlib.ExitStack() as stack:  # so that shards go when the cache has what they held

            def compute(sha256: str) -> Iterator[Tensor]:
                chosen = Selection(data, real.labels, len(data)).named(real.source, real.split)
                key = _key(features, sha256)
                folder = stack.enter_context(_place(workers, hash_of(key)))
                work = Extracting(model, chosen, features)
                return merged(run(work, folder, key, len(data), batch_size=rows, progress=progress, **workers.options))

            found = spaces.reference(features, data, compute=compute)
        _sweep(workers, features, data)
        return found

    return extract


def _key(features: Features, sha256: str) -> dict[str, Any]:
    """What shards depend on; the SHA-256 is that of data and features."""
    return {"features": features.name, "reference_sha256": sha256, "versions": versions()}


def _sweep(workers: Workers, features: Features, data: Data) -> None:
    """Remove the shards of features that the cache has, which a process left that was killed before it did."""
    if workers.folder is None or not list(_beside(workers.folder, "").parent.glob("*-features-????????")):
        return  # without a look at all of the data
    folder = _beside(workers.folder, hash_of(_key(features, spaces.reference_key(features, data))))
    if folder.is_dir():
        with contextlib.suppress(ValueError), folders.locked(folder):  # where another process is at work, it removes it
            shutil.rmtree(folder, ignore_errors=True)


def _beside(folder: Path, digest: str) -> Path:
    """The folder of the features beside that of the samples."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}-features-{digest[:8]}")


@contextlib.contextmanager
def _place(workers: Workers, digest: str) -> Iterator[Path]:
    """The folder of a job, which stays where it is stopped: beside that of the workers, if it has a name."""
    if workers.folder is None:
        with workers.place() as folder:
            yield folder
    else:
        folder = _beside(workers.folder, digest)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
