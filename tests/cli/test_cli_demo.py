"""`leapstep demo`: training, samples and the comparison of methods in one command."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import done, invoke, process, refused, tree
from leapstep.evaluation.page.extent import EXTENTS

# --- demo ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def demo(place):
    """A demo of three training steps, 50 in place of 1000 steps of DDPM, a small fit and page; and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("leapstep.cli.demo.ROWS", [("ddpm", 50), ("ddim", 20), ("ddim", 10), ("fitted", 3)])
        patch.setattr("leapstep.cli.demo.TUNING", {"calls": (3,), "noises": 16, "steps": 5})
        few = lambda model, data, plan, *_: (dataclasses.replace(plan, extent=EXTENTS[-1]), 0.0)  # noqa: E731
        patch.setattr("leapstep.evaluation.page.fitted", few)  # the page has its own tests
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
    assert set(rows) == {("ddpm", slow), ("ddim", 20), ("ddim", 10), ("fitted", 3), ("real digits", None)}
    assert 0 < rows["real digits", None]["distance"] == min(row["distance"] for row in results)
    assert all(row["seconds"] > 0 for row in results if row["calls"])
    for row in results:
        assert np.asarray(Image.open(out / row["grid"])).shape[1] > 40
        assert f"{row['distance']:.3f}" in said
    assert np.asarray(Image.open(out / "comparison.png")).shape[1] > 100
    assert f"leapstep sample {out / 'run'}" in said
    assert "best for 5" in said
    assert "3 calls:" in said
    assert (out / "run" / "tuned.json").is_file()
    assert "Quality by steps" in (out / "report.html").read_text()


def test_demo_compares_the_methods(demo):
    check_demo(*demo, slow=50)


@pytest.mark.slow
def test_the_whole_demo_in_a_real_process(tmp_path):
    code, said, err = process("demo", "--out", tmp_path / "demo", "--train-steps", 3, "--n", 4)
    assert code == 0, err
    check_demo(tmp_path / "demo", said, slow=1000)


def test_a_demo_that_is_stopped_names_an_option_that_it_has(tmp_path, monkeypatch):
    import leapstep.training.run as run

    def stopped(*_, **__):
        request = KeyboardInterrupt()
        request.add_note("go on with --resume")
        raise request

    monkeypatch.setattr(run, "train", stopped)
    result = invoke("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 130
    assert "--resume" not in result.stderr
    assert f"begin again with --overwrite, which replaces {tmp_path / 'demo'}" in result.stderr


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
