"""Pipelines of diffusers that are no run folders: how they are known, and what can be done with them.

A `Model` in a folder is a network of pixels or values and a scheduler. A pipeline may have more: an autoencoder around
the network, and what makes its conditions of a prompt. `leapstep.diffusers` draws from such pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from leapstep.files.reading import read_json
from leapstep.text import one_line

LABELLED = ("DiTPipeline",)
"""Pipelines that take class labels in place of a prompt."""


class Index(NamedTuple):
    """What `model_index.json` says.

    Attributes:
        name: the class of the pipeline.
        parts: the library and the class of each part, by its name.
        absent: the names of parts that it was saved without.
    """

    name: str
    parts: dict[str, tuple[str, str]]
    absent: tuple[str, ...] = ()

    @property
    def others(self) -> list[str]:
        """The parts beside a U-Net and a scheduler."""
        return sorted(name for name in self.parts if name not in ("unet", "scheduler"))

    @property
    def is_other(self) -> bool:
        """Whether it is no model of pixels or values, as a run folder is."""
        network = self.parts.get("unet", ("", ""))[1]
        return bool(self.others) or network.endswith("ConditionModel")

    @property
    def takes(self) -> str:
        """What of the command line says what is drawn."""
        return "--label" if self.name in LABELLED else "--prompt"


def index_of(folder: Path) -> Index | None:
    """What the `model_index.json` of a folder says; None where there is none.

    Raises:
        ValueError: it is not JSON, or too large.
    """
    path = folder / "model_index.json"
    index = read_json(path) if path.is_file() else None
    if not isinstance(index, Mapping):
        return None
    pairs = {name: of for name, of in index.items() if isinstance(of, list) and len(of) == 2}
    parts = {name: (str(of[0]), str(of[1])) for name, of in pairs.items() if of[1]}
    return Index(str(index.get("_class_name")), parts, tuple(name for name in pairs if name not in parts))


def other(folder: Path) -> Index | None:
    """The index of a pipeline that is no model of pixels or values; None for all other folders."""
    index = index_of(folder)
    return index if index is not None and index.is_other else None


def refuse(folder: Path, source: str) -> None:
    """Tell what a pipeline folder is that is no model of pixels or values, and what takes it.

    Arguments:
        folder: any folder.
        source: what the user calls it: this folder, or a name on the Hub.
    Raises:
        ValueError: it is such a folder, or its `model_index.json` is not JSON.
    """
    index = other(folder)
    if index is None:
        return
    example = "--label 0" if index.takes == "--label" else '--prompt "a photo"'
    argument = "class_labels=[0]" if index.takes == "--label" else '"a photo"'
    parts = index.others or list(index.parts)
    raise ValueError(
        f"{source} is a pipeline of another kind, {one_line(index.name, 60)}, with {one_line(', '.join(parts), 200)}: "
        f"leapstep sample {source} {example} draws from it, leapstep tune fits solvers to it, and in Python "
        f"leapstep.diffusers.from_pipeline(pipe, {argument}) is a model of its latents (docs/diffusers.md)"
    )
