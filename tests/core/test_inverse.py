"""Linear inverse problems: exact posteriors, and the wrapper that is exact for Gaussian data."""

import pytest
import torch

import leapstep
from cases import F64, time

SHAPE = (2, 3)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


MATRIX = normal(4, 6, seed=1)
OBSERVED = normal(4, seed=2)


def operator(x):
    return x.flatten(1) @ MATRIX.T


def mixture(m=3):
    roots = normal(m, 6, 6, seed=3)
    covariances = roots @ roots.mT / 6 + 0.1 * torch.eye(6, dtype=F64)
    return leapstep.GaussianMixture(normal(m, *SHAPE, seed=4), covariances, time([0.2, 0.5, 0.3])[:m])


def test_the_posterior_of_a_mixture_is_prior_times_likelihood():
    """At any two points the densities are in that proportion, and those of an isotropic mixture are too."""
    x, std = normal(20, *SHAPE, seed=5), 0.3
    for law in (mixture(), leapstep.GaussianMixture(normal(3, *SHAPE, seed=4), time([0.2, 1.0, 0.5]))):
        posterior = law.given(operator, OBSERVED, std)
        likelihood = -(OBSERVED - operator(x)).square().sum(1) / (2 * std**2)
        constant = posterior.log_density(x) - law.log_density(x) - likelihood
        torch.testing.assert_close(constant, constant[:1].expand(20), rtol=0, atol=1e-9)
        torch.testing.assert_close(law.given(MATRIX, OBSERVED, std).means, posterior.means)


@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("process", ["cosine", "ve", "flow"])
def test_gaussian_data_have_the_exact_conditional_denoiser(process, std):
    """At all times, one for all samples or one each, to the tolerance of conjugate gradients."""
    law, x = mixture(1), normal(5, *SHAPE, seed=6)
    exact = law.given(operator, OBSERVED, std).diffusion(process)
    wrapped = leapstep.given(law.diffusion(process), operator, OBSERVED, std, iterations=6)
    each = time([0.02, 0.3, 0.6, 0.9, 0.99])
    with torch.inference_mode():
        for t in (*each, each):
            x_t = exact.process.sigma(torch.as_tensor(t)).reshape(-1, 1, 1) * x
            expected = exact.denoise(x_t, t)
            torch.testing.assert_close(wrapped.denoise(x_t, t), expected, rtol=1e-4, atol=1e-4)
