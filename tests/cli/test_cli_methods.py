"""`--method` with the options of every method, and `leapstep calibrate` with what depends on it."""

import inspect
import json
import re
import shutil

import numpy as np
import pytest
import torch

import leapstep
from commands import done, invoke, refused
from leapstep.cli import options
from leapstep.core.scaling import Scaling
from leapstep.files import folders
from leapstep.inference.methods import AUTO, METHODS
from leapstep.inference.spec import LAST_STD
from leapstep.models import checkpoint
from leapstep.networks import MLP
from random_models import changed, saved


@pytest.fixture(scope="session")
def gaussian(place):
    """Pairs of numbers N(100, 5^2) as an array, and the run folder of a network that knows no more than that."""
    rng = np.random.default_rng(0)
    np.save(place / "gaussian.npy", rng.normal(100, 5, (500, 2)))
    torch.manual_seed(0)
    scaling = Scaling(100.0, 5.0)
    details = {"data": {"scaling": scaling._asdict()}}
    mlp = MLP(shape=(2,), width=16, depth=1, timesteps=40)
    return saved(place / "gaussian", mlp, shape=(2,), scaling=scaling, details=details), place / "gaussian.npy"


@pytest.mark.parametrize(
    ("method", "settings", "same"),
    [
        ("unipc", {"order": 2}, {}),
        ("unipc", {"order": 3}, {"order": 3}),
        ("deis", {"order": 2, "variable": "log_snr"}, {"order": 2, "variable": "log_snr"}),
        ("rk45", {"rtol": 0.1, "atol": 0.1}, {"rtol": 0.1, "atol": 0.1}),
        ("sde_dpmpp_2m", {"eta": 0.5}, {"eta": 0.5}),
        ("edm", {"churn": 1, "low": 0.1, "high": 5}, {"churn": 1.0, "low": 0.1, "high": 5.0}),
        ("pc", {"corrections": 2, "snr": 0.1}, {"corrections": 2, "snr": 0.1}),
        ("ddim", {"eta": 0.3}, {"eta": 0.3}),
    ],
)
def test_settings_reach_the_method(points, tmp_path, method, settings, same):
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    done("sample", points, "--out", tmp_path / "s", "--n", 3, "--steps", 5, "--method", method, *words)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    defaults = inspect.signature(leapstep.TRANSITIONS[method].make).parameters
    kept = {name: defaults[name].default for name in settings} | manifest["spec"]["options"]
    assert kept == settings
    loaded = checkpoint.load(points)
    transition = leapstep.TRANSITIONS[method].make(**same)
    expected = loaded.scaling.to_values(leapstep.sample(loaded.diffusion(), (3, 2), 5, transition))
    found = np.load(tmp_path / "s" / "samples.npz")["samples"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_samples_as_diffusers_draws_them(points, tmp_path):
    """From noise of size 1, with the network's eps beside a clipped x0; the manifest says both."""
    run = tmp_path / "clipped"
    checkpoint.save(changed(checkpoint.load(points), clip=(-2.0, 2.0)), run)
    words = ["--spacing", "leading", "--set", "eps=raw", "--start", "unit", "--steps", 4, "--n", 40]
    done("sample", run, "--out", tmp_path / "s", *words)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert (manifest["spec"]["options"], manifest["spec"]["start"]) == ({"eps": "raw"}, "unit")
    old = {"transition": leapstep.ddim(eps="raw"), "spacing": "leading", "start": "unit"}
    loaded = checkpoint.load(run)
    expected = leapstep.sample(loaded.diffusion(), (40, 2), 4, **old)
    ours = leapstep.sample(loaded.diffusion(), (40, 2), 4, spacing="leading")
    found = np.load(tmp_path / "s" / "samples.npz")["samples"]
    np.testing.assert_allclose(found, loaded.scaling.to_values(expected), rtol=0, atol=2e-4)  # of 2e-3
    assert (expected - ours).abs().max() > 4e-4
    refused(invoke("sample", run, "--out", tmp_path / "t", "--start", "z"), "--start z: use one of marginal, unit")
    refused(invoke("sample", run, "--out", tmp_path / "t", "--set", "eps=x"), "unknown eps='x': use consistent or raw")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--method unipc --set eta=1", ["eta does not apply to method unipc", r"order \(default 2\)"]),
        ("--method heun --set order=2", ["order does not apply to method heun", "no options"]),
        ("--method heun --eta 0.5", ["eta does not apply to method heun"]),
        ("--set order", ["--set order: write it as NAME=VALUE"]),
        ("--eta 0.5 --set eta=1", ["eta is given twice, as 0.5 and as 1"]),
        ("--method unipc --set order=2 --set order=3", ["order is given twice, as 2 and as 3"]),
        ("--method unipc --set order=two", ["order=two: give an integer"]),
        ("--method rk23 --set rtol=small", ["rtol=small: give a number"]),
        ("--method unipc --set order=5", ["order=5: use 2 or 3"]),
        ("--method ddpm --set spread=1", ["spread does not apply"]),
        (
            "--method eular",
            [r"--method eular: did you mean euler\? use one of ddim, ddpm.*, or its name in k-diffusion"],
        ),
        ("--method lcm", ["--method lcm: not here; the nearest is ddpm, which replaces a part of the noise"]),
        ("--method ddpm --variance optimal", ["run leapstep calibrate MODEL DATA"]),
        ("--method ddpm --variance learned", ["learned no variance"]),
    ],
)
def test_options_that_do_not_fit(points, tmp_path, words, expected):
    refused(invoke("sample", points, "--out", tmp_path / "s", "--n", 2, "--steps", 4, *words.split()), *expected)


@pytest.mark.parametrize("words", [["--method", "euler_ancestral"], ["--method", "EulerAncestralDiscreteScheduler"]])
def test_the_manifest_has_our_name(points, tmp_path, words):
    done("sample", points, "--out", tmp_path / "s", "--n", 3, "--steps", 5, *words)
    done("sample", points, "--out", tmp_path / "t", "--n", 3, "--steps", 5, "--eta", 1)
    ours, same = (json.loads((tmp_path / name / "manifest.json").read_text())["spec"] for name in "st")
    assert ours == same
    assert (ours["method"], ours["options"]) == ("ddim", {"eta": 1})
    one, two = (np.load(tmp_path / name / "samples.npz")["samples"] for name in "st")
    np.testing.assert_array_equal(one, two)


def test_the_help_names_what_the_table_has():
    assert " | ".join((*METHODS, AUTO)) == options.METHODS


def test_adaptive_methods_take_one_step_of_their_own(points, tmp_path):
    done("sample", points, "--out", tmp_path / "s", "--n", 2, "--method", "rk45")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["spec"]["steps"] == 1
    assert manifest["calls"] > 6


@pytest.mark.parametrize("command", [["sample"], ["trace", "--consistency", "2"], ["interpolate", "--seeds", "3,7"]])
def test_adaptive_methods_begin_in_the_noise_whatever_the_model_says_of_its_spacing(points, tmp_path, command):
    """`leading`, as most folders of diffusers say, would put their one step between the first level and the data."""
    says = checkpoint.load(points)
    checkpoint.save(says.with_convention(spacing="leading"), tmp_path / "run")
    name, *given = command
    done(name, tmp_path / "run", "--out", tmp_path / "o", "--method", "rk23", *given)
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["times"][0] == 1
    again = [name, tmp_path / "run", "--out", tmp_path / "p", "--method", "rk23", *given, "--steps", 1]
    refused(
        invoke(*again, "--spacing", "leading"),
        "--spacing leading",
        "a single step .* not from pure noise: use trailing",
    )


# --- calibrate -----------------------------------------------------------------------------------------------------


def test_calibration_is_kept_and_used(gaussian, tmp_path):
    run, data = gaussian
    model = tmp_path / "run"
    shutil.copytree(run, model)
    said = done("calibrate", model, data, "--per-level", 40).stdout
    assert "of 40 levels" in said
    loaded = checkpoint.load(model)
    kept = json.loads((model / "calibration.json").read_text())
    assert len(kept["eps_power"]) == 40
    assert kept["per_level"] == 40
    assert kept["data_variance"] == pytest.approx(1, rel=0.1)  # the data are standardised
    done("sample", model, "--out", tmp_path / "s", "--n", 3, "--steps", 5, "--method", "ddpm", "--variance", "optimal")
    transition = leapstep.ddpm("optimal", loaded.spread)
    expected = loaded.scaling.to_values(leapstep.sample(loaded.diffusion(), (3, 2), 5, transition))
    np.testing.assert_allclose(np.load(tmp_path / "s" / "samples.npz")["samples"], expected, rtol=1e-5)
    for parameter in loaded.network.parameters():
        parameter.data += 0.1
    checkpoint.save(loaded, model)
    assert checkpoint.load(model).spread is None  # of other weights
    words = ["--steps", 5, "--method", "ddim", "--variance", "optimal"]
    refused(invoke("sample", model, "--out", tmp_path / "t", *words), "run leapstep calibrate")


def test_the_datas_moments_are_kept_and_start_samples_without_a_call(gaussian, tmp_path):
    run, data = gaussian
    model = tmp_path / "run"
    shutil.copytree(run, model)
    words = ["--n", 3, "--steps", 4, "--method", "unipc", "--start", "gaussian"]
    refused(invoke("sample", model, "--out", tmp_path / "s", *words), "or leapstep calibrate MODEL DATA")
    said = done("calibrate", model, data, "--per-level", 1).stdout
    assert "--start gaussian for every method" in " ".join(said.split())
    done("sample", model, "--out", tmp_path / "s", *words)
    loaded = checkpoint.load(model)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert len(manifest["times"]) == 5
    assert manifest["times"][0] < 1
    diffusion = loaded.diffusion()._replace(origin=loaded.moments.whole)
    expected = loaded.scaling.to_values(leapstep.sample(diffusion, (3, 2), 4, "unipc", start="gaussian"))
    np.testing.assert_allclose(np.load(tmp_path / "s" / "samples.npz")["samples"], expected, rtol=1e-5)
    refused(invoke("sample", model, "--out", tmp_path / "t", *words, "--method", "rk45"), "--start gaussian: rk45")


def test_a_folder_from_elsewhere_is_calibrated_without_following_its_links(gaussian, tmp_path):
    mine = tmp_path / "mine.json"
    shutil.copytree(gaussian[0], tmp_path / "run")
    (tmp_path / "run" / "calibration.json").symlink_to(mine)
    done("calibrate", tmp_path / "run", gaussian[1], "--per-level", 1)
    assert checkpoint.load(tmp_path / "run").calibration is not None
    assert not mine.exists()


def test_a_model_that_is_being_written_is_not_calibrated(gaussian, tmp_path):
    shutil.copytree(gaussian[0], tmp_path / "run")
    with folders.locked(tmp_path / "run"):
        refused(invoke("calibrate", tmp_path / "run", gaussian[1]), "is being written by another process")


def test_pictures_bound_the_last_step(model, insects, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(model, run)
    done("calibrate", run, insects, "--split", "test", "--per-level", 2, "--seed", 3, "--batch-size", 30)
    words = ["--n", 2, "--steps", 40, "--method", "ddpm", "--variance", "optimal", "--format", "npz", "--label", "bee"]
    done("sample", run, "--out", tmp_path / "s", *words)
    loaded = checkpoint.load(run)
    transition = leapstep.ddpm("optimal", loaded.spread, LAST_STD)
    x = leapstep.sample(loaded.diffusion(torch.tensor([1, 1])), (2, 1, 8, 8), 40, transition)
    found = np.load(tmp_path / "s" / "samples.npz")["samples"]
    assert abs(found.astype(int) - loaded.scaling.to_pixels(x).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--per-level", 0], ["--per-level 0: must be at least 1"]),
        (["--batch-size", 0], ["--batch-size 0"]),
        (["--split", "test"], ["split"]),
    ],
)
def test_calibrate_refuses(gaussian, words, expected):
    refused(invoke("calibrate", *gaussian, *words), *expected)


def test_calibrate_needs_a_folder_and_fitting_data(gaussian, insects):
    refused(invoke("calibrate", "google/ddpm-cifar10-32", gaussian[1]), "is not a folder")
    refused(invoke("calibrate", gaussian[0], insects), r"shape \[1, 8, 8\]: the model's are \[2\]")


@pytest.mark.filterwarnings("default:.*it is ignored:UserWarning")
@pytest.mark.parametrize("content", ['{"weights_sha256": 3', '{"weights_sha256": "same"}', "[]"])
def test_a_broken_calibration_is_in_nobodys_way(gaussian, tmp_path, content):
    model = tmp_path / "run"
    shutil.copytree(gaussian[0], model)
    content = content.replace("same", checkpoint.fingerprint(checkpoint.load(model).network))
    (model / "calibration.json").write_text(content)
    said = done("sample", model, "--out", tmp_path / "plain", "--n", 2, "--steps", 4).stderr
    assert re.fullmatch(r"leapstep: warning: .*calibration\.json.*; it is ignored", said.strip())
    words = ["--out", tmp_path / "s", "--n", 2, "--steps", 4, "--method", "ddpm", "--variance", "optimal"]
    again = invoke("sample", model, *words)
    assert again.exit_code == 2
    assert "run leapstep calibrate" in again.stderr.splitlines()[-1]
    done("calibrate", model, gaussian[1], "--per-level", 2)
    done("sample", model, *words)
    first = json.loads((tmp_path / "s" / "manifest.json").read_text())
    done("calibrate", model, gaussian[1], "--per-level", 2, "--seed", 1)
    done("sample", model, *words, "--overwrite")
    assert (
        json.loads((tmp_path / "s" / "manifest.json").read_text())["calibration_sha256"] != first["calibration_sha256"]
    )


@pytest.mark.parametrize("method", leapstep.TRANSITIONS)
def test_every_method_runs_as_it_is(points, tmp_path, method):
    done("sample", points, "--out", tmp_path / "s", "--n", 2, "--steps", 4, "--method", method)
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["spec"]["method"] == method
