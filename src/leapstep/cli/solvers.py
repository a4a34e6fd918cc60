"""Fitting solvers where people watch: the bar, a line for each solver, and what to do with them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from leapstep.cli import options, sharding
from leapstep.files import folders
from leapstep.progress import progress_bar
from leapstep.text import counted, duration, with_error
from leapstep.workers import leads

if TYPE_CHECKING:
    from leapstep.inference.tuning import Run
    from leapstep.models.tuned import Solver, Untuned


def check_workers(on: str | None, workers: int | None, budget: str | None, pipeline: bool) -> None:
    """Make sure that workers can fit solvers. Raises ValueError where they cannot."""
    sharding.check(on, None, workers)
    if on is None:
        return
    if budget is not None:
        raise ValueError(f"--budget {budget} is for one process: leave it out, or --on {on}")
    if pipeline:
        raise ValueError(f"--on {on}: the solvers of a pipeline are fitted in one process, leave it out")


def hold(folder: Path, on: str | None) -> None:
    """Keep other processes from fitting there until the command ends; of those of torchrun the first does."""
    if leads(on):
        options.hold(folder)
        folders.tidy(folder)


def finish(run: Run, path: Path, on: str | None = None, workers: int | None = None, device: str | None = None) -> None:
    """Fit what is missing; what is there is in the file as soon as it is.

    Arguments:
        on, workers, device: whose workers, see `leapstep.workers.run`; None: this process.
    """
    from leapstep.inference.tuning import save
    from leapstep.inference.tuning_shards import results

    if on is not None:
        for solver, others in results(run, path.with_suffix(".shards"), on=on, workers=workers, device=device):
            save(path, run)
            typer.echo(_line(run, solver, others))
        return
    kept = 0
    try:
        with progress_bar(run.work, "tuning", "call") as bar:
            for solver, others in run.results(bar.update):
                save(path, run)
                kept += 1
                bar.write(_line(run, solver, others), file=sys.stdout)
                bar.total = max(bar.n, bar.n + run.work_left)  # a fit may take less than it might
    except KeyboardInterrupt as request:
        if kept:
            request.add_note(f"solvers of {kept} numbers of calls are kept in {path}: the same command goes on")
        raise
    if left := [calls for calls in run.missing if run.tuning.solver(calls, run.plan.start) is None]:
        typer.echo(f"the time is over before {', '.join(map(str, left))} calls: the same command goes on", err=True)


def _line(run: Run, solver: Solver, others: list[Untuned]) -> str:
    """What a solver is worth."""
    text = f"{counted(solver.calls, 'call')}: {with_error(solver.error, solver.standard_error)} from the teacher"
    if others:
        best = others[0]
        options = "".join(f", {name} {value}" for name, value in best.options.items())
        spacing = "" if best.spacing == "trailing" else f", {best.spacing}"
        text += f"; best untuned: {with_error(best.error, best.standard_error)} ({best.method}{options}{spacing})"
    beaten = run.tuning.worse_steps(solver)
    text += "" if beaten is None else f"; nearer than ddim in {beaten}"
    return f"{text}; {duration(solver.seconds)}"


def next_command(run: Run, model: options.Source, out: Path | None, pipeline: bool) -> str:
    """What to do with the solvers."""
    found = [solver.calls for solver in run.tuning.solvers]
    steps, guided = str(found[len(found) // 2]), run.spec.guidance != 1
    named = [str(out)] if out is not None and not pipeline else [model.name, *model.opening]
    words = ["leapstep", "sample", *named, "--method", "fitted", "--steps", steps]
    words += ["--guidance", f"{run.spec.guidance:g}"] if guided else []
    if pipeline:
        words += [model.takes, "..."] + ([] if out is None else ["--tuned", str(out)])
    elif guided:
        words += ["--label", run.model.classes[int(run.spec.labels[0])] if run.spec.labels else "LABEL"]
    words += [] if run.spec.conditions is None else ["--condition", run.spec.conditions]
    return shlex.join([*words, "--out", "samples"])
