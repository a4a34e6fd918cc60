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
import shutil
import sys
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import torch
import typer
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

import leapstep
from commands import done, invoke, refused, tree
from leapstep.cli import app, options
from leapstep.core.interpolation import interpolation_grid
from leapstep.core.scaling import Scaling
from leapstep.data import read as read_data
from leapstep.data.pictures import grid
from leapstep.evaluation import distances as evaluation
from leapstep.evaluation import quality
from leapstep.models import checkpoint
from leapstep.networks import MLP, UNet
from leapstep.training import loss
from leapstep.views import plots, report
from leapstep.views.report import commands, figures, folder, sections, words
from leapstep.views.report.contents import Standing, kind
from leapstep.views.report.extent import EXTENTS, WHOLE

HOSTILE = "<img src=x onerror=alert(1)>\"' $x_1$ `id`"
CLASSES = ("ant", "-bee", HOSTILE)


def saved(path, network, **options):
    """A model whose weights are random but small, so that its flow is smooth."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    checkpoint.save(path, leapstep.Model(network, **({"predicts": "v", "clip": None} | options)))
    return path


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="session")
def run(place):
    """A run folder: pictures of 8x8 in three classes, 12 levels, a log, samples of the training, a sweep."""
    torch.manual_seed(0)
    unet = UNet(in_channels=1, channels=(8, 8), attention=(False, False), blocks=1, groups=4, timesteps=12, classes=4)
    details = {
        "versions": {"leapstep": "0.0.7"},
        "step": 1500,
        "data": {"source": HOSTILE, "samples": 4321, "scaling": {"shift": 127.5, "scale": 127.5}, "classes": CLASSES},
        "null_label": 3,
        "training": {"schedule": "linear", "batch_size": 77, "learning_rate": 0.003, "ema_decay": 0.99},
    }
    given = {"shape": (1, 8, 8), "classes": CLASSES, "null_label": 3, "details": details, "clip": (-1.0, 1.0)}
    path = saved(place / "run", unet, process=leapstep.linear(12), **given)
    with SummaryWriter(str(path / "log")) as writer:
        for step in range(1, 1001):
            for name, value in (("loss", 1 / step), ("gradient_norm", step), ("learning_rate", 0.5)):
                writer.add_scalar(name, value, step)
    (path / "samples").mkdir()
    for step in range(100, 1300, 100):
        grid(np.full((4, 1, 8, 8), step // 10, np.uint8)).save(path / "samples" / f"step-{step:08d}.png")
    write_sweep(path / "sweep", checkpoint.fingerprint(leapstep.load(path).network))
    return path


def write_sweep(path, weights, **changes):
    """What `leapstep sweep` leaves: two methods in two numbers of steps."""
    path.mkdir()
    cells = [
        {
            "method": method,
            "settings": settings,
            "label": label,
            "steps": steps,
            "spacing": "trailing",
            "calls": calls * steps,
            "seconds": 2.5 * steps,
            "n": 500,
            "metrics": {"frechet": {"value": value / steps, "low": value / steps - 0.02, "high": value / steps + 0.02}},
        }
        for steps in (5, 10)
        for method, settings, label, calls, value in (
            ("ddim", {"eta": 0.5}, f"ddim, η = 0.5 {HOSTILE}", 1, 3.0),
            ("ddpm", {"variance": "beta"}, "_ddpm, σ̂", 1, 30.0),
            ("heun", {}, "heun", 2, 2.0),
        )
    ]
    content = {"finished": True, "model": "m", "conditions": {"model_sha256": weights, "n": 500, "features": HOSTILE}}
    content |= {"cells": cells, "metric": "frechet", "advice": [f"best for 5 calls: {HOSTILE}"]} | changes
    (path / "results.json").write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def insects(place):
    """A folder of pictures, 3 for testing and 5 for training of each class."""
    rng = np.random.default_rng(0)
    for split, count in (("test", 3), ("train", 5)):
        for name, i in itertools.product(CLASSES, range(count)):
            (place / "insects" / split / name).mkdir(parents=True, exist_ok=True)
            picture = np.kron(rng.integers(0, 256, (4, 4)), np.ones((2, 2))).astype(np.uint8)
            Image.fromarray(picture).save(place / "insects" / split / name / f"{i}.png")
    return place / "insects"


@pytest.fixture(scope="session")
def small(place):
    """Pictures without labels, in colour, and so few levels that pages are made in no time."""
    torch.manual_seed(0)
    unet = UNet(in_channels=3, channels=(8,), attention=(False,), blocks=1, groups=4, timesteps=6)
    return saved(place / "small", unet, shape=(3, 6, 4), process=leapstep.linear(6))


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


@pytest.fixture(scope="session")
def model(run):
    return leapstep.load(run)


@pytest.fixture(scope="session")
def splits(model, insects):
    parts = (report.Split(*options.data_for(model, str(insects), name)) for name in ("train", "test"))
    return report.Splits(str(insects), *parts)


STEPS = 7
SEED = 5


@pytest.fixture(scope="session")
def page(run, model, splits):
    ticks = []
    settings = report.Settings(n=20, seed=SEED, steps=STEPS, batch_size=18)
    made = report.gather(model, splits, settings, source=str(run), on_step=lambda: ticks.append(1))
    assert len(ticks) == report.effort(model, splits, settings)  # the progress bar ends where it should
    return made


@pytest.fixture(scope="session")
def html(page):
    return report.render(page)


class Reader(HTMLParser):
    """All tags, the text, and the commands of a page."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.commands, self.inside = [], "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "pre":
            self.commands.append("")

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.inside and "script" not in self.inside:
            self.text += data
        if "code" in self.inside:
            self.commands[-1] += data

    def all(self, tag, **given):
        return [found for name, found in self.tags if name == tag and given.items() <= found.items()]


@pytest.fixture(scope="session")
def read(html):
    return Reader(html)


def decoded(uri):
    """The pixels of a data URI, with an alpha channel."""
    png = base64.b64decode(re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", uri)[1])
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def tiles(pixels, frames, side, columns, n):
    """The pictures of a sprite, [frames, n, side, side], and whether all around them is transparent."""
    gap = 1
    canvas = pixels.reshape(frames, -1, side + gap, columns, side + gap, 4)
    found = np.stack([canvas[:, i // columns, :side, i % columns, :side, 0] for i in range(n)], 1)
    opaque = (canvas[..., 3] == 255).sum()
    return found, opaque == frames * n * side**2


def close(seen, expected):
    """The same pixels but for their rounding, which a batch of another size may change."""
    return seen.shape == expected.shape and abs(seen.astype(int) - expected.astype(int)).max() <= 1


def drawn(model, n, steps, seed=SEED, transition=None):
    """Samples by the library, the classes in turn."""
    diffusion = model.diffusion(torch.arange(n) % 3)
    return leapstep.sample(diffusion, (n, *model.shape), steps, transition, seed=seed)


# --- numbers and pictures ------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_library(model, page, read):
    expected = model.scaling.to_pixels(drawn(model, 20, STEPS))
    assert close(page.samples, expected)
    assert page.labels == tuple(CLASSES[i % 3] for i in range(20))
    picture = decoded(read.all("img", alt=f"20 samples of the model, drawn in {STEPS} steps of ddim.")[0]["src"])
    seen, clear = tiles(picture, 1, 8, 6, 20)  # every class has its columns
    assert close(seen[0], expected[:, 0])
    assert clear


def test_frames_of_the_slider_over_steps_are_the_same_noises(model, page, read):
    counts = (1, 2, 3, 5, 10, 12)  # no more than there are levels
    assert page.consistency.steps == counts
    (sprite,) = (tag for tag in read.all("div", role="img") if "16 samples from the same" in tag["aria-label"])
    seen, clear = tiles(decoded(sprite["style"]), 6, 8, 4, 16)
    assert clear
    samples = [drawn(model, 16, count) for count in counts]
    for frame, x in zip(seen, samples, strict=True):
        assert close(frame, model.scaling.to_pixels(x)[:, 0])
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
    assert texts[0] == f"1 step: {words.percent(page.consistency.shares[0])} from 12"
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
    assert close(page.way.x, model.scaling.to_pixels(torch.stack(seen)))
    assert close(page.way.x0, model.scaling.to_pixels(torch.stack([*estimates, seen[-1]])))


def test_a_long_way_is_shown_at_some_times_and_scaled(small):
    loaded = dataclasses.replace(leapstep.load(small), process=leapstep.ve(100))
    made = report.gather(loaded, settings=report.Settings(n=2, steps=60, extent=WHOLE._replace(steps=(1, 2))))
    assert len(made.way.times) == 25
    assert (made.way.times[0], made.way.times[-1]) == (1, 0)
    first = leapstep.Noise(0, range(2), loaded.shape)(0) * 50 / math.hypot(50, 1)
    assert close(made.way.x[0], loaded.scaling.to_pixels(first))


def test_between_four_noises(model, page, read):
    seeds = range(SEED, SEED + 4)
    assert page.between.seeds == tuple(seeds)
    z = torch.cat([leapstep.Noise(seed, range(1), model.shape)(0) for seed in seeds])
    z = interpolation_grid(z * model.process.sigma(torch.tensor(1.0)), 9, 9).flatten(0, 1)
    expected = model.scaling.to_pixels(leapstep.decode(model.diffusion(), z, STEPS))
    assert close(page.between.frames.reshape(81, 1, 8, 8), expected)
    (pad,) = (tag for tag in read.all("div") if tag.get("class") == "player pad")
    seen, _ = tiles(decoded(pad["style"]), 1, 8, 9, 81)
    assert close(seen[0], expected[:, 0])


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
        assert close(found.samples[i], model.scaling.to_pixels(back[:8]))
        assert words.with_error(found.errors[i], found.deviations[i]) in read.text
    assert np.array_equal(found.originals, held.data.values[:8])
    rows = [decoded(tag["src"]) for tag in read.all("img") if "8 originals." in tag["alt"] or "back in" in tag["alt"]]
    assert close(tiles(rows[0], 1, 8, 8, 8)[0][0], found.originals[:, 0])
    assert close(tiles(rows[2], 1, 8, 8, 8)[0][0], found.samples[1][:, 0])


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
        plain = dataclasses.replace(model, clip=None).diffusion(split.labels)
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
    assert close(tiles(pairs[3], 1, 8, 2, 2)[0][0], np.stack([found.samples[3, 0], found.nearest[3, 0]]))
    assert f"ratio {found.ratios[3]:.2f}" in read.text


def test_neighbours_are_found_part_by_part(model, splits, monkeypatch):
    x, whole = torch.randn(4, 1, 8, 8), splits.train.data
    expected = evaluation.nearest(x, whole.batch(range(15)), 1)
    monkeypatch.setattr(report, "_part", lambda data: range(0, 15, 4))
    distances, rows = report._nearest(x, whole)
    assert torch.equal(distances, expected[0][:, 0])
    assert torch.equal(rows, expected[1][:, 0])


def test_without_held_out_data_the_training_data_stand_in(model, splits, monkeypatch):
    whole, x = splits.train.data, splits.train.data.batch(range(15))
    monkeypatch.setattr(report, "_part", lambda data: range(0, 15, 4))
    found = report._nearest(x, whole, torch.arange(15))[0]
    assert found.tolist() == pytest.approx(evaluation.from_others(x).tolist())
    made = report.gather(model, splits._replace(held=None), report.Settings(n=20, steps=1))
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
    return report.Splits("digits", *(report.Split(read_data("digits", split=name), None) for name in ("train", "test")))


def test_samples_are_held_against_real_data_and_against_their_mean(parts):
    train, held, rng = parts.train.data.values, parts.held.data.values, np.random.default_rng(1)
    real = train[rng.permutation(len(train))[:64]]
    flat = np.broadcast_to(held.mean(0).round().astype(np.uint8), (64, 1, 8, 8))
    found = report.standing(real, parts)
    x = [torch.from_numpy(each.reshape(len(each), -1) / 1.0) for each in (real, held)]  # 64 components are all
    scale = found.value / evaluation.frechet_distance(*x)
    assert found.mean == pytest.approx(scale * x[1].var(0, correction=0).sum().item(), rel=1e-3)
    assert found.n == 64
    assert abs(found.value - found.real) < 5 * found.spread  # one more draw
    assert not found.is_hopeless
    noise = rng.integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
    for hopeless in (flat, noise, 255 - flat):
        assert report.standing(hopeless, parts).is_hopeless
    half = report.standing(real[:32], parts._replace(held=None))
    assert half.n == 32
    assert not half.is_hopeless
    assert report.standing(real[:7], parts) is None


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
    loaded, settings = leapstep.load(small), report.Settings(n=5, batch_size=2, method="heun", steps=3)
    calls, network = [], loaded.network

    def counting(x, *rest):
        calls.append(len(x))
        return network(x, *rest)

    counted = dataclasses.replace(loaded)
    object.__setattr__(counted, "network", torch.nn.Module())
    counted.network.forward, counted.network.config = counting, network.config
    counted.network.weight = next(network.parameters())
    made = report.gather(counted, settings=settings)
    assert (made.calls, made.evaluations) == (len(calls), sum(calls))
    assert made.calls > report.effort(loaded, None, settings)  # two of each step but the last


# --- what lies in the folder ---------------------------------------------------------------------------------------


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
    assert "5 calls, 12.5 s" in read.text
    assert "20 calls, 25 s" in read.text
    assert f"Best for 5 calls: {HOSTILE}." in read.text
    assert "other weights" not in read.text
    best = re.findall(r"<strong>([\d.]+ ± [\d.]+)</strong>", html)
    assert best == ["0.400 ± 0.020", "0.200 ± 0.020"]
    said = [tag["aria-label"] for tag in read.all("svg") if "Fréchet" in tag["aria-label"]]
    assert said == [
        "Plot of the Fréchet distance over network calls a sample, a line with error bars for each of 3 methods.",
        "Plot of the Fréchet distance over seconds for 500 samples, at each row's median pace, a line with error bars "
        "for each of 3 methods.",
    ]


def test_more_is_better_of_precision(tmp_path, page):
    cells = [{**cell, "spacing": s} for cell in sweep_cells(page) for s in ("trailing", "quad")]
    for cell in cells:
        cell["metrics"] = {
            "precision": {"value": cell["steps"] / 100 + (cell["spacing"] == "quad"), "low": None, "high": None}
        }
    found = folder.sweep(write_sweep(tmp_path / "s", "w", metric="precision", cells=cells, finished=False))
    assert found.remarks[0] == "The sweep is not finished: cells are missing."
    html = report.render(dataclasses.replace(page, sweep=found, curves={}, levels=None))
    read = Reader(html)
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
    found = folder.sweep(write_sweep(tmp_path / "s", "w", cells=cells))
    html = report.render(dataclasses.replace(page, sweep=found, curves={}, levels=None))
    assert [cell.even for cell in found.cells] == [False, False, False, True, False, False]
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
    found = folder.sweep(write_sweep(tmp_path / "s", "w", cells=[], advice=[]))
    assert "Quality by steps" in report.render(dataclasses.replace(page, sweep=found, curves={}, levels=None))


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


def test_many_large_pictures_make_a_small_file(page):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 3, 96, 96), dtype=np.uint8)
    sprite = figures.sprite(noise[None], 8)
    assert (sprite.shrunk, sprite.side) == (2, 48)
    assert len(sprite.png) < 1.1 * figures.LIMIT
    seen = np.asarray(Image.open(io.BytesIO(sprite.png)))
    expected = noise[9].reshape(3, 48, 2, 48, 2).mean((2, 4)).round().transpose(1, 2, 0)
    assert np.array_equal(seen[51 : 51 + 48, 51 : 51 + 48, :3], expected)
    assert "Shown at 1/2 of their size." in sections._samples(dataclasses.replace(page, samples=noise)).text


def test_small_pictures_that_are_blown_up_are_named(page, read):
    texts = {section.id: section.text for section in sections.sections(page)}
    for name, times in {"samples": 7, "steps": 8, "way": 8, "between": 4, "back": 6, "neighbours": 8}.items():
        assert texts[name].endswith(f" Shown enlarged, up to {times} times."), texts[name]
    own = np.zeros((64, 1, 64, 64), np.uint8)
    assert "Shown" not in sections._samples(dataclasses.replace(page, samples=own)).text


def test_numbers_are_short():
    said = {0.00004084: "4.08e-05", 12345.6: "12,346", -0.25: "−0.25", math.nan: "–", math.inf: "∞", 1e-9: "1e-09"}
    assert {value: words.short(value) for value in said} == said
    assert words.short(-math.inf) == "−∞"
    assert words.with_error(0.00657, 0.000595) == "0.00657 ± 0.00060"
    assert words.with_error(123.4, 17.3) == "123 ± 17"
    assert words.with_error(0.0000809, 0.0000034) == "(8.09 ± 0.34)e-05"
    assert words.with_error(-0.0000009, 0.0000034) == "(−0.9 ± 3.4)e-06"
    assert words.with_error(3.0, 0.0000034) == "3.0000000 ± 0.0000034"
    assert words.with_error(1.5, None) == words.with_error(1.5, math.nan) == "1.5"
    assert [words.percent(share) for share in (0.0051, 0.123, 0, 1e-6, math.nan)] == [
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
    train = report.Split(*options.data_for(loaded, str(data), "train"))
    settings = report.Settings(n=3, extent=WHOLE._replace(line=3))
    made = report.gather(loaded, report.Splits(str(data), train), settings, source=str(path))
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
        assert words.short(float(expected.mean())) in read.text


@pytest.mark.parametrize("spread", [0.004, 1.3, 40_000.0])
def test_labels_of_points_are_not_cut_off(monkeypatch, spread):
    monkeypatch.setattr(figures, "svg", lambda draw, *_: draw)
    points = np.random.default_rng(0).normal(0, spread, (20, 2))
    figure = Figure(figsize=figures.SMALL)
    with matplotlib.rc_context({"font.size": 9}):
        figures.scatter(points, figures.bounds(points), "a", "b")(figure, plots.LIGHT)
        assert 0 <= figure.get_tightbbox().x0 < 0.4


def test_a_page_without_data_says_what_data_would_add(small):
    made = report.gather(leapstep.load(small), settings=report.Settings(n=3))
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
    made = report.gather(leapstep.load(path), settings=report.Settings(n=2))
    assert made.consistency.steps == (1,)
    assert words.cost(made) == ""
    assert "Few steps" not in report.render(made)


def test_noisy_methods_leave_the_ways_that_must_be_repeatable_to_ddim(small):
    loaded = leapstep.load(small)
    noisy, plain = (report.gather(loaded, settings=report.Settings(n=2, method=name)) for name in ("ddpm", "ddim"))
    assert np.array_equal(noisy.between.frames, plain.between.frames)
    assert not np.array_equal(noisy.samples, plain.samples)
    expected = leapstep.sample(loaded.diffusion(), (2, *loaded.shape), 6, leapstep.ddpm())
    assert close(noisy.samples, loaded.scaling.to_pixels(expected))
    heun = report.gather(loaded, settings=report.Settings(n=2, method="heun"))
    assert heun.between.method == "heun"


def test_a_network_that_needs_labels(run, splits):
    loaded = dataclasses.replace(leapstep.load(run), null_label=None)
    made = report.gather(loaded, settings=report.Settings(n=2, steps=1))
    assert made.between.label == 0
    unlabelled = splits._replace(held=splits.held._replace(labels=None))
    with pytest.raises(ValueError, match="has no labels, and this model knows one class at a time"):
        report.gather(loaded, unlabelled, report.Settings(n=2, steps=1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 1}, "n=1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"method": "euler"}, "unknown method 'euler'"),
        ({"label": 3}, "label=3: the model has 3 classes"),
        ({"steps": 13}, "steps=13"),
        ({"seed": -1}, "seed=-1"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(model, settings, words):
    with pytest.raises(ValueError, match=words):
        report.gather(model, settings=report.Settings(**settings))


def test_samples_that_are_not_finite(small):
    loaded = leapstep.load(small)
    with torch.no_grad():
        next(loaded.network.parameters()).fill_(math.nan)
    with pytest.raises(leapstep.core.finite.NotFinite, match="2 of 2 samples are not finite, first after step 1 of 6"):
        report.gather(loaded, settings=report.Settings(n=2))


def test_a_slow_network_has_a_shorter_page(small, insects, tmp_path, monkeypatch):
    loaded, asked = leapstep.load(small), report.Settings()
    costs = [report.evaluations(loaded, None, report.Settings(extent=extent)) for extent in EXTENTS]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] / 10  # of a network with 6 levels
    for cost_, extent in zip(costs, EXTENTS, strict=True):
        chosen, takes = report.fitted(loaded, None, asked, seconds=2.0 * cost_ + 1, price=2.0)
        assert (chosen.extent, takes) == (extent, 2.0 * cost_)
    assert report.fitted(loaded, None, asked, 1.0, 2.0) == (chosen, 2.0 * costs[-1])  # there is no shorter one
    made = report.gather(loaded, settings=chosen)
    assert made.evaluations == costs[-1]
    assert (len(made.samples), made.between.frames.shape[:2]) == (4, (2, 2))
    assert "It shows less than usual, since calls take long" in report.render(made)
    monkeypatch.setattr(report, "price", lambda *_: 5.0)
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
    monkeypatch.setattr(report.time, "perf_counter", lambda: now)
    assert report.price(loaded) == pytest.approx(expected)


# --- the commands on the page --------------------------------------------------------------------------------------


def unrolled(command):
    """The command lines that a shell makes of one on the page."""
    if (loop := re.fullmatch(r"for (\w+) in (.*); do (.*); done", command)) is None:
        return [shlex.split(command)]
    name, values, body = loop.groups()
    return [[part.replace(f"${name}", value) for part in shlex.split(body)] for value in shlex.split(values)]


def lines(read):
    return [line for command in read.commands for line in unrolled(command) if line[0] == "leapstep"]


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


def test_no_more_neighbours_are_asked_for_than_there_are_samples(page):
    few, enough = (page._replace(n=n) for page in [page.neighbours] for n in (5, 6))
    assert commands.neighbours(dataclasses.replace(page, neighbours=few)) == []
    assert "--n 6 " in commands.neighbours(dataclasses.replace(page, neighbours=enough))[0]


def test_a_sweep_is_repeated_with_its_options(page):
    features = {"features": "learned", "features_source": "my features"}
    changed = features | {"k": 3, "resamples": 50, "guidance": 2.5, "labels": ["-bee", "ant"], "split": "all"}
    said = commands.sweep(page, page.sweep._replace(conditions=changed, metrics=("frechet", "recall")))
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
    found = page.sweep._replace(conditions=usual, metrics=evaluation.METRICS[:-1])
    assert "--steps 5,10 --features pixels --metric frechet --out" in commands.sweep(page, found)


def test_a_sweep_is_repeated_with_its_methods(page):
    said = commands.sweep(page, page.sweep)
    assert "--methods ddim,heun --etas 0.5,beta --steps 5,10 --n 500 --features" in said
    learned = page.sweep._replace(conditions={"features": "learned", "data": "there"})
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
        assert close(np.stack(written), expected[:, 0]), name
    between = np.asarray(Image.open(tmp_path / "between" / "grid.png"))
    assert close(between, np.asarray(grid(page.between.frames.reshape(81, 1, 8, 8), 9)))
    results = json.loads((tmp_path / "there-and-back" / "results.json").read_text())["results"]
    assert [row["error"] for row in results] == pytest.approx(list(page.reconstructions.errors), rel=1e-4)
    times = json.loads((tmp_path / "trace-ant" / "manifest.json").read_text())["times"]
    assert times == list(page.way.times)


def test_a_page_of_one_class_is_repeated_by_one_command(run):
    loaded = leapstep.load(run)
    made = report.gather(loaded, settings=report.Settings(n=3, steps=1, label=1), source="it's")
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
    assert close(tiles(picture, 1, 8, 5, 5)[0][0], loaded.scaling.to_pixels(x)[:, 0])
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
    assert close(*pictures)


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
    found = folder.sweep(write_sweep(tmp_path / "s", "w", relation="training"))
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
    assert report._is_own(trained("digits"), "digits")
    assert report._is_own(trained("insects"), str(insects))
    assert not report._is_own(trained(str(insects / "test")), str(insects))
    assert not report._is_own(trained("digits"), str(insects))
    assert not report._is_own(trained(), "digits")


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
        (["--n", 1], ["n=1", "at least 2"]),
        (["--steps", 7], ["steps=7", "6 levels"]),
        (["--method", "euler"], ["method 'euler'", "ddim"]),
        (["--label", "cat"], ["--label", "without labels"]),
        (["--seed", -1], ["seed=-1"]),
        (["--batch-size", 0], ["batch_size=0"]),
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

    monkeypatch.setattr(report, "decode", stop)
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
