"""`leapstep reconstruct`: what encoding and decoding loses, by the number of steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep import files
from leapstep.cli import options
from leapstep.cli.parsing import NUMBERS
from leapstep.files import folders
from leapstep.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.inference.encoding import Reconstruction
    from leapstep.inference.spec import SamplingSpec
    from leapstep.models.model import Model

EXAMPLES = """**Examples**

`leapstep reconstruct runs/digits digits --out there-and-back`

`leapstep reconstruct runs/digits digits --steps 10 20 50 --n 200 --method heun --out heun`

`leapstep reconstruct runs/photos photos/ --split all --steps 20 --exact --out exact`
"""

PAPER = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}
"""Errors on CIFAR-10 by steps (Song et al. 2021, table 2, arXiv:2010.02502)."""

RESULTS = folders.Kind("results.json", "reconstruction", r"results\.json|reconstructions\.(png|npz)")


@options.on_model
@options.sampling(
    *("first", "steps", "eta", "variance", "start", "seed", "label", "guidance", "rescale"),
    shown={"spacing": "leading, and trailing for rk23 and rk45"},
    dtype="float32",
)
def command(
    model: options.Source,
    data: Annotated[str, typer.Argument(help="The data to encode: `digits`, a folder, a file, a name on the Hub.")],
    out: Annotated[Path, typer.Option(help="The folder to make, with results and an image.")],
    stated: options.Spec,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            metavar=NUMBERS, help="Numbers of steps, as in --steps 10 20 50; default: 10 to 1000; 1 for rk23, rk45."
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Encode with the exact inverse of each step.")] = False,
    split: options.Split = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
) -> dict[str, Any]:
    """Encode data and decode it again: what is lost, by the number of steps, as in table 2 of the DDIM paper.

    Its --n samples are evenly chosen from the data; each keeps its own label.
    """
    options.check_free(out, overwrite, RESULTS)
    options.check_data(data)
    from leapstep.inference.encoding import check_reversible, step_counts, unit
    from leapstep.inference.methods import METHODS
    from leapstep.inference.provenance import provenance
    from leapstep.models.data import evenly, parts_of
    from leapstep.views.encoding import write_reconstructions

    loaded, spec = model.open(), stated.made()
    adaptive = spec.method in METHODS and spec.entry.calls == 0
    asked = steps or ([1] if adaptive else list(PAPER))
    counts = step_counts(loaded, asked)
    spec = dataclasses.replace(spec, steps=counts[0], times=None).checked(loaded, spacing="leading")
    check_reversible(loaded, spec, exact=exact)
    split, (samples, known) = options.part(parts_of(loaded, data), data, split)
    chosen = evenly(len(samples), spec.n)
    x0, condition = samples.batch(chosen), spec.conditions_for(chosen)
    labels = None if known is None else tuple(known[chosen].tolist())
    spec = dataclasses.replace(spec, n=len(x0), labels=labels)
    record = provenance(loaded, dataclasses.replace(spec, steps=None), source=model.name)
    record |= {"exact": exact, "data": data, "split": split, "labels": labels is not None, "unit": unit(loaded)}
    options.claim(out, overwrite, RESULTS, {"reconstruction": record, "results": []})
    options.tell_left_out(loaded, asked, counts)
    shown: dict[str, Tensor] = {"original": x0}
    rows: list[dict[str, Any]] = []
    for count in counts:
        try:
            result = _reconstruct(loaded, dataclasses.replace(spec, steps=count), x0, condition, exact)
        except KeyboardInterrupt as request:
            if rows:
                request.add_note(f"the results of up to {rows[-1]['steps']} steps are kept in {out}")
            raise
        rows.append(_row(count, result))
        shown[f"{count} steps"] = result.x
        files.write_json(out / "results.json", {"reconstruction": record, "results": rows})
        write_reconstructions(out, loaded, shown)
        _print(record, rows)
    typer.echo(f"written: {out}")
    return {"reconstruction": record, "results": rows}


def _reconstruct(
    model: Model, spec: SamplingSpec, x0: Tensor, condition: dict[str, Tensor], exact: bool
) -> Reconstruction:
    """Encode and decode with a progress bar."""
    from leapstep.inference.encoding import reconstruct

    total = 2 * (spec.steps or 1) * -(-len(x0) // spec.batch_size)
    with progress_bar(total, f"{spec.steps} steps", "step") as bar:
        return reconstruct(model, spec, x0, condition=condition, exact=exact, on_step=lambda _: bar.update())


def _row(steps: int, result: Reconstruction) -> dict[str, Any]:
    """The results of one number of steps, as JSON."""
    errors, n = result.errors, len(result.errors)
    return {
        "steps": steps,
        "error": errors.mean().item(),
        "standard_error": (errors.std() / n**0.5).item() if n > 1 else None,
        "calls": result.calls,
        "seconds": result.seconds,
        "notes": result.notes,
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
