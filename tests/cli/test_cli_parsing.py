"""What all commands share on the way from a line of words to a call, and from a result to JSON."""

import json

import pytest
import typer
from typer.testing import CliRunner

from commands import done, invoke, refused
from leapstep.cli import JOURNEY, app
from leapstep.cli.parsing import one_at_a_time

COMMANDS = typer.main.get_command(app).commands


def spelled(command, text):
    return " ".join(one_at_a_time(text.split(), COMMANDS[command].params))


@pytest.mark.parametrize("seeds", ["--seeds 3 7", "--seeds 3,7", "--seeds=3,7", "--seeds=3 7", "--seeds 3 --seeds 7"])
def test_lists_are_written_in_a_row_with_commas_or_one_at_a_time(seeds):
    assert spelled("interpolate", f"model {seeds} --out x") == "model --seeds 3 --seeds 7 --out x"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_with_several_values_takes_them_in_a_row(command):
    """Also where an option is new: none is left out."""
    for param in COMMANDS[command].params:
        if param.multiple:
            name, (a, b) = param.opts[0], ("x=1", "y=2") if "=" in param.metavar else ("1", "2")
            assert "..." in param.metavar
            assert spelled(command, f"{name} {a} {b} --json") == f"{name} {a} {name} {b} --json"


def test_lists_take_no_more_than_their_values():
    assert spelled("interpolate", "m --images a,1.png b.png") == "m --images a,1.png --images b.png"
    line = ["m", "--prompt", "a cat, asleep", "a dog"]
    assert one_at_a_time(line, COMMANDS["sample"].params) == ["m", "--prompt", "a cat, asleep", "--prompt", "a dog"]
    assert spelled("interpolate", "--set a=1,2 b=3 m --seeds 3 4 --mp4") == (
        "--set a=1,2 --set b=3 m --seeds 3 --seeds 4 --mp4"
    )
    assert spelled("interpolate", "m --seeds -1 2") == "m --seeds -1 --seeds 2"
    assert spelled("interpolate", "--seeds --out x") == "--seeds --out x"
    assert spelled("interpolate", "--seeds 3 7 model --out x") == "--seeds 3 --seeds 7 model --out x"
    assert spelled("sample", "m --out x --label cat, dog -- 5") == "m --out x --label cat --label dog -- 5"
    assert spelled("sample", "--method=unipc m --n 3 4") == "--method=unipc m --n 3 4"


def test_the_arguments_that_are_needed_may_stand_behind_a_row_at_the_end():
    assert spelled("sample", "--out x --label cat dog m") == "--out x --label cat --label dog m"
    assert spelled("sweep", "--overwrite --out x --etas 0 beta m") == "--overwrite --out x --etas 0 --etas beta m"
    assert spelled("sweep", "m d --etas 0 beta") == "m d --etas 0 --etas beta"
    assert spelled("reconstruct", "--steps 3 4 m d") == "--steps 3 --steps 4 m d"
    assert spelled("sweep", "--methods ddim") == "--methods ddim"


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_the_same_flag_everywhere(command):
    """Listed in the order in which one comes to need them, with the same words."""
    (flag,) = (param for param in COMMANDS[command].params if param.name == "as_json")
    assert flag.opts == ["--json"]
    assert flag.is_flag
    assert [name for commands in JOURNEY.values() for name in commands] == list(COMMANDS)


def test_json_is_all_that_is_on_stdout(tmp_path):
    """Also of a command whose exit code says something: what people read is away, what is wrong on stderr."""
    from leapstep.cli.parsing import Verdict, with_json

    def body(number: float = 1.0):
        typer.echo("for people")
        typer.echo("careful", err=True)
        return Verdict({"number": number, "out": tmp_path, "rows": [(1, None, float("nan"))]}, 3)

    application = typer.Typer()
    application.command()(with_json(body))
    result = CliRunner().invoke(application, ["--json", "--number", "inf"])
    assert json.loads(result.stdout) == {"number": None, "out": str(tmp_path), "rows": [[1, None, None]]}
    assert result.stderr == "careful\n"
    assert result.exit_code == 3
    result = CliRunner().invoke(application, [])
    assert result.stdout == "for people\n"
    assert result.exit_code == 3


def test_near_misses_of_commands_and_options_are_guessed(tmp_path):
    assert "sample" in invoke("sampel").stderr
    assert "--steps" in invoke("sample", "x", "--step", 5).stderr
    assert not list(tmp_path.iterdir())


def test_the_commands_are_listed_as_a_journey():
    text = done("--help").stdout
    positions = [text.index(f"│ {name} ") for name in COMMANDS]
    assert positions == sorted(positions)
    assert list(COMMANDS)[:4] == ["demo", "train", "info", "sample"]
    assert all(panel in text for panel in JOURNEY)


def test_a_mistake_under_json_is_a_line_on_stderr(tmp_path):
    result = invoke("info", tmp_path / "nothing", "--json")
    refused(result, "no model folder")
    assert result.stdout == ""
