"""The doctor finds the convention of a network from its answers alone, and says when it cannot."""

import dataclasses
import functools
import math
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

import leapstep
from leapstep.doctor.budget import ROUNDS, Budget, Race
from leapstep.doctor.conventions import F64, LEVELS, RANGES, Linear, Route, Trial, compare, ranges, routes, times_of
from leapstep.doctor.curve import Profile, Recovered, counts, fit, level_of, named_levels, recover, usual
from leapstep.doctor.evidence import Finding
from leapstep.doctor.findings import arguments_of, judged, scaled
from leapstep.doctor.probe import Probe, probe
from leapstep.doctor.samples import _conditions, draw
from leapstep.doctor.search import LIKELY, SURE, Search, _behind, _refined, _sized, agrees, confidence, whole_reading
from leapstep.doctor.snippet import Sampling, snippet
from leapstep.doctor.warp import SHIFTS, Told, drawn, told
from strangers import COMBINATIONS, Stranger, source, verdict

RNG = np.random.default_rng(0)
UNDECIDED = {
    i
    for i, stranger in enumerate(COMBINATIONS)
    if stranger.data == "digits" and stranger.predicts == "x0"  # D is the nearest digit whatever the timestep says
}
QUICK = [i for i, stranger in enumerate(COMBINATIONS) if stranger.data == "series" and stranger.timesteps == 250][:1]


def name(i):
    stranger = COMBINATIONS[i]
    return f"{i}-{stranger.data}-{stranger.predicts}-{stranger.schedule}-{stranger.time}"


def check(i):
    stranger = COMBINATIONS[i]
    net, data = stranger.network()
    found = verdict(stranger, leapstep.diagnose(net, data, check=False, budget=math.inf))
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
    stranger = dataclasses.replace(COMBINATIONS[i], error=0.0)
    net, _ = stranger.network()
    shift, scale = stranger.scaling()
    raw, law = source(stranger.data)
    process, time, even = stranger.process, stranger.time, torch.linspace(0, 1, 100_001, dtype=F64)
    if stranger.pace is not None:

        def time(t):
            return torch.from_numpy(np.interp(t, stranger.pace(even), even))

    diffusion = leapstep.from_network(
        net,
        process,
        stranger.predicts,
        time,
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
    return net, data, leapstep.diagnose(net, data, budget=math.inf)


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


def test_where_ddim_spoils_and_noise_does_not_it_is_tried_and_said(diagnosed):
    """A network whose eps is a fifth too small: the noise of each step makes up for it."""
    net, data, _ = diagnosed
    process = leapstep.cosine(100)._replace(timesteps=None)

    def small(x, k):
        t = (k.double() + 1) / 100
        eps = process.convert(net(x, k), x, t, "v", "eps")
        return process.convert(0.8 * eps, x, t, "eps", "v")

    diagnosis = leapstep.diagnose(small, data, assume={"predicts": "v"}, budget=math.inf)
    (concern,) = (each for each in diagnosis.concerns if "DDIM" in each.what)
    assert re.search(r"spread [\d.]+ times the data's, limit [\d.]+", concern.what)
    assert "sample with eta = 1" in concern.cure
    assert concern.weight == 2
    assert (diagnosis.eta, diagnosis.parted) == (1.0, None)
    assert not any(passage.failed() for passage in diagnosis.passages[-1:])
    assert "transition=leapstep.ddim(eta=1)" in diagnosis.code
    scope = {"net": small, "data": data}
    exec(diagnosis.code, scope)
    assert scope["x0"].shape == (16, 64)


def test_the_ends_of_a_schedule_do_not_count(diagnosed):
    """cosine(100) ends at a log-SNR of -16, where no network tells anything."""
    curve = diagnosed[2].curve
    assert curve.named[-1] < -12
    assert (curve.low[-1], curve.high[-1]) == (None, None)
    told = [(low, read, high) for low, read, high in zip(curve.low, curve.read, curve.high, strict=True) if low]
    assert len(told) > 5
    assert all(low <= read <= high for low, read, high in told)
    assert f"read at {len(told)} of {len(curve.timesteps)} timesteps" in diagnosed[2]["schedule"].evidence
    assert "(about 1 is as good as it gets, up to 2.2 is a fit)" in diagnosed[2]["schedule"].evidence


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
    diagnosis = leapstep.diagnose(net, data, assume=believed, check=False, budget=math.inf)
    assert diagnosis.arguments["predicts"] == "v"
    for belief in (
        "predicts=eps, but the network's answers fit predicts=v",
        "schedule=linear",
        "reverse=True",
        "[0, 1]",
        "with yours and all else as it was found the error of x0 is",
        "the best such schedule has a misfit of",
    ):
        assert any(belief in sentence for sentence in diagnosis.contradictions), belief
    assert not leapstep.diagnose(
        net, data, assume={"predicts": "v", "time": "index"}, check=False, budget=math.inf
    ).contradictions


@pytest.mark.slow
def test_a_schedule_without_a_name_is_recovered():
    """Log-SNR falls fast, then slowly, then fast again; the curve read from the network is used."""
    knots = {1: 8.0, 150: 1.5, 600: -0.5, 1000: -8.0}
    process = leapstep.from_log_snr(knots)
    net, data = Stranger("digits", "[-1, 1]", "v", "jagged", process, "index", 1000).network()
    diagnosis = leapstep.diagnose(net, data, check=False, budget=math.inf)
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

    diagnosis = leapstep.diagnose(net, raw.numpy(), condition={"y": label.numpy()}, check=False, budget=math.inf)
    assert diagnosis.arguments["predicts"] == "eps"
    assert diagnosis.arguments["time"] == "index"
    assert "condition=given" in diagnosis.code
    same = leapstep.diagnose(net, raw, condition=lambda rows: {"y": label[rows]}, check=False, budget=math.inf)
    assert same.arguments == diagnosis.arguments
    for given, code in (({"y": label}, diagnosis.code), (lambda rows: {"y": label[rows]}, same.code)):
        scope = {"net": net, "condition": given}
        exec(code, scope)
        assert scope["given"]["y"].tolist() == label[:16].tolist()
    with pytest.raises(ValueError, match=r"condition 'y' has shape \(3,\): give one row for each of 400"):
        leapstep.diagnose(net, raw.numpy(), condition={"y": label[:3].numpy()})


# --- networks that answer only in some places ------------------------------------------------------------------------


class Elsewhere:
    """The exact v of Gaussian series given what is known of them where `mask` is 0; v means nothing elsewhere.

    Arguments:
        told: whether the values elsewhere are known, as to an imputer; else there are none, as in padding.
    """

    def __init__(self, masks, told):
        hours = torch.arange(32.0, dtype=F64)
        along = torch.exp(-(hours[:, None] - hours).abs() / 6)
        self.covariance = torch.kron(torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=F64), along)
        self.masks, self.told = masks, told
        self.process = leapstep.cosine(100)._replace(timesteps=None)
        self.laws = [self._law(mask.flatten().bool()) for mask in masks]

    def _law(self, asked):
        """Gain on the known values, and the decomposition of the covariance of the others given these."""
        inside = self.covariance[asked][:, asked]
        gain = torch.zeros(int(asked.sum()), int((~asked).sum()), dtype=F64)
        if self.told:
            gain = torch.linalg.solve(self.covariance[~asked][:, ~asked], self.covariance[~asked][:, asked]).T
            inside = inside - gain @ self.covariance[~asked][:, asked]
        return asked, gain, *torch.linalg.eigh(inside)

    def series(self, n):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(n, 64, dtype=F64, generator=generator) @ torch.linalg.cholesky(self.covariance).T

    def __call__(self, x, k, which, known):
        t = (torch.arange(100)[k].double() + 1) / 100  # a table of timesteps, so that few clocks are possible
        answer = 3 * torch.cos(5 * x + k[:, None, None])
        for law, (asked, gain, values, basis) in enumerate(self.laws):
            own = which == law
            alpha, sigma = self.process.alpha(t[own])[:, None], self.process.sigma(t[own])[:, None]
            seen = x[own].flatten(1).double()[:, asked]
            mean = known[own].flatten(1).double()[:, ~asked] @ gain.T
            kept = ((seen - alpha * mean) @ basis) * (alpha * values / (alpha**2 * values + sigma**2))
            x0 = mean + kept @ basis.T
            rows = answer[own].flatten(1)
            rows[:, asked] = (alpha * (seen - alpha * x0) / sigma - sigma * x0).to(rows)
            answer[own] = rows.reshape(answer[own].shape)
        return answer


def imputer():
    """An imputer, its data, its mask (1 where a value is missing), and its conditions."""
    generator = torch.Generator().manual_seed(1)
    masks = (torch.rand(4, 2, 32, generator=generator) < 0.4).double()
    net, which = Elsewhere(masks, told=True), torch.arange(200) % 4
    data = net.series(200).reshape(200, 2, 32)
    return net, data, masks[which], {"which": which, "known": data * (1 - masks[which])}


def padded():
    """Sequences of several lengths, padded far from all data."""
    lengths = torch.tensor([20, 24, 28, 32])
    masks = (torch.arange(32) < lengths[:, None])[:, None].expand(4, 2, 32).double()
    net, which = Elsewhere(masks, told=False), torch.arange(200) % 4
    data = torch.where(masks[which].bool(), net.series(200).reshape(200, 2, 32), -9.0)
    return net, data, masks[which], {"which": which, "known": 0 * data}


@pytest.mark.parametrize("case", [imputer, padded])
def test_errors_are_measured_where_the_answer_counts(case):
    net, data, mask, condition = case()
    diagnosis = leapstep.diagnose(net, data, condition=condition, counts=mask, budget=math.inf)
    assert (diagnosis.arguments["predicts"], diagnosis.arguments["time"]) == ("v", "index")
    assert "cosine(100)" in diagnosis.code
    words = {finding.name: finding.confidence for finding in diagnosis.findings}
    assert "unsure" not in (words["predicts"], words["schedule"])
    assert all(level.error < 1.3 * level.linear for level in diagnosis.levels)
    assert diagnosis.parted is None
    assert all(concern.weight == 1 for concern in diagnosis.concerns)
    assert diagnosis.counted == pytest.approx(mask.mean().item(), abs=1e-3)
    said = " ".join(str(diagnosis).split())
    assert f"where the mask says that the answer counts, in {100 * diagnosis.counted:.3g} % of the values." in said
    samples = leapstep.sample(diagnosis.diffusion, (len(data), 2, 32), 20)
    kept = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples[mask[kept] == 0], data.float()[kept][mask[kept] == 0], rtol=0, atol=1e-4)
    if case is padded:
        return
    blind = leapstep.diagnose(net, data, condition=condition, check=False, budget=math.inf)
    assert {finding.confidence for finding in blind.findings} == {"unsure"} or blind.arguments["predicts"] != "v"


def test_one_mask_for_all_data_is_the_same_for_each():
    generator = torch.Generator()
    data = RNG.normal(size=(60, 2, 3))
    mask = np.array([[1, 0, 1], [0, 0, 1]])
    one, each = (
        draw(data, None, counts, 30, generator.manual_seed(0), torch.device("cpu"))
        for counts in (mask, np.broadcast_to(mask, data.shape))
    )
    assert torch.equal(one.counts, each.counts)
    assert torch.equal(one.values, each.values)
    each = np.zeros((60, 2, 3))
    each[::2, 0, 0] = 1
    chosen = draw(data, None, torch.from_numpy(each), 300, generator.manual_seed(0), torch.device("cpu"))
    assert len(chosen) == 30  # where nothing counts nothing is asked
    assert chosen.counts.flatten(1).sum(1).tolist() == [1] * 30


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.ones((50, 2)), r"counts has shape \(50, 2\): give \(50, 3\), a mask for each of the data, or \(3,\), one"),
        (np.full((50, 3), 0.5), "counts holds other values than 0 and 1"),
        (np.eye(50)[:, :3], "in counts 3 of 50 rows hold a 1: at least 20 are needed"),
        (np.zeros(3), "in counts 0 of 50 rows hold a 1"),
    ],
)
def test_mistakes_in_counts_get_one_line(counts, message):
    with pytest.raises(ValueError, match=message):
        leapstep.diagnose(lambda x, k: x, RNG.random((50, 3)), counts=counts)


def test_the_linear_denoiser_measures_where_it_counts():
    """Beside padding that does not vary, its error is that of the same data without any."""
    values = torch.randn(4000, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0])
    wider = torch.cat([values, torch.zeros(4000, 5, dtype=F64)], 1)
    counts = torch.arange(8).expand(4000, 8) < 3
    levels = torch.linspace(-5, 5, 7, dtype=F64)
    plain, beside = Linear(values), Linear(wider, counts)
    assert beside.variance == pytest.approx(plain.variance, rel=0.01)
    torch.testing.assert_close(beside.error(levels), plain.error(levels), rtol=0.03, atol=0)


# --- within a budget -----------------------------------------------------------------------------------------------


class Clock:
    """A clock that goes on only as networks are called."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for name in ("budget", "probe"):
            monkeypatch.setattr(sys.modules[f"leapstep.doctor.{name}"], "monotonic", lambda: self.now)

    def timed(self, net, cost):
        """The network, at so many seconds a sample; a function of the time says how many."""

        def call(x, timestep):
            self.now += len(x) * (cost(self.now) if callable(cost) else cost)
            return net(x, timestep)

        return call


@pytest.mark.parametrize(
    "cost",
    [0.01, 0.1, lambda now: 0.02 if now < 30 else 0.04, lambda now: 0.004 if now < 5 else 0.04],
    ids=["some samples fewer", "the least", "calls that turn out slower", "ten times slower"],
)
def test_a_diagnosis_keeps_to_its_budget_and_is_never_wrong_for_it(monkeypatch, cost):
    net, data = BLOBS.network()
    clock, told = Clock(monkeypatch), []
    diagnosis = leapstep.diagnose(clock.timed(net, cost), data, budget=120, on_estimate=lambda *s: told.append(s))
    assert 30 < clock.now < 1.2 * 120
    assert diagnosis.seconds == pytest.approx(clock.now, abs=0.1)
    ((seconds, unbounded),) = told
    assert seconds == 120 < unbounded
    wrong = {name: word for name, (right, word) in verdict(BLOBS, diagnosis).items() if not right}
    assert set(wrong.values()) <= {"unsure"}
    assert diagnosis.arguments["predicts"] == "v"
    assert f"For want of time {diagnosis.cuts[0]}" in " ".join(str(diagnosis).split())
    assert any("turned out slower" in cut for cut in diagnosis.cuts) == (callable(cost) and cost(0) < 0.01)


def test_time_for_everything_cuts_nothing(monkeypatch, diagnosed):
    net, data, whole = diagnosed
    clock = Clock(monkeypatch)
    diagnosis = leapstep.diagnose(clock.timed(net, 1e-6), data)
    assert diagnosis.cuts == whole.cuts == ()
    assert diagnosis.code == whole.code
    assert diagnosis.findings == whole.findings


def test_a_network_too_slow_for_the_budget_is_told_at_once(monkeypatch):
    net, data = BLOBS.network()
    clock = Clock(monkeypatch)
    with pytest.raises(
        ValueError, match=r"takes 0.5 s for a sample, .* and the budget is 2 min: give a budget of [78] min"
    ):
        leapstep.diagnose(clock.timed(net, 0.5), data)
    assert clock.now < 60
    with pytest.raises(ValueError, match="budget=0: give seconds"):
        leapstep.diagnose(net, data, budget=0)


def test_fewer_samples_make_less_sure():
    whole = Race(500, 4, LEVELS, ROUNDS)
    budget = Budget(1000.0)
    for cost, words in ((1e-9, "sure"), (0.05, "likely"), (0.2, "unsure")):
        budget.start(cost)
        caution = (whole.evidence / budget.race(whole).evidence) ** 0.5
        assert confidence(0.35, SURE * caution, LIKELY * caution) == words


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
            r"to have 1 channels.*test_doctor.py, line \d+.*give it data.transpose\(0, 3, 1, 2\)$",
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
    assert re.search(r"there \.\.\. \(test_doctor.py, line \d+\)$", str(error.value))
    assert len(str(error.value)) < 450

    def full(x, timestep):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        leapstep.diagnose(full, RNG.random((50, 3)))


def test_a_network_that_raises_in_the_sampling_check_is_one_line(monkeypatch):
    def passages(inside, *args, **options):
        inside.denoise(torch.zeros(64, 64), torch.tensor(0.5))

    monkeypatch.setattr(leapstep.doctor.health, "passages", passages)
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


def test_a_sigma_data_is_found_on_a_line():
    """Nearly everybody takes the standard deviation of all values, which a strong mean sample makes a large one."""
    stranger = Stranger("series", "[-1, 1]", "F", "karras", leapstep.karras(), "log_sigma/4", sigma_data=0.378)
    net, data = stranger.network()
    span = next(span for span in ranges(torch.from_numpy(data), pictures=False) if span.name == "[-1, 1]")
    overall, about_the_mean = span.values.std().item(), span.linear.variance**0.5
    assert overall == pytest.approx(0.378, rel=0.01)
    assert about_the_mean < 0.93 * overall
    noise = torch.randn(300, 1, 40, generator=torch.Generator().manual_seed(0))
    ask = Probe(net, lambda rows: {}, torch.device("cpu"))
    tried = [route for route in routes(span, (1000,), False) if route.sigma_data and route.time == "log_sigma/4"]
    assert any(abs(route.sigma_data / overall - 1) < 0.1 for route in tried)
    coarse = next(route for route in tried if route.sigma_data == 0.5)
    trial = next(each for each in compare(ask, [(span, coarse)], 20, noise)[0] if each.predicts == "F")
    found, (meaning, beyond) = _sized(ask, trial, noise, None, whole_reading(noise))
    assert found.route.sigma_data == pytest.approx(overall, rel=1e-3)
    assert meaning == "the standard deviation of all values of your data"
    assert beyond > 0.1
    believed, (meaning, _) = _sized(ask, trial, noise, 0.37, whole_reading(noise))
    assert (believed.route.sigma_data, meaning) == (0.37, "as you assumed")
    assert agrees("sigma_data", found, 0.37)
    assert not agrees("sigma_data", found, 0.5)


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
    odd = torch.rand(50, 3, 2, 2, dtype=F64) * torch.tensor([1.0, 2, 3])[:, None, None] + 5
    assert {*spans, *names, *(span.name for span in ranges(odd, pictures=False))} == set(RANGES)


@pytest.mark.parametrize(
    ("shift", "scale", "words"),
    [
        (127.5, 127.5, "(y - 127.5) / 127.5"),
        (127.5, -127.5, "(127.5 - y) / 127.5"),
        (0.0, 255.0, "y / 255"),
        (0.0, 1 / 255, "255 y"),
        (0.5, 0.5, "2 (y - 0.5)"),
        (-3.0, 1.0, "y + 3"),
        (0.0, -1.0, "-y"),
    ],
)
def test_ranges_are_written_as_one_would(shift, scale, words):
    assert scaled(shift, scale) == words


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
    crossed = torch.tanh(levels - torch.tensor([6.0, 2.0, 3.0, -3.0, -6.0], dtype=F64)[:, None])
    curve = recover(dataclasses.replace(profile, product=crossed), 0.0, increasing=True)
    assert curve.log_snr[1] == curve.log_snr[2]  # which neither of the two was read as
    assert ((curve.low <= curve.log_snr) & (curve.log_snr <= curve.high)).all()


def profiled(process, timesteps, levels, clock="index"):
    """What an exact network on a process tells at these timesteps, without any luck."""
    grid = torch.arange(-9, 10.5, 0.75, dtype=F64)
    true = level_of(Route("", process, clock, False, levels), timesteps)
    product = 0.5 * torch.tanh((grid - true.nan_to_num(6.0)[:, None]) / 3)
    error = 2.0 * (~true.isfinite()).to(F64)[:, None].expand(-1, len(grid))  # where it was not trained
    return Profile(timesteps, grid, product, torch.full_like(product, 0.01), error)


@pytest.mark.parametrize(
    ("betas", "code"),
    [
        (torch.linspace(1e-4**0.5, 0.5**0.5, 50) ** 2, "torch.linspace(0.0001**0.5, 0.5**0.5, 50) ** 2"),
        (torch.linspace(1e-4, 0.02, 200), "torch.linspace(0.0001, 0.02, 200)"),
        (torch.linspace(1e-4, 0.05, 50), "torch.linspace(0.0001, 0.05, 50)"),
    ],
)
def test_betas_that_do_not_grow_with_fewer_levels_have_names(betas, code):
    timesteps = torch.tensor([0, 1, 2, 4, 7, 12, 20, 28, 36, 44, 49, 90, 120, 160, 199, 260, 330], dtype=F64)
    profile = profiled(leapstep.from_betas(betas), timesteps, len(betas))
    best = fit(profile, Route("linear", leapstep.linear(), "index", False, 100), None, False)[0]
    assert best.code == f"leapstep.from_betas({code})"
    assert (best.route.time, best.route.timesteps, best.plain) == ("index", len(betas), True)
    t = torch.linspace(0.1, 1, 9)  # the line is the curve that was compared
    torch.testing.assert_close(eval(best.code).log_snr(t), best.route.process.log_snr(t), rtol=0, atol=1e-4)


def test_the_number_of_levels_is_not_read_from_a_fraction():
    """Whatever T was, 1000 or what is believed is named, as long as that fits."""
    share = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], dtype=F64)
    route = Route("linear", leapstep.linear(), "fraction")
    for levels in (100, 500, 1000):
        profile = profiled(leapstep.linear(levels), share, levels, "fraction")
        assert fit(profile, route, None, False)[0].code == "leapstep.linear()"
        assert fit(profile, route, None, False, 300)[0].code == "leapstep.linear(300)"
    table = leapstep.from_betas(torch.linspace(1e-4, 0.02, 200))  # here T makes the curve
    assert fit(profiled(table, share, 200, "fraction"), route, None, False)[0].route.timesteps == 200


def test_of_equal_curves_the_common_name_is_taken():
    timesteps = (torch.tensor([0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0], dtype=F64) * 999).round()
    profile = profiled(leapstep.linear(), timesteps, 1000)
    route = Route("linear", leapstep.linear(), "index", False, 1000)
    fits = fit(profile, route, None, False)
    linear, vp, cosine = (
        next(each for each in fits if each.route.schedule == schedule and each.route.time == "index")
        for schedule in ("linear", "vp", "cosine")
    )
    lucky = vp._replace(misfit=0.7)
    assert usual([linear._replace(misfit=1.0), cosine], lucky, timesteps, 1.0).code == "leapstep.linear()"
    assert usual([linear, vp], cosine, timesteps, 1.0) is cosine


T = torch.linspace(0.01234, 0.98765, 34, dtype=F64)  # nowhere between two levels


@pytest.mark.parametrize("warp", [*SHIFTS[:4], drawn(T[3:-3], torch.sin(math.pi / 2 * T[3:-3]) ** 2)])
def test_clocks_that_do_not_run_evenly_are_written_as_they_are_counted(warp):
    """The line to paste is what the network is told, for every way of counting, and it can be turned round."""
    torch.testing.assert_close(warp.meant(warp.counted(T)), T, rtol=0, atol=2e-3 if warp.read else 1e-12)
    for time in ("fraction", "1000t", "index", "index_from_1"):
        for reverse in (False, True):
            levels = 50 if time.startswith("index") else None
            route = Route("flow", leapstep.flow(), time, reverse, levels, warp=warp)
            for whole in (False, True):
                code, rounded = told(warp, time, reverse, levels, whole)
                told_so = Told(code, route.timestep, rounded)
                written = eval(str(told_so), {"torch": torch, "numpy": np})(T)
                torch.testing.assert_close(written, told_so(T), rtol=1e-12, atol=1e-9)
                plain = leapstep.core.denoiser.clock(leapstep.flow(), time, levels, not whole, reverse)
                torch.testing.assert_close(plain(warp.counted(T)), told_so(T), check_dtype=False, rtol=0, atol=1e-9)


def warped(stranger):
    """What is read of a flow network with a clock of its own, once it is known to be one."""
    net, data = stranger.network()
    span = next(span for span in ranges(torch.from_numpy(data), False) if span.name == stranger.range)
    noise = torch.randn(300, *data.shape[1:], generator=torch.Generator().manual_seed(0))
    ask = Probe(net, lambda rows: {}, torch.device("cpu"))
    free = leapstep.flow()
    tried = [Route("flow", free, stranger.time, stranger.reverse, warp=warp) for warp in (None, *SHIFTS[:2])]
    trials = [one for kinds in compare(ask, [(span, route) for route in tried], 40, noise) for one in kinds]
    best = min((one for one in trials if one.predicts == stranger.predicts), key=lambda one: one.score)
    return net, data, _refined(ask, best, noise, {}, whole_reading(noise))


def test_schedules_are_compared_at_the_levels_that_both_reach():
    """One that leaves much signal is not better for not being asked at the noisy levels, where errors are large."""
    values = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    span = next(span for span in ranges(values, False) if span.name == "standardised")
    short = leapstep.from_betas(torch.linspace(1e-4, 0.02, 50))
    routes_ = [Route("linear", process, "index", False, 50) for process in (short, leapstep.linear(50))]
    reached = [len(times_of(route, span.linear.variance)) for route in routes_]
    assert reached[0] < reached[1] == len(LEVELS)
    best = torch.tensor([-0.5, -0.4, -0.3, 0.2, 0.6], dtype=F64)[: reached[1]]
    one = Trial(span, routes_[0], "eps", best[: reached[0]] + 0.01, 10)
    other = Trial(span, routes_[1], "eps", best, 10)
    assert one.score < other.score - 0.05
    assert _behind(one, other) == pytest.approx(0.01)
    assert _behind(other, one) == pytest.approx(-0.01)


def test_a_shifted_flow_is_named():
    flow = functools.partial(Stranger, "blobs", "standardised", schedule="flow", process=leapstep.flow())
    one = flow(predicts="-flow", time="fraction", reverse=True, pace=lambda t: 2 * t / (1 + t))
    best = warped(one)[2].fits[0]
    assert best.title == "leapstep.flow() on a clock that is t / (2 - t)"
    assert best.misfit < 2


def test_the_clock_of_a_flow_is_read_where_it_has_no_formula():
    """And the lines to paste sample the data with it."""
    stranger = Stranger(
        "blobs",
        "standardised",
        "flow",
        "flow",
        leapstep.flow(),
        "fraction",
        pace=lambda t: (math.pi / 2 * t).sin() ** 2,
    )
    net, data, found = warped(stranger)
    warp = found.fits[0].route.warp
    assert warp.read
    t = torch.linspace(0.2, 0.9, 8, dtype=F64)
    torch.testing.assert_close(warp.meant(t), stranger.pace(t), rtol=0, atol=0.03)
    arguments = arguments_of(found, "[b]", True)
    scope = {"net": net}
    samples = draw(data, None, None, 40, torch.Generator(), torch.device("cpu"))
    exec(snippet(found, arguments, samples, Sampling(False, 0.0, "cpu")), scope)
    samples = leapstep.sample(scope["diffusion"], (200, *data.shape[1:]), 20)
    assert samples.mean().item() == pytest.approx(data.mean(), abs=0.1)
    assert samples.std().item() == pytest.approx(data.std(), rel=0.1)


def test_a_belief_is_refuted_only_by_a_finding_that_is_not_in_doubt():
    """Where a finding is unsure, or nothing that was found explains the network, it says that the belief is open."""
    stranger = Stranger("blobs", "standardised", "flow", "flow", leapstep.flow(), "fraction", pace=lambda t: t**2)
    net, _, found = warped(stranger)
    ask = Probe(net, lambda rows: {}, torch.device("cpu"))
    belief = {"predicts": "eps", "timesteps": 50, "reshape": "[b, 1]"}

    def weigh(word, winner):
        rows = (Finding("predicts", "flow", word, "so"), Finding("levels", "T = 1000", "open", ""))
        return judged(rows, Search([winner], [winner.trial]), ask, belief)

    for word in ("sure", "likely"):
        rows, refuted = weigh(word, found)
        assert [sentence.split(",")[0] for sentence in refuted] == [
            "you assumed predicts=eps",
            "you assumed reshape=[b",
        ]
        assert rows[0].evidence == "so"
    vague = dataclasses.replace(found, fits=[found.fits[0]._replace(misfit=5.0)])
    poor = dataclasses.replace(found, trial=found.trial._replace(scores=found.trial.scores + 2))
    for word, winner in (("unsure", found), ("sure", vague), ("sure", poor)):
        rows, refuted = weigh(word, winner)
        assert [sentence.split("=")[0] for sentence in refuted] == ["you assumed reshape"]  # which was tried
        assert rows[0].evidence == "so; you assumed predicts=eps, and that is not refuted"


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_the_truth_is_not_refuted_of_flows_with_their_own_clocks(reverse):
    predicts = "-flow" if reverse else "flow"
    stranger = functools.partial(Stranger, error=0.2, reverse=reverse, pace=lambda t: (t**4 + t) / 2)
    net, data = stranger("vectors", "standardised", predicts, "flow", leapstep.flow(), "fraction").network()
    truth = {"predicts": predicts, "schedule": "flow", "time": "fraction", "reverse": reverse, "range": "standardised"}
    diagnosis = leapstep.diagnose(net, data, assume=truth, check=False, budget=math.inf)
    assert diagnosis.contradictions == ()
    assert diagnosis.arguments["predicts"] == predicts


def test_what_is_hardly_told_does_not_count():
    levels = torch.arange(-9, 10.5, 0.75, dtype=F64)
    flat = torch.zeros(5, len(levels), dtype=F64)
    profile = Profile(torch.arange(5, dtype=F64), levels, flat, flat, flat)
    named = torch.tensor([7.0, 1.0, -6.0, -20.0, math.nan], dtype=F64)
    assert counts(profile, named).tolist() == [False, True, True, False, False]
    knows = dataclasses.replace(profile, error=flat - 3)  # one that knows the data, and tells even there
    assert counts(knows, named).tolist() == [True, True, True, False, False]


def test_levels_that_are_read_alike_still_make_a_process():
    """Zeros that agree to the last digit are set apart, and the last level is reached."""
    flat = torch.full((6,), 1.234, dtype=F64)
    timesteps = torch.tensor([0.0, 1, 2, 50, 60, 90], dtype=F64)
    curve = Recovered(flat, flat, flat, torch.ones(6, dtype=torch.bool))
    profile = Profile(timesteps, torch.arange(3, dtype=F64), *(torch.zeros(6, 3, dtype=F64) for _ in range(3)))
    levels = named_levels(curve, profile, Route("", leapstep.cosine(), "index", False, 100))
    assert list(levels) == [1, 2, 3, 51, 61, 91, 100]
    assert leapstep.from_log_snr(levels).timesteps == 100
