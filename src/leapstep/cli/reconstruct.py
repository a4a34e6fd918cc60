"""`leapstep reconstruct`: what encoding and decoding loses, by the number of steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import options, sharding
from leapstep.cli.parsing import NUMBERS
from leapstep.cli.reconstructing import PAPER, RESULTS, in_shards, one_by_one

EXAMPLES = """**Examples**

`leapstep reconstruct runs/digits digits --out there-and-back`

`leapstep reconstruct runs/digits digits --steps 10 20 50 --n 200 --method heun --out heun`

`leapstep reconstruct runs/photos photos/ --split all --steps 20 --exact --out exact`

`leapstep reconstruct runs/digits digits --steps 10 20 --n 300 --on here --out all`
"""


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
    on: sharding.On = None,
    shard: sharding.Shard = None,
    workers: sharding.Count = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
) -> dict[str, Any]:
    """Encode data and decode it again: what is lost, by the number of steps, as in table 2 of the DDIM paper.

    Its --n samples are evenly chosen from the data; each keeps its own label.
    """
    elsewhere = sharding.asked(on, shard, workers, model.device, out, overwrite)
    sharding.check_free(out, overwrite, RESULTS, elsewhere)
    options.check_data(data)
    from leapstep.inference.data_sets import labelled
    from leapstep.inference.encoding import check_reversible, step_counts, unit
    from leapstep.inference.methods import METHODS
    from leapstep.inference.provenance import provenance
    from leapstep.models.data import Selection, parts_of

    loaded, spec = model.open(), stated.made()
    adaptive = spec.method in METHODS and spec.entry.calls == 0
    asked = steps or ([1] if adaptive else list(PAPER))
    counts = step_counts(loaded, asked)
    spec = dataclasses.replace(spec, steps=counts[0], times=None).checked(loaded, spacing="leading")
    check_reversible(loaded, spec, exact=exact)
    split, (samples, known) = options.part(parts_of(loaded, data), data, split)
    chosen = Selection(samples, known, min(spec.n, len(samples)))
    spec = labelled(spec, chosen)
    record = provenance(loaded, dataclasses.replace(spec, steps=None), source=model.name)
    record |= {"exact": exact, "data": data, "split": split, "labels": known is not None, "unit": unit(loaded)}
    options.tell_left_out(loaded, asked, counts)
    if elsewhere is None:
        options.claim(out, overwrite, RESULTS, {"reconstruction": record, "results": []})
        result = one_by_one(out, loaded, spec, counts, chosen, record)
    else:
        result = in_shards(out, loaded, spec, counts, chosen, record, elsewhere)
    typer.echo(f"written: {out}")
    return result
