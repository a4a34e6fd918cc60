"""How a network is called: the shape and type of its timesteps, how many there are, and whether it answers alike twice.

Nothing here knows of noise. The network is called on data, and what it does with a timestep is watched from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from leapstep.denoiser import SHAPES

F64 = torch.float64
Condition = Callable[[Tensor], Mapping[str, Any]]
"""Of the rows `[b]` of the data, the network's keyword arguments for them."""


@dataclass
class Probe:
    """A network, called as it wants to be.

    Attributes:
        net: the network.
        condition: its further arguments.
        reshape: the shape of the timestep, one of `leapstep.denoiser.SHAPES`.
        integers: whether it takes integers only.
        fractional: whether it tells timesteps between two integers apart.
        limit: number of rows of its table of timesteps; None where every timestep is answered.
        steady: whether it gives the same answer twice.
        separate: whether a sample's answer does not depend on the others in the batch.
        device: where it computes.
        batch: how many samples go through it at a time.
        calls: samples that have gone through it.
        broken: samples whose answer was not finite.
        channels: 2 where the answer has twice the channels of x, and its second half is left aside.
        on_call: called with the number of samples after each call.
    """

    net: Callable[..., Any]
    condition: Condition
    device: torch.device
    batch: int = 64
    reshape: str = "[b]"
    integers: bool = False
    fractional: bool = True
    limit: int | None = None
    steady: bool = True
    separate: bool = True
    calls: int = 0
    broken: int = 0
    channels: int = 1
    on_call: Callable[[int], object] = field(default=lambda n: None, repr=False)

    def __call__(self, x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
        """Answer x `[b, *d]` at timesteps `[b]`, with the conditions of these rows; what is not finite counts as 0."""
        parts = []
        for start in range(0, len(x), self.batch):
            own = slice(start, start + self.batch)
            parts.append(self._answer(x[own], timestep[own], rows[own]))
            self.calls += len(parts[-1])
            self.on_call(len(parts[-1]))
        output = torch.cat(parts)
        bad = ~output.flatten(1).isfinite().all(1)
        self.broken += int(bad.sum())
        return output.nan_to_num(0.0, 0.0, 0.0)

    def _answer(self, x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
        if self.limit is not None:
            timestep = timestep.clamp(0, self.limit - 1)
        told = timestep.round().long() if self.integers else timestep.to(x.dtype)
        if self.reshape != "scalar" or (told == told[0]).all():
            return self._call(x, told, rows)
        output: Tensor | None = None
        for value in torch.unique(told):
            own = told == value
            part = self._call(x[own], told[own], rows[own])
            output = part.new_empty(len(x), *part.shape[1:]) if output is None else output
            output[own] = part
        assert output is not None
        return output

    def _call(self, x: Tensor, told: Tensor, rows: Tensor) -> Tensor:
        shaped = {"[b]": told, "[b, 1]": told[:, None], "scalar": told[0]}[self.reshape].to(self.device)
        with torch.no_grad():
            output = self.net(x.to(self.device), shaped, **self.condition(rows))
        value = output if isinstance(output, Tensor) else getattr(output, "sample", None)
        if not isinstance(value, Tensor):
            raise ValueError(f"the network returned {type(output).__name__}: return a tensor, or one in .sample")
        if value.ndim == x.ndim > 1 and value.shape[1] == 2 * x.shape[1]:
            value, self.channels = value.chunk(2, dim=1)[0], 2
        if value.shape != x.shape:
            raise ValueError(f"the network returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}")
        return value.to(device="cpu", dtype=x.dtype)


def probe(net: Callable[..., Any], values: Tensor, condition: Condition, hints: Mapping[str, Any]) -> Probe:
    """Find out how the network wants to be called.

    Arguments:
        values: some data `[n, *d]`, float32.
        condition: further arguments by row.
        hints: "reshape" or "timesteps", where they are known.
    Raises:
        ValueError: there is no way of calling it that works.
    """
    weights = next(iter(net.parameters()), None) if isinstance(net, nn.Module) else None
    found = Probe(net, condition, torch.device("cpu") if weights is None else weights.device)
    x, rows = values[:3], torch.arange(3)
    found.reshape, found.integers = _form(found, x, rows, hints.get("reshape"))
    found.limit = _limit(found, x[:1], rows[:1])
    found.fractional = not found.integers and _tells_fractions(found, x, rows)
    one, two = (found(x, torch.tensor([5.0, 9.0, 2.0], dtype=F64), rows) for _ in range(2))
    found.steady = torch.allclose(one, two, rtol=1e-4, atol=1e-5)
    found.separate = not found.steady or _separate(found, x, rows)
    found.batch = _batch(found, values)
    return found


def _form(found: Probe, x: Tensor, rows: Tensor, shape: str | None) -> tuple[str, bool]:
    """The first shape and type of timesteps with which the answers of a batch are those of its samples alone."""
    accepted: list[tuple[str, bool]] = []
    refusals: list[str] = []
    for reshape in SHAPES if shape is None else (shape,):
        if accepted and reshape == "scalar":
            break  # one time after the other every sample is alone
        for integers in (False, True):
            found.reshape, found.integers = reshape, integers
            try:
                found(x, torch.tensor([3.0, 1.0, 8.0], dtype=F64), rows)
                accepted.append((reshape, integers))
                if _separate(found, x, rows):
                    return reshape, integers
            except Exception as error:  # a stranger's network may raise anything
                refusals.append(f"{reshape} {'integers' if integers else 'floats'}: {type(error).__name__}: {error}")
    if accepted:
        return accepted[0]
    raise ValueError(f"the network cannot be called as net(x, timestep) on x of shape {tuple(x.shape)}: {refusals[0]}")


def _separate(found: Probe, x: Tensor, rows: Tensor) -> bool:
    """Whether each sample of a batch is answered as if it were alone."""
    told = torch.tensor([3.0, 1.0, 8.0], dtype=F64)
    together = found(x, told, rows)
    alone = torch.cat([found(x[i : i + 1], told[i : i + 1], rows[i : i + 1]) for i in range(3)])
    return torch.allclose(together, alone, rtol=1e-2, atol=1e-3 * (1e-6 + together.abs().max().item()))


def _limit(found: Probe, x: Tensor, rows: Tensor) -> int | None:
    """The number of timesteps that a table holds: the first that is refused."""
    if found.device.type != "cpu":  # there a wrong index ends the process
        modules = found.net.modules() if isinstance(found.net, nn.Module) else ()
        tables = [module.num_embeddings for module in modules if isinstance(module, nn.Embedding)]
        return tables[0] if found.integers and tables else None

    def refused(k: int) -> bool:
        try:
            found(x, torch.tensor([float(k)], dtype=F64), rows)
        except (IndexError, RuntimeError, ValueError, AssertionError):
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


def _tells_fractions(found: Probe, x: Tensor, rows: Tensor) -> bool:
    """Whether an answer at 5.4 lies apart from those at 5 and at 6."""
    five, between, six = (found(x, torch.full((3,), k, dtype=F64), rows) for k in (5.0, 5.4, 6.0))
    step = (six - five).abs().max()
    return bool(step == 0 or min((between - five).abs().max(), (between - six).abs().max()) > 0.02 * step)


def _batch(found: Probe, values: Tensor) -> int:
    """Samples at a time: as many as hold about a million values, from 16 to 512."""
    return max(16, min(512, 2**18 // max(1, values[0].numel())))
