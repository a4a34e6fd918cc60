"""The network of a pipeline as a function of latents and a timestep, read off from its recorded steps.

From what `leapstep.diffusers.recording` has seen follows, for each call of the network in a step,

    where the latents stand:  x_net = [s x, s x, ..., rest]    repeated for guidance, with further channels or tokens
    the clock:                timestep_net = a timestep + b
    the conditions:           every other argument, with rows for samples or shared by all
    the answer:               output = w_1 y_1 + w_2 y_2 + ...  of the parts y of what the network returned

Everything is then computed again at the recorded latents and timesteps, and compared with the model outputs that the
pipeline itself made: a pipeline that does more is refused, and never sampled wrongly.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapstep.core.calling import as_tensor
from leapstep.core.process import along, flat
from leapstep.diffusers.recording import Call, Step, mapped, paired, same, zipped
from leapstep.text import reason


class Argument(NamedTuple):
    """How the latents stand in a call of the network.

    Attributes:
        name: of the argument.
        chunks: how often the samples are repeated along the batch.
        dim, start: where x lies in the argument, along a dimension in which that is larger; None, 0: it is no larger.
        rest: the argument as it was recorded, `[chunks, samples, ...]`, where more than x stands in it; else None.
    """

    name: str
    chunks: int
    dim: int | None
    start: int
    rest: Tensor | None


@dataclasses.dataclass(frozen=True)
class Calling:
    """A call of the network in a step, but for x and the timestep.

    Attributes:
        latents: where x stands.
        clock: the name of the timestep's argument, and of how many dimensions it is.
        conditions: the other arguments, by name; their tensors that have rows for samples are `[chunks, samples, ...]`.
        rows: for each tensor in the conditions, in their order, whether it has rows for samples.
    """

    latents: Argument
    clock: tuple[str, tuple[int, ...]]
    conditions: dict[str, Any]
    rows: tuple[bool, ...]

    def values(self, x: Tensor, timestep: Tensor, index: Tensor, chunks: Sequence[int]) -> dict[str, Any]:
        """The arguments of a call.

        Arguments:
            x: latents, `[b, *d]`.
            timestep: as the network counts it, `[b]`.
            index: which of the recorded samples' conditions, `[b]`.
            chunks: which of the repetitions to make.
        """
        rows, picked = iter(self.rows), list(chunks)

        def taken(value: Tensor) -> Tensor:
            value = value.to(x.device)
            return value[picked][:, index].flatten(0, 1) if next(rows) else value

        values: dict[str, Any] = mapped(self.conditions, taken)
        latents, place = torch.cat([x] * len(picked)), self.latents
        if place.dim is not None and place.rest is not None:
            whole, size = place.rest.to(x)[picked][:, index].flatten(0, 1), x.shape[place.dim]
            end = place.start + size
            before = whole.narrow(place.dim, 0, place.start)
            after = whole.narrow(place.dim, end, whole.shape[place.dim] - end)
            latents = torch.cat([before, latents, after], place.dim)
        name, shape = self.clock
        time = timestep.repeat(len(picked)).reshape(-1, *[1] * (len(shape) - 1)).expand(-1, *shape[1:])
        return {**values, place.name: latents, name: time}

    def joined(self, other: Calling) -> Calling:
        """The same call with further samples' conditions. Raises ValueError where these have another form."""
        rows = iter(self.rows)

        def together(one: Any, two: Any) -> Any:
            if isinstance(one, Tensor):
                return torch.cat([one, two], 1) if next(rows) else one
            return one

        rest = self.latents.rest
        if rest is not None and other.latents.rest is not None:
            rest = torch.cat([rest, other.latents.rest], 1)
        place = self.latents._replace(rest=rest)
        try:
            conditions = zipped(self.conditions, other.conditions, together)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the prompts' conditions are of several shapes ({reason(error)}): take fewer") from error
        return dataclasses.replace(self, latents=place, conditions=conditions)


class PipelineNetwork(nn.Module):
    """The network of a pipeline with its conditions and guidance: `(x, timestep, prompt)` to the model output.

    Attributes:
        network: the pipeline's own.
        calls: how it is called in a step.
        weights: of the parts of what it returns, over all calls, in their order.
        rescale: share of the conditional part's contrast that the sum is brought back to, as diffusers does it.
        conditional: the part that is rescaled to, and that is all without guidance; None: it is not known.
        clock: (a, b), from the scheduler's timesteps to the network's.
        samples: for how many samples conditions were recorded, one after the other.
        dtype: what the network is given.
    """

    def __init__(
        self,
        network: nn.Module,
        calls: Sequence[Calling],
        samples: int,
        clock: tuple[float, float] = (1.0, 0.0),
        weights: Sequence[float] = (1.0,),
        rescale: float = 0.0,
        conditional: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network, self.calls, self.samples = network, tuple(calls), samples
        self.clock, self.weights, self.rescale = clock, tuple(weights), rescale
        self.conditional, self.dtype = conditional, dtype

    def forward(self, x: Tensor, timestep: Tensor, prompt: Tensor | None = None) -> Tensor:
        """What the pipeline gives its scheduler.

        Arguments:
            x: latents as the network sees them, `[b, *d]`.
            timestep: of the scheduler, one for all or `[b]`.
            prompt: which of the recorded samples' conditions, `[b]`; None: the only one, or one each in their order.
        """
        if prompt is None:
            if self.samples not in (1, len(x)):
                raise ValueError(f"{len(x)} samples for {self.samples} prompts: pass the number of a prompt for each")
            prompt = torch.arange(len(x), device=x.device) % self.samples
        return self.summed(self.parts(x, timestep.expand(len(x)), prompt)).to(x.dtype)

    def summed(self, parts: Mapping[int, Tensor]) -> Tensor:
        """The model output, of the parts of what the network returned."""
        total: Tensor = sum(weight * parts[i] for i, weight in enumerate(self.weights) if weight)  # type: ignore[assignment]
        if self.rescale == 0 or self.conditional is None:
            return total
        wanted, actual = (along(flat(y).std(1), total) for y in (parts[self.conditional], total))
        return torch.lerp(total, total * (wanted / actual), self.rescale)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights, by the names that the pipeline's network has for them: a hash of them is the same."""
        state: dict[str, Any] = self.network.state_dict(*args, **kwargs)
        return state

    def parts(self, x: Tensor, timestep: Tensor, prompt: Tensor, every: bool = False) -> dict[int, Tensor]:
        """The parts of what the network returns that have a weight, or all of them, `[b, *d]` by their number."""
        slope, offset = self.clock
        time = timestep if (slope, offset) == (1, 0) else timestep.to(torch.float64).mul(slope).add(offset).float()
        found, first = {}, 0
        for call in self.calls:
            count = call.latents.chunks
            used = [i for i in range(count) if every or self.weights[first + i]]
            if used:
                values = call.values(x.to(self.dtype), time.to(x.device), prompt, used)
                answer = self.network(**values)
                output = as_tensor(answer[0] if isinstance(answer, tuple | list) else answer)
                for i, part in zip(used, output.chunk(len(used)), strict=True):
                    found[first + i] = fitted_to(part, x, call.latents.start)
            first += count
        return found

    def guided(self, scale: float) -> PipelineNetwork:
        """The same with another scale of guidance.

        Raises:
            ValueError: the pipeline makes no such difference of two parts as can be scaled.
        """
        if len(self.weights) != 2 or self.conditional is None:
            raise ValueError(
                f"guidance={scale:g}: the pipeline was called without the two answers that guidance leads between, or "
                "combines them in its own way: call from_pipeline with this guidance"
            )
        weights = [1.0 - scale, 1.0 - scale]
        weights[self.conditional] = scale
        made = copy.copy(self)
        made.weights, made.rescale = tuple(weights), self.rescale if scale != 1 else 0.0
        return made

    def rescaled(self, share: float) -> PipelineNetwork:
        """The same with another share of the contrast that guidance adds taken back. Raises ValueError."""
        if self.conditional is None:
            raise ValueError(f"rescale={share:g}: the pipeline combines answers in its own way")
        made = copy.copy(self)
        made.rescale = share
        return made

    def joined(self, other: PipelineNetwork) -> PipelineNetwork:
        """The same for further samples, whose conditions were recorded by themselves. Raises ValueError."""
        made = copy.copy(self)
        made.calls = tuple(one.joined(two) for one, two in zip(self.calls, other.calls, strict=True))
        made.samples = self.samples + other.samples
        return made


def fitted_to(output: Tensor, x: Tensor, start: int = 0) -> Tensor:
    """The part of an output that is about x: of its channels, or tokens, as many as x has. Raises ValueError."""
    other = [dim for dim in range(1, x.ndim) if output.ndim == x.ndim and output.shape[dim] != x.shape[dim]]
    if output.ndim != x.ndim or len(other) > 1 or any(output.shape[dim] < x.shape[dim] for dim in other):
        raise ValueError(f"the network returned {list(output.shape)} for latents {list(x.shape)}")
    for dim in other:
        doubled = output.shape[dim] == 2 * x.shape[dim]
        output = output.narrow(dim, 0 if doubled else start, x.shape[dim])
    return output


# --- read off ------------------------------------------------------------------------------------------------------


class Unknown(ValueError):
    """Something that a pipeline does which is no network of latents and a timestep."""


def read_off(
    network: nn.Module, steps: Sequence[Step], doubled: Step, samples: int, scales: Mapping[str, float]
) -> PipelineNetwork:
    """Find how a pipeline calls its network and what it makes of the answers, and prove it on the recorded steps.

    Arguments:
        network: the pipeline's.
        steps: what was recorded.
        doubled: the first of them with twice the samples.
        samples: how many, in the recorded ones.
        scales: arguments of the pipeline's call that may be the scale of guidance, or its "rescale".
    Raises:
        Unknown: what the pipeline does besides.
    """
    first = steps[0]
    for step, after in itertools.pairwise(steps):
        if not _near(after.sample, step.after):
            raise Unknown("it changes the latents between the steps of its scheduler")
        if len(after.calls) != len(first.calls):
            raise Unknown("it calls its network more often in some steps than in others")
    x = first.sample[:samples]
    places = [_place(call, x, samples) for call in first.calls]
    clocks = [_clock(steps, i, places[i].name) for i in range(len(places))]
    told = steps[0].calls[0].values[clocks[0]]
    eps = torch.finfo(told.dtype).eps if isinstance(told, Tensor) and told.is_floating_point() else 0.0
    line = _line([step.timestep for step in steps], [_numbers(step, 0, clocks[0])[0] for step in steps], eps)
    calls = []
    for i, place in enumerate(places):
        values = dict(first.calls[i].values)
        value = values.pop(clocks[i])
        values.pop(place.name)
        others = {name: doubled.calls[i].values.get(name) for name in values}
        rows = [
            _has_rows(one, other, place.chunks * samples)
            for one, other in paired(values, others)
            if isinstance(one, Tensor)
        ]
        flags = iter(rows)
        values = mapped(values, lambda tensor: _by_sample(tensor, samples) if next(flags) else tensor)  # noqa: B023
        if place.rest is not None:
            place = place._replace(rest=_by_sample(place.rest, samples))
        shape = tuple(value.shape) if isinstance(value, Tensor) and value.ndim else (1,)
        calls.append(Calling(place, (clocks[i], shape), values, tuple(rows)))
    dtype = first.calls[0].values[places[0].name].dtype
    made = PipelineNetwork(network, calls, samples, line, dtype=dtype)
    return _combined(made, steps, scales)


def _place(call: Call, x: Tensor, samples: int) -> Argument:
    """Where the latents stand in a call."""
    for name, value in call.values.items():
        if not isinstance(value, Tensor) or value.ndim != x.ndim or not value.is_floating_point():
            continue
        larger = [dim for dim in range(1, x.ndim) if value.shape[dim] != x.shape[dim]]
        if len(value) % samples or len(larger) > 1 or any(value.shape[dim] < x.shape[dim] for dim in larger):
            continue
        chunks = len(value) // samples
        wanted = torch.cat([x] * chunks)
        dim = larger[0] if larger else None
        for start in (0,) if dim is None else (0, value.shape[dim] - x.shape[dim]):
            part = value if dim is None else value.narrow(dim, start, x.shape[dim])
            if _scale(part, wanted) is not None:
                return Argument(name, chunks, dim, start, None if dim is None else value)
    raise Unknown(f"it calls its {call.part} with something else than the latents that its scheduler steps")


def _scale(value: Tensor, x: Tensor) -> float | None:
    """The number s with value = s x, as far as the dtypes tell; None: there is none."""
    one, other = value.double().flatten(), x.double().flatten()
    scale = float(one @ other / (other @ other))
    tolerance = 16 * max(torch.finfo(value.dtype).eps, torch.finfo(x.dtype).eps)
    return scale if scale > 0 and float((one - scale * other).norm()) <= tolerance * float(one.norm()) else None


def _clock(steps: Sequence[Step], i: int, latents: str) -> str:
    """The argument that is the timestep: the only one besides the latents that changes from step to step."""
    first = steps[0].calls[i]
    changing = [
        name
        for name, value in first.values.items()
        if name != latents and any(not same(value, step.calls[i].values.get(name)) for step in steps[1:])
    ]
    for name in changing:
        values = [_numbers(step, i, name) for step in steps]
        if any(len(numbers) != 1 for numbers in values) or len(changing) > 1:
            raise Unknown(f"it tells its {first.part} another {', '.join(changing)} in each step")
    if not changing:
        raise Unknown(f"it does not tell its {first.part} the time")
    return changing[0]


def _numbers(step: Step, i: int, name: str) -> list[float]:
    """The different numbers in an argument of a call."""
    value = step.calls[i].values.get(name)
    if not isinstance(value, Tensor | int | float):
        return []
    return sorted(set(torch.as_tensor(value).double().flatten().tolist()))


def _line(timesteps: Sequence[float], told: Sequence[float], eps: float) -> tuple[float, float]:
    """The line from the scheduler's timesteps to the network's, which are rounded to a dtype of this precision."""
    (t1, t2, *_), (u1, u2, *_) = timesteps, told
    tolerance = max(1e-4 * abs(u1 - u2), eps * max(map(abs, told)))
    fitted = (u1 - u2) / (t1 - t2)
    for slope in (1.0, 1e-3, -1.0, -1e-3, fitted):
        offset = u1 - slope * t1
        offset = float(round(offset)) if abs(offset - round(offset)) <= tolerance else offset
        if all(abs(slope * t + offset - u) <= tolerance for t, u in zip(timesteps, told, strict=True)):
            return slope, offset
    raise Unknown(f"its network is told {[round(u, 4) for u in told]} at timesteps {list(timesteps)}")


def _by_sample(value: Tensor, samples: int) -> Tensor:
    """Rows for each repetition of each sample as `[chunks, samples, ...]`."""
    return value.reshape(-1, samples, *value.shape[1:])


def _has_rows(one: Tensor, other: Any, rows: int) -> bool:
    """Whether a tensor has a row for each sample: with twice the samples there are twice as many."""
    if not isinstance(other, Tensor) or one.ndim == 0:
        return False
    return len(one) == rows and len(other) == 2 * rows


def _near(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two tensors are equal to rounding."""
    eps = max(torch.finfo(one.dtype).eps, torch.finfo(other.dtype).eps)
    size = float(other.double().norm())
    return one.shape == other.shape and float((one.double() - other.double()).norm()) <= max(tolerance, 8 * eps) * size


def _combined(made: PipelineNetwork, steps: Sequence[Step], scales: Mapping[str, float]) -> PipelineNetwork:
    """With the weights by which the pipeline sums the parts, proved on all recorded steps."""
    samples, index = made.samples, torch.arange(made.samples)
    answers, inputs = [], []
    for step in steps:
        place = made.calls[0].latents
        value = step.calls[0].values[place.name][:samples]
        x = value if place.dim is None else value.narrow(place.dim, place.start, step.sample.shape[place.dim])
        inputs.append((x, torch.tensor(step.timestep, dtype=torch.float64)))
        answers.append(fitted_to(step.output[:samples], x) if step.output.shape[1:] != x.shape[1:] else step.output)
    answers = [answer[:samples] for answer in answers]
    count = sum(call.latents.chunks for call in made.calls)
    made.weights = (1.0,) * count
    with torch.no_grad():
        parts = [made.parts(x, t.expand(len(x)), index.to(x.device), every=True) for x, t in inputs]
    for weights, rescale, conditional in _forms(count, scales, parts, answers):
        made.weights, made.rescale, made.conditional = weights, rescale, conditional
        if all(_near(made.summed(part), answer, 1e-4) for part, answer in zip(parts, answers, strict=True)):
            return made
    raise Unknown(
        f"what it gives its scheduler is no sum of the {count} answers of its network, nor one with guidance_rescale"
    )


def _forms(count: int, scales: Mapping[str, float], parts: Any, answers: Any) -> Any:
    """The weights to try: of guidance by the scales that the pipeline was called with, and by least squares."""
    if count == 1:
        yield (1.0,), 0.0, 0
    rescale = scales.get("guidance_rescale", 0.0)
    for name, scale in scales.items():
        if count == 2 and "rescale" not in name:
            yield (1 - scale, scale), rescale, 1
            yield (scale, 1 - scale), rescale, 0
    matrix = torch.stack([torch.cat([part[i].double().flatten() for part in parts]) for i in range(count)], 1)
    wanted = torch.cat([answer.double().flatten() for answer in answers])
    yield tuple(torch.linalg.lstsq(matrix, wanted[:, None]).solution.flatten().tolist()), 0.0, None
