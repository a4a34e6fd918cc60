"""The page about the command line, from the commands themselves: usage, arguments, options, examples."""

from __future__ import annotations

import re
from typing import Any

import typer

from leapstep.cli import JOURNEY, app, module

PARAGRAPH = re.compile(r"\n\s*\n")


def one_line(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", r"\|")


def table(parameters: list[Any], context: Any) -> str:
    """Names and help of parameters, as `--help` has them."""
    records = [parameter.get_help_record(context) for parameter in parameters]
    rows = [f"| `{one_line(name)}` | {one_line(words)} |" for name, words in filter(None, records)]
    return "\n".join(["| name | meaning |", "| --- | --- |", *rows])


def described(name: str, command: Any) -> str:
    """A command."""
    context = command.context_class(command, info_name=f"leapstep {name}")
    parameters = command.get_params(context)
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    options = [each for each in parameters if each.param_type_name == "option"]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"### leapstep {name}", *filter(None, map(str.strip, PARAGRAPH.split(command.help)))]
    parts += [f"```text\n{usage}\n```", *([table(arguments, context)] if arguments else []), table(options, context)]
    examples = re.findall(r"^`(.*?)`$", module(name).EXAMPLES, re.MULTILINE | re.DOTALL)
    lines = "\n".join(" ".join(example.split()) for example in examples)
    return "\n\n".join([*parts, f"```sh\n{lines}\n```"])


def page() -> str:
    """The page, in the order in which one comes to need the commands."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parts = ["# Command line", "What `leapstep COMMAND --help` says, on one page."]
    for panel, names in JOURNEY.items():
        parts += [f"## {panel}", *(described(name, commands[name]) for name in names)]
    return "\n\n".join(parts) + "\n"
