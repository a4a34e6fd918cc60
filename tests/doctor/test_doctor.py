"""The doctor finds the convention of a network from its answers alone, and says when it cannot."""

import dataclasses
import json
import math
import re
import sys

import numpy as np
import pytest
import torch

import leapstep
from leapstep.doctor.budget import ROUNDS, Budget, Race
from leapstep.doctor.ranges import F64, Linear
from leapstep.doctor.refinement import LIKELY, SURE
from leapstep.doctor.samples import draw
from leapstep.doctor.search import confidence
from leapstep.doctor.trials import LEVELS
from strangers import BLOBS, COMBINATIONS, Stranger, source, verdict

RNG = np.random.default_rng(0)
UNDECIDED = {
    i
    for i, stranger in enumerate(COMBINATIONS)
    if stranger.data == "digits" and stranger.predicts == "x0"  # D is the nearest digit whatever the timestep says
}
QUICK = [i for i, stranger in enumerate(COMBINATIONS) if stranger.data == "vectors" and stranger.table]


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
    convention = leapstep.Convention.from_json(json.loads(json.dumps(diagnosis.as_dict()))["convention"])
    assert convention == diagnosis.convention
    assert convention.shape == data.shape[1:]
    assert (convention.predicts, convention.process, convention.fractional) == ("v", leapstep.cosine(100), False)
    again = leapstep.sample(leapstep.from_network(net, convention), (300, *data.shape[1:]), 20)
    torch.testing.assert_close(again, same, rtol=0, atol=0)


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
    assert diagnosis.convention.predicts == "v"
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
    assert diagnosis.convention.predicts == "eps"
    assert diagnosis.convention.time == "index"
    assert "condition=given" in diagnosis.code
    same = leapstep.diagnose(net, raw, condition=lambda rows: {"y": label[rows]}, check=False, budget=math.inf)
    assert same.convention == diagnosis.convention
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
    assert (diagnosis.convention.predicts, diagnosis.convention.time) == ("v", "index")
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
    assert {finding.confidence for finding in blind.findings} == {"unsure"} or blind.convention.predicts != "v"


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
    assert diagnosis.convention.predicts == "v"
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
