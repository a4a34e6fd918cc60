"""Encoding, reconstruction and interpolation with a model."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.interpolation import PATHS, interpolation_grid
from leapstep.core.noise import Noise
from leapstep.core.process import flat
from leapstep.core.sampling import State, beginning, decode, encode
from leapstep.core.transitions import TRANSITIONS, Transition, inverted
from leapstep.inference.execution import as_specified
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.models.model import Model
from leapstep.text import allowed

OnStep = Callable[[State], object]


def step_counts(model: Model, asked: Sequence[int]) -> list[int]:
    """The numbers of steps that a model can take, ascending, among those that were asked for.

    Raises:
        ValueError: it can take none of them, or one is below 1.
    """
    most = model.process.timesteps or max(asked)
    counts = sorted({steps for steps in asked if steps <= most})
    if not counts or counts[0] < 1:
        raise ValueError(f"steps {', '.join(map(str, asked))}: this model takes from 1 to {most} steps")
    return counts


def unit(model: Model) -> str:
    """In what `squared_error` is."""
    return "squared pixel values from 0 to 1" if model.is_pictures else "variances of the training data"


def squared_error(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared difference per dimension of each sample, `[n]`, float64, in `unit`."""
    scale = model.scaling.scale / 255 if model.is_pictures else 1.0
    return flat((x - y).to("cpu", torch.float64) * scale).square().mean(1)


def check_reversible(model: Model, spec: SamplingSpec, *, exact: bool = False) -> None:
    """Make sure that a specification, which is checked, also runs from data to noise.

    Arguments:
        exact: whether each step must have an inverse by itself.
    Raises:
        ValueError: a method that injects noise, or was fitted; a start below pure noise; or where each step must be
            invertible, one that chooses its own steps, or whose steps use estimates of earlier ones.
    """
    if spec.method == "fitted":
        raise SpecError("method", spec.method, "it was fitted to paths from noise to data only: use ddim or heun")
    if not spec.entry.deterministic:
        others = ", ".join(name for name, method in TRANSITIONS.items() if method.deterministic)
        raise SpecError("method", spec.method, f"it injects noise, so its samples have no latents: use one of {others}")
    if spec.start == "gaussian":
        raise SpecError(
            "start", spec.start, "latents are pure noise, beyond the first time of this start: leave it out"
        )
    nothing = torch.zeros(1, *model.shape)
    silent = Diffusion(model.process, lambda x, t: torch.zeros_like(x))
    data, level = torch.tensor([0, 1 / (model.process.timesteps or 1000)], dtype=torch.float64)
    step = spec.transition(model)(silent, nothing, data, level, None, lambda *_: nothing)  # raises if it injects noise
    if exact and step.memory is not None:
        adaptive = spec.entry.calls == 0
        why = "it chooses its own steps" if adaptive else "its steps use estimates of earlier ones"
        cure = "set a smaller rtol and atol instead, or use ddim or heun" if adaptive else "use ddim or heun"
        raise SpecError("method", spec.method, f"{why}, so no step has an exact inverse: {cure}")


# --- there and back ------------------------------------------------------------------------------------------------


class Reconstruction(NamedTuple):
    """Data after encoding and decoding.

    Attributes:
        x: `[n, *d]`, in model space, on the CPU.
        errors: of each sample, `[n]`, float64; see `squared_error`.
        calls: of the network for a sample, in both directions.
        seconds: for all of them.
        notes: warnings, such as of steps that could not be inverted.
        latents: between encoding and decoding, `[n, *d]`, on the CPU.
    """

    x: Tensor
    errors: Tensor
    calls: int
    seconds: float
    notes: list[str]
    latents: Tensor


def reconstruct(
    model: Model,
    spec: SamplingSpec,
    x0: Tensor,
    *,
    condition: Mapping[str, Tensor] | None = None,
    exact: bool = False,
    on_step: OnStep | None = None,
) -> Reconstruction:
    """Encode data and decode it again.

    Arguments:
        spec: default spacing "leading", as in the DDIM paper; sample i is of the class that the labels have for i.
        x0: data in model space, `[n, *d]`.
        condition: what the network takes besides, a row for each of them; None: what the specification says.
        exact: encode with the exact inverse of each step.
        on_step: called with the State after each step of each batch.
    Raises:
        ValueError: what `SamplingSpec.checked` and `check_reversible` raise.
    References:
        Song et al. 2021, section 5.4 and table 2, arXiv:2010.02502.
    """
    spec = spec.checked(model, spacing="leading")
    check_reversible(model, spec, exact=exact)

    def of(rows: range) -> tuple[Tensor, dict[str, Tensor]]:
        some = slice(rows.start, rows.stop)
        given = spec.conditions_for(rows) if condition is None else {name: row[some] for name, row in condition.items()}
        return x0[some], given

    parts = [part for _, part in reconstructions(model, spec, of, range(len(x0)), exact=exact, on_step=on_step)]
    return joined(parts)


def joined(parts: Sequence[Reconstruction]) -> Reconstruction:
    """Of all data, from those of parts in their order."""
    return Reconstruction(
        torch.cat([part.x for part in parts]),
        torch.cat([part.errors for part in parts]),
        max(part.calls for part in parts),
        round(sum(part.seconds for part in parts), 3),
        sorted({note for part in parts for note in part.notes}),
        torch.cat([part.latents for part in parts]),
    )


def reconstructions(
    model: Model,
    spec: SamplingSpec,
    data: Callable[[range], tuple[Tensor, Mapping[str, Tensor]]],
    rows: range,
    *,
    exact: bool = False,
    on_step: OnStep | None = None,
) -> Iterator[tuple[range, Reconstruction]]:
    """As `reconstruct`, batch by batch, of data that are read when they are needed.

    Arguments:
        spec: one that `SamplingSpec.checked` and `check_reversible` have seen.
        data: from rows to the data in model space, `[b, *d]`, and what the network takes besides, by name.
        rows: which of the data.
    Yields:
        the rows of a batch, and what became of it.
    """
    model = as_specified(model, spec)
    transition, path, device = spec.transition(model), spec.times_for(model), model.device
    upwards = inverted(transition) if exact else transition
    for start in range(rows.start, rows.stop, spec.batch_size):
        batch, began = range(start, min(start + spec.batch_size, rows.stop)), time.perf_counter()
        x0, condition = data(batch)
        diffusion = spec.diffusion(model, batch, condition)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)  # those of `inverted`
            z, up = _moved(encode, diffusion, x0.to(device, spec.state_dtype), path, upwards, on_step)
            x, down = _moved(decode, diffusion, z, path, transition, on_step)
        x, notes = x.cpu(), sorted({str(warning.message) for warning in caught})
        seconds = time.perf_counter() - began
        yield batch, Reconstruction(x, squared_error(model, x, x0), up + down, seconds, notes, z.cpu())


def _moved(
    move: Callable[..., Tensor],
    diffusion: Diffusion,
    x: Tensor,
    path: Tensor,
    transition: Transition,
    note: OnStep | None,
) -> tuple[Tensor, int]:
    """What `encode` or `decode` makes of x, and the calls of the network that it took."""
    calls = 0

    def count(state: State) -> None:
        nonlocal calls
        calls = state.calls
        if note is not None:
            note(state)

    return move(diffusion, x, path, transition, on_step=count), calls


# --- between samples -----------------------------------------------------------------------------------------------


@torch.no_grad()
def interpolate(
    model: Model,
    spec: SamplingSpec,
    ends: Sequence[int] | Tensor,
    frames: int = 11,
    path: str = "slerp",
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Decode what lies between two latents, or in the grid among four.

    Arguments:
        spec: of one class at most; default steps 50, default spacing "leading" for data and "trailing" for seeds.
        ends: two or four seeds, of each of which the first start noise is an end; or data in model space, `[k, *d]`,
            which are encoded.
        frames: how many from end to end; a grid has as many rows and columns.
        path: one of `PATHS`.
        on_step: called with the State after each step of each batch.
    Returns:
        `[frames, *d]`, or `[frames * frames, *d]` row by row.
    Raises:
        ValueError: what `checked_between` raises.
    """
    spec = checked_between(model, spec, ends, frames, path)
    model = as_specified(model, spec)
    diffusion, transition, times, device = (
        spec.diffusion(model, range(1)),
        spec.transition(model),
        spec.times_for(model),
        model.device,
    )
    if isinstance(ends, Tensor):
        z = encode(diffusion, ends.to(device, spec.state_dtype), times, transition, on_step=on_step)
    else:
        noise = [Noise(seed, range(1), model.shape, spec.state_dtype, device)(0) for seed in ends]
        z = beginning(diffusion, times[0], torch.cat(noise), spec.start)
    if len(z) == 4:
        latents = interpolation_grid(z, frames, frames, PATHS[path]).flatten(0, 1)
    else:
        fractions = torch.linspace(0, 1, frames, dtype=torch.float64)
        first, last = (end.expand(frames, *end.shape) for end in z)
        latents = PATHS[path](first, last, fractions)
    parts = (latents[i : i + spec.batch_size] for i in range(0, len(latents), spec.batch_size))
    return torch.cat([decode(diffusion, part, times, transition, on_step=on_step) for part in parts])


def checked_between(
    model: Model, spec: SamplingSpec, ends: Sequence[int] | Tensor, frames: int = 11, path: str = "slerp"
) -> SamplingSpec:
    """Check what `interpolate` is asked for, and complete its specification.

    Raises:
        ValueError: what `SamplingSpec.checked` and `check_reversible` raise; an unknown path, a number of ends that is
            not two or four, a seed out of range, fewer than 2 frames, or several classes.
    """
    spec = spec.checked(model, steps=50, spacing="leading" if isinstance(ends, Tensor) else "trailing")
    check_reversible(model, spec)
    if path not in PATHS:
        raise SpecError("path", path, allowed(path, PATHS))
    if len(ends) not in (2, 4):
        raise ValueError(f"{len(ends)} ends: name two or four")
    if frames < 2:
        raise SpecError("frames", frames, "must be at least 2")
    if spec.labels is not None and len(spec.labels) > 1:
        raise SpecError("labels", list(spec.labels), "all frames are of one class: name one")
    if not isinstance(ends, Tensor):
        for seed in ends:
            dataclasses.replace(spec, seed=seed).checked(model)
    return spec
