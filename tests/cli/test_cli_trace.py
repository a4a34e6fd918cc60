"""`leapstep trace`, against the trajectory of the library."""

import json

import numpy as np
import pytest
from PIL import Image

import leapstep
from commands import done, invoke, refused, tree
from expected_pictures import pixels_of, same_picture, way
from leapstep.data.pictures import table


def test_a_way_is_x_above_its_estimate_of_x0(model, tmp_path):
    done("trace", model, "--steps", 4, "--consistency", 2, "--out", tmp_path / "o")
    times, x, x0 = way(model, 4)
    assert times.tolist() == [1, 0.75, 0.5, 0.25, 0]
    captions = ["t = 1", "t = 0.75", "t = 0.5", "t = 0.25", "t = 0"]
    expected = table({"x_t": x[:, 0], "x0 estimate": x0[:, 0]}, captions)
    assert same_picture(tmp_path / "o" / "trace.png", expected)
    assert np.array_equal(x[-1], x0[-1])
    assert set(tree(tmp_path / "o")) == {"trace.png", "consistency.png", "manifest.json"}


def test_a_long_way_shows_a_dozen_times_with_both_ends(model, tmp_path):
    done("trace", model, "--steps", 40, "--consistency", 2, "--out", tmp_path / "o")
    times, x, x0 = way(model, 40)
    shown = [0, 4, 7, 11, 15, 18, 22, 25, 29, 33, 36, 40]
    captions = [f"t = {times[i].item():.3g}" for i in shown]
    expected = table({"x_t": x[shown, 0], "x0 estimate": x0[shown, 0]}, captions)
    assert same_picture(tmp_path / "o" / "trace.png", expected)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["--seed", 5], {"seed": 5}),
        (["--label", "cat"], {"label": 2}),
        (["--spacing", "leading"], {"spacing": "leading"}),
        (["--method", "ddpm"], {"transition": leapstep.ddpm()}),
        (["--method", "ddim", "--set", "eta=0.5"], {"transition": leapstep.ddim(0.5)}),
        (["--n", 2], {"n": 2}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_options_change_the_way(model, tmp_path, given, options):
    done("trace", model, "--steps", 3, "--consistency", 3, "--out", tmp_path / "o", *given)
    times, x, x0 = way(model, 3, **options)
    rows = {"x_t": x[:, 0], "x0 estimate": x0[:, 0]}
    if options == {"n": 2}:
        named = [(f"x_t of {i}", x[:, i]) for i in (0, 1)], [(f"x0 estimate of {i}", x0[:, i]) for i in (0, 1)]
        rows = dict(pair for pairs in zip(*named, strict=True) for pair in pairs)
    expected = table(rows, [f"t = {t.item():.3g}" for t in times])
    assert same_picture(tmp_path / "o" / "trace.png", expected)
    _, x, x0 = way(model, 3)
    before = table({"x_t": x[:, 0], "x0 estimate": x0[:, 0]}, [f"t = {t.item():.3g}" for t in times])
    assert not same_picture(tmp_path / "o" / "trace.png", before)
    kept = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert all(kept["spec"][name] == value for name, value in options.items() if name in ("seed", "spacing", "n"))


def test_the_end_of_the_way_is_the_sample(model, tmp_path):
    args = ["--steps", 4, "--seed", 5, "--method", "ddpm", "--label", "bee"]
    done("sample", model, *args, "--n", 1, "--out", tmp_path / "s")
    done("trace", model, *args, "--consistency", 4, "--out", tmp_path / "o")
    seen = pixels_of(tmp_path / "o" / "trace.png")
    large = np.asarray(Image.open(tmp_path / "s" / "00000.png").convert("RGB")).repeat(8, 0).repeat(8, 1).astype(int)
    right = seen.shape[1] - 64 - 7 // 2 - 3
    offsets = [(y, x) for y in range(20, 40) for x in range(right - 10, right + 10) if x + 64 <= seen.shape[1]]
    assert any(abs(seen[y : y + 64, x : x + 64] - large).max() <= 1 for y, x in offsets)


def test_consistency_is_the_same_noise_in_more_and_more_steps(model, tmp_path):
    result = done("trace", model, "--steps", 2, "--consistency", 20, 3, 6, 100, "--seed", 1, "--out", tmp_path / "o")
    assert "left out 100 steps: the model has 40 noise levels" in result.stderr
    loaded = leapstep.load(model)
    samples = {
        steps: leapstep.sample(loaded.diffusion(), (4, 1, 8, 8), steps, seed=1, spacing="trailing")
        for steps in (3, 6, 20)
    }
    pixels = [loaded.scaling.to_pixels(x) for x in samples.values()]
    rows = {f"sample {i}": np.stack([column[i] for column in pixels]) for i in range(4)}
    assert same_picture(tmp_path / "o" / "consistency.png", table(rows, ["3 steps", "6 steps", "20 steps"]))
    kept = json.loads((tmp_path / "o" / "manifest.json").read_text())["consistency"]
    assert [row["steps"] for row in kept] == [3, 6, 20]
    assert kept[0]["error"] == pytest.approx(((samples[3] - samples[20]) / 2).square().mean().item(), rel=1e-3)
    assert kept[0]["error"] > kept[1]["error"] > kept[2]["error"] == 0
    assert f"3 steps are {kept[0]['error']:.2g} from 20" in result.stdout


def test_consistency_by_default_and_with_many_samples(model, tmp_path):
    done("trace", model, "--steps", 2, "--n", 5, "--out", tmp_path / "o")
    kept = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert [row["steps"] for row in kept["consistency"]] == [10, 20]
    way, samples = (pixels_of(tmp_path / "o" / f"{name}.png").shape[0] for name in ("trace", "consistency"))
    assert 2 * (samples - 28) == way - 28  # five rows of pictures and ten, below a line of captions


def test_default_steps_of_a_trace(model, tmp_path):
    done("trace", model, "--consistency", 2, "--out", tmp_path / "o")
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["spec"]["steps"] == 20


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--n", 0], ["--n 0: must be at least 1"]),
        (["--seed", -1], ["--seed -1"]),
        (["--label", "dog"], ["--label dog"]),
        (["--consistency", 0], ["steps 0", "from 1 to 40"]),
        (["--consistency", 50, 60], ["steps 50, 60", "from 1 to 40"]),
    ],
    ids=str,
)
def test_traces_that_cannot_be(model, tmp_path, given, words):
    refused(invoke("trace", model, "--steps", 2, "--out", tmp_path / "o", *given), *words)
    assert not (tmp_path / "o").exists()


def test_a_trace_of_what_is_no_picture(points, tmp_path):
    done("trace", points, "--steps", 3, "--consistency", 2, 3, "--out", tmp_path / "o")
    assert set(tree(tmp_path / "o")) == {"trace.npz", "consistency.npz", "manifest.json"}
    with np.load(tmp_path / "o" / "trace.npz") as arrays:
        kept = dict(arrays)
    assert kept["times"].tolist() == leapstep.times(leapstep.load(points).process, 3).tolist()
    assert kept["x"].shape == kept["x0"].shape == (4, 1, 2)
    np.testing.assert_allclose(kept["x0"][-1], kept["x"][-1], rtol=1e-6)
    with np.load(tmp_path / "o" / "consistency.npz") as arrays:
        assert list(arrays) == ["2 steps", "3 steps"]
        np.testing.assert_allclose(arrays["3 steps"][0], kept["x0"][-1, 0], rtol=1e-5)
