"""Jobs of the ranks of a launcher: who makes what, and that any number of ranks goes on where others were stopped."""

import shutil
import time
import types

import pytest

from commands import start
from leapstep import files, workers
from leapstep.files import folders
from leapstep.workers import merging, torchrun
from leapstep.workers.job import UNCLAIMED
from numbers_work import KEY, Numbers


class Idle(Exception):
    """A rank has nothing to do but to wait for others."""


@pytest.fixture
def rank(monkeypatch, tmp_path):
    """What a rank of so many does, from its beginning to its end, or until it waits for others."""

    def wait(seconds):
        raise Idle

    monkeypatch.setattr(torchrun, "time", types.SimpleNamespace(monotonic=time.monotonic, sleep=wait))

    def run(number, ranks, folder=tmp_path / "job", **options):
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        settings = {"batch_size": 2, "shard": 2, "on": "torchrun", "device": "cpu", "progress": False, **options}
        return workers.run(Numbers(), folder, KEY, 22, **settings)

    return run


def numbers(folder):
    return [int(path.stem) for path in sorted(folder.glob("*.npy"))]


def stopped(rank, *given):
    """A rank that is stopped when it has nothing to do but to wait for others."""
    with pytest.raises(Idle):
        rank(*given)


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(files.PREFIX)]


def test_a_rank_makes_its_shards_and_helps_but_leaves_what_another_is_at(rank, tmp_path):
    stopped(rank, 0, 3)
    assert numbers(tmp_path / "job") == [0, *range(3, 11)]
    stopped(rank, 1, 3)
    last = rank(2, 3)
    assert last.complete
    expected = workers.run(Numbers(), tmp_path / "here", KEY, 22, batch_size=2, shard=2, device="cpu", progress=False)
    assert [path.read_bytes() for path in last.paths] == [path.read_bytes() for path in expected.paths]
    assert [record["sha256"] for record in last.records] == [record["sha256"] for record in expected.records]


def test_what_others_do_not_make_in_some_time_is_made(rank, tmp_path, monkeypatch):
    """They died, or were never started."""
    monkeypatch.setattr(torchrun, "LEFT", 0.0)
    monkeypatch.setattr(torchrun, "TIMES", 0)
    assert rank(1, 1).complete
    for i in (4, 6, 9):
        (tmp_path / "job" / f"{i:05d}.npy").unlink()
    assert rank(0, 3).complete
    assert numbers(tmp_path / "job") == [*range(11)]
    assert not hidden(tmp_path / "job")


def test_a_rank_begins_once_for_all_of_its_shards(rank, tmp_path, monkeypatch):
    """The model is made ready, and data are read, then."""
    rank(0, 1)
    for i in (4, 6, 9):
        (tmp_path / "job" / f"{i:05d}.npy").unlink()
    begun, start = [], Numbers.start
    monkeypatch.setattr(Numbers, "start", lambda *given: begun.append(given) or start(*given))
    assert rank(0, 1).complete
    assert len(begun) == 1


def test_another_number_of_ranks_goes_on(rank, tmp_path):
    stopped(rank, 0, 3)
    for i in (5, 7, 9):
        (tmp_path / "job" / f"0000{i}.npy").unlink()
    stopped(rank, 1, 2)
    assert numbers(tmp_path / "job") == [0, 1, *range(3, 11)]
    assert rank(0, 1).complete
    assert numbers(tmp_path / "job") == [*range(11)]


def test_of_a_finished_job_the_first_rank_has_the_results(rank):
    rank(0, 1)
    assert rank(0, 2).complete
    assert not rank(1, 2).complete
    assert rank(1, 2, to="all").records == rank(0, 2, to="first").records
    assert not rank(1, 2, to="first").complete


def test_one_rank_alone_has_the_results(rank, tmp_path):
    """Though another has found all shards there, and may have removed them; after a loss, it is decided anew."""
    stopped(rank, 0, 2)
    (tmp_path / "job" / UNCLAIMED).unlink()
    assert not rank(1, 2).complete
    (tmp_path / "job" / "00000.npy").unlink()
    assert rank(0, 2).complete


def test_what_is_left_of_a_killed_rank_goes_when_all_is_there(rank, tmp_path):
    stopped(rank, 0, 2)
    (tmp_path / "job" / ".leapstep-00001-0123456789abcdef.npy").write_bytes(b"a part")
    assert rank(1, 2).complete
    assert not hidden(tmp_path / "job")


def test_the_first_rank_says_what_the_job_is(rank, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torchrun, "PATIENCE", 0.0)
        with pytest.raises(ValueError, match=r"^rank 0 has not begun"):
            rank(1, 2)
    stopped(rank, 0, 2)
    with pytest.raises(ValueError, match="into shards of 2, not 4"):
        rank(1, 2, shard=4)


def test_a_rank_whose_shard_was_made_and_merged_by_others_ends_well(rank, tmp_path, monkeypatch):
    """It is at it when another rank, which helped, removes all shards."""

    def make(rows, path):
        shutil.rmtree(path.parent)
        path.write_bytes(b"")

    stopped(rank, 0, 2)
    monkeypatch.setattr(Numbers, "start", lambda *_: make)
    assert not rank(1, 2).complete
    assert not (tmp_path / "job").exists()


def test_a_rank_that_comes_after_all_is_merged_ends_well(tmp_path, monkeypatch):
    kind = folders.Kind("results.json", "counted", r"results\.json|shards")
    monkeypatch.setattr(torchrun, "PATIENCE", 0.01)

    def counted(number):
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "2")
        asked = workers.Workers("torchrun", 2, tmp_path, "cpu")
        with merging.merging(Numbers(), asked, kind, {"counted": (0,)}, KEY, 2, 2) as finished:
            if finished is not None:
                files.write_json(tmp_path / "results.json", {"counted": [2]})
            return finished is not None

    files.write_json(tmp_path / "results.json", {"counted": [0]})
    with pytest.raises(ValueError, match=r"^rank 0 has not begun"):
        counted(1)
    (tmp_path / "results.json").unlink()
    assert [counted(0), counted(1)] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_two_processes_share_a_command(points, tmp_path):
    """One of them finds all samples there, and says so."""
    line = ["sample", points, "--n", 40, "--steps", 2, "--batch-size", 5, "--shard", 5, "--on", "torchrun"]
    line += ["--device", "cpu", "--out", tmp_path / "job"]
    ranks = [start(*line, RANK=str(number), WORLD_SIZE="2") for number in range(2)]
    said = [rank.communicate(timeout=600) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert sorted(out.partition(" ")[0] for out, _ in said) == ["40", "this"]
    assert len([*(tmp_path / "job").glob("0*.npz")]) == 8
