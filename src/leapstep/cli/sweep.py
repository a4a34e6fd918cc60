"""`leapstep sweep`: quality by method, noise and number of steps."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import measuring, options, sharding
from leapstep.cli.sweeping import showing
from leapstep.inference import fields
from leapstep.text import acting
from leapstep.workers import Workers, leads

if TYPE_CHECKING:
    from leapstep.evaluation.sweep import Run

EXAMPLES = """**Examples**

`leapstep sweep runs/digits digits --out sweep`

`leapstep sweep runs/mnist mnist/ --etas 0,0.2,0.5,1,beta --n 5000 --features features/mnist --out sweep`

`leapstep sweep runs/photos photos/ --split all --spacings trailing quad --steps 10 20 --out spacings`

`leapstep sweep runs/digits digits --n 20000 --on here --out large`
"""


@options.on_model
@options.sampling(
    *("spec", "first", "steps", "method", "eta", "variance", "settings", "spacing"),
    shown=measuring.DRAWN,
    n=1000,
    batch_size=250,
)
def command(
    model: options.Source,
    out: Annotated[Path, typer.Option(help="The folder of the results, in which a stopped sweep continues.")],
    stated: options.Spec,
    data: measuring.DataSource = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME ...", help=f"{options.NAMED_METHODS}; default: ddim, dpmpp_2m, unipc."),
    ] = None,
    etas: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ETA ...",
            help="Rows of ddim: share of noise injected, from 0 to 1; beta: the DDPM paper's larger "
            "variance; optimal: after `leapstep calibrate`. Default: 0, 1.",
        ),
    ] = None,
    steps: Annotated[
        list[str] | None, typer.Option(metavar="S ...", help="Columns; default: 5, 10, 20, 50, 100.")
    ] = None,
    spacings: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME ...", help=f"{options.SPACINGS}; default: the model's own, else trailing."),
    ] = None,
    split: options.Split = None,
    features: measuring.FeatureSpace = "pixels",
    weights: measuring.Weights = None,
    metrics: measuring.Metrics = None,
    metric: Annotated[str, typer.Option(help="The metric shown in the table and the plot.")] = "frechet",
    k: measuring.Neighbours = 5,
    resamples: measuring.Resamples = 100,
    merged: measuring.Merged = False,
    on: sharding.On = None,
    shard: sharding.Shard = None,
    workers: sharding.Count = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
) -> dict[str, Any]:
    """Measure samples for many methods, noises and steps: the table of the DDIM paper for your model."""
    columns = _integers(steps)
    fields.check_methods("methods", methods or ())
    fields.check_spacings("spacings", spacings or ())
    options.check_data(data)
    sharding.check(on, shard, workers)
    from leapstep.evaluation.planning import left_out, plan
    from leapstep.evaluation.sweep import Run
    from leapstep.evaluation.yardstick import Measure

    elsewhere = None if on is None else Workers.named(on, shard, out, model.device, workers)
    opened = model if on is None else dataclasses.replace(model, device="cpu")  # from where workers take it
    loaded, measure = opened.open(), Measure(features, weights, metrics, k, resamples, merged or None)
    specs = plan(loaded, stated.made(), methods=methods, etas=etas, steps=columns, spacings=spacings)
    where: dict[str, Any] = {"source": model.name, "workers": elsewhere, "tell": measuring.tell}
    run = Run(loaded, data, specs, measure, metric=metric, split=split, **where)
    if line := left_out(loaded, columns):
        measuring.tell(line)
    return show(run, out, overwrite)


def _integers(steps: list[str] | None) -> list[int] | None:
    try:
        return None if steps is None else [int(count) for count in steps]
    except ValueError:
        raise ValueError(f"--steps {','.join(steps or [])}: give integers, as in 5,10,20") from None


def show(run: Run, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Finish a sweep in a folder, with a table that fills meanwhile, and print what it found."""
    from rich.console import Console

    from leapstep.views import tables

    begins = run.workers is None or leads(run.workers.on, overwrite)
    if begins:
        options.hold(out)
    run.begin(out, overwrite, begins)
    with showing(run) as (on_cell, on_calls, progress):
        sweep = run.finish(on_cell, on_calls, progress)
    tables.write(sweep, measuring.tell)
    Console(file=acting(sys.stdout)).print(tables.terminal(sweep.cells, sweep.metric, run.specs))
    for warning in sweep.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{'; '.join(sweep.advice)}\nwritten: {out}")
    return {"out": out, **sweep.to_json()}
