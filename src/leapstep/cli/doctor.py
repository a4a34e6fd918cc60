"""`leapstep doctor`: find the convention of a network from the network itself, and what is wrong with it."""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep import files, plugin
from leapstep.cli import options, parsing
from leapstep.models import opening
from leapstep.progress import progress_bar
from leapstep.text import duration

if TYPE_CHECKING:
    from tqdm import tqdm

EXAMPLES = """**Examples**

`leapstep doctor mine.py:network photos/ --size 64`

`leapstep doctor mine.py:network signals.npy --save convention.json`

`leapstep doctor mine.py:network digits --label-argument y --html report.html`

`leapstep doctor mine.py:network signals.npy --condition given.npz --assume predicts=v timesteps=1000`

`leapstep doctor google/ddpm-cifar10-32 cifar10/ --json`

A file such as `mine.py`:

    def network():
        net = Net()
        net.load_state_dict(torch.load("net.pt", map_location="cpu", weights_only=True))
        return net.eval()
"""

ModelOrFile = Annotated[
    str,
    typer.Argument(
        help="`file.py:function`, which is executed and returns the network, or (network, arguments of "
        "leapstep.diagnose); or a run folder, a diffusers pipeline folder, or `owner/name` on the Hub."
    ),
]
DATA = typer.Argument(help="The training data: `digits`, a folder, a file, a name on the Hub.")
ASSUME = typer.Option(
    metavar=parsing.SETTINGS,
    help="What you believe, to be checked: predicts, time, reverse, timesteps, schedule, "
    "sigma_data, reshape or range, such as 'range=[0, 1]' or range=standardised.",
)
CONDITION = typer.Option(metavar="FILE.npz", help="Further arguments of the network, an array per keyword.")
COUNTS = typer.Option(
    metavar="FILE.npy",
    help="Mask of the values for which the network's output counts (1) or not (0), for each "
    "sample or one for all. For imputers, inpainting and padded sequences.",
)
LABELS = typer.Option(metavar="NAME", help="The network's keyword for the labels of the data.")
BUDGET = typer.Option(metavar="TIME", help="Time limit, such as 30s, 2m or 1h; default: 2m.")
DEVICE = typer.Option(help="cpu | cuda | mps; default: where the network is; for a folder the best available.")
SAVE = typer.Option(metavar="FILE", help="Write the convention as JSON: with it every command takes the network.")


def command(
    model: ModelOrFile,
    data: Annotated[str, DATA],
    split: options.TrainSplit = None,
    size: Annotated[int | None, typer.Option(help="Crop and resize images to squares of this side, pixels.")] = None,
    n: Annotated[int | None, typer.Option(help="Number of samples at most; default: 300.")] = None,
    assume: Annotated[list[str] | None, ASSUME] = None,
    condition: Annotated[Path | None, CONDITION] = None,
    counts: Annotated[Path | None, COUNTS] = None,
    label_argument: Annotated[str | None, LABELS] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; default: 0.")] = None,
    budget: Annotated[str | None, BUDGET] = None,
    device: Annotated[str | None, DEVICE] = None,
    save: Annotated[Path | None, SAVE] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with figures.")] = None,
) -> parsing.Verdict:
    """Find out how a network was trained (range, prediction, clock, schedule), and what is wrong with it.

    It is called on real data with noise, and believed more than anything that is said of it. Nothing is trained. A
    `file.py` is executed with all that is in it, so name only files that you trust.

    Exit code: 0 with a verdict, 3 where it contradicts what was assumed or what the folder says, 2 for mistakes.
    """
    options.check_data(data)
    options.check_device(device)
    is_file = bool(plugin.parts(model)[1])
    if not is_file:
        opening.check(model)
    limits = {"n": n, "seed": seed, "budget": budget and options.budget(budget)}
    _claim({"--html": (html, ".html"), "--out": (out, ".json"), "--save": (save, ".json")})
    from leapstep.doctor import assumptions, open_case
    from leapstep.views import plots
    from leapstep.views.doctor import page

    assumed = assumptions.parsed(assume or [])
    if html is not None:
        plots.require()
    target = None if device is None and is_file else options.device(device)
    beside = {"condition": condition, "label_argument": label_argument, "counts": counts}
    tell = functools.partial(typer.echo, err=True)
    case = open_case(model, data, split=split, size=size, device=target, tell=tell, **beside)  # type: ignore[arg-type]
    with progress_bar(0, "starting", " samples") as bar:
        calls = {"on_stage": functools.partial(bar.set_description_str, refresh=False), "on_call": bar.update}
        diagnosis = case.diagnose(assumed, on_estimate=functools.partial(_announce, bar), **calls, **limits)
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    typer.echo(diagnosis.text(width, getattr(sys.stdout, "encoding", None) or "utf-8"))
    record = parsing.storable(diagnosis.as_dict())
    if html is not None:
        page.write(html, diagnosis)
    if out is not None:
        files.write_json(out, record)
    if save is not None:
        diagnosis.convention.save(save)
    for path in filter(None, (html, out, save)):
        tell(f"written: {path}")
    return parsing.Verdict(record, 3 if diagnosis.contradictions else 0)


def _claim(files: dict[str, tuple[Path | None, str]]) -> None:
    """Make sure, before the work, that its results can be written.

    Arguments:
        files: by option, the file and the ending that it must have.
    """
    for option, (path, suffix) in files.items():
        if path is None:
            continue
        if path.suffix != suffix:
            raise ValueError(f"{option} {path}: name a file that ends in {suffix}")
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file")
        if not path.parent.exists():
            typer.echo(f"making the folder {path.parent}", err=True)
        options.claim_file(path, overwrite=True)


def _announce(bar: tqdm[Any], seconds: float, unbounded: float) -> None:
    """Say how long it will take, before it begins."""
    more = f", the budget: without a bound it would take about {duration(unbounded)}" if unbounded > seconds else ""
    bar.write(f"this will take about {duration(seconds)}{more}", file=sys.stderr)
