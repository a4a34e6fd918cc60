"""The file that a page is: it stands alone, hostile names are text, and other kinds of samples make less of it."""

import dataclasses
import io
import math
import re

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import leapstep
from commands import done, invoke, refused
from expected_pictures import near
from leapstep import text
from leapstep.core.scaling import Scaling
from leapstep.evaluation import page as pages
from leapstep.evaluation.page import cost as costs
from leapstep.evaluation.page.contents import kind
from leapstep.evaluation.page.extent import EXTENTS, WHOLE
from leapstep.models.data import parts_of
from leapstep.networks import MLP, UNet
from leapstep.views import plots, report
from leapstep.views.report import figures, sections, words
from pages import HOSTILE, Reader, lines, planned
from random_models import changed, saved


def arrays(place, shape):
    """A model of what is no picture, and a file of such data, around 100."""
    torch.manual_seed(0)
    scaling = Scaling(100.0, 5.0)
    name = "x".join(map(str, shape))
    mlp = MLP(shape=shape, width=16, depth=1, timesteps=2)
    details = {"data": {"scaling": scaling._asdict()}}
    if not (place / name).exists():
        saved(place / name, mlp, shape=shape, scaling=scaling, details=details, process=leapstep.linear(2))
        np.save(place / f"{name}.npy", np.random.default_rng(0).normal(100, 5, (40, *shape)))
    return place / name, place / f"{name}.npy"


# --- the file ------------------------------------------------------------------------------------------------------


def outside(html):
    """Everything in a page that could fetch something."""
    names = ("src", "href", "xlink:href", "srcset", "data", "action", "formaction", "poster", "background", "ping")
    found = [given[name] for _, given in Reader(html).tags for name in names if name in given]
    found += re.findall(r"url\(([^)]*)\)", html) + re.findall(r"@import[^;]*|\w+://[^\s<]*", html)
    return [each for each in found if not each.startswith(("data:image/png;base64,", "#"))]


def test_the_page_stands_alone(html):
    assert outside(html) == []
    assert outside(html + '<img src="a.png"><p style="background: url(b.png)">http://c') == [
        "a.png",
        "b.png",
        "http://c",
    ]
    assert re.search(r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-", html)
    assert html.startswith("<!DOCTYPE html>")
    assert len(html) < 2_000_000
    assert not re.search(r"#(0[1-8])\1\1", html)  # every stand-in has become a colour of the page


def test_everything_to_be_seen_can_be_read_aloud(read):
    pictures = read.all("img") + read.all("svg", role="img") + read.all("div", role="img")
    assert len(read.all("svg")) == len(read.all("svg", role="img"))
    assert all(len(tag.get("alt") or tag.get("aria-label") or "") > 10 for tag in pictures)
    sliders = read.all("input", type="range")
    assert len(sliders) == 5
    labelled = {tag["for"] for tag in read.all("label")}
    assert all(tag["id"] in labelled and tag["aria-valuetext"] for tag in sliders)
    ids = [tag["id"] for _, tag in read.tags if "id" in tag]
    assert len(ids) == len(set(ids))


def test_hostile_names_are_text(html, read):
    assert "<img src=x" not in html
    assert not any("onerror" in tag for _, tag in read.tags)
    assert read.text.count(HOSTILE) >= 5
    assert len(read.all("script")) == 1


def test_control_characters_do_not_reach_the_page(page):
    hostile = "a\x00b\x1b[31mc\x9f\ud800"
    few = {"curves": {}, "levels": None, "sweep": None}
    changed = dataclasses.replace(page, source=hostile, facts={**page.facts, hostile: hostile}, noun=hostile, **few)
    written = report.render(changed)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", written)
    written.encode()


def texts(page):
    return {section.id: section.text for section in sections.sections(page)}


def test_many_large_pictures_make_a_small_file(page):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 3, 96, 96), dtype=np.uint8)
    sprite = figures.sprite(noise[None], 8)
    assert (sprite.shrunk, sprite.side) == (2, 48)
    assert len(sprite.png) < 1.1 * figures.LIMIT
    seen = np.asarray(Image.open(io.BytesIO(sprite.png)))
    expected = noise[9].reshape(3, 48, 2, 48, 2).mean((2, 4)).round().transpose(1, 2, 0)
    assert np.array_equal(seen[51 : 51 + 48, 51 : 51 + 48, :3], expected)
    assert "Shown at 1/2 of their size." in texts(dataclasses.replace(page, samples=noise))["samples"]


def test_small_pictures_that_are_blown_up_are_named(page, read):
    said = texts(page)
    for name, times in {"samples": 7, "steps": 8, "way": 8, "between": 4, "back": 6, "neighbours": 8}.items():
        assert said[name].endswith(f" Shown enlarged, up to {times} times."), said[name]
    own = np.zeros((64, 1, 64, 64), np.uint8)
    assert "Shown" not in texts(dataclasses.replace(page, samples=own))["samples"]


def test_numbers_are_short():
    said = {0.00004084: "4.08e-05", 12345.6: "12,346", -0.25: "−0.25", math.nan: "–", math.inf: "∞", 1e-9: "1e-09"}
    assert {value: text.short(value) for value in said} == said
    assert text.short(-math.inf) == "−∞"
    assert text.with_error(0.00657, 0.000595) == "0.00657 ± 0.00060"
    assert text.with_error(123.4, 17.3) == "123 ± 17"
    assert text.with_error(0.0000809, 0.0000034) == "(8.09 ± 0.34)e-05"
    assert text.with_error(-0.0000009, 0.0000034) == "(−0.9 ± 3.4)e-06"
    assert text.with_error(3.0, 0.0000034) == "3.0000000 ± 0.0000034"
    assert text.with_error(1.5, None) == text.with_error(1.5, math.nan) == "1.5"
    assert [text.percent(share) for share in (0.0051, 0.123, 0, 1e-6, math.nan)] == [
        "0.51 %",
        "12 %",
        "0 %",
        "less than 0.01 %",
        "–",
    ]


# --- other kinds of samples, and less of everything ----------------------------------------------------------------


def test_kinds():
    assert kind((3, 8, 8), True) == "pictures"
    assert kind((2,), False) == kind((2,), True) == "points"
    assert kind((64,), False) == kind((2, 64), False) == "signals"
    assert {kind(shape, False) for shape in [(5,), (4, 8, 8), (9, 64), (1,)]} == {"numbers"}


@pytest.mark.parametrize(
    ("shape", "sliders", "tables"),
    [((2,), 3, 4), ((2, 9), 3, 4), ((3,), 0, 6), ((2, 3, 3), 0, 6)],
    ids=["points", "signals", "numbers", "volumes"],
)
def test_what_is_no_picture(place, shape, sliders, tables):
    path, data = arrays(place, shape)
    loaded = leapstep.load(path)
    train = pages.Split(*parts_of(loaded, str(data))("train"))
    plan = planned(n=3, extent=WHOLE._replace(line=3))
    made = pages.gather(loaded, pages.Splits(str(data), train), plan, source=str(path))
    expected = loaded.scaling.to_values(leapstep.sample(loaded.diffusion(), (3, *shape), 2))
    np.testing.assert_allclose(made.samples, expected, rtol=1e-5)
    assert made.way.x.shape == (3, 3, *shape)
    assert made.between.frames.shape == (1, 3, *shape)
    assert made.neighbours.ratios is not None
    html = report.render(made)
    read = Reader(html)
    assert outside(html) == []
    assert len(read.all("input", type="range")) == sliders
    assert len(read.all("table")) == tables
    assert "the mean squared error that is left, in variances of the training data" in read.text
    assert "standard deviations of the training data" in read.text  # of the distances
    assert "other data" in read.text  # in which ratios are, where nothing is held out
    assert not [line for line in lines(read) if line[1] in ("evaluate", "doctor")]  # which draw another figure
    assert ("The plot shows 8 of them and what came back in 2 steps." in read.text) == bool(sliders)
    if "signals" in made.kind:
        assert html.count(">back in 2 steps<") == html.count(">before<") == html.count(">nearest in the data<") == 1
    if sliders:
        start = int(read.all("input")[1]["value"])
        frames = re.findall(r'<div class="frames">(.*?)</figure>', html, re.DOTALL)
        assert [part.count("<svg") for part in frames] == [2, 3, 3, 3]
        assert frames[1].split("<svg")[start].rstrip().endswith('<div class="on">')
    else:
        assert text.short(float(expected.mean())) in read.text


@pytest.mark.parametrize("spread", [0.004, 1.3, 40_000.0])
def test_labels_of_points_are_not_cut_off(monkeypatch, spread):
    monkeypatch.setattr(figures, "svg", lambda draw, *_: draw)
    points = np.random.default_rng(0).normal(0, spread, (20, 2))
    figure = Figure(figsize=figures.SMALL)
    with matplotlib.rc_context({"font.size": 9}):
        figures.scatter(points, figures.bounds(points), "a", "b")(figure, plots.LIGHT)
        assert 0 <= figure.get_tightbbox().x0 < 0.4


def test_a_page_without_data_says_what_data_would_add(small):
    made = pages.gather(leapstep.load(small), plan=planned(n=3))
    read = Reader(report.render(made))
    assert made.source == ""
    assert "With --data, a page also shows" in read.text
    titles = [section.title for section in sections.sections(made)]
    assert titles == ["The model", "Samples", "Few steps", "From noise to data", "Between samples"]
    assert read.commands[0] == "leapstep info MODEL"


def test_a_model_with_one_level(place):
    torch.manual_seed(0)
    unet = UNet(in_channels=1, channels=(8,), attention=(False,), blocks=1, groups=4, timesteps=1)
    path = saved(place / "one", unet, shape=(1, 4, 4), process=leapstep.linear(1))
    made = pages.gather(leapstep.load(path), plan=planned(n=2))
    assert made.consistency.steps == (1,)
    assert words.cost(made) == ""
    assert "Few steps" not in report.render(made)


def test_noisy_methods_leave_the_ways_that_must_be_repeatable_to_ddim(small):
    loaded = leapstep.load(small)
    noisy, plain = (pages.gather(loaded, plan=planned(n=2, method=name)) for name in ("ddpm", "ddim"))
    assert np.array_equal(noisy.between.frames, plain.between.frames)
    assert not np.array_equal(noisy.samples, plain.samples)
    expected = leapstep.sample(loaded.diffusion(), (2, *loaded.shape), 6, leapstep.ddpm())
    assert near(noisy.samples, loaded.scaling.to_pixels(expected))
    heun = pages.gather(loaded, plan=planned(n=2, method="heun"))
    assert heun.between.method == "heun"


def test_a_network_that_needs_labels(run, splits):
    loaded = changed(leapstep.load(run), null_label=None)
    made = pages.gather(loaded, plan=planned(n=2, steps=1))
    assert made.between.label == 0
    unlabelled = splits._replace(held=splits.held._replace(labels=None))
    with pytest.raises(ValueError, match="has no labels, and this model knows one class at a time"):
        pages.gather(loaded, unlabelled, planned(n=2, steps=1))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 1}, "n=1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"method": "pf_eulr"}, "method=pf_eulr: did you mean pf_euler"),
        ({"labels": (3,)}, "labels=3: "),
        ({"steps": 13}, "steps=13"),
        ({"seed": -1}, "seed=-1"),
    ],
    ids=str,
)
def test_specifications_that_cannot_be(model, fields, words):
    with pytest.raises(ValueError, match=words):
        pages.gather(model, plan=planned(**fields))


def test_samples_that_are_not_finite(small):
    loaded = leapstep.load(small)
    with torch.no_grad():
        next(loaded.network.parameters()).fill_(math.nan)
    with pytest.raises(leapstep.core.finite.NotFinite, match="2 of 2 samples are not finite, first after step 1 of 6"):
        pages.gather(loaded, plan=planned(n=2))


def test_a_slow_network_has_a_shorter_page(small, insects, tmp_path, monkeypatch):
    loaded, asked = leapstep.load(small), planned()
    costs = [pages.evaluations(loaded, None, planned(extent=extent)) for extent in EXTENTS]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] / 10  # of a network with 6 levels
    for cost_, extent in zip(costs, EXTENTS, strict=True):
        chosen, takes = pages.fitted(loaded, None, asked, seconds=2.0 * cost_ + 1, price=2.0)
        assert (chosen.extent, takes) == (extent, 2.0 * cost_)
    assert pages.fitted(loaded, None, asked, 1.0, 2.0) == (chosen, 2.0 * costs[-1])  # there is no shorter one
    made = pages.gather(loaded, plan=chosen)
    assert made.evaluations == costs[-1]
    assert (len(made.samples), made.between.frames.shape[:2]) == (4, (2, 2))
    assert "It shows less than usual, since calls take long" in report.render(made)
    monkeypatch.setattr(pages, "price", lambda *_: 5.0)
    said = done("report", small, "--out", tmp_path / "page.html", "--budget", "30m").stderr
    assert "a sample takes the network 5 s, so the whole page would take about" in said
    refused(invoke("report", small, "--out", tmp_path / "b.html", "--budget", "soon"), "--budget 'soon'")


@pytest.mark.parametrize(("seconds", "expected"), [({1: 9.0}, 9.0), ({1: 0.8, 4: 2.0}, 0.5)], ids=["slow", "quick"])
def test_the_price_of_a_sample_is_that_of_a_call(small, monkeypatch, seconds, expected):
    now, loaded = 0.0, leapstep.load(small)

    def work(_, given):
        nonlocal now
        now += seconds[len(given[0])]

    loaded.network.register_forward_pre_hook(work)
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now)
    assert pages.price(loaded) == pytest.approx(expected)


def test_a_page_in_python_is_that_of_the_command(small, tmp_path):
    """What was asked for beside the usual is in the commands that repeat the figures."""
    few = {"n": 3, "out": tmp_path / "page.html", "progress": False}
    spec = leapstep.SamplingSpec(method="unipc", options={"order": 3}, steps=3)
    made = leapstep.report(small, spec=spec, **few)
    assert (tmp_path / "page.html").read_text("utf-8") == made.html
    assert (made.page.spec.n, made.page.spec.method, made.page.label) == (3, "unipc", None)
    said = Reader(made.html).commands
    assert any("sample" in line and "--method unipc --set order=3 --seed 0" in line for line in said)
    asked = ["--method", "unipc", "--set", "order=3", "--steps", 3]
    done("report", small, "--n", 3, "--out", tmp_path / "b.html", *asked)
    shown = [Reader(html).all("img")[0]["src"] for html in (made.html, (tmp_path / "b.html").read_text("utf-8"))]
    assert shown[0] == shown[1]
    assert made.verdict.startswith("A ")
