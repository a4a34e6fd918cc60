"""A pipeline of diffusers as a model whose solvers are fitted, over several prompts."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from leapstep.diffusers.drawing import OPTIONS, Asked
from leapstep.diffusers.folder import open_pipeline
from leapstep.diffusers.latents import LatentModel, from_pipeline
from leapstep.files.reading import read_text
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.models import beside
from leapstep.models.folder import TUNED
from leapstep.text import one_line


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """The prompts in a text file, one in each line that is not empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has none.
    """
    prompts = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not prompts:
        raise ValueError(f"{path} has no prompts: write one in each line")
    return prompts


def opened(
    source: str,
    stated: Mapping[str, Any],
    asked: Asked,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[LatentModel, SamplingSpec, Path]:
    """Open a pipeline for `leapstep.inference.tuning.Run`.

    Arguments:
        source: as of `open_pipeline`.
        stated: fields of a `SamplingSpec`; guidance is the pipeline's own where nothing else is stated. Labels
            are those of the classes, of a pipeline that takes some.
        asked: the prompts, which take turns, and what else the pipeline is asked for.
        out: the folder for what is found; None: the pipeline's.
        overwrite: whether what is there for other prompts, or of another size, may be replaced.
    Returns:
        the model with the solvers that are there, the specification of its samples, and the path of the file.
    Raises:
        ValueError: what `open_pipeline` and `from_pipeline` raise, or a file of solvers for other prompts.
    """
    pipe = open_pipeline(source, dtype=stated.get("dtype"), device=device)
    if "prompt" in inspect.signature(type(pipe).__call__).parameters and not asked.prompts:
        raise ValueError(f"{type(pipe).__name__} draws what a text says: give a file of prompts by --prompts")
    fields = dict(stated)
    call: dict[str, Any] = {name: getattr(asked, name) for name in OPTIONS}
    call = {name: value for name, value in call.items() if value is not None}
    if asked.prompts:
        call["prompt"] = list(asked.prompts)
        if asked.negative_prompt is not None:
            call["negative_prompt"] = [asked.negative_prompt] * len(asked.prompts)
    if (labels := fields.pop("labels", None)) is not None:
        call["class_labels"] = [_number(label) for label in labels]
    if fields.pop("rescale", None):
        raise SpecError("rescale", stated["rescale"], "a fitted solver has one guidance alone: leave it out")
    model = from_pipeline(pipe, guidance=fields.pop("guidance", None), **call)
    path = (Path(source) if out is None else out) / TUNED
    tuned = beside.read_tuned(path, model)
    if tuned is None and path.exists() and not overwrite:
        raise ValueError(
            f"{one_line(str(path))} holds solvers for other prompts, another size or other weights: --overwrite "
            "replaces them, and --out FOLDER leaves them there"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = SamplingSpec(**{**fields, "guidance": model.guidance, "dtype": str(pipe.dtype)})
    return dataclasses.replace(model, tuned=tuned), spec, path


def _number(label: str | int) -> int:
    if not str(label).isdecimal():
        raise SpecError("labels", label, "give the numbers of classes")
    return int(label)
