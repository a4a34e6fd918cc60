"""The command line as a user meets it.

Exit codes, signals and whole runs go through real processes; the many kinds of bad input run in this process, since
each new process takes seconds to import torch.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import leapstep
from commands import done, full_disk, invoke, refused, tree
from leapstep.data.pictures import grid
from leapstep.models import checkpoint
from leapstep.training.configuration import TrainingConfig
from leapstep.views.report import EXTENTS, Settings

COMMANDS = ["train", "sample", "calibrate", "likelihood", "reconstruct", "interpolate", "trace", "info", "demo"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
SETTINGS = """
channels: 8,8
attention: [0, 1]
blocks: 1
groups: 4
labels: true
steps: 40
batch_size: 32
learning_rate: 3e-3
warmup: 0
ema_decay: 0
precision: float32
"""
TINY_MLP = "--width 16 --depth 1 --batch-size 8 --precision float32 --device cpu".split()  # noqa: SIM905


needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")


def start(*args, cwd=None, **environment):
    """A real process, in which Ctrl-C works even where the tests run in the background."""
    listen = None if os.name == "nt" else functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-m", "leapstep", *map(str, args)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT | environment,
        preexec_fn=listen,
    )


def process(*args, cwd=None, **environment):
    """Run to the end: exit code, stdout, stderr."""
    running = start(*args, cwd=cwd, **environment)
    out, err = running.communicate(timeout=120)
    return running.returncode, out, err


def pictures(folder):
    """The single pictures that were sampled, int [n, h, w]."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("[0-9]*.png"))]).astype(int)


def values(folder):
    return np.load(Path(folder) / "samples.npz")["samples"].astype(float)


def alike(a, b):
    """The same pictures: another batch size may change the last bit of a sum, so a pixel may round to its neighbour."""
    return a.shape == b.shape and abs(a - b).max() <= 1 and (a != b).mean() < 0.01


def wait_for(condition, running, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _own_accelerator():
    """accelerate keeps its first settings for a whole process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def settings(place):
    path = place / "settings.yaml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="session")
def trained(place, settings):
    """What a real process said, and the run that it left."""
    said = process("train", "digits", "--out", place / "digits", "--config", settings)
    return said, place / "digits"


@pytest.fixture(scope="session")
def model(trained):
    (code, _, err), run = trained
    assert code == 0, err
    return run


@pytest.fixture(scope="session")
def samples(place, model):
    """Twelve samples with the default settings."""
    done("sample", model, "--out", place / "samples", "--n", 12, "--steps", 5, "--device", "cpu")
    return place / "samples"


@pytest.fixture(scope="session")
def signals(place):
    """An array of points in units of its own, with a structure that a network can learn."""
    path = place / "signals.npy"
    rng = np.random.default_rng(0)
    np.save(path, 100 + 5 * np.sign(rng.normal(size=(1000, 1))) * np.array([[1.0, -1.0]]) + rng.normal(size=(1000, 2)))
    return path


@pytest.fixture(scope="session")
def point_model(place, signals):
    """An MLP that has learned the array, without labels."""
    settings = "--steps 400 --width 32 --depth 1 --batch-size 256 --learning-rate 5e-3 --warmup 0 --ema-decay 0.95"
    fixed = "--precision float32 --device cpu --schedule cosine --predicts v"
    done("train", signals, "--out", place / "points", *settings.split(), *fixed.split())
    return place / "points"


@pytest.fixture
def kept(samples, tmp_path):
    """A copy of earlier samples, which a refused command must leave as they are."""
    return Path(shutil.copytree(samples, tmp_path / "kept"))


@pytest.fixture
def run(model, tmp_path):
    """A copy of the trained model, to break."""
    return Path(shutil.copytree(model, tmp_path / "run"))


# --- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_describes_every_option(command):
    text = done(command, "--help").stdout
    examples = text.partition("Examples")[2]
    assert f"leapstep {command}" in examples
    for line in text.splitlines():
        assert not re.match(r"│ \*? *--\S+ +(--\S+ +)?<\w+> *│", line), f"no description: {line}"


def test_help_names_the_commands_and_where_to_start():
    text = done("--help").stdout
    for word in (*COMMANDS, "Start with: leapstep demo"):
        assert word in text


def test_version():
    assert done("--version").stdout.strip() == f"leapstep {leapstep.__version__}"


def test_the_installed_command():
    script = Path(sys.executable).with_name("leapstep")
    if not script.exists():
        pytest.skip("leapstep is not installed as a command here")
    made = subprocess.run([script, "--version"], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert made.stdout.strip() == f"leapstep {leapstep.__version__}"


@pytest.mark.parametrize("args", [["sample"], ["sample", "m"], ["sample", "m", "--out", "x", "--n", "many"], ["dream"]])
def test_a_command_line_that_cannot_be_parsed_is_a_usage_error(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_train_has_an_option_with_a_description_for_every_setting():
    text = " ".join(re.sub(r"[│\s]+", " ", done("train", "--help").stdout).split())
    for name, field in TrainingConfig.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert field.description[:25] in text, name


def test_lists_are_given_with_commas_on_the_command_line(tmp_path):
    given = "--channels 8,16 --attention 0,1 --groups 4 --blocks 1 --steps 1 --batch-size 4 --precision float32"
    done("train", "digits", "--out", tmp_path / "run", *given.split(), "--device", "cpu")
    training = json.loads((tmp_path / "run" / "leapstep.json").read_text())["training"]
    assert training["channels"] == [8, 16]
    assert training["attention"] == [False, True]


# --- train, info, sample -------------------------------------------------------------------------------------------


def test_training_makes_a_run_folder_and_says_what_comes_next(trained):
    (code, out, err), run = trained
    assert code == 0, err
    assert str(run) in out
    assert f"leapstep sample {run}" in out
    assert "Traceback" not in err
    assert "Warning" not in err
    there = set(tree(run))
    assert there >= {
        "model_index.json",
        "leapstep.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "state/step-00000040.safetensors",
        "samples/step-00000040.png",
        "samples/strip.png",
    }
    assert any(name.startswith("log/") for name in there)
    details = json.loads((run / "leapstep.json").read_text())
    assert details["step"] == 40
    assert details["training"]["learning_rate"] == 3e-3  # YAML that reads 3e-3 as a string is a well-known trap
    assert details["training"]["schedule"] == "cosine"  # of the preset that digits data implies


def test_info_in_words(model):
    out = done("info", model).stdout
    for word in ("UNet", "1442 samples of digits", "noise levels    1000", "eps", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        assert word in out
    assert "None" not in out


def test_info_as_json(model):
    facts = json.loads(done("info", model, "--json").stdout)
    network = leapstep.load(model).network
    assert facts["weights"] == sum(parameter.numel() for parameter in network.parameters())
    assert facts["weights_sha256"] == checkpoint.fingerprint(network)
    assert facts["sample_shape"] == [1, 8, 8]
    assert facts["trained_steps"] == 40
    assert facts["noise_levels"] == 1000
    assert facts["training"]["batch_size"] == 32


def test_info_as_json_has_lists_where_there_are_lists(model):
    facts = json.loads(done("info", model, "--json").stdout)
    assert facts["classes"] == list("0123456789")
    assert facts["clip"] == [-1.0, 1.0]


def test_info_of_a_model_of_arrays(point_model):
    out = done("info", point_model).stdout
    for word in ("MLP", "1000 samples of", "[2]"):
        assert word in out


def test_samples_are_pictures_a_grid_and_a_manifest(samples, model):
    assert set(tree(samples)) == {f"{i:05d}.png" for i in range(12)} | {"grid.png", "manifest.json"}
    assert pictures(samples).shape == (12, 8, 8)
    manifest = json.loads((samples / "manifest.json").read_text())
    assert manifest["finished"] == manifest["n"] == 12
    assert manifest["steps"] == manifest["calls"] == 5
    assert manifest["times"] == leapstep.times(leapstep.load(model).process, 5).tolist()
    assert manifest["weights_sha256"] == checkpoint.fingerprint(leapstep.load(model).network)
    assert manifest["trained_steps"] == 40


def again(manifest, out):
    """The command that the values in a manifest stand for."""
    args = ["sample", manifest["model"], "--out", out]
    for name in ("n", "steps", "method", "eta", "variance", "spacing", "seed", "guidance", "batch_size", "device"):
        if manifest.get(name) is not None:
            args += [f"--{name.replace('_', '-')}", manifest[name]]
    for label in manifest["labels"] or ():
        args += ["--label", label]
    return [*args, "--dtype", manifest["dtype"]]


@pytest.mark.parametrize(
    "given",
    [
        "--steps 3 --eta 0.5 --label 3 --label 7 --guidance 2 --seed 5 --spacing quad --batch-size 4",
        "--steps 4 --method ddpm --variance beta --spacing karras --dtype bfloat16",
    ],
)
def test_a_manifest_is_enough_to_repeat_the_samples(model, tmp_path, given):
    done("sample", model, "--out", tmp_path / "first", "--n", 6, *given.split())
    done(*again(json.loads((tmp_path / "first" / "manifest.json").read_text()), tmp_path / "second"))
    first, second = tree(tmp_path / "first"), tree(tmp_path / "second")
    assert first.pop("manifest.json")
    assert second.pop("manifest.json")
    assert first == second


def test_a_real_process_draws_the_same_samples(samples, tmp_path):
    manifest = json.loads((samples / "manifest.json").read_text())
    code, out, err = process(*again(manifest, tmp_path / "again"))
    assert code == 0, err
    assert "12 samples in" in out
    assert "5 network calls each" in out
    assert str(tmp_path / "again" / "grid.png") in out
    assert "\x1b" not in out
    assert np.array_equal(pictures(samples), pictures(tmp_path / "again"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")
def test_a_real_terminal_shows_the_samples_within_its_width(model, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 50, 0, 0))
    hidden = ("NO_COLOR", "COLUMNS", "LINES", "TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "COLORTERM")
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in hidden}
    command = [sys.executable, "-m", "leapstep", "sample", model, "--n", "7", "--steps", "2", "--out", tmp_path / "s"]
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


def test_the_grid_has_a_column_for_each_label(model, tmp_path):
    labels = [part for label in range(5) for part in ("--label", label)]
    done("sample", model, "--out", tmp_path / "s", "--n", 12, "--steps", 2, *labels)
    expected = grid(pictures(tmp_path / "s")[:, None].astype(np.uint8), columns=5)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "s" / "grid.png")), np.asarray(expected))


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_batch_size_does_not_change_the_samples(model, samples, tmp_path, batch_size):
    done("sample", model, "--out", tmp_path / "s", "--n", 12, "--steps", 5, "--batch-size", batch_size)
    assert alike(pictures(tmp_path / "s"), pictures(samples))


def test_a_sample_does_not_depend_on_how_many_there_are(model, samples, tmp_path):
    done("sample", model, "--out", tmp_path / "s", "--n", 3, "--steps", 5)
    assert alike(pictures(tmp_path / "s"), pictures(samples)[:3])


def test_the_start_noise_is_shared_by_methods(model, tmp_path):
    """One step of any deterministic-mean method is the x0 estimate from the same start noise."""
    for method in ("ddim", "ddpm"):
        done("sample", model, "--out", tmp_path / method, "--n", 3, "--steps", 1, "--method", method)
    assert np.array_equal(pictures(tmp_path / "ddim"), pictures(tmp_path / "ddpm"))


def test_npz_of_pictures(model, samples, tmp_path):
    given = ["--n", 12, "--steps", 5, "--format", "npz"]
    done("sample", model, "--out", tmp_path / "plain", *given)
    done("sample", model, "--out", tmp_path / "labelled", *given, "--label", 4, "--label", 2)
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


def test_samples_can_be_trained_on(model, tmp_path):
    """The npz that one command writes, the other one reads, labels and all."""
    done(
        "sample", model, "--out", tmp_path / "s", "--n", 6, "--steps", 2, "--format", "npz", "--label", 0, "--label", 1
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
    return json.loads((folder / "manifest.json").read_text())["labels"]


def test_a_class_is_named_or_numbered_and_several_take_turns(animal_model, tmp_path):
    given = ["sample", animal_model, "--n", 5, "--steps", 3, "--out"]
    done(*given, tmp_path / "name", "--label", "dog")
    done(*given, tmp_path / "number", "--label", 1)
    done(*given, tmp_path / "turns", "--label", "dog", "--label", "cat", "--label", "dog")
    assert labels_of(tmp_path / "name") == labels_of(tmp_path / "number") == [1] * 5
    assert labels_of(tmp_path / "turns") == [1, 0, 1, 1, 0]
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


def test_guidance_changes_samples(model, tmp_path):
    for scale in (1, 3):
        args = ["--n", 4, "--steps", 5, "--label", 3, "--guidance", scale]
        done("sample", model, "--out", tmp_path / str(scale), *args)
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
    assert json.loads((tmp_path / dtype / "manifest.json").read_text())["dtype"] == dtype


def test_float64_is_float64_all_the_way(point_model, tmp_path):
    done("sample", point_model, "--out", tmp_path / "s", "--n", 4, "--steps", 2, "--dtype", "float64")
    scaling = leapstep.load(point_model).scaling
    x = (values(tmp_path / "s") - scaling.shift) / scaling.scale
    assert abs(x - x.astype(np.float32)).max() > 1e-10  # more digits than float32 has, beyond rounding of the scaling


# --- sample goes on ------------------------------------------------------------------------------------------------

RESUMED = {
    "pictures": ("model", ["--label", "3", "--label", "5", "--method", "ddpm", "--set", "variance=beta"], 13),
    "arrays of pictures": ("model", ["--format", "npz", "--label", "3"], 10),
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
    out, real, drawn = tmp_path / "s", leapstep.sample_in_batches, []

    def some(*given, stop=True, **options):
        for rows, x in real(*given, **options):
            drawn.append(rows)
            if stop and rows.start == 3:
                raise KeyboardInterrupt
            yield rows, x

    with monkeypatch.context() as patch:
        patch.setattr(leapstep, "sample_in_batches", some)
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
        patch.setattr(leapstep, "sample_in_batches", functools.partial(some, stop=False))
        done(*args, "--out", out, "--resume")
        assert drawn == [range(3, 6), range(6, 8)]
        assert drawing(out) == whole
        done(*args, "--out", out, "--resume")  # of a whole one nothing is missing
        assert len(drawn) == 2
    assert drawing(out) == whole


def test_a_stop_before_the_first_sample_promises_nothing(model, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(leapstep, "sample_in_batches", stop)
    assert invoke("sample", model, "--out", tmp_path / "s").stderr == "leapstep: stopped\n"


def test_to_go_on_where_nothing_is_begins(model, tmp_path):
    done("sample", model, "--out", tmp_path / "s", "--n", 1, "--steps", 1, "--resume")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused(invoke("sample", model, "--out", tmp_path / "mine", "--resume"), "holds something else")
    (tmp_path / "s" / "manifest.json").write_text("[]")
    refused(invoke("sample", model, "--out", tmp_path / "s", "--n", 1, "--resume"), "samples with .* null, not")


def test_overwrite_replaces_earlier_samples(model, kept):
    refused(invoke("sample", model, "--out", kept, "--n", 2), "not empty", "--overwrite")
    done("sample", model, "--out", kept, "--n", 2, "--steps", 2, "--overwrite")
    assert set(tree(kept)) == {"00000.png", "00001.png", "grid.png", "manifest.json"}


def test_an_empty_folder_needs_no_overwrite(model, tmp_path):
    (tmp_path / "s").mkdir()
    done("sample", model, "--out", tmp_path / "s", "--n", 1, "--steps", 1)


def test_folders_above_are_made(model, tmp_path):
    done("sample", model, "--out", tmp_path / "a" / "b c" / "s", "--n", 1, "--steps", 1)
    assert (tmp_path / "a" / "b c" / "s" / "00000.png").exists()


# --- what sample refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--steps 0", ["steps=0", "at least 1"]),
        ("--steps -3", ["steps=-3"]),
        ("--steps 1001", ["steps=1001", "1000"]),
        ("--eta 1.5", ["eta=1.5", "between 0", "1"]),
        ("--eta -0.1", ["eta=-0.1"]),
        ("--eta nan", ["eta=nan"]),
        ("--spacing even", ["spacing 'even'", "trailing", "karras"]),
        ("--method euler", ["--method euler", "ddim, ddpm"]),
        ("--method ddpm --variance large", ["variance='large'", "posterior, beta, none, learned or optimal"]),
        ("--method ddpm --eta 1", ["eta does not apply to --method ddpm", r"variance \(default posterior\)"]),
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
        ("--n 0", ["n=0", "at least 1"]),
        ("--n -5", ["n=-5"]),
        ("--batch-size 0", ["batch_size=0", "at least 1"]),
        ("--seed -1", ["seed=-1"]),
        (f"--seed {2**64}", ["seed=", "2\\^64"]),
    ],
)
def test_sample_refuses_and_leaves_earlier_samples_alone(model, kept, given, words):
    before = tree(kept)
    result = invoke("sample", model, "--out", kept, "--overwrite", *given.split())
    refused(result, *words)
    assert tree(kept) == before


def test_a_refused_command_makes_no_folder(model, tmp_path):
    refused(invoke("sample", model, "--out", tmp_path / "s", "--n", 0))
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there(model, tmp_path):
    refused(invoke("sample", model, "--out", tmp_path / "s", "--device", "cuda"), "--device cuda", "cpu")
    refused(invoke("sample", model, "--out", tmp_path / "s", "--device", "cuda:1"), "--device cuda:1", "cpu")
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


def test_out_that_is_a_file_or_below_one(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(invoke("sample", model, "--out", out), "file", "name")
        refused(invoke("train", "digits", "--out", out), "file", "name")
        refused(invoke("demo", "--out", out), "file", "name")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["sample", "train", "demo"])
def test_a_folder_that_is_not_ours_is_never_emptied(model, tmp_path, command):
    (tmp_path / "thesis.tex").write_text("years of work")
    first = {"sample": ["sample", model], "train": ["train", "digits"], "demo": ["demo"]}[command]
    refused(invoke(*first, "--out", tmp_path), "not empty")
    refused(invoke(*first, "--out", tmp_path, "--overwrite"), "another folder")
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(("command", "mark"), [("sample", "manifest.json"), ("demo", "results.json")])
def test_another_programs_file_of_the_same_name_does_not_make_a_folder_ours(
    model, tmp_path, monkeypatch, command, mark
):
    (tmp_path / mark).write_text('{"name": "my web page", "short_name": "page", "start_url": "."}')
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    monkeypatch.setattr("leapstep.training.train", lambda *_, **__: pytest.fail("it goes on as if nothing were there"))
    first = ["sample", model, "--n", 1, "--steps", 1] if command == "sample" else ["demo"]
    refused(invoke(*first, "--out", tmp_path, "--overwrite"), "another folder")
    assert tree(tmp_path) == before


def test_overwrite_keeps_files_that_sample_did_not_make(model, kept):
    (kept / "notes.txt").write_text("mine")
    invoke("sample", model, "--out", kept, "--n", 1, "--steps", 1, "--overwrite")
    assert (kept / "notes.txt").read_text() == "mine"


def test_the_model_itself_is_not_overwritten_by_its_samples(run):
    before = tree(run)
    refused(invoke("sample", run, "--out", run, "--overwrite"), "holds something else", "another folder")
    assert tree(run) == before


# --- models that are missing or broken -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["info", "sample"])
@pytest.mark.parametrize("name", ["nothing", "a/b/c", "run/leapstep.json", ".", "./nothing/here"])
def test_a_model_that_is_not_there(run, tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    more = ["--out", tmp_path / "s"] if command == "sample" else []
    refused(invoke(command, name, *more), "model", re.escape(name))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("command", ["info", "sample", "train"])
def test_a_name_on_the_hub_without_a_network(command, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    if command == "train":
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    more = [] if command == "info" else ["--out", tmp_path / "s"]
    refused(invoke(command, "nobody/nothing-at-all", *more), "nobody/nothing-at-all", "Hub")
    assert not (tmp_path / "s").exists()


def write(path, **changes):
    """Change, or with None remove, keys of a JSON file."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def cut(path, n):
    path.write_bytes(path.read_bytes()[:n])


UNET, WEIGHTS = "unet/config.json", "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
BREAK = {
    "weights cut": (WEIGHTS, lambda path: cut(path, -100)),
    "weights cut in the header": (WEIGHTS, lambda path: cut(path, 20)),
    "weights empty": (WEIGHTS, lambda path: cut(path, 0)),
    "weights missing": (WEIGHTS, Path.unlink),
    "unet not JSON": (UNET, lambda path: cut(path, 30)),
    "unet a list": (UNET, lambda path: path.write_text("[]")),
    "unet not text": (UNET, lambda path: path.write_bytes(b"\xff\xfe\x00")),
    "unet lacks channels": (UNET, lambda path: write(path, block_out_channels=None)),
    "unet lacks blocks": (UNET, lambda path: write(path, down_block_types=None)),
    "unet lacks size": (UNET, lambda path: write(path, layers_per_block=None)),
    "unet of another size": (UNET, lambda path: write(path, block_out_channels=[16, 16])),
    "unet with fewer blocks": (UNET, lambda path: write(path, layers_per_block=2)),
    "unet with words": (UNET, lambda path: write(path, block_out_channels=["a", "b"])),
    "unet of unknown blocks": (UNET, lambda path: write(path, down_block_types=["X", "Y"])),
    "unet with a worded size": (UNET, lambda path: write(path, sample_size="8")),
    "scheduler missing": (SCHEDULER, Path.unlink),
    "scheduler not JSON": (SCHEDULER, lambda path: cut(path, 30)),
    "scheduler lacks T": (SCHEDULER, lambda path: write(path, num_train_timesteps=None)),
    "scheduler lacks betas": (SCHEDULER, lambda path: write(path, beta_schedule=None)),
    "scheduler unknown": (SCHEDULER, lambda path: write(path, beta_schedule="new", trained_betas=None)),
    "scheduler predicts tea": (SCHEDULER, lambda path: write(path, prediction_type="tea")),
    "scheduler with words": (SCHEDULER, lambda path: write(path, trained_betas=["a", "b"])),
    "scheduler without levels": (SCHEDULER, lambda path: write(path, trained_betas=[])),
    "scheduler with a worded end": (SCHEDULER, lambda path: write(path, trained_betas=None, beta_end="much")),
    "scheduler with a worded T": (SCHEDULER, lambda path: write(path, trained_betas=None, num_train_timesteps="many")),
    "scheduler with a worded range": (SCHEDULER, lambda path: write(path, clip_sample_range="wide")),
    "scheduler with beta above 1": (SCHEDULER, lambda path: write(path, trained_betas=[0.1, 1.5])),
    "leapstep not JSON": ("leapstep.json", lambda path: cut(path, 30)),
    "leapstep a list": ("leapstep.json", lambda path: path.write_text("[]")),
    "leapstep with a list of data": ("leapstep.json", lambda path: write(path, data=[])),
    "leapstep with half a scaling": ("leapstep.json", lambda path: write(path, data={"scaling": {"shift": 0}})),
}


@pytest.mark.parametrize("case", BREAK)
def test_a_broken_model_is_named(run, kept, case):
    name, harm = BREAK[case]
    harm(run / name)
    before = tree(kept)
    words = [re.escape(name if "unet of another" not in case and "fewer" not in case else "config.json")]
    if case.startswith("weights"):
        words = ["unet"]
    refused(invoke("sample", run, "--out", kept, "--overwrite"), *words)
    refused(invoke("info", run), *words)
    assert tree(kept) == before


def test_a_model_that_others_wrote_needs_no_file_of_ours(run, tmp_path):
    (run / "leapstep.json").unlink()
    done("info", run)
    done("sample", run, "--out", tmp_path / "s", "--n", 1, "--steps", 1, "--label", 3)


# --- what train refuses --------------------------------------------------------------------------------------------


def folder_of(path, *sizes):
    path.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 255, (size, size), np.uint8)).save(path / f"{i}.png")
    return path


def array_of(path, values, **arrays):
    np.savez(path, x=values, **arrays) if arrays else np.save(path, values)
    return path


POINTS = np.random.default_rng(1).normal(size=(20, 2))
BAD = POINTS.copy()
BAD[3, 1] = np.nan

DATA = {
    "missing": (lambda at: at / "nothing", [], ["nothing", "folder"]),
    "misspelt": (lambda at: "digit", [], ["did you mean `digits`"]),
    "empty folder": (lambda at: folder_of(at / "empty"), [], ["empty"]),
    "folder of text": (lambda at: at, [], ["no images"]),
    "one picture": (lambda at: folder_of(at / "one", 8), [], ["1 sample", "at least 2"]),
    "file of another kind": (lambda at: at / "note.txt", [], ["note.txt", "unknown kind"]),
    "pictures of two sizes": (lambda at: folder_of(at / "two", 8, 6), [], ["differ in size", "8x8", "6x6", "size"]),
    "6x6 pictures, 3 levels": (lambda at: folder_of(at / "odd", 6, 6), [], ["6x6", "3 levels", "--size"]),
    "NaN": (lambda at: array_of(at / "nan.npy", BAD), [], ["nan.npy", "NaN", r"\[3, 1\]"]),
    "constant": (lambda at: array_of(at / "flat.npy", np.ones((9, 2))), [], ["flat.npy", "1.0"]),
    "words": (lambda at: array_of(at / "words.npy", np.array(["a", "b"])), [], ["words.npy", "numbers"]),
    "objects": (lambda at: array_of(at / "objects.npy", np.array([{}, {}])), [], ["objects.npy"]),
    "not an array": (lambda at: at / "fake.npy", [], ["fake.npy"]),
    "labels that are not there": (lambda at: array_of(at / "x.npy", POINTS), ["--labels"], ["labels", "x.npy"]),
    "a negative label": (
        lambda at: array_of(at / "x.npz", POINTS, labels=np.arange(20) - 1),
        ["--labels"],
        ["labels", "from 0"],
    ),
    "flipped points": (lambda at: array_of(at / "x.npy", POINTS), ["--flip"], ["flip", "x.npy"]),
    "a U-Net for points": (lambda at: array_of(at / "x.npy", POINTS), ["--network", "unet"], ["U-Net", "mlp"]),
    "an odd width": (lambda at: array_of(at / "x.npy", POINTS), ["--width", "17"], ["17", "even"]),
    "groups that do not divide": (lambda at: "digits", ["--groups", "7"], ["groups=7", "channels"]),
}


@pytest.mark.parametrize("case", DATA)
def test_train_refuses_data_that_does_not_fit_and_leaves_an_earlier_run_alone(run, tmp_path, case):
    (tmp_path / "note.txt").write_text("not a picture")
    (tmp_path / "fake.npy").write_text("not an array")
    for name in list(tree(run)):  # a run folder is in the way of "folder of text"
        if name.endswith(".png"):
            (run / name).unlink()
    source, more, words = DATA[case]
    before = tree(run)
    data = source(tmp_path)
    refused(invoke("train", data, "--out", run, "--overwrite", *more), *words)
    assert tree(run) == before
    refused(invoke("train", data, "--out", tmp_path / "new", *more), *words)
    assert not (tmp_path / "new").exists()


def test_a_refused_run_leaves_none_of_the_folders_above_it(tmp_path):
    refused(invoke("train", "digits", "--out", tmp_path / "a" / "b" / "run", "--groups", 7))
    assert not list(tmp_path.iterdir())


def test_a_broken_picture_is_skipped_and_named_or_with_strict_an_error(tmp_path, settings):
    data = folder_of(tmp_path / "data", 8, 8, 8)
    cut(data / "1.png", 40)
    (data / "2.jpg").write_text("not a picture")
    args = ["train", data, "--out", tmp_path / "run", "--config", settings, "--no-labels", "--steps", 1]
    refused(invoke(*args, "--strict"), r"[12]\.(png|jpg)", "strict")
    assert not (tmp_path / "run").exists()
    result = done(*args)
    assert "1.png" in result.stderr
    assert "2.jpg" in result.stderr
    assert "skipped 2 of 4 images" in result.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--steps 0", ["steps=0", "greater than or equal to 1"]),
        ("--batch-size 0", ["batch_size=0"]),
        ("--batch-size 10 --accumulate 3", ["batch_size 10", "accumulate 3"]),
        ("--schedule line", ["schedule='line'", "linear", "cosine"]),
        ("--predicts noise", ["predicts='noise'", "eps", "x0"]),
        ("--loss l1", ["loss='l1'", "min_snr"]),
        ("--preset imagenet", ["preset 'imagenet'", "digits, mnist, cifar10"]),
        ("--learning-rate 0", ["learning_rate=0", "greater than 0"]),
        ("--learning-rate nan", ["learning_rate=nan"]),
        ("--learning-rate inf", ["learning_rate=inf"]),
        ("--ema-decay 1", ["ema_decay=1"]),
        ("--label-dropout -1", ["label_dropout=-1"]),
        ("--zero-terminal-snr", ["zero_terminal_snr", "--predicts"]),
        ("--precision half", ["precision='half'", "bf16"]),
        ("--seed -1", ["seed=-1"]),
        ("--device tpu", ["--device tpu", "cpu"]),
        ("--resume --overwrite", ["--resume and --overwrite"]),
        ("--timesteps 0", ["timesteps=0"]),
    ],
)
def test_train_refuses_settings(run, given, words):
    before = tree(run)
    args = given.split() if "--resume" in given else [*given.split(), "--overwrite"]
    refused(invoke("train", "digits", "--out", run, *args), *words)
    assert tree(run) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--channels 32,x", ["channels='x'", "integer"]),
        ("--channels 8,8,8 --attention 0,1", ["attention", "2 entries", "3 levels"]),
        ("--attention maybe,0", ["attention='maybe'", "boolean"]),
    ],
)
def test_train_refuses_lists(run, given, words):
    before = tree(run)
    refused(invoke("train", "digits", "--out", run, "--overwrite", *given.split()), *words)
    assert tree(run) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_training_on_a_device_that_is_not_there(signals, tmp_path, device):
    args = ["--out", tmp_path / "run", "--steps", 1, *TINY_MLP[:-2], "--device", device]
    refused(invoke("train", signals, *args), f"--device {device}", "cpu")


def test_no_clipping_of_gradients_is_infinity(signals, tmp_path):
    """It is either a setting like any other, or refused before the training, not after it."""
    result = invoke("train", signals, "--out", tmp_path / "run", "--steps", 1, "--clip-gradient", "inf", *TINY_MLP)
    if result.exit_code == 0:
        done("info", tmp_path / "run")
    else:
        refused(result, "clip_gradient")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 1", ["learning_rat", "did you mean 'learning_rate'"]),
        ("chanels: [8, 8]", ["chanels", "did you mean 'channels'"]),
        ("1: 2", ["unknown setting 1"]),
        ("steps: [1", ["settings.yaml", "not YAML"]),
        ("- steps\n- 5", ["settings.yaml", "name: value"]),
        ("steps: many", ["steps='many'", "integer"]),
        ("steps: 1.5", ["steps=1.5", "integer"]),
        ("flip: perhaps", ["flip='perhaps'", "boolean"]),
        ("channels: [8, x]", ["channels", "'x'"]),
        ("schedule: line", ["schedule='line'"]),
        ("batch_size: 7\naccumulate: 2", ["batch_size 7", "accumulate 2"]),
    ],
)
def test_train_refuses_a_configuration_file(run, tmp_path, text, words):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    before = tree(run)
    refused(invoke("train", "digits", "--out", run, "--overwrite", "--config", path), *words)
    assert tree(run) == before


def test_a_configuration_file_that_cannot_be_read(run, tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "nothing.yaml", tmp_path, tmp_path / "binary.yaml"):
        refused(invoke("train", "digits", "--out", run, "--overwrite", "--config", path), re.escape(str(path)))


def test_a_run_is_not_replaced_unasked(run):
    before = tree(run)
    refused(invoke("train", "digits", "--out", run), "not empty", "--resume", "--overwrite")
    assert tree(run) == before


def test_overwrite_replaces_a_run_and_nothing_else(run, signals):
    (run / "notes.txt").write_text("mine")
    done("train", signals, "--out", run, "--steps", 1, "--overwrite", *TINY_MLP)
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "unet").exists()
    assert not (run / "model_index.json").exists()
    assert "MLP" in done("info", run).stdout


# --- resume --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("digits --learning-rate 1e-4", ["learning_rate=0.003", "0.0001"]),
        ("digits --no-labels", ["labels=True", "False"]),
        ("digits --preset mnist", ["schedule|channels|learning_rate"]),
        ("other", ["digits", "other", "same data"]),
    ],
)
def test_a_run_is_resumed_as_it_was(run, given, words):
    before = tree(run)
    refused(invoke("train", *given.split(), "--out", run, "--resume"), *words)
    assert tree(run) == before


def test_nothing_to_resume(tmp_path, samples):
    for out in (tmp_path / "nothing", samples):
        refused(invoke("train", "digits", "--out", out, "--resume"), "no training state|no run folder")
    assert not (tmp_path / "nothing").exists()


def test_resume_of_a_run_whose_only_state_is_broken(run):
    (state,) = (run / "state").iterdir()
    cut(state, -100)
    refused(invoke("train", "digits", "--out", run, "--resume"), state.name)


def test_resume_of_a_state_that_others_wrote(run):
    (state,) = (run / "state").iterdir()
    shutil.copy(run / WEIGHTS, state)  # a good file without our values
    refused(invoke("train", "digits", "--out", run, "--resume"), "state")


def test_a_resumed_run_goes_on_exactly(signals, tmp_path):
    def train(out, steps, *more):
        done("train", signals, "--out", out, "--steps", steps, *more)
        return tree(out)["mlp/diffusion_pytorch_model.safetensors"]

    whole = train(tmp_path / "whole", 6, *TINY_MLP)
    half = train(tmp_path / "parts", 3, *TINY_MLP)
    assert train(tmp_path / "parts", 6, "--resume", "--device", "cpu") == whole != half


def test_resume_may_raise_the_steps_and_says_where_it_stands(run):
    done("train", "digits", "--out", run, "--resume", "--steps", 42, "--device", "cpu")
    assert json.loads(done("info", run, "--json").stdout)["trained_steps"] == 42
    assert [path.name for path in (run / "state").iterdir()] == ["step-00000042.safetensors"]


def test_a_run_that_failed_before_its_first_checkpoint_can_be_started_again(signals, tmp_path):
    """The message says: lower the learning rate. That must be possible in the same folder."""
    args = ["train", signals, "--out", tmp_path / "run", "--steps", 20, *TINY_MLP]
    result = invoke(*args, "--learning-rate", 1e30, "--warmup", 0)
    assert result.exit_code == 2
    assert "lower the learning rate" in result.stderr
    done(*args, "--overwrite")


def test_a_stop_in_the_middle_of_a_step_is_resumed_exactly(signals, tmp_path, monkeypatch):
    """Ctrl-C may come at any moment, also between the change of the weights and the count of the step."""
    from leapstep.training import Trainer

    given = ["--warmup", 0, "--learning-rate", 0.01, *TINY_MLP]
    done("train", signals, "--out", tmp_path / "whole", "--steps", 6, *given)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background process does not have
    with monkeypatch.context() as patch:
        make = Trainer.__init__

        def interrupted(trainer, *args, **options):
            make(trainer, *args, **options)
            update = trainer.ema.update_parameters

            def stop(network):
                if trainer.step == 3:
                    signal.raise_signal(signal.SIGINT)
                update(network)

            trainer.ema.update_parameters = stop

        patch.setattr(Trainer, "__init__", interrupted)
        assert invoke("train", signals, "--out", tmp_path / "cut", "--steps", 6, *given).exit_code == 130
    signal.signal(signal.SIGINT, before)
    done("train", signals, "--out", tmp_path / "cut", "--resume", "--device", "cpu")
    name = "mlp/diffusion_pytorch_model.safetensors"
    assert tree(tmp_path / "cut")[name] == tree(tmp_path / "whole")[name]


# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 2, 15, 16])
def test_a_full_disk_while_sampling(model, tmp_path, monkeypatch, after):
    full_disk(monkeypatch, after)
    args = ["--out", tmp_path / "s", "--n", 12, "--batch-size", 4, "--steps", 1]
    refused(invoke("sample", model, *args), "No space left on device", re.escape(str(tmp_path / "s")))
    for path in (tmp_path / "s").glob("*"):
        assert not path.name.startswith(".")
        if path.suffix == ".png":
            Image.open(path).load()


@pytest.mark.parametrize("after", range(4))
def test_a_full_disk_while_training_keeps_the_last_checkpoint(run, monkeypatch, after):
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        result = invoke("train", "digits", "--out", run, "--resume", "--steps", 41, "--device", "cpu")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    done("info", run)
    done("train", "digits", "--out", run, "--resume", "--steps", 41, "--device", "cpu")
    assert json.loads(done("info", run, "--json").stdout)["trained_steps"] == 41


def test_samples_cut_by_a_full_disk_can_be_overwritten(model, tmp_path, monkeypatch):
    args = ["sample", model, "--out", tmp_path / "s", "--n", 4, "--steps", 1]
    with monkeypatch.context() as patch:
        full_disk(patch, 2)
        refused(invoke(*args), "No space left")
    done(*args, "--overwrite")


# --- Ctrl-C, kill and tracebacks -----------------------------------------------------------------------------------


@needs_signals
def test_ctrl_c_keeps_the_samples_that_are_finished(model, tmp_path):
    out = tmp_path / "s"
    running = start("sample", model, "--out", out, "--n", 20_000, "--batch-size", 2, "--steps", 10)
    wait_for(lambda: (out / "00003.png").exists(), running)
    running.send_signal(signal.SIGINT)
    said, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert said == ""
    manifest = json.loads((out / "manifest.json").read_text())
    kept = f"{manifest['finished']} of 20000 samples are kept in {out}: go on with --resume"
    assert err.splitlines()[-1] == f"leapstep: stopped; {kept}"
    there = pictures(out)
    assert 4 <= manifest["finished"] == len(there) < manifest["n"] == 20_000
    assert not list(out.glob(".*"))
    done("sample", model, "--out", tmp_path / "first", "--n", 4, "--steps", 10)
    assert alike(there[:4], pictures(tmp_path / "first"))


@needs_signals
def test_ctrl_c_while_training_leaves_a_checkpoint_to_resume_from(settings, tmp_path):
    run = tmp_path / "run"
    given = ["--config", settings, "--steps", 100_000, "--save-every", 100_000, "--sample-every", 3]
    running = start("train", "digits", "--out", run, *given)
    wait_for(lambda: (run / "samples" / "step-00000003.png").exists(), running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    step = json.loads(done("info", run, "--json").stdout)["trained_steps"]
    assert 3 <= step < 100_000
    assert err.splitlines()[-1] == (
        f"leapstep: stopped; the checkpoint of step {step} is kept in {run}: go on with --resume"
    )
    assert "Ctrl-C again stops at once" in err
    assert "Traceback" not in err
    done("train", "digits", "--out", run, "--resume", "--steps", step + 2, "--device", "cpu")
    assert json.loads(done("info", run, "--json").stdout)["trained_steps"] == step + 2


@needs_signals
def test_a_killed_training_is_resumed_from_its_last_checkpoint(settings, tmp_path):
    run = tmp_path / "run"
    given = ["--config", settings, "--steps", 100_000, "--save-every", 2, "--sample-every", 100_000]
    running = start("train", "digits", "--out", run, *given)
    wait_for(lambda: any(path.name >= "step-00000004" for path in (run / "state").glob("step-*")), running)
    running.kill()
    running.communicate()
    step = json.loads(done("info", run, "--json").stdout)["trained_steps"]
    done("train", "digits", "--out", run, "--resume", "--steps", step + 5, "--device", "cpu")
    assert json.loads(done("info", run, "--json").stdout)["trained_steps"] == step + 5
    assert len(list((run / "state").glob("step-*"))) == 1


@pytest.fixture(scope="session")
def killed(place, model):
    """The folder of a sampling that was killed, and how many pictures were there."""
    if os.name == "nt":
        pytest.skip("Windows has no SIGKILL")
    out = place / "killed"
    running = start("sample", model, "--out", out, "--n", 20_000, "--batch-size", 2, "--steps", 5)
    wait_for(lambda: (out / "00003.png").exists(), running)
    running.kill()
    running.communicate()
    return out


def test_a_killed_sampling_leaves_whole_pictures(killed):
    assert len(pictures(killed)) >= 4


def test_a_killed_sampling_can_be_started_again_in_the_same_folder(killed, model, tmp_path):
    out = shutil.copytree(killed, tmp_path / "s")
    done("sample", model, "--out", out, "--n", 2, "--steps", 1, "--overwrite")


def test_a_training_killed_before_its_first_checkpoint_can_be_started_again(signals, tmp_path, monkeypatch):
    args = ["train", signals, "--out", tmp_path / "run", "--steps", 2, *TINY_MLP]
    with monkeypatch.context() as patch:
        patch.setattr("leapstep.training.Trainer.advance", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert invoke(*args).exit_code == 130
    done(*args, "--overwrite")


def test_a_mistake_in_a_real_process(tmp_path):
    code, out, err = process("sample", "nothing", "--out", tmp_path / "s")
    assert code == 2
    assert out == ""
    assert err.startswith("leapstep: there is no model folder nothing")
    assert len(err.splitlines()) == 1


def test_the_traceback_is_there_for_who_asks(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAPSTEP_TRACEBACK", "1")
    result = invoke("info", tmp_path / "nothing")
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError)
    code, _, err = process("info", tmp_path / "nothing", LEAPSTEP_TRACEBACK="1")
    assert code == 1
    assert err.startswith("Traceback")
    assert "ValueError: there is no model folder" in err


@pytest.mark.parametrize(("method", "calls"), [("ddim", 4), ("dpmpp_2m", 4), ("dpmpp_2s", 7), ("heun", 6), ("rk4", 10)])
def test_every_method_samples_and_counts_its_calls(model, tmp_path, method, calls):
    """On `cosine` the first step of four is no step for a solver in sigma / alpha, and the last one never is."""
    said = done("sample", model, "--out", tmp_path / "s", "--n", 2, "--steps", 4, "--method", method).stdout
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["calls"] == calls
    assert f"{calls} network calls" in said


def test_help_names_every_method_and_spacing():
    said = " ".join(done("sample", "--help").stdout.replace("│", " ").split())
    assert " | ".join(leapstep.TRANSITIONS) in said
    assert " | ".join(leapstep.SPACINGS) in said


# --- demo ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def demo(place):
    """A demo of three training steps, with 50 in place of 1000 steps of DDPM and a small page, and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("leapstep.cli.demo.ROWS", [("ddpm", 50), ("ddim", 20), ("ddim", 10)])
        few = functools.partial(Settings, extent=EXTENTS[-1])  # the page has its own tests
        patch.setattr("leapstep.views.report.Settings", few)
        return place / "demo", done("demo", "--out", place / "demo", "--train-steps", 3, "--n", 4).stdout


def check_demo(out, said, slow):
    """Every method in the table and in the report, with its grid; nothing that was not announced."""
    results = json.loads((out / "results.json").read_text())["demo"]
    made = {row["grid"] for row in results}
    assert {path.name for path in out.iterdir()} == {
        "run",
        "sweep",
        "results.json",
        "comparison.png",
        "report.html",
    } | made
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert said.rstrip().endswith(f": {out / 'report.html'}")
    rows = {(row["method"], row["calls"]): row for row in results}
    assert set(rows) == {("ddpm", slow), ("ddim", 20), ("ddim", 10), ("real digits", None)}
    assert 0 < rows["real digits", None]["distance"] == min(row["distance"] for row in results)
    assert all(row["seconds"] > 0 for row in results if row["calls"])
    for row in results:
        assert np.asarray(Image.open(out / row["grid"])).shape[1] > 40
        assert f"{row['distance']:.3f}" in said
    assert np.asarray(Image.open(out / "comparison.png")).shape[1] > 100
    assert f"leapstep sample {out / 'run'}" in said
    assert "best for 5 calls" in said
    assert "Quality by steps" in (out / "report.html").read_text()


def test_demo_compares_the_methods(demo):
    check_demo(*demo, slow=50)


@pytest.mark.slow
def test_the_whole_demo_in_a_real_process(tmp_path):
    code, said, err = process("demo", "--out", tmp_path / "demo", "--train-steps", 3, "--n", 4)
    assert code == 0, err
    check_demo(tmp_path / "demo", said, slow=1000)


def test_what_demo_says_comes_next_works(demo, tmp_path):
    done("sample", demo[0] / "run", "--steps", 5, "--out", tmp_path / "samples", "--n", 2)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("--n 1", "--n 1"),
        ("--train-steps 0", "steps=0"),
        ("--seed -1", "seed=-1"),
    ],
)
def test_demo_refuses_and_leaves_an_earlier_demo_alone(demo, tmp_path, given, word):
    out = Path(shutil.copytree(demo[0], tmp_path / "demo"))
    before = tree(out)
    refused(invoke("demo", "--out", out, "--overwrite", *given.split()), word)
    assert tree(out) == before
