"""`leapstep tune`: fit solvers with few calls to a model, and keep them with it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import options
from leapstep.cli.parsing import NUMBERS
from leapstep.progress import progress_bar
from leapstep.text import counted, duration, with_error

if TYPE_CHECKING:
    from leapstep.inference.tuning import Run
    from leapstep.models.tuned import Solver, Untuned

EXAMPLES = """**Examples**

`leapstep tune runs/digits`

`leapstep tune runs/digits --calls 3 5 --guidance 2`

`leapstep tune runs/digits --calls 4 --data digits --noises 128 --teacher-steps 30 --overwrite`

`leapstep tune google/ddpm-cifar10-32 --calls 3 5 --budget 30m --out runs/cifar`

`leapstep sample runs/digits --method fitted --steps 3 --out samples`
"""


@options.on_model
@options.sampling(
    *("spec", "n", "first", "steps", "method", "eta", "variance", "settings", "spacing", "start"),
    shown={"label": "all classes in turn, and none"},
    dtype="float32",
)
def command(
    model: options.Source,
    stated: options.Spec,
    calls: Annotated[
        list[int] | None, typer.Option(metavar=NUMBERS, help="Network calls a sample; default: 2 3 4 5 6 8 10.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data whose mean and covariance solvers start from, as `leapstep train` reads them; default: "
            "the teacher's samples."
        ),
    ] = None,
    noises: Annotated[int, typer.Option(help="Noises that the teacher starts from.")] = 256,
    teacher_steps: Annotated[int, typer.Option(help="Steps of the teacher, UniPC of order 3.")] = 40,
    start: Annotated[
        str, typer.Option(help="gaussian (the first step without a call, of the data's mean and covariance) | marginal")
    ] = "gaussian",
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time after which no further solver is begun, such as 5m.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run folder of the result, with the model in it; default: the model's."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Fit anew what is there already.")] = False,
) -> dict[str, Any]:
    """Fit solvers with few calls to a model: --method fitted then draws in 3 calls what takes DDIM 10 to 20.

    No data and no training are needed. What was stopped goes on with what is missing.
    """
    seconds = None if budget is None else options.budget(budget)
    options.check_data(data)
    from leapstep.files import folders
    from leapstep.inference import tuning
    from leapstep.inference.calibration import moments
    from leapstep.models.data import parts_of

    loaded, path = tuning.place(model.open(), model.name, model.convention, out)
    options.hold(path.parent)
    folders.tidy(path.parent)
    law = None
    if data is not None:
        split, (samples, labels) = options.part(parts_of(loaded, data), data, None, "train")
        laws, _ = moments(loaded, samples, labels)
        law = (f"{data} ({split})", laws.each or laws.whole)
    plan = tuning.Plan(tuple(calls or tuning.CALLS), noises, teacher_steps, start, seconds)
    run = tuning.Run(loaded, stated.made(), plan, law, overwrite=overwrite)
    run.check_price()
    if not run.missing:
        typer.echo(f"all of these solvers are there: {path}")
    finish(run, path)
    found = [solver.calls for solver in run.tuning.solvers]
    named = [str(out)] if out is not None else [model.name, *model.opening]
    words = ["leapstep", "sample", *named, "--method", "fitted", "--steps", str(found[len(found) // 2])]
    words += [] if run.spec.guidance == 1 else ["--guidance", f"{run.spec.guidance:g}", "--label", _label(run)]
    words += [] if run.spec.conditions is None else ["--condition", run.spec.conditions]
    typer.echo(f"written: {path}\nnow: {shlex.join([*words, '--out', 'samples'])}")
    return {"out": path, **run.tuning._asdict(), "solvers": [solver._asdict() for solver in run.tuning.solvers]}


def finish(run: Run, path: Path) -> None:
    """Fit what is missing; what is there is in the file as soon as it is."""
    from leapstep.inference.tuning import save

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


def _label(run: Run) -> str:
    """A class to guide towards."""
    return run.model.classes[int(run.spec.labels[0])] if run.spec.labels else "LABEL"
