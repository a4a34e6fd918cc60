"""What is known of a model, in words and numbers."""

from __future__ import annotations

import math
from typing import Any

import torch

from leapstep.core.convention import process_to_json
from leapstep.core.process import Process
from leapstep.core.schedules import SCHEDULES, rescale_zero_terminal_snr
from leapstep.models.checkpoint import fingerprint
from leapstep.models.model import Model
from leapstep.text import counted


def schedule_name(process: Process) -> str | None:
    """The name of the schedule that has these levels; where none has, what its betas are; None without levels."""
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


def describe(model: Model) -> dict[str, Any]:
    """What is known of a model, as JSON; what is not known, or as usual, is left out."""
    data, training = model.details.get("data", {}), model.details.get("training", {})
    imported, begun = model.details.get("imported", {}), model.details.get("init_from")
    distilled = model.details.get("distillation", {})
    holdout, schedule = data.get("holdout"), schedule_name(model.process)
    facts = {
        "network": type(model.network).__name__,
        "weights": sum(parameter.numel() for parameter in model.network.parameters()),
        "weights_sha256": fingerprint(model.network),
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
        "distilled_for": None if model.steps is None else counted(model.steps),
        "teacher": (distilled.get("teacher") or {}).get("source"),
        "guidance": guidance if (guidance := distilled.get("guidance", 1)) != 1 else None,
        "trained_steps": model.details.get("step"),
        "imported_from": imported.get("file"),
        "evidence": imported.get("evidence"),
        "training": {name: training[name] for name in ("schedule", "batch_size", "learning_rate") if name in training},
    }
    return {name: value for name, value in facts.items() if value}
