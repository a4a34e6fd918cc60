"""The commands on the page repeat its figures, and `leapstep report` writes it."""

import dataclasses
import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import leapstep
from commands import done, invoke, refused, tree
from expected_pictures import near
from leapstep import Condition, Convention
from leapstep.cli import app
from leapstep.data.pictures import grid
from leapstep.evaluation import distances as evaluation
from leapstep.evaluation import page as pages
from leapstep.evaluation.page import drawn as drawing
from leapstep.evaluation.page import folder, gathering
from leapstep.models import checkpoint
from leapstep.views import report
from leapstep.views.report import commands, sections
from own_network import LENGTH, SCALE, SHIFT, write_signals
from pages import Reader, decoded, lines, planned, tiles, write_sweep

# --- the commands on the page --------------------------------------------------------------------------------------


def test_every_command_can_be_parsed(read):
    root = typer.main.get_command(app)
    seen = set()
    for _, name, *rest in lines(read):
        if name in root.commands:
            root.commands[name].make_context(name, list(rest))
        seen.add(name)
    assert seen == {
        "info",
        "sample",
        "trace",
        "interpolate",
        "reconstruct",
        "sweep",
        "evaluate",
        "report",
    }
    assert seen <= set(root.commands)
    assert read.commands.count(f"tensorboard --logdir {lines(read)[0][2]}/log") == 1


@pytest.mark.parametrize(
    ("network", "conditions", "opening"),
    [
        ("network", (), ["--convention", "convention.json", "--shape", f"1,{LENGTH}"]),
        ("of_height", (Condition("height"),), ["--convention", "convention.json", "--condition", "heights.npz"]),
    ],
)
def test_the_commands_open_a_network_of_ones_own_as_the_page_did(tmp_path, monkeypatch, network, conditions, opening):
    monkeypatch.chdir(tmp_path)
    write_signals(tmp_path)
    np.savez("heights.npz", height=np.array([-5.0, 5.0], np.float32))
    shape = (1, LENGTH) if conditions else None
    Convention(leapstep.linear(), scaling=(SHIFT, SCALE), shape=shape, conditions=conditions).save("convention.json")
    source = f"signals.py:{network}"
    done(
        "report", source, *opening, "--data", "signals.npy", "--n", 4, "--steps", 2, "--budget", "2s", "--out", "p.html"
    )
    root, repeating = typer.main.get_command(app), lines(Reader((tmp_path / "p.html").read_text()))
    assert {"sample", "trace", "report"} <= {name for _, name, *_ in repeating}
    for _, name, *rest in repeating:
        root.commands[name].make_context(name, list(rest))
        assert rest[0] == source
        assert set(opening if name != "info" else opening[:2]) <= set(rest), name
    [[_, _, *words]] = [line for line in repeating if line[1] == "sample"]
    done("sample", *words)


def test_no_more_neighbours_are_asked_for_than_there_are_samples(page):
    few, enough = (page._replace(n=n) for page in [page.neighbours] for n in (5, 6))
    assert commands.neighbours(dataclasses.replace(page, neighbours=few)) == []
    assert "--n 6 " in commands.neighbours(dataclasses.replace(page, neighbours=enough))[0]


def measured(page, *metrics):
    """The cells of a page's sweep with these metrics."""
    nothing = {"value": 1.0, "low": None, "high": None}
    return [{**cell, "metrics": dict.fromkeys(metrics, nothing)} for cell in page.sweep.cells]


def test_a_sweep_is_repeated_with_its_options(page):
    features = {"features": "learned", "features_source": "my features"}
    changed = features | {"k": 3, "resamples": 50, "guidance": 2.5, "labels": ["-bee", "ant"], "split": "all"}
    said = commands.sweep(
        page, dataclasses.replace(page.sweep, conditions=changed, cells=measured(page, "frechet", "recall"))
    )
    for option in (
        "--k 3",
        "--resamples 50",
        "--guidance 2.5",
        "--label=-bee,ant",
        "--split all",
        "--features 'my features'",
        "--metrics frechet,recall",
    ):
        assert f" {option} " in said
    usual = {"features": "pixels", "k": 5, "resamples": 100, "guidance": 1.0, "labels": "every class in turn"}
    found = dataclasses.replace(page.sweep, conditions=usual, cells=measured(page, *evaluation.METRICS[:-1]))
    assert "--steps 5,10 --features pixels --metric frechet --out" in commands.sweep(page, found)


def test_a_sweep_is_repeated_with_its_methods(page):
    said = commands.sweep(page, page.sweep)
    assert "--methods ddim,heun --etas 0.5,beta --steps 5,10 --n 500 --features" in said
    learned = dataclasses.replace(page.sweep, conditions={"features": "learned", "data": "there"})
    assert f"{page.source} there --methods" in commands.sweep(page, learned)
    assert "--features FOLDER" in commands.sweep(page, learned)


def test_the_commands_repeat_the_figures(run, page, read, tmp_path):
    wanted = ("sample", "interpolate", "reconstruct", "trace")
    made = 0
    for _, name, *rest in lines(read):
        if name not in wanted or (name == "trace" and "trace-ant" not in rest):
            continue
        out = tmp_path / rest[rest.index("--out") + 1]
        done(name, *rest[: rest.index("--out")], "--out", out, *rest[rest.index("--out") + 2 :])
        made += 1
    assert made == 1 + 6 + 1 + 1 + 1
    for name, expected in (("samples", page.samples), ("steps-3", page.consistency.samples[2])):
        written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob("0*.png"))]
        assert near(np.stack(written), expected[:, 0]), name
    between = np.asarray(Image.open(tmp_path / "between" / "grid.png"))
    assert near(between, np.asarray(grid(page.between.frames.reshape(81, 1, 8, 8), 9)))
    results = json.loads((tmp_path / "there-and-back" / "results.json").read_text())["results"]
    assert [row["error"] for row in results] == pytest.approx(list(page.reconstructions.errors), rel=1e-4)
    times = json.loads((tmp_path / "trace-ant" / "manifest.json").read_text())["times"]
    assert times == list(page.way.times)


def test_a_page_of_one_class_is_repeated_by_one_command(run):
    loaded = leapstep.load(run)
    made = pages.gather(loaded, plan=planned(n=3, steps=1, labels=(1,)), source="it's")
    said = Reader(report.render(made)).commands
    assert said[1] == "leapstep sample 'it'\"'\"'s' --n 3 --steps 1 --method ddim --seed 0 --label=-bee --out samples"
    assert "--consistency 1 2 3 5 10 12 --label=-bee --out trace" in said[2]
    assert "--label=-bee" in said[4]
    assert made.labels == ("-bee",) * 3
    assert "All are of class -bee." in Reader(report.render(made)).text


# --- the command line ----------------------------------------------------------------------------------------------


def test_help_has_examples_and_describes_every_option():
    text = done("report", "--help").stdout
    assert "leapstep report" in text.partition("Examples")[2]
    for line in text.splitlines():
        assert not re.match(r"│ \*? *--\S+ +(--\S+ +)?<\w+> *│", line), f"no description: {line}"
    assert "report" in done("--help").stdout


def test_the_command_writes_the_page(run, insects, tmp_path):
    out = tmp_path / "new" / "page.html"
    given = ["--n", 5, "--seed", 3, "--steps", 4, "--method", "unipc", "--label", "-bee", "--batch-size", 50]
    result = done("report", run, "--data", insects, "--out", out, *given)
    assert "A UNet of" in result.stdout
    assert "Sampling in 10 steps instead of 12" in result.stdout
    assert result.stdout.rstrip().endswith(f"written: {out}")
    assert set(tree(tmp_path)) == {"new/page.html"}
    read, loaded = Reader(out.read_text()), leapstep.load(run)
    picture = decoded(read.all("img", alt="5 samples of the model, drawn in 4 steps of unipc.")[0]["src"])
    diffusion = loaded.diffusion(torch.ones(5, dtype=torch.int64))
    x = leapstep.sample(diffusion, (5, 1, 8, 8), 4, leapstep.unipc(), seed=3)
    assert near(tiles(picture, 1, 8, 5, 5)[0][0], loaded.scaling.to_pixels(x)[:, 0])
    assert "test" in read.text
    again = shlex.split(read.commands[-1])
    assert again[:5] == ["leapstep", "report", str(run), "--data", str(insects)]
    assert "--label=-bee" in again
    assert again[again.index("--sweep") + 1] == str(run / "sweep")


def test_batches_change_nothing_but_the_calls(small, tmp_path):
    for name, size in (("a", 3), ("b", 64)):
        done("report", small, "--out", tmp_path / f"{name}.html", "--n", 7, "--steps", 2, "--batch-size", size)
    reads = [Reader((tmp_path / f"{name}.html").read_text()) for name in "ab"]
    said = [re.search(r"with ([\d,]+) network calls on ([\d,]+) samples", read.text).groups() for read in reads]
    assert int(said[0][0]) > int(said[1][0])
    assert said[0][1] == said[1][1]
    pictures = [
        decoded(read.all("img", alt="7 samples of the model, drawn in 2 steps of ddim.")[0]["src"]) for read in reads
    ]
    assert near(*pictures)


def test_a_sweep_elsewhere_and_data_without_a_test_split(small, tmp_path):
    write_sweep(tmp_path / "mine", checkpoint.fingerprint(leapstep.load(small).network))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    out = tmp_path / "page.html"
    given = ["--data", tmp_path / "x.npy", "--sweep", tmp_path / "mine", "--n", 4]
    result = done("report", small, "--out", out, *given)
    assert "x.npy has no part test or validation, and no run held out any of it: the page shows its" in result.stderr
    read = Reader(out.read_text())
    assert "0.600 ± 0.020" in read.text
    assert "20 of the data, encoded" in read.text
    assert "--split train" in " ".join(read.commands)


def test_a_sweep_of_another_model_is_not_shown(small, tmp_path):
    write_sweep(tmp_path / "mine", "other weights", model="runs/cats")
    asked = ["report", small, "--out", tmp_path / "page.html", "--n", 2, "--sweep", tmp_path / "mine"]
    refused(invoke(*asked), "mine is a sweep of runs/cats with other weights: name a sweep of this model")
    assert not (tmp_path / "page.html").exists()


def test_a_sweep_of_earlier_weights_in_the_run_folder_is_left_out(small, tmp_path):
    shutil.copytree(small, tmp_path / "run")
    write_sweep(tmp_path / "run" / "sweep", "earlier weights")
    done("report", tmp_path / "run", "--out", tmp_path / "page.html", "--n", 2)
    read = Reader((tmp_path / "page.html").read_text())
    assert "holds a sweep of other weights than those of this page, so it is not shown" in read.text
    assert "0.600" not in read.text
    assert not re.search(r"leapstep sweep|--sweep", " ".join(read.commands))


def test_only_what_the_model_was_trained_on_is_called_training_data(run, splits, page):
    assert not page.own
    titles = {section.id: section for section in sections.sections(page)}
    said = " ".join(f"{titles[name].title} {titles[name].text}" for name in ("back", "levels", "neighbours"))
    assert "training" not in said.lower()
    assert "9 of the data (test), encoded" in said
    assert f"{page.data} is not what the model was trained on" in said
    html = report.render(page)
    assert ">data (train)<" in html
    assert ">data (test)<" in html
    assert "held-out" not in html
    titles = {section.id: section for section in sections.sections(dataclasses.replace(page, own=True))}
    assert "9 of the held-out data (test), encoded" in titles["back"].text
    assert "not what the model was trained on" not in titles["back"].text
    assert "known by heart" in titles["levels"].text
    assert titles["neighbours"].title == "Nearest training data"
    assert "hints at a copy" in titles["neighbours"].text
    assert "times as far as held-out data (test) are" in titles["neighbours"].text


def test_the_page_says_where_a_sweep_was_measured_on_training_data(tmp_path, page):
    found, _ = folder.sweep(write_sweep(tmp_path / "s", "w", relation="training"))
    html = report.render(dataclasses.replace(page, sweep=found, curves={}, levels=None))
    assert "The reference are data which the model was trained on: a copy of them would do best." in html


def test_the_data_of_a_run_are_found_unasked_where_they_are(small, insects, tmp_path):
    path = shutil.copytree(small, tmp_path / "run")
    np.save(tmp_path / "own.npy", np.random.default_rng(0).integers(0, 256, (40, 3, 6, 4), dtype=np.uint8))
    details = json.loads((path / "leapstep.json").read_text())
    for source, shown in ((str(tmp_path / "own.npy"), True), ("somebody/pictures", False)):
        details["data"] = {"source": source, "samples": 40}
        (path / "leapstep.json").write_text(json.dumps(details))
        done("report", path, "--out", tmp_path / "page.html", "--n", 8, "--steps", 1, "--overwrite")
        assert ("There and back" in (tmp_path / "page.html").read_text()) is shown


def test_the_training_source_is_known_by_its_name_or_its_place(model, insects, monkeypatch):
    def trained(*source):
        return dataclasses.replace(model, details={"data": dict(zip(["source"], source, strict=False))})

    monkeypatch.chdir(insects.parent)
    assert gathering.is_own(trained("digits"), "digits")
    assert gathering.is_own(trained("insects"), str(insects))
    assert not gathering.is_own(trained(str(insects / "test")), str(insects))
    assert not gathering.is_own(trained("digits"), str(insects))
    assert not gathering.is_own(trained(), "digits")


def test_an_existing_file_is_replaced_only_with_overwrite(small, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("my thesis")
    refused(invoke("report", small, "--out", out, "--n", 2), "page.html exists", "--overwrite")
    assert out.read_text() == "my thesis"
    done("report", small, "--out", out, "--n", 2, "--overwrite")
    assert out.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--out", "page.pdf"], ["page.pdf", r"ends in \.html"]),
        (["--n", 1], ["--n 1", "at least 2"]),
        (["--steps", 7], ["steps=7", "6 levels"]),
        (["--method", "newton"], ["--method newton", "ddim"]),
        (["--label", "cat"], ["--label", "without labels"]),
        (["--seed", -1], ["--seed -1"]),
        (["--batch-size", 0], ["--batch-size 0"]),
        (["--device", "tpu"], ["--device tpu", "cpu"]),
        (["--data", "nowhere"], ["there is no nowhere"]),
        (["--sweep", "nowhere"], [r"there is no nowhere/results\.json"]),
    ],
    ids=str,
)
def test_pages_that_cannot_be(small, tmp_path, given, words):
    out = [] if "--out" in given else ["--out", tmp_path / "made" / "page.html"]
    refused(invoke("report", small, *given, *out), *words)
    assert tree(tmp_path) == {}


def test_a_folder_is_no_page(small, tmp_path):
    (tmp_path / "page.html").mkdir()
    refused(invoke("report", small, "--out", tmp_path / "page.html"), "is a folder: name a file")


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_without_the_extra_one_line_says_what_to_install(small, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    refused(invoke("report", small, "--out", tmp_path / "page.html"), r"pip install 'leapstep\[report\]'")
    assert tree(tmp_path) == {}


def test_ctrl_c_leaves_nothing(small, tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "interpolate", stop)
    result = invoke("report", small, "--out", tmp_path / "new" / "page.html", "--n", 2)
    assert result.exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_is_only_a_model(run, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("log", "samples", "sweep"))
    done("report", bare, "--out", tmp_path / "page.html", "--n", 2, "--steps", 1)
    read = Reader((tmp_path / "page.html").read_text())
    assert "Quality by steps" not in read.text
    assert "Samples while it was trained" not in read.text
    assert not [tag for tag in read.all("svg") if "training steps" in tag["aria-label"]]
