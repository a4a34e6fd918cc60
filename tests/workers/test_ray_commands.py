"""Commands on Ray: what workers make is what one process makes, to the bit."""

import json

import numpy as np
import pytest

import leapstep
from commands import done, tree, values, without_seconds
from leapstep.data import read

pytestmark = pytest.mark.usefixtures("cluster")

OWN = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)

    def forward(self, x, timestep):
        return self.inner(x)


def network():
    torch.manual_seed(0)
    return Net()
"""


def results(path):
    return without_seconds(json.loads(path.read_text()))


def test_samples(model, tmp_path):
    line = ["sample", model, "--n", 11, "--steps", 3, "--batch-size", 2, "--label", 0, 2, "--seed", 5, "--shard", 4]
    for on in ("here", "ray"):
        done(*line, "--format", "webdataset", "--out", tmp_path / on, "--on", on)
    ours, theirs = (json.loads((tmp_path / on / "manifest.json").read_text()) for on in ("ray", "here"))
    assert len(ours["shards"]) == 3
    assert ours["shards"] == theirs["shards"]  # with their hashes


def test_a_network_in_a_users_own_file(tmp_path):
    """Which no worker can import by its name."""
    (tmp_path / "own.py").write_text(OWN)
    leapstep.Convention(leapstep.cosine(), "eps", shape=(3,)).save(tmp_path / "own.json")
    given = ["sample", f"{tmp_path / 'own.py'}:network", "--convention", tmp_path / "own.json", "--n", 5, "--steps", 2]
    given += ["--batch-size", 2]
    done(*given, "--out", tmp_path / "whole")
    done(*given, "--out", tmp_path / "own", "--on", "ray", "--shard", 2, "--workers", 1)
    np.testing.assert_array_equal(read(tmp_path / "own").values, values(tmp_path / "whole"))


@pytest.mark.parametrize(("workers", "merged"), [(1, []), (2, ["--merged"])], ids=["kept", "merged"])
def test_measurements(points, tmp_path, workers, merged):
    np.save(tmp_path / "pairs.npy", np.random.default_rng(0).normal(100, 5, (90, 2)))
    line = ["evaluate", points, tmp_path / "pairs.npy", "--n", 75, "--k", 2, "--resamples", 4, "--batch-size", 10]
    for name, on in (("one", ["here"]), ("ray", ["ray", "--workers", workers])):
        more = ["--steps", 3, "--split", "all", "--shard", 20, *merged, "--out", tmp_path / f"{name}.json"]
        done(*line, *more, "--on", *on)
    assert results(tmp_path / "ray.json") == results(tmp_path / "one.json")


def test_likelihoods(points, array, tmp_path):
    line = ["likelihood", points, array, "--split", "all", "--steps", 3, "--batch-size", 2]
    for name, more in (("one", []), ("ray", ["--on", "ray", "--shard", 2, "--workers", 1])):
        done(*line, "--out", tmp_path / name, *more)
    assert set(tree(tmp_path / "ray")) == {"results.json", "likelihoods.npz"}
    assert results(tmp_path / "ray" / "results.json") == results(tmp_path / "one" / "results.json")
    with np.load(tmp_path / "ray" / "likelihoods.npz") as ours, np.load(tmp_path / "one" / "likelihoods.npz") as theirs:
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], strict=True)
