"""`leapstep sample --on`: samples in shards are those of one process, however they were cut, stopped, gone on with."""

import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest

import leapstep
from commands import done, invoke, refused, tree, values
from leapstep.data import read, shards
from leapstep.inference import engine, sharding
from leapstep.inference.writing import first_samples
from leapstep.workers import devices
from leapstep.workers.job import sha256_of

DIGITS = "--n 11 --steps 3 --batch-size 2 --label 3 7 1 --seed 5 --device cpu".split()  # noqa: SIM905
CUT = [*DIGITS, "--on", "here", "--shard", 4]


@pytest.fixture(scope="module")
def whole(digits_model, tmp_path_factory):
    """The samples of one process, without shards."""
    out = tmp_path_factory.mktemp("whole") / "s"
    done("sample", digits_model, "--out", out, *DIGITS, "--format", "npz")
    return out


@pytest.fixture(scope="module")
def cut(digits_model, tmp_path_factory):
    """The same in shards, of each form."""
    place = tmp_path_factory.mktemp("cut")
    for form in shards.FORMS:
        done("sample", digits_model, "--out", place / form, *CUT, "--format", form)
    return place


@pytest.mark.parametrize("form", list(shards.FORMS))
def test_shards_hold_the_samples_of_one_process(whole, cut, form):
    with np.load(whole / "samples.npz") as arrays:
        data = read(cut / form, split="all")
        np.testing.assert_array_equal(data.values, arrays["samples"], strict=True)
        np.testing.assert_array_equal(data.labels, arrays["labels"])
        np.testing.assert_array_equal(first_samples(cut / form, 5), arrays["samples"][:5])
    assert (cut / form / "grid.png").read_bytes() == (whole / "grid.png").read_bytes()
    manifest, before = (json.loads((folder / "manifest.json").read_text()) for folder in (cut / form, whole))
    own = ("format", "execution", "seconds", "classes", "shards", "model")
    assert {name: value for name, value in manifest.items() if name not in own} == {
        name: value for name, value in before.items() if name not in own
    }
    assert manifest["format"] == form
    assert manifest["classes"] == list(leapstep.load(manifest["model"]).classes)
    paths = [cut / form / shard["file"] for shard in manifest["shards"]]
    assert paths == shards.of_folder(cut / form).paths
    assert [(shard["first"], shard["n"]) for shard in manifest["shards"]] == [(0, 4), (4, 4), (8, 3)]
    assert [shard["sha256"] for shard in manifest["shards"]] == [sha256_of(path) for path in paths]
    assert {shard["device"] for shard in manifest["shards"]} == {devices.described("cpu")}


def test_arrays_are_cut_too_and_may_begin_anywhere(point_model, tmp_path):
    given = ["sample", point_model, "--n", 12, "--steps", 2, "--batch-size", 4, "--first", 4]
    done(*given, "--out", tmp_path / "whole")
    for form in ("npz", "parquet", "webdataset"):
        done(*given, "--out", tmp_path / form, "--format", form, "--on", "here", "--shard", 8)
        np.testing.assert_array_equal(read(tmp_path / form).values, values(tmp_path / "whole"), strict=True)
        assert not (tmp_path / form / "grid.png").exists()
    names = [item.name.rpartition(" ")[2] for item in shards.of_folder(tmp_path / "webdataset").items()]
    assert names == [f"{i:07d}" for i in range(4, 16)]
    refused(
        invoke(*given, "--out", tmp_path / "png", "--format", "png", "--on", "here"), "npz or parquet or webdataset"
    )


def test_a_form_may_ask_for_shards(digits_model, tmp_path):
    done("sample", digits_model, "--out", tmp_path / "s", *DIGITS, "--format", "webdataset")
    assert {path.suffix for path in shards.of_folder(tmp_path / "s").paths} == {".tar"}


@pytest.mark.parametrize("form", ["npz", "png"])
def test_a_stopped_job_goes_on_to_the_same_bytes(digits_model, cut, tmp_path, monkeypatch, form):
    out, drawn, real, suffix = tmp_path / "s", [], sharding.draw, shards.FORMS[form].suffix

    def stopped(model, spec, **options):
        if spec.first == 4:
            raise KeyboardInterrupt
        return real(model, spec, **options)

    def counted(model, spec, **options):
        drawn.append(range(spec.first, spec.first + spec.n))
        return real(model, spec, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "draw", stopped)
        result = invoke("sample", digits_model, "--out", out, *CUT, "--format", form)
        assert result.exit_code == 130
        assert "1 of 3 shards are kept" in result.stderr
    assert json.loads((out / "manifest.json").read_text())["finished"] == 0
    assert len(read(out, split="all")) == 4  # what is there can be read
    said = json.loads(done("info", out, "--json").stdout)
    assert (said["there"], said["problems"]) == ("4 of 11 samples", [f"00001{suffix} to 00002{suffix}: missing"])
    monkeypatch.setattr(sharding, "draw", counted)
    refused(invoke("sample", digits_model, "--out", out, *CUT, "--format", form), "not empty: --resume it")
    done("sample", digits_model, "--out", out, *DIGITS, "--resume")  # the folder knows of its shards and their format
    assert drawn == [range(4, 8), range(8, 11)]
    for _ in range(2):
        ours, theirs = ({k: v for k, v in tree(folder).items() if "json" not in k} for folder in (out, cut / form))
        assert ours == theirs
        done("sample", digits_model, "--out", out, *CUT, "--format", form, "--resume")
    assert len(drawn) == 2


def test_to_go_on_needs_the_same_job(digits_model, whole, cut, tmp_path):
    given = ["sample", digits_model, "--resume", "--format", "npz"]
    before = tree(cut / "npz")
    for words, said in [
        ([*CUT, "--seed", 6], "seed 5, not 6"),
        ([*CUT, "--steps", 4], "steps 3, not 4"),
        ([*DIGITS, "--format", "png"], "npz"),
        ([*DIGITS, "--on", "here", "--shard", 6], "shards of 4, not 6"),
        ([*CUT, "--dtype", "bfloat16"], "bfloat16"),
    ]:
        refused(invoke(*given, "--out", cut / "npz", *words), said)
    assert tree(cut / "npz") == before
    refused(invoke(*given, "--out", whole, *CUT), "not in shards")
    done(*given, "--out", cut / "npz", *CUT, "--dtype", "float32")  # which is what auto has become
    done("sample", digits_model, "--spec", cut / "npz" / "manifest.json", "--out", cut / "npz", "--resume")


def test_shards_and_other_samples_replace_each_other(digits_model, tmp_path):
    out, given = tmp_path / "s", ["sample", digits_model, "--out", tmp_path / "s", *DIGITS, "--overwrite"]
    for words, names in [
        ([], {"00000.png", "00010.png", "grid.png", "manifest.json"}),
        (["--on", "here", "--shard", 4, "--format", "png"], {"00000", "00002", "job.json", "manifest.json"}),
        (["--on", "here", "--shard", 4], {"00000.npz", "00002.npz", "job.json", "grid.png"}),
        (["--format", "npz"], {"samples.npz", "grid.png", "manifest.json"}),
    ]:
        done(*given, *words)
        there = {path.name for path in out.iterdir()}
        assert names <= there
        assert ("job.json" in names) == ("job.json" in there)
        assert not ("samples.npz" in names and "00000.npz" in there)
    (out / "20261122").mkdir()
    (out / "20261122" / "notes.txt").write_text("mine")
    done(*given, "--on", "here")
    assert (out / "20261122" / "notes.txt").read_text() == "mine"


def test_a_dtype_is_chosen_once_for_all_workers(digits_model, tmp_path, monkeypatch):
    chosen = []

    def choose(model, spec):
        chosen.append(spec.n)
        return sharding.Execution("bfloat16", channels_last=True, speedup=2.0)

    monkeypatch.setattr(sharding, "choose", choose)
    result = done("sample", digits_model, "--out", tmp_path / "s", *CUT)
    assert "computing in bfloat16" in result.stderr
    settled = json.loads((tmp_path / "s" / "job.json").read_text())["settled"]
    assert (settled["dtype"], settled["execution"]["memory_format"]) == ("bfloat16", "channels_last")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert (manifest["spec"]["dtype"], manifest["execution"]["memory_format"]) == ("bfloat16", "channels_last")
    shards.of_folder(tmp_path / "s").paths[1].unlink()
    before = tree(tmp_path / "s")
    done("sample", digits_model, "--out", tmp_path / "s", *CUT, "--resume")
    assert chosen == [11]
    model = leapstep.load(digits_model)
    spec = leapstep.SamplingSpec.read(tmp_path / "s" / "manifest.json")
    drawn = engine.draw(model, spec, execution=sharding.Execution("bfloat16", channels_last=True))
    expected = np.concatenate([engine.values(model, x) for _, x in drawn])
    np.testing.assert_array_equal(read(tmp_path / "s", split="all").values, expected)
    assert {k: v for k, v in tree(tmp_path / "s").items() if k.endswith("0.npz")}.items() <= before.items()


def test_shards_are_measured_as_the_same_samples(whole, cut, tmp_path):
    results = []
    for samples in (whole, *(cut / form for form in shards.FORMS)):
        done(
            "evaluate",
            samples,
            "digits",
            "--resamples",
            2,
            "--metrics",
            "frechet",
            "--out",
            tmp_path / "r.json",
            "--overwrite",
        )
        results.append(json.loads((tmp_path / "r.json").read_text()))
    assert results[0]["evaluation"]["spec"]["seed"] == 5
    assert all(result["metrics"] == results[0]["metrics"] for result in results)
    assert all(result["evaluation"]["spec"] == results[0]["evaluation"]["spec"] for result in results)


@pytest.mark.parametrize("form", ["npz", "png"])
def test_what_is_damaged_is_found_and_made_anew(digits_model, cut, tmp_path, form):
    """A shard that has become longer, one with other bytes, one that is missing, one too many."""
    out, suffix = tmp_path / "s", shards.FORMS[form].suffix
    shutil.copytree(cut / form, out)
    first, second, third = (out / f"0000{i}{suffix}" for i in range(3))
    inner = {"npz": (first, second), "png": (first / "0000000.png", second / "0000004.png")}[form]
    inner[0].write_bytes(inner[0].read_bytes() + b" ")
    refused(invoke("evaluate", out, "digits"), first.name, "bytes, and was made with")
    whole = inner[1].read_bytes()
    inner[1].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    third.rename(out / f"00004{suffix}")
    refused(invoke("info", out, "--discard"), "--verify")
    for words in ([], ["--discard"]):
        result = invoke("info", out, "--verify", *words)
        assert result.exit_code == 1
        said = {name: line for name, _, line in (line.partition(": ") for line in result.stdout.splitlines())}
        assert re.fullmatch(r"\d+ bytes, and made with \d+", said[first.name])
        assert said[second.name] == "another SHA-256 than when it was made"
        assert said[third.name] == "missing"
        assert said[f"00004{suffix}"] == "none of these shards: move it away"
    assert not first.exists()
    assert not second.exists()
    refused(invoke("evaluate", out, "digits"), first.name, "missing")
    (out / f"00004{suffix}").rename(tmp_path / "away")
    go_on = json.loads(done("info", out, "--json").stdout)["go_on"]
    assert f"what is missing is made by: {go_on}\n" in invoke("info", out, "--verify").stdout
    done(*shlex.split(go_on)[1:], "--device", "cpu")
    done("info", out, "--verify")
    ours, theirs = ({k: v for k, v in tree(folder).items() if "json" not in k} for folder in (out, cut / form))
    assert ours == theirs
    shutil.copytree(out / third.name, out / f"00004{suffix}") if form == "png" else (out / "00004.npz").touch()
    refused(invoke("evaluate", out, "digits"), "none of the shards")


def test_a_folder_says_what_it_holds(digits_model, whole, cut):
    said = json.loads(done("info", cut / "parquet", "--json").stdout)
    assert said["holds"] == f"samples of {digits_model}"
    assert (said["format"], said["there"], said["shards"]) == ("parquet", "11 of 11 samples", "3 of 3, of 4 each")
    assert (said["spec"]["seed"], said["spec"]["labels"]) == (5, [3, 7, 1])
    assert said["devices"] == [devices.described("cpu")]
    assert "go_on" not in said
    assert "problems" not in said
    said = done("info", whole).stdout
    assert "11 of 11 samples" in said
    assert "shards" not in said
    refused(invoke("info", whole, "--verify"), "not in shards")
    refused(invoke("info", digits_model, "--verify"), "no folder of samples")


def test_what_is_asked_for_is_looked_at_first(digits_model, tmp_path):
    given = ["sample", digits_model, "--out", tmp_path / "s"]
    refused(invoke(*given, "--on", "mars"), "mars")
    refused(invoke(*given, "--shard", 5), "--on")
    refused(invoke(*given, "--on", "here", "--shard", 0), "at least 1")
    refused(invoke(*given, "--on", "here", "--format", "zip"), "--format zip", "parquet")
    assert not (tmp_path / "s").exists()


def test_a_format_without_its_library_begins_no_folder(digits_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    given = ["sample", digits_model, "--n", 4, "--steps", 1, "--format", "parquet", "--out", tmp_path / "s"]
    refused(invoke(*given), r"pip install 'leapstep\[datasets\]'")
    assert not (tmp_path / "s").exists()
