"""Feature spaces: maps from samples to vectors between which distances mean something.

Distances between sets of samples (`evaluation.distances`) see a data set through features. There are four kinds:

    pixels              the principal components of the values in model space, fitted on the data at hand, and how far
                        off them a sample lies
    learned             the last layer of a small classifier that `leapstep features train` made: of the data's labels,
                        or, for pictures without, of the angles by which they were turned
    inception           the pool of the Inception network by which the FID is defined, through torch-fidelity
    file.py:function    anything else: a map that a Python file makes

A map is known by its hash, which covers all that determines it: two numbers may stand side by side only if the features
behind them have the same hash. Features of a data set are kept on the disk, under the hash of the data and of the map.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from leapstep import files, plugin
from leapstep.core.process import flat
from leapstep.core.scaling import Scaling
from leapstep.data.dataset import Data
from leapstep.evaluation import rotations
from leapstep.files import folders, reading
from leapstep.networks.weights import check_finite, compare
from leapstep.progress import progress_bar
from leapstep.text import near, reason

Array = npt.NDArray[Any]

COMPONENTS = 64
"""How many principal components `pixels` keeps at most."""

EXACT = 4096
"""Up to this many values a sample, `pixels` takes the eigenvectors of the whole covariance matrix."""

WIDTH = 128
"""How many features a learned classifier has at most: half as many for pictures of 16 pixels or less."""

COMPARED = 2000
"""How many pictures at most show what a learned space makes of damaged ones."""

MOST_WEIGHTS = 2**30
"""The largest file of a learned classifier, bytes."""

MANIFEST, WEIGHTS = "features.json", "weights.safetensors"
"""The files of a folder that `leapstep features train` made."""

RESULTS = folders.Kind(MANIFEST, "weights_sha256", r"(?!)")
"""Such a folder. A new beginning removes nothing: the results are replaced when the new ones are done."""


@dataclass(frozen=True)
class Features:
    """A map from samples to vectors.

    Attributes:
        name: "pixels", "learned", "inception", or "file.py:function" as it was given.
        hash: SHA-256, in hexadecimal digits, of everything that determines the map.
        extract: values as in `Data.values`, [n, *d], to features [n, k], float32 on the CPU; it works in batches.
        probabilities: the same values to the probabilities of classes, [n, classes]; None where there are no classes.
    """

    name: str
    hash: str
    extract: Callable[[Array], Tensor]
    probabilities: Callable[[Array], Tensor] | None = None


def load(
    name: str, data: Data, *, weights: Path | None = None, device: str | torch.device = "cpu", cache: bool = True
) -> Features:
    """Make a feature space by its name.

    Arguments:
        name: "pixels", "inception", a folder that `leapstep features train` made, or "file.py:function". The function
            is called once, without arguments, and returns a map from values [b, *d], a tensor of the type that the
            data have, to features [b, k]. The file is executed with all that is in it; the hash is that of this file
            and of the weights of a module that it returns, not of anything else that it reads or imports.
        data: the samples that are to be compared with; `pixels` is fitted on them.
        weights: a file of the Inception network's weights; None: those that torch-fidelity names, from its cache or
            the network.
        device: where networks run.
        cache: keep the axes of `pixels` on the disk, as `reference` does with features.

    Returns:
        The feature space.

    Raises:
        ValueError: there is no such feature space, it does not fit the data, or it cannot be made here.

    References:
        Heusel et al. 2017, arXiv:1706.08500 (features of Inception for the FID).
    """
    if weights is not None and name != "inception":
        raise ValueError(f"weights {weights} are for the features inception, not for {name}: leave them out")
    if name == "pixels":
        return _pixels(data, cache)
    if name == "inception":
        return _inception(data, weights, torch.device(device))
    path, _, function = name.rpartition(":")
    if path.endswith(".py") or name.endswith(".py"):
        return _foreign(name, Path(path or name), function if path else "", torch.device(device))
    if (Path(name) / MANIFEST).is_file():
        return _learned(Path(name), data, torch.device(device))
    said = f"the folder {name} has no {MANIFEST}" if Path(name).is_dir() else f"there are no features {name}"
    meant = near(name, ("pixels", "inception"))
    guess = "" if meant is None else f"did you mean {meant}? "
    raise ValueError(
        f"{said}: {guess}use pixels, inception, a folder that `leapstep features train` made, or file.py:function"
    )


def reference(features: Features, data: Data, *, cache: bool = True) -> Tensor:
    """The features of a whole data set, from the disk where they were computed before.

    They are kept in $LEAPSTEP_CACHE, or else in `leapstep` in $XDG_CACHE_HOME or ~/.cache, under the hash of the values
    and of the features. A cache that cannot be read or written costs time, nothing else.

    Arguments:
        features: the feature space.
        data: the data set.
        cache: False neither reads nor writes the cache.

    Returns:
        [n, k], on the CPU.

    Raises:
        ValueError: data that the features do not fit.
    """

    def compute() -> dict[str, Tensor]:
        return {"features": torch.cat([features.extract(block) for block in _blocks(data.values, "features")])}

    def fits(tensors: Mapping[str, Tensor]) -> bool:
        found = tensors.get("features")
        return found is not None and found.ndim == 2 and len(found) == len(data)

    key = _digest("reference", fingerprint(data), features.hash) if cache else None
    return _remembered(key, compute, fits)["features"]


def fingerprint(data: Data) -> str:
    """SHA-256 of the values of a data set, their type and their shape; in blocks, as they may be memory-mapped."""
    whole = hashlib.sha256(f"{data.values.dtype.str} {data.values.shape}".encode())
    rows = _rows(data.values, 2**24 // data.values.itemsize)
    for start in range(0, len(data), rows):
        whole.update(np.ascontiguousarray(data.values[start : start + rows]).tobytes())
    return whole.hexdigest()


def _digest(*parts: Any) -> str:
    """SHA-256 of some values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _rows(values: Array, numbers: int) -> int:
    """How many samples hold about so many numbers, at least 1."""
    return max(1, numbers * len(values) // max(1, values.size))


def _blocks(values: Array, what: str, show: bool = True) -> Iterator[Array]:
    """Values in turn, under a progress bar that shows after a second."""
    rows = min(256, _rows(values, 2**22))
    with progress_bar(len(values), what, " samples", show=show) as bar:
        for start in range(0, len(values), rows):
            block = np.asarray(values[start : start + rows])
            yield block
            bar.update(len(block))


def _batched(call: Callable[[Tensor], Tensor], prepare: Callable[[Array], Tensor], size: int) -> Callable[..., Tensor]:
    """A map of arrays of any length from a map of batches, without gradients; results come to the CPU."""

    def extract(values: Array) -> Tensor:
        values = np.asarray(values)
        starts = range(0, max(1, len(values)), size)
        with torch.no_grad():
            return torch.cat([call(prepare(values[start : start + size])).cpu() for start in starts])

    return extract


def _check_shape(values: Array, shape: tuple[int, ...], name: str) -> None:
    if values.shape[1:] != shape:
        raise ValueError(f"samples of shape {list(values.shape[1:])}: the features {name} take {list(shape)}")


# --- what is kept on the disk --------------------------------------------------------------------------------------


def _remembered(
    key: str | None, compute: Callable[[], dict[str, Tensor]], fits: Callable[[Mapping[str, Tensor]], bool]
) -> dict[str, Tensor]:
    """Tensors from the cache, or else computed and put there. Without a key they are computed."""
    if key is None:
        return compute()
    path = _cache() / f"{key}.safetensors"
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
        if fits(tensors):
            return tensors
    except Exception:  # none is there, or it is broken in any way: it is made anew
        pass
    tensors = compute()
    with contextlib.suppress(OSError, ValueError):
        files.check_writable(path.parent)
        files.write_bytes(path, safetensors.torch.save({name: each.contiguous() for name, each in tensors.items()}))
    return tensors


def _cache() -> Path:
    """The folder of the cache."""
    if own := os.environ.get("LEAPSTEP_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "leapstep")


# --- pixels --------------------------------------------------------------------------------------------------------


def _pixels(data: Data, cache: bool) -> Features:
    """Coordinates along the principal axes of the data, in units of model space, not whitened.

    Where there are fewer axes than values, the distance from the space of the axes is one more coordinate: noise is
    nearly at right angles to the axes of pictures, and without it would pass for their mean. There are then at most a
    quarter as many axes as data, to which they would fit too well, so that fresh data would seem to lie off them.

    The hash is that of the data, not of the axes: these differ in their last digits with the number of threads.
    """
    size = math.prod(data.shape)
    whole = size <= min(COMPONENTS, len(data) - 1)
    count = size if whole else max(1, min(COMPONENTS, size, len(data) // 4))
    digest = _digest("pixels", fingerprint(data), [float(number) for number in data.scaling], count, whole)

    def compute() -> dict[str, Tensor]:
        return dict(zip(("mean", "axes"), _principal_axes(data, count), strict=True))

    def fits(tensors: Mapping[str, Tensor]) -> bool:
        return {name: list(each.shape) for name, each in tensors.items()} == {"mean": [size], "axes": [size, count]}

    fitted = _remembered(_digest("axes", digest) if cache else None, compute, fits)

    def prepare(values: Array) -> Tensor:
        _check_shape(values, data.shape, "pixels")
        return flat(data.scaling.to_model(values)).double()

    def project(x: Tensor) -> Tensor:
        centred = x - fitted["mean"]
        along = centred @ fitted["axes"]
        if whole:
            return along.float()
        off = (centred - along @ fitted["axes"].T).norm(dim=1, keepdim=True)
        return torch.cat([along, off], 1).float()

    return Features("pixels", digest, _batched(project, prepare, _rows(data.values, 2**22)))


def _principal_axes(data: Data, count: int) -> tuple[Tensor, Tensor]:
    """The mean [d] and the first principal axes [d, count] of data in model space, float64.

    The axes are eigenvectors of the covariance; where that has more than `EXACT` rows, block power iteration finds
    them in passes over the data (Halko et al. 2011, algorithm 4.4, arXiv:0909.4061). The largest entry of each axis is
    positive.
    """

    def blocks(what: str) -> Iterator[Tensor]:
        return (flat(data.scaling.to_model(block)).double() for block in _blocks(data.values, what))

    size = math.prod(data.shape)
    mean = torch.zeros(size, dtype=torch.float64)
    for x in blocks("mean"):
        mean += x.sum(0) / len(data)
    if size <= EXACT:
        covariance = torch.zeros(size, size, dtype=torch.float64)
        for x in blocks("principal axes"):
            covariance.addmm_((x - mean).T, x - mean)
        axes = torch.linalg.eigh(covariance).eigenvectors
    else:
        start = torch.randn(size, count + 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        basis = torch.linalg.qr(start).Q
        for turn in range(8):
            basis = torch.linalg.qr(sum((x - mean).T @ ((x - mean) @ basis) for x in blocks(f"pass {turn + 1} of 8"))).Q
        within = sum(((x - mean) @ basis).T @ ((x - mean) @ basis) for x in blocks("principal axes"))
        axes = basis @ torch.linalg.eigh(within).eigenvectors
    axes = axes[:, -count:].flip(1)
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return mean, (axes * signs).contiguous()


# --- learned -------------------------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """How a classifier is trained.

    Attributes:
        epochs: passes over the data; None: 2, or as many as make 500 steps.
        batch_size: samples a step.
        learning_rate: the highest, of one cycle that begins and ends near 0.
        flip: mirror half of the pictures.
        seed: of the first weights, the order and the shifts.
    """

    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 4e-3
    flip: bool = False
    seed: int = 0


class Classifier(nn.Module):
    """Classes of samples in model space: x [b, *d] to logits [b, classes].

    Pictures pass through residual blocks that halve their sides until they are 8 pixels or less, through one that keeps
    them, and are averaged; other samples pass through three layers. What the last, linear layer sees are the features.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, pictures: bool) -> None:
        super().__init__()
        self.pictures = pictures
        if pictures:
            halvings = max(1, math.ceil(math.log2(min(shape[1:]) / 8)))
            widths = [min(WIDTH, WIDTH // 4 * 2**level) for level in range(halvings + 1)]
            self.body = _convolutions(shape[0], widths)
        else:
            widths = [math.prod(shape), 2 * WIDTH, 2 * WIDTH, WIDTH]
            self.body = _layers(widths)
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        """The features [b, k] of samples."""
        found: Tensor = self.body(x if self.pictures else flat(x))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The logits [b, classes] of samples."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(widths):
        layers += [nn.Linear(inside, outside, bias=False), nn.BatchNorm1d(outside), nn.ReLU()]
    return nn.Sequential(*layers)


def _convolutions(channels: int, widths: Sequence[int]) -> nn.Sequential:
    first = [nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    blocks = [_Residual(inside, outside, stride=2) for inside, outside in itertools.pairwise(widths)]
    last = _Residual(widths[-1], widths[-1], stride=1)
    return nn.Sequential(*first, *blocks, last, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class _Residual(nn.Module):
    """A residual block; a stride of 2 halves the sides of a picture (rounded up)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inside, outside, 1, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


def train(
    data: Data,
    test: Data | None = None,
    recipe: Recipe | None = None,
    *,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> tuple[Classifier, dict[str, Any]]:
    """Train a classifier whose last layer is to be a feature space: of the data's labels, or else of rotations.

    Pictures are shifted by up to a fourteenth of their sides (2 pixels of 28), their edges repeated. Those without
    labels, or all of one class, are turned, and the network learns by how much (`leapstep.evaluation.rotations`).

    Arguments:
        data: labelled samples, or pictures.
        test: samples on which the accuracy is measured, of the same shape; None: a tenth of the data, which is then not
            trained on.
        recipe: the settings.
        device: where it is trained.
        progress: show a progress bar on stderr.

    Returns:
        the classifier, in eval mode, and what `save` writes beside its weights: the task, the data, the accuracy, how
        much farther from the data damaged copies of pictures lie, the settings.

    Raises:
        ValueError: arrays without labels or with less than 2 classes, too few data; settings that are not allowed.
        FloatingPointError: a loss that is not finite.

    References:
        He et al. 2016, arXiv:1512.03385 (residual blocks); Smith and Topin 2017, arXiv:1708.07120 (one cycle);
        Loshchilov and Hutter 2017, arXiv:1711.05101 (AdamW).
    """
    recipe = _checked(recipe or Recipe(), data)
    order = np.random.default_rng(recipe.seed).permutation(len(data))
    held = order[: max(1, len(data) // 10)] if test is None else order[:0]
    kept = order[len(held) :]
    turned = not is_labelled(data)
    values = data.values[held] if test is None else test.values
    if turned:
        _check_shape(values, data.shape, "to be learned")
        asked, labels = rotations.all_turned(values)
    else:
        asked, labels = values, data.labels[held] if test is None else _labels(test, data)  # type: ignore[index]
    classes = rotations.angles(data.shape) if turned else data.classes
    steps = max(1, len(kept) // recipe.batch_size)  # the rest of an epoch makes no batch: its statistics would be poor
    epochs = max(2, math.ceil(500 / steps)) if recipe.epochs is None else recipe.epochs
    place = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = Classifier(data.shape, len(classes), data.is_pictures)
    network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    _optimise(network, data, kept, (epochs, steps), recipe, progress)
    record = {
        "task": "rotations" if turned else "classes",
        "accuracy": _accuracy(network, data.scaling, asked, labels, progress),
        "tested_on": {"what": "a held-out tenth" if test is None else "the test split", "samples": len(values)},
        "copies": _copies(network, data, kept, values) if data.is_pictures and len(values) > 1 else {},
        "data": {
            "source": data.source,
            "samples": len(kept),
            "sha256": fingerprint(data),
            "shape": list(data.shape),
            "pictures": data.is_pictures,
            "scaling": data.scaling._asdict(),
            "classes": list(classes),
        },
        "settings": recipe._asdict() | {"epochs": epochs, "device": str(place)},
    }
    return network, record


def is_labelled(data: Data) -> bool:
    """Whether the labels of some data are something to learn."""
    return data.labels is not None and len(data.classes) > 1


def _copies(network: Classifier, data: Data, kept: Array, values: Array) -> dict[str, float]:
    """`rotations.farther` for at most `COMPARED` pictures of each kind."""
    place = next(network.parameters()).device

    def extract(x: Tensor) -> Tensor:
        with torch.no_grad():
            starts = range(0, len(x), 256)
            return torch.cat([network.features(x[start : start + 256].to(place)).cpu() for start in starts])

    most = min(COMPARED, max(2, 2**26 // math.prod(data.shape)))  # all of them lie in memory
    held = data.scaling.to_model(np.asarray(values[:most]))
    return rotations.farther(extract, data.batch(kept[:most]), held)


def _checked(recipe: Recipe, data: Data) -> Recipe:
    if not is_labelled(data) and not data.is_pictures:
        has = "no labels" if data.labels is None else f"the one class {data.classes[0]}"
        raise ValueError(
            f"{data.source} has {has}: features of arrays are learned from at least 2 classes, and --features pixels "
            "needs none"
        )
    if recipe.epochs is not None and recipe.epochs < 1:
        raise ValueError(f"epochs {recipe.epochs}: train for at least 1")
    if recipe.batch_size < 2:
        raise ValueError(f"batch size {recipe.batch_size}: use at least 2")
    if not 0 < recipe.learning_rate < math.inf:
        raise ValueError(f"learning rate {recipe.learning_rate:g}: use a positive number, such as 0.004")
    if not 0 <= recipe.seed < 2**63:
        raise ValueError(f"seed {recipe.seed}: use an integer from 0 on")
    if recipe.flip and not data.is_pictures:
        raise ValueError(f"flip mirrors pictures, but {data.source} holds arrays: leave it out")
    if len(data) < 4:
        raise ValueError(f"{data.source} holds {len(data)} samples: at least 4 are needed to learn features")
    return recipe


def _optimise(
    network: Classifier, data: Data, kept: Array, span: tuple[int, int], recipe: Recipe, progress: bool
) -> None:
    """Train a network in place for some epochs of some steps each."""
    labels = data.labels if is_labelled(data) else None
    epochs, steps = span
    place = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=epochs * steps + 1, pct_start=0.25
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    network.train()
    with progress_bar(epochs * steps, "training", "step", show=progress) as bar:
        for step in range(epochs * steps):
            if step % steps == 0:
                order = torch.randperm(len(kept), generator=generator).numpy()
            first = step % steps * recipe.batch_size
            rows = np.sort(kept[order[first : first + recipe.batch_size]])
            x = data.batch(rows)
            if data.is_pictures:
                x = _moved(x, recipe.flip, generator)
            x, target = rotations.turned(x, generator) if labels is None else (x, torch.from_numpy(labels[rows]))
            loss = nn.functional.cross_entropy(network(x.to(place)), target.to(place))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            if not math.isfinite(shown := loss.item()):
                raise FloatingPointError(f"the loss of step {step + 1} is {shown}: lower the learning rate")
            bar.update()
            bar.set_postfix(loss=f"{shown:.3f}", refresh=False)
    network.eval()


def _moved(x: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Pictures [b, c, h, w] shifted at random, and mirrored, each in its own way."""
    n, _, height, width = x.shape
    if flip:
        mirrored = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        x = torch.where(mirrored, x.flip(-1), x)
    shift = max(1, min(height, width) // 14)
    x = nn.functional.pad(x, (shift, shift, shift, shift), mode="replicate")
    down, right = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    number = torch.arange(n)[:, None, None]
    return x.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _labels(test: Data, data: Data) -> npt.NDArray[np.int64]:
    """The labels of test data, as the numbers that the classes have in the training data."""
    if test.labels is None:
        raise ValueError(f"the test split of {test.source} has no labels: name data whose splits have them")
    if test.shape != data.shape:
        raise ValueError(
            f"the test split holds samples of shape {list(test.shape)}, the training split {list(data.shape)}"
        )
    if unknown := sorted(set(test.classes) - set(data.classes)):
        raise ValueError(f"the test split has classes {', '.join(unknown[:5])} that the training split does not have")
    numbers: npt.NDArray[np.int64] = np.array([data.classes.index(name) for name in test.classes])[test.labels]
    return numbers


def _accuracy(network: Classifier, scaling: Scaling, values: Array, labels: Array, progress: bool) -> float:
    place = next(network.parameters()).device
    logits = _batched(network, lambda block: scaling.to_model(block).to(place), 256)
    found = torch.cat([logits(block).argmax(1) for block in _blocks(values, "accuracy", progress)])
    return float((found.numpy() == labels).mean())


def save(folder: str | Path, network: Classifier, record: Mapping[str, Any]) -> None:
    """Write a classifier as `load` reads it: its weights, and then a JSON file that says what it is.

    Arguments:
        folder: made if need be; what it holds under the same names is replaced.
        network: the classifier.
        record: what `train` returned with it.

    Raises:
        ValueError: nothing can be written there.
    """
    from leapstep import __version__

    files.check_writable(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    content = safetensors.torch.save(tensors)
    versions = {"leapstep": __version__, "torch": str(torch.__version__)}
    digest = hashlib.sha256(content).hexdigest()
    if not (Path(folder) / MANIFEST).exists():  # a folder that is cut short here is known as one of features
        files.write_json(Path(folder) / MANIFEST, {"weights_sha256": digest})
    files.write_bytes(Path(folder) / WEIGHTS, content)
    files.write_json(Path(folder) / MANIFEST, {**record, "versions": versions, "weights_sha256": digest})


def _learned(folder: Path, data: Data, device: torch.device) -> Features:
    """The features of a trained classifier."""
    from leapstep.evaluation.schema import FeatureSpace
    from leapstep.files.schema import checked

    try:
        record = reading.read_json(folder / MANIFEST)
        told = checked(FeatureSpace, record).data
        shape, pictures = told.shape, told.pictures
        scaling = Scaling(told.scaling.shift, told.scaling.scale)
        content = reading.read_bytes(folder / WEIGHTS, MOST_WEIGHTS)
        if hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
            raise ValueError(f"{WEIGHTS} is not the file that {MANIFEST} speaks of")
        state = safetensors.torch.load(content)
        with torch.device("meta"):
            sketched = Classifier(shape, len(told.classes), pictures).state_dict()
        compare(sketched, state)
        network = Classifier(shape, len(told.classes), pictures)
        network.load_state_dict(state)
        check_finite(network)
    except Exception as error:  # whatever is wrong with JSON, its fields, the weights or the disk
        said = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | TypeError) else reason(error)
        raise ValueError(f"the features in {folder} cannot be read ({said}): train them again") from error
    if data.shape != shape or data.is_pictures != pictures:
        kind = "pictures" if pictures else "arrays"
        raise ValueError(
            f"{data.source} holds samples of shape {list(data.shape)}: the features in {folder} were learned from "
            f"{kind} of shape {list(shape)}"
        )
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def prepare(values: Array) -> Tensor:
        _check_shape(values, shape, "learned")
        return scaling.to_model(values).to(device)

    digest = _digest("learned", record["weights_sha256"], list(shape), list(scaling))
    extract = _batched(network.features, prepare, 256)
    if record.get("task") == "rotations":  # whose probabilities are of no class of the data
        return Features("learned", digest, extract)
    return Features("learned", digest, extract, _batched(lambda x: network(x).softmax(1), prepare, 256))


# --- inception -----------------------------------------------------------------------------------------------------


def _inception(data: Data, weights: Path | None, device: torch.device) -> Features:
    """The 2048 features of the FID, and the probabilities of the Inception Score, as torch-fidelity computes them."""
    if not data.is_pictures:
        raise ValueError(f"inception sees pictures, but {data.source} holds arrays: use pixels or file.py:function")
    try:
        import torch_fidelity
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError as error:
        raise ValueError(
            f"the features inception need an extra ({error}): pip install 'leapstep[inception]'"
        ) from error
    except Exception as error:  # a torchvision that was built for another torch
        raise ValueError(
            f"torch-fidelity cannot be imported ({reason(error)}): install the torchvision that belongs to torch "
            f"{torch.__version__}"
        ) from error
    state = _tensors(weights, URL_INCEPTION_V3)
    try:
        # the library would unpickle a file without restrictions, so it is given what was read with them
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], _saved(state))
    except RuntimeError as error:
        raise ValueError(
            f"{weights or URL_INCEPTION_V3} holds the weights of another network: use {URL_INCEPTION_V3}"
        ) from error
    network.to(device).eval()

    def prepare(values: Array) -> Tensor:
        if values.ndim != 4 or values.shape[1] not in (1, 3) or values.dtype != np.uint8:
            raise ValueError(f"inception sees pictures, uint8 [n, 1 or 3, h, w], not {values.dtype} {values.shape}")
        return torch.from_numpy(np.repeat(values, 3 // values.shape[1], 1)).to(device)

    digest = _digest("inception", str(torch_fidelity.__version__), _digest_of(state))
    extract = _batched(lambda x: network(x)[0], prepare, 64)
    return Features("inception", digest, extract, _batched(lambda x: network(x)[1].softmax(1), prepare, 64))


def _tensors(weights: Path | None, address: str) -> dict[str, Tensor]:
    """Weights by name, from a file, or else from the address or what was downloaded from there before."""
    try:
        if weights is None:
            state = torch.hub.load_state_dict_from_url(address, map_location="cpu", check_hash=True, weights_only=True)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # of the network, the disk, the archive or the restricted unpickler
        if weights is None:
            raise ValueError(
                f"the weights of inception cannot be downloaded ({reason(error)}): fetch {address} elsewhere, and name "
                "the file as the weights"
            ) from error
        if not weights.is_file():
            raise ValueError(f"there is no file {weights}: name the weights of inception ({address})") from error
        said = "it is none, or holds code" if isinstance(error, pickle.UnpicklingError) else reason(error)
        raise ValueError(f"{weights} cannot be read as a file of weights ({said}): use {address}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{weights or address} holds something else than weights by name: use {address}")
    return dict(state)


def _saved(state: dict[str, Tensor]) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def _digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: the same for the same numbers, whatever file they came in."""
    whole = hashlib.sha256()
    for name, each in sorted(state.items()):
        whole.update(f"{name} {each.dtype} {list(each.shape)}".encode())
        whole.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


# --- file.py:function ----------------------------------------------------------------------------------------------


def _foreign(name: str, path: Path, function: str, device: torch.device) -> Features:
    """The map that a function in a Python file makes."""
    if not function.isidentifier():
        raise ValueError(f"{name}: name the function that makes the map as well, as in {path}:features")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    extract = plugin.make(path, function)
    if not callable(extract):
        raise ValueError(
            f"{name} returned {type(extract).__name__}: return a function of values [b, *d] that gives features [b, k]"
        )
    weights = ""
    if isinstance(extract, nn.Module):
        weights = _digest_of({name: each for name, each in extract.state_dict().items() if isinstance(each, Tensor)})
        extract = extract.to(device).eval()

    def call(x: Tensor) -> Tensor:
        found: Tensor = plugin.execute(path, lambda: torch.as_tensor(extract(x)))
        if found.ndim != 2 or len(found) != len(x) or found.is_complex():
            raise ValueError(
                f"{name} made {str(found.dtype).removeprefix('torch.')} {list(found.shape)} of {len(x)} samples: "
                f"return numbers [{len(x)}, k]"
            )
        return found if found.is_floating_point() else found.float()

    def prepare(values: Array) -> Tensor:  # a copy in the machine's own byte order: arrays may be read-only
        return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="))).to(device)

    return Features(name, _digest(function, content, weights), _batched(call, prepare, 256))
