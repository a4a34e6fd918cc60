"""A command line that answers at once: nothing heavy is imported for a help, a completed word or a refusal."""

import json
import subprocess
import sys

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
