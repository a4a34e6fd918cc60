"""A single warning about results that hold NaN or infinity, with the step at which they first did.

Where results arise step by step, each step is looked at on the device it runs on, and nothing waits for the answer
before the end:

    first = None
    for step in 1, 2, ...:
        first = broken_since(first, x, step)
    warn_broken(first, "samples", lambda step, row: ...)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line knows the warning before it has waited for torch
    from torch import Tensor


class NotFinite(RuntimeWarning):
    """Samples, latents or likelihoods hold NaN or infinity; the command line makes an error of it."""


def broken_since(first: Tensor | None, x: Tensor, step: int) -> Tensor:
    """For each sample of x `[b, *d]` the first step after which it was not finite, `[b]`, 0 where there is none yet."""
    import torch

    finite = x.detach().isfinite()
    broken = ~(finite.flatten(1).all(1) if finite.ndim > 1 else finite)
    first = torch.zeros_like(broken, dtype=torch.long) if first is None else first
    return torch.where(broken & (first == 0), step, first)


def warn_broken(first: Tensor | None, what: str, where: Callable[[int, int], str]) -> None:
    """Warn if any sample is not finite.

    Arguments:
        first: what `broken_since` returned last.
        what: the plural of what was made of each sample.
        where: of the first step and the row of a sample to which it happened there, in words.
    """
    if first is None:
        return
    steps = first.cpu()
    if not (broken := steps > 0).any():
        return
    step = int(steps[broken].min())
    row = int((steps == step).nonzero()[0])
    warnings.warn(
        f"{int(broken.sum())} of {len(steps)} {what} are not finite, first {where(step, row)}: look at what the "
        "network returns there, and whether its weights are finite and its dtype is wide enough",
        NotFinite,
        stacklevel=3,
    )
