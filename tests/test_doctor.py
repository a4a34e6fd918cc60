"""The doctor finds the convention of a network from its answers alone, and says when it cannot."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import leapstep
from leapstep.doctor.conventions import F64, Linear, Route, ranges
from leapstep.doctor.curve import Profile, Recovered, named_levels, recover
from leapstep.doctor.probe import probe
from strangers import COMBINATIONS, Stranger, source, verdict

RNG = np.random.default_rng(0)
UNDECIDED = {
    i
    for i, stranger in enumerate(COMBINATIONS)
    if stranger.data == "digits" and stranger.predicts == "x0"  # D is the nearest digit whatever the timestep says
}
QUICK = [i for i, stranger in enumerate(COMBINATIONS) if stranger.data == "series" and stranger.timesteps == 250]


def name(i):
    stranger = COMBINATIONS[i]
    return f"{i}-{stranger.data}-{stranger.predicts}-{stranger.schedule}-{stranger.time}"


def check(i):
    stranger = COMBINATIONS[i]
    net, data = stranger.network()
    found = verdict(stranger, leapstep.diagnose(net, data, check=False))
    wrong = {finding: word for finding, (right, word) in found.items() if not right}
    assert "sure" not in wrong.values(), f"confidently wrong: {wrong}"
    assert i in UNDECIDED or not wrong, wrong


@pytest.mark.parametrize("i", QUICK, ids=name)
def test_perfect_networks(i):
    check(i)


@pytest.mark.slow
@pytest.mark.parametrize("i", [i for i in range(len(COMBINATIONS)) if i not in QUICK], ids=name)
def test_every_perfect_network(i):
    check(i)


def test_the_bench_is_as_wide_as_it_says():
    assert len(COMBINATIONS) >= 60
    assert len(UNDECIDED) <= 0.05 * len(COMBINATIONS)
    assert {stranger.data for stranger in COMBINATIONS} == {"digits", "vectors", "plane", "series"}
    assert {stranger.predicts for stranger in COMBINATIONS} >= {"eps", "x0", "v", "score", "flow", "-flow", "F"}
    assert {stranger.error for stranger in COMBINATIONS} == {0.05, 0.1, 0.2}


@pytest.mark.parametrize("i", range(0, len(COMBINATIONS), 5), ids=name)
def test_strangers_are_what_from_network_reads(i):
    """The bench's networks are written from the other side: read rightly and without error they are exact."""
    import dataclasses

    stranger = dataclasses.replace(COMBINATIONS[i], error=0.0)
    net, _ = stranger.network()
    shift, scale = stranger.scaling()
    raw, law = source(stranger.data)
    process = stranger.process
    diffusion = leapstep.from_network(
        net,
        process,
        stranger.predicts,
        stranger.time,
        timesteps=stranger.timesteps if process.timesteps is None else None,
        fractional=not stranger.table,
        reverse=stranger.reverse,
        reshape=stranger.reshape,
        sigma_data=stranger.sigma_data,
    )
    x0 = (raw[:4].to(F64) - shift) / scale
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=F64)
    x = process.add_noise(x0, t, torch.randn(x0.shape, dtype=F64, generator=torch.Generator().manual_seed(0)))
    exact = law(lambda y: (y.to(F64) - shift) / scale).diffusion(process).denoise(x, t)
    torch.testing.assert_close(diffusion.denoise(x, t), exact, rtol=1e-3, atol=1e-3 * exact.abs().max().item())


# --- what a diagnosis is good for ----------------------------------------------------------------------------------


BLOBS = Stranger("blobs", "standardised", "v", "cosine", leapstep.cosine(100), "index", 100, table=True)


@pytest.fixture(scope="module")
def diagnosed():
    net, data = BLOBS.network()
    return net, data, leapstep.diagnose(net, data)


def test_the_lines_to_paste_sample_the_data(diagnosed):
    net, data, diagnosis = diagnosed
    scope = {"net": net, "np": np}
    exec(diagnosis.code, scope)
    samples = leapstep.sample(scope["diffusion"], (300, *data.shape[1:]), 20)
    assert scope["x0"].shape == (16, *data.shape[1:])
    assert samples.mean().item() == pytest.approx(data.mean(), abs=0.15)
    assert samples.std().item() == pytest.approx(data.std(), rel=0.1)
    same = leapstep.sample(diagnosis.diffusion, (300, *data.shape[1:]), 20)
    torch.testing.assert_close(samples, same, rtol=1e-3, atol=1e-3)


def test_a_sound_network_samples_as_the_data_go(diagnosed):
    diagnosis = diagnosed[2]
    assert diagnosis.parted is None
    assert len(diagnosis.passages) == 21
    assert all(concern.weight == 1 for concern in diagnosis.concerns)
    assert diagnosis.contradictions == ()
    assert diagnosis.as_dict()["code"] == diagnosis.code


def test_wrong_beliefs_are_contradicted():
    net, data = BLOBS.network()
    believed = {"predicts": "eps", "schedule": "linear", "reverse": True, "range": "[0, 1]"}
    diagnosis = leapstep.diagnose(net, data, assume=believed, check=False)
    assert diagnosis.arguments["predicts"] == "v"
    for belief in (
        "predicts=eps, but the network's answers fit predicts=v",
        "schedule=linear",
        "reverse=True",
        "[0, 1]",
    ):
        assert any(belief in sentence for sentence in diagnosis.contradictions), belief
    assert not leapstep.diagnose(net, data, assume={"predicts": "v", "time": "index"}, check=False).contradictions


def test_a_schedule_without_a_name_is_recovered():
    """Log-SNR falls fast, then slowly, then fast again; the curve read from the network is used."""
    knots = {1: 8.0, 150: 1.5, 600: -0.5, 1000: -8.0}
    process = leapstep.from_log_snr(knots)
    net, data = Stranger("digits", "[-1, 1]", "v", "jagged", process, "index", 1000).network()
    diagnosis = leapstep.diagnose(net, data, check=False)
    assert "recovered" in diagnosis["schedule"].value
    assert "from_log_snr" in diagnosis.code
    assert diagnosis.diffusion.process.timesteps == 1000
    t = torch.linspace(0.02, 0.6, 15, dtype=F64)
    torch.testing.assert_close(diagnosis.diffusion.process.alpha(t), process.alpha(t), rtol=0.1, atol=0.03)
    scope = {"net": net}
    exec(diagnosis.code, scope)
    torch.testing.assert_close(scope["diffusion"].process.alpha(t), diagnosis.diffusion.process.alpha(t))


def test_conditional_networks():
    """A network that is told the component of the mixture, as arrays and as a function of the rows."""
    generator = torch.Generator().manual_seed(0)
    means, label = torch.randn(2, 64, dtype=F64, generator=generator), torch.arange(400) % 2
    raw = means[label] + 0.3 * torch.randn(400, 64, dtype=F64, generator=generator)
    process = leapstep.cosine(100)._replace(timesteps=None)

    rows = torch.arange(100)  # a table of timesteps, so that few clocks are possible

    def net(x, timestep, y):
        t = (rows[timestep].double() + 1) / 100
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return (sigma * (x - alpha * means[y]) / (0.09 * alpha**2 + sigma**2)).to(x)

    diagnosis = leapstep.diagnose(net, raw.numpy(), condition={"y": label.numpy()}, check=False)
    assert diagnosis.arguments["predicts"] == "eps"
    assert diagnosis.arguments["time"] == "index"
    assert "condition=condition" in diagnosis.code
    assert leapstep.diagnose(net, raw, condition=lambda rows: {"y": label[rows]}, check=False).code == diagnosis.code
    with pytest.raises(ValueError, match=r"condition 'y' has shape \(3,\): give one row for each of 400"):
        leapstep.diagnose(net, raw.numpy(), condition={"y": label[:3].numpy()})


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


def test_a_network_that_cannot_be_called_says_why():
    def net(x, timestep):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(ValueError, match=r"cannot be called as net\(x, timestep\).*mat1 and mat2"):
        leapstep.diagnose(net, RNG.random((50, 3)))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros((50, 3)), {}, "all values of the data are the same"),
        (np.full((50, 3), np.nan), {}, "not finite"),
        (RNG.random((5, 3)), {}, "give .n, .d. with n of 20 or more"),
        (RNG.random((50, 3)), {"assume": {"kind": "eps"}}, "kind cannot be assumed: use one of range, predicts"),
        (RNG.random((50, 3)), {"assume": {"predicts": "noise"}}, "assumed predicts='noise': use one of eps"),
        (RNG.random((50, 3)), {"assume": {"range": "[0, 7]"}}, "for these data use one of"),
    ],
)
def test_mistakes_get_one_line(data, options, message):
    with pytest.raises(ValueError, match=message):
        leapstep.diagnose(lambda x, k: x, data, **options)


# --- its parts -----------------------------------------------------------------------------------------------------


def test_the_linear_denoiser_is_the_best_one():
    """On Gaussian data it is the posterior mean, and its error is what it says."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, dtype=F64, generator=generator)
    values = torch.randn(200_000, 4, dtype=F64, generator=generator) @ root.T + 1
    linear, process, t = Linear(values), leapstep.cosine(), torch.full((200_000,), 0.5, dtype=F64)
    x = process.add_noise(values, t, torch.randn(values.shape, dtype=F64, generator=generator))
    estimate = linear.denoise(x, process.alpha(t), process.sigma(t))
    exact = leapstep.GaussianMixture(values.mean(0)[None], (root @ root.T)[None]).diffusion(process).denoise(x, t)
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.05)
    assert linear.error(process.log_snr(t[:1])).item() == pytest.approx(
        (estimate - values).square().mean().item(), rel=0.01
    )


def test_ranges_are_named_once():
    pixels = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    names = [span.name for span in ranges(pixels, pictures=True)]
    assert names[:3] == ["[-1, 1]", "[0, 1]", "standardised"]
    assert "as it is" not in names  # that is [0, 255]
    ready = torch.rand(300, 6, dtype=F64) * 2 - 1
    ready[0, 0], ready[0, 1] = -1, 1
    spans = {span.name: span for span in ranges(ready, pictures=False)}
    assert "as it is" not in spans  # that is [-1, 1]
    assert (spans["[-1, 1]"].shift, spans["[-1, 1]"].scale) == (0.0, 1.0)
    assert spans["standardised per feature"].scale.shape == (6,)


def test_recovered_curves_fall_and_say_where_they_do_not_know():
    levels = torch.arange(-8, 8.5, 0.5, dtype=F64)
    true = torch.tensor([6.0, 3.0, 0.0, -3.0, -6.0], dtype=F64)
    product = torch.tanh(levels - true[:, None])
    product[3] = 0.001  # the network does not tell
    profile = Profile(
        torch.arange(5, dtype=F64), levels, product, torch.full_like(product, 0.01), torch.zeros_like(product)
    )
    curve = recover(profile, 0.0, increasing=True)
    assert curve.told.tolist() == [True, True, True, False, True]
    torch.testing.assert_close(curve.log_snr, true, rtol=0, atol=0.1)
    assert (curve.high - curve.low)[0] < 0.2
    assert math.isnan(curve.low[3]) or curve.high[3] - curve.low[3] > 3


def test_levels_that_are_read_alike_still_make_a_process():
    """Zeros that agree to the last digit are set apart, and the last level is reached."""
    flat = torch.full((6,), 1.234, dtype=F64)
    timesteps = torch.tensor([0.0, 1, 2, 50, 60, 90], dtype=F64)
    curve = Recovered(flat, flat, flat, torch.ones(6, dtype=torch.bool))
    profile = Profile(timesteps, torch.arange(3, dtype=F64), *(torch.zeros(6, 3, dtype=F64) for _ in range(3)))
    levels = named_levels(curve, profile, Route("", leapstep.cosine(), "index", False, 100))
    assert list(levels) == [1, 2, 3, 51, 61, 91, 100]
    assert leapstep.from_log_snr(levels).timesteps == 100
