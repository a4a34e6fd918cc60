"""`leapstep sweep`: quality by method, noise and number of steps."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from leapstep import files
from leapstep.cli import measuring, options
from leapstep.core.finite import NotFinite
from leapstep.files import folders, reading
from leapstep.text import acting, allowed, clean, duration

if TYPE_CHECKING:
    from leapstep.evaluation.quality import Batch, Part, Setting, Yardstick
    from leapstep.models.checkpoint import Model

EXAMPLES = """**Examples**

`leapstep sweep runs/digits digits --out sweep`

`leapstep sweep runs/mnist mnist/ --etas 0,0.2,0.5,1,beta --n 5000 --features features/mnist --out sweep`

`leapstep sweep runs/photos photos/ --split all --spacings trailing quad --steps 10 20 --out spacings`
"""

RESULTS = folders.Kind("results.json", "cells", r"results\.json|table\.(md|csv)|quality\.png|part\.npz")


def command(
    model: options.ModelSource,
    out: Annotated[Path, typer.Option(help="The folder of the results; a sweep that was stopped goes on there.")],
    data: measuring.DataSource = None,
    methods: Annotated[
        list[str] | None, typer.Option(metavar="NAME ...", help=f"{options.METHODS}; default: ddim, dpmpp_2m, unipc.")
    ] = None,
    etas: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ETA ...",
            help="Rows of ddim: noise injected, 0 to 1; beta: the DDPM paper's larger variance; optimal: after "
            "`leapstep calibrate`. Default: 0, 1.",
        ),
    ] = None,
    steps: Annotated[
        list[str] | None, typer.Option(metavar="S ...", help="Columns; default: 5, 10, 20, 50, 100.")
    ] = None,
    spacings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME ...",
            help="trailing | leading | linspace | quad | log_snr | karras; default: what the model says, or trailing.",
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="Samples a cell; all cells share their start noise.")] = 1000,
    split: options.Split = None,
    features: measuring.FeatureSpace = "pixels",
    weights: measuring.Weights = None,
    metrics: measuring.Metrics = None,
    metric: Annotated[str, typer.Option(help="The one of them that the table and the plot show.")] = "frechet",
    k: measuring.Neighbours = 5,
    resamples: measuring.Resamples = 100,
    seed: Annotated[int, typer.Option(help="Of the start noise.")] = 0,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME ...", help="Classes, in turn; default: as in the reference.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Samples worked on at a time.")] = 250,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder that has results.")] = False,
) -> dict[str, Any]:
    """Measure samples for many methods, noises and steps: the table of the DDIM paper for your model."""
    from leapstep.evaluation import quality
    from leapstep.evaluation.distances import METRICS
    from leapstep.models import checkpoint

    place = options.device(device)
    loaded = checkpoint.load(model, place)
    loaded.network.requires_grad_(False)
    chosen = metrics or []
    if metric not in METRICS or (chosen and metric not in chosen):
        raise ValueError(f"--metric {metric}: {allowed(metric, chosen or METRICS)}")
    if n < 2 or batch_size < 1:
        raise ValueError(f"--n {n} --batch-size {batch_size}: at least 2 samples, and a batch of at least 1")
    plan, asked = _plan(loaded, methods, etas, steps, spacings)
    made = {_key(each): _made(each, loaded) for each in plan}
    against = measuring.source(loaded.details, data, model)
    held = measuring.reference(lambda part: options.data_for(loaded, against, part), loaded.details, against, split)
    rule = measuring.yardstick(against, held, features, weights, metrics, k, resamples, place)
    if metric == "inception_score" and rule.features.probabilities is None:
        raise ValueError(f"--metric inception_score needs a classifier, which --features {features} has not")
    classes, how = measuring.classes(loaded, held.labels, label or [], n)
    conditions = {
        "model_sha256": checkpoint.fingerprint(loaded.network),
        **rule.conditions,
        **measuring.drawing(loaded, n, seed, how, guidance),
        "versions": measuring.versions(),
    }
    loaded.diffusion(
        None if classes is None else classes[:1], guidance
    )  # what is wrong shows before anything is written
    options.hold(out)
    earlier = None if overwrite else _earlier(out, conditions)
    cells, doubts = earlier or ([], [])
    record = {"finished": False, "model": model, "conditions": conditions, "metric": metric, "warnings": doubts}
    record["relation"] = held.relation  # of the reference to the model
    if earlier is None:
        folders.begin(out, overwrite, RESULTS, record | {"cells": cells})
    folders.tidy(out)
    options.tell_left_out(loaded, asked, [each.steps for each in plan])
    _write(out, record, cells, rule.spread)

    how_drawn: Any = {"labels": classes, "guidance": guidance, "batch_size": batch_size, "device": place}

    def draw(setting: Setting, part: Part | None, on_calls: Any) -> Iterator[Batch]:
        first = 0 if part is None else len(part.seen)
        return quality.draw(
            loaded, setting, made[_key(setting)], n, seed=seed, first=first, on_calls=on_calls, **how_drawn
        )

    if {_key(each) for each in plan} - {_key_of(cell) for cell in cells}:
        quality.warm_up(loaded, n, **how_drawn)
    try:
        _sweep(plan, cells, rule, draw, record, out)
    except KeyboardInterrupt as request:
        request.add_note(f"{len(cells)} of {len(plan)} cells are kept in {out}: the same command goes on from there")
        raise
    record["finished"] = True
    lines = _write(out, record, cells, rule.spread)
    _print(cells, plan, record, lines, out)
    return {"out": out, **record, "advice": lines, "cells": cells}


def _plan(
    model: Model,
    methods: list[str] | None,
    etas: list[str] | None,
    steps: list[str] | None,
    spacings: list[str] | None,
) -> tuple[list[Setting], list[int]]:
    """All cells, those of few steps first, so that every column is whole before the next; and the steps asked for."""
    from leapstep.core.transitions import TRANSITIONS
    from leapstep.evaluation.quality import Setting
    from leapstep.inference.encoding import step_counts

    rows: list[tuple[str, dict[str, Any]]] = []
    named = methods or ["ddim", "dpmpp_2m", "unipc"]
    if etas and "ddim" not in named:
        raise ValueError(f"--etas {','.join(etas)} are rows of ddim: name it among the --methods")
    for method in named:
        if method not in TRANSITIONS:
            raise ValueError(f"--methods {method}: {allowed(method, TRANSITIONS)}")
        if TRANSITIONS[method].calls == 0:
            raise ValueError(f"--methods {method} chooses its own steps: measure it with leapstep evaluate")
        rows += [_noise(eta) for eta in etas or ["0", "1"]] if method == "ddim" else [(method, {})]
    try:
        numbers = [int(step) for step in steps or (5, 10, 20, 50, 100)]
    except ValueError:
        raise ValueError(f"--steps {','.join(steps or [])}: give integers, as in 5,10,20") from None
    counts = step_counts(model, numbers)
    places = spacings or [model.spacing or "trailing"]
    return [Setting(*row, count, spacing) for count in counts for row in rows for spacing in places], numbers


def _noise(eta: str) -> tuple[str, dict[str, Any]]:
    """A row of the table in the DDIM paper: a share of the posterior's deviation, or another variance of DDPM."""
    if eta in ("beta", "optimal"):
        return "ddpm", {"variance": eta}
    try:
        return "ddim", {"eta": float(eta)}
    except ValueError:
        raise ValueError(f"--etas {eta}: give numbers from 0 to 1, beta or optimal") from None


def _made(setting: Setting, model: Model) -> Any:
    import leapstep

    leapstep.times(model.process, setting.steps, setting.spacing)  # raises where they do not fit
    return options.transition(setting.method, [], model, **setting.options)[0]


def _key(setting: Setting) -> str:
    return json.dumps([setting.method, dict(setting.options), setting.steps, setting.spacing])


def _key_of(cell: dict[str, Any]) -> str:
    return json.dumps([cell["method"], cell["settings"], cell["steps"], cell["spacing"]])


def _earlier(out: Path, conditions: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]] | None:
    """The cells that an earlier sweep into this folder has finished, and its warnings; None where there was none.

    Raises:
        ValueError: they were measured under other conditions.
    """
    from leapstep.evaluation import quality

    try:
        found = quality.results(out / "results.json")
        had, cells, doubts = found["conditions"], list(found["cells"]), list(found.get("warnings", ()))
    except (OSError, ValueError, KeyError):
        return None
    now = json.loads(json.dumps(conditions))
    for name in {**had, **now}:
        if cells and name != "features_source" and had.get(name) != now.get(name):  # the hash tells features apart
            raise ValueError(
                f"{out} holds cells with {name} {had.get(name)}, not {now.get(name)}: they do not belong in one table; "
                "--overwrite them, or name another folder"
            )
    return cells, doubts


def _sweep(
    plan: list[Setting], cells: list[dict[str, Any]], rule: Yardstick, draw: Any, record: dict[str, Any], out: Path
) -> None:
    """Measure what is missing, cell by cell; each is in the files as soon as it is there."""
    from leapstep.core.transitions import TRANSITIONS
    from leapstep.evaluation import quality

    there, n = {_key_of(cell) for cell in cells}, record["conditions"]["n"]
    missing = [setting for setting in plan if _key(setting) not in there]
    under = hashlib.sha256(json.dumps(record["conditions"]).encode()).hexdigest()
    work = [each.steps * TRANSITIONS[each.method].calls for each in missing]
    with _live(cells, plan, record["metric"], sum(work) * n) as tell:
        for setting, calls in zip(missing, work, strict=True):
            part = _kept(out, under + _key(setting))
            tell(setting, 0, done_before=0 if part is None else calls * len(part.seen))
            if part is None or len(part.seen) < n:
                try:
                    for part in quality.gather(rule, draw(setting, part, functools.partial(tell, setting)), part):  # noqa: B020
                        _keep(out, under + _key(setting), part)
                except NotFinite as broken:
                    name = f"{setting.label}, {setting.steps} steps, {setting.spacing}"
                    raise ValueError(f"{name}: {broken}") from broken
            assert part is not None
            measured, doubts = rule.measure(part.seen, part.probabilities)
            record["warnings"] = doubts  # those of any cell are those of all: it is their number that counts
            cells.append(
                {
                    "method": setting.method,
                    "settings": dict(setting.options),
                    "label": setting.label,
                    "steps": setting.steps,
                    "spacing": setting.spacing,
                    "calls": part.calls,
                    **{name: float(f"{value:.3g}") for name, value in part.seconds.items()},
                    "n": n,
                    "metrics": quality.as_json(measured),
                    "replicates": {
                        name: [float(f"{x:.6g}") for x in each.replicates] for name, each in measured.items()
                    },
                }
            )
            _write(out, record, cells, rule.spread)
            (out / "part.npz").unlink(missing_ok=True)
            tell(setting, 0)


def _kept(out: Path, key: str) -> Part | None:
    """What a stopped sweep had of this cell."""
    import torch

    from leapstep.evaluation.quality import Part

    try:
        found = reading.read_npz(out / "part.npz")
        if str(found["key"]) != key:
            return None
        probabilities = torch.from_numpy(found["probabilities"]) if "probabilities" in found else None
        return Part(
            torch.from_numpy(found["seen"]), probabilities, int(found["calls"]), torch.from_numpy(found["timing"])
        )
    except Exception:  # missing or broken, whatever numpy and zipfile raise: begin the cell anew
        return None


def _keep(out: Path, key: str, part: Part) -> None:
    arrays: dict[str, Any] = {"key": np.array(key), "seen": part.seen.numpy()}
    arrays |= {"calls": np.array(part.calls), "timing": part.timing.numpy()}
    arrays |= {} if part.probabilities is None else {"probabilities": part.probabilities.numpy()}
    files.write_npz(out / "part.npz", arrays)


def _write(out: Path, record: dict[str, Any], cells: list[dict[str, Any]], spread: float) -> list[str]:
    """Write the results as they stand; return the advice. The spread is that of the reference."""
    from leapstep.evaluation import quality
    from leapstep.views import plots

    metric = record["metric"]
    lines = quality.advice(cells, metric, spread) if cells else []
    files.write_json(out / "results.json", record | {"advice": lines, "cells": cells})
    if not cells:
        return lines
    files.write_text(out / "table.md", f"{quality.markdown(cells, metric)}\n{_told(record)}\n")
    files.write_text(out / "table.csv", quality.spreadsheet(cells))
    if record["finished"]:
        try:
            files.write_bytes(out / "quality.png", plots.png(quality.plot(cells, metric), (9.0, 4.5)))
        except ValueError as error:  # without the extra
            typer.echo(f"no plot: {error}", err=True)
    return lines


def _told(record: dict[str, Any]) -> str:
    """What the numbers of a table are, for who sees it alone."""
    under = record["conditions"]
    said = (
        f"{record['model']}: {under['n']} samples a cell against {measuring.told(record)}, features "
        f"{under['features_source']}. ±: half a 95 % interval; bold: best of its column."
    )
    return "\n\n".join([said, *(f"Warning: {text}" for text in record["warnings"])])


@contextmanager
def _live(cells: list[dict[str, Any]], plan: list[Setting], metric: str, total: int) -> Iterator[Any]:
    """A table that fills while the sweep runs, with the time left; a line for each cell where there is no terminal.

    Yields:
        a function of the setting in work and of how many network calls of single samples were made since the last time.
    """
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(file=acting(sys.stderr))
    done, before, began, printed = 0, 0, time.perf_counter(), len(cells)
    table = _table(cells, plan, metric)

    def tell(setting: Setting, calls: int, done_before: int = 0) -> None:
        nonlocal done, before, printed, table
        done, before = done + calls, before + done_before
        fresh, printed = len(cells) > printed, len(cells)
        left = (total - done - before) * (time.perf_counter() - began) / max(done, 1)
        if live is not None:
            share = (done + before) / max(total, 1)
            line = f"{setting.label}, {setting.steps} steps, {setting.spacing}: {share:.0%} of all"
            table = _table(cells, plan, metric) if fresh else table  # not for every call of the network
            live.update(Group(table, Text(f"{line}, about {duration(left)} left" if done else line)))
        elif fresh:
            typer.echo(f"{_line(cells[-1], metric)}; about {duration(left)} left", err=True)

    if not console.is_terminal:
        live = None
        yield tell
        return
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        yield tell


def _line(cell: dict[str, Any], metric: str) -> str:
    from leapstep.evaluation import quality

    return (
        f"{cell['label']}, {cell['steps']} steps, {cell['spacing']}: {quality.shown(cell, metric)}, "
        f"{cell['calls']} calls, {duration(cell['seconds'])}"
    )


def _table(cells: list[dict[str, Any]], plan: list[Setting], metric: str) -> Any:
    """The table as a terminal shows it, with the cells that are still to come."""
    from rich.markup import escape
    from rich.table import Table

    from leapstep.evaluation import quality

    rows, alike = quality.rows_of(cells), quality.even(cells, metric)
    for setting in plan:
        rows.setdefault((setting.label, setting.spacing), {})
    counts = sorted({setting.steps for setting in plan} | {cell["steps"] for cell in cells})
    table = Table(title=None, header_style="bold")
    table.add_column(quality.NAMES[metric])
    for count in counts:
        table.add_column(f"{count} steps", justify="right")
    for row, found in rows.items():
        texts = []
        for count in counts:
            cell = found.get(count)
            if cell is None:
                texts.append("")
                continue
            first = cell is quality.best([each for each in cells if each["steps"] == count], metric)
            value = f"[bold]{quality.shown(cell, metric)}[/bold]" if first else quality.shown(cell, metric)
            value = f"≈ {value}" if cell in alike else value
            texts.append(f"{value}\n[dim]{cell['calls']} calls, {duration(cell['seconds'])}[/dim]")
        table.add_row(escape(clean(quality.row_name(row, rows))), *texts)
    if alike:
        table.caption = quality.EVEN
    return table


def _print(
    cells: list[dict[str, Any]], plan: list[Setting], record: dict[str, Any], lines: list[str], out: Path
) -> None:
    from rich.console import Console

    Console(file=acting(sys.stdout)).print(_table(cells, plan, record["metric"]))
    for doubt in record["warnings"]:
        typer.echo(f"warning: {doubt}", err=True)
    typer.echo("; ".join(lines))
    typer.echo(f"written: {out}")
