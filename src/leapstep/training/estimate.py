"""Defaults for this machine and data, and what is said of the time that a run will take."""

from __future__ import annotations

from typing import Any

from leapstep.data.readers import first_size, is_array
from leapstep.text import duration
from leapstep.training.configuration import CPU_PRESET, GPU_PRESET, PRESETS

EVENING = 6 * 3600.0
"""Seconds."""


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
