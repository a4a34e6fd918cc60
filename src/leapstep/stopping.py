"""Requests to stop: Ctrl-C (SIGINT), a request to end (SIGTERM), a terminal that closes (SIGHUP).

A request is raised as a KeyboardInterrupt, so that `finally` and `with` blocks run. Code that knows what is kept and
how to continue adds this to the exception with `add_note`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

REQUESTS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A request to stop; `number` is its signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stop(number: int) -> None:
    """Raise a request to stop."""
    raise Stopped(number)


def exit_code(request: KeyboardInterrupt) -> int:
    """The exit status of a stopped process, as shells count: 130 after Ctrl-C, 143 and 129 after the others."""
    return 128 + int(getattr(request, "number", signal.SIGINT))


def message(request: KeyboardInterrupt) -> str:
    """The last line of a stopped command: what is kept, if anything."""
    return "; ".join(["leapstep: stopped", *getattr(request, "__notes__", ())])


@contextlib.contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """Call a function with the signal number of each request, instead of the handlers in force.

    A request that the process ignores stays ignored, as under `nohup` or for a job in the background. Outside the main
    thread nothing changes, since only the main thread may handle signals.
    """

    def act(number: int, _: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            _let_go_of_the_terminal()
        handler(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in REQUESTS}
    before = {number: earlier for number, earlier in before.items() if earlier not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, act)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _let_go_of_the_terminal() -> None:
    """Redirect to the null device what would go to a closed terminal, where every write is an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
