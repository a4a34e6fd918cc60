"""The fields of a configuration as options of a command."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Collection
from typing import Annotated, Any, Literal

import typer

from leapstep.training.configuration import RunConfig


def with_fields(command: types.FunctionType, kind: type[RunConfig], without: Collection[str] = ()) -> None:
    """Give a command, in place of its `**settings`, an option for every setting of a kind of run.

    Arguments:
        without: settings that the command has options of its own for.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [*own, *_options(kind, without)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}


def _options(kind: type[RunConfig], without: Collection[str]) -> list[inspect.Parameter]:
    """An option for every setting. Numbers and switches are parsed here, everything else by the configuration."""
    parameters = []
    for name, field in kind.model_fields.items():
        if name in without:
            continue
        annotation: Any = field.annotation
        union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
        kinds = typing.get_args(annotation) if union else (annotation,)
        parsed: Any = next((kind for kind in (bool, int, float) if kind in kinds), str)
        choices = [
            str(choice) for kind in kinds if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)
        ]
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(value if isinstance(value, str) else str(int(value)) for value in default)
        notes = [" | ".join(choices)] * bool(choices) + [f"default: {default}"] * (default is not None)
        text = f"{field.description} [{'; '.join(notes)}]" if notes else field.description
        option = Annotated[parsed | None, typer.Option(help=text, rich_help_panel="Settings")]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option))
    return parameters
