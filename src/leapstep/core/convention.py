"""How a network is called, and what its output means: everything one must know of a network besides its weights.

A network that predicts noise on 1000 trained levels and counts them from 0 is `Convention(linear())`. A `Convention` is
the only place in this library that knows of timesteps: `timestep` turns a time t in [0, 1] into what the network is
told. It can be compared, written to JSON and read again, and it is what importers and `leapstep.diagnose` find.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leapstep.core.printing import shown, summary
from leapstep.core.process import PREDICTIONS, Process, flat
from leapstep.core.scaling import Scaling
from leapstep.core.schedules import SCHEDULES, TABLES, as_process, check_count
from leapstep.core.spacing import SPACINGS
from leapstep.core.tabulated import Coefficient, tabulated
from leapstep.text import SYNONYMS, allowed

VERSION = 1
"""Of the JSON form. It grows when older versions of this library would misread a newer file."""

CLOCKS = {
    "index": "k - 1, the trained levels counted from 0: most DDPM code, diffusers",
    "index_from_1": "k, from 1 to T",
    "fraction": "k / T, or t itself in continuous time",
    "fraction_from_0": "(k - 1) / T",
    "1000t": "1000 t in continuous time",
    "999t": "999 t in continuous time, as score-based SDE code has it",
    "1000sigma": "1000 sigma(t), for straight lines: diffusers' flow matching, however time is shifted",
    "sigma": "sigma(t)",
    "log_sigma/4": "log(sigma / alpha) / 4, EDM's c_noise",
    "angle": "(2 / pi) arctan(sigma / alpha), from 0 to 1",
    "log_snr": "log(alpha^2 / sigma^2)",
    "-log_snr": "its negative, which grows towards noise",
}
"""How networks count time, by name: what they are told at time t = k / T."""

NOISE_CLOCKS = ("sigma", "log_sigma/4", "angle", "log_snr", "-log_snr")
"""Those that measure noise rather than count time."""

_OF_LOG_SNR = {"log_snr": 1.0, "-log_snr": -1.0, "log_sigma/4": -1 / 8}
"""Those that are a multiple of the log-SNR."""

SHAPES = ("[b]", "[b, 1]", "scalar")
"""In which shape networks take the timestep."""

Clip = tuple[float, float] | Callable[[Tensor], Tensor]
"""A range (low, high) that x0 cannot leave, or a function of x0."""


@dataclasses.dataclass(frozen=True, repr=False)
class DynamicThreshold:
    """Bound each x0 by its own quantile s of absolute values, then divide by s / limit, wherever s exceeds the limit.

    Attributes:
        quantile: share of the values that keep their size.
        limit: the size that x0 is brought back to.
        most: the most that s can be; None: anything. (diffusers has such a bound, of 1 if nothing is said.)
    Raises:
        ValueError: quantile outside (0, 1], a limit that is not positive, or most below it.
    References:
        Saharia et al. 2022 (Imagen), section 2.3, arXiv:2205.11487.
    """

    quantile: float = 0.995
    limit: float = 1.0
    most: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1 or not self.limit > 0 or (self.most is not None and self.most < self.limit):
            raise ValueError(f"{self}: quantile must lie in (0, 1], limit be above 0, and most not below it")

    def __repr__(self) -> str:
        most = "" if self.most is None else f", most={self.most}"
        return f"DynamicThreshold(quantile={self.quantile}, limit={self.limit}{most})"

    def __call__(self, x0: Tensor) -> Tensor:
        """Bound x0 `[b, *d]`."""
        size = flat(x0).abs().float().quantile(self.quantile, dim=1).clamp(self.limit, self.most).to(x0.dtype)
        size = size.reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-size, size) * (self.limit / size)


@dataclasses.dataclass(frozen=True, repr=False)
class Condition:
    """A keyword argument that a network takes besides x and the timestep, with a value for each sample.

    Attributes:
        name: of the argument.
        classes: the names of the classes 0, 1, ... where its values are class labels.
        null: the value that stands for "no condition", where the network was trained with one; a number, or nested
            tuples for a tensor without the batch.
    """

    name: str
    classes: tuple[str, ...] = ()
    null: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "null", _frozen(self.null))
        if self.classes and not isinstance(self.null, int | None):
            raise ValueError(f"null={self.null!r} of {self.name}: where there are classes it is a label, an integer")

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        null = "" if self.null is None else f", null={shown(self.null)}"
        return f"Condition({self.name!r}{classes}{null})"


@dataclasses.dataclass(frozen=True, repr=False)
class Convention:
    """How a network is called, and what its output means.

    Attributes:
        process: the process it was trained on, or the name of one of `SCHEDULES`.
        predicts: "eps" (the noise), "x0", "v", "score", "flow" or EDM's "F", or one of them with a minus in front;
            defined in `leapstep.core.process`. diffusers' words for them ("epsilon", "sample", ...) are understood.
        time: how the network counts time: one of `CLOCKS`, or a function from t (`[b]`, float64) to the timestep.
        timesteps: number of trained levels, where the process does not have it.
        fractional: whether an index may lie between two integers (sinusoidal embedding: yes; embedding table: no). If
            not, the nearest trained level is passed, as int64.
        reverse: whether the clock counts from noise to data: 1 - t for t, T - 1 - k for k.
        reshape: how the timestep is shaped, one of `SHAPES`, or a function of it `[b]` that touches it last. With
            "scalar" it is 0-dim, and samples at different times go through the network one time after the other.
        scaling: (shift, scale) with network's range = (your range - shift) / scale, such as (127.5, 127.5) for pixels
            and a network on [-1, 1]. The shift may be a tensor that broadcasts to one sample, the scale is one number.
            None: the two are the same.
        sigma_data: standard deviation of the data that the network was trained on (in its own range), for networks that
            see x_t / sqrt(alpha^2 sigma_data^2 + sigma^2), of variance 1; "F" needs it. None: the network sees x_t.
        clip: bound on the x0 estimate: (low, high) in your range, or a function of x0 in your range; only
            `dynamic_threshold()` acts in the network's own range, where the data lie around 0.
        learned_variance: whether the output has a second half of channels that is a learned variance, from -1
            (posterior) to 1 (beta); None: where it has twice the channels of x.
        origin: where the data lie in the network's own range, a number or a tensor `[*d]`; sampling starts around it.
        conditions: what else the network takes.
        shape: `d`, the shape of one sample, where it is known.
        spacing: the spacing of the steps that the network's authors sample with, one of `SPACINGS`, where it is known.
        steps: the number of steps that the network was distilled for; None: it takes any number.
    Raises:
        ValueError: an unknown name, a clock that counts levels that nobody has numbered, or numbers that do not fit.
    References:
        Karras et al. 2022, section 5 and table 1 (preconditioning), arXiv:2206.00364.
    """

    process: Process
    predicts: str = "eps"
    time: str | Callable[[Tensor], Tensor] = "index"
    timesteps: int | None = None
    fractional: bool = False
    reverse: bool = False
    reshape: str | Callable[[Tensor], Tensor] = "[b]"
    scaling: Scaling | None = None
    sigma_data: float | None = None
    clip: Clip | None = None
    learned_variance: bool | None = None
    origin: Any = 0.0
    conditions: tuple[Condition, ...] = ()
    shape: tuple[int, ...] | None = None
    spacing: str | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.timesteps is not None:
            check_count(timesteps=self.timesteps)
        if self.steps is not None:
            check_count(steps=self.steps)
        values: dict[str, Any] = {
            "process": as_process(self.process),
            "predicts": SYNONYMS.get(self.predicts, self.predicts),
            "scaling": None if self.scaling is None else as_scaling(self.scaling),
            "timesteps": None if self.timesteps is None else operator.index(self.timesteps),
            "fractional": bool(self.fractional),
            "reverse": bool(self.reverse),
            "learned_variance": None if self.learned_variance is None else bool(self.learned_variance),
            "sigma_data": None if self.sigma_data is None else float(self.sigma_data),
            "clip": self.clip if self.clip is None or callable(self.clip) else as_range(self.clip),
            "origin": _frozen(self.origin),
            "conditions": tuple(self.conditions),
            "shape": None if self.shape is None else tuple(int(size) for size in self.shape),
            "steps": None if self.steps is None else operator.index(self.steps),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        process, kind = self.process, self.predicts.removeprefix("-")
        if kind not in PREDICTIONS:
            raise ValueError(
                f"unknown predicts={self.predicts!r}: {allowed(self.predicts, PREDICTIONS)}, or -flow etc."
            )
        if self.sigma_data is not None and not 0 < self.sigma_data < math.inf:
            raise ValueError(f"sigma_data={self.sigma_data}: a standard deviation is above 0")
        if self.shape is not None and min(self.shape, default=1) < 1:
            raise ValueError(f"shape={self.shape}: sizes are integers of at least 1")
        if self.spacing is not None and self.spacing not in SPACINGS:
            raise ValueError(f"unknown spacing={self.spacing!r}: {allowed(self.spacing, SPACINGS)}")
        if wrong := [entry for entry in self.conditions if not isinstance(entry, Condition)]:
            raise ValueError(f"conditions hold {wrong[0]!r}: pass leapstep.Condition({str(wrong[0])!r})")
        if len({condition.name for condition in self.conditions}) < len(self.conditions):
            raise ValueError("two conditions have the same name: a network takes an argument once")
        if kind == "F" and self.sigma_data is None:
            raise ValueError("predicts='F' needs sigma_data, the standard deviation of the training data (EDM: 0.5)")
        if self.timesteps is not None and process.timesteps not in (None, self.timesteps):
            raise ValueError(
                f"timesteps={self.timesteps}, but the process has {process.timesteps} trained levels: leave it out"
            )
        if not callable(self.reshape) and self.reshape not in SHAPES:
            raise ValueError(
                f"unknown reshape={self.reshape!r}: {allowed(self.reshape, SHAPES)}, or a function of the timestep"
            )
        if callable(self.time):
            return
        if self.time not in CLOCKS:
            raise ValueError(f"unknown time={self.time!r}: {allowed(self.time, CLOCKS)}, or a function of t")
        if self.levels is None and (self.time.startswith("index") or self.time == "fraction_from_0"):
            raise ValueError(
                f"time={self.time!r} counts trained levels, but the process has none: pass timesteps=, or "
                "time='fraction'"
            )
        if self.reverse and self.time in NOISE_CLOCKS:
            raise ValueError(
                f"reverse is for clocks that count time, and {self.time} measures noise: use a function of t"
            )

    @property
    def levels(self) -> int | None:
        """The number of trained levels, T; None in continuous time."""
        return self.timesteps or self.process.timesteps

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, where a condition has some."""
        return next((condition.classes for condition in self.conditions if condition.classes), ())

    def inner(self) -> Convention:
        """The same for data in the network's own range: nothing is left to scale, and `clip` bounds there.

        Raises:
            ValueError: a clip that is a function of x0 in your range.
        """
        if self.scaling is None:
            return self
        shift, scale = self.scaling
        if isinstance(self.clip, tuple):
            if isinstance(shift, tuple):
                raise ValueError(f"clip={self.clip} has no range of its own where each value has a shift of its own")
            low, high = sorted((end - shift) / scale for end in self.clip)
            return dataclasses.replace(self, scaling=None, clip=(low, high))
        if self.clip is not None and not isinstance(self.clip, DynamicThreshold):
            raise ValueError(f"clip={self.clip!r} is a function of x0 in your range: clip what from_network returns")
        return dataclasses.replace(self, scaling=None)

    def scaled(self, scaling: Scaling) -> Convention:
        """The same network for data in another range, of a convention in the network's own; the inverse of `inner`."""
        shift, scale = as_scaling(scaling)
        clip = self.clip
        if isinstance(clip, tuple) and not isinstance(shift, tuple):
            low, high = sorted(end * scale + shift for end in clip)
            clip = (low, high)
        return dataclasses.replace(self, scaling=scaling, clip=clip)

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told at times t `[b]`, float64: float64, or int64 for an index that is not fractional.

        Nothing is ever asked below the first trained level, k = 1.
        """
        if callable(self.time):
            return self.time(t)
        levels, first = self.levels or 1, 1 / self.levels if self.levels else 0.0
        if self.time.startswith("index"):
            from_0 = int(self.time == "index")
            level = (t * levels).clamp(min=1) - from_0
            level = levels + 1 - 2 * from_0 - level if self.reverse else level
            return level if self.fractional else level.round().long()
        t = t.clamp(min=first)
        if self.time in NOISE_CLOCKS:
            return self._noise(t)
        if self.time == "1000sigma":
            sigma = self.process.sigma(t)
            return 1000 * (1 - sigma if self.reverse else sigma)
        least = first if self.time == "fraction_from_0" else 0.0
        fraction = 1 - least - (t - least) if self.reverse else t - least
        return {"1000t": 1000, "999t": 999}.get(self.time, 1) * fraction

    def _noise(self, t: Tensor) -> Tensor:
        if self.time == "sigma":
            return self.process.sigma(t)
        if self.time == "angle":
            return torch.atan2(self.process.sigma(t), self.process.alpha(t)) * (2 / math.pi)
        return self.process.log_snr(t) * _OF_LOG_SNR[str(self.time)]

    def time_of(self, timestep: Tensor | float) -> Tensor:
        """The times t at which the network is told these timesteps: the inverse of `timestep`, float64.

        Timesteps beyond the first or the last time give 0 or 1.

        Raises:
            ValueError: a clock that is a function of your own, or "sigma" where alpha is not 1.
        """
        if callable(self.time):
            raise ValueError(f"time={self.time!r} is a function, which has no inverse here: use one of the names")
        told = torch.as_tensor(timestep, dtype=torch.float64, device="cpu")
        if self.time in (*_OF_LOG_SNR, "angle", "sigma", "1000sigma"):
            return self.process.time(self._log_snr(told))
        levels = self.levels or 1
        if self.time.startswith("index"):
            from_0 = int(self.time == "index")
            level = told + from_0
            return ((levels + 1 - level if self.reverse else level) / levels).clamp(0, 1)
        fraction = told / {"1000t": 1000, "999t": 999}.get(self.time, 1)
        least = 1 / levels if self.time == "fraction_from_0" else 0.0
        return ((1 - least - fraction if self.reverse else fraction) + least).clamp(0, 1)

    def _log_snr(self, told: Tensor) -> Tensor:
        """The log-SNR at which a clock of the noise tells this."""
        if self.time == "angle":
            return -2 * torch.tan(told * (math.pi / 2)).log()
        if self.time not in ("sigma", "1000sigma"):
            return told / _OF_LOG_SNR[str(self.time)]
        if self.time == "1000sigma":
            sigma = (1 - told / 1000 if self.reverse else told / 1000).clamp(0, 1)
            return 2 * ((1 - sigma).log() - sigma.log())
        if self.process.alpha(torch.ones(1, dtype=torch.float64)) != 1:
            raise ValueError("time='sigma' has an inverse here on processes with alpha = 1 alone, such as ve")
        return -2 * told.log()

    # --- as JSON ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Write the convention down: a version, the process, the prediction, the clock, and what is not by default.

        Raises:
            ValueError: a function that cannot be written down: a process of one's own curves, a clock, a reshape or a
                clip.
        """
        for name in ("time", "reshape", "clip"):
            value = getattr(self, name)
            if callable(value) and not isinstance(value, DynamicThreshold):
                raise ValueError(f"{name}={value!r} is a function, which cannot be written down: use one of the names")
        always = ("process", "predicts", "time")
        fields = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name in always or getattr(self, field.name) != field.default
        }
        return {"convention": VERSION, **fields}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Convention:
        """Read what `to_json` wrote.

        Raises:
            ValueError: a newer version, an unknown or missing key, or a value that makes no convention.
        """
        from leapstep.core import schema

        if isinstance(value, Mapping) and isinstance(version := value.get("convention"), int) and version > VERSION:
            raise ValueError(f"convention version {version}: this leapstep reads up to {VERSION}, use a newer one")
        schema.checked(schema.Convention, value)
        fields = {name: entry for name, entry in value.items() if name != "convention"}
        if fields.get("scaling") is not None:
            fields["scaling"] = (fields["scaling"]["shift"], fields["scaling"]["scale"])
        if isinstance(fields.get("clip"), Mapping):
            fields["clip"] = DynamicThreshold(**fields["clip"])
        fields["process"] = process_from_json(fields["process"])
        fields["conditions"] = tuple(Condition(**condition) for condition in fields.get("conditions", ()))
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, in one atomic step."""
        from leapstep import files

        files.write_json(Path(path), self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> Convention:
        """Read a file that `save` wrote. Raises ValueError with the file's name, and OSError."""
        from leapstep.files import reading

        try:
            return cls.from_json(reading.read_json(Path(path)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    def __repr__(self) -> str:
        """The process, the prediction and the clock, and what is not by default."""
        always = ("process", "predicts", "time")
        values = [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return summary(
            self, [(field.name, value) for field, value in values if field.name in always or value != field.default]
        )


@tabulated
def timestep_at(convention: Convention, t: Tensor) -> Coefficient:
    """`Convention.timestep`, for a clock that goes by name."""
    return convention.timestep(t)


def process_to_json(process: Process) -> dict[str, Any]:
    """A process as the name of its schedule with its parameters; with `trained_levels` where their number is another.

    Raises:
        ValueError: a process of one's own curves.
    """
    if process.schedule is None:
        raise ValueError(
            f"a process of one's own curves cannot be written down: make it by one of {', '.join(SCHEDULES)}, or "
            "from_log_snr with the log-SNRs of its levels"
        )
    make, arguments = process.schedule
    written = {"name": make.__name__, **{name: _plain(value) for name, value in arguments}}
    made = make(**dict(arguments))
    return written if made.timesteps == process.timesteps else {**written, "trained_levels": process.timesteps}


def process_from_json(value: Mapping[str, Any]) -> Process:
    """Make a process as `process_to_json` wrote it.

    Raises:
        ValueError: an unknown name or parameter, or one that is out of range.
    """
    parameters = dict(value)
    name, levels = parameters.pop("name", None), parameters.pop("trained_levels", ...)
    makers: dict[str, Any] = SCHEDULES | TABLES
    if name not in makers:
        raise ValueError(f"there is no process {name!r}: {allowed(str(name), makers)}")
    if unknown := set(parameters) - set(inspect.signature(makers[name]).parameters):
        raise ValueError(f"the process {name} has no parameter {', '.join(sorted(unknown))}")
    process: Process = makers[name](**parameters)
    return process if levels is ... else process._replace(timesteps=levels)


def as_scaling(scaling: Any) -> Scaling:
    """A pair (shift, scale) whose scale is one number that is not 0. Raises ValueError for others."""
    try:
        shift, scale = scaling
    except (TypeError, ValueError):
        raise ValueError(
            f"scaling={scaling!r}: give a pair (shift, scale), such as (127.5, 127.5) for pixels"
        ) from None
    one = not isinstance(scale, str) and torch.as_tensor(scale).numel() == 1
    if not one or not math.isfinite(scale) or scale == 0:
        raise ValueError(
            f"scale={scale}: one number that is not 0 is folded in; with a scale for each feature, sample in the "
            "network's own range and multiply the samples"
        )
    return Scaling(_frozen(shift), float(scale))


def as_range(clip: Any) -> tuple[float, float]:
    """A range (low, high) of numbers. Raises ValueError for others."""
    try:
        low, high = (float(end) for end in clip)
    except (TypeError, ValueError):
        raise ValueError(f"clip={clip!r}: give a range (low, high), or a function of x0") from None
    if not low < high:
        raise ValueError(f"clip=({low:g}, {high:g}): the low end must lie below the high end")
    return low, high


def _frozen(value: Any) -> Any:
    """Tensors and lists as nested tuples, which can be compared and hashed; numbers and None as they are."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(_frozen, value)) if isinstance(value, Iterable) and not isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """A field as JSON."""
    if isinstance(value, Process):
        return process_to_json(value)
    if isinstance(value, Scaling):
        return value._asdict()
    if isinstance(value, DynamicThreshold | Condition):
        return {name: _plain(entry) for name, entry in dataclasses.asdict(value).items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
