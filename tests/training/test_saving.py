"""Checkpoints that are written while a run goes on."""

import threading

import pytest
import torch

from commands import full_disk
from leapstep.models import checkpoint
from leapstep.training import Trainer
from leapstep.training.configuration import configure
from leapstep.training.saving import Writer

SHAPED = {"channels": (8, 8), "attention": (False, True), "blocks": 1, "groups": 4, "batch_size": 16, "warmup": 2}


@pytest.fixture
def run():
    return Trainer(configure({**SHAPED, "precision": "float32"}), "digits", device="cpu", progress=False)


@pytest.fixture
def taking(run):
    """Take a checkpoint of the run as if it were at a step."""

    def of(writer):
        def take(step):
            run.step = step
            writer.take(step, run.snapshot)

        return take

    return of


@pytest.fixture
def held(monkeypatch):
    """Writes wait for this event."""
    event, original = threading.Event(), checkpoint.save_state

    def late(*args):
        assert event.wait(60)
        original(*args)

    monkeypatch.setattr(checkpoint, "save_state", late)
    return event


def test_a_checkpoint_is_of_the_step_it_was_taken_at(run, held, tmp_path):
    """However far the run is when it is written; the next one waits for it."""
    run.advance()
    before = {name: value.clone() for name, value in run.unwrapped().state_dict().items()}
    moments = {i: state["exp_avg"].clone() for i, state in run.optimizer.state_dict()["state"].items()}
    average = {name: value.clone() for name, value in run.averaged().state_dict().items()}
    with Writer(tmp_path, 0) as writer:
        writer.take(run.step, run.snapshot)
        run.advance()
        assert (writer.taken, writer.saved) == (1, 0)
        assert not (tmp_path / "state").exists()
        held.set()
        writer.finish()
    assert writer.saved == 1
    assert checkpoint.find_state(tmp_path)[1]["step"] == 1
    run.restore(tmp_path)
    assert run.step == 1
    for name, value in run.unwrapped().state_dict().items():
        assert torch.equal(value, before[name])
    states = run.optimizer.state_dict()["state"]
    assert all(torch.equal(states[i]["exp_avg"], value) for i, value in moments.items())
    saved = checkpoint.load(tmp_path).network.state_dict()
    assert all(torch.equal(value, average[name]) for name, value in saved.items())


def test_one_checkpoint_is_written_at_a_time(taking, held, tmp_path):
    with Writer(tmp_path, 0) as writer:
        take = taking(writer)
        take(1)
        first = writer.thread
        threading.Timer(0.1, held.set).start()
        take(2)
        assert not first.is_alive()
        assert writer.saved >= 1
    assert writer.saved == 2
    assert len(list((tmp_path / "state").glob("step-*"))) == 1


def test_a_failed_write_is_told_and_the_next_one_tried(taking, tmp_path, monkeypatch):
    with Writer(tmp_path, 0) as writer:
        take = taking(writer)
        take(1)
        writer.wait()
        with monkeypatch.context() as patch:
            full_disk(patch)
            take(2)
            writer.wait()
        with pytest.warns(UserWarning, match="No space left on device.*; the checkpoint of step 1 is kept"):
            writer.told()
        writer.told()  # once
        assert checkpoint.find_state(tmp_path)[1]["step"] == 1
        take(3)
        writer.finish()
    assert writer.saved == 3
    with monkeypatch.context() as patch:
        full_disk(patch)
        take(4)
        with pytest.raises(OSError, match="No space left"):
            writer.finish()


def test_an_error_waits_for_the_write_and_a_request_to_stop_at_once_does_not(taking, held, tmp_path):
    writer = Writer(tmp_path, 0)
    taking(writer)(1)
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt
    assert writer.saved == 0
    threading.Timer(0.1, held.set).start()
    with pytest.raises(RuntimeError, match="anything"), writer:
        raise RuntimeError("anything")
    assert writer.saved == 1
