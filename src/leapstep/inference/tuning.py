"""Fitting solvers to a model for samples of a specification, and measuring other methods beside them.

The teacher is a fine path of the model itself, from noises that no sample ever starts from. Solvers are fitted to some
of them; all errors are measured on others, which had no part in the fit: how far samples are from the teacher's, from
the same noise. It is not how good samples are: a teacher's errors are not seen.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.fitting import Reference, Teacher, fit, refer
from leapstep.core.fitting.linear import coefficients
from leapstep.core.gaussian import Gaussian, Moments
from leapstep.core.noise import Noise
from leapstep.core.spacing import times
from leapstep.core.transitions import TRANSITIONS
from leapstep.inference.execution import as_specified
from leapstep.inference.fields import Option
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.models import checkpoint
from leapstep.models.beside import gaussian_sha256
from leapstep.models.model import Model
from leapstep.models.opening import file_of
from leapstep.models.tuned import ALL, Solver, Tuned, Tuning, Untuned, convention_sha256
from leapstep.text import duration

CALLS = (2, 3, 4, 5, 6, 8, 10)
"""The numbers of calls that solvers are fitted for, where nothing else is asked for."""

STARTS = ("gaussian", "marginal")
"""What solvers start from: x_t of data with a normal law, or noise of the scale at the first time."""

CURVE = (10, 15, 20, 30, 50)
"""Steps of DDIM that are measured besides, to say how many of them a solver is worth."""

TEACHER: tuple[str, dict[str, Option]] = ("unipc", {"order": 3})

VARIANTS: tuple[tuple[str, dict[str, Option]], ...] = (("unipc", {"order": 3}), ("deis", {"variable": "log_snr"}))
"""Of other methods than the teacher's all are measured as they are by default, and these besides."""

SPACINGS, FINALISTS = ("log_snr", "karras"), 2
"""With which spacings the best of the methods are measured besides "trailing", and how many of them."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be found.

    Attributes:
        calls: numbers of network calls for a sample.
        noises: that the teacher starts from, 16 or more.
        steps: of the teacher.
        start: one of `STARTS`.
        budget: seconds after which no other number of calls is begun; None: no limit.
    """

    calls: tuple[int, ...] = CALLS
    noises: int = 256
    steps: int = 40
    start: str = STARTS[0]
    budget: float | None = None


class Run:
    """A tuning that is ready to be run: everything is checked, and the network has not been called yet.

    Attributes:
        model: whose solvers are fitted.
        tuned: what is there so far.
        missing: numbers of calls for which nothing is there yet, ascending.
        moments: of the teacher's samples, once they are there, for a model that has none; None where they are of some
            classes only, or guided.
    """

    def __init__(
        self,
        model: Model,
        spec: SamplingSpec | None = None,
        plan: Plan | None = None,
        law: tuple[str, Gaussian] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Check everything.

        Arguments:
            spec: labels, conditions, guidance, rescale, dtype, seed and batch size; the rest does not count. Without
                labels, all classes in turn.
            law: what the mean and covariance of data are taken from, by name, and them; None: the teacher's samples.
            overwrite: whether to fit anew what is there already.
        Raises:
            ValueError: what does not fit the model, or another teacher than that of solvers which are there.
        """
        self.plan, spec = plan or Plan(), spec or SamplingSpec()
        self._check_plan(model)
        classes = tuple(range(len(model.classes)))
        self.everyone = spec.labels is None
        self.nothing = self.everyone and model.null_label is not None and spec.guidance == 1  # is a class of its own
        spec = dataclasses.replace(spec, method="ddim", options={}, steps=None, times=None, spacing=None)
        spec = dataclasses.replace(spec, labels=spec.labels or classes or None).checked(model)
        self.spec, self.law, self.model = spec, law, model
        self._working = as_specified(model, spec)
        tuned = model.tuned or Tuned(convention_sha256(model.convention))
        labels = ALL if self.everyone else tuple(sorted({int(label) for label in spec.labels or ()}))
        conditions = None if spec.conditions is None else hashlib.sha256(Path(spec.conditions).read_bytes()).hexdigest()
        begun = Tuning(spec.guidance, spec.rescale, labels, conditions, self._teacher())
        before = next((tuning for tuning in tuned.tunings if tuning.key == begun.key), None)
        if before is not None and not overwrite:
            _check_same(before.teacher, begun.teacher)
        if before is not None and before.teacher | begun.teacher == before.teacher:  # keep what is not fitted anew
            asked = {(calls, self.plan.start) for calls in self.plan.calls if overwrite}
            kept = tuple(solver for solver in before.solvers if (solver.calls, solver.start) not in asked)
            begun = before._replace(solvers=kept)
        self.tuning, self.tuned = begun, tuned.with_tuning(begun)
        there = {solver.calls for solver in begun.solvers if solver.start == self.plan.start}
        self.missing = sorted(set(self.plan.calls) - there)
        self.moments: Moments | None = None

    def _check_plan(self, model: Model) -> None:
        plan, levels = self.plan, model.process.timesteps or 1000
        if plan.noises < 16:
            raise SpecError("noises", plan.noises, "at least 16 are needed, to fit, to choose and to judge")
        if not 2 <= plan.steps <= levels:
            raise SpecError("teacher_steps", plan.steps, f"this model takes from 2 to {levels} steps")
        for calls in plan.calls:
            if not 1 <= calls < plan.steps:
                raise SpecError("calls", calls, f"use 1 to {plan.steps - 1}, fewer than the teacher's steps")
        if plan.start not in STARTS:
            raise SpecError("start", plan.start, f"use {' or '.join(STARTS)}")

    def _teacher(self) -> dict[str, Any]:
        """What the numbers of a tuning depend on besides, as JSON."""
        method, options = TEACHER
        plan, spec = self.plan, self.spec
        moments = "the teacher's samples" if self.law is None else self.law[0]
        return {
            "method": method,
            "options": options,
            "steps": plan.steps,
            "spacing": "trailing",
            "noises": plan.noises,
            "seed": spec.seed,
            "dtype": str(spec.network_dtype).removeprefix("torch."),
            "moments": moments,
        }

    @property
    def work(self) -> int:
        """How often the network is called for single samples, about: fits take less where nothing more helps."""
        return self.plan.noises * (self.plan.steps + sum(CURVE) // 4) + self.work_left if self.missing else 0

    @property
    def work_left(self) -> int:
        """As `work`, for the numbers of calls that are still missing, once the teacher is there."""
        several = len(_candidates()) + FINALISTS * len(SPACINGS)
        missing = [calls for calls in self.missing if self.tuning.solver(calls, self.plan.start) is None]
        return self.plan.noises * sum(self.plan.steps + several * calls // 4 for calls in missing)

    @torch.no_grad()
    def check_price(self) -> None:
        """Call the network on a batch. Raises ValueError where the teacher alone would take longer than it may."""
        if self.plan.budget is None or not self.missing:
            return
        rows = range(min(self.spec.batch_size, self.plan.noises))
        x = Noise(0, rows, self.model.shape, self.spec.state_dtype, self.model.device)(0)
        for _ in range(2):  # the first call of all is slower
            began = time.perf_counter()
            float(self.diffusion(rows).denoise(x, torch.tensor(0.5, dtype=torch.float64)).sum())
            seconds = (time.perf_counter() - began) / len(rows) * self.plan.noises * self.plan.steps
        if seconds > self.plan.budget:
            raise SpecError(
                "budget",
                duration(self.plan.budget),
                f"the teacher's {self.plan.steps} steps from {self.plan.noises} noises alone take about "
                f"{duration(seconds)}: allow more, or ask for fewer",
            )

    def numbers(self, rows: Sequence[int]) -> Tensor | None:
        """The class of each of these noises; behind the last one, the number of classes, for none."""
        if not self.model.classes:
            return None
        labels = [int(label) for label in self.spec.labels or ()] + [len(self.model.classes)] * self.nothing
        return torch.tensor([labels[i % len(labels)] for i in rows])

    def diffusion(self, rows: range) -> Diffusion:
        """The model, conditioned for these noises."""
        numbers = self.numbers(rows)
        if not self.nothing or numbers is None or self.model.labels is None:
            return self.spec.diffusion(self._working, rows)
        numbers[numbers == len(self.model.classes)] = self.model.null_label or 0
        condition = self.spec.conditions_for(rows) | {self.model.labels.name: numbers}
        return dataclasses.replace(self.spec, labels=None).diffusion(self._working, rows, condition)

    def results(self, on_call: Callable[[int], object] | None = None) -> Iterator[tuple[Solver, list[Untuned]]]:
        """Fit what is missing.

        Arguments:
            on_call: called with the number of samples of each call of the network.
        Yields:
            for each number of calls, as soon as it is in `tuned`, the solver and the other methods, the best first.
        Raises:
            FloatingPointError: the teacher's samples are not finite.
        """
        if not self.missing:
            return
        began = time.monotonic()
        reference = refer(self.teacher(on_call))
        seconds = time.monotonic() - began
        self.begin(reference, seconds, self.curve(reference))
        law = self.law_of(reference)
        for i, calls in enumerate(self.missing):
            left = None if self.plan.budget is None else began + self.plan.budget - time.monotonic()
            if i and left is not None and left <= 0:
                return
            share = None if left is None else max(0.0, left) / (len(self.missing) - i) / 2  # the other half judges
            yield self.keep(*self.fitted(reference, calls, law, share))

    def law_of(self, reference: Reference) -> Gaussian | None:
        """The law that solvers start from, which is kept, as are the moments; None: they start from noise alone."""
        drawn = self._law(reference)
        if self.model.moments is None and self.everyone and self.spec.guidance == 1 and self.spec.conditions is None:
            self.moments = Moments(drawn) if self._shared(drawn) else Moments(Gaussian.of(reference.samples), drawn)
        law = None if self.plan.start != "gaussian" else drawn if self.law is None else self.law[1]
        if law is not None:
            self.tuned = dataclasses.replace(self.tuned, laws={**self.tuned.laws, gaussian_sha256(law): law})
        return law

    def fitted(
        self, reference: Reference, calls: int, law: Gaussian | None, budget: float | None = None
    ) -> tuple[Solver, list[Untuned]]:
        """A solver, and other methods with as many calls.

        Arguments:
            law: of data that it starts from; see `law_of`.
            budget: seconds for the fit.
        """
        origin = None if law is None else self._origins(law)
        fitted = fit(reference, calls, origin=origin, budget=budget)
        solver = Solver(
            calls,
            self.plan.start,
            fitted.distance.rms,
            fitted.distance.standard_error,
            fitted.evaluations,
            round(fitted.seconds, 2),
            tuple(fitted.transition.options["times"]),
            tuple(tuple(row) for row in fitted.transition.options["coefficients"]),
            None if law is None else gaussian_sha256(law),
        )
        return solver, self._untuned(reference, calls)

    def keep(self, solver: Solver, untuned: list[Untuned]) -> tuple[Solver, list[Untuned]]:
        """Take a solver and other methods into `tuned`; return it with all that are there, the best first."""
        self._keep(self.tuning.with_solver(solver, untuned))
        return solver, self.tuning.ranked(solver.calls)

    def on(self, device: str) -> Run:
        """The same run with its network on a device."""
        run = copy.copy(self)
        run.model = self.model.to(device)
        run._working = as_specified(run.model, self.spec)
        return run

    def teacher(self, on_call: Callable[[int], object] | None = None) -> Teacher:
        """Whoever is followed.

        Arguments:
            on_call: called with the number of samples of each call of the network, by students too.
        """
        method, options = TEACHER
        return Teacher(
            self.diffusion,
            self.model.shape,
            noises=self.plan.noises,
            steps=self.plan.steps,
            transition=TRANSITIONS[method].make(**options),
            seed=self.spec.seed,
            batch_size=self.spec.batch_size,
            dtype=self.spec.state_dtype,
            device=self.model.device,
            on_call=on_call,
        )

    def curve(self, reference: Reference) -> list[Untuned]:
        """DDIM with many steps, where it is not there."""
        levels = self.model.process.timesteps or max(CURVE)
        curve = [steps for steps in CURVE if steps <= levels and not self.tuning.ranked(steps)]
        return _finite([self._measured(reference, "ddim", {}, steps, "trailing") for steps in curve])

    def begin(self, reference: Reference, seconds: float, curve: list[Untuned]) -> None:
        """Take into `tuned` what the teacher took, and `curve`."""
        took = {"evaluations": reference.evaluations, "seconds": round(seconds, 2)}
        tuning = self.tuning._replace(teacher=self.tuning.teacher | took)
        self._keep(tuning._replace(untuned=(*tuning.untuned, *curve)))

    def _keep(self, tuning: Tuning) -> None:
        self.tuning, self.tuned = tuning, self.tuned.with_tuning(tuning)

    def _untuned(self, reference: Reference, calls: int) -> list[Untuned]:
        """All methods with one call a step, those that differ with so few; the best ones with other spacings too."""
        path = times(self.model.process, calls)
        different: list[Tensor] = []
        found = []
        for method, options in _candidates():
            matrix = coefficients(self.model.process, TRANSITIONS[method].make(**options), path)
            if not any(torch.equal(matrix, other) for other in different):
                different.append(matrix)
                found.append(self._measured(reference, method, options, calls, "trailing"))
        for best in sorted(found, key=lambda one: one.error)[:FINALISTS]:
            found += [self._measured(reference, best.method, best.options, calls, spacing) for spacing in SPACINGS]
        return _finite(found)

    def _measured(
        self, reference: Reference, method: str, options: Mapping[str, Option], steps: int, spacing: str
    ) -> Untuned:
        path = times(self.model.process, steps, spacing)
        distance = reference.measure(TRANSITIONS[method].make(**options), path)
        return Untuned(method, dict(options), steps, spacing, "marginal", distance.rms, distance.standard_error)

    def _law(self, reference: Reference) -> Gaussian:
        """Of the teacher's samples; with a mean for each class where there are classes, and more samples than these."""
        x = reference.samples
        numbers, classes = self.numbers(range(len(x))), len(self.model.classes)
        if numbers is None:
            return Gaussian.of(x)
        known = numbers < classes
        if int(known.sum()) <= len(set(numbers[known].tolist())):
            return Gaussian.of(x)
        return Gaussian.of(x[known.to(x.device)], numbers[known], classes=classes)

    def _shared(self, law: Gaussian) -> bool:
        """Whether a law has one mean for all classes."""
        return law.mean.ndim == len(self.model.shape)

    def _origins(self, law: Gaussian) -> Gaussian | Callable[[range], Gaussian]:
        """The law of each noise; of one without a class the mean is that of all."""
        if self._shared(law):
            return law
        means = dataclasses.replace(law, mean=torch.cat([law.mean, law.mean.mean(0, keepdim=True)]))

        def of(rows: range) -> Gaussian:
            numbers = self.numbers(rows)
            assert numbers is not None
            return means.of_classes(numbers)

        return of


def place(model: Model, source: str, convention: str | Path | None, out: str | Path | None) -> tuple[Model, Path]:
    """Where what is found for a model goes, and the model as it lies there.

    Arguments:
        source, convention: as of `open_model`.
        out: a run folder, which is made where it is missing; None: where the model lies.
    Raises:
        ValueError: a model that does not lie in a folder, or a folder of other weights.
    """
    path = file_of(source, convention, checkpoint.TUNED)
    if out is None:
        if not path.parent.is_dir():
            raise ValueError(f"{source} is not a folder: name one by --out RUN, and it will have the model in it")
        return model, path
    if convention is not None:
        raise ValueError(f"out={out}: what is found for a network of your own lies at {path}, leave it out")
    if not checkpoint.is_model(out):
        if Path(out).exists() and any(Path(out).iterdir()):
            raise ValueError(f"{out} holds something else: name another folder")
        checkpoint.save(model, out)
    there = checkpoint.load(out, model.device)
    if checkpoint.fingerprint(there.network) != checkpoint.fingerprint(model.network):
        raise ValueError(f"{out} holds a model with other weights: name another folder")
    return there, Path(out) / checkpoint.TUNED


def save(path: Path, run: Run) -> None:
    """Write what a run has found so far: solvers, and moments by which any method may start without a call."""
    checkpoint.save_tuned(path, run.model, run.tuned)
    if run.moments is not None:
        details = {"source": "samples", "n": run.plan.noises, "guidance": 1.0}
        checkpoint.save_moments(path.with_name(checkpoint.MOMENTS), run.model, run.moments, details)


def _candidates() -> list[tuple[str, dict[str, Option]]]:
    """The methods that are measured beside a fitted one."""
    plain: list[tuple[str, dict[str, Option]]] = [
        (name, {}) for name, method in TRANSITIONS.items() if method.calls == 1 and method.deterministic
    ]
    return [*plain, *VARIANTS]


def _finite(measured: Iterable[Untuned]) -> list[Untuned]:
    """Without methods whose samples diverge."""
    return [untuned for untuned in measured if math.isfinite(untuned.error + untuned.standard_error)]


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where solvers were fitted to another teacher."""
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"the solvers that are there were fitted with {name} {before.get(name)}, not {value}: fit all of them "
                "anew by --overwrite, or ask for the same"
            )
