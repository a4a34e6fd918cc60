"""The curves are those of the papers, their algebra inverts itself, and all of it in float64."""

import dataclasses
import math

import pytest
import torch

import leapstep
from leapstep.core.process import PREDICTIONS
from leapstep.core.schedules import SCHEDULES

F64 = torch.float64
LEVELS = torch.arange(1, 1001, dtype=F64) / 1000


def betas(process):
    """Recover beta_k from the curves of a variance-preserving process."""
    alpha = process.alpha(torch.arange(process.timesteps + 1, dtype=F64) / process.timesteps)
    return 1 - (alpha[1:] / alpha[:-1]) ** 2


def logistic(u):
    return 1 / (1 + torch.exp(-u))


@pytest.mark.parametrize(
    ("process", "published"),
    [
        (leapstep.linear(), torch.linspace(1e-4, 0.02, 1000, dtype=F64)),
        (leapstep.quadratic(), torch.linspace(0.01, math.sqrt(0.02), 1000, dtype=F64) ** 2),
        (leapstep.scaled_linear(), torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=F64) ** 2),
        (leapstep.sigmoid(), 1e-4 + (0.02 - 1e-4) * logistic(torch.linspace(-6, 6, 1000, dtype=F64))),
    ],
)
def test_betas_are_the_published_ones(process, published):
    torch.testing.assert_close(betas(process), published, rtol=1e-9, atol=1e-12)


def test_cosine_is_nichol_and_dhariwal():
    """alphas_cumprod = f(t) / f(0) with f = cos^2, until the clip at 0.999 bites in the last step."""
    t = LEVELS[:-1]
    f = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    process = leapstep.cosine()
    torch.testing.assert_close(process.alpha(t) ** 2, f, rtol=1e-9, atol=1e-13)
    assert betas(process)[-1].item() == pytest.approx(0.999, rel=1e-9)


@pytest.mark.parametrize("timesteps", [250, 4000])
def test_linear_scaled_for_another_t_ends_at_the_same_noise(timesteps):
    """The total noising, log alpha(1), is that of T = 1000, to the size of a step."""
    ends = [leapstep.linear(n).alpha(torch.ones((), dtype=F64)).log().item() for n in (1000, timesteps)]
    assert ends[1] == pytest.approx(ends[0], rel=0.15)
    plain = leapstep.from_betas(torch.linspace(1e-4, 0.02, timesteps, dtype=F64))
    assert abs(plain.alpha(torch.ones((), dtype=F64)).log().item() / ends[0] - 1) > 0.5


def test_exponential_is_the_continuous_limit_of_linear():
    t = torch.linspace(0.2, 1, 9, dtype=F64)
    torch.testing.assert_close(
        leapstep.exponential().alpha(t).log(), leapstep.linear().alpha(t).log(), rtol=0.05, atol=0
    )
    torch.testing.assert_close(leapstep.exponential_s().alpha(t**2), leapstep.exponential().alpha(t))


def test_vp_is_the_integral_of_its_betas():
    """alpha^2 = exp(-integral of beta), beta(t) from 0.1 to 20 (Song et al. 2021, eq. 33); sub-VP keeps alpha."""
    t = torch.linspace(0, 1, 100_001, dtype=F64)
    integral = torch.cat([t.new_zeros(1), torch.cumulative_trapezoid(0.1 + 19.9 * t, t)])
    torch.testing.assert_close(leapstep.vp().alpha(t), (-integral / 2).exp())
    torch.testing.assert_close(leapstep.subvp().alpha(t), leapstep.vp().alpha(t), rtol=0, atol=0)
    torch.testing.assert_close(leapstep.subvp().sigma(t), 1 - leapstep.vp().alpha(t) ** 2)
    torch.testing.assert_close(leapstep.vp().alpha(t[1:]), leapstep.linear(100_000).alpha(t[1:]), rtol=5e-3, atol=5e-4)


def test_karras_has_karras_levels():
    levels = torch.arange(1, 19, dtype=F64) / 18
    roots = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 18, dtype=F64)  # eq. 5
    torch.testing.assert_close(leapstep.karras(18).sigma(levels).flip(0), roots**7)


def test_from_log_snr_has_the_levels_that_it_was_given():
    levels = torch.linspace(9, -9, 50, dtype=F64)
    torch.testing.assert_close(leapstep.from_log_snr(levels).log_snr(torch.arange(1, 51, dtype=F64) / 50), levels)
    some = leapstep.from_log_snr({1: 9.0, 11: 4.0, 50: -9.0})
    torch.testing.assert_close(some.log_snr(torch.tensor([6, 11, 50]) / 50), torch.tensor([6.5, 4.0, -9.0], dtype=F64))
    for family, total in (("ve", lambda p, t: p.alpha(t)), ("flow", lambda p, t: p.alpha(t) + p.sigma(t))):
        process, t = leapstep.from_log_snr(levels, family), torch.arange(0, 51, dtype=F64) / 50
        torch.testing.assert_close(process.log_snr(t[1:]), levels)
        torch.testing.assert_close(total(process, t), torch.ones_like(t))
    for wrong in ([1.0, 2.0], {1: 3.0}, {0: 3.0, 5: 1.0}):
        with pytest.raises(ValueError, match=r"decrease strictly|two or more"):
            leapstep.from_log_snr(wrong)
    with pytest.raises(ValueError, match="unknown family"):
        leapstep.from_log_snr(levels, "v")


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_f_is_the_negative_v_of_the_process_in_units_of_its_size(sigma_data):
    """EDM's D = c_skip x + c_out F(c_in x): F is what its training aims at (Karras et al. 2022, eq. 8)."""
    process, t = leapstep.karras(), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    torch.manual_seed(0)
    x0, eps = sigma_data * torch.randn(3, 4, dtype=F64), torch.randn(3, 4, dtype=F64)
    x, sigma = process.add_noise(x0, t, eps), process.sigma(t)[:, None]
    c_skip, root = sigma_data**2 / (sigma**2 + sigma_data**2), (sigma**2 + sigma_data**2).sqrt()
    target = (x0 - c_skip * x) / (sigma * sigma_data / root)
    a, b = process.mixture("F", t, sigma_data)
    torch.testing.assert_close(a[:, None] * x0 + b[:, None] * eps, target)
    torch.testing.assert_close(process.split(target, x, t, "F", sigma_data)[0], x0)
    torch.testing.assert_close(process.split(-target, x, t, "-F", sigma_data)[1], eps)


def test_ve_is_geometric_over_the_levels():
    sigma = leapstep.ve(1000, 0.01, 50).sigma(LEVELS)
    torch.testing.assert_close(sigma, torch.logspace(math.log10(0.01), math.log10(50), 1000, dtype=F64))


@pytest.mark.parametrize("name", SCHEDULES)
def test_curves_run_from_data_to_noise(name):
    process = SCHEDULES[name]()
    t = torch.linspace(0, 1, 7919, dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    assert alpha.dtype == sigma.dtype == F64
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= 0).all()
    assert (process.log_snr(t).diff() < 0).all()
    if name not in ("ve", "karras", "flow", "subvp"):
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_inverts_log_snr(name):
    process = SCHEDULES[name]()
    t = torch.linspace(0.002, 0.998, 313, dtype=F64)
    torch.testing.assert_close(process.time(process.log_snr(t)), t, rtol=0, atol=1e-9)


def test_table_curves_are_exact_at_the_levels():
    table = torch.linspace(0.99, 0.01, 37, dtype=F64)
    process = leapstep.from_alphas_cumprod(table)
    torch.testing.assert_close(process.alpha(torch.arange(1, 38, dtype=F64) / 37) ** 2, table, rtol=1e-12, atol=1e-15)


def test_one_jump_is_many_single_steps():
    """alpha and sigma at level k are what k applications of q(x_k | x_{k-1}) make (Ho et al. eq. 2 against eq. 4)."""
    process, schedule = leapstep.linear(), torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    signal, variance, worst = 1.0, 0.0, 0.0
    for k, beta in enumerate(schedule.tolist(), start=1):
        signal, variance = math.sqrt(1 - beta) * signal, (1 - beta) * variance + beta
        t = torch.tensor(k / 1000, dtype=F64)
        worst = max(worst, abs(process.alpha(t).item() - signal), abs(process.sigma(t).item() ** 2 - variance))
    assert worst < 1e-12


def test_zero_terminal_snr():
    """Exactly no signal at t = 1, the first level untouched, the shape of alpha kept (Lin et al. 2024, alg. 1)."""
    before = leapstep.scaled_linear()
    after = leapstep.rescale_zero_terminal_snr(before)
    assert after.alpha(LEVELS[-1]).item() == 0
    assert after.sigma(LEVELS[-1]).item() == 1
    assert after.log_snr(LEVELS[-1]).item() == -math.inf
    assert after.alpha(LEVELS[0]).item() == pytest.approx(before.alpha(LEVELS[0]).item(), rel=1e-12)
    ratio = after.alpha(LEVELS[:-1]) / (before.alpha(LEVELS[:-1]) - before.alpha(LEVELS[-1]))
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="trained levels"):
        leapstep.rescale_zero_terminal_snr(leapstep.flow())


@pytest.mark.parametrize("name", ["linear", "cosine", "exponential", "ve", "flow"])
@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_conversions_round_trip(name, source, target, per_sample):
    process = SCHEDULES[name]()
    torch.manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, dtype=F64)
    t = torch.tensor([0.05, 0.3, 0.5, 0.9, 0.99], dtype=F64) if per_sample else torch.tensor(0.37, dtype=F64)
    x = process.add_noise(x0, t, eps)
    value = process.combine(x0, eps, t, source)
    there = process.convert(value, x, t, source, target)
    torch.testing.assert_close(there, process.combine(x0, eps, t, target), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(process.convert(there, x, t, target, source), value, rtol=1e-6, atol=1e-8)


def test_flow_velocity_and_v_are_what_they_are_called():
    t, (x0, eps) = torch.tensor(0.25, dtype=F64), torch.randn(2, 4, 2, dtype=F64)
    torch.testing.assert_close(leapstep.flow().combine(x0, eps, t, "flow"), eps - x0)
    linear = leapstep.linear()
    torch.testing.assert_close(linear.combine(x0, eps, t, "v"), linear.alpha(t) * eps - linear.sigma(t) * x0)
    step = 1e-6  # inside one interval of the table
    t = torch.tensor(0.2505, dtype=F64)
    slope = (linear.add_noise(x0, t + step, eps) - linear.add_noise(x0, t - step, eps)) / (2 * step)
    torch.testing.assert_close(linear.combine(x0, eps, t, "flow"), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [3.0, 1 / 3])
def test_a_shifted_flow_is_the_same_line_on_another_time_axis(shift):
    """Its velocity is that of rectified flow at the same x, by whatever clock (Esser et al. 2024, eq. 23)."""
    plain, process, t = leapstep.flow(), leapstep.flow(shift=shift), torch.linspace(0, 1, 11, dtype=F64)
    even = shift * t / (1 + (shift - 1) * t)
    torch.testing.assert_close(process.alpha(t), plain.alpha(even))
    torch.testing.assert_close(process.sigma(t), plain.sigma(even))
    x0, eps = torch.randn(2, 11, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(6, -6, 20, dtype=F64)
    for other in (process, process._replace(timesteps=20), leapstep.from_log_snr(levels, "flow")):
        torch.testing.assert_close(other.combine(x0, eps, t, "flow"), eps - x0)
        x = other.add_noise(x0, t, eps)
        torch.testing.assert_close(other.split(eps - x0, x, t, "flow")[0], x0)
    with pytest.raises(ValueError, match="shift=0: must be above 0"):
        leapstep.flow(shift=0)


@pytest.mark.parametrize("kind", ["x0", "v", "flow"])
def test_conversions_are_finite_without_signal(kind):
    """At alpha = 0 x0, v and flow still determine both x0 and eps."""
    x0, eps = torch.randn(2, 4, 2, dtype=F64)
    for process in (leapstep.flow(), leapstep.rescale_zero_terminal_snr(leapstep.linear())):
        one = torch.ones((), dtype=F64)
        split = process.split(process.combine(x0, eps, one, kind), process.add_noise(x0, one, eps), one, kind)
        torch.testing.assert_close(split, (x0, eps), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow", "score"])
def test_conversions_give_x0_without_noise(kind):
    """At sigma = 0 every prediction gives x0 = x; x0 says nothing of eps, which is then 0."""
    process, zero = leapstep.flow(), torch.zeros(4, dtype=F64)
    x0 = torch.randn(4, 2, dtype=F64)
    value = x0 if kind == "x0" else torch.zeros_like(x0) - (x0 if kind == "flow" else 0)
    split = process.split(value, x0, zero, kind)
    torch.testing.assert_close(split, (x0, torch.zeros_like(x0)))


def test_conversions_keep_the_callers_dtype_inside_inference_mode():
    process = leapstep.linear()
    with torch.inference_mode():
        x0, eps = torch.randn(2, 4, 2, dtype=torch.float32)
        for t in (0.5, torch.full((4,), 0.5)):
            x = process.add_noise(x0, t, eps)
            value = process.combine(x0, eps, t, "flow")
            assert x.dtype == value.dtype == process.split(value, x, t, "flow")[0].dtype == torch.float32


@pytest.mark.parametrize("t", [0.3, [0.3, 0.3, 0.3]])
def test_sums_broadcast_and_promote_as_those_of_pytorch(t):
    """One x0 for all samples, in single or in double precision."""
    process, eps = leapstep.cosine(), torch.randn(3, 2, dtype=F64)
    alpha, sigma = (curve(torch.tensor(0.3, dtype=F64)) for curve in (process.alpha, process.sigma))
    for x0 in (torch.ones(1, 2), torch.ones(1, 2, dtype=F64)):
        torch.testing.assert_close(process.add_noise(x0, t, eps), alpha * x0.double() + sigma * eps, rtol=1e-6, atol=0)


def test_values_that_are_remembered_cannot_be_changed():
    process, t = leapstep.linear(), torch.tensor(0.5, dtype=F64)
    before = process.alpha(t).item()
    process.alpha(t).mul_(2)
    assert process.alpha(t).item() == before


@pytest.mark.parametrize("t", [1.5, -0.1, 500, math.nan, [0.1, 10.0]])
def test_timesteps_are_not_times(t):
    with pytest.raises(ValueError, match=r"times lie in \[0, 1\]; the trained level k of T is t = k / T"):
        leapstep.linear().add_noise(torch.zeros(2, 3), torch.tensor(t), torch.zeros(2, 3))


def test_flow_of_the_exponential_process_is_finite_at_the_data():
    """x_t = exp(-5 t^2) x0 + sqrt(1 - exp(-10 t^2)) eps moves off with sqrt(10) eps."""
    x0, eps = torch.randn(2, 4, 2, dtype=F64)
    for t in (0.0, [0.0] * 4):
        velocity = leapstep.exponential().combine(x0, eps, torch.tensor(t, dtype=F64), "flow")
        torch.testing.assert_close(velocity, math.sqrt(10) * eps)


@pytest.mark.parametrize("bad", [[], [[0.5]], [0.5, 0.6], [1.0, 0.5], [0.5, -0.1]])
def test_bad_alphas_cumprod(bad):
    with pytest.raises(ValueError, match="alphas_cumprod"):
        leapstep.from_alphas_cumprod(bad)


@pytest.mark.parametrize("bad", [[], [0.0, 0.1], [0.1, 1.5], [0.1, math.nan]])
def test_bad_betas(bad):
    with pytest.raises(ValueError, match="betas"):
        leapstep.from_betas(bad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: leapstep.linear(0), "timesteps=0: must be an integer of at least 1"),
        (lambda: leapstep.cosine(2.5), "timesteps=2.5: must be an integer"),
        (lambda: leapstep.flow(-1), "timesteps=-1: must be an integer"),
        (lambda: leapstep.linear(beta_end=-0.1), "beta_end=-0.1: must be above 0 and at most 1"),
        (lambda: leapstep.sigmoid(beta_start=math.nan), "beta_start=nan: must be above 0"),
        (lambda: leapstep.quadratic(beta_start=0.02, beta_end=1e-4), "beta_end=0.0001: betas must not decrease"),
        (lambda: leapstep.cosine(offset=-1.0), "offset=-1.0: must be at least 0"),
        (lambda: leapstep.cosine(max_beta=2.0), "max_beta=2.0: must be above 0 and at most 1"),
        (lambda: leapstep.exponential(rate=-1.0), "rate=-1.0: must be above 0"),
        (lambda: leapstep.exponential_s(rate=math.inf), "rate=inf: must be above 0"),
        (lambda: leapstep.exponential(power=0.0), "power=0.0: must be above 0"),
        (lambda: leapstep.ve(sigma_min=-1.0), "sigma_min=-1.0: must be above 0"),
        (lambda: leapstep.ve(sigma_min=5, sigma_max=1), "sigma_min=5, sigma_max=1: sigma_min must be below sigma_max"),
        (lambda: leapstep.karras(sigma_min=80.0), "sigma_min=80.0, sigma_max=80.0: sigma_min must be below"),
        (lambda: leapstep.karras(rho=0), "rho=0: must be above 0"),
        (lambda: leapstep.karras(rho=1e-3), r"sigma\(.*\) = inf: curves must be finite"),
        (lambda: leapstep.vp(beta_min=-1.0), "beta_min=-1.0: must be at least 0"),
        (lambda: leapstep.subvp(beta_max=math.nan), "beta_max=nan: must be above 0"),
    ],
)
def test_parameters_out_of_range(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [1, 2, 3])
def test_few_levels_end_in_the_noise_of_many(name, timesteps):
    """Of one level too, which is the last. (Betas of so few steps can take all that there is in them.)"""
    process, one = SCHEDULES[name](timesteps), torch.ones((), dtype=F64)
    assert process.sigma(torch.zeros((), dtype=F64)) == 0
    if name not in ("linear", "scaled_linear", "quadratic", "cosine", "sigmoid"):
        torch.testing.assert_close(process.sigma(one), SCHEDULES[name]().sigma(one))
    x = leapstep.sample(leapstep.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).diffusion(process), (2, 2), 1)
    assert x.isfinite().all()


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        (lambda t: 1 - t, lambda t: 0.01 + t, r"sigma\(0\) = 0.01: t = 0 is the data"),
        (lambda t: t, lambda t: 1 - t, r"alpha\(0\) = 0 and sigma\(0\) = 1"),
        (lambda t: 1 - t, lambda t: t * (1 - t), "sigma / alpha does not rise beyond t = 0.9961"),
        (lambda t: torch.ones_like(t), lambda t: t * (1.2 - t), "sigma / alpha does not rise beyond t = 0.6016"),
        (lambda t: torch.ones_like(t), lambda t: 0 * t, "does not rise beyond t = 0"),
        (lambda t: 1 - 2 * t, lambda t: t, r"alpha\(0.5039\) = -0.007812: curves must be finite and not negative"),
        (lambda t: 1 / (1 - t), lambda t: t, r"alpha\(1\) = inf: curves must be finite"),
    ],
)
def test_curves_that_make_no_process(alpha, sigma, message):
    """Somebody's own, told where a network or data meet it."""
    process = leapstep.Process(alpha, sigma)
    with pytest.raises(ValueError, match=message):
        leapstep.from_network(lambda x, t: x, process, "x0", "fraction")
    with pytest.raises(ValueError, match=message):
        leapstep.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).diffusion(process)


@pytest.mark.parametrize("frozen", [False, True])
def test_curves_may_be_objects_of_any_class(frozen):
    @dataclasses.dataclass(frozen=frozen)  # a frozen one claims to be hashable, whatever is in it
    class Line:
        slope: float
        notes: list = dataclasses.field(default_factory=list)

        def __call__(self, t):
            return self.slope * t

    with pytest.raises(ValueError, match="sigma / alpha does not rise"):
        leapstep.from_network(lambda x, t: x, leapstep.Process(torch.ones_like, Line(0.0)), "x0", "fraction")
    leapstep.from_network(lambda x, t: x, leapstep.Process(torch.ones_like, Line(2.0)), "x0", "fraction")


def test_betas_in_reverse_order():
    betas = torch.linspace(1e-4, 0.02, 100, dtype=F64)
    with pytest.raises(ValueError, match=r"betas fall from 0\.02 to 0\.0001, so they are in reverse order"):
        leapstep.from_betas(betas.flip(0))
    process = leapstep.from_betas(betas.flip(0), falling=True)
    ends = [p.alpha(torch.ones((), dtype=F64)) for p in (process, leapstep.from_betas(betas))]
    torch.testing.assert_close(*ends)
    leapstep.from_betas([0.1, 0.3, 0.2])  # up and down: on purpose


def test_unknown_prediction_lists_the_known():
    with pytest.raises(ValueError, match=r"noise.*eps, x0, v, score, flow"):
        leapstep.linear().mixture("noise", 0.5)


@pytest.mark.parametrize("name", leapstep.SCHEDULES)
def test_curves_take_times_of_any_floating_point_type(name):
    process, t = leapstep.SCHEDULES[name](), torch.linspace(0, 1, 5, dtype=torch.float64)
    for times in (t.float(), t):
        torch.testing.assert_close(process.alpha(times).double(), process.alpha(t), rtol=1e-5, atol=1e-6)
