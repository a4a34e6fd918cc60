"""How a command ends that was asked to stop, has too little memory, or is one of several processes."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from commands import invoke, needs_signals, refused
from leapstep import stopping

SLOW_TORCH = "import os, time\nfor number in {numbers}:\n    os.kill(os.getpid(), number)\ntime.sleep(30)\n"
"""Stands in for torch, whose import takes seconds: the requests arrive in the midst of it."""


def stopped_while_importing(tmp_path, numbers, ignored=()):
    """The end of a command that these signals reach while it imports torch, and what it printed."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(SLOW_TORCH.format(numbers=list(map(int, numbers))))

    def listen():
        for number in stopping.REQUESTS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    found = subprocess.run(
        [sys.executable, "-m", "leapstep", "info", "some/model"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        preexec_fn=listen,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.returncode, found.stdout, found.stderr


@needs_signals
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_request_in_the_first_moments_is_one_line(tmp_path, name, code):
    assert stopped_while_importing(tmp_path, [getattr(signal, name)]) == (code, "", "leapstep: stopped\n")


@needs_signals
def test_a_request_that_is_ignored_stays_ignored(tmp_path):
    """As of a closing terminal under nohup."""
    found = stopped_while_importing(tmp_path, [signal.SIGHUP, signal.SIGTERM], ignored=[signal.SIGHUP])
    assert found == (143, "", "leapstep: stopped\n")


@needs_signals
def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in stopping.REQUESTS]
    with pytest.raises(stopping.Stopped) as caught, stopping.handled(stopping.stop):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in stopping.REQUESTS] == before


@needs_signals
def test_a_closed_terminal_does_not_end_what_is_still_to_be_saved():
    """After a hang-up every write to the terminal is an error; a work that goes on to its end must not meet it."""
    program = (
        "import os, pty, signal, sys, time\n"
        "from leapstep import stopping\n"
        "master, terminal = pty.openpty()\n"
        "os.dup2(terminal, 1); os.dup2(terminal, 2); os.close(terminal)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have run the tests\n"
        "with stopping.handled(lambda number: None):\n"
        "    os.close(master)\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    print('a line', flush=True); print('another', file=sys.stderr, flush=True)\n"
        "sys.exit(7)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=env, check=False).returncode == 7


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (["sample", "some/m", "--out", "o"], "pass a smaller --batch-size or --n"),
        (["doctor", "some/m", "digits"], "pass a smaller --n or --size"),
        (["features", "train", "digits", "--out", "o"], "pass a smaller --batch-size or --size"),
        (["info", "some/m"], "this needs a machine with more"),
    ],
)
def test_too_little_memory_is_one_line_with_what_the_command_has_against_it(monkeypatch, tmp_path, error, args, advice):
    def full(*_, **__):
        raise error

    monkeypatch.chdir(tmp_path)
    for function in ("cli.options.device", "models.checkpoint.load"):
        monkeypatch.setattr(f"leapstep.{function}", full)
    result = invoke(*args)
    assert result.exit_code == 2
    assert result.stderr == f"leapstep: not enough memory: {advice}\n"


def test_memory_that_is_really_full_is_one_line(monkeypatch, tmp_path):
    def full(*_, **__):
        torch.empty(2**60)

    monkeypatch.setattr("leapstep.models.checkpoint.load", full)
    refused(invoke("sample", "some/m", "--out", tmp_path / "o"), "not enough memory: pass a smaller --batch-size")


def test_other_errors_of_torch_are_bugs_and_show_themselves(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("leapstep.models.checkpoint.load", fail)
    assert isinstance(invoke("info", "some/m").exception, RuntimeError)


LAUNCHERS = pytest.mark.parametrize(
    ("size", "rank"),
    [("WORLD_SIZE", "RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK")],
)


@LAUNCHERS
def test_of_several_processes_the_first_does_the_work(monkeypatch, size, rank):
    monkeypatch.setenv(size, "2")
    monkeypatch.setenv(rank, "1")
    result = invoke("info", "nothing")
    assert result.exit_code == 0
    assert result.stderr == "leapstep: info runs on one process, the first; process 1 has nothing to do\n"
    assert result.stdout == ""
    monkeypatch.setenv(rank, "0")
    refused(invoke("info", "nothing"), "there is no model folder nothing")
    assert size not in os.environ  # or the training in a demo would wait for the others


def test_training_is_shared_among_processes(monkeypatch):
    def train(*_, **__):
        raise ValueError(f"process {os.environ['RANK']} trains")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("leapstep.training.run.train", train)
    refused(invoke("train", "digits", "--out", "o"), "process 1 trains")


def test_only_the_first_process_of_a_training_locks_its_folder(monkeypatch, tmp_path):
    from leapstep.files import folders
    from leapstep.training import train
    from leapstep.training.configuration import configure

    def begin(*_, **__):
        raise ValueError("it begins")

    monkeypatch.setattr("leapstep.training.run.Trainer", begin)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with folders.locked(tmp_path / "run"):
        for rank, said in (("0", "is being written by another process"), ("1", "it begins")):
            monkeypatch.setenv("RANK", rank)
            with pytest.raises(ValueError, match=said):
                train("digits", tmp_path / "run", config=configure({}), device="cpu", progress=False)


@LAUNCHERS
def test_the_first_process_of_a_training_tells_its_result(monkeypatch, size, rank):
    monkeypatch.setattr("leapstep.training.run.train", lambda *_, **__: SimpleNamespace(details={}))
    monkeypatch.setenv(size, "2")
    for number, said in (("1", ""), ("0", "trained: o")):
        monkeypatch.setenv(rank, number)
        result = invoke("train", "digits", "--out", "o")
        assert result.exit_code == 0
        assert result.stdout[: len(said) or None] == said
