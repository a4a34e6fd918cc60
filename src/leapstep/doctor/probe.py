"""How a network is called: shape, type and number of its timesteps, and whether it is deterministic.

Nothing here knows of noise. The network is called on data, and what it does with a timestep is watched from outside.
"""

from __future__ import annotations

import inspect
import math
import re
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from leapstep.core.calling import as_tensor, call
from leapstep.core.convention import SHAPES
from leapstep.doctor.budget import Budget
from leapstep.text import one_line

F64 = torch.float64
Condition = Callable[[Tensor], Mapping[str, Any]]
"""Of the rows `[b]` of the data, the network's keyword arguments for them."""

TIMES = (
    *("t", "ts", "time", "times", "timestep", "timesteps", "time_step", "step", "steps", "diffusion_step", "k"),
    *("sigma", "sigmas", "noise", "noise_level", "noise_levels", "noise_labels", "c_noise", "log_snr", "gamma"),
)
"""What people call the timestep among the arguments of a network."""

DATA = ("x", "x_t", "xt", "x_noisy", "sample", "noisy", "y_t", "z", "z_t")
"""What they call x."""

SMALLEST = 3
"""The batch with which a network proves that it can be called; larger ones that it refuses are halved."""

MEMORY = (MemoryError, torch.OutOfMemoryError)
"""What is no fault of the network's."""


@dataclass
class Probe:
    """A network, called as it wants to be.

    Attributes:
        net: the network.
        condition: its further arguments.
        reshape: the shape of the timestep, one of `leapstep.core.denoiser.SHAPES`.
        integers: whether it takes integers only.
        fractional: whether it tells timesteps between two integers apart.
        limit: number of rows of its table of timesteps; None where every timestep is answered.
        timed: whether its answers depend on the timestep at all.
        steady: whether it gives the same answer twice.
        separate: whether a sample's answer does not depend on the others in the batch.
        device: where it computes.
        batch: how many samples go through it at a time.
        calls: samples that have gone through it.
        broken: samples whose answer was not finite.
        learned: whether the answer has twice the channels of x, of which the second half is left aside.
        refused: a batch of this size was refused; every one as large goes through it in halves.
        on_call: called with the number of samples after each call.
        budget: what it may be asked, which learns from every call what a sample costs.
    """

    net: Callable[..., Any]
    condition: Condition
    device: torch.device
    batch: int = 64
    reshape: str = "[b]"
    integers: bool = False
    fractional: bool = True
    limit: int | None = None
    timed: bool = True
    steady: bool = True
    separate: bool = True
    calls: int = 0
    broken: int = 0
    learned: bool = False
    refused: float = math.inf
    on_call: Callable[[int], object] = field(default=lambda n: None, repr=False)
    budget: Budget = field(default_factory=Budget, repr=False)

    def __call__(self, x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
        """Answer x `[b, *d]` at timesteps `[b]`, with the conditions of these rows; what is not finite counts as 0."""
        if self.limit is not None:
            timestep = timestep.clamp(0, self.limit - 1)
        timestep, parts = timestep.round().long() if self.integers else timestep, []
        for start in range(0, len(x), self.batch):
            part, began = slice(start, start + self.batch), monotonic()
            with torch.no_grad():
                value, learned = call(
                    self.direct, x[part].to(self.device), timestep[part], self.condition(rows[part]), self.reshape
                )
            self.learned = learned is not None
            parts.append(value.cpu())
            self.budget.paid(len(value), monotonic() - began)
            self.calls += len(value)
            self.on_call(len(value))
        output = torch.cat(parts)
        bad = ~output.flatten(1).isfinite().all(1)
        self.broken += int(bad.sum())
        return output.nan_to_num(0.0, 0.0, 0.0)

    def direct(self, x: Tensor, timestep: Tensor, **keywords: Any) -> Tensor:
        """The network itself, in place of which it stands; a batch that it refuses goes through it in halves.

        Raises:
            ValueError: what it raised on `SMALLEST` samples or fewer, in one line; or it returned no tensor.
            MemoryError, torch.OutOfMemoryError: there is too little memory even for these.
        """
        if len(x) < self.refused:
            try:
                output = self.net(x, timestep, **keywords)
            except Exception as error:  # a stranger's network may raise anything
                if len(x) > SMALLEST:
                    self.refused = len(x)
                elif isinstance(error, MEMORY):
                    raise
                else:
                    raise ValueError(f"the network raised {_where(x, timestep, error)}") from error
            else:
                return as_tensor(output)
        parts = []
        for part in (slice(None, len(x) // 2), slice(len(x) // 2, None)):
            rows = {
                name: value[part] if isinstance(value, Tensor) and value.shape[:1] == x.shape[:1] else value
                for name, value in keywords.items()
            }
            parts.append(self.direct(x[part], timestep[part] if timestep.ndim else timestep, **rows))
        return torch.cat(parts)


def _where(x: Tensor, timestep: Tensor, error: Exception) -> str:
    """What a network raised, on what, and where."""
    values = [f"{value:.6g}" for value in dict.fromkeys(timestep.flatten().tolist())]
    listed = f"timestep{'s' if values[1:] else ''} {', '.join([*values[:3], *(['...'] if values[3:] else [])])}"
    words = one_line(str(error)) or "without a message"
    inner = (Path(torch.__file__).parent, Path(__file__).parent)
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not any(Path(frame.filename).is_relative_to(path) for path in inner)
    ]
    place = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__} on x of shape {tuple(x.shape)}, {listed}: {words}{place}"


def device_of(net: Callable[..., Any]) -> torch.device:
    """Where a network computes."""
    weights = next(iter(net.parameters()), None) if isinstance(net, nn.Module) else None
    return torch.device("cpu") if weights is None else weights.device


def probe(
    net: Callable[..., Any],
    values: Tensor,
    condition: Condition,
    hints: Mapping[str, Any],
    budget: Budget | None = None,
) -> Probe:
    """Find out how the network wants to be called, and what a call costs.

    Arguments:
        values: some data `[n, *d]`, float32.
        condition: further arguments by row.
        hints: "reshape" or "timesteps", where they are known.
        budget: what it may be asked; default: as much as one likes.
    Raises:
        ValueError: there is no way of calling it that works, or no answer of it is finite.
    """
    ask = Probe(net, condition, device_of(net), budget=budget or Budget())
    _check_order(net, set(condition(torch.arange(1))))
    x, rows = values[:3], torch.arange(3)
    ask.reshape, ask.integers = _form(ask, x, rows, hints.get("reshape"))
    ask.limit = _limit(ask, x[:1], rows[:1])
    ask.fractional = not ask.integers and _tells_fractions(ask, x, rows)
    one, two = (ask(x, torch.tensor([5.0, 9.0, 2.0], dtype=F64), rows) for _ in range(2))
    ask.steady = torch.allclose(one, two, rtol=1e-4, atol=1e-5)
    ask.separate = not ask.steady or _separate(ask, x, rows)
    ask.timed = not ask.steady or _timed(ask, x, rows)
    if ask.broken == ask.calls:
        ask(x, torch.tensor([0.25, 0.5, 0.75], dtype=F64), rows)  # where a clock of any kind has a meaning
    if ask.broken == ask.calls:
        raise ValueError(
            f"the network answers every question with what is not finite, {ask.calls} samples so far: look at its "
            "weights (a training that diverged?) and for a division by zero in it"
        )
    ask.batch = _batch(ask, values)
    _price(ask, values)
    return ask


def _check_order(net: Callable[..., Any], given: Collection[str]) -> None:
    """Make sure that the second argument is the timestep, where the names of the arguments tell which one is.

    Arguments:
        given: the names of the conditions.
    Raises:
        ValueError: another one is; with the wrapper that helps.
    """
    function = net.forward if isinstance(net, nn.Module) else net
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some say nothing
        return
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    alone = [each.name for each in parameters if each.kind == each.KEYWORD_ONLY]
    time = next((name for name in (*names, *alone) if name.lower() in TIMES), None)
    if time is None or (names[1:2] and names[1].lower() in TIMES):
        return
    others = [name for name in names if name != time]
    data = next((name for name in others if name.lower() in DATA and name not in given), None)
    data = data or next((name for name in reversed(others) if name not in given), None)
    if data is None:
        return
    needed = {each.name for each in parameters if each.default is each.empty} | {*given, time}
    words = {name: f'given["{name}"]' for name in others} | {time: "timestep", data: "x"}
    skipped = next((i for i, name in enumerate(names) if name not in needed), len(names))
    call = [words[name] for name in names[:skipped]]
    call += [f"{name}={words[name]}" for name in (*names[skipped:], *alone) if name in needed and name in words]
    raise ValueError(
        f"the network's arguments are ({', '.join([*names, *alone])}), and it is called as net(x, timestep, "
        f"**condition): wrap it, as in lambda x, timestep, **given: net({', '.join(call)})"
    )


def _form(ask: Probe, x: Tensor, rows: Tensor, shape: str | None) -> tuple[str, bool]:
    """The first shape and type of timesteps with which the answers of a batch are those of its samples alone."""
    accepted: list[tuple[str, bool]] = []
    refusals: list[ValueError] = []
    for reshape in SHAPES if shape is None else (shape,):
        if accepted and reshape == "scalar":
            break  # one time after the other every sample is alone
        for integers in (False, True):
            ask.reshape, ask.integers = reshape, integers
            try:
                ask(x, torch.tensor([3.0, 1.0, 8.0], dtype=F64), rows)
                accepted.append((reshape, integers))
                if _separate(ask, x, rows):
                    return reshape, integers
            except ValueError as error:
                refusals.append(error)
    if accepted:
        return accepted[0]
    refusal = _telling(refusals)
    if refusal.__cause__ is None:  # it answered, but not with what can be used
        raise refusal
    raise ValueError(f"the network cannot be called as net(x, timestep): {refusal}; {_advice(str(refusal), x.shape)}")


def _telling(refusals: Sequence[ValueError]) -> ValueError:
    """The refusal that says most: that of the call which came furthest, unless it is about the type of the timestep."""
    about_type = re.compile(r"\bLong\b|\bInt\b|Float|Double|dtype|scalar type|integer|converted to (a Python )?scalar")
    others = [error for error in refusals if not about_type.search(str(error))]

    def reach(error: ValueError) -> tuple[float, ...]:
        """The lines at which it stood in each function; a call that came to its end went further than all others."""
        if error.__cause__ is None:
            return (math.inf,)
        return tuple(frame.lineno or 0 for frame in traceback.extract_tb(error.__cause__.__traceback__))

    return max(others or refusals, key=reach)


def _advice(refusal: str, shape: Sequence[int]) -> str:
    """What to do about a refusal of x of this shape."""
    if lacks := re.search(r"missing \d+ required (?:positional|keyword-only) arguments?: '(\w+)'", refusal):
        return (
            f"give it {lacks[1]} as a condition, a value for each sample: condition={{'{lacks[1]}': ...}}, or on the "
            f"command line --condition or --label-argument {lacks[1]}"
        )
    if re.search(r"takes .* positional arguments? but .* given", refusal):
        return "it is given x and the timestep: wrap it in a function that takes both"
    layout = f"a sample of the data has shape {tuple(shape[1:])}, as their first axis counts samples"
    if len(shape) == 4 and shape[-1] in (1, 3) and shape[1] > 4:
        return f"{layout}: if the network wants channels first, give it data.transpose(0, 3, 1, 2)"
    if len(shape) == 3:
        return f"{layout}: if the network wants a channel as well, give it data[:, None]"
    return f"{layout}: give the data as the network takes them"


def _separate(ask: Probe, x: Tensor, rows: Tensor) -> bool:
    """Whether each sample of a batch is answered as if it were alone."""
    timesteps = torch.tensor([3.0, 1.0, 8.0], dtype=F64)
    together = ask(x, timesteps, rows)
    alone = torch.cat([ask(x[i : i + 1], timesteps[i : i + 1], rows[i : i + 1]) for i in range(3)])
    return torch.allclose(together, alone, rtol=1e-2, atol=1e-3 * (1e-6 + together.abs().max().item()))


def _limit(ask: Probe, x: Tensor, rows: Tensor) -> int | None:
    """The number of timesteps that a table holds: the first that is refused."""
    if ask.device.type != "cpu":  # there a wrong index ends the process
        modules = ask.net.modules() if isinstance(ask.net, nn.Module) else ()
        tables = [module.num_embeddings for module in modules if isinstance(module, nn.Embedding)]
        return tables[0] if ask.integers and tables else None

    def refused(k: int) -> bool:
        try:
            ask(x, torch.tensor([float(k)], dtype=F64), rows)
        except ValueError:
            return True
        return False

    low, high = 0, 16
    while not refused(high):
        low, high = high, 2 * high
        if high > 2**14:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refused(middle) else (middle, high)
    return high


def _tells_fractions(ask: Probe, x: Tensor, rows: Tensor) -> bool:
    """Whether an answer at 5.4 lies apart from those at 5 and at 6."""
    five, between, six = (ask(x, torch.full((3,), k, dtype=F64), rows) for k in (5.0, 5.4, 6.0))
    step = (six - five).abs().max()
    return bool(step == 0 or min((between - five).abs().max(), (between - six).abs().max()) > 0.02 * step)


def _timed(ask: Probe, x: Tensor, rows: Tensor) -> bool:
    """Whether any of very different timesteps changes the answer, to the data or to much noise, beyond rounding."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    timesteps = [0.0, 1.0, 3.0, 30.0, 300.0, 900.0] if ask.integers else [0.0, 0.2, 0.5, 1.0, 10.0, 300.0, 900.0]
    for seen in (x, noise, x.std() * noise):
        try:
            first, *others = (ask(seen, torch.full((len(x),), k, dtype=F64), rows) for k in timesteps)
        except ValueError:  # it refuses some of them, so it looks at them
            return True
        if any((first - other).abs().max() > 1e-5 * first.abs().max() for other in others):
            return True
    return False


def _price(ask: Probe, values: Tensor) -> None:
    """Time a call of a network that is warm, in a batch that takes at most a hundredth of the budget."""

    def seconds(size: int) -> float:
        rows = torch.arange(size) % len(values)
        began = monotonic()
        ask(values[rows], torch.full((size,), 5.0, dtype=F64), rows)
        return monotonic() - began

    size, took = SMALLEST, seconds(SMALLEST)
    while size < ask.batch and 2 * took < 0.01 * ask.budget.seconds:
        size = min(2 * size, ask.batch)
        took = seconds(size)
    took = min(took, seconds(size)) if took < 0.01 * ask.budget.seconds else took  # the first may compile
    ask.batch = size
    ask.budget.start(took / size)


def _batch(ask: Probe, values: Tensor) -> int:
    """Samples at a time: as many as hold about a million values, from 16 to 512."""
    return max(16, min(512, 2**18 // max(1, values[0].numel())))
