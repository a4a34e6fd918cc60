"""What several commands parse alike."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

    from leapstep.transitions import Transition


def device(name: str | None) -> torch.device:
    """The device of that name, or the best there is."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there.get(name.partition(":")[0]):
        raise ValueError(f"--device {name}: this machine has {', '.join(kind for kind in there if there[kind])}")
    return torch.device(name)


def dtype(name: str) -> torch.dtype:
    """The floating-point type of that name."""
    import torch

    if name not in ("float32", "bfloat16", "float64"):
        raise ValueError(f"--dtype {name}: use float32, bfloat16 or float64")
    found: torch.dtype = getattr(torch, name)
    return found


def transition(method: str, given: Mapping[str, Any]) -> Transition:
    """The sampling method of that name with the options given (those that are None were not)."""
    from leapstep.transitions import TRANSITIONS

    if method not in TRANSITIONS:
        raise ValueError(f"--method {method}: use one of {', '.join(TRANSITIONS)}")
    takes = inspect.signature(TRANSITIONS[method]).parameters
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in takes:
            raise ValueError(f"--{name} does not apply to --method {method}, which takes --{', --'.join(takes)}")
    return TRANSITIONS[method](**given)


def claim(out: Path, overwrite: bool, mark: str) -> None:
    """Make a folder for results. One that holds anything is emptied only if it has our mark, and we are told to.

    Arguments:
        mark: the file by which a folder is known to be an earlier result of the same command.
    """
    from leapstep import files

    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} exists and is not empty: --overwrite it, or name another folder")
        if not (out / mark).exists():
            raise ValueError(
                f"{out} holds something else (it has no {mark}), so it is not overwritten: name another folder"
            )
        files.check_writable(out)
        for path in out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    files.check_writable(out)


def progress(total: int, what: str, unit: str) -> tqdm[Any]:
    """A progress bar on stderr that only shows if the work takes more than a second."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, delay=1, mininterval=0.5 if sys.stderr.isatty() else 30)
