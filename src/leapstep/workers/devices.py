"""What a machine computes on: devices, and threads of the processor."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import sys
from pathlib import Path

from leapstep.text import one_line

UNITS = re.compile(r"s?sse\d\w*|avx\w*|amx\w*|fma\w*|f16c|neon|asimd\w*|sve\w*|sme\w*|fphp|bf16|i8mm")
"""The units of a processor that compute with vectors and matrices, as `/proc/cpuinfo` names them."""

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "NPY_DISABLE_CPU_FEATURES")
"""Variables by which libraries are told to use fewer of these units, or all in the same way."""

LONGEST = 180
"""The most characters of a description, fewer than a schema lets pass."""


def kinds() -> list[str]:
    """The kinds of devices that are there, the best first."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [kind for kind, is_there in there.items() if is_there]


def best() -> str:
    """The best kind that is there."""
    return kinds()[0]


def described(device: str) -> str:
    """What kind a device is of, as far as rounding depends on it: those of one kind give the same bits.

    Of a GPU it is the name; of a processor the name, a hash of its units, the instructions that PyTorch has chosen, and
    what variables of the environment limit.

    Raises:
        ValueError: this machine has no such device.
    """
    import torch

    at = torch.device(device)
    if at.type not in kinds():
        raise ValueError(f"device {device}: this machine has {', '.join(kinds())}")
    if at.type == "cuda":
        return one_line(torch.cuda.get_device_name(at), LONGEST)
    if at.type != "cpu":
        return f"{at.type}, {_processor()}"
    limits = (f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ)
    return one_line(", ".join([_processor(), torch.backends.cpu.get_cpu_capability(), *limits]), LONGEST)


@functools.cache
def _processor() -> str:
    """The processor: its name, and a hash of its units, which its name may not tell."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in known.items()}
    name = fields.get("model name") or platform.processor() or platform.machine()
    units = sorted(filter(UNITS.fullmatch, (fields.get("flags") or fields.get("Features") or "").split()))
    return f"{one_line(name, 80)} {hashlib.sha256(' '.join(units).encode()).hexdigest()[:8]}"


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
