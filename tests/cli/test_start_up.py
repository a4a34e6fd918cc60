"""A command line that answers at once: nothing heavy is imported for a help, a completed word or a refusal."""

import json
import subprocess
import sys

import pytest

from commands import ENVIRONMENT
from leapstep.cli import JOURNEY

COMMANDS = [name for names in JOURNEY.values() for name in names]

ANSWERS = """if True:
    import contextlib, io, json, sys
    from leapstep.cli import app

    answers = []
    for words in json.loads(sys.argv[1]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                app(words, prog_name="leapstep")
            except SystemExit as end:
                code = end.code
        heavy = [name for name in HEAVY if name in sys.modules]
        answers.append([code, heavy, out.getvalue(), err.getvalue()])
        if heavy:
            break  # and those behind it would have it, too
    print(json.dumps(answers))
"""


def answers(lines, heavy, **environment):
    """What an interpreter of its own says to several command lines: exit code, what it imported, stdout, stderr."""
    program = ANSWERS.replace("HEAVY", repr(heavy))
    command = [sys.executable, "-c", program, json.dumps([[str(word) for word in line] for line in lines])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT | environment)
    return json.loads(done.stdout)


def test_a_help_imports_neither_torch_nor_numpy():
    lines = [["--help"], *([name, "--help"] for name in COMMANDS)]
    found = answers(lines, ["torch", "numpy", "PIL", "yaml", "psutil", "huggingface_hub"])
    assert [(code, heavy) for code, heavy, _, _ in found] == [(0, [])] * len(lines)
    assert all(text for _, _, text, _ in found)


def test_a_command_imports_no_other():
    """Also where the shell asks what may stand behind it."""
    others = [f"leapstep.cli.{name}" for name in ("train", "tune", "sweep", "doctor")]
    asked = {"COMP_WORDS": "leapstep sample --sta", "COMP_CWORD": "2", "_LEAPSTEP_COMPLETE": "complete_bash"}
    ((code, heavy, text, _),) = answers([[]], [*others, "numpy", "rich"], **asked)
    assert (code, heavy, text) == (0, [], "--start\n")
    ((code, heavy, _, _),) = answers([["sample", "--help"]], others)
    assert (code, heavy) == (0, [])


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Commands with a mistake that can be told without torch, and what is said of it."""
    place = tmp_path_factory.mktemp("refusals")
    (place / "run" / "unet").mkdir(parents=True)
    (place / "run" / "unet" / "config.json").write_text("{}")
    (place / "bad.json").write_text('{"method": "ddim", "nosuch": 1}')
    (place / "bad.yaml").write_text("steps: [")
    (place / "typo.yaml").write_text("stepps: 3")
    (place / "taken").mkdir()
    (place / "taken" / "mine.txt").touch()
    run, out, taken = place / "run", place / "out", place / "taken"
    draw = ["sample", run, "--out", out]
    return [
        (["sample", place / "nothing", "--out", out], "no model folder"),
        (["sample", taken, "--out", out], "is not a model"),
        (["sample", f"{place}/net.py:network", "--out", out], "--convention"),
        (["info", place / "nothing"], "no model folder"),
        (["info", run, "--device", "gpu"], "--device gpu"),
        (["info", run, "--shape", "3"], "shape is for file.py:function"),
        ([*draw, "--method", "dddim"], "--method dddim: did you mean ddim?"),
        ([*draw, "--method", "lcm"], "not here; the nearest is ddpm"),
        ([*draw, "--method", "unipc", "--eta", "0.5"], "eta does not apply to method unipc"),
        ([*draw, "--set", "nosuch=1"], "nosuch does not apply to method ddim"),
        ([*draw, "--set", "nosuch"], "write it as NAME=VALUE"),
        ([*draw, "--eta", "0", "--set", "eta=1"], "eta is given twice"),
        ([*draw, "--spacing", "tailing"], "--spacing tailing: did you mean trailing?"),
        ([*draw, "--start", "nosuch"], "--start nosuch"),
        ([*draw, "--dtype", "float8"], "--dtype float8"),
        ([*draw, "--n", "0"], "--n 0: must be at least 1"),
        ([*draw, "--steps", "0"], "--steps 0"),
        ([*draw, "--seed", "-1"], "--seed -1"),
        ([*draw, "--rescale", "0.5"], "guidance 1 is none"),
        ([*draw, "--spec", place / "none.json"], "No such file"),
        ([*draw, "--spec", place / "bad.json"], "unknown key 'nosuch'"),
        ([*draw, "--resume", "--overwrite"], "exclude each other"),
        (["sample", run, "--out", taken], "is not empty"),
        (["sample", run, "--out", taken, "--overwrite"], "holds something else"),
        (["trace", run, "--out", taken], "is not empty"),
        (["interpolate", run, "--out", out, "--seeds", "1"], "two or four ends"),
        (["edit", run, "--image", place / "none.png", "--out", out], "there is no"),
        (["edit", run, "--image", "nosuch", "--out", out], "there is no nosuch"),
        (["edit", run, "--image", "digits", "--out", taken], "is not empty"),
        (["edit", run, "--image", "digits", "--out", out, "--strength", "2"], "--strength 2.0: a time above 0"),
        (["edit", run, "--image", "digits", "--out", out, "--mask", place / "none.png"], "there is no"),
        (["edit", run, "--image", "digits", "--out", out, "--resample", "2"], "pass --mask"),
        (["invert", run, "--image", place / "none.png", "--out", out], "there is no"),
        (["invert", run, "--image", "digits", "--out", taken], "is not empty"),
        (["decode", run, place / "none", "--out", out], "there is no"),
        (["decode", run, taken, "--out", out, "--blend", "1.5"], "--blend 1.5: must lie between 0"),
        (["reconstruct", run, "nosuch", "--out", out], "there is no nosuch"),
        (["reconstruct", run, "digits", "--out", taken], "is not empty"),
        (["calibrate", run, "digit"], "did you mean `digits`?"),
        (["likelihood", run, place / "bad.yaml"], "a file of an unknown kind"),
        (["tune", run, "--budget", "soon"], "--budget"),
        (["report", run, "--out", "page.txt"], "ends in .html"),
        (["evaluate", place / "nothing", "digits"], "no model folder"),
        (["evaluate", run, "digits", "--pairs", "x.jpg"], "ends in .png"),
        (["sweep", run, "digits", "--out", out, "--steps", "few"], "give integers"),
        (["sweep", run, "digits", "--out", out, "--methods", "heum"], "did you mean heun?"),
        (["sweep", run, "digits", "--out", out, "--spacings", "even"], "--spacings even"),
        (["features", "learn", "digits", "--out", out], "the one thing to do is train"),
        (["import", place / "nothing", "--out", taken], "is not empty"),
        (["import", place / "nothing", "--out", out, "--config", place / "none.yml"], "there is no configuration"),
        (["doctor", run, "nosuch"], "there is no nosuch"),
        (["demo", "--out", taken], "is not empty"),
        (["compare", run, "--out", out], "name two or more runs"),
        (["compare", run, run, "--out", "page.txt"], "ends in .html"),
        (["compare", run, place / "bad.json"], "compare runs with runs"),
        (["compare", place / "bad.json", "--out", "page.html"], "is for run folders"),
        (["push", run, "name"], "write it as user/name"),
        (["push", run, "user/name", "--license", "My own"], "--license My own"),
        (["push", run, "user/name", "--dataset", "a/b/c"], "--dataset a/b/c"),
        (["push", run, "user/name", "--out", taken], "is not empty"),
        (["push", place / "nothing", "user/name"], "no model folder"),
        (["train", "digits", "--out", out, "--log", "wandbb"], "did you mean wandb?"),
        (["demo", "--n", "2"], "at least 3 samples"),
        (["train", "nosuch", "--out", out], "there is no nosuch"),
        (["train", "digits", "--out", taken], "is not empty"),
        (["train", "digits", "--out", out, "--preset", "digit"], "did you mean digits?"),
        (["train", "digits", "--out", out, "--schedule", "cosin"], "did you mean cosine?"),
        (["train", "digits", "--out", out, "--steps", "0"], "steps=0"),
        (["train", "digits", "--out", out, "--config", place / "bad.yaml"], "is not YAML"),
        (["train", "digits", "--out", out, "--config", place / "typo.yaml"], "did you mean 'steps'?"),
        (["train", "digits", "--out", out, "--init-from", place / "nothing"], "no model folder"),
        (["distill", place / "nothing", "--out", out], "no model folder"),
        (["distill", run, "--out", out, "--budget", "soon"], "--budget"),
        (["distill", run, "--out", out, "--batch-size", "0"], "batch_size=0"),
    ]


def test_a_refusal_waits_for_no_torch(refusals):
    """Of all that can be told from names, numbers and folders alone; each in one line."""
    found = answers([words for words, _ in refusals], ["torch"])
    for (words, said), (code, heavy, _, text) in zip(refusals, found, strict=False):
        assert (code, heavy, text.count("\n")) == (2, [], 1), (words, text)
        assert said in text, words
    assert len(found) == len(refusals)
