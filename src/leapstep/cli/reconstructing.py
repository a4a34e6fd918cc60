"""Encoding and decoding data where people watch: the bar, the table by numbers of steps, the files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from leapstep import files
from leapstep.files import folders
from leapstep.progress import progress_bar
from leapstep.workers.merging import SHARDS, merging

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.inference.encoding import Reconstruction
    from leapstep.inference.spec import SamplingSpec
    from leapstep.models.data import Selection
    from leapstep.models.model import Model
    from leapstep.workers import Workers

PAPER = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}
"""Errors on CIFAR-10 by steps (Song et al. 2021, table 2, arXiv:2010.02502)."""

RESULTS = folders.Kind(
    "results.json", "reconstruction", rf"results\.json|reconstructions\.(png|npz)|errors\.npz|{SHARDS}"
)


def one_by_one(
    out: Path, model: Model, spec: SamplingSpec, counts: list[int], chosen: Selection, record: dict[str, Any]
) -> dict[str, Any]:
    """The results of each number of steps, which are written as soon as they are there."""
    from leapstep.inference.engine import values
    from leapstep.views.encoding import write_reconstructions

    every = range(chosen.n)
    x0, condition = chosen.batch(every), spec.conditions_for(chosen.indices(every))
    shown, rows = {"original": values(model, x0)}, list[dict[str, Any]]()
    results = {"reconstruction": record, "results": rows}
    for count in counts:
        try:
            result = _reconstruct(model, dataclasses.replace(spec, steps=count), x0, condition, record["exact"])
        except KeyboardInterrupt as request:
            if rows:
                request.add_note(f"the results of up to {rows[-1]['steps']} steps are kept in {out}")
            raise
        rows.append(_row(count, result.errors, result.calls, result.seconds, result.notes))
        shown[f"{count} steps"] = values(model, result.x)
        files.write_json(out / "results.json", results)
        write_reconstructions(out, model, shown)
        _print(record, rows)
    return results


def in_shards(
    out: Path,
    model: Model,
    spec: SamplingSpec,
    counts: list[int],
    chosen: Selection,
    record: dict[str, Any],
    workers: Workers,
) -> dict[str, Any]:
    """The same results, of shards in which all numbers of steps are; and the error of each sample."""
    from leapstep.inference.data_sets import Encoding, encoded
    from leapstep.views.encoding import shown, write_reconstructions

    specs = [dataclasses.replace(spec, labels=None, steps=count).checked(model, spacing="leading") for count in counts]
    work = Encoding(model, tuple(specs), chosen.named(record["data"], record["split"]), shown(model), record["exact"])
    rows: list[dict[str, Any]] = []
    results, key = {"reconstruction": record, "results": rows}, work.key(record)
    with merging(work, workers, RESULTS, results, key, chosen.n, spec.batch_size) as finished:
        if finished is None:
            return results
        found = encoded(finished)
        kept = {"original": found.arrays["original"]}
        for k, count in enumerate(counts):
            rows.append(_row(count, found.errors[k], found.calls[k], found.seconds[k], found.notes[k]))
            kept[f"{count} steps"] = found.arrays["again"][:, k]
            _print(record, rows)
        write_reconstructions(out, model, kept)
        errors = {f"{count} steps": errors.numpy() for count, errors in zip(counts, found.errors, strict=True)}
        files.write_npz(out / "errors.npz", errors)
        files.write_json(out / "results.json", results)
    return results


def _reconstruct(
    model: Model, spec: SamplingSpec, x0: Tensor, condition: dict[str, Tensor], exact: bool
) -> Reconstruction:
    """Encode and decode with a progress bar."""
    from leapstep.inference.encoding import reconstruct

    total = 2 * (spec.steps or 1) * -(-len(x0) // spec.batch_size)
    with progress_bar(total, f"{spec.steps} steps", "step") as bar:
        return reconstruct(model, spec, x0, condition=condition, exact=exact, on_step=lambda _: bar.update())


def _row(steps: int, errors: Tensor, calls: int, seconds: float, notes: list[str]) -> dict[str, Any]:
    """The results of one number of steps, as JSON."""
    n = len(errors)
    return {
        "steps": steps,
        "error": errors.mean().item(),
        "standard_error": (errors.std() / n**0.5).item() if n > 1 else None,
        "calls": calls,
        "seconds": seconds,
        "notes": notes,
    }


def _print(record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The newest row of the table, below its head if it is the first."""
    method = record["spec"]["method"]
    compares = "pixel" in record["unit"] and method == "ddim" and not record["exact"]
    if len(rows) == 1:
        typer.echo(
            f"{record['spec']['n']} samples of {record['data']}, there and back with {method}: squared error per "
            f"dimension, in {record['unit']}\n\n"
            f"{'steps':>6}{'network calls':>15}{'error':>11}{'std. error':>12}"
            + (f"{'DDIM paper, CIFAR-10':>23}" if compares else "")
        )
    row = rows[-1]
    error, spread = f"{row['error']:.3g}", "-" if row["standard_error"] is None else f"{row['standard_error']:.1g}"
    typer.echo(
        f"{row['steps']:>6}{row['calls']:>15}{error:>11}{spread:>12}"
        + (f"{PAPER.get(row['steps'], '-'):>23}" if compares else "")
    )
    for note in row["notes"]:
        typer.echo(f"       {note}")
