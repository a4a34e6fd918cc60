"""Folders of models: how they are known and found, and what lies in them, by name.

What `leapstep.models.checkpoint` reads and writes there is another matter, for which PyTorch is needed.
"""

from __future__ import annotations

import re
from pathlib import Path

from leapstep.files import folders
from leapstep.models import pipelines
from leapstep.text import reason

KINDS = ("unet", "mlp", "lucidrains", "score_sde")
"""The folders that a network may lie in, which are the names in `leapstep.networks.NETWORKS`: a test compares them."""

CALIBRATION, MOMENTS, TUNED, LAWS = "calibration.json", "moments.safetensors", "tuned.json", "tuned.safetensors"
"""The names of the files in a model's folder that say what was found of it; see `leapstep.models.beside`."""

NAMES = (*KINDS, "scheduler", "model_index.json", "leapstep.json", CALIBRATION, MOMENTS, TUNED, LAWS)
MODEL = "|".join(map(re.escape, NAMES))
"""A regular expression for the names of all that belongs to a model in its folder."""

IMPORTED = folders.Kind("leapstep.json", "imported", MODEL)
RUN = folders.Kind("leapstep.json", None, rf"{MODEL}|state|samples|log", resumable=True)
"""Folders of a model that was imported, and of any."""

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED = "diffusion_pytorch_model.bin"


def is_model(source: str | Path) -> bool:
    """Whether a folder holds a model."""
    return Path(source).is_dir() and kind_of(Path(source)) is not None


def kind_of(folder: Path) -> str | None:
    """Which of `KINDS` a folder holds."""
    return next((kind for kind in reversed(KINDS) if (folder / kind / "config.json").exists()), None)


def local(source: str) -> Path | None:
    """The folder of a model; None for a name that only the Hub can know.

    Raises:
        ValueError: there is no such folder, or it holds no model, or a pipeline of another kind.
    """
    folder = Path(source)
    if folder.is_dir():
        pipelines.refuse(folder, source)
        there = (folder / name for name in (WEIGHTS, PICKLED))
        if kind_of(folder) is None and (folder / "config.json").is_file() and any(path.is_file() for path in there):
            raise ValueError(
                f"{source} holds a network without its noise schedule: leapstep import {source} --out RUN makes a "
                "model of it, and says what it assumed"
            )
        if kind_of(folder) is None:
            places = ", ".join(f"{kind}/config.json" for kind in KINDS)
            raise ValueError(f"{source} is not a model: it has none of {places}")
        return folder
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise ValueError(
            f"there is no model folder {source}: name a run folder, a diffusers folder, or owner/name on the Hub"
        )
    return None


def located(source: str) -> Path:
    """The folder of a model, which is downloaded where its name is one on the Hub.

    Raises:
        ValueError: what `local` raises, or the Hub did not give a model.
    """
    if (folder := local(source)) is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "scheduler/*.json", "unet/*.bin"]
    wanted += [MOMENTS, LAWS]
    wanted += [f"{kind}/{name}" for kind in KINDS for name in ("*.json", WEIGHTS)]
    try:
        folder = Path(snapshot_download(source, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"there is no folder {source}, and the Hub did not give a model of that name: {reason(error)}"
        ) from error
    pipelines.refuse(folder, source)
    return folder
