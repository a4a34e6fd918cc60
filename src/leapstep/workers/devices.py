"""The devices of a machine that PyTorch can compute on."""

from __future__ import annotations


def kinds() -> list[str]:
    """The kinds that are there, the best first."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [kind for kind, is_there in there.items() if is_there]


def best() -> str:
    """The best kind that is there."""
    return kinds()[0]
