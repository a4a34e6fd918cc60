"""`leapstep invert` and `leapstep decode`, against what the library makes of the same data."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import leapstep
from commands import done, invoke, pictures, refused, tree
from expected_pictures import near
from leapstep import files
from leapstep.networks import MLP
from random_models import saved

STEPS = ["--steps", 10]
SHORT = ["--steps", 3]


@pytest.fixture(scope="session")
def two(insects):
    return [insects / "test" / "ant" / "0.png", insects / "test" / "cat" / "3.png"]


@pytest.fixture(scope="session")
def original(two):
    return np.stack([np.asarray(Image.open(path)) for path in two])


@pytest.fixture(scope="session")
def exact(model, two, place):
    """Two pictures, exactly inverted under two labels."""
    done("invert", model, "--image", *two, "--label", "ant", "cat", "--exact", *STEPS, "--out", place / "exact")
    return place / "exact"


def library(model, x0, labels):
    """The model, and pixels `[n, h, w]` encoded exactly under some labels."""
    loaded = leapstep.load(model)
    x0, inverse = loaded.scaling.to_model(x0[:, None]), leapstep.inverted(leapstep.ddim())
    return loaded, leapstep.encode(loaded.diffusion(torch.tensor(labels)), x0, 10, inverse, spacing="leading")


@pytest.mark.parametrize("command", ["invert", "decode"])
def test_help_has_examples_and_describes_every_option(command):
    text = done(command, "--help").stdout
    assert f"leapstep {command}" in text.partition("Examples")[2]
    for line in text.splitlines():
        assert not re.match(r"│ \*? *--\S+ +(--\S+ +)?<\w+> *│", line), f"no description: {line}"


def test_an_exact_inversion_loses_nothing(model, exact, original, tmp_path):
    said = json.loads((exact / "manifest.json").read_text())
    assert max(said["inversion"]["errors"]) < 1e-8
    assert said["inversion"]["exact"]
    assert set(tree(exact)) == {"latents.npz", "reconstructions.png", "manifest.json"}
    _, z = library(model, original, [0, 2])
    with np.load(exact / "latents.npz") as arrays:
        assert np.allclose(arrays["latents"], z, atol=1e-5)
    done("decode", model, exact, "--out", tmp_path / "again")
    assert np.array_equal(pictures(tmp_path / "again"), original)
    assert set(tree(tmp_path / "again")) == {"00000.png", "00001.png", "grid.png", "manifest.json"}


def test_more_steps_lose_less(model, two, tmp_path):
    """Of an inversion that is not exact, and is told what it loses."""
    errors = []
    for steps in (10, 40):
        out = tmp_path / str(steps)
        text = done("invert", model, "--image", *two, "--steps", steps, "--out", out).stdout
        errors.append(np.mean(json.loads((out / "manifest.json").read_text())["inversion"]["errors"]))
        assert f"{errors[-1]:.3g}" in text
    assert 0 < errors[1] < errors[0] / 4


def test_latents_under_other_labels(model, exact, original, tmp_path):
    done(
        "decode",
        model,
        exact.joinpath("latents.npz"),
        "--label",
        "bee",
        "cat",
        "--batch-size",
        3,
        "--out",
        tmp_path / "o",
    )
    loaded, z = library(model, original, [0, 2])
    labels = torch.tensor([1, 2, 1, 2])
    x = leapstep.decode(loaded.diffusion(labels), z.repeat_interleave(2, 0), 10, spacing="leading")
    assert near(pictures(tmp_path / "o"), loaded.scaling.to_pixels(x)[:, 0])
    assert not np.array_equal(pictures(tmp_path / "o")[0], original[0])
    results = json.loads((tmp_path / "o" / "manifest.json").read_text())["decoding"]["results"]
    assert [(one["row"], one["label"]) for one in results] == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_a_blend_of_two_latents_and_their_labels(model, exact, original, tmp_path):
    done("decode", model, exact, "--blend", 0, 0.25, 1, "--out", tmp_path / "o")
    loaded, z = library(model, original, [0, 2])
    fraction = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    ends = [loaded.diffusion(torch.tensor([label])) for label in (0, 2)]
    path = leapstep.slerp(*(end.expand(3, *end.shape) for end in z), fraction)
    x = leapstep.decode(leapstep.blended(*ends, fraction), path, 10, spacing="leading")
    assert near(pictures(tmp_path / "o"), loaded.scaling.to_pixels(x)[:, 0])
    assert near(pictures(tmp_path / "o")[[0, 2]], original)


def test_a_blend_of_two_labels_of_one_latent(model, two, original, tmp_path):
    done("invert", model, "--image", two[0], "--label", "ant", *SHORT, "--out", tmp_path / "one")
    done("decode", model, tmp_path / "one", "--label", "ant", "bee", "--blend", 0.5, "--out", tmp_path / "o")
    loaded = leapstep.load(model)
    ends = [loaded.diffusion(torch.tensor([label])) for label in (0, 1)]
    z = leapstep.encode(ends[0], loaded.scaling.to_model(original[:1, None]), 3, spacing="leading")
    x = leapstep.decode(leapstep.blended(*ends, 0.5), z, 3, spacing="leading")
    assert near(pictures(tmp_path / "o"), loaded.scaling.to_pixels(x)[:, 0])
    refused(
        invoke("decode", model, tmp_path / "one", "--blend", 0.5, "--out", tmp_path / "p"), "1 latents and 1 labels"
    )
    refused(
        invoke(
            "decode", model, tmp_path / "one", "--label", "ant", "bee", "cat", "--blend", 0.5, "--out", tmp_path / "p"
        ),
        "between two labels of one",
    )


@pytest.mark.parametrize(
    ("given", "times", "method"),
    [
        (["--method", "dpmpp_2m"], 10, "dpmpp_2m"),
        (["--steps", 5], [0.925, 0.775, 0.525, 0.275, 0.025, 0], "ddim"),
        (["--steps", 4, "--spacing", "trailing"], [0.925, 0.75, 0.5, 0.25, 0], "ddim"),
        (["--method", "rk23"], [0.925, 0], "rk23"),
    ],
    ids=str,
)
def test_other_steps_begin_where_the_latents_are(model, exact, original, tmp_path, given, times, method):
    done("decode", model, exact, *given, "--out", tmp_path / "o")
    spec = json.loads((tmp_path / "o" / "manifest.json").read_text())["spec"]
    assert spec["method"] == method
    path = leapstep.times(leapstep.load(model).process, 10, "leading").tolist() if times == 10 else times
    assert spec["times"] == pytest.approx(path)
    loaded, z = library(model, original, [0, 2])
    x = leapstep.decode(loaded.diffusion(torch.tensor([0, 2])), z, path, method)
    assert near(pictures(tmp_path / "o"), loaded.scaling.to_pixels(x)[:, 0])


def test_latents_of_what_is_no_picture(points, array, tmp_path):
    done("invert", points, "--image", array, "--exact", *STEPS, "--out", tmp_path / "o")
    assert set(tree(tmp_path / "o")) == {"latents.npz", "reconstructions.npz", "manifest.json"}
    done("decode", points, tmp_path / "o", "--out", tmp_path / "again")
    with np.load(tmp_path / "again" / "samples.npz") as arrays:
        assert np.allclose(arrays["samples"], np.load(array), atol=1e-3)


@pytest.mark.filterwarnings("default")
def test_latents_of_other_weights_and_of_other_shapes(model, points, exact, tmp_path):
    other = saved(tmp_path / "other", MLP(shape=(1, 8, 8), width=8, depth=1, timesteps=40), shape=(1, 8, 8))
    refused(invoke("decode", other, exact, "--out", tmp_path / "o"), "this model was trained without labels")
    refused(invoke("decode", points, exact, "--out", tmp_path / "o"), r"latents of shape \[1, 8, 8\]", r"are \[2\]")
    arrays = dict(np.load(exact / "latents.npz"))
    record = json.loads(bytes(arrays["record"])) | {"weights_sha256": "0" * 64}
    arrays["record"] = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)
    files.write_npz(tmp_path / "other.npz", arrays)
    said = done("decode", model, tmp_path / "other.npz", "--out", tmp_path / "p")
    assert "warning" in said.stderr
    assert "other weights" in said.stderr


def test_what_is_stated_is_taken_though_it_is_zero(model, exact, tmp_path):
    done("decode", model, exact, "--guidance", 0, "--steps", 1, "--out", tmp_path / "o")
    spec = json.loads((tmp_path / "o" / "manifest.json").read_text())["spec"]
    assert (spec["guidance"], spec["labels"]) == (0.0, [0, 2])


@pytest.mark.parametrize(
    "change",
    [
        {"record": np.frombuffer(b"[" * 100_000, dtype=np.uint8)},
        {"record": np.frombuffer(b"\xff\xfe", dtype=np.uint8)},
        {"record": np.zeros(3, np.uint8)},
        {"record": np.frombuffer(b'{"spec": {"nosuch": 1}}', dtype=np.uint8)},
        {"latents": np.zeros((0, 1, 8, 8), np.float32)},
        {"latents": np.zeros((2, 1, 8, 8), np.int64)},
        {"original": np.zeros((1, 1, 8, 8), np.uint8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_files_that_hold_no_latents(model, exact, tmp_path, change):
    files.write_npz(tmp_path / "bad.npz", dict(np.load(exact / "latents.npz")) | change)
    refused(invoke("decode", model, tmp_path / "bad.npz", "--out", tmp_path / "o"), "bad.npz holds no latents")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("invert MODEL --image IMAGE --method ddpm", ["--method ddpm: it injects noise"]),
        ("invert MODEL --image IMAGE --method dpmpp_2m --exact", ["no step has an exact inverse"]),
        ("invert MODEL --image IMAGE --label dog", ["--label dog"]),
        ("decode MODEL LATENTS --label dog", ["--label dog"]),
        ("decode MODEL LATENTS --method ddpm", ["--method ddpm: it injects noise"]),
        ("decode MODEL LATENTS --steps 50", ["steps=50: below time 0.925 there are 37 of 40 trained levels"]),
    ],
)
def test_what_has_no_latents(model, exact, two, tmp_path, line, words):
    line = line.replace("MODEL", str(model)).replace("IMAGE", str(two[0])).replace("LATENTS", str(exact))
    refused(invoke(*line.split(), "--out", tmp_path / "o"), *words)
    assert not (tmp_path / "o").exists()
