"""The rank of this process, if torchrun, accelerate launch or mpirun started several."""

import contextlib
import os
from collections.abc import Iterator

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables of launchers, the same that accelerate reads."""

FSDP = "ACCELERATE_USE_FSDP"
"""The environment variable by which `accelerate launch --use_fsdp` asks that processes share the weights."""


def rank() -> int:
    """The rank of this process among those that were started together; 0 if it is alone."""
    return _first(RANKS, 0) if processes() > 1 else 0


def processes() -> int:
    """The number of processes that were started together."""
    return _first(SIZES, 1)


def neighbours() -> int:
    """The number of processes of those that were started together that share this machine."""
    return _first(("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"), 1) if processes() > 1 else 1


def shards() -> bool:
    """Whether accelerate was asked to share the weights among the processes."""
    return os.environ.get(FSDP, "").lower() in ("1", "true", "yes")


@contextlib.contextmanager
def without_fsdp() -> Iterator[None]:
    """Hide from accelerate, for the time of the block, that it was asked for that."""
    asked = os.environ.pop(FSDP, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[FSDP] = asked


def go_alone() -> None:
    """Remove these variables, so that nothing in this process waits for the others."""
    for name in (*RANKS, *SIZES, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


def _first(names: tuple[str, ...], default: int) -> int:
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), default)
