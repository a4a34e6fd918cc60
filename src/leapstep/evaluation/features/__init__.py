"""Feature spaces, in which distances between samples are measured.

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

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from leapstep.data.dataset import Data
from leapstep.evaluation.features.cache import KINDS, remembered_rows
from leapstep.evaluation.features.classifier import Classifier
from leapstep.evaluation.features.foreign import foreign_features
from leapstep.evaluation.features.inception import inception_features
from leapstep.evaluation.features.learned import MANIFEST, RESULTS, learned_features, save
from leapstep.evaluation.features.pixels import pixels_features
from leapstep.evaluation.features.space import (
    Features,
    fingerprint,
    in_blocks,
    rows_of_block,
)
from leapstep.evaluation.features.training import Recipe, is_labelled, train
from leapstep.files.cache import hash_of
from leapstep.text import near

__all__ = [
    "RESULTS",
    "Classifier",
    "Features",
    "Recipe",
    "extracted",
    "fingerprint",
    "is_labelled",
    "load",
    "reference",
    "reference_key",
    "rows_of_block",
    "save",
    "train",
]


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
        return pixels_features(data, cache)
    if name == "inception":
        return inception_features(data, weights, torch.device(device))
    path, _, function = name.rpartition(":")
    if path.endswith(".py") or name.endswith(".py"):
        return foreign_features(name, Path(path or name), function if path else "", torch.device(device))
    if (Path(name) / MANIFEST).is_file():
        return learned_features(Path(name), data, torch.device(device))
    said = f"the folder {name} has no {MANIFEST}" if Path(name).is_dir() else f"there are no features {name}"
    meant = near(name, ("pixels", "inception"))
    guess = "" if meant is None else f"did you mean {meant}? "
    raise ValueError(
        f"{said}: {guess}use pixels, inception, a folder that `leapstep features train` made, or file.py:function"
    )


def reference(
    features: Features,
    data: Data,
    *,
    cache: bool = True,
    compute: Callable[[str], Iterable[Tensor]] | None = None,
) -> Tensor:
    """The features of a whole data set, from the disk where they were computed before.

    They are kept in $LEAPSTEP_CACHE, or else in `leapstep` in $XDG_CACHE_HOME or ~/.cache, under the hash of the values
    and of the features, and are mapped into memory from there. A cache that cannot be read or written costs time and
    memory, nothing else.

    Arguments:
        features: the feature space.
        data: the data set.
        cache: False neither reads nor writes the cache.
        compute: makes what is not in the cache, in blocks [b, k], and is given the SHA-256 of data and features; None:
            `extracted` does.

    Returns:
        [n, k], on the CPU.

    Raises:
        ValueError: data that the features do not fit.
    """
    key = reference_key(features, data)
    make = (lambda: extracted(features, data)) if compute is None else (lambda: compute(key))
    return remembered_rows(key if cache else None, len(data), make)


def reference_key(features: Features, data: Data) -> str:
    """SHA-256 of data and features, under which the cache has the features of the data."""
    return hash_of("reference", fingerprint(data), features.hash)


def extracted(features: Features, data: Data, rows: range | None = None) -> Iterator[Tensor]:
    """The features of data, all or a range of whole blocks of them, block by block; a range has its bar elsewhere."""
    for block in in_blocks(data.values, "features", rows is None, rows):
        found = features.extract(block)
        yield found if found.dtype in KINDS else found.float()
