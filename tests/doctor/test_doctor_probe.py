"""How the doctor finds out how a network is called, and what it says of one that cannot be."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import leapstep
from leapstep.doctor.probe import Probe, probe
from leapstep.doctor.ranges import F64
from leapstep.doctor.samples import _conditions
from strangers import BLOBS

RNG = np.random.default_rng(0)


# --- how a network is called ---------------------------------------------------------------------------------------


class Table(nn.Module):
    """Looks its timestep up; refuses fractions and what is not in the table."""

    def __init__(self, rows, column):
        super().__init__()
        self.table, self.column = nn.Embedding(rows, 4), column

    def forward(self, x, timestep):
        embedding = self.table(timestep[:, 0] if self.column else timestep)
        return x * embedding.sum(1).reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("rows", [10, 77, 1000])
@pytest.mark.parametrize("column", [False, True])
def test_probe_finds_shape_type_and_table(rows, column):
    found = probe(Table(rows, column), torch.randn(10, 5), lambda rows: {}, {})
    assert (found.reshape, found.integers, found.limit) == ("[b, 1]" if column else "[b]", True, rows)
    assert found.steady
    assert found.separate


def test_probe_finds_scalars_and_fractions():
    def scalar(x, timestep):
        assert timestep.ndim == 0
        return x * timestep.float()

    found = probe(scalar, torch.randn(10, 5), lambda rows: {}, {})
    assert (found.reshape, found.integers, found.fractional, found.limit) == ("scalar", False, True, None)
    rounded = probe(lambda x, k: x * k.round()[:, None], torch.randn(10, 5), lambda rows: {}, {})
    assert not rounded.fractional
    noisy = probe(lambda x, k: x + torch.randn_like(x), torch.randn(10, 5), lambda rows: {}, {})
    assert not noisy.steady
    mixed = probe(lambda x, k: x - x.mean(0), torch.randn(10, 5), lambda rows: {}, {})
    assert not mixed.separate


def test_a_network_that_ignores_its_timestep_is_told_so():
    """A wrapper that forgets to pass the timestep on: what is said first, and what is found nevertheless."""
    net, data = BLOBS.network()
    diagnosis = leapstep.diagnose(lambda x, k: net(x, torch.full((len(x),), 40)), data, check=False, budget=math.inf)
    assert str(diagnosis).startswith("The network ignores its timestep: does your wrapper pass it on?")
    assert diagnosis["time"].value == "none: the network ignores its timestep"
    assert diagnosis["schedule"].value.startswith("any with alpha")
    assert diagnosis["range"].value.startswith("standardised")
    assert diagnosis.concerns[0].weight == 3
    assert "does your wrapper pass it on?" in diagnosis.concerns[0].cure
    for used in (lambda x, k: x * k.float()[:, None], lambda x, k: x - 1e-3 * (k > 600)[:, None]):
        assert probe(used, torch.randn(10, 5), lambda rows: {}, {}).timed
    assert probe(lambda x, k: x + torch.randn_like(x), torch.randn(10, 5), lambda rows: {}, {}).timed  # who knows


def test_a_network_that_cannot_be_called_says_why():
    def net(x, timestep):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(ValueError, match=r"cannot be called as net\(x, timestep\).*mat1 and mat2"):
        leapstep.diagnose(net, RNG.random((50, 3)))


def actor(state, action, timestep):
    raise AssertionError("never asked")


@pytest.mark.parametrize(
    ("net", "given", "call"),
    [
        (actor, (), 'net(given["state"], x, timestep)'),
        (actor, ("action",), 'net(x, given["action"], timestep)'),
        (lambda t, x: x, (), "net(timestep, x)"),
        (lambda x, y, t: x, ("y",), 'net(x, given["y"], timestep)'),
        (lambda x, mask=None, t=None: x, (), "net(x, t=timestep)"),
        (lambda x, *, sigma: x, (), "net(x, sigma=timestep)"),
    ],
)
def test_another_order_of_arguments_is_told_with_the_wrapper_that_helps(net, given, call):
    condition = {name: RNG.random((50, 3)) for name in given}
    with pytest.raises(ValueError, match=r"the network.s arguments are .*, and it is called as net") as error:
        leapstep.diagnose(net, RNG.random((50, 3)), condition=condition or None)
    assert str(error.value).endswith(f"wrap it, as in lambda x, timestep, **given: {call}")


@pytest.mark.parametrize(
    "net",
    [
        lambda x, t: x * t[:, None],
        lambda x, time, y=None: x * time[:, None],
        lambda x, noise_labels, t=None: x * noise_labels[:, None],
        lambda x, embedded: x * embedded[:, None],
        lambda *args: args[0] * args[1][:, None],
    ],
)
def test_the_usual_order_is_taken_as_it_is(net):
    assert probe(net, torch.randn(10, 5), lambda rows: {}, {}).reshape == "[b]"


class Convolved(nn.Module):
    """A network of pictures with one channel, whose timesteps come from a table."""

    def __init__(self):
        super().__init__()
        self.table, self.inside, self.out = nn.Embedding(50, 8), nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x, timestep):
        embedding = self.table(timestep)
        return self.out(self.inside(x) + embedding[:, :, None, None])


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (
            Convolved(),
            (8, 8, 1),
            r"to have 1 channels.*test_doctor_probe.py, line \d+.*give it data.transpose\(0, 3, 1, 2\)$",
        ),
        (Convolved(), (8, 8), r"to have 1 channels.*if the network wants a channel as well, give it data\[:, None\]$"),
        (lambda x, k, y: x, (3,), r"argument: 'y'.*condition=\{'y': ...\}.*--label-argument y$"),
        (lambda x: x, (3,), "takes 1 positional argument but 2 were given.*wrap it in a function that takes both$"),
        (lambda x, k: (x, x), (3,), "^the network returned tuple: return a tensor of x's shape"),
        (
            lambda x, k: x[:, :2],
            (3,),
            r"returned shape \(3, 2\) for x of shape \(3, 3\): return a tensor of x's shape$",
        ),
        (lambda x, k: x * torch.nan, (3,), "answers every question with what is not finite"),
        (Convolved, (1, 8, 8), "the class Convolved: give an instance of it"),
    ],
)
def test_refusals_say_what_to_do(net, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        leapstep.diagnose(net, RNG.random((50, *shape)))
    assert "\n" not in str(error.value)


def test_a_network_that_is_finite_only_for_small_times_is_asked_there():
    found = probe(lambda x, t: x * (1 - t).sqrt()[:, None], torch.randn(10, 5), lambda rows: {}, {})
    assert 0 < found.broken < found.calls


@pytest.mark.parametrize("most", [3, 20, 50])
def test_a_largest_batch_is_found(most):
    asked = []

    def net(x, timestep, y):
        assert len(x) <= most, "too many"
        asked.append(len(x))
        return x * y[:, None] + timestep[:, None]

    rows = torch.arange(64)
    found = Probe(net, lambda rows: {"y": rows.float()}, torch.device("cpu"))
    x, k = torch.randn(64, 2), torch.arange(64.0)
    expected = x * rows[:, None] + k[:, None]
    torch.testing.assert_close(found(x, k, rows), expected)
    torch.testing.assert_close(found.direct(x, k, y=rows.float()), expected)
    assert max(asked) > most / 2


def test_what_a_network_raises_later_is_one_line():
    def net(x, timestep):
        if ((timestep > 0) & (timestep < 1)).any():
            raise KeyError("half\nway " + "there " * 500)
        return x

    found = probe(net, torch.randn(10, 5), lambda rows: {}, {})
    with pytest.raises(ValueError, match=r"raised KeyError on x of shape \(2, 5\), timestep 0.3: 'half") as error:
        found(torch.randn(64, 5), torch.full((64,), 0.3, dtype=F64), torch.arange(64))
    assert re.search(r"there \.\.\. \(test_doctor_probe.py, line \d+\)$", str(error.value))
    assert len(str(error.value)) < 450

    def full(x, timestep):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        leapstep.diagnose(full, RNG.random((50, 3)))


def test_a_network_that_raises_in_the_sampling_check_is_one_line(monkeypatch):
    def passages(inside, *args, **options):
        inside.denoise(torch.zeros(64, 64), torch.tensor(0.5))

    monkeypatch.setattr(leapstep.doctor.passages, "passages", passages)
    net, data = BLOBS.network()

    def late(x, timestep):
        if (x == 0).all():
            raise RuntimeError("no zeros")
        return net(x, timestep)

    with pytest.raises(ValueError, match=r"the network raised RuntimeError on x of shape .*: no zeros"):
        leapstep.diagnose(late, data)


def test_conditions_go_where_the_network_is():
    rows, meta = torch.arange(2), torch.device("meta")  # a device that every machine has
    labels = torch.arange(4)
    for condition in ({"y": labels}, {"y": labels.numpy()}, lambda rows: {"y": labels[rows], "scale": 3}):
        given = _conditions(condition, labels, 4, meta)(rows)
        assert given["y"].device == meta
        assert given["y"].shape == (2,)


def test_mistakes_in_a_condition_are_not_the_networks():
    for condition, message in [
        (lambda rows: {"y": 1 / 0}, "the condition raised ZeroDivisionError: division by zero"),
        (lambda rows: rows, "the condition returned Tensor: return a dict of keyword arguments"),
    ]:
        with pytest.raises(ValueError, match=message):
            leapstep.diagnose(lambda x, k, y: x, RNG.random((50, 3)), condition=condition)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (RNG.random((50, 3)), {"n": 19}, "n=19: at least 20 samples are needed"),
        (np.zeros((50, 3)), {}, "all values of the data are the same"),
        (np.full((50, 3), np.nan), {}, "not finite"),
        (RNG.random((5, 3)), {}, "give .n, .d. with n of 20 or more"),
        (RNG.random((50, 3)), {"assume": {"kind": "eps"}}, "kind cannot be assumed: use one of range, predicts"),
        (RNG.random((50, 3)), {"assume": {"predicts": "noise"}}, "assumed predicts='noise': use one of eps"),
        (RNG.random((50, 3)), {"assume": {"range": "standardised per channel"}}, "for these data use one of"),
    ],
)
def test_mistakes_get_one_line(data, options, message):
    with pytest.raises(ValueError, match=message):
        leapstep.diagnose(lambda x, k: x, data, **options)
