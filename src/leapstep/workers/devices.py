"""What a machine computes on: devices, and threads of the processor."""

from __future__ import annotations

import os
import sys


def kinds() -> list[str]:
    """The kinds of devices that are there, the best first."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [kind for kind, is_there in there.items() if is_there]


def best() -> str:
    """The best kind that is there."""
    return kinds()[0]


def threads() -> int:
    """The number of threads in which this process computes on the processor."""
    import torch

    return torch.get_num_threads()


def set_threads(number: int) -> None:
    """Compute in so many threads from now on; the last bits of sums depend on it."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(number)
    else:  # it reads this when it is imported
        os.environ["OMP_NUM_THREADS"] = str(number)
