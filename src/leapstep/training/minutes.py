"""A run of so many minutes: what it trains, and when it ends.

What it trains follows from the time of a step on this machine (`choose`): the largest network of which `ENOUGH` steps
fit. The learning rate falls along a cosine to 0 over the steps that fit.

What keeps to the time on the way is a `Deadline`.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch

from leapstep import launch
from leapstep.data.dataset import Data
from leapstep.text import duration
from leapstep.training import initial
from leapstep.training.configuration import TrainingConfig, configure
from leapstep.training.deadline import Deadline, now
from leapstep.training.learner import SLOW, Learner
from leapstep.training.precision import Precision
from leapstep.training.samples import Samples, read_samples
from leapstep.training.trainer import Trainer

WIDTHS = (32, 64, 96, 128)
"""Channels of the finest stage of the networks that are considered; the other stages have twice as many."""

ENOUGH, FEWEST = 2000, 100
"""Steps that a larger network must be given to be preferred, and that any network must be given."""

COARSE, LARGEST_PATCH = 16, 8
"""Patches are made as large as leaves so many to a side of a picture; the largest of them, in pixels."""

MANY = 50
"""Samples of a class, on average, for which labels are learned."""

PREVIEW_CALLS, COMPARED_CALLS = 64 * 20, 512
"""Evaluations of the network on one sample for a preview, and for the losses on held-out samples."""

PAUSES = 0.03
"""Share of the time for previews on the way, and for losses on held-out samples."""

TRIAL = 1.0
"""Seconds for which steps are timed, or three steps if that is longer."""

MNIST = ((22_000, "on MNIST a classifier was sure of 81 of 100 samples"),)
"""What came of learning MNIST with the smallest network and its labels, by the least number of samples learned from."""

BRIEF = 120.0
"""Seconds of a run that is too short for measuring in what it computes fastest: it computes in float32."""


class Trial(NamedTuple):
    """What steps of a configuration have shown, the same on all processes.

    Attributes:
        seconds: that a step takes.
        precision: in which it then computes.
        left: seconds that were left of the run after the trial.
    """

    seconds: float
    precision: Precision
    left: float


def check(asked: TrainingConfig, preset: str | None) -> None:
    """Raise ValueError where what was asked for besides the minutes contradicts them."""
    if preset is not None:
        raise ValueError(f"--minutes and --preset {preset} exclude each other: --minutes chooses what a preset does")
    if "steps" in asked.model_fields_set:
        raise ValueError(f"--minutes and --steps {asked.steps} exclude each other: choose one")


def plan(
    config: TrainingConfig,
    given: Collection[str],
    source: str,
    deadline: Deadline,
    start: initial.Start | None,
    device: str | None,
    progress: bool,
) -> tuple[TrainingConfig, Samples, list[str]]:
    """Read the data of a run and choose what is trained on them until a deadline; see `choose`.

    Returns:
        the settings, the samples, and lines that say what was chosen and what to expect.
    """
    samples = read_samples(config, source, start, None, progress and launch.rank() == 0)

    def trial(tried: TrainingConfig) -> Trial:
        begins = start and start._replace(model=dataclasses.replace(start.model, network=deepcopy(start.model.network)))
        trainer = Trainer(tried, source, device, False, None, begins, samples)
        if deadline.seconds > BRIEF:
            trainer.choose_precision()
        seconds = timed(trainer)
        return Trial(seconds, trainer.precision or "float32", trainer.mean_over_processes(deadline.left()))

    gpu = device != "cpu" and torch.cuda.is_available()
    given = {*given, "size"}  # by which the samples were read
    chosen, line = choose(config, given, samples.data, deadline, trial, gpu=gpu, begun=start is not None)
    return chosen, samples, [line, *expected(chosen, samples.data, start is not None)]


def timed(trainer: Learner) -> float:
    """The median time of a step, in seconds, after one that warms up. The trainer is not of use any more."""
    steps: list[float] = []
    began = now()
    while not trainer.any_process(len(steps) >= 4 and now() - began >= TRIAL):
        before = now()
        trainer.advance()
        steps.append(now() - before)
        if trainer.any_process(steps[-1] > SLOW):
            break
    return trainer.mean_over_processes(statistics.median(steps[1:] or steps))


def choose(
    config: TrainingConfig,
    given: Collection[str],
    data: Data,
    deadline: Deadline,
    trial: Callable[[TrainingConfig], Trial],
    *,
    gpu: bool = False,
    begun: bool = False,
) -> tuple[TrainingConfig, str]:
    """What to train until a deadline.

    Arguments:
        config: all settings as far as they are known.
        given: the names of those that were asked for, which are kept.
        data: the samples.
        deadline: of the run.
        trial: takes steps of a configuration.
        gpu: whether it trains on one.
        begun: whether the network comes with weights; then only the schedule is chosen.
    Returns:
        the settings, and a line that says what was chosen and why.
    Raises:
        ValueError: too little time.
    """
    kept = {name: getattr(config, name) for name in given}
    tries = [config] if begun else [configure(kept, base=made) for made in candidates(data, config, given, gpu)]
    best: tuple[TrainingConfig, float] | None = None
    for tried in tries:
        result = trial(tried)
        if best is not None and fitting(result.left, result.seconds, tried) < ENOUGH:
            break
        best = tried.model_copy(update={"precision": result.precision}), result.seconds
    assert best is not None
    chosen, seconds = best
    steps = fitting(result.left, seconds, chosen)
    if steps < FEWEST:
        least = (FEWEST * seconds * 1.1 + deadline.elapsed() + closing(seconds, chosen)) / 60
        raise ValueError(
            f"minutes={deadline.seconds / 60:g}: a step of the smallest network takes {duration(seconds)} here, and "
            f"{FEWEST} steps are the fewest: allow at least {_rounded_up(least):g} minutes, or a smaller --size or "
            "--batch-size"
        )
    deadline.closing = closing(seconds, chosen)
    settings = schedule(steps, seconds, deadline.seconds, chosen)
    chosen = chosen.model_copy(update={name: value for name, value in settings.items() if name not in given})
    return chosen, (
        f"about {steps:,} steps of {chosen.batch_size} samples fit into {duration(deadline.seconds)}, "
        f"{duration(seconds)} each{network(chosen)}"
    )


def candidates(data: Data, config: TrainingConfig, given: Collection[str], gpu: bool) -> list[dict[str, Any]]:
    """The settings that are considered for data, the smallest network first."""
    labels = data.labels is not None and len(data) >= MANY * len(data.classes)
    shared: dict[str, Any] = {"predicts": "v", "schedule": "cosine", "labels": labels, "minutes": config.minutes}
    if (config.network or ("unet" if data.is_pictures else "mlp")) == "mlp":
        return [{**shared, "batch_size": 128, "learning_rate": 1e-3}]
    side = max(data.shape[1:])
    divides = [p for p in (1, 2, 4, LARGEST_PATCH) if not any(length % (2 * p) for length in data.shape[1:])]
    patch = next((p for p in divides if side <= COARSE * p), divides[-1] if divides else 1)
    patch = config.patch if "patch" in given else patch
    stages = depth([length // patch for length in data.shape[1:]])
    shared |= {"patch": patch, "blocks": 1, "groups": 8, "batch_size": 128 if gpu else 32}
    shared["attention"] = [False] * (stages - 1) + [True]
    widths = WIDTHS[:1] if "channels" in given else WIDTHS
    return [
        {**shared, "channels": [width] + [2 * width] * (stages - 1), "learning_rate": 2e-3 if width == 32 else 1e-3}
        for width in widths
    ]


def depth(sides: Collection[int]) -> int:
    """Stages of a U-Net that ends at 8 pixels or fewer; at least two, where the sides can be halved."""
    stages = 1
    while not any(side % 2 for side in sides) and (max(sides) > 8 or stages == 1):
        sides, stages = [side // 2 for side in sides], stages + 1
    return stages


def closing(seconds: float, config: TrainingConfig) -> float:
    """Seconds at the end of a run, in which a network is called forward only: a third of the work of a step."""
    return (PREVIEW_CALLS + COMPARED_CALLS) / 3 / config.batch_size * seconds


def fitting(left: float, seconds: float, config: TrainingConfig) -> int:
    """How many steps fit, with what is done between them."""
    return int((left - closing(seconds, config)) / (seconds * (1 + 2 * PAUSES)))


def schedule(steps: int, seconds: float, allowed: float, config: TrainingConfig) -> dict[str, Any]:
    """The settings that go with a number of steps of so many seconds."""
    sample = seconds / 3 / config.batch_size
    previews, losses = (PAUSES * allowed / (calls * sample) for calls in (PREVIEW_CALLS, COMPARED_CALLS))
    save_every = max(1, steps // 20)
    holdout_every = save_every * max(1, round(20 / max(2, losses)))
    return {
        "steps": steps,
        "lr_schedule": "cosine",
        "warmup": min(100, steps // 20),
        "ema_decay": min(0.9999, max(0.0, 1 - 10 / steps)),
        "log_every": max(1, steps // 200),
        "holdout_every": holdout_every,
        "sample_every": holdout_every * max(1, int(steps / holdout_every / min(10, max(2, previews)))),
        "save_every": save_every,
    }


def network(config: TrainingConfig) -> str:
    """The network of a configuration in words, where it is a U-Net."""
    if config.network == "mlp" or "channels" not in config.model_fields_set:
        return ""
    patches = f" on patches of {config.patch}x{config.patch} pixels" if config.patch > 1 else ""
    return f": a U-Net of {','.join(map(str, config.channels))} channels{patches}"


def expected(config: TrainingConfig, data: Data, begun: bool) -> Iterator[str]:
    """What came of as many samples where it was measured, in a line; nothing for other data and networks."""
    samples = config.steps * config.batch_size
    came = [words for least, words in MNIST if samples >= least]
    if came and data.is_pictures and data.shape[0] == 1 and max(data.shape) <= 32 and config.labels and not begun:
        yield f"expect of pictures like handwritten digits: {came[-1]} (sample with --guidance 2)"


def _rounded_up(minutes: float) -> float:
    """Minutes with one digit after the point where they are few."""
    return -(-minutes * 10 // 1) / 10 if minutes < 10 else -(-minutes // 1)
