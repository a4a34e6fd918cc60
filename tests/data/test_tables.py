"""Images in tables: parquet, arrow, the Hub."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import colours, grey, save
from leapstep.data import NoSplit, read


@pytest.fixture
def table():
    """A table of 6 images of 2 classes, and their pixels."""
    datasets = pytest.importorskip("datasets")
    pixels = colours(6)
    features = datasets.Features(
        {"id": datasets.Value("int64"), "kind": datasets.ClassLabel(names=["cat", "dog"]), "picture": datasets.Image()}
    )
    columns = {"id": list(range(6)), "kind": [0, 1, 1, 0, 1, 0], "picture": [Image.fromarray(p) for p in pixels]}
    return datasets.Dataset.from_dict(columns, features=features), pixels.transpose(0, 3, 1, 2)


def check_table(some, pixels, labels=(0, 1, 1, 0, 1, 0)):
    np.testing.assert_array_equal(some.values, pixels)
    assert some.labels.tolist() == list(labels)
    assert some.labels.dtype == np.int64
    assert some.classes == ("cat", "dog")


def to_parquet(table, path):
    import pyarrow.parquet

    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table.data.table, path)


def test_parquet_finds_images_and_labels_by_their_type(tmp_path, table):
    rows, pixels = table
    to_parquet(rows, tmp_path / "some.parquet")
    check_table(read(tmp_path / "some.parquet"), pixels)
    assert read(tmp_path / "some.parquet", size=2, channels=1).shape == (1, 2, 2)
    with pytest.raises(ValueError, match="has no split 'test', nor any other"):
        read(tmp_path / "some.parquet", split="test")


def test_a_folder_of_tables_is_chosen_from_by_split(tmp_path, table):
    rows, pixels = table
    for name, some in {"train-0": range(2), "train-1": range(2, 4), "test": range(4, 6)}.items():
        to_parquet(rows.select(some).flatten_indices(), tmp_path / f"{name}.parquet")
    check_table(read(tmp_path), pixels[:4], (0, 1, 1, 0))
    check_table(read(tmp_path, split="test"), pixels[4:], (1, 0))
    assert len(read(tmp_path, split="all")) == 6
    with pytest.raises(ValueError, match=r"has no split 'valid' among test.parquet, train-0.parquet, train-1.parquet"):
        read(tmp_path, split="valid")


def test_a_saved_arrow_data_set(tmp_path, table):
    rows, pixels = table
    rows.save_to_disk(tmp_path / "saved")
    check_table(read(tmp_path / "saved"), pixels)
    check_table(read(next((tmp_path / "saved").glob("*.arrow"))), pixels)


def test_broken_and_missing_images_of_a_table(tmp_path, table):
    import datasets

    _, pixels = table
    encoded = io.BytesIO()
    Image.fromarray(pixels[0].transpose(1, 2, 0)).save(encoded, "PNG")
    save(tmp_path / "outside.png", pixels[1].transpose(1, 2, 0))
    good, outside = {"bytes": encoded.getvalue(), "path": None}, {"bytes": None, "path": str(tmp_path / "outside.png")}
    images = [good, {"bytes": b"no", "path": None}, outside, None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    broken = datasets.Dataset.from_dict({"image": images, "label": [1, 1, 0, 0]}, features=features)
    to_parquet(broken, tmp_path / "some.parquet")
    some = read(tmp_path / "some.parquet")
    check_table(some, pixels[:2], (1, 0))
    name = tmp_path / "some.parquet"
    assert some.skipped == (f"{name}, row 1: not an image of a known format", f"{name}, row 3: no image")


def test_a_table_without_labels_for_all_has_none(tmp_path, table):
    rows, _ = table
    to_parquet(rows.remove_columns("kind"), tmp_path / "some.parquet")
    assert read(tmp_path / "some.parquet").labels is None
    unknown = rows.map(lambda row: {"kind": -1}, keep_in_memory=True)
    to_parquet(unknown, tmp_path / "some.parquet")
    assert (read(tmp_path / "some.parquet").labels, read(tmp_path / "some.parquet").classes) == (None, ())


def test_a_table_without_images_or_that_is_none(tmp_path, table):
    rows, _ = table
    to_parquet(rows.remove_columns("picture"), tmp_path / "some.parquet")
    with pytest.raises(ValueError, match=r"no column of type datasets.Image; its columns are id \(Value\), kind \(Cla"):
        read(tmp_path / "some.parquet")
    (tmp_path / "some.parquet").write_bytes(b"not a table")
    check_unreadable(tmp_path)


def test_a_table_that_breaks_in_the_middle(tmp_path, table):
    to_parquet(table[0], tmp_path / "some.parquet")
    content = bytearray((tmp_path / "some.parquet").read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)  # the pages, not the schema at the end
    (tmp_path / "some.parquet").write_bytes(content)
    check_unreadable(tmp_path)


def check_unreadable(tmp_path):
    with pytest.raises(ValueError, match=r"^cannot read .*some.parquet: .+$"):
        read(tmp_path / "some.parquet")


@pytest.fixture
def hub(monkeypatch, table):
    """The table as a data set on the Hub: what was asked of that, and what it answers."""
    import datasets
    import huggingface_hub

    asked, answers = [], {"sha": "abc", "rows": table[0].to_iterable_dataset(num_shards=2)}

    def load(name, split=None, revision=None, streaming=False):
        asked.append((name, split, revision, streaming))
        rows = answers["rows"]
        if split not in (None, "train", "test"):
            raise ValueError(f"Bad split: {split}. Available splits: ['train', 'test']")
        return rows if split else datasets.IterableDatasetDict(train=rows, test=rows)

    def about(self, name, timeout):
        if answers["sha"] is None:
            raise ConnectionError("no network")
        return huggingface_hub.hf_api.DatasetInfo(id=name, sha=answers["sha"], tags=[])

    def build(name, revision=None):
        answers["built"] = answers.get("built", 0) + 1
        raise ConnectionError("which files there are nobody tells")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # another test may have imported it offline
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "load_dataset_builder", build)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", about)
    return asked, answers


def test_the_hub_is_streamed_once_into_the_cache(hub, table, cache):
    asked, answers = hub
    for answers["sha"] in ("abc", "abc", None, "def", "def", None):  # None: no network
        some = read("someone/pictures", split="test")
        check_table(some, table[1])
        assert isinstance(some.values, np.memmap)
    assert asked == [("someone/pictures", "test", sha, True) for sha in ("abc", "def")]
    assert answers["built"] == 2
    assert len(read("someone/pictures", split="all")) == 12
    assert asked[2:] == [("someone/pictures", None, None, True)]
    with pytest.raises(NoSplit, match=r"has no split 'val' \(Bad split: val. Available splits: \['train', 'test'\]\)"):
        read("someone/pictures", split="val")


def test_the_hub_that_breaks_off(hub, table, cache):
    import datasets

    def rows():
        yield table[0][0]
        raise ConnectionError("reset by peer")

    hub[1]["rows"] = datasets.IterableDataset.from_generator(rows, features=table[0].features)
    with pytest.raises(ValueError, match=r"^cannot read a/b: .*reset by peer"):
        read("a/b")
    assert not list(cache.rglob("*.*"))


def test_tables_beyond_the_limit_are_kept_unless_they_name_files_that_may_change(tmp_path, table, cache, monkeypatch):
    import datasets

    rows, pixels = table
    for name, some in {"train-0": range(3), "train-1": range(3, 6)}.items():
        to_parquet(rows.select(some).flatten_indices(), tmp_path / "shards" / f"{name}.parquet")
    check_table(read(tmp_path / "shards", memory_limit=0), pixels)
    monkeypatch.setattr(datasets, "load_dataset", None)
    check_table(read(tmp_path / "shards"), pixels)
    monkeypatch.undo()
    monkeypatch.setenv("LEAPSTEP_CACHE", str(cache))
    for i in range(2):
        save(tmp_path / f"{i}.png", grey(i))
    images = [{"bytes": None, "path": f"{i}.png"} for i in range(2)]
    features = datasets.Features({"image": datasets.Image()})
    to_parquet(datasets.Dataset.from_dict({"image": images}, features=features), tmp_path / "names.parquet")
    assert read(tmp_path / "names.parquet", memory_limit=0).values[:, 0, 0, 0].tolist() == [0, 1]
    save(tmp_path / "0.png", grey(7))
    assert read(tmp_path / "names.parquet").values[:, 0, 0, 0].tolist() == [7, 1]


def test_the_hub_out_of_reach(monkeypatch):
    import datasets

    def fail(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(ValueError, match=r"no file or folder a/b, and .*\(Couldn't reach the Hub\): check the name"):
        read("a/b")


def test_tables_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "some.parquet").write_bytes(b"")
    for source, said in (
        (tmp_path, "^"),
        (tmp_path / "some.parquet", "^"),
        ("a/b", "^there is no file or folder a/b, and "),
    ):
        with pytest.raises(ValueError, match=said + r"parquet.* need an extra: pip install 'leapstep\[datasets\]'"):
            read(source)


@pytest.mark.skipif("LEAPSTEP_DATA" not in os.environ, reason="LEAPSTEP_DATA names no folder with real data")
@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_real_data(name, shape):
    some = read(Path(os.environ["LEAPSTEP_DATA"]) / name, split="test")
    assert (len(some), some.shape, some.values.dtype, some.skipped) == (10000, shape, np.uint8, ())
    assert np.bincount(some.labels).min() > 800
    assert len(some.classes) == 10
