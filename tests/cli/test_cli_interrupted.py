"""Commands that a full disk, Ctrl-C or a kill stops: what is finished is kept, and can be gone on with."""

import json
import os
import re
import shutil
import signal

import pytest
from PIL import Image

from commands import TINY_MLP, alike, done, full_disk, invoke, needs_signals, pictures, refused, start, wait_for
from leapstep import stopping

# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 2, 15, 16])
def test_a_full_disk_while_sampling(digits_model, tmp_path, monkeypatch, after):
    full_disk(monkeypatch, after)
    args = ["--out", tmp_path / "s", "--n", 12, "--batch-size", 4, "--steps", 1]
    refused(invoke("sample", digits_model, *args), "No space left on device", re.escape(str(tmp_path / "s")))
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


def test_samples_cut_by_a_full_disk_can_be_overwritten(digits_model, tmp_path, monkeypatch):
    args = ["sample", digits_model, "--out", tmp_path / "s", "--n", 4, "--steps", 1]
    with monkeypatch.context() as patch:
        full_disk(patch, 2)
        refused(invoke(*args), "No space left")
    done(*args, "--overwrite")


# --- Ctrl-C, kill and tracebacks -----------------------------------------------------------------------------------


@needs_signals
def test_ctrl_c_keeps_the_samples_that_are_finished(digits_model, tmp_path):
    out = tmp_path / "s"
    running = start("sample", digits_model, "--out", out, "--n", 20_000, "--batch-size", 2, "--steps", 10)
    wait_for(lambda: (out / "00003.png").exists(), running)
    running.send_signal(signal.SIGINT)
    said, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert said == ""
    manifest = json.loads((out / "manifest.json").read_text())
    kept = f"{manifest['finished']} of 20000 samples are kept in {out}: go on with --resume"
    assert err.splitlines()[-1] == f"leapstep: stopped; {kept}"
    there = pictures(out)
    assert 4 <= manifest["finished"] == len(there) < manifest["spec"]["n"] == 20_000
    assert not list(out.glob(".*"))
    done("sample", digits_model, "--out", tmp_path / "first", "--n", 4, "--steps", 10)
    assert alike(there[:4], pictures(tmp_path / "first"))


def test_a_command_that_is_stopped_while_it_is_imported_says_so(monkeypatch):
    monkeypatch.setattr("leapstep.cli.module", lambda _: stopping.stop(signal.SIGTERM))
    result = invoke("sample", "model")
    assert (result.exit_code, result.stderr) == (143, "leapstep: stopped\n")


@needs_signals
def test_ctrl_c_while_training_leaves_a_checkpoint_to_resume_from(settings, tmp_path):
    run = tmp_path / "run"
    given = ["--config", settings, "--steps", 100_000, "--save-every", 100_000, "--sample-every", 3]
    running = start("train", "digits", "--out", run, *given)
    wait_for(lambda: (run / "samples" / "step-00000003.png").exists(), running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=300)
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
def killed(place, digits_model):
    """The folder of a sampling that was killed, and how many pictures were there."""
    if os.name == "nt":
        pytest.skip("Windows has no SIGKILL")
    out = place / "killed"
    running = start("sample", digits_model, "--out", out, "--n", 20_000, "--batch-size", 2, "--steps", 5)
    wait_for(lambda: (out / "00003.png").exists(), running)
    running.kill()
    running.communicate()
    return out


def test_a_killed_sampling_leaves_whole_pictures(killed):
    assert len(pictures(killed)) >= 4


def test_a_killed_sampling_can_be_started_again_in_the_same_folder(killed, digits_model, tmp_path):
    out = shutil.copytree(killed, tmp_path / "s")
    done("sample", digits_model, "--out", out, "--n", 2, "--steps", 1, "--overwrite")


def test_a_training_killed_before_its_first_checkpoint_can_be_started_again(signals, tmp_path, monkeypatch):
    args = ["train", signals, "--out", tmp_path / "run", "--steps", 2, *TINY_MLP]
    with monkeypatch.context() as patch:
        patch.setattr("leapstep.training.Trainer.advance", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert invoke(*args).exit_code == 130
    done(*args, "--overwrite")
