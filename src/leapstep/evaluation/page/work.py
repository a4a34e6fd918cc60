"""The model of a page with its options, the classes of its samples, and a count of network calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from leapstep.core.denoiser import Counted, Diffusion
from leapstep.core.noise import Noise
from leapstep.core.process import flat
from leapstep.core.sampling import State
from leapstep.core.spacing import times
from leapstep.core.transitions import TRANSITIONS, Transition
from leapstep.data.dataset import Data
from leapstep.evaluation.page.contents import (
    Array,
    Settings,
    Split,
    Splits,
    kind,
)
from leapstep.models.model import Model
from leapstep.text import allowed

SHOWN = {"pictures": 64, "points": 256, "signals": 16, "numbers": 64}
"""How many samples the grid shows by default."""

TOGETHER = {"pictures": 16, "points": 256, "signals": 4, "numbers": 64}
"""How many samples the slider over step counts shows at most."""


def complete(model: Model, settings: Settings) -> Settings:
    """Settings with nothing left open.

    Raises:
        ValueError: settings that do not fit the model.
    """
    shown = min(SHOWN[kind(model.shape, model.is_pictures)], settings.extent.n)
    n = shown if settings.n is None else settings.n
    most = model.process.timesteps
    steps = min(20, most or 20) if settings.steps is None else settings.steps
    if n < 2 or settings.batch_size < 1:
        raise ValueError(f"n={n}, batch_size={settings.batch_size}: at least 2 samples, in batches of at least 1")
    if settings.method not in TRANSITIONS:
        raise ValueError(f"unknown method {settings.method!r}: {allowed(settings.method, TRANSITIONS)}")
    if settings.label is not None and not 0 <= settings.label < len(model.classes):
        raise ValueError(f"label={settings.label}: the model has {len(model.classes)} classes, counted from 0")
    times(model.process, steps)
    Noise(settings.seed, range(0), ())
    return dataclasses.replace(settings, n=n, steps=steps)


class Work:
    """A model at work, with its settings; it counts calls of the network."""

    def __init__(self, model: Model, settings: Settings, on_step: Callable[[], object]) -> None:
        assert settings.n is not None
        assert settings.steps is not None
        self.model, self.settings = model, settings
        self.n, self.steps, self.spacing = settings.n, settings.steps, model.spacing or "trailing"
        self.kind = kind(model.shape, model.is_pictures)
        self.extent = settings.extent
        self.together = min(self.n, TOGETHER[self.kind], self.extent.together)
        self.transition = TRANSITIONS[settings.method].make()
        self.device = next(model.network.parameters()).device
        self.calls = self.evaluations = 0
        self._on_step = on_step

    def batches(self, n: int) -> int:
        """In how many batches so many samples go through the network."""
        return -(-n // self.settings.batch_size)

    def parts(self, n: int) -> Iterator[range]:
        """The rows of each batch."""
        size = self.settings.batch_size
        return (range(i, min(i + size, n)) for i in range(0, n, size))

    def tick(self, _: State | None = None) -> None:
        """A step was made."""
        self._on_step()

    def labels(self, rows: range) -> Tensor | None:
        """The classes of these samples: the one that was asked for, or all in turn."""
        if not self.model.classes:
            return None
        if self.settings.label is not None:
            return torch.full((len(rows),), self.settings.label)
        return torch.tensor(rows) % len(self.model.classes)

    def diffusion(self, labels: Tensor | None) -> Diffusion:
        """The model for samples of these classes, counting its calls."""

        def count(samples: int) -> None:
            self.calls, self.evaluations = self.calls + 1, self.evaluations + samples

        diffusion = self.model.diffusion(labels)
        return diffusion._replace(denoise=Counted(diffusion.denoise, count))

    def deterministic(self) -> tuple[str, Transition]:
        """The method, or DDIM where that injects noise: for ways that must be repeatable, or reversible."""
        if TRANSITIONS[self.settings.method].deterministic:
            return self.settings.method, self.transition
        return "ddim", TRANSITIONS["ddim"].make()

    def shown(self, x: Tensor) -> Array:
        """As the data would be: pixels of pictures, or else values."""
        if self.kind == "pictures":
            return self.model.scaling.to_pixels(x.nan_to_num())  # black, where there is nothing to see
        return self.model.scaling.to_values(x)

    def squared_error(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean squared difference per dimension of each sample, `[n]`, float64, in the page's unit."""
        scale = self.model.scaling.scale / 255 if self.model.is_pictures else 1.0
        return flat((x - y).to("cpu", torch.float64) * scale).square().mean(1)


def step_counts(model: Model, counts: tuple[int, ...]) -> list[int]:
    """As many steps as the model can take."""
    return sorted({min(count, model.process.timesteps or count) for count in counts})


def parts_of(data: Splits) -> list[tuple[str, Split]]:
    """The training data and the held-out data, by name."""
    return [("train", data.train)] + ([] if data.held is None else [(data.held_name, data.held)])


def evenly(data: Data, n: int) -> Array:
    """The places of n of the data, or of all, evenly chosen."""
    n = min(n, len(data))
    return np.arange(n) * len(data) // n
