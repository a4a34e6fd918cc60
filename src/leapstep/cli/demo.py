"""`leapstep demo`: train, sample and compare on real data, in a few minutes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import options, solvers, sweep
from leapstep.files import folders

if TYPE_CHECKING:
    from leapstep.models.model import Model

EXAMPLES = """**Examples**

`leapstep demo`

`leapstep demo --out /tmp/demo --train-steps 2000 --n 256`
"""

ROWS = [("ddpm", 1000), ("ddim", 20), ("ddim", 10), ("fitted", 3)]

TUNING: dict[str, Any] = {"calls": (3, 5), "noises": 128}

RESULTS = folders.Kind("results.json", "demo", r"run|sweep|report\.html|(real|comparison|(dd.m|fitted)-\d+)\.png")

SWEEP: dict[str, Any] = {"methods": ("ddim", "unipc", "fitted"), "etas": (0, 1), "steps": (3, 5, 10, 20)}


def command(
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("demo"),
    train_steps: Annotated[int | None, typer.Option(help="Optimiser steps; default: those of the preset.")] = None,
    n: Annotated[int, typer.Option(help="Samples per method.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the training and of the start noise.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
) -> dict[str, Any]:
    """Train on 8x8 digits with their labels, sample the same weights in 1000, 20, 10 and 3 steps, and compare."""
    if n < 3:
        raise ValueError(f"--n {n}: a distance between distributions with its interval needs at least 3 samples")
    options.check_free(out, overwrite, RESULTS)
    import numpy as np

    from leapstep import files
    from leapstep.data.pictures import captioned, grid, save_image
    from leapstep.data.readers import read
    from leapstep.evaluation.comparison import measure, of_real_data
    from leapstep.evaluation.planning import plan
    from leapstep.evaluation.sweep import Run
    from leapstep.evaluation.yardstick import Measure
    from leapstep.inference.spec import SamplingSpec
    from leapstep.training.configuration import configure
    from leapstep.training.run import train

    settings = {"seed": seed, "labels": True} | ({} if train_steps is None else {"steps": train_steps})
    config = configure(settings, "digits")  # raises before anything is removed
    options.claim(out, overwrite, RESULTS, {"demo": []})
    typer.echo("Training a U-Net on 1442 real handwritten digits (scikit-learn, 8x8 pixels) on the CPU ...")
    try:
        model = train("digits", out / "run", config=config, device="cpu")
    except KeyboardInterrupt as request:  # what is kept of the training, a demo does not go on with
        request.__notes__ = [f"begin again with --overwrite, which replaces {out}"]
        raise
    model = _tuned(model, out / "run")
    held_out = read("digits", split="test")
    target = held_out.batch(range(len(held_out)))
    distance, spread = of_real_data(read("digits"), n, target)
    real = {"method": "real digits", "calls": None, "seconds": None, "distance": distance, "spread": spread}
    results: list[dict[str, Any]] = [real | {"grid": "real.png"}]
    labels = np.asarray(held_out.labels)
    rank = [np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)]
    order = np.lexsort((labels, rank))  # 0 to 9, again and again, as the samples are
    pictures = {"real digits, not trained on": held_out.values[order]}
    for method, steps in ROWS:
        spec = SamplingSpec(method, steps=steps, n=n, batch_size=n, seed=seed, labels=tuple(range(len(model.classes))))
        drawn = measure(model, spec, target)
        row: dict[str, Any] = {"method": method, "calls": steps, "seconds": drawn.seconds, "distance": drawn.distance}
        results.append(row | {"grid": f"{method}-{steps}.png"})
        pictures[f"{method.upper()}, {steps} network calls, {drawn.seconds:.1f} s for {n}"] = drawn.values
    for result, pixels in zip(results, pictures.values(), strict=True):
        save_image(grid(pixels[:100], columns=10), out / result["grid"])
    rows = {caption: grid(pixels[:40], columns=20) for caption, pixels in pictures.items()}
    save_image(captioned(rows), out / "comparison.png")
    files.write_json(out / "results.json", {"demo": results})
    _print(results, out)
    typer.echo("\nThe same by method, noise and steps, as leapstep sweep measures it (in principal components):")
    specs = plan(model, SamplingSpec(n=n, seed=seed, batch_size=250), **SWEEP)
    sweep.show(Run(model, "digits", specs, Measure(metrics=["frechet"]), source=str(out / "run")), out / "sweep")
    _draw_page(model, out, seed)
    return {"out": out, "demo": results}


def _tuned(model: Model, folder: Path) -> Model:
    """The model with solvers that are fitted to it, which are kept in its folder."""
    from leapstep.inference.tuning import Plan, Run
    from leapstep.models.checkpoint import TUNED

    typer.echo("\nFitting solvers with few calls to it, on noise alone (leapstep tune) ...")
    run = Run(model, plan=Plan(**TUNING))
    solvers.finish(run, folder / TUNED)
    return dataclasses.replace(model, tuned=run.tuned)


def _print(results: list[dict[str, Any]], out: Path) -> None:
    typer.echo(f"\n{'method':<14}{'network calls':>14}{'seconds':>10}{'distance':>10}   grid")
    for row in results:
        calls, seconds = row["calls"] or "-", "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
        typer.echo(f"{row['method']:<14}{calls:>14}{seconds:>10}{row['distance']:>10.3f}   {out / row['grid']}")
    real, slow, fast, _, fitted = results
    change, few = (row["distance"] / slow["distance"] - 1 for row in (fast, fitted))
    speed = slow["seconds"] / fast["seconds"]
    typer.echo(
        f"\nSame network, same start noise: the distance of {fast['calls']} DDIM steps is {100 * change:+.0f}% from\n"
        f"that of {slow['calls']} DDPM steps, at 1/{slow['calls'] // fast['calls']} of the calls and 1/{speed:.0f} of "
        f"the time;\nthat of {fitted['calls']} fitted steps is {100 * few:+.0f}% from it.\n"
        "Distance: Fréchet distance on the pixels to held-out real digits; less is nearer. It depends on\n"
        f"the number of samples: as many real digits are at {real['distance']:.2f}, give or take {real['spread']:.2f} "
        "from draw to\ndraw, so smaller differences mean nothing. "
        f"All side by side: {out / 'comparison.png'}\n\n"
        f"Next: leapstep sample {out / 'run'} --method fitted --steps {fitted['calls']} --out samples"
    )


def _draw_page(model: Model, out: Path, seed: int) -> None:
    """Write the page about the model, and say where it is."""
    from leapstep.inference.spec import SamplingSpec
    from leapstep.views import plots
    from leapstep.views.report import rendering, report

    try:
        plots.require()
        rendering.require()
    except ValueError as error:  # without the extra
        typer.echo(f"No page about the model: {error}")
        return
    spec, page = SamplingSpec(seed=seed), out / "report.html"
    report(model, "digits", spec, out=page, source=str(out / "run"), sweep=out / "sweep", budget=math.inf)
    typer.echo(f"Everything about the model on one page, to open in a browser: {page}")
