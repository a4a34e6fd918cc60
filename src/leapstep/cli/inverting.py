"""Encoding data to latents where people watch: the bar, the files, and what was lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from leapstep import files
from leapstep.cli import options
from leapstep.files import folders
from leapstep.progress import progress_bar
from leapstep.workers.merging import SHARDS, merging

if TYPE_CHECKING:
    from leapstep.inference.spec import SamplingSpec
    from leapstep.models.data import Selection
    from leapstep.models.model import Model
    from leapstep.workers import Workers

RESULTS = folders.Kind(
    "manifest.json", "inversion", rf"manifest\.json|latents\.npz|reconstructions\.(png|npz)|{SHARDS}"
)


def invert_files(
    model: Model, spec: SamplingSpec, image: list[str], exact: bool, out: Path, overwrite: bool, name: str
) -> dict[str, Any]:
    """Encode what lies in some files, in memory."""
    from leapstep.inference.encoding import reconstruct
    from leapstep.inference.engine import values
    from leapstep.inference.latents import FILE, write_latents
    from leapstep.models.data import samples_in
    from leapstep.views.encoding import write_reconstructions

    x0 = samples_in(model, image)
    spec, record = _begun(model, dataclasses.replace(spec, n=len(x0)), {"images": image, "exact": exact}, name)
    options.claim(out, overwrite, RESULTS, record | {"finished": False})
    total = 2 * (spec.steps or 1) * -(-len(x0) // spec.batch_size)
    with progress_bar(total, "inverting", "step") as bar:
        result = reconstruct(model, spec, x0, exact=exact, on_step=lambda _: bar.update())
    record["inversion"] |= {"errors": result.errors.tolist(), "calls": result.calls, "notes": result.notes}
    original = values(model, x0)
    write_latents(out / FILE, {"latents": result.latents.numpy(), "original": original}, record)
    write_reconstructions(out, model, {"original": original, "decoded again": values(model, result.x)})
    return _finish(out, record, spec, result.errors.mean().item())


def invert_data(
    model: Model, spec: SamplingSpec, chosen: Selection, source: dict[str, Any], out: Path, workers: Workers, name: str
) -> dict[str, Any]:
    """Encode a data set, in shards."""
    from leapstep.inference.data_sets import Encoding, encoded, labelled
    from leapstep.inference.latents import FILE, write_latents
    from leapstep.views.encoding import shown, write_reconstructions

    own = spec.labels is None
    spec, record = _begun(model, labelled(spec, chosen), source, name)
    short = dataclasses.replace(spec, labels=None) if own else spec  # workers read the labels with the data
    named = chosen.named(source["data"], source["split"])
    work = Encoding(model, (short,), named, shown(model), source["exact"], latents=True)
    begun = record | {"finished": False}
    with merging(work, workers, RESULTS, begun, work.key(record), chosen.n, spec.batch_size) as finished:
        if finished is None:
            return begun
        found = encoded(finished)
        errors, again = found.errors[0], found.arrays.pop("again")[:, 0]
        deviation = (errors.std() / len(errors) ** 0.5).item() if len(errors) > 1 else None
        record["inversion"] |= {"error": errors.mean().item(), "standard_error": deviation}
        record["inversion"] |= {"calls": found.calls[0], "notes": found.notes[0]}
        write_latents(out / FILE, found.arrays | {"errors": errors.numpy()}, record)
        write_reconstructions(out, model, {"original": found.arrays["original"], "decoded again": again})
        return _finish(out, record, spec, errors.mean().item())


def _begun(model: Model, spec: SamplingSpec, source: dict[str, Any], name: str) -> tuple[SamplingSpec, dict[str, Any]]:
    """The specification, which is checked, and what is known of latents before they are there."""
    from leapstep.inference.encoding import check_reversible, unit
    from leapstep.inference.provenance import provenance

    spec = spec.checked(model, steps=50, spacing="leading")
    check_reversible(model, spec, exact=source["exact"])
    along = dataclasses.replace(spec, times=tuple(spec.times_for(model).tolist()), spacing=None)
    return spec, provenance(model, along, source=name) | {"inversion": source | {"unit": unit(model)}}


def _finish(out: Path, record: dict[str, Any], spec: SamplingSpec, error: float) -> dict[str, Any]:
    """Write the manifest, and say what there is."""
    inversion = record["inversion"]
    files.write_json(out / "manifest.json", record := record | {"finished": True})
    exactly = ", exactly inverted" if inversion["exact"] else ""
    typer.echo(
        f"{spec.n} latents, {spec.label} in {spec.steps} steps{exactly}; decoded again under their own labels they are "
        f"off by {error:.3g}, in {inversion['unit']}: {out}"
    )
    for note in inversion["notes"]:
        typer.echo(note)
    return record
