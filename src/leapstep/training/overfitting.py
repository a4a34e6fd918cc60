"""Whether a run begins to memorise: the loss on held-out data rises while that on as many training data falls.

Both are measured with the same samples, noise and times again and again (`Trainer.compare`), so that from one
measurement to the next only the network differs, and a rise is no accident of what was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from leapstep.text import short

RISE, TIMES = 0.02, 3
"""By which share the loss must be above its least, in how many measurements in a row, to be said to rise."""


class Measured(NamedTuple):
    """The losses after a step; `training` is None where a run has no such loss."""

    step: int
    held_out: float
    training: float | None


class Course(NamedTuple):
    """The course of the losses so far.

    Attributes:
        last: the last measurement.
        least: that of the least loss on held-out data.
        rising: how many measurements in a row, up to the last, lie above it with the training loss below its own there.
    """

    last: Measured
    least: Measured
    rising: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Course | None:
        """The course that a checkpoint recorded, by `record`; None where it did not."""
        if values is None:
            return None
        return cls(Measured(**values["last"]), Measured(**values["least"]), values["rising"])

    def record(self) -> dict[str, Any]:
        """The course as JSON."""
        return {"last": self.last._asdict(), "least": self.least._asdict(), "rising": self.rising}

    def warning(self) -> str | None:
        """What to say, once, when the loss has begun to rise."""
        if self.rising != TIMES:
            return None
        return (
            f"the held-out loss rises: {short(self.last.held_out)} at step {self.last.step:,}, least "
            f"{short(self.least.held_out)} at step {self.least.step:,}, while the training loss falls: the network "
            f"begins to memorise; a run of --steps {self.least.step} ends before, --flip, --dropout or more data help"
        )


def after(course: Course | None, step: int, compared: Mapping[str, float]) -> Course:
    """The course with one measurement more, as `Trainer.compare` returned it."""
    now = Measured(step, compared["held_out"], compared.get("training"))
    if course is None or now.held_out < course.least.held_out:
        return Course(now, now)
    least = course.least
    memorises = None not in (now.training, least.training) and now.training < least.training  # type: ignore[operator]
    above = now.held_out > (1 + RISE) * least.held_out
    return Course(now, least, course.rising + 1 if above and memorises else 0)
