"""A cache of computed features on disk.

Features of many samples are written as they come, and are mapped into memory from their file: 2048 of each of 1.3
million pictures are 10 GiB.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from leapstep import files
from leapstep.files.cache import cache_folder
from leapstep.files.reading import SMALL

KINDS = {torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}
"""The types of features, as safetensors call them."""


def remembered(
    key: str | None,
    compute: Callable[[], dict[str, Tensor]],
    fits: Callable[[Mapping[str, Tensor]], bool],
    still: Callable[[], bool] = lambda: True,
) -> dict[str, Tensor]:
    """Tensors from the cache, or else computed and put there. Without a key they are computed.

    Arguments:
        fits: whether tensors from the cache are whole.
        still: whether the key is that of what was computed, once it was.
    """
    if key is None:
        return compute()
    path = _path(key)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
        if fits(tensors):
            return tensors
    except Exception:  # none is there, or it is broken in any way: it is made anew
        pass
    tensors = compute()
    if not still():
        return tensors
    with contextlib.suppress(OSError, ValueError):
        files.check_writable(path.parent)
        files.write_bytes(path, safetensors.torch.save({name: each.contiguous() for name, each in tensors.items()}))
    return tensors


def remembered_rows(key: str | None, n: int, compute: Callable[[], Iterable[Tensor]]) -> Tensor:
    """Features [n, k] from the cache, or else computed, in blocks [b, k] that are put there one by one.

    Those of more than `SMALL` bytes are memory-mapped. Without a key, and where the cache has no room for them, they
    are computed into memory.
    """
    path = None if key is None else _path(key)
    if path is not None and (found := _mapped(path, n)) is not None:
        return found
    blocks = iter(compute())
    first = next(blocks)
    blocks = itertools.chain([first], blocks)
    if path is None or not _has_room(path, n * first[0].nbytes):
        return torch.cat(list(blocks))
    try:
        with files.replacing_file(path) as file:
            files.write_all(file, _head(first, n))
            for block in blocks:
                files.write_all(file, block.contiguous().numpy().data)
        found = _mapped(path, n)
    except OSError:  # others have filled the disk meanwhile
        found = None
    return torch.cat(list(compute())) if found is None else found


def _path(key: str) -> Path:
    return cache_folder() / f"{key}.safetensors"


def _mapped(path: Path, n: int) -> Tensor | None:
    """Features in a file, mapped where they are large; None where there are none of n samples, or it is broken."""
    try:
        with safe_open(path, "pt") as file:
            found: Tensor = file.get_tensor("features")
    except Exception:
        return None
    if found.ndim != 2 or len(found) != n:
        return None
    return found if found.nbytes > SMALL else found.clone()


def _has_room(path: Path, needed: int) -> bool:
    try:
        files.check_writable(path.parent)
        return not path.is_dir() and shutil.disk_usage(path.parent).free > needed
    except (OSError, ValueError):
        return False


def _head(block: Tensor, n: int) -> bytes:
    """How a file of safetensors begins that holds features [n, k], of which a block is one."""
    about = {"dtype": KINDS[block.dtype], "shape": [n, block.shape[1]], "data_offsets": [0, n * block[0].nbytes]}
    head = json.dumps({"features": about}).encode()
    head += b" " * (-len(head) % 8)  # so that the numbers lie at whole ones of theirs
    return len(head).to_bytes(8, "little") + head
