"""Samples in shards: a file for each range of indices, as npz, parquet, a folder of PNGs or a WebDataset tar.

The bytes of a shard depend on its samples alone: no time, no name of a machine or a person is in them. So its SHA-256
is the same, whoever made it. No more than a batch of a shard is in memory while it is written, of parquet a row group.

- npz: `samples`, `[n, *d]`, and `labels`.
- parquet: `index`, `image` (PNG) or `sample` (lists of fixed size), `label`, in the layout of the `datasets` library.
- png: a file for each picture, named by its index, and `metadata.jsonl` with the indices and the labels, as `datasets`
  knows it, which then takes no other picture of the folder for a sample.
- webdataset: `0000012.png` or `0000012.npy`, `0000012.cls` and `0000012.json` of sample 12, and so on.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from leapstep.data.dataset import Array
from leapstep.data.decoding import Item, decode
from leapstep.data.pictures import png
from leapstep.files import reading
from leapstep.text import reason
from leapstep.workers.job import size_of

if TYPE_CHECKING:
    from leapstep.workers.schema import Listed

MANIFEST = "manifest.json"
"""What a folder of shards is known by: it names their form, and the classes that labels number."""

METADATA = "metadata.jsonl"

GROUP = 2**24
"""Bytes of samples from which on a row group of a parquet file is closed."""


class Batch(NamedTuple):
    """Some samples of a shard.

    Attributes:
        rows: their indices.
        values: `[b, *d]`; pictures are uint8 `[b, 1 or 3, h, w]`.
        labels: `[b]`, the numbers of their classes; None: they have none.
    """

    rows: range
    values: Array
    labels: Sequence[int] | None = None


class Form(NamedTuple):
    """How a shard is stored.

    Attributes:
        suffix: of its name; empty for a folder.
        write: makes the file of a path, of n samples that come in batches, whose labels number these classes.
        items: the samples in a file, one after the other.
    """

    suffix: str
    write: Callable[[Path, int, Iterable[Batch], Sequence[str]], None]
    items: Callable[[Path], Iterator[Item]]


def are_pictures(values: Array) -> bool:
    """Whether samples `[b, *d]` are stored as PNG where a form knows that."""
    return values.dtype == np.uint8 and values.ndim == 4 and values.shape[1] in (1, 3)


def key(index: int) -> str:
    """What a sample is called in folders and tars: names in order of the index, for ten million of them."""
    return f"{index:07d}"


# --- npz -----------------------------------------------------------------------------------------------------------


def _write_npz(path: Path, n: int, batches: Iterable[Batch], classes: Sequence[str]) -> None:
    labels: list[int] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("samples.npy", "w", force_zip64=True) as file:
            for number, batch in enumerate(batches):
                if number == 0:
                    _write_head(file, batch.values, n)
                file.write(np.ascontiguousarray(batch.values).tobytes())
                labels += batch.labels or ()
        if labels:
            with archive.open("labels.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.array(labels), allow_pickle=False)


def _write_head(file: Any, values: Array, n: int) -> None:
    said = {
        "descr": np.lib.format.dtype_to_descr(values.dtype),
        "fortran_order": False,
        "shape": (n, *values.shape[1:]),
    }
    np.lib.format.write_array_header_1_0(file, said)


def _items_of_npz(path: Path) -> Iterator[Item]:
    arrays = reading.read_npz(path)
    labels = arrays.get("labels")
    for i, value in enumerate(arrays["samples"]):
        yield Item(f"{path}, sample {i}", None if labels is None else int(labels[i]), np.asarray(value))


# --- PNG -----------------------------------------------------------------------------------------------------------


def _write_tree(path: Path, n: int, batches: Iterable[Batch], classes: Sequence[str]) -> None:
    path.mkdir()
    lines = []
    for batch in batches:
        if not are_pictures(batch.values):
            raise ValueError(f"samples of shape {list(batch.values.shape[1:])} are no pictures: write them as npz")
        for j, (i, picture) in enumerate(zip(batch.rows, batch.values, strict=True)):
            (path / f"{key(i)}.png").write_bytes(png(picture))
            label = {} if batch.labels is None else {"label": batch.labels[j]}
            lines.append(json.dumps({"file_name": f"{key(i)}.png", "index": i} | label) + "\n")
    (path / METADATA).write_text("".join(lines))


def _items_of_tree(path: Path) -> Iterator[Item]:
    labels: dict[str, int] = {}
    if (path / METADATA).is_file():
        said = (json.loads(line) for line in reading.read_text(path / METADATA).splitlines())
        labels = {str(line["file_name"]): int(line["label"]) for line in said if "label" in line}
    for file in sorted(path.glob("*.png"), key=lambda file: (len(file.name), file.name)):
        yield Item(file, labels.get(file.name), file)


# --- WebDataset ----------------------------------------------------------------------------------------------------


def _write_tar(path: Path, n: int, batches: Iterable[Batch], classes: Sequence[str]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for rows, values, labels in batches:
            pictures = are_pictures(values)
            for j, (i, value) in enumerate(zip(rows, values, strict=True)):
                said: dict[str, Any] = {"index": i}
                _add(tar, f"{key(i)}.{'png' if pictures else 'npy'}", png(value) if pictures else _npy(value))
                if labels is not None:
                    said |= {"label": labels[j], "class": classes[labels[j]]}
                    _add(tar, f"{key(i)}.cls", str(labels[j]).encode())
                _add(tar, f"{key(i)}.json", json.dumps(said, ensure_ascii=False).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # whose owner is nobody, and whose time is 0
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _npy(value: Array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)
    return file.getvalue()


def _items_of_tar(path: Path) -> Iterator[Item]:
    from leapstep.data.tars import members

    with reading.regular(path).open("rb", buffering=0) as file:
        there = members(file.fileno(), os.fstat(file.fileno()).st_size)
        for name, group in itertools.groupby(there, lambda member: member[0].partition(b".")[0]):
            parts = {full.partition(b".")[2]: os.pread(file.fileno(), size, offset) for full, offset, size, _ in group}
            content: Any = parts.get(b"png")
            if content is None:
                content = np.lib.format.read_array(io.BytesIO(parts[b"npy"]), allow_pickle=False)
            label = int(parts[b"cls"]) if b"cls" in parts else None
            yield Item(f"{path}, {os.fsdecode(name)}", label, content)


# --- parquet -------------------------------------------------------------------------------------------------------


def _write_parquet(path: Path, n: int, batches: Iterable[Batch], classes: Sequence[str]) -> None:
    arrow, parquet = _arrow()
    batches = iter(batches)
    first = next(batches)
    pictures, labelled = are_pictures(first.values), first.labels is not None
    name, kind, feature = _column(arrow, first.values[0], pictures)
    features: dict[str, Any] = {"index": _value("int64"), name: feature}
    fields = [("index", arrow.int64()), (name, kind)]
    if labelled:
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
        fields.append(("label", arrow.int64()))
    said = {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)}
    schema = arrow.schema(fields, metadata=said)
    plain = ["index", "label"] if labelled else ["index"]
    with parquet.ParquetWriter(path, schema, use_dictionary=plain[1:], write_statistics=plain) as writer:
        waiting: list[Any] = []
        for batch in itertools.chain([first], batches):
            columns = [arrow.array(batch.rows, arrow.int64()), _values(arrow, batch, kind, pictures)]
            columns += [arrow.array(list(batch.labels or ()), arrow.int64())] if labelled else []
            waiting.append(arrow.record_batch(columns, schema=schema))
            if sum(one.nbytes for one in waiting) >= GROUP:
                writer.write_table(arrow.Table.from_batches(waiting).combine_chunks(), row_group_size=2**30)
                waiting = []
        if waiting:
            writer.write_table(arrow.Table.from_batches(waiting).combine_chunks(), row_group_size=2**30)


def _column(arrow: Any, value: Array, pictures: bool) -> tuple[str, Any, dict[str, Any]]:
    """The name of the column of samples, its type, and the feature of `datasets` that it is."""
    if pictures:
        kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        return "image", kind, {"_type": "Image"}
    kind, feature = arrow.from_numpy_dtype(value.dtype), _value(value.dtype.name)
    for size in reversed(value.shape):
        kind, feature = arrow.list_(kind, size), {"feature": feature, "length": size, "_type": "Sequence"}
    return "sample", kind, feature


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _values(arrow: Any, batch: Batch, kind: Any, pictures: bool) -> Any:
    if pictures:
        rows = zip(batch.rows, batch.values, strict=True)
        return arrow.array([{"bytes": png(picture), "path": f"{key(i)}.png"} for i, picture in rows], kind)
    column = arrow.array(np.ascontiguousarray(batch.values).reshape(-1))
    for size in reversed(batch.values.shape[1:]):
        column = arrow.FixedSizeListArray.from_arrays(column, size)
    return column


def _items_of_parquet(path: Path) -> Iterator[Item]:
    _, parquet = _arrow()
    with parquet.ParquetFile(reading.regular(path)) as file:
        for rows in file.iter_batches(1024):
            indices = rows.column("index").to_pylist()
            labels = rows.column("label").to_pylist() if "label" in rows.schema.names else [None] * len(indices)
            if "image" in rows.schema.names:
                contents: Iterable[Any] = (image["bytes"] for image in rows.column("image").to_pylist())
            else:
                contents = map(np.asarray, _stacked(rows.column("sample")))
            for i, label, content in zip(indices, labels, contents, strict=True):
                yield Item(f"{path}, {key(i)}", label, content)


def _stacked(column: Any) -> Array:
    """Lists of fixed size as an array."""
    shape = [len(column)]
    while hasattr(column.type, "list_size"):
        shape.append(column.type.list_size)
        column = column.flatten()
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("parquet needs an extra: pip install 'leapstep[datasets]'") from error
    return pyarrow, parquet


def check_form(form: str) -> None:
    """Make sure that shards of this form can be written, before a folder is begun with them.

    Raises:
        ValueError: a library is missing.
    """
    if form == "parquet":
        _arrow()


FORMS = {
    "png": Form("", _write_tree, _items_of_tree),
    "npz": Form(".npz", _write_npz, _items_of_npz),
    "parquet": Form(".parquet", _write_parquet, _items_of_parquet),
    "webdataset": Form(".tar", _write_tar, _items_of_tar),
}
"""The forms of a shard, by what the command line calls them."""

ALWAYS = ("parquet", "webdataset")
"""Forms that samples have in shards only."""

# --- folders -------------------------------------------------------------------------------------------------------


class Shards(NamedTuple):
    """The shards in a folder.

    Attributes:
        form: of all of them.
        paths: in order of their indices; some may be missing where a job was stopped.
        classes: the names that labels number.
        folder: where they are.
        said: what the manifest lists.
    """

    form: Form
    paths: list[Path]
    classes: tuple[str, ...]
    folder: Path
    said: list[Any]

    def listed(self) -> list[Listed]:
        """The shards that the manifest lists, in order; none where the job is not finished.

        Raises:
            ValueError: it is broken.
        """
        from leapstep.files.schema import checked
        from leapstep.workers.schema import Listing

        try:
            return checked(Listing, {"shards": self.said}).shards
        except ValueError as error:
            raise ValueError(f"{self.folder / MANIFEST}: {error}") from error

    def checked(self) -> Shards:
        """The same, once it is clear that the shards of a finished job are there, no others, and of the size they had.

        Raises:
            ValueError: one of them is not.
        """
        paths, cure = {path.name: path for path in self.paths}, "go on with what drew it, by --resume"
        listed = self.listed()
        for shard in listed:
            if (path := paths.pop(shard.file, None)) is None:
                raise ValueError(f"{self.folder / shard.file} is missing, which {MANIFEST} lists: {cure}")
            if shard.bytes not in (None, size := size_of(path)):
                raise ValueError(f"{path} has {size} bytes, and was made with {shard.bytes}: {cure}")
        if listed and paths:
            raise ValueError(f"{min(paths.values())} is none of the shards that {MANIFEST} lists: move it away")
        return self

    def items(self) -> Iterator[Item]:
        """All samples, in order of their indices.

        Raises:
            ValueError: a file is broken.
        """
        for path in self.paths:
            try:
                yield from self.form.items(path)
            except Exception as error:  # whatever zipfile, tarfile, pyarrow and numpy raise on a broken file
                if isinstance(error, OSError | ValueError) and str(path) in str(error):
                    raise
                raise ValueError(f"cannot read {path}: {reason(error)}") from error

    def files(self) -> list[Path]:
        """All files of samples."""
        return self.paths if self.form.suffix else [file for path in self.paths for file in sorted(path.iterdir())]

    def first(self, n: int) -> Batch:
        """The first n samples.

        Raises:
            ValueError: one of them cannot be read.
        """
        items = list(itertools.islice(self.items(), n))
        labels = [item.label for item in items if item.label is not None]
        return Batch(range(len(items)), np.stack([_value_of(item) for item in items]), labels or None)


def of_folder(folder: str | Path) -> Shards | None:
    """The shards in a folder that `leapstep sample` has written, or None where it holds something else."""
    folder = Path(folder)
    try:
        manifest = reading.read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("shards"), list):
        return None
    form = FORMS.get(str(manifest.get("format")))
    if form is None:
        return None
    name = re.compile(rf"(\d{{5,7}}){re.escape(form.suffix)}")
    numbers = {path: match for path in folder.iterdir() if (match := name.fullmatch(path.name))}
    classes = manifest.get("classes")
    return Shards(
        form,
        sorted(numbers, key=lambda path: int(numbers[path][1])),
        tuple(map(str, classes)) if isinstance(classes, list) else (),
        folder,
        manifest["shards"],
    )


def _value_of(item: Item) -> Array:
    if isinstance(item.content, np.ndarray):
        return item.content
    decoded = decode(None, None, item)
    if isinstance(decoded, str):
        raise ValueError(f"{item.name}: {decoded}")
    return decoded.pixels
