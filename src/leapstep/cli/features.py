"""`leapstep features train`: a feature space from labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import options

if TYPE_CHECKING:
    from leapstep.data import Data

EXAMPLES = """**Examples**

`leapstep features train digits --out features/digits`

`leapstep features train mnist/ --out features/mnist`

`leapstep features train cifar10/ --flip --epochs 12 --out features/cifar10`

`leapstep evaluate runs/mnist mnist/ --features features/mnist`
"""


def command(
    action: Annotated[str, typer.Argument(metavar="train", help="The word `train`.")],
    data: Annotated[
        str,
        typer.Argument(
            help="Labelled data: `digits`, a folder of images in sub-folders, a parquet, arrow or npz file, a folder "
            "of parquet files, or `owner/name` on the Hub."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder to make: weights, and features.json, which says what they are.")
    ],
    size: Annotated[int | None, typer.Option(help="Crop and resize pictures to squares of this side.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data; default: 2, or as many as make 500 steps.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="The highest, of one cycle.")] = 4e-3,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the pictures.")] = False,
    seed: Annotated[int, typer.Option(help="Of the first weights and of all chance in training.")] = 0,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the features in the folder.")] = False,
) -> dict[str, Any]:
    """Train a small classifier, whose last layer is a feature space for `--features`, and measure its accuracy.

    Pictures go through a residual network, other samples through three layers. The accuracy is that on the test split,
    or on a tenth that is held out where there is none.
    """
    from leapstep import features
    from leapstep.data import read

    if action != "train":
        raise ValueError(f"features {action}: the one thing to do is train, as in leapstep features train digits")
    place = options.device(device)
    options.claim(out, overwrite, features.RESULTS, None)
    held = read(data, size=size)
    recipe = features.Recipe(epochs, batch_size, learning_rate, flip, seed)
    test = _test_split(data, held, size)
    network, record = features.train(held, test, recipe, device=place)
    features.save(out, network, record)
    space = features.load(str(out), held, device=place)
    for each in (held, test) if test is not None else (held,):
        features.reference(space, each)  # into the cache, for what will be compared with them
    tested = record["tested_on"]
    typer.echo(f"accuracy: {record['accuracy']:.2%} on {tested['what']} ({tested['samples']} samples)")
    typer.echo(f"trained: {out}    next: leapstep evaluate MODEL {data} --features {out}")
    return {"out": out, **record}


def _test_split(source: str, data: Data, size: int | None) -> Data | None:
    """The test split of a source; None where it has none.

    A source without splits whose name has the word test in it gives all it has for any split, so that which equals the
    training data is none.
    """
    import numpy as np

    from leapstep.data import read

    channels = data.shape[0] if data.is_pictures else None
    try:
        test = read(source, split="test", size=size, channels=channels)
    except ValueError:
        return None
    same = test.values.shape == data.values.shape and np.array_equal(test.values, data.values)
    return None if same or test.labels is None else test
