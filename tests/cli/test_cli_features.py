"""`leapstep features train`: what it writes, what it keeps and what it refuses."""

import json
import re

import numpy as np
import pytest

from commands import done, full_disk, invoke, refused, tree
from leapstep.data import read
from leapstep.evaluation import features
from leapstep.evaluation.features import Classifier, Recipe

QUICK = ("--epochs", 1, "--batch-size", 256)


@pytest.fixture
def asked(monkeypatch):
    """What the library was asked to train, in place of the training."""
    calls = []

    def train(data, test=None, recipe=None, *, device="cpu"):
        calls.append((data, test, recipe, device))
        network = Classifier(data.shape, len(data.classes), data.is_pictures).eval()
        about = {"shape": list(data.shape), "pictures": data.is_pictures, "classes": list(data.classes)}
        about["scaling"] = data.scaling._asdict()
        tested = {"what": "a test", "samples": 2}
        return network, {"task": "classes", "accuracy": 0.5, "tested_on": tested, "copies": {}, "data": about}

    monkeypatch.setattr(features, "train", train)
    return calls


@pytest.fixture
def points(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "points.npz", x=rng.standard_normal((40, 3)) + 9 * labels[:, None], labels=labels)
    return tmp_path / "points.npz"


def test_help_has_examples_and_describes_every_option():
    text = done("features", "--help").stdout
    assert "leapstep features train" in text.partition("Examples")[2]
    for line in text.splitlines():
        assert not re.match(r"│ \*? *--\S+ +(--\S+ +)?<\w+> *│", line), f"no description: {line}"
    assert "features" in done("--help").stdout


def test_digits(tmp_path, cache):
    out = tmp_path / "new" / "digits"
    said = done("features", "train", "digits", "--out", out, *QUICK).stdout
    told = json.loads((out / "features.json").read_text())
    assert f"accuracy: {told['accuracy']:.2%} on the test split (355 samples)" in said
    assert f"leapstep evaluate MODEL digits --features {out}" in said
    assert (told["tested_on"]["samples"], told["data"]["samples"]) == (355, 1442)
    held = read("digits")
    space = features.load(str(out), held)
    assert len(list(cache.iterdir())) == 2  # the features of both splits, of which none is computed again
    for split in (held, read("digits", split="test")):
        kept = features.reference(features.Features("learned", space.hash, lambda _: pytest.fail("computed")), split)
        assert kept.shape == (len(split), 64)


def test_options_reach_the_training(tmp_path, asked):
    out = tmp_path / "out"
    done("features", "train", "digits", "--out", out)
    more = ("--epochs", 3, "--batch-size", 32, "--learning-rate", 0.1, "--flip", "--seed", 7, "--size", 12)
    done("features", "train", "digits", "--out", out, "--overwrite", "--device", "cpu", *more)
    (first, test, recipe, device), (second, smaller, chosen, _) = asked
    assert (recipe, chosen) == (Recipe(), Recipe(3, 32, 0.1, True, 7))
    assert str(device) == "cpu"
    assert (len(first), len(test)) == (1442, 355)
    assert second.shape == smaller.shape == (1, 12, 12)
    refused(invoke("features", "train", "digits", "--out", out, "--overwrite", "--device", "tpu"), "--device tpu")


def test_a_source_without_a_test_split(tmp_path, points):
    said = done("features", "train", points, "--out", tmp_path / "out", "--epochs", 1, "--batch-size", 8).stdout
    assert "on a held-out tenth (4 samples)" in said


def test_a_source_that_gives_the_same_for_every_split(tmp_path, points, asked):
    """The name has the word test in it: such a source is its own test split, which would measure nothing."""
    points.rename(tmp_path / "our-test.npz")
    done("features", "train", tmp_path / "our-test.npz", "--out", tmp_path / "out")
    ((data, test, _, _),) = asked
    assert (len(data), test) == (40, None)


def test_a_test_split_is_read_with_the_channels_of_the_training_split(tmp_path, asked):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, mode, shape in (("train", "L", (8, 8)), ("test", "RGB", (8, 8, 3))):
        for name, i in ((name, i) for name in ("ant", "bee") for i in range(3)):
            (tmp_path / "insects" / split / name).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            assert image.mode == mode
            image.save(tmp_path / "insects" / split / name / f"{i}.png")
    done("features", "train", tmp_path / "insects", "--out", tmp_path / "out")
    ((data, test, _, _),) = asked
    assert data.shape == test.shape == (1, 8, 8)


def test_a_folder_is_not_overwritten_by_mistake(tmp_path, asked):
    out = tmp_path / "out"
    done("features", "train", "digits", "--out", out)
    first = tree(out)
    refused(invoke("features", "train", "digits", "--out", out), "exists and is not empty: --overwrite it")
    assert tree(out) == first
    (out / "notes.txt").write_text("mine")
    done("features", "train", "digits", "--out", out, "--overwrite")
    second = tree(out)
    assert second["weights.safetensors"] != first["weights.safetensors"]
    assert second["notes.txt"] == b"mine"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    result = invoke("features", "train", "digits", "--out", tmp_path / "thesis", "--overwrite")
    refused(result, "holds something else, so it is not overwritten")
    assert len(asked) == 2


@pytest.mark.parametrize("after", range(3))
def test_features_that_a_full_disk_ended_are_trained_again(tmp_path, asked, monkeypatch, after):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        refused(invoke("features", "train", "digits", "--out", out), "No space left on device")
    assert out.exists() == (after > 0)
    done("features", "train", "digits", "--out", out, "--overwrite")
    features.load(str(out), read("digits"))


@pytest.mark.parametrize("earlier", [False, True])
def test_ctrl_c_leaves_what_was_there(tmp_path, asked, monkeypatch, earlier):
    out = tmp_path / "out"
    if earlier:
        done("features", "train", "digits", "--out", out)
    before = tree(out)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "train", interrupt)
    result = invoke("features", "train", "digits", "--out", out, "--overwrite")
    assert result.exit_code == 130
    assert tree(out) == before
    assert bool(before) == earlier


def test_mistakes(tmp_path, points):
    out = tmp_path / "out"
    np.save(tmp_path / "plain.npy", np.arange(12.0).reshape(6, 2))
    refused(invoke("features", "learn", "digits", "--out", out), "features learn: the one thing to do is train")
    refused(
        invoke("features", "train", tmp_path / "plain.npy", "--out", out),
        "has no labels: features of arrays are learned",
    )
    refused(invoke("features", "train", "digts", "--out", out), "did you mean `digits`")
    refused(invoke("features", "train", "digits", "--out", out, "--epochs", 0), "epochs 0: train for at least 1")
    refused(invoke("features", "train", points, "--out", out, "--flip"), "flip mirrors pictures")
    refused(invoke("features", "train", points, "--out", out, "--learning-rate", 1e38), "loss of step .* learning rate")
    refused(invoke("features", "train", "digits", "--out", points), "is a file, not a folder")
    assert tree(out) == {}
