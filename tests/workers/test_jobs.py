"""Jobs that are cut into shards: what their folders hold, and that it does not matter how they came to be."""

import dataclasses
import errno
import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from leapstep import files, stopping, workers
from leapstep.files import folders
from leapstep.workers import asked, devices
from leapstep.workers.job import Shards
from leapstep.workers.merging import merging

KEY = {"model": "squares", "spec": {"seed": 3}}


@dataclasses.dataclass(frozen=True)
class Squares:
    """Squares of the indices, a file a shard."""

    what = "squaring"
    unit = "number"
    suffix: str = ".npy"
    fails_from: int = 10**9
    stops_at: int = 10**9

    def start(self, device, settled):
        def make(rows, path):
            if self.stops_at in rows:
                os.kill(os.getpid(), signal.SIGTERM)
            if rows.start >= self.fails_from:
                path.write_bytes(b"a part")
                raise ValueError(f"no squares from {rows.start} on")
            values = np.array(rows) ** 2 + settled.get("added", 0)
            if not self.suffix:
                for i, value in zip(rows, values, strict=True):
                    (path / f"{i // 4}").mkdir(parents=True, exist_ok=True)
                    (path / f"{i // 4}" / f"{i}.txt").write_text(str(value))
            else:
                with path.open("wb") as file:
                    np.save(file, values)
            return {"device": device, "largest": int(values.max())}

        return make


def run(folder, n=22, work=Squares(), **options):
    return workers.run(work, folder, KEY, n, **{"batch_size": 2, "shard": 4, "progress": False, **options})


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith("log-"))


ALL = [*(f"{i:05d}.npy" for i in range(6)), "job.json"]


def test_a_job_is_its_shards_in_order(tmp_path):
    done = run(tmp_path / "job")
    assert done.complete
    assert names(tmp_path / "job") == ALL
    assert [path.name for path in done.paths] == ALL[:-1]
    assert [*done.shards] == [range(i, min(i + 4, 22)) for i in range(0, 22, 4)]
    np.testing.assert_array_equal(np.concatenate([np.load(path) for path in done.paths]), np.arange(22) ** 2)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in done.paths]
    assert [record["sha256"] for record in done.records] == hashes
    assert [record["largest"] for record in done.records] == [9, 49, 121, 225, 361, 441]


def test_a_restart_makes_what_is_missing_and_nothing_else(tmp_path):
    before = run(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in before.paths}
    before.paths[2].unlink()
    (tmp_path / ".leapstep-00002-0123456789abcdef.npy").write_bytes(b"what a worker left that was killed")
    (tmp_path / ".leapstep-token-0123456789abcdef").touch()  # and a driver
    after = run(tmp_path, shard=None)
    assert after.records == before.records
    assert [path for path in after.paths if path.stat().st_mtime_ns != times[path]] == [before.paths[2]]
    assert names(tmp_path) == ALL


@pytest.mark.parametrize("suffix", [".npy", ""])
def test_a_shard_that_has_not_its_size_is_made_anew(tmp_path, suffix):
    before = run(tmp_path, work=Squares(suffix))
    damaged = before.paths[2] if suffix else before.paths[2] / "2" / "9.txt"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    with pytest.warns(UserWarning, match=r"a shard is not as large as .*00002"):
        after = run(tmp_path, work=Squares(suffix))
    assert damaged.read_bytes() == whole
    assert after.records == before.records
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(files.PREFIX)]


def test_hashes_that_no_log_has_or_on_which_logs_differ_are_computed_again(tmp_path):
    before = run(tmp_path)
    (log,) = tmp_path.glob("log-*.jsonl")
    lines = [line for line in log.read_text().splitlines() if line]
    wrong = json.dumps({"shard": 1, "sha256": "0" * 64, "record": {}})
    torn = lines[5][:30]
    log.write_text("\n".join([*lines[:3], wrong, *lines[4:5], torn, "[]", '{"shard": -1}']))
    after = run(tmp_path)
    assert [record["sha256"] for record in after.records] == [record["sha256"] for record in before.records]
    assert [record.get("largest") for record in after.records] == [9, 49, 121, None, 361, None]


def test_several_kinds_of_devices_go_on_and_are_told(tmp_path, monkeypatch, capsys):
    before = run(tmp_path, settle=lambda device: {}, device="cpu")
    (first,) = {record["device"] for record in before.records}
    assert first == devices.described("cpu")
    before.paths[2].unlink()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "made up")
    other = devices.described("cpu")
    assert other != first
    assert "ONEDNN_MAX_CPU_ISA=made up" in other
    assert not capsys.readouterr().err
    after = run(tmp_path, device="cpu")
    assert [record["device"] for record in after.records] == [first, first, other, first, first, first]
    assert capsys.readouterr().err.splitlines() == [
        f"leapstep: this job was begun on {first}, and goes on here on {other}",
        "leapstep: shards were made on several kinds of devices, and agree within rounding, which in bfloat16 can be "
        f"seen: 5 shards on {first}; 1 shard on {other}",
    ]


def test_processors_differ_in_what_pytorch_has_chosen(monkeypatch):
    before = devices.described("cpu")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "SVE256")
    assert devices.described("cpu") != before
    monkeypatch.setattr(devices, "kinds", lambda: ["cpu"])
    with pytest.raises(ValueError, match=r"device cuda:0: this machine has cpu"):
        devices.described("cuda:0")


def test_a_failure_keeps_whole_shards_and_leaves_no_part(tmp_path):
    with pytest.raises(ValueError, match="no squares from 8 on"):
        run(tmp_path, work=Squares(fails_from=8))
    assert names(tmp_path) == ["00000.npy", "00001.npy", "job.json"]
    assert [record["largest"] for record in run(tmp_path).records] == [9, 49, 121, 225, 361, 441]


@pytest.mark.parametrize("named", [False, True])
def test_an_error_of_the_disk_names_the_shard(tmp_path, monkeypatch, named):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device", *([str(self)] if named else []))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/00002\.npy'"):
        run(tmp_path, work=Squares(fails_from=8))
    assert names(tmp_path) == ["00000.npy", "00001.npy", "job.json"]


def test_a_stop_says_what_is_kept(tmp_path):
    with stopping.handled(stopping.stop), pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, work=Squares(stops_at=9))
    assert stopping.message(caught.value) == f"leapstep: stopped; 2 of 6 shards are kept in {tmp_path}: go on there"
    assert names(tmp_path) == ["00000.npy", "00001.npy", "job.json"]


def test_a_stop_while_results_are_merged_says_what_is_kept(tmp_path):
    kind = folders.Kind("squares.json", None, r"squares\.json|shards")
    merged = merging(Squares(), asked.Workers(shard=4, folder=tmp_path), kind, {"squared": True}, KEY, 22, 2)
    with pytest.raises(stopping.Stopped) as stopped, merged:
        stopping.stop(signal.SIGTERM)
    expected = f"leapstep: stopped; 6 of 6 shards are kept in {tmp_path / 'shards'}: go on there"
    assert stopping.message(stopped.value) == expected
    assert names(tmp_path / "shards") == ALL


def test_shards_may_be_folders(tmp_path):
    done = run(tmp_path, work=Squares(suffix=""))
    assert (done.paths[1] / "1" / "5.txt").read_text() == "25"
    lines = [f"{hashlib.sha256(str(i * i).encode()).hexdigest()}  {i // 4}/{i}.txt\n" for i in range(4, 8)]
    assert done.records[1]["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    left = tmp_path / ".leapstep-00001-0123456789abcdef"
    left.mkdir()
    done.paths[1].rename(tmp_path / "elsewhere")
    assert run(tmp_path, work=Squares(suffix="")).records == done.records
    assert not left.exists()


def test_what_was_settled_is_passed_on(tmp_path):
    done = run(tmp_path, settle=lambda device: {"added": 100})
    assert done.settled == {"added": 100}
    done.paths[0].unlink()
    again = run(tmp_path, settle=lambda device: {"added": 200})
    assert (np.load(again.paths[0]) == np.arange(4) ** 2 + 100).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 23}, "with n 22, not 23"),
        ({"batch_size": 4}, "with batch size 2, not 4"),
        ({"shard": 6}, "cut into shards of 4, not 6: leave"),
        ({"work": Squares(suffix=".npz")}, "whose shards are .npy, not .npz"),
    ],
)
def test_another_job_is_refused(tmp_path, options, said):
    run(tmp_path)
    with pytest.raises(ValueError, match=said):
        run(tmp_path, **options)


def test_another_key_is_refused_by_its_first_difference(tmp_path):
    run(tmp_path)
    key = {"model": "squares", "spec": {"seed": 4}}
    with pytest.raises(ValueError, match=r"with spec\.seed 3, not 4"):
        workers.run(Squares(), tmp_path, key, 22, batch_size=2, progress=False)


@pytest.mark.parametrize("name", ["weights_sha256", "model_sha256"])
def test_other_weights_are_called_so(tmp_path, name):
    keys = ({"model": "m", name: digit * 64} for digit in "01")
    workers.run(Squares(), tmp_path, next(keys), 22, batch_size=2, progress=False)
    with pytest.raises(ValueError, match=r"^the weights have changed since .* was begun: go on with those of then"):
        workers.run(Squares(), tmp_path, next(keys), 22, batch_size=2, progress=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shard": "4"}, r"shard is \"4\""),
        ({"shard": 3}, "3 is no number of whole batches"),
        ({"suffix": "/../../x"}, "suffix is"),
        ({"settled": None}, "settled is null"),
        ({"threads": 0}, "threads is 0"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_a_hostile_job_is_refused(tmp_path, changes, said):
    run(tmp_path)
    path = tmp_path / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=said):
        run(tmp_path, shard=None)


def test_links_are_no_shards(tmp_path):
    """A link of a shard's name leads to what nobody has checked; it is replaced, and what it led to stays."""
    (tmp_path / "secret").write_bytes(b"secret")
    done = run(tmp_path / "job")
    done.paths[3].unlink()
    done.paths[3].symlink_to(tmp_path / "secret")
    assert np.load(run(tmp_path / "job").paths[3]).tolist() == [144, 169, 196, 225]
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_one_call_writes_at_a_time(tmp_path):
    with folders.locked(tmp_path), pytest.raises(ValueError, match="is being written by another process"):
        run(tmp_path)


def test_a_size_is_measured_and_written_down(tmp_path, monkeypatch):
    """Squares take no time, so a shard is a quarter of the worker's indices; it would be a batch if they took long."""
    assert len(run(tmp_path / "fast", n=100, shard=None).shards) == 5
    monkeypatch.setattr("leapstep.workers.running.SECONDS", 0.0)
    assert len(run(tmp_path / "slow", n=100, shard=None).shards) == 50
    assert run(tmp_path / "fast", n=100, shard=None).shards.size == 24
    assert names(tmp_path / "fast") == [*ALL[:5], "job.json"]


def test_a_size_is_rounded_to_whole_batches(tmp_path):
    assert run(tmp_path, batch_size=8, shard=9).shards.size == 16
    with pytest.warns(UserWarning, match="a shard of 3 is less than a batch, so each has 8"):
        assert run(tmp_path / "smaller", batch_size=8, shard=3).shards.size == 8


def test_shards_are_a_sequence():
    shards = Shards(10, 4)
    assert [*shards] == shards[:] == [range(4), range(4, 8), range(8, 10)]
    assert shards[-1] == range(8, 10)
    with pytest.raises(IndexError):
        shards[3]


def test_unknown_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no workers are called 'raay'"):
        run(tmp_path, on="raay")
