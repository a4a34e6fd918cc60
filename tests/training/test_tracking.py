"""Trackers get the values of the run as they are, cost it no time, and cannot end it."""

import contextlib
import importlib.util
import json
import socket
import threading

import numpy as np
import pytest
from accelerate import tracking as theirs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import invoke, refused
from leapstep.models import checkpoint
from leapstep.training import tracking, train
from leapstep.training.configuration import TRACKERS, configure

TINY = {"channels": (8, 8), "attention": (0, 0), "blocks": 1, "groups": 4, "batch_size": 64, "precision": "float32"}
TINY |= {"log_every": 2, "holdout_every": 3, "sample_every": 4, "save_every": 4, "warmup": 0, "timesteps": 8}


class Recorder(theirs.GeneralTracker):
    """A tracker that writes down what it is told, in a list for all of its kind."""

    name, requires_logging_directory = "recorder", True
    said: list = []  # noqa: RUF012

    def __init__(self, project, folder):
        super().__init__()
        self.said.append(("made", project, folder))

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.said.append(("configuration", values))

    def log(self, values, step=None, **options):
        self.said.append(("log", step, values))

    def log_images(self, values, step=None, **options):
        self.said.append(("picture", step, values))

    def finish(self):
        self.said.append(("finish",))


@contextlib.contextmanager
def registered(kind):
    """What trackers of this kind are told while accelerate knows it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(theirs.LOGGER_TYPE_TO_CLASS, kind.name, kind)
        patch.setattr(kind, "said", [])
        yield kind.said


@pytest.fixture
def recorder():
    with contextlib.ExitStack() as stack:
        yield lambda kind=Recorder: stack.enter_context(registered(kind))


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "secret.npy"
    np.save(path, np.random.default_rng(0).normal(size=(200, 2)))
    return path


def on_points(points, run, log, progress=False):
    settings = {
        "width": 16,
        "depth": 1,
        "batch_size": 8,
        "steps": 8,
        "log_every": 2,
        "precision": "float32",
        "log": log,
    }
    return train(points, run, config=configure(settings), device="cpu", progress=progress)


def digits(run, steps, resume=False, **more):
    config = configure(TINY | {"steps": steps, **more})
    return train("digits", run, config=config, resume=resume, device="cpu", progress=False)


def scalars(run):
    log = EventAccumulator(str(run / "log"))
    log.Reload()
    values = {(name, event.step): event.value for name in log.Tags()["scalars"] for event in log.Scalars(name)}
    return {key: value for key, value in values.items() if key[0] != "samples_per_second"}, log


def weights(run):
    return (run / "unet" / checkpoint.WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run without any log, and one with two trackers that was stopped and resumed; what the second one said."""
    place = tmp_path_factory.mktemp("runs")
    with registered(Recorder) as said:
        digits(place / "silent", 6, log="no")
        digits(place / "run", 4, log="tensorboard,recorder", project="mine")
        digits(place / "run", 6, resume=True, log="tensorboard,recorder", project="mine")
        yield place, said


def test_trackers_see_the_same_and_the_run_does_not_see_them(runs):
    place, said = runs
    assert weights(place / "silent") == weights(place / "run")
    assert not (place / "silent" / "log" / "trackers.json").exists()
    assert said.count(("made", "mine", str(place / "run" / "log"))) == 2
    assert said.count(("finish",)) == 2
    own, log = scalars(place / "run")
    told = {
        (name, step): value
        for kind, step, values in filter(len_3, said)
        if kind == "log"
        for name, value in values.items()
    }
    told = {key: np.float32(value) for key, value in told.items() if key[0] != "samples_per_second"}
    assert told == own
    assert {step for name, step in own if name == "loss"} == {2, 4, 6}
    assert {step for name, step in own if name == "loss_alike/held_out"} == {3, 4, 6}
    pictures = {step: values["samples"][0] for kind, step, values in filter(len_3, said) if kind == "picture"}
    assert set(pictures) == {4, 6}
    from PIL import Image

    sheet = np.asarray(Image.open(place / "run" / "samples" / "step-00000006.png").convert("RGB"))
    assert np.array_equal(pictures[6], sheet)
    shown = {image.step: (image.width, image.height) for image in log.Images("samples")}
    assert shown == dict.fromkeys((4, 6), sheet.shape[1::-1])


def len_3(entry):
    return len(entry) == 3 and isinstance(entry[1], int)


def test_the_configuration_is_stored_once_and_names_no_path(runs):
    place, said = runs
    ((_, stored),) = [entry for entry in said if entry[0] == "configuration"]
    assert stored["learning_rate"] == 2e-4
    assert stored["channels"] == "8,8"
    assert stored["data"] == "digits"
    assert not [value for value in stored.values() if "/" in str(value)]
    known = json.loads((place / "run" / "log" / "trackers.json").read_text())
    assert known == {"tensorboard": "tensorboard", "recorder": "recorder"}


def test_a_source_is_known_to_trackers_by_its_last_part(recorder, points, tmp_path):
    said = recorder()
    on_points(points, tmp_path / "run", "recorder")
    ((_, stored),) = [entry for entry in said if entry[0] == "configuration"]
    assert stored["data"] == "secret.npy"
    assert not [value for value in stored.values() if str(points.parent) in str(value)]
    assert not [*(tmp_path / "run" / "log").glob("*tfevents*")]  # nobody asked for it


@pytest.mark.parametrize("where", ["__init__", "store_init_configuration", "log", "finish"])
def test_a_tracker_that_fails_is_said_to_be_once_and_the_run_goes_on(recorder, points, tmp_path, capsys, where):
    class Broken(Recorder):
        name = "broken"

    def fail(*_, **__):
        raise SystemExit("the network is gone\nand more")

    setattr(Broken, where, fail)
    recorder(Broken)
    on_points(points, tmp_path / "run", "tensorboard,broken", progress=True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("broken")]
    assert told == ["broken no longer logs, the run goes on: the network is gone"]
    assert ("loss", 8) in scalars(tmp_path / "run")[0]


def test_a_run_waits_for_no_tracker_and_its_end_not_for_long(recorder, points, tmp_path, capsys, monkeypatch):
    """The tracker hangs in its first call until the test is over; further entries than may wait are left out."""
    hangs = threading.Event()

    class Hanging(Recorder):
        name = "hanging"

        def log(self, values, step=None, **options):
            hangs.wait()

    recorder(Hanging)
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    monkeypatch.setattr(tracking, "LENGTH", 2)
    try:
        on_points(points, tmp_path / "run", "hanging", progress=True)
    finally:
        hangs.set()
    told = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("hanging")]
    assert told == ["hanging is too slow", "hanging has not finished in time"]


def test_nobody_waits_for_a_tracker_that_failed_with_a_full_queue(monkeypatch):
    monkeypatch.setattr(tracking, "LENGTH", 2)
    begins, told = threading.Event(), []

    def make():
        begins.wait()
        raise RuntimeError("gone")

    tracker = tracking.Tracker("slow", make, told.append)
    for _ in range(3):
        tracker.send(print)
    begins.set()
    tracker._thread.join()
    puts = []
    monkeypatch.setattr(tracker._waiting, "put", lambda entry, timeout: puts.append(tracker._waiting.full()))
    tracker.close(0)
    assert puts == [False]
    assert told == [
        "slow is too slow: what it cannot take is left out there",
        "slow no longer logs, the run goes on: gone",
    ]


def test_what_is_no_tracker_or_not_installed_is_refused(tmp_path, monkeypatch):
    args = ["train", "digits", "--out", tmp_path / "run", "--log"]
    refused(invoke(*args, "wandbb"), "unknown tracker 'wandbb': did you mean wandb")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, real=importlib.util.find_spec: None if name == "aim" else real(name)
    )
    refused(invoke(*args, "tensorboard,aim"), "aim is not installed: pip install aim")
    assert not (tmp_path / "run").exists()
    assert set(tracking.KINDS) == set(TRACKERS)
    assert set(TRACKERS) <= set(theirs.LOGGER_TYPE_TO_CLASS)


def test_weights_of_others_bring_no_trackers_along(runs, tmp_path):
    """Where a run was logged is no property of its weights: what leaves the machine is asked for each time."""
    place, said = runs
    before = len(said)
    settings = {"init_from": place / "run", "steps": 1, "sample_every": 2, "device": "cpu", "progress": False}
    model = train("digits", tmp_path / "next", **settings)
    assert len(said) == before
    assert model.details["training"]["log"] == ["tensorboard"]


@pytest.mark.slow
def test_wandb_keeps_one_run_over_a_resume(tmp_path, monkeypatch):
    """Offline, as it is without an account; what it collects of the machine by itself is off."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(socket, "gethostname", lambda: "name-of-this-machine")
    digits(tmp_path / "run", 4, log="wandb")
    digits(tmp_path / "run", 6, resume=True, log="wandb")
    folder = tmp_path / "run" / "log"
    name = json.loads((folder / "trackers.json").read_text())["wandb"]
    assert len([*folder.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb")]) == 2
    assert len([*folder.glob("wandb/offline-run-*/files/media/images/samples_*.png")]) == 2
    assert not [*folder.glob("wandb/offline-run-*/files/wandb-metadata.json")]
    assert not [*folder.glob("wandb/offline-run-*/files/requirements.txt")]
    assert not [
        path for path in folder.glob("wandb/offline-run-*/*.wandb") if b"name-of-this-machine" in path.read_bytes()
    ]
