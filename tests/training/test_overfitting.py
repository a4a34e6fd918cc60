"""The loss on held-out data is followed without a trace in the training, and its rise is said once."""

import numpy as np
import pytest

from leapstep.models import checkpoint
from leapstep.training import train
from leapstep.training.configuration import configure
from leapstep.training.overfitting import Course, after

TINY = {
    "channels": (8, 8),
    "attention": (0, 0),
    "blocks": 1,
    "groups": 4,
    "batch_size": 64,
    "dropout": 0.5,
    "flip": True,
}
TINY |= {"precision": "float32", "sample_every": 100, "save_every": 3, "timesteps": 8, "labels": True, "log": "no"}


def courses(*losses):
    """The courses after measurements (held_out, training) at steps 10, 20, ..."""
    course = None
    for i, (held_out, training) in enumerate(losses, start=1):
        course = after(course, 10 * i, {"held_out": held_out, "training": training})
        yield course


def test_a_rise_is_said_once_with_the_step_of_the_least():
    """Of three in a row; one that lies between starts the count anew, and so does a new least."""
    found = list(courses((0.5, 0.5), (0.4, 0.4), (0.42, 0.3), (0.43, 0.2), (0.44, 0.1), (0.45, 0.1)))
    assert [course.rising for course in found] == [0, 0, 1, 2, 3, 4]
    warnings = [course.warning() for course in found]
    assert [warning is not None for warning in warnings] == [False] * 4 + [True, False]
    assert "0.44 at step 50, least 0.4 at step 20" in warnings[4]
    assert "--steps 20" in warnings[4]
    broken = list(courses((0.4, 0.4), (0.5, 0.3), (0.5, 0.3), (0.405, 0.3), (0.5, 0.3), (0.3, 0.2), (0.5, 0.1)))
    assert [course.rising for course in broken] == [0, 1, 2, 0, 1, 0, 1]


def test_a_loss_that_rises_with_the_training_loss_is_no_memorising():
    assert [course.rising for course in courses((0.4, 0.4), (0.5, 0.5), (0.6, 0.6), (0.7, 0.7))] == [0, 0, 0, 0]
    course = after(after(None, 1, {"held_out": 1.0}), 2, {"held_out": 2.0})  # a student has no loss on training data
    assert (course.rising, course.warning()) == (0, None)


def test_a_course_goes_through_json():
    *_, course = courses((0.4, 0.4), (0.5, 0.3))
    assert Course.of(course.record()) == course
    assert Course.of(None) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that measures at each step, one that never does before its end, and one that was stopped on the way."""
    place = tmp_path_factory.mktemp("runs")

    def digits(name, steps, resume=False, **more):
        config = configure(TINY | {"steps": steps, **more})
        train("digits", place / name, config=config, resume=resume, device="cpu", progress=False)

    digits("often", 4, holdout_every=1)
    digits("never", 4, holdout_every=100)
    digits("parts", 3, holdout_every=1)
    digits("parts", 4, True, holdout_every=1)
    return place


def test_measuring_leaves_no_trace_in_the_weights(runs):
    """To the bit, with dropout, mirroring and dropped labels, all of which draw random numbers."""
    often, never, parts = (
        (runs / name / "unet" / checkpoint.WEIGHTS).read_bytes() for name in ("often", "never", "parts")
    )
    assert often == never == parts


def test_the_course_is_kept_over_a_stop(runs):
    often, never, parts = (checkpoint.load(runs / name).details["losses"] for name in ("often", "never", "parts"))
    assert often == parts
    assert often["last"] == never["last"] == never["least"]
    assert often["last"]["step"] == 4
    assert often["least"]["held_out"] <= often["last"]["held_out"]


def test_a_run_says_when_its_loss_begins_to_rise_and_what_measuring_costs(tmp_path, monkeypatch, capsys):
    from leapstep.training import Trainer

    losses = iter([0.4, 0.5, 0.6, 0.7, 0.8])
    monkeypatch.setattr(Trainer, "compare", lambda self: {"held_out": next(losses), "training": 0.4 - self.step / 100})
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 2)))
    settings = {"width": 16, "depth": 1, "batch_size": 8, "steps": 5, "holdout_every": 1, "log": "no"}
    train(tmp_path / "x.npy", tmp_path / "run", config=configure(settings), device="cpu")
    said = capsys.readouterr().err
    assert said.count("the held-out loss rises: 0.7 at step 4, least 0.4 at step 1") == 1
    assert "every 1 step, takes about 2133 % as long as the training" in said
