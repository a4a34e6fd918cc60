"""How values print in a notebook: the facts in a line or two, with the shapes of tensors instead of their numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from leapstep.text import one_line


def name_of(value: Any) -> str:
    """The name of a function or a class, and for anything else that of its class: of `net` it is "UNet"."""
    return str(getattr(value, "__name__", None) or type(value).__name__)


def shown(value: Any, most: int = 100) -> str:
    """A value in a few words: a tensor or a table as its type and shape, a function by name, all else cut to `most`."""
    import torch

    if isinstance(value, torch.Tensor | np.ndarray):
        if np.prod(value.shape) == 1 and not getattr(value, "is_meta", False):
            return f"{value.item():.6g}"
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {shown(entry, most)}' for key, entry in value.items())}}}"
    if type(value) is tuple:
        return _several(value, most)
    if isinstance(value, torch.nn.Module) or hasattr(value, "__name__") or " at 0x" in repr(value):
        return name_of(value)
    return one_line(repr(value), most)


def _several(values: tuple[Any, ...], most: int) -> str:
    """A tuple: as it is where it is short, else as what it holds."""
    if len(str(values)) > most:
        with contextlib.suppress(ValueError, TypeError):
            return f"numbers {list(np.shape(np.asarray(values, dtype=np.float64)))}"
    return one_line(f"({', '.join(shown(value, most) for value in values[:most])}{',' * (len(values) == 1)})", most)


def summary(value: Any, fields: Iterable[tuple[str, Any]]) -> str:
    """A value as its class and so many of its fields, each `shown`, in lines of 100 characters."""
    entries = [f"{name}={shown(field)}" for name, field in fields]
    lines = [f"{type(value).__name__}("]
    for number, entry in enumerate(entries):
        if number and len(lines[-1]) + len(entry) > 100:
            lines.append("    ")
        lines[-1] += f"{entry}, " if number < len(entries) - 1 else f"{entry})"
    return "\n".join(line.rstrip() for line in lines)
