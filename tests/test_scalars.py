"""Samples that are single numbers, `[b]`, are what they are as rows of one, `[b, 1]`: in every public function."""

import types

import pytest
import torch

import leapstep
from leapstep.core.calibration import calibrate
from leapstep.core.likelihood import ode_log_likelihood, variational_bound
from leapstep.inference.encoding import squared_error
from leapstep.training.objective import WEIGHTS, loss

F64 = torch.float64
MEANS, VARIANCES = torch.tensor([-1.0, 0.5, 2.0], dtype=F64), torch.tensor([0.1, 0.3, 0.2], dtype=F64)
LAWS = {
    "[b]": leapstep.GaussianMixture(MEANS, VARIANCES),
    "[b, 1]": leapstep.GaussianMixture(MEANS[:, None], VARIANCES),
}
PROCESS = leapstep.linear()
MODELS = {name: law.diffusion(PROCESS) for name, law in LAWS.items()}
SHAPES = {"[b]": (5,), "[b, 1]": (5, 1)}
X0 = LAWS["[b]"].sample(5)


def data(name):
    return X0.reshape(SHAPES[name])


def same(of):
    """What a function of the name of a shape returns, for both."""
    scalars, rows = of("[b]"), of("[b, 1]")
    torch.testing.assert_close(scalars.flatten(), rows.flatten(), rtol=1e-12, atol=1e-12)
    assert rows.isfinite().all()
    return scalars


@pytest.mark.parametrize("method", leapstep.TRANSITIONS)
def test_every_method_draws_them(method):
    def draw(name):
        return leapstep.sample(MODELS[name], SHAPES[name], 6, leapstep.TRANSITIONS[method].make(), dtype=F64)

    assert same(draw).shape == (5,)


@pytest.mark.parametrize("method", [name for name, entry in leapstep.TRANSITIONS.items() if entry.deterministic])
def test_every_deterministic_method_encodes_them(method):
    same(lambda name: leapstep.encode(MODELS[name], data(name), 6, leapstep.TRANSITIONS[method].make()))


@pytest.mark.parametrize("method", ["ddim", "heun"])
def test_inverses(method):
    back = leapstep.TRANSITIONS[method].make()
    latent = same(lambda name: leapstep.encode(MODELS[name], data(name), 12, leapstep.inverted(back)))
    torch.testing.assert_close(leapstep.decode(MODELS["[b]"], latent, 12, back), X0, rtol=1e-6, atol=1e-6)


def test_times_of_their_own_and_the_optimal_variance():
    path = torch.tensor([[1.0, 0.9, 0.8, 0.7, 0.6], [0.3, 0.2, 0.8, 0.1, 0.0], [0.0] * 5], dtype=F64)
    spread = lambda t: 0.1 * torch.ones_like(t)  # noqa: E731
    for transition in (leapstep.unipc(), leapstep.rk23(), leapstep.ddpm("optimal", spread), leapstep.ddim(0.5)):

        def go(name, transition=transition):
            noise = leapstep.Noise(0, range(5), SHAPES[name][1:], F64)
            *_, last = leapstep.trajectory(MODELS[name], noise(0), path, transition, noise)
            return last.x

        same(go)


def test_paths_between_latents():
    for path in (leapstep.slerp, leapstep.spherical):
        same(lambda name, path=path: path(data(name).abs(), 2 * data(name).abs() + 1, 0.3))
        corners = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=F64)
        grid = leapstep.interpolation_grid(corners, 3, 4, path)
        torch.testing.assert_close(grid, leapstep.interpolation_grid(corners[:, None], 3, 4, path)[..., 0])


@pytest.mark.parametrize("probes", [0, 2])
@pytest.mark.parametrize("tolerance", [None, 1e-4])
def test_densities(probes, tolerance):
    times = leapstep.times(PROCESS, 12, "log_snr")

    def density(name):
        noise = leapstep.Noise(0, range(5), SHAPES[name][1:], F64)
        return ode_log_likelihood(
            MODELS[name], data(name), times, noise, probes=probes, tolerance=tolerance
        ).log_likelihood

    exact = same(lambda name: LAWS[name].log_density(data(name)))
    assert (same(density) - exact).abs().max() < 0.3


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_bounds(variance):
    def bound(name):
        noise = leapstep.Noise(0, range(5), SHAPES[name][1:], F64)
        return variational_bound(MODELS[name], data(name), leapstep.times(PROCESS, 9), noise, variance=variance).total

    same(bound)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_losses(weight):
    t, eps = torch.linspace(0.1, 1, 5, dtype=F64), leapstep.Noise(0, range(5), (), F64)(0)

    def scored(name):
        return loss(MODELS[name], data(name), t, eps.reshape(SHAPES[name]), weight)

    assert same(scored).shape == (5,)


def test_errors_that_commands_print():
    numbers = types.SimpleNamespace(is_pictures=False)

    def error(name):
        return squared_error(numbers, data(name), 2 * data(name))

    torch.testing.assert_close(same(error), X0.square())


def test_calibration():
    same(lambda name: calibrate(MODELS[name], data(name), torch.tensor([0.1, 0.5, 1.0], dtype=F64)).error)


def test_denoisers():
    x, t = torch.linspace(-2, 2, 5, dtype=F64), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=F64)

    def estimates(make):
        return lambda name: make(MODELS[name]).denoise(x.reshape(SHAPES[name]), t)

    same(estimates(lambda model: leapstep.clipped(model, (-0.5, 0.5))))
    same(estimates(lambda model: leapstep.clipped(model, leapstep.dynamic_threshold(0.9, 0.5))))
    same(estimates(lambda model: leapstep.scaled(model, 3.0, -2.0)))
    same(lambda name: leapstep.empirical(PROCESS, data(name)).denoise(x.reshape(SHAPES[name]), t))
    for predicts in ("eps", "v", "x0", "flow"):
        net = lambda x, k: torch.tanh(x)  # noqa: E731
        same(estimates(lambda model, predicts=predicts, net=net: leapstep.from_network(net, PROCESS, predicts)))


def test_full_covariances():
    law = leapstep.GaussianMixture(MEANS, VARIANCES[:, None, None])
    torch.testing.assert_close(law.log_density(X0), LAWS["[b]"].log_density(X0))
    assert law.sample(7).shape == LAWS["[b]"].sample(7).shape == (7,)


@pytest.mark.parametrize("name", SHAPES)
def test_guidance(name):
    """The contrast within one number cannot be brought back."""
    shape = SHAPES[name]

    def net(x, k, y):
        return x * y.reshape(-1, *[1] * (x.ndim - 1))

    def make(rescale):
        given = {"condition": {"y": torch.full(shape[:1], 0.5)}, "null": {"y": 0.1}}
        return leapstep.from_network(net, PROCESS, guidance=2.0, rescale=rescale, **given)

    assert make(0.0).denoise(torch.ones(shape), torch.tensor(0.5)).isfinite().all()
    with pytest.raises(ValueError, match=r"rescale=0.7 is for the contrast within a sample, and a single number has"):
        make(0.7).denoise(torch.ones(shape), torch.tensor(0.5))
