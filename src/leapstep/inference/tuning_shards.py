"""Solvers fitted to a model by any number of workers: the very solvers that one process fits.

Two jobs, one after the other: the teacher's paths, a shard for each part of its noises, and then the fits, a shard for
each number of calls and one for DDIM with many steps. Every worker that fits reads all paths.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leapstep import files
from leapstep.core.fitting import Reference
from leapstep.core.gaussian import Gaussian
from leapstep.files import reading
from leapstep.files.cache import hash_of
from leapstep.inference.provenance import provenance
from leapstep.inference.store import depends
from leapstep.inference.tuning import Run
from leapstep.models import beside
from leapstep.models.beside import gaussian_sha256
from leapstep.models.checkpoint import fingerprint
from leapstep.models.tuned import Solver, Tuned, Tuning, Untuned
from leapstep.workers import Finished, Make, Work, run
from leapstep.workers.running import ALL, FIRST


def results(tuning: Run, place: Path, **how: Any) -> Iterator[tuple[Solver, list[Untuned]]]:
    """As `Run.results`, by workers; what was stopped goes on. Of processes of torchrun only the first yields.

    Arguments:
        place: the folder for the jobs, which all workers must see; it is removed once everything is yielded.
        how: `on`, `workers` and `device`, as of `leapstep.workers.run`.
    """
    if not tuning.missing:
        return
    said = {**provenance(tuning.model, tuning.spec), "teacher": tuning.tuning.teacher}
    count = len(tuning.teacher().parts())
    paths = _made(Following(tuning), place, "teacher", said, count, how | {"to": ALL})
    reference = _reference(tuning, paths.paths)
    law = tuning.law_of(reference)
    started = None if law is None else gaussian_sha256(law)
    there = [list(one.name) for one in tuning.tuning.untuned]  # which are not measured again
    said |= {"calls": tuning.missing, "start": tuning.plan.start, "law": started, "there": there}
    work = Fitting(tuning, tuple(paths.paths), law)
    fits = _made(work, place, "fits", said, 1 + len(tuning.missing), how | {"to": FIRST})
    if not fits.complete:
        return
    curve, *found = [_read(tuning, path) for path in fits.paths]
    tuning.begin(reference, sum(record.get("seconds", 0.0) for record in paths.records), list(curve.untuned))
    for one in found:
        yield tuning.keep(one.solvers[0], list(one.untuned))
    shutil.rmtree(place)


def _made(work: Work, place: Path, name: str, record: Mapping[str, Any], n: int, how: Mapping[str, Any]) -> Finished:
    """A job in a folder of its own for all that it depends on."""
    key = depends(record)
    return run(work, place / f"{name}-{hash_of(key)[:12]}", key, n, batch_size=1, shard=1, **how)


@dataclasses.dataclass(frozen=True)
class Following:
    """The teacher's paths as work: shard i is part i, `x`, `x0` of the first, and `evaluations`; see `Teacher`."""

    tuning: Run
    what: str = "teacher"
    unit: str = "part"
    suffix: str = ".npz"

    def start(self, device: str, settled: Mapping[str, Any]) -> Make:  # noqa: D102
        teacher = self.tuning.on(device).teacher()

        def make(rows: range, path: Path) -> Mapping[str, Any]:
            began, (number,) = time.perf_counter(), rows
            part, evaluations = teacher.followed(number)
            arrays = {"x": part.x.cpu().numpy(), "evaluations": np.array(evaluations)}
            files.write_npz(path, arrays if part.x0 is None else arrays | {"x0": part.x0.cpu().numpy()})
            return {"seconds": round(time.perf_counter() - began, 3)}

        return make


def _reference(tuning: Run, paths: Sequence[Path]) -> Reference:
    """The teacher's paths, from files."""
    teacher, parts, evaluations = tuning.teacher(), [], 0
    for number, path in enumerate(paths):
        arrays = reading.read_npz(path)
        x0 = torch.from_numpy(arrays["x0"]) if "x0" in arrays else None
        parts.append(teacher.known(number, torch.from_numpy(arrays["x"]), x0))
        evaluations += int(arrays["evaluations"])
    return teacher.reference(parts, evaluations)


@dataclasses.dataclass(frozen=True)
class Fitting:
    """Fits as work: shard 0 is DDIM with many steps, the others are solvers of one number of calls each.

    A shard is written as `tuned.json` is.

    Attributes:
        paths: of the shards of `Following`.
        law: that solvers start from; see `Run.law_of`.
    """

    tuning: Run
    paths: tuple[Path, ...]
    law: Gaussian | None
    what: str = "fitting"
    unit: str = "solver"
    suffix: str = ".json"

    def start(self, device: str, settled: Mapping[str, Any]) -> Make:  # noqa: D102
        tuning = self.tuning.on(device)
        reference, sha256 = _reference(tuning, self.paths), fingerprint(tuning.model.network)

        def make(rows: range, path: Path) -> Mapping[str, Any]:
            began, (number,) = time.perf_counter(), rows
            if number == 0:
                found = tuning.tuning._replace(solvers=(), untuned=tuple(tuning.curve(reference)))
            else:
                solver, untuned = tuning.fitted(reference, tuning.missing[number - 1], self.law)
                found = tuning.tuning._replace(solvers=(solver,), untuned=tuple(untuned))
            files.write_json(path, dataclasses.replace(tuning.tuned, tunings=(found,)).to_json(sha256))
            return {"seconds": round(time.perf_counter() - began, 3)}

        return make


def _read(tuning: Run, path: Path) -> Tuning:
    """What a shard of `Fitting` holds."""
    from leapstep.models.schema import Tuned as Schema

    with beside.read_json(path, Schema) as said:
        (found,) = Tuned.from_json(said, tuning.tuned.laws).tunings
    return found
