"""A run folder with all that a page can show, and its page."""

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import leapstep
from expected_pictures import write_insects
from leapstep.data.pictures import grid
from leapstep.evaluation import page as pages
from leapstep.models import checkpoint
from leapstep.models.data import parts_of
from leapstep.networks import UNet
from leapstep.views import report
from pages import CLASSES, HOSTILE, SEED, STEPS, Reader, planned, write_sweep
from random_models import saved


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="session")
def run(place):
    """A run folder: pictures of 8x8 in three classes, 12 levels, a log, samples of the training, a sweep."""
    torch.manual_seed(0)
    unet = UNet(in_channels=1, channels=(8, 8), attention=(False, False), blocks=1, groups=4, timesteps=12, classes=4)
    details = {
        "versions": {"leapstep": "0.0.7"},
        "step": 1500,
        "data": {"source": HOSTILE, "samples": 4321, "scaling": {"shift": 127.5, "scale": 127.5}, "classes": CLASSES},
        "training": {"schedule": "linear", "batch_size": 77, "learning_rate": 0.003, "ema_decay": 0.99},
    }
    given = {"shape": (1, 8, 8), "classes": CLASSES, "null_label": 3, "details": details, "clip": (-1.0, 1.0)}
    path = saved(place / "run", unet, process=leapstep.linear(12), **given)
    with SummaryWriter(str(path / "log")) as writer:
        for step in range(1, 1001):
            for name, value in (("loss", 1 / step), ("gradient_norm", step), ("learning_rate", 0.5)):
                writer.add_scalar(name, value, step)
    (path / "samples").mkdir()
    for step in range(100, 1300, 100):
        grid(np.full((4, 1, 8, 8), step // 10, np.uint8)).save(path / "samples" / f"step-{step:08d}.png")
    write_sweep(path / "sweep", checkpoint.fingerprint(leapstep.load(path).network))
    return path


@pytest.fixture(scope="session")
def insects(place):
    """A folder of pictures, 3 for testing and 5 for training of each class."""
    return write_insects(place / "insects", CLASSES, test=3, train=5)


@pytest.fixture(scope="session")
def small(place):
    """Pictures without labels, in colour, and so few levels that pages are made in no time."""
    torch.manual_seed(0)
    unet = UNet(in_channels=3, channels=(8,), attention=(False,), blocks=1, groups=4, timesteps=6)
    return saved(place / "small", unet, shape=(3, 6, 4), process=leapstep.linear(6))


@pytest.fixture(scope="session")
def model(run):
    return leapstep.load(run)


@pytest.fixture(scope="session")
def splits(model, insects):
    parts = (pages.Split(*parts_of(model, str(insects))(name)) for name in ("train", "test"))
    return pages.Splits(str(insects), *parts)


@pytest.fixture(scope="session")
def page(run, model, splits):
    ticks = []
    plan = planned(n=20, seed=SEED, steps=STEPS, batch_size=18)
    made = pages.gather(model, splits, plan, source=str(run), on_step=lambda: ticks.append(1))
    assert len(ticks) == pages.effort(model, splits, plan)  # the progress bar ends where it should
    return made


@pytest.fixture(scope="session")
def html(page):
    return report.render(page)


@pytest.fixture(scope="session")
def read(html):
    return Reader(html)
