"""Progress bars: live on a terminal and in a notebook, a line every half minute in a file or a pipe.

Library functions that take long have an argument `progress`; False shows nothing, and None nothing in a file or a pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from leapstep.text import acting

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(
    total: int | None,
    what: str,
    unit: str,
    *,
    items: Iterable[Any] | None = None,
    done: int = 0,
    show: bool | None = True,
) -> tqdm[Any]:
    """A bar that shows once the work has taken more than a second.

    Arguments:
        total: how much work there is; None: unknown, or the length of the items.
        what: the work, in a word.
        unit: of what is counted.
        items: counted as they are taken from the bar; None: `update` counts.
        done: how many were done before.
        show: False shows nothing; None: only on a terminal or in a notebook.
    """
    from tqdm.auto import tqdm

    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    live = in_notebook or sys.stderr.isatty()
    every = 0.5 if live else 30
    return tqdm(
        items,
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        delay=1,
        mininterval=every,
        maxinterval=max(10, every),  # a thread of tqdm's sees to this one
        disable=not (live if show is None else show),
        file=acting(sys.stderr),
    )
