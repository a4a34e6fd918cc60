"""The samples of a training run: their order, and those that it never sees."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.data.dataset import Data
from leapstep.data.holdout import DECODE, Holdout, again, choose, on_demand, own_test, rows
from leapstep.data.ordering import order
from leapstep.data.readers import read
from leapstep.data.values import Blocks, Selection, Values, blocks_of, threads_of
from leapstep.training import initial
from leapstep.training.configuration import TrainingConfig

COMPARED = 256
"""How many noised samples make a loss that is compared from step to step."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of a run.

    Attributes:
        data: the whole source.
        rows: those that are trained on, [n] indices into the data.
        test: those that are not, held out or the source's own part `test`; None where there are none.
        holdout: what the run records of samples of the source that are held out; None where none are.
        notes: what whoever starts the run should know, in lines.
    """

    data: Data
    rows: npt.NDArray[np.int64]
    test: Data | None
    holdout: Holdout | None
    notes: tuple[str, ...] = ()

    def batch(self, seed: int, start: int, size: int) -> tuple[Tensor, Tensor | None]:
        """Samples from an endless stream of shuffled epochs, a function of the seed and of the position alone.

        Arguments:
            seed: of the order.
            start: how many samples of the stream come before.
            size: how many to take, b; they may lie across epochs.

        Returns:
            float32 [b, *d] in model space, and int64 [b] labels where the data have them.
        """
        n, end = len(self.rows), start + size
        epochs = range(start // n, (end - 1) // n + 1)
        orders = (order(seed, epoch, n, self._blocks) for epoch in epochs)
        parts = [of[max(0, start - epoch * n) : end - epoch * n] for epoch, of in zip(epochs, orders, strict=True)]
        chosen = self.rows[np.concatenate(parts)]
        labels = self.data.labels
        return self.data.batch(chosen), None if labels is None else torch.from_numpy(labels[chosen])

    @functools.cached_property
    def compared(self) -> dict[str, Data]:
        """`COMPARED` samples each of "held_out" and "training", where there are both.

        They are in memory where they would be decoded again each time.
        """
        if self.test is None:
            return {}
        parts = {"held_out": (self.test, np.arange(len(self.test))), "training": (self.data, self.rows)}
        return {name: _some(data, rows) for name, (data, rows) in parts.items()}

    @functools.cached_property
    def _blocks(self) -> Blocks | None:
        """Which of the rows are read together."""
        whole = blocks_of(self.data.values)
        return None if whole is None else whole.of(self.rows)


def _some(data: Data, rows: npt.NDArray[np.int64]) -> Data:
    """`COMPARED` of these rows, always the same, and again and again where they are few."""
    chosen = np.resize(np.random.default_rng(0).permutation(rows), COMPARED)
    values: Values = Selection(data.values, chosen)
    if threads_of(values) > 0:
        values = np.asarray(values)
    labels = None if data.labels is None else data.labels[chosen]
    return dataclasses.replace(data, values=values, labels=labels, hashes=None, names=None)


def read_samples(
    config: TrainingConfig,
    source: str,
    start: initial.Start | None = None,
    resumed: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Samples:
    """Read the data of a run and hold out a part.

    Arguments:
        config: the settings.
        source: see `leapstep.data.read`.
        start: the weights that the run begins with; the data are brought to what they take.
        resumed: what the last checkpoint of a run says that is resumed: it holds out what it did.
        progress: show a progress bar.

    Raises:
        ValueError: data that cannot be read, that do not fit the weights, or of which the part that was asked for
            cannot be held out.
    """
    channels = None if config.grey is None else (1 if config.grey else 3)
    earlier = [details for details in (resumed, start and start.model.details) if details]
    as_earlier = next((how for how in map(on_demand, earlier) if how is not None), None)
    asked = DECODE[config.decode]
    if as_earlier and asked is False:
        raise ValueError(
            "--decode before: the run that made these weights held out samples by name, as images are that are decoded "
            "on demand: leave --decode out"
        )
    how = as_earlier if asked is None else asked
    options: dict[str, Any] = {"size": config.size, "progress": progress, "on_demand": how}
    data = read(source, channels=channels, strict=config.strict, **options)
    if start is not None:
        data = initial.fitting(data, start)
    whole = Samples(data, np.arange(len(data)), None, None)
    if config.holdout == "no":
        return whole
    try:
        test = own_test(data, **options)
    except ValueError as error:
        note = f"there is no loss on the part test, which cannot be read: {error}"
        return dataclasses.replace(whole, notes=(note,))
    if test is not None:
        return _with_test(whole, test, config, start)
    chosen = Holdout.recorded(resumed) if resumed else _chosen(data, config, start)
    kept, left = rows(data, chosen)
    return Samples(data, kept, None if chosen is None else data.subset(left), chosen)


def _with_test(whole: Samples, test: Data, config: TrainingConfig, start: initial.Start | None) -> Samples:
    """The samples of a source that has a part `test` of its own."""
    data = whole.data
    if config.holdout != "auto":
        raise ValueError(f"{data.source} has a part test of its own, which is never trained on: leave --holdout out")
    if start is not None:
        test = initial.fitting(test, start)
    if test.shape != data.shape or test.classes != data.classes:
        note = "there is no loss on the part test, whose samples have another shape or other classes"
        return dataclasses.replace(whole, notes=(note,))
    return dataclasses.replace(whole, test=dataclasses.replace(test, scaling=data.scaling))


def _chosen(data: Data, config: TrainingConfig, start: initial.Start | None) -> Holdout | None:
    """What a new run holds out: what the run did that made its weights, unless other settings are asked for."""
    earlier = start.model.details if start is not None else {}
    inherited = Holdout.recorded(earlier)
    if inherited and config.holdout in ("auto", earlier.get("training", {}).get("holdout")):
        return again(data, inherited)
    return choose(data, config.holdout)
