"""Text from elsewhere is shown, never obeyed; names that are nearly right are guessed."""

import io
import sys

import pytest

from leapstep.text import acting, clean, cleaned_output, duration, memory, near, one_line, reason, seconds, unknown


@pytest.mark.parametrize(
    "evil", ["\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "a\rb", "\u202e", "\u2066", "\u200b", "\ud800"]
)
def test_characters_that_act_are_shown_instead(evil):
    shown = clean(f"before{evil}after")
    assert shown.startswith("before")
    assert shown.endswith("after")
    assert shown.isprintable()


def test_text_that_only_shows_stays():
    text = "η = 0.5 für 雪, 𝛼 ≈ ½\n\tindented – “quoted”"
    assert clean(text) == text


def test_a_long_text_becomes_one_short_line():
    line = one_line("word\n" * 100_000, most=50)
    assert len(line) <= 54
    assert "\n" not in line
    assert line.endswith("...")


@pytest.mark.parametrize(
    ("said", "line"),
    [("", "OSError"), ("\n \n", "OSError"), ("\n no\x1b[2J \nmore", r"no\x1b[2J"), ("\x1c\x1d", "OSError")],
)
def test_what_an_error_says_is_one_line(said, line):
    assert reason(OSError(said)) == line


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("ddmi", "ddim"), ("DDIM", "ddim"), ("epsilon", "eps"), ("dpmpp-2m", "dpmpp_2m"), ("zzz", None)],
)
def test_near_misses_are_guessed(wrong, meant):
    names = ["ddpm", "ddim", "dpmpp_2m", "unipc", "eps"]
    assert near(wrong, names) == meant
    said = str(unknown("method", wrong, names))
    assert "use one of ddpm, ddim, dpmpp_2m, unipc, eps" in said
    assert (f"did you mean {meant}?" in said) == (meant is not None)


def test_nothing_that_is_printed_acts(capsys):
    with cleaned_output():
        print("a\x1b[31mb\u202e", file=sys.stderr)
        sys.stdout.writelines(["\x9b2J", "\n"])
        sys.stdout.write("\rreading: 10%")  # a bar of another library
        acting(sys.stdout).write("\x1b[1mours\x1b[0m")
        with cleaned_output():  # once is enough
            print("\udcff")
        assert not hasattr(sys.stdout, "buffer")
    assert not hasattr(sys.stdout, "beneath")
    out, err = capsys.readouterr()
    assert err == "a\\x1b[31mb\\u202e\n"
    assert out == "\\x9b2J\n\rreading: 10%\x1b[1mours\x1b[0m\\udcff\n"


def test_a_terminal_that_lacks_a_character_shows_its_escape(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    with cleaned_output():
        print("Fréchet, η")
        print("≈", file=acting(sys.stdout))  # as tables and bars do
    assert terminal.errors == "strict"
    terminal.flush()
    assert terminal.buffer.getvalue().decode("latin-1").splitlines() == ["Fréchet, \\u03b7", "\\u2248"]


@pytest.mark.parametrize(
    ("time", "words"),
    [
        *((0, "0 s"), (0.0123, "12 ms"), (0.11, "0.11 s"), (3.21, "3.2 s"), (90, "90 s"), (99.7, "1 min 40 s")),
        *((121, "2 min 1 s"), (1500, "25 min"), (3599, "1 h"), (9000, "2 h 30 min"), (700_000, "8 days")),
    ],
)
def test_durations_are_written_as_people_do(time, words):
    assert duration(time) == words


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1_250_000, "1.192 MiB"), (17 << 30, "17 GiB")]
)
def test_memory_for_people(size, words):
    assert memory(size) == words


@pytest.mark.parametrize("time", [0.5, 3.2, 90, 121, 1500, 9000])
def test_durations_are_read_as_they_are_written(time):
    assert seconds(duration(time)) == time
