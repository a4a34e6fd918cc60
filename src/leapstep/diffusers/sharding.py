"""What pipelines of diffusers draw, in shards, by any number of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from leapstep.data.shards import Batch
from leapstep.diffusers.drawing import Asked, Drawing, manifest_of, values_of
from leapstep.diffusers.folder import open_pipeline, usual_dtype
from leapstep.inference.fields import AUTO
from leapstep.inference.sharding import Batches, form_begun, write_shards
from leapstep.inference.spec import SamplingSpec


@dataclasses.dataclass(frozen=True)
class OfPipeline:
    """Drawing from a pipeline, which each worker opens; see `leapstep.inference.sharding.Drawing`.

    Attributes:
        source: the pipeline: a folder that all workers see, or a name on the Hub.
        stated, asked, tuned: as of `leapstep.diffusers.drawing.Drawing`.
        spec: what `stated` comes to; its dtype is "auto" where none is stated.
        turns: what samples are of in turn.
    """

    source: str
    stated: Mapping[str, Any]
    asked: Asked
    tuned: Path | None
    spec: SamplingSpec
    turns: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The prompts, or the classes, each once."""
        return tuple(dict.fromkeys(self.turns))

    def settle(self, device: str) -> Mapping[str, Any]:
        """The dtype of the networks."""
        dtype = usual_dtype(device) if self.spec.dtype == AUTO else self.spec.dtype
        return {"dtype": dtype, "device": torch.device(device).type}

    def open(self, device: str, settled: Mapping[str, Any]) -> Batches:  # noqa: D102
        pipe = open_pipeline(self.source, dtype=settled["dtype"], device=device)
        drawing = Drawing(pipe, self.stated, self.asked, self.tuned)
        numbers = [self.classes.index(turn) for turn in self.turns]

        def batches(rows: range, note: Callable[[int], object]) -> Iterator[Batch]:
            part = dataclasses.replace(drawing.spec, first=drawing.spec.first + rows.start, n=len(rows))
            for own, made in drawing.of(part).batches(note):
                yield Batch(own, values_of(made), [numbers[i % len(numbers)] for i in own] if numbers else None)

        return batches


def write_drawn_shards(
    source: str,
    stated: Mapping[str, Any],
    asked: Asked,
    tuned: Path | None,
    folder: str | Path,
    *,
    format: str | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Draw what a pipeline makes of prompts or classes into a folder of shards.

    Arguments:
        source, stated, asked, tuned: see `OfPipeline`.
        format: one of `leapstep.data.shards.FORMS`; None: that of shards that are gone on with, or "npz".
        how: as of `leapstep.inference.sharding.write_shards`.
    Returns:
        what the manifest says.
    Raises:
        ValueError: the folder is not to be had, or the pipeline refuses the call.
    """
    drawing, manifest = _looked_at(source, stated, asked, tuned)
    begun = form_begun(Path(folder)) if how.get("resume") else None
    return write_shards(drawing, Path(folder), manifest | {"format": format or begun or "npz"}, **how)


def _looked_at(
    source: str, stated: Mapping[str, Any], asked: Asked, tuned: Path | None
) -> tuple[OfPipeline, dict[str, Any]]:
    """What is drawn, once everything is checked, and what is known of it; the pipeline is opened and let go of."""
    drawing = Drawing(open_pipeline(source, dtype=stated.get("dtype")), stated, asked, tuned)
    manifest = manifest_of(drawing, source)
    spec = dataclasses.replace(drawing.spec, dtype=stated.get("dtype") or AUTO)
    turns = tuple(map(str, drawing.turns))
    return OfPipeline(source, dict(stated), asked, tuned, spec, turns), manifest | {"spec": spec.to_json()}
