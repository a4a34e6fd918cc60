"""`leapstep interpolate`, against what the library computes between the same ends."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import leapstep
from commands import done, invoke, refused, tree
from expected_pictures import decoded, near, noise, same_picture
from leapstep.core.interpolation import interpolation_grid, slerp, spherical
from leapstep.data.pictures import grid, table
from leapstep.networks import MLP
from random_models import saved


def frames_of(out):
    """The frames of the animation, float [n, h, w], in the size of the pictures."""
    with Image.open(out / "animation.gif") as image:
        frames = [np.asarray(frame.convert("L"))[::20, ::20] for frame in ImageSequence.Iterator(image)]
    return np.stack(frames).astype(int)


@pytest.mark.parametrize("path", ["slerp", "spherical"])
def test_a_strip_and_an_animation_there_and_back(model, tmp_path, path):
    out = tmp_path / "o"
    given = [] if path == "slerp" else ["--path", path]
    done("interpolate", model, "--seeds", 3, 7, "--frames", 5, "--steps", 4, "--out", out, *given)
    way = {"slerp": slerp, "spherical": spherical}[path]
    expected = decoded(model, torch.cat([way(noise(3), noise(7), f) for f in (0, 0.25, 0.5, 0.75, 1)]), 4)
    assert near(frames_of(out), expected[[0, 1, 2, 3, 4, 3, 2, 1], 0])
    assert same_picture(out / "strip.png", table({"": expected}, ["0", "0.25", "0.5", "0.75", "1"]))
    assert set(tree(out)) == {"strip.png", "animation.gif", "manifest.json"}


def test_the_ends_are_the_samples_of_the_seeds(model, tmp_path):
    done("interpolate", model, "--seeds", 3, 7, "--frames", 2, "--steps", 4, "--out", tmp_path / "o")
    for i, seed in enumerate((3, 7)):
        out = tmp_path / str(seed)
        done("sample", model, "--seed", seed, "--n", 1, "--steps", 4, "--out", out)
        assert near(frames_of(tmp_path / "o")[i], np.asarray(Image.open(out / "00000.png")))


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["--label", "bee"], {"label": 1}),
        (["--label", 2], {"label": 2}),
        (["--spacing", "quad"], {"spacing": "quad"}),
        (["--method", "heun"], {"transition": leapstep.heun()}),
        (["--method", "unipc", "--set", "order=2"], {"transition": leapstep.TRANSITIONS["unipc"].make(order=2)}),
        (["--steps", 9], {"steps": 9}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_options_change_the_frames(model, tmp_path, given, options):
    out = tmp_path / "o"
    done("interpolate", model, "--seeds", 3, 7, "--frames", 3, "--steps", 3, "--out", out, *given)
    z = torch.cat([slerp(noise(3), noise(7), f) for f in (0, 0.5, 1, 0.5)])
    assert near(frames_of(out), decoded(model, z, **({"steps": 3} | options))[:, 0])
    assert not near(frames_of(out), decoded(model, z, 3)[:, 0])


def test_default_steps_are_50_or_all(model, tmp_path):
    done("interpolate", model, "--seeds", 3, 7, "--out", tmp_path / "o", "--frames", 2)
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["spec"]["steps"] == 40


def test_four_seeds_make_a_grid_and_an_animation_around_it(model, tmp_path):
    out = tmp_path / "o"
    done("interpolate", model, "--seeds", "3,7,1,2", "--frames", 3, "--steps", 3, "--batch-size", 4, "--out", out)
    z = interpolation_grid(torch.cat([noise(seed) for seed in (3, 7, 1, 2)]), 3, 3)
    expected = decoded(model, z.flatten(0, 1), 3)
    assert same_picture(out / "grid.png", grid(expected, columns=3))
    assert near(frames_of(out), expected[[0, 1, 2, 5, 8, 7, 6, 3], 0])
    assert set(tree(out)) == {"grid.png", "animation.gif", "manifest.json"}


@pytest.fixture(scope="session")
def two(insects):
    return [insects / "test" / "ant" / "0.png", insects / "test" / "cat" / "3.png"]


def test_between_pictures(model, two, tmp_path):
    """Encoded, interpolated and decoded; with all the steps there are the ends come out as they went in."""
    out = tmp_path / "o"
    done("interpolate", model, "--images", *two, "--frames", 3, "--steps", 40, "--out", out)
    pixels = np.stack([np.asarray(Image.open(path))[None] for path in two])
    loaded = leapstep.load(model)
    z = leapstep.encode(loaded.diffusion(), loaded.scaling.to_model(pixels), 40, spacing="leading")
    way = torch.cat([slerp(z[:1], z[1:], f) for f in (0, 0.5, 1)])
    x = leapstep.decode(loaded.diffusion(), way, 40, spacing="leading")
    frames = frames_of(out)
    assert near(frames[:3], loaded.scaling.to_pixels(x)[:, 0])
    assert np.sqrt(((frames[[0, 2]] - pixels[:, 0].astype(int)) ** 2).mean()) < 12
    assert json.loads((out / "manifest.json").read_text())["images"] == [str(path) for path in two]


def test_the_spacing_of_pictures_is_leading_unless_told(model, two, tmp_path):
    for name, more in (("default", []), ("leading", ["leading"]), ("trailing", ["trailing"])):
        given = ["--spacing", *more] if more else []
        done("interpolate", model, "--images", *two, "--steps", 3, "--frames", 2, "--out", tmp_path / name, *given)
    frames = {name: frames_of(tmp_path / name) for name in ("default", "leading", "trailing")}
    assert np.array_equal(frames["default"], frames["leading"])
    assert not np.array_equal(frames["default"], frames["trailing"])


def test_four_pictures_of_any_size_and_mode(model, two, tmp_path):
    large = Image.open(two[0]).resize((32, 16), Image.Resampling.NEAREST).crop((8, 0, 24, 16)).convert("RGBA")
    large.save(tmp_path / "large.webp", lossless=True)
    args = ["--images", *two, tmp_path / "large.webp", two[1], "--steps", 2, "--frames", 2, "--out", tmp_path / "o"]
    done("interpolate", model, *args)
    assert (tmp_path / "o" / "grid.png").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["two or four", "--seeds 3 7", "--images"]),
        (["--seeds", 1], ["two or four"]),
        (["--seeds", 1, 2, 3], ["two or four"]),
        (["--seeds", 1, 2, "--images", "a.png", "b.png"], ["exclude each other"]),
        (["--seeds", -1, 2], ["--seed -1"]),
        (["--seeds", 1, 2, "--frames", 1], ["--frames 1: must be at least 2"]),
        (["--seeds", 1, 2, "--path", "linear"], ["--path linear", "slerp, spherical"]),
        (["--seeds", 1, 2, "--label", "dog"], ["--label dog", "ant, bee, cat"]),
        (["--images", "nothing.png", "b.png"], ["nothing.png", "No such file"]),
        (["--images", "note.txt", "note.txt"], ["note.txt", "not an image"]),
    ],
    ids=str,
)
def test_ends_that_are_none(model, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("not a picture")
    refused(invoke("interpolate", model, "--out", "o", *given), *words)
    assert not (tmp_path / "o").exists()


def test_pictures_that_do_not_fit(place, points, two, tmp_path):
    oblong = saved(tmp_path / "oblong", MLP(shape=(1, 4, 6), width=8, depth=1, timesteps=40), shape=(1, 4, 6))
    refused(invoke("interpolate", oblong, "--images", *two, "--out", tmp_path / "o"), "0.png has 8x8 pixels", "6x4")
    refused(invoke("interpolate", points, "--images", *two, "--out", tmp_path / "o"), "not pictures", "--seeds")
    assert not (tmp_path / "o").exists()


def test_an_interpolation_of_what_is_no_picture(points, tmp_path):
    done("interpolate", points, "--seeds", 3, 7, "--frames", 3, "--steps", 4, "--out", tmp_path / "o")
    assert set(tree(tmp_path / "o")) == {"frames.npz", "manifest.json"}
    z = torch.cat([slerp(noise(3, (2,)), noise(7, (2,)), f) for f in (0, 0.5, 1)])
    loaded = leapstep.load(points)
    x = leapstep.decode(loaded.diffusion(), loaded.process.sigma(torch.tensor(1.0, dtype=torch.float64)) * z, 4)
    with np.load(tmp_path / "o" / "frames.npz") as arrays:
        np.testing.assert_allclose(arrays["frames"], loaded.scaling.to_values(x), rtol=1e-5)


def test_a_manifest_is_enough_to_repeat_the_frames(model, tmp_path):
    given = "--frames 3 --steps 3 --path spherical --spacing quad --label bee --method unipc --set order=2"
    done("interpolate", model, "--seeds", 3, 7, *given.split(), "--batch-size", 2, "--out", tmp_path / "first")
    kept = json.loads((tmp_path / "first" / "manifest.json").read_text())
    again = ["interpolate", kept["model"], "--spec", tmp_path / "first" / "manifest.json", "--device", "cpu"]
    again += ["--seeds", *kept["seeds"], "--frames", kept["frames"], "--path", kept["interpolation"]]
    done(*again, "--out", tmp_path / "second")
    assert tree(tmp_path / "first") == tree(tmp_path / "second")
