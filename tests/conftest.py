"""Fixtures that several test files share.

Tests run side by side, so each process keeps to one thread; torch reads this when it is imported.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from commands import done, forget_accelerator, process
from expected_pictures import write_insects
from leapstep.core.scaling import Scaling
from leapstep.networks import MLP, UNet
from random_models import CLASSES, saved
from side_by_side import RAY, Scheduling, group, once

SETTINGS = """
channels: 8,8
attention: [0, 1]
blocks: 1
groups: 4
labels: true
steps: 40
batch_size: 32
learning_rate: 3e-3
warmup: 0
ema_decay: 0
precision: float32
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    for item in items:
        if "cluster" in item.fixturenames and group(item.nodeid) != RAY:
            raise pytest.UsageError(f"{item.nodeid} would start another Ray: put it into a file named {RAY}...")


@pytest.fixture(autouse=True)
def _own_accelerator():
    forget_accelerator()


@pytest.fixture(autouse=True)
def _seeded():
    """Draws without a generator are the same whichever tests run before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """The user's cache of feature spaces is left alone; tests share one, but for those that ask for an empty one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAPSTEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of feature spaces."""
    monkeypatch.setenv("LEAPSTEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def cluster():
    """The address of a small cluster of Ray with two workers, to which this process is connected: one for all tests."""
    pytest.importorskip("ray")
    from leapstep.workers.ray import connected

    with connected("ray", num_cpus=2, object_store_memory=100 * 2**20):
        import ray

        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def settings(place):
    path = place / "settings.yaml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, settings):
    """What a real process said, and the run that it left."""

    def train(folder):
        return process("train", "digits", "--out", folder / "digits", "--config", settings)

    said, folder = once(tmp_path_factory, "trained", train)
    return said, folder / "digits"


@pytest.fixture(scope="session")
def digits_model(trained):
    (code, _, err), run = trained
    assert code == 0, err
    return run


@pytest.fixture(scope="session")
def samples(place, digits_model):
    """Twelve samples with the default settings."""
    done("sample", digits_model, "--out", place / "samples", "--n", 12, "--steps", 5, "--device", "cpu")
    return place / "samples"


@pytest.fixture(scope="session")
def signals(place):
    """An array of points in units of its own, with a structure that a network can learn."""
    path = place / "signals.npy"
    rng = np.random.default_rng(0)
    np.save(path, 100 + 5 * np.sign(rng.normal(size=(1000, 1))) * np.array([[1.0, -1.0]]) + rng.normal(size=(1000, 2)))
    return path


@pytest.fixture(scope="session")
def point_model(tmp_path_factory, signals):
    """An MLP that has learned the array, without labels."""
    settings = "--steps 400 --width 32 --depth 1 --batch-size 256 --learning-rate 5e-3 --warmup 0 --ema-decay 0.95"
    fixed = "--precision float32 --device cpu --schedule cosine --predicts v"

    def train(folder):
        done("train", signals, "--out", folder / "points", *settings.split(), *fixed.split())

    return once(tmp_path_factory, "point-model", train)[1] / "points"


@pytest.fixture
def kept(samples, tmp_path):
    """A copy of earlier samples, which a refused command must leave as they are."""
    return Path(shutil.copytree(samples, tmp_path / "kept"))


@pytest.fixture
def run(digits_model, tmp_path):
    """A copy of the trained model, to break."""
    return Path(shutil.copytree(digits_model, tmp_path / "run"))


@pytest.fixture(scope="session")
def model(place):
    """Pictures of 8x8 in three classes, and the label 3 for any of them; 40 levels."""
    torch.manual_seed(0)
    unet = UNet(in_channels=1, channels=(8, 8), attention=(False, False), blocks=1, groups=4, timesteps=40, classes=4)
    details = {"data": {"classes": CLASSES}, "step": 7}
    return saved(place / "random-model", unet, shape=(1, 8, 8), classes=CLASSES, null_label=3, details=details)


@pytest.fixture(scope="session")
def points(place):
    """Pairs of numbers around 100, without labels."""
    torch.manual_seed(0)
    mlp = MLP(shape=(2,), width=16, depth=1, timesteps=40)
    scaling = Scaling(100.0, 5.0)
    return saved(
        place / "random-points", mlp, shape=(2,), scaling=scaling, details={"data": {"scaling": scaling._asdict()}}
    )


@pytest.fixture(scope="session")
def insects(place):
    """A folder of pictures, 5 for testing and 2 for training of each class."""
    return write_insects(place / "insects", CLASSES, test=5, train=2)


@pytest.fixture(scope="session")
def array(place):
    np.save(place / "points.npy", np.random.default_rng(0).normal(100, 5, (9, 2)))
    return place / "points.npy"
