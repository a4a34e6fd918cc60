"""`leapstep likelihood`: how likely a model finds data that it has not seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep.cli import options
from leapstep.progress import progress_bar
from leapstep.text import allowed

if TYPE_CHECKING:
    from torch import Tensor

    from leapstep.core.denoiser import Diffusion
    from leapstep.core.sampling import Noise
    from leapstep.models.checkpoint import Model

EXAMPLES = """**Examples**

`leapstep likelihood runs/digits digits`

`leapstep likelihood runs/digits digits --steps 50 --variance beta --n 100`

`leapstep likelihood runs/digits digits --method ode --probes 4 --json`

`leapstep likelihood runs/signals signals.npy --split all --method ode --probes 0`
"""

TAKES = {"vlb": ("steps", "spacing", "variance"), "ode": ("steps", "tolerance", "probes")}
"""The options of each method."""


def command(
    model: options.ModelSource,
    data: Annotated[str, typer.Argument(help="What to judge: `digits`, a folder, a file, a name on the Hub.")],
    method: Annotated[str, typer.Option(help="vlb (the variational bound) | ode (the probability-flow ODE)")] = "vlb",
    n: Annotated[int | None, typer.Option(help="How many samples, evenly chosen; default: 256, or all.")] = None,
    split: options.Split = None,
    steps: Annotated[
        int | None, typer.Option(help="vlb: default all levels. ode: fixed steps, of 6 calls, in place of a tolerance.")
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(help="vlb: trailing (default) | leading | linspace | quad | log_snr | karras")
    ] = None,
    variance: Annotated[
        str | None, typer.Option(help="vlb: posterior (default) | beta | optimal | learned; of the steps from t to s.")
    ] = None,
    tolerance: Annotated[float | None, typer.Option(help="ode: of a step, in nats a value; default 0.001.")] = None,
    probes: Annotated[int | None, typer.Option(help="ode: for the trace; default 1; 0: exact, a call a value.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples worked on at a time.")] = 64,
    device: options.Device = None,
) -> dict[str, Any]:
    """Measure -log p of data, in bits per dimension for pictures and nats per dimension for all else."""
    import leapstep
    from leapstep.models import checkpoint

    asked = {"steps": steps, "spacing": spacing, "variance": variance, "tolerance": tolerance, "probes": probes}
    chosen = _chosen(method, asked)
    place = options.device(device)
    loaded = checkpoint.load(model, place)
    loaded.network.requires_grad_(False)
    measure, ticks, settings = (_bound if method == "vlb" else _density)(loaded, chosen)
    split, (held, labels) = options.part(lambda name: options.data_for(loaded, data, name), data, split)
    count = min(256, len(held)) if n is None else n
    if not 2 <= count <= len(held) or batch_size < 1:
        raise ValueError(
            f"n={count}, batch_size={batch_size}: {data} ({split}) holds {len(held)} samples: name 2 to as many, and a "
            "batch of at least 1"
        )
    rows = [i * len(held) // count for i in range(count)]
    began, calls, parts = time.perf_counter(), 0, []
    with progress_bar(ticks * -(-count // batch_size), "measuring", "step") as bar:
        for start in range(0, count, batch_size):
            batch = rows[start : start + batch_size]
            noise = leapstep.Noise(seed, range(start, start + len(batch)), loaded.shape, device=place)
            diffusion = loaded.diffusion(None if labels is None else labels[batch])
            terms, needed = measure(diffusion, held.batch(batch).to(place), noise, bar.update)
            parts.append(terms)
            calls = max(calls, needed)
    record = {
        "model": model,
        "trained_steps": loaded.details.get("step"),
        "data": data,
        "split": split,
        "n": count,
        "labels": labels is not None,
        "method": method,
        **settings,
        "seed": seed,
        "unit": "bits/dim" if loaded.is_pictures else "nats/dim",
    }
    record |= _summary(parts, loaded) | {"calls": calls, "seconds": round(time.perf_counter() - began, 1)}
    _print(record)
    return record


def _chosen(method: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, if they are the method's own."""
    if method not in TAKES:
        raise ValueError(f"--method {method}: use vlb or ode")
    given = {name: value for name, value in asked.items() if value is not None}
    for name in given:
        if name not in TAKES[method]:
            takes = ", ".join(f"--{option}" for option in TAKES[method])
            raise ValueError(f"--{name} does not apply to --method {method}, which takes {takes}")
    if {"steps", "tolerance"} <= set(given):
        raise ValueError("--steps and --tolerance exclude each other: fixed steps have no tolerance")
    return given


Progress = Callable[[int], object]
Measure = Callable[["Diffusion", "Tensor", "Noise", Progress], "tuple[dict[str, Tensor], int]"]
"""(diffusion, x0, noise, progress) -> the terms of -log p by name, each `[b]` in nats, and the calls of the network."""


def _bound(model: Model, chosen: dict[str, Any]) -> tuple[Measure, int, dict[str, Any]]:
    """The bound, how often a batch makes progress, and the settings in full."""
    import leapstep
    from leapstep.core.likelihood import VARIANCES, variational_bound

    levels = model.process.timesteps or 1000
    settings: dict[str, Any] = {"steps": levels, "spacing": "trailing", "variance": "posterior"} | chosen
    if settings["variance"] not in VARIANCES:
        raise ValueError(f"--variance {settings['variance']}: {allowed(settings['variance'], VARIANCES)}")
    spread = options.calibration(model).spread(model.process) if settings["variance"] == "optimal" else None
    times = leapstep.times(model.process, settings["steps"], settings["spacing"])
    quarters = (times[:-2] * 4).ceil()

    def measure(diffusion: Diffusion, x0: Tensor, noise: Noise, progress: Progress) -> tuple[dict[str, Tensor], int]:
        bound = variational_bound(
            diffusion,
            x0,
            times,
            noise,
            variance=settings["variance"],
            spread=spread,
            pixels=model.scaling if model.is_pictures else None,
            on_term=lambda step, term: progress(1),
        )
        middle = {
            f"steps, t in ({(q - 1) / 4:g}, {q / 4:g}]": bound.steps[quarters == q].sum(0)
            for q in (4, 3, 2, 1)
            if (quarters == q).any()
        }
        return {"prior (L_T)": bound.prior, **middle, "reconstruction (L_0)": bound.reconstruction}, len(times) - 1

    return measure, settings["steps"], settings


def _density(model: Model, chosen: dict[str, Any]) -> tuple[Measure, int, dict[str, Any]]:
    """The ODE, its progress in percent, and the settings in full."""
    import leapstep
    from leapstep.core.likelihood import ode_log_likelihood

    settings: dict[str, Any] = {"probes": 1} | chosen
    if chosen.get("steps", 1) < 1:
        raise ValueError(f"--steps {chosen['steps']}: at least 1 step is needed")
    if "steps" in chosen:
        times = leapstep.times(model.process, chosen["steps"] + 1, "log_snr")[:-1]
    else:
        settings.setdefault("tolerance", 1e-3)
        times = leapstep.times(model.process, [1.0, 1 / (model.process.timesteps or 1000)])

    def measure(diffusion: Diffusion, x0: Tensor, noise: Noise, progress: Progress) -> tuple[dict[str, Tensor], int]:
        shown = 0

        def note(share: float) -> None:
            nonlocal shown
            progress(int(100 * share) - shown)
            shown = int(100 * share)

        density = ode_log_likelihood(
            diffusion,
            x0,
            times,
            noise,
            probes=settings["probes"],
            tolerance=settings.get("tolerance"),
            pixels=model.scaling if model.is_pictures else None,
            on_step=note,
        )
        return {"-log p": -density.log_likelihood}, density.calls

    return measure, 100, settings


def _summary(parts: list[dict[str, Tensor]], model: Model) -> dict[str, Any]:
    """Mean and standard error over the samples, per dimension, of -log p and of its terms."""
    import torch

    from leapstep.core.likelihood import bits_per_dim

    size = math.prod(model.shape)
    terms = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if not model.is_pictures:  # a density in the units of the data, not of model space
        last = list(terms)[-1]
        terms[last] = terms[last] + size * math.log(model.scaling.scale)

    def figures(nats: Tensor) -> dict[str, float]:
        per_dim = bits_per_dim(nats, model.shape) if model.is_pictures else nats / size
        return {"mean": per_dim.mean().item(), "standard_error": per_dim.std().item() / math.sqrt(len(per_dim))}

    total = torch.stack(list(terms.values())).sum(0)
    return figures(total) | ({"terms": {name: figures(term) for name, term in terms.items()}} if len(terms) > 1 else {})


def _print(record: dict[str, Any]) -> None:
    labels = "their labels given" if record["labels"] else "no labels given"
    settings = [f"{name} {record[name]}" for names in TAKES.values() for name in names if name in record]
    typer.echo(
        f"{record['n']} samples of {record['data']} ({record['split']}), {labels}; {record['method']}, "
        f"{', '.join(dict.fromkeys(settings))}\n"
    )
    rows = {**record.get("terms", {}), ("bound on -log p" if "terms" in record else "-log p"): record}
    typer.echo(f"{'':<24}{record['unit']:>12}{'+-':>10}")
    for name, row in rows.items():
        typer.echo(f"{name:<24}{row['mean']:>12.4f}{row['standard_error']:>10.4f}")
    typer.echo(f"\n+-: standard error over the samples. {record['calls']} network calls each, {record['seconds']} s.")
