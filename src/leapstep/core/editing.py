"""Editing by noise: data go up to a time in one draw, and down from there by any method.

Noise hides details before it hides the whole, so what x_t at time t still tells of x0 is kept, and what it does not is
made anew. The time is the strength of the edit: at 0 nothing changes, and at 1 the result is a sample like any other.
For exact denoisers and enough steps the result has, given x_t, the law of the flow or of the noise that the method
injects: with `ddpm` it is a draw of the posterior q(x0 | x_t).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Never

import torch
from torch import Tensor

from leapstep.core.denoiser import Denoiser, Diffusible, Diffusion, as_diffusion
from leapstep.core.noise import Noise
from leapstep.core.printing import shown
from leapstep.core.process import weighted
from leapstep.core.sampling import ELSEWHERE, State, decode
from leapstep.core.spacing import times_below
from leapstep.core.transitions import Transition, as_transition
from leapstep.text import near


def blended(one: Diffusion | Diffusible, other: Diffusion | Diffusible, fraction: Tensor | float) -> Diffusion:
    """Mix two denoisers of one process: x0 = (1 - f) x0_one + f x0_other.

    So samples of one network lie between two conditions. Scores mix alike: (1 - f) score_one + f score_other, which is
    the score of q_one^(1 - f) q_other^f, not of a mixture of the two laws.

    Arguments:
        one, other: such as a network under two labels. The process, and where sampling starts, are those of `one`.
        fraction: f, 0 for `one` and 1 for `other`; for all samples, or for each `[b]`.
    Returns:
        a Diffusion that calls both for each step.
    Raises:
        ValueError: two processes that differ, or a fraction outside [0, 1].
    """
    one, other = as_diffusion(one), as_diffusion(other)
    share = torch.as_tensor(fraction, dtype=torch.float64)
    if one.process != other.process:
        raise ValueError(
            "two denoisers of different processes see different noise at a time: blend those of one process"
        )
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"fraction={fraction}: must lie between 0 (the first) and 1 (the second)")
    return one._replace(denoise=_Blended(one.denoise, other.denoise, share))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Blended:
    """It has no `estimate`: a learned variance is of one of the two."""

    one: Denoiser
    other: Denoiser
    fraction: Tensor

    def __repr__(self) -> str:
        return f"blended({shown(self.one)}, {shown(self.other)}, {shown(self.fraction)})"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return weighted((1 - self.fraction, self.one(x, t)), (self.fraction, self.other(x, t)))


@torch.no_grad()
def edit(
    diffusion: Diffusion | Diffusible,
    x0: Tensor,
    strength: float = 0.6,
    steps: int | Sequence[float] | Tensor | None = None,
    transition: Transition | str | None = None,
    *,
    spacing: str = "trailing",
    seed: int = 0,
    first: int = 0,
    progress: bool | None = None,
    on_step: Callable[[State], object] | None = None,
    **unknown: Never,
) -> Tensor:
    """Change data as far as noise of a time hides them (SDEdit).

    x_t = alpha(t) x0 + sigma(t) eps at t = strength, and from there `trajectory` to t = 0.

    Arguments:
        x0: data in the network's range, `[b, *d]`; repeat it (`x0.expand(8, ...)`) for several edits of one.
        strength: the time to go up to, from 0 (x0 as it is) to 1 (a new sample, but for what little signal is left at
            time 1). On a process with trained levels, the nearest of them.
        steps: how many to take below the strength, all of which are taken; or a list of times, of which those below it
            are taken. See `times_below`. None: 20, or as many as there are levels.
        transition: the method, or its name; default `ddim()`. `inpainted` keeps a part of the data.
        spacing: see `times`.
        seed: sample i of x0 is edited by the noise of (seed, first + i).
        first: the index of the first sample.
        progress, on_step: as of `sample`.
    Returns:
        `[b, *d]`.
    Raises:
        ValueError: a strength outside [0, 1], a fitted solver, whose times begin at pure noise, what `times_below` and
            the transition raise.
        TypeError: an argument that there is not.
    References:
        Meng et al. 2022, SDEdit, algorithm 1, arXiv:2108.01073.
    """
    for name in unknown:
        meant = ELSEWHERE.get(name) or near(name, inspect.signature(edit).parameters)
        raise TypeError(f"edit() has no argument {name!r}" + ("" if meant is None else f": did you mean {meant}?"))
    model, method = as_diffusion(diffusion), as_transition(transition)
    if "coefficients" in getattr(method, "options", {}):
        raise ValueError("a fitted solver goes along its own times, from pure noise: an edit takes any other method")
    path = times_below(model.process, strength, steps, spacing)
    if len(path) < 2:
        return x0.clone()
    noise = Noise(seed, range(first, first + len(x0)), tuple(x0.shape[1:]), x0.dtype, x0.device)
    x = model.process.add_noise(x0, path[0], noise(0))
    return decode(model, x, path, method, noise=noise, progress=progress, on_step=on_step)
