"""`leapstep reconstruct`, `interpolate` and `trace`, against what the library computes for the same ends.

The networks have random weights and few levels: between data and noise, what counts is that every number and picture is
the one that was asked for.
"""

import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import leapstep
from commands import done, full_disk, invoke, refused, tree
from leapstep.cli import app
from leapstep.core.interpolation import interpolation_grid, slerp, spherical
from leapstep.core.scaling import Scaling
from leapstep.data.pictures import captioned, grid, preview, selection, table
from leapstep.files import folders
from leapstep.models import checkpoint
from leapstep.networks import MLP, UNet

CLASSES = ("ant", "bee", "cat")


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def same_picture(path, image):
    """The same but for a pixel's rounding, which a batch of another size may change."""
    seen, expected = pixels_of(path).astype(int), np.asarray(image.convert("RGB")).astype(int)
    return seen.shape == expected.shape and abs(seen - expected).max() <= 1


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


def saved(path, network, **options):
    """A model whose weights are random but small, so that its flow is smooth."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    options = {"process": leapstep.linear(40), "predicts": "v", "clip": None} | options
    checkpoint.save(path, leapstep.Model(network, **options))
    return path


@pytest.fixture(scope="session")
def model(place):
    """Pictures of 8x8 in three classes, and the label 3 for any of them; 40 levels."""
    torch.manual_seed(0)
    unet = UNet(in_channels=1, channels=(8, 8), attention=(False, False), blocks=1, groups=4, timesteps=40, classes=4)
    details = {"data": {"classes": CLASSES}, "null_label": 3, "step": 7}
    return saved(place / "model", unet, shape=(1, 8, 8), classes=CLASSES, null_label=3, details=details)


@pytest.fixture(scope="session")
def points(place):
    """Pairs of numbers around 100, without labels."""
    torch.manual_seed(0)
    mlp = MLP(shape=(2,), width=16, depth=1, timesteps=40)
    scaling = Scaling(100.0, 5.0)
    return saved(place / "points", mlp, shape=(2,), scaling=scaling, details={"data": {"scaling": scaling._asdict()}})


@pytest.fixture(scope="session")
def insects(place):
    """A folder of pictures, 5 for testing and 2 for training of each class."""
    rng = np.random.default_rng(0)
    for split, count in (("test", 5), ("train", 2)):
        for name, i in itertools.product(CLASSES, range(count)):
            (place / "insects" / split / name).mkdir(parents=True, exist_ok=True)
            picture = np.kron(rng.integers(0, 256, (4, 4)), np.ones((2, 2))).astype(np.uint8)
            Image.fromarray(picture).save(place / "insects" / split / name / f"{i}.png")
    return place / "insects"


@pytest.fixture(scope="session")
def array(place):
    np.save(place / "points.npy", np.random.default_rng(0).normal(100, 5, (9, 2)))
    return place / "points.npy"


@pytest.fixture
def mine(tmp_path):
    """A folder with somebody's work in it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    return tmp_path / "mine"


FIRST = {  # what each command needs at least, in few steps
    "reconstruct": lambda model, insects: ["reconstruct", model, insects, "--steps", 3],
    "interpolate": lambda model, _: ["interpolate", model, "--seeds", 3, 7, "--steps", 2, "--frames", 3],
    "trace": lambda model, _: ["trace", model, "--steps", 2, "--consistency", 2, 3],
}
MARKS = {"reconstruct": "results.json", "interpolate": "manifest.json", "trace": "manifest.json"}


# --- all three -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", FIRST)
def test_help_has_examples_and_describes_every_option(command):
    text = done(command, "--help").stdout
    assert f"leapstep {command}" in text.partition("Examples")[2]
    for line in text.splitlines():
        assert not re.match(r"│ \*? *--\S+ +(--\S+ +)?<\w+> *│", line), f"no description: {line}"
    assert command in done("--help").stdout


@pytest.mark.parametrize("command", FIRST)
def test_a_list_without_values_or_of_words_is_a_usage_error(model, insects, tmp_path, command):
    option = {"reconstruct": "--steps", "interpolate": "--seeds", "trace": "--consistency"}[command]
    for given in ([option], [option, "many"]):
        result = invoke(command, model, *[insects] * (command == "reconstruct"), "--out", tmp_path / "o", *given)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", FIRST)
def test_results_are_replaced_if_told_to_and_nothing_else_ever_is(model, insects, mine, tmp_path, command):
    args = FIRST[command](model, insects)
    refused(invoke(*args, "--out", mine), "not empty")
    refused(invoke(*args, "--out", mine, "--overwrite"), "something else")
    (mine / MARKS[command]).write_text('{"name": "my web page"}')
    refused(invoke(*args, "--out", mine, "--overwrite"), "something else")
    assert (mine / "thesis.tex").read_text() == "years of work"
    done(*args, "--out", tmp_path / "o")
    shutil.copy(mine / "thesis.tex", tmp_path / "o")
    before = set(tree(tmp_path / "o"))
    refused(invoke(*args, "--out", tmp_path / "o"), "--overwrite")
    done(*args, "--out", tmp_path / "o", "--overwrite")
    assert set(tree(tmp_path / "o")) == before


@pytest.mark.parametrize("command", FIRST)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--method euler", ["--method euler", "ddim, ddpm"]),
        ("--set order=2", ["order does not apply to --method ddim"]),
        ("--method dpmpp_2m --set eta=0", ["eta does not apply to --method dpmpp_2m"]),
        ("--spacing even", ["spacing 'even'", "trailing"]),
        ("--device tpu", ["--device tpu", "cpu"]),
    ],
)
def test_mistakes_make_no_folder(model, insects, tmp_path, command, given, words):
    refused(invoke(*FIRST[command](model, insects), "--out", tmp_path / "o", *given.split()), *words)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", FIRST)
@pytest.mark.parametrize("steps", [0, -3, 41])
def test_steps_that_the_model_cannot_take(model, insects, tmp_path, command, steps):
    args = {
        "reconstruct": ["reconstruct", model, insects],
        "interpolate": ["interpolate", model, "--seeds", 1, 2],
        "trace": ["trace", model],
    }[command]
    refused(invoke(*args, "--out", tmp_path / "o", "--steps", steps), f"steps.*{steps}")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["reconstruct", "interpolate"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--method ddpm", ["--method ddpm injects noise", "use one of ddim, dpmpp_2m"]),
        ("--method ddim --set eta=0.5", ["must be deterministic"]),
        ("--batch-size 0", ["batch_size=0", "at least 1"]),
    ],
)
def test_only_deterministic_methods_have_latents(model, insects, tmp_path, command, given, words):
    refused(invoke(*FIRST[command](model, insects), "--out", tmp_path / "o", *given.split()), *words)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", [*FIRST, "sample", "report"])
def test_a_folder_or_file_that_another_process_writes_is_left_to_it(model, insects, tmp_path, command):
    out = tmp_path / "o.html"
    first = FIRST[command](model, insects) if command in FIRST else [command, model, "--n", 1, "--steps", 1]
    with folders.held_file(out) if command == "report" else folders.held(out):
        refused(invoke(*first, "--out", out), rf"{out} is being written by another process \(.*pid {os.getpid()} on")
        assert not out.is_dir() or set(tree(out)) == {folders.LOCK}


@pytest.mark.parametrize("command", FIRST)
@pytest.mark.parametrize("after", range(3))
def test_a_full_disk(model, insects, tmp_path, monkeypatch, command, after):
    """One line, whole files, and a folder that can be used again."""
    out = tmp_path / "o"
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        result = invoke(*FIRST[command](model, insects), "--out", out)
        if command != "reconstruct" or after < 2:
            refused(result, "No space left on device")
    for path in out.glob("*"):
        assert not path.name.startswith(".")
        if path.suffix == ".png":
            Image.open(path).load()
    done(*FIRST[command](model, insects), "--out", out, "--overwrite")


# --- pictures in the terminal, and videos --------------------------------------------------------------------------

DEEP = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
SHOWN = FIRST | {"sample": lambda model, _: ["sample", model, "--n", 9, "--steps", 2]}


class Terminal(io.TextIOWrapper):
    """A stdout that is a terminal, or is piped, as far as a program can tell."""

    def __init__(self, encoding, piped):
        super().__init__(io.BytesIO(), encoding)
        self.piped = piped

    def isatty(self):
        return not self.piped

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def seen(monkeypatch, *args, encoding="utf-8", piped=False, **environment):
    """What a command prints in a terminal of 60 columns and 30 lines."""
    for name in ("NO_COLOR", "TERM", "COLORTERM", "TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"COLUMNS": "60", "LINES": "30"} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal(encoding, piped))
    assert not app([str(arg) for arg in args], standalone_mode=False)  # the exit code
    text = sys.stdout.text()
    monkeypatch.undo()
    return text


def colours(text):
    """The pixels that a text shows, two a character: those above each other in its lines."""
    rows = []
    for line in text.splitlines():
        runs = re.findall(r"38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)", line)
        for part in (slice(0, 3), slice(3, 6)):
            if runs:
                rows.append([colour for run in runs for colour in [[int(v) for v in run[part]]] * len(run[6])])
    return np.array(rows)


def drawn(path):
    """The pictures in a folder of samples, as a terminal of that size shows the first of them."""
    pixels = np.stack([np.asarray(Image.open(each))[None] for each in sorted(path.glob("0*.png"))])
    return preview(selection(pixels, DEEP, (60, 30)), DEEP, (60, 30))


def test_samples_are_shown_in_a_terminal_and_named_in_all(model, tmp_path, monkeypatch):
    out = tmp_path / "o"
    args = [*SHOWN["sample"](model, None), "--out", out, "--overwrite"]
    shown = seen(monkeypatch, *args, **DEEP)
    assert shown.startswith(drawn(out))
    assert shown.count("▀") == (5 * 9 + 1) * 10  # a row of five pictures and one of four, two pixels a character
    rest = shown.removeprefix(drawn(out))
    for plain in (
        seen(monkeypatch, *args, "--no-preview", **DEEP),
        seen(monkeypatch, *args, **DEEP, NO_COLOR="1"),
        seen(monkeypatch, *args, TERM="dumb"),
        seen(monkeypatch, *args, encoding="latin-1", **DEEP),
        seen(monkeypatch, *args, piped=True, TERM="xterm-kitty"),
        done(*args).stdout,
    ):
        assert str(out / "grid.png") in plain
        assert "\x1b" not in plain
        assert re.sub(r"[\d.]+ s,", "", plain) == re.sub(r"[\d.]+ s,", "", rest)


def test_kitty_shows_samples_as_they_are(model, tmp_path, monkeypatch):
    shown = seen(monkeypatch, *SHOWN["sample"](model, None), "--out", tmp_path / "o", TERM="xterm-kitty")
    assert shown.startswith("\x1b_Ga=T,f=100")
    assert "▀" not in shown


@pytest.mark.parametrize("command", ["interpolate --seeds 3 7", "interpolate --seeds 3 7 1 2", "trace"])
def test_a_way_is_shown_in_a_terminal(model, tmp_path, monkeypatch, command):
    """From its beginning to its end, in as many pictures as there is room for; of a grid, the first row."""
    command, *given = command.split()
    args = [command, model, *given, "--out", tmp_path / "o", "--overwrite"]
    if command == "trace":
        args += ["--steps", 4, "--consistency", 2]
        pixels = way(model, 4)[1][:, 0]
    else:
        args += ["--steps", 2, "--frames", 5]
        pixels = decoded(model, torch.cat([slerp(noise(3), noise(7), f) for f in (0, 0.25, 0.5, 0.75, 1)]), 2)
    expected = np.asarray(grid(pixels[[0, 2, 4]], columns=3, padding=1, zoom=1).convert("RGB"))
    shown = seen(monkeypatch, *args, COLUMNS="30", **DEEP)
    assert near(colours(shown), expected)
    assert "\x1b" not in seen(monkeypatch, *args, "--no-preview", COLUMNS="30", **DEEP)


@pytest.mark.parametrize("command", ["sample", "interpolate", "trace"])
def test_what_is_no_picture_is_not_shown(points, tmp_path, monkeypatch, command):
    said = seen(monkeypatch, *SHOWN[command](points, None), "--out", tmp_path / "o", **DEEP)
    assert "\x1b" not in said
    assert ".png" not in said


def frames_of_the_film(model, shown, n, most=8_000_000):
    """x_t beside the estimate of x0 for each of n samples."""
    times, x, x0 = way(model, shown[-1], n)
    images = []
    for j in shown:
        rows = {f"sample {i}" if n > 1 else "": np.stack([x[j, i], x0[j, i]]) for i in range(min(n, 4))}
        sheet = table(rows, ["x_t", "x0 estimate"], side=160, most=most)
        images.append(np.asarray(captioned({f"t = {times[j].item():.3f}": sheet})))
    return np.stack(images)


def frames_in(path):
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]), image.info


@pytest.mark.parametrize("n", [1, 5])
def test_a_way_as_an_animation(model, tmp_path, n):
    done("trace", model, "--steps", 4, "--n", n, "--consistency", 2, "--gif", "--out", tmp_path / "o")
    assert set(tree(tmp_path / "o")) == {"trace.png", "consistency.png", "manifest.json", "trace.gif"}
    frames, info = frames_in(tmp_path / "o" / "trace.gif")
    assert near(frames, frames_of_the_film(model, range(5), n))
    assert info["duration"] == 1600  # the last frame, which is the sample, rests


def test_a_long_way_of_large_pictures_is_shown_in_so_many_frames_of_so_many_pixels(model, tmp_path, monkeypatch):
    from leapstep.cli import trace

    monkeypatch.setattr(trace, "FRAMES", 5)
    monkeypatch.setattr(trace, "FRAME", 2 * 8 * 8 * 3**2)
    done("trace", model, "--steps", 40, "--consistency", 2, "--gif", "--out", tmp_path / "o")
    frames, _ = frames_in(tmp_path / "o" / "trace.gif")
    assert near(frames, frames_of_the_film(model, [0, 10, 20, 30, 40], 1, 2 * 8 * 8 * 3**2))
    assert not near(frames, frames_of_the_film(model, [0, 10, 20, 30, 40], 1))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
@pytest.mark.parametrize("command", ["interpolate", "trace"])
def test_a_way_as_a_video(model, tmp_path, command):
    args = [*FIRST[command](model, None), "--out", tmp_path / "o"]
    name = {"interpolate": "animation", "trace": "trace"}[command]
    done(*args, "--mp4", *["--gif"] * (command == "trace"))
    stills, _ = frames_in(tmp_path / "o" / f"{name}.gif")
    video = (tmp_path / "o" / f"{name}.mp4").read_bytes()
    assert video[4:8] == b"ftyp"
    frames = films(tmp_path / "o" / f"{name}.mp4", stills.shape[1:3])
    assert len(frames) == len(stills) + (15 if command == "trace" else 0)
    assert abs(frames[: len(stills)].astype(int) - stills).mean() < 4
    assert abs(frames[-1].astype(int) - stills[-1]).mean() < 4
    done(*args, "--overwrite")
    assert f"{name}.mp4" not in tree(tmp_path / "o")  # of an earlier run, so it is not left beside later results
    assert ("trace.gif" in tree(tmp_path / "o")) is False


def films(path, size):
    """The frames of a video, but for what was added to make its sides even."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    h, w = (side + side % 2 for side in size)
    return raw.reshape(-1, h, w, 3)[:, : size[0], : size[1]]


@pytest.mark.parametrize("command", ["interpolate", "trace"])
def test_without_ffmpeg_there_is_one_line_before_any_work(model, tmp_path, monkeypatch, command):
    monkeypatch.setenv("PATH", str(tmp_path))
    args = [*FIRST[command](model, None), "--out", tmp_path / "o"]
    refused(invoke(*args, "--mp4"), "ffmpeg, which is not on the PATH: install it", "make a GIF")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("command", "option"), [("trace", "--gif"), ("trace", "--mp4"), ("interpolate", "--mp4")])
def test_what_is_no_picture_is_not_animated(points, tmp_path, command, option):
    args = [*FIRST[command](points, None), "--out", tmp_path / "o"]
    refused(invoke(*args, option), f"{option}: this model's samples are not pictures")
    assert not (tmp_path / "o").exists()


# --- reconstruct ---------------------------------------------------------------------------------------------------


def results(out):
    return json.loads((out / "results.json").read_text())


def errors(out):
    return {row["steps"]: row["error"] for row in results(out)["results"]}


def round_trip(model, x0, labels, steps, there=None, back=None, spacing="leading"):
    """By the library, in model space."""
    diffusion = leapstep.load(model).diffusion(labels)
    latent = leapstep.encode(diffusion, x0, steps, there or leapstep.ddim(), spacing=spacing)
    return leapstep.decode(diffusion, latent, steps, back or leapstep.ddim(), spacing=spacing)


@pytest.fixture(scope="session")
def test_data(insects):
    """The test pictures in model space, and their labels."""
    data = leapstep.data.read(insects, split="test")
    return data.batch(range(15)), torch.from_numpy(data.labels)


def test_the_error_is_that_of_encode_and_decode(model, insects, test_data, tmp_path):
    """Squared, of pixels in [0, 1], on all test pictures, each with its own label."""
    said = done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 3, 10).stdout
    x0, labels = test_data
    for row in results(tmp_path / "o")["results"]:
        error = ((round_trip(model, x0, labels, row["steps"]) - x0) / 2).double().square().mean((1, 2, 3))
        assert row["error"] == pytest.approx(error.mean().item(), rel=1e-4)
        assert row["standard_error"] == pytest.approx(error.std().item() / 15**0.5, rel=1e-4)
        assert row["calls"] == 2 * row["steps"] - 1  # at t = 0 there is nothing to denoise
        assert re.search(rf"^ *{row['steps']} +{row['calls']} +{row['error']:.3g} ", said, re.MULTILINE)
    about = results(tmp_path / "o")["reconstruction"]
    assert about["labels"]
    assert about["n"] == 15
    assert about["unit"] == "squared pixel values from 0 to 1"
    assert about["weights_sha256"] == checkpoint.fingerprint(leapstep.load(model).network)
    assert "15 samples" in said


def test_the_papers_numbers_stand_beside(model, insects, tmp_path):
    """Those of table 2, for as many levels as the model has; the others are named."""
    result = done("reconstruct", model, insects, "--out", tmp_path / "o", "--n", 3)
    assert list(errors(tmp_path / "o")) == [10, 20]
    assert "left out 50, 100, 200, 500, 1000 steps: the model has 40 noise levels" in result.stderr
    assert re.search(r"^ *10 .* 0\.014$", result.stdout, re.MULTILINE)
    assert re.search(r"^ *20 .* 0\.0065$", result.stdout, re.MULTILINE)
    done("reconstruct", model, insects, "--out", tmp_path / "p", "--n", 3, "--steps", 10, 3, 50)
    assert list(errors(tmp_path / "p")) == [3, 10]


def test_the_pictures_show_originals_above_reconstructions(model, insects, test_data, tmp_path):
    done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 3, 10)
    x0, labels = test_data
    rows = {"original": x0, **{f"{steps} steps": round_trip(model, x0, labels, steps) for steps in (3, 10)}}
    to_pixels = leapstep.load(model).scaling.to_pixels
    expected = table({caption: to_pixels(x[:12]) for caption, x in rows.items()})
    assert same_picture(tmp_path / "o" / "reconstructions.png", expected)
    assert set(tree(tmp_path / "o")) == {"results.json", "reconstructions.png"}


def test_samples_are_evenly_chosen(model, insects, test_data, tmp_path):
    """Folders are sorted by class: the first few would all be ants."""
    done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 3, "--n", 3)
    x0, labels = (each[[0, 5, 10]] for each in test_data)
    assert labels.tolist() == [0, 1, 2]
    error = ((round_trip(model, x0, labels, 3) - x0) / 2).square().mean().item()
    assert errors(tmp_path / "o")[3] == pytest.approx(error, rel=1e-4)
    done("reconstruct", model, insects, "--out", tmp_path / "one", "--steps", 3, "--n", 1)
    assert results(tmp_path / "one")["results"][0]["standard_error"] is None
    refused(invoke("reconstruct", model, insects, "--out", tmp_path / "p", "--n", 0), "n=0", "at least 1")


def test_the_exact_inverse_loses_nothing(model, insects, tmp_path):
    for name, more in (("plain", []), ("exact", ["--exact"])):
        done("reconstruct", model, insects, "--out", tmp_path / name, "--steps", 10, 20, *more)
    plain, exact = errors(tmp_path / "plain"), errors(tmp_path / "exact")
    assert plain[10] > 2 * plain[20] > 1e-5
    assert max(exact.values()) < 1e-10
    assert results(tmp_path / "exact")["reconstruction"]["exact"]
    assert not any(row["notes"] for row in results(tmp_path / "exact")["results"])


def test_a_step_without_an_exact_inverse_is_told(model, insects, tmp_path, monkeypatch):
    def inverted(transition):
        warnings.warn("a step was inverted only to 1e-1 of x", stacklevel=1)
        return transition

    monkeypatch.setattr(leapstep, "inverted", lambda transition: lambda *args: inverted(transition)(*args))
    said = done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 3, "--exact").stdout
    assert results(tmp_path / "o")["results"][0]["notes"] == ["a step was inverted only to 1e-1 of x"]
    assert said.count("inverted only to 1e-1") == 1


def test_methods_that_lean_on_earlier_steps_have_no_exact_inverse(model, insects, tmp_path):
    args = [model, insects, "--out", tmp_path / "o", "--method", "dpmpp_2m", "--steps", 5]
    refused(invoke("reconstruct", *args, "--exact"), "--exact", "--method dpmpp_2m", "earlier")
    assert not (tmp_path / "o").exists()
    done("reconstruct", *args)


def test_the_method_and_its_options(model, insects, test_data, tmp_path):
    x0, labels = test_data
    args = ["--steps", 5, "--method", "unipc", "--set", "order=2"]
    done("reconstruct", model, insects, "--out", tmp_path / "o", *args)
    method = leapstep.TRANSITIONS["unipc"].make(order=2)
    again = round_trip(model, x0, labels, 5, method, method)
    assert errors(tmp_path / "o")[5] == pytest.approx(((again - x0) / 2).square().mean().item(), rel=1e-3)
    assert results(tmp_path / "o")["reconstruction"]["order"] == 2


def test_the_spacing_is_leading_unless_told(model, insects, test_data, tmp_path):
    """The papers' uniform subsequence; it stops short of the last level, where some schedules keep no signal."""
    x0, labels = test_data
    for spacing in ("leading", "trailing"):
        done("reconstruct", model, insects, "--out", tmp_path / spacing, "--steps", 3, "--spacing", spacing)
        error = ((round_trip(model, x0, labels, 3, spacing=spacing) - x0) / 2).square().mean().item()
        assert errors(tmp_path / spacing)[3] == pytest.approx(error, rel=1e-4)
    done("reconstruct", model, insects, "--out", tmp_path / "default", "--steps", 3)
    assert errors(tmp_path / "default") == errors(tmp_path / "leading") != errors(tmp_path / "trailing")


@pytest.mark.parametrize("method", ["rk23", "rk45"])
def test_methods_with_steps_of_their_own_go_to_the_noise_and_back(model, insects, test_data, tmp_path, method):
    """In one step of the loop, all the way: the latents are as wide as noise."""
    x0, labels = test_data
    done("reconstruct", model, insects, "--out", tmp_path / "o", "--method", method)
    transition = leapstep.TRANSITIONS[method].make()
    again = round_trip(model, x0, labels, [1.0], transition, transition)
    assert errors(tmp_path / "o") == {1: pytest.approx(((again - x0) / 2).square().mean().item(), rel=1e-3)}
    assert results(tmp_path / "o")["reconstruction"]["spacing"] == "trailing"
    assert results(tmp_path / "o")["results"][0]["calls"] > 20


@pytest.mark.parametrize("given", [["--method", "rk45", "--spacing", "leading"], ["--steps", 1]])
def test_a_round_trip_that_leaves_the_data_by_one_level_is_refused(model, insects, tmp_path, given):
    said = "a single step with --spacing leading is between the data and the first of 40 noise levels"
    refused(invoke("reconstruct", model, insects, "--out", tmp_path / "o", *given), said, "use --spacing trailing")
    assert not (tmp_path / "o").exists()


def test_the_split(model, insects, tmp_path):
    done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 2, "--split", "train")
    assert results(tmp_path / "o")["reconstruction"]["n"] == 6
    refused(invoke("reconstruct", model, insects, "--out", tmp_path / "p", "--split", "valid"), "no split 'valid'")
    assert not (tmp_path / "p").exists()


def test_the_batch_size_changes_nothing(model, insects, tmp_path):
    for size in (4, 64):
        done("reconstruct", model, insects, "--out", tmp_path / str(size), "--steps", 3, "--batch-size", size)
    assert errors(tmp_path / "4")[3] == pytest.approx(errors(tmp_path / "64")[3], rel=1e-5)


def test_pictures_without_labels_are_of_any_class(model, insects, test_data, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted((insects / "test").rglob("*.png"))):
        shutil.copy(path, flat / f"{i:02d}.png")
    done("reconstruct", model, flat, "--out", tmp_path / "o", "--steps", 3, "--split", "all")
    error = ((round_trip(model, test_data[0], None, 3) - test_data[0]) / 2).square().mean().item()
    assert errors(tmp_path / "o")[3] == pytest.approx(error, rel=1e-4)
    assert not results(tmp_path / "o")["reconstruction"]["labels"]


def test_json_is_all_that_is_printed(model, insects, tmp_path):
    said = done("reconstruct", model, insects, "--out", tmp_path / "o", "--steps", 2, "--json").stdout
    assert json.loads(said) == results(tmp_path / "o")


def test_what_is_no_picture_is_measured_in_standard_deviations(points, array, tmp_path):
    out = tmp_path / "o"
    said = done("reconstruct", points, array, "--out", out, "--split", "train", "--steps", 5).stdout
    assert "variances of the training data" in said
    with np.load(out / "reconstructions.npz") as arrays:
        assert list(arrays) == ["original", "5 steps"]
        original, again = arrays.values()
    np.testing.assert_allclose(original, np.load(array), rtol=1e-6)
    assert errors(out)[5] == pytest.approx((((again - original) / 5) ** 2).mean(), rel=1e-4)
    assert not (out / "reconstructions.png").exists()


def test_what_is_finished_is_kept(model, insects, tmp_path, monkeypatch):
    from leapstep.cli import reconstruct

    measure, out = reconstruct._measure, tmp_path / "o"

    def stop(batches, steps, *rest):
        if steps == 10:
            raise KeyboardInterrupt
        return measure(batches, steps, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(reconstruct, "_measure", stop)
        stopped = invoke("reconstruct", model, insects, "--out", out, "--steps", 3, 10)
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith(f"leapstep: stopped; the results of up to 3 steps are kept in {out}\n")
    assert list(errors(out)) == [3]
    Image.open(out / "reconstructions.png").load()
    done("reconstruct", model, insects, "--out", out, "--steps", 3, "--overwrite")


# --- interpolate ---------------------------------------------------------------------------------------------------


def frames_of(out):
    """The frames of the animation, float [n, h, w], in the size of the pictures."""
    with Image.open(out / "animation.gif") as image:
        frames = [np.asarray(frame.convert("L"))[::20, ::20] for frame in ImageSequence.Iterator(image)]
    return np.stack(frames).astype(int)


def noise(seed, shape=(1, 8, 8)):
    return leapstep.Noise(seed, range(1), shape)(0)


def decoded(model, z, steps, spacing="trailing", transition=None, label=None):
    loaded = leapstep.load(model)
    diffusion = loaded.diffusion(None if label is None else torch.tensor([label]))
    first = leapstep.times(loaded.process, steps, spacing)[0]
    x = leapstep.decode(diffusion, loaded.process.sigma(first) * z, steps, transition, spacing=spacing)
    return loaded.scaling.to_pixels(x)


def near(a, b):
    return a.shape == b.shape and abs(a.astype(int) - b.astype(int)).max() <= 1


@pytest.mark.parametrize("path", ["slerp", "spherical"])
def test_a_strip_and_an_animation_there_and_back(model, tmp_path, path):
    out = tmp_path / "o"
    given = [] if path == "slerp" else ["--path", path]
    done("interpolate", model, "--seeds", 3, 7, "--frames", 5, "--steps", 4, "--out", out, *given)
    way = {"slerp": slerp, "spherical": spherical}[path]
    expected = decoded(model, torch.cat([way(noise(3), noise(7), f) for f in (0, 0.25, 0.5, 0.75, 1)]), 4)
    assert near(frames_of(out), expected[[0, 1, 2, 3, 4, 3, 2, 1], 0])
    assert same_picture(out / "strip.png", table({"": expected}, ["0", "0.25", "0.5", "0.75", "1"]))
    assert set(tree(out)) == {"strip.png", "animation.gif", "manifest.json"}


def test_the_ends_are_the_samples_of_the_seeds(model, tmp_path):
    done("interpolate", model, "--seeds", 3, 7, "--frames", 2, "--steps", 4, "--out", tmp_path / "o")
    for i, seed in enumerate((3, 7)):
        out = tmp_path / str(seed)
        done("sample", model, "--seed", seed, "--n", 1, "--steps", 4, "--out", out)
        assert near(frames_of(tmp_path / "o")[i], np.asarray(Image.open(out / "00000.png")))


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["--label", "bee"], {"label": 1}),
        (["--label", 2], {"label": 2}),
        (["--spacing", "quad"], {"spacing": "quad"}),
        (["--method", "heun"], {"transition": leapstep.heun()}),
        (["--method", "unipc", "--set", "order=2"], {"transition": leapstep.TRANSITIONS["unipc"].make(order=2)}),
        (["--steps", 9], {"steps": 9}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_options_change_the_frames(model, tmp_path, given, options):
    out = tmp_path / "o"
    done("interpolate", model, "--seeds", 3, 7, "--frames", 3, "--steps", 3, "--out", out, *given)
    z = torch.cat([slerp(noise(3), noise(7), f) for f in (0, 0.5, 1, 0.5)])
    assert near(frames_of(out), decoded(model, z, **({"steps": 3} | options))[:, 0])
    assert not near(frames_of(out), decoded(model, z, 3)[:, 0])


def test_default_steps_are_50_or_all(model, tmp_path):
    done("interpolate", model, "--seeds", 3, 7, "--out", tmp_path / "o", "--frames", 2)
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["steps"] == 40


def test_four_seeds_make_a_grid_and_an_animation_around_it(model, tmp_path):
    out = tmp_path / "o"
    done("interpolate", model, "--seeds", "3,7,1,2", "--frames", 3, "--steps", 3, "--batch-size", 4, "--out", out)
    z = interpolation_grid(torch.cat([noise(seed) for seed in (3, 7, 1, 2)]), 3, 3)
    expected = decoded(model, z.flatten(0, 1), 3)
    assert same_picture(out / "grid.png", grid(expected, columns=3))
    assert near(frames_of(out), expected[[0, 1, 2, 5, 8, 7, 6, 3], 0])
    assert set(tree(out)) == {"grid.png", "animation.gif", "manifest.json"}


@pytest.fixture(scope="session")
def two(insects):
    return [insects / "test" / "ant" / "0.png", insects / "test" / "cat" / "3.png"]


def test_between_pictures(model, two, tmp_path):
    """Encoded, interpolated and decoded; with all the steps there are the ends come out as they went in."""
    out = tmp_path / "o"
    done("interpolate", model, "--images", *two, "--frames", 3, "--steps", 40, "--out", out)
    pixels = np.stack([np.asarray(Image.open(path))[None] for path in two])
    loaded = leapstep.load(model)
    z = leapstep.encode(loaded.diffusion(), loaded.scaling.to_model(pixels), 40, spacing="leading")
    way = torch.cat([slerp(z[:1], z[1:], f) for f in (0, 0.5, 1)])
    x = leapstep.decode(loaded.diffusion(), way, 40, spacing="leading")
    frames = frames_of(out)
    assert near(frames[:3], loaded.scaling.to_pixels(x)[:, 0])
    assert np.sqrt(((frames[[0, 2]] - pixels[:, 0].astype(int)) ** 2).mean()) < 12
    assert json.loads((out / "manifest.json").read_text())["images"] == [str(path) for path in two]


def test_the_spacing_of_pictures_is_leading_unless_told(model, two, tmp_path):
    for name, more in (("default", []), ("leading", ["leading"]), ("trailing", ["trailing"])):
        given = ["--spacing", *more] if more else []
        done("interpolate", model, "--images", *two, "--steps", 3, "--frames", 2, "--out", tmp_path / name, *given)
    frames = {name: frames_of(tmp_path / name) for name in ("default", "leading", "trailing")}
    assert np.array_equal(frames["default"], frames["leading"])
    assert not np.array_equal(frames["default"], frames["trailing"])


def test_four_pictures_of_any_size_and_mode(model, two, tmp_path):
    large = Image.open(two[0]).resize((32, 16), Image.Resampling.NEAREST).crop((8, 0, 24, 16)).convert("RGBA")
    large.save(tmp_path / "large.webp", lossless=True)
    args = ["--images", *two, tmp_path / "large.webp", two[1], "--steps", 2, "--frames", 2, "--out", tmp_path / "o"]
    done("interpolate", model, *args)
    assert (tmp_path / "o" / "grid.png").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["two or four", "--seeds 3 7", "--images"]),
        (["--seeds", 1], ["two or four"]),
        (["--seeds", 1, 2, 3], ["two or four"]),
        (["--seeds", 1, 2, "--images", "a.png", "b.png"], ["exclude each other"]),
        (["--seeds", -1, 2], ["seed=-1"]),
        (["--seeds", 1, 2, "--frames", 1], ["frames=1", "at least 2"]),
        (["--seeds", 1, 2, "--path", "linear"], ["--path linear", "slerp, spherical"]),
        (["--seeds", 1, 2, "--label", "dog"], ["--label dog", "ant, bee, cat"]),
        (["--images", "nothing.png", "b.png"], ["nothing.png", "No such file"]),
        (["--images", "note.txt", "note.txt"], ["note.txt", "not an image"]),
    ],
    ids=str,
)
def test_ends_that_are_none(model, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("not a picture")
    refused(invoke("interpolate", model, "--out", "o", *given), *words)
    assert not (tmp_path / "o").exists()


def test_pictures_that_do_not_fit(place, points, two, tmp_path):
    oblong = saved(tmp_path / "oblong", MLP(shape=(1, 4, 6), width=8, depth=1, timesteps=40), shape=(1, 4, 6))
    refused(invoke("interpolate", oblong, "--images", *two, "--out", tmp_path / "o"), "0.png has 8x8 pixels", "6x4")
    refused(invoke("interpolate", points, "--images", *two, "--out", tmp_path / "o"), "not pictures", "--seeds")
    assert not (tmp_path / "o").exists()


def test_an_interpolation_of_what_is_no_picture(points, tmp_path):
    done("interpolate", points, "--seeds", 3, 7, "--frames", 3, "--steps", 4, "--out", tmp_path / "o")
    assert set(tree(tmp_path / "o")) == {"frames.npz", "manifest.json"}
    z = torch.cat([slerp(noise(3, (2,)), noise(7, (2,)), f) for f in (0, 0.5, 1)])
    loaded = leapstep.load(points)
    x = leapstep.decode(loaded.diffusion(), loaded.process.sigma(torch.tensor(1.0, dtype=torch.float64)) * z, 4)
    with np.load(tmp_path / "o" / "frames.npz") as arrays:
        np.testing.assert_allclose(arrays["frames"], loaded.scaling.to_values(x), rtol=1e-5)


def test_a_manifest_is_enough_to_repeat_the_frames(model, tmp_path):
    given = "--frames 3 --steps 3 --path spherical --spacing quad --label bee --method unipc --set order=2"
    done("interpolate", model, "--seeds", 3, 7, *given.split(), "--batch-size", 2, "--out", tmp_path / "first")
    kept = json.loads((tmp_path / "first" / "manifest.json").read_text())
    again = ["interpolate", kept["model"], "--seeds", *kept["seeds"], "--set", f"order={kept['order']}"]
    again += ["--path", kept["interpolation"]]
    for name in ("frames", "steps", "spacing", "label", "method", "batch_size", "device"):
        again += [f"--{name.replace('_', '-')}", kept[name]]
    done(*again, "--out", tmp_path / "second")
    assert tree(tmp_path / "first") == tree(tmp_path / "second")


# --- trace ---------------------------------------------------------------------------------------------------------


def way(model, steps, n=1, seed=0, spacing="trailing", transition=None, label=None):
    """Rows of pixels for the times of a sampler, by the library."""
    loaded = leapstep.load(model)
    times = leapstep.times(loaded.process, steps, spacing)
    z = leapstep.Noise(seed, range(n), loaded.shape)
    x = loaded.process.sigma(times[0]) * z(0)
    xs, estimates = [x], []
    diffusion = loaded.diffusion(None if label is None else torch.tensor([label]))
    with torch.no_grad():
        for state in leapstep.trajectory(diffusion, x, times, transition, z):
            xs.append(state.x)
            estimates.append(state.x0)
    to_pixels = loaded.scaling.to_pixels
    return times, to_pixels(torch.stack(xs)), to_pixels(torch.stack([*estimates, xs[-1]]))


def test_a_way_is_x_above_its_estimate_of_x0(model, tmp_path):
    done("trace", model, "--steps", 4, "--consistency", 2, "--out", tmp_path / "o")
    times, x, x0 = way(model, 4)
    assert times.tolist() == [1, 0.75, 0.5, 0.25, 0]
    captions = ["t = 1", "t = 0.75", "t = 0.5", "t = 0.25", "t = 0"]
    expected = table({"x_t": x[:, 0], "x0 estimate": x0[:, 0]}, captions)
    assert same_picture(tmp_path / "o" / "trace.png", expected)
    assert np.array_equal(x[-1], x0[-1])
    assert set(tree(tmp_path / "o")) == {"trace.png", "consistency.png", "manifest.json"}


def test_a_long_way_shows_a_dozen_times_with_both_ends(model, tmp_path):
    done("trace", model, "--steps", 40, "--consistency", 2, "--out", tmp_path / "o")
    times, x, x0 = way(model, 40)
    shown = [0, 4, 7, 11, 15, 18, 22, 25, 29, 33, 36, 40]
    captions = [f"t = {times[i].item():.3g}" for i in shown]
    expected = table({"x_t": x[shown, 0], "x0 estimate": x0[shown, 0]}, captions)
    assert same_picture(tmp_path / "o" / "trace.png", expected)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["--seed", 5], {"seed": 5}),
        (["--label", "cat"], {"label": 2}),
        (["--spacing", "leading"], {"spacing": "leading"}),
        (["--method", "ddpm"], {"transition": leapstep.ddpm()}),
        (["--method", "ddim", "--set", "eta=0.5"], {"transition": leapstep.ddim(0.5)}),
        (["--n", 2], {"n": 2}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_options_change_the_way(model, tmp_path, given, options):
    done("trace", model, "--steps", 3, "--consistency", 3, "--out", tmp_path / "o", *given)
    times, x, x0 = way(model, 3, **options)
    rows = {"x_t": x[:, 0], "x0 estimate": x0[:, 0]}
    if options == {"n": 2}:
        named = [(f"x_t of {i}", x[:, i]) for i in (0, 1)], [(f"x0 estimate of {i}", x0[:, i]) for i in (0, 1)]
        rows = dict(pair for pairs in zip(*named, strict=True) for pair in pairs)
    expected = table(rows, [f"t = {t.item():.3g}" for t in times])
    assert same_picture(tmp_path / "o" / "trace.png", expected)
    _, x, x0 = way(model, 3)
    before = table({"x_t": x[:, 0], "x0 estimate": x0[:, 0]}, [f"t = {t.item():.3g}" for t in times])
    assert not same_picture(tmp_path / "o" / "trace.png", before)
    kept = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert all(kept[name] == value for name, value in options.items() if name in ("seed", "spacing", "n"))


def test_the_end_of_the_way_is_the_sample(model, tmp_path):
    args = ["--steps", 4, "--seed", 5, "--method", "ddpm", "--label", "bee"]
    done("sample", model, *args, "--n", 1, "--out", tmp_path / "s")
    done("trace", model, *args, "--consistency", 4, "--out", tmp_path / "o")
    seen = pixels_of(tmp_path / "o" / "trace.png")
    large = np.asarray(Image.open(tmp_path / "s" / "00000.png").convert("RGB")).repeat(8, 0).repeat(8, 1).astype(int)
    right = seen.shape[1] - 64 - 7 // 2 - 3
    offsets = [(y, x) for y in range(20, 40) for x in range(right - 10, right + 10) if x + 64 <= seen.shape[1]]
    assert any(abs(seen[y : y + 64, x : x + 64] - large).max() <= 1 for y, x in offsets)


def test_consistency_is_the_same_noise_in_more_and_more_steps(model, tmp_path):
    result = done("trace", model, "--steps", 2, "--consistency", 20, 3, 6, 100, "--seed", 1, "--out", tmp_path / "o")
    assert "left out 100 steps: the model has 40 noise levels" in result.stderr
    loaded = leapstep.load(model)
    samples = {
        steps: leapstep.sample(loaded.diffusion(), (4, 1, 8, 8), steps, seed=1, spacing="trailing")
        for steps in (3, 6, 20)
    }
    pixels = [loaded.scaling.to_pixels(x) for x in samples.values()]
    rows = {f"sample {i}": np.stack([column[i] for column in pixels]) for i in range(4)}
    assert same_picture(tmp_path / "o" / "consistency.png", table(rows, ["3 steps", "6 steps", "20 steps"]))
    kept = json.loads((tmp_path / "o" / "manifest.json").read_text())["consistency"]
    assert [row["steps"] for row in kept] == [3, 6, 20]
    assert kept[0]["error"] == pytest.approx(((samples[3] - samples[20]) / 2).square().mean().item(), rel=1e-3)
    assert kept[0]["error"] > kept[1]["error"] > kept[2]["error"] == 0
    assert f"3 steps are {kept[0]['error']:.2g} from 20" in result.stdout


def test_consistency_by_default_and_with_many_samples(model, tmp_path):
    done("trace", model, "--steps", 2, "--n", 5, "--out", tmp_path / "o")
    kept = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert [row["steps"] for row in kept["consistency"]] == [10, 20]
    way, samples = (pixels_of(tmp_path / "o" / f"{name}.png").shape[0] for name in ("trace", "consistency"))
    assert 2 * (samples - 28) == way - 28  # five rows of pictures and ten, below a line of captions


def test_default_steps_of_a_trace(model, tmp_path):
    done("trace", model, "--consistency", 2, "--out", tmp_path / "o")
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["steps"] == 20


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--n", 0], ["n=0", "at least 1"]),
        (["--seed", -1], ["seed=-1"]),
        (["--label", "dog"], ["--label dog"]),
        (["--consistency", 0], ["steps 0", "from 1 to 40"]),
        (["--consistency", 50, 60], ["steps 50, 60", "from 1 to 40"]),
    ],
    ids=str,
)
def test_traces_that_cannot_be(model, tmp_path, given, words):
    refused(invoke("trace", model, "--steps", 2, "--out", tmp_path / "o", *given), *words)
    assert not (tmp_path / "o").exists()


def test_a_trace_of_what_is_no_picture(points, tmp_path):
    done("trace", points, "--steps", 3, "--consistency", 2, 3, "--out", tmp_path / "o")
    assert set(tree(tmp_path / "o")) == {"trace.npz", "consistency.npz", "manifest.json"}
    with np.load(tmp_path / "o" / "trace.npz") as arrays:
        kept = dict(arrays)
    assert kept["times"].tolist() == leapstep.times(leapstep.load(points).process, 3).tolist()
    assert kept["x"].shape == kept["x0"].shape == (4, 1, 2)
    np.testing.assert_allclose(kept["x0"][-1], kept["x"][-1], rtol=1e-6)
    with np.load(tmp_path / "o" / "consistency.npz") as arrays:
        assert list(arrays) == ["2 steps", "3 steps"]
        np.testing.assert_allclose(arrays["3 steps"][0], kept["x0"][-1, 0], rtol=1e-5)


@pytest.mark.parametrize("command", ["interpolate", "trace"])
def test_ctrl_c_leaves_nothing_by_halves(model, tmp_path, monkeypatch, command):
    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(leapstep, "decode" if command == "interpolate" else "sample", stop)
        result = invoke(*FIRST[command](model, None), "--out", tmp_path / "o")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "leapstep: stopped"
    assert set(tree(tmp_path / "o")) == {"manifest.json"} | ({"trace.png"} if command == "trace" else set())
    done(*FIRST[command](model, None), "--out", tmp_path / "o", "--overwrite")
