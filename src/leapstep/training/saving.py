"""Checkpoints of a run, which are written while it goes on.

A checkpoint is copied between two steps and then written by a thread, so all processes of the run wait for the copy
alone. One is written at a time: the next waits for it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from leapstep.models import checkpoint
from leapstep.models.model import Model
from leapstep.text import one_line


class Snapshot(NamedTuple):
    """What a checkpoint holds, apart from the run, which goes on.

    Attributes:
        step: of the run.
        tensors: the training state, by name.
        values: what of it is no tensor, as JSON.
        model: for sampling, with the averaged weights.
    """

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    model: Model

    def write(self, run: Path) -> None:
        """Write it into a run folder, first the training state and then the model; each file whole or not at all."""
        checkpoint.save_state(run, self.step, self.tensors, self.values)
        checkpoint.save(self.model, run)


class Writer:
    """Writes the checkpoints of a run, one after the other, while it goes on.

    A write that fails is told, and the run goes on: the next checkpoint tries again. The last one raises.

    Arguments:
        run: the run folder.
        step: of the checkpoint that is there; 0: there is none.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.run, self.taken, self.saved = run, step, step
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait, but for a request to stop at once."""
        if kind is None or issubclass(kind, Exception):
            self.wait()

    def take(self, step: int, copied: Callable[[], Snapshot | None]) -> None:
        """Begin to write a run as it stands, once the checkpoint before is written; on all processes of the run.

        Arguments:
            step: where it stands.
            copied: copies it; None where another process does.
        """
        self.wait()
        self.told()
        snapshot, self.taken = copied(), step
        if snapshot is None:
            self.saved = step
            return
        self.thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self.thread.start()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            snapshot.write(self.run)
            self.saved = snapshot.step
        except Exception as error:  # told by the thread that the run is in
            self.error = error

    def told(self) -> None:
        """Warn of a write that has failed since this was last called."""
        error, self.error = self.error, None
        if error is not None:
            kept = f"the checkpoint of step {self.saved} is kept" if self.saved else "there is none yet"
            warnings.warn(
                f"a checkpoint was not written ({one_line(str(error))}); {kept}, and the next one will be tried",
                stacklevel=2,
            )

    def wait(self) -> None:
        """Wait until nothing is being written any more."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def finish(self) -> None:
        """Wait for the last checkpoint. Raises what its write failed of."""
        self.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
