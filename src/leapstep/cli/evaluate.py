"""`leapstep evaluate`: how far samples are from real data, and whether they are copies of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
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

    from leapstep.checkpoint import Model
    from leapstep.data import Data
    from leapstep.quality import Array, Batch, Part, Yardstick

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
    data: measuring.DataSource,
    split: measuring.Split = None,
    features: measuring.FeatureSpace = "pixels",
    weights: measuring.Weights = None,
    metrics: measuring.Metrics = None,
    n: Annotated[int, typer.Option(help="How many samples to draw, or to take of those that are there.")] = 1000,
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
        Path | None, typer.Option(metavar="FILE", help="Draw the samples that are nearest to training data, as PNG.")
    ] = None,
    k: measuring.Neighbours = 5,
    resamples: measuring.Resamples = 100,
    batch_size: Annotated[int, typer.Option(help="Samples worked on at a time.")] = 250,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of --out and --pairs.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON.")] = None,
) -> dict[str, Any]:
    """Measure samples against real data: distances, precision and recall, with intervals; and look for copies."""
    from leapstep import checkpoint, quality

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
        source: _Folder | _Model = _Folder(samples, data, n)
    else:
        source = _Model(
            samples,
            data,
            n,
            method,
            settings,
            steps,
            spacing,
            seed,
            label or [],
            guidance,
            batch_size,
            place,
        )
    split, held = measuring.reference(source.read, data, split)
    if pairs is not None and not held.is_pictures:
        raise ValueError("--pairs draws pictures, and these samples are arrays: leave it out")
    rule = measuring.yardstick(data, split, held, features, weights, metrics, k, resamples, place)
    values, part = source.samples(rule)
    measured, doubts = rule.measure(part.seen, part.probabilities)
    found: dict[str, Any] = {
        "evaluation": source.made,
        "conditions": {**rule.conditions, **source.conditions, "versions": measuring.versions()},
        "metrics": quality.as_json(measured),
        "warnings": doubts,
    }
    trained = _trained_on(source, train_split, split)
    if trained is not None:
        found["memorisation"] = _memorised(rule, part.seen, values, trained, pairs)
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
        typer.echo(f"written: {pairs} (the number is the distance; 1: as far as is usual of held-out data)")
    return found


@dataclass
class _Model:
    """Samples that a model draws."""

    source: str
    data: str
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
    made: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def loaded(self) -> Model:
        from leapstep import checkpoint

        model = checkpoint.load(self.source, self.device)
        model.network.requires_grad_(False)
        return model

    def read(self, split: str) -> Data:
        """The data as the model sees them; the labels are kept, for the classes of the samples."""
        data, self.known = options.data_for(self.loaded, self.data, split)
        return data

    def samples(self, rule: Yardstick) -> tuple[Array, Part]:
        """Draw them."""
        import leapstep
        from leapstep import quality

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
    data: str
    n: int
    made: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def values(self) -> Array:
        from leapstep.data import read

        array = Path(self.source) / "samples.npz"  # of `leapstep sample --format npz`
        found = read(array if array.is_file() else self.source, split="all")
        values: Array = np.asarray(found.values[: self.n])
        return values

    def read(self, split: str) -> Data:
        """The data in the size and the channels of the samples."""
        from leapstep.data import read

        shape = self.values.shape[1:]
        if self.values.dtype == np.uint8 and len(shape) == 3:
            data = read(self.data, split=split, size=shape[1] if shape[1] == shape[2] else None, channels=shape[0])
        else:
            data = read(self.data, split=split)
        if data.shape != shape:
            raise ValueError(
                f"{self.data} holds samples of shape {list(data.shape)}: those of {self.source} are {list(shape)}"
            )
        return data

    def samples(self, rule: Yardstick) -> tuple[Array, Part]:
        """Look at them."""
        from leapstep.quality import Part

        try:
            manifest = json.loads((Path(self.source) / "manifest.json").read_text())
        except (OSError, ValueError):
            manifest = {}
        conditional = ("seed", "guidance")
        self.conditions = {"n": len(self.values)} | {name: manifest[name] for name in conditional if name in manifest}
        self.made = {"samples": self.source} | {
            name: value
            for name, value in manifest.items()
            if name not in (*conditional, "n", "finished", "labels", "times", "versions")
        }
        return self.values, Part(*rule.seen(self.values))


def _trained_on(source: _Folder | _Model, asked: str | None, split: str) -> Data | None:
    """The training data, where they are known and not the reference themselves."""
    if asked is None and split in ("train", "all"):
        return None
    try:
        return source.read(asked or "train")
    except ValueError:
        if asked is None:
            return None
        raise


def _memorised(rule: Yardstick, seen: Tensor, values: Array, trained: Data, pairs: Path | None) -> dict[str, Any]:
    """How near samples come to training data, beside how near held-out data come; and the nearest pairs, drawn."""
    from leapstep import features
    from leapstep.evaluation import memorisation

    found = memorisation(seen, features.reference(rule.features, trained), rule.reference)
    if pairs is not None:
        _draw(pairs, values, trained, found)
    return {
        "training": len(trained),
        "threshold": found.threshold,
        "share": found.share._asdict(),
        "expected": found.expected._asdict(),
        "median_ratio": found.ratio.median().item(),
        "nearest": [[int(i), int(found.index[i]), float(found.ratio[i])] for i in found.ratio.argsort()[:PAIRS]],
    }


def _draw(path: Path, values: Array, trained: Data, found: Any) -> None:
    """The pairs that are nearest for what is usual, the nearest first."""
    from leapstep.pictures import save_image, table

    nearest = found.ratio.argsort()[:PAIRS]
    rows = {
        "sample": values[nearest.numpy()],
        "nearest in training": np.asarray(trained.values[found.index[nearest].numpy()]),
    }
    save_image(table(rows, [f"{ratio:.2f}" for ratio in found.ratio[nearest].tolist()]), path)


def _copies(found: dict[str, Any]) -> str:
    """What the search for copies found, in a sentence."""
    share, expected = found["share"], found["expected"]
    said = (
        f"Copies: {share['value']:.1%} of the samples are as near to a training sample as the nearest 1 % of held-out "
        f"data; luck alone gives {expected['low']:.1%} to {expected['high']:.1%}"
    )
    more = share["value"] > expected["high"]
    return said + (": look at the closest pairs (--pairs)." if more else ".")


def _text(found: dict[str, Any]) -> str:
    """The result as a reader wants it."""
    from leapstep.quality import NAMES, shown

    made, under = found["evaluation"], found["conditions"]
    what = made.get("samples") or f"{made['model']}: {made['label']}, {made['steps']} steps, {made['spacing']}"
    lines = [
        f"{what}; {under['n']} samples against {under['reference']} of {under['data']} ({under['split']}), "
        f"features: {under['features_source']}",
        "",
    ]
    lines += [f"{NAMES[name]:<18}{shown(found, name):>20}" for name in NAMES if name in found["metrics"]]
    lines += ["", "± is half of a 95 % interval. Distances: less is better; all else: more is better."]
    if "memorisation" in found:
        lines.append(_copies(found["memorisation"]))
    return "\n".join([*lines, *(f"warning: {text}" for text in found["warnings"])])
