"""Weights that do not load: what is wrong with them, and what to do about it.

Nothing here reads weights. It looks at the first bytes of a file, at the names in it, and at what torch said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

AVERAGED = ("ema_model", "ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_state", "params_ema")
"""Under which names people keep averaged weights inside a larger dictionary."""

RAW = ("model", "state_dict", "model_state_dict", "net", "network", "params", "module", "model_state")
"""Under which they keep the others."""


def stands_in(path: str | Path) -> str | None:
    """What a file is that lies where weights are expected and holds none, and what to do; None for all others."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(200)
    except OSError:
        return None
    if not head:
        return f"{path} is empty: copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return (
            f"{path} is a Git LFS pointer, a few lines that stand for the weights: run `git lfs pull` in its folder, "
            "or download the file itself"
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"{path} is a web page, not the file that it shows: download the file itself"
    return None


def prefix(keys: Iterable[str]) -> str:
    """The parts with which all keys begin, as in `model.net.`; "" where they share none."""
    ends = sorted(key.split(".")[:-1] for key in keys) or [[]]
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(ends[0], ends[-1], strict=False))
    return "".join(f"{part}." for part, _ in shared)


def remedy(error: BaseException) -> str:
    """What to do about an error that somebody's code raised as it loaded weights; "" where nothing is known."""
    said = str(error)
    if said.startswith("Error(s) in loading state_dict"):
        missing, unexpected = (_named(said, kind) for kind in ("Missing", "Unexpected"))
        return _keys(missing, unexpected)
    if "deserialize object on a CUDA device" in said or "deserialize object on CUDA device" in said:
        return 'the weights were saved on a GPU: torch.load(..., map_location="cpu", weights_only=True)'
    if "to be dict-like, got" in said:
        return "the file holds several things: load_state_dict takes the one that is a state dict, as in contents[0]"
    for path in _opened(error.__traceback__):
        if found := stands_in(path):
            return found
    if said.startswith("Weights only load failed"):
        code = re.search(r"GLOBAL ([\w.]{1,100})", said)
        name = f" ({code[1]})" if code else ""
        return (
            f"the file holds more than weights{name}, which would be executed: in the program that wrote it, save the "
            "weights alone, torch.save(net.state_dict(), ...)"
        )
    return ""


def _named(said: str, kind: str) -> list[str]:
    """The keys that load_state_dict calls missing or unexpected."""
    found = re.search(rf'{kind} key\(s\) in state_dict: ((?:"[^"]*"(?:, )?)*)', said)
    return re.findall(r'"([^"]*)"', found[1]) if found else []


def _keys(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """What to do about keys that do not fit, as `load_state_dict` tells them."""
    inside = [name for name in (*AVERAGED, *RAW) if name in unexpected]
    if inside:
        more = f' (or contents["{inside[1]}"])' if inside[1:] else ""
        return f'the weights lie inside a larger dictionary: net.load_state_dict(contents["{inside[0]}"]){more}'
    if not missing or not unexpected:
        return ""
    first = missing[0]
    before = next((key.removesuffix(first) for key in unexpected if key.endswith(f".{first}")), "")
    if before and all(f"{before}{key}" in unexpected for key in missing):
        return (
            f'the keys of the file begin with "{before}": net.load_state_dict({{key.removeprefix("{before}"): value '
            f'for key, value in state.items() if key.startswith("{before}")}})'
        )
    before = next((first.removesuffix(key) for key in unexpected if first.endswith(f".{key}")), "")
    if before and all(f"{before}{key}" in missing for key in unexpected):
        return f'the network\'s own keys begin with "{before}": net.{before}load_state_dict(state)'
    return ""


def _opened(trace: TracebackType | None) -> Iterable[str]:
    """The files that torch or safetensors were reading."""
    names: Mapping[str, str] = {"torch.serialization": "f", "safetensors.torch": "filename"}
    while trace is not None:
        frame = trace.tb_frame
        value: Any = frame.f_locals.get(names.get(frame.f_globals.get("__name__", ""), ""))
        if isinstance(value, str | Path):
            yield str(value)
        trace = trace.tb_next
