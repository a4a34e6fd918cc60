"""Work that costs nothing, for tests of whoever does it: each shard is its indices, and what goes wrong is chosen."""

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np

KEY = {"model": "numbers"}


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The indices of a shard in a file.

    Attributes:
        seconds: how long a shard takes.
        dies_at: the index whose worker is killed, until the file `once` is there.
        hangs_at: the index whose worker hangs, until that file is there.
        fails_at: the index that fails; each try is noted in the file `tries`.
        begins: whether the work begins at all.
    """

    what = "counting"
    unit = "number"
    suffix = ".npy"

    seconds: float = 0.0
    dies_at: int = -1
    hangs_at: int = -1
    once: str = ""
    fails_at: int = -1
    tries: str = ""
    begins: bool = True

    def settle(self, device):
        return {"pid": os.getpid()}

    def start(self, device, settled):
        if not self.begins:
            raise ValueError("no device")

        def make(rows, path):
            path.write_bytes(b"a part")
            time.sleep(self.seconds)
            for index, number in ((self.dies_at, signal.SIGKILL), (self.hangs_at, signal.SIGSTOP)):
                if index in rows and not Path(self.once).exists():
                    Path(self.once).touch()
                    os.kill(os.getpid(), number)
            if self.fails_at in rows:
                with open(self.tries, "a") as file:
                    file.write(f"{os.getpid()} ")
                raise ValueError(f"no {self.fails_at}")
            with path.open("wb") as file:
                np.save(file, np.array(rows))
            return {"pid": os.getpid(), "settled": settled.get("pid")}

        return make
