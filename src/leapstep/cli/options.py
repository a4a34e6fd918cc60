"""What several commands parse alike."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leapstep import files

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm


def device(name: str | None) -> torch.device:
    """The device of that name, or the best there is."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kinds = [kind for kind, is_there in there.items() if is_there]
    try:
        found = torch.device(kinds[0] if name is None else name)
    except RuntimeError:
        found = None
    if found is None or found.type not in kinds or (found.index or 0) >= max(1, torch.cuda.device_count()):
        raise ValueError(f"--device {name}: this machine has {', '.join(kinds)}")
    return found


def dtype(name: str) -> torch.dtype:
    """The floating-point type of that name."""
    import torch

    if name not in ("float32", "bfloat16", "float64"):
        raise ValueError(f"--dtype {name}: use float32, bfloat16 or float64")
    found: torch.dtype = getattr(torch, name)
    return found


def method_options(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a sampling method, with the values given (those that are None were not) or else its defaults."""
    from leapstep.transitions import TRANSITIONS

    if method not in TRANSITIONS:
        raise ValueError(f"--method {method}: use one of {', '.join(TRANSITIONS)}")
    used = {name: option.default for name, option in inspect.signature(TRANSITIONS[method]).parameters.items()}
    for name, value in given.items():
        if value is not None and name not in used:
            takes = " and ".join(f"--{option}" for option in used) or "no options"
            raise ValueError(f"--{name} does not apply to --method {method}, which takes {takes}")
    return used | {name: value for name, value in given.items() if value is not None}


def claim(out: Path, overwrite: bool, mark: str, key: str, names: str) -> None:
    """Make a folder for results, or clear one of earlier results if told to; nothing else is ever removed.

    Arguments:
        mark: the JSON file by which a folder is known to hold results of the same command ...
        key: ... if it has this key.
        names: a regular expression for the names of results.
    """
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} exists and is not empty: --overwrite it, or name another folder")
        try:
            is_ours = key in json.loads((out / mark).read_text())
        except (OSError, ValueError):
            is_ours = False
        if not is_ours:
            raise ValueError(f"{out} holds something else, so it is not overwritten: name another folder")
        files.check_writable(out)
        for path in out.iterdir():
            if re.fullmatch(names, path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    files.check_writable(out)


def progress(total: int, what: str, unit: str) -> tqdm[Any]:
    """A progress bar on stderr that only shows if the work takes more than a second."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, delay=1, mininterval=0.5 if sys.stderr.isatty() else 30)
