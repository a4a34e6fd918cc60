"""The command line: each command parses, calls the library and prints. Heavy modules are imported when needed."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from leapstep.cli import (
    calibrate,
    compare,
    demo,
    doctor,
    evaluate,
    features,
    import_,
    info,
    interpolate,
    latents,
    likelihood,
    reconstruct,
    report,
    sample,
    sweep,
    trace,
    train,
)

app = typer.Typer(
    help="Sample any trained diffusion network in 5 to 50 steps instead of 1000, correctly and without retraining.",
    epilog="Start with: leapstep demo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
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


def _one_line(command: Callable[..., None]) -> Callable[..., None]:
    """End a user's mistake with one line and exit code 2, Ctrl-C with 130; LEAPSTEP_TRACEBACK=1 shows the traceback."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except BrokenPipeError:  # the reader of our output had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (ValueError, OSError, FloatingPointError) as error:
            if os.environ.get("LEAPSTEP_TRACEBACK"):
                raise
            message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
            typer.echo(f"leapstep: {' '.join(str(message).split())}", err=True)
            raise typer.Exit(2) from None
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
                raise
            option = "--batch-size" if "batch_size" in options else "--n"
            typer.echo(f"leapstep: not enough memory on the device: pass a smaller {option}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("leapstep: stopped; what was finished is kept", err=True)
            raise typer.Exit(130) from None

    return run


for name, module in {
    "train": train,
    "sample": sample,
    "calibrate": calibrate,
    "likelihood": likelihood,
    "reconstruct": reconstruct,
    "report": report,
    "interpolate": interpolate,
    "trace": trace,
    "info": info,
    "evaluate": evaluate,
    "sweep": sweep,
    "compare": compare,
    "doctor": doctor,
    "features": features,
    "import": import_,
    "demo": demo,
}.items():
    parser = latents.with_lists(getattr(module, "LISTS", ()))
    app.command(name, cls=parser, epilog=module.EXAMPLES)(_one_line(module.command))
