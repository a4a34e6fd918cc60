"""Options shared by the commands that measure samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from leapstep.cli import options
from leapstep.text import allowed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from leapstep.data.dataset import Data
    from leapstep.evaluation.quality import Yardstick
    from leapstep.models.checkpoint import Model

DataSource = Annotated[
    str | None,
    typer.Argument(help="Real data: `digits`, a folder, a file, a name on the Hub; default: what it was trained on."),
]
FeatureSpace = Annotated[
    str,
    typer.Option(
        help="What samples are compared in: pixels (their principal components) | inception (as FID and KID are) | the "
        "folder that `leapstep features train` made | file.py:function, which sees values as they lie on disk"
    ),
]
Weights = Annotated[Path | None, typer.Option(help="A local file of weights for --features inception.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME ...",
        help="frechet | kernel | precision | recall | density | coverage | inception_score; default: all that the "
        "features allow.",
    ),
]
Neighbours = Annotated[int, typer.Option("--k", help="Which nearest neighbour bounds precision, recall and so on.")]
Resamples = Annotated[int, typer.Option(help="Of the bootstrap that makes the intervals.")]


def source(details: Mapping[str, Any], asked: str | None, model: str) -> str:
    """The data that were asked for, or those that a model was trained on, as its folder says.

    Raises:
        ValueError: neither.
    """
    own = (details.get("data") or {}).get("source") if asked is None else asked
    if not isinstance(own, str):
        raise ValueError(f"{model} does not say what it was trained on: name real data after it")
    return own


class Reference(NamedTuple):
    """Real data that samples are held against.

    Attributes:
        split: the part of the source.
        relation: to the model, see `holdout.relation`.
        data: the samples.
        labels: their classes in the model's numbers [n], or None.
    """

    split: str
    relation: str
    data: Data
    labels: Tensor | None = None


def reference(
    read: Callable[[str], tuple[Data, Tensor | None]], details: Mapping[str, Any], source: str, asked: str | None
) -> Reference:
    """The part of the data asked for, or `test`, or all where nothing is held out; what was done to fit them is said.

    Arguments:
        read: reads a part of the data, and its labels.
        details: the content of the model's `leapstep.json`.
        source: the data.
    """
    from leapstep.data.dataset import resizing
    from leapstep.data.holdout import relation

    def found(split: str) -> Reference:
        data, labels = read(split)
        return Reference(split, relation(details, source, split, data), data, labels)

    chosen = options.part(found, source, asked)[1]
    if fitted := resizing(chosen.data):
        typer.echo(f"{source}: {fitted}, as the samples are", err=True)
    return chosen


def told(result: Mapping[str, Any]) -> str:
    """The reference of a result, as a reader is told of it."""
    from leapstep.evaluation.quality import REFERENCE

    under = result["conditions"]
    said = f"{under['reference']} of {under['data']} ({under['split']})"
    relation = REFERENCE.get(result.get("relation", "?"))
    return said if relation is None else f"{said}, {relation}"


def yardstick(
    source: str,
    held: Reference,
    features: str,
    weights: Path | None,
    metrics: list[str] | None,
    k: int,
    resamples: int,
    device: torch.device,
) -> Yardstick:
    """What samples are measured against: a reference in a feature space.

    Raises:
        ValueError: an unknown metric, one that the features do not allow, or features that cannot be loaded.
    """
    from leapstep.evaluation import features as spaces
    from leapstep.evaluation.distances import METRICS
    from leapstep.evaluation.quality import Yardstick

    split, _, data, _ = held
    wanted = metrics or []
    if unknown := [name for name in wanted if name not in METRICS]:
        raise ValueError(f"--metrics {', '.join(unknown)}: {allowed(unknown[0], METRICS)}")
    if k < 1 or resamples < 2:
        raise ValueError(f"--k {k} --resamples {resamples}: at least 1 neighbour and 2 resamples")
    if len(data) <= k:
        raise ValueError(f"{source} ({split}) holds {len(data)} samples: --k {k} needs more than as many")
    space = spaces.load(features, data, weights=weights, device=device)
    if "inception_score" in wanted and space.probabilities is None:
        raise ValueError(f"--metrics inception_score needs a classifier, which --features {features} has not")
    conditions = {
        "data": source,
        "split": split,
        "reference": len(data),
        "data_sha256": spaces.fingerprint(data),
        "features": space.name,
        "features_source": features,
        "features_sha256": space.hash,
        "k": k,
        "resamples": resamples,
    }
    return Yardstick(space, spaces.reference(space, data), conditions, wanted or None, k, resamples)


def classes(model: Model, known: Tensor | None, asked: list[str], n: int) -> tuple[Tensor | None, Any]:
    """The class of each of n samples, and how a result names the choice.

    Arguments:
        known: the labels of the reference in the model's numbers, [m], or None.
        asked: what --label says.
    """
    import torch

    from leapstep.evaluation.quality import interleaved

    if asked or not model.classes:
        return options.labels(model, asked, n), asked or None
    if known is None:
        return torch.arange(n) % len(model.classes), "every class in turn"
    order = torch.from_numpy(interleaved(known.numpy()))
    return known[order][torch.arange(n) % len(order)], "as often as in the reference"


def drawing(model: Model, n: int, seed: int, labels: Any, guidance: float) -> dict[str, Any]:
    """What a result depends on besides the yardstick, the method and the steps; without what tells models apart."""
    return {
        "n": n,
        "seed": seed,
        "labels": labels,
        "guidance": guidance,
        "ema": "training" in model.details or None,  # a run folder holds averaged weights; of others nobody knows
    }


def versions() -> dict[str, str]:
    """What else a number depends on."""
    import torch

    import leapstep

    return {"leapstep": leapstep.__version__, "torch": str(torch.__version__)}
