"""What the shell offers when the tab key is pressed."""

import pytest
from typer.testing import CliRunner

from leapstep.cli import app, options
from leapstep.cli.completion import listed
from leapstep.core.sampling import STARTS
from leapstep.core.spacing import SPACINGS
from leapstep.core.transitions import TRANSITIONS
from leapstep.training.configuration import PRESETS


def offered(*words):
    """What is offered for the last word."""
    asked = {"COMP_WORDS": " ".join(["leapstep", *words]), "COMP_CWORD": str(len(words))}
    result = CliRunner().invoke(app, [], prog_name="leapstep", env={"_LEAPSTEP_COMPLETE": "complete_bash", **asked})
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("sample", "m", "--method", ""), [*TRANSITIONS, "fitted", "auto"]),
        (("sample", "m", "--spacing", ""), SPACINGS),
        (("sample", "m", "--start", ""), STARTS),
        (("sample", "m", "--variance", ""), ["posterior", "beta", "none", "learned", "optimal", "eta"]),
        (("sweep", "m", "--methods", ""), [*TRANSITIONS, "fitted"]),
        (("sweep", "m", "--spacings", "l"), ["leading", "linspace", "log_snr"]),
        (("interpolate", "m", "--spacing", "tr"), ["trailing"]),
        (("likelihood", "m", "--method", ""), ["vlb", "ode"]),
        (("edit", "m", "--by", ""), ["replacement", "guidance"]),
        (("evaluate", "m", "--features", ""), ["pixels", "inception"]),
        (("train", "digits", "--preset", ""), PRESETS),
        (("train", "digits", "--predicts", ""), ["eps", "x0", "v"]),
        (("train", "digits", "--precision", ""), ["auto", "float32", "bf16"]),
        (("info", "m", "--js"), ["--json"]),
        (("sam",), ["sample"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_names_are_offered(words, names):
    assert sorted(offered(*words)) == sorted(names)


def test_models_are_offered_and_folders_on_the_way_to_them(tmp_path, monkeypatch):
    for name in ("runs/a", "runs/b", "photos", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "runs" / "a" / "leapstep.json").write_text("{}")
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert offered("info", "") == ["photos/", "runs/"]
    assert offered("info", "runs/") == ["runs/a", "runs/b/"]
    assert offered("info", f"{tmp_path}/runs/a") == [f"{tmp_path}/runs/a"]
    assert offered("info", "nowhere/") == []


def test_prose_lists_nothing():
    assert listed("How many samples; default: all | or none of them.") == []
    assert listed("What it is, and why.") == []
    assert listed(options.METHODS) == [*TRANSITIONS, "fitted", "auto"]
