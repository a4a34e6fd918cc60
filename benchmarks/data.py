"""Reading images beside Pillow in a loop and PyTorch's loader, batches from a file beside memory, and peak memory.

    python benchmarks/data.py [--only reading]

Peers decode in every epoch, and leapstep once. The files are in the page cache: no disk is measured.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import memory
import numpy as np
import torch
from PIL import Image

import timing
from leapstep.core.scaling import PIXELS
from leapstep.data import Data, read

KINDS = {
    "256x256 JPEG": ((256, 256), 256, 300, "jpg"),
    "32x32 PNG": ((32, 32), 32, 1500, "png"),
    "3000x2000 JPEG to 64x64": ((3000, 2000), 64, 16, "jpg"),
}
"""(width, height), the size that is read, number and kind of files."""

LIMITED = 4000
"""Images of 256x256 that are read with 32 MiB of them in memory."""

READING = """
import sys
from leapstep.data import read
read(sys.argv[1], memory_limit=int(sys.argv[2]), progress=False)
"""


def write(folder, size, count, suffix):
    """Images between photographs and noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    coarse = rng.integers(0, 256, (max(2, size[1] // 16), max(2, size[0] // 16), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = smooth + rng.integers(-12, 13, smooth.shape)
    for i in range(count):
        Image.fromarray(np.roll(pixels, i, 1).clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.{suffix}")
    return folder


class Decoded(torch.utils.data.Dataset):
    """What a script writes for PyTorch's loader: an image is decoded whenever it is asked for."""

    def __init__(self, folder, size):
        self.paths, self.size = sorted(folder.iterdir()), size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as opened:
            image = opened.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if image.size != (self.size, self.size):
            box = (left, top, left + side, top + side)
            image = image.crop(box).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@contextlib.contextmanager
def one_core():
    """Leave this process one of its cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def reading(bench):
    """Images a second until all of a folder are decoded."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (original, size, count, suffix) in KINDS.items():
            count = bench.least(count, 2)
            files = write(Path(folder, name), original, count, suffix)

            def ours(files=files, size=size):
                read(files, size=size, progress=False)

            def alone(ours=ours):
                with one_core():
                    ours()

            runs = {"leapstep": ours, "leapstep, one core": alone}
            decoded = Decoded(files, size)
            for workers in (0, 2):
                loader = torch.utils.data.DataLoader(decoded, batch_size=32, num_workers=workers)
                peer = f"DataLoader with {workers} workers" if workers else "Pillow in a loop"
                runs[peer] = lambda loader=loader: list(loader)
            taken = bench.rounds(runs, seconds=6.0)
            for peer in list(runs)[1:]:
                yield taken.speed(f"reading {name}", "leapstep", peer, count, "images")


def taking(data, rows):
    """A run that takes batches of some data."""
    return lambda: [data.batch(some) for some in rows]


def batches(bench):
    """Batches of 128 in random order, in model space."""
    rng = np.random.default_rng(0)
    for side, n in ((32, 20_000), (256, 1000)):
        n = bench.least(n, 200)
        in_memory = rng.integers(0, 256, (n, 3, side, side), dtype=np.uint8)
        with tempfile.NamedTemporaryFile() as file:
            in_memory.tofile(file)
            file.flush()
            kinds = {"file": np.memmap(file, np.uint8, "r", shape=in_memory.shape), "memory": in_memory}
            rows = [rng.integers(0, n, 128) for _ in range(16)]
            runs = {name: taking(Data(values, None, (), "", PIXELS), rows) for name, values in kinds.items()}
            what = f"batches of {side}x{side} from a file of the cache"
            yield bench.rounds(runs, seconds=3.0).speed(what, "file", "memory", 128 * len(rows), "images")


@contextlib.contextmanager
def own_cache(folder):
    """Let processes that are started meanwhile keep what they decode in a folder."""
    before = os.environ.get("LEAPSTEP_CACHE")
    os.environ["LEAPSTEP_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("LEAPSTEP_CACHE")
        if before is not None:
            os.environ["LEAPSTEP_CACHE"] = before


def limited(bench):
    """What reading takes, imports included, where few of the images may be in memory."""
    count = bench.least(LIMITED, 4)
    with tempfile.TemporaryDirectory() as folder:
        images = write(Path(folder, "images"), (256, 256), count, "jpg")
        peaks = []
        for limit in (2**25, 2**40):
            with own_cache(Path(folder, str(limit))):
                peaks.append(memory.peak("-c", READING, images, limit))
    yield memory.row(f"memory of reading {count} images of 256x256, 32 MiB in memory", *peaks, "all in memory")


CASES = {"limited": limited, "reading": reading, "batches": batches}  # a process inherits the peak of its parent


if __name__ == "__main__":
    timing.main(CASES, __doc__)
