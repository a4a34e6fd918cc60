"""The page about a model: its numbers and pictures against the library, its commands, and that it stands alone.

The networks have random weights and few levels: between data and noise, what counts is that every number and picture is
the one that the page says it is.
"""

import base64
import dataclasses
import io
import itertools
import json
import math
import re
import shlex

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import leapstep
from expected_pictures import near
from leapstep import text
from leapstep.cli import app
from leapstep.core.interpolation import interpolation_grid
from leapstep.data import read as read_data
from leapstep.data.pictures import grid
from leapstep.evaluation import cells as quality
from leapstep.evaluation import distances as evaluation
from leapstep.evaluation import page as pages
from leapstep.evaluation.page import folder, measured
from leapstep.evaluation.page.contents import Standing
from leapstep.evaluation.page.extent import WHOLE
from leapstep.evaluation.page.standing import standing
from leapstep.models import checkpoint
from leapstep.training import loss
from leapstep.views import report
from leapstep.views.report import figures, sections, words
from pages import CLASSES, HOSTILE, SEED, STEPS, Reader, decoded, drawn, planned, tiles, write_sweep
from random_models import changed

# --- numbers and pictures ------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_library(model, page, read):
    expected = model.scaling.to_pixels(drawn(model, 20, STEPS))
    assert near(page.samples, expected)
    assert page.labels == tuple(CLASSES[i % 3] for i in range(20))
    picture = decoded(read.all("img", alt=f"20 samples of the model, drawn in {STEPS} steps of ddim.")[0]["src"])
    seen, clear = tiles(picture, 1, 8, 6, 20)  # every class has its columns
    assert near(seen[0], expected[:, 0])
    assert clear


def test_frames_of_the_slider_over_steps_are_the_same_noises(model, page, read):
    counts = (1, 2, 3, 5, 10, 12)  # no more than there are levels
    assert page.consistency.steps == counts
    (sprite,) = (tag for tag in read.all("div", role="img") if "16 samples from the same" in tag["aria-label"])
    seen, clear = tiles(decoded(sprite["style"]), 6, 8, 4, 16)
    assert clear
    samples = [drawn(model, 16, count) for count in counts]
    for frame, x in zip(seen, samples, strict=True):
        assert near(frame, model.scaling.to_pixels(x)[:, 0])
    for error, x in zip(page.consistency.errors, samples, strict=True):
        assert error == pytest.approx(((x - samples[-1]) / 2).double().square().mean().item(), rel=1e-4, abs=1e-12)
    flat = samples[-1].double().flatten(1) / 2
    pairs = [(flat[i] - flat[j]).square().mean().item() for i, j in itertools.combinations(range(16), 2)]
    assert page.consistency.apart == pytest.approx(np.mean(pairs), rel=1e-4)
    assert page.consistency.shares[0] == page.consistency.errors[0] / page.consistency.apart


def test_the_slider_says_the_difference(page, read):
    assert "The mean squared difference from 12 steps is given as a share of that between two" in read.text
    assert "Squared difference from 12 steps" in read.text
    assert "% of that of two samples" in read.text
    (slider,) = (tag for tag in read.all("input") if tag["id"].startswith("steps"))
    texts = json.loads(slider["data-texts"])
    assert texts[0] == f"1 step: {text.percent(page.consistency.shares[0])} from 12"
    assert texts[-1] == "12 steps"
    assert (slider["max"], slider["value"]) == ("5", "4")
    assert slider["aria-valuetext"] == texts[4]
    assert texts[4].startswith("10 steps: ")


def test_the_way_goes_from_noise_to_the_samples(model, page):
    times = leapstep.times(model.process, STEPS)
    assert page.way.times == tuple(times.tolist())
    z = leapstep.Noise(SEED, range(8), model.shape)
    x = model.process.sigma(times[0]) * z(0)
    seen, estimates = [x], []
    with torch.no_grad():
        for state in leapstep.trajectory(model.diffusion(torch.arange(8) % 3), x, times, None, z):
            seen.append(state.x)
            estimates.append(state.x0)
    assert page.way.x.shape == (STEPS + 1, 8, 1, 8, 8)
    assert near(page.way.x, model.scaling.to_pixels(torch.stack(seen)))
    assert near(page.way.x0, model.scaling.to_pixels(torch.stack([*estimates, seen[-1]])))


def test_a_long_way_is_shown_at_some_times_and_scaled(small):
    loaded = changed(leapstep.load(small), process=leapstep.ve(100))
    made = pages.gather(loaded, plan=planned(n=2, steps=60, extent=WHOLE._replace(steps=(1, 2))))
    assert len(made.way.times) == 25
    assert (made.way.times[0], made.way.times[-1]) == (1, 0)
    first = leapstep.Noise(0, range(2), loaded.shape)(0) * 50 / math.hypot(50, 1)
    assert near(made.way.x[0], loaded.scaling.to_pixels(first))


def test_between_four_noises(model, page, read):
    seeds = range(SEED, SEED + 4)
    assert page.between.seeds == tuple(seeds)
    z = torch.cat([leapstep.Noise(seed, range(1), model.shape)(0) for seed in seeds])
    z = interpolation_grid(z * model.process.sigma(torch.tensor(1.0)), 9, 9).flatten(0, 1)
    expected = model.scaling.to_pixels(leapstep.decode(model.diffusion(), z, STEPS))
    assert near(page.between.frames.reshape(81, 1, 8, 8), expected)
    (pad,) = (tag for tag in read.all("div") if tag.get("class") == "player pad")
    seen, _ = tiles(decoded(pad["style"]), 1, 8, 9, 81)
    assert near(seen[0], expected[:, 0])


def test_reconstructions_are_what_encoding_and_decoding_leaves(model, splits, page, read):
    found, held = page.reconstructions, splits.held
    assert found.steps == (5, 10, 12)
    assert (found.n, found.split) == (9, "test")
    x0 = held.data.batch(range(9))
    diffusion = model.diffusion(held.labels)
    for i, steps in enumerate(found.steps):
        z = leapstep.encode(diffusion, x0, steps, spacing="leading")
        back = leapstep.decode(diffusion, z, steps, spacing="leading")
        errors = ((back - x0).double() / 2).square().flatten(1).mean(1)
        assert found.errors[i] == pytest.approx(errors.mean().item(), rel=1e-4)
        assert found.deviations[i] == pytest.approx(errors.std().item() / 3, rel=1e-4)
        assert near(found.samples[i], model.scaling.to_pixels(back[:8]))
        assert text.with_error(found.errors[i], found.deviations[i]) in read.text
    assert np.array_equal(found.originals, held.data.values[:8])
    rows = [decoded(tag["src"]) for tag in read.all("img") if "8 originals." in tag["alt"] or "back in" in tag["alt"]]
    assert near(tiles(rows[0], 1, 8, 8, 8)[0][0], found.originals[:, 0])
    assert near(tiles(rows[2], 1, 8, 8, 8)[0][0], found.samples[1][:, 0])


def test_errors_by_noise_level_are_the_training_loss(model, splits, page):
    found = page.levels
    times = torch.tensor(found.times, dtype=torch.float64)
    assert ((times * 12).round() == torch.arange(1, 13)).all()  # every level of few
    assert found.log_snr == pytest.approx(model.process.log_snr(times).tolist())
    train = splits.train.data.batch(range(15)).double()
    variance = (train - train.mean(0)).square().mean().item()
    for part, split in zip(found.parts, (splits.train, splits.held), strict=True):
        x0 = split.data.batch(range(len(split.data)))
        assert part.n == len(x0)
        plain = changed(model, clip=None).diffusion(split.labels)
        for i, t in enumerate(times):
            eps = leapstep.Noise(SEED, range(len(x0)), model.shape)(i + 1)
            with torch.no_grad():
                expected = loss(plain, x0, t.expand(len(x0)), eps).mean().item()
                x = model.process.add_noise(x0, t, eps)
                error = (model.diffusion(split.labels).denoise(x, t) - x0).square().mean().item()
            assert part.eps[i] == pytest.approx(expected, rel=1e-3)
            assert part.x0[i] == pytest.approx(error / variance, rel=1e-3)
    assert [part.split for part in found.parts] == ["train", "test"]


def test_neighbours_are_those_of_the_evaluation(model, splits, page, read):
    x = model.scaling.to_model(page.samples)
    train, held = (split.data.batch(range(len(split.data))) for split in (splits.train, splits.held))
    known = evaluation.memorisation(x, train, held)
    order = known.ratio.argsort()[:8]
    found = page.neighbours
    assert found.rows == tuple(order.tolist())
    assert found.ratios == pytest.approx(known.ratio[order].tolist())
    assert found.distances == pytest.approx((known.ratio[order] * known.typical).tolist())
    assert found.relative[:3] == pytest.approx(known.relative[:3])
    assert quality.nearness(found.relative, "data (test)", "data (train)", judged=False) in read.text
    assert np.array_equal(found.nearest, splits.train.data.values[known.index[order].numpy()])
    assert np.array_equal(found.samples, page.samples[order.numpy()])
    pairs = [decoded(tag["src"]) for tag in read.all("img") if "its nearest picture" in tag["alt"]]
    assert near(tiles(pairs[3], 1, 8, 2, 2)[0][0], np.stack([found.samples[3, 0], found.nearest[3, 0]]))
    assert f"ratio {found.ratios[3]:.2f}" in read.text


def test_neighbours_are_found_part_by_part(model, splits, monkeypatch):
    x, whole = torch.randn(4, 1, 8, 8), splits.train.data
    expected = evaluation.nearest(x, whole.batch(range(15)), 1)
    monkeypatch.setattr(measured, "part_starts", lambda data: range(0, 15, 4))
    distances, rows = measured.nearest_data(x, whole)
    assert torch.equal(distances, expected[0][:, 0])
    assert torch.equal(rows, expected[1][:, 0])


def test_without_held_out_data_the_training_data_stand_in(model, splits, monkeypatch):
    whole, x = splits.train.data, splits.train.data.batch(range(15))
    monkeypatch.setattr(measured, "part_starts", lambda data: range(0, 15, 4))
    found = measured.nearest_data(x, whole, torch.arange(15))[0]
    assert found.tolist() == pytest.approx(evaluation.from_others(x).tolist())
    made = pages.gather(model, splits._replace(held=None), planned(n=20, steps=1))
    known = evaluation.memorisation(model.scaling.to_model(made.samples), x)
    assert made.neighbours.ratios == pytest.approx(known.ratio.sort().values[:8].tolist())
    assert made.neighbours.relative.value == pytest.approx(known.relative.value)
    own = dataclasses.replace(made, own=True, standing=Standing(3.0, 2.0, 0.1, 9.0, 20))
    assert "Its samples are 1.5 times as far from one half of the training data as equally many" in words.quality(own)
    assert "Nothing was held out, so that is measured on the training data" in words.quality(own)
    text = next(section.text for section in sections.sections(own) if section.id == "neighbours")
    assert "times as far as other training data are (medians; 95 %" in text


@pytest.fixture(scope="session")
def parts():
    """The digits, in two parts."""
    return pages.Splits("digits", *(pages.Split(read_data("digits", split=name), None) for name in ("train", "test")))


def test_samples_are_held_against_real_data_and_against_their_mean(parts):
    train, held, rng = parts.train.data.values, parts.held.data.values, np.random.default_rng(1)
    real = train[rng.permutation(len(train))[:64]]
    flat = np.broadcast_to(held.mean(0).round().astype(np.uint8), (64, 1, 8, 8))
    found = standing(real, parts)
    x = [torch.from_numpy(each.reshape(len(each), -1) / 1.0) for each in (real, held)]  # 64 components are all
    scale = found.value / evaluation.frechet_distance(*x)
    assert found.mean == pytest.approx(scale * x[1].var(0, correction=0).sum().item(), rel=1e-3)
    assert found.n == 64
    assert abs(found.value - found.real) < 5 * found.spread  # one more draw
    assert not found.is_hopeless
    noise = rng.integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
    for hopeless in (flat, noise, 255 - flat):
        assert standing(hopeless, parts).is_hopeless
    half = standing(real[:32], parts._replace(held=None))
    assert half.n == 32
    assert not half.is_hopeless
    assert standing(real[:7], parts) is None


def test_the_opening_follows_from_the_distances(page):
    def opening(value, **more):
        shown = dataclasses.replace(page, own=True, standing=Standing(value, 2.0, 0.1, 20.0, 64), **more)
        return shown, Reader(report.render(shown))

    shown, read = opening(2.15)
    assert (
        "its samples cannot be told from equally many of the training data (Fréchet distance of 64: 2.15" in read.text
    )
    assert "Sampling in 10 steps instead of 12" in read.text
    _, read = opening(5.0)
    assert "Its samples are 2.5 times as far from the held-out data (test) as equally many of the training" in read.text
    assert "What to do next" not in read.text
    shown, read = opening(30.0, data="in sects")
    assert "Its samples are not like the data yet: they are 15 times as far" in read.text
    assert "farther than the mean of the data, drawn again and again, would be (20)." in read.text
    assert "What to do next" in read.text
    assert "instead of 12 changes" not in read.text
    assert read.commands[:2] == [
        f"leapstep train 'in sects' --out {page.source} --resume --steps 15000",
        f"leapstep doctor {page.source} 'in sects'",
    ]
    root = typer.main.get_command(app)
    for _, name, *rest in map(shlex.split, read.commands[:2]):
        root.commands[name].make_context(name, rest)
    assert "not measured here" in words.quality(dataclasses.replace(shown, data=None, standing=None))


def test_facts(page, read, model):
    seen = read.text
    count = sum(parameter.numel() for parameter in model.network.parameters())
    for said in (
        f"{count:,}",
        "1 × 8 × 8",
        "linear, T = 12 levels",
        "−1 to 1",
        f"4,321 samples of {HOSTILE}",
        "1,500 steps",
        "77",
        "0.003",
        "leapstep 0.0.7",
        checkpoint.fingerprint(model.network)[:12],
        f"A UNet of {count:,} parameters that draws 8 × 8 grey pictures of 3 classes, trained for 1,500 steps on 4,321",
        "Sampling in 10 steps instead of 12 changes its samples by",
        "of what two different samples differ by, as mean squared differences.",
        f"{page.calls:,} network calls on {page.evaluations:,} samples",
        f"torch {torch.__version__}",
        page.created,
    ):
        assert said in seen, said


def test_calls_are_counted(small):
    loaded, plan = leapstep.load(small), planned(n=5, batch_size=2, method="heun", steps=3)
    calls, network = [], loaded.network

    def counting(x, *rest):
        calls.append(len(x))
        return network(x, *rest)

    counted = dataclasses.replace(loaded)
    object.__setattr__(counted, "network", torch.nn.Module())
    counted.network.forward, counted.network.config = counting, network.config
    counted.network.weight = next(network.parameters())
    made = pages.gather(counted, plan=plan)
    assert (made.calls, made.evaluations) == (len(calls), sum(calls))
    assert made.calls > pages.effort(loaded, None, plan)  # two of each step but the last


# --- what lies in the folder ---------------------------------------------------------------------------------------


def test_losses_alike_share_a_plot(page):
    alike = {
        name: folder.Curve((100, 200, 300), values)
        for name, values in ((folder.HELD_OUT, (0.5, 0.25, 0.375)), (folder.TRAINING, (0.5, 0.125, 0.0625)))
    }
    html = report.render(dataclasses.replace(page, curves=page.curves | alike))
    assert "Plot over the training step: held-out data from 0.5 to 0.375; training data from 0.5 to 0.0625." in html


def test_curves_are_means_of_neighbours(run, page, read):
    assert page.curves == folder.curves(run)
    assert set(page.curves) == {"loss", "gradient_norm", "learning_rate"}
    curve = page.curves["gradient_norm"]
    assert len(curve.steps) == 300
    assert curve.values[0] == pytest.approx(np.mean(range(1, 5)))
    assert curve.steps[-1] == pytest.approx(curve.values[-1], abs=1)
    said = [tag["aria-label"] for tag in read.all("svg")]
    assert any(
        re.match(r"Plot of the learning rate over the training steps, from 0\.5 at step", label) for label in said
    )


def test_pictures_of_the_training_are_as_they_are(run, page, read):
    assert [strip.step for strip in page.strips] == [100, 300, 400, 600, 700, 900, 1000, 1200]
    own = (run / "samples" / "step-00000300.png").read_bytes()
    shown = [tag["src"] for tag in read.all("img") if "after training step 300" in tag["alt"]]
    assert shown == ["data:image/png;base64," + base64.b64encode(own).decode()]


def test_large_pictures_of_the_training_are_halved():
    noise = np.random.default_rng(0).integers(0, 256, (64, 3, 40, 40), dtype=np.uint8)
    encoded = io.BytesIO()
    grid(noise).save(encoded, "PNG")
    half = figures.strip(encoded.getvalue(), 100_000)
    assert len(half) <= 100_000
    assert Image.open(io.BytesIO(half)).width == grid(noise).width // 2


def test_an_empty_folder_has_nothing(tmp_path):
    assert folder.curves(tmp_path) == {}
    assert folder.strips(tmp_path) == []
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "events.out.tfevents.1").write_bytes(b"cut off")
    assert folder.curves(tmp_path) == {}


def test_the_table_of_a_sweep(page, read, html):
    assert len(page.sweep.cells) == 6
    assert "0.600 ± 0.020" in read.text
    assert "5 calls, 12 s" in read.text
    assert "20 calls, 25 s" in read.text
    assert f"Best for 5 calls: {HOSTILE}." in read.text
    assert "other weights" not in read.text
    best = re.findall(r"<strong>([\d.]+ ± [\d.]+)</strong>", html)
    assert best == ["0.400 ± 0.020", "0.200 ± 0.020"]
    said = [tag["aria-label"] for tag in read.all("svg") if "Fréchet" in tag["aria-label"]]
    assert said == [
        "Plot of the Fréchet distance over network calls a sample, a line with error bars for each of 3 methods.",
        "Plot of the Fréchet distance over seconds for 500 samples, at median pace, a line with error bars "
        "for each of 3 methods.",
    ]


def test_more_is_better_of_precision(tmp_path, page):
    cells = [{**cell, "spacing": s} for cell in sweep_cells(page) for s in ("trailing", "quad")]
    for cell in cells:
        cell["metrics"] = {
            "precision": {"value": cell["steps"] / 100 + (cell["spacing"] == "quad"), "low": None, "high": None}
        }
    found, _ = folder.sweep(write_sweep(tmp_path / "s", "w", metric="precision", cells=cells, finished=False))
    html = report.render(dataclasses.replace(page, sweep=found, curves={}, levels=None))
    read = Reader(html)
    assert "The sweep is not finished: cells are missing." in read.text
    assert "more is better" in read.text
    assert "heun, quad" in read.text
    strong = re.findall(r"<strong>([\d.]+)</strong>", html)
    assert strong == ["1.05", "1.1"]
    assert "--spacings trailing,quad" in " ".join(read.commands)


def test_cells_that_cannot_be_told_from_the_best_of_their_column_have_a_sign(tmp_path, page):
    cells = sweep_cells(page)
    for cell, luck in zip(cells[3:], (0.2, 0.21, -0.5), strict=True):  # ddim, ddpm and heun, the best, in 10 steps
        value = cell["metrics"]["frechet"]["value"]
        cell["replicates"] = {"frechet": [value + luck, value - luck]}
    found, _ = folder.sweep(write_sweep(tmp_path / "s", "w", cells=cells))
    html = report.render(dataclasses.replace(page, sweep=found, curves={}, levels=None))
    assert html.count("≈") == 2
    assert "≈ 0.3" in html
    assert quality.EVEN in html


def sweep_cells(page):
    return json.loads((page_folder(page) / "results.json").read_text())["cells"]


def page_folder(page):
    return leapstep.files.Path(page.sweep.folder)


@pytest.mark.parametrize("content", ["", "[]", '{"metric": "frechet"}', '{"metric": 1, "cells": [1]}'])
def test_what_is_no_sweep(tmp_path, content):
    with pytest.raises(ValueError, match=r"there is no .*results\.json"):
        folder.sweep(tmp_path)
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"is not a result of leapstep evaluate or sweep|is not JSON"):
        folder.sweep(tmp_path)


def test_a_sweep_without_values(tmp_path, page):
    found, _ = folder.sweep(write_sweep(tmp_path / "s", "w", cells=[], advice=[]))
    assert "Quality by steps" in report.render(dataclasses.replace(page, sweep=found, curves={}, levels=None))
