"""A cache of computed features on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import safetensors.torch
from torch import Tensor

from leapstep import files
from leapstep.files.cache import cache_folder


def remembered(
    key: str | None, compute: Callable[[], dict[str, Tensor]], fits: Callable[[Mapping[str, Tensor]], bool]
) -> dict[str, Tensor]:
    """Tensors from the cache, or else computed and put there. Without a key they are computed."""
    if key is None:
        return compute()
    path = cache_folder() / f"{key}.safetensors"
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
        if fits(tensors):
            return tensors
    except Exception:  # none is there, or it is broken in any way: it is made anew
        pass
    tensors = compute()
    with contextlib.suppress(OSError, ValueError):
        files.check_writable(path.parent)
        files.write_bytes(path, safetensors.torch.save({name: each.contiguous() for name, each in tensors.items()}))
    return tensors
