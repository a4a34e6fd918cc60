"""`leapstep likelihood`: how likely a model finds data that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapstep import files
from leapstep.cli import options, sharding
from leapstep.files import folders
from leapstep.progress import progress_bar
from leapstep.text import counted
from leapstep.workers.merging import SHARDS, merging

if TYPE_CHECKING:
    from leapstep.inference.data_sets import Measuring
    from leapstep.inference.likelihood import Likelihood, Measured
    from leapstep.models.data import Selection
    from leapstep.models.model import Model

EXAMPLES = """**Examples**

`leapstep likelihood runs/digits digits`

`leapstep likelihood runs/digits digits --steps 50 --variance beta --n 100`

`leapstep likelihood runs/digits digits --method ode --probes 4 --json`

`leapstep likelihood runs/signals signals.npy --split all --method ode --probes 0`

`leapstep likelihood runs/digits digits --n 300 --on here --out bits`
"""

RESULTS = folders.Kind("results.json", "likelihood", rf"results\.json|likelihoods\.npz|{SHARDS}")


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
    out: Annotated[
        Path | None, typer.Option(help="A folder to make, with the results and the likelihood of each sample.")
    ] = None,
    on: sharding.On = None,
    shard: sharding.Shard = None,
    workers: sharding.Count = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
) -> dict[str, Any]:
    """Measure -log p of data, in bits per dimension for pictures and nats per dimension for all else."""
    elsewhere = sharding.asked(on, shard, workers, model.device, out, overwrite)
    if out is not None:
        sharding.check_free(out, overwrite, RESULTS, elsewhere)
    options.check_data(data)
    from leapstep.inference.data_sets import Measuring, measured
    from leapstep.inference.likelihood import Likelihood

    loaded = model.open()
    loaded.network.requires_grad_(False)
    likelihood = Likelihood(
        loaded, method, steps=steps, spacing=spacing, variance=variance, tolerance=tolerance, probes=probes
    )
    split, chosen = _chosen(loaded, data, split, n)
    trained = {"model": model.name, "trained_steps": loaded.details.get("step")}
    record = trained | {"data": data, "split": split, "n": chosen.n}
    record |= {"labels": chosen.numbers is not None, "method": method, **likelihood.settings}
    record |= {"seed": seed, "unit": likelihood.unit}
    work = Measuring(loaded, method, likelihood.settings, chosen.named(data, split), condition, seed, batch_size)
    if elsewhere is None:
        if out is not None:
            options.claim(out, overwrite, RESULTS, {"likelihood": record})
        return _finish(likelihood, _at_once(likelihood, work, chosen), record, out)
    begun, key = {"likelihood": record}, work.key(record)
    with merging(work, elsewhere, RESULTS, begun, key, chosen.n, batch_size) as finished:
        return record if finished is None else _finish(likelihood, measured(finished), record, out)


def _chosen(model: Model, data: str, split: str | None, n: int | None) -> tuple[str, Selection]:
    """The samples to measure, and the part of the data that they are of."""
    from leapstep.models.data import Selection, parts_of

    split, (samples, known) = options.part(parts_of(model, data), data, split)
    count = min(256, len(samples)) if n is None else n
    if not 2 <= count <= len(samples):
        raise ValueError(f"--n {count}: {data} ({split}) holds {len(samples)} samples: name 2 to as many")
    return split, Selection(samples, known, count)


def _at_once(likelihood: Likelihood, work: Measuring, chosen: Selection) -> Measured:
    """What is found of all samples in this process, with a progress bar."""
    batches = -(-chosen.n // max(work.batch_size, 1))
    with progress_bar(likelihood.ticks * batches, "measuring", "step") as bar:
        return likelihood.measure(
            chosen,
            range(chosen.n),
            conditions=work.conditions,
            seed=work.seed,
            batch_size=work.batch_size,
            on_tick=bar.update,
        )


def _finish(likelihood: Likelihood, found: Measured, record: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Print what was found, and write it if there is a place for it."""
    record = record | likelihood.summary(found)
    if out is not None:
        each = {"likelihoods": likelihood.each(found).numpy()}
        files.write_npz(out / "likelihoods.npz", each | {name: x.numpy() for name, x in found.terms.items()})
        files.write_json(out / "results.json", {"likelihood": record})
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
    calls = counted(record["calls"], "network call")
    typer.echo(f"\n+-: standard error over the samples. {calls} each, {record['seconds']} s.")
