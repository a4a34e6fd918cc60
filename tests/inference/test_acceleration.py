"""Networks of one's own in what is fastest here; the pace is injected, so that no test depends on a clock."""

import pickle

import pytest
import torch
from torch import nn

import leapstep
from leapstep.core.denoiser import estimate
from leapstep.inference import execution, trial

SHAPE = (6, 2, 4, 5)


class Net(nn.Module):
    """A stranger's network with a label for each sample; a call in bfloat16 moves its clock by 1, any other by 2."""

    clock = 0.0

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.labels = nn.Embedding(11, 4)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.3, generator=generator)

    def forward(self, x, timestep, y=None):
        Net.clock += 1 if x.dtype == torch.bfloat16 else 2
        shift = 0 if y is None else self.labels(y)[:, :, None, None]
        return self.last(torch.tanh(self.first(x) + shift))


class Embedded(Net):
    """It embeds the timestep in float32, as most do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 2, bias=False)
        nn.init.constant_(self.embed.weight, 0.1)

    def forward(self, x, timestep, y=None):
        angles = timestep[:, None].float() * torch.tensor([0.01, 1.0])
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        return super().forward(x + embedding[:, :, None, None], timestep, y)


class Fixed(Net):
    """With a weight that is no parameter, and so keeps its dtype."""

    own = torch.eye(5)

    def forward(self, x, timestep, y=None):
        return super().forward(x, timestep, y) @ self.own


class Fine(Net):
    """Its output hangs on the ninth bit of its input, of which bfloat16 has eight."""

    def forward(self, x, timestep, y=None):
        return super().forward((1000 * x).sin(), timestep, y)


@pytest.fixture(autouse=True)
def long(monkeypatch, cache):
    """Every job is long enough for a trial, on a machine with units for bfloat16."""
    monkeypatch.setattr(execution, "LONG", {"cpu": 1.0})
    monkeypatch.setattr(trial, "halves_are_fast", lambda device: True)
    monkeypatch.setattr(trial, "now", lambda device: Net.clock)


def diffusion_of(net, **given):
    return leapstep.from_network(net, leapstep.linear(100), **given)


def accelerated(diffusion, **given):
    said = []
    fast = leapstep.accelerated(diffusion, SHAPE, calls=10, tell=said.append, **given)
    return fast, "\n".join(said)


def layers(diffusion):
    """What a denoiser is made of, from the outside to the network."""
    layer = diffusion.denoise
    while hasattr(layer, "denoise"):
        yield type(layer), {name: value for name, value in vars(layer).items() if name != "denoise"}
        layer = layer.denoise
    yield type(layer), {name: value for name, value in vars(layer).items() if name != "net"}


def off(fast, plain):
    """How far samples are apart, relative to their root mean square."""
    return float((fast - plain).square().mean().sqrt() / plain.square().mean().sqrt())


def test_bfloat16_is_taken_where_it_is_faster_and_near():
    net = Net().eval()
    diffusion = diffusion_of(net, clip=(-1, 1))
    fast, said = accelerated(diffusion)
    assert said.startswith("computing in bfloat16: 2.0 times as fast here as plain float32, the network off by 0.")
    assert "Net[bfloat16](x, index) -> eps" in repr(fast)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert diffusion.denoise.denoise.net is net
    x0 = leapstep.sample(fast, SHAPE, steps=5)
    assert x0.dtype == torch.float32
    assert 0 < off(x0, leapstep.sample(diffusion, SHAPE, steps=5)) < execution.TOLERANCE
    assert torch.equal(leapstep.sample(pickle.loads(pickle.dumps(fast)), SHAPE, steps=5), x0)


def test_values_that_a_network_makes_in_float32_meet_its_layers():
    fast, said = accelerated(diffusion_of(Embedded().eval()))
    assert "computing in bfloat16" in said
    assert fast.denoise.net.network.embed.weight.dtype == torch.bfloat16


GIVEN = {
    "condition": {"y": torch.arange(6)},
    "null": {"y": 10},
    "guidance": 2.0,
    "rescale": 0.5,
    "scaling": (127.5, 127.5),
}


@pytest.mark.parametrize("clip", [(0, 255), leapstep.dynamic_threshold(), lambda x0: x0.clamp(max=torch.ones(SHAPE))])
def test_all_around_the_network_stays(clip):
    """Conditions, guidance, the range of the data and its bounds, which may be one for each of the samples."""
    diffusion = diffusion_of(Net().eval(), clip=clip, origin=3.0, **GIVEN)
    fast, said = accelerated(diffusion)
    assert "bfloat16" in said
    assert list(layers(fast)) == list(layers(diffusion))
    assert fast.origin == diffusion.origin
    x, t = 100 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
    with torch.no_grad():
        plain, found = estimate(diffusion.denoise, x, t), estimate(fast.denoise, x, t)
    assert off(found.x0, plain.x0) < execution.TOLERANCE
    assert off(found.unbounded, plain.unbounded) < execution.TOLERANCE


def test_conditions_of_each_batch():
    net, labels = Net().eval(), torch.arange(6)

    def of(rows):
        return diffusion_of(net, condition={"y": labels[rows.start : rows.stop]}, clip=(-1, 1))

    fast, said = accelerated(of, batch_size=4)
    assert "bfloat16" in said
    plain, found = (leapstep.sample(each, SHAPE, steps=5, batch_size=4) for each in (of, fast))
    assert 0 < off(found, plain) < execution.TOLERANCE


@pytest.mark.parametrize(("kind", "why"), [(Fixed, "not bfloat16"), (Fine, "the network is off by")])
def test_float32_is_kept_where_bfloat16_fails_or_is_off(kind, why):
    diffusion = diffusion_of(kind().eval())
    fast, said = accelerated(diffusion)
    assert said.startswith("computing in float32")
    assert why in said
    assert torch.equal(leapstep.sample(fast, SHAPE, steps=3), leapstep.sample(diffusion, SHAPE, steps=3))


def test_what_was_measured_is_remembered(monkeypatch):
    first = accelerated(diffusion_of(Net().eval()))
    monkeypatch.setattr(trial, "measured", None)
    assert accelerated(diffusion_of(Net().eval()))[1] == first[1]


def test_a_short_job_measures_nothing(monkeypatch):
    monkeypatch.setattr(execution, "LONG", {"cpu": 1e12})
    monkeypatch.setattr(trial, "measured", None)
    diffusion = diffusion_of(Net().eval())
    fast, said = accelerated(diffusion)
    assert "nothing is measured" in said
    assert fast.denoise.net is diffusion.denoise.net


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: diffusion_of(lambda x, timestep: x), "is no nn.Module"),
        (lambda: diffusion_of(nn.Bilinear(1, 1, 1).half()), "Bilinear has parameters in torch.float16: pass a network"),
        (lambda: diffusion_of(type("Bare", (nn.Module,), {"forward": Net.forward})()), "Bare has no floating-point"),
        (lambda: diffusion_of(Net(), dtype=torch.bfloat16), r"dtype=torch\.bfloat16\) has chosen already"),
        (lambda: leapstep.empirical(leapstep.linear(), torch.zeros(3, 2)), "is no network: pass what leapstep.from"),
        (Net, "a network, Net: pass leapstep.from_network"),
    ],
)
def test_what_cannot_be_done_is_refused(make, said):
    with pytest.raises(ValueError, match=said) as refusal:
        accelerated(make())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"calls": 0}, {"shape": (0, 2)}, {"shape": 3}])
def test_numbers_are_checked(given):
    with pytest.raises(ValueError, match=r"at least 1|shape=3"):
        leapstep.accelerated(diffusion_of(Net()), **{"shape": SHAPE, "calls": 10, **given})
