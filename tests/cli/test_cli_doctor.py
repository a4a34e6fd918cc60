"""`leapstep doctor` as a user meets it; what the doctor finds is tested elsewhere, and mostly made up here."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

import commands
import leapstep
import leapstep.doctor
from commands import refused
from diagnoses import diagnosis
from leapstep import plugin
from leapstep.core.scaling import PIXELS
from leapstep.data import read
from leapstep.doctor.evidence import Concern, Finding, Level
from leapstep.models import checkpoint
from leapstep.networks import UNet
from random_models import model_of

SOURCE = """
import neighbour

GREETING = neighbour.GREETING

def network():
    return lambda x, timestep, **given: x

def with_hints():
    return network(), {"assume": {"predicts": "v", "timesteps": 100}, "n": 50, "pictures": True}

def with_condition():
    return network(), {"condition": {"y": [1]}}

def odd():
    return network(), {"colour": "red"}

def module():
    from torch import nn
    return nn.Linear(2, 2)

def fails():
    return 1 / 0

def leaves():
    raise SystemExit("usage: mine.py")

def nothing():
    pass

def verbose():
    raise RuntimeError("3 keys:\\n" + "word " * 900)

def asks(path):
    pass

def gives_a_class():
    from torch import nn
    return nn.Linear
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's file beside another that it imports, and arrays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "neighbour.py").write_text("GREETING = 'hello'\n")
    (tmp_path / "mine.py").write_text(SOURCE)
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(40, 2)))
    np.savez(tmp_path / "labelled.npz", x=np.zeros((40, 2)) + np.arange(40)[:, None], y=np.arange(40) % 3)
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What `leapstep.diagnose` was asked; it answers `asked["answer"]`."""
    calls = {"answer": diagnosis()}

    def diagnose(net, data, *, condition=None, on_stage, on_call, on_estimate, **given):
        on_estimate(120.0, 1500.0)
        on_stage("comparing conventions")
        on_call(64)
        calls.update(given, net=net, data=data, condition=condition)
        return calls["answer"]

    monkeypatch.setattr(leapstep.doctor.case, "diagnose", diagnose)
    return calls


def invoke(*args):
    return commands.invoke("doctor", *args)


def done(*args):
    return commands.done("doctor", *args).stdout


# --- what comes out ------------------------------------------------------------------------------------------------


def test_the_verdict_is_printed(mine, asked):
    said = done("mine.py:network", "points.npy")
    assert said.startswith("The convention is clear.")
    assert "leapstep.from_network(net, leapstep.linear()" in said
    assert asked["net"](3, 4) == 3
    assert asked["data"].shape == (40, 2)
    assert asked["condition"] is None
    assert asked["assume"] == {}


def test_what_contradicts_ends_with_3(mine, asked):
    asked["answer"] = diagnosis(contradictions=("v was assumed; it is eps",))
    result = invoke("mine.py:network", "points.npy", "--assume", "predicts=v")
    assert result.exit_code == 3
    assert "v was assumed; it is eps." in result.stdout
    assert asked["assume"] == {"predicts": "v"}


def test_json_alone_is_printed_and_knows_no_infinity(mine, asked):
    asked["answer"] = diagnosis(levels=(Level(1.0, 999, -float("inf"), 1.0, float("nan")),), parted=0.5)
    found = json.loads(done("mine.py:network", "points.npy", "--json"), parse_constant=pytest.fail)
    assert found["findings"][1]["value"] == "eps, the noise"
    assert found["levels"] == [{"t": 1.0, "timestep": 999, "log_snr": None, "error": 1.0, "linear": None}]
    assert found["parted"] == 0.5
    result = invoke("mine.py:network", "points.npy", "--out", "new/found.json")
    assert "making the folder new" in result.stderr
    said = result.stdout
    assert said.startswith("The convention is clear.")
    assert "written: new/found.json" in result.stderr
    assert json.loads((mine / "new" / "found.json").read_text()) == found


def test_the_convention_is_written(mine, asked):
    result = invoke("mine.py:network", "points.npy", "--save", "convention.json")
    assert "written: convention.json" in result.stderr
    assert leapstep.Convention.read("convention.json") == asked["answer"].convention


def test_html_is_written(mine, asked):
    pytest.importorskip("matplotlib")
    result = invoke("mine.py:network", "points.npy", "--html", "found.html", "--json")
    assert json.loads(result.stdout)["calls"] == 48120
    assert (mine / "found.html").read_text().startswith("<!DOCTYPE html>")


def test_a_terminal_without_the_marks_gets_plain_ones():
    findings = (Finding("range", "é", "sure", ""), Finding("time", "index", "unsure", "", "1000t"))
    made = diagnosis(findings=findings, concerns=(Concern(1, "é", "cure"),))
    for encoding, marks, letter in (("utf-8", "●○│→", "é"), ("latin-1", "*o|>", "é"), ("ascii", "*o|>", "?")):
        text = made.text(encoding=encoding)
        assert text.encode(encoding)
        assert all(mark in text for mark in (*marks, letter))


# --- what goes in --------------------------------------------------------------------------------------------------


def test_assumptions_have_their_types(mine, asked):
    given = ["predicts=-v", "time=-log_snr", "reverse=true", "timesteps=300", "schedule=cosine", "sigma_data=0.5"]
    given += ["range=[-1, 1]", "reshape=[b, 1]"]
    done("mine.py:network", "points.npy", *(word for setting in given for word in ("--assume", setting)))
    assert asked["assume"] == {
        "predicts": "-v",
        "time": "-log_snr",
        "reverse": True,
        "timesteps": 300,
        "schedule": "cosine",
        "sigma_data": 0.5,
        "range": "[-1, 1]",
        "reshape": "[b, 1]",
    }


def test_the_command_line_counts_more_than_the_file(mine, asked):
    done("mine.py:with_hints", "points.npy", "--assume", "predicts=x0", "--seed", 7)
    assert asked["assume"] == {"predicts": "x0", "timesteps": 100}
    assert (asked["n"], asked["seed"], asked["pictures"]) == (50, 7, True)
    done("mine.py:with_hints", "points.npy", "--n", 20)
    assert asked["n"] == 20


def test_where_the_answer_counts(mine, asked):
    np.save(mine / "mask.npy", np.eye(40, 2))
    done("mine.py:network", "points.npy", "--counts", "mask.npy")
    assert (asked["counts"] == np.eye(40, 2)).all()
    np.savez(mine / "mask.npz", mask=np.eye(40, 2))
    refused(
        invoke("mine.py:network", "points.npy", "--counts", "mask.npz"),
        "counts mask.npz cannot be read as an npy file",
    )
    refused(invoke("mine.py:network", "points.npy", "--counts", "mine.py"), "mine.py cannot be read as an npy file")
    refused(invoke("mine.py:network", "points.npy", "--counts", "none.npy"), "there is no file none.npy")


def test_a_budget_and_how_long_it_will_take(mine, asked):
    for written, seconds in (("30s", 30), ("2m", 120), ("1h", 3600), ("1h30m", 5400), ("90", 90), ("1.5m", 90)):
        result = invoke("mine.py:network", "points.npy", "--budget", written, "--json")
        assert asked["budget"] == seconds
        assert "this will take about 2 min, the budget: without a bound it would take about 25 min" in result.stderr
        assert json.loads(result.stdout)["cuts"] == []
    del asked["budget"]
    done("mine.py:network", "points.npy")
    assert "budget" not in asked  # the library's own


def test_conditions_and_labels_are_aligned_with_the_data(mine, asked):
    np.savez(mine / "given.npz", scale=np.arange(40.0), token=np.zeros((40, 3)))
    done("mine.py:network", "labelled.npz", "--condition", "given.npz", "--label-argument", "y")
    assert sorted(asked["condition"]) == ["scale", "token", "y"]
    assert asked["condition"]["y"].tolist() == (np.arange(40) % 3).tolist()
    assert asked["condition"]["scale"][-1] == 39


def test_pictures_are_as_they_lie_on_disk(mine, asked):
    done("mine.py:network", "digits", "--split", "test", "--size", 16)
    assert asked["data"].dtype == np.uint8
    assert asked["data"].shape[1:] == (1, 16, 16)


RECORDS = """
SEEN = []

def network():
    def net(x, timestep, y):
        SEEN.append((x, y))
        raise RuntimeError("enough")
    return net
"""


def test_the_command_takes_the_rows_that_python_takes(mine):
    """Of data on disk, with the conditions of these rows, by the same seed."""
    (mine / "records.py").write_text(RECORDS)
    source, labels = np.arange(80.0).reshape(40, 2), np.arange(40)
    np.save(mine / "rows.npy", source)
    np.savez(mine / "given.npz", y=labels)
    args = ("--condition", "given.npz", "--n", 30, "--seed", 3)
    refused(invoke("records.py:network", "rows.npy", *args), "enough")
    seen = sys.modules["leapstep_plugin_records"].SEEN
    given, same = {"y": labels}, lambda rows: {"y": torch.from_numpy(labels)[rows]}
    for data in (source, torch.from_numpy(source), np.load(mine / "rows.npy", mmap_mode="r")):
        for condition in (given, same):
            with pytest.raises(ValueError, match="enough"):
                leapstep.diagnose(plugin.make(mine / "records.py", "network"), data, condition=condition, n=30, seed=3)
            (x, y), (again, other) = seen[0], sys.modules["leapstep_plugin_records"].SEEN[0]
            assert torch.equal(x, again)
            assert y.tolist() == other.tolist()


def test_the_device_is_for_modules(mine, asked):
    done("mine.py:module", "points.npy", "--device", "cpu")
    assert isinstance(asked["net"], torch.nn.Linear)
    refused(invoke("mine.py:network", "points.npy", "--device", "cpu"), "no nn.Module")


# --- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    network = UNet(in_channels=1, channels=(8, 8), attention=(False, True), blocks=1, groups=4, classes=10)
    classes = tuple("0123456789")
    data = {"source": "digits", "samples": 9, "scaling": PIXELS._asdict(), "classes": list(classes)}
    model = model_of(network, leapstep.linear(), "eps", (1, 8, 8), classes=classes, details={"data": data})
    path = tmp_path_factory.mktemp("doctor") / "run"
    checkpoint.save(model, path)
    return path


def test_a_folder_that_agrees(folder, asked):
    said = done(folder, "digits")
    assert "the folder" not in said.lower()
    assert asked["data"].dtype == np.uint8
    data = read("digits")
    pixels = {tuple(row.ravel()): label for row, label in zip(data.values, data.labels, strict=True)}
    expected = [pixels[tuple(row.ravel())] for row in asked["data"]]
    assert asked["condition"]["class_labels"].tolist() == expected
    assert isinstance(asked["net"], UNet)


def folder_findings(**values):
    return tuple(Finding(name, value, "sure", "") for name, value in values.items())


def test_a_folder_that_says_something_else(folder, asked):
    cosine = leapstep.cosine()
    curve = diagnosis().curve
    read_off = tuple(cosine.log_snr((k + 1) / 1000).item() for k in curve.timesteps)
    wrong = dataclasses.replace(curve, read=read_off, low=read_off, high=read_off, named=read_off)
    found = folder_findings(predicts="v", range="[0, 1]", schedule="cosine()")
    asked["answer"] = diagnosis(findings=found, convention=leapstep.Convention("linear", "v", scaling=(0.0, 255.0)))
    result = invoke(folder, "digits")
    assert result.exit_code == 3
    assert "The folder says that the network predicts eps; it predicts v." in result.stdout
    assert "sees (value - 127.5) / 127.5; it was trained on [0, 1]." in " ".join(result.stdout.split())
    asked["answer"] = diagnosis(findings=folder_findings(schedule="cosine()"), curve=wrong)
    result = invoke(folder, "digits", "--json")
    assert result.exit_code == 3
    (said,) = json.loads(result.stdout)["contradictions"]
    assert (
        "schedule and clock put timestep 900 at log-SNR -8.22, the network at -3.72; its schedule is cosine()" in said
    )
    asked["answer"] = diagnosis(findings=(Finding("schedule", "cosine()", "likely", ""),), curve=wrong)
    assert "The folder" not in done(folder, "digits")  # what is not sure contradicts nobody


def test_a_folder_speaks_for_itself(folder, asked, mine):
    refused(invoke(folder, "digits", "--label-argument", "y"), "label_argument is for file.py:function")
    refused(invoke(folder, "digits", "--size", 8), "size is for file.py:function")
    refused(invoke(folder, "points.npy"), "shape")
    np.save("pictures.npy", np.random.default_rng(0).random((40, 8, 8)))
    refused(
        invoke(folder, "pictures.npy"), r"\[40, 8, 8\].*: the model's samples are pictures, give uint8 from 0 to 255"
    )


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("none.py:network",), ("there is no file none.py",)),
        (("none.py",), ("there is no file none.py",)),
        (("mine.py",), ("mine.py: name the function", "mine.py:network")),
        (("mine.py:",), ("mine.py: name the function", "mine.py:network")),
        (("mine.py:a-b",), ("file.py:function",)),
        (("mine.py:absent",), ("has no function absent", "network")),
        (("mine.py:GREETING",), ("has no function GREETING",)),
        (("mine.py:fails",), ("mine.py, line 23: fails\\(\\) raised ZeroDivisionError: division by zero$",)),
        (("mine.py:leaves",), ("mine.py, line 26: leaves\\(\\) raised SystemExit: usage",)),
        (("mine.py:verbose",), ("raised RuntimeError: 3 keys: (word ){5,60}[.]{3}$",)),
        (("mine.py:asks",), ("mine.py:asks is called without arguments", "missing a required argument: 'path'")),
        (("mine.py:gives_a_class",), ("mine.py:gives_a_class returned the class Linear: return an instance",)),
        (("mine:network",), ("the file is mine.py, so write mine.py:network",)),
        (("mine.py:nothing",), ("returned NoneType",)),
        (("mine.py:odd",), ("argument colour", "condition, counts")),
        (("points.npy",), ("neither a model folder nor file.py:function",)),
        (("nowhere",), ("there is no model folder nowhere",)),
        (("mine.py:network", "--assume", "predicts"), ("NAME=VALUE",)),
        (("mine.py:network", "--assume", "predicts="), ("NAME=VALUE",)),
        (("mine.py:network", "--assume", "predicts=noise"), ("eps, x0, v",)),
        (("mine.py:network", "--assume", "colour=red"), ("predicts, time",)),
        (("mine.py:network", "--assume", "timesteps=many"), ("an integer",)),
        (("mine.py:network", "--assume", "timesteps=0"), ("positive",)),
        (("mine.py:network", "--assume", "sigma_data=inf"), ("positive",)),
        (("mine.py:network", "--assume", "reverse=maybe"), ("true or false",)),
        (("mine.py:network", "--assume", "range=0..1"), ("assumed range='0..1': use one of \\[-1, 1\\], ",)),
        (("mine.py:network", "--condition", "short.npz"), ("scale holds 7 rows, the data 40",)),
        (("mine.py:network", "--condition", "none.npz"), ("there is no file none.npz",)),
        (("mine.py:network", "--condition", "mine.py"), ("cannot be read as an npz file",)),
        (("mine.py:network", "--condition", "points.npy"), ("cannot be read as an npz file",)),
        (("mine.py:network", "--label-argument", "y"), ("points.npy has no labels",)),
        (("mine.py:with_condition", "--condition", "whole.npz"), ("condition is given twice",)),
        (("mine.py:network", "--budget", "soon"), ("--budget 'soon' is not a duration: write it as 30s, 2m or 1h",)),
        (("mine.py:network", "--budget", "0s"), ("--budget '0s' is not a duration",)),
        (("mine.py:network", "--out", "found.txt"), ("ends in .json",)),
        (("mine.py:network", "--html", "mine.py"), ("ends in .html",)),
        (("mine.py:network", "--html", "folder.html"), ("is a folder",)),
        (("mine.py:network", "--html", "points.npy/found.html"), ("points.npy is a file",)),
        (("mine.py:module", "--device", "abacus"), ("--device abacus",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_are_one_line(mine, asked, args, words):
    np.savez(mine / "short.npz", scale=np.arange(7))
    np.savez(mine / "whole.npz", scale=np.arange(40))
    (mine / "folder.html").mkdir()
    refused(invoke(args[0], "points.npy", *args[1:]), *words)
    assert "net" not in asked


def test_limits_are_checked_by_what_they_limit(mine):
    refused(invoke("mine.py:network", "points.npy", "--n", "19"), "n=19: at least 20")
    refused(invoke("mine.py:network", "points.npy", "--seed", "-1"), "seed=-1")


def test_a_name_given_twice(mine, asked):
    np.savez(mine / "given.npz", y=np.arange(40))
    args = ("mine.py:network", "labelled.npz", "--condition", "given.npz", "--label-argument", "y")
    refused(invoke(*args), "y is given twice")
    np.savez(mine / "given.npz", y=np.array(1.0))
    refused(invoke(*args), "y holds one number, the data 40")


def test_a_file_that_is_no_python(mine, asked):
    (mine / "broken.py").write_text("x = 1\ndef network(:\n")
    refused(invoke("broken.py:network", "points.npy"), "broken.py, line 2: SyntaxError: ")
    (mine / "lost.py").write_text("\n\nimport no_such_module_anywhere\n")
    refused(invoke("lost.py:network", "points.npy"), "lost.py, line 3: ModuleNotFoundError: .*no_such_module")


LOADS = """
import torch
from torch import nn

def loaded(path="net.pt", **how):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net

def safe():
    from safetensors.torch import load_file
    return load_file("net.safetensors")

def wrapped():
    net = nn.DataParallel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3)))
    net.load_state_dict(torch.load("net.pt", weights_only=True))

def from_gpu():
    raise RuntimeError("Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.")
"""
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


def test_weights_that_do_not_load_get_the_line_that_helps(mine, asked):
    (mine / "loads.py").write_text(LOADS)
    state = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)).state_dict()
    for contents, words in [
        ({f"module.{key}": value for key, value in state.items()}, r'begin with "module.": net.load_state_dict\(\{key'),
        (
            {f"model.{key}": value for key, value in state.items()} | {"loss.scale": torch.ones(1)},
            r'begin with "model.": .*removeprefix\("model."\).*if key.startswith\("model."\)',
        ),
        ({"state_dict": state, "epoch": 3}, r'inside a larger dictionary: .*contents\["state_dict"\]\)$'),
        ({"model": state, "ema": state}, r'contents\["ema"\]\) \(or contents\["model"\]\)$'),
        ([state, 3], r"load_state_dict takes the one that is a state dict, as in contents\[0\]"),
        (torch.nn.Linear(2, 2), r"holds more than weights \(torch.nn.modules.linear.Linear\), which would be executed"),
    ]:
        torch.save(contents, mine / "net.pt")
        result = invoke("loads.py:loaded", "points.npy")
        refused(result, r"loads.py, line 7: loaded\(\) raised ", words)
        assert "weights_only=False" not in result.stderr
    torch.save(state, mine / "net.pt")
    refused(invoke("loads.py:wrapped", "points.npy"), 'own keys begin with "module.": net.module.load_state_dict')
    refused(invoke("loads.py:from_gpu", "points.npy"), 'torch.load\\(..., map_location="cpu", weights_only=True\\)')
    for head, words in [
        (POINTER, "net.pt is a Git LFS pointer, .*run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "net.pt is a web page"),
        (b"", "net.pt is empty"),
    ]:
        (mine / "net.pt").write_bytes(head)
        (mine / "net.safetensors").write_bytes(head)
        refused(invoke("loads.py:loaded", "points.npy"), words)
        refused(invoke("loads.py:safe", "points.npy"), words.replace("net.pt", "net.safetensors"))


CODE = """# net, data, condition and counts: as you gave them to leapstep.diagnose
import leapstep
import torch

given = {name: torch.as_tensor(value[:16]) for name, value in condition.items()}
values, kept = torch.as_tensor(data).float(), torch.as_tensor(counts).bool()"""


@pytest.mark.parametrize(
    ("args", "is_run"),
    [
        (("mine.py:network", "labelled.npz", "--label-argument", "y", "--counts", "mask.npy"), False),
        (("mine.py:network", "labelled.npz", "--condition", "given.npz", "--counts", "mask.npy"), False),
        (("mine.py:with_all", "labelled.npz"), False),
        (("./below/my-net.py:network", "labelled.npz", "--condition", "given.npz", "--counts", "mask.npy"), False),
        (("RUN", "digits", "--split", "test", "--counts", "mask.npy"), True),
    ],
    ids=["labels", "file", "the file's own", "no module", "folder"],
)
def test_the_lines_to_paste_load_what_was_given(mine, asked, request, args, is_run):
    """Executed where the command ran, they have the very network, data, condition and mask."""
    np.savez(mine / "given.npz", y=np.arange(40) % 3)
    (mine / "below").mkdir()
    (mine / "below" / "my-net.py").write_text("def network():\n    return lambda x, timestep, **given: x\n")
    (mine / "mine.py").write_text(
        SOURCE
        + """
import numpy as np

def with_all():
    return network(), {"condition": {"y": np.arange(40) % 3}, "counts": np.ones(2)}
"""
    )
    args = (request.getfixturevalue("folder") if is_run else args[0], *args[1:])
    np.save(mine / "mask.npy", np.ones((1, 8, 8) if is_run else (2,)))
    asked["answer"] = diagnosis(code=CODE)
    result = json.loads(done(*args, "--json"))
    sys.modules.pop("mine", None)
    scope = {}
    exec(result["code"], scope)
    assert "as you gave" not in result["code"]
    assert (np.asarray(scope["data"]) == asked["data"]).all()
    assert {name: np.asarray(value).tolist() for name, value in scope["condition"].items()} == {
        name: np.asarray(value).tolist() for name, value in asked["condition"].items()
    }
    assert scope["kept"].all()
    assert callable(scope["net"])
    assert scope["given"].keys() == scope["condition"].keys()


def test_help_says_that_the_file_is_executed():
    said = " ".join(done("--help").split())
    assert "is executed" in said
    assert "only files that you trust" in said
