"""Methods as a scheduler's configuration names them: by a name and options that JSON can hold."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from leapstep.core.names import ours, refusal
from leapstep.core.printing import shown
from leapstep.core.transitions import TRANSITIONS, NamedTransition, fitted
from leapstep.files.reading import read_json
from leapstep.files.schema import checked
from leapstep.models import schema
from leapstep.text import near, one_line

ADAPTIVE = tuple(name for name, method in TRANSITIONS.items() if method.calls == 0)
"""Methods whose calls depend on what the network answers, so that no pipeline could be told of them beforehand."""

KNOWN_BEFORE = tuple(name for name in TRANSITIONS if name not in ADAPTIVE)
"""All others."""

OF_FITTED = ("tuned", "guidance", "times", "coefficients", "solvers")
"""What tells of fitted solvers; a configuration holds `solvers`."""


class Method(NamedTuple):
    """A method and its options.

    Attributes:
        name: one of `TRANSITIONS`, or "fitted".
        options: of it; for "fitted" the `solvers`, each with `times` and `coefficients`, one for each number of steps.
    """

    name: str
    options: dict[str, Any]

    @property
    def counts(self) -> list[int]:
        """The numbers of steps that there are solvers for; empty: any."""
        return [len(solver["times"]) - 1 for solver in self.options.get("solvers", ())]

    def transition(self, steps: int) -> NamedTransition:
        """The transition for so many steps. Raises ValueError where none was fitted for as many."""
        if self.name != "fitted":
            return TRANSITIONS[self.name].make(**self.options)
        if steps not in self.counts:
            raise ValueError(f"steps={steps}: solvers were fitted for {', '.join(map(str, self.counts))} steps")
        return fitted(**self.options["solvers"][self.counts.index(steps)])


def option_names(method: str | NamedTransition) -> tuple[str, ...]:
    """The options of a method; none of one that is not known."""
    name = method.make.__name__ if isinstance(method, NamedTransition) else ours(str(method))[0]
    if name == "fitted":
        return OF_FITTED
    return tuple(inspect.signature(TRANSITIONS[name].make).parameters) if name in TRANSITIONS else ()


def method_of(method: str | NamedTransition, options: Mapping[str, Any]) -> Method:
    """The method that is meant, with options that can be written down.

    Arguments:
        method: its name here or elsewhere, "fitted", or a transition such as `leapstep.unipc(order=3)`.
        options: of it, by name; for "fitted": `tuned`, the path or the content of a `tuned.json`, and the `guidance`
            that it was tuned for, or the `times` and `coefficients` of a solver.
    Raises:
        ValueError: an unknown method, one that chooses its own steps, or options that it has not.
    """
    if isinstance(method, NamedTransition):
        name, options = method.make.__name__, {**method.options, **options}
    elif isinstance(method, str):
        name, elsewhere = ours(method)
        options = {**elsewhere, **options}
    else:
        raise ValueError(f"method={shown(method, 60)}: pass a name such as 'unipc', or leapstep.unipc(order=3)")
    if name == "fitted":
        return Method(name, {"solvers": _solvers(_known(name, options))})
    if name not in TRANSITIONS:
        raise ValueError(f"unknown method {one_line(name, 60)!r}: {refusal(name, [*KNOWN_BEFORE, 'fitted'])}")
    if name in ADAPTIVE:
        raise ValueError(
            f"method={name!r} chooses its own steps, and a pipeline has to know them before: use one of "
            f"{', '.join(KNOWN_BEFORE)} or fitted"
        )
    made = TRANSITIONS[name].make(**_known(name, options))
    defaults = {key: parameter.default for key, parameter in inspect.signature(made.make).parameters.items()}
    kept = {key: value for key, value in made.options.items() if value != defaults[key]}
    for key, value in kept.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"{key}={shown(value, 60)} of {name}: a scheduler's options are numbers and words")
    return Method(name, kept)


def _known(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, where a method has all of them. Raises ValueError for others."""
    known = option_names(name)
    for option in options:
        if option not in known:
            meant = near(option, [*known, "method", "spacing"])
            raise ValueError(
                f"{name} has no option {option!r}"
                + (f": did you mean {meant}?" if meant else f", only {', '.join(known)}" if known else "")
            )
    return dict(options)


def _solvers(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Solvers as a configuration holds them, ascending in their steps. Raises ValueError where there is none."""
    if options.get("tuned") is not None:
        found = _tuned(options["tuned"], options.get("guidance"))
    elif "times" in options and "coefficients" in options:
        found = [{"times": options["times"], "coefficients": options["coefficients"]}]
    else:
        found = options.get("solvers", [])
    if not found:
        raise ValueError("method='fitted' needs its solver: pass tuned='.../tuned.json', or times= and coefficients=")
    kept = [fitted(solver["times"], solver["coefficients"]).options for solver in found]
    plain = [
        {"times": list(solver["times"]), "coefficients": [list(row) for row in solver["coefficients"]]}
        for solver in kept
    ]
    return sorted(plain, key=lambda solver: len(solver["times"]))


def _tuned(tuned: Any, guidance: float | None) -> list[dict[str, Any]]:
    """The best solvers of a `tuned.json` for a guidance that start from noise alone, as pipelines do."""
    if not isinstance(tuned, Mapping):
        path = Path(tuned)
        tuned = read_json(path / "tuned.json" if path.is_dir() else path)
    tunings = checked(schema.Tuned, tuned).tunings
    there = sorted({tuning.guidance for tuning in tunings})
    if guidance is None and len(there) == 1:
        guidance = there[0]
    if guidance not in there:
        raise ValueError(
            f"guidance={guidance}: it was tuned for {', '.join(f'{one:g}' for one in there) or 'none'}; pass guidance= "
            "one of these, and guidance_scale to the pipeline"
        )
    best: dict[int, Any] = {}
    for solver in (solver for tuning in tunings if tuning.guidance == guidance for solver in tuning.solvers):
        known = best.get(solver.calls)
        if solver.start == "marginal" and (known is None or solver.error < known.error):
            best[solver.calls] = solver
    if not best:
        raise ValueError(
            "these solvers start from a Gaussian, and pipelines start from noise: leapstep tune --start marginal"
        )
    return [{"times": solver.times, "coefficients": solver.coefficients} for solver in best.values()]
