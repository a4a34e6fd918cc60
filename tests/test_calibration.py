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
    spread = leapstep.Calibration(measured.times, exact_power(process, measured.times, c), c).spread(process)
    for t in measured.times[:-1]:
        exact = c * process.sigma(t) ** 2 / (process.alpha(t) ** 2 * c + process.sigma(t) ** 2)
        assert spread(t).item() == pytest.approx(exact.item(), rel=1e-6)


def test_the_spread_is_bounded_where_no_signal_is_left():
    """There 1 - power is a small difference of measured numbers, with a factor of 1 / alpha^2."""
    process = leapstep.cosine()
    times = torch.arange(1, 1001, dtype=F64) / 1000
    wrong = leapstep.Calibration(times, exact_power(process, times, 0.37) - 0.01, 0.37).spread(process)
    assert wrong(torch.tensor(1.0, dtype=F64)).item() == pytest.approx(0.37, rel=1e-3)
    other = leapstep.Calibration(times, exact_power(process, times, 0.37) + 0.01, 0.37).spread(process)
    assert other(torch.tensor(1.0, dtype=F64)).item() == 0


def test_each_sample_has_its_time_and_its_condition():
    """Whatever the batches are, sample i meets its own condition: here its x0, so that eps is the noise itself."""
    process = leapstep.linear(10)
    data = torch.arange(6, dtype=F64)[:, None].expand(6, 3).clone()

    def conditioned(rows):
        return leapstep.Diffusion(process, lambda x, t: rows.to(F64)[:, None].expand_as(x))  # knows its x0

    for size in (7, 1000):
        measured = leapstep.calibrate(conditioned, data, per_time=500, batch_size=size)
        torch.testing.assert_close(measured.power, torch.ones(10, dtype=F64), rtol=0.15, atol=0)


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
