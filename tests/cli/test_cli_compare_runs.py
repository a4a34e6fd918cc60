"""Training runs side by side: the numbers are those of their logs and records, and no name acts on the page."""

import json
import shutil

import pytest
from torch.utils.tensorboard import SummaryWriter

import leapstep
from commands import done, invoke, refused
from leapstep.evaluation.page.contents import Curve
from leapstep.evaluation.page.folder import HELD_OUT
from leapstep.evaluation.runs import differences, read_runs, unlike
from leapstep.models import checkpoint
from leapstep.views.runs import compare

HOSTILE = "<script>alert(1)</script>"


def logged(folder, source, speeds, held_out, **training):
    """A copy of a run folder with another log and other settings; speeds in samples a second, every ten steps."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("state", "log"))
    path = folder / "leapstep.json"
    said = json.loads(path.read_text())
    said["training"] |= training
    said.pop("losses", None)
    path.write_text(json.dumps(said))
    for part, values in enumerate(speeds):  # a process each
        with SummaryWriter(str(folder / "log")) as writer:
            for i, speed in enumerate(values):
                step = 10 * (2 * part + i + 1)
                writer.add_scalar("samples_per_second", speed, step)
                writer.add_scalar("loss", 1 / step, step)
                writer.add_scalar(HELD_OUT, held_out[2 * part + i], step)
    return folder


@pytest.fixture
def runs(run, tmp_path):
    a = logged(tmp_path / "a", run, [(32.0, 64.0)], (0.5, 0.25))
    b = logged(
        tmp_path / "b", run, [(32.0, 32.0), (16.0, 16.0)], (0.5, 0.25, 0.125, 0.375), learning_rate=0.5, dropout=0.25
    )
    return a, b


def test_time_is_that_of_the_steps(runs):
    """At 32 samples a step; a second process counts from where the first one stopped."""
    a, b = read_runs(runs)
    assert a.seconds == Curve((10, 20), (10.0, 15.0))
    assert b.seconds == Curve((10, 20, 30, 40), (10.0, 20.0, 40.0, 60.0))
    assert b.over_seconds(HELD_OUT) == Curve((10, 20, 40, 60), (0.5, 0.25, 0.125, 0.375))
    assert (a.took, a.speed) == (15.0, 20 / 15)
    assert b.losses == {"last": {"step": 40, "held_out": 0.375}, "least": {"step": 30, "held_out": 0.125}}


def test_only_what_differs_is_a_difference(runs):
    found = read_runs(runs)
    assert differences(found) == {"learning_rate": [0.003, 0.5], "dropout": [0.0, 0.25]}
    assert unlike(found) == []
    said = json.loads((runs[1] / "leapstep.json").read_text())
    said["training"] |= {"loss": "min_snr", "log_every": 1}
    (runs[1] / "leapstep.json").write_text(json.dumps(said))
    assert unlike(read_runs(runs)) == ["loss"]
    assert "Losses are not comparable as they are: loss differ" in compare(runs).text


def test_the_page_and_the_table(runs, tmp_path):
    weights = checkpoint.fingerprint(leapstep.load(runs[0]).network)
    conditions = {"n": 500, "features": "pixels", "features_sha256": "0" * 64}
    made = {
        "model": "m",
        "label": "DDIM",
        "spec": {"method": "ddim", "steps": 20},
        "calls": 20,
        "weights_sha256": weights,
    }
    metrics = {"frechet": {"value": 1.25, "low": 1.0, "high": 1.5}}
    (runs[0] / "quality.json").write_text(
        json.dumps({"evaluation": made, "conditions": conditions, "metrics": metrics})
    )
    said = done("compare", *runs, "--out", tmp_path / "page.html").stdout
    assert "| learning_rate | 0.003 | 0.5 |" in said
    assert "| held-out loss, least | 0.25 at step 20 | 0.125 at step 30 |" in said
    assert "| time | 15 s | 60 s |" in said
    html = (tmp_path / "page.html").read_text()
    assert "Plot over the seconds of training: a from 0.5 to 0.25; b from 0.5 to 0.375." in html
    assert "1.25 ± 0.25" in html
    assert html.count("Samples of ") == 2
    assert "same start noise" in html
    refused(invoke("compare", *runs, "--out", tmp_path / "page.html"), "exists", "--overwrite")


def test_a_name_of_a_run_or_of_data_does_not_act(runs, tmp_path):
    hostile = runs[0].rename(tmp_path / HOSTILE.replace("/", "|"))
    said = json.loads((hostile / "leapstep.json").read_text())
    said["data"]["source"] = f"{HOSTILE}\n| x"
    (hostile / "leapstep.json").write_text(json.dumps(said))
    made = compare([hostile, runs[1]], tmp_path / "page.html")
    assert "alert(1)" in made.html
    assert "<script>alert" not in made.html
    lines = [line for line in made.text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {4}


def test_broken_grids_and_missing_logs_are_left_out(runs):
    (grid,) = (runs[0] / "samples").glob("step-*.png")
    grid.write_bytes(b"not a picture")
    shutil.rmtree(runs[0] / "log")
    made = compare(runs)
    assert made.runs[0].grid is None
    assert "a has no TensorBoard log with curves." in made.text


def test_what_is_nothing_to_compare(runs):
    with pytest.raises(ValueError, match="named twice"):
        compare([runs[0], runs[0]])
    with pytest.raises(ValueError, match="name two or more"):
        compare([runs[0]])
    refused(invoke("compare", *runs, "--metric", "kernel"), "--metric kernel is for results")


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    """By the folders above, and by numbers where even these are too long."""
    long = tmp_path / ("x" * 70)
    found = []
    for above in ("a", "b", *("y" * 60 + end for end in "12")):
        folder = long / above / "run"
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("state", "log", "samples"))
        found.append(folder)
    assert [each.name for each in read_runs(found[:2])] == ["a/run", "b/run"]
    assert len({each.name for each in read_runs(found[2:])}) == 2
