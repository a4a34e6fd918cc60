"""Training of a classifier whose last layer becomes a feature space."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from leapstep.core.scaling import Scaling
from leapstep.data import ordering
from leapstep.data.dataset import Data
from leapstep.data.values import Values, blocks_of
from leapstep.evaluation import rotations
from leapstep.evaluation.features.classifier import Classifier
from leapstep.evaluation.features.space import (
    Array,
    batched,
    check_shape,
    fingerprint,
    in_blocks,
)
from leapstep.progress import progress_bar

COMPARED = 2000
"""How many pictures at most show what a learned space makes of damaged ones."""


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
    if blocks_of(data.values) is not None:  # in which they are read
        held, kept = np.sort(held), np.sort(kept)
    turned = not is_labelled(data)
    values = data.subset(held).values if test is None else test.values
    labels = None
    if turned:
        check_shape(values, data.shape, "to be learned")
    else:
        labels = data.labels[held] if test is None else _labels(test, data)  # type: ignore[index]
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
        "accuracy": _accuracy(network, data.scaling, values, labels, progress),
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


def _copies(network: Classifier, data: Data, kept: Array, values: Values) -> dict[str, float]:
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
    whole = blocks_of(data.values)
    blocks = None if whole is None else whole.of(kept)
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
                if blocks is not None:
                    order = ordering.order(recipe.seed, step // steps, len(kept), blocks)
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


def _accuracy(network: Classifier, scaling: Scaling, values: Values, labels: Array | None, progress: bool) -> float:
    """How often the classes of samples are found; without labels, how often the turns of pictures are."""
    place, right, start = next(network.parameters()).device, [], 0
    logits = batched(network, lambda block: scaling.to_model(block).to(place), 256)
    for block in in_blocks(values, "accuracy", progress):
        asked, known = rotations.all_turned(block) if labels is None else (block, labels[start : start + len(block)])
        right.append(logits(asked).argmax(1).numpy() == known)
        start += len(block)
    return float(np.concatenate(right).mean())
