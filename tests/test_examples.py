"""The examples run as they stand and say what they claim."""

import runpy
from pathlib import Path

import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_path(name):
    return runpy.run_path(str(EXAMPLES / name))


def test_own_network():
    """20 steps come as near to the data as 1000, and nearer than a spiral's own size by far."""
    example = run_path("own_network.py")
    distance = example["main"](training_steps=500, n=1000)
    spread = example["spiral"](1000).var(0).sum().item()
    assert distance[20] < 0.15 * spread
    assert distance[20] < 2 * distance[1000] + 0.01


def test_signal_1d():
    """The velocities are the slopes of the positions, in the units of the data, whose moments the samples have."""
    example = run_path("signal_1d.py")
    groups = example["main"](training_steps=250, n=300)
    error = {name: example["slope_error"](x) for name, x in groups.items()}
    assert error["samples"] < 0.05 * error["noise"]
    means, stds = (groups["samples"].mean((0, 2)), groups["samples"].std((0, 2)))
    torch.testing.assert_close(means, torch.tensor([100.0, 0.0]), atol=4, rtol=0)
    torch.testing.assert_close(stds, groups["data"].std((0, 2)), atol=0, rtol=0.2)


def test_volume_3d():
    """Volumes are balls, nearly, with the mass that balls have and its spread."""
    example = run_path("volume_3d.py")
    groups = example["main"](training_steps=200, n=100)
    left = {name: example["residue"](x).mean() for name, x in groups.items()}
    assert left["data"] < 0.02
    assert left["samples"] < 0.5 * left["noise"]
    mass = {name: x.flatten(1).sum(1) for name, x in groups.items()}
    assert abs(mass["samples"].mean() - mass["data"].mean()) < 0.2 * mass["data"].mean()
    assert 0.5 < mass["samples"].std() / mass["data"].std() < 1.5


def test_policy():
    """Each action belongs to the state that it was drawn for, and both ways round are taken as often as by law."""
    example = run_path("policy.py")
    found = example["main"](training_steps=800, n=2000)
    assert found["spread"] < 0.3
    assert found["others"] > 2 * found["spread"]
    wanted = example["share_left"](found["states"])
    for sure in (wanted < 0.3, (wanted > 0.3) & (wanted < 0.7), wanted > 0.7):
        assert abs(found["left"][sure].mean() - wanted[sure].mean()) < 0.1


def test_imputer():
    """What was observed is kept to the bit; what is drawn has the mean and the spread of the conditional law."""
    found = run_path("imputer.py")["main"](training_steps=300, n=30, draws=20)
    drawn, mask = found["drawn"], found["mask"]
    kept = mask[:, None].bool().expand_as(drawn)
    assert (drawn[kept] == found["observed"][:, None].expand_as(drawn)[kept]).all()
    missing = mask == 0
    mean, std = found["mean"][missing], found["std"][missing]
    assert (drawn.mean(1)[missing] - mean).square().mean() < 0.12 * mean.square().mean()
    assert 0.75 < (drawn.var(1)[missing].mean() / std.square().mean()).sqrt() < 1.3


def test_guided_digits():
    """Guidance makes the class more probable and the contrast larger; `rescale` takes contrast back, not the class."""
    found = run_path("guided_digits.py")["main"](training_steps=400, n=200)
    probability, contrast = ({key: value[i] for key, value in found.items()} for i in (0, 1))
    assert probability[0.0, 0.0] < 0.25
    assert probability[1.0, 0.0] > 0.6
    assert probability[2.0, 0.0] > probability[1.0, 0.0] + 0.05
    assert contrast[4.0, 0.0] > contrast[2.0, 0.0] > contrast[1.0, 0.0]
    assert contrast[4.0, 0.7] < 0.7 * contrast[4.0, 0.0]
    assert probability[4.0, 0.7] > probability[2.0, 0.0] - 0.05
