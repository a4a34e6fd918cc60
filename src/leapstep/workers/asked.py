"""Whose workers are asked for, and where their job lies."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leapstep.workers.running import HERE, RAY, check_engine


@dataclasses.dataclass(frozen=True)
class Workers:
    """Whose workers make the shards of a job, and where they put what comes of it; see `leapstep.workers.run`.

    Attributes:
        on: their name.
        shard: indices of a shard; None: about a minute's work.
        folder: of the job, or of the results in which it lies; all of them see it. None: a temporary one, where they
            are all on this machine.
        device: theirs; None: the best that they have.
        number: how many Ray is asked for; None: as there is room for.
        overwrite: whether results in the folder may be replaced; else a job that was stopped there goes on.
    """

    on: str = HERE
    shard: int | None = None
    folder: Path | None = None
    device: str | None = None
    number: int | None = None
    overwrite: bool = False

    @classmethod
    def named(
        cls,
        on: str,
        shard: int | None,
        folder: str | Path | None = None,
        device: object = None,
        number: int | None = None,
    ) -> Workers:
        """Those that somebody asks for. Raises ValueError where there can be none."""
        check_engine(on, number)
        folder, device = None if folder is None else Path(folder), None if device is None else str(device)
        return cls(on, shard, folder, device, number)

    @property
    def options(self) -> dict[str, Any]:
        """What `leapstep.workers.run` is told of them, besides the size of a shard."""
        return {"on": self.on, "workers": self.number, "device": self.device}

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        """Their folder. Raises ValueError where it must be named."""
        if self.folder is not None:
            yield self.folder
        elif self.on in (HERE, RAY):
            with tempfile.TemporaryDirectory(prefix="leapstep-") as folder:
                try:
                    yield Path(folder)
                except KeyboardInterrupt as request:
                    vars(request).pop("__notes__", None)  # of shards that are kept: they go
                    raise
        else:
            raise ValueError(f"the workers of {self.on} need a folder that all of them see: name one by --out")
