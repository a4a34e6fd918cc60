"""Every command on a network of one's own: `file.py:function` with the file of its convention."""

import json
import math

import numpy as np
import pytest

import leapstep
from commands import done, invoke, refused
from leapstep.core.convention import Condition, Convention
from own_network import LENGTH, SCALE, SHIFT, write_signals


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the network, its convention and its data."""
    folder = tmp_path_factory.mktemp("own")
    write_signals(folder)
    convention = Convention(leapstep.linear(), scaling=(SHIFT, SCALE), shape=(1, LENGTH))
    convention.save(folder / "convention.json")
    Convention(leapstep.linear(), scaling=(SHIFT, SCALE)).save(folder / "shapeless.json")
    with_height = Convention(
        leapstep.linear(), scaling=(SHIFT, SCALE), shape=(1, LENGTH), conditions=(Condition("height"),)
    )
    with_height.save(folder / "with-height.json")
    np.savez(folder / "heights.npz", height=np.array([-5.0, 5.0], np.float32))
    return folder


@pytest.fixture(autouse=True)
def there(desk, monkeypatch):
    monkeypatch.chdir(desk)


OWN = ("--convention", "convention.json")


def drawn(*words, out):
    done("sample", *words, "--out", out, "--device", "cpu")
    with np.load(out / "samples.npz") as arrays:
        return arrays["samples"]


def test_samples_have_the_law_of_the_data(tmp_path):
    """To what 400 samples tell: their mean to 5 standard errors, and each variance to a third."""
    x = drawn("signals.py:network", *OWN, "--n", 400, "--batch-size", 400, "--steps", 20, out=tmp_path / "s")
    assert x.shape == (400, 1, LENGTH)
    assert abs(x.mean((0, 1)) - SHIFT).max() < 5 * SCALE / math.sqrt(400)
    assert x.std((0, 1)) == pytest.approx(np.full(LENGTH, SCALE), rel=1 / 3)
    assert abs(np.diff(x)).mean() < SCALE / 2  # they are smooth
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert Convention.from_json(manifest["convention"]) == Convention.read("convention.json")


def test_the_shape_may_stand_beside_a_convention_without_one(tmp_path):
    words = ["signals.py:network", "--convention", "shapeless.json", "--n", 2, "--steps", 2]
    refused(invoke("sample", *words, "--out", tmp_path / "s"), "shapeless.json lacks the shape", "--shape")
    x = drawn(*words, "--shape", f"1,{LENGTH}", out=tmp_path / "s")
    assert np.array_equal(x, drawn("signals.py:network", *OWN, "--n", 2, "--steps", 2, out=tmp_path / "t"))


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["info"], None),
        (["trace", "--steps", 3, "--consistency", 2, 3], "trace.npz"),
        (["reconstruct", "signals.npy", "--split", "all", "--steps", 5, "--n", 5], "reconstructions.npz"),
        (["interpolate", "--seeds", 1, 2, "--frames", 3, "--steps", 3], "frames.npz"),
        (["likelihood", "signals.npy", "--split", "all", "--steps", 5, "--n", 4], None),
        (["evaluate", "signals.npy", "--split", "all", "--n", 20, "--steps", 3, "--resamples", 3], None),
        (["sweep", "signals.npy", "--split", "all", "--n", 20, "--steps", 2, "--resamples", 3], "table.md"),
        (["report", "--data", "signals.npy", "--n", 4, "--steps", 4, "--budget", "0.01s"], "page.html"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_takes_it(tmp_path, words, result):
    command, *rest = words
    out = tmp_path / "page.html" if command == "report" else tmp_path / "o"
    more = [] if result is None else ["--out", out]
    done(command, "signals.py:network", *rest, *OWN, *more)
    assert result is None or (out if command == "report" else out / result).exists()


def test_a_calibration_lies_beside_the_convention(desk, tmp_path):
    words = ["signals.py:network", *OWN, "--n", 2, "--steps", 3, "--method", "ddpm", "--variance", "optimal"]
    refused(invoke("sample", *words, "--out", tmp_path / "s"), "run leapstep calibrate")
    done("calibrate", "signals.py:network", "signals.npy", "--split", "all", "--per-level", 1, *OWN)
    assert (desk / "convention.calibration.json").exists()
    assert (desk / "convention.moments.safetensors").exists()
    assert drawn(*words, out=tmp_path / "s").shape == (2, 1, LENGTH)
    start = ["--n", 2, "--steps", 3, "--start", "gaussian"]
    assert drawn("signals.py:network", *OWN, *start, out=tmp_path / "g").shape == (2, 1, LENGTH)


def test_conditions_come_from_a_file_a_row_a_sample_in_turn(tmp_path):
    own = ["signals.py:of_height", "--convention", "with-height.json"]
    words = [*own, "--condition", "heights.npz", "--n", 7, "--steps", 5, "--batch-size", 3]
    x = drawn(*words, out=tmp_path / "s")
    low = (x.mean((1, 2)) - SHIFT) / SCALE < 0
    assert low.tolist() == [True, False] * 3 + [True]
    assert np.array_equal(x, drawn(*own, "--spec", tmp_path / "s" / "manifest.json", out=tmp_path / "t"))
    np.savez("other.npz", **np.load("heights.npz"))
    other = [*own, "--condition", "other.npz", "--n", 7, "--steps", 2, "--batch-size", 3, "--out", tmp_path / "r"]
    done("sample", *other)
    np.savez("other.npz", height=np.zeros(2, np.float32))
    refused(invoke("sample", *other, "--resume"), "conditions_sha256")
    refused(invoke("sample", *own, "--out", tmp_path / "o"), "height")
    refused(invoke("sample", *words, "--condition", "signals.npy", "--out", tmp_path / "o"), "signals.npy")
    low = np.load("signals.npy") - 5 * SCALE
    np.save(tmp_path / "low.npy", low)
    np.savez(tmp_path / "low.npz", height=np.full(len(low), -5.0, np.float32))
    given = ["--condition", tmp_path / "low.npz", "--split", "all"]
    done(
        "reconstruct",
        *own,
        tmp_path / "low.npy",
        *given,
        "--n",
        3,
        "--steps",
        40,
        "--exact",
        "--out",
        tmp_path / "there",
    )
    [row] = json.loads((tmp_path / "there" / "results.json").read_text())["results"]
    assert row["error"] < 1e-4
    done("likelihood", *own, tmp_path / "low.npy", *given, "--n", 3, "--steps", 3)
    done("calibrate", *own, tmp_path / "low.npy", *given, "--per-level", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["signals.py:network"], ["is a network of your own", "--convention", "leapstep doctor"]),
        (["signals.py", *OWN], ["name the function"]),
        (["signals.py:a_number", *OWN], ["returned int"]),
        (["signals.py:network", "--convention", "signals.npy"], ["signals.npy"]),
        (["signals.py:network", *OWN, "--shape", "3"], [rf"shape \[3\]: convention.json says \[1, {LENGTH}\]"]),
        (["signals.py:network", "--convention", "shapeless.json", "--shape", "0"], ["shape", "at least 1"]),
        (["signals.py:network", "--convention", "shapeless.json", "--shape", "1,7"], [r"shape \[1, 7\]", "signals.py"]),
        (["runs/nothing", *OWN], ["convention is for file.py:function"]),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path, words, said):
    refused(invoke("sample", *words, "--n", 2, "--out", tmp_path / "o"), *said)
