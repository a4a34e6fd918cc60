"""What a folder of samples holds while it grows."""

import os

import numpy as np
import pytest

from commands import full_disk, tree
from leapstep import files
from leapstep.inference.store import Growing, Pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_counted_and_come_back(tmp_path, channels):
    store = Pictures(tmp_path)
    assert store.finished() == 0
    pixels = np.random.default_rng(0).integers(0, 256, (3, channels, 4, 5), dtype=np.uint8)
    store.keep(range(3), pixels)
    assert (store.finished(), set(tree(tmp_path))) == (3, {"00000.png", "00001.png", "00002.png"})
    np.testing.assert_array_equal(store.first(2), pixels[:2])
    (tmp_path / "00001.png").unlink()
    assert store.finished() == 1


@pytest.mark.parametrize(("shape", "dtype"), [((), "float64"), ((2,), "float32"), ((3, 4, 4), "uint8")])
def test_an_array_can_be_read_at_any_length(tmp_path, shape, dtype):
    store = Growing(tmp_path, 1200, shape, dtype)
    values = (100 * np.random.default_rng(0).random((1200, *shape))).astype(dtype)
    rows = 0
    for size in (1, 8, 1, 90, 1100):  # the length has one digit, two, three, four
        assert store.finished() == rows
        store.keep(range(rows, rows + size), values[rows : rows + size])
        rows += size
        np.testing.assert_array_equal(np.load(tmp_path / "part.npy"), values[:rows])
    np.testing.assert_array_equal(store.first(3), values[:3])
    store.close(list(range(1200)))
    assert set(tree(tmp_path)) == {"samples.npz"}
    with np.load(tmp_path / "samples.npz") as arrays:
        np.testing.assert_array_equal(arrays["samples"], values)
        assert arrays["labels"].tolist() == list(range(1200))
        assert arrays["samples"].dtype == dtype
    assert store.finished() == 1200
    np.testing.assert_array_equal(store.first(3), values[:3])
    store.close(None)  # once more, as after a stop between the last two steps, changes nothing
    assert set(tree(tmp_path)) == {"samples.npz"}


def test_an_array_holds_what_it_says_whenever_it_is_cut(tmp_path, monkeypatch):
    values = np.arange(12.0).reshape(6, 2)
    for after in range(4):
        (tmp_path / str(after)).mkdir()
        store = Growing(tmp_path / str(after), 6, (2,), "float64")
        with monkeypatch.context() as patch:
            full_disk(patch, after)
            if after > 1:
                store.keep(range(4), values[:4])
            rows = range(4, 6) if after > 1 else range(4)
            with pytest.raises(OSError, match=r"No space left on device: '.*part.npy'"):
                store.keep(rows, values[rows.start : rows.stop])
        assert store.finished() == (0, 0, 4, 4)[after]
        store.keep(range(3, 6), values[3:]) if after > 1 else store.keep(range(6), values)
        np.testing.assert_array_equal(store.first(6), values)


def test_an_array_has_no_gaps(tmp_path):
    store = Growing(tmp_path, 6, (2,), "float32")
    with pytest.raises(ValueError, match=r"part.npy lacks samples before 2: draw them anew, with --overwrite"):
        store.keep(range(2, 4), np.ones((2, 2)))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("text", [b"", b"\x93NUMPY", b"PK\x03\x04", b"text"])
def test_what_is_no_such_array_holds_nothing(tmp_path, text):
    store = Growing(tmp_path, 6, (2,), "float32")
    (tmp_path / "part.npy").write_bytes(text)
    assert store.finished() == 0
    np.save(tmp_path / "part.npy", np.zeros((3, 3), "float32"))
    assert store.finished() == 0
    np.save(tmp_path / "part.npy", np.zeros((3, 2), "float64"))
    assert store.finished() == 0
    store.keep(range(2), np.ones((2, 2)))
    np.testing.assert_array_equal(np.load(tmp_path / "part.npy"), np.ones((2, 2), "float32"))
    if hasattr(os, "mkfifo"):
        (tmp_path / "part.npy").unlink()
        os.mkfifo(tmp_path / "part.npy")
        assert store.finished() == 0  # and does not wait for somebody to write


def test_an_array_does_not_grow_through_a_link(tmp_path):
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.write_text("years of work")
    out.mkdir()
    (out / "part.npy").symlink_to(mine)
    with pytest.raises(OSError, match=r"part.npy"):
        Growing(out, 6, (2,), "float32").keep(range(2), np.ones((2, 2)))
    assert mine.read_text() == "years of work"


def test_arrays_are_written_in_pieces(tmp_path, monkeypatch):
    """An array that lies on the disk, and has no room in memory, becomes an npz file all the same."""
    store, sizes, real = Growing(tmp_path, 36, (2**20,), "uint8"), [], files._write
    for i in range(36):
        store.keep(range(i, i + 1), np.random.default_rng(i).integers(0, 256, (1, 2**20), dtype=np.uint8))

    def measured(file, data):
        sizes.append(len(data))
        return real(file, data)

    monkeypatch.setattr(files, "_write", measured)
    store.close(None)
    assert sum(sizes) > 2**25
    assert max(sizes) <= 2**25  # numpy hands on 16 MiB at a time
