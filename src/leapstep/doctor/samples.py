"""The samples with which the doctor calls a network: rows of the data, their conditions and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leapstep.data.values import Elsewhere
from leapstep.doctor.probe import Condition
from leapstep.doctor.ranges import F64
from leapstep.text import one_line

LEAST = 20
"""Samples that are needed."""

Array = npt.NDArray[Any]
Given = Mapping[str, Any] | Callable[[Tensor], Mapping[str, Any]] | None
"""A condition as somebody gives it: arrays aligned with the data by keyword, or a function from rows to keywords."""


@dataclass(frozen=True)
class Samples:
    """Rows of the data.

    Attributes:
        values: as they lie on disk, `[n, *d]`, in memory of their own.
        condition: of rows of these `[b]`, the network's keyword arguments.
        counts: where the network's answer counts, bool `[n, *d]`; None: everywhere.
        given: how conditions were given, "arrays" or "function"; "" where there are none.
        masked: how `counts` was given, a mask for "each" of the data or one for "all"; "" where there is none.
    """

    values: Tensor
    condition: Condition
    counts: Tensor | None
    given: str
    masked: str

    @property
    def alike(self) -> bool:
        """Whether a network samples for any row as for all."""
        return not self.given and not self.masked

    def __len__(self) -> int:
        """How many rows."""
        return len(self.values)


def draw(data: Any, condition: Given, counts: Any, n: int, generator: torch.Generator, device: torch.device) -> Samples:
    """Choose rows of the data, n at most; of data on disk nothing else is read.

    Arguments:
        data: `[m, *d]`, an array or a tensor.
        condition: for each of its rows.
        counts: 1 where the network's answer counts and 0 elsewhere, `[m, *d]` or `[*d]`; None: everywhere.
        device: where the conditions go.
    Raises:
        ValueError: data, a condition or counts that cannot be used.
    """
    whole = data if isinstance(data, Elsewhere) else _array(data)
    if whole.ndim < 2 or len(whole) < LEAST:
        raise ValueError(f"the data have shape {tuple(whole.shape)}: give [n, *d] with n of {LEAST} or more, best 300")
    mask = None if counts is None else _mask(_array(counts), tuple(whole.shape))
    usable = torch.arange(len(whole)) if mask is None else _usable(mask)
    chosen = usable[torch.randperm(len(usable), generator=generator)[:n]]
    values = _rows(whole, chosen)
    counted = None if mask is None else _rows(mask, chosen).bool()
    if not values.to(F64).isfinite().all():
        raise ValueError("the data hold values that are not finite: remove them, or fill them as for the training")
    if (values if counted is None else values[counted]).to(F64).std() == 0:
        raise ValueError("all values of the data are the same: the network cannot be told from any other")
    given = _conditions(condition, chosen, len(whole), device)
    kind = "" if condition is None else "function" if callable(condition) else "arrays"
    masked = "" if mask is None else "each" if _array(counts).ndim == whole.ndim else "all"
    return Samples(values, given, counted, kind, masked)


def _array(values: Any) -> Tensor | Array:
    return values if isinstance(values, Tensor) else np.asarray(values)


def _rows(values: Tensor | Array | Elsewhere, chosen: Tensor) -> Tensor:
    """These rows, on the CPU and in memory of their own."""
    if isinstance(values, Tensor):
        return values[chosen.to(values.device)].cpu()
    return torch.from_numpy(values[chosen.numpy()])


def _mask(counts: Tensor | Array, shape: tuple[int, ...]) -> Tensor | Array:
    """The mask for each of the data, `[m, *d]`."""
    if tuple(counts.shape) not in (shape, shape[1:]):
        raise ValueError(
            f"counts has shape {tuple(counts.shape)}: give {shape}, a mask for each of the data, or {shape[1:]}, one "
            "for all, with 1 where the network's answer counts"
        )
    if not ((counts == 0) | (counts == 1)).all():
        raise ValueError("counts holds other values than 0 and 1: give 1 where the network's answer counts, else 0")
    return counts.expand(shape) if isinstance(counts, Tensor) else np.broadcast_to(counts, shape)


def _usable(mask: Tensor | Array) -> Tensor:
    """The rows in which anything counts."""
    if isinstance(mask, Tensor):
        counted = mask.flatten(1).bool().any(1)
    else:
        counted = torch.from_numpy(mask.any(axis=tuple(range(1, mask.ndim))))
    rows = counted.nonzero()[:, 0].cpu()
    if len(rows) < LEAST:
        raise ValueError(f"in counts {len(rows)} of {len(mask)} rows hold a 1: at least {LEAST} are needed, best 300")
    return rows


def _conditions(condition: Given, chosen: Tensor, total: int, device: torch.device) -> Condition:
    """The network's keyword arguments for rows of the chosen data, where the network is."""
    if condition is None:
        return lambda rows: {}
    if callable(condition):
        return lambda rows: {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in _keywords(condition, chosen[rows]).items()
        }
    arrays = {name: _array(value) for name, value in condition.items()}
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != total:
            raise ValueError(
                f"condition {name!r} has shape {tuple(array.shape)}: give one row for each of {total} data"
            )
    chosen_rows = {name: _rows(array, chosen).to(device) for name, array in arrays.items()}
    return lambda rows: {name: array[rows.to(device)] for name, array in chosen_rows.items()}


def _keywords(condition: Callable[[Tensor], Mapping[str, Any]], rows: Tensor) -> Mapping[str, Any]:
    """What somebody's function says of these rows."""
    try:
        given = condition(rows)
    except Exception as error:  # it may raise anything
        raise ValueError(f"the condition raised {type(error).__name__}: {one_line(str(error))}") from error
    if not isinstance(given, Mapping):
        raise ValueError(f"the condition returned {type(given).__name__}: return a dict of keyword arguments")
    return given
