"""`leapstep reconstruct`, `interpolate` and `trace`, against what the library computes for the same ends.

The networks have random weights and few levels: between data and noise, what counts is that every number and picture is
the one that was asked for.
"""

import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from commands import done, full_disk, invoke, refused, tree
from expected_pictures import decoded, near, noise, way
from leapstep.cli import app
from leapstep.core.interpolation import slerp
from leapstep.data.pictures import captioned, grid, preview, selection, table
from leapstep.files import folders
from leapstep.inference import encoding, tracing


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


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
        ("--method newton", ["--method newton", "ddim, ddpm"]),
        ("--set order=2", ["order does not apply to method ddim"]),
        ("--method dpmpp_2m --set eta=0", ["eta does not apply to method dpmpp_2m"]),
        ("--spacing even", ["--spacing even", "trailing"]),
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
        ("--method ddpm", ["--method ddpm: it injects noise", "use one of ddim, dpmpp_2m"]),
        ("--method ddim --set eta=0.5", ["must be deterministic"]),
        ("--batch-size 0", ["--batch-size 0: must be at least 1"]),
    ],
)
def test_only_deterministic_methods_have_latents(model, insects, tmp_path, command, given, words):
    refused(invoke(*FIRST[command](model, insects), "--out", tmp_path / "o", *given.split()), *words)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", [*FIRST, "sample", "report"])
def test_a_folder_or_file_that_another_process_writes_is_left_to_it(model, insects, tmp_path, command):
    out = tmp_path / "o.html"
    first = FIRST[command](model, insects) if command in FIRST else [command, model, "--n", 1, "--steps", 1]
    with folders.locked_file(out) if command == "report" else folders.locked(out):
        refused(invoke(*first, "--out", out), rf"{out} is being written by another process \(.*pid {os.getpid()} on")
        if command == "report":
            assert not out.exists()
        else:
            assert set(tree(out)) == {folders.LOCK}


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
        assert re.sub(r" in [^,]+,", "", plain) == re.sub(r" in [^,]+,", "", rest)


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
    from leapstep.views import trajectory

    monkeypatch.setattr(trajectory, "FRAMES", 5)
    monkeypatch.setattr(trajectory, "FRAME", 2 * 8 * 8 * 3**2)
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


@pytest.mark.parametrize("command", ["interpolate", "trace"])
def test_ctrl_c_leaves_nothing_by_halves(model, tmp_path, monkeypatch, command):
    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((encoding, "decode") if command == "interpolate" else (tracing, "draw")), stop)
        result = invoke(*FIRST[command](model, None), "--out", tmp_path / "o")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "leapstep: stopped"
    assert set(tree(tmp_path / "o")) == {"manifest.json"} | ({"trace.png"} if command == "trace" else set())
    done(*FIRST[command](model, None), "--out", tmp_path / "o", "--overwrite")
