"""Inpainting: a part of the sample is known, and any method makes the rest.

A mask has one value m for each value of a sample, and says how much of it is made anew: 0 keeps it, 1 makes it. Between
them it is a strength, as of `leapstep.edit`: as long as the time is m or more, the value is known, and below, it is
free. So known values follow q(x_s | known), each by a draw of its own, until they are released at their time m; those
with m = 0 never are, and end as they were given. (Weights in place of times, m new + (1 - m) known, would take noise
away: of two independent noises of one variance they leave m^2 + (1 - m)^2 of it.)

The known part is new at each time, and the rest was made for the one before, so that they fit each other only loosely.
RePaint takes each step several times, going up from s to t in between by the noise that is younger than s,

    x_t = alpha(t) / alpha(s) x_s + sigma(t) sqrt(f(t, s)) z,        f as in `leapstep.core.transitions.family`,

so that the rest is denoised again beside what is known. Fresh noise leads to another path, so a multistep method goes
on there as at its first step: with the estimates of the path before, dpmpp_2m diverges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leapstep.core.denoiser import Diffusion
from leapstep.core.printing import shown
from leapstep.core.process import Process, along, weighted
from leapstep.core.tabulated import Coefficient, tabulated
from leapstep.core.transitions.family import Draw, Step, Transition, check_downwards, stirred, younger
from leapstep.core.transitions.memory import Memory
from leapstep.core.transitions.named import as_transition, named, refuse_returning


@named
def inpainted(transition: Transition | str, known: Tensor, mask: Tensor, resample: int = 1) -> Transition:
    """Put what is known in its place after every step, as a draw of q(x_s | known), and take each step several times.

    It samples the posterior given the known part only roughly: what is known acts on the rest through the network's
    view of both alone. More of `resample` comes nearer, at that many times the calls.

    Arguments:
        transition: the method for the rest, or its name.
        known: data in the network's range, `[*d]` for all samples or `[b, *d]`; of any value where the mask is 1.
        mask: from 0 (known) to 1 (made anew), of a shape that broadcasts to that of the samples, such as `[h, w]`.
            Between them, the time below which a value is free.
        resample: how often each step is taken; 1 is plain replacement.
    Raises:
        ValueError: a mask beyond 0 and 1, resample below 1, or a method whose memory holds an earlier x, and would
            bring back from it what was replaced (unipc, fitted); at call, s > t, or shapes that do not fit.
    References:
        Lugmayr et al. 2022, algorithm 1, arXiv:2201.09865; Levin and Fried 2023, arXiv:2306.00950 (a strength for each
        pixel).
    """
    method: Transition = as_transition(transition)
    known, mask = torch.as_tensor(known), torch.as_tensor(mask)
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError(f"mask={shown(mask)}: its values lie between 0 (known) and 1 (made anew)")
    if resample < 1:
        raise ValueError(f"resample={resample}: each step is taken once at least")
    refuse_returning("inpainted", method)

    def step(diffusion: Diffusion, x: Tensor, t: Tensor, s: Tensor, memory: Memory, noise: Draw) -> Step:
        alpha, sigma, of_x, grown = _coefficients(diffusion.process, t, s)
        clean, free = _fitting(known, x, "known").to(x), _fitting(mask, x, "mask").to(x)
        is_known = free <= along(s, x)
        for turn in range(resample):

            def own(draw: int = 0, turn: int = turn) -> Tensor:
                return noise((draw + 2) * resample + turn)

            if turn:
                x, memory = weighted((of_x, x), (grown, noise(resample + turn))), None
            moved = method(diffusion, x, t, s, memory, own)
            x = torch.where(is_known, stirred([(alpha, clean)], sigma, lambda turn=turn: noise(turn)), moved.x)
        return Step(x, moved.x0, moved.memory)

    return step


@tabulated
def _coefficients(process: Process, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient, Coefficient, Coefficient]:
    """alpha and sigma at s, and what x_s and fresh noise are multiplied by, in going up to t again."""
    check_downwards(t, s)
    alpha, sigma = process.alpha(s), process.sigma(s)
    of_x = torch.where(t == s, 1.0, process.alpha(t) / alpha)
    return alpha, sigma, of_x, process.sigma(t) * younger(process, t, s).sqrt()


def _fitting(values: Tensor, x: Tensor, name: str) -> Tensor:
    """Values with the shape of the samples. Raises ValueError where they do not fit."""
    try:
        return values.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {list(values.shape)}, the samples have {list(x.shape)}: give one for all samples, or as "
            "many as are sampled in a batch"
        ) from None
