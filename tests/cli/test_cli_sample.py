"""`leapstep sample`: what it draws, keeps and refuses, and how it goes on where it was cut."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import leapstep
from commands import (
    ENVIRONMENT,
    TINY_MLP,
    alike,
    done,
    full_disk,
    invoke,
    pictures,
    process,
    refused,
    tree,
    values,
)
from leapstep.core.sampling import sample_in_batches
from leapstep.data.pictures import grid
from leapstep.inference import engine
from leapstep.inference.spec import SamplingSpec
from leapstep.models import checkpoint


def test_samples_are_pictures_a_grid_and_a_manifest(samples, digits_model):
    assert set(tree(samples)) == {f"{i:05d}.png" for i in range(12)} | {"grid.png", "manifest.json"}
    assert pictures(samples).shape == (12, 8, 8)
    manifest = json.loads((samples / "manifest.json").read_text())
    assert manifest["finished"] == manifest["spec"]["n"] == 12
    assert manifest["spec"]["steps"] == manifest["calls"] == 5
    assert manifest["times"] == leapstep.times(leapstep.load(digits_model).process, 5).tolist()
    assert manifest["weights_sha256"] == checkpoint.fingerprint(leapstep.load(digits_model).network)
    assert manifest["trained_steps"] == 40


def again(folder, model, out):
    """The command that repeats the samples in a folder."""
    return ["sample", model, "--spec", folder / "manifest.json", "--device", "cpu", "--out", out]


@pytest.mark.parametrize(
    "given",
    [
        "--steps 3 --eta 0.5 --label 3 --label 7 --guidance 2 --seed 5 --spacing quad --batch-size 4",
        "--steps 4 --method ddpm --variance beta --spacing karras --dtype bfloat16",
    ],
)
def test_a_manifest_is_enough_to_repeat_the_samples(digits_model, tmp_path, given):
    done("sample", digits_model, "--out", tmp_path / "first", "--n", 6, *given.split())
    done(*again(tmp_path / "first", digits_model, tmp_path / "second"))
    first, second = tree(tmp_path / "first"), tree(tmp_path / "second")
    assert first.pop("manifest.json")
    assert second.pop("manifest.json")
    assert first == second


def test_options_beside_a_specification_replace_what_it_says(point_model, tmp_path):
    asked = SamplingSpec("ddim", {"eta": 0.5}, times=(1.0, 0.5, 0.1), seed=3, n=4, batch_size=2)
    asked.save(tmp_path / "spec.json")
    given = ["sample", point_model, "--spec", tmp_path / "spec.json"]
    for name, more, changes in (
        ("as it is", [], {}),
        ("another seed", ["--seed", 4, "--n", 2], {"seed": 4, "n": 2}),
        ("another method", ["--method", "heun"], {"method": "heun", "options": {}}),
        ("another option", ["--set", "eps=raw"], {"options": {"eta": 0.5, "eps": "raw"}}),
        ("steps", ["--steps", 4], {"times": None, "steps": 4}),
        ("in parts", ["--first", 2, "--n", 2], {"first": 2, "n": 2}),
    ):
        done(*given, *more, "--out", tmp_path / name)
        model = leapstep.load(point_model)
        expected = dataclasses.replace(asked, dtype="float32", **changes).checked(model)  # what auto is for so few
        assert SamplingSpec.read(tmp_path / name / "manifest.json") == expected
        drawn = np.concatenate([engine.values(model, x) for _, x in engine.draw(model, expected)])
        assert np.array_equal(values(tmp_path / name), drawn)
    assert np.array_equal(values(tmp_path / "in parts"), values(tmp_path / "as it is")[2:])
    (tmp_path / "spec.json").write_text('{"metod": "ddim"}')
    refused(invoke(*given, "--out", tmp_path / "o"), "spec.json: unknown key 'metod': did you mean method")


def test_a_real_process_draws_the_same_samples(digits_model, samples, tmp_path):
    code, out, err = process(*again(samples, digits_model, tmp_path / "again"))
    assert code == 0, err
    assert "12 samples in" in out
    assert "5 network calls each" in out
    assert str(tmp_path / "again" / "grid.png") in out
    assert "\x1b" not in out
    assert np.array_equal(pictures(samples), pictures(tmp_path / "again"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")
def test_a_real_terminal_shows_the_samples_within_its_width(digits_model, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 50, 0, 0))
    hidden = ("NO_COLOR", "COLUMNS", "LINES", "TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "COLORTERM")
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in hidden}
    command = [
        sys.executable,
        "-m",
        "leapstep",
        "sample",
        digits_model,
        "--n",
        "7",
        "--steps",
        "2",
        "--out",
        tmp_path / "s",
    ]
    running = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment | {"TERM": "xterm"})
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while part := os.read(ours, 65536):
            said += part
    os.close(ours)
    assert running.wait() == 0
    lines = said.decode().splitlines()
    shown = [line for line in lines if "▀" in line]
    assert [line.count("▀") for line in shown] == [4 * 9 + 1] * 10  # rows of four and three pictures of 8x8, framed
    assert all(re.fullmatch(r"(\x1b\[38;5;\d+;4(8;5;\d+|9)m▀+)+\x1b\[0m", line) for line in shown)
    assert str(tmp_path / "s" / "grid.png") in lines[-1]


def test_the_grid_has_a_column_for_each_label(digits_model, tmp_path):
    labels = [part for label in range(5) for part in ("--label", label)]
    done("sample", digits_model, "--out", tmp_path / "s", "--n", 12, "--steps", 2, *labels)
    expected = grid(pictures(tmp_path / "s")[:, None].astype(np.uint8), columns=5)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "s" / "grid.png")), np.asarray(expected))


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_batch_size_does_not_change_the_samples(digits_model, samples, tmp_path, batch_size):
    done("sample", digits_model, "--out", tmp_path / "s", "--n", 12, "--steps", 5, "--batch-size", batch_size)
    assert alike(pictures(tmp_path / "s"), pictures(samples))


def test_a_sample_does_not_depend_on_how_many_there_are(digits_model, samples, tmp_path):
    done("sample", digits_model, "--out", tmp_path / "s", "--n", 3, "--steps", 5)
    assert alike(pictures(tmp_path / "s"), pictures(samples)[:3])


def test_the_start_noise_is_shared_by_methods(digits_model, tmp_path):
    """One step of any deterministic-mean method is the x0 estimate from the same start noise."""
    for method in ("ddim", "ddpm"):
        done("sample", digits_model, "--out", tmp_path / method, "--n", 3, "--steps", 1, "--method", method)
    assert np.array_equal(pictures(tmp_path / "ddim"), pictures(tmp_path / "ddpm"))


def test_npz_of_pictures(digits_model, samples, tmp_path):
    given = ["--n", 12, "--steps", 5, "--format", "npz"]
    done("sample", digits_model, "--out", tmp_path / "plain", *given)
    done("sample", digits_model, "--out", tmp_path / "labelled", *given, "--label", 4, "--label", 2)
    assert set(tree(tmp_path / "plain")) == {"samples.npz", "grid.png", "manifest.json"}
    with np.load(tmp_path / "plain" / "samples.npz") as arrays:
        assert list(arrays) == ["samples"]
        assert arrays["samples"].dtype == np.uint8
        assert np.array_equal(arrays["samples"][:, 0], pictures(samples))
    with np.load(tmp_path / "labelled" / "samples.npz") as arrays:
        assert arrays["labels"].tolist() == [4, 2] * 6


def test_arrays_come_back_in_their_own_units(point_model, tmp_path):
    done("sample", point_model, "--out", tmp_path / "s", "--n", 1000, "--batch-size", 1000)
    assert set(tree(tmp_path / "s")) == {"samples.npz", "manifest.json"}
    x = values(tmp_path / "s")
    assert x.shape == (1000, 2)
    assert abs(x.mean(0) - 100).max() < 1
    assert abs(x.std(0) - 26**0.5).max() < 1
    assert np.corrcoef(x.T)[0, 1] < -0.9  # and the structure is learned: 24/26 of the variance lies on one line


def test_arrays_are_not_pictures(point_model, tmp_path):
    refused(invoke("sample", point_model, "--out", tmp_path / "s", "--format", "png"), "--format png", "npz")
    assert not (tmp_path / "s").exists()


def test_samples_can_be_trained_on(digits_model, tmp_path):
    """The npz that one command writes, the other one reads, labels and all."""
    done(
        "sample",
        digits_model,
        "--out",
        tmp_path / "s",
        "--n",
        6,
        "--steps",
        2,
        "--format",
        "npz",
        "--label",
        0,
        "--label",
        1,
    )
    args = ["--network", "mlp", "--labels", "--steps", 1, *TINY_MLP]
    path = tmp_path / "s" / "samples.npz"
    done("train", path, "--out", tmp_path / "run", *args)
    assert json.loads((tmp_path / "run" / "leapstep.json").read_text())["data"]["classes"] == ["0", "1"]


# --- labels and guidance -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def animals(place):
    """A folder of pictures in two classes: cats are dark, dogs are bright."""
    rng = np.random.default_rng(0)
    for name, low in (("cat", 0), ("dog", 180)):
        (place / "animals" / name).mkdir(parents=True)
        for i in range(16):
            Image.fromarray(rng.integers(low, low + 70, (8, 8), np.uint8)).save(place / "animals" / name / f"{i}.png")
    return place / "animals"


@pytest.fixture(scope="session")
def animal_model(place, animals, settings):
    args = ["--preset", "digits", "--config", settings, "--steps", 60, "--device", "cpu"]
    done("train", animals, "--out", place / "animal-run", *args)
    return place / "animal-run"


def labels_of(folder):
    return json.loads((folder / "manifest.json").read_text())["spec"]["labels"]


def test_a_class_is_named_or_numbered_and_several_take_turns(animal_model, tmp_path):
    given = ["sample", animal_model, "--n", 5, "--steps", 3, "--out"]
    done(*given, tmp_path / "name", "--label", "dog")
    done(*given, tmp_path / "number", "--label", 1)
    done(*given, tmp_path / "turns", "--label", "dog", "--label", "cat", "--label", "dog")
    assert labels_of(tmp_path / "name") == labels_of(tmp_path / "number") == [1]
    assert labels_of(tmp_path / "turns") == [1, 0, 1]
    dogs, turns = pictures(tmp_path / "name"), pictures(tmp_path / "turns")
    assert np.array_equal(dogs, pictures(tmp_path / "number"))
    assert alike(turns[[0, 2, 3]], dogs[[0, 2, 3]])
    assert not alike(turns[[1, 4]], dogs[[1, 4]])


def test_a_class_that_is_nearly_right_is_guessed(animal_model, tmp_path):
    given = ["sample", animal_model, "--n", 5, "--out", tmp_path / "s", "--label"]
    refused(invoke(*given, "dgo"), "--label dgo: did you mean dog")
    refused(invoke(*given, "7"), "--label 7: use one of cat, dog")


def test_a_label_makes_samples_of_its_class(animal_model, tmp_path):
    for name in ("cat", "dog"):
        args = ["--n", 16, "--steps", 10, "--guidance", 2, "--label", name]
        done("sample", animal_model, "--out", tmp_path / name, *args)
    assert pictures(tmp_path / "cat").mean() < pictures(tmp_path / "dog").mean()


def test_guidance_changes_samples(digits_model, tmp_path):
    for scale in (1, 3):
        args = ["--n", 4, "--steps", 5, "--label", 3, "--guidance", scale]
        done("sample", digits_model, "--out", tmp_path / str(scale), *args)
    assert not alike(pictures(tmp_path / "1"), pictures(tmp_path / "3"))


def test_info_names_the_classes(animal_model):
    assert "cat, dog" in done("info", animal_model).stdout


# --- every option of sample does something -------------------------------------------------------------------------

BASE = {"steps": 6, "method": "ddim"}


@pytest.mark.parametrize(
    ("changed", "base"),
    [
        ({"eta": 1}, {}),
        ({"eta": 0.5}, {"eta": 1}),
        ({"method": "ddpm"}, {}),
        ({"variance": "beta"}, {"method": "ddpm"}),
        ({"variance": "none"}, {"method": "ddpm"}),
        ({"seed": 1}, {}),
        ({"steps": 7}, {}),
        *(({"spacing": name}, {}) for name in leapstep.SPACINGS if name != "trailing"),
        ({"spacing": "karras"}, {"spacing": "log_snr"}),
        ({"spacing": "leading"}, {"spacing": "quad"}),
    ],
    ids=str,
)
def test_an_option_changes_the_samples(point_model, tmp_path, changed, base):
    for name, options in (("before", BASE | base), ("after", BASE | base | changed)):
        args = [part for key, value in options.items() for part in (f"--{key}", value)]
        done("sample", point_model, "--out", tmp_path / name, "--n", 8, *args)
    before, after = values(tmp_path / "before"), values(tmp_path / "after")
    assert np.isfinite(after).all()
    assert (abs(before - after).max(1) > 1e-3).all()


@pytest.mark.parametrize(
    ("explicit", "implied"),
    [
        ({"eta": 0}, {}),
        ({"spacing": "trailing"}, {}),
        ({"method": "ddpm"}, {"eta": 1}),
        ({"method": "ddpm", "variance": "posterior"}, {"method": "ddpm"}),
        ({"seed": 0, "guidance": 1, "dtype": "float32", "device": "cpu", "format": "npz"}, {}),
    ],
    ids=str,
)
def test_defaults_are_what_the_help_says(point_model, tmp_path, explicit, implied):
    for name, options in (("explicit", BASE | explicit), ("implied", BASE | implied)):
        args = [part for key, value in options.items() for part in (f"--{key}", value)]
        done("sample", point_model, "--out", tmp_path / name, "--n", 4, *args)
    assert np.allclose(values(tmp_path / "explicit"), values(tmp_path / "implied"), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 2.0), ("float64", 1e-2)])
def test_the_dtype_of_the_network_changes_the_last_digits(point_model, tmp_path, dtype, near):
    for name in ("float32", dtype):
        done("sample", point_model, "--out", tmp_path / name, "--n", 50, "--steps", 10, "--dtype", name)
    exact, other = values(tmp_path / "float32"), values(tmp_path / dtype)
    assert not np.array_equal(exact, other)
    assert np.median(abs(exact - other)) < near / 10
    assert abs(exact - other).max() < near
    assert json.loads((tmp_path / dtype / "manifest.json").read_text())["spec"]["dtype"] == dtype


def test_float64_is_float64_all_the_way(point_model, tmp_path):
    done("sample", point_model, "--out", tmp_path / "s", "--n", 4, "--steps", 2, "--dtype", "float64")
    scaling = leapstep.load(point_model).scaling
    x = (values(tmp_path / "s") - scaling.shift) / scaling.scale
    assert abs(x - x.astype(np.float32)).max() > 1e-10  # more digits than float32 has, beyond rounding of the scaling


# --- sample goes on ------------------------------------------------------------------------------------------------

RESUMED = {
    "pictures": ("digits_model", ["--label", "3", "--label", "5", "--method", "ddpm", "--set", "variance=beta"], 13),
    "arrays of pictures": ("digits_model", ["--format", "npz", "--label", "3"], 10),
    "arrays": ("point_model", ["--method", "rk23"], 10),
}


def drawing(out):
    """What a folder of samples holds, but for how long it took."""
    found = tree(out)
    manifest = json.loads(found.pop("manifest.json"))
    return found, {name: value for name, value in manifest.items() if name != "seconds"}


@pytest.fixture(scope="session", params=RESUMED)
def undisturbed(request, place):
    """A drawing of three batches, of which the last is smaller; how often it writes; and what it leaves."""
    source, more, writes = RESUMED[request.param]
    out = place / request.param
    args = ["sample", request.getfixturevalue(source), "--n", 8, "--batch-size", 3, "--steps", 2, "--seed", 5, *more]
    done(*args, "--out", out)
    return args, writes, drawing(out)


def test_a_drawing_that_was_cut_anywhere_goes_on_to_the_same_bits(undisturbed, tmp_path, monkeypatch):
    """After every single write the disk is full, and then it has room again."""
    args, writes, whole = undisturbed
    for after in range(1, writes):
        out = tmp_path / str(after)
        with monkeypatch.context() as patch:
            full_disk(patch, after)
            refused(invoke(*args, "--out", out), "No space left on device")
        refused(invoke(*args, "--out", out), "--resume it, --overwrite it, or name another folder")
        done(*args, "--out", out, "--resume")
        assert drawing(out) == whole


def test_a_stop_tells_how_many_samples_there_are_and_only_what_is_missing_is_drawn(undisturbed, tmp_path, monkeypatch):
    args, _, whole = undisturbed
    out, real, drawn = tmp_path / "s", sample_in_batches, []

    def some(*given, stop=True, **options):
        for rows, x in real(*given, **options):
            drawn.append(rows)
            if stop and rows.start == 3:
                raise KeyboardInterrupt
            yield rows, x

    with monkeypatch.context() as patch:
        patch.setattr(engine, "sample_in_batches", some)
        stopped = invoke(*args, "--out", out)
    assert stopped.exit_code == 130
    assert stopped.stderr == f"leapstep: stopped; 3 of 8 samples are kept in {out}: go on with --resume\n"
    assert json.loads((out / "manifest.json").read_text())["finished"] == 3
    for option, name in (
        (["--seed", 6], "seed 5, not 6"),
        (["--n", 9], "n 8, not 9"),
        (["--steps", 1], "steps 2, not 1"),
    ):
        refused(invoke(*args, *option, "--out", out, "--resume"), name)
    refused(invoke(*args, "--out", out, "--resume", "--overwrite"), "exclude each other")
    drawn.clear()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "sample_in_batches", functools.partial(some, stop=False))
        done(*args, "--out", out, "--resume")
        assert drawn == [range(3, 6), range(6, 8)]
        assert drawing(out) == whole
        done(*args, "--out", out, "--resume")  # of a whole one nothing is missing
        assert len(drawn) == 2
    assert drawing(out) == whole


def test_a_stop_before_the_first_sample_promises_nothing(digits_model, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "sample_in_batches", stop)
    assert invoke("sample", digits_model, "--out", tmp_path / "s").stderr == "leapstep: stopped\n"


def test_to_go_on_where_nothing_is_begins(digits_model, tmp_path):
    done("sample", digits_model, "--out", tmp_path / "s", "--n", 1, "--steps", 1, "--resume")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused(invoke("sample", digits_model, "--out", tmp_path / "mine", "--resume"), "holds something else")
    (tmp_path / "s" / "manifest.json").write_text("[]")
    refused(invoke("sample", digits_model, "--out", tmp_path / "s", "--n", 1, "--resume"), "samples with .* null, not")


def test_overwrite_replaces_earlier_samples(digits_model, kept):
    refused(invoke("sample", digits_model, "--out", kept, "--n", 2), "not empty", "--overwrite")
    done("sample", digits_model, "--out", kept, "--n", 2, "--steps", 2, "--overwrite")
    assert set(tree(kept)) == {"00000.png", "00001.png", "grid.png", "manifest.json"}


def test_an_empty_folder_needs_no_overwrite(digits_model, tmp_path):
    (tmp_path / "s").mkdir()
    done("sample", digits_model, "--out", tmp_path / "s", "--n", 1, "--steps", 1)


def test_folders_above_are_made(digits_model, tmp_path):
    done("sample", digits_model, "--out", tmp_path / "a" / "b c" / "s", "--n", 1, "--steps", 1)
    assert (tmp_path / "a" / "b c" / "s" / "00000.png").exists()


# --- what sample refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--steps 0", ["--steps 0", "at least 1"]),
        ("--steps -3", ["--steps -3"]),
        ("--steps 1001", ["steps=1001", "1000"]),
        ("--eta 1.5", ["eta=1.5", "between 0", "1"]),
        ("--eta -0.1", ["eta=-0.1"]),
        ("--eta nan", ["eta=nan"]),
        ("--spacing even", ["--spacing even: use one of", "trailing", "karras"]),
        ("--method newton", ["--method newton", "ddim, ddpm"]),
        ("--method ddpm --variance large", ["variance='large'", "posterior, beta, none, learned or optimal"]),
        ("--method ddpm --eta 1", ["eta does not apply to method ddpm", r"variance \(default posterior\)"]),
        ("--variance beta", ["variance='beta'", "eta or optimal"]),
        ("--dtype float16", ["--dtype float16", "float32, bfloat16 or float64"]),
        ("--device tpu", ["--device tpu", "cpu"]),
        ("--format jpg", ["--format jpg", "png or npz"]),
        ("--label 10", ["--label 10", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"]),
        ("--label eleven", ["--label eleven", "0, 1, 2"]),
        ("--label -1", ["--label -1"]),
        ("--guidance 2", ["guidance=2", "label"]),
        ("--label 1 --guidance nan", ["guidance"]),
        ("--device cpu:x", ["cpu:x"]),
        ("--n 0", ["--n 0: must be at least 1"]),
        ("--n -5", ["--n -5"]),
        ("--batch-size 0", ["--batch-size 0: must be at least 1"]),
        ("--seed -1", ["--seed -1"]),
        (f"--seed {2**64}", ["--seed", "2\\^64"]),
    ],
)
def test_sample_refuses_and_leaves_earlier_samples_alone(digits_model, kept, given, words):
    before = tree(kept)
    result = invoke("sample", digits_model, "--out", kept, "--overwrite", *given.split())
    refused(result, *words)
    assert tree(kept) == before


def test_a_refused_command_makes_no_folder(digits_model, tmp_path):
    refused(invoke("sample", digits_model, "--out", tmp_path / "s", "--n", 0))
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there(digits_model, tmp_path):
    refused(invoke("sample", digits_model, "--out", tmp_path / "s", "--device", "cuda"), "--device cuda", "cpu")
    refused(invoke("sample", digits_model, "--out", tmp_path / "s", "--device", "cuda:1"), "--device cuda:1", "cpu")
    assert not (tmp_path / "s").exists()


def test_a_label_for_a_model_without(point_model, tmp_path):
    refused(invoke("sample", point_model, "--out", tmp_path / "s", "--label", 1), "--label", "without labels")


def test_a_network_trained_on_labels_alone_needs_one(settings, tmp_path):
    args = ["--config", settings, "--label-dropout", 0, "--steps", 1, "--device", "cpu"]
    done("train", "digits", "--out", tmp_path / "run", *args)
    args = ["sample", tmp_path / "run", "--out", tmp_path / "s"]
    refused(invoke(*args), "label", "0 to 9")
    refused(invoke(*args, "--label", 1, "--guidance", 2), "guidance", "label_dropout")
    done(*args, "--label", 1, "--n", 1, "--steps", 1)


def test_out_that_is_a_file_or_below_one(digits_model, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(invoke("sample", digits_model, "--out", out), "file", "name")
        refused(invoke("train", "digits", "--out", out), "file", "name")
        refused(invoke("demo", "--out", out), "file", "name")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["sample", "train", "demo"])
def test_a_folder_that_is_not_ours_is_never_emptied(digits_model, tmp_path, command):
    (tmp_path / "thesis.tex").write_text("years of work")
    first = {"sample": ["sample", digits_model], "train": ["train", "digits"], "demo": ["demo"]}[command]
    refused(invoke(*first, "--out", tmp_path), "not empty")
    refused(invoke(*first, "--out", tmp_path, "--overwrite"), "another folder")
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(("command", "mark"), [("sample", "manifest.json"), ("demo", "results.json")])
def test_another_programs_file_of_the_same_name_does_not_make_a_folder_ours(
    digits_model, tmp_path, monkeypatch, command, mark
):
    (tmp_path / mark).write_text('{"name": "my web page", "short_name": "page", "start_url": "."}')
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    monkeypatch.setattr("leapstep.training.train", lambda *_, **__: pytest.fail("it goes on as if nothing were there"))
    first = ["sample", digits_model, "--n", 1, "--steps", 1] if command == "sample" else ["demo"]
    refused(invoke(*first, "--out", tmp_path, "--overwrite"), "another folder")
    assert tree(tmp_path) == before


def test_overwrite_keeps_files_that_sample_did_not_make(digits_model, kept):
    (kept / "notes.txt").write_text("mine")
    invoke("sample", digits_model, "--out", kept, "--n", 1, "--steps", 1, "--overwrite")
    assert (kept / "notes.txt").read_text() == "mine"


def test_the_model_itself_is_not_overwritten_by_its_samples(run):
    before = tree(run)
    refused(invoke("sample", run, "--out", run, "--overwrite"), "holds something else", "another folder")
    assert tree(run) == before


@pytest.mark.parametrize(("method", "calls"), [("ddim", 4), ("dpmpp_2m", 4), ("dpmpp_2s", 7), ("heun", 6), ("rk4", 10)])
def test_every_method_samples_and_counts_its_calls(digits_model, tmp_path, method, calls):
    """On `cosine` the first step of four is no step for a solver in sigma / alpha, and the last one never is."""
    said = done("sample", digits_model, "--out", tmp_path / "s", "--n", 2, "--steps", 4, "--method", method).stdout
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["calls"] == calls
    assert f"{calls} network calls" in said


def test_help_names_every_method_and_spacing():
    said = " ".join(done("sample", "--help").stdout.replace("│", " ").split())
    assert " | ".join(leapstep.TRANSITIONS) in said
    assert " | ".join(leapstep.SPACINGS) in said
