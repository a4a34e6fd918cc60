"""The command line: each command parses, calls the library and prints.

A command's module is imported when the command is called or listed, and what it calls when its line has been read.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import keyword
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from leapstep import launch, stopping
from leapstep.cli import options
from leapstep.cli.completion import completed
from leapstep.cli.parsing import Command, with_json
from leapstep.core.finite import NotFinite
from leapstep.text import cleaned_output, one_line
from leapstep.workers import TORCHRUN

SHARED = ("train", "distill")
"""The commands that share their work among the processes of a launch; all others are left to the first process, but for
those whose work is cut into shards for them, with --on torchrun."""

MEMORY = ("OutOfMemoryError", "can't allocate memory", "not enough memory", "out of memory")
"""How torch says that memory is full, on any device: by the name of its error, or in its text."""


def _one_line(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """End a user's mistake with one line and exit code 2.

    Samples that are not finite, of which the library warns, are as a mistake; other warnings are a line each.
    LEAPSTEP_TRACEBACK=1 shows the traceback of a mistake.
    """

    @functools.wraps(command)
    @cleaned_output()
    def run(*args: Any, **given: Any) -> None:
        in_shards = given.get("on") == TORCHRUN
        if name not in SHARED and not in_shards:
            _be_the_only_one(name)
        try:
            with options.held, _one_voice(in_shards), warnings.catch_warnings():
                warnings.simplefilter("error", NotFinite)
                warnings.showwarning = _warn
                command(*args, **given)
        except BrokenPipeError:  # the reader of our output had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (ValueError, OSError, FloatingPointError, NotFinite) as error:
            if os.environ.get("LEAPSTEP_TRACEBACK"):
                raise
            text = options.message(error)
            typer.echo(f"leapstep: {one_line(text, 2000)}", err=True)
            raise typer.Exit(2) from None
        except (MemoryError, RuntimeError) as error:
            if os.environ.get("LEAPSTEP_TRACEBACK") or not _is_out_of_memory(error):
                raise
            typer.echo(f"leapstep: not enough memory: {_smaller(given)}", err=True)
            raise typer.Exit(2) from None

    return run


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as a line, without the place in our code where it arose."""
    typer.echo(f"leapstep: warning: {one_line(str(message), 2000)}", err=True)


def _be_the_only_one(name: str) -> None:
    """Of several processes that were started together, leave, but for the first, which goes on as if it were alone."""
    if launch.rank() > 0:
        typer.echo(
            f"leapstep: {name} runs on one process, the first; process {launch.rank()} has nothing to do", err=True
        )
        raise typer.Exit
    launch.go_alone()


@contextlib.contextmanager
def _one_voice(in_shards: bool) -> Iterator[None]:
    """Of processes that share their work only the first prints its results; shards are merged by whoever is last."""
    with contextlib.ExitStack() as stack:
        if launch.rank() > 0 and not in_shards:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    said = f"{type(error).__name__}: {error}"  # torch is not imported to ask for its class
    return any(words in said for words in MEMORY)


def _smaller(given: dict[str, Any]) -> str:
    """What to do against a lack of memory, by the options that the command has."""
    there = [f"--{option.replace('_', '-')}" for option in ("batch_size", "n", "size") if option in given]
    return f"pass a smaller {' or '.join(there[:2])}" if there else "this needs a machine with more"


JOURNEY = {
    "A model of your own": ("demo", "train", "info", "sample", "push"),
    "In fewer calls": ("tune", "distill"),
    "How good it is": ("evaluate", "sweep", "compare", "report", "features", "likelihood"),
    "What it does": ("trace", "reconstruct", "interpolate", "calibrate"),
    "Change what is there": ("edit", "invert", "decode"),
    "Networks of others": ("doctor", "import"),
}
"""All commands, in the order in which one comes to need them."""


def module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"leapstep.cli.{name}{'_' * keyword.iskeyword(name)}")


class Commands(Mapping[str, Any]):
    """All commands by name, each of which is made when it is first asked for."""

    def __init__(self) -> None:
        self.panels = {name: panel for panel, names in JOURNEY.items() for name in names}
        self.made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self.made:
            panel, code = self.panels[name], module(name)
            alone = typer.Typer(add_completion=False, **LOOK)
            alone.command(name, cls=Command, epilog=code.EXAMPLES, rich_help_panel=panel)(
                _one_line(name, completed(with_json(code.command)))
            )
            self.made[name] = typer.main.get_command(alone)
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.panels)

    def __len__(self) -> int:
        return len(self.panels)


class Group(TyperGroup):
    """The command `leapstep`, which has all others."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = Commands()  # type: ignore[assignment]  # nobody adds to them

    def invoke(self, ctx: Any) -> Any:
        """Import a command and run it; a request to stop, wherever it comes, ends it with one line and its code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as request:
            with cleaned_output():
                typer.echo(stopping.message(request), err=True)
            raise typer.Exit(stopping.exit_code(request)) from None


LOOK: dict[str, Any] = {"rich_markup_mode": "markdown", "pretty_exceptions_enable": False}
"""How a help and an error are shown."""

app = typer.Typer(
    cls=Group,
    help="Sample any trained diffusion network in 3 to 50 steps instead of 1000, correctly and without retraining.",
    epilog="Start with: leapstep demo",
    no_args_is_help=True,
    **LOOK,
)


def _version(asked: bool) -> None:
    if asked:
        from leapstep import __version__

        typer.echo(f"leapstep {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
