"""Drawing samples into a folder, resumable at any time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leapstep import files
from leapstep.core.names import DTYPES
from leapstep.core.sampling import State
from leapstep.data import shards
from leapstep.data.shards import MANIFEST
from leapstep.files import folders, reading
from leapstep.inference.engine import Array, draw, values
from leapstep.inference.execution import Execution, choose
from leapstep.inference.fields import AUTO
from leapstep.inference.provenance import provenance
from leapstep.inference.sharding import OfModel, as_begun, form_begun, write_shards
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.inference.store import (
    ELSEWHERE,
    FINAL,
    GRID,
    RESULTS,
    Growing,
    Pictures,
    Store,
    check_place,
    in_shards,
    write_grid,
)
from leapstep.models.model import Model
from leapstep.progress import progress_bar
from leapstep.text import one_line
from leapstep.workers.running import HERE


def write_samples(
    model: Model,
    spec: SamplingSpec,
    folder: str | Path,
    *,
    format: str | None = None,
    source: str | None = None,
    on: str | None = None,
    shard: int | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    tell: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Draw samples into a folder: PNGs with a grid of the first, or `samples.npz`; and `manifest.json`.

    The manifest is the specification with its provenance, and counts what is finished. What was stopped goes on, to
    the same bits, with `resume`.

    With `on`, `shard` or a format that has it, samples lie in shards: a file, or a folder of PNGs, for each range of
    indices, with its SHA-256 in the manifest. Any number of workers may draw them, and the samples are the same.

    Arguments:
        folder: it is made, or must be empty.
        format: "png" (pictures only, their default) or "npz" (the default of shards); or "parquet" or "webdataset",
            which are shards. Shards that are gone on with have theirs.
        on: whose workers draw shards, see `leapstep.workers.run`; None: one process does.
        shard: samples in each, rounded up to whole batches; None: about a minute's work.
        workers: how many Ray is asked for; None: as there is room for.
        source: how the manifest names the model.
        resume: go on with what a call with the same model and specification has begun there.
        overwrite: replace earlier samples.
        device: where samples are made; None: where the network is.
        progress: show a bar on stderr.
        tell: called with a line on how the network is computed, where that was measured.
    Returns:
        what the manifest says.
    Raises:
        ValueError: what `SamplingSpec.checked` raises; a folder that is not to be had, or holds samples of another
            model or specification.
    """
    spec, out = spec.checked(model), Path(folder)
    cut = in_shards(out, format, on, shard, resume)
    form = _form(format or (form_begun(out) if cut and resume else None), model, cut)
    if cut:
        drawing = OfModel(model, as_begun(spec, out) if resume else spec)
        at = model.device if device is None and on in (None, HERE) else device
        if on not in (None, HERE):  # what workers warn of, nobody sees
            spec.warn_of_distillation(model)
        manifest = write_shards(
            drawing,
            out,
            _manifest(model, drawing.spec, form, source),
            on=on or HERE,
            shard=shard,
            workers=workers,
            device=None if at is None else str(at),
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
        _tell(manifest, tell)
        return manifest
    check_place(out, resume, overwrite)
    execution = (_continued(spec, out) if resume else None) or choose(model, spec)
    spec, device = dataclasses.replace(spec, dtype=execution.dtype), torch.device(device or model.device)
    manifest = _manifest(model, spec, form, source)
    manifest |= {"device": str(device), "execution": execution.to_json()}
    _tell(manifest, tell)
    with folders.locked(out):
        record = begin(out, manifest, resume, overwrite)
        one = values(model, torch.zeros(1, *model.shape, dtype=spec.state_dtype))
        store: Store = Pictures(out) if form == "png" else Growing(out, spec.n, model.shape, one.dtype)
        _draw(out, store, manifest, record, (model, spec, execution, device), progress)
        labels = spec.labels_for(model, range(spec.first, spec.first + spec.n))
        numbers = None if labels is None else labels.tolist()
        if model.is_pictures:
            write_grid(out, store.first(min(spec.n, GRID)), numbers)
        store.close(numbers)
    return manifest | record


def first_samples(folder: str | Path, n: int) -> Array:
    """The first n samples, `[n, *d]`, of a folder that `write_samples` has finished."""
    folder = Path(folder)
    if (found := shards.of_folder(folder)) is not None:
        return found.first(n).values
    if not (folder / FINAL).is_file():
        return Pictures(folder).first(n)
    with np.load(folder / FINAL, allow_pickle=False) as arrays:
        return np.array(arrays["samples"][:n])


def _form(asked: str | None, model: Model, cut: bool) -> str:
    forms = [form for form in shards.FORMS if form != "png" or model.is_pictures]
    if asked is not None and asked not in forms:
        raise SpecError("format", asked, f"this model's samples can be written as {' or '.join(forms)}")
    return asked or ("npz" if cut else forms[0])


def _manifest(model: Model, spec: SamplingSpec, form: str, source: str | None) -> dict[str, Any]:
    """What is known of samples before they are drawn."""
    return provenance(model, spec, source=source) | {"times": spec.times_for(model).tolist(), "format": form}


def _tell(manifest: Mapping[str, Any], tell: Callable[[str], object]) -> None:
    """Tell how the network is computed, where that was measured."""
    if line := manifest.get("execution", {}).get("line"):
        tell(line)


def _continued(spec: SamplingSpec, out: Path) -> Execution | None:
    """How the network was computed in the drawing that was begun in a folder, if its dtype may go on; else None."""
    try:
        earlier = reading.read_json(out / MANIFEST)
        dtype, said = SamplingSpec.read(out / MANIFEST).dtype, earlier.get("execution")
    except (OSError, ValueError):
        return None
    if dtype not in DTYPES or spec.dtype not in (AUTO, dtype):
        return None
    return Execution.stated(dtype, said)


def begin(out: Path, manifest: Mapping[str, Any], resume: bool, overwrite: bool) -> dict[str, Any]:
    """Mark a new folder, or go on in that of the same drawing, which was stopped; return what its manifest counts.

    Raises:
        ValueError: the folder is not to be had, or its samples were drawn otherwise.
    """
    record = {"finished": 0, "calls": 0, "seconds": 0.0}
    if not resume or not (out / MANIFEST).exists():
        folders.begin(
            out, overwrite or resume, RESULTS, {**manifest, **record}
        )  # without a manifest nothing is removed
        return record
    folders.tidy(out)
    earlier = reading.read_json(out / MANIFEST)
    earlier = earlier if isinstance(earlier, dict) else {}
    for name, (before, now) in _differences(earlier, json.loads(json.dumps(manifest))):
        before, now = (one_line(json.dumps(value), 60) for value in (before, now))
        raise ValueError(
            f"{out} holds samples with {name} {before}, not {now}: --resume with what they were drawn with"
        )
    return {name: earlier[name] if type(earlier.get(name)) is type(zero) else zero for name, zero in record.items()}


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    """What differs between two manifests, the fields of their specifications first, each by its own name."""
    specs = (earlier.get("spec"), now["spec"])
    before = specs[0] if isinstance(specs[0], dict) else {}
    pairs = {name: (before.get(name), value) for name, value in specs[1].items()}
    pairs |= {name: (earlier.get(name), value) for name, value in now.items() if name not in ("spec", *ELSEWHERE)}
    return [(name, pair) for name, pair in pairs.items() if pair[0] != pair[1]]


def _draw(
    out: Path,
    store: Store,
    manifest: dict[str, Any],
    record: dict[str, Any],
    job: tuple[Model, SamplingSpec, Execution, torch.device],
    progress: bool,
) -> None:
    """Draw what is missing, a batch at a time, and keep the manifest true to it.

    The batch that a stop cut is drawn again as a whole: then every bit is as if there had been no stop.
    """
    model, spec, execution, device = job
    n, size, steps, newest = spec.n, spec.batch_size, spec.steps or 1, 0
    start = min(store.finished(), record["finished"])  # of samples after a kill, nobody knows what they cost
    start = n if start >= n else start - start % size
    began = time.perf_counter() - record["seconds"]

    def note(state: State) -> None:
        nonlocal newest
        newest = state.calls
        bar.update()

    def tell(finished: int) -> None:
        record.update(finished=finished, seconds=round(time.perf_counter() - began, 3))
        files.write_json(out / MANIFEST, manifest | record)

    bar = progress_bar(-(-n // size) * steps, "sampling", "step", done=-(-start // size) * steps, show=progress)
    try:
        if start == n:  # all were there, and nothing but the end was missing
            tell(n)
            return
        rest = dataclasses.replace(spec, first=spec.first + start, n=n - start)
        for rows, x in draw(model, rest, device=device, on_step=note, execution=execution):
            record["calls"] = max(record["calls"], newest)
            here = range(rows.start - spec.first, rows.stop - spec.first)
            store.keep(here, values(model, x))
            if 100 * here.stop // n > 100 * here.start // n:  # not more often: a manifest may be long
                tell(here.stop)
    except BaseException as error:
        finished = store.finished()
        with contextlib.suppress(OSError):  # the disk may be full
            tell(finished)
        if isinstance(error, KeyboardInterrupt) and finished:
            error.add_note(f"{finished} of {n} samples are kept in {out}: go on with --resume")
        raise
    finally:
        bar.close()
