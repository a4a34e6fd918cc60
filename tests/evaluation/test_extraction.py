"""Features of real data that workers make: those of one process to the bit, and what was stopped goes on."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from leapstep.evaluation import extraction, features
from leapstep.evaluation.evaluate import evaluate
from leapstep.evaluation.sweep import sweep
from leapstep.evaluation.yardstick import Measure, reference
from leapstep.inference.spec import SamplingSpec
from leapstep.models import checkpoint
from leapstep.models.data import Selection, parts_of
from leapstep.workers import Workers

BLOCK = 256
N = 9 * BLOCK + 50
SPEC = SamplingSpec(n=20, steps=2, batch_size=10)
MAP = """
import torch

def features():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 5)).double()
"""


@pytest.fixture
def model(points):
    return checkpoint.load(points)


@pytest.fixture
def real(tmp_path, model):
    """More pairs of numbers than this process takes alone, the last of their blocks not full."""
    path = tmp_path / "pairs.npy"
    np.save(path, np.random.default_rng(0).normal(100, 5, (N, 2)))
    return reference(parts_of(model, str(path)), model.details, str(path), "all")


@pytest.fixture
def space(tmp_path, real):
    (tmp_path / "own.py").write_text(MAP)
    return features.load(f"{tmp_path / 'own.py'}:features", real.data)


@pytest.fixture
def made(monkeypatch):
    """The rows of which features were made, each time; None: of all, in this process."""
    extracted, rows = features.extracted, []

    def noted(space, data, within=None):
        rows.append(within)
        return extracted(space, data, within)

    monkeypatch.setattr(features, "extracted", noted)
    return rows


@pytest.mark.parametrize("folder", [None, "shards"])
def test_workers_make_what_one_process_does_to_the_bit(cache, tmp_path, model, real, space, made, folder):
    workers = Workers(folder=None if folder is None else tmp_path / folder)
    before = sorted(tmp_path.iterdir())
    found = extraction.extraction(model, workers)(space, real)
    assert torch.equal(found, features.reference(space, real.data, cache=False))
    assert made[-1] is None
    assert len(made) > 3
    assert all(len(rows) % BLOCK == 0 or rows.stop == N for rows in made[:-1])
    made.clear()
    assert torch.equal(features.reference(space, real.data), found)  # from the cache
    assert not made
    assert [path for path in sorted(tmp_path.iterdir()) if path.name[0] != "."] == sorted([*before, cache])


def of_shards(made):
    """Rows without the first block, by which a worker measures how long one takes; shards have two."""
    return [rows for rows in made if rows != range(BLOCK)]


@pytest.mark.parametrize("kept", [1, 3])
def test_what_was_stopped_goes_on(cache, tmp_path, model, real, space, made, monkeypatch, kept):
    expected = features.reference(space, real.data, cache=False)
    made.clear()
    make, noted = extraction.extraction(model, Workers(folder=tmp_path / "shards")), features.extracted

    def stopped(space, data, within=None):
        if len(of_shards(made)) == kept:
            raise KeyboardInterrupt
        return noted(space, data, within)

    with monkeypatch.context() as patch:
        patch.setattr(features, "extracted", stopped)
        with pytest.raises(KeyboardInterrupt):
            make(space, real)
    assert not cache.exists()
    assert [path.name[:16] for path in tmp_path.glob("shards*")] == ["shards-features-"]
    there = of_shards(made)
    made.clear()
    assert torch.equal(make(space, real), expected)
    assert len(there) == kept
    assert sorted([*there, *of_shards(made)], key=lambda rows: rows.start) == [
        range(start, min(N, start + 2 * BLOCK)) for start in range(0, N, 2 * BLOCK)
    ]
    assert not list(tmp_path.glob("shards*"))


def test_shards_that_a_killed_process_left_are_removed_once_the_cache_has_them(
    cache, tmp_path, model, real, space, monkeypatch
):
    make = extraction.extraction(model, Workers(folder=tmp_path / "shards"))
    with monkeypatch.context() as patch:
        patch.setattr(extraction.shutil, "rmtree", lambda path, **options: None)
        expected = make(space, real)
    other = tmp_path / "shards-features-00000000"  # of other features, which may go on
    other.mkdir()
    assert len(list(tmp_path.glob("shards-features-*"))) == 2
    assert torch.equal(make(space, real), expected)
    assert list(tmp_path.glob("shards-features-*")) == [other]


def test_it_travels_to_workers_by_name(tmp_path, model, real, space):
    chosen = Selection(real.data, None, N).named(real.source, real.split)
    work = extraction.Extracting(model, chosen, space)
    pickled = pickle.dumps(work)
    assert len(pickled) < real.data.values.nbytes
    for each, name in ((work, "one"), (pickle.loads(pickled), "other")):
        each.start("cpu", {})(range(BLOCK, 2 * BLOCK), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    np.save(tmp_path / "changed.npy", real.data.values + 1)
    changed = dataclasses.replace(work, chosen=chosen._replace(source=str(tmp_path / "changed.npy")))
    with pytest.raises(ValueError, match="holds other data"):
        changed.start("cpu", {})


def test_few_data_and_processes_of_torchrun_need_no_job(cache, model, real, space, made):
    few = real._replace(data=dataclasses.replace(real.data, values=real.data.values[: 7 * BLOCK]))
    extraction.extraction(model, Workers())(space, few)
    extraction.extraction(model, Workers("torchrun"))(space, real)
    assert made == [None, None]


def test_it_is_said_where_all_pairs_of_many_real_samples_are_compared(cache, tmp_path, model, real, space, monkeypatch):
    said = []
    for many in (N, N - 1):
        monkeypatch.setattr("leapstep.evaluation.evaluate.MANY", many)
        for metrics in (["frechet"], ["kernel", "frechet"]):
            measure = Measure(f"{tmp_path / 'own.py'}:features", resamples=2, metrics=metrics)
            evaluate(model, real.source, SPEC, measure, split="all", tell=said.append)
    assert said == [
        f"{real.source} (all) holds {N:,} samples, all pairs of which are compared for kernel: that takes long, leave "
        "these metrics out or name a smaller part"
    ]


def test_evaluate_and_sweep_let_workers_make_them(cache, tmp_path, model, real, space, made, monkeypatch):
    measure, given = Measure(f"{tmp_path / 'own.py'}:features", k=2, resamples=4, metrics=["frechet"]), {"split": "all"}
    plain = evaluate(model, real.source, SPEC, measure, **given)
    table = sweep(model, real.source, spec=SPEC, measure=measure, methods=["ddim"], etas=[0], steps=[2], **given)
    assert made == [None]
    for name in ("one", "two"):
        monkeypatch.setenv("LEAPSTEP_CACHE", str(tmp_path / name))
        made.clear()
        if name == "one":
            found = evaluate(model, real.source, SPEC, measure, on="here", **given)
            assert found.to_json()["metrics"] == plain.to_json()["metrics"]
        else:
            options = {"methods": ["ddim"], "etas": [0], "steps": [2], "folder": tmp_path / "table", "on": "here"}
            found = sweep(model, real.source, spec=SPEC, measure=measure, **options, **given)
            assert found.cells[0]["metrics"] == table.cells[0]["metrics"]
            assert not list(tmp_path.glob("table-*"))
        assert None not in made
        assert made
