"""Linear inverse problems: exact posteriors, and the wrapper that is exact for Gaussian data."""

import copy

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
    return x.flatten(1) @ MATRIX.to(x).T


def mixture(m=3):
    roots = normal(m, 6, 6, seed=3)
    covariances = roots @ roots.mT / 6 + 0.1 * torch.eye(6, dtype=F64)
    return leapstep.GaussianMixture(normal(m, *SHAPE, seed=4), covariances, time([0.2, 0.5, 0.3])[:m])


# --- exact posteriors ------------------------------------------------------------------------------------------------


def test_the_posterior_of_a_mixture_is_prior_times_likelihood():
    """At any two points the densities are in that proportion, and those of an isotropic mixture are too."""
    x, std = normal(20, *SHAPE, seed=5), 0.3
    for law in (mixture(), leapstep.GaussianMixture(normal(3, *SHAPE, seed=4), time([0.2, 1.0, 0.5]))):
        posterior = law.given(operator, OBSERVED, std)
        likelihood = -(OBSERVED - operator(x)).square().sum(1) / (2 * std**2)
        constant = posterior.log_density(x) - law.log_density(x) - likelihood
        torch.testing.assert_close(constant, constant[:1].expand(20), rtol=0, atol=1e-9)
        torch.testing.assert_close(law.given(MATRIX, OBSERVED, std).means, posterior.means)


def test_a_posterior_does_not_depend_on_how_the_same_is_observed():
    """Not on missing values, on a value observed twice (with noise each: once, with less), nor on rows that mix."""
    law, known = mixture(), torch.tensor([[0, 1, 0], [1, 1, 0]])
    y = normal(*SHAPE, seed=7)
    hidden = law.given(leapstep.masked(known), torch.where(known == 1, torch.nan, y).nan_to_num(3.0), 0.2)
    rows = torch.eye(6, dtype=F64)[known.flatten() == 0]
    chosen = law.given(rows, y[known == 0], 0.2)
    for part, other in zip(hidden, chosen, strict=True):
        torch.testing.assert_close(part, other)
    twice = law.given(torch.cat([rows, rows]), y[known == 0].repeat(2), 0.2 * 2**0.5)
    torch.testing.assert_close(twice.covariances, chosen.covariances)
    exact = law.given(rows, y[known == 0])
    assert (exact.sample(3)[:, known == 0] - y[known == 0]).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_what_rounding_makes_of_an_observation_is_none(dtype):
    """A value that is observed twice without noise, exactly as once; and a constant, which says nothing."""
    law = leapstep.GaussianMixture(*(part.to(dtype) for part in mixture()))
    rows, y = MATRIX.to(dtype), OBSERVED.to(dtype)
    once, twice = law.given(rows, y), law.given(torch.cat([rows, 0.3 * rows]), torch.cat([y, 0.3 * y]))
    for part, other in zip(once, twice, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=1e3 * torch.finfo(dtype).eps)
    nothing = law.given(torch.zeros(2, 6, dtype=dtype), torch.zeros(2, dtype=dtype))
    torch.testing.assert_close(nothing.means, law.means)
    torch.testing.assert_close(nothing.weights, law.weights.to(nothing.weights))


def test_an_observation_that_does_not_fit_is_told_in_a_line():
    with pytest.raises(ValueError, match=r"the operator is a matrix \[4, 6\], for 3 observed of 6 values"):
        mixture().given(operator, OBSERVED[:3])
    points = leapstep.GaussianMixture(normal(3, 2), torch.zeros(3, dtype=F64))
    with pytest.raises(ValueError, match="data of points have no density given what was observed"):
        points.given(torch.eye(2, dtype=F64), normal(2))


# --- the wrapper -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("process", ["cosine", "ve", "flow"])
def test_gaussian_data_have_the_exact_conditional_denoiser(process, std):
    """At all times, one for all samples or one each, to the tolerance of conjugate gradients, 1e-5 of the misfit."""
    law, x = mixture(1), normal(5, *SHAPE, seed=6)
    exact = law.given(operator, OBSERVED, std).diffusion(process)
    wrapped = leapstep.given(law.diffusion(process), operator, OBSERVED, std, iterations=8, floor=0)
    each = time([0.02, 0.3, 0.6, 0.9, 0.99])
    with torch.inference_mode():
        for t in (*each, each):
            x_t = exact.process.sigma(torch.as_tensor(t)).reshape(-1, 1, 1) * x
            torch.testing.assert_close(wrapped.denoise(x_t, t), exact.denoise(x_t, t), rtol=1e-4, atol=1e-4)


def test_every_sample_has_its_own_observation_and_depends_on_no_other():
    """Of a mixture, by a method that injects noise, in batches of any size."""
    diffusion, y = mixture().diffusion("cosine"), normal(5, 4, seed=8)
    arguments = {"steps": 6, "std": 0.1, "dtype": F64}
    whole = leapstep.restore(diffusion, operator, y, (5, *SHAPE), **arguments)
    parts = leapstep.restore(diffusion, operator, y, (5, *SHAPE), batch_size=2, **arguments)
    torch.testing.assert_close(whole, parts)
    first = leapstep.restore(diffusion, operator, y[0], (2, *SHAPE), **arguments)
    torch.testing.assert_close(first[0], whole[0])
    assert (first[1] - whole[1]).abs().max() > 0.1, "the second row has the second observation"
    with pytest.raises(ValueError, match=r"observed has shape \[3, 4\], and the operator makes \[2, 4\] of 2 samples"):
        leapstep.restore(diffusion, operator, y[:3], (5, *SHAPE), batch_size=2, **arguments)


def test_the_floor_only_damps_what_the_observation_does():
    """With V larger in every direction the shift is smaller, by a share that goes to 0 with the floor."""
    law, x, t = mixture(1), normal(5, *SHAPE, seed=6), time(0.6)
    diffusion = law.diffusion("cosine")
    plain = diffusion.denoise(x, t)
    shifts = [
        leapstep.given(diffusion, operator, OBSERVED, iterations=8, floor=floor).denoise(x, t) - plain
        for floor in (0.0, 1e-4, 1e-2, 1.0)
    ]
    sizes = [operator(shift).norm().item() for shift in shifts]
    assert sizes == sorted(sizes, reverse=True)
    assert (shifts[1] - shifts[0]).norm() < 0.02 * shifts[0].norm() < 0.5 * (shifts[3] - shifts[0]).norm()


def test_a_bound_acts_after_the_observation():
    """Derivatives are of the estimate before it: clipped, it would have none where it is out of range."""
    law, x, t = mixture(1), normal(5, *SHAPE, seed=6), time(0.4)
    free = leapstep.given(law.diffusion("cosine"), operator, OBSERVED, 0.1).estimate(x, t)
    bounded = leapstep.given(leapstep.clipped(law.diffusion("cosine"), (-0.3, 0.3)), operator, OBSERVED, 0.1)
    assert (free.x0.abs() > 0.3).any()
    torch.testing.assert_close(bounded.estimate(x, t).x0, free.x0.clamp(-0.3, 0.3))
    torch.testing.assert_close(bounded.estimate(x, t).unbounded, free.x0)


def test_a_denoiser_of_others_is_called_whatever_its_attributes():
    """A wrapper of one's own that has a `denoise` and a `clip` is not taken for `clipped`."""

    class Halved:
        def __init__(self, denoise):
            self.denoise, self.clip = denoise, (-0.3, 0.3)

        def __call__(self, x, t):
            return self.denoise(x, t) / 2

    diffusion, x, t = mixture(1).diffusion("cosine"), normal(5, *SHAPE, seed=6), time(0.4)
    own = diffusion._replace(denoise=Halved(diffusion.denoise))
    plain = diffusion._replace(denoise=lambda x, t: diffusion.denoise(x, t) / 2)
    results = [leapstep.given(each, operator, OBSERVED, 0.1).denoise(x, t) for each in (own, plain)]
    assert torch.equal(*results)


def test_missing_values_may_hold_anything():
    mask = torch.tensor([[0, 1, 0], [1, 1, 0]])
    diffusion, x = mixture().diffusion("cosine"), normal(5, *SHAPE, seed=6)
    y = normal(*SHAPE, seed=7)
    results = [
        leapstep.given(diffusion, by, torch.where(mask == 1, rest, y)).denoise(x, time(0.5))
        for by in (leapstep.masked(mask), lambda x: x * (1 - mask))
        for rest in (0.0, 5.0, torch.nan)
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_a_network_in_half_precision_answers_in_the_dtype_of_the_state():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2))
    x, y = normal(3, 2, seed=6).float(), torch.tensor([0.3])
    first, called = (lambda x: x[:, :1]), (lambda net: lambda x, _: net(x))
    wide, half = (
        leapstep.given(leapstep.from_network(called(n), "cosine", "x0", dtype=kind), first, y, 0.1)
        for n, kind in ((net, None), (copy.deepcopy(net).bfloat16(), torch.bfloat16))
    )
    result = half.denoise(x, time(0.5))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, wide.denoise(x, time(0.5)), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("by", "y", "options", "message"),
    [
        (lambda x: x + 1, torch.zeros(SHAPE), {}, "the operator is not linear"),
        (lambda x: x.clamp(-0.01, 0.01), torch.zeros(SHAPE), {}, "the operator is not linear"),
        (lambda x: x.sum(), torch.zeros(()), {}, "a tensor with a row for each sample is needed"),
        (operator, torch.zeros(3), {}, r"observed has shape \[3\], and the operator makes \[5, 4\] of 5 samples"),
        (operator, OBSERVED, {"std": -1.0}, "std and floor must be 0 or more"),
        (operator, OBSERVED, {"iterations": 0}, "iterations 1 or more"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(by, y, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        leapstep.given(mixture().diffusion("cosine"), by, y, **options).denoise(normal(5, *SHAPE), time(0.5))
    assert "\n" not in str(caught.value)


def test_a_denoiser_without_derivatives_is_told():
    diffusion = leapstep.from_network(lambda x, _: x.detach(), "cosine", "x0")
    with pytest.raises(ValueError, match=r"no derivative in x"):
        leapstep.given(diffusion, operator, OBSERVED).denoise(normal(5, *SHAPE), time(0.5))


# --- operators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_operators_are_what_they_say_in_any_number_of_dimensions(dims):
    x = normal(2, 3, *[8] * dims)
    pool = (torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.AvgPool3d)[dims - 1](4)
    torch.testing.assert_close(leapstep.downsampled(4, dims)(x), pool(x))
    point = torch.zeros(1, 1, *[41] * dims, dtype=F64)
    point[(0, 0, *[20] * dims)] = 1
    spread = leapstep.blurred(2.0, dims)(point)
    apart = torch.arange(41, dtype=F64) - 20
    line = spread.reshape(41, -1).sum(1)
    torch.testing.assert_close(line.sum(), time(1.0))
    torch.testing.assert_close((line * apart**2).sum(), time(4.0), rtol=0.01, atol=0)
    torch.testing.assert_close(spread[0, 0], spread[0, 0].flip(0))


def test_operators_refuse_what_they_cannot_do():
    for call, message in (
        (lambda: leapstep.downsampled(0), "both must be at least 1"),
        (lambda: leapstep.downsampled(3)(torch.zeros(2, 1, 8, 8)), r"\[1, 8, 8\] have no blocks of 3"),
        (lambda: leapstep.downsampled(2)(torch.zeros(2, 8)), r"\[8\] have no blocks of 2 along 2 dimensions"),
        (lambda: leapstep.blurred(0.0), "give a width above 0"),
        (lambda: leapstep.blurred(1.0)(torch.zeros(2, 8)), "cannot be blurred along 2 dimensions"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
