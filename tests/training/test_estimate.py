"""What a run will take is told before it begins, changes nothing of it, and names what takes less."""

import numpy as np
import pytest
import torch
from PIL import Image

from leapstep.data import read
from leapstep.data.dataset import resizing
from leapstep.training import Trainer, estimate, learner, train
from leapstep.training.configuration import PRESETS, configure

TINY = {"channels": (8, 8), "attention": (False, True), "blocks": 1, "groups": 4, "batch_size": 16, "warmup": 2}


def state(trainer):
    parts = {"network": trainer.network, "ema": trainer.ema}
    tensors = {f"{part}.{name}": value for part, m in parts.items() for name, value in m.state_dict().items()}
    for i, values in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in values.items()}
    return {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize("done", [0, 2])
def test_a_step_on_trial_leaves_no_trace(done):
    """To the bit: the weights, their average, the optimiser, and the steps that follow, also in parts with dropout."""
    config = configure({**TINY, "dropout": 0.2, "accumulate": 2, "flip": True, "learning_rate": 1e-2})
    plain, tried = (Trainer(config, "digits", "cpu", False) for _ in range(2))
    for trainer in (plain, tried):
        for _ in range(done):
            trainer.advance()
    before = state(tried)
    assert tried.seconds_a_step() > 0
    after = state(tried)
    assert tried.step == done
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [plain.advance()["loss"] for _ in range(2)] == [tried.advance()["loss"] for _ in range(2)]
    ours, theirs = state(tried), state(plain)
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_one_step_is_enough_where_it_is_slow(monkeypatch):
    trainer, calls = Trainer(configure(TINY), "digits", "cpu", False), []
    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr(learner.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(trainer, "advance", lambda: calls.append(1))
    assert trainer.seconds_a_step() == 100
    assert len(calls) == 1


def test_a_step_that_fails_is_left_to_training(monkeypatch):
    trainer = Trainer(configure(TINY), "digits", "cpu", False)

    def failing():
        raise FloatingPointError

    monkeypatch.setattr(trainer, "advance", failing)
    assert trainer.seconds_a_step() is None


@pytest.mark.parametrize(
    ("seconds", "steps", "preset", "line"),
    [
        (0.1, 1200, None, "a step of 64 samples takes 0.1 s here: 1,200 steps take about 2 min"),
        (0.0123, 100, None, "a step of 64 samples takes 12 ms here: 100 steps take about 1.2 s"),
        (0.8, 20_000, None, "0.8 s here: 20,000 steps take about 4 h 27 min; --steps 4500 ends in an hour"),
        (2, 20_000, None, "11 h 7 min; --steps 1800 ends in an hour; a smaller --size or --batch-size takes less"),
        (162, 100_000, "photos-cpu", "takes 2 min 42 s here: 100,000 steps take about 188 days; --steps 22 "
         "ends in an hour; --preset photos-cpu takes an evening; a smaller --size or --batch-size takes less"),
    ],
)  # fmt: skip
def test_what_is_said(seconds, steps, preset, line):
    assert estimate.report(seconds, steps, 64, preset).endswith(line)


def test_it_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "leapstep.json").write_text("{}")
    (run / "samples").mkdir()

    def told(seconds, *rest):
        assert {path.name for path in run.iterdir()} - {".leapstep-lock"} == {"leapstep.json", "samples"}
        assert (run / "leapstep.json").read_text() == "{}"
        assert rest == (30, 16, "photos-cpu")
        raise KeyboardInterrupt

    monkeypatch.setattr(estimate, "report", told)
    with pytest.raises(KeyboardInterrupt):
        train("digits", run, config=configure({**TINY, "steps": 30}), overwrite=True, device="cpu")
    said = capsys.readouterr().err
    weights = sum(p.numel() for p in Trainer(configure(TINY), "digits", "cpu", False).network.parameters())
    assert f"network: {weights:,} weights" in said


def save(folder, *sizes):
    folder.mkdir()
    for i, size in enumerate(sizes):
        Image.fromarray(np.full((*size[::-1], 3), 9 * i, np.uint8)).save(folder / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ([(8, 8)] * 3, None),
        ([(40, 30)] * 3, "3 images of 40x30 are cropped to squares and resized to 8x8"),
        ([(16, 16), (16, 16), (8, 8)], "2 images of 16x16 are resized to 8x8"),
        (
            [(40, 30), (40, 30), (20, 20)],
            "3 images of 2 sizes, most often 40x30, are cropped to squares and resized to 8x8",
        ),
        ([(40, 30), (4, 4)], "resized to 8x8; 1 of them were smaller, and become blurred"),
    ],
)
def test_pictures_of_other_sizes_are_named(tmp_path, sizes, line):
    said = resizing(read(save(tmp_path / "photos", *sizes), size=8))
    assert said == line if line is None else said.endswith(line)


@pytest.mark.parametrize("gpu", [False, True])
def test_settings_for_a_folder_of_pictures_on_this_machine(tmp_path, gpu):
    name = "photos" if gpu else "photos-cpu"
    side = PRESETS[name]["size"]
    small = save(tmp_path / "small", (side, side))
    large = save(tmp_path / "large", (side + 1, side))
    assert estimate.usual_settings(large, gpu) == (name, PRESETS[name])
    assert estimate.usual_settings(small, gpu)[1] == {k: v for k, v in PRESETS[name].items() if k != "size"}
    assert estimate.usual_settings("digits", gpu) == ("digits", PRESETS["digits"])
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    assert estimate.usual_settings(str(tmp_path / "x.npy"), gpu) == (None, {})
    with pytest.raises(ValueError, match="there is no nothing"):
        estimate.usual_settings("nothing", gpu)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings(preset):
    config = configure({}, preset)
    assert len(config.channels) == len(config.attention)
