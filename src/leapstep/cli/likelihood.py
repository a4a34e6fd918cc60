"""`leapstep likelihood`: how likely a model finds data that it has not seen."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from leapstep.cli import options
from leapstep.progress import progress_bar

EXAMPLES = """**Examples**

`leapstep likelihood runs/digits digits`

`leapstep likelihood runs/digits digits --steps 50 --variance beta --n 100`

`leapstep likelihood runs/digits digits --method ode --probes 4 --json`

`leapstep likelihood runs/signals signals.npy --split all --method ode --probes 0`
"""


@options.on_model
def command(
    model: options.Source,
    data: Annotated[str, typer.Argument(help="The data: `digits`, a folder, a file, a name on the Hub.")],
    method: Annotated[str, typer.Option(help="vlb (the variational bound) | ode (the probability-flow ODE)")] = "vlb",
    n: Annotated[int | None, typer.Option(help="Number of samples, evenly chosen; default: 256, or all.")] = None,
    split: options.Split = None,
    steps: Annotated[
        int | None, typer.Option(help="vlb: default all levels. ode: fixed steps of 6 calls, instead of a tolerance.")
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(help="vlb: trailing (default) | leading | linspace | quad | log_snr | karras")
    ] = None,
    variance: Annotated[
        str | None, typer.Option(help="vlb: of each step, posterior (default) | beta | optimal | learned.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="ode: error of a step, nats per value; default: 0.001.")
    ] = None,
    probes: Annotated[int | None, typer.Option(help="ode: random vectors for the trace; default: 1; 0: exact.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples per batch.")] = 64,
    condition: options.DataCondition = None,
) -> dict[str, Any]:
    """Measure -log p of data, in bits per dimension for pictures and nats per dimension for all else."""
    options.check_data(data)
    from leapstep.inference.likelihood import Likelihood
    from leapstep.models.data import Selection, parts_of

    loaded = model.open()
    loaded.network.requires_grad_(False)
    likelihood = Likelihood(
        loaded, method, steps=steps, spacing=spacing, variance=variance, tolerance=tolerance, probes=probes
    )
    split, (samples, known) = options.part(parts_of(loaded, data), data, split)
    count = min(256, len(samples)) if n is None else n
    if not 2 <= count <= len(samples):
        raise ValueError(f"--n {count}: {data} ({split}) holds {len(samples)} samples: name 2 to as many")
    chosen = Selection(samples, known, count)
    with progress_bar(likelihood.ticks * -(-count // max(batch_size, 1)), "measuring", "step") as bar:
        found = likelihood.measure(
            chosen, range(count), conditions=condition, seed=seed, batch_size=batch_size, on_tick=bar.update
        )
    record = {
        "model": model.name,
        "trained_steps": loaded.details.get("step"),
        "data": data,
        "split": split,
        "n": count,
        "labels": known is not None,
        "method": method,
        **likelihood.settings,
        "seed": seed,
        "unit": likelihood.unit,
        **likelihood.summary(found),
    }
    _print(record, likelihood.settings)
    return record


def _print(record: dict[str, Any], settings: dict[str, Any]) -> None:
    labels = "their labels given" if record["labels"] else "no labels given"
    typer.echo(
        f"{record['n']} samples of {record['data']} ({record['split']}), {labels}; {record['method']}, "
        f"{', '.join(f'{name} {value}' for name, value in settings.items())}\n"
    )
    rows = {**record.get("terms", {}), ("bound on -log p" if "terms" in record else "-log p"): record}
    typer.echo(f"{'':<24}{record['unit']:>12}{'+-':>10}")
    for name, row in rows.items():
        typer.echo(f"{name:<24}{row['mean']:>12.4f}{row['standard_error']:>10.4f}")
    typer.echo(f"\n+-: standard error over the samples. {record['calls']} network calls each, {record['seconds']} s.")
