"""What all importers share: their result, and the configuration given by the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from leapstep.files.schema import LEVELS, SIDE
from leapstep.models.model import Model
from leapstep.text import one_line

Value = TypeVar("Value")
State = Mapping[str, Tensor]
"""The flat state dict of a network."""


class Import(NamedTuple):
    """What a reader makes of a checkpoint: the model, and a line for each conclusion."""

    model: Model
    evidence: tuple[str, ...]


class Chosen(NamedTuple):
    """The state dict that was chosen from a container, and a line for each choice."""

    state: State
    evidence: tuple[str, ...]


class Settings:
    """The settings of one import, taken one by one; what was concluded is kept as `evidence`.

    Names are dotted: `diffusion.beta_schedule` is the key of a section.

    Arguments:
        config: what the user gave, nested or flat.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.given = {name: value for name, value in _flat(config) if value is not None}
        self.evidence: list[str] = []
        self._known: list[str] = []

    def say(self, line: str) -> None:
        """Keep a conclusion."""
        self.evidence.append(line)

    def take(self, name: str, default: Value, what: str) -> Value:
        """The value of a setting, or a default of that project, which is then said to be assumed.

        Arguments:
            name: of the setting.
            default: its type is that of every value: an int for a float is right, all else is refused.
            what: what the setting decides, as the evidence calls it.
        """
        self._known.append(name)
        if name not in self.given:
            self.say(f"{what}: {default}, assumed, as that project does where nothing is said (--set {name}=...)")
            return default
        value = _typed(name, self.given[name], type(default))
        self.say(f"{what}: {value}, as {name} says")
        return value

    def need(self, name: str, kind: type[Value], what: str) -> Value:
        """The value of a setting that must be given, because neither weights nor defaults tell it.

        Raises:
            ValueError: it was not given, or is of another type.
        """
        self._known.append(name)
        if name not in self.given:
            raise ValueError(f"the weights do not tell the {what}: give it, --set {name}=...")
        value = _typed(name, self.given[name], kind)
        self.say(f"{what}: {value}, as {name} says")
        return value

    def levels(self, name: str, default: int, what: str) -> int:
        """A number of noise levels, as `take` takes it.

        Raises:
            ValueError: it is not one, or more than any network has.
        """
        count = self.take(name, default, what)
        if not 1 <= count <= LEVELS:
            raise ValueError(f"{name}={count}: a number of noise levels lies between 1 and {LEVELS}")
        return count

    def optional(self, name: str, kind: type[Value]) -> Value | None:
        """The value of a setting, or None where it was not given; nothing is said of it."""
        self._known.append(name)
        value = self.given.get(name)
        return None if value is None else _typed(name, value, kind)

    def agree(self, name: str, derived: Value, source: str) -> Value:
        """A value that the weights tell; a setting may repeat it but not contradict it.

        Arguments:
            source: the keys or shapes that tell it.
        Raises:
            ValueError: the setting says something else.
        """
        self._known.append(name)
        given = self.given.get(name, derived)
        if isinstance(derived, tuple):
            given = _numbers(name, given) or derived
        if given != derived:
            raise ValueError(f"{name} is given as {given}, but {source} tells {derived}: leave it out, or correct it")
        self.say(f"{name}: {derived}, told by {source}")
        return derived

    def refuse(self, name: str, allowed: Iterable[Any], why: str) -> None:
        """Let a setting have values only under which the network is one that can be built here."""
        self._known.append(name)
        allowed = list(allowed)
        if name in self.given and self.given[name] not in allowed:
            values = " or ".join(map(str, allowed))
            raise ValueError(f"{name}={self.given[name]} is not supported, only {values}: {why}")

    def finish(self, *ignored: str) -> tuple[str, ...]:
        """End with the evidence; a setting that nobody asked for is a mistake.

        Arguments:
            ignored: settings of that project, and sections (`training.`), that say nothing about sampling.
        Raises:
            ValueError: a setting that is neither known nor ignored.
        """
        known = [*self._known, *ignored]
        for name in self.given:
            if not any(name == other or (other.endswith(".") and name.startswith(other)) for other in known):
                raise ValueError(f"there is no setting {name} here: use one of {', '.join(dict.fromkeys(self._known))}")
        return tuple(self.evidence)


def as_linear(state: State, network: nn.Module) -> dict[str, Tensor]:
    """Turn kernels of size 1 into matrices wherever the network has a linear layer of that name."""
    expected = network.state_dict()
    return {
        key: tensor.flatten(1)
        if key in expected and tensor.ndim > expected[key].ndim == 2 and tensor[0, 0].numel() == 1
        else tensor
        for key, tensor in state.items()
    }


def square(settings: Settings, name: str, channels: tuple[int, ...]) -> int:
    """The side of the pictures, from a setting; a U-Net with levels of these channels must be able to halve it."""
    size, multiple = settings.need(name, int, "size of the pictures"), 2 ** (len(channels) - 1)
    if not 1 <= size <= SIDE or size % multiple:
        raise ValueError(
            f"{name}={size} must be a multiple of {multiple} up to {SIDE}: {len(channels)} levels halve it that often"
        )
    return size


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    """A list of numbers, also as "1,2,2", which is empty where the project is to choose."""
    items = [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value
    try:
        return tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={one_line(repr(value), 60)} is not a list of numbers") from None


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _typed(name: str, value: Any, kind: type[Value]) -> Value:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, str):  # YAML takes 1e-4 for a text
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name}={one_line(repr(value), 60)} is not of the right kind: give {kind.__name__}")
    return value
