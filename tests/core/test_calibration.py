"""What the optimal variance needs, measured, against its closed form."""

import pytest
import torch

import leapstep

F64 = torch.float64


def exact_power(process, t, c):
    """E ||eps||^2 / d on data N(m, c): eps = sigma (x - alpha m) / (alpha^2 c + sigma^2)."""
    total = process.alpha(t) ** 2 * c + process.sigma(t) ** 2
    return process.sigma(t) ** 2 / total


@pytest.mark.parametrize("process", [leapstep.linear(100), leapstep.cosine(100), leapstep.ve(100), leapstep.flow(100)])
def test_gaussian_data_give_the_closed_form(process):
    c = 0.37
    mixture = leapstep.GaussianMixture(torch.full((1, 64), 0.5, dtype=F64), torch.tensor([c], dtype=F64))
    measured = leapstep.calibrate(mixture.diffusion(process), mixture.sample(4000), per_time=100, batch_size=1000)
    torch.testing.assert_close(measured.times, torch.arange(1, 101, dtype=F64) / 100)
    torch.testing.assert_close(measured.power, exact_power(process, measured.times, c), rtol=0.1, atol=0)
    assert measured.power.mean().item() == pytest.approx(
        exact_power(process, measured.times, c).mean().item(), rel=0.005
    )
    assert measured.variance == pytest.approx(c, rel=0.02)
    exact = c * process.sigma(measured.times) ** 2
    exact = exact / (process.alpha(measured.times) ** 2 * c + process.sigma(measured.times) ** 2)
    torch.testing.assert_close(measured.error, exact, rtol=0.1, atol=0)
    for k in (0, 30, 80, 99):  # also where no signal is left, which 1 - power could not tell
        assert measured.spread(process)(measured.times[k]).item() == pytest.approx(exact[k].item(), rel=0.1)


def test_the_spread_is_a_line_between_the_times_and_has_a_bound():
    process, t = leapstep.linear(), torch.tensor([0.2, 0.25, 0.3, 1.0, 0.0], dtype=F64)
    times, power = torch.tensor([0.2, 0.3, 1.0], dtype=F64), torch.ones(3, dtype=F64)
    spread = leapstep.Calibration(times, power, torch.tensor([0.01, 0.03, 9.0], dtype=F64), 0.37).spread(process)
    assert spread(t).tolist() == pytest.approx([0.01, 0.02, 0.03, 0.37, 0.0], rel=1e-3)


def test_each_sample_has_its_time_and_its_condition():
    """Whatever the batches are, sample i meets its own condition: here its x0, so that eps is the noise itself."""
    process = leapstep.linear(10)
    data = torch.arange(6, dtype=F64)[:, None].expand(6, 3).clone()

    def conditioned(rows):
        return leapstep.Diffusion(process, lambda x, t: rows.to(F64)[:, None].expand_as(x))  # knows its x0

    for size in (4, 1000):
        measured = leapstep.calibrate(conditioned, data, per_time=500, batch_size=size)
        torch.testing.assert_close(measured.power, torch.ones(10, dtype=F64), rtol=0.15, atol=0)
        assert measured.variance == pytest.approx(35 / 12)  # of 0 to 5


@pytest.mark.parametrize(
    "options",
    [{"times": torch.tensor([0.5], dtype=F64)}, {"times": torch.tensor([0.5, 0.1], dtype=F64)}, {"per_time": 0}],
)
def test_wrong_options(options):
    diffusion = leapstep.empirical(leapstep.linear(10), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="give data, and increasing times"):
        leapstep.calibrate(diffusion, torch.zeros(2, 3), **options)


def test_a_network_that_fails_is_told():
    diffusion = leapstep.Diffusion(leapstep.linear(10), lambda x, t: x * torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        leapstep.calibrate(diffusion, torch.zeros(2, 3))
