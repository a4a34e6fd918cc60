"""The command line as a user meets it.

Exit codes, signals and whole runs go through real processes; the many kinds of bad input run in this process, since
each new process takes seconds to import torch.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import leapstep
from commands import ENVIRONMENT, cut, done, invoke, process, refused, tree
from leapstep.models import checkpoint

COMMANDS = ["train", "sample", "calibrate", "likelihood", "reconstruct", "interpolate", "trace", "info", "demo"]


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


# --- info ---------------------------------------------------------------------------------------------------------


def test_info_in_words(digits_model):
    out = done("info", digits_model).stdout
    for word in ("UNet", "1442 samples of digits", "noise levels    1000", "eps", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        assert word in out
    assert "None" not in out


def test_info_as_json(digits_model):
    facts = json.loads(done("info", digits_model, "--json").stdout)
    network = leapstep.load(digits_model).network
    assert facts["weights"] == sum(parameter.numel() for parameter in network.parameters())
    assert facts["weights_sha256"] == checkpoint.fingerprint(network)
    assert facts["sample_shape"] == [1, 8, 8]
    assert facts["trained_steps"] == 40
    assert facts["noise_levels"] == 1000
    assert facts["training"]["batch_size"] == 32


def test_info_as_json_has_lists_where_there_are_lists(digits_model):
    facts = json.loads(done("info", digits_model, "--json").stdout)
    assert facts["classes"] == list("0123456789")
    assert facts["clip"] == [-1.0, 1.0]


def test_info_of_a_model_of_arrays(point_model):
    out = done("info", point_model).stdout
    for word in ("MLP", "1000 samples of", "[2]"):
        assert word in out


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


def test_the_convention_of_a_model_is_in_our_file_or_in_its_scheduler(run, kept):
    before = tree(kept)
    (run / SCHEDULER).unlink()
    done("info", run)
    (run / "leapstep.json").unlink()
    for command in (["sample", run, "--out", kept, "--overwrite"], ["info", run]):
        refused(invoke(*command), re.escape(SCHEDULER))
    assert tree(kept) == before


def test_a_model_that_others_wrote_needs_no_file_of_ours(run, tmp_path):
    (run / "leapstep.json").unlink()
    done("info", run)
    done("sample", run, "--out", tmp_path / "s", "--n", 1, "--steps", 1, "--label", 3)


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
