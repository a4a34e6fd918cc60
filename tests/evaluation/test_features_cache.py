"""References are computed once: what the cache holds, what it depends on, and where it lies."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from leapstep.data import read
from leapstep.evaluation import features
from leapstep.evaluation.features import fingerprint, load, reference, space
from small_data import arrays, rng

# --- the cache -----------------------------------------------------------------------------------------------------


class Counted:
    """Features that count the samples they have seen."""

    def __init__(self, digest="0"):
        self.seen = 0
        self.space = features.Features("counted", digest, self.extract)

    def extract(self, values):
        self.seen += len(values)
        return torch.from_numpy(np.array(values, dtype=np.float32)).flatten(1)[:, :2]


def test_a_reference_is_computed_once(cache):
    data = arrays(rng.standard_normal((2500, 3)))
    counted = Counted()
    first = reference(counted.space, data)
    torch.testing.assert_close(first, torch.from_numpy(data.values[:, :2]).float())
    again = reference(counted.space, dataclasses.replace(data, values=data.values.copy(), source="another name"))
    assert torch.equal(first, again)
    assert counted.seen == 2500
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_many_features_are_mapped_from_their_file(cache, blobs, monkeypatch):
    monkeypatch.setattr(features.cache, "SMALL", 0)
    monkeypatch.setattr(space, "rows_of_block", lambda values: 100)
    counted = Counted()
    expected = reference(counted.space, blobs, cache=False)
    for _ in range(2):
        found = reference(counted.space, blobs)
        assert torch.equal(found, expected)
        (path,) = cache.iterdir()
        assert not (maps := Path("/proc/self/maps")).is_file() or str(path) in maps.read_text()
    assert counted.seen == 2 * 240
    path.unlink()
    monkeypatch.setattr(features.cache.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    assert torch.equal(reference(counted.space, blobs), expected)
    assert not list(cache.iterdir())


def test_what_a_reference_depends_on(cache):
    values = rng.integers(0, 100, (20, 6)).astype(np.int16)
    changed = values.copy()
    changed[19, 5] += 1
    counted = Counted()
    for other in (values, changed, values[:19], values.astype(np.int32), values.reshape(20, 2, 3), values.view("u2")):
        seen = counted.seen
        reference(counted.space, arrays(other))
        assert counted.seen == seen + len(other)
    other = Counted("1")
    reference(other.space, arrays(values))
    assert other.seen == 20
    assert len(list(cache.iterdir())) == 7


def test_no_cache_neither_reads_nor_writes(cache, blobs):
    counted = Counted()
    reference(counted.space, blobs, cache=False)
    assert not cache.exists()
    reference(counted.space, blobs)
    reference(counted.space, blobs, cache=False)
    assert counted.seen == 3 * 240


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"garbage"),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(b""),
        lambda path: safetensors.torch.save_file({"other": torch.zeros(240, 2)}, path),
        lambda path: safetensors.torch.save_file({"features": torch.zeros(10, 2)}, path),
    ],
)
def test_a_broken_cache_is_made_anew(cache, blobs, damage):
    counted = Counted()
    expected = reference(counted.space, blobs)
    (path,) = cache.iterdir()
    good = path.read_bytes()
    damage(path)
    assert torch.equal(reference(counted.space, blobs), expected)
    assert counted.seen == 2 * 240
    assert path.read_bytes() == good


def test_a_folder_in_the_place_of_a_cached_file_is_left_alone(cache, blobs):
    counted = Counted()
    expected = reference(counted.space, blobs)
    (path,) = cache.iterdir()
    path.unlink()
    path.mkdir()
    assert torch.equal(reference(counted.space, blobs), expected)
    assert counted.seen == 2 * 240
    assert path.is_dir()


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path, blobs, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LEAPSTEP_CACHE", str(tmp_path / "file" / "cache"))
    assert reference(Counted().space, blobs).shape == (240, 2)
    assert load("pixels", blobs).extract(blobs.values).shape == (240, 3)


def test_where_the_cache_lies(tmp_path, blobs, monkeypatch):
    for variables, place in (
        ({"LEAPSTEP_CACHE": "own", "XDG_CACHE_HOME": "xdg", "HOME": "home"}, "own"),
        ({"XDG_CACHE_HOME": "xdg", "HOME": "home"}, "xdg/leapstep"),
        ({"HOME": "home"}, "home/.cache/leapstep"),
    ):
        for name in ("LEAPSTEP_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, folder in variables.items():
            monkeypatch.setenv(name, str(tmp_path / folder))
        reference(Counted().space, blobs)
        assert len(list((tmp_path / place).iterdir())) == 1


def test_the_fingerprint_of_values_wherever_they_lie(tmp_path, monkeypatch):
    values = rng.standard_normal((50, 4, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    mapped = read(tmp_path / "a.npy")
    assert isinstance(mapped.values, np.memmap)
    digest = fingerprint(arrays(values))
    assert digest == fingerprint(mapped) == fingerprint(arrays(np.asfortranarray(values)))
    monkeypatch.setattr(space, "block_size", lambda *_: 7)
    assert fingerprint(mapped) == digest
