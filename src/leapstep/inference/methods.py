"""The methods that a specification may name, and what two of the names stand for with a model at hand.

"fitted" is the solver that `leapstep tune` fitted to a model for a number of calls, "auto" the method that is known to
be best for it. What is known of a model is in its `Model.tuned`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from leapstep.core.transitions import TRANSITIONS, Method
from leapstep.core.transitions.fitted import fitted
from leapstep.inference.fields import AUTO as AUTO
from leapstep.inference.fields import SOLVER as SOLVER
from leapstep.inference.fields import Option, SpecError
from leapstep.models.model import Model
from leapstep.models.tuned import ALL, Solver, Tuning
from leapstep.text import one_line

METHODS = {**TRANSITIONS, "fitted": Method(fitted, 1, 1, True, "1 to 10 calls, after leapstep tune")}
"""Every method, by name: those that depend on times alone, and what was fitted to a model."""

THIRD_ORDER = 10
"""From how many calls on "auto" takes UniPC of order 3 for a model of which nothing is known: below it may be worse."""


class Wanted(NamedTuple):
    """Samples for which a method is looked for; the fields are as of `SamplingSpec`.

    Attributes:
        labels: the numbers of the classes, or None.
        start: None where any will do.
    """

    steps: int | None
    guidance: float
    rescale: float
    labels: Sequence[int] | None
    conditions: str | None
    start: str | None

    def tunings(self, model: Model) -> list[Tuning]:
        """Those of a model that hold for these samples, and have found something."""
        if model.tuned is None:
            return []
        there = model.tuned.of(self.guidance, self.rescale, self.labels, self.conditions is not None)
        return [tuning for tuning in there if tuning.solvers]


def counts(model: Model, wanted: Wanted) -> list[int]:
    """The numbers of calls for which a solver was fitted to a model for some samples, ascending."""
    solvers = (solver for tuning in wanted.tunings(model) for solver in tuning.solvers)
    return sorted({solver.calls for solver in solvers if wanted.start in (None, solver.start)})


def solver(model: Model, wanted: Wanted, named: Option | None = None) -> Solver:
    """The solver that was fitted to a model for some samples, the best where there are several.

    Arguments:
        wanted: without a number of steps: with as many calls as any has.
        named: its short hash; None: any.
    Raises:
        ValueError: there is none for this guidance, these labels and as many calls, or it was fitted anew since.
    """
    solvers = [solver for tuning in wanted.tunings(model) for solver in tuning.solvers]
    if named is not None:
        solvers = [solver for solver in solvers if solver.short_sha256 == named]
        if not solvers:
            raise ValueError(
                f"method=fitted: the solver {one_line(str(named), 60)} is not there for these samples: the model was "
                "tuned anew since, or for other samples; leave out the times, and it will be what there is now"
            )
    there = counts(model, wanted)
    steps = max((solver.calls for solver in solvers), default=None) if wanted.steps is None else wanted.steps
    solvers = [solver for solver in solvers if solver.calls == steps and wanted.start in (None, solver.start)]
    if not solvers:
        raise SpecError("method", "fitted", f"{_there(model, there)}: run {command(wanted)}")
    return min(solvers, key=lambda solver: solver.error)


def best(model: Model, wanted: Wanted, calls: int) -> dict[str, Any]:
    """What "auto" stands for: the fields of a specification with so many calls.

    The fitted solver, unless another method was better on the same noises; where there is none for so many calls, the
    method that was best with the nearest number of them; where nothing was measured from this start, UniPC.
    """
    unknown = {"method": "unipc", "options": {"order": 3} if calls >= THIRD_ORDER else {}, "steps": calls}
    tunings = wanted.tunings(model)
    if not tunings:
        return unknown
    measured = {solver.calls: tuning for tuning in tunings for solver in tuning.solvers}
    nearest = min(measured, key=lambda count: abs(math.log(count / calls)))
    rival = next((found for found in measured[nearest].ranked(nearest) if wanted.start in (None, found.start)), None)
    own = [tuning.solver(calls, wanted.start) for tuning in tunings]
    error = min((solver.error for solver in own if solver is not None), default=math.inf)
    if error < math.inf and (rival is None or error <= rival.error):
        return {"method": "fitted", "steps": calls}
    if rival is None:
        return unknown
    return {**{name: getattr(rival, name) for name in ("method", "options", "spacing", "start")}, "steps": calls}


def _there(model: Model, calls: Sequence[int]) -> str:
    """What there is where a solver is not."""
    if calls:
        return f"this model has solvers with {', '.join(map(str, calls))} calls for such samples"
    if model.tuned is None or not model.tuned.tunings:
        return "no solver was fitted to these weights (or they have changed since)"
    tuned = [
        f"guidance {tuning.guidance:g}"
        + (f", rescale {tuning.rescale:g}" if tuning.rescale else "")
        + ("" if tuning.labels == ALL else f", labels {', '.join(map(str, tuning.labels))}")
        for tuning in model.tuned.tunings
    ]
    return f"this model was tuned for {'; '.join(tuned)}"


def command(wanted: Wanted) -> str:
    """The command that fits a solver for some samples."""
    words: list[object] = ["leapstep", "tune", "MODEL", "--calls", wanted.steps or 5]
    words += [] if wanted.guidance == 1 else ["--guidance", f"{wanted.guidance:g}"]
    words += [] if wanted.rescale == 0 else ["--rescale", f"{wanted.rescale:g}"]
    words += [] if wanted.conditions is None else ["--condition", wanted.conditions]
    words += [] if wanted.start is None else ["--start", wanted.start]
    return shlex.join(map(str, words))
