"""A Gaussian as the origin of sampling: its flow from noise is exact, for each row, and estimated from few samples."""

import pickle

import pytest
import torch

import leapstep
from cases import F64, time
from leapstep.core.denoiser import scaled
from leapstep.core.sampling import path_of

SHAPE = (2, 3)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def law(rank=4, means=()):
    basis = torch.linalg.qr(normal(6, 6, seed=1)).Q[:rank]
    return leapstep.Gaussian(
        normal(*means, *SHAPE, seed=2), basis, torch.tensor([4.0, 1.5, 0.6, 0.1, 0.05, 0.01])[:rank], 0.2
    )


def covariance(gaussian):
    """C in full."""
    basis, variances = gaussian.basis.double(), gaussian.variances.double()
    return gaussian.rest * torch.eye(basis.shape[1], dtype=F64) + (basis.T * (variances - gaussian.rest)) @ basis


def exact(gaussian, process="cosine"):
    """The diffusion of data with this law, with its exact denoiser."""
    return leapstep.GaussianMixture(gaussian.mean[None], covariance(gaussian)[None]).diffusion(process)


@pytest.mark.parametrize("rank", [0, 4, 6])
def test_a_start_is_the_symmetric_root_of_the_marginal(rank):
    """Low rank and a rest are the formula with full matrices, for a time of all and for each sample's own."""
    process, gaussian, eps = leapstep.cosine(), law(rank), normal(5, *SHAPE)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    whole = alpha[:, None, None] ** 2 * covariance(gaussian) + sigma[:, None, None] ** 2 * torch.eye(6, dtype=F64)
    values, vectors = torch.linalg.eigh(whole)
    root = (vectors * values.sqrt()[:, None]) @ vectors.mT
    expected = alpha[:, None, None] * gaussian.mean + (root @ eps.flatten(1)[..., None]).reshape(5, *SHAPE)
    together = gaussian.marginal(process, t, eps)
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(
        torch.cat([gaussian.marginal(process, t[i], eps[i : i + 1]) for i in range(5)]), together
    )
    torch.testing.assert_close(gaussian.latent(process, t, together), eps)
    spread = torch.distributions.MultivariateNormal(alpha[:, None] * gaussian.mean.flatten(), whole)
    torch.testing.assert_close(gaussian.log_density(process, t, expected), spread.log_prob(expected.flatten(1)))


@pytest.mark.parametrize("process", ["cosine", "ve"])
def test_the_ode_of_gaussian_data_passes_through_the_starts(process):
    """From any first time the data are m + C^(1/2) eps, but for the solver's error, which halving its steps shows."""
    gaussian = law()
    diffusion = exact(gaussian, process)._replace(origin=gaussian)
    expected = gaussian.marginal(diffusion.process, 0.0, leapstep.Noise(0, range(3), SHAPE, F64)(0))
    for first in (0.95, 0.6):
        errors = []
        for n in (30, 60):
            path = leapstep.times(diffusion.process, n, "log_snr")
            x0 = leapstep.sample(diffusion, (3, *SHAPE), first * path, "unipc", dtype=F64)
            errors.append((x0 - expected).abs().max().item())
        assert errors[1] < 5e-3
        assert errors[1] < errors[0] / 3, "of order 2 or more towards these data, and no others"


def test_a_start_below_one_replaces_the_way_from_pure_noise():
    """The same noise gives the same data as a fine solver that begins in it, at t = 1."""
    gaussian = law()
    plain = exact(gaussian)
    fine = leapstep.sample(plain, (3, *SHAPE), 100, leapstep.unipc(3), dtype=F64)
    few = leapstep.times(plain.process, 60)[12:]
    started = leapstep.sample(plain._replace(origin=gaussian), (3, *SHAPE), few, leapstep.unipc(3), dtype=F64)
    torch.testing.assert_close(started, fine, rtol=0, atol=8e-3)
    whole = leapstep.sample(plain, (3, *SHAPE), few, leapstep.unipc(3), dtype=F64)
    assert (whole - fine).abs().max() > 0.1, "without the law, a first time below 1 lacks the data's size"


def test_each_sample_has_the_mean_of_its_class():
    process, gaussian, labels = leapstep.cosine(), law(means=(4,)), torch.tensor([3, 0, 3])
    eps, t = normal(3, *SHAPE), time(0.4)
    chosen = gaussian.of_classes(labels).marginal(process, t, eps)
    for i, label in enumerate(labels):
        one = leapstep.Gaussian(gaussian.mean[label], gaussian.basis, gaussian.variances, gaussian.rest)
        torch.testing.assert_close(chosen[i], one.marginal(process, t, eps[i : i + 1])[0])
    with pytest.raises(ValueError, match=r"4 means for 3 samples: choose with of_classes\(labels\)"):
        gaussian.marginal(process, t, eps)


def test_another_range_has_the_law_of_its_data():
    gaussian, shift = law(), normal(*SHAPE, seed=5)
    diffusion = scaled(exact(gaussian)._replace(origin=gaussian), shift, -3.0)
    data = gaussian.marginal(diffusion.process, 0.0, normal(4, *SHAPE)) * -3 + shift
    torch.testing.assert_close(diffusion.origin.mean, gaussian.mean * -3 + shift)
    torch.testing.assert_close(covariance(diffusion.origin), 9 * covariance(gaussian))
    inner = gaussian.log_density(leapstep.cosine(), 0.0, (data - shift) / -3)
    outer = diffusion.origin.log_density(diffusion.process, 0.0, data)
    torch.testing.assert_close(outer, inner - 6 * torch.tensor(3.0, dtype=F64).log())


def test_a_start_takes_the_first_steps_of_a_longer_list():
    """As many as leave 2 / n nats of information on the data; with much of it one, and with little of it many."""
    process, eye = leapstep.linear(), torch.eye(6, dtype=F64)
    law = lambda variance: leapstep.Gaussian(torch.zeros(SHAPE, dtype=F64), eye[:2], torch.ones(2), variance)  # noqa: E731
    for n, longer in ((1, 2), (3, 4)):
        path = path_of(process, n, "trailing", "gaussian", law(1e6))
        torch.testing.assert_close(path, leapstep.times(process, longer)[-n - 1 :])
    for spacing in leapstep.SPACINGS:
        path = path_of(process, 4, spacing, "gaussian", law(0.3))
        lists = [leapstep.times(process, longer, spacing)[-5:] for longer in range(5, 60)]
        (place,) = [i for i, times in enumerate(lists) if torch.equal(times, path)]
        told = [law(0.3).information(process, lists[i][0]) for i in (place, place + 1)]
        assert told[0] <= 0.5 < told[1]
        snr = (process.log_snr(path[0])).exp()
        expected = torch.linalg.slogdet(eye + snr * covariance(law(0.3))).logabsdet / 2
        torch.testing.assert_close(told[0], expected)
    listed = path_of(process, [0.7, 0.2], "trailing", "gaussian", law(0.3))
    torch.testing.assert_close(listed, torch.tensor([0.7, 0.2, 0.0], dtype=F64))
    assert len(path_of(process, 999, "trailing", "gaussian", law(0.3))) == 1000
    with pytest.raises(ValueError, match=r"passes over one or more of 1000 trained levels, so at most 999"):
        path_of(process, 1000, "trailing", "gaussian", law(0.3))


def test_a_start_without_a_call_is_one_of_sample():
    """So many steps are so many calls, and nearer to the truth than as many from pure noise."""
    gaussian, calls = law(), []
    plain = exact(gaussian, "linear")
    diffusion = plain._replace(denoise=lambda x, t: calls.append(t.item()) or plain.denoise(x, t), origin=gaussian)
    truth = gaussian.marginal(plain.process, 0.0, leapstep.Noise(0, range(3), SHAPE, F64)(0))
    started = leapstep.sample(diffusion, (3, *SHAPE), 4, "unipc", start="gaussian", dtype=F64)
    assert calls == path_of(plain.process, 4, "trailing", "gaussian", gaussian)[:-1].tolist()
    by_hand = leapstep.sample(diffusion, (3, *SHAPE), calls, "unipc", dtype=F64)
    torch.testing.assert_close(started, by_hand)
    without = leapstep.sample(plain, (3, *SHAPE), 4, "unipc", dtype=F64)
    assert (started - truth).abs().max() < (without - truth).abs().max() / 2
    with pytest.raises(ValueError, match=r"origin=leapstep.Gaussian.of\(samples\)"):
        leapstep.sample(plain, (3, *SHAPE), 4, start="gaussian")


def test_moments_know_the_law_of_any_class_and_of_each():
    labels = torch.arange(2).repeat(200)
    samples = decaying(400) + 3.0 * labels[:, None]
    moments = leapstep.Moments.of(samples, labels, 3)
    assert moments.law(None) is moments.whole
    torch.testing.assert_close(covariance(moments.whole), torch.cov(samples.T), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments.law(torch.tensor([1, 0, 1])).mean, moments.each.mean[[1, 0, 1]])
    unlabelled = leapstep.Moments.of(samples)
    assert unlabelled.law(labels) is unlabelled.whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_start_has_the_type_of_the_noise(dtype):
    gaussian, eps = law(), normal(3, *SHAPE).to(dtype)
    start = gaussian.marginal(leapstep.cosine(), 0.5, eps)
    assert start.dtype == dtype
    torch.testing.assert_close(
        start.double(), gaussian.marginal(leapstep.cosine(), 0.5, eps.double()), rtol=0.03, atol=0.03
    )


def test_it_can_be_sent_to_another_process():
    diffusion = leapstep.Diffusion(leapstep.cosine(), torch.nn.Identity(), law())
    again = pickle.loads(pickle.dumps(diffusion)).origin
    eps = normal(2, *SHAPE)
    torch.testing.assert_close(again.marginal(leapstep.cosine(), 0.5, eps), law().marginal(leapstep.cosine(), 0.5, eps))


# --- likelihoods ---------------------------------------------------------------------------------------------------


def test_the_likelihood_is_of_the_law_that_samples_start_from():
    """From half of the way down, the ODE tells the density of Gaussian data, and the bound lies above it."""
    gaussian = law()
    diffusion = exact(gaussian)._replace(origin=gaussian)
    x0 = gaussian.marginal(diffusion.process, 0.0, normal(16, *SHAPE))
    path = leapstep.times(diffusion.process, 16, "log_snr") / 2
    noise = leapstep.Noise(0, range(16), SHAPE, F64)
    found = leapstep.ode_log_likelihood(diffusion, x0, path, noise, probes=0).log_likelihood
    truth = gaussian.log_density(diffusion.process, 0.0, x0)
    torch.testing.assert_close(found, truth, rtol=0, atol=0.02)  # for the blur at the last time above 0
    prior = leapstep.variational_bound(diffusion, x0, path, noise).prior
    process, t = diffusion.process, path[0]
    root = process.alpha(t) ** 2 * covariance(gaussian) + process.sigma(t) ** 2 * torch.eye(6, dtype=F64)
    start = torch.distributions.MultivariateNormal(process.alpha(t) * gaussian.mean.flatten(), root)
    seen = torch.distributions.MultivariateNormal(
        process.alpha(t) * x0.flatten(1), process.sigma(t) ** 2 * torch.eye(6)
    )
    torch.testing.assert_close(prior, torch.distributions.kl_divergence(seen, start))


# --- estimation ----------------------------------------------------------------------------------------------------


def decaying(n, size=40, seed=0):
    """Samples whose principal variances fall as those of pictures do."""
    basis = torch.linalg.qr(normal(size, size, seed=9)).Q
    variances = 4.0 / torch.arange(1, size + 1, dtype=F64) ** 1.5
    return 0.3 + normal(n, size, seed=seed) * variances.sqrt() @ basis


@pytest.mark.parametrize("n", [30, 300])
def test_the_law_has_the_covariance_of_the_samples(n):
    """Fewer samples than values go by their products with each other: the same matrix."""
    samples = decaying(n)
    found, less = leapstep.Gaussian.of(samples), leapstep.Gaussian.of(samples, rank=5)
    torch.testing.assert_close(covariance(found), torch.cov(samples.T), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.mean.double(), samples.mean(0), rtol=1e-5, atol=1e-6)
    assert less.basis.shape == (5, 40)
    torch.testing.assert_close(covariance(less).trace(), torch.cov(samples.T).trace(), rtol=1e-5, atol=0)
    values, vectors = torch.linalg.eigh(torch.cov(samples.T))
    values[:-5] = values[:-5].mean()
    torch.testing.assert_close(covariance(less), (vectors * values) @ vectors.T, rtol=1e-5, atol=1e-6)


def test_means_of_few_samples_are_drawn_to_the_common_mean():
    """Nearer to the true means than those of the samples; a class without samples has the common mean."""
    labels = torch.arange(8).repeat_interleave(3)
    for seed in range(4):
        truth = 0.4 * normal(8, 40, seed=100 + seed)
        samples = decaying(24, seed=seed) + truth[labels]
        found = leapstep.Gaussian.of(samples, labels, classes=9)
        raw = torch.stack([samples[labels == label].mean(0) for label in range(8)])
        assert (found.mean[:8] - truth - 0.3).square().sum() < (raw - truth - 0.3).square().sum()
        torch.testing.assert_close(found.mean[8].double(), samples.mean(0), rtol=1e-5, atol=1e-5)
    many = torch.arange(2).repeat(500)
    apart = leapstep.Gaussian.of(decaying(1000) + 3.0 * many[:, None], many)
    within = leapstep.Gaussian.of(decaying(1000))
    torch.testing.assert_close(covariance(apart), covariance(within), rtol=0, atol=0.05)
    torch.testing.assert_close((apart.mean[1] - apart.mean[0]).mean().item(), 3.0, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 3),), r"samples of shape \[1, 3\]: give two or more"),
        ((torch.full((4, 3), torch.nan),), "of finite values"),
        ((torch.zeros(4, 3), torch.zeros(3, dtype=torch.long)), r"labels of shape \[3\] for 4 samples"),
        ((torch.zeros(4, 3), torch.tensor([0, 1, -1, 0])), "an integer from 0"),
        ((torch.zeros(2, 3), torch.tensor([0, 1])), "more than one of some class"),
    ],
)
def test_samples_that_have_no_law(arguments, message):
    with pytest.raises(ValueError, match=message):
        leapstep.Gaussian.of(*arguments)


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match=r"mean \[3\], basis \[1, 2\] and variances \[1\] do not fit"):
        leapstep.Gaussian(torch.zeros(3), torch.eye(2)[:1], torch.ones(1), 0.0)
    with pytest.raises(ValueError, match="must be 0 or more"):
        leapstep.Gaussian(torch.zeros(2), torch.eye(2)[:1], torch.ones(1), -1.0)


def test_equal_samples_are_a_point():
    point = leapstep.Gaussian.of(torch.full((5, 2), 0.5))
    torch.testing.assert_close(point.marginal(leapstep.cosine(), 0.0, torch.ones(3, 2)), torch.full((3, 2), 0.5))
