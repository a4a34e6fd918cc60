"""`leapstep evaluate`: how far samples are from real data, and whether they are copies of it."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep import files
from leapstep.cli import measuring, options, sharding
from leapstep.models import folder
from leapstep.workers.running import leads

if TYPE_CHECKING:
    from leapstep.evaluation.evaluate import Evaluation

EXAMPLES = """**Examples**

`leapstep evaluate runs/digits digits`

`leapstep evaluate runs/mnist mnist/ --features features/mnist --method unipc --steps 10 --n 5000 --out unipc-10.json`

`leapstep evaluate samples/ photos/ --split all --features inception --metrics frechet kernel`

`leapstep evaluate runs/digits digits --pairs closest.png`

`leapstep evaluate runs/digits digits --n 1000000 --on here --out million.json`
"""


Samples = Annotated[
    str,
    typer.Argument(
        metavar="MODEL-or-FOLDER",
        help="A model to sample; or samples: a folder of images, a folder written by `leapstep "
        "sample`, an npy or npz file.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        help="Crop and resize the samples of a folder, and the data, to squares with sides of this many pixels."
    ),
]
TrainedOn = Annotated[
    str | None, typer.Option(help="Split of the training data, to search for copies; default: train.")
]
Pairs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Draw the samples closest to training data beside their nearest neighbours, as PNG."
    ),
]


@functools.partial(options.on_model, argument="samples", annotation=Samples, or_samples=True)
@options.sampling("first", shown=measuring.DRAWN, n=1000, batch_size=250)
def command(
    samples: options.Source,
    stated: options.Spec,
    data: measuring.DataSource = None,
    split: options.Split = None,
    features: measuring.FeatureSpace = "pixels",
    weights: measuring.Weights = None,
    metrics: measuring.Metrics = None,
    size: Size = None,
    train_split: TrainedOn = None,
    pairs: Pairs = None,
    k: measuring.Neighbours = 5,
    resamples: measuring.Resamples = 100,
    merged: measuring.Merged = False,
    on: sharding.On = None,
    shard: sharding.Shard = None,
    workers: sharding.Count = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of --out and --pairs.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON.")] = None,
) -> dict[str, Any]:
    """Measure samples against real data: distances, precision and recall, with intervals; and look for copies."""
    drawn = Path(samples.name).exists() and not folder.is_model(samples.name)
    if not drawn:
        samples.checked()
    options.check_data(data)
    if pairs is not None and pairs.suffix.lower() != ".png":
        raise ValueError(f"--pairs {pairs}: pictures are written as PNG, pass a name that ends in .png")
    sharding.check(on, shard, workers)
    for path in filter(None, (out, pairs) if leads(on) else ()):
        options.claim_file(path, overwrite)
    shards = None if out is None or on is None else sharding.beside(out, on)
    opened = samples if on is None else dataclasses.replace(samples, device="cpu")  # from where workers take it
    from leapstep.evaluation.evaluate import evaluate
    from leapstep.evaluation.yardstick import Measure

    result = evaluate(
        samples.name if drawn else opened.open(),
        data,
        stated.made(),
        Measure(features, weights, metrics, k, resamples, merged or None),
        split=split,
        train_split=train_split,
        size=size,
        pairs=pairs is not None,
        source=samples.name,
        device=options.device(samples.device) if on is None else samples.device,
        on=on,
        shard=shard,
        workers=workers,
        folder=shards,
        tell=measuring.tell,
    )
    record = _written(result, out, pairs)
    if shards is not None and shards.is_dir() and on != "torchrun":
        shutil.rmtree(shards)
    return record


def _written(result: Evaluation, out: Path | None, pairs: Path | None) -> dict[str, Any]:
    """The result as JSON, once it is where it was asked for, and shown."""
    from leapstep.views import tables

    record = result.to_json()
    if pairs is not None:
        tables.closest_pairs(result, pairs)
    if out is not None:
        files.write_json(out, record)
    typer.echo(tables.summary(record))
    for path in filter(None, (out, pairs)):
        typer.echo(f"written: {path}")
    return record
