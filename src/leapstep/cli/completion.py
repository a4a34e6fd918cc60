"""Shell completion for the values of options, which are the names listed in their help, as in `png | npz`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.models import OptionInfo

MARKS = ("leapstep.json", "model_index.json")
"""The files by which the folder of a model is known."""


def listed(text: str) -> list[str]:
    """The names that a help text lists: words with bars between them, each with a remark in brackets at most."""
    names: list[str] = []
    for part in re.sub(r" \([^()]*\)", "", text).split(";"):
        first, *others = part.split(" | ")
        found = [re.search(r"[\w-]+$", first), *(re.fullmatch(r"([\w-]+)[.\]]?", other) for other in others)]
        names += [match[match.lastindex or 0] for match in found if match and others]
    return list(dict.fromkeys(names)) if len(names) > 1 else []


def completed(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with all its options in its signature, which now offer the names that their help lists."""
    for parameter in inspect.signature(command).parameters.values():
        for info in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(info, OptionInfo) and (names := listed(info.help or "")):
                info.autocompletion = _beginning(names)
    return command


def model_folders(incomplete: str) -> list[str]:
    """Folders that a model may lie in, or below, of those that begin so."""
    above, slash, begin = incomplete.rpartition("/")
    try:
        folders = sorted(path for path in Path(above + slash or ".").iterdir() if path.is_dir())
    except OSError:
        return []
    return [
        f"{above}{slash}{path.name}" + "/" * (not any((path / name).is_file() for name in MARKS))
        for path in folders
        if path.name.startswith(begin) and (begin or not path.name.startswith("."))
    ]


def _beginning(names: list[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]
