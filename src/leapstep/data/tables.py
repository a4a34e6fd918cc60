"""Pictures in tables, parquet and arrow, that are reached by their rows.

A parquet file is read by row groups, so that these are the `Blocks` of its pictures; those that were read last are kept
for the next ones of the same group. An arrow file is memory-mapped. Files may lie elsewhere: what has a `://` in its
name is opened by fsspec, which reads no more of it than is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from leapstep.data import cache
from leapstep.data.ahead import Recent
from leapstep.data.decoding import Item
from leapstep.data.on_demand import Encoded, numbered, within
from leapstep.data.values import LARGEST, Blocks, Rows, window_of
from leapstep.progress import progress_bar
from leapstep.text import one_line, reason

COMMIT = re.compile("^hf://.*@[0-9a-f]{40}/")
"""What names a file on the Hub whose content never changes."""


class Columns(NamedTuple):
    """The columns of a table that make a data set.

    Attributes:
        picture: the name of the column of pictures.
        label: that of the column of classes, or None.
        classes: their names.
    """

    picture: str
    label: str | None
    classes: tuple[str, ...]


class Group(NamedTuple):
    """Rows of a file that are read together: its number, the group in it, and how many bytes the pictures take."""

    file: int
    number: int
    rows: int
    nbytes: int


class Tables(Encoded):
    """The pictures of some tables; see `leapstep.data.on_demand.Encoded`.

    Arguments:
        names: of the files, all parquet or all arrow.
        source: the name of the data, for messages.
        columns: which columns are read.
        beside: finds the file that a row names, or gives the reason why it is not read.
        progress: show a progress bar where that takes more than a second.

    Raises:
        ValueError: a file that cannot be read, or a row group that is too large for memory.
    """

    def __init__(
        self,
        names: Sequence[str],
        source: str,
        columns: Columns,
        beside: Callable[[str], Path | str],
        progress: bool = True,
    ) -> None:
        self.files, self.source, self.columns, self.beside = list(names), source, columns, beside
        self.groups: list[Group] = []
        self._mapped: dict[int, list[Any]] = {}
        self._names_files = False
        self._lock = threading.Lock()
        hashed, labels = [], []
        with progress_bar(len(names), "looking through tables", " files", show=progress) as bar:
            for file, name in enumerate(names):
                try:
                    found, classes = _looked_through(name, file, columns)
                except Exception as error:  # pyarrow raises many kinds for a broken file
                    raise ValueError(f"cannot read {name}: {reason(error)}") from error
                self.groups += found
                labels.append(classes)
                hashed.append(numbered(within(name, source), np.arange(sum(group.rows for group in found))))
                bar.update()
        self.starts = np.cumsum([0, *(group.rows for group in self.groups)])
        self._names: npt.NDArray[np.uint64] = np.concatenate(hashed)
        self.labels = np.concatenate(labels) if columns.label is not None else None
        self.classes = columns.classes
        self._check()
        mapped = names[0].endswith(".arrow")
        window = window_of([group.nbytes for group in self.groups])
        self.blocks = None if mapped else Blocks(self.starts, window)
        held = len(self.groups) if mapped else 2 * window  # those of two windows: a batch may lie across them
        self._columns = Recent(lambda number: self._read(self.groups[number]), held)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> npt.NDArray[np.uint64]:
        """The hash of each one's file and row, [n]."""
        return self._names

    @property
    def state(self) -> str | None:
        """As of `Encoded`: of the tables, or what the Hub calls them; None once a row was seen that names a file."""
        if self._names_files:
            return None
        if all(COMMIT.search(name) for name in self.files):
            return hashlib.sha256("\0".join(self.files).encode()).hexdigest()
        return cache.state_of(map(Path, self.files))

    def items(self, rows: Iterable[int]) -> Iterator[Item]:
        """As of `Encoded`."""
        numbers = np.fromiter(rows, np.int64)
        groups = np.searchsorted(self.starts, numbers, "right") - 1
        last = -1
        column: Any = ()
        for row, group in zip(numbers.tolist(), groups.tolist(), strict=True):
            if group != last:
                column, last = self._columns.take(group), group
            picture = column[row - int(self.starts[group])].as_py() or {}
            content: Any = picture.get("bytes") or None
            if content is None and (name := picture.get("path")):
                self._names_files = True
                content = self.beside(name)
            yield Item(f"{self.source}, row {row}", None if self.labels is None else int(self.labels[row]), content)

    def _check(self) -> None:
        """Raise ValueError where there are no rows, or labels or row groups are beyond what is read."""
        if not len(self):
            raise ValueError(f"{self.source} has no rows: name tables of pictures")
        if self.labels is not None and len(self.labels) and self.labels.max() >= len(self.classes):
            row = int(self.labels.argmax())
            raise ValueError(
                f"{self.source}, row {row} has the label {self.labels[row]}, but {len(self.classes)} classes have names"
            )
        largest = max(self.groups, key=lambda group: group.nbytes)
        if largest.nbytes > LARGEST and not self.files[0].endswith(".arrow"):
            raise ValueError(
                f"{self.files[largest.file]} has a row group of {largest.nbytes / 2**30:.3g} GiB, which is read as a "
                f"whole: write the table with row groups of at most {LARGEST / 2**30:g} GiB"
            )

    def _batches(self, file: int) -> list[Any]:
        with self._lock:
            if file not in self._mapped:
                self._mapped[file] = _batches(self.files[file])
            return self._mapped[file]

    def _read(self, group: Group) -> Any:
        name = self.files[group.file]
        try:
            if name.endswith(".arrow"):
                return self._batches(group.file)[group.number].column(self.columns.picture)
            with _opened(name) as file:
                return _column(file, group, self.columns.picture)
        except Exception as error:  # pyarrow raises many kinds for a broken file, a network others
            raise ValueError(f"cannot read {name}: {reason(error)}") from error


def _column(file: Any, group: Group, picture: str) -> Any:
    """The column of pictures of a group, in steps: one value may stand for all rows, and the file does not tell."""
    import pyarrow

    batches, nbytes = [], 0
    rows = max(1, min(group.rows, LARGEST // max(1, group.nbytes)))
    for batch in file.iter_batches(rows, row_groups=[group.number], columns=[picture], use_threads=False):
        batches.append(batch.column(0))
        nbytes += batch.nbytes
        if nbytes > LARGEST:
            raise ValueError(f"its row group {group.number} unpacks to more than {LARGEST / 2**30:g} GiB")
    return pyarrow.chunked_array(batches)


def columns_of(name: str, source: str, features: Any = None) -> Columns:
    """The first columns of pictures and of classes of a file.

    Arguments:
        name: of the file.
        source: the name of the data, for messages.
        features: what the `datasets` library knows of its columns; None: what it wrote into the file's schema.

    Raises:
        ValueError: it cannot be read, or has no pictures.
    """
    datasets = datasets_library()
    try:
        features = features or datasets.Features.from_arrow_schema(_schema(name))
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise ValueError(f"cannot read {source}: {reason(error)}") from error
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not images:
        described = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        raise ValueError(f"{source} has no column of type datasets.Image; its columns are {described}")
    return Columns(images[0], labels[0] if labels else None, tuple(features[labels[0]].names) if labels else ())


def _schema(name: str) -> Any:
    if name.endswith(".arrow"):
        return _batches(name)[0].schema
    with _opened(name) as file:
        return file.schema_arrow


def _looked_through(name: str, file: int, columns: Columns) -> tuple[list[Group], Rows]:
    """The groups of a file, and its labels, none of whose pictures is read."""
    import pyarrow

    if name.endswith(".arrow"):
        batches = _batches(name)
        groups = [Group(file, i, batch.num_rows, batch.nbytes) for i, batch in enumerate(batches)]
        tables = [] if columns.label is None else [batch.column(columns.label) for batch in batches]
    else:
        with _opened(name) as opened:
            whole = opened.metadata
            groups = []
            for i in range(whole.num_row_groups):
                group = whole.row_group(i)
                parts = (group.column(j) for j in range(group.num_columns))
                nbytes = sum(
                    part.total_uncompressed_size
                    for part in parts
                    if part.path_in_schema.split(".")[0] == columns.picture
                )
                groups.append(Group(file, i, group.num_rows, nbytes))
            tables = [] if columns.label is None else [opened.read([columns.label], use_threads=False).column(0)]
    labels = [pyarrow.compute.fill_null(table, -1).to_numpy(zero_copy_only=False) for table in tables]
    return groups, np.concatenate([np.zeros(0, np.int64), *labels]).astype(np.int64)


@contextlib.contextmanager
def _opened(name: str) -> Iterator[Any]:
    """A parquet file, here or elsewhere."""
    import pyarrow.parquet

    with contextlib.ExitStack() as stack:
        place: Any = name
        if "://" in name:
            import fsspec

            place = stack.enter_context(fsspec.open(name, "rb"))
        yield stack.enter_context(pyarrow.parquet.ParquetFile(place, memory_map=False))


def _batches(name: str) -> list[Any]:
    """The record batches of an arrow file, memory-mapped: of a stream, as `datasets` writes, or of a file."""
    import pyarrow.ipc

    mapped = pyarrow.memory_map(name)
    try:
        return list(pyarrow.ipc.open_stream(mapped))
    except pyarrow.ArrowInvalid:
        opened = pyarrow.ipc.open_file(mapped)
        return [opened.get_batch(i) for i in range(opened.num_record_batches)]


def inside(name: str, source: str) -> Path | str:
    """Return the file that a row of a table names, if it is in the folder of the table; else the reason why not.

    A table from elsewhere could name any file of this machine, and its content would appear in samples and pages.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    path, folders = Path(source), [HF_HUB_CACHE, datasets_library().config.HF_DATASETS_CACHE]  # for data from the Hub
    if path.exists():
        folders = [path if path.is_dir() else path.parent]
    for folder in folders:
        with contextlib.suppress(ValueError, OSError):  # a name that no file can have
            file = Path(folder, name).resolve()
            if file.is_relative_to(Path(folder).resolve()):
                return file
    return f"names the file {one_line(name, 100)}, which is not in the folder of the data: it is not read"


def revision_on_hub(source: str) -> str | None:
    """The commit of a data set on the Hub, None if the Hub does not answer."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(source, timeout=10).sha
    except Exception:  # from the network, the Hub or its library
        return None


def parquet_on_hub(source: str, split: str, revision: str) -> tuple[list[str], Any]:
    """The parquet files of a split on the Hub, of all splits for "all", and what is known of their columns.

    None of them where there are others, or where the Hub does not tell: whoever reads all of it will say why.
    """
    try:
        builder = datasets_library().load_dataset_builder(source, revision=revision)
        parts = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
        features = builder.info.features
    except Exception:  # from the network, the Hub or its library
        return [], None
    names = [name for part, files in parts.items() if split in ("all", part) for name in files]
    return (names, features) if all(name.endswith(".parquet") for name in names) else ([], None)


def datasets_library() -> Any:
    """The `datasets` library. Raises ValueError where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError("parquet, arrow and the Hub need an extra: pip install 'leapstep[datasets]'") from error
    return datasets
