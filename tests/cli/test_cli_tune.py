"""`leapstep tune`, and the solvers that it fits in every command that draws samples."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from commands import done, invoke, refused, start, values, without_seconds
from leapstep import SamplingSpec
from leapstep.core.fitting.reference import Teacher
from leapstep.evaluation.page import Plan
from leapstep.evaluation.page.work import Work
from leapstep.inference import tuning
from leapstep.models import checkpoint
from leapstep.views.report import commands
from leapstep.workers import torchrun

QUICK = ("--noises", 16, "--teacher-steps", 6, "--batch-size", 16)


@pytest.fixture(scope="module")
def tuned(points, place):
    """The folder of a network on pairs of numbers, tuned for 2 and 3 calls, and what the command said."""
    run = place / "tuned-points"
    shutil.copytree(points, run)
    return run, done("tune", run, "--calls", "2,3", *QUICK)


@pytest.fixture
def run(tuned, tmp_path):
    return shutil.copytree(tuned[0], tmp_path / "run")


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_it_says_what_each_solver_is_worth_and_what_to_do_next(tuned):
    run, said = tuned
    lines = said.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["2 calls", "3 calls"]
    (found,) = checkpoint.load(run).tuned.tunings
    for line, solver in zip(lines[:2], found.solvers, strict=True):
        assert f"best untuned: {found.ranked(solver.calls)[0].error:.3g}"[:18] in line
        assert f"nearer than ddim in {found.worse_steps(solver)};" in line
    assert lines[-1] == f"now: leapstep sample {run} --method fitted --steps 3 --out samples"


def test_what_is_there_is_not_fitted_again(run):
    before = (run / "tuned.json").read_bytes()
    assert "all of these solvers are there" in done("tune", run, "--calls", 3, *QUICK).stdout
    assert (run / "tuned.json").read_bytes() == before
    refused(
        invoke("tune", run, "--calls", 4, "--noises", 32, *QUICK[2:]), "fitted with noises 16, not 32", "--overwrite"
    )
    result = json.loads(done("tune", run, "--calls", 4, "--noises", 20, *QUICK[2:], "--overwrite", "--json").stdout)
    assert [solver["calls"] for solver in result["solvers"]] == [4]


def test_a_stop_leaves_what_was_ready(run, monkeypatch):
    real = tuning.Run.results

    def stopped(self, on_call=None):
        yield next(real(self, on_call))
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning.Run, "results", stopped)
    said = invoke("tune", run, "--calls", "1,4,5", *QUICK)
    assert said.exit_code == 130
    assert "solvers of 1 numbers of calls are kept" in said.stderr
    monkeypatch.undo()
    assert [solver.calls for solver in checkpoint.load(run).tuned.tunings[0].solvers] == [1, 2, 3]


def test_its_samples_are_drawn_and_repeated_by_every_command(tuned, signals, tmp_path):
    run, _ = tuned
    draw = ("--n", 4, "--method", "fitted", "--steps", 3)
    done("sample", run, "--out", tmp_path / "a", *draw)
    first = manifest(tmp_path / "a")
    assert first["calls"] == 3
    assert len(first["spec"]["options"]["solver"]) == 12
    done("sample", run, "--out", tmp_path / "b", "--spec", tmp_path / "a" / "manifest.json")
    np.testing.assert_array_equal(values(tmp_path / "a"), values(tmp_path / "b"))
    done("sample", run, "--out", tmp_path / "c", "--spec", tmp_path / "a" / "manifest.json", "--steps", 2)
    assert manifest(tmp_path / "c")["spec"]["steps"] == 2
    done("sample", run, "--out", tmp_path / "d", "--spec", tmp_path / "a" / "manifest.json", "--method", "ddim")
    assert manifest(tmp_path / "d")["spec"]["times"] is None
    done("trace", run, "--out", tmp_path / "trace", *draw[2:])
    assert [row["steps"] for row in manifest(tmp_path / "trace")["consistency"]] == [2, 3]
    measured = done("evaluate", run, signals, "--split", "all", *draw[2:], "--n", 8, "--resamples", 3)
    assert "fitted, 3 steps, times of its own" in measured.stdout


def test_auto_is_what_it_stands_for_in_the_manifest(tuned, points, tmp_path):
    for model, method in ((tuned[0], "fitted"), (points, "unipc")):
        done("sample", model, "--out", tmp_path / method, "--n", 2, "--method", "auto", "--steps", 3)
        assert manifest(tmp_path / method)["spec"]["method"] == method


def test_a_sweep_has_it_where_it_is_there(tuned, signals, tmp_path):
    run, _ = tuned
    out = ("--out", tmp_path / "sweep", "--n", 8, "--resamples", 3, "--split", "all")
    done("sweep", run, signals, "--methods", "ddim,fitted", "--etas", 0, "--steps", "2,3,5", *out)
    cells = json.loads((tmp_path / "sweep" / "results.json").read_text())["cells"]
    assert [(cell["label"], cell["steps"], cell["spacing"]) for cell in cells] == [
        ("ddim, η = 0", 2, "trailing"),
        ("fitted", 2, ""),
        ("ddim, η = 0", 3, "trailing"),
        ("fitted", 3, ""),
        ("ddim, η = 0", 5, "trailing"),
    ]
    assert "| fitted |" in (tmp_path / "sweep" / "table.md").read_text()
    refused(invoke("sweep", run, signals, "--methods", "fitted", "--steps", 5, *out[:2]), "tune MODEL --calls 5")
    refused(invoke("sweep", run, signals, "--methods", "auto", *out[:2]), "--methods auto")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("sample", "--steps", 4), "solvers with 2, 3 calls for such samples: run leapstep tune MODEL --calls 4"),
        (("sample", "--steps", 3, "--spacing", "karras"), "--spacing karras: a fitted solver has its own times"),
        (("interpolate", "--seeds", "3,7", "--steps", 3), "--method fitted: it was fitted to paths from noise to data"),
    ],
)
def test_what_it_cannot_do_is_a_line(tuned, tmp_path, words, expected):
    name, *rest = words
    refused(invoke(name, tuned[0], *rest, "--method", "fitted", "--out", tmp_path / "x"), expected)
    assert not (tmp_path / "x").exists()


def test_data_do_not_go_back_to_noise_by_it(tuned, signals, tmp_path):
    words = ("--split", "all", "--steps", "2,3", "--method", "fitted", "--out", tmp_path / "x")
    refused(invoke("reconstruct", tuned[0], signals, *words), "--method fitted: it was fitted to paths from noise")


def test_a_run_folder_is_made_for_a_model_that_lies_elsewhere(points, tmp_path):
    done("tune", points, "--calls", 2, *QUICK, "--out", tmp_path / "run")
    assert not (points / "tuned.json").exists()
    done("sample", tmp_path / "run", "--n", 2, "--method", "fitted", "--steps", 2, "--out", tmp_path / "s")
    done("tune", points, "--calls", 3, *QUICK, "--out", tmp_path / "run")
    assert [solver.calls for solver in checkpoint.load(tmp_path / "run").tuned.tunings[0].solvers] == [2, 3]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    refused(invoke("tune", points, *QUICK, "--out", tmp_path / "other"), "holds something else")


def test_the_moments_may_be_those_of_data(points, signals, tmp_path):
    done("tune", points, "--calls", 2, *QUICK, "--out", tmp_path / "run", "--data", signals)
    model = checkpoint.load(tmp_path / "run")
    (law,) = model.tuned.laws.values()
    expected = model.scaling.to_model(np.load(signals)).mean(0)
    np.testing.assert_allclose(law.mean, expected, atol=1e-4)
    assert "signals.npy" in model.tuned.tunings[0].teacher["moments"]


def test_a_page_has_its_numbers_of_steps_and_ddim_for_latents(tuned):
    work = Work(checkpoint.load(tuned[0]), Plan(SamplingSpec("fitted", steps=3)))
    assert work.counts((10, 50, 1000), work.spec) == [2, 3]
    assert (work.certain.method, work.certain.steps, work.certain.spacing) == ("ddim", 20, "trailing")
    assert commands._method(work.spec) == ["--method", "fitted"]


def test_python_finds_the_same_solver(tuned):
    model = checkpoint.load(tuned[0])
    spec = SamplingSpec("fitted", steps=2).checked(model)
    assert spec.times == model.tuned.tunings[0].solvers[0].times


# --- by workers ----------------------------------------------------------------------------------------------------


def found_in(run):
    return without_seconds(json.loads((run / "tuned.json").read_text()))


def test_workers_fit_the_very_solvers_of_one_process(tuned, points, tmp_path, monkeypatch):
    """Also when they were stopped: neither a path of the teacher nor a fit is made twice."""
    run, said = tuned
    again = shutil.copytree(points, tmp_path / "run")
    line = ["tune", again, "--calls", "2,3", *QUICK, "--on", "here"]
    followed, fitted, real = [], [], (Teacher.followed, tuning.Run.fitted)

    def follow(teacher, number):
        followed.append(number)
        return real[0](teacher, number)

    def fit(self, reference, calls, *more):
        fitted.append(calls)
        if fitted == [2, 3]:
            raise KeyboardInterrupt
        return real[1](self, reference, calls, *more)

    monkeypatch.setattr(Teacher, "followed", follow)
    monkeypatch.setattr(tuning.Run, "fitted", fit)
    assert invoke(*line).exit_code == 130
    assert not (again / "tuned.json").exists()
    text = done(*line).stdout
    assert (followed, fitted) == ([0, 1, 2], [2, 3, 3])
    assert [one.partition(";")[0] for one in text.splitlines()[:2]] == [
        one.partition(";")[0] for one in said.stdout.splitlines()[:2]
    ]
    assert found_in(again) == found_in(run)
    for name in ("tuned.safetensors", "moments.safetensors"):
        ours, theirs = (load_file(folder / name) for folder in (again, run))  # metadata come in any order
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not (again / "tuned.shards").exists()


def test_the_first_process_of_torchrun_writes_the_solvers(tuned, points, tmp_path, monkeypatch):
    """Here it makes what a second process, which died, has left."""
    run, _ = tuned
    again = shutil.copytree(points, tmp_path / "run")
    line = ["tune", again, "--calls", "2,3", *QUICK, "--on", "torchrun"]
    monkeypatch.setattr(torchrun, "LEFT", 0.0)
    monkeypatch.setattr(torchrun, "TIMES", 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        said = done(*line).stdout
    assert "the first one writes" in said
    assert found_in(again) == found_in(run)
    assert not (again / "tuned.shards").exists()


@pytest.mark.slow
def test_processes_of_torchrun_fit_the_very_solvers_of_one(tuned, points, tmp_path):
    run, _ = tuned
    out = tmp_path / "run"
    line = ["tune", points, "--calls", "2,3", *QUICK, "--on", "torchrun", "--out", out]
    ranks = [start(*line, RANK=str(number), WORLD_SIZE="2") for number in range(2)]
    said = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert found_in(out) == found_in(run)
    assert not (out / "tuned.shards").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--on", "here", "--budget", "5m"], ["--budget 5m", "leave it out"]),
        (["--on", "nobody"], ["nobody"]),
    ],
)
def test_what_workers_cannot_fit(run, more, words):
    refused(invoke("tune", run, *QUICK, *more), *words)
