"""The memory of a method, with a row for each sample.

A memory maps names to tensors whose first axis is the batch, so samples may join a batch, leave it, or keep what they
had while others move on, whatever steps they stand at. A row of zeros, or a name that is missing, is the memory of a
sample that has not taken a step; None is the memory of a batch of such samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from leapstep.core.process import where

Memory = Mapping[str, Tensor] | None
"""What a method carries from step to step: tensors `[b, ...]` by name; None before the first step."""


def rows(memory: Memory, index: Tensor | slice) -> Memory:
    """Take the rows at an index, as `x[index]` takes samples: a slice, a mask `[b]` or row numbers."""
    return None if memory is None else {name: value[index] for name, value in memory.items()}


def join(memories: Sequence[Memory], sizes: Sequence[int]) -> Memory:
    """Join the memories of batches of these sizes in one, as `torch.cat` joins their samples."""
    parts = [dict(memory or {}) for memory in memories]
    examples = {name: value for part in parts for name, value in part.items()}

    def column(name: str, example: Tensor) -> Tensor:
        empty = [example.new_zeros(size, *example.shape[1:]) for size in sizes]
        return torch.cat([part.get(name, zeros) for part, zeros in zip(parts, empty, strict=True)])

    return {name: column(name, example) for name, example in examples.items()} or None


def select(mask: Tensor, memory: Memory, other: Memory) -> Memory:
    """Take the rows of one memory where the mask, one for all `[]` or one each `[b]`, is set, and else of another."""
    one, two = dict(memory or {}), dict(other or {})

    def column(name: str) -> Tensor:
        example = two[name] if name in two else one[name]
        return where(mask, *(part.get(name, torch.zeros_like(example)) for part in (one, two)))

    return {name: column(name) for name in {**two, **one}} or None
