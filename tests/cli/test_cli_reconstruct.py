"""`leapstep reconstruct`, against what the library computes for the same data."""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import leapstep
from commands import done, invoke, refused, tree
from expected_pictures import same_picture
from leapstep.data.pictures import table
from leapstep.inference import encoding
from leapstep.models import checkpoint


def results(out):
    return json.loads((out / "results.json").read_text())


def errors(out):
    return {row["steps"]: row["error"] for row in results(out)["results"]}


def round_trip(model, x0, labels, steps, there=None, back=None, spacing="leading"):
    """By the library, in model space."""
    diffusion = leapstep.load(model).diffusion(labels)
    latent = leapstep.encode(diffusion, x0, steps, there or leapstep.ddim(), spacing=spacing)
    return leapstep.decode(diffusion, latent, steps, back or leapstep.ddim(), spacing=spacing)


@pytest.fixture(scope="session")
def test_data(insects):
    """The test pictures in model space, and their labels."""
    data = leapstep.data.read(insects, split="test")
    return data.batch(range(15)), torch.from_numpy(data.labels)


def test_the_error_is_that_of_encode_and_decode(model, insects, test_data, tmp_path):
    """Squared, of pixels in [0, 1], on all test pictures, each with its own label."""
    said = done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 3, 10).stdout
    x0, labels = test_data
    for row in results(tmp_path / "o")["results"]:
        error = ((round_trip(model, x0, labels, row["steps"]) - x0) / 2).double().square().mean((1, 2, 3))
        assert row["error"] == pytest.approx(error.mean().item(), rel=1e-4)
        assert row["standard_error"] == pytest.approx(error.std().item() / 15**0.5, rel=1e-4)
        assert row["calls"] == 2 * row["steps"] - 1  # at t = 0 there is nothing to denoise
        assert re.search(rf"^ *{row['steps']} +{row['calls']} +{row['error']:.3g} ", said, re.MULTILINE)
    about = results(tmp_path / "o")["reconstruction"]
    assert about["labels"]
    assert about["spec"]["n"] == 15
    assert about["unit"] == "squared pixel values from 0 to 1"
    assert about["weights_sha256"] == checkpoint.fingerprint(leapstep.load(model).network)
    assert "15 samples" in said


def test_the_papers_numbers_stand_beside(model, insects, tmp_path):
    """Those of table 2, for as many levels as the model has; the others are named."""
    result = done("reconstruct", model, insects, "--out", tmp_path / "o", "--n", 3)
    assert list(errors(tmp_path / "o")) == [10, 20]
    assert "left out 50, 100, 200, 500, 1000 steps: the model has 40 noise levels" in result.stderr
    assert re.search(r"^ *10 .* 0\.014$", result.stdout, re.MULTILINE)
    assert re.search(r"^ *20 .* 0\.0065$", result.stdout, re.MULTILINE)
    done("reconstruct", model, insects, "--out", tmp_path / "p", "--n", 3, "--steps", 10, 3, 50)
    assert list(errors(tmp_path / "p")) == [3, 10]


def test_the_pictures_show_originals_above_reconstructions(model, insects, test_data, tmp_path):
    done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 3, 10)
    x0, labels = test_data
    rows = {"original": x0, **{f"{steps} steps": round_trip(model, x0, labels, steps) for steps in (3, 10)}}
    to_pixels = leapstep.load(model).scaling.to_pixels
    expected = table({caption: to_pixels(x[:12]) for caption, x in rows.items()})
    assert same_picture(tmp_path / "o" / "reconstructions.png", expected)
    assert set(tree(tmp_path / "o")) == {"results.json", "reconstructions.png"}


def test_samples_are_evenly_chosen(model, insects, test_data, tmp_path):
    """Folders are sorted by class: the first few would all be ants."""
    done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 3, "--n", 3)
    x0, labels = (each[[0, 5, 10]] for each in test_data)
    assert labels.tolist() == [0, 1, 2]
    error = ((round_trip(model, x0, labels, 3) - x0) / 2).square().mean().item()
    assert errors(tmp_path / "o")[3] == pytest.approx(error, rel=1e-4)
    done("reconstruct", model, insects, "--out", tmp_path / "one", "--steps", 3, "--n", 1)
    assert results(tmp_path / "one")["results"][0]["standard_error"] is None
    refused(invoke("reconstruct", model, insects, "--out", tmp_path / "p", "--n", 0), "--n 0: must be at least 1")


def test_the_exact_inverse_loses_nothing(model, insects, tmp_path):
    for name, more in (("plain", []), ("exact", ["--exact"])):
        done("reconstruct", model, insects, "--out", tmp_path / name, "--steps", 10, 20, *more)
    plain, exact = errors(tmp_path / "plain"), errors(tmp_path / "exact")
    assert plain[10] > 2 * plain[20] > 1e-5
    assert max(exact.values()) < 1e-10
    assert results(tmp_path / "exact")["reconstruction"]["exact"]
    assert not any(row["notes"] for row in results(tmp_path / "exact")["results"])


def test_a_step_without_an_exact_inverse_is_told(model, insects, tmp_path, monkeypatch):
    def inverted(transition):
        warnings.warn("a step was inverted only to 1e-1 of x", stacklevel=1)
        return transition

    monkeypatch.setattr(encoding, "inverted", lambda transition: lambda *args: inverted(transition)(*args))
    said = done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 3, "--exact").stdout
    assert results(tmp_path / "o")["results"][0]["notes"] == ["a step was inverted only to 1e-1 of x"]
    assert said.count("inverted only to 1e-1") == 1


def test_methods_that_lean_on_earlier_steps_have_no_exact_inverse(model, insects, tmp_path):
    args = [model, insects, "--out", tmp_path / "o", "--method", "dpmpp_2m", "--steps", 5]
    refused(invoke("reconstruct", *args, "--exact"), "--method dpmpp_2m", "exact inverse", "earlier")
    refused(invoke("reconstruct", *args[:-4], "--method", "rk45", "--exact"), "--method rk45", "its own steps", "rtol")
    assert not (tmp_path / "o").exists()
    done("reconstruct", *args)


def test_the_method_and_its_options(model, insects, test_data, tmp_path):
    x0, labels = test_data
    args = ["--steps", 5, "--method", "unipc", "--set", "order=2"]
    done("reconstruct", model, insects, "--out", tmp_path / "o", *args)
    method = leapstep.TRANSITIONS["unipc"].make(order=2)
    again = round_trip(model, x0, labels, 5, method, method)
    assert errors(tmp_path / "o")[5] == pytest.approx(((again - x0) / 2).square().mean().item(), rel=1e-3)
    assert results(tmp_path / "o")["reconstruction"]["spec"]["options"] == {}


def test_the_spacing_is_leading_unless_told(model, insects, test_data, tmp_path):
    """The papers' uniform subsequence; it stops short of the last level, where some schedules keep no signal."""
    x0, labels = test_data
    for spacing in ("leading", "trailing"):
        done("reconstruct", model, insects, "--out", tmp_path / spacing, "--steps", 3, "--spacing", spacing)
        error = ((round_trip(model, x0, labels, 3, spacing=spacing) - x0) / 2).square().mean().item()
        assert errors(tmp_path / spacing)[3] == pytest.approx(error, rel=1e-4)
    done("reconstruct", model, insects, "--out", tmp_path / "default", "--steps", 3)
    assert errors(tmp_path / "default") == errors(tmp_path / "leading") != errors(tmp_path / "trailing")


@pytest.mark.parametrize("method", ["rk23", "rk45"])
def test_methods_with_steps_of_their_own_go_to_the_noise_and_back(model, insects, test_data, tmp_path, method):
    """In one step of the loop, all the way: the latents are as wide as noise."""
    x0, labels = test_data
    done("reconstruct", model, insects, "--out", tmp_path / "o", "--method", method)
    transition = leapstep.TRANSITIONS[method].make()
    again = round_trip(model, x0, labels, [1.0], transition, transition)
    assert errors(tmp_path / "o") == {1: pytest.approx(((again - x0) / 2).square().mean().item(), rel=1e-3)}
    assert results(tmp_path / "o")["reconstruction"]["spec"]["spacing"] == "trailing"
    assert results(tmp_path / "o")["results"][0]["calls"] > 20


@pytest.mark.parametrize("given", [["--method", "rk45", "--spacing", "leading"], ["--steps", 1]])
def test_a_round_trip_that_leaves_the_data_by_one_level_is_refused(model, insects, tmp_path, given):
    said = "--spacing leading: a single step would go from the first of 40 noise levels to the data"
    refused(invoke("reconstruct", model, insects, "--out", tmp_path / "o", *given), said, "use trailing")
    assert not (tmp_path / "o").exists()


def test_the_split(model, insects, tmp_path):
    done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 2, "--split", "train")
    assert results(tmp_path / "o")["reconstruction"]["spec"]["n"] == 6
    refused(invoke("reconstruct", model, insects, "--out", tmp_path / "p", "--split", "valid"), "no split 'valid'")
    assert not (tmp_path / "p").exists()


def test_the_batch_size_changes_nothing(model, insects, tmp_path):
    for size in (4, 64):
        done("reconstruct", model, insects, "--out", tmp_path / str(size), "--steps", 3, "--batch-size", size)
    assert errors(tmp_path / "4")[3] == pytest.approx(errors(tmp_path / "64")[3], rel=1e-5)


def test_pictures_without_labels_are_of_any_class(model, insects, test_data, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted((insects / "test").rglob("*.png"))):
        shutil.copy(path, flat / f"{i:02d}.png")
    done("reconstruct", model, flat, "--out", tmp_path / "o", "--steps", 3, "--split", "all")
    error = ((round_trip(model, test_data[0], None, 3) - test_data[0]) / 2).square().mean().item()
    assert errors(tmp_path / "o")[3] == pytest.approx(error, rel=1e-4)
    assert not results(tmp_path / "o")["reconstruction"]["labels"]


def test_json_is_all_that_is_printed(model, insects, tmp_path):
    said = done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 2, "--json").stdout
    assert json.loads(said) == results(tmp_path / "o")


def test_what_is_no_picture_is_measured_in_standard_deviations(points, array, tmp_path):
    out = tmp_path / "o"
    said = done("reconstruct", points, array, "--out", out, "--split", "train", "--steps", 5).stdout
    assert "variances of the training data" in said
    with np.load(out / "reconstructions.npz") as arrays:
        assert list(arrays) == ["original", "5 steps"]
        original, again = arrays.values()
    np.testing.assert_allclose(original, np.load(array), rtol=1e-6)
    assert errors(out)[5] == pytest.approx((((again - original) / 5) ** 2).mean(), rel=1e-4)
    assert not (out / "reconstructions.png").exists()


def test_what_is_finished_is_kept(model, insects, tmp_path, monkeypatch):
    reconstruct, out = encoding.reconstruct, tmp_path / "o"

    def stop(model, spec, *rest, **options):
        if spec.steps == 10:
            raise KeyboardInterrupt
        return reconstruct(model, spec, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "reconstruct", stop)
        stopped = invoke("reconstruct", model, insects, "--out", out, "--steps", 3, 10)
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith(f"leapstep: stopped; the results of up to 3 steps are kept in {out}\n")
    assert list(errors(out)) == [3]
    Image.open(out / "reconstructions.png").load()
    done("reconstruct", model, insects, "--out", out, "--steps", 3, "--overwrite")
