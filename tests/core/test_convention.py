"""How a network is called is one object, which can be compared, written down, read again and shipped."""

import dataclasses
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import leapstep
from leapstep import Condition, Convention
from leapstep.core.convention import CLOCKS, NOISE_CLOCKS
from leapstep.networks import MLP

F64 = torch.float64
CONVENTIONS = {
    "DDPM": Convention(leapstep.linear()),
    "EDM": Convention(leapstep.karras(), "F", "log_sigma/4", sigma_data=0.5, clip=(-1, 1)),
    "flow backwards": Convention(leapstep.flow(), "-flow", "fraction", reverse=True, reshape="[b, 1]"),
    "another number of levels": Convention(leapstep.linear()._replace(timesteps=250), "v", fractional=True),
    "levels on a curve": Convention(leapstep.vp(), "score", "index_from_1", timesteps=500),
    "a table": Convention(leapstep.from_betas([0.1, 0.2, 0.3]), "x0"),
    "log-SNRs": Convention(leapstep.from_log_snr({1: 4.5, 10: -3.25}, "flow"), "flow"),
    "zero terminal SNR": Convention(leapstep.rescale_zero_terminal_snr(leapstep.cosine(50)), "v"),
    "pixels": Convention(
        leapstep.cosine(), scaling=(127.5, 127.5), clip=leapstep.dynamic_threshold(0.9), shape=(3, 8, 8)
    ),
    "a mean sample": Convention(leapstep.ve(), "score", scaling=(torch.tensor([0.1, 0.2]), -2), origin=torch.ones(2)),
    "conditions": Convention(
        leapstep.linear(),
        conditions=(Condition("class_labels", ("cat", "dog"), 2), Condition("text", null=torch.zeros(2, 3))),
        learned_variance=True,
        spacing="quad",
    ),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_convention_is_read_as_it_was_written(name, tmp_path):
    convention = CONVENTIONS[name]
    assert Convention.from_json(json.loads(json.dumps(convention.to_json()))) == convention
    convention.save(tmp_path / "convention.json")
    read = Convention.read(tmp_path / "convention.json")
    assert read == convention
    assert hash(read) == hash(convention)
    t = torch.linspace(0, 1, 37, dtype=F64)
    for ours, theirs in zip(read.process[:2], convention.process[:2], strict=True):
        torch.testing.assert_close(ours(t), theirs(t), rtol=0, atol=0)
    assert torch.equal(read.timestep(t), convention.timestep(t))


def test_every_named_schedule_can_be_written():
    for name in leapstep.SCHEDULES:
        convention = Convention(name, timesteps=100 if leapstep.SCHEDULES[name]().timesteps is None else None)
        assert convention.process == leapstep.SCHEDULES[name]()
        assert Convention.from_json(convention.to_json()) == convention


def test_conventions_differ_where_a_field_does():
    whole = Convention(leapstep.linear(), "v", fractional=True)
    others = [{"process": leapstep.linear(999)}, {"predicts": "-v"}, {"fractional": False}, {"clip": (-1, 1)}]
    assert all(dataclasses.replace(whole, **change) != whole for change in others)


WRITTEN = {"convention": 1, "process": {"name": "linear"}, "predicts": "eps", "time": "index"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected"),
        ({}, "lacks"),
        (WRITTEN | {"convention": 2}, "reads up to 1"),
        (WRITTEN | {"process": {"name": "liner"}}, "did you mean linear"),
        (WRITTEN | {"process": {"name": "linear", "beta": 1}}, "parameter beta"),
        (WRITTEN | {"process": {"name": "vp"}}, "counts trained levels"),
        (WRITTEN | {"predicts": "esp"}, "unknown predicts='esp'"),
        (WRITTEN | {"clips": 1}, "no clips"),
    ],
)
def test_files_that_are_no_conventions(value, message, tmp_path):
    path = tmp_path / "convention.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message) as caught:
        Convention.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("convention", "message"),
    [
        (Convention(leapstep.linear(), time=lambda t: t), "time=.* is a function"),
        (Convention(leapstep.linear(), clip=torch.tanh), "clip=.* is a function"),
        (Convention(leapstep.flow()._replace(sigma=lambda t: 2 * t), time="fraction"), "one's own curves"),
    ],
)
def test_functions_cannot_be_written(convention, message):
    with pytest.raises(ValueError, match=message):
        convention.to_json()


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_network_is_never_asked_below_its_first_level(clock):
    convention = Convention(leapstep.linear(), time=clock, fractional=True)
    asked = convention.timestep(torch.tensor([0.0, 0.0005, 0.001], dtype=F64))
    assert torch.equal(asked, asked[2:].expand(3))
    assert (clock in NOISE_CLOCKS) or asked.min() >= 0


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("clock", CLOCKS)
def test_timesteps_tell_the_time(clock, reverse):
    """The inverse of each clock, to the rounding of its timesteps."""
    if reverse and clock in NOISE_CLOCKS:
        pytest.skip("measures noise")
    process = leapstep.flow(1000, shift=3.0) if clock == "1000sigma" else leapstep.karras(1000)
    convention = Convention(process, time=clock, fractional=True, reverse=reverse)
    t = torch.tensor([0.001, 0.02, 0.5, 0.97, 1.0], dtype=F64)
    torch.testing.assert_close(convention.time_of(convention.timestep(t)), t, rtol=1e-12, atol=1e-12)


def test_clocks_without_an_inverse():
    with pytest.raises(ValueError, match="is a function, which has no inverse"):
        Convention(leapstep.flow(), time=lambda t: t).time_of(0.5)
    with pytest.raises(ValueError, match="alpha = 1 alone"):
        Convention(leapstep.linear(), time="sigma").time_of(0.5)


def network():
    torch.manual_seed(0)
    return MLP(shape=(2,), width=8, depth=1, classes=4).eval()


LABELS = Condition("class_labels", ("a", "b", "c"), null=3)
CONDITION = Convention(leapstep.cosine(), "v", clip=(-1, 1), conditions=(LABELS,))


def test_a_convention_is_the_same_as_its_fields():
    x, t = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.4, dtype=F64)
    net, labels = network(), {"class_labels": torch.tensor([0, 1, 2, 0, 1])}
    one = leapstep.from_network(net, CONDITION, condition=labels)
    other = leapstep.from_network(net, leapstep.cosine(), "v", clip=(-1, 1), condition=labels)
    assert torch.equal(one.denoise(x, t), other.denoise(x, t))
    assert torch.equal(
        leapstep.from_network(net, "cosine", "v", clip=(-1, 1), condition=labels).denoise(x, t), one.denoise(x, t)
    )
    with pytest.raises(ValueError, match="fractional beside a Convention"):
        leapstep.from_network(net, CONDITION, fractional=True)


def test_conditions_that_are_declared_are_filled_in():
    """No label is the null label, one label is for all, and guidance takes the null label from the convention."""
    x, t, net = torch.zeros(3, 2), torch.tensor(0.4, dtype=F64), network()
    free = leapstep.from_network(net, CONDITION)
    told = leapstep.from_network(net, CONDITION, condition={"class_labels": torch.tensor([3, 3, 3])})
    assert torch.equal(free.denoise(x, t), told.denoise(x, t))
    guided = leapstep.from_network(net, CONDITION, condition={"class_labels": 1}, guidance=2.0)
    spelled = leapstep.from_network(
        net, leapstep.cosine(), "v", clip=(-1, 1), condition={"class_labels": torch.tensor([1, 1, 1])},
        null={"class_labels": 3}, guidance=2.0,
    )  # fmt: skip
    assert torch.equal(guided.denoise(x, t), spelled.denoise(x, t))
    needy = dataclasses.replace(CONDITION, conditions=(Condition("class_labels", ("a", "b", "c")),))
    with pytest.raises(ValueError, match="wants class_labels"):
        leapstep.from_network(net, needy)


@pytest.mark.parametrize("scaling", [None, (3.0, -2.0)])
def test_a_networks_denoiser_is_shipped_and_shared(scaling):
    """Pickled, in threads and by hand the same samples; its repr is one line."""
    convention = dataclasses.replace(CONDITION, scaling=scaling)
    diffusion = leapstep.from_network(network(), convention, condition={"class_labels": 1}, guidance=1.5)
    shipped = pickle.loads(pickle.dumps(diffusion))
    draw = lambda seed: leapstep.sample(diffusion, (3, 2), 5, seed=seed)  # noqa: E731
    alone = [draw(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(draw, range(8)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(leapstep.sample(shipped, (3, 2), 5, seed=3), alone[3])
    plain = leapstep.from_network(network(), leapstep.linear(), condition={"class_labels": torch.tensor([1])})
    assert repr(plain.denoise) == "MLP(x, index, class_labels) -> eps"


def test_the_networks_own_range():
    """A range is of the user's values; a quantile of sizes is taken where the data lie around 0."""
    pixels = Convention(leapstep.linear(), scaling=(127.5, 127.5), clip=(0, 255))
    assert pixels.inner() == Convention(leapstep.linear(), clip=(-1, 1))
    assert dataclasses.replace(pixels, scaling=(255.0, -255.0)).inner().clip == (0, 1)
    x, t = 300 * torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3, dtype=F64)
    net, threshold = (lambda x, k: 0.1 * x), leapstep.dynamic_threshold(0.8)
    for clip in ((0, 255), threshold):
        wide = dataclasses.replace(pixels, clip=clip)
        inner = leapstep.scaled(leapstep.from_network(net, wide.inner()), 127.5, 127.5)
        torch.testing.assert_close(leapstep.from_network(net, wide).denoise(x, t), inner.denoise(x, t))
    with pytest.raises(ValueError, match="function of x0"):
        dataclasses.replace(pixels, clip=torch.tanh).inner()


@pytest.mark.parametrize(
    "fields",
    [
        {"process": leapstep.linear(np.int64(100))},
        {"process": leapstep.flow(shift=np.float32(3)), "time": "fraction"},
        {"process": leapstep.flow(shift=torch.tensor(3.0)), "time": "fraction"},
        {"process": leapstep.flow(), "timesteps": np.int64(100), "fractional": np.bool_(True)},
    ],
)
def test_scalars_of_numpy_and_torch_are_written_down(fields, tmp_path):
    convention = Convention(**fields)
    convention.save(tmp_path / "convention.json")
    read = Convention.read(tmp_path / "convention.json")
    assert read == convention
    assert hash(read) == hash(convention)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"spacing": "logsnr"}, "unknown spacing='logsnr': did you mean log_snr"),
        ({"sigma_data": 0}, "sigma_data=0.0: a standard deviation is above 0"),
        ({"timesteps": 0}, "timesteps=0: must be an integer"),
        ({"timesteps": 2.5}, "timesteps=2.5: must be an integer"),
        ({"conditions": ("y",)}, r"conditions hold 'y': pass leapstep.Condition\('y'\)"),
        ({"conditions": (Condition("y"), Condition("y", ("a",)))}, "two conditions have the same name"),
    ],
)
def test_what_could_not_be_read_again_makes_no_convention(fields, expected):
    with pytest.raises(ValueError, match=expected):
        Convention(leapstep.flow(), time="fraction", **fields)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("value", [0.5, torch.full((1,), 0.5), torch.full((3,), 0.5)])
def test_conditions_without_a_null_have_a_row_for_each_sample_with_guidance_too(guidance, value):
    rows = []

    def net(x, timestep, label, strength):
        rows.append((len(x), tuple(strength.shape), strength.unique().tolist()))
        return x

    convention = Convention(leapstep.linear(), conditions=(Condition("label", null=0), Condition("strength")))
    condition = {"label": 1, "strength": value}
    diffusion = leapstep.from_network(net, convention, condition=condition, guidance=guidance)
    diffusion.denoise(torch.zeros(3, 2), torch.tensor(0.4, dtype=F64))
    n = 3 if guidance == 1 else 6
    assert rows == [(n, (n,), [0.5])]
