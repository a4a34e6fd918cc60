"""Likelihoods against closed forms and against the papers' own formulas, in float64.

Where a term of the bound is quadratic in the data and the noise, both Gaussian, its expectation is taken exactly: over
the 4 d points +-sqrt(2 d) e_i, which have the right mean and covariance.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

import leapstep
from cases import MIXTURE, time
from leapstep.core.denoiser import Diffusion
from leapstep.core.likelihood import bits_per_dim, ode_log_likelihood, variational_bound
from leapstep.core.scaling import PIXELS, Scaling
from leapstep.networks import UNet

F64 = torch.float64
PROCESSES = {"linear": leapstep.linear(), "cosine": leapstep.cosine(), "ve": leapstep.ve(), "flow": leapstep.flow(1000)}
NO_SIGNAL = {  # the same, with as good as no signal at the end, where the model's start is the data's own
    "linear": leapstep.rescale_zero_terminal_snr(leapstep.linear()),
    "cosine": leapstep.cosine(),
    "ve": leapstep.ve(sigma_max=2000.0),
    "flow": leapstep.flow(1000),
}
PATHS = {
    "all of 40": lambda process: leapstep.times(process, 40),
    "quad": lambda process: leapstep.times(process, 9, "quad"),
    "uneven": lambda process: [1.0, 0.9, 0.31, 0.3, 0.02, 0.0],
    "one step": lambda process: [0.5, 0.0],
}
MEAN = torch.tensor([0.7, -0.4, 0.1], dtype=F64)
COVARIANCE = torch.tensor([[1.0, 0.3, 0.1], [0.3, 0.4, -0.1], [0.1, -0.1, 0.2]], dtype=F64)
GAUSSIAN = leapstep.GaussianMixture(MEAN[None], COVARIANCE[None])


def eight_dimensional():
    generator = torch.Generator().manual_seed(0)
    means, roots = (torch.randn(*shape, dtype=F64, generator=generator) for shape in [(2, 8), (2, 8, 8)])
    return leapstep.GaussianMixture(means, roots @ roots.mT / 16 + 0.1 * torch.eye(8, dtype=F64))


MIXTURES = {"2-D, isotropic": MIXTURE, "8-D, full": eight_dimensional()}


def curves(process, t):
    return process.alpha(time(t)).item(), process.sigma(time(t)).item()


def cubature(mean=MEAN, covariance=COVARIANCE):
    """Data and noise whose averages of quadratics are the expectations."""
    d = len(mean)
    points = math.sqrt(2 * d) * torch.cat([torch.eye(2 * d, dtype=F64), -torch.eye(2 * d, dtype=F64)])
    x0 = mean + points[:, :d] @ torch.linalg.cholesky(covariance).mT
    return x0, lambda step, draw=0: points[:, d:]


def spread_of(process, covariance=COVARIANCE):
    """E tr Cov[x0 | x_t] / d of Gaussian data."""
    values = torch.linalg.eigvalsh(covariance)

    def curve(t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return (values * sigma**2 / (alpha**2 * values + sigma**2)).mean()

    return curve


def gaussian_bound(process, path, variance, **given):
    x0, noise = cubature()
    if variance == "optimal":
        given = {"spread": spread_of(process), **given}
    bound = variational_bound(GAUSSIAN.diffusion(process), x0, path, noise, variance=variance, **given)
    return bound.prior.mean(), bound.steps.mean(1), bound.reconstruction.mean()


ENTROPY = torch.distributions.MultivariateNormal(MEAN, COVARIANCE).entropy()


# --- the bound -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("variance", ["posterior", "beta", "optimal"])
def test_every_term_on_gaussian_data_is_its_closed_form(name, variance, path):
    """From the textbook's formulas: the KL of two Gaussians, and the error of the best linear estimate."""
    process, times = PROCESSES[name], list(map(float, PATHS[path](PROCESSES[name])))
    prior, steps, reconstruction = gaussian_bound(process, times, variance)
    power, d = (COVARIANCE.trace() + MEAN.square().sum()).item(), 3
    alpha, sigma = curves(process, times[0])
    assert prior.item() == pytest.approx(alpha**2 * power / (2 * sigma**2), rel=1e-9, abs=1e-12)

    terms = []
    for t, s in pairwise(times):
        (a_t, s_t), (a_s, s_s) = curves(process, t), curves(process, s)
        error = d * spread_of(process)(time(t)).item()
        var_q = s_s**2 * (1 - (a_t * s_s / (s_t * a_s)) ** 2)
        kappa = a_s - math.sqrt(s_s**2 - var_q) * a_t / s_t
        var = {"posterior": var_q, "beta": s_t**2 - (a_t * s_s / a_s) ** 2, "optimal": var_q + kappa**2 * error / d}
        if s > 0:
            ratio = var_q / var[variance]
            terms.append(d / 2 * (ratio - 1 - math.log(ratio)) + kappa**2 * error / (2 * var[variance]))
            continue
        var["posterior"] = var["beta"] = s_t**2
        terms.append(d / 2 * math.log(2 * math.pi * var[variance]) + error / (2 * var[variance]))
    torch.testing.assert_close(torch.cat([steps, reconstruction[None]]), time(terms), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize("name", PROCESSES)
def test_the_optimal_variance_makes_the_bound_tight_on_isotropic_data(name, steps):
    """Every reverse step is then exact, so that nothing is lost but at the start, KL(q(x_T) || N(0, sigma^2 I))."""
    process, c = PROCESSES[name], 0.37
    covariance = c * torch.eye(3, dtype=F64)
    x0, noise = cubature(MEAN, covariance)
    diffusion = leapstep.GaussianMixture(MEAN[None], time([c])).diffusion(process)
    path = leapstep.times(process, steps)
    bound = variational_bound(diffusion, x0, path, noise, variance="optimal", spread=spread_of(process, covariance))
    alpha, sigma = curves(process, path[0].item())
    ratio = (alpha**2 * c + sigma**2) / sigma**2
    lost = 1.5 * (ratio - 1 - math.log(ratio)) + alpha**2 * MEAN.square().sum().item() / (2 * sigma**2)
    entropy = 1.5 * math.log(2 * math.pi * math.e * c)
    assert bound.total.mean().item() == pytest.approx(entropy + lost, abs=1e-8)


@pytest.mark.parametrize("name", PROCESSES)
def test_no_variance_beats_the_optimal_one(name):
    total = {
        variance: sum(term.sum() for term in gaussian_bound(PROCESSES[name], PATHS["uneven"](None), variance))
        for variance in ("optimal", "posterior", "beta")
    }
    assert total["optimal"] < min(total["posterior"], total["beta"]) - 0.01
    assert total["optimal"] > ENTROPY


@pytest.mark.parametrize("name", PROCESSES)
def test_finer_steps_bring_the_bound_down_to_the_entropy(name):
    """Lists that contain each other, with the same last two steps; with the variance of any kind."""
    process = PROCESSES[name]._replace(timesteps=None)
    fine = leapstep.times(process, 257, "log_snr")
    for variance in ("posterior", "optimal"):
        gaps = []
        for stride in (64, 16, 4, 1):
            path = torch.cat([fine[:-2][::stride], fine[-2:]])
            gaps.append(sum(term.sum() for term in gaussian_bound(process, path, variance)).item() - ENTROPY.item())
        assert all(coarse > 2 * finer > 0 for coarse, finer in pairwise(gaps)), gaps
        assert gaps[-2] / gaps[-1] == pytest.approx(4, abs=0.7)  # four times as many steps
        assert gaps[-1] < {"posterior": 1.0, "optimal": 0.014}[variance]


def test_on_a_mixture_the_bound_comes_down_to_the_true_log_density():
    """Paired with log q(x0), so that 1000 points tell the gap well."""
    process, x0 = leapstep.cosine()._replace(timesteps=None), MIXTURE.sample(1000)
    noise = leapstep.Noise(0, range(1000), (2,), F64)
    gaps = []
    for steps in (5, 80, 320):
        path = leapstep.times(process, steps, "log_snr")
        bound = variational_bound(MIXTURE.diffusion(process), x0, path, noise)
        gap = bound.total + MIXTURE.log_density(x0)
        gaps.append(gap.mean().item())
        assert gaps[-1] > -3 * gap.std().item() / 1000**0.5
    assert gaps[0] > 50 * gaps[1]
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.2)


def curved(x, k):
    """A network that is not linear and not ideal, with an opinion on the variance in a second channel."""
    eps = torch.tanh(1.3 * x) + 0.1 * x * (k.to(x.dtype) / 50).reshape(-1, *[1] * (x.ndim - 1))
    return torch.cat([eps, torch.sin(3 * x)], 1)


def pictures(n=6):
    pixels = torch.randint(0, 256, (n, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    pixels[0], pixels[1] = 0, 255
    return pixels, (pixels.double() - 127.5) / 127.5


@pytest.mark.parametrize("variance", ["posterior", "beta", "learned"])
def test_all_steps_from_the_betas_as_the_papers_wrote_it(variance):
    """Ho et al. eq. 7, 8 and 13 and Nichol and Dhariwal eq. 15, with the coefficients of their code; 8-bit data.

    At the last step, where the posterior's variance is 0: beta_1, or of the learned ones the posterior's before it.
    """
    betas = torch.linspace(0.002, 0.3, 50, dtype=F64)
    bar = (1 - betas).cumprod(0)
    bar_before = torch.cat([torch.ones(1, dtype=F64), bar[:-1]])
    posterior_variance = betas * (1 - bar_before) / (1 - bar)
    log_posterior = torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log()
    coef1, coef2 = betas * bar_before.sqrt() / (1 - bar), (1 - bar_before) * (1 - betas).sqrt() / (1 - bar)
    pixels, x0 = pictures()
    noise = leapstep.Noise(3, range(6), (1, 2, 2), F64)

    terms = []
    for step, k in enumerate(range(49, -1, -1), start=1):
        x = bar[k].sqrt() * x0 + (1 - bar[k]).sqrt() * noise(step)
        eps, opinion = curved(x, torch.full((6,), k)).chunk(2, 1)
        estimate = (x - (1 - bar[k]).sqrt() * eps) / bar[k].sqrt()
        mean = coef1[k] * estimate + coef2[k] * x
        share = (opinion + 1) / 2
        log_var = {
            "posterior": (log_posterior[k] if k > 0 else betas[0].log()).expand_as(x),
            "beta": betas[k].log().expand_as(x),
            "learned": share * betas[k].log() + (1 - share) * log_posterior[k],
        }[variance]
        if k > 0:
            exact = coef1[k] * x0 + coef2[k] * x
            kl = 0.5 * (-1 + log_var - log_posterior[k] + (log_posterior[k] - log_var).exp())
            terms.append((kl + 0.5 * (exact - mean) ** 2 * (-log_var).exp()).flatten(1).sum(1))
            continue
        law = stats.norm(mean.numpy(), (log_var / 2).exp().numpy())
        below, above = law.cdf((x0 - 1 / 255).numpy()), law.cdf((x0 + 1 / 255).numpy())
        below[pixels == 0], above[pixels == 255] = 0, 1
        terms.append(-torch.from_numpy(np.log(above - below)).flatten(1).sum(1))
    prior = 0.5 * (-1 - (1 - bar[-1]).log() + (1 - bar[-1]) + bar[-1] * x0**2).flatten(1).sum(1)

    diffusion = leapstep.from_network(curved, leapstep.from_betas(betas))
    ours = variational_bound(
        diffusion, x0, leapstep.times(diffusion.process, 50), noise, variance=variance, pixels=PIXELS
    )
    torch.testing.assert_close(ours.steps, torch.stack(terms[:-1]), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.reconstruction, terms[-1], rtol=1e-7, atol=1e-9)
    # theirs compares with N(0, I), ours with the N(0, sigma(T)^2 I) that samplers start from
    change = 2 * (-1 - (1 - bar[-1]).log() + (1 - bar[-1])) + 0.5 * (
        bar[-1] - bar[-1] / (1 - bar[-1])
    ) * x0.square().sum((1, 2, 3))
    torch.testing.assert_close(ours.prior, prior - change, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.total, ours.prior + torch.stack(terms).sum(0), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("fraction", "variance"), [(0.0, "posterior"), (1.0, "beta")])
def test_a_learned_variance_spans_from_posterior_to_beta(fraction, variance):
    _, x0 = pictures()
    net = lambda x, k: torch.cat([curved(x, k)[:, :1], torch.full_like(x, 2 * fraction - 1)], 1)  # noqa: E731
    diffusion = leapstep.from_network(net, PROCESSES["cosine"])
    noise = leapstep.Noise(3, range(6), (1, 2, 2), F64)
    learned, fixed = (
        variational_bound(diffusion, x0, leapstep.times(diffusion.process, 5), noise, variance=kind, pixels=PIXELS)
        for kind in ("learned", variance)
    )
    torch.testing.assert_close(learned.steps, fixed.steps, rtol=1e-12, atol=0)


def test_a_step_says_of_the_last_what_the_network_did():
    """One call of the network a step, whether it learned its variance or not; and the noise of each step is its own."""
    calls, steps, terms = [], [], []

    def net(x, k):
        calls.append(k[0].item())
        return curved(x, k)

    diffusion = leapstep.from_network(net, PROCESSES["cosine"])
    noise = leapstep.Noise(3, range(6), (1, 2, 2), F64)
    bound = variational_bound(
        diffusion,
        pictures()[1],
        leapstep.times(diffusion.process, 4),
        lambda step: steps.append(step) or noise(step),
        variance="learned",
        on_term=lambda step, term: terms.append((step, term)),
    )
    assert calls == [999, 749, 499, 249]
    assert steps == [step for step, _ in terms] == [1, 2, 3, 4]
    assert torch.equal(torch.stack([term for _, term in terms]), torch.cat([bound.steps, bound.reconstruction[None]]))


@pytest.mark.parametrize("estimate", [0.3, -1.0, 1.5, 40.0])
@pytest.mark.parametrize("t", [1e-3, 0.05, 1.0])
@pytest.mark.parametrize("scaling", [PIXELS, Scaling(0.0, 255.0), Scaling(30.0, 50.0)])
def test_the_probabilities_of_all_256_values_sum_to_one(estimate, t, scaling):
    diffusion = Diffusion(PROCESSES["ve"], lambda x, t: torch.full_like(x, estimate))
    x0 = (torch.arange(256, dtype=F64)[:, None] - scaling.shift) / scaling.scale
    bound = variational_bound(diffusion, x0, [t, 0.0], lambda step: torch.zeros_like(x0), pixels=scaling)
    assert bound.reconstruction.isfinite().all()
    assert (-bound.reconstruction).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_bins_far_out_have_the_right_logarithm():
    """Where both tails round to 1, or to 0, in float64: against the asymptotic expansion of the tail."""
    diffusion = Diffusion(PROCESSES["ve"], lambda x, t: torch.full_like(x, -1.0))
    x0 = torch.ones(2, 1, dtype=F64)
    x0[1] = 253 / 127.5 - 1
    bound = variational_bound(diffusion, x0, [1e-3, 0.0], lambda step: torch.zeros_like(x0), pixels=PIXELS)
    for value, low in zip(bound.reconstruction.tolist(), (254.5, 252.5), strict=True):
        assert value == pytest.approx(-stats.norm.logsf(low / 127.5 / 0.01), rel=1e-6)


def test_samples_in_a_batch_do_not_know_of_each_other():
    _, x0 = pictures()
    diffusion = leapstep.from_network(curved, PROCESSES["linear"])
    path = leapstep.times(diffusion.process, 5)
    together = variational_bound(diffusion, x0, path, leapstep.Noise(3, range(6), (1, 2, 2), F64), pixels=PIXELS)
    apart = variational_bound(diffusion, x0[4:], path, leapstep.Noise(3, range(4, 6), (1, 2, 2), F64), pixels=PIXELS)
    torch.testing.assert_close(together.total[4:], apart.total, rtol=1e-12, atol=0)
    other = variational_bound(diffusion, x0, path, leapstep.Noise(4, range(6), (1, 2, 2), F64), pixels=PIXELS)
    assert (together.total != other.total).all()


@pytest.mark.parametrize("variance", ["posterior", "learned"])
def test_float32_agrees_with_float64(variance):
    _, x0 = pictures()
    diffusion = leapstep.from_network(curved, PROCESSES["linear"])
    path = leapstep.times(diffusion.process, 20)
    exact, rounded = (
        variational_bound(
            diffusion,
            x0.to(dtype),
            path,
            leapstep.Noise(3, range(6), (1, 2, 2), dtype),
            variance=variance,
            pixels=PIXELS,
        )
        for dtype in (F64, torch.float32)
    )
    assert rounded.total.dtype == F64
    torch.testing.assert_close(rounded.total, exact.total, rtol=1e-4, atol=1e-4)


def test_a_measured_spread_of_zero_falls_back_on_the_posterior():
    x0, noise = cubature()
    diffusion, path = GAUSSIAN.diffusion(PROCESSES["cosine"]), [0.5, 0.1, 0.0]
    optimal = variational_bound(diffusion, x0, path, noise, variance="optimal", spread=torch.zeros_like)
    posterior = variational_bound(diffusion, x0, path, noise, variance="posterior")
    torch.testing.assert_close(optimal.total, posterior.total)


def test_bits_per_dim():
    """Of 8-bit noise no model knows more than 8 bits a value."""
    torch.testing.assert_close(bits_per_dim(time([12 * math.log(256)]), (3, 2, 2)), time([8.0]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"times": [1.0, 0.5]}, "end at 0.5: .* must end at 0"),
        ({"times": [0.5, 0.6, 0.0]}, "strictly decreasing"),
        ({"times": [0.0]}, "two or more"),
        ({"times": [1000.0, 0.0]}, "times lie in"),
        ({"variance": "most"}, "unknown variance='most': use one of posterior, beta, optimal, learned"),
        ({"variance": "optimal"}, "spread goes with 'optimal'"),
        ({"spread": torch.ones_like}, "spread goes with 'optimal'"),
        ({"variance": "learned"}, "learned no variance"),
        ({"pixels": PIXELS}, "not all whole numbers from 0 to 255: pass pixels=None"),
        ({"pixels": Scaling(0.0, 1e-4)}, "not all whole numbers|inf"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_the_bound_refuses(given, words):
    x0, noise = cubature()
    if given.get("pixels") == Scaling(0.0, 1e-4):
        x0 = torch.full_like(x0, 256 / 1e-4)
    arguments = {"times": [1.0, 0.0], **given}
    with pytest.raises(ValueError, match=words):
        variational_bound(GAUSSIAN.diffusion(PROCESSES["cosine"]), x0, noise=noise, **arguments)


# --- the ODE -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("name", NO_SIGNAL)
def test_the_density_of_the_ode_is_that_of_the_data(name, mixture):
    law, process = MIXTURES[mixture], NO_SIGNAL[name]._replace(timesteps=None)
    x0, d = law.sample(24), law.means.shape[1]
    density = ode_log_likelihood(law.diffusion(process), x0, [1.0, 1e-4], None, probes=0, tolerance=3e-5)
    error = (density.log_likelihood - law.log_density(x0)).abs() / d
    assert error.mean() < 2e-4
    assert error.max() < 1e-3
    assert density.calls < 120


@pytest.mark.parametrize("start", [1.0, 0.4])
@pytest.mark.parametrize("name", PROCESSES)
def test_the_density_on_gaussian_data_is_exactly_what_is_documented(name, start):
    """The map from data to noise is affine, so the density, with its blur at t_min and its start, is a formula."""
    process, c, d = PROCESSES[name]._replace(timesteps=None), 0.37, 3
    x0 = MEAN + 0.6 * torch.randn(5, d, dtype=F64, generator=torch.Generator().manual_seed(0))
    diffusion = leapstep.GaussianMixture(MEAN[None], time([c])).diffusion(process)
    (a_0, s_0), (a_1, s_1) = curves(process, 0.02), curves(process, start)
    gain = math.sqrt((a_1**2 * c + s_1**2) / (a_0**2 * c + s_0**2))
    noise = a_1 * MEAN + gain * a_0 * (x0 - MEAN)
    expected = torch.from_numpy(stats.norm.logpdf(noise.numpy(), scale=s_1)).sum(1) + d * math.log(gain * a_0)
    density = ode_log_likelihood(diffusion, x0, [start, 0.02, 0.0], None, probes=0, tolerance=1e-8)
    torch.testing.assert_close(density.log_likelihood, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "documented"), [("ve", 0.08), ("linear", 0.025), ("cosine", 0.0002)])
def test_the_start_beside_the_datas_mean_costs_what_is_documented(name, documented):
    """A normal number of deviation a, and a^2 / 2 on average; nothing where the model's origin is the mean."""
    process, one = leapstep.SCHEDULES[name](), time(1.0)
    law = leapstep.GaussianMixture(torch.full((1, 64), 0.5, dtype=F64), time([0.3]))
    diffusion, x0 = law.diffusion(process), law.sample(64)
    a = (process.alpha(one) * 0.5 * 64**0.5 / process.sigma(one)).item()
    assert a == pytest.approx(documented, rel=0.05)
    path = leapstep.times(process, 40, "log_snr")
    there, beside = (
        ode_log_likelihood(diffusion._replace(origin=origin), x0, path, leapstep.Noise(0, range(64), (64,), F64))
        for origin in (0.5, 0.0)
    )
    off = beside.log_likelihood - there.log_likelihood
    assert abs(off.mean().item() + a**2 / 2) < 4 * a / 64**0.5
    assert off.std().item() == pytest.approx(a, rel=0.35)


def test_fixed_steps_converge_with_order_five_to_the_adaptive_solution():
    process, x0 = PROCESSES["linear"]._replace(timesteps=None), MIXTURE.sample(16)
    diffusion = MIXTURE.diffusion(process)
    solve = lambda times, tolerance: ode_log_likelihood(  # noqa: E731
        diffusion, x0, times, None, probes=0, tolerance=tolerance
    )
    ends = process.time(time([-8.0, 6.0]))
    exact, error, counts = solve(ends, 1e-8), [], [8, 16, 24]
    for steps in counts:
        fixed = solve(process.time(torch.linspace(-8, 6, steps + 1, dtype=F64)), None)
        assert fixed.calls == 6 * steps + 1
        error.append((fixed.log_likelihood - exact.log_likelihood).square().mean().sqrt().item())
    slope = stats.linregress(np.log2(counts), np.log2(error)).slope
    assert -slope > 4.8
    for tolerance in (1e-3, 1e-5):
        near = solve(ends, tolerance).log_likelihood - exact.log_likelihood
        assert near.abs().max() < 40 * tolerance


@pytest.mark.parametrize("std", [0.001, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", ["linear", "flow", "karras"])
def test_adaptive_steps_do_not_leap_over_the_data(name, std):
    """Whatever the size of the data, hence the noise level at which they are decided, is between very long steps."""
    process = leapstep.SCHEDULES[name]()._replace(timesteps=None)
    law = leapstep.GaussianMixture(std * time([[-1.0], [1.0]]), std**2 * time([0.0001, 0.3]))
    diffusion, x0 = law.diffusion(process), law.sample(8)

    def solve(tolerance):
        return ode_log_likelihood(diffusion, x0, [1.0, 1e-3], None, probes=0, tolerance=tolerance).log_likelihood

    exact = solve(1e-6)
    for tolerance in (1e-2, 1e-3):
        assert (solve(tolerance) - exact).abs().max() < 40 * tolerance


def test_probes_are_unbiased_and_average_out():
    process = PROCESSES["cosine"]._replace(timesteps=None)
    law, n = MIXTURES["8-D, full"], 400
    diffusion, x0 = law.diffusion(process), law.sample(1)
    path = process.time(torch.linspace(-8, 6, 7, dtype=F64))
    exact = ode_log_likelihood(diffusion, x0, path, None, probes=0).log_likelihood
    spread = {}
    for probes in (1, 4):
        noise = leapstep.Noise(probes, range(n), (8,), F64)
        found = ode_log_likelihood(diffusion, x0.expand(n, 8), path, noise, probes=probes).log_likelihood
        spread[probes] = found.std().item()
        assert abs(found.mean() - exact).item() < 4 * spread[probes] / math.sqrt(n)
        assert spread[probes] > 0.05
    assert spread[1] / spread[4] == pytest.approx(2, abs=0.3)


def test_a_clipped_estimate_still_makes_a_density():
    """The field bends where it clips, and the density bends with it, but all of it is there: its integral is 1."""
    process = PROCESSES["cosine"]._replace(timesteps=None)
    law = leapstep.GaussianMixture(time([[-0.8], [0.6]]), time([0.04, 0.1]))
    diffusion = leapstep.clipped(law.diffusion(process), (-1.0, 0.9))
    x0 = torch.linspace(-2.5, 2.5, 401, dtype=F64)[:, None]
    density = ode_log_likelihood(diffusion, x0, [1.0, 0.03], None, probes=0, tolerance=1e-4).log_likelihood.exp()
    assert (density.sum() * 5 / 400).item() == pytest.approx(1, abs=2e-3)
    assert (density - law.log_density(x0).exp()).abs().max() > 0.1


def test_eight_bit_values_get_the_probability_of_their_bins():
    """Averaged over the noise that spreads them, the density gives the mass of the bin, and its log a bound on that."""
    process, scaling, n = PROCESSES["flow"], Scaling(10.0, 5.0), 2000
    law = leapstep.GaussianMixture(time([[-0.8], [0.6]]), time([0.02, 0.05]))
    x0 = torch.full((n, 1), (7 - 10) / 5, dtype=F64)
    noise = leapstep.Noise(0, range(n), (1,), F64)
    path = leapstep.times(process, 25, "log_snr")
    found = ode_log_likelihood(law.diffusion(process), x0, path, noise, probes=0, pixels=scaling).log_likelihood
    cdf = lambda x: sum(stats.norm.cdf(x, m, v**0.5) for m, v in ((-0.8, 0.02), (0.6, 0.05))) / 2  # noqa: E731
    mass = cdf((7.5 - 10) / 5) - cdf((6.5 - 10) / 5)
    error = found.exp().std().item() / math.sqrt(n)
    assert abs(found.exp().mean().item() - mass) < 4 * error < 0.05 * mass
    assert math.log(mass) - 0.2 < found.mean().item() < math.log(mass)


def test_a_sample_has_steps_of_its_own():
    process = PROCESSES["linear"]._replace(timesteps=None)
    diffusion, x0 = MIXTURE.diffusion(process), MIXTURE.sample(6) * time([1, 1, 1, 1, 1, 3])[:, None]
    noise = leapstep.Noise(0, range(6), (2,), F64)
    together = ode_log_likelihood(diffusion, x0, [1.0, 0.001], noise, tolerance=1e-3)
    for i in (0, 5):
        noise = leapstep.Noise(0, range(i, i + 1), (2,), F64)
        alone = ode_log_likelihood(diffusion, x0[i : i + 1], [1.0, 0.001], noise, tolerance=1e-3)
        torch.testing.assert_close(together.log_likelihood[i : i + 1], alone.log_likelihood, rtol=1e-9, atol=1e-9)
        assert alone.calls <= together.calls


def test_progress_runs_to_one_and_calls_are_counted():
    process, calls = PROCESSES["cosine"]._replace(timesteps=None), []
    exact = MIXTURE.diffusion(process)
    diffusion = Diffusion(process, lambda x, t: calls.append(t) or exact.denoise(x, t))
    for tolerance in (None, 1e-2):
        shares = []
        calls.clear()
        density = ode_log_likelihood(
            diffusion,
            MIXTURE.sample(3),
            [1.0, 0.5, 0.1, 0.01],
            None,
            probes=0,
            tolerance=tolerance,
            on_step=shares.append,
        )
        assert len(calls) == density.calls == 6 * len(shares) + 1
        assert shares == sorted(shares)
        assert shares[-1] == 1


def random_unet():
    torch.manual_seed(0)
    network = UNet(in_channels=1, channels=(8, 8), attention=(False, True), blocks=1, groups=4).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # the last layer is 0 at first
    return network


def test_a_network_with_attention_against_its_jacobian():
    """A bit of the way through a U-Net: the determinant, by finite differences of where the library's sampler leads."""
    process = PROCESSES["cosine"]
    diffusion = leapstep.from_network(random_unet().double(), process, fractional=True)
    x0, steps = torch.linspace(-1, 1, 16, dtype=F64).reshape(1, 1, 4, 4), 1e-5 * torch.eye(16, dtype=F64)
    path = torch.linspace(0.49, 0.5, 5, dtype=F64)
    moved = torch.cat([x0, *(x0 + sign * steps.reshape(16, 1, 4, 4) for sign in (1, -1))])
    with torch.no_grad():
        *_, last = leapstep.trajectory(diffusion, process.alpha(path[0]) * moved, path, leapstep.rk4())
    ends = last.x.flatten(1)
    logdet = torch.linalg.slogdet((ends[1:17] - ends[17:]) / 2e-5).logabsdet
    expected = stats.norm.logpdf(ends[0].numpy(), scale=process.sigma(path[-1]).item()).sum() + logdet.item()
    found = ode_log_likelihood(diffusion, x0, path.flip(0), None, probes=0)
    assert found.log_likelihood.item() == pytest.approx(expected, abs=1e-5)
    assert abs(logdet.item() - 16 * process.alpha(path[-1]).log().item()) > 0.05  # without a network it would be that


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_float32_in_any_mode_of_gradients(mode):
    """The derivatives are taken whatever the caller's mode is, and leave nothing behind."""
    network, found = random_unet(), {}
    for dtype in (F64, torch.float32):
        diffusion = leapstep.from_network(network.to(dtype), PROCESSES["cosine"], fractional=True)
        noise = leapstep.Noise(0, range(2), (1, 4, 4), dtype)
        with mode():
            x0 = torch.linspace(-1, 1, 2 * 16, dtype=dtype).reshape(2, 1, 4, 4)
            found[dtype] = ode_log_likelihood(diffusion, x0, [0.9, 0.5, 0.2], noise).log_likelihood
    assert found[torch.float32].dtype == F64
    assert not found[F64].requires_grad
    torch.testing.assert_close(found[torch.float32], found[F64], rtol=1e-4, atol=1e-3)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"times": [1.0, 0.0]}, "1 times above 0: .* two times or more above 0"),
        ({"times": [0.1, 0.2]}, "strictly decreasing"),
        ({"probes": -1}, "probes=-1.* must be 0 or more"),
        ({"tolerance": 1e-15}, "tolerance=1e-15.* at least 2e-15 in torch.float64"),
        ({"tolerance": math.nan}, "tolerance=nan"),
        ({"pixels": PIXELS}, "not all whole numbers from 0 to 255"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_the_ode_refuses(given, words):
    x0, noise = cubature()
    with pytest.raises(ValueError, match=words):
        ode_log_likelihood(
            GAUSSIAN.diffusion(PROCESSES["cosine"]), x0, **{"times": [1.0, 0.1], "noise": noise, **given}
        )


def test_a_denoiser_without_derivatives_is_refused():
    exact = GAUSSIAN.diffusion(PROCESSES["cosine"])
    diffusion = exact._replace(denoise=torch.no_grad()(exact.denoise))
    with pytest.raises(ValueError, match=r"no derivative in x: take torch.no_grad\(\) out of it"):
        ode_log_likelihood(diffusion, cubature()[0], [1.0, 0.1], None, probes=0)


def test_steps_that_shrink_to_nothing_end_with_a_message():
    exact = MIXTURE.diffusion(PROCESSES["cosine"])
    broken = exact._replace(denoise=lambda x, t: exact.denoise(x, t) * math.nan)
    with pytest.raises(
        FloatingPointError,
        match=r"no step from t = .* for tolerance=0.001: .* not finite there, or jumps: .* with fixed steps",
    ):
        ode_log_likelihood(broken, MIXTURE.sample(2), [1.0, 0.01], None, probes=0, tolerance=1e-3)


@pytest.mark.parametrize("name", ["linear", "ve"])
def test_likelihoods_in_the_users_range_are_the_networks_less_the_log_of_the_scale(name):
    """Also where signal is left at t = 1, so that the start, around alpha(1) origin, is part of the model."""
    process = {"linear": leapstep.linear(100, beta_end=0.003), "ve": leapstep.ve(sigma_max=3.0)}[name]
    model = MIXTURE.diffusion(process)._replace(origin=MIXTURE.means.mean(0))
    shift, scale = torch.tensor([3.0, -2.0], dtype=F64), 2.5
    theirs, x0 = leapstep.scaled(model, shift, scale), MIXTURE.sample(6)
    less, times, noise = 2 * math.log(scale), leapstep.times(process, 30), leapstep.Noise(0, range(6), (2,), F64)
    pairs = ((model, x0), (theirs, scale * x0 + shift))
    plain, wide = (ode_log_likelihood(one, x, times, noise, probes=0).log_likelihood for one, x in pairs)
    torch.testing.assert_close(wide, plain - less, rtol=1e-2, atol=1e-2)
    ours, other = (variational_bound(one, x, times, noise) for one, x in pairs)
    torch.testing.assert_close(other.prior, ours.prior)
    torch.testing.assert_close(other.total, ours.total + less)
