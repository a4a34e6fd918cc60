"""Distillation: a network learns to take few large steps along the ODE that its teacher solves in many small ones.

From random noise the teacher solves the ODE once, in fine steps. From the same noise the student takes its n steps of
DDIM, each from where its own last one led, and each is pulled towards the teacher's x at the same time:

    x_{i+1} = DDIM(x_i, D(x_i, t_i), t_i -> t_{i+1}),      L_i = mean |x_{i+1} - x_{i+1} of the teacher|,

one change of the weights a step, and x_{i+1} without its gradient as the next start. So the student sees what it will
be sampled from, its own errors among them, and no data are needed (Zhou et al. 2024, Simple and fast distillation,
arXiv:2409.19681). Its times are those of n trailing steps, so that every sampler can take them.

At t = 1 next to no signal is left, and x0 = (x - sigma eps) / alpha is infinitely wrong for the smallest error of eps.
The student of a network that predicts eps or the score therefore predicts v, or x0 where the process does not keep the
variance, and learns its last layer anew.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.denoiser import from_network
from leapstep.core.process import flat
from leapstep.core.sampling import beginning, trajectory
from leapstep.core.spacing import times
from leapstep.core.transitions import ddim, unipc
from leapstep.files import folders
from leapstep.files.reading import read_json
from leapstep.inference.spec import SamplingSpec
from leapstep.models import checkpoint
from leapstep.models.model import Model
from leapstep.networks import NETWORKS
from leapstep.text import counted
from leapstep.training import chance, run
from leapstep.training.configuration import DistillationConfig, checked, parameters
from leapstep.training.learner import Learner

AHEAD, KEPT = 4, 16
"""How many of the teacher's batches a run begins with, and of how many of the newest a step draws its samples."""

UNCONDITIONED = 0.1
"""Share of samples without a class, for networks that were trained with some."""

COMPARED = 256
"""How many noises that the student never learns from it is compared with its teacher on."""

OF_THE_TEACHER = ("batch_size", "learning_rate", "precision")
"""Settings that a student has from the training of its teacher, where that is known."""

LEARNING, COMPARING, CHOOSING = range(3)
"""Streams of random numbers: the teacher's noises, those of the comparison, and which of its samples a step takes."""


class Batch(NamedTuple):
    """What the teacher made of a batch of noises.

    Attributes:
        points: x at each of the student's times, the start among them, `[n + 1, b, *d]`.
        condition: what the network takes besides, by name, `[b, ...]`.
    """

    points: Tensor
    condition: dict[str, Tensor]

    def rows(self, chosen: Tensor) -> Batch:
        """Some of the samples."""
        return Batch(self.points[:, chosen], {name: value[chosen] for name, value in self.condition.items()})


class Distiller(Learner):
    """The distillation of a teacher into a student of so many calls, between two checkpoints."""

    config: DistillationConfig

    def __init__(
        self,
        config: DistillationConfig,
        teacher: Model,
        source: str = "the teacher",
        condition: str | Path | None = None,
        device: str | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(config, device, progress)
        _check(teacher, config, source)
        self.source, self.teacher_sha256 = source, checkpoint.fingerprint(teacher.network)
        network = copy.deepcopy(teacher.network).requires_grad_(False).eval().to(self.accelerator.device)
        self.teacher = dataclasses.replace(teacher, network=network)
        self.given = SamplingSpec(conditions=None if condition is None else str(condition))
        process, n = teacher.process, config.calls
        self.fine = min(-(-config.teacher_steps // n), (process.timesteps or 10**9) // n)
        self.times, self.fine_times = times(process, n), times(process, n * self.fine)
        self.convention = student_convention(teacher.convention, n, config.guidance)
        self.inner = dataclasses.replace(self.convention.inner(), clip=None)
        self.prepare(copy.deepcopy(teacher.network).requires_grad_(True).eval())
        self.made: dict[int, Batch] = {}

    # the teacher

    @torch.no_grad()
    def solve(self, stream: int, index: int, n: int) -> Batch:
        """Let the teacher go from noise to data, from noise that is a function of the stream and the index alone.

        What is learned from, all processes solve together, each its own samples.
        """
        drawn = chance.generator(self.config.seed, stream, index)
        condition = self._condition(range(index * n, index * n + n), drawn, stream == LEARNING)
        size = n // self.accelerator.num_processes if stream == LEARNING else n
        first = size * self.accelerator.process_index if stream == LEARNING else 0
        seed, rows = chance.seeded(self.config.seed, stream), range(first, first + size)
        eps = chance.normal(seed, index, rows, self.teacher.shape, self.accelerator.device)
        own = {name: value[first : first + size] for name, value in condition.items()}
        inner = self.teacher.convention.inner()
        diffusion = from_network(self.teacher.network, inner, condition=own, guidance=self.config.guidance)
        x = beginning(diffusion, self.fine_times[0], eps)
        states = trajectory(diffusion, x, self.fine_times, unipc(order=3))
        points = torch.stack([x, *(state.x for state in states if state.step % self.fine == 0)])
        if size < n:
            points = self.accelerator.gather(points.transpose(0, 1).contiguous()).transpose(0, 1)
        return Batch(points, condition)

    def _condition(self, rows: Sequence[int], drawn: torch.Generator, drops: bool) -> dict[str, Tensor]:
        """What the network takes besides: classes in turn, some dropped, and rows of the file in turn."""
        condition = self.given.conditions_for(rows)
        if (labels := self.teacher.labels) is not None:
            number = torch.tensor([i % len(labels.classes) for i in rows])
            if drops and labels.null is not None and self.config.guidance == 1:
                number = torch.where(torch.rand(len(rows), generator=drawn) < UNCONDITIONED, labels.null, number)
            condition[labels.name] = number
        return {name: value.to(self.accelerator.device) for name, value in condition.items()}

    def batch(self) -> Batch:
        """Samples of this step, drawn from the newest of the teacher's batches: those of all processes."""
        newest, size = self.step // self.config.reuse + AHEAD, self.config.batch_size
        wanted = range(max(0, newest - KEPT), newest)
        self.made = {i: self.made[i] if i in self.made else self.solve(LEARNING, i, size) for i in wanted}
        drawn = chance.generator(self.config.seed, CHOOSING, self.step)
        chosen = torch.randperm(len(wanted) * size, generator=drawn)[:size]
        parts = [self.made[wanted[i]].rows(chosen[chosen // size == i] % size) for i in range(len(wanted))]
        names = parts[0].condition
        condition = {name: torch.cat([part.condition[name] for part in parts]) for name in names}
        return Batch(torch.cat([part.points for part in parts], 1), condition)

    # the student

    def advance(self) -> dict[str, Any]:
        """Take the student's steps from a batch of noises, with a change of the weights after each; see `Learner`."""
        whole, results = self.batch(), []
        parts = [whole.rows(torch.tensor(self.rows(part))) for part in range(self.config.accumulate)]
        x = [part.points[0] for part in parts]
        for i, (t, s) in enumerate(pairwise(self.times), start=1):

            def losses(part: int, i: int = i, t: Tensor = t, s: Tensor = s) -> tuple[Tensor, Tensor]:
                diffusion = from_network(self.network, self.inner, condition=parts[part].condition)
                moved = ddim()(diffusion, x[part], t, s, None, None).x
                x[part] = moved.detach()
                return distance(moved, parts[part].points[i]), t.expand(self.share)

            results.append(self.update(losses))
        self.step += 1
        joined = {name: torch.cat([result[name] for result in results]) for name in ("losses", "times")}
        return {**results[-1], **joined}

    def trial(self, n: int) -> Tensor:
        """A mean distance that takes as long as that of n samples; see `Learner.trial`."""
        condition = self._condition(range(n), torch.Generator(), drops=False)
        diffusion = from_network(self.unwrapped(), self.inner, condition=condition)
        x = torch.zeros(n, *self.teacher.shape, device=self.accelerator.device)
        return distance(diffusion.denoise(x, self.times[0]), x).mean()

    @torch.no_grad()
    def compare(self) -> dict[str, float]:
        """The mean distance of the student's samples from its teacher's, of noises that it does not learn from.

        Returns:
            "held_out".
        """
        network, total = self.ema.module.eval(), 0.0
        for start in range(0, COMPARED, self.share):
            part = self._held_out.rows(torch.arange(start, min(start + self.share, COMPARED)))
            diffusion = from_network(network, self.convention.inner(), condition=part.condition)
            *_, last = trajectory(diffusion, part.points[0], self.times, ddim())
            total += distance(last.x, part.points[-1]).sum().item()
        return {"held_out": total / COMPARED}

    @functools.cached_property
    def _held_out(self) -> Batch:
        return self.solve(COMPARING, 0, COMPARED)

    # what is kept

    def model(self, network: torch.nn.Module | None = None) -> Model:
        """The student as it stands, with the averaged weights; see `Learner.model`."""
        network = self.averaged() if network is None else network
        return Model(network.eval(), self.convention, self.details())

    def details(self) -> dict[str, Any]:
        """What `leapstep.json` records of the student as it stands."""
        from leapstep import __version__

        teacher = {"source": self.source, "weights_sha256": self.teacher_sha256}
        if "step" in self.teacher.details:
            teacher["step"] = self.teacher.details["step"]
        if self.given.conditions is not None:
            teacher["condition"] = self.given.conditions
        data = {name: self.teacher.details[name] for name in ("data",) if name in self.teacher.details}
        return {
            "versions": {"leapstep": __version__, "torch": str(torch.__version__)},
            "step": self.step,
            "precision": self.precision or "float32",
            **data,
            **({} if self.course is None else {"losses": self.course.record()}),
            "distillation": {"teacher": teacher, **self.config.model_dump(mode="json")},
        }

    def check_unchanged(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Make sure that a run which is resumed was of this teacher. Raises ValueError."""
        before, now = dict(values.get("distillation") or {}), self.details()["distillation"]
        teacher = before.pop("teacher", None) or {}
        for name in ("weights_sha256", "condition"):
            if teacher.get(name) != now["teacher"].get(name):
                raise ValueError(
                    f"{folder} learns from {teacher.get('source')} with {name}={teacher.get(name)}, not "
                    f"{now['teacher'].get(name)}: resume it with the same, or --overwrite it"
                )
        run.check_same(folder, before, now)

    def facts(self, done: int) -> Iterator[str]:
        """What whoever starts the run should know, in lines."""
        guided = "" if self.config.guidance == 1 else f" with guidance {self.config.guidance:g}"
        yield f"a student of {counted(self.config.calls, 'call')}, of a teacher of {len(self.fine_times) - 1}{guided}"
        yield from super().facts(done)

    def seconds_a_step(self) -> float | None:
        """As of `Learner`, with a step's share of the teacher's work, whatever of it is at hand."""
        self.batch()  # the first of the teacher's batches, of which a step makes few
        student = super().seconds_a_step()
        began = time.perf_counter()
        self.solve(LEARNING, 0, self.config.batch_size)
        return student and student + (time.perf_counter() - began) / self.config.reuse

    def keep_to(self, budget: float) -> None:
        """Take as many steps as fit into so many seconds here."""
        self.choose_precision()
        steps = max(1, int(budget / (self.seconds_a_step() or budget)))
        self.config = self.config.model_copy(update={"steps": steps})


def distance(x: Tensor, y: Tensor) -> Tensor:
    """The mean absolute difference of samples `[b, *d]`, `[b]`."""
    return flat(x - y).abs().mean(1)


def student_convention(teacher: Convention, calls: int, guidance: float) -> Convention:
    """How the student of a teacher is called.

    It is sampled in so many trailing steps. Guidance is in its weights: a student of a guided teacher has no null to be
    guided away from once more.
    """
    predicts = teacher.predicts
    if predicts.removeprefix("-") in ("eps", "score"):
        t = torch.linspace(0, 1, 101, dtype=torch.float64)
        variance = teacher.process.alpha(t) ** 2 + teacher.process.sigma(t) ** 2
        predicts = "v" if torch.allclose(variance, torch.ones_like(t), atol=1e-4) else "x0"
    conditions = teacher.conditions
    if guidance != 1:
        conditions = tuple(dataclasses.replace(condition, null=None) for condition in conditions)
    return dataclasses.replace(teacher, predicts=predicts, conditions=conditions, spacing="trailing", steps=calls)


def _check(teacher: Model, config: DistillationConfig, source: str) -> None:
    """Raise ValueError where there can be no such student of a model."""
    if type(teacher.network) not in NETWORKS.values():
        raise ValueError(
            f"a student is kept in a run folder, which takes {', '.join(kind.__name__ for kind in NETWORKS.values())}, "
            f"not a {type(teacher.network).__name__}"
        )
    if teacher.steps is not None:
        raise ValueError(f"{source} is a student of {teacher.steps} calls itself: distil its teacher")
    levels = teacher.process.timesteps
    if levels is not None and config.calls > levels:
        raise ValueError(f"calls={config.calls}: {source} has {levels} noise levels, so at most as many")
    named = any(not condition.classes for condition in teacher.convention.conditions)
    labels = torch.zeros(1, dtype=torch.long) if teacher.classes else None
    if not named:
        teacher.diffusion(labels, config.guidance)


def distill(
    teacher: Model | str | Path,
    out: str | Path,
    calls: int | Sequence[int] = (1, 2, 4),
    *,
    condition: str | Path | None = None,
    budget: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> list[Model]:
    """Distil a model into students that need few calls, and leave a run folder for each, as `leapstep distill` does.

    Arguments:
        teacher: a model, or where it lies.
        out: the run folder of the student; of several, the folder that theirs lie in, as `calls-1`, `calls-2`, ...
        calls: network calls of a sample, a student for each number.
        condition: an npz file with what the network takes besides labels; rows in turn.
        budget: seconds for all students together; None: as long as `steps` take.
        resume: go on where an earlier call stopped, exactly as if it had not.
        overwrite: replace earlier runs.
        device: "cpu" to leave a GPU alone; None: the best there is.
        progress: report on stderr how long it will take, and how far it is.
        settings: fields of `DistillationConfig`; batch size and learning rate are by default those of the teacher's own
            training, where they are known.

    Returns:
        the students, with the averaged weights, in the order of `calls`.

    Raises:
        ValueError: settings that do not fit the teacher or each other; a run folder that exists and neither `resume`
            nor `overwrite`, or that another process writes in; a resumed run with other settings or another teacher.
        FloatingPointError: a loss that is not finite; the last good checkpoint is kept.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: choose one")
    if budget is not None and settings.get("steps") is not None:
        raise ValueError("--budget and --steps exclude each other: choose one")
    numbers = [calls] if isinstance(calls, int) else list(calls)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"calls={','.join(map(str, numbers))}: give each number of calls once")
    model = teacher if isinstance(teacher, Model) else checkpoint.load(teacher)
    source = "a model in memory" if isinstance(teacher, Model) else str(teacher)
    jobs = []
    for n in numbers:  # what is wrong with any of them is said before the first begins
        folder = place(out, n, numbers)
        resumed = checkpoint.find_state(folder)[1] if resume and (folder / "state").is_dir() else None
        config = _configured(model, {**settings, "calls": n}, resumed)
        _check(model, config, source)
        replaces = overwrite or (resume and _ended_early(folder))
        if resumed is None:
            folders.check_free(folder, replaces, checkpoint.RUN)
        if not isinstance(teacher, Model) and folder.resolve() == Path(teacher).resolve():
            raise ValueError(f"{folder} is the teacher's own folder: name another one by --out")
        jobs.append((config, folder, resumed, replaces))
    students = []
    for config, folder, resumed, replaces in jobs:
        with run.locked(folder):
            distiller = Distiller(config, model, source, condition, device, progress)
            if budget is not None and resumed is None:
                distiller.keep_to(budget / len(jobs))
            run.begin(distiller, folder, resumed, replaces)
            run.loop(distiller, folder)
        students.append(distiller.model())
    return students


_OWN = [p for p in inspect.signature(distill).parameters.values() if p.kind is not p.VAR_KEYWORD]
_FIELDS = [p for p in parameters(DistillationConfig) if p.name != "calls"]
distill.__signature__ = inspect.Signature([*_OWN, *_FIELDS], return_annotation="list[Model]")  # type: ignore[attr-defined]


def place(out: str | Path, calls: int, among: Sequence[int]) -> Path:
    """The run folder of a student of so many calls, where students of these numbers are kept."""
    return Path(out) if len(among) == 1 else Path(out) / f"calls-{calls}"


def _ended_early(folder: Path) -> bool:
    """Whether a distillation began in a folder, and ended before its first checkpoint."""
    mark = folder / checkpoint.RUN.mark
    return mark.exists() and isinstance(said := read_json(mark), Mapping) and "distillation" in said


def _configured(model: Model, settings: Mapping[str, Any], resumed: Mapping[str, Any] | None) -> DistillationConfig:
    """The settings of a student: those that are given, and else those that it began with, or of its teacher."""
    given = {name: value for name, value in settings.items() if value is not None}
    if resumed is not None:
        begun = resumed.get("distillation") or {}
        return checked(DistillationConfig, {name: begun[name] for name in begun if name != "teacher"} | given)
    trained = model.details.get("training") or {}
    return checked(DistillationConfig, {name: trained[name] for name in OF_THE_TEACHER if name in trained} | given)
