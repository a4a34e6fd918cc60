"""Running the command line as a user does: what the tests of the commands share."""

import errno
import re
from pathlib import Path

from typer.testing import CliRunner

from leapstep import files
from leapstep.cli import app


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200", "NO_COLOR": "1"})


def done(*args):
    result = invoke(*args)
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    return result


def refused(result, *words):
    """A user's mistake: exit code 2, one line that holds the words (regular expressions), no traceback."""
    assert result.exit_code == 2, (result.exit_code, result.exception, result.stderr)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("leapstep: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert re.search(word, lines[0], re.IGNORECASE), (word, lines[0])


def tree(folder):
    """All files in a folder with their contents."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def full_disk(monkeypatch, after=0):
    """Let some writes through, then say that the disk is full."""
    left, real = after, files._write

    def full(file, data):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    monkeypatch.setattr(files, "_write", full)
