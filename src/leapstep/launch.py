"""Which of several processes this is, where torchrun, accelerate launch or mpirun started more than one."""

import os

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say it, as accelerate reads them."""


def rank() -> int:
    """The number of this process among those that were started together; 0 where it is alone."""
    return _first(RANKS, 0) if processes() > 1 else 0


def processes() -> int:
    """How many processes were started together."""
    return _first(SIZES, 1)


def go_alone() -> None:
    """Forget the other processes, so that nothing in this one waits for them."""
    for name in (*RANKS, *SIZES, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


def _first(names: tuple[str, ...], otherwise: int) -> int:
    said = (os.environ.get(name, "") for name in names)
    return next((int(text) for text in said if text.isdecimal()), otherwise)
