"""What is kept of the samples of a specification while they pass: their features, or statistics that merge.

Up to `KEPT` samples, their features are kept, and metrics are those of `distances.measure`. Of more, statistics of
blocks are merged (`distances.merged`), and the features of the first `FIRST` samples are kept, by which the metrics are
taken that do not merge: recall, and the search for copies. Memory then does not grow with the number of samples.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from leapstep.evaluation.distances import METRICS, Blocks, Estimate, Node, Tree, measure
from leapstep.evaluation.drawing import Batch, Part, arrays_of, joined, part_in
from leapstep.evaluation.yardstick import Yardstick
from leapstep.inference.engine import Array

KEPT = 50_000
"""Up to so many samples, the features of all are kept where nothing else is asked for."""

FIRST = 10_000
"""How many samples are kept where statistics are merged."""


def blocks_for(yardstick: Yardstick, n: int, batch_size: int, merged: bool | None = None) -> Blocks | None:
    """How n samples are cut into blocks whose statistics merge; None where their features are kept.

    Arguments:
        batch_size: how many are seen at once.
        merged: what was asked for; None: where there are more than `KEPT`.
    """
    if merged is False or (merged is None and n <= KEPT):
        return None
    return Blocks.of(n, yardstick.reference.shape[1], batch_size)


def condition(blocks: Blocks | None) -> dict[str, str]:
    """What a result depends on in it, where features were not kept."""
    kept = "recall and copies of the first"
    return {} if blocks is None else {"merged": f"blocks of {blocks.size}; {kept} {min(blocks.n, FIRST)}"}


@dataclasses.dataclass
class Tally:
    """Samples of a specification that follow each other, from the index `start` on.

    Attributes:
        yardstick: by what they are measured.
        blocks: how all samples are cut; None: their features are kept.
        start: index of the first one here, at which a block begins.
        with_values: whether the values of those that are kept are kept too.
        parts, values: of those that are kept.
        calls: of the network, for each sample.
        work: how often it was called for a single sample.
        tree: of statistics.
    """

    yardstick: Yardstick
    blocks: Blocks | None = None
    start: int = 0
    with_values: bool = False
    parts: list[Part] = dataclasses.field(default_factory=list)
    values: list[Array] = dataclasses.field(default_factory=list)
    calls: int = 0
    work: float = 0.0

    def __post_init__(self) -> None:
        self.stop, self.tree = self.start, Tree(0 if self.blocks is None else self.blocks.level)
        self._waiting: list[Part] = []

    @classmethod
    def of(cls, yardstick: Yardstick, part: Part) -> Tally:
        """The tally of samples that are all kept already."""
        return cls(yardstick, parts=[part], calls=part.calls, work=part.work)

    def add(self, drawn: Iterable[Batch]) -> Tally:
        """Add the next batches, the last of which ends a block or all samples; return the tally."""
        for values, calls, timing in drawn:
            newest = Part(*self.yardstick.seen(values), calls, timing)
            self.calls, self.work = max(self.calls, calls), self.work + newest.work
            if self.blocks is None:
                self._keep(newest, values)
            else:
                if (left := FIRST - self.stop) > 0:
                    self._keep(_first(newest, left), values[:left])
                self._waiting.append(newest)
                self.stop += len(values)
                if self.stop % self.blocks.size == 0:
                    self._close(self.blocks.size)
        if self.blocks is not None and self._waiting:
            self._close(self.blocks.size)
        return self

    def _keep(self, part: Part, values: Array) -> None:
        self.parts.append(part)
        if self.with_values:
            self.values.append(np.asarray(values))

    def _close(self, size: int) -> None:
        """Make a block of the samples that wait for it."""
        block, self._waiting = joined(self._waiting), []
        self.tree.add(Node(0, (self.stop - 1) // size, self.yardstick.against.block(block.seen, block.probabilities)))

    # --- as files ----------------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, Any]:
        """As a file holds it, by names."""
        arrays: dict[str, Any] = {"calls": np.array(self.calls), "work": np.array(self.work)}
        if self.parts:
            arrays |= arrays_of(joined(self.parts))
        if self.values:
            arrays["values"] = np.concatenate(self.values)
        return arrays if self.blocks is None else arrays | self.tree.to_arrays()

    def take(self, arrays: Mapping[str, Any]) -> None:
        """Add what `to_arrays` made of the tally of the samples that follow.

        Raises:
            ValueError: it is something else.
        """
        try:
            self.calls = max(self.calls, int(arrays["calls"]))
            self.work += float(arrays["work"])
            if "seen" in arrays:
                self.parts.append(part_in(arrays))
            if "values" in arrays:
                self.values.append(arrays["values"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no features of samples ({error}): remove the file") from error
        if self.blocks is not None:
            for node in Tree.nodes_in(arrays):
                self.tree.add(node)

    # --- results -----------------------------------------------------------------------------------------------------

    @property
    def part(self) -> Part:
        """The samples that are kept, with the calls of all."""
        return joined(self.parts)._replace(calls=self.calls)

    @property
    def seconds(self) -> dict[str, float]:
        """What all samples take, by the paces of those that are kept; see `Part.seconds`."""
        return self.part.seconds_of(self.work)

    def measured(self) -> tuple[dict[str, Estimate], list[str]]:
        """Every metric of all samples with its 95 % interval, and what speaks against them."""
        part, rule = self.part, self.yardstick
        if self.blocks is None:
            return rule.measure(part.seen, part.probabilities)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimates = rule.against.estimates(self.tree.groups())
            if rule.metrics is None or "recall" in rule.metrics:
                found = measure(part.seen, rule.reference, k=rule.k, resamples=rule.resamples, metrics=["recall"])
                kept = len(part.seen)
                estimates["recall"] = found["recall"]._replace(first=kept if kept < self.blocks.n else None)
                estimates = {name: estimates[name] for name in METRICS if name in estimates}
        return estimates, [str(warning.message) for warning in caught]


def _first(part: Part, count: int) -> Part:
    """The first samples of a part, or all; their timing is that of its batches."""
    probabilities = None if part.probabilities is None else part.probabilities[:count]
    return part._replace(seen=part.seen[:count], probabilities=probabilities)
