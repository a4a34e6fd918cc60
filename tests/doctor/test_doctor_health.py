"""The doctor's measurements of health: each rule fires on a network that is broken so, and not on a perfect one."""

import copy
import dataclasses
import functools

import pytest
import torch
from torch import nn

import leapstep
from leapstep.doctor import behaviour, denoising, passages
from leapstep.doctor.evidence import Level
from leapstep.doctor.probe import Probe
from leapstep.doctor.ranges import Linear, ranges
from strangers import Stranger

F64 = torch.float64
LINEAR = leapstep.linear()._replace(timesteps=None)


def span_of(values):
    """A Range of these values as they are."""
    values = torch.as_tensor(values, dtype=F64)
    plain = ranges(values, False)[0]
    return dataclasses.replace(plain, shift=0.0, scale=1.0, values=values.float(), linear=Linear(values))


@functools.cache
def known(data="digits", predicts="v", schedule="linear", error=0.03):
    """A network of known convention, the range, the convention, and noise."""
    process = leapstep.SCHEDULES[schedule]()
    stranger = Stranger(data, "[-1, 1]", predicts, schedule, process, "index", 1000, error=error)
    net, raw = stranger.network()
    shift, scale = stranger.scaling()
    span = span_of((torch.as_tensor(raw).to(F64) - shift) / scale)
    noise = torch.randn(span.values.shape, generator=torch.Generator().manual_seed(0))
    return net, span, leapstep.Convention(process._replace(timesteps=None), timesteps=1000, fractional=True), noise


def adapted(net, convention, predicts="v"):
    return leapstep.from_network(net, convention.process, predicts, "index", timesteps=1000, fractional=True)


def spoiled(net, where):
    """The network with garbage at the timesteps that `where` picks."""

    def broken(x, k):
        mask = where(k).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(mask, torch.sin(37 * x + 1).to(x.dtype), net(x, k))

    return broken


def measured(diffusion, convention, span, noise, n=24):
    return denoising.levels(lambda x, t, rows: diffusion.denoise(x, t), convention, span, n, noise)


def weights(concerns):
    return [concern.weight for concern in concerns]


# --- denoising -----------------------------------------------------------------------------------------------------


def test_a_perfect_network_beats_the_linear_denoiser_and_raises_no_concern():
    mixture = leapstep.GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, -0.5]], dtype=F64), torch.full((2,), 0.02))
    span, convention = (
        span_of(mixture.sample(300, seed=1)),
        leapstep.Convention(LINEAR, timesteps=1000, fractional=True),
    )
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(1))
    found = measured(mixture.diffusion(LINEAR), convention, span, noise)
    ratios = [level.error / level.linear for level in found]
    assert len(found) == 12
    assert max(ratios) < 1.3
    assert min(ratios) < 0.5
    assert ratios[-1] == pytest.approx(1, abs=0.02)  # where there is only noise nothing beats the mean
    assert denoising.judge(found, span.linear.variance, "x0") == ()


def test_the_linear_denoiser_has_the_error_of_the_linear_denoiser_at_even_levels_that_exist():
    _, span, convention, noise = known()
    process = convention.process

    def linear(x, t, rows):
        return span.linear.denoise(x, process.alpha(t), process.sigma(t))

    found = denoising.levels(linear, convention, span, 8, noise)
    assert all(level.error == pytest.approx(level.linear, rel=1e-4) for level in found)
    assert all(level.timestep == pytest.approx(round(level.timestep)) for level in found)
    steps = torch.tensor([level.log_snr for level in found]).diff()
    assert (steps < 0).all()
    assert (steps[3:] - steps[-1]).abs().max() < 0.1 * steps[-1].abs()
    few = denoising.levels(linear, dataclasses.replace(convention, timesteps=4), span, 8, noise)
    assert {level.t for level in few} <= {0.25, 0.5, 0.75, 1.0}


def test_rows_are_those_of_the_data_and_all_are_used():
    _, span, convention, noise = known()
    seen = []

    def denoise(x, t, rows):
        seen.append(rows)
        return span.values[rows]

    found = denoising.levels(denoise, convention, span, 30, noise, count=10)
    assert [level.error for level in found] == pytest.approx([0.0] * 10)
    assert torch.cat(seen).sort().values.tolist() == list(range(300))


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_a_good_network_raises_no_concern_whatever_it_predicts(predicts):
    net, span, convention, noise = known(predicts=predicts)
    found = measured(adapted(net, convention, predicts), convention, span, noise)
    assert denoising.judge(found, span.linear.variance, predicts) == ()


@pytest.mark.parametrize(("predicts", "end"), [("eps", -1), ("x0", 0)])
def test_the_weak_end_of_a_prediction_weighs_little(predicts, end):
    net, span, convention, noise = known(predicts=predicts, error=0.1)
    found = measured(adapted(net, convention, predicts), convention, span, noise)
    (concern,) = denoising.judge(found, span.linear.variance, predicts)
    assert concern.weight == 1
    assert f"usual for a network that predicts {predicts}" in concern.what
    assert f"t = {found[end].t:.3g}" in concern.what


@pytest.mark.parametrize(
    ("low", "high", "weight"), [(0, 300, 3), (400, 600, 2), (700, 1000, 1)], ids=["clean", "middle", "noise"]
)
def test_levels_that_were_never_trained_are_named(low, high, weight):
    net, span, convention, noise = known()
    broken = adapted(spoiled(net, lambda k: (k >= low) & (k < high)), convention)
    found = measured(broken, convention, span, noise)
    (concern,) = denoising.judge(found, span.linear.variance, "v")
    assert concern.weight == weight
    assert "never to have been trained" in concern.what
    inside = [level for level in found if low <= level.timestep < high]
    assert f"{max(inside, key=lambda level: level.timestep).t:.3g}" in concern.what
    assert ("start sampling below" in concern.cure) == (high == 1000)


def test_a_network_that_is_nowhere_better_is_one_concern():
    net, span, convention, noise = known()
    for diffusion, weight in ((adapted(net, convention, "x0"), 3), (adapted(lambda x, k: x / 0, convention), 3)):
        (concern,) = denoising.judge(measured(diffusion, convention, span, noise), span.linear.variance)
        assert concern.weight == weight
        assert "nowhere better" in concern.what
    gauss = leapstep.GaussianMixture(
        torch.zeros(1, 4, dtype=F64), torch.diag(torch.logspace(0, -2, 4, dtype=F64))[None]
    )
    span = span_of(gauss.sample(300, seed=1))
    noise = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    (concern,) = denoising.judge(measured(gauss.diffusion(LINEAR), convention, span, noise), span.linear.variance)
    assert concern.weight == 1
    assert "Gaussian" in concern.cure


def test_a_mediocre_network_and_a_single_weak_level_are_no_concern():
    at = [(6.0, 0.001), (3.0, 0.03), (0.0, 0.3), (-3.0, 0.9), (-6.0, 1.0)]

    def level(ratios):
        return [Level(i / 5, i, s, e * r, e) for i, ((s, e), r) in enumerate(zip(at, ratios, strict=True), start=1)]

    assert denoising.judge(level([1.4, 1.2, 0.8, 1.0, 1.05])) == ()
    assert denoising.judge(level([9.0, 1.0, 0.8, 1.0, 1.0])) == ()
    assert weights(denoising.judge(level([9.0, 5.0, 0.8, 1.0, 1.0]))) == [2]
    assert weights(denoising.judge(level([9.0, 9.0, 0.5, 4.0, 1.0]))) == [2, 2]
    assert denoising.judge([]) == ()


# --- the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("process", "predicts", "expected"),
    [
        (leapstep.linear(), "eps", []),
        (leapstep.flow(), "flow", []),
        (leapstep.cosine(), "v", []),
        (leapstep.karras(), "F", []),
        (leapstep.scaled_linear(), "eps", [1]),
        (leapstep.linear(beta_end=0.005), "eps", [2]),
        (leapstep.ve(sigma_max=5.0), "eps", [2]),
        (leapstep.cosine(), "eps", [1]),
        (leapstep.flow(), "eps", [3]),
    ],
    ids=["linear", "flow", "cosine", "karras", "latent", "short", "short ve", "faint", "none"],
)
def test_leak(process, predicts, expected):
    found = denoising.leak(process._replace(timesteps=1000), known()[1], predicts)
    assert weights(found) == expected
    for concern in found:
        assert any(character.isdigit() for character in concern.what)
        assert "start" in concern.cure


# --- the network as a module ---------------------------------------------------------------------------------------


def test_train_mode_is_a_concern_where_it_matters():
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.1), nn.BatchNorm1d(8), nn.Linear(8, 2))
    (concern,) = behaviour.behaviour(net.train(), False, False, 0, 100)
    assert concern.weight == 2
    assert "1 dropout (1)" in concern.what
    assert "1 batch normalisation (2)" in concern.what
    assert "net.eval()" in concern.cure
    assert behaviour.behaviour(net.eval(), True, True, 0, 100) == ()
    harmless = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0), nn.LayerNorm(2)).train()
    assert behaviour.behaviour(harmless, True, True, 0, 100) == ()
    attention = nn.MultiheadAttention(4, 2, dropout=0.2).train()
    assert weights(behaviour.behaviour(attention, False, True, 0, 100)) == [2]


def test_unsteady_dependent_and_broken_answers_are_concerns():
    def net(x, t):
        return x

    (unsteady,) = behaviour.behaviour(net, False, True, 0, 100)
    assert "different answers" in unsteady.what
    assert "net.eval()" not in unsteady.cure
    (dependent,) = behaviour.behaviour(nn.Linear(2, 2).train(), True, False, 0, 100)
    assert "others in its batch" in dependent.what
    assert "net.eval()" in dependent.cure
    (always,) = behaviour.behaviour(net, True, True, 999, 1000)
    assert always.weight == 3
    assert "999 of 1000 answers (100 %)" in always.what
    (rare,) = behaviour.behaviour(net, True, True, 1, 1000)
    assert rare.weight == 2
    assert "1 of 1000 answers (0.1 %)" in rare.what


class Flat(nn.Module):
    """An average as latent diffusion keeps it: buffers without dots in their names, and no forward."""

    def __init__(self, net):
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.999))
        for name, value in net.named_parameters():
            self.register_buffer(name.replace(".", ""), value.detach().clone())


def two(net, make, name):
    holder = nn.Module()
    holder.model = net
    setattr(holder, name, make(net))
    return holder


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (copy.deepcopy, "ema_model"),
        (copy.deepcopy, "model_ema"),
        (Flat, "model_ema"),
        (torch.optim.swa_utils.AveragedModel, "averager"),
    ],
)
def test_two_copies_of_the_weights_are_a_concern_where_they_differ(make, name):
    net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 2))
    holder = two(net, make, name)
    assert behaviour.ema(holder) == ()
    with torch.no_grad():
        net[0].weight += 0.1
    (concern,) = behaviour.ema(holder)
    assert concern.weight == 2
    assert "`model`" in concern.what
    assert f"`{name}`" in concern.what
    assert (f"pass `net.{name}`" in concern.cure) == (make is not Flat)


def test_like_blocks_are_no_copies():
    blocks = nn.ModuleDict({"down": nn.Linear(4, 4), "up": nn.Linear(4, 4), "schema": nn.Linear(4, 4)})
    assert behaviour.ema(blocks) == ()
    assert behaviour.ema(two(nn.Linear(4, 4), lambda _: nn.Linear(4, 5), "ema")) == ()
    assert behaviour.ema(lambda x, t: x) == ()


def test_timesteps_in_bfloat16():
    net, span, convention, noise = known()
    ask = Probe(net, lambda rows: {}, torch.device("cpu"))
    assert behaviour.precision(ask, convention, span, noise) == ()

    def jumpy(x, k):
        return net(x, k) * (1 + 0.2 * torch.sin(2.0 * k)).reshape(-1, 1, 1, 1)

    (concern,) = behaviour.precision(dataclasses.replace(ask, net=jumpy), convention, span, noise)
    assert concern.weight == 1
    assert "becomes" in concern.what
    assert "float32" in concern.cure
    assert behaviour.precision(dataclasses.replace(ask, net=jumpy, steady=False), convention, span, noise) == ()
    short = dataclasses.replace(convention, timesteps=250)  # bfloat16 holds these
    assert behaviour.precision(dataclasses.replace(ask, net=jumpy), short, span, noise) == ()


def test_parameters_in_half_precision_are_told():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 64, dtype=torch.bfloat16)

        def forward(self, x, k):
            return x

    _, span, convention, noise = known()
    (concern,) = behaviour.precision(Probe(Half(), lambda rows: {}, torch.device("cpu")), convention, span, noise)
    assert "2 of the network's 2 parameters are in bfloat16" in concern.what
    assert "dtype=torch.bfloat16" in concern.cure


# --- sampling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["plane", "vectors", "series", "digits"])
@pytest.mark.parametrize("schedule", ["linear", "flow"])
def test_exact_networks_do_not_part_from_the_data(data, schedule):
    net, span, convention, _ = known(data, "x0", schedule, 0.0)
    for seed in (1, 2):
        found, parted = passages.passages(adapted(net, convention, "x0"), span, seed)
        assert parted is None
        assert [passage.t for passage in found] == pytest.approx([1 - i / 20 for i in range(21)])
        assert passages.sampling_concern(found, parted) == ()


@pytest.mark.parametrize("data", ["plane", "digits"])
def test_broken_networks_part_where_they_are_broken(data):
    net, span, convention, _ = known(data)

    def at(net, predicts="v"):
        return passages.passages(adapted(net, convention, predicts), span, 1)

    _, parted = at(spoiled(net, lambda k: k < 300))
    assert 0.05 <= parted < 0.3
    for wrong in ("eps", "x0", "-v"):
        found, parted = at(net, wrong)
        assert parted >= 0.3
        (concern,) = passages.sampling_concern(found, parted)
        assert concern.weight == 3
        assert f"t = {parted:.3g}" in concern.what
    assert at(lambda x, k: net(x, 0 * k + 500))[1] is not None
    found, parted = at(lambda x, k: x / 0)
    assert parted == 0.95
    assert all(torch.tensor([*dataclasses.astuple(passage)[:5], *passage.limits]).isfinite().all() for passage in found)


def test_what_fails_is_named_with_its_limit():
    """A network whose samples are too narrow, too wide or away fails by that criterion, and says by how much."""
    net, span, convention, _ = known("plane")
    for change, words, limit in [
        (lambda x0: 0.5 * x0, "spread", "at least"),
        (lambda x0: 1.6 * x0, "spread", "limit"),
        (lambda x0: x0 + 1, "mean", "limit"),
    ]:
        exact = adapted(net, convention)
        wrong = exact._replace(denoise=lambda x, t, exact=exact, change=change: change(exact.denoise(x, t)))
        found, parted = passages.passages(wrong, span, 1)
        (concern,) = passages.sampling_concern(found, parted)
        end = found[-1]
        mean, narrow, wide, shape = end.limits
        outside = {"mean": end.mean > mean, "spread": not narrow < end.spread < wide, "shape": end.shape > shape}
        assert outside[words]
        for name, failed in outside.items():
            assert failed == any(said.startswith(name) for said in end.failed())
        assert all(said in concern.what for said in end.failed())
        assert any(criterion.startswith(words) and limit in criterion for criterion in end.failed())


def test_a_start_that_leaks_parts_at_once():
    mixture = leapstep.GaussianMixture(torch.tensor([[3.0, 2.0]], dtype=F64), torch.tensor([0.1], dtype=F64))
    process = leapstep.linear(beta_end=0.002)._replace(timesteps=None)
    found, parted = passages.passages(mixture.diffusion(process), span_of(mixture.sample(300)), 0)
    assert parted == 1
    assert "start" in passages.sampling_concern(found, parted)[0].cure


def test_conditional_samples_are_held_against_their_own_rows():
    mixture = leapstep.GaussianMixture(torch.tensor([[-2.0], [2.0]], dtype=F64), torch.full((2,), 0.05, dtype=F64))
    values = mixture.sample(400, seed=1)
    values = values[(values[:, 0] > 0).long().argsort(stable=True)]  # by class
    lower = leapstep.GaussianMixture(mixture.means[:1], mixture.covariances[:1]).diffusion(LINEAR)
    assert passages.passages(lower, span_of(values), 1, conditional=True)[1] is None
    assert passages.passages(lower, span_of(values), 1)[1] is not None


def test_no_signal_at_the_start_and_few_levels():
    net, span, convention, _ = known(predicts="eps", schedule="flow")
    found, _ = passages.passages(adapted(net, convention, "eps"), span, 1, n=16, steps=10)
    assert found[0].t == pytest.approx(0.95)
    process = leapstep.cosine(8)
    exact = leapstep.empirical(process, span.values.double())
    found, parted = passages.passages(exact, span, 1, n=16)
    assert [passage.t for passage in found] == [1 - i / 8 for i in range(9)]
    assert parted is None
