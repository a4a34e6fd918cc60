"""Data from elsewhere, damaged or made to harm: one line each, bounded time and memory."""

import io
import os
import zipfile

import numpy as np
import pytest

from leapstep import data
from leapstep.files import reading


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 10**9]), np.array([0, 2**62]), np.array([0, 100_000]), np.array([-1, 0]),
        np.array([0, 2**64 - 1], np.uint64),
    ],
)  # fmt: skip
def test_labels_that_are_no_numbers_of_classes(tmp_path, labels):
    np.savez(tmp_path / "a.npz", x=np.arange(4.0).reshape(2, 2), y=labels)
    message = rf"go from {labels.min()} to {labels.max()}: number the classes from 0, with at most 100000"
    with pytest.raises(ValueError, match=message):
        data.read(tmp_path / "a.npz")


def test_as_many_classes_as_there_may_be(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(4.0).reshape(2, 2), y=np.array([0, 99_999]))
    assert len(data.read(tmp_path / "a.npz").classes) == reading.CLASSES == 100_000


def picture(value):
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def table(path, images, labels):
    datasets = pytest.importorskip("datasets")
    from pyarrow import parquet

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"image": images, "label": [0] * len(images)}, features=features)
    whole = rows.data.table
    whole = whole.set_column(1, whole.schema.field(1), [labels])  # the library itself would check them
    parquet.write_table(whole, path)


def test_a_label_beyond_the_names_of_a_table(tmp_path):
    table(tmp_path / "a.parquet", [{"bytes": picture(1), "path": None}, {"bytes": picture(2), "path": None}], [1, 7])
    with pytest.raises(ValueError, match=r"a\.parquet, row 1 has the label 7, but 2 classes have names"):
        data.read(tmp_path / "a.parquet")


def test_rows_that_name_files_of_this_machine(tmp_path):
    own, secret = tmp_path / "own", tmp_path / "secret.png"
    own.mkdir()
    secret.write_bytes(picture(1))
    (own / "link.png").symlink_to(secret)
    (own / "mine.png").write_bytes(picture(2))
    names = [str(secret), "../secret.png", "link.png", "mine.png", str(own / "mine.png"), "no\0name"]
    table(own / "a.parquet", [{"bytes": None, "path": name} for name in names], [0] * 6)
    found = data.read(own / "a.parquet")
    assert found.values[:, 0, 0, 0].tolist() == [2, 2]
    assert [("not in the folder of the data" in line) for line in found.skipped] == [True] * 4


def test_an_archive_that_unpacks_to_a_thousand_times_its_size(tmp_path):
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (100, 2**20)})
        for _ in range(100):
            file.write(bytes(2**20))
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match=r"bomb\.npz would unpack to \d+ times its size, which no data do"):
        data.read(path)


def test_an_archive_larger_than_memory_is_refused_by_what_it_says_of_itself(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=np.arange(2000.0))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    with pytest.raises(ValueError, match=r"unpacking .*a\.npz takes 1\.5\d*e-05 GiB of memory, of which"):
        data.read(tmp_path / "a.npz")


def test_an_array_that_claims_more_than_its_archive_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    with pytest.raises(ValueError, match=r"cannot read .*a\.npz: x\.npy is \d+ bytes, which is not what its header"):
        data.read(tmp_path / "a.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are of POSIX")
def test_pipes_and_devices_among_pictures_and_tables(tmp_path):
    for value in (1, 2):
        (tmp_path / f"{value}.png").write_bytes(picture(value))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    found = data.read(tmp_path)
    assert len(found) == 2
    assert [line.split(": ")[1] for line in found.skipped] == [
        f"{tmp_path / 'pipe.png'} is a pipe, not a file", f"{tmp_path / 'zero.png'} is a device, not a file",
    ]  # fmt: skip
    (tmp_path / "tables").mkdir()
    os.mkfifo(tmp_path / "tables" / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet is a pipe, not a file"):
        data.read(tmp_path / "tables")


def test_links_that_lead_round(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "picture.png").write_bytes(picture(1))
        (tmp_path / name / "up").symlink_to(tmp_path)
    assert len(data.read(tmp_path)) == 2


def test_a_size_that_no_picture_has():
    with pytest.raises(ValueError, match="size 100000: pass the side of the images in pixels, from 1 to 8192"):
        data.read("digits", size=100_000)
