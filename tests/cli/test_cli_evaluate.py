"""`leapstep evaluate`, `sweep` and `compare`, against what the library computes for the same ends."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import leapstep
from commands import done, invoke, refused, tree
from leapstep.data import holdout, read
from leapstep.evaluation import cells as quality
from leapstep.evaluation import distances as evaluation
from leapstep.evaluation import drawing, features, yardstick
from leapstep.evaluation import sweep as sweeping
from leapstep.files import folders
from leapstep.models import checkpoint
from leapstep.views import tables
from random_models import CLASSES

FAST = ("--n", 12, "--k", 2, "--resamples", 4)


@pytest.fixture(scope="session")
def insects(place):
    """A folder of pictures; of testing, more ants than bees than cats."""
    rng = np.random.default_rng(0)
    for split, counts in (("test", (12, 8, 4)), ("train", (10, 10, 10))):
        for name, count in zip(CLASSES, counts, strict=True):
            folder = place / "swarm" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture = np.kron(rng.integers(0, 256, (4, 4)), np.ones((2, 2))).astype(np.uint8)
                Image.fromarray(picture).save(folder / f"{i}.png")
    return place / "swarm"


def result(*args):
    return json.loads(done("evaluate", *args, "--json").stdout)


# --- evaluate ------------------------------------------------------------------------------------------------------


def test_it_measures_what_the_library_measures_and_says_under_which_conditions(model, insects):
    found = result(model, insects, *FAST, "--steps", 3, "--method", "heun", "--seed", 5)
    loaded, held = checkpoint.load(model), read(insects, split="test")
    labels = torch.from_numpy(held.labels)[torch.from_numpy(yardstick.interleaved(held.labels))][:12]
    assert torch.bincount(labels).tolist() == [6, 4, 2]  # as often as in the reference
    states = []
    x = leapstep.sample(loaded.diffusion(labels), (12, 1, 8, 8), 3, leapstep.heun(), seed=5, on_step=states.append)
    space = features.load("pixels", held)
    seen = space.extract(loaded.scaling.to_pixels(x))
    expected = evaluation.frechet_distance(seen, space.extract(held.values))
    assert found["metrics"]["frechet"]["value"] == pytest.approx(expected, rel=1e-3)
    assert set(found["metrics"]) == {"frechet", "kernel", "precision", "recall", "density", "coverage"}
    assert found["evaluation"]["calls"] == states[-1].calls > 3
    assert found["evaluation"]["weights_sha256"] == checkpoint.fingerprint(loaded.network)
    under = found["conditions"]
    assert under["features_sha256"] == space.hash
    assert under["data_sha256"] == features.fingerprint(held)
    assert (under["n"], under["seed"], under["reference"], under["split"], under["k"]) == (12, 5, 24, "test", 2)
    assert under["labels"] == "as often as in the reference"
    assert under["ema"] is None
    assert set(under["versions"]) == {"leapstep", "torch"}


def test_every_option_changes_what_is_measured(model, insects):
    base = [model, insects, *FAST, "--steps", 3]
    first = result(*base)["metrics"]
    for option in (
        ["--seed", 1],
        ["--n", 14],
        ["--label", "bee"],
        ["--spacing", "leading"],
        ["--set", "eta=1"],
        ["--label", "ant", "--guidance", 3],
        ["--split", "train"],
        ["--method", "heun"],
    ):
        assert result(*base, *option)["metrics"]["frechet"] != first["frechet"], option
    assert result(*base, "--batch-size", 5)["metrics"]["frechet"]["value"] == pytest.approx(
        first["frechet"]["value"], rel=1e-2
    )
    assert list(result(*base, "--metrics", "kernel", "recall")["metrics"]) == ["kernel", "recall"]
    assert result(*base, "--metrics", "kernel,recall", "--k", 4)["metrics"]["recall"] is not None
    assert result(*base, "--label", "ant,bee")["conditions"]["labels"] == ["ant", "bee"]


def test_samples_in_a_folder_are_measured_as_those_of_the_model(model, insects, tmp_path):
    for form in ("png", "npz"):
        asked = ["--n", 12, "--steps", 3, "--seed", 5, "--label", "bee"]
        done("sample", model, *asked, "--format", form, "--out", tmp_path / form)
        folder = result(tmp_path / form, insects, *FAST)
        direct = result(model, insects, *FAST, "--steps", 3, "--seed", 5, "--label", "bee")
        assert folder["metrics"]["frechet"]["value"] == pytest.approx(direct["metrics"]["frechet"]["value"], rel=1e-2)
        assert folder["evaluation"]["spec"]["method"] == "ddim"
        assert folder["evaluation"]["weights_sha256"] == direct["evaluation"]["weights_sha256"]
        assert (folder["conditions"]["n"], folder["conditions"]["seed"]) == (12, 5)
    again = result(tmp_path / "npz", insects, *FAST, "--n", 7)
    assert again["conditions"]["n"] == 7
    with np.load(tmp_path / "npz" / "samples.npz") as arrays:  # a drawing that was stopped
        np.save(tmp_path / "npz" / "part.npy", arrays["samples"][:9])
    (tmp_path / "npz" / "samples.npz").unlink()
    assert result(tmp_path / "npz", insects, *FAST)["conditions"]["n"] == 9


def test_real_data_are_nearer_than_samples_of_a_network_that_knows_nothing(model, insects):
    real = result(insects / "train", insects, *FAST, "--n", 30)["metrics"]["frechet"]["value"]
    made = result(model, insects, *FAST, "--n", 30)["metrics"]["frechet"]["value"]
    assert real < made / 2


def test_copies_of_training_data_are_found_and_drawn(insects, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    for i, path in enumerate(sorted((insects / "train").rglob("*.png"))[:6]):
        shutil.copy(path, copies / f"{i}.png")
    rng = np.random.default_rng(1)
    for i in range(6, 12):
        far = np.kron(rng.integers(0, 2, (4, 4)) * 255, np.ones((2, 2))).astype(np.uint8)
        Image.fromarray(far).save(copies / f"{i}.png")
    found = result(copies, insects, *FAST, "--pairs", tmp_path / "pairs.png")
    assert found["memorisation"]["training"] == 30
    assert found["memorisation"]["share"]["value"] == pytest.approx(0.5)
    with Image.open(tmp_path / "pairs.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20
    assert "Copies: 50 % of" in done("evaluate", copies, insects, *FAST).stdout
    relative = found["memorisation"]["relative"]
    assert 0 <= relative["low"] <= relative["value"] <= relative["high"]
    plain = result(copies, insects / "train", *FAST, "--pairs", tmp_path / "plain.png")["memorisation"]
    assert plain["known"] == "other training data"
    assert plain["share"]["value"] == pytest.approx(0.5)
    assert [row[:2] for row in plain["nearest"]][:6] == [row[:2] for row in found["memorisation"]["nearest"]][:6]
    with Image.open(tmp_path / "plain.png") as picture:
        assert picture.height > 150  # captions above each
    refused(
        invoke("evaluate", copies, insects, *FAST, "--train-split", "validation", "--pairs", tmp_path / "p.png"),
        "validation",
    )


@pytest.fixture
def run(model, insects, tmp_path):
    """A run that was trained on a plain folder, of which it held out six samples."""
    path, source = shutil.copytree(model, tmp_path / "run"), insects / "train"
    details = json.loads((path / "leapstep.json").read_text())
    chosen = holdout.choose(read(source, split="all"), "6").model_dump()
    details["data"] |= {"source": str(source), "samples": 24, "holdout": chosen}
    (path / "leapstep.json").write_text(json.dumps(details))
    return path


def test_a_run_is_measured_against_what_it_held_out_without_being_asked(run, insects, tmp_path):
    said = done("evaluate", run, *FAST, "--steps", 2, "--out", tmp_path / "e.json")
    assert "has no part test" not in said.stderr
    found = json.loads((tmp_path / "e.json").read_text())
    assert (
        found["conditions"] | {"data": str(insects / "train"), "split": "test", "reference": 6} == found["conditions"]
    )
    assert found["relation"] == "held-out"
    assert found["memorisation"]["training"] == 24
    assert found["memorisation"]["known"] == "data that were not trained on"
    assert f"6 of {insects / 'train'} (test), which the model was not trained on" in said.stdout
    assert re.search(
        r"samples are [\d.]+ times as far as data that were not trained on are \(medians; 95 %", said.stdout
    )
    swept(run, insects / "train", tmp_path / "s", "--methods", "unipc", "--etas", "0")
    assert "which the model was not trained on" in (tmp_path / "s" / "table.md").read_text()
    done("sample", run, "--n", 12, "--steps", 2, "--out", tmp_path / "samples")
    again = result(tmp_path / "samples", *FAST)  # whose manifest says what the model was trained on
    assert (again["conditions"]["reference"], again["relation"]) == (6, "held-out")


def test_a_reference_that_was_trained_on_is_called_so_in_every_table(run, tmp_path):
    for split in ("train", "all"):
        said = done("evaluate", run, *FAST, "--steps", 2, "--split", split, "--out", tmp_path / f"{split}.json").stdout
        assert f"({split}), which the model was trained on: a copy of them would do best" in said
        assert "times as far as other training data" in said
    done("sweep", run, "--out", tmp_path / "s", "--split", "all", "--methods", "unipc", "--steps", 2, *FAST)
    assert "which the model was trained on: a copy of them" in (tmp_path / "s" / "table.md").read_text()
    done("evaluate", run, *FAST, "--steps", 2, "--out", tmp_path / "test.json")
    told = done("compare", tmp_path / "s", tmp_path / "all.json", tmp_path / "test.json").stdout
    assert f"{tmp_path / 's'}, {tmp_path / 'all.json'}: against data which the model was trained on" in told


def test_pictures_that_are_made_to_fit_are_named(model, insects, tmp_path):
    for i, path in enumerate(sorted((insects / "test").rglob("*.png"))):
        with Image.open(path) as picture:
            larger = picture.resize((20, 16)) if i < 20 else picture.copy()
        (tmp_path / "d" / path.parent.name).mkdir(parents=True, exist_ok=True)
        larger.save(tmp_path / "d" / path.parent.name / path.name)
    args = ["--split", "all", *FAST, "--steps", 2]
    said = done("evaluate", model, tmp_path / "d", *args).stderr
    assert f"{tmp_path / 'd'}: 20 images of 20x16 are cropped to squares and resized to 8x8, as the samples are" in said
    assert "as the samples are" not in done("evaluate", model, insects, *args).stderr


def test_a_model_that_does_not_say_what_it_was_trained_on_needs_data(model, insects):
    refused(invoke("evaluate", model, *FAST), "name real data")
    refused(invoke("sweep", model, "--out", "nowhere", *FAST), "name real data")
    refused(invoke("evaluate", insects / "train", *FAST), "name real data")


def test_what_is_no_picture_is_measured_too(points, place, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "points.npz", x=rng.normal(100, 5, (40, 2)))
    found = result(points, tmp_path / "points.npz", "--split", "all", *FAST)
    assert found["metrics"]["frechet"]["value"] > 0
    assert found["memorisation"]["known"] == "other training data"
    args = ["evaluate", points, tmp_path / "points.npz", "--split", "all", *FAST]
    refused(invoke(*args, "--pairs", tmp_path / "p.png"), "pictures")


def test_the_result_is_printed_and_written(model, insects, tmp_path):
    said = done("evaluate", model, insects, *FAST, "--steps", 2, "--out", tmp_path / "a.json").stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert quality.shown(found, "frechet") in said
    for word in ("Fréchet distance", "ddim, η = 0, 2 steps", "12 samples", "24 of", "features: pixels", "a.json"):
        assert word in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n", 1], ["--n 1"]),
        (["--batch-size", 0], ["--batch-size 0"]),
        (["--metrics", "fid"], ["fid", "frechet"]),
        (["--metrics", "inception_score"], ["classifier"]),
        (["--features", "nothing"], ["nothing", "pixels"]),
        (["--k", 24], ["--k 24"]),
        (["--k", 0], ["--k 0"]),
        (["--resamples", 1], ["--resamples 1"]),
        (["--label", "wasp"], ["wasp", "ant"]),
        (["--steps", 41], ["41"]),
        (["--spacing", "odd"], ["odd"]),
        (["--split", "validation"], ["validation"]),
        (["--pairs", "x.jpg"], ["PNG"]),
        (["--train-split", "validation"], ["validation"]),
        (["--weights", "x.pth"], ["weights"]),
        (["--guidance", "nan"], ["guidance"]),
    ],
)
def test_mistakes_are_told_in_one_line(model, insects, options, words):
    refused(invoke("evaluate", model, insects, *FAST, *options), *words)


def test_samples_of_several_sizes_are_brought_to_one(model, insects, tmp_path):
    for i, path in enumerate(sorted((insects / "train").rglob("*.png"))):
        with Image.open(path) as picture:
            (picture.resize((20, 16)) if i < 20 else picture).save(tmp_path / f"{i}.png")
    args = [insects, *FAST, "--n", 30]
    refused(invoke("evaluate", tmp_path, *args), "size")
    np.save(tmp_path / "made.npy", read(tmp_path, size=8).values)
    expected = result(tmp_path / "made.npy", *args)["metrics"]
    (tmp_path / "made.npy").unlink()
    assert result(tmp_path, *args, "--size", 8)["metrics"] == expected
    refused(invoke("evaluate", model, *args, "--size", 8), "--size 8", "is a model")


def test_what_makes_samples_does_not_apply_to_samples(insects):
    refused(invoke("evaluate", insects / "train", insects, "--steps", 3), "--steps", "name a model")


# --- sweep ---------------------------------------------------------------------------------------------------------

SWEEP = ("--etas", "0,beta", "--methods", "ddim", "unipc", "--steps", "2,4", *FAST)


def swept(model, insects, out, *options):
    return done("sweep", model, insects, "--out", out, *SWEEP, *options)


@pytest.fixture(scope="module")
def folder(model, insects, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    said = swept(model, insects, out)
    (out.parent / "said.txt").write_text(said.stdout + "\n---\n" + said.stderr)
    return out


def test_every_cell_is_what_evaluate_measures(model, insects, folder):
    found = json.loads((folder / "results.json").read_text())
    assert found["finished"] is True
    expected = [(label, steps) for steps in (2, 4) for label in ("ddim, η = 0", "ddpm, σ̂", "unipc")]
    assert [(cell["label"], cell["steps"]) for cell in found["cells"]] == expected
    alone = result(model, insects, *FAST, "--method", "ddpm", "--set", "variance=beta", "--steps", 4)
    cell = found["cells"][4]
    assert cell["metrics"]["frechet"]["value"] == pytest.approx(alone["metrics"]["frechet"]["value"], rel=1e-4)
    assert found["conditions"] == {**alone["conditions"], "model_sha256": alone["evaluation"]["weights_sha256"]}
    assert cell["calls"] == 4
    assert 0 < cell["seconds_low"] <= cell["seconds"] <= cell["seconds_high"]
    gap = quality.behind(cell, found["cells"][3], "frechet")  # paired: shorter than the difference of two intervals
    spans = [each["metrics"]["frechet"]["high"] - each["metrics"]["frechet"]["low"] for each in found["cells"][3:5]]
    assert 0 < gap.high - gap.low < sum(spans)


def test_it_leaves_a_table_a_spreadsheet_a_plot_and_advice(folder):
    found = json.loads((folder / "results.json").read_text())
    table, told = (folder / "table.md").read_text().rsplit("\n\n", len(found["warnings"]) + 1)[:2]
    assert table == tables.markdown(found["cells"], "frechet").rstrip()
    assert "12 samples a cell against" in told
    assert "features pixels" in told
    assert len(list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))) == 6
    with Image.open(folder / "quality.png") as picture:
        assert picture.width > 1000
    assert found["advice"] == quality.advice(found["cells"], "frechet")
    stdout, stderr = (folder.parent / "said.txt").read_text().split("\n---\n")
    for cell in found["cells"]:
        assert quality.shown(cell, "frechet") in stdout
        assert quality.shown(cell, "frechet") in stderr  # as soon as it was there
    assert "; ".join(found["advice"]) in stdout
    assert sorted(path.name for path in folder.iterdir()) == ["quality.png", "results.json", "table.csv", "table.md"]


def test_a_stopped_sweep_goes_on_where_it_was_and_ends_the_same(model, insects, folder, tmp_path, monkeypatch):
    out, whole = tmp_path / "sweep", json.loads((folder / "results.json").read_text())
    keep, kept = sweeping.save_part, []

    def stop(*args):
        keep(*args)
        kept.append(len(args[-1].seen))
        if len(kept) == 8:  # in the middle of the third cell
            raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "save_part", stop)
    args = ["sweep", model, insects, "--out", out, *SWEEP, "--batch-size", 4]
    stopped = invoke(*args)
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith(f"2 of 6 cells are kept in {out}: the same command goes on from there\n")
    assert kept == [4, 8, 12, 4, 8, 12, 4, 8]
    half = json.loads((out / "results.json").read_text())
    assert (len(half["cells"]), half["finished"]) == (2, False)
    drawn = []
    draw = drawing.draw
    monkeypatch.setattr(sweeping, "save_part", keep)
    monkeypatch.setattr(
        drawing,
        "draw",
        lambda model, spec, **options: (drawn.append((spec.steps, spec.first)), draw(model, spec, **options))[1],
    )
    done(*args)
    assert drawn == [(1, 0), (2, 8), (4, 0), (4, 0), (4, 0)]  # the first warms up
    again = json.loads((out / "results.json").read_text())
    for one, other in zip(again["cells"], whole["cells"], strict=True):
        assert one["label"] == other["label"]
        assert one["metrics"]["frechet"]["value"] == pytest.approx(other["metrics"]["frechet"]["value"], rel=1e-2)
    assert not (out / "part.npz").exists()


def test_what_another_process_writes_is_left_to_it(model, insects, tmp_path):
    with folders.locked(tmp_path / "s"):
        refused(
            invoke("sweep", model, insects, "--out", tmp_path / "s", *SWEEP), "s is being written by another process"
        )
    with folders.locked_file(tmp_path / "a.json"):
        refused(invoke("evaluate", model, insects, "--out", tmp_path / "a.json"), "a.json is being written by another")
    assert tree(tmp_path) == {}


def test_a_damaged_part_is_made_anew(model, insects, tmp_path, monkeypatch):
    args = ["sweep", model, insects, "--out", tmp_path / "s", "--methods", "unipc", "--steps", 2, *FAST]
    keep = sweeping.save_part

    def stop(*args):
        keep(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "save_part", stop)
        assert invoke(*args, "--batch-size", 4).exit_code == 130
    part = tmp_path / "s" / "part.npz"
    part.write_bytes(part.read_bytes()[:100])
    done(*args)
    assert len(json.loads((tmp_path / "s" / "results.json").read_text())["cells"]) == 1


def test_a_finished_sweep_grows_but_does_not_mix_conditions(model, insects, folder, tmp_path):
    out = shutil.copytree(folder, tmp_path / "sweep")
    swept(model, insects, out, "--spacings", "trailing", "quad")
    found = json.loads((out / "results.json").read_text())
    assert len(found["cells"]) == 12
    assert found["cells"][:6] == json.loads((folder / "results.json").read_text())["cells"]
    before = tree(out)
    for options, word in ((["--n", 14], "n 12, not 14"), (["--seed", 1], "seed 0, not 1"), (["--k", 3], "k 2, not 3")):
        refused(invoke("sweep", model, insects, "--out", out, *SWEEP, *options), word)
    assert tree(out) == before
    swept(model, insects, out, "--seed", 1, "--overwrite")
    assert len(json.loads((out / "results.json").read_text())["cells"]) == 6


def test_another_metric_can_lead(model, insects, tmp_path):
    args = ["--methods", "unipc", "--steps", 2, *FAST, "--metric", "recall"]
    said = done("sweep", model, insects, "--out", tmp_path / "s", *args).stdout
    assert "recall" in said
    assert (tmp_path / "s" / "table.md").read_text().startswith("| recall |")


def test_a_finished_sweep_keeps_its_warnings_and_what_tells_its_cells_apart_by_any_metric(
    model,
    insects,
    folder,
    tmp_path,
):
    out = shutil.copytree(folder, tmp_path / "sweep")
    first = json.loads((out / "results.json").read_text())
    assert first["warnings"]  # twelve samples are few
    said = swept(model, insects, out, "--metric", "recall")
    again = json.loads((out / "results.json").read_text())
    assert again["cells"] == first["cells"]
    assert again["warnings"] == first["warnings"]
    assert first["warnings"][0] in said.stderr
    assert f"Warning: {first['warnings'][0]}" in (out / "table.md").read_text()
    assert set(first["cells"][0]["replicates"]) == set(first["cells"][0]["metrics"])
    assert all(len(each) == 4 for each in first["cells"][0]["replicates"].values())


def test_data_without_a_test_part_are_the_reference_as_a_whole(model, insects, tmp_path):
    whole = insects / "train"
    said = done("evaluate", model, whole, *FAST, "--steps", 2, "--out", tmp_path / "e.json")
    assert f"{whole} has no part test, and no run held out any of it" in said.stderr
    assert "all of it is taken, training data too" in said.stderr
    assert json.loads((tmp_path / "e.json").read_text())["conditions"]["split"] == "all"
    swept(model, whole, tmp_path / "s")
    assert json.loads((tmp_path / "s" / "results.json").read_text())["conditions"]["reference"] == 30
    refused(invoke("evaluate", model, whole, *FAST, "--split", "test"), "no split 'test'")


def test_a_result_that_is_there_is_replaced_only_if_asked(model, insects, tmp_path):
    args = ["evaluate", model, insects, *FAST, "--steps", 2]
    for name, option in (("e.json", "--out"), ("p.png", "--pairs")):
        path = tmp_path / name
        path.write_text("years of work")
        refused(invoke(*args, option, path), name, "--overwrite")
        assert path.read_text() == "years of work"
        done(*args, option, path, "--overwrite")
        assert path.read_bytes() != b"years of work"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "rk45"], ["rk45", "evaluate"]),
        (["--methods", "magic"], ["magic", "unipc"]),
        (["--methods", "unipc", "--etas", "0.5"], ["--etas 0.5", "ddim"]),
        (["--etas", "much"], ["much", "beta"]),
        (["--etas", "2"], ["2"]),
        (["--etas", "optimal"], ["calibrate"]),
        (["--steps", "2,x"], ["2,x"]),
        (["--steps", "50,60"], ["50", "40"]),
        (["--spacings", "odd"], ["odd"]),
        (["--metric", "fid"], ["fid", "frechet"]),
        (["--metrics", "kernel"], ["--metric frechet", "kernel"]),
        (["--metric", "inception_score"], ["classifier"]),
        (["--n", 1], ["--n 1"]),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_written(model, insects, tmp_path, options, words):
    refused(invoke("sweep", model, insects, "--out", tmp_path / "s", *FAST, *options), *words)
    assert not (tmp_path / "s").exists()


def test_somebody_elses_folder_is_left_alone(model, insects, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    for more in ([], ["--overwrite"]):
        refused(invoke("sweep", model, insects, "--out", tmp_path / "mine", *SWEEP, *more), "mine")
    assert tree(tmp_path) == before


# --- compare -------------------------------------------------------------------------------------------------------


def test_results_stand_in_one_table_with_a_mark_where_conditions_differ(model, insects, folder, tmp_path):
    for name, options in {"same": [], "few": ["--n", 10]}.items():
        done("evaluate", model, insects, *FAST, "--steps", 2, *options, "--out", tmp_path / f"{name}.json")
    said = done("compare", folder, tmp_path / "same.json", tmp_path / "few.json").stdout
    lines = said.splitlines()
    assert lines[0] == "| result | model | method | steps | calls | Fréchet distance | time |"
    assert len([line for line in lines if line.startswith("| ")]) == 2 + 6 + 2
    assert lines[8].split("|")[3:7] == lines[2].split("|")[3:7]  # the same, measured twice
    assert "<sup>" not in "".join(lines[:9])
    assert "<sup>a</sup>" in lines[9]
    assert "- a: n is 10, not 12" in lines
    assert "few.json" in lines[9]
    other = done("compare", tmp_path / "same.json", "--metric", "recall").stdout
    assert "| recall |" in other.splitlines()[0]
    assert "comparable" not in other


def test_what_is_no_result_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    refused(invoke("compare", tmp_path / "a.json"), "a.json", "not a result")
    refused(invoke("compare", tmp_path / "b.json"), "b.json")
    refused(invoke("compare", tmp_path / "a.json", "--metric", "fid"), "fid")


@pytest.mark.parametrize("command", ["evaluate", "sweep", "compare"])
def test_help_has_examples_and_describes_every_option(command):
    text = done(command, "--help").stdout
    assert f"leapstep {command}" in text.partition("Examples")[2]
    for line in text.splitlines():
        assert not re.match(r"│ \*? *--\S+ +(--\S+ +)?<\w+> *│", line), f"no description: {line}"
    assert command in done("--help").stdout
