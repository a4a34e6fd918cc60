"""Jobs on Ray: workers that die, fail, join, or are stopped, and what is left of it all."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import ENVIRONMENT, needs_signals
from leapstep import workers
from numbers_work import KEY, Numbers

pytestmark = pytest.mark.usefixtures("cluster")


def run(folder, work, n=24, **options):
    return workers.run(work, folder, KEY, n, **{"batch_size": 2, "shard": 2, "on": "ray", "progress": False, **options})


def contents(job):
    return [path.read_bytes() for path in job.paths]


def test_shards_are_as_of_one_process_though_a_worker_dies(tmp_path, capfd):
    """And Ray says nothing of it; the shard that it died over is made by another."""
    expected = run(tmp_path / "here", Numbers(), on="here")
    done = run(tmp_path / "ray", Numbers(dies_at=9, once=str(tmp_path / "died")))
    assert (tmp_path / "died").exists()
    assert contents(done) == contents(expected)
    assert [record["sha256"] for record in done.records] == [record["sha256"] for record in expected.records]
    assert os.getpid() not in {record["pid"] for record in done.records}
    assert capfd.readouterr() == ("", "")
    assert not [*(tmp_path / "ray").glob(".leapstep-*")]


def test_a_shard_of_a_worker_that_hangs_is_made_by_another(tmp_path, monkeypatch, capfd):
    """Once it has taken far longer than others; so is one that is slow, as may happen on a machine that is busy."""
    from leapstep.workers import ray

    monkeypatch.setattr(ray, "SECONDS", 0.1)
    monkeypatch.setattr(ray, "LOOK", 0.1)
    done = run(tmp_path / "ray", Numbers(hangs_at=9, once=str(tmp_path / "hung")))
    assert (tmp_path / "hung").exists()
    assert contents(done) == contents(run(tmp_path / "here", Numbers(), on="here"))
    assert "leapstep: shard 4 (8 to 9) has taken " in capfd.readouterr().err  # how long depends on the others


def test_a_worker_that_waits_for_a_machine_is_waited_for(tmp_path, monkeypatch):
    """However often it is not there yet: a machine that is lost may be replaced after minutes."""
    from leapstep.workers import ray

    asked, outcome = [], ray._outcome

    def not_yet(call):
        asked.append(call)
        return ray.Death("it is restarting", final=False, away=True) if len(asked) <= 3 * ray.DEATHS else outcome(call)

    monkeypatch.setattr(ray, "_outcome", not_yet)
    monkeypatch.setattr(ray, "TICK", 0.01)
    done = run(tmp_path / "ray", Numbers())
    assert contents(done) == contents(run(tmp_path / "here", Numbers(), on="here"))
    assert len(asked) > 3 * ray.DEATHS


def test_a_shard_that_fails_ends_the_job_with_its_error(tmp_path):
    """After three tries; the others are kept, and a restart makes no more than what is missing."""
    tries = tmp_path / "tries"
    with pytest.raises(ValueError, match=r"^shard 4 \(8 to 9\) failed 3 times: no 9 \(on .*\); the others are kept$"):
        run(tmp_path / "job", Numbers(fails_at=9, tries=str(tries)))
    assert len(tries.read_text().split()) == 3
    assert "00004.npy" not in {path.name for path in (tmp_path / "job").iterdir()}
    assert contents(run(tmp_path / "job", Numbers(), on="here")) == contents(
        run(tmp_path / "all", Numbers(), on="here")
    )


def test_work_that_cannot_begin_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^no worker can begin: no device \(on "):
        run(tmp_path, Numbers(begins=False))


def test_what_is_settled_and_measured_is_so_on_a_worker(tmp_path):
    work = Numbers()
    done = run(tmp_path, work, n=64, shard=None, settle=work.settle)
    assert done.settled["pid"] != os.getpid()
    assert {record["settled"] for record in done.records} == {done.settled["pid"]}
    assert done.shards.size == 8


def pids(done):
    return {record["pid"] for record in done.records}


def test_as_many_workers_as_are_asked_for(tmp_path, monkeypatch, capfd):
    """Those that there is no room for wait for it, and keep nobody from beginning; that none is ready is said once."""
    from leapstep.workers import ray

    work = Numbers(seconds=0.05)
    assert len(pids(run(tmp_path / "one", work, workers=1))) == 1
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(ray, "PATIENCE", 0.0)
    done = run(tmp_path / "three", work, workers=3, settle=work.settle)
    assert len(pids(done)) <= 2  # the second may begin when all is done
    assert contents(done) == contents(run(tmp_path / "here", work, on="here"))
    said = (
        r"(leapstep: no worker has been ready for 0 s: they begin, or wait for a machine with 1 processor to spare\n)"
    )
    assert re.fullmatch(said + "{1,3}", capfd.readouterr().err)


def test_a_folder_that_workers_do_not_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("leapstep.workers.ray.files.write_text", lambda path, text: None)
    with pytest.raises(ValueError, match=rf"^{tmp_path} is not the same folder here: name one that all machines share"):
        run(tmp_path, Numbers())


STOPPED = """
import sys
from leapstep import stopping, workers
from numbers_work import KEY, Numbers
with stopping.handled(stopping.stop):
    try:
        workers.run(Numbers(seconds=0.2), sys.argv[1], KEY, 20_000, batch_size=2, shard=2, on="ray:auto")
    except KeyboardInterrupt as request:
        print(stopping.message(request))
"""


@needs_signals
def test_a_stop_leaves_whole_shards_and_no_process(tmp_path, cluster):
    """A process of its own, which joins the cluster that is there."""
    command = [sys.executable, "-c", STOPPED, tmp_path / "job"]
    environment = ENVIRONMENT | {
        "RAY_ADDRESS": cluster,
        "RAY_AUTH_MODE": "token",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        while driver.poll() is None and len([*(tmp_path / "job").glob("*.npy")]) < 3:
            time.sleep(0.1)
        driver.send_signal(signal.SIGTERM)
        out, err = driver.communicate(timeout=300)
    made = [*(tmp_path / "job").glob("*.npy")]
    assert out == f"leapstep: stopped; {len(made)} of 10000 shards are kept in {tmp_path / 'job'}: go on there\n", err
    pids = {int(path.name.split("-")[-2]) for path in (tmp_path / "job").glob("log-*.jsonl")}
    assert pids
    for pid in pids:
        deadline = time.monotonic() + 300
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(f"/proc/{pid}").exists()
