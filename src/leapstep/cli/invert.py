"""`leapstep invert`: images or other data as latents, which `leapstep decode` turns into data again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import options, sharding
from leapstep.cli.inverting import RESULTS, invert_data, invert_files
from leapstep.cli.parsing import FILES
from leapstep.workers.running import HERE

EXAMPLES = """**Examples**

`leapstep invert runs/digits --image A.png --out latent`

`leapstep invert runs/mnist --image A.png B.png --label 3 8 --exact --steps 20 --out exact`

`leapstep invert runs/digits --image A.png --method heun --steps 30 --out heun`

`leapstep invert runs/digits --data digits --split train --steps 20 --on here --out all`
"""


@options.on_model
@options.sampling(
    *("spec", "first", "eta", "variance", "start", "seed"),
    shown={
        "n": "all of --data, or that many, evenly chosen",
        "steps": "50, or T where that is less; 1 for rk23 and rk45",
        "spacing": "leading, and trailing for rk23",
    },
    dtype="float32",
)
def command(
    model: options.Source,
    out: Annotated[Path, typer.Option(help="The folder to make, with latents.npz, reconstructions and a manifest.")],
    stated: options.Spec,
    image: Annotated[
        list[str] | None, typer.Option(metavar=FILES, help="What to encode: images, or data in npy files.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Or a data set, each sample under its own label, as `leapstep reconstruct` reads it."),
    ] = None,
    split: options.Split = None,
    exact: Annotated[bool, typer.Option("--exact", help="Encode with the exact inverse of each step.")] = False,
    on: sharding.On = None,
    shard: sharding.Shard = None,
    workers: sharding.Count = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
) -> dict[str, Any]:
    """Encode data to latents, and decode them again under their own labels to see what was lost."""
    _check_sources(image, data, stated, on, split)
    on = HERE if on is None and data is not None else on
    elsewhere = sharding.asked(on, shard, workers, model.device, out, overwrite)
    sharding.check_free(out, overwrite, RESULTS, elsewhere)
    from leapstep.models.data import Selection, parts_of

    loaded = model.open()
    if data is None or elsewhere is None:
        record = invert_files(loaded, stated.made(), image or [], exact, out, overwrite, model.name)
    else:
        split, (samples, known) = options.part(parts_of(loaded, data), data, split)
        chosen = Selection(samples, known, min(stated.fields.get("n") or len(samples), len(samples)))
        source = {"data": data, "split": split, "exact": exact}
        record = invert_data(loaded, stated.made(), chosen, source, out, elsewhere, model.name)
    return {"out": out, **record}


def _check_sources(
    image: list[str] | None, data: str | None, stated: options.Spec, on: str | None, split: str | None
) -> None:
    """Make sure that it is clear what to encode, and that there may be such data. Raises ValueError."""
    if (image is None) == (data is None):
        raise ValueError("name what to encode by --image, or a data set by --data")
    for name, value in (("on", on), ("split", split), ("n", stated.fields.get("n"))):
        if data is None and value is not None:
            raise ValueError(f"--{name} {value} is for a data set: name it by --data, or leave --{name} out")
    if stated.fields.get("n") is not None and stated.fields.get("conditions") is not None:
        raise ValueError("--condition has a row for each latent, and --n takes some of the data: leave one of them out")
    for source in image or ():
        options.check_input(source)
    options.check_data(data)
