"""The deadline of a run that may take so long, however fast the machine turns out to be.

Wherever a checkpoint is written, the last step is moved to where the time will be over at the mean speed so far, and
the checkpoint records it. Until the next one the run is a function of the checkpoint alone, so a run that is resumed
repeats these steps bit for bit. When the time is over before the next checkpoint, the step just taken is the last.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


def now() -> float:
    """Seconds of a clock that is never set back."""
    return time.monotonic()


class Deadline:
    """When a run must end, and at which step that will be.

    Arguments:
        seconds: that the run may take, over all processes that went on with it.
        spent: seconds that earlier processes took.
        began: when this one did, by `now`; None: now.
    """

    def __init__(self, seconds: float, spent: float = 0.0, began: float | None = None) -> None:
        self.seconds, self.spent = seconds, spent
        self.began = now() if began is None else began
        self.closing = 0.0  # seconds for the last losses, preview and checkpoint
        self.start: tuple[int, float] | None = None  # the step before the first of this process, and when it began

    def elapsed(self) -> float:
        """Seconds that the run took so far."""
        return self.spent + now() - self.began

    def left(self) -> float:
        """Seconds that are left for steps."""
        return self.seconds - self.elapsed() - self.closing

    def starts(self, step: int) -> None:
        """Note that the steps of this process begin, after so many earlier ones."""
        self.start = step, now()

    @contextlib.contextmanager
    def pausing(self, wholly: bool) -> Iterator[None]:
        """Note how long it takes what is done between two steps, where it is all that is done at the end too."""
        began = now()
        yield
        if wholly:
            self.closing = now() - began

    def seconds_a_step(self, step: int) -> float:
        """The mean over the steps of this process, with all that was done between them."""
        assert self.start is not None
        return (now() - self.start[1]) / (step - self.start[0])

    def prolonged(self, step: int, seconds: float) -> int:
        """The step at which the time will be over, where a run goes on from a step and each takes so many seconds."""
        return step + max(1, int(self.left() / max(seconds, 1e-9)))

    def over(self, step: int) -> bool:
        """Whether no other step fits after this one."""
        return self.left() < self.seconds_a_step(step)

    def last_step(self, step: int) -> int:
        """The step at which the time will be over."""
        return step + max(1, int(self.left() / self.seconds_a_step(step)))
