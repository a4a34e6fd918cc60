"""Whatever is killed, whenever: the samples are those of one process, each there once, with the hash that is stated.

The long proofs run with `pytest -m slow tests/workers/test_kills.py`, each for some minutes.
"""

import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from commands import ENVIRONMENT, done, invoke, needs_signals, process, refused, start, wait_for
from machines import Machines, kill, said

N, SHARD = 20_000, 100
DIGITS = ["--n", N, "--steps", 10, "--batch-size", SHARD, "--label", 3, 1, 4, "--seed", 7, "--format", "npz"]
CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def digits(digits_model, tmp_path_factory):
    """How to draw the digits, without the folder; and the digits that one process draws, with their labels."""
    given, out = ["sample", digits_model, *DIGITS, *CPU], tmp_path_factory.mktemp("one") / "process"
    done(*given, "--out", out)
    with np.load(out / "samples.npz") as arrays:
        return given, (arrays["samples"], arrays["labels"])


@pytest.fixture
def machines():
    """Four of them."""
    pytest.importorskip("ray")
    machines = Machines()
    try:
        for _ in range(3):
            machines.add()
        yield machines
    finally:
        machines.close()


def made(out):
    return len([*out.glob("[0-9]*.npz")])


def check(out, expected):
    """The folder holds all shards, once, as the manifest says, and nothing else but what is noted of them."""
    manifest = json.loads((out / "manifest.json").read_text())
    shards = manifest["shards"]
    assert manifest["finished"] == N
    assert [(shard["first"], shard["n"]) for shard in shards] == [(i, SHARD) for i in range(0, N, SHARD)]
    assert sorted(path.name for path in out.glob("*.npz")) == [shard["file"] for shard in shards]
    assert not [*out.glob(".*")]
    contents = [(out / shard["file"]).read_bytes() for shard in shards]
    assert [hashlib.sha256(content).hexdigest() for content in contents] == [shard["sha256"] for shard in shards]
    for name, whole in zip(("samples", "labels"), expected, strict=True):
        parts = [np.load(out / shard["file"])[name] for shard in shards]
        np.testing.assert_array_equal(np.concatenate(parts), whole, strict=True)


@pytest.mark.slow
@needs_signals
@pytest.mark.parametrize("seed", range(3))
def test_workers_machines_and_drivers_are_killed_ten_times(digits, machines, tmp_path, seed):
    given, expected = digits
    out, rng = tmp_path / "s", random.Random(seed)
    given = [*given, "--on", "ray:auto", "--shard", SHARD, "--out", out]
    killed = rng.sample(["worker"] * 4 + ["machine"] * 3 + ["driver"] * 3, 10)
    driver = start(*given, **machines.environment)
    try:
        for i, (what, number) in enumerate(zip(killed, sorted(rng.sample(range(5, 150), 10)), strict=True)):
            wait_for(lambda number=number: made(out) >= number, driver, 600)
            time.sleep(0.1 * rng.random())
            assert made(out) < N // SHARD, "all is done before all is killed"
            if what == "worker":
                wait_for(machines.workers, driver, 600)
                kill([rng.choice(machines.workers())])
            elif what == "machine":
                machines.kill(rng.choice(machines.raylets))
            else:
                driver.kill()
                driver.communicate()
                driver = start(*given, "--resume", **machines.environment)
            if i in (2, 6):
                machines.add()
        _, err = driver.communicate(timeout=900)
    finally:
        driver.kill()
    assert driver.returncode == 0, err
    assert "Traceback" not in err
    check(out, expected)


@pytest.mark.slow
@needs_signals
def test_a_rank_is_killed_and_another_number_of_ranks_goes_on(digits, tmp_path):
    """First three ranks, of which one is killed; then two; then the command without a launcher."""
    given, expected = digits
    out = tmp_path / "s"
    given = [*given, "--out", out, "--on", "torchrun"]

    def launched(ranks, *more):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [*launcher, "-m", "--", "leapstep", *map(str, given), *more]  # else --n is the launcher's
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    for ranks, more, number in ((3, ["--shard", str(SHARD)], 40), (2, ["--resume"], 90)):
        running = launched(ranks, *more)
        try:
            wait_for(lambda number=number: made(out) >= number, running, 600)
            children = [each for each in psutil.Process(running.pid).children() if "leapstep" in said(each)]
            assert len(children) == ranks
            kill([children[-1]])
            running.communicate(timeout=300)
            assert running.returncode != 0
        finally:
            running.kill()
        assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert number <= made(out) < N // SHARD
    code, _, err = process(*given, "--resume")
    assert code == 0, err
    check(out, expected)


@pytest.mark.slow
@needs_signals
def test_ctrl_c_ends_every_process_and_keeps_whole_shards(digits, tmp_path):
    pytest.importorskip("ray")
    given, expected = digits
    out = tmp_path / "s"
    given = [*given, "--out", out, "--on", "ray", "--shard", SHARD]
    driver = start(*given)
    try:
        wait_for(lambda: made(out) >= 20, driver, 600)
        started = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGINT)
        _, err = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 130
    kept = made(out)
    assert err.splitlines()[-1].startswith(f"leapstep: stopped; {kept} of {N // SHARD} shards are kept in {out}"), err
    assert len(started) > 3
    psutil.wait_procs(started, timeout=60)
    assert not [said(each) for each in started if each.is_running()]
    assert made(out) == kept
    done(*given, "--on", "here", "--resume")
    check(out, expected)


def test_a_full_disk_ends_a_job_in_a_line_and_it_goes_on(digits_model, tmp_path):
    """No file may be as large as a shard."""
    given = ["sample", digits_model, "--n", 100, "--steps", 1, "--batch-size", 4, "--format", "npz", *CPU]
    given += ["--on", "here", "--shard", 40]
    done(*given, "--out", tmp_path / "whole")
    size = (tmp_path / "whole" / "00000.npz").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))
    try:
        result = invoke(*given, "--out", tmp_path / "s")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(result, "File too large")
    assert not [*(tmp_path / "s").glob(".*")]
    assert made(tmp_path / "s") == 0
    done(*given, "--out", tmp_path / "s", "--resume")
    for i in range(3):
        name = f"{i:05d}.npz"
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
