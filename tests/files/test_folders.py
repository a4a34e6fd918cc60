"""Folders of results: who may write in them, and what is left there after a crash or a full disk."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from commands import invoke, refused, tree
from leapstep import files
from leapstep.files import folders

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
KIND = folders.Kind("mark.json", "ours", r"mark\.json|part-\d+|inner")

HOLDER = """
import sys, time
from pathlib import Path
from leapstep.files import folders
sys.argv = ["/usr/bin/leapstep", "train", "--token", "secret"]
with folders.locked(Path({folder!r})):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def another(folder):
    """Another process that writes in a folder."""
    program = [sys.executable, "-c", HOLDER.format(folder=str(folder))]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def left_behind(folder, name=f"{files.PREFIX}0123456789abcdef"):
    """What a process leaves that dies in the middle of a write."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"a part of the weights")
    return folder / name


# --- locks ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_written_by_one_process_and_free_once_that_is_dead(tmp_path):
    out = tmp_path / "a" / "run"
    with another(out) as process:
        writer = rf"\(leapstep train, pid {process.pid} on \S+, since \d\d:\d\d\)"
        said = rf"^{out} is being written by another process {writer}: wait for it"
        with pytest.raises(ValueError, match=said) as caught, folders.locked(out):
            pytest.fail("two hold it")
        assert "secret" not in str(caught.value)
        refused(invoke("train", "digits", "--out", out, "--resume"), said.removeprefix("^"))
        with folders.locked(tmp_path / "other"):
            pass
        process.kill()
        process.wait()
        with folders.locked(out):
            assert [path.name for path in out.iterdir()] == [folders.LOCK]
    assert list(out.iterdir()) == []


def test_a_lock_holds_within_a_process_and_for_files(tmp_path):
    with folders.locked(tmp_path), pytest.raises(ValueError, match=f"pid {os.getpid()}"), folders.locked(tmp_path):
        pytest.fail("held twice")
    file = tmp_path / "page.html"
    with (
        folders.locked_file(file),
        folders.locked_file(tmp_path / "other.html"),
        folders.locked(tmp_path),
        pytest.raises(ValueError, match=r"page.html is being written by another process"),
        folders.locked_file(file),
    ):
        pytest.fail("held twice")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_stays_empty_is_not_made(tmp_path):
    with folders.locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with contextlib.suppress(KeyboardInterrupt), folders.locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "result").touch()
        raise KeyboardInterrupt
    assert tree(tmp_path) == {"a/result": b""}
    assert not (tmp_path / "a" / "b").exists()


def test_a_lock_that_was_removed_in_the_meantime_is_none(tmp_path, monkeypatch):
    """Who opened a lock file that its holder then removed holds nothing that others see: it must take the new one."""
    real, seen = folders.lock_descriptor, []

    def lock(descriptor, *, blocking):
        seen.append(descriptor)
        if len(seen) == 1:
            (tmp_path / folders.LOCK).unlink()
        return real(descriptor, blocking=blocking)

    monkeypatch.setattr(folders, "lock_descriptor", lock)
    with folders.locked(tmp_path):
        assert len(seen) == 2
        with pytest.raises(ValueError, match="another process"), folders.locked(tmp_path):
            pytest.fail("two hold it")


def test_where_locks_are_not_known_the_work_goes_on_with_a_warning(tmp_path, monkeypatch, capsys):
    def lock(descriptor, *, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders, "lock_descriptor", lock)
    with folders.locked(tmp_path):
        pass
    said = f"{tmp_path} cannot be locked (No locks available): let no other process write there\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("text", [b"", b"\0{", b" []", b' {"pid": 1}', b" \xff", b' {"since": 3}', b" " + b"[" * 4000])
def test_a_holder_that_does_not_say_who_it_is(tmp_path, text):
    with folders.locked(tmp_path):
        (tmp_path / folders.LOCK).write_bytes(text)
        with pytest.raises(ValueError, match="by another process: wait"), folders.locked(tmp_path):
            pytest.fail("two hold it")


def test_a_lock_is_no_way_out_of_the_folder(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("years of work")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / folders.LOCK).symlink_to(mine)
    with pytest.raises(ValueError, match="cannot lock"), folders.locked(tmp_path / "out"):
        pytest.fail("it is held")
    assert mine.read_text() == "years of work"


# --- marks and leftovers -------------------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_no_content_and_is_removed(tmp_path):
    left = [left_behind(tmp_path), left_behind(tmp_path / "inner"), left_behind(tmp_path, folders.LOCK)]
    folders.check_free(tmp_path / "inner", False, KIND)
    (tmp_path / "inner").rename(tmp_path / "mine")
    (tmp_path / "mark.json").write_text('{"ours": 1}')
    folders.begin(tmp_path, True, KIND, {"ours": 2})
    assert tree(tmp_path) == {"mark.json": b'{\n  "ours": 2\n}\n', folders.LOCK: left[2].read_bytes()}


def test_what_is_being_written_is_not_removed(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    with files.replacing(tmp_path / "page.html") as stream, folders.locked(inner):
        theirs = left_behind(inner)
        stream.write(b"1")
        folders.tidy(tmp_path)
        assert theirs.exists()  # its folder has a writer of its own
    assert (tmp_path / "page.html").read_bytes() == b"1"


def test_a_folder_of_another_writer_is_not_cleared_away(tmp_path):
    (tmp_path / "mark.json").write_text('{"ours": 1}')
    with folders.locked(tmp_path / "inner"):
        with pytest.raises(ValueError, match=r"inner is being written by another process"):
            folders.begin(tmp_path, True, KIND, {"ours": 2})
        assert (tmp_path / "mark.json").read_text() == '{"ours": 1}'
    left_behind(tmp_path / "inner", folders.LOCK)
    folders.begin(tmp_path, True, KIND, {"ours": 2})
    assert set(tree(tmp_path)) == {"mark.json"}


def test_a_folder_is_known_by_its_mark_alone(tmp_path):
    (tmp_path / "new").mkdir()
    folders.begin(tmp_path / "new", False, KIND, {"ours": 0})
    with pytest.raises(ValueError, match="not empty: --overwrite it, or"):
        folders.check_free(tmp_path / "new", False, KIND)
    with pytest.raises(ValueError, match="not empty: --resume it, --overwrite it, or"):
        folders.check_free(tmp_path / "new", False, KIND._replace(resumable=True))
    folders.check_free(tmp_path / "new", True, KIND)
    for text in ("", "[]", '"ours"', '{"their": 1}', "[" * 100_000):
        (tmp_path / "new" / "mark.json").write_text(text)
        with pytest.raises(ValueError, match="holds something else"):
            folders.check_free(tmp_path / "new", True, KIND)
    (tmp_path / "new" / "mark.json").write_text("{}")
    folders.check_free(tmp_path / "new", True, KIND._replace(key=None))


DEATHS = """
import os, sys
from pathlib import Path
from leapstep import files
from leapstep.files import folders
KIND = folders.Kind("mark.json", "ours", r"mark\\.json|part-\\d+|inner")

def counted(function):
    def call(*args, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*args, **options)
    return call

def work(out):
    with folders.locked(out):
        folders.begin(out, True, KIND, {"ours": "new"})
        for i in range(2):
            files.write_bytes(folders.inner(out, "inner") / f"part-{i}", b"new")
        files.write_json(out / "mark.json", {"ours": "done"})

files._write = counted(files._write)
for name in ("open", "replace", "unlink", "fsync", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
for n in range(1000):  # each in a process of its own, which dies at its n-th step
    left, out = 10**6, Path(sys.argv[1], str(n))
    if sys.argv[2] == "old":
        (out / "inner").mkdir(parents=True)
        for name, text in {"mark.json": '{"ours": "old"}', "part-1": "old", "inner/part-0": "old"}.items():
            (out / name).write_text(text)
    if (child := os.fork()) == 0:
        left = n
        work(out)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="an interpreter for each death would take minutes")
@pytest.mark.parametrize("before", ["new", "old"])
def test_a_death_at_any_step_leaves_a_folder_that_can_be_used_again(tmp_path, before):
    """Every write, rename, removal and flush in turn is the last; in a new folder, and in one of earlier results."""
    subprocess.run([sys.executable, "-c", DEATHS, tmp_path, before], env=ENVIRONMENT, check=True)
    outs = list(tmp_path.iterdir())
    assert len(outs) > 20
    for out in outs:
        with folders.locked(out):
            folders.begin(out, True, KIND, {"ours": "again"})
            assert tree(out).keys() == {"mark.json", folders.LOCK}


# --- links ---------------------------------------------------------------------------------------------------------


def test_links_that_leave_the_folder_are_not_followed(tmp_path):
    """In a folder that came from elsewhere anything may lie, also links to what is dear to its new owner."""
    mine, out = tmp_path / "mine", tmp_path / "out"
    for folder in (mine, out):
        folder.mkdir()
    (mine / "config.json").write_text("years of work")
    (out / "inner").symlink_to(mine)
    with pytest.raises(
        ValueError, match=r"out/inner is a link that leads out of .*out, where nothing is written: remove"
    ):
        folders.inner(out, "inner")
    (out / "result.json").symlink_to(mine / "config.json")
    files.write_json(out / "result.json", {"a": 1})
    assert json.loads((out / "result.json").read_text()) == {"a": 1}
    assert not (out / "result.json").is_symlink()
    assert tree(mine) == {"config.json": b"years of work"}
    (out / "mark.json").write_text('{"ours": 1}')
    folders.begin(out, True, KIND, {"ours": 1})  # removes the link, not what it leads to
    assert tree(mine) == {"config.json": b"years of work"}
    assert not (out / "inner").exists()


def test_the_folder_itself_may_be_a_link_and_links_within_it_stay(tmp_path):
    (tmp_path / "disk" / "here").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "there").symlink_to("here")
    assert folders.inner(tmp_path / "out", "here").is_dir()
    assert folders.inner(tmp_path / "out", "there").is_dir()
    assert folders.inner(tmp_path / "out", "new").is_dir()


# --- the commands --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_of_two_trainings_in_one_folder_one_goes_on_and_a_killed_one_leaves_it_free(tmp_path):
    run = tmp_path / "run"
    given = "--channels 8 --attention 0 --groups 4 --blocks 1 --batch-size 8 --precision float32 --device cpu".split()  # noqa: SIM905
    train = [sys.executable, "-m", "leapstep", "train", "digits", "--out", str(run), "--steps", "100000", *given]
    both = [
        subprocess.Popen(train, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for _ in range(2)
    ]
    try:
        while all(each.poll() is None for each in both):
            with contextlib.suppress(subprocess.TimeoutExpired):
                both[0].wait(0.1)
        (loser,) = (each for each in both if each.poll() is not None)
        (winner,) = (each for each in both if each is not loser)
        said = loser.communicate()[1]
        assert loser.returncode == 2
        assert said.startswith(f"leapstep: {run} is being written by another process (leapstep train, pid {winner.pid}")
        assert len(said.splitlines()) == 1
        winner.send_signal(signal.SIGKILL)
        winner.communicate()
        assert winner.returncode == -signal.SIGKILL
    finally:
        for each in both:
            each.kill()
    with folders.locked(run):
        folders.check_free(run, True, folders.Kind("leapstep.json", None, ""))
