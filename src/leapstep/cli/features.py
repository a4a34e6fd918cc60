"""`leapstep features train`: learn a feature space from data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import options

if TYPE_CHECKING:
    from leapstep.data.dataset import Data

EXAMPLES = """**Examples**

`leapstep features train digits --out features/digits`

`leapstep features train photos/ --out features/photos`

`leapstep features train mnist/ --out features/mnist`

`leapstep features train cifar10/ --flip --epochs 12 --out features/cifar10`

`leapstep evaluate runs/mnist mnist/ --features features/mnist`
"""


def command(
    action: Annotated[str, typer.Argument(metavar="train", help="The word `train`.")],
    data: Annotated[
        str,
        typer.Argument(
            help="Images, with labels or without, or arrays with labels: `digits`, a folder of images "
            "(sub-folders are labels), a tar, parquet, arrow or npz file, a folder of tar or parquet files, "
            "or `owner/name` on the Hub."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder to make, with weights and features.json, which describes them.")
    ],
    size: Annotated[int | None, typer.Option(help="Crop and resize images to squares of this side, pixels.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data; default: 2, or enough for 500 steps.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of a single cycle.")] = 4e-3,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the images at random.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of all randomness in training.")] = 0,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the features in the folder.")] = False,
) -> dict[str, Any]:
    """Train a small classifier, whose last layer is a feature space for `--features`, and measure its accuracy.

    Pictures go through a residual network, other samples through three layers. Pictures without labels are turned, and
    the network learns by how much. The accuracy is that on the test split, or on a tenth that is held out where there
    is none; and damaged copies of these pictures show what the space sees.
    """
    if action != "train":
        raise ValueError(f"features {action}: the one thing to do is train, as in leapstep features train digits")
    options.check_device(device)
    options.check_data(data)
    from leapstep.data.readers import read
    from leapstep.evaluation import features

    place = options.device(device)
    options.claim(out, overwrite, features.RESULTS, None)
    held = read(data, size=size)
    recipe = features.Recipe(epochs, batch_size, learning_rate, flip, seed)
    test = _test_split(held, size)
    network, record = features.train(held, test, recipe, device=place)
    features.save(out, network, record)
    space = features.load(str(out), held, device=place)
    for each in (held, test) if test is not None else (held,):
        features.reference(space, each)  # into the cache, for what will be compared with them
    tested = record["tested_on"]
    where = f"{tested['what']} ({tested['samples']} samples)"
    if record["task"] == "rotations":
        told = f"{record['accuracy']:.2%} (chance {1 / len(record['data']['classes']):.0%})"
        typer.echo(f"no labels: learned from rotations, told right {told} on {where}")
    else:
        typer.echo(f"accuracy: {record['accuracy']:.2%} on {where}")
    if copies := record["copies"]:
        said = ", ".join(f"{name} {ratio:.3g}" for name, ratio in copies.items())
        typer.echo(f"damaged copies lie farther from the data than the originals, times: {said} (1: it cannot be seen)")
    typer.echo(f"trained: {out}    next: leapstep evaluate MODEL {data} --features {out}")
    return {"out": out, **record}


def _test_split(data: Data, size: int | None) -> Data | None:
    """The part `test` of a source; None where it has none, or none that can be read, or labels in one part alone."""
    from leapstep.data import holdout
    from leapstep.evaluation import features

    try:
        test = holdout.own_test(data, size=size)
    except ValueError:
        return None
    return None if test is None or (features.is_labelled(data) and test.labels is None) else test
