"""Pictures that are decoded when they are asked for: the same as when all are decoded before, and no more of them."""

import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from image_files import colours, grey, save
from leapstep.data import holdout, on_demand, read, tables, values
from leapstep.data.values import Blocks, Selection
from leapstep.evaluation.features.space import fingerprint

N = 23


@pytest.fixture(scope="module")
def pixels():
    return colours(N)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, pixels):
    """The same pictures in each kind of source."""
    datasets = pytest.importorskip("datasets")
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("sources")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {"image": [Image.fromarray(p) for p in pixels], "label": [i // 12 for i in range(N)]}
    table = datasets.Dataset.from_dict(columns, features=features)
    (folder / "parquet").mkdir()
    for name, rows in (("a", range(14)), ("b", range(14, N))):
        part = table.data.table.slice(rows.start, len(rows))
        pyarrow.parquet.write_table(part, folder / "parquet" / f"{name}.parquet", row_group_size=4)
    table.save_to_disk(folder / "arrow")
    for i, picture in enumerate(pixels):
        save(folder / "files" / ("cat", "dog")[i // 12] / f"{i:02}.png", picture)
    return folder


KINDS = ("parquet", "arrow", "files")


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_all_that_were_decoded_before(sources, pixels, kind):
    whole, data = read(sources / kind), read(sources / kind, on_demand=True)
    assert isinstance(whole.values, np.ndarray)
    assert isinstance(data.values, on_demand.OnDemand)
    for name in ("shape", "classes", "scaling", "is_pictures", "source"):
        assert getattr(data, name) == getattr(whole, name)
    for name in ("shape", "dtype", "ndim", "size", "itemsize", "nbytes"):
        assert getattr(data.values, name) == getattr(whole.values, name)
    np.testing.assert_array_equal(data.labels, whole.labels)
    for index in (5, -1, slice(None), slice(3, 20, 4), [7, 3, 3, 22, 0], np.arange(N) % 3 == 0, np.array([1, 2])):
        np.testing.assert_array_equal(data.values[index], whole.values[index], strict=True)
    for index in ((3, 0), (slice(4), 1, slice(2)), ([2, 1], slice(None), 0)):
        np.testing.assert_array_equal(data.values[index], whole.values[index], strict=True)
    assert (data.batch([4, 2]) == whole.batch([4, 2])).all()
    chosen = np.array([9, 2, 21, 14])
    part = data.subset(chosen)
    np.testing.assert_array_equal(part.values, whole.values[chosen])
    np.testing.assert_array_equal(part.subset(np.array([3, 0])).values, whole.values[[14, 9]])
    np.testing.assert_array_equal(part.labels, whole.labels[chosen])
    assert len(set(data.names.tolist())) == N
    np.testing.assert_array_equal(part.names, data.names[chosen])
    smaller = {"size": 2, "channels": 1}
    np.testing.assert_array_equal(
        read(sources / kind, on_demand=True, **smaller).values[:], read(sources / kind, **smaller).values
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_decoded_than_is_asked_for(sources, kind, monkeypatch):
    decoded = []
    decode = on_demand.decode

    def counting(size, channels, item):
        decoded.append(item.name)
        return decode(size, channels, item)

    monkeypatch.setattr(on_demand, "decode", counting)
    monkeypatch.setattr(on_demand, "LOOKED_AT", 2)
    data = read(sources / kind, on_demand=True)
    assert len(decoded) == 2
    holdout.rows(data, holdout.choose(data, "3"))
    part = data.subset(np.arange(9))
    assert len(decoded) == 2
    part.batch([4, 8, 4])
    assert len(decoded) == 4


def test_large_sets_are_decoded_on_demand_and_it_depends_on_them_alone(sources, monkeypatch):
    size = N * 3 * 4 * 4
    for limit, expected in ((size, False), (size - 1, True)):
        monkeypatch.setattr(on_demand, "LARGE", limit)
        for kind in KINDS:
            for memory_limit in (None, 0):
                data = read(sources / kind, memory_limit=memory_limit)
                assert isinstance(data.values, on_demand.OnDemand) == expected
        assert isinstance(read(sources / "files", size=5).values, on_demand.OnDemand)
        assert not isinstance(read(sources / "files", size=2).values, on_demand.OnDemand)
        assert not isinstance(read(sources / "files", channels=1).values, on_demand.OnDemand)
        assert not isinstance(read(sources / "files", on_demand=False).values, on_demand.OnDemand)


def test_row_groups_are_read_once_in_a_window_and_by_any_number_of_threads(sources, pixels, monkeypatch):
    read_groups, opened = [], tables.Tables._read

    def counting(self, group):
        read_groups.append((group.file, group.number))
        return opened(self, group)

    monkeypatch.setattr(tables.Tables, "_read", counting)
    data = read(sources / "parquet", on_demand=True)
    assert data.values.blocks.starts.tolist() == [0, 4, 8, 12, 14, 18, 22, 23]
    errors = []

    def work(seed):
        try:
            for rows in np.random.default_rng(seed).integers(0, N, (20, 5)):
                np.testing.assert_array_equal(data.values[rows], pixels.transpose(0, 3, 1, 2)[rows])
        except AssertionError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(read_groups) == len(set(read_groups)) == 7
    data.values.encoded._columns.count = 2
    for row in (0, 5, 1, 6, 9, 0):  # the third pushes out the first, which is read again
        data.values[row]
    assert len(data.values.encoded._columns) == 2
    assert len(read_groups) - 7 in (1, 2, 3, 4)


def test_a_window_holds_few_bytes_and_at_least_some_row_groups(sources, monkeypatch):
    def window():
        return read(sources / "parquet", on_demand=True).values.blocks.window

    whole = sum(group.nbytes for group in read(sources / "parquet", on_demand=True).values.encoded.groups)
    monkeypatch.setattr(values, "WINDOW", whole)
    assert window() == 7
    monkeypatch.setattr(values, "WINDOW", 6 * whole // 7 + 1)
    assert window() == 6
    monkeypatch.setattr(values, "WINDOW", 1)
    assert window() == values.FEWEST
    monkeypatch.setattr(tables, "LARGEST", 1)
    with pytest.raises(ValueError, match=r"has a row group of .* GiB, which is read as a whole: write the table with"):
        read(sources / "parquet", on_demand=True)
    assert len(read(sources / "parquet")) == N  # and is decoded before


def test_an_empty_table_is_refused_in_one_line(tmp_path, sources):
    from pyarrow import parquet

    table = parquet.read_table(sources / "parquet" / "a.parquet")
    parquet.write_table(table.slice(0, 0), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet has no rows: name tables of pictures"):
        read(tmp_path / "x.parquet", on_demand=True)


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save(tmp_path / "p" / "ab"[i % 2] / f"{i}.png", grey(10 * i))
    return tmp_path / "p"


def test_instead_of_a_broken_picture_the_next_of_its_class_is_taken(folder, capsys):
    (folder / "a" / "2.png").write_bytes(b"broken")  # row 1 of a: 0, 2, 4
    data = read(folder, on_demand=True)
    for _ in range(2):
        assert data.values[:, 0, 0, 0].tolist() == [0, 40, 40, 10, 30, 50]
    line = f"{folder / 'a' / '2.png'}: not an image of a known format; the next one of its class is taken for it\n"
    assert capsys.readouterr().err == line
    with pytest.raises(ValueError, match=r"2.png: not an image of a known format; repair or remove it"):
        read(folder, on_demand=True, strict=True).values[:]
    for name in "04":
        (folder / "a" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="nor can any of the 100 after it be read"):
        read(folder, on_demand=True).values[0]
    for name in "135":
        (folder / "b" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"no image of .* can be read, of 32 that were looked at"):
        read(folder, on_demand=True)


def test_what_was_not_looked_at_must_be_like_what_was(folder, monkeypatch):
    monkeypatch.setattr(on_demand, "LOOKED_AT", 1)
    save(folder / "a" / "4.png", colours(1)[0])
    save(folder / "b" / "1.png", grey(1, 5))
    data = read(folder, on_demand=True)
    assert data.shape == (1, 4, 4)
    with pytest.raises(
        ValueError, match=r"4.png is in colour, and those of .* that were looked at first are grey: pass"
    ):
        data.values[2]
    with pytest.raises(ValueError, match=r"differ in size: the first of .* has 4x4 pixels and .*1.png has 5x5; pass a"):
        data.values[3]
    assert read(folder, on_demand=True, channels=1, size=4).values[:].shape == (6, 1, 4, 4)


def test_held_out_samples_are_known_by_their_names(sources, monkeypatch):
    source = str(sources / "parquet")
    data = read(source, on_demand=True)
    chosen = holdout.choose(data, "25%")
    assert chosen.by == "names"
    kept, left = holdout.rows(data, chosen)
    assert sorted([*kept, *left]) == list(range(N))
    details = {"data": {"source": source, "holdout": chosen.model_dump(exclude_defaults=True)}}
    assert holdout.on_demand(details) is True
    test = holdout.part(details, source, "test", lambda split: read(source, split=split, on_demand=True))
    np.testing.assert_array_equal(test.values, data.values[left])
    assert holdout.relation(details, source, "test", test) == "held-out"
    assert holdout.again(data, chosen) == chosen
    by_values = holdout.choose(read(source), "25%")
    assert by_values.by == "values"
    assert "by" not in by_values.model_dump(exclude_defaults=True)
    np.testing.assert_array_equal(holdout.rows(data, by_values)[0], holdout.rows(read(source), by_values)[0])
    assert holdout.own_test(data) is None


def test_hashes_of_numbers_are_spread_evenly():
    found = on_demand.numbered("some.parquet", np.arange(20_000))
    assert len(set(found.tolist())) == 20_000
    shares = np.bincount((found >> np.uint64(60)).astype(int), minlength=16) / 20_000
    assert abs(shares - 1 / 16).max() < 6 * (1 / 16 / 20_000) ** 0.5
    assert not set(found.tolist()) & set(on_demand.numbered("other.parquet", np.arange(20_000)).tolist())


def test_a_selection_has_the_blocks_of_what_is_left(sources):
    values = read(sources / "parquet", on_demand=True).values
    rows = np.array([1, 2, 5, 12, 13, 22])
    assert Selection(values, rows).blocks.starts.tolist() == [0, 2, 3, 5, 6]
    assert Selection(values, rows[::-1]).blocks is None
    assert Blocks(np.array([0, 4, 8]), 1).of(np.arange(8)).starts.tolist() == [0, 4, 8]


def test_parquet_elsewhere_is_read_in_parts(sources, pixels):
    """Row groups by the ranges of bytes in which they lie, through fsspec, as on the Hub."""
    fsspec = pytest.importorskip("fsspec")
    system, names = fsspec.filesystem("memory"), [f"memory://here/{name}.parquet" for name in "ab"]
    for name in names:
        system.pipe_file(name, (sources / "parquet" / name.rpartition("/")[2]).read_bytes())
    found = tables.Tables(names, "someone/pictures", tables.columns_of(names[0], "someone/pictures"), str)
    here = read(sources / "parquet", on_demand=True).values.encoded
    for name in ("names", "labels", "classes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(here, name))
    rows = [20, 3, 5]
    assert [item.content for item in found.items(rows)] == [item.content for item in here.items(rows)]
    assert found.blocks.starts.tolist() == here.blocks.starts.tolist()


def test_a_value_that_stands_for_all_rows_of_a_group_is_not_unpacked_for_each(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    from pyarrow import parquet

    content = [{"bytes": bytes(2**12), "path": None}] * 5000  # a dictionary of one value
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_dict({"image": content}, features=features).data.table
    parquet.write_table(table, tmp_path / "x.parquet")
    names = [str(tmp_path / "x.parquet")]
    monkeypatch.setattr(tables, "LARGEST", 2**20)
    found = tables.Tables(names, "x", tables.columns_of(names[0], "x"), str)
    assert found.groups[0].nbytes < 2**15
    with pytest.raises(ValueError, match=r"x.parquet: its row group 0 unpacks to more than 0.000976562 GiB$"):
        next(found.items([0]))


@pytest.fixture
def hub(sources, monkeypatch):
    """The parquet as a data set on the Hub that is not streamed."""
    import datasets
    import huggingface_hub

    paths = {"train": [str(sources / "parquet" / "a.parquet")], "test": [str(sources / "parquet" / "b.parquet")]}
    builder = datasets.load_dataset_builder("parquet", data_files=paths)
    about = huggingface_hub.hf_api.DatasetInfo(id="a/b", sha="abc", tags=[])
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: about)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name, revision: builder)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("all of it was streamed"))
    return builder


def test_a_large_data_set_of_the_hub_is_fetched_as_far_as_it_is_decoded(hub, pixels, monkeypatch):
    monkeypatch.setattr(on_demand, "LARGE", 0)
    pictures = pixels.transpose(0, 3, 1, 2)
    for split, rows in (("train", slice(14)), ("test", slice(14, N)), ("all", slice(N))):
        data = read("someone/pictures", split=split)
        assert isinstance(data.values, on_demand.OnDemand)
        np.testing.assert_array_equal(data.values, pictures[rows])
        assert (data.classes, data.labels[0]) == (("cat", "dog"), rows.start is not None)


def test_what_is_not_parquet_on_the_hub_is_not_read_on_demand(hub, monkeypatch):
    monkeypatch.setattr(hub.config, "data_files", {"train": ["hf://datasets/a/b/x.tar"]})
    with pytest.raises(ValueError, match=r"^the split train of a/b on the Hub is not in parquet, whose rows alone"):
        read("a/b", on_demand=True)


def packed(kind, folder, n):
    """Pictures of a folder in a file of this kind."""
    files = [folder / f"{i}.png" for i in range(n)]
    path = folder.with_suffix(kind)
    if kind == ".tar":
        with tarfile.open(path, "w") as tar:
            for file in files:
                tar.add(file, file.name)
    else:
        datasets = pytest.importorskip("datasets")
        from pyarrow import parquet

        named = kind == ".named.parquet"
        content = [{"path": str(file)} if named else {"bytes": file.read_bytes()} for file in files]
        columns, features = {"image": content}, datasets.Features({"image": datasets.Image()})
        parquet.write_table(datasets.Dataset.from_dict(columns, features=features).data.table, path)
    return path


@pytest.mark.parametrize("kind", ["", ".tar", ".parquet", ".named.parquet"])
def test_the_hash_of_a_large_set_is_computed_once(tmp_path, cache, monkeypatch, kind):
    """Commands that measure ask for it several times, and each time all of the set would be decoded."""
    folder, pixels = tmp_path / "data", colours(6, 4)
    for i, picture in enumerate(pixels):
        save(folder / f"{i}.png", picture)
    source = packed(kind, folder, 6) if kind else folder
    again = 6 if kind == ".named.parquet" else 0  # whose files may change, and nobody would know
    expected = fingerprint(read(source, on_demand=False, progress=False))
    decoded, own = [], on_demand.decode
    monkeypatch.setattr(on_demand, "decode", lambda *given: (decoded.append(given), own(*given))[1])
    for times in (6, again, again):
        data = read(source, on_demand=True, progress=False)
        decoded.clear()
        assert fingerprint(data) == expected
        assert len(decoded) == times
    decoded.clear()
    part = data.subset(np.array([1, 4]))
    assert fingerprint(part) != expected
    assert len(decoded) == 2
    for path in cache.glob("*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        decoded.clear()
        assert fingerprint(read(source, on_demand=True, progress=False)) == expected
        assert len(decoded) >= 6
    if kind == "":
        save(folder / "0.png", pixels[1])
        assert fingerprint(read(source, on_demand=True, progress=False)) != expected
