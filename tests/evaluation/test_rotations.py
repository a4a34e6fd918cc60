"""Features of pictures without labels: what is asked of the network, what is said of it, and what it is good for."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from commands import done
from leapstep.core.scaling import PIXELS
from leapstep.data import Data, read
from leapstep.evaluation import features, rotations
from leapstep.evaluation.features import Recipe


@pytest.fixture(scope="module")
def landscapes():
    """Pictures with a bright sky, dark ground and a sun on the left: every quarter turn looks different."""
    chance = np.random.default_rng(0)
    values = np.empty((240, 3, 16, 16))
    for picture in values:
        horizon, left, height = chance.integers(6, 11), chance.integers(1, 5), chance.integers(1, 4)
        picture[:, :horizon], picture[:, horizon:] = 180, 60
        picture[:, height : height + 2, left : left + 2] = 250
        picture += chance.normal(0, 4, picture.shape)
    return Data(values.clip(0, 255).astype(np.uint8), None, (), "landscapes", PIXELS)


@pytest.fixture(scope="module")
def learned(landscapes):
    return features.train(landscapes, recipe=Recipe(epochs=12, batch_size=36), progress=False)


def test_turns_are_what_they_say():
    """A picture turned by the number's angle, and back, is the picture; every angle comes as often as the others."""
    x = torch.arange(400 * 3 * 4 * 4.0).view(400, 3, 4, 4)
    y, number = rotations.turned(x, torch.Generator().manual_seed(0))
    for i, turn in enumerate(number.tolist()):
        assert torch.equal(y[i].rot90(-turn, (1, 2)), x[i])
    assert min(number.bincount(minlength=4)) > 60
    values, numbers = rotations.all_turned(x[:5].numpy())
    assert numbers.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    for value, turn, i in zip(values, numbers, [*range(5)] * 4, strict=True):
        assert np.array_equal(np.rot90(value, -turn, (1, 2)), x[i].numpy())


def test_pictures_that_are_no_squares_stand_on_their_heads():
    x = torch.arange(60 * 3 * 2 * 4.0).view(60, 3, 2, 4)
    y, number = rotations.turned(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape
    assert set(number.tolist()) == {0, 1}
    assert all(torch.equal(b.rot90(-2 * n, (1, 2)), a) for a, b, n in zip(x, y, number.tolist(), strict=True))
    assert rotations.angles((3, 2, 4)) == ("0", "180")


def test_turns_are_learned_and_told_on_a_tenth_that_was_not_seen(landscapes, learned):
    _, record = learned
    assert record["task"] == "rotations"
    assert record["data"]["classes"] == ["0", "90", "180", "270"]
    assert record["tested_on"] == {"what": "a held-out tenth", "samples": 24}
    assert record["accuracy"] > 0.9
    noise = np.random.default_rng(0).integers(0, 256, landscapes.values.shape, dtype=np.uint8)
    noise = dataclasses.replace(landscapes, values=noise)
    assert features.train(noise, recipe=Recipe(epochs=2, batch_size=36), progress=False)[1]["accuracy"] < 0.5


def test_damage_that_the_task_never_showed_is_seen(learned):
    _, record = learned
    assert set(record["copies"]) == set(rotations.COPIES)
    assert all(record["copies"][name] > 2 for name in ("blurred", "noisy", "pale", "tinted"))


def test_the_ratio_is_that_of_distances(landscapes):
    """In a space that sees the mean brightness alone, blur cannot be seen, and a loss of contrast can be computed."""
    x = landscapes.batch(range(240))
    found = rotations.farther(lambda x: x.flatten(1).mean(1, keepdim=True), x[:120], x[120:])
    mean, held = (part.flatten(1).mean(1) for part in (x[:120], x[120:]))

    def distance(values):
        return (values.mean() - mean.mean()) ** 2 + (values.std() - mean.std()) ** 2

    assert found["pale"] == pytest.approx((distance(held / 2) / distance(held)).item(), rel=1e-3)
    assert found["halves swapped"] == pytest.approx(1, rel=1e-3)


def test_a_folder_of_photos_has_features(tmp_path, landscapes):
    """The command of the README, on a plain folder; and what it makes is a space for the other commands."""
    for i, picture in enumerate(landscapes.values[:60]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / "photos" / f"{i}.png")
    out = tmp_path / "out"
    said = done("features", "train", tmp_path / "photos", "--out", out, "--epochs", 2, "--batch-size", 18).stdout
    told = json.loads((out / "features.json").read_text())
    assert f"no labels: learned from rotations, told right {told['accuracy']:.2%} (chance 25%)" in said
    assert f"blurred {told['copies']['blurred']:.3g}, noisy" in said
    space = features.load(str(out), read(tmp_path / "photos"))
    assert space.name == "learned"
    assert space.probabilities is None  # of angles nobody wants an Inception Score
    assert space.extract(landscapes.values[:3]).shape == (3, 64)


def test_pictures_of_one_class_have_no_labels(landscapes):
    one = dataclasses.replace(landscapes, labels=np.zeros(240, np.int64), classes=("holidays",))
    assert features.train(one, recipe=Recipe(epochs=1), progress=False)[1]["task"] == "rotations"
