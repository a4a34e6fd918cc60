import errno
import json
import os
import stat
import subprocess
import sys

import pytest

from leapstep import files

OLD, NEW = b"the earlier contents", bytes(range(256)) * 20
CUTS = [0, 1, 2, 100, 2559, 5119, 5120]


class Cut(BaseException):
    """The process is gone: nothing that catches `Exception` may keep a part of the file."""


def cut_after(monkeypatch, n, error):
    """Let `n` bytes through, in pieces of at most 1000, then fail."""
    left = n

    def write(file, data):
        nonlocal left
        if left == 0:
            raise error
        done = file.write(data[: min(1000, left)])
        left -= done
        return done

    monkeypatch.setattr(files, "_write", write)


@pytest.mark.parametrize("n", CUTS[:-1])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), Cut()])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_write_that_fails_harms_nothing(tmp_path, monkeypatch, n, error, earlier):
    path = tmp_path / "weights"
    if earlier:
        path.write_bytes(OLD)
    cut_after(monkeypatch, n, error)
    with pytest.raises(type(error)):
        files.write_bytes(path, NEW)
    assert [entry.name for entry in tmp_path.iterdir()] == (["weights"] if earlier else [])
    assert not earlier or path.read_bytes() == OLD


def test_a_write_in_pieces_is_whole(tmp_path, monkeypatch):
    cut_after(monkeypatch, len(NEW), AssertionError())
    files.write_bytes(tmp_path / "weights", NEW)
    assert (tmp_path / "weights").read_bytes() == NEW


CRASH = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
left, step = int(sys.argv[3]), sys.argv[4]
def write(file, data):
    global left
    if left == 0:
        os._exit(9)
    done = file.write(data[:left])
    left -= done
    return done
files._write = write
if step != "_write":
    setattr(files.os, step, lambda *_: os._exit(9))
files.write_bytes(sys.argv[2], bytes(range(256)) * 20)
"""


@pytest.mark.parametrize(("n", "step"), [*((n, "_write") for n in CUTS[:-1]), (5120, "fsync"), (5120, "replace")])
def test_a_crash_harms_nothing(tmp_path, n, step):
    path = tmp_path / "weights"
    path.write_bytes(OLD)
    crashed = subprocess.run([sys.executable, "-I", "-c", CRASH, files.__file__, path, str(n), step], check=False)
    assert crashed.returncode == 9
    assert path.read_bytes() == OLD
    rest = [entry for entry in tmp_path.iterdir() if entry != path]
    assert [entry.name.startswith(".leapstep-") for entry in rest] == [True]
    assert rest[0].stat().st_size == n
    files.write_bytes(path, NEW)  # what a crash left does not stand in the way
    assert path.read_bytes() == NEW


def test_contents_are_flushed_before_they_take_the_name_and_the_folder_after(tmp_path, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def recorded(*arguments, name=name, real=real):
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            steps.append(f"{name} folder" if folder else name)
            return real(*arguments)

        monkeypatch.setattr(os, name, recorded)
    files.write_bytes(tmp_path / "a", b"1")
    assert steps == ["fsync", "replace", "fsync folder"]


def test_an_error_names_the_file_that_the_caller_named(tmp_path, monkeypatch):
    for path in (tmp_path / "missing" / "a", tmp_path):
        with pytest.raises(OSError, match=f"'{path}'$"):
            files.write_bytes(path, b"1")
    cut_after(monkeypatch, 1, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/a'$") as caught:
        files.write_bytes(tmp_path / "a", b"123")
    assert caught.value.errno == errno.ENOSPC


def test_a_new_file_has_the_usual_permissions_and_a_link_is_not_followed(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    files.write_bytes(tmp_path / "a", b"1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "latest").symlink_to("a")
    files.write_bytes(tmp_path / "latest", b"2")
    assert (tmp_path / "latest").read_bytes() == b"2"
    assert (tmp_path / "a").read_bytes() == b"1"


def test_text_is_utf8_and_json_keeps_its_order(tmp_path):
    files.write_text(tmp_path / "text", "σ\n")
    assert (tmp_path / "text").read_bytes() == b"\xcf\x83\n"
    files.write_json(tmp_path / "json", {"b": 1, "a": [0.1, "σ"]})
    assert (tmp_path / "json").read_text("utf8") == '{\n  "b": 1,\n  "a": [\n    0.1,\n    "σ"\n  ]\n}\n'


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (float("inf"), ValueError), ({1}, TypeError)])
def test_json_that_others_cannot_read_is_refused(tmp_path, value, error):
    files.write_json(tmp_path / "json", {"a": 1})
    with pytest.raises(error):
        files.write_json(tmp_path / "json", {"a": value})
    assert json.loads((tmp_path / "json").read_text()) == {"a": 1}


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    files.check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(ValueError, match=r"^.*file is a file, not a folder: name another folder to write in$"):
        files.check_writable(tmp_path / "file")
    with pytest.raises(ValueError, match=r"^cannot write in .*file/b/c \(Not a directory\): name another folder"):
        files.check_writable(tmp_path / "file" / "b" / "c")

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"^cannot write in .* \(Permission denied\): name another folder"):
        files.check_writable(tmp_path)
