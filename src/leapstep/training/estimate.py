"""Defaults for this machine and data, and an estimate of the run time from a trial step."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from leapstep.data.readers import first_size, is_array
from leapstep.text import duration
from leapstep.training.configuration import CPU_PRESET, GPU_PRESET, PRESETS

if TYPE_CHECKING:
    from leapstep.training.trainer import Trainer

FEW = 20
"""The most steps for which no time is estimated."""

SLOW, EVENING = 10.0, 6 * 3600.0
"""Seconds: a first step so slow that no second one is measured; an evening."""


def usual_settings(source: str, gpu: bool) -> tuple[str | None, dict[str, Any]]:
    """The preset of a run without one, by its data and the machine.

    Arguments:
        source: the data, see `leapstep.data.read`.
        gpu: whether there is one to train on.
    Returns:
        the name of the preset and its settings, without the size if the pictures are no larger, or if this is not
        known before they are read; None and no settings for arrays.
    Raises:
        ValueError: there is no such source.
    """
    if source == "digits":
        return source, PRESETS[source]
    if is_array(source):
        return None, {}
    name = GPU_PRESET if gpu else CPU_PRESET
    preset, sides = PRESETS[name], first_size(source)
    if sides is None or max(sides) <= preset["size"]:
        preset = {key: value for key, value in preset.items() if key != "size"}
    return name, preset


def seconds_a_step(trainer: Trainer) -> float | None:
    """Time a step of training and undo it: the second one, since the first warms up, unless that is slow already.

    Afterwards everything is as it was, to the bit. All processes of a run must take part.

    Returns:
        seconds; None if the step failed, which training will report.
    """
    seconds: float | None = None
    with _undone(trainer), contextlib.suppress(FloatingPointError):
        for _ in range(2):
            began = time.perf_counter()
            trainer.advance()
            seconds = time.perf_counter() - began
            if trainer.any_process(seconds > SLOW):
                break
    return seconds


@contextlib.contextmanager
def _undone(trainer: Trainer) -> Iterator[None]:
    """Restore the weights, their average and the optimiser's state at the end of the block."""
    parts = (trainer.network, trainer.ema, trainer.optimizer)
    before, step = [copy.deepcopy(part.state_dict()) for part in parts], trainer.step
    try:
        yield
    finally:
        trainer.optimizer.zero_grad()
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        trainer.step = step


def foretell(trainer: Trainer, steps: int) -> None:
    """Report how long a number of steps will take on this machine, unless they are few."""
    seconds = seconds_a_step(trainer) if steps > FEW else None
    if seconds is not None:
        config, lighter = trainer.config, PRESETS[CPU_PRESET]
        heavier = any(
            getattr(config, name) != lighter[name] for name in ("channels", "attention", "blocks", "batch_size")
        )
        on_cpu = trainer.data.is_pictures and trainer.accelerator.device.type == "cpu"
        trainer.say(report(seconds, steps, config.batch_size, CPU_PRESET if on_cpu and heavier else None))


def report(seconds: float, steps: int, batch_size: int, preset: str | None) -> str:
    """How long a run will take, in a line, and what would shorten it if that is long.

    Arguments:
        seconds: of a step.
        steps: how many there are to do.
        batch_size: samples a step.
        preset: one that takes less, or None.
    """
    total = seconds * steps
    line = (
        f"a step of {batch_size} samples takes {duration(seconds)} here: {steps:,} steps take about {duration(total)}"
    )
    if total > 5400 and seconds < 1800:
        line += f"; --steps {_rounded(3600 / seconds)} ends in an hour"
    if total > EVENING:
        line += f"; --preset {preset} takes an evening" if preset else ""
        line += "; a smaller --size or --batch-size takes less"
    return line


def _rounded(number: float) -> int:
    """Two digits of a number, and at least 1."""
    return max(1, int(float(f"{number:.1e}")))
