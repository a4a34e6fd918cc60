"""Where a training is logged: TensorBoard in the run folder, and the trackers of others, through accelerate's classes.

A tracker of others may be slow, or lose its network. Each therefore works in a thread of its own, which takes values
from a queue of bounded length: a step waits for none of them. One that fails is left out from there on, which is said
once.

What is sent, and only to a tracker that is asked for by name, are the scalars, the grids of samples, the settings, the
name of the run folder and the last part of the data's name. What trackers collect besides (code, git, the console, the
command line, the host) is switched off where they have switches for it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from leapstep import files
from leapstep.files import folders, reading
from leapstep.text import counted, one_line, reason

if TYPE_CHECKING:
    from PIL import Image

PROJECT = "leapstep"
"""The project of a run, where neither a setting nor the tracker's own environment variable names one."""

LENGTH = 10_000
"""Entries that wait for a tracker at most; further ones are left out."""

PATIENCE = 30.0
"""Seconds for which the end of a run waits for all trackers, and W&B for its server."""

IDENTITIES = "trackers.json"
"""The file in `log/` of a run folder with the names by which trackers know the run."""


class Run(NamedTuple):
    """A run as a tracker sees it.

    Attributes:
        folder: `log` in the run folder.
        name: of the run.
        project: that it belongs to; None: not said.
        identity: by which the tracker knows the run from before; None for a new one.
        step: where the run stands.
    """

    folder: Path
    name: str
    project: str | None
    identity: str | None
    step: int


class Kind(NamedTuple):
    """How a tracker is made.

    Attributes:
        make: the tracker of a run, begun.
        identify: by what name the tracker knows the run, to go on with it.
        picture: makes of pixels [h, w, 3] what its `log_images` takes.
        options: further arguments of `log_images`.
    """

    make: Callable[[type[Any], Run], Any]
    identify: Callable[[Any], str | None] = lambda tracker: None
    picture: Callable[[Any], Any] = lambda pixels: [pixels]
    options: Mapping[str, Any] = {}


def _tensorboard(kind: type[Any], run: Run) -> Any:
    return kind(run.folder.name, str(run.folder.parent), purge_step=run.step + 1)


def _wandb(kind: type[Any], run: Run) -> Any:
    wandb = importlib.import_module("wandb")
    online = os.environ.get("WANDB_MODE", "online") in ("online", "shared")
    if online and not wandb.login(prompt=False, verify=False):  # or else it would ask for a key in the midst of a run
        raise ValueError("not logged in: call wandb login before, or set WANDB_MODE=offline")
    switches = {
        "console": "off",
        "disable_code": True,
        "disable_git": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        "host": os.environ.get("WANDB_HOST", "-"),  # or else it sends the machine's name
        "init_timeout": PATIENCE,
        "finish_timeout": PATIENCE,
    }
    known = getattr(wandb.Settings, "model_fields", switches)
    settings = wandb.Settings(**{name: value for name, value in switches.items() if name in known})
    where = {} if "WANDB_DIR" in os.environ else {"dir": str(run.folder)}
    identity = run.identity or secrets.token_hex(4)
    project = run.project or os.environ.get("WANDB_PROJECT", PROJECT)
    return kind(project, name=run.name, id=identity, resume="allow", settings=settings, **where)


def _comet(kind: type[Any], run: Run) -> Any:
    off = ("log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch", "log_env_details")
    comet = importlib.import_module("comet_ml")
    config = comet.ExperimentConfig(name=run.name, auto_output_logging=False, **dict.fromkeys(off, False))
    project = run.project or os.environ.get("COMET_PROJECT_NAME", PROJECT)
    return kind(project, experiment_key=run.identity, experiment_config=config)


def _mlflow(kind: type[Any], run: Run) -> Any:
    return kind(run.project or PROJECT, run_id=run.identity, run_name=run.name)


def _aim(kind: type[Any], run: Run) -> Any:
    return kind(
        run.name,
        None,
        run_hash=run.identity,
        experiment=run.project or PROJECT,
        capture_terminal_logs=False,
    )


def _clearml(kind: type[Any], run: Run) -> Any:
    resumed: dict[str, Any] = {"reuse_last_task_id": run.identity or False}
    if run.identity:
        resumed["continue_last_task"] = 0  # its steps are counted on from none, ours are the run's own
    off = ("auto_connect_arg_parser", "auto_connect_frameworks", "auto_connect_streams")
    return kind(run.project or PROJECT, task_name=run.name, **resumed, **dict.fromkeys(off, False))


def _dvclive(kind: type[Any], run: Run) -> Any:
    folder = folders.inner(run.folder, "dvclive")
    return kind(run.name, dir=str(folder), resume=run.identity is not None, save_dvc_exp=False, dvcyaml=False)


def _swanlab(kind: type[Any], run: Run) -> Any:
    identity = run.identity or secrets.token_hex(8)
    return kind(run.project or PROJECT, name=run.name, id=identity, resume="allow")


def _trackio(kind: type[Any], run: Run) -> Any:
    return kind(run.project or PROJECT, name=run.identity or f"{run.name}-{secrets.token_hex(2)}", resume="allow")


KINDS: dict[str, Kind] = {
    "tensorboard": Kind(_tensorboard, picture=lambda pixels: pixels[None], options={"dataformats": "NHWC"}),
    "wandb": Kind(_wandb, lambda tracker: tracker.init_kwargs["id"]),
    "mlflow": Kind(_mlflow, lambda tracker: tracker.tracker.info.run_id),
    "comet_ml": Kind(_comet, lambda tracker: tracker.tracker.get_key()),
    "aim": Kind(_aim, lambda tracker: tracker.tracker.hash, picture=lambda pixels: pixels),
    "clearml": Kind(_clearml, lambda tracker: tracker.tracker.id, picture=lambda pixels: pixels),
    "dvclive": Kind(_dvclive, lambda tracker: "dvclive"),
    "swanlab": Kind(_swanlab, lambda tracker: tracker.init_kwargs["id"]),
    "trackio": Kind(_trackio, lambda tracker: tracker.init_kwargs["name"]),
}
"""accelerate's trackers by name; `accelerate.tracking.register_tracker_class` adds others, made as it says there."""


class Tracker:
    """One tracker, which works in a thread of its own.

    Arguments:
        name: of the tracker.
        make: makes it.
        tell: called, from either thread, with a line where it fails.
    """

    def __init__(self, name: str, make: Callable[[], Any], tell: Callable[[str], object]) -> None:
        self.name, self._make, self._tell = name, make, tell
        self._waiting: queue.Queue[Callable[[Any], object] | None] = queue.Queue(LENGTH)
        self._left_out, self._failed = 0, False
        self._thread = threading.Thread(target=self._work, name=f"leapstep-{name}", daemon=True)
        self._thread.start()

    def send(self, entry: Callable[[Any], object]) -> None:
        """Have the tracker do something when it comes to it; never waits."""
        if self._failed:
            return
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            if not self._left_out:
                self._tell(f"{self.name} is too slow: what it cannot take is left out there")
            self._left_out += 1

    def close(self, until: float) -> None:
        """End the tracker once it has taken what waits for it, or at a time of `time.monotonic`."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=max(0.0, until - time.monotonic()))
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            waiting = counted(max(1, self._waiting.qsize()), "entry").replace("entrys", "entries")
            self._tell(f"{self.name} has not finished in time: the last {waiting} may be missing there")

    def _work(self) -> None:
        try:
            tracker = self._make()
            while (entry := self._waiting.get()) is not None:
                entry(tracker)
            tracker.finish()
        except (Exception, SystemExit) as error:  # whatever a foreign library raises: a training does not end by that
            self._failed = True
            with contextlib.suppress(queue.Empty):  # so that its end is not waited for
                while True:
                    self._waiting.get_nowait()
            self._tell(f"{self.name} no longer logs, the run goes on: {reason(error)}")


class Trackers:
    """All trackers of a run. Only the main process has them.

    Arguments:
        names: of `KINDS`, or registered with accelerate.
        run: the run folder.
        step: where the run stands; what an earlier process logged beyond it counts no more.
        project: that the run belongs to.
        configuration: stored when a tracker first sees the run.
    """

    def __init__(
        self, names: Iterable[str], run: Path, step: int, project: str | None, configuration: Mapping[str, Any]
    ) -> None:
        self._folder = folders.inner(run, "log")
        self._known, self._lock = _identities(self._folder), threading.Lock()
        self._name, self._project, self._step = _plain(run.resolve().name), project, step
        self._configuration = flat(configuration)
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._all = [Tracker(name, functools.partial(self._begun, name), self._news.put) for name in names]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers by name."""
        plain = {name: float(value) for name, value in values.items()}
        for tracker in self._all:
            tracker.send(lambda it: it.log(plain, step=step))

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Log a picture, where a tracker takes any."""
        pixels = np.array(image.convert("RGB"))
        for tracker in self._all:
            kind = KINDS.get(tracker.name)

            def show(it: Any, kind: Kind | None = kind) -> None:
                if hasattr(it, "log_images"):
                    given, more = ([pixels], {}) if kind is None else (kind.picture(pixels), kind.options)
                    it.log_images({name: given}, step=step, **more)

            tracker.send(show)

    def news(self) -> list[str]:
        """What is to be told of the trackers since this was asked last, in lines."""
        return [self._news.get() for _ in range(self._news.qsize())]

    def close(self) -> None:
        """End all trackers; waits for them for `PATIENCE` seconds in all."""
        until = time.monotonic() + PATIENCE
        for tracker in self._all:
            tracker.close(until)

    def _begun(self, name: str) -> Any:
        """A tracker that is ready for values, whose name for the run is kept."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        run = Run(self._folder, self._name, self._project, self._known.get(name), self._step)
        kind, own = LOGGER_TYPE_TO_CLASS[name], KINDS.get(name)
        if own is not None:
            tracker = own.make(kind, run)
        else:
            tracker = kind(*[run.project or PROJECT, *[str(run.folder)] * kind.requires_logging_directory])
        if hasattr(tracker, "start"):  # accelerate 1.2 begins at once
            tracker.start()
        if name not in self._known:
            if name == "tensorboard":
                lines = ["| setting | value |", "| --- | --- |"]
                lines += [f"| {key} | {value} |" for key, value in self._configuration.items()]
                tracker.tracker.add_text("configuration", "\n".join(lines), 0)  # hparams would need files of their own
            else:
                tracker.store_init_configuration(dict(self._configuration))
            with self._lock:
                self._known[name] = (own.identify(tracker) if own is not None else None) or name
                files.write_json(self._folder / IDENTITIES, self._known)
        return tracker


def _identities(folder: Path) -> dict[str, str]:
    """By what names trackers know the run of a folder; nothing where that cannot be read."""
    try:
        known = reading.read_json(folder / IDENTITIES)
    except (OSError, ValueError):
        return {}
    pairs = known.items() if isinstance(known, dict) else ()
    return {name: value for name, value in pairs if isinstance(value, str) and re.fullmatch(r"[\w.-]{1,128}", value)}


def flat(values: Mapping[str, Any]) -> dict[str, bool | int | float | str | None]:
    """Settings as trackers take them, with lists as text."""
    found: dict[str, bool | int | float | str | None] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
        elif isinstance(value, list | tuple):
            found[name] = ",".join(map(str, value))
        else:
            found[name] = one_line(value) if isinstance(value, str) else value
    return found


def _plain(name: str) -> str:
    """A name of letters, digits, dots and dashes, which every tracker takes."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-")[:100] or "run"
