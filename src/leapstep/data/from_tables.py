"""Data sets of tables, here or on the Hub: all of their images decoded before, or on demand."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from leapstep.data import cache
from leapstep.data.cache import Key
from leapstep.data.dataset import Data, NoSplit
from leapstep.data.decoding import Item, Options, from_images, kept
from leapstep.data.on_demand import are_large, decoded_on_demand
from leapstep.data.tables import Tables, columns_of, datasets_library, inside, parquet_on_hub, revision_on_hub
from leapstep.text import reason


def large_tables(names: list[str], source: str, options: Options, features: Any = None) -> Data | None:
    """Images of tables that are decoded on demand; None where they are to be decoded before, or cannot be reached."""
    if options.on_demand is False:
        return None
    try:
        columns = columns_of(names[0], source, features)
        tables = Tables(names, source, columns, functools.partial(inside, source=source), options.progress)
        return decoded_on_demand(tables, source, options)
    except ValueError:
        if options.on_demand:
            raise
        return None  # and what is wrong will be said by whoever reads all of it


def read_hub(source: str, options: Options) -> Data:
    """A data set of the Hub, whose images go to the cache while they arrive: nothing else of it is kept."""
    key = cache.key(source, options.split, options.size, options.channels, revision_on_hub(source))
    data = kept(key, source, options)  # in the state that the Hub has, or in any where it does not answer
    large = options.on_demand
    if data is not None and large is None:
        large = are_large(len(data) + len(data.skipped), data.values.shape[2:], options)
    if data is not None and not large:
        return data
    if found := _large_hub(source, options, key.state):
        return found
    if data is not None:
        return data
    try:
        datasets = datasets_library()
    except ValueError as error:
        raise ValueError(f"there is no file or folder {source}, and {error}") from error
    streaming = not datasets.config.HF_HUB_OFFLINE  # what the library has downloaded earlier it cannot stream
    try:
        if options.split == "all":
            parts = datasets.load_dataset(source, revision=key.state, streaming=streaming)
            rows = datasets.concatenate_datasets(list(parts.values()))
        else:
            rows = datasets.load_dataset(source, split=options.split, revision=key.state, streaming=streaming)
    except Exception as error:  # from the network, the Hub, the disk or the data set's layout
        if re.match("Unknown split|Bad split", str(error)):
            raise NoSplit(
                f"{source} has no split {options.split!r} ({reason(error)}): name one of them, or all"
            ) from error
        raise ValueError(
            f"there is no file or folder {source}, and the Hub gave no such data set ({reason(error)}): check the "
            "name, the split and the network"
        ) from error
    return from_rows(rows, source, options._replace(memory_limit=0) if streaming else options, key)


def _large_hub(source: str, options: Options, revision: str | None) -> Data | None:
    """Images of a large data set on the Hub, of whose parquet files no more is fetched than is decoded; or None."""
    if options.on_demand is False or revision is None:
        return None
    names, features = parquet_on_hub(source, options.split, revision)
    if names:
        return large_tables(names, source, options, features)
    if options.on_demand:
        raise ValueError(
            f"the split {options.split} of {source} on the Hub is not in parquet, whose rows alone can be reached in "
            "any order: read it without on_demand, and its images are kept in the cache as they arrive"
        )
    return None


class _NamesFiles(Exception):
    """A row of a table names a file, whose state is no part of the key."""


def from_rows(rows: Any, source: str, options: Options, key: Key | None, alone: bool = False) -> Data:
    """Images from a table of the `datasets` library; if it is `alone`, the key covers no files that rows may name."""
    datasets = datasets_library()
    features = rows.features or {}
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not images:
        columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        raise ValueError(f"{source} has no column of type datasets.Image; its columns are {columns}")
    rows = rows.select_columns(images[:1] + labels[:1]).cast_column(images[0], datasets.Image(decode=False))
    classes = tuple(features[labels[0]].names) if labels else ()

    def whole() -> Iterator[Any]:
        try:
            yield from rows
        except Exception as error:  # pyarrow raises many kinds for a broken file, the Hub others
            raise ValueError(f"cannot read {source}: {reason(error)}") from error

    def items(alone: bool) -> Iterator[Item]:
        for number, row in enumerate(whole()):
            image, label = row[images[0]] or {}, row[labels[0]] if labels else None
            if label is not None and label >= len(classes):
                raise ValueError(f"{source}, row {number} has the label {label}, but {len(classes)} classes have names")
            content = image.get("bytes")
            if not content and (name := image.get("path")):
                if alone:
                    raise _NamesFiles
                content = inside(name, source)
            yield Item(f"{source}, row {number}", label, content or None)

    try:
        return from_images(items(alone), classes, source, options, key)
    except _NamesFiles:
        return from_images(items(False), classes, source, options)
