"""What `leapstep tune` found for the weights of a model: solvers that were fitted to them, and how others compare.

A solver belongs to the weights, the convention and the guidance that it was fitted to, and to classes of which it has
seen samples. So `tuned.json` holds a tuning for each guidance, with its teacher, and in it a solver for each number of
calls. All errors in a tuning are of samples from the same noises, which had no part in the fit.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.gaussian import Gaussian
from leapstep.core.printing import summary
from leapstep.core.sampling import STARTS
from leapstep.core.spacing import SPACINGS
from leapstep.core.transitions import TRANSITIONS
from leapstep.core.transitions.fitted import fitted
from leapstep.core.transitions.named import NamedTransition
from leapstep.text import allowed

VERSION = 1
"""Of the format of the file."""

ALL = "all"
"""Labels: every class in turn, and none where the network was trained without some of the time."""

LINE = 160
"""The most characters of an object that stands on one line of the file."""


class Untuned(NamedTuple):
    """A method as it is, beside the fitted ones.

    Attributes:
        method, options, steps, spacing, start: as of `SamplingSpec`.
        error: root mean square distance of its samples to the teacher's, from the same noise, in model space.
        standard_error: of that, over samples.
    """

    method: str
    options: dict[str, Any]
    steps: int
    spacing: str
    start: str
    error: float
    standard_error: float

    def check(self) -> None:
        """Raise ValueError where there is no such method, spacing or start."""
        for name, known in ((self.method, TRANSITIONS), (self.spacing, SPACINGS), (self.start, STARTS)):
            if name not in known:
                raise ValueError(f"a method with {name!r}: {allowed(name, known)}")
        try:
            TRANSITIONS[self.method].make(**self.options)
        except TypeError as wrong:
            raise ValueError(f"{self.method} with options {self.options}: {wrong}") from wrong

    @property
    def name(self) -> tuple[Any, ...]:
        """What tells it from the others."""
        return (self.method, *sorted(self.options.items()), self.steps, self.spacing, self.start)


class Solver(NamedTuple):
    """A solver that was fitted to a network.

    Attributes:
        calls: of the network for a sample.
        start: what it starts from: "marginal" or "gaussian".
        error, standard_error: as of `Untuned`.
        evaluations: of the network that the fit took, counted by sample.
        seconds: that it took.
        times, coefficients: as of `leapstep.fitted`.
        gaussian_sha256: of the law of data that it starts from; None where it starts from noise alone.
    """

    calls: int
    start: str
    error: float
    standard_error: float
    evaluations: int
    seconds: float
    times: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    gaussian_sha256: str | None = None

    @property
    def transition(self) -> NamedTransition:
        """The method. Raises ValueError for times and coefficients that do not fit each other."""
        return fitted(self.times, self.coefficients)

    @property
    def short_sha256(self) -> str:
        """Of all that its samples depend on, short: what a specification names it by."""
        content = json.dumps([self.start, self.gaussian_sha256, self.times, self.coefficients])
        return hashlib.sha256(content.encode()).hexdigest()[:12]


class Tuning(NamedTuple):
    """Solvers that were fitted to the same teacher.

    Attributes:
        guidance, rescale: as of `SamplingSpec`.
        labels: the numbers of the classes, or `ALL`.
        conditions_sha256: of the file of the other conditions; None: there were none.
        teacher: as JSON: its method, steps and noises, and what it took.
        solvers: in the order of their calls.
        untuned: other methods with as many calls, and DDIM with more.
    """

    guidance: float
    rescale: float
    labels: str | tuple[int, ...]
    conditions_sha256: str | None
    teacher: dict[str, Any]
    solvers: tuple[Solver, ...] = ()
    untuned: tuple[Untuned, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from the other tunings of a model."""
        return self[:4]

    def solver(self, calls: int, start: str | None = None) -> Solver | None:
        """The best with so many calls, of those with this start where one is given."""
        there = [solver for solver in self.solvers if solver.calls == calls and start in (None, solver.start)]
        return min(there, key=lambda solver: solver.error, default=None)

    def ranked(self, calls: int) -> list[Untuned]:
        """The other methods with so many calls, the best first."""
        return sorted((found for found in self.untuned if found.steps == calls), key=lambda found: found.error)

    def worse_steps(self, solver: Solver) -> int | None:
        """The most steps of DDIM that were measured to be farther from the teacher than a solver is; None: not any."""
        curve = [found for found in self.untuned if (found.method, found.spacing) == ("ddim", "trailing")]
        return max((found.steps for found in curve if found.error > solver.error), default=None)

    def with_solver(self, solver: Solver, untuned: Iterable[Untuned]) -> Tuning:
        """With another solver, which takes the place of an earlier one, and with other methods of as many calls."""
        kept = [other for other in self.solvers if (other.calls, other.start) != (solver.calls, solver.start)]
        others = {found.name: found for found in (*self.untuned, *untuned)}
        return self._replace(
            solvers=tuple(sorted([*kept, solver], key=lambda other: (other.calls, other.start))),
            untuned=tuple(sorted(others.values(), key=lambda found: (found.steps, found.error))),
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Tuned:
    """What was found for a model.

    Attributes:
        convention_sha256: of how its network was called, see `convention_sha256`.
        tunings: one for each guidance and choice of labels.
        laws: the Gaussians that solvers start from, by their hash; with a mean for each class where there are classes.
    """

    convention_sha256: str | None
    tunings: tuple[Tuning, ...] = ()
    laws: Mapping[str, Gaussian] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        calls = sorted({solver.calls for tuning in self.tunings for solver in tuning.solvers})
        return summary(self, [("calls", calls), ("guidance", [tuning.guidance for tuning in self.tunings])])

    def of(self, guidance: float, rescale: float, labels: Sequence[int] | None, conditioned: bool) -> list[Tuning]:
        """The tunings that hold for samples with this guidance, of these classes.

        Arguments:
            labels: the numbers of the classes; None: of any class, or of a network that knows none.
            conditioned: whether the network takes conditions besides; which they are does not count, as with seeds.
        """
        return [
            tuning
            for tuning in self.tunings
            if (tuning.guidance, tuning.rescale) == (guidance, rescale)
            and conditioned == (tuning.conditions_sha256 is not None)
            and (tuning.labels == ALL or (labels is not None and set(labels) <= set(tuning.labels)))
        ]

    def with_tuning(self, tuning: Tuning) -> Tuned:
        """With another tuning, which takes the place of an earlier one of its key."""
        others = [other for other in self.tunings if other.key != tuning.key]
        return dataclasses.replace(self, tunings=(*others, tuning))

    def origin(self, solver: Solver, shape: Sequence[int], labels: Tensor | None) -> Gaussian | None:
        """The law of data that a solver starts from, for a batch; None: it starts from noise alone.

        Arguments:
            shape: of one sample.
            labels: the numbers of the classes, `[b]`; None: any class, so that the mean is that of all of them.
        """
        if solver.gaussian_sha256 is None:
            return None
        law = self.laws[solver.gaussian_sha256]
        if law.mean.ndim == len(shape):
            return law
        return dataclasses.replace(law, mean=law.mean.mean(0)) if labels is None else law.of_classes(labels)

    def to_json(self, weights_sha256: str) -> dict[str, Any]:
        """As the file holds it."""
        tunings = [
            tuning._asdict() | {name: [item._asdict() for item in getattr(tuning, name)] for name in PARTS}
            for tuning in self.tunings
        ]
        return {
            "version": VERSION,
            "weights_sha256": weights_sha256,
            "convention_sha256": self.convention_sha256,
            "tunings": tunings,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], laws: Mapping[str, Gaussian]) -> Tuned:
        """What a file says that keeps to `leapstep.models.schema.Tuned`.

        Raises:
            ValueError: another version, times and coefficients that do not fit each other, or a law that is not there.
        """
        if value["version"] != VERSION:
            raise ValueError(f"version is {value['version']}: this leapstep reads version {VERSION}")
        tunings = []
        for said in value["tunings"]:
            solvers = tuple(_of(Solver, solver) for solver in said["solvers"])
            for solver in solvers:
                if len(solver.transition.options["times"]) != solver.calls + 1:
                    raise ValueError(f"a solver of {solver.calls} calls has {len(solver.times)} times")
                if solver.gaussian_sha256 not in (None, *laws):
                    raise ValueError(f"the moments that a solver of {solver.calls} calls starts from are not there")
            untuned = tuple(_of(Untuned, found) for found in said["untuned"])
            for found in untuned:
                found.check()
            tunings.append(_of(Tuning, said)._replace(solvers=solvers, untuned=untuned))
        return cls(value["convention_sha256"], tuple(tunings), laws)


PARTS = ("solvers", "untuned")
"""The lists in a tuning."""


def _of(kind: Any, said: Mapping[str, Any]) -> Any:
    """A tuple of the fields that an object has, with tuples for lists."""
    return kind(**{name: _frozen(said[name]) for name in kind._fields if name in said})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def convention_sha256(convention: Convention) -> str | None:
    """The SHA-256 of how a network is called; None where a function of the user's says it."""
    try:
        return _sha256_of(json.dumps(convention.to_json(), sort_keys=True))
    except ValueError:
        return None


@functools.lru_cache(maxsize=8)
def _sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def text(value: Any, indent: str = "") -> str:
    """A value as JSON for people: a list of numbers, or a short object, stands on a line of its own.

    Raises:
        ValueError: where it holds a NaN or an infinity, which JSON does not know.
    """
    line = json.dumps(value, allow_nan=False, ensure_ascii=False)
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    deep = any(isinstance(item, list | tuple) and item for item in inside)
    if not inside or (isinstance(value, Mapping) and not deep and len(line) <= LINE):
        return line
    if not isinstance(value, Mapping):
        if not deep and not any(isinstance(item, Mapping) for item in inside):
            return line
        items = [text(item, indent + "  ") for item in value]
    else:
        items = [f"{json.dumps(name)}: {text(item, indent + '  ')}" for name, item in value.items()]
    opening, closing = "{}" if isinstance(value, Mapping) else "[]"
    return f"{opening}\n" + ",\n".join(f"{indent}  {item}" for item in items) + f"\n{indent}{closing}"
