"""Import of checkpoints of other projects, recognised by their keys and read without executing anything.

A checkpoint file is a safetensors file or a torch pickle that may hold tensors and plain values only. What is in it
goes through three steps:

    open       the container, as it was saved: a flat state dict, a dict of several, or a list
    choose     the state dict of the network alone: averaged (EMA) weights before raw ones, `module.` and so on cut off
    read       by the reader whose keys they are: our network, filled, and the conventions that it was trained in

A reader is a module of this folder with two functions, and a third where the container itself is peculiar:

    matches(state) -> bool                  whether these are its keys; cheap, and false rather than an exception
    read(state, config) -> Import           the model and its evidence; `config` is what the user said, maybe nothing
    unpack(contents) -> Chosen | None       the state dict, from a container of its own kind; None: not of its kind
    settings                                the names of all settings, where `read` passes over those it does not know

Evidence is one line for each conclusion: what was concluded, and from which key, shape or setting, or that it was
assumed. What the weights do not tell (noise schedule, number of heads, size of the pictures) comes from `config`, or
is a documented default of that project and assumed in the open; without either it is a ValueError that names the
setting. `reading.Settings` does that bookkeeping, and `leapstep.networks.weights.fill` puts the weights in place.

A network that a reader fills is one of `leapstep.networks.NETWORKS`: called as `net(x, timestep, class_labels)`, made
as `Class(**fields)`, and its `.config` is a dataclass whose fields JSON can hold, with `classes` (None without labels)
and `time_embedding` ("sinusoidal" where a timestep may lie between two integers).
"""

from __future__ import annotations

import contextlib
import difflib
import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from leapstep.files.reading import check_memory, read_json, regular
from leapstep.models.importers import ddim, diffusers, lucidrains, openai, score_sde
from leapstep.models.importers.reading import Chosen, Import, Settings, State
from leapstep.networks.weights import check_sizes
from leapstep.remedies import AVERAGED, RAW, prefix, stands_in
from leapstep.text import one_line

__all__ = ["FORMATS", "Chosen", "Import", "Reader", "Settings", "State", "load"]


class Reader(NamedTuple):
    """The functions of a reader; see the module's docstring."""

    matches: Callable[[State], bool]
    read: Callable[[State, Mapping[str, Any]], Import]
    unpack: Callable[[Any], Chosen | None] = lambda contents: None
    settings: Collection[str] = ()


FORMATS: dict[str, Reader] = {
    "diffusers": Reader(diffusers.matches, diffusers.read, settings=diffusers.SETTINGS),
    "ddim": Reader(ddim.matches, ddim.read),
    "improved-diffusion": Reader(openai.matches_improved, openai.read_improved),
    "guided-diffusion": Reader(openai.matches, openai.read_guided),
    "lucidrains": Reader(lucidrains.matches, lucidrains.read, lucidrains.unpack),
    "score-sde": Reader(score_sde.matches, score_sde.read, score_sde.unpack),
}
"""Every format, by name, in the order in which they are tried."""

WRAPPERS = ("module.", "_orig_mod.")
"""What torch's DataParallel, DistributedDataParallel and compile put before every key."""


def load(
    path: str | Path, form: str = "auto", config: Mapping[str, Any] | None = None, typed: Collection[str] = ()
) -> Import:
    """Read a checkpoint of another project; nothing in the file is ever run.

    Arguments:
        path: a safetensors file, a torch pickle, or a diffusers folder.
        form: one of `FORMATS`, or "auto" to tell it by the keys.
        config: what the weights do not tell, by the names of that project's own configuration.
        typed: the dotted names of those that a person typed. They must be known; of a `config.json` of diffusers, which
            holds more than is needed, what is not known is passed over.
    Returns:
        the model, and what was concluded from what.
    Raises:
        ValueError: one line; the file is missing, broken, holds code, or is of a layout that no reader knows; or what
            the reader says of it.
    """
    path, config = Path(path), config or {}
    if form != "auto" and form not in FORMATS:
        raise ValueError(f"unknown format {form!r}: use auto, {', '.join(FORMATS)}")
    if path.is_dir():
        if form not in ("auto", "diffusers"):
            raise ValueError(f"{path} is a folder: only diffusers saves models as folders, not {form}")
        weights = diffusers.alone(path)
        if weights is None:
            return diffusers.load(path, config)
        path, config = weights, {**_json(path / "config.json"), **config}
    contents = opened(path)
    candidates = FORMATS if form == "auto" else {form: FORMATS[form]}
    special = (reader.unpack(contents) for reader in candidates.values())
    state, choices = next((chosen for chosen in special if chosen is not None), None) or choose(contents, path)
    _check_keys(state)
    found = next((name for name, reader in candidates.items() if reader.matches(state)), None)
    if found is None and (before := prefix(state)):
        bare = {key.removeprefix(before): value for key, value in state.items()}
        found = next((name for name, reader in candidates.items() if reader.matches(bare)), None)
        if found is not None:
            state, choices = bare, (*choices, f"keys: without {one_line(before, 60)}, with which all of them begin")
    if found is None and any(key.startswith("first_stage_model.") for key in state):
        raise ValueError(
            f"{path} is a latent diffusion model (first_stage_model), which is not supported: only pixels are"
        )
    if found is None:
        keys, known = ", ".join(list(state)[:5]), ", ".join(candidates)
        raise ValueError(f"{path} is of none of the layouts {known}: the first keys that did not fit are {keys}")
    if unknown := [name for name in typed if FORMATS[found].settings and name not in FORMATS[found].settings]:
        near = difflib.get_close_matches(unknown[0], FORMATS[found].settings) or FORMATS[found].settings
        raise ValueError(f"there is no setting {unknown[0]} here: use one of {', '.join(near)}")
    told = "as --from says" if form != "auto" else "told by its keys"
    model, evidence = FORMATS[found].read(state, config)
    return Import(model, (f"format: {found}, {told}", *choices, *evidence))


def opened(path: Path) -> Any:
    """What a checkpoint file holds, as it was saved: tensors, and plain values around them.

    Raises:
        ValueError: there is no such file, it is damaged, or it holds more than tensors and plain values.
    """
    if not path.exists():
        raise ValueError(f"there is no checkpoint {path}: name a file, or a diffusers folder")
    check_memory(regular(path).stat().st_size, f"reading {path}")
    if said := stands_in(path):
        raise ValueError(said)
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            said = one_line(str(error))
            raise ValueError(f"{path} cannot be read ({said}): it is truncated or not a safetensors file") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of plain pickles, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises many kinds; none of them may run the file's code
        code = re.search(r"GLOBAL ([\w.]{1,200})", str(error))
        if name := code[1] if code else _imported(path):
            raise ValueError(
                f"{path} holds code or objects ({name}), which were not run: in the program that wrote it, save the "
                "weights alone, torch.save(model.state_dict(), ...), or as safetensors"
            ) from error
        raise ValueError(
            f"{path} cannot be read: it is truncated, is no checkpoint, or holds more than tensors and plain values,"
            " of which nothing was run; give a safetensors file, one of torch.save, or a folder of diffusers"
        ) from error


def _imported(path: Path) -> str | None:
    """The first name that a plain pickle would import, but for torch's own and what these need; nothing is run."""
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _first_foreign(content)


def _first_foreign(content: Any) -> str | None:
    words: list[str] = []
    with contextlib.suppress(ValueError):  # which says that it is no pickle, or cut
        for operation, argument, _ in pickletools.genops(content):  # a map, of which no more is read than there is
            if isinstance(argument, str):
                words += argument.split(" ") if operation.name == "GLOBAL" else [argument]
            name = ".".join(words[-2:])
            if operation.name in ("GLOBAL", "STACK_GLOBAL") and not name.startswith(("torch.", "collections.")):
                return name
    return None


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__} where a JSON object is expected")
    return value


def _check_keys(state: State) -> None:
    """Make sure that readers, which count layers by the numbers in keys, need not count far."""
    check_sizes(state.items())
    for key in state:
        if number := re.search(r"\d{5,}", key):
            raise ValueError(f"the key {one_line(key, 100)} counts to {number[0][:20]}: no network has so many layers")


def choose(contents: Any, path: Path) -> Chosen:
    """Find the network's state dict in a container: averaged weights where there are any, else the raw ones.

    Raises:
        ValueError: there is none; with the names of what there is.
    """
    if isinstance(contents, list | tuple):  # [model, optimiser, epoch, step], the averaged weights after them
        entries = dict(zip(("[0]", "[1]", "[2]", "[3]", "[4]"), contents, strict=False))
        raw, averaged = _first(entries, ("[0]",)), _first(entries, ("[4]",))
    elif isinstance(contents, Mapping) and _is_state(contents):
        if _averaged_part(contents):
            return Chosen(_clean(contents), ("weights: EMA, the keys that begin with ema_model.",))
        newer = re.fullmatch(r"model(\d+)\.pth?", path.name)
        beside = sorted(path.parent.glob(f"ema_*_{newer[1]}.pt")) if newer else []
        hint = f"; the file's name says raw, and {beside[-1].name} beside it EMA: prefer that one" if beside else ""
        return Chosen(_clean(contents), (f"weights: the only ones in the file{hint}",))
    elif isinstance(contents, Mapping):
        raw, averaged = _first(contents, RAW), _first(contents, AVERAGED)
    else:
        raise ValueError(f"{path} holds a {type(contents).__name__}, not a state dict: save model.state_dict()")
    if averaged:
        name, state = averaged
        whole = dict(raw[1]) | dict(state) if raw and set(state) <= set(raw[1]) else state  # averages have no buffers
        return Chosen(whole, (f"weights: EMA, from {name}" + (f", not the raw ones from {raw[0]}" if raw else ""),))
    if raw:
        return Chosen(raw[1], (f"weights: raw, from {raw[0]}, as there are no averaged ones",))
    there = ", ".join(map(str, contents)) if isinstance(contents, Mapping) else f"a list of {len(contents)}"
    raise ValueError(f"{path} has no state dict under a name that is known ({', '.join(AVERAGED + RAW)}), only {there}")


def _first(entries: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, State] | None:
    """The first of these entries that is a state dict, cleaned, with its name."""
    for name in names:
        value = entries.get(name)
        if isinstance(value, Mapping) and _is_state(value):
            return name, _clean(value)
    return None


def _is_state(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and isinstance(item, Tensor) and item.ndim for key, item in value.items())


def _averaged_part(state: Mapping[str, Any]) -> dict[str, Any]:
    """What an averaging wrapper keeps under `ema_model.`, beside its online model and its counters."""
    return {key.removeprefix("ema_model."): value for key, value in state.items() if key.startswith("ema_model.")}


def _clean(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under the network's own keys, without what wrappers put before them."""
    clean = {key: value for key, value in (_averaged_part(state) or state).items() if isinstance(value, Tensor)}
    for wrapper in WRAPPERS * 2:
        if all(key.startswith(wrapper) for key in clean):
            clean = {key.removeprefix(wrapper): value for key, value in clean.items()}
    return clean
