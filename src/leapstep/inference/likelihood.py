"""The likelihood of data under a model, in bits or nats per dimension."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.likelihood import VARIANCES, bits_per_dim, ode_log_likelihood, variational_bound
from leapstep.core.noise import Noise
from leapstep.core.spacing import times
from leapstep.inference.spec import SpecError, calibration
from leapstep.models.model import Model
from leapstep.text import allowed

TAKES = {"vlb": ("steps", "spacing", "variance"), "ode": ("steps", "tolerance", "probes")}
"""The options of each method."""

Progress = Callable[[int], object]
Measure = Callable[[Diffusion, Tensor, Noise, Progress], tuple[dict[str, Tensor], int]]
"""(diffusion, x0, noise, progress) -> the terms of -log p by name, each `[b]` in nats, and the calls of the network."""


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
        x0: Tensor,
        labels: Tensor | None = None,
        *,
        condition: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        batch_size: int = 64,
        on_tick: Progress | None = None,
    ) -> dict[str, Any]:
        """Measure -log p of data.

        Arguments:
            x0: data in model space, `[n, *d]`, at least two.
            labels: the numbers of their classes, `[n]`, or None.
            condition: what the network takes besides, by name, a row for each of them.
            seed: of the noise.
            on_tick: called with the ticks that were made; see `ticks`.
        Returns:
            as JSON: mean and standard error over the samples, per dimension, of -log p and of its terms; calls of the
            network for each sample; seconds.
        """
        if batch_size < 1:
            raise SpecError("batch_size", batch_size, "must be at least 1")
        device, began, calls, parts = self.model.device, time.perf_counter(), 0, []
        for start in range(0, len(x0), batch_size):
            rows = slice(start, start + batch_size)
            batch = x0[rows].to(device)
            noise = Noise(seed, range(start, start + len(batch)), self.model.shape, device=device)
            own = {name: value[rows].to(device) for name, value in (condition or {}).items()}
            diffusion = self.model.diffusion(None if labels is None else labels[rows], condition=own)
            terms, needed = self._measure(diffusion, batch, noise, on_tick or (lambda ticks: None))
            parts.append(terms)
            calls = max(calls, needed)
        return _summary(parts, self.model) | {"calls": calls, "seconds": round(time.perf_counter() - began, 1)}


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


def _summary(parts: list[dict[str, Tensor]], model: Model) -> dict[str, Any]:
    """Mean and standard error over the samples, per dimension, of -log p and of its terms."""
    size = math.prod(model.shape)
    terms = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if not model.is_pictures:  # a density in the units of the data, not of model space
        last = list(terms)[-1]
        terms[last] = terms[last] + size * math.log(abs(model.scaling.scale))

    def figures(nats: Tensor) -> dict[str, float]:
        per_dim = bits_per_dim(nats, model.shape) if model.is_pictures else nats / size
        return {"mean": per_dim.mean().item(), "standard_error": per_dim.std().item() / math.sqrt(len(per_dim))}

    total = torch.stack(list(terms.values())).sum(0)
    return figures(total) | ({"terms": {name: figures(term) for name, term in terms.items()}} if len(terms) > 1 else {})
