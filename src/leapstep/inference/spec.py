"""What to draw and how: the specification of a sampling job, apart from the model.

Sample i is a function of the model, the specification and i alone. So a specification with the hash of the weights is
all that is needed to repeat samples, on any machine and in any batches; a manifest is a specification with provenance.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leapstep import files
from leapstep.core import names
from leapstep.core.calibration import Calibration
from leapstep.core.denoiser import Diffusion
from leapstep.core.gaussian import Moments
from leapstep.core.names import STARTS, ours
from leapstep.core.printing import summary
from leapstep.core.sampling import path_of
from leapstep.core.spacing import times
from leapstep.core.transitions import Method, Transition
from leapstep.files import reading
from leapstep.inference import fields, methods
from leapstep.inference.fields import AUTO, SOLVER, VERSION, Option, not_default
from leapstep.inference.fields import SpecError as SpecError
from leapstep.inference.methods import METHODS
from leapstep.models.model import Model
from leapstep.models.tuned import Solver
from leapstep.text import allowed, counted

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in names.DTYPES}
"""What a network can compute in, by name."""

LAST_STD = 2 / 255 * (math.pi / 2) ** 0.5
"""For pictures: noise of mean size 1 / 255 of the pixels' range (Bao et al. 2022, appendix F.2, arXiv:2201.06503)."""


@dataclasses.dataclass(frozen=True, repr=False)
class SamplingSpec:
    """The specification of a sampling job. What is None is left open until `checked` fills it in for a model.

    Attributes:
        method: one of `TRANSITIONS`; its name in k-diffusion, ComfyUI or diffusers becomes ours, with its options. Or
            "fitted", the solver that `leapstep tune` fitted to the model for so many steps, or "auto", the best method
            that is known for it, whose name `checked` fills in.
        options: those of the method that are not at their defaults.
        steps: number of steps from noise to data.
        times: the list of times itself, strictly decreasing in [0, 1], in place of steps and spacing.
        spacing: one of `SPACINGS`.
        start: one of `STARTS`.
        seed: of the noise; an integer from 0 to 2^64 - 1.
        first: index of the first sample.
        n: number of samples: those with the indices first, ..., first + n - 1.
        labels: classes by name or number, in turn: sample i has `labels[i % len(labels)]`. None: samples of any class.
        conditions: path of an npz file with what the network takes besides; None: nothing.
        guidance: scale of classifier-free guidance; 1 is none.
        rescale: share, from 0 to 1, of the contrast that guidance adds and that is taken back; see `guided`.
        dtype: what the network computes in: "float32", "bfloat16" or "float64"; or "auto", which is chosen where
            samples are drawn (see `leapstep.inference.execution`), and means float32 for all else.
        batch_size: samples worked on at a time.
    """

    method: str = "ddim"
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    times: tuple[float, ...] | None = None
    spacing: str | None = None
    start: str = "marginal"
    seed: int = 0
    first: int = 0
    n: int = 64
    labels: tuple[str | int, ...] | None = None
    conditions: str | None = None
    guidance: float = 1.0
    rescale: float = 0.0
    dtype: str = AUTO
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Copy what could change, as the types that JSON and hashing need; nothing is checked yet."""
        plain: dict[str, Any] = {
            field.name: value.item()  # of a scalar of NumPy or PyTorch
            for field in dataclasses.fields(self)
            if getattr(value := getattr(self, field.name), "ndim", None) == 0
        }
        plain["options"] = {
            name: value.item() if hasattr(value, "item") else value for name, value in self.options.items()
        }
        plain["method"], implied = ours(self.method)
        plain["options"] = implied | plain["options"]
        if self.times is not None:
            plain["times"] = tuple(float(t) for t in self.times)
        if self.labels is not None:
            labels = self.labels.tolist() if hasattr(self.labels, "tolist") else self.labels
            plain["labels"] = tuple([labels] if isinstance(labels, str | int) else labels) or None
        if self.conditions is not None:
            plain["conditions"] = str(self.conditions)
        plain["dtype"] = str(self.dtype).removeprefix("torch.")
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """The method, and what is not by default."""
        by_default = {field.name: field.default for field in dataclasses.fields(self)} | {"options": {}, "method": ""}
        return summary(self, [(name, value) for name, value in vars(self).items() if value != by_default[name]])

    def __hash__(self) -> int:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return hash(tuple((values | {"options": frozenset(self.options.items())}).items()))

    # --- on disk ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """All fields, as a JSON object with the version of the format."""
        return {"version": VERSION} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, value: Any) -> SamplingSpec:
        """The specification that a JSON object states; fields that it lacks are as by default.

        Raises:
            ValueError: no object, another version, an unknown key, or a value of the wrong type or size.
        """
        return cls(**fields.parsed(value))

    def save(self, path: str | Path) -> None:
        """Write it as a JSON file."""
        files.write_json(path, self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> SamplingSpec:
        """Read a file that `save` wrote, or a manifest, which holds a specification as `spec`.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds something else; the message begins with the path.
        """
        return cls(**fields.read(path))

    # --- against a model -------------------------------------------------------------------------------------------

    def checked(
        self, model: Model, *, steps: int = 20, adaptive_steps: int = 1, spacing: str | None = None
    ) -> SamplingSpec:
        """Check everything against a model, once, and fill in what was left open.

        A method that chooses its own steps goes the whole way in one step of the loop, from pure noise (trailing).

        Arguments:
            steps: their number where the specification leaves it open: what the model was distilled for, or else this,
                or T where that is less.
            adaptive_steps: as `steps`, for methods that choose their own within each.
            spacing: where the specification leaves it open; None: the model's, or else "trailing".
        Returns:
            the specification with steps, spacing and numbers of classes, and without options at their defaults.
        Raises:
            ValueError: what does not fit; a `SpecError` where it is a single field.
        """
        fields.check(vars(self))
        self._check_guidance(model)
        labels = None if self.labels is None else tuple(_number(model, label) for label in self.labels)
        spec = dataclasses.replace(self, labels=labels)
        spec = spec._best(model, steps) if self.method == AUTO else spec
        spec = spec._solved(model) if spec.method == "fitted" else spec
        spec = dataclasses.replace(spec, options=not_default(spec.method, spec.options))
        adaptive = spec.entry.calls == 0
        if adaptive and self.start == "gaussian" and self.times is None:
            raise SpecError(
                "start", self.start, f"{self.method} chooses its own steps, from the first time on: give it by times"
            )
        spec = spec._with_path(model, adaptive_steps if adaptive else steps, "trailing" if adaptive else spacing)
        spec.transition(model)
        spec.diffusion(model, range(spec.first, spec.first + 1))
        return spec

    def _check_guidance(self, model: Model) -> None:
        """Raise ValueError where what a model was made with, as one of a pipeline, would be left out unsaid."""
        if self.labels is None and model.classes and model.null_label is None:
            last = len(model.classes) - 1
            raise ValueError(f"this network samples one class at a time: pass a label from 0 to {last}")
        name = "guidance" if self.guidance == 1 else "rescale"
        made, stated = getattr(model, name), getattr(self, name)
        none = SamplingSpec.guidance if name == "guidance" else SamplingSpec.rescale
        if stated == none != made:
            raise SpecError(
                name, f"{none:g}", f"the model was made with {name} {made:g}: state this, or make one with {none:g}"
            )

    def _best(self, model: Model, steps: int) -> SamplingSpec:
        """With a method in place of "auto"."""
        for name in ("options", "times", "spacing"):
            if getattr(self, name):
                raise SpecError("method", AUTO, f"it chooses its own {name}: leave them out, or name a method")
        if model.steps is not None:  # it was distilled for its own steps of DDIM
            return dataclasses.replace(self, method="ddim")
        chosen = methods.best(model, self._wanted(model), steps if self.steps is None else self.steps)
        return dataclasses.replace(self, **chosen)

    def _solved(self, model: Model) -> SamplingSpec:
        """Of a fitted method, with the times of its solver, and which it is; from where it starts is part of that."""
        for name, usual in (("spacing", None), ("start", "unit")):
            if (getattr(self, name) == usual) == (usual is not None):
                raise SpecError(name, getattr(self, name), "a fitted solver has its own times and start: leave it out")
        solver = self.solver(model)
        if self.times is not None and self.times != solver.times:
            raise SpecError("times", list(self.times), "a fitted solver goes along its own times: leave them out")
        options = {**self.options, SOLVER: solver.short_sha256}
        return dataclasses.replace(
            self, options=options, steps=solver.calls, times=solver.times, spacing=None, start=STARTS[0]
        )

    def fitted_steps(self, model: Model) -> list[int]:
        """The numbers of steps that a fitted method is there for; of other methods none."""
        wanted = self._wanted(model)._replace(steps=None)
        return methods.counts(model, wanted) if self.method == "fitted" else []

    def solver(self, model: Model) -> Solver:
        """The solver of a fitted method: the one that it names beside its times, or else the best for its steps.

        Raises:
            ValueError: it is not there, or not for this guidance and these labels.
        """
        return methods.solver(model, self._wanted(model), None if self.times is None else self.options.get(SOLVER))

    def _wanted(self, model: Model) -> methods.Wanted:
        """What a method is looked for; any start will do where none is asked for."""
        labels = None if self.labels is None else [_number(model, label) for label in self.labels]
        start = None if self.start == STARTS[0] else self.start
        return methods.Wanted(self.steps, self.guidance, self.rescale, labels, self.conditions, start)

    @property
    def entry(self) -> Method:
        """What the table of methods says of this one, which is not "auto"."""
        return METHODS[self.method]

    def warn_of_distillation(self, model: Model) -> None:
        """Warn where a specification that is checked is not what a distilled model was distilled for."""
        if model.steps is None:
            return
        own = times(model.process, model.steps, model.spacing or "trailing")
        plain = self.method == "ddim" and not self.options and self.start == "marginal"
        if not plain or not torch.equal(self.times_for(model), own):
            warnings.warn(
                f"{self.label} in {counted(self.steps or 0)} is not what this model was distilled for: ddim in "
                f"{counted(model.steps)}, {model.spacing or 'trailing'}",
                stacklevel=3,
            )

    def _with_path(self, model: Model, steps: int, spacing: str | None) -> SamplingSpec:
        """With steps and spacing, or with times and their number of steps."""
        if self.times is not None:
            path = tuple(self.times_for(model).tolist())
            if self.steps not in (None, len(path) - 1):
                raise SpecError(
                    "steps", self.steps, f"the list of times has {len(path) - 1} steps: leave one of them out"
                )
            return dataclasses.replace(self, times=path, steps=len(path) - 1, spacing=None)
        levels = model.process.timesteps or 1000
        usual = min(steps, levels - (self.start == "gaussian")) if model.steps is None else model.steps
        count = usual if self.steps is None else self.steps
        name = self.spacing or spacing or model.spacing or "trailing"
        spec = dataclasses.replace(self, steps=operator.index(count), spacing=name)
        first = spec.times_for(model)[0].item()
        if count == 1 < levels and first * levels <= 1:
            raise SpecError(
                "spacing",
                name,
                f"a single step would go from the first of {levels} noise levels to the data, not from pure noise: use "
                "trailing",
            )
        return spec

    def transition(self, model: Model) -> Transition:
        """The transition of the method, with the model's calibration where variance is "optimal".

        Raises:
            ValueError: an option that the method does not have, a value that it cannot take, no calibration, or no
                solver that was fitted.
        """
        if self.method == "fitted":
            return self.solver(model).transition
        options: dict[str, Any] = {**not_default(self.method, self.options)}
        if options.get("variance") == "optimal":
            options["spread"] = calibration(model).spread(model.process)
            options["last_std"] = LAST_STD if model.is_pictures else None
        return self.entry.make(**options)

    def times_for(self, model: Model) -> Tensor:
        """The times from the start to data, `[steps + 1]`, float64; of a specification that is checked."""
        if self.times is not None:
            return times(model.process, self.times)
        if self.steps is None or self.spacing is None:
            raise ValueError("steps and spacing are still open: call checked(model) first")
        law = moments(model).law(self.labels_for(model, range(1))) if self.start == "gaussian" else 0.0
        return path_of(model.process, self.steps, self.spacing, self.start, law)

    def labels_for(self, model: Model, rows: Sequence[int]) -> Tensor | None:
        """The numbers of the classes of the samples with these indices, `[len(rows)]`, or None."""
        if self.labels is None:
            return None
        numbers = [_number(model, self.labels[i % len(self.labels)]) for i in rows]
        return torch.tensor(numbers, dtype=torch.long)

    def conditions_for(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """What the network takes besides for the samples with these indices, by name, `[len(rows), ...]`.

        Sample i has row i, in turn where there are more samples than rows.

        Raises:
            OSError: the file is missing, or cannot be read.
            ValueError: it is no npz file, or an array in it has no rows.
        """
        if self.conditions is None:
            return {}
        arrays = _read_conditions(self.conditions, Path(self.conditions).stat().st_mtime_ns)
        return {name: array[[i % len(array) for i in rows]] for name, array in arrays.items()}

    def diffusion(self, model: Model, rows: Sequence[int], condition: Mapping[str, Tensor] | None = None) -> Diffusion:
        """The model as it draws the samples with these indices, with their labels, conditions, guidance and dtype.

        Arguments:
            condition: in place of `conditions_for(rows)`.
        """
        values = self.conditions_for(rows) if condition is None else dict(condition)
        for name, value in values.items():
            values[name] = value.to(model.device, self.network_dtype if value.is_floating_point() else None)
        labels = self.labels_for(model, rows)
        made = model.diffusion(labels, self.guidance, self.network_dtype, rescale=self.rescale, condition=values)
        if self.start == "gaussian":
            return made._replace(origin=moments(model).law(labels))
        if self.method == "fitted" and model.tuned is not None:
            origin = model.tuned.origin(self.solver(model), model.shape, labels)
            return made if origin is None else made._replace(origin=origin)
        return made

    @property
    def network_dtype(self) -> torch.dtype:
        """What the network computes in; float32 where nothing is chosen yet."""
        return DTYPES["float32" if self.dtype == AUTO else self.dtype]

    @property
    def state_dtype(self) -> torch.dtype:
        """What the sampler computes in: at least float32, because half precision loses what small steps add."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def label(self) -> str:
        """The method as a table names it, with its eta and what is not at its default: `ddim, η = 0.5`.

        The larger variance of the DDPM paper is `ddpm, σ̂`.
        """
        if self.method == "ddpm" and self.options.get("variance") == "beta":
            return "ddpm, σ̂"
        if self.method in ("fitted", AUTO):
            return self.method
        usual = fields.defaults(self.method)
        shown = {**usual, **self.options} if "eta" in usual else self.options
        named = [
            f"{'η' if name == 'eta' else name} = {f'{value:g}' if isinstance(value, float) else value}"
            for name, value in shown.items()
            if name == "eta" or value != usual.get(name)
        ]
        return ", ".join([self.method, *named])


def calibration(model: Model) -> Calibration:
    """What the optimal variance needs. Raises ValueError for a model that was not calibrated."""
    if model.calibration is None:
        raise ValueError(
            "variance=optimal needs to know the errors of these weights: run leapstep calibrate MODEL DATA (again, if "
            "they have changed since)"
        )
    return model.calibration


def moments(model: Model) -> Moments:
    """What the start "gaussian" needs. Raises ValueError for a model whose moments nobody took."""
    if model.moments is None:
        raise ValueError(
            "start=gaussian needs the mean and covariance of the data: run leapstep tune MODEL, or leapstep calibrate "
            "MODEL DATA (again, if the weights have changed since)"
        )
    return model.moments


@functools.lru_cache(maxsize=2)
def _read_conditions(path: str, modified: int) -> dict[str, Tensor]:
    """The arrays in a file, once for each time at which it was modified."""
    arrays = reading.read_npz(path)
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) == 0 or array.dtype.kind not in "biuf":
            raise ValueError(f"{path}: {name} is {array.dtype} of shape {list(array.shape)}: give numbers, [n, ...]")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _number(model: Model, label: str | int) -> int:
    """The number of a class, given by name or number."""
    if not model.classes:
        raise SpecError("labels", label, "this model was trained without labels")
    if label in model.classes:
        return model.classes.index(str(label))
    try:
        number = int(label)
    except ValueError:
        number = -1
    if not 0 <= number < len(model.classes):
        raise SpecError("labels", label, allowed(label, model.classes))
    return number
