"""Training on pictures that are decoded on demand: the run that there would be with all of them in memory."""

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from image_files import colours, save
from leapstep.data import holdout, on_demand, read
from leapstep.data.on_demand import OnDemand
from leapstep.models import checkpoint
from leapstep.models.data import shared_parts
from leapstep.training import Trainer, train
from leapstep.training.configuration import configure
from leapstep.training.samples import order, read_samples

N = 40


def settings(**more):
    tiny = {"channels": (8, 8), "attention": (False, True), "blocks": 1, "groups": 4, "batch_size": 12, "warmup": 2}
    tiny |= {"timesteps": 4}
    return configure({**tiny, "holdout": "20%", "steps": 4, "save_every": 2, "sample_every": 4, **more})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    import pyarrow.parquet

    folder, pixels = tmp_path_factory.mktemp("sources"), colours(N, 8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": [Image.fromarray(p) for p in pixels], "label": [i % 2 for i in range(N)]}
    table = datasets.Dataset.from_dict(columns, features=features).data.table
    pyarrow.parquet.write_table(table, folder / "x.parquet", row_group_size=6)
    for i, picture in enumerate(pixels):
        save(folder / "files" / f"{i:02}.png", picture)
    return folder


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(on_demand, "LARGE", 0)


def weights(run):
    return safetensors.torch.load_file(run / "unet" / "diffusion_pytorch_model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_weights_are_those_of_pictures_in_memory(sources, monkeypatch):
    found = []
    for limit, threads in ((2**40, 0), (0, 1)):
        monkeypatch.setattr(on_demand, "LARGE", limit)
        trainer = Trainer(settings(holdout="no"), str(sources / "files"), device="cpu", progress=False)
        assert trainer.batches.threads == threads
        for _ in range(4):  # steps of 12 samples, of which 40 are an epoch
            trainer.advance()
        trainer.close()
        found.append(trainer.network.state_dict())
    assert equal(*found)


def test_a_run_that_is_resumed_within_an_epoch_is_the_same(tmp_path, sources, large):
    """4 steps of 12 samples, of which 32 are an epoch; in row groups, some of them held out."""
    source = str(sources / "x.parquet")
    train(source, tmp_path / "straight", config=settings(labels=True), device="cpu", progress=False)
    train(source, tmp_path / "resumed", config=settings(labels=True, steps=2), device="cpu", progress=False)
    order.cache_clear()
    train(source, tmp_path / "resumed", config=settings(labels=True), resume=True, device="cpu", progress=False)
    assert equal(weights(tmp_path / "straight"), weights(tmp_path / "resumed"))
    assert holdout.Holdout.recorded(checkpoint.load(tmp_path / "resumed").details).by == "names"


@pytest.mark.parametrize("kind", ["x.parquet", "files"])
def test_processes_share_one_stream_that_takes_all_of_an_epoch_once(sources, large, kind):
    config = settings()
    samples = read_samples(config, str(sources / kind), progress=False)
    assert isinstance(samples.data.values, OnDemand)
    assert (samples._blocks is not None) == (kind == "x.parquet")
    n = len(samples.rows)
    assert n + len(samples.test) == N
    for epoch in (0, 3):
        whole, _ = samples.batch(5, epoch * n, n)
        expected = samples.data.batch(samples.rows)
        assert sorted(row.numpy().tobytes() for row in whole) == sorted(row.numpy().tobytes() for row in expected)
        parts = [samples.batch(5, epoch * n + first, 4)[0] for first in (12, 0, 8, 4)]  # of 4 processes, in any order
        assert torch.equal(torch.cat([parts[i] for i in (1, 3, 2, 0)]), whole[:16])
    seen = {row.numpy().tobytes() for row in whole}
    assert not seen & {row.numpy().tobytes() for row in samples.test.batch(range(len(samples.test)))}


def test_threads_end_with_the_run_and_begin_again(sources, large):
    trainer = Trainer(settings(), str(sources / "files"), device="cpu", progress=False)
    first = trainer.batch(0)[0]
    assert trainer.batches._waiting
    trainer.close()
    assert not trainer.batches._waiting
    assert torch.equal(trainer.batch(0)[0], first)
    trainer.close()


def test_a_set_that_is_not_large_any_more_is_read_as_its_run_did(sources, large, monkeypatch):
    """What was held out by name when the set was large cannot be told from values."""
    source = str(sources / "files")
    before = read_samples(settings(), source, progress=False)
    details = {"data": {"source": source, "holdout": before.holdout.model_dump(exclude_defaults=True)}}
    monkeypatch.undo()
    assert not isinstance(read(source).values, OnDemand)
    again = read_samples(settings(), source, resumed=details, progress=False)
    assert again.holdout == before.holdout
    np.testing.assert_array_equal(again.rows, before.rows)
    parts = shared_parts(details, source, size=None, channels=None)
    np.testing.assert_array_equal(parts("test").values, before.test.values)
    np.testing.assert_array_equal(parts("train").values, before.data.values[before.rows])


def test_a_run_may_choose_when_pictures_are_decoded(sources, large, monkeypatch):
    source = str(sources / "files")
    before = read_samples(settings(decode="before"), source, progress=False)
    assert not isinstance(before.data.values, OnDemand)
    for how in ("before", "auto"):  # as the record of a run that is older than the setting
        training = {"holdout": "20%"} | ({} if how == "auto" else {"decode": how})
        record = before.holdout.model_dump(exclude_defaults=True)
        details = {"data": {"source": source, "holdout": record}, "training": training}
        again = read_samples(settings(decode=how), source, resumed=details, progress=False)
        np.testing.assert_array_equal(again.rows, before.rows)
        assert again.data.hashes is not None or not isinstance(again.data.values, OnDemand)
        parts = shared_parts(details, source, size=None, channels=None)
        assert not isinstance(parts("train").values, OnDemand)
    unheld = {"data": {"source": source}, "training": {"decode": "before"}}
    assert holdout.on_demand(unheld) is False
    monkeypatch.undo()
    later = read_samples(settings(decode="on-demand"), source, progress=False)
    assert isinstance(later.data.values, OnDemand)
    assert later.holdout.by == "names"
