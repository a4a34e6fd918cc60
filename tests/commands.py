"""Running the command line as a user does: what the tests of the commands share."""

import errno
import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from leapstep import files
from leapstep.cli import app

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
ENVIRONMENT["PYTHONUNBUFFERED"] = ""  # if it is set, Python drops what a full pipe has not taken when a signal comes
TINY_MLP = "--width 16 --depth 1 --batch-size 8 --precision float32 --device cpu".split()  # noqa: SIM905
needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")


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


def without_seconds(value):
    """What a JSON file says, but for how long it took."""
    if isinstance(value, dict):
        return {name: without_seconds(item) for name, item in value.items() if not name.startswith("seconds")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


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


def start(*args, cwd=None, **environment):
    """A real process, in which Ctrl-C works even where the tests run in the background."""
    listen = None if os.name == "nt" else functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-m", "leapstep", *map(str, args)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT | environment,
        preexec_fn=listen,
    )


def process(*args, cwd=None, **environment):
    """Run to the end: exit code, stdout, stderr."""
    running = start(*args, cwd=cwd, **environment)
    out, err = running.communicate(timeout=600)
    return running.returncode, out, err


def pictures(folder):
    """The single pictures that were sampled, int [n, h, w]."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("[0-9]*.png"))]).astype(int)


def values(folder):
    return np.load(Path(folder) / "samples.npz")["samples"].astype(float)


def alike(a, b):
    """The same pictures: another batch size may change the last bit of a sum, so a pixel may round to its neighbour."""
    return a.shape == b.shape and abs(a - b).max() <= 1 and (a != b).mean() < 0.01


def wait_for(condition, running, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def cut(path, n):
    path.write_bytes(path.read_bytes()[:n])


def forget_accelerator():
    """accelerate keeps its first settings for a whole process; a command begins without any."""
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(True)
        state.GradientState._reset_state()
