"""Pictures in the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from leapstep.text import acting

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NoPreview = Annotated[bool, typer.Option("--no-preview", help="Show no images in the terminal.")]


def show(pixels: npt.NDArray[np.uint8], hidden: bool, evenly: bool = False) -> None:
    """Show the first of some pictures in the terminal, if stdout is one that can; or some of them, evenly chosen."""
    if hidden or not sys.stdout.isatty() or not _can_print("▀"):
        return
    from leapstep.data.pictures import preview, selection

    size = shutil.get_terminal_size()
    drawn = preview(selection(pixels, os.environ, size, evenly), os.environ, size)
    typer.echo(drawn, file=acting(sys.stdout), nl=False)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True
