"""`leapstep tune`: fit solvers with few calls to a model, and keep them with it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import options, sharding, solvers
from leapstep.cli.parsing import NUMBERS
from leapstep.models.folder import RUN
from leapstep.workers import TORCHRUN, leads
from leapstep.workers.torchrun import waited

if TYPE_CHECKING:
    from leapstep.core.gaussian import Gaussian
    from leapstep.inference.spec import SamplingSpec
    from leapstep.models.model import Model

EXAMPLES = """**Examples**

`leapstep tune runs/digits`

`leapstep tune runs/digits --calls 3 5 --guidance 2`

`leapstep tune runs/digits --calls 4 --data digits --noises 128 --teacher-steps 30 --overwrite`

`leapstep tune runs/digits --calls 4 5 --on here`

`leapstep tune google/ddpm-cifar10-32 --calls 3 5 --budget 30m --out runs/cifar`

`leapstep sample runs/digits --method fitted --steps 3 --out samples`

`leapstep tune stable-diffusion --prompts prompts.txt --calls 6 8 --guidance 7.5 --noises 64`
"""


@functools.partial(options.on_model, or_pipeline=True)
@options.asking("prompts")
@options.sampling(
    *("spec", "n", "first", "steps", "method", "eta", "variance", "settings", "spacing", "start"),
    shown={"label": "all classes in turn, and none"},
    dtype="float32",
)
def command(
    model: options.Source,
    stated: options.Spec,
    asked: dict[str, Any],
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
        str | None,
        typer.Option(
            help="gaussian (the first step without a call, of the data's mean and covariance; default) | marginal "
            "(default and only one of a pipeline)"
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time after which no further solver is begun, such as 5m.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run folder of the result, with the model in it; default: the model's."),
    ] = None,
    on: sharding.On = None,
    workers: sharding.Count = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Fit anew what is there already.")] = False,
) -> dict[str, Any]:
    """Fit solvers with few calls to a model: --method fitted then draws in 3 calls what takes DDIM 10 to 20.

    No data and no training are needed. What was stopped goes on with what is missing.
    """
    solvers.check_workers(on, workers, budget, model.is_pipeline or asked["prompts"] is not None)
    seconds = None if budget is None else options.budget(budget)
    options.check_data(data)
    from leapstep.inference import tuning

    spec, pipeline = stated.made(), model.is_pipeline or asked["prompts"] is not None
    if pipeline:
        if data is not None or start == "gaussian":
            raise ValueError("solvers of a pipeline start from noise: leave --data and --start gaussian out")
        loaded, spec, path = _pipeline(model, stated, asked, {"out": out, "overwrite": overwrite})
    else:
        loaded, path = _placed(model, out, on)
    solvers.hold(path.parent, on)
    start = start or ("marginal" if pipeline else "gaussian")
    plan = tuning.Plan(tuple(calls or tuning.CALLS), noises, teacher_steps, start, seconds)
    run = tuning.Run(loaded, spec, plan, _law(loaded, data), overwrite=overwrite)
    run.check_price()
    if not run.missing:
        typer.echo(f"all of these solvers are there: {path}")
    solvers.finish(run, path, on, workers, model.device)
    if not leads(on):
        typer.echo(f"this process has no more to fit; the first one writes: {path}")
        return {"out": path}
    said = solvers.next_command(run, model, out, pipeline)
    typer.echo(f"written: {path}\nnow: {said}")
    return {"out": path, **run.tuning._asdict(), "solvers": [solver._asdict() for solver in run.tuning.solvers]}


def _placed(model: options.Source, out: Path | None, on: str | None) -> tuple[Model, Path]:
    """The model as it lies where solvers go, and their file; of processes of torchrun the first puts it there."""
    from leapstep.inference import tuning

    if out is not None and not leads(on):
        waited(lambda: (out / RUN.mark).is_file() or None)
    at = model if on != TORCHRUN else dataclasses.replace(model, device="cpu")  # each process has a device of its own
    return tuning.place(at.open(), model.name, model.convention, out)


def _law(model: Model, data: str | None) -> tuple[str, Gaussian] | None:
    """What solvers start from where it is not the teacher's samples: data, by name, and their law."""
    if data is None:
        return None
    from leapstep.inference.calibration import moments
    from leapstep.models.data import parts_of

    split, (samples, labels) = options.part(parts_of(model, data), data, None, "train")
    laws, _ = moments(model, samples, labels)
    return f"{data} ({split})", laws.each or laws.whole


def _pipeline(
    model: options.Source, stated: options.Spec, asked: dict[str, Any], where: dict[str, Any]
) -> tuple[Model, SamplingSpec, Path]:
    """A pipeline of diffusers as a model, what is drawn of it, and where its solvers go."""
    from leapstep.diffusers.drawing import Asked
    from leapstep.diffusers.tuning import opened, read_prompts

    prompts = () if asked["prompts"] is None else read_prompts(asked["prompts"])
    said = Asked(prompts, asked["negative_prompt"], asked["height"], asked["width"])
    return opened(model.name, stated.fields, said, device=options.device(model.device), **where)
