"""Transitions that print, compare and pickle by the method that made them and its options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

from leapstep.core.printing import shown

P = ParamSpec("P")


@dataclass(frozen=True, repr=False, eq=False)
class NamedTransition:
    """A transition of one of this library's methods.

    Attributes:
        make: the function that made it, such as `leapstep.unipc`.
        options: all of that function's arguments, by name.
        step: the transition itself.
    """

    make: Callable[..., NamedTransition]
    options: dict[str, Any]
    step: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Take a step; see `leapstep.Transition`."""
        return self.step(*arguments)

    def __repr__(self) -> str:
        defaults = {name: parameter.default for name, parameter in inspect.signature(self.make).parameters.items()}
        options = [
            shown(value) if defaults[name] is inspect.Parameter.empty else f"{name}={shown(value)}"
            for name, value in self.options.items()
            if value != defaults[name]
        ]
        return f"{self.make.__name__}({', '.join(options)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedTransition) and (self.make, self.options) == (other.make, other.options)

    def __hash__(self) -> int:
        return hash((self.make, tuple(self.options.items())))

    def __reduce__(self) -> tuple[Callable[..., NamedTransition], tuple[()]]:
        return functools.partial(self.make, **self.options), ()


FACTORIES: set[Callable[..., Any]] = set()
"""The functions that make named transitions."""


def named(make: Callable[P, Callable[..., Any]]) -> Callable[P, NamedTransition]:
    """Let the transitions that a function makes know it, and its arguments."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> NamedTransition:
        step = make(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return NamedTransition(made, bound.arguments, step)

    FACTORIES.add(made)
    return made
