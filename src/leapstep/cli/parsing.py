"""Parsing of all command lines, and the result of a command as JSON.

An option that takes several values takes them in a row, with commas, or one at a time: `--steps 10 20`, `--steps 10,20`
and `--steps 10 --steps 20` are the same. The words that a command cannot do without may stand behind a row at the end
of the line: `--label cat dog MODEL`.

A command prints for people and returns its result. Under `--json` that result is all that is on stdout.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else.")]

NUMBERS, FILES, TEXTS, SETTINGS = "S ...", "FILE ...", "TEXT ...", "NAME=VALUE ..."
"""Metavars of options whose values are whole numbers, files or texts (which may have commas in them), or NAME=VALUE."""


class Verdict(NamedTuple):
    """A result, from a command whose exit code says something, too."""

    result: Mapping[str, Any]
    exit_code: int


class Command(TyperCommand):
    """A command whose options that take several values take them in a row, or with commas."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read a line."""
        return super().parse_args(ctx, one_at_a_time(args, self.params))


def one_at_a_time(args: list[str], params: list[Any]) -> list[str]:
    """A line in which each option takes one value, as every parser understands it.

    Arguments:
        args: the words of the line.
        params: what the command takes: options, and required arguments.
    """
    options = {name: param for param in params for name in param.opts if name.startswith("--")}
    lacking = sum(param.required for param in params if not param.opts[0].startswith("--"))
    out: list[str] = []
    row: list[str] = []  # of the last option, if it is one that takes several values
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*out, word, *rest]
        name, equals, value = word.partition("=")
        option, row = options.get(name), []
        if option is None or option.is_flag:
            out.append(word)
            lacking -= not _is_option(word)
        elif not option.multiple:
            out += [word] if equals else [word, *rest[:1]]
            del rest[: not equals]
        else:
            row = [value] if equals else []
            while rest and not _is_option(rest[0]) and (not row or _goes_on(option.metavar, rest[0])):
                row.append(rest.pop(0))
            out += [part for text in row for each in _cut(option.metavar, text) for part in (name, each)] or [name]
    if 0 < lacking < len(row):  # the row has swallowed them
        return [*one_at_a_time(args[:-lacking], list(options.values())), *args[-lacking:]]
    return out


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.match(r"-\.?\d|-$", word)


def _goes_on(metavar: str, word: str) -> bool:
    """Whether a word can be one more value in a row."""
    if metavar == SETTINGS:
        return "=" in word
    return metavar != NUMBERS or re.fullmatch(r"[\d,-]+", word) is not None


def _cut(metavar: str, text: str) -> list[str]:
    """The values in a word."""
    values = [text] if metavar in (FILES, TEXTS, SETTINGS) else [value.strip() for value in text.split(",")]
    return [value for value in values if value] or [text]


def with_json(command: Callable[..., Any]) -> Callable[..., None]:
    """The command with `--json`, under which it prints what the command returns, and nothing else."""

    @functools.wraps(command)
    def run(*args: Any, as_json: bool = False, **options: Any) -> None:
        with contextlib.ExitStack() as stack:
            if as_json:
                away = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(away))
            found = command(*args, **options)
        result, code = found if isinstance(found, Verdict) else (found, 0)
        if as_json:
            typer.echo(json.dumps(storable(result), indent=2))
        if code:
            raise typer.Exit(code)

    own = inspect.signature(command, eval_str=True)
    added = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    parameters = [*own.parameters.values(), added]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def storable(value: Any) -> Any:
    """A value as JSON can hold it: null for what is not finite, text for paths."""
    if isinstance(value, Mapping):
        return {str(name): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value
