"""The contents of a page as numbers and arrays.

Arrays hold what the data would: uint8 pixels for pictures, and float64 values in the data's own units for all else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from leapstep.evaluation.distances import Estimate
from leapstep.evaluation.page.extent import WHOLE, Extent
from leapstep.evaluation.sweep import Sweep
from leapstep.inference.spec import SamplingSpec

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.data.dataset import Data

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Plan:
    """What a page is to show.

    Attributes:
        spec: how its samples are drawn; without labels, those of a model of classes are of all classes in turn.
        n: samples in the grid; None: 64, 16 signals, or 256 points.
        extent: what is shown at most.
    """

    spec: SamplingSpec = field(default_factory=SamplingSpec)
    n: int | None = None
    extent: Extent = WHOLE


class Split(NamedTuple):
    """A part of a data set, as a model sees it.

    Attributes:
        data: scaled as the model's own data.
        labels: `[n]`, the model's numbers of their classes, or None.
    """

    data: Data
    labels: Tensor | None


class Splits(NamedTuple):
    """The data that a model is held against.

    Attributes:
        source: what they were read from.
        train: what it was trained on.
        held: what it has never seen; None: there is no such part, and the training data take its place.
        held_name: the name of that part.
    """

    source: str
    train: Split
    held: Split | None = None
    held_name: str = "test"


class Curve(NamedTuple):
    """A quantity over the training steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


class Strip(NamedTuple):
    """A picture of samples that the training left behind."""

    step: int
    png: bytes


class Consistency(NamedTuple):
    """The same start noises in different numbers of steps.

    Attributes:
        steps: `[m]`, ascending.
        samples: `[m, k, *d]`.
        errors: `[m]`, the mean squared difference from the samples of the most steps, per dimension.
        apart: the same between two different samples of the most steps, on average.
    """

    steps: tuple[int, ...]
    samples: Array
    errors: tuple[float, ...]
    apart: float

    @property
    def shares(self) -> tuple[float, ...]:
        """The errors, as shares of what two different samples differ by."""
        return tuple(error / self.apart if self.apart > 0 else math.nan for error in self.errors)


class Way(NamedTuple):
    """Samples on their way from noise to data.

    Attributes:
        times: `[p]`, from 1 or nearly to 0.
        x: x_t over the root of alpha^2 + sigma^2, `[p, k, *d]`.
        x0: the estimates that were made of these, `[p, k, *d]`; at the end, x itself.
    """

    times: tuple[float, ...]
    x: Array
    x0: Array


class Between(NamedTuple):
    """What lies between start noises: `frames` [rows, columns, *d] among four of them, or [1, columns, *d] among two.

    Attributes:
        seeds: whose first noises are the corners, row by row.
        method: a deterministic one.
        label: the class of all of them; None: of no class.
    """

    frames: Array
    seeds: tuple[int, ...]
    method: str
    label: int | None


class Reconstructions(NamedTuple):
    """Data that were encoded and decoded again.

    Attributes:
        originals: `[k, *d]`, some of them.
        steps: `[m]`, ascending.
        samples: `[m, k, *d]`, what came back.
        errors: `[m]`, mean squared difference of all n, per dimension.
        deviations: `[m]`, the standard errors of these.
        n: how many there were.
        split: the part of the data that they are from.
        method: a deterministic one.
    """

    originals: Array
    steps: tuple[int, ...]
    samples: Array
    errors: tuple[float, ...]
    deviations: tuple[float, ...]
    n: int
    split: str
    method: str


class Denoising(NamedTuple):
    """Errors of the network by noise level, on one part of the data.

    Attributes:
        split: the part of the data.
        n: data at each level.
        x0: `[m]`, mean squared error of the estimate that samplers use, over the variance of the data.
        eps: `[m]`, mean squared error of the estimated noise, nothing clipped: the loss on eps.
    """

    split: str
    n: int
    x0: tuple[float, ...]
    eps: tuple[float, ...]


class Levels(NamedTuple):
    """Errors by noise level: the times `[m]`, their log-SNR `[m]`, and the errors on each part of the data."""

    times: tuple[float, ...]
    log_snr: tuple[float, ...]
    parts: tuple[Denoising, ...]


class Standing(NamedTuple):
    """How far samples are from real data, and real data from each other.

    Attributes:
        value: Fréchet distance of the samples to the reference, in the feature space `pixels`.
        real: that of as many real samples, on average over draws ...
        spread: ... and its standard deviation.
        mean: that of the mean of the data, drawn again and again: their variance.
        n: how many samples.
    """

    value: float
    real: float
    spread: float
    mean: float
    n: int

    @property
    def is_hopeless(self) -> bool:
        """Nearer to what the mean of the data would be at than to real samples, and not by luck."""
        return self.value > max((self.real + self.mean) / 2, self.real + 4 * self.spread)


class Neighbours(NamedTuple):
    """Samples and the training data nearest to them, the nearest first.

    Attributes:
        rows: `[k]`, which samples these are.
        samples, nearest: `[k, *d]`.
        distances: `[k]`, Euclidean, in model space.
        ratios: `[k]`, over the median distance of held-out data from the training data; where there are none, of
            training data from the others. None where that is 0.
        relative: the median of the ratios of all samples, with its 95 % interval; or None.
        n: how many samples there were ...
        among: ... and how many training data.
    """

    rows: tuple[int, ...]
    samples: Array
    nearest: Array
    distances: tuple[float, ...]
    ratios: tuple[float, ...] | None
    relative: Estimate | None
    n: int
    among: int


@dataclass(frozen=True)
class Page:
    """Everything that a page shows; `render` writes it down.

    Attributes:
        source: where the model lies.
        opening: options with which commands open it beside its name.
        kind: "pictures", "points" (two numbers), "signals" (one or more curves), or "numbers" (all else).
        facts: what the model is, by name.
        noun: what it draws, in words.
        classes: the names of its classes.
        spec: how the samples are drawn, with nothing left open.
        extent: what is shown at most.
        spacing: of the model, which commands need not name.
        unit: in which squared differences are.
        data: the source of the data, and None without.
        own: whether they are what the model was trained on, as its folder says.
        held: the part of them that the model was not trained on; "train" where there is none.
        samples: the grid, `[n, *d]`.
        labels: the names of their classes, or empty.
        sweep: of the model, by `leapstep sweep`.
        left_out: why a sweep that lies in the folder is not shown.
        seconds, calls, evaluations: what the page took: calls of the network, and samples that went through it.
        versions: by name.
        created: date and time.
    """

    source: str
    opening: tuple[str, ...]
    kind: str
    facts: Mapping[str, str]
    noun: str
    classes: tuple[str, ...]
    spec: SamplingSpec
    extent: Extent
    spacing: str
    unit: str
    samples: Array
    labels: tuple[str, ...]
    consistency: Consistency
    way: Way
    between: Between
    data: str | None = None
    own: bool = False
    held: str = "train"
    curves: Mapping[str, Curve] = field(default_factory=dict)
    strips: Sequence[Strip] = ()
    reconstructions: Reconstructions | None = None
    levels: Levels | None = None
    standing: Standing | None = None
    neighbours: Neighbours | None = None
    sweep: Sweep | None = None
    left_out: str = ""
    seconds: float = 0.0
    calls: int = 0
    evaluations: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def label(self) -> int | None:
        """The class of all samples; None where they are of several classes in turn, or of none."""
        labels = self.spec.labels or ()
        return int(labels[0]) if len(labels) == 1 < len(self.classes) else None


def kind(shape: Sequence[int], is_pictures: bool) -> str:
    """What samples of this shape can be shown as: "pictures", "points", "signals" or "numbers"."""
    if is_pictures and len(shape) == 3 and shape[0] in (1, 3):
        return "pictures"
    if tuple(shape) == (2,):
        return "points"
    if len(shape) in (1, 2) and shape[-1] >= 8 and (len(shape) == 1 or shape[0] <= 4):
        return "signals"
    return "numbers"


def chosen(count: int, most: int) -> list[int]:
    """At most so many of the numbers from 0 to count - 1, evenly chosen, with both ends."""
    return [round(place) for place in np.linspace(0, count - 1, min(most, count)).tolist()]
