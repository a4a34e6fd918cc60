"""A set of the size of ImageNet, generated: memory, the way to the first batch, and how long training waits for data.

    python benchmarks/large_data.py [--kinds tar,parquet,files] [--scale 1.0] [--steps 200] [--folder FOLDER]
    python benchmarks/large_data.py --features 256 [--scale 1.0]

1.3 million JPEGs of 64x64 (of a few hundred different ones) of 1,000 classes, in tars of 10,000, in parquet of 1,000
rows a group, or in files, beside a tenth of them. Each is read in a process of its own, twice: the second time with
what the first one kept. Bytes and files are those that the process reads until it has the first batch, and then for a
batch.
Memory is the largest resident set, and its anonymous part (what is mapped from files is not in it). What waits is a
loop whose network is a pause, as on a card, as long as a batch takes one thread: without threads it waits half of the
time. The files take 4.5 GB at most at a time, and are removed.

With `--features K`, of as many pictures of 8x8 K features are made by a random matrix, for the first time and from the
cache, and 64 samples are looked for among them, as `leapstep evaluate` does it to find copies.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

IMAGENET = 1_300_000
DIFFERENT = 300
BATCH = 128
SHARD, GROUP, CLASSES = 10_000, 1_000, 1_000
SIDE = 64

READING = """
import json, os, sys, time
import numpy as np
from leapstep.data import holdout, read
from leapstep.data.ahead import Ahead
from leapstep.training.samples import Samples

folder, steps = sys.argv[1], int(sys.argv[2])
opened = set()
sys.addaudithook(lambda event, what: opened.add(str(what[0])) if event == "open" and folder in str(what[0]) else None)

def counted():
    io = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return int(io["rchar"])

def memory():
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    return [int(status[name].split()[0]) / 2**10 for name in ("VmHWM", "RssAnon")]

before, began, used = counted(), time.perf_counter(), time.process_time()
data = read(folder, on_demand=True, progress=False)
kept, left = holdout.rows(data, holdout.choose(data, "auto"))
samples = Samples(data, kept, data.subset(left), None)
samples.batch(0, 0, 128)
first = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used, "bytes": counted() - before,
         "files": len(opened)}
before, began, most = counted(), time.perf_counter(), 0.0
for step in range(steps):
    samples.batch(0, len(kept) // 2 + step * 128, 128)
    most = max(most, memory()[1])
a_batch = (time.perf_counter() - began) / steps
found = {"n": len(data), "first": first, "a_batch": a_batch, "bytes_a_batch": (counted() - before) / steps,
         "peak": memory()[0], "anonymous": most}
waits = {}
for threads in (0, 1, 2):
    ahead = Ahead(lambda number: samples.batch(0, number * 128, 128), 2 * threads, max(1, threads))
    ahead.take(0)
    waited, whole = 0.0, time.perf_counter()
    for step in range(1, steps // 4):
        began = time.perf_counter()
        ahead.take(step)
        waited += time.perf_counter() - began
        time.sleep(a_batch)
    waits[threads] = waited / (time.perf_counter() - whole)
    ahead.close()
print(json.dumps(found | {"waits": waits}))
"""


SEARCHING = """
import json, sys, time
import torch
from leapstep.data import read
from leapstep.evaluation import features
from leapstep.evaluation.distances import memorisation

path, k = sys.argv[1], int(sys.argv[2])
matrix = torch.randn(64, k, generator=torch.Generator().manual_seed(0))

def extract(values):
    return torch.from_numpy(values.reshape(-1, 64) / 255.0).float() @ matrix


def memory():
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    return {name: int(status[name].split()[0]) / 2**10 for name in ("VmHWM", "RssAnon")}

data = read(path, progress=False)
before, used = memory(), time.process_time()
found = features.reference(features.Features("random", str(k), extract), data)
made = memory()
random = torch.randn(264, k, generator=torch.Generator().manual_seed(1))
ratio = memorisation(random[:64], found, random[64:]).relative.value
cpu = time.process_time() - used
print(json.dumps({"before": before, "made": made, "found": memory(), "cpu": cpu, "ratio": ratio}))
"""


def encoded():
    """Different pictures as JPEG, about 1 kB each."""
    random = np.random.default_rng(0)
    for _ in range(DIFFERENT):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=70)
        yield file.getvalue()


def member(name, content):
    """A file of a tar."""
    head = bytearray(512)
    head[: len(name)] = name.encode()
    head[100:108], head[124:136], head[156:157], head[257:265] = (
        b"0000644\0",
        b"%011o\0" % len(content),
        b"0",
        b"ustar\x0000",
    )
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + bytes(-len(content) % 512)


def write_tar(folder, n, pictures):
    for shard in range(0, n, SHARD):
        with (folder / f"{shard // SHARD:05}.tar").open("wb") as file:
            for i in range(shard, min(n, shard + SHARD)):
                file.write(member(f"{i:07}.jpg", pictures[i * 7919 % DIFFERENT]))
                file.write(member(f"{i:07}.cls", str(i * CLASSES // n).encode()))
            file.write(bytes(1024))


def write_parquet(folder, n, pictures):
    import datasets
    import pyarrow
    from pyarrow import parquet

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(i) for i in range(CLASSES)])}
    )
    schema = features.arrow_schema
    for shard in range(0, n, 10 * SHARD):
        with parquet.ParquetWriter(folder / f"{shard // SHARD:05}.parquet", schema, use_dictionary=False) as writer:
            for group in range(shard, min(n, shard + 10 * SHARD), GROUP):
                rows = range(group, min(n, group + GROUP))
                images = [{"bytes": pictures[i * 7919 % DIFFERENT], "path": None} for i in rows]
                labels = [i * CLASSES // n for i in rows]
                columns = {"image": images, "label": labels}
                writer.write_table(pyarrow.Table.from_pydict(columns, schema=schema), row_group_size=GROUP)


def write_files(folder, n, pictures):
    for i in range(n):
        name = folder / f"{i * CLASSES // n:04}"
        if i == 0 or i * CLASSES // n != (i - 1) * CLASSES // n:
            name.mkdir()
        (name / f"{i:07}.jpg").write_bytes(pictures[i * 7919 % DIFFERENT])


KINDS = {"tar": write_tar, "parquet": write_parquet, "files": write_files}


def search(n, k, folder):
    """Make the features of n pictures, and look for samples among them."""
    root = Path(tempfile.mkdtemp(dir=folder))
    try:
        pixels = np.lib.format.open_memmap(root / "data.npy", "w+", np.uint8, (n, 8, 8))
        for start in range(0, n, 10_000):
            pixels[start : start + 10_000] = np.random.default_rng(start).integers(
                0, 256, pixels[start : start + 10_000].shape, np.uint8
            )
        pixels.flush()
        for when in ("at first", "again   "):
            found = measured(SEARCHING, root / "data.npy", k, root / "cache")
            told = "; ".join(
                f"{name} {found[name]['VmHWM']:,.0f} MiB, {found[name]['RssAnon']:,.0f} anonymous"
                for name in ("before", "made", "found")
            )
            print(f"{n:>10,} x {k} features, {n * k * 4 / 2**20:,.0f} MiB, {when}: {told}", flush=True)
            print(f"{'':10} {found['cpu']:.1f} s of CPU, median ratio {found['ratio']:.6f}", flush=True)
    finally:
        shutil.rmtree(root)


def measured(script, path, number, cache):
    """What a process of its own tells of data."""
    environment = {**os.environ, "LEAPSTEP_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(path), str(number)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return json.loads(result.stdout)


def line(kind, when, found):
    first, waits = found["first"], found["waits"]
    return "; ".join(
        [
            f"{kind:8}{found['n']:>10,}  {when}: first batch {first['seconds']:.1f} s ({first['cpu']:.1f} s of CPU, "
            f"{first['bytes'] / 2**20:,.0f} MiB, {first['files']:,} files)",
            f"a batch {found['bytes_a_batch'] / 2**10:,.0f} KiB, {1e3 * found['a_batch']:.0f} ms",
            f"memory {found['peak']:.0f} MiB, {found['anonymous']:.0f} of it anonymous",
            "waits " + ", ".join(f"{100 * share:.0f} % with {threads}" for threads, share in waits.items()),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", default="tar,parquet")
    parser.add_argument("--scale", type=float, default=1.0, help=f"times {IMAGENET:,} pictures")
    parser.add_argument("--steps", type=int, default=200, help="batches that are read")
    parser.add_argument("--features", type=int, help="how many of each picture are made, in place of all else")
    parser.add_argument("--folder", help="where the files are written, in a folder of their own")
    arguments = parser.parse_args()
    sizes = (round(arguments.scale * IMAGENET / 10), round(arguments.scale * IMAGENET))
    if arguments.features:
        for n in sizes:
            search(n, arguments.features, arguments.folder)
        return
    pictures = list(encoded())
    print(f"{DIFFERENT} pictures of {np.mean([len(picture) for picture in pictures]):.0f} bytes")
    for kind in arguments.kinds.split(","):
        for n in sizes:
            root = Path(tempfile.mkdtemp(dir=arguments.folder))
            try:
                (root / "data").mkdir()
                KINDS[kind](root / "data", n, pictures)
                for when in ("at first", "again   "):
                    print(
                        line(kind, when, measured(READING, root / "data", arguments.steps, root / "cache")), flush=True
                    )
            finally:
                shutil.rmtree(root)


if __name__ == "__main__":
    main()
