"""`leapstep info`: describe a model."""

from __future__ import annotations

from typing import Any

import typer

from leapstep.cli import options

EXAMPLES = """**Examples**

`leapstep info runs/digits`

`leapstep info google/ddpm-cifar10-32 --json`
"""


@options.on_model
def command(model: options.Source) -> dict[str, Any]:
    """Say what a model is: its network, its noise schedule, what it was trained on."""
    from leapstep.models.description import describe

    facts = {"model": model.name, **describe(model.open())}
    for name, value in facts.items():
        if isinstance(value, dict):
            value = [f"{key} {item}" for key, item in value.items()]
        if isinstance(value, list) and isinstance(value[0], str):
            value = (f"\n{'':<16}" if name == "evidence" else ", ").join(value)
        typer.echo(f"{name.replace('_', ' '):<16}{value}")
    return facts
