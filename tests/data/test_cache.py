"""Decoded images that are kept: for whom, until when, and what happens when something fails on the way."""

import contextlib
import errno
import io
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leapstep import files
from leapstep.data import cache as data_cache
from leapstep.data import dataset, decoding, holdout, read
from leapstep.files import folders, reading

rng = np.random.default_rng(0)


def picture(path, value=None, size=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (size, size, 3)) if value is None else np.full((size, size), value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
    """Grey pictures, one in colour, and one that is broken, of two classes."""
    for i in range(6):
        picture(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", i)
    picture(tmp_path / "photos" / "b" / "6.png")
    (tmp_path / "photos" / "a" / "cut.png").write_bytes(b"")
    return tmp_path / "photos"


@pytest.fixture
def no_decoding(monkeypatch):
    def fail(*_):
        raise AssertionError("decoded once more")

    def forbid():
        monkeypatch.setattr(decoding, "decode", fail)

    return forbid


def entries(cache):
    return sorted(path.suffix for path in (cache / "images").iterdir()) if (cache / "images").exists() else []


def equal(a, b):
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.labels, b.labels)
    parts = ("classes", "source", "scaling", "skipped", "originals")
    assert [getattr(a, name) for name in parts] == [getattr(b, name) for name in parts]


def test_images_beyond_the_limit_are_decoded_once_for_all_commands(photos, cache, no_decoding, capsys):
    here = read(photos)
    assert entries(cache) == []
    first = read(photos, memory_limit=0)
    assert capsys.readouterr().err.startswith(f"7 decoded images (336 B) are kept in {cache / 'images'}")
    assert entries(cache) == [".pixels", ".safetensors"]
    no_decoding()
    again = read(photos)
    assert capsys.readouterr() == ("", "")
    for some in (first, again):
        equal(some, here)
        assert isinstance(some.values, np.memmap)
        np.testing.assert_array_equal(some.hashes, dataset.hashes(here.values))
    held = holdout.rows(again, holdout.choose(again, "2"))[1]
    np.testing.assert_array_equal(again.subset(held).hashes, dataset.hashes(here.values[held]))
    with pytest.raises(ValueError, match=r"cut.png: not an image.*; repair or remove it, or read without strict"):
        read(photos, strict=True)


@pytest.mark.parametrize("change", ["content", "more", "fewer"])
def test_images_that_have_changed_are_decoded_anew(photos, cache, change):
    read(photos, memory_limit=0)
    match change:
        case "content":
            before = (photos / "a" / "0.png").stat()
            picture(photos / "a" / "0.png", 9)
            os.utime(photos / "a" / "0.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # as some copies keep it
        case "more":
            picture(photos / "a" / "7.png", 7)
        case "fewer":
            (photos / "b" / "1.png").unlink()
    now = read(photos, memory_limit=10**9)
    assert not isinstance(now.values, np.memmap)
    equal(read(photos, memory_limit=0), now)
    assert entries(cache) == [".pixels", ".safetensors"]  # the old entry is replaced


def test_each_size_has_an_entry_and_a_damaged_one_is_made_anew(photos, cache):
    small = read(photos, size=2)
    read(photos, size=2, memory_limit=0)
    read(photos, size=3, channels=1, memory_limit=0)
    assert entries(cache) == [".pixels", ".pixels", ".safetensors", ".safetensors"]
    for path in (cache / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    equal(read(photos, size=2), small)


def test_what_takes_long_is_kept_although_it_fits_in_memory(photos, cache, monkeypatch):
    monkeypatch.setattr(data_cache, "SLOW", -1)
    assert isinstance(read(photos).values, np.memmap)
    assert entries(cache) == [".pixels", ".safetensors"]
    full(monkeypatch)
    assert read(photos, size=2).shape == (3, 2, 2)  # it need not be kept
    assert entries(cache) == [".pixels", ".safetensors"]


def full(monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write", write)


def test_a_full_disk_is_one_line_and_leaves_nothing(photos, cache, monkeypatch):
    with monkeypatch.context() as patch:
        full(patch)
        with pytest.raises(ValueError, match=r"decoded images .* cannot be written to .*\.pixels \(No space left on d"):
            read(photos, memory_limit=0)
    assert entries(cache) == []
    usage = shutil.disk_usage(photos)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(ValueError, match=r"images take .* GiB, and .* has room for .*: make room, .* LEAPSTEP_CACHE"):
        read(photos, memory_limit=0)
    assert entries(cache) == []


def test_an_interrupt_leaves_nothing_and_what_a_killed_process_left_is_removed(photos, cache, monkeypatch):
    decode, count = decoding.decode, []

    def interrupted(*arguments):
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt
        return decode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", interrupted)
        patch.setattr(decoding, "WAITING", 1)  # one after the other
        with pytest.raises(KeyboardInterrupt):
            read(photos, memory_limit=0)
    assert entries(cache) == []
    (cache / "images").mkdir(parents=True, exist_ok=True)
    left = cache / "images" / f"{files.PREFIX}{'0' * 16}"
    left.write_bytes(b"half")
    read(photos, memory_limit=0)
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_done_without(photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LEAPSTEP_CACHE", str(tmp_path / "file"))
    some = read(photos, memory_limit=0)
    assert "the decoded images are not kept: cannot write in" in capsys.readouterr().err
    equal(some, read(photos))
    np.testing.assert_array_equal(some.hashes, dataset.hashes(some.values))


def test_entries_that_nobody_uses_go_and_the_oldest_where_there_is_little_room(photos, cache, monkeypatch):
    for size in (2, 3, 5):
        read(photos, size=size, memory_limit=0)
        record = max((cache / "images").glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        os.utime(record, (size, record.stat().st_mtime - {2: data_cache.UNUSED + 1}.get(size, 100 - size)))
    read(photos, size=6, memory_limit=0)
    sizes = {path.stat().st_size for path in (cache / "images").glob("*.pixels")}
    assert sizes == {7 * 3 * size**2 for size in (3, 5, 6)}
    usage = shutil.disk_usage(photos)

    def little(folder):
        there = len(list(Path(folder).glob("*.pixels")))
        return usage._replace(total=10**6, free=10**6 // 10 + (2000 if there < 3 else 0))

    monkeypatch.setattr(shutil, "disk_usage", little)
    read(photos, size=7, memory_limit=0)
    sizes = {path.stat().st_size for path in (cache / "images").glob("*.pixels")}
    assert sizes == {7 * 3 * size**2 for size in (5, 6, 7)}


def test_two_processes_at_once_write_one_entry(photos, cache, monkeypatch, capsys):
    """The second waits for the first, and takes what that has written."""
    original, waited = folders.locked_file, []

    @contextlib.contextmanager
    def after_another(path, wait):
        if not waited:
            waited.append(path)
            wait(" (leapstep train)")
            waited.append(read(photos, progress=False, memory_limit=0))
        with original(path, wait):
            yield

    monkeypatch.setattr(folders, "locked_file", after_another)
    second = read(photos, memory_limit=0)
    assert capsys.readouterr().err == "another process (leapstep train) decodes the same images: waiting for it\n"
    equal(second, waited[1])
    assert entries(cache) == [".pixels", ".safetensors"]


def test_images_that_another_process_kept_and_lost_are_not_read_in_part(photos, cache, monkeypatch):
    found = iter([None, object()])  # none at first, then one that the other process has written, then none again
    monkeypatch.setattr(data_cache, "find", lambda *_: next(found, None))
    with pytest.raises(ValueError, match="removed at once: read them again"):
        read(photos, memory_limit=0)


def test_a_lock_is_waited_for(tmp_path):
    held, said = contextlib.ExitStack(), []
    held.enter_context(folders.locked_file(tmp_path / "file"))

    def wait(holder):
        said.append(holder)
        held.close()

    with folders.locked_file(tmp_path / "file", wait), pytest.raises(ValueError, match="written by another process"):
        folders.locked_file(tmp_path / "file").__enter__()
    assert f"pid {os.getpid()}" in said[0]


def test_images_in_memory_are_a_part_of_what_the_container_has(tmp_path, monkeypatch):
    for name, text in {"max": "1000000", "current": "600000", "stat": "anon 1\ninactive_file 300000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(reading, "CONTAINER", tmp_path)
    assert reading.free_memory() == 700_000
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert data_cache.ImageStack(None, None, None, False).limit == 0.25 * 700_000 / 2
    (tmp_path / "memory.max").write_text("max\n")
    assert reading.free_memory() > 700_000


def test_images_made_of_an_array_are_kept_too(tmp_path, cache, no_decoding):
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))
    first = read(tmp_path / "x.npy", size=4, memory_limit=0)
    no_decoding()
    np.testing.assert_array_equal(read(tmp_path / "x.npy", size=4).values, first.values)


# Decoding


def test_small_images_are_decoded_without_threads(tmp_path, monkeypatch):
    decode, threads = decoding.decode, set()

    def watched(*arguments):
        threads.add(threading.current_thread())
        return decode(*arguments)

    monkeypatch.setattr(decoding, "decode", watched)
    for name, size in (("small", 8), ("large", 64)):
        for i in range(3):
            picture(tmp_path / name / f"{i}.png", size=size)
    read(tmp_path / "small")
    assert threads == {threading.current_thread()}
    threads.clear()
    read(tmp_path / "large")
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_in_part_of_its_size(orientation):
    x, y = np.meshgrid(np.linspace(0, 9, 427), np.linspace(0, 6, 291))
    pixels = 127 + 60 * np.stack([np.sin(x * y / 3), np.cos(x) * np.sin(y), np.sin(2 * x + y)], -1)
    exif, coded = Image.Exif(), {}
    exif[0x0112] = orientation
    for form in ("JPEG", "PNG"):
        coded[form] = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(
            coded[form], form, exif=exif, **{"quality": 95} if form == "JPEG" else {}
        )
    sizes = []
    original, patch = decoding._square, pytest.MonkeyPatch()
    with patch.context() as some:
        some.setattr(decoding, "_square", lambda image, *rest: sizes.append(image.size) or original(image, *rest))
        fast, exact = (
            decoding.decode(32, 3, decoding.Item("x", None, coded[form].getvalue())) for form in ("JPEG", "PNG")
        )
    assert sorted(sizes[0]) == [146, 214]
    assert fast.original == exact.original == ((427, 291) if orientation == 1 else (291, 427))
    assert np.abs(fast.pixels.astype(int) - exact.pixels).mean() < 1
