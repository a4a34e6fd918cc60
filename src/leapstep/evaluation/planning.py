"""Which cells a sweep has: the specifications of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from leapstep.core.transitions import ours
from leapstep.evaluation.drawing import USUAL
from leapstep.inference import fields
from leapstep.inference.methods import METHODS as KNOWN
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.models.model import Model

METHODS, ETAS, STEPS = ("ddim", "dpmpp_2m", "unipc"), ("0", "1"), (5, 10, 20, 50, 100)
"""Rows, rows of ddim, and columns where nothing else is asked for."""


def plan(
    model: Model,
    spec: SamplingSpec = USUAL,
    *,
    methods: Sequence[str] | None = None,
    etas: Sequence[str | float] | None = None,
    steps: Sequence[int] | None = None,
    spacings: Sequence[str] | None = None,
) -> list[SamplingSpec]:
    """The specifications of a table, those of few steps first, so that every column is whole before the next.

    Arguments:
        spec: what all of them share.
        methods: names of `TRANSITIONS`, or what they are called elsewhere; or "fitted", in the columns for which
            `leapstep tune` has made a solver; None: ddim, dpmpp_2m, unipc.
        etas: rows of ddim: noise injected, 0 to 1; "beta" and "optimal" are variances of ddpm. None: 0, 1.
        steps: columns; None: 5, 10, 20, 50, 100. Those that the model cannot take are left out, see `left_out`.
            Of a distilled model, None is for all three what it was distilled for.
        spacings: names of `SPACINGS`; None: what the model says, or "trailing".

    Raises:
        ValueError: what does not fit the model.
    """
    if model.steps is not None:
        methods, etas, steps = methods or ["ddim"], etas or [0], steps or [model.steps]
    fields.check_methods("methods", methods or ())
    named = [ours(name) for name in methods or METHODS]
    if etas and ("ddim", {}) not in named:
        raise SpecError("etas", ",".join(map(str, etas)), "are rows of ddim: name it among the methods")
    rows: list[dict[str, Any]] = []
    for method, options in named:
        if KNOWN[method].calls == 0:
            raise SpecError("methods", method, "it chooses its own steps: measure it with leapstep evaluate")
        several = method == "ddim" and not options
        rows += [_noise(eta) for eta in etas or ETAS] if several else [{"method": method, "options": options}]
    rows = [row for i, row in enumerate(rows) if row not in rows[:i]]
    fitted: list[int] = []
    if ("fitted", {}) in named:
        own = dataclasses.replace(spec, method="fitted", steps=None, spacing=None, times=None)
        fitted = own.fitted_steps(model)
        if not set(fitted) & set(steps or STEPS):
            dataclasses.replace(own, steps=min(steps or STEPS)).checked(model)  # raises, and says what to do
    most, asked = model.process.timesteps, sorted(set(steps or STEPS))
    counts = [count for count in asked if 1 <= count <= (most or count)]
    if not counts or asked[0] < 1:
        raise SpecError("steps", ", ".join(map(str, asked)), f"this model takes from 1 to {most or asked[-1]} steps")
    places: Sequence[str | None] = spacings or [model.spacing or "trailing"]
    return [
        dataclasses.replace(spec, **row, steps=count, spacing=spacing, times=None)
        for count in counts
        for row in rows
        for spacing in (places if row["method"] != "fitted" else [None])
        if row["method"] != "fitted" or count in fitted
    ]


def left_out(model: Model, steps: Sequence[int] | None = None) -> str:
    """A line on the columns that `plan` leaves out, since the model cannot take so many steps; empty without such."""
    most = model.process.timesteps or 10**9
    more = [str(count) for count in sorted(set(steps or STEPS)) if count > most]
    return f"left out {', '.join(more)} steps: the model has {most} noise levels" if more else ""


def _noise(eta: str | float) -> dict[str, Any]:
    """A row of the table in the DDIM paper: a share of the posterior's deviation, or another variance of DDPM."""
    if eta in ("beta", "optimal"):
        return {"method": "ddpm", "options": {"variance": eta}}
    try:
        return {"method": "ddim", "options": {"eta": float(eta)}}
    except ValueError:
        raise SpecError("etas", eta, "give numbers from 0 to 1, beta or optimal") from None
