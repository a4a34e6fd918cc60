"""A trajectory whose network is called by somebody else.

A pipeline calls its network and hands the answer to a scheduler; a transition calls a denoiser itself, once or several
times a step. Both agree once the transition is *replayed*: it is a pure function, so it is run from the beginning of
the step with a denoiser that returns the answers so far. Where it asks for one more, the x that it asks for is what the
pipeline has to show the network next; where it does not, the step is done. Only elementwise work is repeated.

When the transition asks depends on times alone, so a rehearsal with a sample of one number tells all calls beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion, Estimate
from leapstep.core.process import Process
from leapstep.core.sampling import trajectory
from leapstep.core.tabulated import Table
from leapstep.core.transitions import Memory, Step, Transition, ddim

StepNoise = Callable[..., Tensor]
"""(step, draw) -> standard normal noise `[b, *d]`."""


class Call(NamedTuple):
    """A call of the network.

    Attributes:
        step: the step that asks for it, from 0.
        t: the time of the x that it sees.
        opens: whether it is the first of its step.
    """

    step: int
    t: float
    opens: bool


class Halt(NamedTuple):
    """Where a trajectory waits for an answer.

    Attributes:
        x: what the network sees next, or the result after the last call, `[b, *d]`.
        start: x at the beginning of the step, `[b, *d]`.
        estimates: of the network in this step, so far.
        memory: of the method, from before this step.
        raised: whether x has gone up from `start` before the first call of the step.
    """

    x: Tensor
    start: Tensor
    estimates: tuple[Estimate, ...] = ()
    memory: Memory = None
    raised: bool = False


class _Asked(Exception):
    """The transition asks for an answer that is not there yet."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class _Answers:
    """A denoiser that gives the answers it has, in their order."""

    def __init__(self, known: Sequence[Estimate]) -> None:
        self.known = iter(known)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.estimate(x, t).x0

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        known = next(self.known, None)
        if known is None:
            raise _Asked(x)
        return known


class _Rehearsal:
    """A denoiser that writes down at what times it is asked."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.estimate(x, t).x0

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        self.times.append(float(t))
        return Estimate(torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x))


class Plan:
    """All calls of a trajectory, and how each answer moves it on.

    Arguments:
        process: the process.
        transition: the method; one that makes its calls at known times.
        times: `[n + 1]`, float64, decreasing.
    Attributes:
        calls: in their order.
        order: the most calls of a step.
    """

    def __init__(self, process: Process, transition: Transition, times: Tensor) -> None:
        self.process, self.transition, self.times = process, transition, times
        self.calls: list[Call] = []
        asked, number, most = _Rehearsal(), 0, 1
        zero = torch.zeros(1, 1, dtype=torch.float64)
        for state in trajectory(Diffusion(process, asked), zero, times, transition, lambda *_: zero):
            most = max(most, state.calls - number)
            self.calls += [Call(state.step - 1, t, i == 0) for i, t in enumerate(asked.times[number:])]
            number = state.calls
        self.order = most
        self._table: Table | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the table, which knows times by their identity and is in use by one thread at a time."""
        return vars(self) | {"_table": None}

    def advance(self, index: int, halt: Halt | None, x: Tensor, estimate: Estimate, noise: StepNoise) -> Halt:
        """Move on by the answer to a call.

        Arguments:
            index: of the call.
            halt: what the answer to the call before gave; None: there was none, and x is where it all begins.
            x: what the network was shown, `[b, *d]`.
            estimate: what it said.
            noise: called as noise(step, draw) -> `[b, *d]`; the same for each call of a step.
        """
        call = self.calls[index]
        if halt is None and not (call.opens and call.t == self.times[call.step]):
            return self._begun(index + 1, self._joined(call, x, estimate), noise)
        if halt is None or (call.opens and not halt.raised):
            halt = Halt(x, x, memory=None if halt is None else self._carried(call.step, halt.memory, x - halt.x))
        elif halt.raised and call.opens:  # whatever became of x since then becomes of where it came from
            t = torch.stack([self.times[call.step], torch.tensor(call.t, dtype=torch.float64)])
            here, there = self.process.alpha(t).tolist()
            halt = halt._replace(start=halt.start + (x - halt.x) * (here / there))
        elif not halt.estimates:  # begun inside the step, it waits for the next one
            return self._begun(index + 1, Halt(x, x), noise)
        if halt.estimates:
            halt = halt._replace(start=halt.start + (x - halt.x) * self._ratio(index))
        estimates = (*halt.estimates, estimate)
        try:
            done = self._take(call.step, halt.start, estimates, halt.memory, noise)
        except _Asked as asked:
            return halt._replace(x=asked.x, estimates=estimates, raised=False)
        return self._begun(index + 1, Halt(done.x, done.x, memory=done.memory), noise)

    def _carried(self, step: int, memory: Memory, change: Tensor) -> Memory:
        """The memory at the beginning of a step whose x was changed, as by `callback_on_step_end`.

        unipc and fitted start from an earlier x, which x is changed by as much as it is noisier: the linear part of the
        way from there takes x to sigma(t) / sigma(earlier) x.
        """
        earlier = {"x": step - 1, "start": 0}
        sigma = self.process.sigma(self.times).tolist()
        changed = {
            name: memory[name] + change * (sigma[at] / sigma[step])
            for name, at in earlier.items()
            if memory is not None and name in memory
        }
        return {**memory, **changed} if memory is not None else None

    def _ratio(self, index: int) -> float:
        """What a change of x at a call inside a step is at the beginning of the step, by the linear part of the way."""
        call = self.calls[index]
        first = next(other.t for other in self.calls if other.step == call.step)
        t = torch.tensor([float(self.times[call.step]), first, call.t], dtype=torch.float64)
        (before, raised, _), (_, there, here) = self.process.alpha(t).tolist(), self.process.sigma(t).tolist()
        return before / raised * there / here if raised and here else 0.0

    def _begun(self, index: int, halt: Halt, noise: StepNoise) -> Halt:
        """At the beginning of a step: a method that goes up before its first call does so."""
        call = self.calls[index] if index < len(self.calls) else None
        if call is None or not call.opens or call.t == self.times[call.step]:
            return halt
        try:
            self._take(call.step, halt.start, (), halt.memory, noise)
        except _Asked as asked:
            return halt._replace(x=asked.x, raised=True)
        raise AssertionError("a step without a call")

    def _joined(self, call: Call, x: Tensor, estimate: Estimate) -> Halt:
        """From a call inside a step, with nothing known from before it, to the end of that step: by DDIM."""
        t, s = torch.tensor(call.t, dtype=torch.float64), self.times[call.step + 1]
        diffusion = Diffusion(self.process, _Answers((estimate,)))
        done = ddim()(diffusion, x, t, s, None, lambda _=0: torch.zeros_like(x))
        return Halt(done.x, done.x)

    def _take(self, step: int, x: Tensor, estimates: Sequence[Estimate], memory: Memory, noise: StepNoise) -> Step:
        """A step with the answers so far. Raises _Asked where it needs one more."""
        if self._table is None:
            self._table = Table(self.times)
        t, s = self._table.times[step : step + 2]
        with self._table:
            return self.transition(Diffusion(self.process, _Answers(estimates)), x, t, s, memory, partial(noise, step))
