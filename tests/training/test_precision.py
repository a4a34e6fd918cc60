"""What `precision: auto` means for a run: what was measured, once, and never anew."""

import numpy as np
import pytest
import safetensors.torch
import torch

from leapstep.models import checkpoint
from leapstep.networks import UNet
from leapstep.training import Trainer, precision, train
from leapstep.training.configuration import PRESETS, configure

TINY = {"width": 8, "depth": 1, "batch_size": 16, "warmup": 2}


@pytest.fixture
def points(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 3)))
    return tmp_path / "x.npy"


def measured(monkeypatch, float32, bf16):
    """Let every run be long enough to be measured, with these seconds; the list tells how often it was."""
    calls = []
    monkeypatch.setattr(precision, "LONG", 0)
    monkeypatch.setattr(precision, "seconds", lambda *_: (calls.append(1), (float32, bf16, 16))[1])
    return calls


def weights(run):
    (state,) = (run / "state").iterdir()
    return safetensors.torch.load_file(state)


@pytest.mark.parametrize(("bf16", "chosen"), [(0.9, "bf16"), (0.95, "float32"), (2.0, "float32")])
def test_the_faster_one_is_chosen_said_and_recorded(points, tmp_path, monkeypatch, capfd, bf16, chosen):
    calls = measured(monkeypatch, 1.0, bf16)
    model = train(points, tmp_path / "auto", config=configure({**TINY, "steps": 2}), device="cpu")
    line = f"precision: {chosen}; a pass of 16 samples takes 1 s in float32 here and {bf16:.2g} s in bf16"
    assert line in capfd.readouterr().err.splitlines()
    assert model.details["precision"] == chosen
    config = configure({**TINY, "steps": 2, "precision": chosen})
    train(points, tmp_path / "named", config=config, device="cpu", progress=False)
    assert len(calls) == 1
    auto, named = weights(tmp_path / "auto"), weights(tmp_path / "named")
    assert all(torch.equal(value, named[name]) for name, value in auto.items())


def test_a_run_goes_on_in_the_precision_that_it_began_with(points, tmp_path, monkeypatch):
    """To the bit, and whatever would be measured by then."""
    config = {**TINY, "steps": 4}
    measured(monkeypatch, 2.0, 1.0)
    train(points, tmp_path / "straight", config=configure(config), device="cpu", progress=False)
    train(points, tmp_path / "broken", config=configure({**config, "steps": 2}), device="cpu", progress=False)
    calls = measured(monkeypatch, 1.0, 2.0)
    train(points, tmp_path / "broken", config=configure(config), device="cpu", progress=False, resume=True)
    assert calls == []
    assert checkpoint.find_state(tmp_path / "broken")[1]["precision"] == "bf16"
    straight, broken = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert all(torch.equal(value, broken[name]) for name, value in straight.items())


def test_a_run_from_before_it_was_recorded_goes_on_in_float32(points, monkeypatch):
    trainer, calls = Trainer(configure(TINY), str(points), "cpu", False), measured(monkeypatch, 2.0, 1.0)
    trainer.choose_precision({"step": 1})
    assert (trainer.precision, calls) == ("float32", [])


def test_a_short_run_measures_nothing(monkeypatch):
    monkeypatch.setattr(precision, "seconds", None)
    trainer = Trainer(configure({}, "digits"), "digits", "cpu", False)
    trainer.choose_precision()
    assert trainer.precision == "float32"
    assert trainer.details()["training"]["precision"] == "auto"


def test_the_cifar10_preset_is_long():
    network = UNet(channels=(128, 256, 256, 256))
    settings = PRESETS["cifar10"]
    x, k = torch.zeros(1, 3, 32, 32), torch.zeros(1)
    flop = precision.operations(lambda n: network(x, k).sum())
    assert flop == pytest.approx(3 * 12.1e9, rel=0.01)
    assert flop * settings["steps"] > precision.LONG


def test_operations_are_those_of_both_passes():
    weights = torch.ones(3, 5, requires_grad=True)
    assert precision.operations(lambda n: (torch.ones(n, 3) @ weights).sum()) == 3 * 2 * 3 * 5


@pytest.mark.parametrize(("most", "n"), [(2, 2), (32, 32), (1000, 64)])
def test_a_pass_is_timed_on_as_many_samples_as_take_long_enough(monkeypatch, most, n):
    """Side by side, after one of each that does not count."""
    clock, calls, weight = [0.0], [], torch.ones(4, 4, requires_grad=True)

    def loss(n):
        bf16 = (torch.ones(n, 4) @ weight).dtype == torch.bfloat16
        warm = (n, bf16) in calls
        calls.append((n, bf16))
        clock[0] += n * (0.002 if bf16 else 0.004) * (1 if warm else 10)
        return weight.sum()

    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    float32, bf16, samples = precision.seconds(loss, [weight], most)
    assert (float32, bf16, samples) == (pytest.approx(0.004 * n), pytest.approx(0.002 * n), n)
    assert max(k for k, _ in calls) == n
