"""Any number of processes, in any number of parts, trains one run: the same samples, noise and losses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import curves
from commands import ENVIRONMENT
from leapstep.training import chance
from leapstep.training import trainer as training

HERE = Path(__file__).parent
CPU = torch.device("cpu")


def launched(*args, processes=2, check=True):
    """Run a program, or `-m` and a module, on several processes under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    path = [str(HERE), str(HERE.parent), *filter(None, [ENVIRONMENT.get("PYTHONPATH")])]
    environment = {**ENVIRONMENT, "PYTHONPATH": ":".join(path)}
    given = [*command, *map(str, args)]
    return subprocess.run(given, env=environment, check=check, timeout=280, text=True, capture_output=True)


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
    launched(HERE / "curves.py", tmp_path / "two.json", "whole", "sharded", "student")
    two = json.loads((tmp_path / "two.json").read_text())
    for kind in ("whole", "sharded"):
        near(two[kind], alone["whole"])
    near(two["student"], alone["student"])


def test_a_process_takes_its_rows_of_all_that_is_drawn(monkeypatch):
    """Pictures, mirrored or not, times and noise to the bit, and dropped labels."""
    seen = []

    def record(diffusion, x0, t, eps, *_):
        seen.append((x0, t, eps))
        return x0.flatten(1).mean(1)

    monkeypatch.setattr(training.objective, "loss", record)
    run = curves.learner("whole")
    run.losses(0)
    run.share = 4
    monkeypatch.setattr(run, "rows", lambda part: range(4 * part, 4 * part + 4))
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
