"""What a pipeline does in its first steps: how it calls its network, and what it makes of the answers.

A pipeline's loop is code of its own: it repeats the latents for guidance, adds channels of a mask, packs, divides the
timestep, and combines what the network answers to the model output that its scheduler steps with. None of that is
written down anywhere, but all of it can be seen: `record` runs the pipeline for a few steps and keeps every call of a
network and every step of the scheduler. The pipeline itself is not touched: a copy of it is run, with a copy of the
scheduler and with stand-ins that hand calls on to its networks.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapstep.core.calling import as_tensor
from leapstep.text import one_line, reason

STEPS = 3
"""So many are recorded: two tell the clock, and the third proves it."""

ASKED = (STEPS + 1, 16, 64)
"""So many are asked for, until `STEPS` of them are made."""

NOT_DENOISERS = ("vae", "encoder", "checker", "vocoder", "tokenizer", "extractor")
"""Parts of the names of a pipeline's networks that never see noisy latents."""


class Call(NamedTuple):
    """A call of a network.

    Attributes:
        part: the pipeline's name of the network.
        values: all arguments, by name.
        raw: what it returned.
    """

    part: str
    values: dict[str, Any]
    raw: Any

    @property
    def output(self) -> Tensor:
        """The tensor that it returned."""
        return as_tensor(self.raw[0] if isinstance(self.raw, tuple | list) else self.raw)


class Step(NamedTuple):
    """A step of the scheduler, and the calls of networks before it.

    Attributes:
        output, timestep, sample: what the scheduler was given.
        after: the sample that it returned.
        calls: since the step before.
    """

    output: Tensor
    timestep: float
    sample: Tensor
    after: Tensor
    calls: tuple[Call, ...]


class Recording(NamedTuple):
    """What a pipeline did.

    Attributes:
        steps: its first steps.
        mu: how far it told its scheduler to shift time; None: it did not.
    """

    steps: list[Step]
    mu: float | None


class Recorded(Exception):
    """Ends a pipeline's run: everything that was wanted of it has been seen."""


def record(pipe: Any, call: Mapping[str, Any], steps: int = STEPS) -> Recording:
    """Run a pipeline and keep its first steps.

    Arguments:
        pipe: of diffusers.
        call: arguments of its call.
        steps: so many.
    Raises:
        ValueError: the pipeline refuses the arguments, or made fewer steps.
    """
    recorded: list[Step] = []
    calls: list[Call] = []
    shifts: list[float] = []

    def spaced(set_timesteps: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("mu") is not None:
            shifts.append(float(kwargs["mu"]))
        return set_timesteps(*args, **kwargs)

    def called(part: str, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        answer = network(*args, **kwargs)
        calls.append(Call(part, _named(network, args, kwargs), answer))
        return answer

    def stepped(step: Callable[..., Any], output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kw: Any) -> Any:
        result = step(output, timestep, sample, *args, **kw)
        after = result[0] if isinstance(result, tuple) else result.prev_sample
        recorded.append(Step(output, float(timestep), sample, after, tuple(calls)))
        calls.clear()
        if len(recorded) == steps:
            raise Recorded
        return result

    for asked in ASKED:  # part of the steps may be left out, as by the strength of a change
        run(pipe, {**call, "num_inference_steps": asked}, called, stepped, spaced)
        if len(recorded) == steps:
            return Recording(recorded, shifts[-1] if shifts else None)
        recorded.clear()
    raise ValueError(f"{type(pipe).__name__} made fewer than {steps} of {ASKED[-1]} steps with its scheduler")


def recorded_again(pipe: Any, call: Mapping[str, Any], first: Step) -> Step:
    """The first step of another call, to whose network the answers of a recorded one are given, repeated to its rows.

    Nothing is computed: it shows which arguments have a row for each sample.
    """
    answers, calls, seen = iter(first.calls), [], []

    def called(part: str, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        before = next(answers)
        values = _named(network, args, kwargs)
        calls.append(Call(part, values, before.raw))
        return mapped(before.raw, lambda value: value.repeat_interleave(2, 0))

    def stepped(step: Callable[..., Any], output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kw: Any) -> Any:
        seen.append(Step(output, float(timestep), sample, sample, tuple(calls)))
        raise Recorded

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is doubled, as one image for two prompts
        for asked in ASKED:
            if not seen:
                run(pipe, {**call, "num_inference_steps": asked}, called, stepped)
    return seen[0]


def run(
    pipe: Any,
    call: Mapping[str, Any],
    called: Callable[..., Any],
    stepped: Callable[..., Any],
    spaced: Callable[..., Any] | None = None,
    **parts: Any,
) -> Any:
    """Run a copy of a pipeline whose networks and scheduler are watched.

    Arguments:
        called: called as `called(part, network, *args, **kwargs)` in place of each network, from `set_timesteps` on:
            what makes the conditions before is called as it is.
        stepped: called as `stepped(step, *args, **kwargs)` in place of the scheduler's `step`.
        spaced: called as `spaced(set_timesteps, *args, **kwargs)` in place of that; None: it is called.
        parts: other parts of the copy.
    Returns:
        what the pipeline returns, or None where one of them raised `Recorded`.
    Raises:
        ValueError: the pipeline refuses its arguments.
    """
    twin = copy.copy(pipe)
    scheduler = copy.deepcopy(pipe.scheduler)
    step = scheduler.step
    scheduler.step = functools.wraps(step)(functools.partial(stepped, step))
    set_timesteps, begun = scheduler.set_timesteps, []

    def begin(*args: Any, **kwargs: Any) -> Any:
        begun.append(kwargs)
        return set_timesteps(*args, **kwargs) if spaced is None else spaced(set_timesteps, *args, **kwargs)

    def hand(name: str, part: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return called(name, part, *args, **kwargs) if begun else part(*args, **kwargs)

    scheduler.set_timesteps = functools.wraps(set_timesteps)(begin)
    parts |= {"scheduler": scheduler} | {
        name: stand_in(part, functools.partial(hand, name, part))
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module) and not any(word in name for word in NOT_DENOISERS)
    }
    for name, part in parts.items():
        setattr(twin, name, part)
    twin.set_progress_bar_config(**{**getattr(pipe, "_progress_bar_config", {}), "disable": True})
    function = type(pipe).__call__
    if torch.is_grad_enabled():  # without the no_grad around it
        function = getattr(function, "__wrapped__", function)
    try:
        return function(twin, **call)
    except Recorded:
        twin.maybe_free_model_hooks()
        return None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{type(pipe).__name__} refuses this call: {one_line(reason(error), 400)}") from error


def stand_in(network: nn.Module, forward: Callable[..., Any], name: str = "forward") -> nn.Module:
    """A copy of a network, with the same weights and attributes, one of whose methods is another function."""
    twin = copy.copy(network)
    twin._forward_hooks, twin._forward_pre_hooks = type(network._forward_hooks)(), type(network._forward_pre_hooks)()
    setattr(twin, name, forward)
    return twin


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """A value with each tensor in it, in tuples, lists and dictionaries, replaced by a function of it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        items = {name: mapped(item, function) for name, item in value.items()}
        return items if type(value) is dict else type(value)(**items)  # an output of diffusers, whose fields are keys
    if isinstance(value, tuple | list):
        return type(value)([mapped(item, function) for item in value])
    return value


def zipped(value: Any, other: Any, function: Callable[[Any, Any], Any]) -> Any:
    """A function of the leaves of two values of the same structure, in that structure; see `mapped`."""
    if isinstance(value, Mapping):
        return {name: zipped(item, other[name], function) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)([zipped(*two, function) for two in zip(value, other, strict=True)])
    return function(value, other)


def paired(values: Any, others: Any) -> list[tuple[Any, Any]]:
    """The leaves of two values of the same structure, side by side; whole branches where the structures differ."""
    if isinstance(values, Mapping) and isinstance(others, Mapping) and values.keys() == others.keys():
        return [pair for name in values for pair in paired(values[name], others[name])]
    if isinstance(values, tuple | list) and isinstance(others, tuple | list) and len(values) == len(others):
        return [pair for two in zip(values, others, strict=True) for pair in paired(*two)]
    return [(values, others)]


def same(values: Any, others: Any) -> bool:
    """Whether two arguments are equal in all their parts."""
    return all(
        one.shape == other.shape and torch.equal(one, other)
        if isinstance(one, Tensor) and isinstance(other, Tensor)
        else type(one) is type(other) and bool(one is other or one == other)
        for one, other in paired(values, others)
    )


def _named(network: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name."""
    bound = inspect.signature(network.forward).bind(*args, **kwargs)
    values = dict(bound.arguments)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            values |= values.pop(parameter.name, {})
    return values
