"""Any number of processes, in any number of parts, trains one run: the same samples, noise and losses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch

import curves
from commands import ENVIRONMENT, done, wait_for
from leapstep.models import checkpoint
from leapstep.training import chance
from leapstep.training import parts as training_parts
from leapstep.training import trainer as training
from leapstep.training.configuration import configure

HERE = Path(__file__).parent
CPU = torch.device("cpu")
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
OPTIONS = """--channels 8,8 --attention 0,1 --groups 4 --batch-size 16 --precision float32 --device cpu --labels
    --lr-schedule constant --holdout-every 5 --sample-every 5""".split()  # noqa: SIM905


def launch(*args, launcher=TORCHRUN):
    """Start a program, or `-m` and a module, on two processes."""
    path = [str(HERE), str(HERE.parent), *filter(None, [ENVIRONMENT.get("PYTHONPATH")])]
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-m", *launcher, *map(str, args)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(running, code=0):
    """What a launch said, once it is over."""
    said, _ = running.communicate(timeout=280)
    assert running.returncode == code, said
    return said


def near(ours, theirs, first=1e-6, last=1e-4):
    """Curves that differ by the rounding of sums alone: the first step by float32's, later ones by what becomes of it.

    AdamW divides a gradient by its own size, so that a weight whose gradient is near 0 moves by the rounding of it.
    Over 50 steps of the preset for digits 1.5e-7 of the loss and 1.6e-6 of the gradient's norm were measured.
    """
    for a, b in zip(ours, theirs, strict=True):
        a, b = np.array(a), np.array(b)
        np.testing.assert_allclose(a[0], b[0], rtol=first)
        np.testing.assert_allclose(a, b, rtol=last)


@pytest.fixture(scope="module")
def alone():
    """The curves of one process."""
    return {kind: curves.curve(curves.learner(kind)) for kind in ("whole", "student")}


def test_a_batch_in_parts_is_the_same_batch(alone):
    near(curves.curve(curves.learner("parts")), alone["whole"])


def test_two_processes_train_the_run_of_one(alone, tmp_path):
    finished(launch(HERE / "curves.py", tmp_path / "two.json", "whole", "sharded", "student"))
    two = json.loads((tmp_path / "two.json").read_text())
    for kind in ("whole", "sharded"):
        near(two[kind], alone["whole"])
    near(two["student"], alone["student"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes with GPUs do train together")
def test_processes_that_would_each_train_alone_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)  # as with the GPU of a Mac
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **_: None)
    with pytest.raises(ValueError, match="2 processes were started, which cannot compute one batch together"):
        training_parts.accelerator(configure(curves.ASKED), None)


def test_a_process_takes_its_rows_of_all_that_is_drawn(monkeypatch):
    """Pictures, mirrored or not, times and noise to the bit, and dropped labels."""
    seen = []

    def record(diffusion, x0, t, eps, *_):
        seen.append((x0, t, eps))
        return x0.flatten(1).mean(1)

    monkeypatch.setattr(training.objective, "loss", record)
    run = curves.learner("whole")
    run.losses(0)
    run.config, run.share = run.config.model_copy(update={"accumulate": 4}), 4
    for part in range(4):
        run.losses(part)
    for whole, *parts in zip(*seen, strict=True):
        assert torch.equal(whole, torch.cat(parts))
    assert len({tuple(t.tolist()) for t in seen[0][1].view(4, 4)}) == 4


@pytest.mark.parametrize("draw", [chance.normal, chance.by_generators])
def test_noise_belongs_to_the_place_in_the_batch(draw):
    whole = draw(3, 7, range(64), (2, 50), CPU)
    assert torch.equal(draw(3, 7, range(17, 40), (2, 50), CPU), whole[17:40])
    for other in (draw(4, 7, range(64), (2, 50), CPU), draw(3, 8, range(64), (2, 50), CPU), whole.roll(1, 0)):
        assert abs((other * whole).mean()) < 5 / 80  # five standard errors of 6400 products
    assert abs(whole.mean()) < 5 / 80
    assert abs(whole.var() - 1) < 5 * 2**0.5 / 80


def test_seeds_of_other_lengths_are_others():
    """Else dropout of the first process would be drawn from the numbers that times are drawn from."""
    seeds = {
        chance.seeded(*entropy) for entropy in ((3,), (3, 0), (3, 0, 0), (3, 0, 0, 0), (0, 3), (3, 7), (3, 7, 0, 0))
    }
    assert len(seeds) == 7


def of_rank(running, rank):
    """The process of a rank among those that a launcher has started."""
    for child in psutil.Process(running.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            return child
    raise AssertionError(f"no process has rank {rank}")


def tensors(run):
    """The whole state of a run, in double precision, and its step."""
    path, values = checkpoint.find_state(run)
    return {name: value.double() for name, value in safetensors.torch.load_file(path).items()}, values["step"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("launcher", "rank"), [(TORCHRUN, 0), (TORCHRUN, 1), (ACCELERATE, 1)])
def test_a_killed_process_ends_the_run_and_one_process_goes_on(tmp_path, launcher, rank):
    """The other process says one line; the checkpoint is whole, and one process trains on as if it had begun alone.

    Under accelerate weights are sharded, and the first process has made a preview and compared losses before. A weight
    differs by the rounding of a few steps of AdamW of 2e-4 each, in which a gradient near 0 may have either sign.
    """
    run, alone = tmp_path / "run", tmp_path / "alone"
    every = ["--steps", 100_000, "--save-every", 5]
    running = launch("-m", "leapstep", "train", "digits", "--out", run, *OPTIONS, *every, launcher=launcher)
    wait_for(lambda: any((run / "state").glob("step-*.safetensors")), running, 200)
    of_rank(running, rank).send_signal(signal.SIGKILL)
    said = finished(running, 1)
    lines = [line for line in said.splitlines() if "another process of this run has ended" in line]
    step = checkpoint.find_state(run)[1]["step"]
    assert len(lines) == 1, said
    assert "start the run again with --resume" in lines[0]
    assert step >= 5
    done("train", "digits", "--out", run, *OPTIONS, "--steps", step + 3, "--resume")
    done("train", "digits", "--out", alone, *OPTIONS, "--steps", step + 3, "--save-every", 100_000)
    (ours, at), (theirs, expected) = tensors(run), tensors(alone)
    assert at == expected == step + 3
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if not name.startswith("optimizer"):
            assert (ours[name] - value).abs().mean() < 2e-6, name
