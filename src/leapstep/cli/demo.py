"""`leapstep demo`: train, sample and compare on real data, in a few minutes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from leapstep.cli import options, sweep
from leapstep.files import folders
from leapstep.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.models.model import Model

EXAMPLES = """**Examples**

`leapstep demo`

`leapstep demo --out /tmp/demo --train-steps 2000 --n 256`
"""

ROWS = [("ddpm", 1000), ("ddim", 20), ("ddim", 10)]

RESULTS = folders.Kind("results.json", "demo", r"run|sweep|report\.html|(real|comparison|dd.m-\d+)\.png")

SWEEP: dict[str, Any] = {"methods": ("ddim", "unipc"), "etas": (0, 1), "steps": (5, 10, 20)}


def command(
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("demo"),
    train_steps: Annotated[int | None, typer.Option(help="Optimiser steps; default: those of the preset.")] = None,
    n: Annotated[int, typer.Option(help="Samples per method.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the training and of the start noise.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
) -> dict[str, Any]:
    """Train on 8x8 digits with their labels, sample the same weights in 1000, 20 and 10 steps, and compare."""
    from leapstep import files
    from leapstep.data.pictures import captioned, grid, save_image
    from leapstep.data.readers import read
    from leapstep.evaluation.sweep import Run, plan
    from leapstep.evaluation.yardstick import Measure
    from leapstep.inference.spec import SamplingSpec
    from leapstep.training.run import train

    if n < 3:
        raise ValueError(f"--n {n}: a distance between distributions with its interval needs at least 3 samples")
    options.claim(out, overwrite, RESULTS, {"demo": []})
    typer.echo("Training a U-Net on 1442 real handwritten digits (scikit-learn, 8x8 pixels) on the CPU ...")
    model = train("digits", out / "run", preset="digits", device="cpu", labels=True, steps=train_steps, seed=seed)
    held_out = read("digits", split="test")
    target = held_out.batch(range(len(held_out)))
    results = [_reference(n, target)]
    labels = np.asarray(held_out.labels)
    rank = [np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)]
    order = np.lexsort((labels, rank))  # 0 to 9, again and again, as the samples are
    pictures = {"real digits, not trained on": held_out.values[order]}
    for method, steps in ROWS:
        result, pixels = _measure(model, method, steps, n, seed, target)
        results.append(result)
        pictures[f"{method.upper()}, {steps} network calls, {result['seconds']:.1f} s for {n}"] = pixels
    for result, pixels in zip(results, pictures.values(), strict=True):
        save_image(grid(pixels[:100], columns=10), out / result["grid"])
    rows = {caption: grid(pixels[:40], columns=20) for caption, pixels in pictures.items()}
    save_image(captioned(rows), out / "comparison.png")
    files.write_json(out / "results.json", {"demo": results})
    _print(results, out)
    typer.echo("\nThe same by method, noise and steps, as leapstep sweep measures it (in principal components):")
    specs = plan(model, SamplingSpec(n=n, seed=seed, batch_size=250), **SWEEP)
    measure = Measure(metrics=["frechet"])
    sweep.show(Run(model, "digits", specs, measure, source=str(out / "run")), out / "sweep")
    _draw_page(model, out, seed)
    return {"out": out, "demo": results}


def _measure(model: Any, method: str, steps: int, n: int, seed: int, target: Tensor) -> tuple[dict[str, Any], Any]:
    """Sample with one method, from the start noise that all methods share: the row of the table, and the pixels."""
    import torch

    from leapstep import TRANSITIONS, sample
    from leapstep.evaluation.distances import frechet_distance

    began = time.perf_counter()
    with progress_bar(steps, f"{method}, {steps} steps", "call") as bar:
        x = sample(
            model.diffusion(torch.arange(n) % len(model.classes)),
            (n, *model.shape),
            steps,
            TRANSITIONS[method].make(),
            seed=seed,
            on_step=lambda _: bar.update(),
        )
    seconds = round(time.perf_counter() - began, 2)
    pixels = model.scaling.to_pixels(x)
    distance = frechet_distance(model.scaling.to_model(pixels), target)
    row = {"method": method, "calls": steps, "seconds": seconds, "distance": distance, "grid": f"{method}-{steps}.png"}
    return row, pixels


def _reference(n: int, target: Tensor) -> dict[str, Any]:
    """How far as many real training digits, as many of each class, are from the held-out ones: over 20 draws."""
    from leapstep.data.readers import read
    from leapstep.evaluation.distances import frechet_distance

    real = read("digits")
    labels, random = np.asarray(real.labels), np.random.default_rng(0)
    distances = []
    for _ in range(20):
        order = random.permutation(len(real))
        rank = np.empty(len(real), int)
        for label in range(10):
            rank[order[labels[order] == label]] = np.arange(np.count_nonzero(labels == label))
        chosen = np.lexsort((labels, rank))[:n]
        distances.append(frechet_distance(real.batch(chosen), target))
    mean, spread = float(np.mean(distances)), float(np.std(distances))
    return {
        "method": "real digits",
        "calls": None,
        "seconds": None,
        "distance": mean,
        "spread": spread,
        "grid": "real.png",
    }


def _print(results: list[dict[str, Any]], out: Path) -> None:
    typer.echo(f"\n{'method':<14}{'network calls':>14}{'seconds':>10}{'distance':>10}   grid")
    for row in results:
        calls, seconds = row["calls"] or "-", "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
        typer.echo(f"{row['method']:<14}{calls:>14}{seconds:>10}{row['distance']:>10.3f}   {out / row['grid']}")
    real, slow, fast, _ = results
    change, speed = fast["distance"] / slow["distance"] - 1, slow["seconds"] / fast["seconds"]
    typer.echo(
        f"\nSame network, same start noise: the distance of {fast['calls']} DDIM steps is {100 * change:+.0f}% from\n"
        f"that of {slow['calls']} DDPM steps, at 1/{slow['calls'] // fast['calls']} of the calls and 1/{speed:.0f} of "
        "the time.\nDistance: Fréchet distance on the pixels to held-out real digits; less is nearer. It depends on\n"
        f"the number of samples: as many real digits are at {real['distance']:.2f}, give or take {real['spread']:.2f} "
        "from draw to\ndraw, so smaller differences mean nothing. "
        f"All side by side: {out / 'comparison.png'}\n\nNext: leapstep sample {out / 'run'} --steps 5 --out samples"
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
