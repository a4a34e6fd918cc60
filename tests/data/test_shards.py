"""Samples in shards: what each form holds, that its bytes depend on nothing else, and that everything reads it back."""

import gc
import hashlib
import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

from commands import ENVIRONMENT, tree
from leapstep.data import read, shards
from leapstep.data.on_demand import OnDemand
from leapstep.data.values import Elsewhere

RNG = np.random.default_rng(0)
SAMPLES = {
    "grey": RNG.integers(0, 256, (10, 1, 5, 4), dtype=np.uint8),
    "colour": RNG.integers(0, 256, (10, 3, 4, 4), dtype=np.uint8),
    "numbers": RNG.normal(size=10),
    "points": RNG.normal(size=(10, 2)).astype(np.float32),
    "volumes": RNG.normal(size=(10, 2, 3, 4)).astype(np.float32),
    "videos": RNG.integers(0, 256, (10, 2, 3, 4, 4), dtype=np.uint8),
}
LABELS, CLASSES = [i % 3 for i in range(10)], ("cat", "dog", "bird")
CASES = [
    (kind, form, labelled)
    for kind, values in SAMPLES.items()
    for form in shards.FORMS
    for labelled in (False, True)
    if form != "png" or shards.are_pictures(values)
]


def batches(values, labels, rows, first=0):
    for low in range(rows.start, rows.stop, 4):
        here = range(low, min(low + 4, rows.stop))
        own = None if labels is None else labels[here.start : here.stop]
        yield shards.Batch(range(first + here.start, first + here.stop), values[here.start : here.stop], own)


def folder_of(folder, form, values, labels=None):
    """Two shards, of the samples from 100 on, and the manifest that they are known by."""
    folder.mkdir()
    kind = shards.FORMS[form]
    for i, rows in enumerate((range(8), range(8, 10))):
        classes = () if labels is None else CLASSES
        kind.write(folder / f"{i:05d}{kind.suffix}", len(rows), batches(values, labels, rows, 100), classes)
    said = {"format": form, "classes": () if labels is None else CLASSES, "shards": []}
    (folder / "manifest.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(("kind", "form", "labelled"), CASES)
def test_samples_come_back_as_they_were(tmp_path, kind, form, labelled):
    values, labels = SAMPLES[kind], LABELS if labelled else None
    folder = folder_of(tmp_path / "s", form, values, labels)
    found = shards.of_folder(folder)
    assert [path.name[:5] for path in found.paths] == ["00000", "00001"]
    first = found.first(9)
    np.testing.assert_array_equal(first.values, values[:9], strict=True)
    assert first.labels == (LABELS[:9] if labelled else None)
    data = read(folder, split="all")
    np.testing.assert_array_equal(data.values, values, strict=True)
    assert (data.classes, data.is_pictures) == (CLASSES if labelled else (), shards.are_pictures(values))
    assert (None if data.labels is None else data.labels.tolist()) == labels
    if form == "png" or (form == "npz" and kind != "videos"):
        check_on_demand(read(folder, split="all", on_demand=True), data)


def check_on_demand(found, data):
    assert isinstance(found.values, Elsewhere)
    np.testing.assert_array_equal(found.values, data.values, strict=True)
    np.testing.assert_array_equal(found.values[[9, 1, 8]], data.values[[9, 1, 8]])
    assert (found.classes, found.scaling) == (data.classes, data.scaling)
    np.testing.assert_array_equal(found.labels, data.labels)
    assert len(set(found.names.tolist())) == 10


@pytest.mark.parametrize("labels", [LABELS[:3], [str(label) for label in LABELS[:6]]], ids=["fewer", "texts"])
def test_an_archive_whose_labels_are_not_those_of_its_samples_is_refused(tmp_path, labels):
    folder = folder_of(tmp_path / "s", "npz", SAMPLES["colour"], LABELS)
    np.savez(folder / "00000.npz", samples=SAMPLES["colour"][:6], labels=labels)
    with pytest.raises(ValueError, match=r"00000.npz holds 6 samples and .* labels \[.\]: remove it"):
        read(folder, split="all", on_demand=True)


WRITER = """
import sys
from pathlib import Path
from leapstep.data import read, shards
from leapstep.data.on_demand import OnDemand
data = read(sys.argv[1])
for form, kind in shards.FORMS.items():
    labels = data.labels.tolist()
    halves = range(6), range(6, 10)
    whole = [shards.Batch(rows, data.values[rows.start : rows.stop], labels[rows.start : rows.stop]) for rows in halves]
    kind.write(Path(sys.argv[2]) / f"{form}{kind.suffix}", 10, whole, ("cat", "dog", "bird"))
"""


def test_the_bytes_of_a_shard_depend_on_its_samples_alone(tmp_path, monkeypatch):
    """Another process, later, in another time zone, as another user."""
    np.savez(tmp_path / "data.npz", x=SAMPLES["colour"], labels=LABELS)
    written = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "data.npz"), str(tmp_path / name)])
        if name == "here":
            exec(WRITER, {})
        else:
            environment = ENVIRONMENT | {"TZ": "Asia/Tokyo", "USER": "someone", "PYTHONHASHSEED": "7"}
            subprocess.run([sys.executable, "-c", WRITER, *sys.argv[1:]], check=True, env=environment)
        written.append({path: hashlib.sha256(content).hexdigest() for path, content in tree(tmp_path / name).items()})
    assert len(written[0]) == 3 + 10 + 1
    assert written[0] == written[1]


@pytest.mark.parametrize("kind", ["colour", "volumes", "numbers"])
def test_datasets_reads_parquet(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    folder, values = folder_of(tmp_path / "s", "parquet", SAMPLES[kind], LABELS), SAMPLES[kind]
    paths = sorted(map(str, folder.glob("*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.features["label"].names == list(CLASSES)
    assert rows["label"][:] == LABELS
    assert rows["index"][:] == list(range(100, 110))
    if kind == "colour":
        assert isinstance(rows.features["image"], datasets.Image)
        pictures = [np.asarray(picture).transpose(2, 0, 1) for picture in rows["image"]]
        np.testing.assert_array_equal(pictures, values)
    else:
        np.testing.assert_array_equal(rows["sample"][:], values)
        assert rows.with_format("numpy")["sample"][:].shape == values.shape


@pytest.mark.parametrize("labels", [None, LABELS])
def test_datasets_reads_a_folder_of_pictures(tmp_path, labels):
    datasets = pytest.importorskip("datasets")
    folder = folder_of(tmp_path / "s", "png", SAMPLES["grey"], labels)
    shutil.copy(next(folder.glob("*/*.png")), folder / "grid.png")  # that of `leapstep sample` is none of the samples
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(rows.features) == {"image", "index"} | ({"label"} if labels else set())
    assert sorted(rows["index"]) == list(range(100, 110))  # it has an order of its own
    for row in rows:
        j = row["index"] - 100
        np.testing.assert_array_equal(np.asarray(row["image"]), SAMPLES["grey"][j, 0])
        assert row.get("label") == (labels and labels[j])


@pytest.mark.parametrize("kind", ["grey", "points"])
def test_webdataset_reads_tars(tmp_path, kind):
    webdataset = pytest.importorskip("webdataset")
    folder = folder_of(tmp_path / "s", "webdataset", SAMPLES[kind], LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the last file to the garbage collector
        rows = list(webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False).decode("l8"))
        gc.collect()
    assert [row["__key__"] for row in rows] == [f"{i:07d}" for i in range(100, 110)]
    assert [row["cls"] for row in rows] == LABELS
    assert rows[4]["json"] == {"index": 104, "label": 1, "class": "dog"}
    np.testing.assert_array_equal([row["npy"] if kind == "points" else row["png"][None] for row in rows], SAMPLES[kind])


def test_a_parquet_file_is_written_a_group_at_a_time(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(shards, "GROUP", 2000)
    path = tmp_path / "0.parquet"
    values = RNG.integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)
    shards.FORMS["parquet"].write(path, 64, batches(values, None, range(64)), ())
    groups = parquet.ParquetFile(path).num_row_groups
    assert 8 <= groups <= 16  # a picture is about 800 bytes, a batch has four
    np.testing.assert_array_equal([shards._value_of(item) for item in shards.FORMS["parquet"].items(path)], values)


@pytest.mark.parametrize("form", list(shards.FORMS))
def test_a_broken_shard_is_named(tmp_path, form):
    folder = folder_of(tmp_path / "s", form, SAMPLES["grey"])
    path = shards.of_folder(folder).files()[0]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=path.name):
        shards.of_folder(folder).first(3)
    with pytest.raises(ValueError, match=path.name):
        read(folder, split="all", strict=True)


def test_other_folders_have_no_shards(tmp_path):
    (tmp_path / "00000.npz").write_bytes(b"")
    assert shards.of_folder(tmp_path) is None
    for said in ("[]", "{}", '{"shards": {}}', '{"shards": [], "format": "zip"}', "no json"):
        (tmp_path / "manifest.json").write_text(said)
        assert shards.of_folder(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"shards": [], "format": "parquet"}')
    assert shards.of_folder(tmp_path).paths == []
    with pytest.raises(ValueError, match="has no whole shard yet"):
        read(tmp_path)


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
@pytest.mark.parametrize("labelled", [False, True])
def test_many_pictures_in_shards_are_decoded_on_demand(tmp_path, form, labelled):
    labels = LABELS if labelled else None
    folder = folder_of(tmp_path / "s", form, SAMPLES["colour"], labels)
    data = read(folder, on_demand=True)
    assert isinstance(data.values, OnDemand)
    np.testing.assert_array_equal(data.values, SAMPLES["colour"], strict=True)
    assert (data.classes, None if data.labels is None else data.labels.tolist()) == (
        CLASSES if labelled else (),
        labels,
    )
