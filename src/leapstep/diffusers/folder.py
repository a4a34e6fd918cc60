"""Folders of pipelines, from which nothing but weights and settings is ever read."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from leapstep.files.reading import read_json
from leapstep.inference.fields import AUTO
from leapstep.inference.spec import DTYPES
from leapstep.models import pipelines
from leapstep.text import one_line, reason

LIBRARIES = ("diffusers", "transformers")
"""Where the classes of a pipeline's parts may come from; and from the folders of diffusers' own pipelines."""


def usual_dtype(device: torch.device | str) -> str:
    """What a pipeline computes in where nothing else is asked for: float32 on the CPU, bfloat16 elsewhere."""
    return "float32" if torch.device(device).type == "cpu" else "bfloat16"


def open_pipeline(source: str, *, dtype: str | None = None, device: torch.device | str = "cpu") -> Any:
    """Open a pipeline of diffusers.

    No code from the folder is executed, and weights are read as safetensors alone.

    Arguments:
        source: a folder, or `owner/name` on the Hub, which is downloaded.
        dtype: of its networks, one of `leapstep.inference.spec.DTYPES`; None or "auto": `usual_dtype`.
        device: where they go.
    Raises:
        ValueError: no such folder; a pipeline of a class that diffusers has not, or with parts of other libraries; or
            files that are missing or broken.
    """
    import diffusers

    folder = _located(source)
    index = pipelines.index_of(folder)
    if index is None:
        raise ValueError(f"{source} has no model_index.json: it is no pipeline of diffusers")
    with _quiet():
        kind = getattr(diffusers, index.name, None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        raise ValueError(f"{source} is a {one_line(index.name, 60)}, which diffusers {diffusers.__version__} has not")
    for part, (library, name) in index.parts.items():
        if library not in LIBRARIES and not hasattr(diffusers.pipelines, library):
            raise ValueError(
                f"{source}: its {one_line(part, 60)} is a {one_line(name, 60)} of {one_line(library, 60)}, and code "
                f"that is not of {' or '.join(LIBRARIES)} is never executed"
            )
        _check_settings(folder / part)
    needed = inspect.signature(kind).parameters
    options: dict[str, Any] = {part: None for part in index.absent if part in needed}  # such as SD 3 without its T5
    options["torch_dtype"] = DTYPES[usual_dtype(device) if dtype is None or dtype == AUTO else dtype]
    try:
        with _quiet():
            pipe: Any = kind.from_pretrained(  # type: ignore[no-untyped-call]
                str(folder), use_safetensors=True, local_files_only=True, trust_remote_code=False, **options
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise ValueError(f"{source} cannot be opened by diffusers: {one_line(reason(error), 600)}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Open without the libraries' own bars and remarks on what is not installed; errors are raised as ever."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    levels = ours.get_verbosity(), theirs.get_verbosity()
    for logging in (ours, theirs):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch_dtype. is deprecated")  # the older ones know no other name
            warnings.filterwarnings("ignore", ".*weight_norm. is deprecated")
            yield
    finally:
        for logging, level in zip((ours, theirs), levels, strict=True):
            logging.set_verbosity(level)
            logging.enable_progress_bar()


def _located(source: str) -> Path:
    """The folder of a pipeline, which is downloaded where its name is one on the Hub."""
    if Path(source).is_dir():
        return Path(source)
    import diffusers
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(diffusers.DiffusionPipeline.download(source, use_safetensors=True, trust_remote_code=False))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ValueError(
            f"there is no folder {source}, and the Hub did not give a pipeline of that name: {reason(error)}"
        ) from error


def _check_settings(part: Path) -> None:
    """Raise ValueError where a part's settings are not JSON, too large, or name code of their own."""
    for path in sorted(part.glob("*config.json")):
        settings = read_json(path)
        if isinstance(settings, Mapping) and "auto_map" in settings:
            raise ValueError(f"{path} names code of its own (auto_map), which is never executed")
