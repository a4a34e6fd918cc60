"""`leapstep evaluate`: how far samples are from real data, and whether they are copies of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from leapstep import files
from leapstep.cli import measuring, options
from leapstep.progress import progress_bar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from leapstep.data.dataset import Data
    from leapstep.evaluation.distances import Memorisation
    from leapstep.evaluation.quality import Array, Batch, Part, Yardstick
    from leapstep.models.checkpoint import Model

EXAMPLES = """**Examples**

`leapstep evaluate runs/digits digits`

`leapstep evaluate runs/mnist mnist/ --features features/mnist --method unipc --steps 10 --n 5000 --out unipc-10.json`

`leapstep evaluate samples/ photos/ --split all --features inception --metrics frechet kernel`

`leapstep evaluate runs/digits digits --pairs closest.png`
"""

PAIRS = 12
"""How many of the closest pairs the picture shows."""


def command(
    samples: Annotated[
        str,
        typer.Argument(
            metavar="MODEL-or-FOLDER",
            help="A model to sample; or samples: a folder of images or of `leapstep sample`, an npy or npz file.",
        ),
    ],
    data: measuring.DataSource = None,
    split: options.Split = None,
    features: measuring.FeatureSpace = "pixels",
    weights: measuring.Weights = None,
    metrics: measuring.Metrics = None,
    n: Annotated[int, typer.Option(help="How many samples to draw, or to take of those that are there.")] = 1000,
    size: Annotated[
        int | None,
        typer.Option(help="Side that a folder's samples are cut and resized to, pixels; the data follow them."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps from noise to data; default: 20, or T where that is less; 1 for rk23 and rk45."),
    ] = None,
    method: options.MethodName = "ddim",
    settings: options.Settings = None,
    spacing: options.OwnSpacing = None,
    seed: Annotated[int, typer.Option(help="Of the start noise.")] = 0,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME ...", help="Classes, in turn; default: as in the reference.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")] = 1.0,
    train_split: Annotated[
        str | None,
        typer.Option(help="Part of the data that the model was trained on, to look for copies; default: train."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the samples nearest to training data, each beside the nearest, as PNG."
        ),
    ] = None,
    k: measuring.Neighbours = 5,
    resamples: measuring.Resamples = 100,
    batch_size: Annotated[int, typer.Option(help="Samples worked on at a time.")] = 250,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of --out and --pairs.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON.")] = None,
) -> dict[str, Any]:
    """Measure samples against real data: distances, precision and recall, with intervals; and look for copies."""
    from leapstep.evaluation import quality
    from leapstep.models import checkpoint

    place = options.device(device)
    if n < 2 or batch_size < 1:
        raise ValueError(f"--n {n} --batch-size {batch_size}: at least 2 samples, and a batch of at least 1")
    if pairs is not None and pairs.suffix.lower() != ".png":
        raise ValueError(f"--pairs {pairs}: pictures are written as PNG, pass a name that ends in .png")
    for path in (out, pairs):
        if path is not None:
            options.claim_file(path, overwrite)
    if Path(samples).exists() and not checkpoint.is_model(samples):
        asked = {"--steps": steps, "--set": settings, "--spacing": spacing, "--label": label}
        if ignored := [name for name, value in asked.items() if value is not None]:
            raise ValueError(f"{samples} holds samples, to which {', '.join(ignored)} does not apply: name a model")
        source: _Folder | _Model = _Folder(samples, n, size)
    elif size is not None:
        raise ValueError(f"--size {size}: {samples} is a model, whose samples have a size; leave it out")
    else:
        source = _Model(samples, n, method, settings, steps, spacing, seed, label or [], guidance, batch_size, place)
    data = measuring.source(source.details, data, samples)
    held = measuring.reference(functools.partial(source.read, data), source.details, data, split)
    if pairs is not None and not held.data.is_pictures:
        raise ValueError("--pairs draws pictures, and these samples are arrays: leave it out")
    rule = measuring.yardstick(data, held, features, weights, metrics, k, resamples, place)
    source.known = held.labels
    values, part = source.samples(rule)
    measured, doubts = rule.measure(part.seen, part.probabilities)
    found: dict[str, Any] = {
        "evaluation": source.made,
        "conditions": {**rule.conditions, **source.conditions, "versions": measuring.versions()},
        "metrics": quality.as_json(measured),
        "relation": held.relation,  # of the reference to the model
        "warnings": doubts,
    }
    trained = _trained_on(functools.partial(source.read, data), train_split)
    if trained is not None:
        fresh = None if held.split in ("train", "all") else rule.reference
        found["memorisation"] = _memorised(rule, part.seen, values, trained, fresh, pairs)
    elif pairs is not None:
        raise ValueError(
            f"--pairs needs the data that the model was trained on: name its part of {data} by --train-split"
        )
    if out is not None:
        files.write_json(out, found)
    typer.echo(_text(found))
    if out is not None:
        typer.echo(f"written: {out}")
    if pairs is not None:
        typer.echo(f"written: {pairs}")
    return found


@dataclass
class _Model:
    """Samples that a model draws."""

    source: str
    n: int
    method: str
    settings: list[str] | None
    steps: int | None
    spacing: str | None
    seed: int
    label: list[str]
    guidance: float
    batch_size: int
    device: torch.device
    known: Tensor | None = None
    """The labels of the reference, for the classes of the samples."""
    made: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def loaded(self) -> Model:
        from leapstep.models import checkpoint

        model = checkpoint.load(self.source, self.device)
        model.network.requires_grad_(False)
        return model

    @property
    def details(self) -> Mapping[str, Any]:
        """What the model's folder says of it."""
        return self.loaded.details

    def read(self, source: str, split: str) -> tuple[Data, Tensor | None]:
        """Data as the model sees them, and their labels."""
        return options.data_for(self.loaded, source, split)

    def samples(self, rule: Yardstick) -> tuple[Array, Part]:
        """Draw them."""
        import leapstep
        from leapstep.evaluation import quality

        model = self.loaded
        transition, used = options.transition(self.method, self.settings, model)
        steps, spacing = options.path(model, self.method, self.steps, self.spacing)
        setting = quality.Setting(self.method, used, steps, spacing)
        classes, how = measuring.classes(model, self.known, self.label, self.n)
        kept: list[Array] = []
        calls = leapstep.TRANSITIONS[self.method].calls * steps * self.n
        with progress_bar(calls or None, "sampling", "call") as bar:
            batches = quality.draw(
                model,
                setting,
                transition,
                self.n,
                labels=classes,
                guidance=self.guidance,
                seed=self.seed,
                batch_size=self.batch_size,
                device=self.device,
                on_calls=bar.update,
            )
            *_, part = quality.gather(rule, _kept(batches, kept))
        self.conditions = measuring.drawing(model, self.n, self.seed, how, self.guidance)
        self.made = options.origin(self.source, model, self.method, used, self.device)
        self.made |= {"label": quality.label(self.method, used), "steps": steps}
        self.made |= {"spacing": setting.spacing, "calls": part.calls}
        self.made |= {name: float(f"{value:.3g}") for name, value in part.seconds.items()}
        return np.concatenate(kept), part


def _kept(batches: Iterator[Batch], kept: list[Array]) -> Iterator[Batch]:
    """The batches, whose values are put in a list as they pass."""
    for batch in batches:
        kept.append(batch.values)
        yield batch


@dataclass
class _Folder:
    """Samples that are there already."""

    source: str
    n: int
    size: int | None = None
    known: Tensor | None = None
    made: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def manifest(self) -> Mapping[str, Any]:
        """What `leapstep sample` says of them, if they are its."""
        from leapstep.files.reading import read_json
        from leapstep.files.schema import checked
        from leapstep.inference.schema import Manifest

        try:
            found: dict[str, Any] = read_json(Path(self.source) / "manifest.json")
            checked(Manifest, found)
        except (OSError, ValueError):
            return {}
        return found

    @property
    def details(self) -> Mapping[str, Any]:
        """What is known of the model that drew them, as its folder says it."""
        return {"data": self.manifest.get("trained_on", {})}

    @functools.cached_property
    def values(self) -> Array:
        from leapstep.data.readers import read
        from leapstep.inference.store import FINAL, PART

        arrays = [Path(self.source, name) for name in (FINAL, PART)]  # of `leapstep sample`, if it drew no pictures
        found = read(str(next((path for path in arrays if path.is_file()), self.source)), split="all", size=self.size)
        values: Array = np.asarray(found.values[: self.n])
        return values

    def read(self, source: str, split: str) -> tuple[Data, None]:
        """Data in the size and the channels of the samples."""
        from leapstep.data.holdout import part
        from leapstep.data.readers import read

        shape = self.values.shape[1:]
        fit: dict[str, Any] = {}
        if self.values.dtype == np.uint8 and len(shape) == 3:
            fit = {"size": shape[1] if shape[1] == shape[2] else None, "channels": shape[0]}
        data = part(self.details, source, split, lambda split: read(source, split=split, **fit))
        if data.shape != shape:
            raise ValueError(
                f"{source} holds samples of shape {list(data.shape)}: those of {self.source} are {list(shape)}"
            )
        return data, None

    def samples(self, rule: Yardstick) -> tuple[Array, Part]:
        """Look at them."""
        from leapstep.evaluation.quality import Part

        manifest = self.manifest
        spec = manifest.get("spec", {})
        conditional = ("seed", "guidance")
        self.conditions = {"n": len(self.values)} | {name: spec[name] for name in conditional if name in spec}
        self.made = {"samples": self.source} | {
            name: value
            for name, value in {**spec, **manifest}.items()
            if name not in (*conditional, "spec", "version", "n", "finished", "labels", "times", "versions")
        }
        return self.values, Part(*rule.seen(self.values))


def _trained_on(read: Callable[[str], tuple[Data, Tensor | None]], asked: str | None) -> Data | None:
    """The training data, where they are known."""
    from leapstep.data.dataset import NoSplit

    try:
        return read(asked or "train")[0]
    except NoSplit:
        if asked is None:
            return None
        raise


def _memorised(
    rule: Yardstick, seen: Tensor, values: Array, trained: Data, fresh: Tensor | None, pairs: Path | None
) -> dict[str, Any]:
    """How near samples come to training data, beside how near fresh data do; and the nearest pairs, drawn.

    Arguments:
        fresh: data that were not trained on, in feature space; None: there are none, and training data stand for them.
    """
    from leapstep.evaluation import features
    from leapstep.evaluation.distances import memorisation

    found = memorisation(seen, features.reference(rule.features, trained), fresh)
    known = "other training data" if fresh is None else "data that were not trained on"
    if pairs is not None:
        _draw(pairs, values, trained, found, known)
    return {
        "training": len(trained),
        "known": known,
        "relative": {name: getattr(found.relative, name) for name in ("value", "low", "high")},
        "threshold": found.threshold,
        "share": found.share._asdict(),
        "expected": found.expected._asdict(),
        "median_ratio": found.ratio.median().item(),
        "nearest": [[int(i), int(found.index[i]), float(found.ratio[i])] for i in found.ratio.argsort()[:PAIRS]],
    }


def _draw(path: Path, values: Array, trained: Data, found: Memorisation, known: str) -> None:
    """The pairs that are nearest for what is usual, the nearest first."""
    from leapstep.data.pictures import captioned, save_image, table

    nearest = found.ratio.argsort()[:PAIRS]
    index, ratios = found.index[nearest].tolist(), found.ratio[nearest].tolist()
    rows = {"sample": values[nearest.numpy()], "nearest in training": np.asarray(trained.values[index])}
    columns = [
        f"sample {i}\ntraining {j}\nratio {ratio:.2f}"
        for i, j, ratio in zip(nearest.tolist(), index, ratios, strict=True)
    ]
    title = (
        f"The {len(nearest)} of {len(values)} samples that are nearest to one of {len(trained)} training samples\n"
        f"ratio: the distance over the median one of {known}; 1 is as far as fresh data, 0 a copy"
    )
    save_image(captioned({title: table(rows, columns)}), path)


def _copies(found: dict[str, Any]) -> list[str]:
    """What the search for copies found, in sentences."""
    from leapstep.evaluation.distances import Estimate
    from leapstep.evaluation.quality import nearness

    share, expected = found["share"], found["expected"]
    said = (
        f"Copies: {share['value']:.1%} of the samples are as near to a training sample as the nearest 1 % of "
        f"{found['known']}; luck alone gives {expected['low']:.1%} to {expected['high']:.1%}"
    )
    more = share["value"] > expected["high"]
    return [
        nearness(Estimate(**found["relative"]), found["known"]),
        said + (": look at the closest pairs (--pairs)." if more else "."),
    ]


def _text(found: dict[str, Any]) -> str:
    """The result as a reader wants it."""
    from leapstep.evaluation.quality import NAMES, shown

    made, under = found["evaluation"], found["conditions"]
    what = made.get("samples") or f"{made['model']}: {made['label']}, {made['steps']} steps, {made['spacing']}"
    lines = [
        f"{what}; {under['n']} samples against {measuring.told(found)}; features: {under['features_source']}",
        "",
    ]
    lines += [f"{NAMES[name]:<18}{shown(found, name):>20}" for name in NAMES if name in found["metrics"]]
    lines += ["", "± is half of a 95 % interval. Distances: less is better; all else: more is better."]
    if "memorisation" in found:
        lines += _copies(found["memorisation"])
    return "\n".join([*lines, *(f"warning: {text}" for text in found["warnings"])])
