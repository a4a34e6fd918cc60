"""A single warning about results that hold NaN or infinity, with the step at which they first did.

Where results arise step by step, each step is added up on the device it runs on, in one pass, and nothing looks at the
sums before the end:

    sums = []
    for step in 1, 2, ...:
        sums.append(row_sums(x))
    warn_broken(sums, "samples", lambda step, row: ...)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line knows the warning before it has waited for torch
    from torch import Tensor


class NotFinite(RuntimeWarning):
    """Samples, latents or likelihoods hold NaN or infinity; the command line makes an error of it."""


def row_sums(x: Tensor) -> Tensor:
    """The sum of each sample of x `[b, *d]`, `[b]`: not finite if any of its values is not."""
    import torch

    rows = x.detach().flatten(1) if x.ndim > 1 else x.detach()[:, None]
    return rows.sum(1, dtype=torch.float32 if x.dtype.itemsize < 4 else x.dtype)


def warn_broken(sums: Sequence[Tensor], what: str, where: Callable[[int, int], str]) -> None:
    """Warn if any sample was not finite after some step.

    Arguments:
        sums: the `row_sums` of each step, of which the first is step 1.
        what: the plural of what was made of each sample.
        where: of the first step and the row of a sample to which it happened there, in words.
    """
    if not sums:
        return
    import torch

    bad = ~torch.stack(list(sums)).isfinite().cpu()
    steps = torch.where(bad.any(0), bad.long().argmax(0) + 1, 0)
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
