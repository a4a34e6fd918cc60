"""What a notebook shows of the library's values: a few lines with the facts, and no addresses."""

import dataclasses

import numpy as np
import pytest
import torch

import leapstep
from leapstep.core.scaling import PIXELS, Scaling
from leapstep.data.dataset import Data

LABELS = leapstep.Condition("class_labels", [f"class {i}" for i in range(1000)], null=1000)
EVERYTHING = leapstep.Convention(
    "cosine",
    "-v",
    time=torch.sin,
    reshape=lambda timestep: timestep,
    scaling=(torch.zeros(3, 32, 32), 127.5),
    clip=leapstep.dynamic_threshold(),
    origin=torch.zeros(3, 32, 32),
    conditions=(LABELS, leapstep.Condition("text", null=torch.zeros(7, 20))),
    shape=(3, 32, 32),
)
MIXTURE = leapstep.GaussianMixture(torch.zeros(3, 2), torch.ones(3))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(100)])

    def forward(self, x, timestep, **conditions):
        return 0.1 * x


def guided():
    condition = {"class_labels": torch.tensor([3]), "text": torch.zeros(1, 7, 20)}
    return leapstep.from_network(Net(), EVERYTHING, condition=condition, guidance=3.0)


def last_state():
    diffusion = leapstep.from_network(Net(), "linear")
    path = leapstep.times(diffusion.process, 4)
    *_, state = leapstep.trajectory(diffusion, torch.ones(8, 2), path, leapstep.ddpm())
    return state


VALUES = {
    "Gaussian": (
        lambda: leapstep.Gaussian(torch.zeros(3, 8, 8), torch.eye(192)[:4], torch.ones(4), 0.25),
        "Gaussian(mean=float32 [3, 8, 8], basis=float32 [4, 192], variances=float32 [4], rest=0.25)",
    ),
    "schedule": (leapstep.linear, "linear(timesteps=1000, beta_start=0.0001, beta_end=0.02)"),
    "table": (lambda: leapstep.from_betas(torch.full((500,), 0.01)), "from_betas(betas=[500 numbers]"),
    "own curves": (lambda: leapstep.Process(torch.cos, torch.sin, 10), "alpha: 1 to 0.54, sigma: 0 to 0.841"),
    "curves that fail": (lambda: leapstep.Process(torch.cos, torch.linalg.inv), "sigma: linalg_inv"),
    "convention": (lambda: leapstep.Convention("ve"), "predicts='eps', time='index')"),
    "whole convention": (lambda: EVERYTHING, "time=sin"),
    "condition": (lambda: LABELS, "Condition('class_labels', 1000 classes, null=1000)"),
    "scaling": (lambda: Scaling(((0.5,) * 99,), 2.0), "shift=numbers [1, 99], scale=2.0"),
    "diffusion": (lambda: leapstep.from_network(Net(), "linear", clip=(-1, 1)), "Net(x, index) -> eps"),
    "guided diffusion": (guided, "clipped(guided(Net(x, sin, class_labels, text) -> -v, 3)"),
    "origin": (lambda: leapstep.from_network(Net(), "ve", origin=0.5), "origin=0.5"),
    "exact diffusion": (lambda: MIXTURE.diffusion(leapstep.flow()), "flow(timesteps=None, shift=1.0), denoise="),
    "mixture": (lambda: MIXTURE, "means=float32 [3, 2]"),
    "noise": (lambda: leapstep.Noise(7, list(range(10000)), (2,)), "seed=7, rows="),
    "state": (last_state, "x=float32 [8, 2], x0=float32 [8, 2], t=0.25, s=0, step=4, calls=4"),
    "transition": (lambda: leapstep.churned(leapstep.heun(), churn=0.3), "churned(heun(), churn=0.3)"),
    "curve as option": (lambda: leapstep.ddpm("optimal", torch.sin), "ddpm(variance='optimal', spread=sin)"),
    "specification": (lambda: leapstep.SamplingSpec("unipc", steps=10), "SamplingSpec(method='unipc', steps=10)"),
    "long lists": (
        lambda: leapstep.SamplingSpec(times=np.linspace(1, 0, 99), labels=range(1000)),
        "times=numbers [99], labels=numbers [1000]",
    ),
    "data": (
        lambda: Data(np.zeros((9, 1, 8, 8), np.uint8), np.zeros(9, np.int64), tuple("ab" * 500), "digits", PIXELS),
        "values=uint8 [9, 1, 8, 8]",
    ),
    "calibration": (
        lambda: leapstep.Calibration(*torch.ones(3, 1000), variance=2.0),
        "times=float32 [1000], power=float32 [1000]",
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_print_in_a_few_lines(name):
    make, fact = VALUES[name]
    text = repr(make())
    assert fact in text.replace("\n    ", " ")
    assert len(text.splitlines()) <= 5
    assert len(text) <= 400
    assert max(map(len, text.splitlines())) <= 140
    assert " at 0x" not in text
    assert str(make()) == text


def test_a_convention_shows_what_is_not_by_default():
    plain = leapstep.Convention("linear", "v", "fraction")
    words = "Convention(process=linear(timesteps=1000, beta_start=0.0001, beta_end=0.02), predicts='v', time='fraction'"
    assert repr(plain).replace("\n    ", " ") == f"{words})"
    assert repr(dataclasses.replace(plain, clip=(-1, 1))).replace("\n    ", " ") == f"{words}, clip=(-1.0, 1.0))"
