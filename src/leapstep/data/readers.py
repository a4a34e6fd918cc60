"""Readers of data sets: folders of images, WebDataset tars, tables, arrays, the Hub.

A source is `digits`, a folder of images, a tar, parquet, arrow, npy or npz file, a folder of tar, parquet or arrow
files, or the name of a data set on the Hugging Face Hub. Images are decoded once, and those of large sets on demand,
see `leapstep.data.on_demand`. A source without splits is the split "train".
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leapstep.data import cache, on_demand, shards
from leapstep.data.archives import Archives, Pictures
from leapstep.data.arrays import as_pixels, standardised
from leapstep.data.cache import Key
from leapstep.data.dataset import Data, NoSplit
from leapstep.data.decoding import Item, Options, decode, from_images, from_pixels, kept
from leapstep.data.from_tables import from_rows, large_tables, read_hub
from leapstep.data.on_demand import Files, decoded_on_demand
from leapstep.data.tables import datasets_library
from leapstep.data.tars import Tars
from leapstep.data.values import LARGEST, Array, Values
from leapstep.files.reading import CLASSES, read_npy, read_npz, regular
from leapstep.text import reason

MOST_SIDE = 8192
"""The largest side that images are resized to, pixels."""

SPLITS = ("train", "test", "validation", "valid", "val")
IMAGE_SUFFIXES = tuple(
    ".avif .bmp .gif .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)


def read(
    source: str | Path,
    *,
    split: str = "train",
    size: int | None = None,
    channels: int | None = None,
    strict: bool = False,
    memory_limit: int | None = None,
    progress: bool = True,
    on_demand: bool | None = None,
) -> Data:
    """Read a data set.

    Images are turned upright (EXIF), converted to 8 bits, blended with white where they are transparent, cropped to
    their central square and resized (bicubic, antialiased). Sub-folders of an image folder are its classes. Image and
    label columns of tables are recognised by their feature types; the first of each counts. Arrays of uint8 shaped
    [n, h, w], [n, 1 or 3, h, w] or [n, h, w, 1 or 3] are images; all others are plain values.

    Arguments:
        source: `digits`; a folder of images, or of tar, parquet or arrow files; a tar (WebDataset), parquet, arrow,
            npy or npz file; or `owner/name` on the Hugging Face Hub.
        split: "train", "test", ... or "all". In a folder it selects the sub-folder (of images) or the files (of tables)
            with that name.
        size: side of the square images, in pixels; None if they all have one size.
        channels: 1 or 3; None is 1 if every image is greyscale, else 3.
        strict: raise on the first image that cannot be read, instead of skipping it.
        memory_limit: bytes of images in memory; None: a quarter of what is free. More are memory-mapped from a file of
            the cache, where the next call finds them; see `leapstep.data.cache`.
        progress: show a progress bar on stderr when it takes more than a second, and a line when images are kept.
        on_demand: decode images when they are asked for; None: where those of a folder, of tars or of tables take more
            than 4 GiB, see `leapstep.data.on_demand`.

    Returns:
        The data set; images that could not be read are named in `skipped`.

    Raises:
        ValueError: one line that says what is wrong with the source or its contents, and what to do.
    """
    if size is not None and not 1 <= size <= MOST_SIDE:
        raise ValueError(f"size {size}: pass the side of the images in pixels, from 1 to {MOST_SIDE}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels {channels}: pass 1 (greyscale) or 3 (RGB)")
    source = str(source)
    data = READERS[_kind(source)](source, Options(split, size, channels, strict, memory_limit, progress, on_demand))
    if len(data) < 2:
        raise ValueError(f"{source} holds {len(data)} sample: at least 2 are needed")
    return data


def read_picture(path: str | Path, size: int | None = None, channels: int | None = None) -> npt.NDArray[np.uint8]:
    """Read one image file as `read` does, uint8 [c, h, w]. Raises ValueError if it cannot be read."""
    result = decode(size, channels, Item(path, None, Path(path)))
    if isinstance(result, str):
        raise ValueError(f"{path}: {result}")
    return result.pixels


def check_source(source: str) -> None:
    """Make sure, before the work, that there is a source, or that its name can be one on the Hub.

    Raises:
        ValueError: there is no such file or folder, or it is of an unknown kind.
    """
    _kind(source)


def is_image(path: str | Path) -> bool:
    """Whether a file is to be read as an image: its name says so, or it is there and no other data by its name."""
    suffix = Path(path).suffix.lower()
    return suffix in IMAGE_SUFFIXES or (suffix not in READERS and Path(path).is_file())


def is_array(source: str) -> bool:
    """Whether a source is a file of arrays. Raises ValueError if there is no such source."""
    return _kind(source) in (".npy", ".npz")


def first_size(source: str) -> tuple[int, int] | None:
    """Return width and height of the first image in a folder, without decoding it; None for other sources."""
    from PIL import Image

    if _kind(source) == "folder":
        for path in sorted(_visible(Path(source))):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                with contextlib.suppress(Exception), Image.open(path) as image:  # a broken file can raise anything
                    return image.size
    return None


def _kind(source: str) -> str:
    """The key of a source in READERS."""
    path = Path(source)
    suffixes = [key for key in READERS if key.startswith(".")]
    if source == "digits":
        return source
    if path.is_dir():
        return "folder"
    if path.suffix.lower() in suffixes and path.is_file():
        return path.suffix.lower()
    if path.exists():
        raise ValueError(f"{source} is a file of an unknown kind: name a folder, or a {', '.join(suffixes)} file")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) and path.suffix.lower() not in suffixes:
        return "hub"
    near = "; did you mean `digits`?" if difflib.get_close_matches(source.lower(), ["digits"]) else ""
    raise ValueError(
        f"there is no {source}: name a folder, a {', '.join(suffixes)} file, owner/name on the Hub, or `digits`{near}"
    )


# --- readers, by the kind of source


def _read_digits(source: str, options: Options) -> Data:
    """1797 scans; every fifth of each class, in the original order, is in the test split."""
    table = _digits()
    labels = table[:, 64].astype(np.int64)
    pixels = np.rint(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rank = np.empty_like(labels)
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    is_test = rank % 5 == 4
    splits = {"train": ~is_test, "test": is_test, "all": np.full(len(labels), True)}
    if options.split not in splits:
        raise NoSplit(f"digits has no split {options.split!r}: pass one of {', '.join(splits)}")
    chosen = splits[options.split]
    classes = tuple(str(label) for label in range(10))
    return from_pixels(pixels[chosen][:, None], labels[chosen], classes, source, options)


def _digits() -> npt.NDArray[np.float64]:
    """The 64 pixels, 0 to 16, and the label of each scan, from the file of scikit-learn.

    It is not imported for this, which would take longer than all else that is done before a training begins.
    """
    package = importlib.util.find_spec("sklearn")
    path = Path(package.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if package else None
    if path is None or not path.is_file():
        raise ValueError("the digits are a file of scikit-learn, which is not there: pip install scikit-learn")
    return np.loadtxt(path, delimiter=",")


def _read_folder(source: str, options: Options) -> Data:
    if (found := shards.of_folder(source)) is not None:
        return _read_shards(source, found.checked(), options)
    paths = sorted(_visible(Path(source)))
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if (Path(source) / "manifest.json").is_file():  # of `leapstep sample`, whose grid is not a sample
        images = [path for path in images if path != Path(source) / "grid.png"]
    tables = [path for path in paths if path.suffix.lower() in (".parquet", ".arrow")]
    if images:
        return _read_images(source, images, options)
    tars = [path for path in paths if path.suffix.lower() == ".tar"]
    if tars:
        return _read_tars(source, _files_of_split(source, tars, options.split), options)
    if tables:
        return _read_tables(source, _files_of_split(source, tables, options.split), paths, options)
    content = f"has other files, such as {paths[0].name}" if paths else "is empty"
    raise ValueError(
        f"no images in {source}, which {content}: name a folder of images ({', '.join(IMAGE_SUFFIXES)}), of tar, "
        "parquet or arrow files"
    )


def _read_shards(source: str, found: shards.Shards, options: Options) -> Data:
    """Samples in shards: pictures are decoded like all images, all else is stacked."""
    _check_whole(source, options.split)
    if data := _large_shards(source, found, options):
        return data
    items = found.items()
    first = next(items, None)
    if first is None:
        raise ValueError(f"{source} has no whole shard yet: go on with leapstep sample --resume")
    items = itertools.chain([first], items)
    if not isinstance(first.content, np.ndarray) or shards.are_pictures(first.content[None]):
        key = _key(source, found.files(), options)
        return kept(key, source, options) or from_images(items, found.classes, source, options, key)
    blocks, labels = [], []
    while block := list(itertools.islice(items, 2**16)):
        blocks.append(np.stack([np.asarray(item.content) for item in block]))
        labels += [item.label for item in block if item.label is not None]
    data = _from_array(np.concatenate(blocks), np.array(labels) if labels else None, source, options)
    return replace(data, classes=found.classes) if labels and found.classes else data


def _large_shards(source: str, found: shards.Shards, options: Options) -> Data | None:
    """Pictures in shards that are decoded on demand; None where they are to be decoded before."""
    if not found.paths or options.on_demand is False:
        return None
    if found.form.suffix == ".tar":
        tars = Tars(found.paths, source, IMAGE_SUFFIXES, options.progress, found.classes)
        return decoded_on_demand(tars, source, options) if len(tars) else None
    if found.form.suffix == ".parquet":
        return large_tables([str(path) for path in found.paths], source, options)
    if found.form.suffix == ".npz":
        return _large_archives(found, source, options)
    items = [(os.path.relpath(str(item.name), source), item.label) for item in found.items()]
    labels = np.array([-1 if label is None else label for _, label in items])
    files = Files([path for path, _ in items], labels, found.classes, Path(source))
    return decoded_on_demand(files, source, options) if items else None


def _large_archives(found: shards.Shards, source: str, options: Options) -> Data | None:
    """Samples in archives that are unpacked one at a time; None where they are to be read before."""
    archives = Archives(found.paths, source, options.progress)
    if archives.largest > LARGEST:
        return None
    if archives.dtype == np.uint8 and archives.ndim in (3, 4):
        pictures = archives.ndim == 4 and archives.shape[1] in (1, 3)
        return decoded_on_demand(Pictures(archives, found.classes), source, options) if pictures else None
    if options.on_demand is None and archives.nbytes <= on_demand.LARGE:
        return None
    data = replace(_from_array(archives, archives.labels, source, options), names=archives.names)
    return replace(data, classes=found.classes) if data.classes and found.classes else data


def _read_images(source: str, paths: list[Path], options: Options) -> Data:
    root = Path(source)
    parts = {path: path.relative_to(root).parts[:-1] for path in paths}
    if all(above and above[0] in SPLITS for above in parts.values()):
        parts = {path: above[1:] for path, above in parts.items() if options.split in ("all", above[0])}
        if not parts:
            raise NoSplit(f"{source} has no split {options.split!r}: pass the name of a sub-folder, or all")
    else:
        _check_whole(source, options.split)
    labelled = all(parts.values())
    classes = sorted({above[0] for above in parts.values()}) if labelled else []
    numbers = {name: number for number, name in enumerate(classes)}
    items = (Item(path, numbers[above[0]] if labelled else None, path) for path, above in parts.items())
    if options.on_demand is not False:
        known = np.fromiter((numbers[above[0]] for above in parts.values()), np.int64) if labelled else None
        files = Files([str(path.relative_to(root)) for path in parts], known, tuple(classes), root)
        if data := decoded_on_demand(files, source, options):
            return data
    key = _key(source, parts, options)
    return kept(key, source, options) or from_images(items, tuple(classes), source, options, key, len(parts))


def _read_tar(source: str, options: Options) -> Data:
    _check_whole(source, options.split)
    return _read_tars(source, [Path(source)], options)


def _read_tars(source: str, paths: list[Path], options: Options) -> Data:
    tars = Tars(paths, source, IMAGE_SUFFIXES, options.progress)
    if not len(tars):
        raise ValueError(f"{source} holds no images ({', '.join(IMAGE_SUFFIXES)}): name tars of pictures")
    if data := decoded_on_demand(tars, source, options):
        return data
    key = _key(source, paths, options)
    items = tars.items(range(len(tars)))
    return kept(key, source, options) or from_images(items, tars.classes, source, options, key, len(tars))


def _read_table(source: str, options: Options) -> Data:
    _check_whole(source, options.split)
    return _read_tables(source, [Path(source)], [Path(source)], options)


def _read_tables(source: str, paths: list[Path], beside: list[Path], options: Options) -> Data:
    """Images of tables, whose rows may name files beside them."""
    suffix = paths[0].suffix.lower()
    names = [str(regular(path)) for path in paths if path.suffix.lower() == suffix]
    if data := large_tables(names, source, options):
        return data
    key = _key(source, beside, options)
    if data := kept(key, source, options):
        return data
    load = datasets_library().load_dataset
    try:
        # streamed, to avoid a second copy on disk
        rows = load(suffix[1:], data_files=names, split="train", streaming=True)
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise ValueError(f"cannot read {source}: {reason(error)}") from error
    return from_rows(rows, source, options, key, alone=beside == [Path(source)])


def _read_arrays(source: str, options: Options) -> Data:
    arrays = {"x": read_npy(source)} if source.lower().endswith(".npy") else read_npz(source)
    labels = next((arrays.pop(name) for name in ("labels", "y") if name in arrays), None)
    known = [name for name in arrays if name in ("x", "data", "images")]
    names = known or list(arrays)
    if len(names) != 1:
        raise ValueError(
            f"{source} holds {', '.join(names) or 'no array'}: name the samples x, data or images, and the labels "
            "labels or y"
        )
    return _from_array(arrays[names[0]], labels, source, options)


def _from_array(values: Values, labels: Array | None, source: str, options: Options) -> Data:
    _check_whole(source, options.split)
    if values.ndim == 0 or values.size == 0 or values.dtype.kind not in "biuf":
        raise ValueError(f"{source} is a {values.dtype} array of shape {list(values.shape)}: pass numbers [n, ...]")
    classes: tuple[str, ...] = ()
    if labels is not None:
        if labels.dtype.kind not in "iu" or labels.shape != values.shape[:1]:
            raise ValueError(
                f"the labels of {source} are {labels.dtype} {list(labels.shape)}: pass integers from 0, "
                f"{list(values.shape[:1])}"
            )
        if not 0 <= labels.min() <= labels.max() < CLASSES:
            raise ValueError(
                f"the labels of {source} go from {labels.min()} to {labels.max()}: number the classes from 0, with at "
                f"most {CLASSES} of them"
            )
        labels = labels.astype(np.int64)
        classes = tuple(str(label) for label in range(labels.max() + 1))
    pixels = as_pixels(values)
    if pixels is not None:
        return from_pixels(pixels, labels, classes, source, options, _key(source, [Path(source)], options))
    if options.size is not None or options.channels is not None:
        raise ValueError(
            f"{source} is a {values.dtype} array of shape {list(values.shape)}, not images (uint8, [n, h, w], "
            "[n, 1 or 3, h, w] or [n, h, w, 1 or 3]): pass neither size nor channels"
        )
    return Data(values, labels, classes, source, standardised(values, source))


# --- what readers share


def _key(source: str, paths: Iterable[Path], options: Options) -> Key | None:
    """The key of images that are read from some files; None if one of these is missing."""
    state = cache.state_of(paths)
    return None if state is None else cache.key(source, options.split, options.size, options.channels, state)


def _visible(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below, except hidden ones; a folder is entered once, also through links."""
    entered = set()
    for above, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(above)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(above, name) for name in names if not name.startswith("."))


def _files_of_split(source: str, paths: list[Path], split: str) -> list[Path]:
    """Select the files whose path in the folder contains the name of the split as a word."""
    names = {path: path.relative_to(source).as_posix() for path in paths}
    words = {path: _words(name) for path, name in names.items()}
    if split == "all":
        return paths
    if all(words[path].isdisjoint(SPLITS) for path in paths):
        _check_whole(source, split)
        return paths
    chosen = [path for path in paths if split in words[path]]
    if not chosen:
        raise NoSplit(f"{source} has no split {split!r} among {', '.join(names.values())}: name one of them, or all")
    return chosen


def _check_whole(source: str, split: str) -> None:
    """Refuse splits other than train for a source without splits, unless its name contains the split as a word."""
    if split not in ("train", "all") and split not in _words(Path(source).name):
        raise NoSplit(f"{source} has no split {split!r}, nor any other: pass train or all, or name another source")


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


READERS: dict[str, Callable[[str, Options], Data]] = {
    "digits": _read_digits,
    "folder": _read_folder,
    ".npy": _read_arrays,
    ".npz": _read_arrays,
    ".tar": _read_tar,
    ".parquet": _read_table,
    ".arrow": _read_table,
    "hub": read_hub,
}
