"""`leapstep doctor`: find out how a network was trained, from the network itself, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from leapstep import files, plugin
from leapstep.cli import options, parsing
from leapstep.files.reading import read_npy, read_npz
from leapstep.progress import progress_bar
from leapstep.text import allowed, duration, one_line

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

    from leapstep.data.dataset import Data
    from leapstep.doctor.diagnosis import Diagnosis
    from leapstep.models.checkpoint import Model

EXAMPLES = """**Examples**

`leapstep doctor mine.py:network photos/ --size 64`

`leapstep doctor mine.py:network digits --label-argument y --html report.html`

`leapstep doctor mine.py:network signals.npy --condition given.npz --assume predicts=v timesteps=1000`

`leapstep doctor google/ddpm-cifar10-32 cifar10/ --json`

A file such as `mine.py`:

    def network():
        net = Net()
        net.load_state_dict(torch.load("net.pt", map_location="cpu", weights_only=True))
        return net.eval()
"""

Array = npt.NDArray[Any]

HINTS = ("condition", "counts", "assume", "pictures", "seed", "n", "check", "budget")
"""The arguments of `leapstep.diagnose` that a file may return beside its network."""

FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="`file.py:function`, which is executed and returns the network, or (network, arguments of "
            "leapstep.diagnose); or a run folder, a diffusers pipeline folder, or `owner/name` on the Hub."
        ),
    ],
    data: Annotated[str, typer.Argument(help="What it was trained on: `digits`, a folder, a file, a name on the Hub.")],
    split: options.TrainSplit = None,
    size: Annotated[int | None, typer.Option(help="Crop and resize pictures to squares of this side.")] = None,
    n: Annotated[int | None, typer.Option(help="How many samples at most; default: 300.")] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar=parsing.SETTINGS,
            help="What you know: predicts, time, reverse, timesteps, schedule, sigma_data, reshape, or range, such as "
            "'range=[0, 1]' or range=standardised.",
        ),
    ] = None,
    condition: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Further arguments of the network: an array a keyword.")
    ] = None,
    counts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            help="Where the network's answer counts: 1 there and 0 elsewhere, for each of the data or one for all. For "
            "imputers, inpainting and padded sequences.",
        ),
    ] = None,
    label_argument: Annotated[
        str | None, typer.Option(metavar="NAME", help="The keyword under which the network takes the data's labels.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise; default: 0.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How long it may take, such as 30s, 2m or 1h; default: 2m. Less time, less sure."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu | cuda | mps; default: where the function put it; a folder's: the best.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON.")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a report with figures.")
    ] = None,
) -> parsing.Verdict:
    """Find out how a network was trained (range, prediction, clock, schedule), and what is wrong with it.

    It is called on real data with noise, and believed more than anything that is said of it. Nothing is trained. A
    `file.py` is executed with all that is in it, so name only files that you trust.

    Exit code: 0 with a verdict, 3 where it contradicts what was assumed or what the folder says, 2 for mistakes.
    """
    from leapstep.doctor import diagnose
    from leapstep.doctor.snippet import loaded

    assumed = dict(_assumed(setting) for setting in assume or [])
    limits = {
        "n": n,
        "seed": seed,
        "budget": None if budget is None else options.budget(budget),
        "counts": _counts(counts),
    }
    _check_outputs(out, html_file)
    source, function = _parts(model)
    if function:
        network, hints_of_file = _network(source, function, device)
        known = None
        split, held = options.part(lambda name: _read(data, name, size), data, split, "train")
        given = _condition(condition, label_argument, held)
    else:
        network, known, held, given = _from_folder(model, data, split, options.device(device), (size, label_argument))
        hints_of_file = {}
        given |= _condition(condition, None, held)
    hints = _merged(hints_of_file, assumed, given, limits)
    with progress_bar(0, "starting", " samples") as bar:
        name = functools.partial(bar.set_description_str, refresh=False)  # within the second in which no bar shows
        announce = functools.partial(_announce, bar)
        found = diagnose(network, held.values, on_stage=name, on_call=bar.update, on_estimate=announce, **hints)
    lines = _loading(held, (data, split, size), known, (condition, label_argument, counts))
    lines["net"] = _loading_network(model, device, bool(hints_of_file))
    found = dataclasses.replace(found, code=loaded(found.code, lines))
    if known is not None:
        found = dataclasses.replace(found, contradictions=(*found.contradictions, *_disagreements(known, found)))
    return parsing.Verdict(_show(found, out, html_file), 3 if found.contradictions else 0)


# --- what was given ------------------------------------------------------------------------------------------------


def _assumed(setting: str) -> tuple[str, Any]:
    """The name and the value of an assumption."""
    from leapstep.core.denoiser import CLOCKS, SHAPES
    from leapstep.core.process import PREDICTIONS
    from leapstep.core.schedules import SCHEDULES
    from leapstep.doctor.ranges import RANGES

    name, equals, text = (part.strip() for part in setting.partition("="))
    kinds: dict[str, Callable[[str], Any]] = {"timesteps": int, "sigma_data": float, "reverse": _flag}
    names = {
        "predicts": (*PREDICTIONS, *(f"-{kind}" for kind in PREDICTIONS)),
        "time": tuple(CLOCKS),
        "schedule": tuple(SCHEDULES),
        "reshape": SHAPES,
        "range": RANGES,
    }
    if not equals or not text:
        raise ValueError(f"--assume {setting}: write it as NAME=VALUE")
    if name in names:
        if text not in names[name]:
            raise ValueError(f"--assume {setting}: {allowed(text, names[name])}")
        return name, text
    if name not in kinds:
        raise ValueError(f"--assume {setting}: assume one of {', '.join((*names, *kinds))}")
    try:
        value = kinds[name](text)
    except (ValueError, KeyError):
        wanted = {"timesteps": "an integer", "sigma_data": "a number", "reverse": "true or false"}[name]
        raise ValueError(f"--assume {setting}: give {wanted}") from None
    if name in ("timesteps", "sigma_data") and not (value > 0 and math.isfinite(value)):
        raise ValueError(f"--assume {setting}: it must be positive")
    return name, value


def _flag(text: str) -> bool:
    return FLAGS[text.lower()]


def _check_outputs(out: Path | None, html_file: Path | None) -> None:
    """Make sure, before the work, that its results can be written."""
    if out is not None and out.suffix != ".json":
        raise ValueError(f"--out {out}: name a file that ends in .json")
    if html_file is not None and html_file.suffix not in (".html", ".htm"):
        raise ValueError(f"--html {html_file}: name a file that ends in .html")
    for path in (html_file, out):
        if path is not None and path.is_dir():
            raise ValueError(f"{path} is a folder: name a file")
        if path is not None and not path.parent.exists():
            typer.echo(f"making the folder {path.parent}", err=True)
        if path is not None:
            options.claim_file(path, overwrite=True)
    if html_file is not None:
        from leapstep.views import plots

        plots.require()


def _parts(model: str) -> tuple[Path, str]:
    """The file and the function of `file.py:function`; no function for what is no Python file."""
    path, _, function = model.rpartition(":")
    if function and path.endswith(".py"):
        if not function.isidentifier():
            raise ValueError(f"{model}: write it as file.py:function")
        return Path(path), function
    if model.endswith((".py", ".py:")):
        file = _existing(model.rstrip(":"))
        raise ValueError(f"{file}: name the function that returns the network as well, as in {file}:network")
    if function and Path(f"{path}.py").is_file():
        raise ValueError(f"{model}: the file is {path}.py, so write {path}.py:{function}")
    if Path(model).is_file():
        raise ValueError(
            f"{model} is neither a folder nor file.py:function: name one of these, or owner/name on the Hub"
        )
    return Path(model), ""


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    return Path(path)


def _network(path: Path, function: str, device: str | None) -> tuple[Any, dict[str, Any]]:
    """Execute a file and call its function: the network, and arguments for `leapstep.diagnose`."""
    from torch import nn

    made = plugin.make(path, function)
    network, hints = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    if isinstance(network, type):
        raise ValueError(f"{path}:{function} returned the class {network.__name__}: return an instance of it")
    if not callable(network) or not isinstance(hints, Mapping):
        raise ValueError(
            f"{path}:{function} returned {type(made).__name__}: return the network, or (network, arguments of "
            "leapstep.diagnose as a dict)"
        )
    if unknown := sorted(str(name) for name in hints if name not in HINTS):
        raise ValueError(
            f"{path}:{function} returned an argument {unknown[0]}: leapstep.diagnose has {', '.join(HINTS)}"
        )
    if device is not None:
        if not isinstance(network, nn.Module):
            raise ValueError(f"--device {device}: {path}:{function} returned no nn.Module: put it there yourself")
        network = network.to(options.device(device))
    return network, dict(hints)


def _loading_network(model: str, device: str | None, hints: bool) -> list[str]:
    """Lines of Python that load the network as the command did.

    Arguments:
        hints: whether the file's function returns arguments beside it.
    """
    path, function = _parts(model)
    if not function:
        return [f"model = leapstep.load({_quoted(model)})", "net = model.network"]
    names = "net, hints" if hints else "net"
    moved = [f"net = net.to({_quoted(device)})"] if device is not None else []
    if path.stem.isidentifier() and path.parent == Path():
        return [f"from {path.stem} import {function}", f"{names} = {function}()", *moved]
    lines = ["from pathlib import Path", "from leapstep import plugin"]
    return [*lines, f"{names} = plugin.make(Path({_quoted(path)}), {_quoted(function)})", *moved]


def _loading(
    held: Data,
    source: tuple[str, str | None, int | None],
    known: Model | None,
    beside: tuple[Path | None, str | None, Path | None],
) -> dict[str, list[str]]:
    """Lines of Python that load the data, the condition and the mask as the command did, by these names.

    Arguments:
        held: the data.
        source: their name, the part of them, and the side of pictures.
        known: the model of a folder, for which they were read.
        beside: the file of conditions, the keyword of labels, and the file of the mask, as far as they were given.
    """
    (data, split, size), (condition, label_argument, counts) = source, beside
    size = known.shape[1] if known is not None and known.is_pictures else size
    wanted = [f"split={_quoted(split or 'train')}", *([f"size={size}"] if size is not None else [])]
    wanted += [f"channels={known.shape[0]}"] if known is not None and known.is_pictures else []
    reading = ["import numpy as np", f"source = leapstep.data.read({_quoted(data)}, {', '.join(wanted)})"]
    given = [f"dict(np.load({_quoted(condition)}))"] if condition is not None else []
    given += [f"{{{_quoted(label_argument)}: source.labels}}"] if label_argument is not None else []
    if known is not None and known.classes:
        labels = "[model.classes.index(source.classes[label]) for label in source.labels]"
        labels = f"np.full(len(source), {known.null_label})" if held.labels is None else f"np.array({labels})"
        given.append(f'{{"class_labels": {labels}}}')
    mask = 'hints["counts"]' if counts is None else f"np.load({_quoted(counts)})"
    return {
        "net": [],
        "data": [*reading, "data = np.array(source.values)"],
        "condition": [*reading, f"condition = {' | '.join(given)}"] if given else ['condition = hints["condition"]'],
        "counts": ["import numpy as np", f"counts = {mask}"],
    }


def _quoted(value: object) -> str:
    """A string of Python, in the quotes that all other lines have."""
    return json.dumps(str(value), ensure_ascii=False)


def _read(source: str, split: str, size: int | None) -> Data:
    from leapstep.data.readers import read

    return read(source, split=split, size=size)


def _condition(path: Path | None, label_argument: str | None, held: Data) -> dict[str, Array]:
    """Further arguments of the network, aligned with the data."""
    given: dict[str, Array] = {}
    if path is not None:
        try:
            given = read_npz(path)
        except FileNotFoundError:
            raise ValueError(f"--condition: there is no file {path}") from None
        except ValueError as error:
            raise ValueError(f"--condition {path} cannot be read as an npz file: {error}") from error
    for name, array in given.items():
        if array.ndim == 0 or len(array) != len(held):
            held_there = f"{len(array)} rows" if array.ndim else "one number"
            raise ValueError(f"--condition {path}: {name} holds {held_there}, the data {len(held)}: give each its own")
    if label_argument is not None:
        if held.labels is None:
            raise ValueError(f"--label-argument {label_argument}: {held.source} has no labels")
        if label_argument in given:
            raise ValueError(f"{label_argument} is given twice, as labels and in {path}: choose one")
        given[label_argument] = held.labels
    return given


def _counts(path: Path | None) -> Array | None:
    """A mask of where the answer counts; its shape is checked with the data."""
    if path is None:
        return None
    try:
        return read_npy(_existing(str(path)))
    except (ValueError, OSError) as error:
        raise ValueError(f"--counts {path} cannot be read as an npy file: {one_line(str(error))}") from error


def _announce(bar: tqdm[Any], seconds: float, unbounded: float) -> None:
    """Say how long it will take, before it begins."""
    more = f", the budget: without a bound it would take about {duration(unbounded)}" if unbounded > seconds else ""
    bar.write(f"this will take about {duration(seconds)}{more}", file=sys.stderr)


def _merged(
    hints: dict[str, Any], assumed: dict[str, Any], given: dict[str, Array], limits: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of `leapstep.diagnose`: those of the file, and those of the command line, which count more."""
    from leapstep.doctor.samples import LEAST

    if given and hints.get("condition") is not None:
        raise ValueError("a condition is given twice, by the file and by an option: choose one")
    merged = {**hints, "assume": {**(hints.get("assume") or {}), **assumed}}
    if given:
        merged["condition"] = given
    merged |= {name: value for name, value in limits.items() if value is not None}
    if merged.get("n", 300) < LEAST:
        raise ValueError(f"--n {merged['n']}: at least {LEAST} samples are needed")
    if not 0 <= merged.get("seed", 0) < 2**63:
        raise ValueError(f"--seed {merged['seed']}: use an integer from 0 on")
    return merged


# --- folders, which say what they hold -----------------------------------------------------------------------------


def _from_folder(
    source: str, data: str, split: str | None, place: torch.device, others: tuple[Any, Any]
) -> tuple[Any, Model, Data, dict[str, Array]]:
    """The network of a folder, the folder's own words on it, the data as it takes them, and their labels."""
    from leapstep.models import checkpoint

    for name, value in zip(("size", "label-argument"), others, strict=True):
        if value is not None:
            raise ValueError(f"--{name} is for file.py:function: the folder {source} says it itself")
    loaded = checkpoint.load(source, place)
    _, (held, labels) = options.part(lambda name: options.data_for(loaded, data, name), data, split, "train")
    given: dict[str, Array] = {}
    if labels is not None:
        given["class_labels"] = labels.numpy()
    elif loaded.classes and loaded.null_label is not None:
        given["class_labels"] = np.full(len(held), loaded.null_label)
    elif loaded.classes:
        raise ValueError(f"{source} samples one class at a time, and {data} has no labels: name data that have")
    return loaded.network, loaded, held, given


def _disagreements(model: Model, found: Diagnosis) -> list[str]:
    """What the folder says and the network contradicts, as far as that is sure; a line for each."""
    from leapstep.doctor.findings import scaled

    sure = {finding.name: finding.value for finding in found.findings if finding.confidence == "sure"}
    lines = []
    predicts = found.arguments.get("predicts", "eps")
    if "predicts" in sure and predicts != model.predicts:
        lines.append(f"the folder says that the network predicts {model.predicts}; it predicts {sure['predicts']}")
    if "range" in sure and not _same_range(found.arguments.get("scaling"), model.scaling):
        seen = scaled(*model.scaling, "value")
        lines.append(f"the folder says that the network sees {seen}; it was trained on {sure['range']}")
    elif (gap := _gap(model, found)) is not None and "schedule" in sure:
        timestep, said, read = gap
        lines.append(
            f"the folder's schedule and clock put timestep {timestep:g} at log-SNR {said:.2f}, the network at "
            f"{read:.2f}; its schedule is {sure['schedule']}"
        )
    return lines


def _same_range(found: Any, said: tuple[float, float]) -> bool:
    """Whether two scalings put values in the same place, to a fiftieth of their scale."""
    shift, scale = (0.0, 1.0) if found is None else found
    shifts, scales = (np.asarray(value, dtype=np.float64) for value in (shift, scale))
    return bool((abs(shifts - said[0]) < 0.02 * abs(said[1])).all() and (abs(scales / said[1] - 1) < 0.02).all())


def _gap(model: Model, found: Diagnosis) -> tuple[float, float, float] | None:
    """Where the folder's levels leave the intervals read from the network furthest: timestep, level, and level read.

    None where they do so at no more than a quarter of the timesteps.
    """
    import torch

    from leapstep.core.denoiser import clock

    count = model.process.timesteps or 1000
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    told = clock(model.process, model.time, count, True)(t).numpy()
    levels = model.process.log_snr(t).numpy()
    order = np.argsort(told)
    curve = found.curve
    outside, known = [], 0
    for timestep, read, low, high in zip(curve.timesteps, curve.read, curve.low, curve.high, strict=True):
        if read is None or low is None or high is None or not told.min() <= timestep <= told.max():
            continue
        known += 1
        said = float(np.interp(timestep, told[order], levels[order]))
        if not low - 0.1 <= said <= high + 0.1:
            outside.append((max(low - said, said - high), timestep, said, read))
    if 4 * len(outside) <= known:
        return None
    return max(outside)[1:]


# --- what comes out ------------------------------------------------------------------------------------------------


def _show(found: Diagnosis, out: Path | None, html_file: Path | None) -> dict[str, Any]:
    """Print the verdict, write the files that were asked for, and return what is in them."""
    from leapstep.views.doctor import page

    record: dict[str, Any] = parsing.storable(found.as_dict())
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    if out is not None:
        files.write_json(out, record)
    if html_file is not None:
        files.write_text(html_file, page.html(found))
    typer.echo(_encodable(found.text(width), getattr(sys.stdout, "encoding", None) or "utf-8"))
    for path in (out, html_file):
        if path is not None:
            typer.echo(f"written: {path}", err=True)
    return record


def _encodable(text: str, encoding: str) -> str:
    """The text as a terminal of this encoding can show it."""
    from leapstep.doctor.diagnosis import ASCII

    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(ASCII).encode(encoding, "replace").decode(encoding)
    return text
