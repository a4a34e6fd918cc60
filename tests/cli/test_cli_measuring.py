"""Measuring in shards and by merged statistics: the same numbers, whoever draws and however much is kept."""

import json
import re

import numpy as np
import pytest

from commands import done, invoke, refused, without_seconds
from leapstep.evaluation import evaluate, sharding, tally
from leapstep.evaluation import sweep as sweeping
from leapstep.evaluation.yardstick import Measure
from leapstep.inference.spec import SamplingSpec
from leapstep.models import checkpoint
from leapstep.views import tables

FAST = ("--k", 2, "--resamples", 4, "--batch-size", 10, "--steps", 3, "--split", "all")
MERGING = ("frechet", "precision", "density", "coverage")


@pytest.fixture(scope="module")
def data(place):
    """Pairs of numbers, more than are drawn."""
    path = place / "pairs.npy"
    np.save(path, np.random.default_rng(0).normal(100, 5, (90, 2)))
    return path


real_batches = sharding.batches


def read(path):
    """A result, but for how long it took."""
    return without_seconds(json.loads(path.read_text()))


def measured(model, data, out, *options):
    done("evaluate", model, data, "--n", 75, *FAST, "--out", out, *options)
    return read(out)


@pytest.fixture(scope="module")
def one(points, data, place):
    """What one process measures, with features kept and with statistics merged."""
    return measured(points, data, place / "one.json"), measured(points, data, place / "merged.json", "--merged")


@pytest.mark.parametrize("shard", [10, 40])
@pytest.mark.parametrize("merged", [False, True])
def test_workers_measure_what_one_process_does_to_the_bit(points, data, one, tmp_path, merged, shard):
    options = ("--on", "here", "--shard", shard, *(("--merged",) if merged else ()))
    assert measured(points, data, tmp_path / "here.json", *options) == one[merged]
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["here.json"]


@pytest.mark.parametrize("on", [[], ["--on", "here"]])
def test_a_folder_that_is_named_as_that_of_shards_is_left_alone(points, data, tmp_path, on):
    """It is the user's: nothing is put there, and it is not removed with the shards."""
    (tmp_path / "out-shards").mkdir()
    (tmp_path / "out-shards" / "mine.txt").write_text("mine")
    line = ("evaluate", points, data, "--n", 20, *FAST, "--out", tmp_path / "out.json", *on)
    if on:
        refused(invoke(*line), "out-shards", "holds something else")
    else:
        done(*line)
    assert [path.name for path in (tmp_path / "out-shards").iterdir()] == ["mine.txt"]


def test_merged_statistics_measure_what_kept_features_do(one):
    kept, merged = one
    for name in MERGING:
        assert merged["metrics"][name]["value"] == pytest.approx(kept["metrics"][name]["value"], rel=1e-9), name
    assert merged["metrics"]["recall"] == kept["metrics"]["recall"]
    assert merged["memorisation"] == kept["memorisation"]
    assert "merged" not in kept["conditions"]
    assert merged["conditions"] == kept["conditions"] | {"merged": "blocks of 10; recall and copies of the first 75"}


def test_more_samples_than_are_kept_are_merged_without_being_asked(points, data, one, tmp_path, monkeypatch):
    monkeypatch.setattr(tally, "KEPT", 74)
    monkeypatch.setattr(tally, "FIRST", 25)
    found = measured(points, data, tmp_path / "more.json")
    assert found["conditions"]["merged"] == "blocks of 10; recall and copies of the first 25"
    assert {name: found["metrics"][name] for name in MERGING} == {name: one[1]["metrics"][name] for name in MERGING}
    spec = SamplingSpec(n=25, steps=3, batch_size=10)
    few = evaluate.evaluate(points, data, spec, Measure(k=2, resamples=4), split="all", tell=lambda text: None)
    assert found["metrics"]["recall"]["value"] == few.metrics["recall"].value
    assert found["memorisation"] == few.to_json()["memorisation"]
    assert (found["metrics"]["recall"]["first"], found["memorisation"]["samples"]) == (25, 25)
    said = tables.summary(found)
    assert "(first 25)" in said
    assert "of the first 25 samples are as near" in said
    monkeypatch.setattr(tally, "KEPT", 75)
    assert measured(points, data, tmp_path / "fewer.json") == one[0]


def test_samples_in_a_folder_are_merged_too(points, data, tmp_path):
    drawing = ("--n", 75, "--batch-size", 10, "--steps", 3, "--format", "npz", "--on", "here", "--shard", 30)
    done("sample", points, *drawing, "--out", tmp_path / "shards")
    args = ("evaluate", tmp_path / "shards", data, "--k", 2, "--resamples", 4, "--split", "all", "--n", 75, "--out")
    done(*args, tmp_path / "kept.json")
    done(*args, tmp_path / "merged.json", "--merged")
    kept, merged = (json.loads((tmp_path / name).read_text()) for name in ("kept.json", "merged.json"))
    for name in MERGING:
        assert merged["metrics"][name]["value"] == pytest.approx(kept["metrics"][name]["value"], rel=1e-9), name
    assert merged["conditions"]["merged"] == "blocks of 4; recall and copies of the first 75"
    assert kept["conditions"] == {name: merged["conditions"][name] for name in kept["conditions"]}


SWEEP = ("--n", 35, *FAST[:6], "--split", "all", "--methods", "ddim", "unipc", "--etas", "0", "--steps", 2, 4)


@pytest.fixture(scope="module")
def table(points, data, place):
    """What one process measures of several cells."""
    done("sweep", points, data, *SWEEP, "--out", place / "table")
    return read(place / "table" / "results.json")


def test_a_sweep_of_workers_is_that_of_one_process_and_tells_of_cells_as_they_are_done(points, data, table, tmp_path):
    said = done("sweep", points, data, *SWEEP, "--on", "here", "--shard", 30, "--out", tmp_path / "here").stderr
    assert read(tmp_path / "here" / "results.json") == table
    told = [line for line in said.splitlines() if re.match(r".*, [24] steps, ", line)]
    assert len(told) == 4
    assert [line.endswith(" left") for line in told] == [True, True, True, False]  # the last one when all is drawn
    assert not list((tmp_path / "here").glob("shards-*"))
    done("sweep", points, data, *SWEEP, "--merged", "--out", tmp_path / "merged")
    merged = read(tmp_path / "merged" / "results.json")
    for cell, same in zip(merged["cells"], table["cells"], strict=True):
        assert cell["metrics"]["frechet"]["value"] == pytest.approx(same["metrics"]["frechet"]["value"], rel=1e-9)


@pytest.mark.parametrize("where", ["drawing", "measuring"])
def test_a_sweep_of_workers_goes_on_where_it_was_stopped(points, data, table, tmp_path, monkeypatch, where):
    name, module = ("batches", sharding) if where == "drawing" else ("measured", tally.Tally)
    real, made = getattr(module, name), 0

    def stopped(*args, **options):
        nonlocal made
        made += 1
        if made == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    args = ("sweep", points, data, *SWEEP, "--on", "here", "--shard", 30, "--out", tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, stopped)
        assert invoke(*args).exit_code == 130
    assert len(json.loads((tmp_path / "again" / "results.json").read_text())["cells"]) == 2 * (where == "measuring")
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "batches", lambda *args, **given: drawn.append(args) or real_batches(*args, **given))
        done(*args)
    assert read(tmp_path / "again" / "results.json") == table
    assert len(drawn) < 8 if where == "drawing" else len(drawn) == 2  # a cell is measured when its samples are there


def test_shards_are_cut_by_a_cell_of_about_the_mean_number_of_calls(points, data):
    specs = sweeping.plan(checkpoint.load(points), methods=["ddim"], etas=[0], steps=[2, 5, 10, 40])
    assert [spec.steps for spec in sharding.order(specs)] == [10, 40, 5, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shard", 10), "--shard 10 cuts the work of --on"),
        (("--on", "slurm"), "no workers are called"),
        (("--merged", "--n", 20), "20 samples in blocks of 10: an interval .* needs 3 blocks"),
        (("--on", "torchrun"), "--out"),
    ],
)
def test_mistakes(points, data, options, words):
    refused(invoke("evaluate", points, data, *FAST, *options), words)


def test_samples_that_are_drawn_need_no_workers(data):
    refused(invoke("evaluate", data, data, "--split", "all", "--on", "here"), "drawn already")
