"""The call of a network: the shape and the type of its timesteps, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def call(
    net: Callable[..., Any],
    x: Tensor,
    timestep: Tensor | float,
    keywords: Mapping[str, Any],
    reshape: str | Callable[[Tensor], Tensor] = "[b]",
    learned: bool | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Call a network: the only place in this library where that is done.

    Arguments:
        x: as the network sees it, `[b, *d]`.
        timestep: as the network counts it, one for all samples, a number or `[]`, or one for each `[b]`.
        keywords: its further arguments for this batch.
        reshape, learned: as `Convention.reshape` and `Convention.learned_variance`.
        dtype: what x is cast to; None: its own.
    Returns:
        the prediction `[b, *d]` in the dtype of x, and the half that is a learned variance, or None.
    Raises:
        ValueError: the network returned no tensor, or one of another shape.
    """
    shared = not isinstance(timestep, Tensor) or timestep.ndim == 0
    timestep, value = _for_all(timestep, x), x if dtype is None else x.to(dtype)
    if callable(reshape):
        return _prediction(net(value, reshape(timestep), **keywords), x, learned)
    if reshape != "scalar" or shared or (timestep == timestep[0]).all():
        shaped = {"[b]": timestep, "[b, 1]": timestep[:, None], "scalar": timestep[0]}[reshape]
        return _prediction(net(value, shaped, **keywords), x, learned)
    output: Tensor | None = None
    for single in torch.unique(timestep):
        rows = timestep == single
        part = as_tensor(net(value[rows], single, **_sliced(keywords, rows, len(x))))
        output = part.new_empty(len(x), *part.shape[1:]) if output is None else output
        output[rows] = part
    return _prediction(output, x, learned)


def _for_all(timestep: Tensor | float, x: Tensor) -> Tensor:
    """Timesteps of all samples `[b]` on the device of x; those that are not whole numbers in float32 or its dtype."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if not isinstance(timestep, Tensor):
        kind = torch.int64 if isinstance(timestep, int) else wide
        return torch.full((len(x),), timestep, dtype=kind, device=x.device)
    if timestep.is_floating_point():
        timestep = timestep.to(wide)
    return timestep.to(x.device) if timestep.ndim else timestep.to(x.device).repeat(len(x))


def _sliced(keywords: Mapping[str, Any], rows: Tensor, n: int) -> dict[str, Any]:
    """The keyword arguments for some rows of a batch of n."""
    return {
        name: value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim and len(value) == n else value
        for name, value in keywords.items()
    }


def as_tensor(output: Any) -> Tensor:
    """What a network returned, or what it holds as `.sample`. Raises ValueError where that is no tensor."""
    value = output if isinstance(output, Tensor) else getattr(output, "sample", None)
    if not isinstance(value, Tensor):
        raise ValueError(
            f"the network returned {type(output).__name__}: return a tensor of x's shape, or an object that has it as "
            ".sample"
        )
    return value


def _prediction(output: Any, x: Tensor, learned: bool | None) -> tuple[Tensor, Tensor | None]:
    """The prediction in the dtype of x, and the half that speaks of the variance, if there is one."""
    value, half = as_tensor(output), None
    if learned is not False and value.ndim == x.ndim > 1 and value.shape[1] == 2 * x.shape[1]:
        value, half = value.to(x.dtype).chunk(2, dim=1)
    if value.shape != x.shape:
        raise ValueError(
            f"the network returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}: return a tensor of x's "
            "shape"
        )
    if learned and half is None:
        raise ValueError("learned_variance=True, but the output has as many channels as x, not twice as many")
    return value.to(x.dtype), half
