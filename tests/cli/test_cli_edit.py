"""`leapstep edit`, against what the library makes of the same data."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import leapstep
from commands import done, invoke, pictures, refused, tree
from expected_pictures import near, pixels_of, same_picture
from leapstep.core.inverse import given
from leapstep.core.operators import masked
from leapstep.data.pictures import table


@pytest.fixture(scope="session")
def two(insects):
    return [insects / "test" / "ant" / "0.png", insects / "test" / "cat" / "3.png"]


@pytest.fixture(scope="session")
def half(place):
    """A mask: the right half is made anew, but for a column of which half is."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:], mask[:, 4] = 255, 127
    Image.fromarray(mask).save(place / "half.png")
    return place / "half.png"


def data_of(model, paths, n):
    """The pictures, each n times, in model space."""
    pixels = np.stack([np.asarray(Image.open(path))[None] for path in paths]).repeat(n, 0)
    return leapstep.load(model).scaling.to_model(pixels)


def test_help_has_examples_and_describes_every_option():
    text = done("edit", "--help").stdout
    assert "leapstep edit" in text.partition("Examples")[2]
    for line in text.splitlines():
        assert not re.match(r"│ \*? *--\S+ +(--\S+ +)?<\w+> *│", line), f"no description: {line}"


def test_edits_of_several_pictures(model, two, tmp_path):
    """Two of each, batch by batch: the results of the library, in files, in a grid and in a manifest."""
    out = tmp_path / "o"
    options = ["--strength", 0.5, "--steps", 4, "--n", 2, "--method", "dpmpp_2m", "--label", "bee", "ant", "--seed", 3]
    done("edit", model, "--image", *two, *options, "--batch-size", 3, "--out", out)
    loaded, x0 = leapstep.load(model), data_of(model, two, 2)
    diffusion = loaded.diffusion(torch.tensor([1, 0, 1, 0]))
    x = loaded.scaling.to_pixels(leapstep.edit(diffusion, x0, 0.5, 4, "dpmpp_2m", seed=3))
    assert near(pictures(out), x[:, 0])
    original = loaded.scaling.to_pixels(x0)
    rows = {" " * i: np.concatenate([original[2 * i : 2 * i + 1], x[2 * i : 2 * i + 2]]) for i in range(2)}
    assert same_picture(out / "grid.png", table(rows, ["original", "", ""]))
    assert set(tree(out)) == {*(f"{i:05d}.png" for i in range(4)), "grid.png", "manifest.json"}
    said = json.loads((out / "manifest.json").read_text())
    assert said["edit"] == {"images": [str(path) for path in two], "data": 2, "strength": 0.5}
    assert said["spec"]["times"] == [0.5, 0.375, 0.25, 0.125, 0.0]
    assert said["finished"]
    first = tree(out)
    done(
        "edit", model, "--image", *two, "--strength", 0.5, "--spec", out / "manifest.json", "--out", tmp_path / "again"
    )
    assert tree(tmp_path / "again") == first


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ([], {}),
        (["--strength", 0.9], {"strength": 0.9}),
        (["--method", "ddim", "--eta", 1], {"transition": leapstep.ddim(1.0)}),
        (["--spacing", "log_snr"], {"spacing": "log_snr"}),
        (["--method", "rk23"], {"transition": leapstep.rk23(), "steps": 1}),
    ],
    ids=str,
)
def test_options_of_an_edit(model, two, tmp_path, given, changed):
    asked = [] if "--method" in given and "rk23" in given else ["--steps", 3]
    done("edit", model, "--image", two[0], "--n", 2, *asked, *given, "--out", tmp_path / "o")
    loaded = leapstep.load(model)
    diffusion = loaded.diffusion()
    options = {"strength": 0.6, "steps": 3} | changed
    x = leapstep.edit(diffusion, data_of(model, two[:1], 2), **options)
    assert near(pictures(tmp_path / "o"), loaded.scaling.to_pixels(x)[:, 0])


@pytest.mark.parametrize("resample", [1, 3])
def test_a_mask_keeps_what_is_black(model, two, half, tmp_path, resample):
    out = tmp_path / "o"
    more = [] if resample == 1 else ["--resample", resample]
    done("edit", model, "--image", *two, "--mask", half, "--n", 2, "--steps", 4, *more, "--out", out)
    loaded, x0 = leapstep.load(model), data_of(model, two, 2)
    mask = torch.from_numpy(np.asarray(Image.open(half)) / 255.0)
    transition = leapstep.inpainted("ddim", x0, mask, resample)
    x = leapstep.edit(loaded.diffusion(), x0, 1.0, 4, transition)
    assert near(pictures(out), loaded.scaling.to_pixels(x)[:, 0])
    assert np.array_equal(pictures(out)[:, :, :4], loaded.scaling.to_pixels(x0)[:, 0, :, :4])
    grid = pixels_of(out / "grid.png")
    assert (grid == 127).any()
    said = json.loads((out / "manifest.json").read_text())["edit"]
    assert (said["strength"], said["by"], said["resample"]) == (1.0, "replacement", resample)


def test_a_mask_acts_in_steps_that_are_not_told_too(model, two, half, tmp_path):
    """A method with a tolerance would take one step, in which nothing is kept; and where a draw began is no edit's."""
    (tmp_path / "spec.json").write_text(json.dumps({"method": "rk23", "first": 5, "n": 1}))
    out = tmp_path / "o"
    line = ["--spec", tmp_path / "spec.json", "--set", "rtol=1", "--set", "atol=1"]
    done("edit", model, "--image", two[0], "--mask", half, *line, "--strength", 0.2, "--out", out)
    spec = json.loads((out / "manifest.json").read_text())["spec"]
    assert len(spec["times"]) == 9  # 8 levels lie below
    assert spec.get("first", 0) == 0


@pytest.mark.parametrize("bounded", [False, True])
def test_a_mask_by_guidance(model, two, half, tmp_path, bounded):
    out = tmp_path / "o"
    if bounded:
        leapstep.save(leapstep.load(model).with_convention(clip=(0, 255)), model := tmp_path / "bounded")
    done("edit", model, "--image", two[0], "--mask", half, "--by", "guidance", "--n", 2, "--steps", 2, "--out", out)
    loaded, x0 = leapstep.load(model), data_of(model, two[:1], 2)
    mask = torch.from_numpy(np.asarray(Image.open(half)).copy())
    led = given(loaded.diffusion(), masked(mask), x0)
    assert (loaded.clip is not None) == bounded
    x = torch.where(mask == 0, x0, leapstep.edit(led, x0, 1.0, 2))
    assert near(pictures(out), loaded.scaling.to_pixels(x)[:, 0])
    assert np.array_equal(pictures(out)[:, :, :4], loaded.scaling.to_pixels(x0)[:, 0, :, :4])


def test_edits_of_what_is_no_picture(points, array, tmp_path):
    """Arrays in the units of the training data, with a mask in an array."""
    np.save(tmp_path / "mask.npy", np.array([0.0, 1.0]))
    done(
        "edit",
        points,
        "--image",
        array,
        "--mask",
        tmp_path / "mask.npy",
        "--n",
        1,
        "--steps",
        3,
        "--out",
        tmp_path / "o",
    )
    with np.load(tmp_path / "o" / "samples.npz") as arrays:
        samples, original = arrays["samples"], arrays["original"]
    assert np.allclose(original, np.load(array))
    assert np.allclose(samples[:, 0], original[:, 0])
    assert not np.isclose(samples[:, 1], original[:, 1]).any()
    assert set(tree(tmp_path / "o")) == {"samples.npz", "manifest.json"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--strength 0", ["--strength 0.0: a time above 0"]),
        ("--strength 1.5", ["--strength 1.5"]),
        ("--strength 0.1 --steps 5", ["steps=5: below time 0.1 there are 4 of 40 trained levels"]),
        ("--method fitted", ["--method fitted: it is for the whole path from noise"]),
        ("--method auto", ["--method auto: it is for the whole path from noise"]),
        ("--mask note.txt", ["note.txt", "not an image"]),
        ("--mask wide.npy", [r"wide.npy is a mask of shape \[3, 9\]: the samples are \[1, 8, 8\]"]),
        ("--mask two.npy", ["two.npy has values beyond 0"]),
        ("--mask none.npy", ["none.npy keeps everything"]),
        ("--mask half.npy --method unipc", ["inpainted.unipc", "use ddim"]),
        ("--label dog", ["--label dog", "ant, bee, cat"]),
        ("--image wide.npy", ["wide.npy is a float64 array", "give uint8 from 0 to 255"]),
    ],
)
def test_edits_that_cannot_be_made(model, two, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("not a picture")
    np.save(tmp_path / "wide.npy", np.zeros((3, 9)))
    for name, value in {"none": 0.0, "half": 0.5, "two": 2.0}.items():
        np.save(tmp_path / f"{name}.npy", np.full((8, 8), value))
    image = [] if "--image" in given else ["--image", two[0]]
    refused(invoke("edit", model, *image, "--out", "o", *given.split()), *words)
    assert not (tmp_path / "o").exists()


def test_an_image_for_a_model_of_none(points, two, tmp_path):
    refused(invoke("edit", points, "--image", two[0], "--out", tmp_path / "o"), "is an image, and this model's .* not")


def test_earlier_edits_are_replaced_if_told(model, two, tmp_path):
    line = ["edit", model, "--image", two[0], "--n", 1, "--steps", 1, "--out", tmp_path / "o"]
    done(*line)
    refused(invoke(*line), "exists and is not empty: --overwrite it")
    done(*line, "--overwrite", "--n", 3)
    assert len(pictures(tmp_path / "o")) == 3
