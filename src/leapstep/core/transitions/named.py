"""Transitions that print, compare and pickle by the method that made them and its options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec

import torch

from leapstep.core.arguments import takes
from leapstep.core.names import ours, refusal
from leapstep.core.printing import shown
from leapstep.text import one_line

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
        return isinstance(other, NamedTransition) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        """What it is compared by: tensors by their numbers."""
        return self.make, tuple((name, _comparable(value)) for name, value in self.options.items())

    def __reduce__(self) -> tuple[Callable[..., NamedTransition], tuple[()]]:
        return functools.partial(self.make, **self.options), ()


def _comparable(value: Any) -> Any:
    """A value that can be compared and hashed."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.dtype, tuple(value.shape), value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


class Method(NamedTuple):
    """A sampling method, with its options as they are by default.

    Attributes:
        make: of the method's options, a transition.
        order: of convergence; of the law where noise is injected, and 0 where the law keeps a bias.
        calls: of the network in a step; 0 for as many as a tolerance takes.
        deterministic: whether it injects no noise.
        use: when to use it.
    """

    make: Callable[..., NamedTransition]
    order: int
    calls: int
    deterministic: bool
    use: str


FACTORIES: dict[str, Callable[..., NamedTransition]] = {}
"""The functions that make named transitions, by name; `churned`, `corrected` and `inverted` make one of another."""


def named(make: Callable[P, Callable[..., Any]]) -> Callable[P, NamedTransition]:
    """Let the transitions that a function makes know it, and its arguments; another transition may go by name there."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> NamedTransition:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{make.__name__}() {error}: it takes {', '.join(signature.parameters)}") from None
        bound.apply_defaults()
        if "transition" in bound.arguments:
            bound.arguments["transition"] = as_transition(bound.arguments["transition"])
        return NamedTransition(made, bound.arguments, make(**bound.arguments))  # type: ignore[call-arg]

    FACTORIES[make.__name__] = made
    return made


def as_transition(method: Any) -> Callable[..., Any]:
    """The transition that is meant by a name of `TRANSITIONS`, by one of its methods, or by None: `ddim()`.

    A method also goes by its name in k-diffusion, ComfyUI and diffusers; see `ELSEWHERE`.

    Raises:
        ValueError: an unknown name, or nothing that could be a transition.
    """
    if isinstance(method, NamedTransition):
        return method
    alone = {name: make for name, make in FACTORIES.items() if "transition" not in inspect.signature(make).parameters}
    if isinstance(method, Method):
        method = method.make
    if method is None or isinstance(method, str):
        name, options = ours(method or "ddim")
        if name not in alone:
            raise ValueError(f"unknown transition {one_line(name, 60)!r}: {refusal(name, alone)}")
        return alone[name](**options)
    if any(method is make for make in FACTORIES.values()):  # not called, such as leapstep.unipc
        if method.__name__ in alone:
            return as_transition(method.__name__)
        raise ValueError(
            f"transition={method.__name__} makes one of another: call it, as in leapstep.{method.__name__}('heun')"
        )
    if not callable(method) or isinstance(method, type) or not takes(method, *[None] * 6):
        raise ValueError(
            f"transition={shown(method, 60)}: pass a name such as 'unipc' ({', '.join(alone)}), or a transition such "
            "as leapstep.unipc(order=3)"
        )
    transition: Callable[..., Any] = method
    return transition


RETURNING = ("unipc", "fitted")
"""Methods whose memory holds an x of an earlier step, from which the next one starts."""


def refuse_returning(wrapper: str, method: object) -> None:
    """Raises ValueError for a method, also a wrapped one, that would bring back x from before the wrapper's change."""
    while isinstance(method, NamedTransition):
        if (name := method.make.__name__) in RETURNING:
            raise ValueError(
                f"{wrapper}({name}): its steps start from x of an earlier step, as it was before it was {wrapper}: use "
                "ddim, dpmpp_2m or another method"
            )
        method = method.options.get("transition")
