"""A run of so many minutes trains what fits into them, and ends when they are over, by a clock that the tests wind."""

import signal

import numpy as np
import pytest
import safetensors.torch
import torch

from commands import invoke, refused
from leapstep.core.scaling import PIXELS, Scaling
from leapstep.data.dataset import Data
from leapstep.files.reading import read_json
from leapstep.stopping import Stopped
from leapstep.training import Trainer, deadline, minutes, run, train
from leapstep.training.configuration import TrainingConfig, configure
from leapstep.training.deadline import Deadline

TINY = {"channels": (8,), "attention": (False,), "blocks": 1, "groups": 4, "batch_size": 8, "holdout": "no"}
TINY |= {"save_every": 4, "device": "cpu", "progress": False}


def pictures(*shape, count=1000, classes=10):
    labels = np.arange(count) % classes if classes else None
    values = np.broadcast_to(np.uint8(0), (count, *shape))
    return Data(values, labels, tuple(map(str, range(classes))), "nowhere", PIXELS)


def chosen(data, allowed, speed, given=(), **settings):
    """What is chosen where a network of 32 channels takes so many seconds for a batch of 1024 places of its grid."""

    def trial(config):
        if not data.is_pictures:
            return minutes.Trial(speed, "float32", 60 * allowed)
        places = data.shape[1] * data.shape[2] / config.patch**2
        seconds = speed * places / 1024 * (config.channels[0] / 32) ** 2
        return minutes.Trial(seconds, "bf16", 60 * allowed)

    config = configure({"minutes": allowed, **settings})
    given = {*settings, "minutes", *given}
    return minutes.choose(config, given, data, Deadline(60 * allowed), trial)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the steps of trainers: (seconds of a step, by its number)."""

    class Clock:
        time = 100.0
        step = staticmethod(lambda step: 1.0)

    advance = Trainer.advance

    def advanced(self):
        result = advance(self)
        Clock.time += Clock.step(self.step)
        return result

    monkeypatch.setattr(Trainer, "advance", advanced)
    for module in (deadline, minutes, run):
        monkeypatch.setattr(module, "now", lambda: Clock.time)
    monkeypatch.setattr(Trainer, "preview", lambda self, run: None)
    monkeypatch.setattr(minutes, "FEWEST", 5)
    monkeypatch.setattr(minutes, "PREVIEW_CALLS", 1)
    monkeypatch.setattr(minutes, "COMPARED_CALLS", 1)
    return Clock


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("shape", "allowed", "speed", "channels", "patch"),
    [
        ((1, 28, 28), 10, 1.0, [32, 64], 2),
        ((1, 28, 28), 10, 1e-3, [128, 256], 2),
        ((3, 32, 32), 1, 0.02, [64, 128], 2),
        ((3, 64, 64), 10, 1.0, [32, 64], 4),
        ((3, 8, 8), 10, 1.0, [64, 128], 1),
        ((3, 15, 20), 10, 1.0, [32], 1),
        ((3, 1024, 1024), 600, 0.5, [32, 64, 64, 64, 64], 8),
    ],
)
def test_the_largest_network_that_gets_enough_steps(shape, allowed, speed, channels, patch):
    config, line = chosen(pictures(*shape), allowed, speed)
    assert (list(config.channels), config.patch) == (channels, patch)
    assert len(config.attention) == len(channels)
    assert (config.predicts, config.schedule, config.lr_schedule, config.labels) == ("v", "cosine", "cosine", True)
    assert f"{config.steps:,} steps of {config.batch_size} samples" in line
    assert config.steps >= minutes.ENOUGH or channels[0] == 32
    assert config.precision == "bf16"
    assert config.warmup < config.steps / 10
    assert config.ema_decay**config.steps < 1e-4  # nothing is left of the first weights


@pytest.mark.usefixtures("clock")
def test_what_was_asked_for_is_kept():
    options = {"channels": (16, 16), "batch_size": 8, "predicts": "eps", "labels": False, "ema_decay": 0.5, "patch": 4}
    config, _ = chosen(pictures(3, 32, 32), 10, 1e-3, **options)
    assert {name: getattr(config, name) for name in options} == options
    assert config.attention == (False, True)
    assert config.schedule == "cosine"


@pytest.mark.usefixtures("clock")
def test_labels_need_samples_of_their_class():
    assert not chosen(pictures(1, 8, 8, count=499), 1, 1e-3)[0].labels
    assert not chosen(pictures(1, 8, 8, classes=0), 1, 1e-3)[0].labels
    arrays = Data(np.zeros((9, 3)), None, (), "x", Scaling(0.0, 1.0))
    config, _ = chosen(arrays, 1, 1e-3)
    assert config.learning_rate == 1e-3
    assert not config.labels


@pytest.mark.usefixtures("clock")
def test_too_little_time_says_how_much_is_enough():
    with pytest.raises(ValueError, match=r"minutes=0.2: .* takes 10 s here.*allow at least (\d\.?\d?) minutes") as e:
        chosen(pictures(3, 32, 32), 0.2, 40.0)
    least = float(str(e.value).partition("allow at least ")[2].partition(" ")[0])
    assert chosen(pictures(3, 32, 32), least, 40.0)[0].steps >= minutes.FEWEST


@pytest.mark.parametrize("slow", [5.0, 1.0])
def test_the_word_is_kept_by_a_machine_that_changes(clock, tmp_path, slow):
    clock.step = lambda step: 2.0 if step < 8 else slow
    model = train("digits", tmp_path / "run", minutes=1, **TINY)
    taken = clock.time - 100
    assert 60 - 2 * slow <= taken <= 60
    assert model.details["seconds"] == taken
    assert model.details["step"] == model.details["training"]["steps"]


def test_the_learning_rate_ends_at_0_where_the_machine_turns_slow(clock, tmp_path, monkeypatch):
    clock.step = lambda step: 1.0 if step < 10 else 2.0
    rates, update = [], Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, f: rates.append(r := update(self, f)) or r)
    train("digits", tmp_path / "run", minutes=1, warmup=0, **TINY)
    rates = [rate["learning_rate"] for rate in rates][4:]  # after the trial
    assert len(rates) < 35
    assert rates[-1] < 0.1 * rates[0]


def test_a_stall_ends_the_run_at_once(clock, tmp_path):
    clock.step = lambda step: 1e4 if step == 11 else 1.0
    model = train("digits", tmp_path / "run", minutes=1, **TINY | {"save_every": 50})
    assert model.details["step"] == model.details["training"]["steps"] == 11


def interrupted(at, monkeypatch, *arguments, **options):
    """Train until a request to stop after a step."""
    keep = Trainer.keep_to_deadline

    def stopping(self, saves):
        keep(self, saves)
        if self.step == at:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where tests run in the background
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "keep_to_deadline", stopping)
        with pytest.raises(Stopped):
            train(*arguments, **options)
    signal.signal(signal.SIGINT, before)


def test_a_run_goes_on_bit_for_bit_after_its_end_was_moved(clock, tmp_path, monkeypatch):
    """Up to the next checkpoint, at which the clock is looked at again."""
    clock.step = lambda step: 1.0 if step < 5 else 2.0
    options = TINY | {"save_every": 10}
    for name, stops in (("straight", (19,)), ("resumed", (13, 19))):
        for i, stop in enumerate(stops):
            interrupted(stop, monkeypatch, "digits", tmp_path / name, resume=i > 0, minutes=None if i else 1, **options)
    states = [next((tmp_path / name / "state").iterdir()) for name in ("straight", "resumed")]
    straight, resumed = map(safetensors.torch.load_file, states)
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    written = [read_json(tmp_path / name / "leapstep.json") for name in ("straight", "resumed")]
    assert written[0] == written[1]
    assert written[0]["training"]["steps"] < 40  # it was moved, at step 10


def test_the_word_is_kept_by_a_run_that_was_stopped(clock, tmp_path, monkeypatch):
    """Although this process has not seen how long the last preview takes."""

    def preview(self, run):
        clock.time += 10.0

    monkeypatch.setattr(Trainer, "preview", preview)
    monkeypatch.setattr(minutes, "PREVIEW_CALLS", 240)
    options = TINY | {"sample_every": 1000}
    interrupted(70, monkeypatch, "digits", tmp_path / "run", minutes=2, **options)
    model = train("digits", tmp_path / "run", resume=True, **options)
    assert 110 <= model.details["seconds"] <= 120


def test_more_time_or_more_steps_than_a_run_began_with(clock, tmp_path):
    clock.step = lambda step: 2.0
    train("digits", tmp_path / "run", minutes=0.5, **TINY)
    longer = train("digits", tmp_path / "run", minutes=1, resume=True, **TINY).details
    assert 57 <= longer["seconds"] <= 60
    assert longer["step"] > 20
    assert longer["training"]["minutes"] == 1
    further = train("digits", tmp_path / "run", steps=longer["step"] + 2, resume=True, **TINY).details
    assert (further["step"], further["training"]["minutes"]) == (longer["step"] + 2, None)


def test_a_run_of_steps_goes_on_for_minutes(clock, tmp_path, monkeypatch, capsys):
    """What its steps took before nobody noted: until the first checkpoint they count for what one takes here."""
    options = TINY | {"save_every": 1000, "steps": 3}
    train("digits", tmp_path / "run", **options)
    clock.step, said = lambda step: 2.0, []
    monkeypatch.setattr(Trainer, "seconds_a_step", lambda self: 2.0)
    monkeypatch.setattr(
        run, "begin", lambda trainer, *args, begin=run.begin: said.append(trainer.config.steps) or begin(trainer, *args)
    )
    options = TINY | {"save_every": 1000, "resume": True, "minutes": 0.5}
    longer = train("digits", tmp_path / "run", **options).details
    assert said == [longer["step"]] == [3 + 14]  # of 30 seconds, those of the last losses are kept
    train("digits", tmp_path / "run", **options | {"progress": True})
    assert "already was at step 17: to train on, --resume it with more --minutes" in capsys.readouterr().err


def test_weights_that_it_begins_with_are_as_they_were(clock, tmp_path):
    """Steps are timed on copies."""
    clock.step = lambda step: 3.0
    train("digits", tmp_path / "run", minutes=0.5, **TINY)
    settings = {"learning_rate": 1e-30, "init_from": tmp_path / "run", "device": "cpu", "progress": False}
    begun = train("digits", tmp_path / "next", minutes=0.5, **settings)
    before = safetensors.torch.load_file(tmp_path / "run" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in begun.network.state_dict().items())
    assert begun.details["training"]["minutes"] == 0.5


def test_a_run_that_begins_with_one_of_minutes_takes_steps(clock, tmp_path):
    train("digits", tmp_path / "run", minutes=0.5, **TINY | {"batch_size": 24})
    settings = {"accumulate": 3, "device": "cpu", "progress": False}  # three divides 24, and no usual batch
    begun = train("digits", tmp_path / "next", init_from=tmp_path / "run", steps=3, **settings)
    assert (begun.details["step"], begun.details["training"]["minutes"]) == (3, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "5"], "--minutes and --steps 5 exclude each other"),
        (["--preset", "mnist"], "--minutes and --preset mnist exclude each other"),
    ],
)
def test_what_contradicts_minutes(tmp_path, options, words):
    refused(invoke("train", "digits", "--out", tmp_path / "run", "--minutes", "1", *options), words)


def test_a_configuration_with_minutes_is_one_with_options(clock, tmp_path):
    clock.step = lambda step: 3.0
    config = TrainingConfig(minutes=0.5, channels=(8, 8), attention=(False, True), groups=4, batch_size=8, holdout="no")
    model = train("digits", tmp_path / "run", config=config, device="cpu", progress=False)
    assert model.details["training"]["channels"] == [8, 8]
    assert model.predicts == "v"
    assert clock.time - 100 <= 30


def test_what_to_expect_is_said_where_it_was_measured():
    config = configure({"labels": True, "steps": 1000, "batch_size": 32})
    (line,) = minutes.expected(config, pictures(1, 28, 28), False)
    assert "on MNIST a classifier was sure of" in line
    for other, data, begun in [
        (config.model_copy(update={"steps": 100}), pictures(1, 28, 28), False),
        (config.model_copy(update={"labels": False}), pictures(1, 28, 28), False),
        (config, pictures(3, 28, 28), False),
        (config, pictures(1, 28, 28), True),
    ]:
        assert not list(minutes.expected(other, data, begun))
