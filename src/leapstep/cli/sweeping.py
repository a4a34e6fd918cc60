"""What `leapstep sweep` shows while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import typer

from leapstep.cli import measuring
from leapstep.text import acting, counted, duration

if TYPE_CHECKING:
    from leapstep.evaluation.sweep import OnCalls, Run, Sweep
    from leapstep.inference.spec import SamplingSpec

    OnCell = Callable[[Sweep], object]


@contextmanager
def showing(run: Run) -> Iterator[tuple[OnCell, OnCalls, bool]]:
    """A table that fills while the sweep runs, with the time left; a line for each cell where there is no terminal.

    Yields: `on_cell`, `on_calls` and `progress` of `Run.finish`.
    """
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from leapstep.evaluation.cells import shown
    from leapstep.views import tables

    console, cells, metric = Console(file=acting(sys.stderr)), run.sweep.cells, run.sweep.metric
    total, done, earlier, began = sum(map(run.work, run.missing)), 0, 0, time.perf_counter()
    grid = tables.terminal(cells, metric, run.specs)

    def left() -> str:
        if done + earlier >= total:
            return "all samples are drawn"
        return f"about {duration((total - done - earlier) * (time.perf_counter() - began) / max(done, 1))} left"

    def on_cell(sweep: Sweep) -> None:
        nonlocal grid
        tables.write(sweep, measuring.tell)
        cell, grid = cells[-1], tables.terminal(cells, metric, run.specs)
        if live is None:
            name = ", ".join(filter(None, (cell["label"], f"{cell['steps']} steps", cell["spacing"])))
            typer.echo(f"{name}: {shown(cell, metric)}, {tables.effort(cell)}; {left()}", err=True)

    def on_calls(spec: SamplingSpec | None, calls: int, before: bool) -> None:
        nonlocal done, earlier
        done, earlier = done + (0 if before else calls), earlier + (calls if before else 0)
        share = (done + earlier) / max(total, 1)
        work = "samples" if spec is None else f"{spec.label}, {counted(spec.steps or 1)}, {spec.spacing}"
        line = f"{work}: {share:.0%} of all"
        if live is not None:
            live.update(Group(grid, Text(f"{line}, {left()}" if done else line)))

    live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
    with live or nullcontext():
        yield on_cell, on_calls, live is None
