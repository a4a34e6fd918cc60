"""The likelihood of data under a model, in bits or nats per dimension."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.likelihood import VARIANCES, bits_per_dim, ode_log_likelihood, variational_bound
from leapstep.core.noise import Noise
from leapstep.core.spacing import times
from leapstep.inference.spec import SamplingSpec, SpecError, calibration
from leapstep.models.data import Selection
from leapstep.models.model import Model
from leapstep.text import allowed

TAKES = {"vlb": ("steps", "spacing", "variance"), "ode": ("steps", "tolerance", "probes")}
"""The options of each method."""

Progress = Callable[[int], object]
Measure = Callable[[Diffusion, Tensor, Noise, Progress], tuple[dict[str, Tensor], int]]
"""(diffusion, x0, noise, progress) -> the terms of -log p by name, each `[b]` in nats, and the calls of the network."""


class Measured(NamedTuple):
    """What was found of some samples.

    Attributes:
        terms: of -log p by name, in nats in model space, `[n]` each, float64.
        calls: of the network for each sample, at most.
        seconds: for all of them.
    """

    terms: dict[str, Tensor]
    calls: int
    seconds: float

    @classmethod
    def joined(cls, parts: Sequence[Measured]) -> Measured:
        """Of all samples, from those of parts in their order."""
        return cls(
            _joined([part.terms for part in parts]),
            max(part.calls for part in parts),
            sum(part.seconds for part in parts),
        )


class Likelihood:
    """A method to measure -log p of data by a model, checked and with nothing left open.

    Arguments:
        method: "vlb" (the variational bound) or "ode" (the probability-flow ODE).
        options: of the method, see `TAKES`; those that are None are as by default.

    Attributes:
        settings: the method's options with their values.
        ticks: how often a batch makes progress.
        unit: of the results: "bits/dim" for pictures, else "nats/dim".

    Raises:
        ValueError: an option of the other method, or a value that is not allowed.
    """

    def __init__(self, model: Model, method: str = "vlb", **options: Any) -> None:
        if method not in TAKES:
            raise SpecError("method", method, "use vlb or ode")
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            if name not in TAKES[method]:
                raise SpecError(
                    name, value, f"does not apply to method {method}, which takes {', '.join(TAKES[method])}"
                )
        if {"steps", "tolerance"} <= set(given):
            raise ValueError("steps and tolerance exclude each other: fixed steps have no tolerance")
        self.model, self.method = model, method
        self._measure, self.ticks, self.settings = (_bound if method == "vlb" else _density)(model, given)
        self.unit = "bits/dim" if model.is_pictures else "nats/dim"

    def measure(
        self,
        samples: Selection,
        rows: range,
        *,
        conditions: str | None = None,
        seed: int = 0,
        batch_size: int = 64,
        on_tick: Progress | None = None,
    ) -> Measured:
        """Measure -log p of some samples, batch by batch.

        Arguments:
            samples: in model space, with labels where the model has classes.
            rows: which of them; each has noise of its own.
            conditions: path of an npz file with what the network takes besides, a row for each sample of the data.
            seed: of the noise.
            on_tick: called with the ticks that were made; see `ticks`.
        """
        if batch_size < 1:
            raise SpecError("batch_size", batch_size, "must be at least 1")
        given = SamplingSpec(conditions=conditions)
        device, began, calls, parts = self.model.device, time.perf_counter(), 0, []
        for start in range(rows.start, rows.stop, batch_size):
            batch = range(start, min(start + batch_size, rows.stop))
            noise = Noise(seed, batch, self.model.shape, device=device)
            own = {name: value.to(device) for name, value in given.conditions_for(samples.indices(batch)).items()}
            diffusion = self.model.diffusion(samples.labels(batch), condition=own)
            x0 = samples.batch(batch).to(device)
            terms, needed = self._measure(diffusion, x0, noise, on_tick or (lambda ticks: None))
            parts.append(terms)
            calls = max(calls, needed)
        return Measured(_joined(parts), calls, time.perf_counter() - began)

    def summary(self, found: Measured) -> dict[str, Any]:
        """As JSON: mean and standard error over the samples, per dimension, of -log p and its terms; what it took."""
        terms = {name: self._per_dimension(nats) for name, nats in self._in_own_units(found.terms).items()}
        result: dict[str, Any] = _figures(self.each(found))
        if len(terms) > 1:
            result["terms"] = {name: _figures(values) for name, values in terms.items()}
        return result | {"calls": found.calls, "seconds": round(found.seconds, 1)}

    def each(self, found: Measured) -> Tensor:
        """-log p of each sample, per dimension, in `unit`, `[n]`."""
        return self._per_dimension(torch.stack(list(self._in_own_units(found.terms).values())).sum(0))

    def _in_own_units(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As terms of a density in the units of the data, not of model space."""
        own = dict(terms)
        if not self.model.is_pictures:
            last = list(own)[-1]
            own[last] = own[last] + math.prod(self.model.shape) * math.log(abs(self.model.scaling.scale))
        return own

    def _per_dimension(self, nats: Tensor) -> Tensor:
        shape = self.model.shape
        return bits_per_dim(nats, shape) if self.model.is_pictures else nats / math.prod(shape)


def _bound(model: Model, chosen: dict[str, Any]) -> tuple[Measure, int, dict[str, Any]]:
    """The bound, how often a batch makes progress, and the settings in full."""
    levels = model.process.timesteps or 1000
    settings: dict[str, Any] = {"steps": levels, "spacing": "trailing", "variance": "posterior"} | chosen
    if settings["variance"] not in VARIANCES:
        raise SpecError("variance", settings["variance"], allowed(settings["variance"], VARIANCES))
    spread = calibration(model).spread(model.process) if settings["variance"] == "optimal" else None
    path = times(model.process, settings["steps"], settings["spacing"])
    quarters = (path[:-2] * 4).ceil()

    def measure(diffusion: Diffusion, x0: Tensor, noise: Noise, progress: Progress) -> tuple[dict[str, Tensor], int]:
        bound = variational_bound(
            diffusion,
            x0,
            path,
            noise,
            variance=settings["variance"],
            spread=spread,
            pixels=model.scaling if model.is_pictures else None,
            on_term=lambda step, term: progress(1),
        )
        middle = {
            f"steps, t in ({(q - 1) / 4:g}, {q / 4:g}]": bound.steps[quarters == q].sum(0)
            for q in (4, 3, 2, 1)
            if (quarters == q).any()
        }
        return {"prior (L_T)": bound.prior, **middle, "reconstruction (L_0)": bound.reconstruction}, len(path) - 1

    return measure, settings["steps"], settings


def _density(model: Model, chosen: dict[str, Any]) -> tuple[Measure, int, dict[str, Any]]:
    """The ODE, its progress in percent, and the settings in full."""
    if chosen.get("steps", 1) < 1:
        raise SpecError("steps", chosen["steps"], "at least 1 step is needed")
    settings: dict[str, Any] = {"probes": 1, **chosen}
    if "steps" in chosen:
        path = times(model.process, chosen["steps"] + 1, "log_snr")[:-1]
    else:
        settings = {"tolerance": 1e-3, **settings}
        path = times(model.process, [1.0, 1 / (model.process.timesteps or 1000)])

    def measure(diffusion: Diffusion, x0: Tensor, noise: Noise, progress: Progress) -> tuple[dict[str, Tensor], int]:
        shown = 0

        def note(share: float) -> None:
            nonlocal shown
            progress(int(100 * share) - shown)
            shown = int(100 * share)

        density = ode_log_likelihood(
            diffusion,
            x0,
            path,
            noise,
            probes=settings["probes"],
            tolerance=settings.get("tolerance"),
            pixels=model.scaling if model.is_pictures else None,
            on_step=note,
        )
        return {"-log p": -density.log_likelihood}, density.calls

    return measure, 100, settings


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _figures(values: Tensor) -> dict[str, float]:
    return {"mean": values.mean().item(), "standard_error": values.std().item() / math.sqrt(len(values))}
