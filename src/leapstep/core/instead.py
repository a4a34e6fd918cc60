"""What to pass in place of a value that is no process, or no diffusion: one line that helps.

Pipelines and schedulers of diffusers are known by their classes and attributes, without importing diffusers.
"""

from __future__ import annotations

from typing import Any

import torch

from leapstep.core.printing import name_of, shown
from leapstep.text import SYNONYMS


def of_process(value: Any) -> str:
    """What a value is that is no process, and how to get one."""
    if is_scheduler(value):
        return f"a {name_of(value)} of diffusers: pass {_process(value, 'scheduler')} and predicts={_predicts(value)!r}"
    if hasattr(value, "process"):
        return f"a {name_of(value)}: pass its .process"
    if isinstance(value, torch.nn.Module):
        return f"a network, {name_of(value)}: pass the process that it was trained on, such as 'linear'"
    return f"{shown(value, 60)}: pass a Process such as leapstep.linear(), or its name"


def of_diffusion(value: Any) -> str:
    """What a value is that is no diffusion, and how to make one of it."""
    if is_scheduler(scheduler := getattr(value, "scheduler", None)):
        part = "transformer" if hasattr(value, "transformer") else "unet"
        made = _process(scheduler, "pipeline.scheduler")
        time = "" if hasattr(scheduler, "alphas_cumprod") else ", '1000t'"
        return (
            f"a {name_of(value)} of diffusers: pass leapstep.from_network(pipeline.{part}, {made}, "
            f"{_predicts(scheduler)!r}{time})"
        )
    if is_scheduler(value):
        return f"a {name_of(value)} of diffusers: pass leapstep.from_network(net, ...) with the network beside it"
    if isinstance(value, str):
        return f"{shown(value, 60)}: pass leapstep.load({shown(value, 60)}), the model in this folder or of this name"
    for kind, call in (("Process", "process"), ("Convention", "convention")):
        if type(value).__name__ == kind:
            return f"a {kind}, without a network: pass leapstep.from_network(net, {call})"
    if hasattr(value, "diffusion"):
        return f"a {name_of(value)}: pass what its .diffusion(process) returns"
    if isinstance(value, torch.nn.Module) or callable(value):
        kind = "a network" if isinstance(value, torch.nn.Module) else "a function"
        return (
            f"{kind}, {name_of(value)}: pass leapstep.from_network({name_of(value)}, process, predicts=...), "
            "which says how it was trained"
        )
    return f"{shown(value, 60)}: pass what leapstep.from_network(net, process) returns, or a model of leapstep.load"


def is_scheduler(value: Any) -> bool:
    """Whether a value is a scheduler of diffusers."""
    return hasattr(value, "set_timesteps") and hasattr(value, "config")


def _process(scheduler: Any, name: str) -> str:
    if hasattr(scheduler, "alphas_cumprod"):
        return f"leapstep.from_alphas_cumprod({name}.alphas_cumprod)"
    return "leapstep.flow()"


def _predicts(scheduler: Any) -> str:
    theirs = getattr(scheduler.config, "prediction_type", None) or (
        "epsilon" if hasattr(scheduler, "alphas_cumprod") else "flow"
    )
    return SYNONYMS.get(theirs, str(theirs))
