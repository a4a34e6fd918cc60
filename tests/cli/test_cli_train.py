"""`leapstep train`: the run folder that it leaves, what it refuses, and how a run is resumed."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from commands import TINY_MLP, cut, done, invoke, refused, tree
from leapstep.training.configuration import TrainingConfig


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
    "6x6 pictures, 3 stages": (lambda at: folder_of(at / "odd", 6, 6), [], ["6x6", "3 stages", "--size"]),
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
    refused(invoke(*args, "--strict"), r"1\.png", "strict")
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
        ("--channels 8,8,8 --attention 0,1", ["attention", "2 entries", "3 stages"]),
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
        ("some/other", ["digits", "some/other", "same data"]),
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
    shutil.copy(run / "unet" / "diffusion_pytorch_model.safetensors", state)  # a good file without our values
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
        average = Trainer.average

        def interrupted(trainer):
            if trainer.step == 3:
                signal.raise_signal(signal.SIGINT)
            average(trainer)

        patch.setattr(Trainer, "average", interrupted)
        assert invoke("train", signals, "--out", tmp_path / "cut", "--steps", 6, *given).exit_code == 130
    signal.signal(signal.SIGINT, before)
    done("train", signals, "--out", tmp_path / "cut", "--resume", "--device", "cpu")
    name = "mlp/diffusion_pytorch_model.safetensors"
    assert tree(tmp_path / "cut")[name] == tree(tmp_path / "whole")[name]
