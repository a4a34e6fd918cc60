"""Sampling is one loop: apply a transition along a list of times.

A list of times t_0 > t_1 > ... > t_n = 0 runs from noise to data; reversed, the same loop with the same transition runs
from data to noise (`encode`). Any subsequence of the trained levels is allowed, because a transition between any two
times has the right marginals (Song et al. 2021, section 4.2, arXiv:2010.02502).

Randomness is per sample: the noise of sample i at step j is a function of (seed, i, j) alone (from a counter-based
generator, Salmon et al. 2011). So a sample depends on the batch size and on the other samples by no more than the
rounding of the network, to which methods that choose their own steps add their tolerance.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple, Never

import torch
from torch import Tensor

from leapstep.core import finite
from leapstep.core.arguments import warn_of_training
from leapstep.core.denoiser import Counted, Diffusible, Diffusion, as_diffusion, as_diffusions
from leapstep.core.gaussian import Gaussian
from leapstep.core.names import STARTS as STARTS
from leapstep.core.noise import Noise
from leapstep.core.printing import summary
from leapstep.core.process import Process, as_time, where
from leapstep.core.spacing import number_or_times, times
from leapstep.core.tabulated import Table
from leapstep.core.transitions import Memory, Transition, as_transition, select
from leapstep.progress import progress_bar
from leapstep.text import allowed, near, one_line


class State(NamedTuple):
    """Where a trajectory stands after a step.

    Attributes:
        x: `[b, *d]` at time s.
        x0: the estimate of x0 that the step used, `[b, *d]`.
        t, s: the times that the step went from and to, one for all or one each `[b]`.
        step: the number of this step, from 1.
        calls: calls of the denoiser so far.
        memory: of the method, with a row for each sample; see `leapstep.core.transitions.memory`.
    """

    x: Tensor
    x0: Tensor
    t: Tensor
    s: Tensor
    step: int
    calls: int
    memory: Memory = None

    def __repr__(self) -> str:
        return summary(self, self._asdict().items())


def trajectory(
    diffusion: Diffusion | Diffusible,
    x: Tensor,
    times: Tensor,
    transition: Transition | str | None = None,
    noise: Callable[..., Tensor] | None = None,
    *,
    memory: Memory = None,
    taken: int | Tensor = 0,
) -> Iterator[State]:
    """Move x along the times, a step at a time. The only loop in this library; it holds no more than one state.

    Each sample depends on its own row of x, times, noise and memory only, except for the network's rounding. A
    trajectory can therefore be stopped at any State and continued in another batch, together with samples that are at
    other steps: see `rows` and `join` in `leapstep.core.transitions.memory`.

    Gradients flow through it: iterate it under `torch.no_grad()` unless you want them. At its end it warns
    (`NotFinite`) of samples that are not finite, and tells the first step after which they were not.

    Arguments:
        x: x at the first time, `[b, *d]`.
        times: `[n + 1]`, or `[n + 1, b]` when each sample goes its own way (repeat a time to let a sample wait).
            Decreasing samples, increasing encodes.
        transition: the method, a transition or its name in `TRANSITIONS`; default `ddim()`.
        noise: called as noise(step, draw) -> `[b, *d]`; default `Noise` with seed 0.
        memory: the method's memory of earlier steps, `State.memory`; None: there were none.
        taken: the number of earlier steps, one for all samples or one for each `[b]`, int64. The first step here is
            called `taken + 1` when noise is drawn.
    Yields:
        a State after every step.
    """
    transition = as_transition(transition)
    noise = noise or Noise(0, range(len(x)), tuple(x.shape[1:]), x.dtype, x.device)
    table = Table(times := as_time(times))
    waiting = times[1:] == times[:-1]
    waits = waiting.flatten(1).any(1).tolist() if times.ndim > 1 else waiting.tolist()
    model = as_diffusion(diffusion)
    counted = Counted(model.denoise)
    model = model._replace(denoise=counted)
    sums: list[Tensor] = []
    for step, (t, s) in enumerate(pairwise(table.times), start=1):
        with table:
            moved = transition(model, x, t, s, memory, partial(noise, taken + step))
        if waits[step - 1]:
            still = waiting[step - 1]
            x, memory = where(still, x, moved.x), select(still, memory, moved.memory)
        else:
            x, memory = moved.x, moved.memory
        sums.append(finite.row_sums(x))
        yield State(x, moved.x0, t, s, step, counted.calls, memory)

    def ends(step: int, row: int) -> str:
        t, s = (u.expand(len(x))[row].item() for u in times[step - 1 : step + 1])
        return f"after step {step} of {len(times) - 1}, from t = {t:.4g} to {s:.4g}"

    finite.warn_broken(sums, "samples", ends)


def path_of(
    process: Process,
    steps: int | Sequence[float] | Tensor,
    spacing: str = "trailing",
    start: str = "marginal",
    origin: Tensor | float | Gaussian = 0.0,
) -> Tensor:
    """List the times that samples go through from a start.

    From "gaussian", n steps are the last n of a longer list of the spacing, and the flow of the Gaussian takes the
    others at once: one, or as many as leave x_t, under this law, no more than 2 / n nats of information on x0. Beyond
    that, data differ from the Gaussian by more than so many steps cost.

    Arguments:
        steps, spacing: as of `times`. A list of times is taken as it is.
        start: one of `STARTS`.
        origin: as of `Diffusion`.
    Returns:
        `[n + 1]`, float64.
    Raises:
        ValueError: what `times` raises; an unknown start, or "gaussian" without a Gaussian or a level to spare.
    """
    if start not in STARTS:
        raise ValueError(f"unknown start={start!r}: {allowed(start, STARTS)}")
    path = times(process, steps, spacing)
    if start != "gaussian":
        return path
    if not isinstance(origin, Gaussian):
        raise ValueError(
            "start='gaussian' needs the law of the data: pass diffusion._replace(origin=leapstep.Gaussian.of(samples))"
        )
    if isinstance(number_or_times(steps), Tensor):
        return path
    n, levels = len(path) - 1, process.timesteps
    if levels is not None and n >= levels:
        raise ValueError(
            f"steps={n}: start='gaussian' passes over one or more of {levels} trained levels, so at most {levels - 1}"
        )
    for longer in range(n + 1, 1 + (levels or 1000 * n)):
        rest = times(process, longer, spacing)[-n - 1 :]
        if longer > n + 1 and origin.information(process, rest[0]) > 2 / n:
            break
        path = rest
    return path


def beginning(diffusion: Diffusion, t: Tensor, eps: Tensor, start: str = "marginal") -> Tensor:
    """Where sampling starts at the first time, of eps `[b, *d]`; see `STARTS` and `Diffusion.origin`."""
    if start == "unit":
        return eps
    if isinstance(diffusion.origin, Gaussian):
        return diffusion.origin.marginal(diffusion.process, t, eps)
    x = diffusion.process.sigma(t) * eps
    if isinstance(diffusion.origin, float) and diffusion.origin == 0:
        return x
    return x + diffusion.process.alpha(t) * torch.as_tensor(diffusion.origin).to(x)


def _end(states: Iterator[State], on_step: Callable[[State], object]) -> Tensor:
    for state in states:
        on_step(state)
    return state.x


@contextlib.contextmanager
def _progress(
    what: str, total: int, show: bool | None, on_step: Callable[[State], object] | None
) -> Iterator[Callable[[State], None]]:
    """A progress bar over so many steps. Yields a function to call after each step, which also calls `on_step`."""
    with progress_bar(total, what, "step", show=False if show is None and on_step is not None else show) as bar:

        def step(state: State) -> None:
            bar.update()
            if on_step is not None:
                on_step(state)

        yield step


def _network(diffusion: Diffusion) -> Any:
    """The network of a diffusion, or None."""
    denoise: Any = diffusion.denoise
    while hasattr(denoise, "denoise"):  # clipped, guided, scaled
        denoise = denoise.denoise
    return getattr(denoise, "net", None)


def network_device(diffusion: Diffusion) -> torch.device:
    """The device of a diffusion's network; the CPU where the network is no module."""
    net = _network(diffusion)
    tensors = chain(net.parameters(), net.buffers()) if isinstance(net, torch.nn.Module) else iter(())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def sample_in_batches(
    diffusion: Diffusion | Diffusible | Callable[[range], Diffusion],
    shape: Sequence[int],
    steps: int | Sequence[float] | Tensor | None = None,
    transition: Transition | str | None = None,
    *,
    spacing: str = "trailing",
    start: str = "marginal",
    seed: int = 0,
    batch_size: int | None = None,
    first: int = 0,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    on_step: Callable[[State], object] | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """Draw samples batch by batch, for more of them than memory holds, or to go on where an earlier draw ended.

    Arguments:
        first: the index of the first sample; all others as of `sample`.
    Yields:
        the sample indices of a batch, and its samples, `[b, *d]`.
    Raises:
        ValueError: n or batch_size below 1, a negative first, and what `times` and the transition raise.
    """
    n, *d = checked_shape(shape)
    if n < 1 or first < 0 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"n={n}, first={first}, batch_size={batch_size}: at least 1, 0 and 1")
    transition, models, kind = as_transition(transition), as_diffusions(diffusion), _as_dtype(dtype)
    steps = _number_or_own(steps, transition)
    device = None if device is None else _as_device(device)
    for low in range(first, first + n, batch_size or n):
        rows = range(low, min(first + n, low + (batch_size or n)))
        model = models(rows)
        if rows.start == first:
            warn_of_training(_network(model))
        noise = Noise(seed, rows, tuple(d), kind, network_device(model) if device is None else device)
        path = path_of(model.process, steps, spacing, start, model.origin)
        with torch.no_grad():
            states = trajectory(model, beginning(model, path[0], noise(0), start), path, transition, noise)
            x = _end(states, on_step or bool)
        yield rows, x


def _number_or_own(
    steps: int | Sequence[float] | Tensor | None, transition: Transition | str | None
) -> int | Sequence[float] | Tensor:
    """The number of steps or their times; where none are asked for, those of a fitted solver, or 20."""
    own: Sequence[float] | None = getattr(transition, "options", {}).get("times")
    return steps if steps is not None else own or 20


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The number of samples and the shape of one, as whole numbers. Raises ValueError for anything else."""
    with contextlib.suppress(TypeError):
        if sizes := tuple(operator.index(size) for size in shape):
            return sizes
    raise ValueError(
        f"shape={one_line(repr(shape), 60)}: pass the number of samples and the shape of one, such as (16, 3, 32, 32)"
    )


def _as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    result = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(result, torch.dtype) or not result.is_floating_point:
        raise ValueError(f"dtype={dtype!r}: pass a floating-point type such as torch.float32, or its name")
    return result


def _as_device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={device!r}: pass a device of torch such as 'cpu', 'cuda' or 'cuda:0'") from None


ELSEWHERE = {
    "num_steps": "steps",
    "n_steps": "steps",
    "num_inference_steps": "steps",
    "timesteps": "steps",
    "method": "transition",
    "sampler": "transition",
    "scheduler": "transition",
    "eta": "transition=leapstep.ddim(eta=...)",
    "n": "shape=(n, ...)",
    "num_samples": "shape=(n, ...)",
    "first": "sample_in_batches(..., first=...)",
    "generator": "seed",
    "callback": "on_step",
    "guidance": "from_network(..., guidance=...)",
    "guidance_scale": "from_network(..., guidance=...)",
}
"""Arguments of samplers elsewhere, and what does the same here."""


def sample(
    diffusion: Diffusion | Diffusible | Callable[[range], Diffusion],
    shape: Sequence[int],
    steps: int | Sequence[float] | Tensor | None = None,
    transition: Transition | str | None = None,
    *,
    spacing: str = "trailing",
    start: str = "marginal",
    seed: int = 0,
    batch_size: int | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    on_step: Callable[[State], object] | None = None,
    **unknown: Never,
) -> Tensor:
    """Draw samples.

    Arguments:
        diffusion: the model: a Diffusion, or a `leapstep.Model` that needs no conditions. Where samples have
            conditions of their own, a function from the range of sample indices in a batch to the Diffusion that is
            conditioned for them.
        shape: `(n, *d)`.
        steps: their number, or the list of times; see `times`. None: 20, or the times of a fitted solver.
        transition: the method, a transition such as `leapstep.unipc(order=3)` or a name in `TRANSITIONS`; default
            `ddim()`.
        spacing: see `times`.
        start: one of `STARTS`: "marginal"; "unit", as in pipelines of diffusers; or "gaussian", where the origin of the
            diffusion is a `Gaussian`: the first steps are then taken without a call, see `path_of`.
        seed: sample i is a function of (seed, i), whatever n and batch_size are, to the rounding of the network (and,
            where a method chooses its own steps, to its tolerance).
        batch_size: how many samples to work on at a time; None: all.
        dtype: of the state of the sampler, or its name. For a network in half precision leave it, and tell
            `from_network` the network's dtype: a state in half precision loses what small steps add.
        device: where the samples are made; None: where the network is, or the CPU if the denoiser does not know.
        progress: whether to show a progress bar, once the work has taken a second; None: on a terminal and in a
            notebook, where there is no on_step.
        on_step: called with each State of each batch, for previews.
    Returns:
        `[n, *d]`.
    Raises:
        ValueError: n or batch_size below 1, and what `times` and the transition raise.
        TypeError: an argument that there is not.
    Warns:
        NotFinite: samples that hold NaN or infinity, as of `trajectory`.
        TrainingMode: the network is in training mode, and has dropout or batch norm.
    """
    for name in unknown:
        meant = ELSEWHERE.get(name) or near(name, inspect.signature(sample).parameters)
        raise TypeError(f"sample() has no argument {name!r}" + ("" if meant is None else f": did you mean {meant}?"))
    n, *_ = checked_shape(shape)
    number, out = number_or_times(_number_or_own(steps, transition)), torch.empty(0)
    number = len(number) - 1 if isinstance(number, Tensor) else number
    with _progress("sampling", number * -(-n // (batch_size or n or 1)), progress, on_step) as step:
        for rows, x in sample_in_batches(
            diffusion,
            shape,
            steps,
            transition,
            spacing=spacing,
            start=start,
            seed=seed,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            on_step=step,
        ):
            out = x.new_empty(tuple(shape)) if rows.start == 0 else out
            out[rows.start : rows.stop] = x
    return out


@torch.no_grad()
def decode(
    diffusion: Diffusion | Diffusible,
    x: Tensor,
    steps: int | Sequence[float] | Tensor | None = None,
    transition: Transition | str | None = None,
    *,
    spacing: str = "trailing",
    noise: Callable[..., Tensor] | None = None,
    progress: bool | None = None,
    on_step: Callable[[State], object] | None = None,
) -> Tensor:
    """Turn a latent into data: x `[b, *d]` at the first of the times, to t = 0. The inverse of `encode`.

    Arguments:
        x: as `encode` returns it.
        steps, transition, spacing, progress, on_step: as of `sample`.
        noise: of a method that injects some, as of `trajectory`.
    Returns:
        x0, `[b, *d]`.
    """
    model = as_diffusion(diffusion)
    warn_of_training(_network(model))
    path = times(model.process, _number_or_own(steps, transition), spacing)
    with _progress("decoding", len(path) - 1, progress, on_step) as step:
        return _end(trajectory(model, x, path, transition, noise), step)


@torch.no_grad()
def encode(
    diffusion: Diffusion | Diffusible,
    x0: Tensor,
    steps: int | Sequence[float] | Tensor = 20,
    transition: Transition | str | None = None,
    *,
    spacing: str = "trailing",
    progress: bool | None = None,
    on_step: Callable[[State], object] | None = None,
) -> Tensor:
    """Turn data x0 `[b, *d]` into its latent: the same loop, on the same times in reverse.

    Arguments:
        x0: data in the network's range.
        steps: their number, or the list of times; see `times`.
        transition, spacing, progress, on_step: as of `sample`.
    Returns:
        x at the last of the times, `[b, *d]`.
    Raises:
        ValueError: a transition that injects noise.
    References:
        Song et al. 2021, section 4.3 and eq. 14, arXiv:2010.02502.
    """
    model = as_diffusion(diffusion)
    warn_of_training(_network(model))
    path = times(model.process, steps, spacing).flip(0)
    with _progress("encoding", len(path) - 1, progress, on_step) as step:
        return _end(trajectory(model, x0, path, transition), step)
