"""The parts of the doctor against what they compute: linear denoiser, ranges, curves, clocks, beliefs."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

import leapstep
from leapstep.doctor.conventions import SHIFTS, conventions, level_of
from leapstep.doctor.curve import Profile, Recovered, counts, isotonic, named_levels, recover, straight_levels
from leapstep.doctor.evidence import Finding
from leapstep.doctor.findings import complete, judged, scaled
from leapstep.doctor.fits import fit, usual
from leapstep.doctor.probe import Probe
from leapstep.doctor.ranges import F64, RANGES, Linear, ranges
from leapstep.doctor.refinement import behind, by_level, refined, sized, whole_reading
from leapstep.doctor.samples import draw
from leapstep.doctor.search import Search, agrees
from leapstep.doctor.snippet import snippet
from leapstep.doctor.trials import LEVELS, Trial, compare, times_of
from strangers import Stranger

RNG = np.random.default_rng(0)


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


def test_the_covariance_of_few_samples_is_shrunk_as_ledoit_and_wolf_say():
    """By b^2 / d^2, from the outer product of each sample."""
    values = torch.randn(9, 6, dtype=F64, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
    centered = values - values.mean(0)
    outer = torch.einsum("ni,nj->nij", centered, centered)
    covariance = outer.mean(0)
    size = covariance.trace() / 6
    d2 = (covariance - size * torch.eye(6, dtype=F64)).square().sum()
    b2 = (outer - covariance).square().sum((1, 2)).mean() / 9
    assert 0.1 < b2 / d2 < 0.9
    assert Linear(values).floor == pytest.approx((b2 / d2 * size).item(), rel=1e-9)


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
    tried = [each for each in conventions(span, (1000,), False) if each.sigma_data and each.time == "log_sigma/4"]
    assert any(abs(each.sigma_data / overall - 1) < 0.1 for each in tried)
    coarse = next(each for each in tried if each.sigma_data == 0.5)
    trial = next(each for each in compare(ask, [(span, coarse)], 20, noise)[0] if each.predicts == "F")
    found, (meaning, beyond) = sized(ask, trial, noise, None, whole_reading(noise))
    assert found.convention.sigma_data == pytest.approx(overall, rel=1e-3)
    assert meaning == "the standard deviation of all values of your data"
    assert beyond > 0.1
    believed, (meaning, _) = sized(ask, trial, noise, 0.37, whole_reading(noise))
    assert (believed.convention.sigma_data, meaning) == (0.37, "as you assumed")
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


def test_the_nearest_values_that_do_not_fall():
    """Nearest since the sums of what is left are not negative, and zero wherever the values rise (Kuhn and Tucker)."""
    generator = torch.Generator().manual_seed(0)
    values, weights = torch.randn(50, dtype=F64, generator=generator).cumsum(0), torch.rand(50, generator=generator)
    nearest = isotonic(values, weights)
    left = (weights * (values - nearest)).cumsum(0)
    rises = torch.cat([nearest.diff() > 0, torch.ones(1, dtype=torch.bool)])
    assert 1 < rises.sum() < 50
    assert nearest.diff().min() >= 0
    assert left.min() > -1e-9
    assert left[rises].abs().max() < 1e-9


def test_recovered_curves_fall_and_say_where_they_do_not_know():
    levels = torch.arange(-8, 8.5, 0.5, dtype=F64)
    true = torch.tensor([6.0, 3.0, 0.0, -3.0, -6.0], dtype=F64)
    product = torch.tanh(levels - true[:, None])
    product[3] = 0.001  # the network does not tell
    profile = Profile(
        torch.arange(5, dtype=F64), levels, product, torch.full_like(product, 0.01), torch.zeros_like(product)
    )
    curve = recover(profile, 0.0, increasing=True)
    assert curve.readable.tolist() == [True, True, True, False, True]
    torch.testing.assert_close(curve.log_snr, true, rtol=0, atol=0.1)
    assert (curve.high - curve.low)[0] < 0.2
    assert math.isnan(curve.low[3])
    assert math.isnan(curve.high[3])
    crossed = torch.tanh(levels - torch.tensor([6.0, 2.0, 3.0, -3.0, -6.0], dtype=F64)[:, None])
    curve = recover(dataclasses.replace(profile, product=crossed), 0.0, increasing=True)
    assert curve.log_snr[1] == curve.log_snr[2]  # which neither of the two was read as
    assert ((curve.low <= curve.log_snr) & (curve.log_snr <= curve.high)).all()


def counted(process, time="index", **options):
    """A convention as the search has it, whose index may lie between two integers."""
    return leapstep.Convention(process, time=time, fractional=True, **options)


def profiled(process, timesteps, levels, clock="index"):
    """What an exact network on a process tells at these timesteps, without any luck."""
    grid = torch.arange(-9, 10.5, 0.75, dtype=F64)
    true = level_of(counted(process._replace(timesteps=None), clock, timesteps=levels), timesteps)
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
    best = fit(profile, counted(leapstep.linear(100)), None, False)[0]
    assert best.code == f"leapstep.from_betas({code})"
    assert (best.convention.time, best.convention.levels, best.plain) == ("index", len(betas), True)
    t = torch.linspace(0.1, 1, 9)  # the line is the curve that was compared
    torch.testing.assert_close(eval(best.code).log_snr(t), best.convention.process.log_snr(t), rtol=0, atol=1e-4)


def test_the_number_of_levels_is_not_read_from_a_fraction():
    """Whatever T was, 1000 or what is believed is named, as long as that fits."""
    share = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], dtype=F64)
    convention = counted(leapstep.linear(), "fraction")
    for levels in (100, 500, 1000):
        profile = profiled(leapstep.linear(levels), share, levels, "fraction")
        assert fit(profile, convention, None, False)[0].code == "leapstep.linear()"
        assert fit(profile, convention, None, False, 300)[0].code == "leapstep.linear(300)"
    table = leapstep.from_betas(torch.linspace(1e-4, 0.02, 200))  # here T makes the curve
    assert fit(profiled(table, share, 200, "fraction"), convention, None, False)[0].convention.levels == 200


def test_of_equal_curves_the_common_name_is_taken():
    timesteps = (torch.tensor([0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0], dtype=F64) * 999).round()
    profile = profiled(leapstep.linear(), timesteps, 1000)
    convention = counted(leapstep.linear())
    fits = fit(profile, convention, None, False)
    linear, vp, cosine = (
        next(each for each in fits if each.schedule == schedule and each.convention.time == "index")
        for schedule in ("linear", "vp", "cosine")
    )
    lucky = vp._replace(misfit=0.7)
    assert usual([linear._replace(misfit=1.0), cosine], lucky, timesteps, 1.0).code == "leapstep.linear()"
    assert usual([linear, vp], cosine, timesteps, 1.0) is cosine


T = torch.linspace(0.01234, 0.98765, 34, dtype=F64)  # nowhere between two levels


@pytest.mark.parametrize("shift", [None, *SHIFTS[:4]])
def test_a_time_axis_that_is_read_is_that_of_the_process(shift):
    """Through the times that are known, and on towards both ends."""
    process = leapstep.flow(shift=shift or 1.0)
    pace = process.sigma if shift else lambda t: torch.sin(math.pi / 2 * t) ** 2
    for count in (1000, 50):
        levels = straight_levels(T[3:-3], pace(T[3:-3]), count)
        read = leapstep.from_log_snr(levels, "flow")
        assert read.timesteps == count
        error = (read.sigma(T) - pace(T)).abs()
        slope = 0.5 / count * 3  # of a time that is rounded to the next level, on the steepest axis
        assert error[3:-3].max() < slope + 0.002
        assert error.max() < slope + 0.01
    assert straight_levels(T[:3], pace(T[:3]), 1000) is None


def shifted(stranger):
    """What is read of a flow network with a time axis of its own, once it is known to be one."""
    net, data = stranger.network()
    span = next(span for span in ranges(torch.from_numpy(data), False) if span.name == stranger.range)
    noise = torch.randn(300, *data.shape[1:], generator=torch.Generator().manual_seed(0))
    ask = Probe(net, lambda rows: {}, torch.device("cpu"))
    flows = [leapstep.flow(shift=shift) for shift in (1.0, *SHIFTS[:2])]
    pairs = [(span, counted(flow, stranger.time, reverse=stranger.reverse)) for flow in flows]
    trials = [one for kinds in compare(ask, pairs, 40, noise) for one in kinds]
    best = min((one for one in trials if one.predicts == stranger.predicts), key=lambda one: one.score)
    return net, data, refined(ask, best, noise, {}, whole_reading(noise)), ask


def test_schedules_are_compared_at_the_levels_that_both_reach():
    """One that leaves much signal is not better for not being asked at the noisy levels, where errors are large."""
    values = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    span = next(span for span in ranges(values, False) if span.name == "standardised")
    short = leapstep.from_betas(torch.linspace(1e-4, 0.02, 50))
    tried = [counted(process) for process in (short, leapstep.linear(50))]
    reached = [len(times_of(convention, span.linear.variance)) for convention in tried]
    assert reached[0] < reached[1] == len(LEVELS)
    best = torch.tensor([-0.5, -0.4, -0.3, 0.2, 0.6], dtype=F64)[: reached[1]]
    one = Trial(span, tried[0], best[: reached[0]] + 0.01, 10)
    other = Trial(span, tried[1], best, 10)
    assert one.score < other.score - 0.05
    assert behind(by_level(one), by_level(other)) == pytest.approx(0.01)
    assert behind(by_level(other), by_level(one)) == pytest.approx(-0.01)


def test_a_shifted_flow_is_named():
    flow = functools.partial(Stranger, "blobs", "standardised", schedule="flow", process=leapstep.flow())
    one = flow(predicts="-flow", time="fraction", reverse=True, pace=lambda t: 2 * t / (1 + t))
    best = shifted(one)[2].fits[0]
    assert best.title == "leapstep.flow(shift=2)"
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
    net, data, found, ask = shifted(stranger)
    assert "as it was read" in found.fits[0].title
    t = torch.linspace(0.2, 0.9, 8, dtype=F64)
    torch.testing.assert_close(found.convention.process.sigma(t), stranger.pace(t), rtol=0, atol=0.03)
    scope = {"net": net}
    samples = draw(data, None, None, 40, torch.Generator(), torch.device("cpu"))
    convention = complete(found, ask, samples)
    assert leapstep.Convention.from_json(convention.to_json()) == convention
    exec(snippet(convention, samples, False, 0.0, "cpu"), scope)
    samples = leapstep.sample(scope["diffusion"], (200, *data.shape[1:]), 20)
    assert samples.mean().item() == pytest.approx(data.mean(), abs=0.1)
    assert samples.std().item() == pytest.approx(data.std(), rel=0.1)


def test_a_belief_is_refuted_only_by_a_finding_that_is_not_in_doubt():
    """Where a finding is unsure, or nothing that was found explains the network, it says that the belief is open."""
    stranger = Stranger("blobs", "standardised", "flow", "flow", leapstep.flow(), "fraction", pace=lambda t: t**2)
    _, _, found, ask = shifted(stranger)
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
    assert diagnosis.convention.predicts == predicts


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
    levels = named_levels(curve, profile, counted(leapstep.cosine(100)))
    assert list(levels) == [1, 2, 3, 51, 61, 91, 100]
    assert leapstep.from_log_snr(levels).timesteps == 100
