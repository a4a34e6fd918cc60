"""What samples are measured against: real data in a feature space, and the metrics.

A number says nothing without what it depends on: the reference and the features, how many samples, their seed and
labels. So a `Yardstick` carries its conditions, and every result repeats them.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.data import holdout
from leapstep.data.dataset import Data, resizing
from leapstep.data.ordering import order
from leapstep.data.values import Rows, blocks_of
from leapstep.evaluation import features as spaces
from leapstep.evaluation.distances import METRICS, Against, Estimate, against, measure
from leapstep.evaluation.features import Features
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.models.data import usual_part, warn
from leapstep.models.model import Model
from leapstep.text import allowed

Array = npt.NDArray[Any]


class Reference(NamedTuple):
    """Real data that samples are compared with.

    Attributes:
        source: what they were read from.
        split: the part of it.
        relation: to the model, see `holdout.relation`.
        data: the samples.
        labels: their classes in the model's numbers [n], or None.
    """

    source: str
    split: str
    relation: str
    data: Data
    labels: Tensor | None = None


def trained_on(details: Mapping[str, Any], model: str) -> str:
    """The source of the data that a model was trained on.

    Arguments:
        details: the content of its `leapstep.json`.
        model: how it is called.

    Raises:
        ValueError: nobody knows.
    """
    source = (details.get("data") or {}).get("source")
    if not isinstance(source, str):
        raise ValueError(f"{model} does not say what it was trained on: name real data after it")
    return source


def reference(
    parts: Callable[[str], tuple[Data, Tensor | None]],
    details: Mapping[str, Any],
    source: str,
    split: str | None = None,
    tell: Callable[[str], object] = warn,
) -> Reference:
    """A part of some data as the reference: the one asked for, or `test`, or all where nothing is held out.

    Arguments:
        parts: reads a part of the data as the samples are, and its labels; see `leapstep.models.data.parts_of`.
        details: the content of the model's `leapstep.json`.
        source: the data.
        split: the part.
        tell: called with a line on what was done to fit the data, or that another part is taken.
    """
    name, (data, labels) = usual_part(parts, source, split, tell=tell)
    if resized := resizing(data):
        tell(f"{source}: {resized}, as the samples are")
    return Reference(source, name, holdout.relation(details, source, name, data), data, labels)


def features_of(features: Features, real: Reference) -> Tensor:
    """The features of real data [m, k], from the cache, or else made in this process and put there."""
    return spaces.reference(features, real.data)


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """What samples are measured against.

    Attributes:
        features: the space in which they are compared.
        reference: real data in it, [m, k].
        conditions: what a result depends on besides the model and the specification, as JSON.
        metrics: which, of `distances.METRICS`; None: all that can be computed.
        k: neighbours of the k-nearest-neighbour metrics.
        resamples: of the bootstrap.
    """

    features: Features
    reference: Tensor
    conditions: Mapping[str, Any]
    metrics: Sequence[str] | None = None
    k: int = 5
    resamples: int = 100

    @functools.cached_property
    def spread(self) -> float:
        """The total variance of the reference: how far, in Fréchet distance, nothing but its mean is from it."""
        reference = self.reference.double()
        return float((reference - reference.mean(0)).square().sum(1).mean())

    @functools.cached_property
    def against(self) -> Against:
        """The reference as statistics that merge need it."""
        return against(
            self.reference, k=self.k, metrics=self.metrics, classified=self.features.probabilities is not None
        )

    def seen(self, values: Array) -> tuple[Tensor, Tensor | None]:
        """Samples [n, *d] in feature space, and their class probabilities where the features come with a classifier."""
        classify = self.features.probabilities
        return self.features.extract(values), None if classify is None else classify(values)

    def measure(self, seen: Tensor, probabilities: Tensor | None = None) -> tuple[dict[str, Estimate], list[str]]:
        """Every metric of samples in feature space [n, k] with its 95 % interval, and what speaks against them."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimates = measure(
                seen,
                self.reference,
                probabilities=probabilities,
                k=self.k,
                resamples=self.resamples,
                metrics=self.metrics,
            )
        return estimates, [str(warning.message) for warning in caught]


class Measure(NamedTuple):
    """How samples are compared with a reference; `against` makes a yardstick of it.

    Attributes:
        features: "pixels", "inception", a folder that `leapstep features train` made, or "file.py:function".
        weights: a local file of the weights of "inception".
        metrics: names of `distances.METRICS`; None: all that the features allow.
        k: which nearest neighbour bounds precision, recall, density and coverage.
        resamples: of the bootstrap that makes the intervals.
        merged: whether statistics of the samples are merged instead of keeping their features; None: of more than
            50,000 samples. See `leapstep.evaluation.tally`.
    """

    features: str = "pixels"
    weights: Path | None = None
    metrics: Sequence[str] | None = None
    k: int = 5
    resamples: int = 100
    merged: bool | None = None

    def against(
        self,
        reference: Reference,
        device: torch.device | str = "cpu",
        extract: Callable[[Features, Reference], Tensor] = features_of,
    ) -> Yardstick:
        """The yardstick of a reference.

        Arguments:
            device: where the networks of features run.
            extract: makes the features of the reference [m, k].

        Raises:
            ValueError: an unknown metric, one that the features do not allow, or features that cannot be loaded.
        """
        data, names = reference.data, list(self.metrics or [])
        if unknown := [name for name in names if name not in METRICS]:
            raise SpecError("metrics", ", ".join(unknown), allowed(unknown[0], METRICS))
        if self.k < 1:
            raise SpecError("k", self.k, "at least 1 neighbour")
        if self.resamples < 2:
            raise SpecError("resamples", self.resamples, "at least 2")
        if len(data) <= self.k:
            few = f"{reference.source} ({reference.split}) holds {len(data)} samples, and more than k are needed"
            raise SpecError("k", self.k, few)
        space = spaces.load(self.features, data, weights=self.weights, device=device)
        if "inception_score" in names and space.probabilities is None:
            raise SpecError("metrics", "inception_score", f"needs a classifier, which features {self.features} lack")
        conditions = {
            "data": reference.source,
            "split": reference.split,
            "reference": len(data),
            "data_sha256": spaces.fingerprint(data),
            "features": space.name,
            "features_source": self.features,
            "features_sha256": space.hash,
            "k": self.k,
            "resamples": self.resamples,
        }
        return Yardstick(space, extract(space, reference), conditions, names or None, self.k, self.resamples)


# --- samples that are comparable with a reference ------------------------------------------------------------------


def interleaved(labels: Array) -> npt.NDArray[np.intp]:
    """An order of data, [m], in which every beginning holds the classes in the proportions of the whole."""
    rank, count = np.empty(len(labels)), np.empty(len(labels))
    for label in np.unique(labels):
        where = labels == label
        rank[where], count[where] = np.arange(where.sum()), where.sum()
    return np.lexsort((labels, (rank + 0.5) / count))


def taken(data: Data, n: int, merged: bool) -> Rows | None:
    """Which n of some data are measured, and in which order: indices [n]; None: the first, as they lie.

    They are in the proportions of their classes, and where statistics of blocks are merged (`merged`), so is every
    block: data often lie sorted by class. Where nobody knows their classes, or samples are read in blocks that are too
    many for memory, these blocks are in a random order, always the same (`leapstep.data.ordering`).
    """
    if not merged and (n == len(data) or data.labels is None):
        return None
    blocks = blocks_of(data.values)
    if data.labels is None or (blocks is not None and len(blocks.starts) - 1 > blocks.window):
        return order(0, 0, len(data), blocks)[:n]
    return interleaved(data.labels)[:n]


def comparable(
    model: Model, spec: SamplingSpec, known: Tensor | None, steps: int = 20
) -> tuple[SamplingSpec, dict[str, Any]]:
    """A specification with nothing left open, of classes as often as in a reference; and what results depend on in it.

    Arguments:
        known: the labels of the reference in the model's numbers, [m], or None.
        steps: their number where the specification leaves it open.
    Returns:
        the specification; and its number of samples, seed, labels and guidance, as conditions of a result.
    Raises:
        ValueError: what `SamplingSpec.checked` raises, or fewer than 2 samples.
    """
    if spec.n < 2:
        raise SpecError("n", spec.n, "at least 2 samples are compared with a reference")
    labels: Any = None if spec.labels is None else [str(label) for label in spec.labels]
    if labels is None and model.classes:
        numbers = (
            torch.arange(len(model.classes)) if known is None else known[torch.from_numpy(interleaved(known.numpy()))]
        )
        spec = dataclasses.replace(spec, labels=tuple(numbers[: spec.n].tolist()))
        labels = "every class in turn" if known is None else "as often as in the reference"
    spec, usual = spec.checked(model, steps=steps), SamplingSpec()
    seldom = ("first", "start", "conditions", "rescale")
    return spec, {
        "n": spec.n,
        "seed": spec.seed,
        "labels": labels,
        "guidance": spec.guidance,
        **{name: getattr(spec, name) for name in seldom if getattr(spec, name) != getattr(usual, name)},
        "ema": "training" in model.details or None,  # a run folder holds averaged weights; of others nobody knows
    }
