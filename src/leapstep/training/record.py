"""The record of a run: what trackers show of it, and its progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leapstep.progress import progress_bar
from leapstep.training.configuration import RunConfig
from leapstep.training.tracking import Trackers

if TYPE_CHECKING:
    from PIL import Image


class Record:
    """Scalars and pictures for the trackers of a run, and a progress bar. Only the main process of a run keeps it.

    Arguments:
        run: the run folder.
        config: of the run; how often scalars are written.
        step: where the run stands; what an earlier process wrote beyond it is dropped.
        bar: whether to show the progress bar, and to tell of trackers that fail.
        summary: what trackers store of the run besides, see `Learner.summary`.
    """

    def __init__(self, run: Path, config: RunConfig, step: int, bar: bool, summary: Mapping[str, Any]) -> None:
        self.config, self.reports, self.logged = config, bar, step
        self.trackers = Trackers(config.log, run, step, config.project, summary)
        self.bar = progress_bar(config.steps, "training", "step", done=step, show=bar)
        self.compared = ""
        self.by_time = np.zeros((2, 4))  # sums and counts of the loss in each quarter of the time range
        self.since = time.perf_counter()

    def add(self, step: int, result: Mapping[str, Any], compared: Mapping[str, float], steps: int) -> None:
        """Note a step.

        Arguments:
            step: how many there were, this one included.
            result: what `Trainer.advance` returned.
            compared: what `Trainer.compare` returned, if it was asked.
            steps: how many there will be.
        """
        quarter = (result["times"] * 4).ceil().long() - 1
        np.add.at(self.by_time, (0, quarter), result["losses"])
        np.add.at(self.by_time, (1, quarter), 1)
        scalars = {f"loss_alike/{name}": value for name, value in compared.items()}
        if step % self.config.log_every == 0:
            speed = (step - self.logged) * self.config.batch_size / (time.perf_counter() - self.since)
            scalars |= {name: result[name] for name in ("loss", "gradient_norm", "learning_rate")}
            scalars["samples_per_second"] = speed
            for i, (total, count) in enumerate(self.by_time.T, start=1):
                if count:
                    scalars[f"loss_by_time/quarter_{i}"] = total / count
            self.by_time[:], self.since, self.logged = 0, time.perf_counter(), step
        if scalars:
            self.trackers.scalars(step, scalars)
        self.tell(self.trackers.news())
        if compared:
            seen = f" (training data {compared['training']:.4f})" if "training" in compared else ""
            self.compared = f", held out={compared['held_out']:.4f}{seen}"
        self.bar.set_postfix_str(f"loss={result['loss']:.4f}{self.compared}", refresh=False)
        self.bar.total = steps
        self.bar.update()

    def picture(self, step: int, image: Image.Image) -> None:
        """Note the grid of samples of a step."""
        self.trackers.picture(step, "samples", image)

    def close(self) -> None:
        """Write what is left."""
        self.trackers.close()
        self.tell(self.trackers.news())
        self.bar.close()

    def tell(self, lines: Iterable[str]) -> None:
        """Print lines above the progress bar."""
        for line in lines:
            if self.reports:
                self.bar.write(line, file=sys.stderr)
