"""A model: a trained network with everything that one must know to use it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leapstep.core.calibration import Calibration
from leapstep.core.convention import Clip, Condition, Convention
from leapstep.core.denoiser import Diffusion, from_network
from leapstep.core.gaussian import Moments
from leapstep.core.process import Curve, Process
from leapstep.core.scaling import PIXELS, Scaling
from leapstep.models.tuned import Tuned

UNIT_PIXELS = Scaling(0.0, 255.0)
"""Pictures in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network with everything that one must know to use it.

    Samples are made in *model space*, the network's own range, and `scaling` maps them to pixels or values.

    Attributes:
        network: called as its convention says.
        convention: how it is called; its `shape` must be known. What the `config` of a network of ours tells, whether
            it takes fractional timesteps and whether it learned its variance, is filled in.
        details: what else is known of it, as JSON: the content of `leapstep.json`.
        calibration: what `leapstep calibrate` measured of these weights, or None.
        moments: what the model draws as Gaussians, in model space, or None: for the start "gaussian".
        tuned: the solvers that `leapstep tune` fitted to these weights, or None.
    Raises:
        ValueError: a convention without the shape of a sample, or with a clip that is a function of x0 in your range.
    """

    network: nn.Module
    convention: Convention
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calibration: Calibration | None = None
    moments: Moments | None = None
    tuned: Tuned | None = None

    def __post_init__(self) -> None:
        convention = self.convention
        if convention.shape is None:
            raise ValueError("the convention of a model needs the shape of a sample: pass shape=, such as (3, 32, 32)")
        config = getattr(self.network, "config", None)
        facts: dict[str, Any] = {}
        if getattr(config, "time_embedding", None) == "sinusoidal" and convention.time in ("index", "index_from_1"):
            facts["fractional"] = True
        if convention.shape and getattr(config, "out_channels", None) == 2 * convention.shape[0]:
            facts["learned_variance"] = True
        object.__setattr__(self, "convention", dataclasses.replace(convention, **facts))
        _ = self._inner

    @functools.cached_property
    def _inner(self) -> Convention:
        """The convention in model space."""
        return self.convention.inner()

    @property
    def process(self) -> Process:
        """The process that the network was trained on, in model space."""
        return self.convention.process

    @property
    def predicts(self) -> str:
        """What the network predicts."""
        return self.convention.predicts

    @property
    def time(self) -> Any:
        """How the network counts time."""
        return self.convention.time

    @property
    def spacing(self) -> str | None:
        """The spacing of steps that it is to be sampled with, where that is known."""
        return self.convention.spacing

    @property
    def steps(self) -> int | None:
        """The number of steps that it was distilled for; None for a model that takes any number."""
        return self.convention.steps

    @property
    def shape(self) -> tuple[int, ...]:
        """`d`, the shape of one sample."""
        assert self.convention.shape is not None
        return self.convention.shape

    @property
    def scaling(self) -> Scaling:
        """How model space relates to pixels or values."""
        return self.convention.scaling or Scaling(0.0, 1.0)

    @property
    def clip(self) -> Clip | None:
        """The bound on x0 in model space."""
        return self._inner.clip

    @property
    def labels(self) -> Condition | None:
        """The condition that holds class labels, or None."""
        return next((condition for condition in self.convention.conditions if condition.classes), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty for a network without labels."""
        return self.convention.classes

    @property
    def null_label(self) -> int | None:
        """The label that stands for "no label", where the network was trained with one."""
        return None if self.labels is None else self.labels.null

    @property
    def guidance(self) -> float:
        """The scale of guidance that the network has of itself; 1 is none."""
        return 1.0

    @property
    def rescale(self) -> float:
        """As `guidance`: the share of its contrast that is taken back."""
        return 0.0

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU for one without weights."""
        weights = itertools.chain(self.network.parameters(), self.network.buffers())
        return next((tensor.device for tensor in weights), torch.device("cpu"))

    @property
    def spread(self) -> Curve | None:
        """E tr Cov[x0 | x_t] / d as a curve in t, for the optimal variance; None for a model without calibration."""
        return None if self.calibration is None else self.calibration.spread(self.process)

    @property
    def is_pictures(self) -> bool:
        """Whether samples are pictures with pixels from 0 to 255."""
        return self.scaling in (PIXELS, UNIT_PIXELS)

    def to(self, device: torch.device | str) -> Model:
        """The model with a copy of its network on a device; the same one where it is there already."""
        there = torch.device(device)
        if self.device.type == there.type and there.index in (None, self.device.index):
            return self
        return dataclasses.replace(self, network=copy.deepcopy(self.network).to(there))

    def with_convention(self, **changes: Any) -> Model:
        """The same network, called otherwise: with other fields of its `Convention`."""
        return dataclasses.replace(self, convention=dataclasses.replace(self.convention, **changes))

    def diffusion(
        self,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        dtype: torch.dtype | None = None,
        rescale: float = 0.0,
        *,
        condition: Mapping[str, Any] | None = None,
    ) -> Diffusion:
        """Adapt the network for sampling, in model space.

        Arguments:
            labels: the class of each sample in the batch, `[b]`, or one for all; None for samples of any class.
            guidance: scale of classifier-free guidance: 1 follows the labels, more exaggerates them.
            dtype: what the network computes in.
            rescale: see `leapstep.guided`.
            condition: values of the network's other conditions, by name.
        Raises:
            ValueError: labels for a network without, or none for a network that needs them; guidance without labels, or
                of a network that was trained without dropping labels.
        """
        self._check(labels, guidance, bool(condition))
        values = dict(condition or {})
        if labels is not None and self.labels is not None:
            values[self.labels.name] = labels
        return from_network(
            self.network, self._inner, condition=values, guidance=guidance, rescale=rescale, dtype=dtype
        )

    def _check(self, labels: Tensor | None, guidance: float, conditioned: bool) -> None:
        last = len(self.classes) - 1
        if not math.isfinite(guidance):
            raise ValueError(f"guidance={guidance} must be a finite number")
        if guidance != 1 and labels is None and not conditioned:
            raise ValueError(f"guidance={guidance} needs a label to guide towards: pass one")
        if labels is None:
            if self.classes and self.null_label is None:
                raise ValueError(f"this network samples one class at a time: pass a label from 0 to {last}")
            return
        if not self.classes:
            raise ValueError("this network was trained without labels: it cannot be asked for one")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim > 1:
            kind = f"{str(labels.dtype).removeprefix('torch.')} of shape {list(labels.shape)}"
            raise ValueError(f"labels are {kind}: pass integers from 0 to {last}, one for all or one for each")
        if ((labels < 0) | (labels > last)).any():
            raise ValueError(f"labels must lie between 0 and {last} ({', '.join(self.classes)})")
        if guidance != 1 and self.null_label is None and self.steps is not None:
            raise ValueError(f"guidance={guidance}: this model was distilled with guidance in its weights, use 1")
        if guidance != 1 and self.null_label is None:
            raise ValueError("guidance needs a network that was trained with some labels dropped (label_dropout)")

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.network.parameters())
        return f"Model({type(self.network).__name__} with {weights:,} weights, {self.convention!r})"
