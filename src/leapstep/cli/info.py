"""`leapstep info`: describe a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import typer

from leapstep.cli import options

if TYPE_CHECKING:
    from leapstep.core.process import Process

EXAMPLES = """**Examples**

`leapstep info runs/digits`

`leapstep info google/ddpm-cifar10-32 --json`
"""


def command(
    model: options.ModelSource,
) -> dict[str, Any]:
    """Say what a model is: its network, its noise schedule, what it was trained on."""
    facts = _facts(model)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = [f"{key} {item}" for key, item in value.items()]
        if isinstance(value, list) and isinstance(value[0], str):
            value = (f"\n{'':<16}" if name == "evidence" else ", ").join(value)
        typer.echo(f"{name.replace('_', ' '):<16}{value}")
    return facts


def _schedule(process: Process) -> str | None:
    """The name of the schedule that has these levels; where none has, what its betas are; None without levels."""
    import torch

    from leapstep.core.schedules import SCHEDULES, rescale_zero_terminal_snr

    count = process.timesteps
    if count is None:
        return None
    t = torch.arange(count + 1, dtype=torch.float64) / count
    alpha, sigma = process.alpha(t), process.sigma(t)
    for name in ("linear", "scaled_linear", "quadratic", "cosine", "sigmoid"):
        usual = SCHEDULES[name](count)
        for made, more in ((usual, ""), (rescale_zero_terminal_snr(usual), ", rescaled to zero terminal SNR")):
            if torch.allclose(made.alpha(t), alpha, atol=1e-4) and torch.allclose(made.sigma(t), sigma, atol=1e-4):
                return f"{name}{more}"
    if not torch.allclose(alpha**2 + sigma**2, torch.ones_like(t)):
        return None
    betas = 1 - (alpha[1:] / alpha[:-1]) ** 2
    for name, curve in (("linear", betas), ("scaled_linear", betas.sqrt())):
        if count > 2 and torch.allclose(
            curve, torch.linspace(curve[0].item(), curve[-1].item(), count).to(curve), rtol=1e-4
        ):
            return f"{name}, betas from {betas[0]:.4g} to {betas[-1]:.4g}"
    return f"without a name, betas from {betas[0]:.4g} to {betas[-1]:.4g}"


def _ends(process: Process) -> dict[str, float | str]:
    """The log-SNR at the first and the last trained level; in continuous time, a thousandth from the data and at t = 1.

    At t = 0 itself it is infinite.
    """
    names = ("t = 0.001", "t = 1") if process.timesteps is None else ("first level", "last level")
    ends = (process.log_snr(t).item() for t in (1 / (process.timesteps or 1000), 1.0))
    return {name: round(end, 3) if math.isfinite(end) else str(end) for name, end in zip(names, ends, strict=True)}


def _facts(source: str) -> dict[str, Any]:
    from leapstep.core.convention import process_to_json
    from leapstep.models import checkpoint

    model = checkpoint.load(source)
    data, training = model.details.get("data", {}), model.details.get("training", {})
    imported, begun = model.details.get("imported", {}), model.details.get("init_from")
    holdout, schedule = data.get("holdout"), _schedule(model.process)
    facts = {
        "model": source,
        "network": type(model.network).__name__,
        "weights": sum(parameter.numel() for parameter in model.network.parameters()),
        "weights_sha256": checkpoint.fingerprint(model.network),
        "sample_shape": list(model.shape),
        "predicts": model.predicts,
        "time": model.time if model.time != "index" else None,
        "noise_schedule": schedule,
        "process": None if schedule or model.process.schedule is None else process_to_json(model.process),
        "noise_levels": model.process.timesteps,
        "log_snr": _ends(model.process),
        "clip": list(model.clip) if isinstance(model.clip, tuple) else None,
        "spacing": model.spacing,
        "classes": list(model.classes),
        "trained_on": f"{data.get('samples', 'unknown')} samples of {data.get('source', 'unknown data')}"
        + (f", {holdout['samples']} of them held out" if holdout else "")
        if data
        else None,
        "began_with": f"the weights of {begun.get('source')}" if begun else None,
        "trained_steps": model.details.get("step"),
        "imported_from": imported.get("file"),
        "evidence": imported.get("evidence"),
        "training": {name: training[name] for name in ("schedule", "batch_size", "learning_rate") if name in training},
    }
    return {name: value for name, value in facts.items() if value}
