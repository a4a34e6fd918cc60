"""Transitions against the papers' own formulas and against closed forms, in float64."""

import math
from functools import lru_cache

import pytest
import torch
from scipy import stats

import leapstep
from leapstep.transitions import estimate, younger

F64 = torch.float64
PROCESSES = {"linear": leapstep.linear(), "cosine": leapstep.cosine(), "ve": leapstep.ve(), "flow": leapstep.flow()}
MIXTURE = leapstep.GaussianMixture(
    torch.tensor([[1.5, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=F64), torch.tensor([0.3, 0.2, 0.25], dtype=F64)
)
METHODS = {
    "ddim(0)": leapstep.ddim(0.0),
    "ddim(0.5)": leapstep.ddim(0.5),
    "ddim(1)": leapstep.ddim(1.0),
    "ddpm(posterior)": leapstep.ddpm("posterior"),
    "ddpm(beta)": leapstep.ddpm("beta"),
    "ddpm(none)": leapstep.ddpm("none"),
}
SOLVERS = {"ddim": 1, "heun": 2, "rk4": 4, "dpmpp_2m": 2, "dpmpp_2s": 2}
"""The deterministic methods and their orders."""


def time(value):
    return torch.tensor(value, dtype=F64)


def silent(draw=0):
    raise AssertionError("a deterministic step asked for noise")


def curved(process):
    """A denoiser that is not linear in x and not exact, so that nothing cancels by luck."""
    return leapstep.from_network(
        lambda x, k: torch.tanh(1.3 * x) + 0.1 * x * (k.double() / 1000)[:, None], process, timesteps=1000
    )


def test_eta_one_with_all_steps_is_ddpm_as_ho_et_al_wrote_it():
    """Equation 7 with posterior variance, from betas alone, step for step over T = 1000 with the same noise."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    bar = torch.cat([torch.ones(1, dtype=F64), (1 - betas).cumprod(0)])
    net = lambda x, k: torch.tanh(1.3 * x) + 0.1 * x * (k.double() / 1000)[:, None]  # noqa: E731
    x = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    noise = leapstep.Noise(7, range(4), (3,), F64)
    by_hand, ours = x, {}
    for step, k in enumerate(range(1000, 0, -1), start=1):
        eps = net(by_hand, torch.full((4,), k - 1))
        x0 = (by_hand - (1 - bar[k]).sqrt() * eps) / bar[k].sqrt()
        mean = bar[k - 1].sqrt() * betas[k - 1] / (1 - bar[k]) * x0
        mean = mean + (1 - betas[k - 1]).sqrt() * (1 - bar[k - 1]) / (1 - bar[k]) * by_hand
        variance = betas[k - 1] * (1 - bar[k - 1]) / (1 - bar[k])
        by_hand = mean + variance.sqrt() * noise(step) if k > 1 else mean
    diffusion = leapstep.from_network(net, leapstep.from_betas(betas))
    path = leapstep.times(diffusion.process, 1000)
    for name in ("ddim(1)", "ddpm(posterior)"):
        *_, last = leapstep.trajectory(diffusion, x, path, METHODS[name], noise)
        ours[name] = last.x
        torch.testing.assert_close(last.x, by_hand, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12_with_sigma_of_equation_16(name, eta):
    """The paper's letters: its alpha is our alpha^2. Any pair of times, not only neighbours."""
    process = PROCESSES[name]
    diffusion, x, z = curved(process), torch.randn(5, 3, dtype=F64), torch.randn(5, 3, dtype=F64)
    for t, s in [(1.0, 0.4), (0.5, 0.499), (0.3, 0.001), (0.01, 0.0)]:
        a_t, a_s = process.alpha(time(t)) ** 2, process.alpha(time(s)) ** 2
        eps = torch.tanh(1.3 * x) + 0.1 * x * (round(1000 * t) - 1) / 1000
        sigma = eta * ((1 - a_s) / (1 - a_t)).sqrt() * (1 - a_t / a_s).sqrt()
        predicted_x0 = (x - (1 - a_t).sqrt() * eps) / a_t.sqrt()
        expected = a_s.sqrt() * predicted_x0 + (1 - a_s - sigma**2).clamp(min=0).sqrt() * eps + sigma * z
        step = leapstep.ddim(eta)(diffusion, x, time(t), time(s), None, lambda draw=0: z)
        scale = predicted_x0.abs().max().item()  # at t = 1 x0 is thousands, and rounding with it
        torch.testing.assert_close(step.x, expected, rtol=0, atol=1e-12 * max(scale, 1))
        torch.testing.assert_close(step.x0, predicted_x0, rtol=1e-9, atol=1e-12)


def test_sigma_hat_keeps_the_posterior_mean_and_injects_beta():
    """sigma-hat^2 = 1 - alpha_t / alpha_s in the DDIM paper's letters; none into the final result."""
    process, x, z = PROCESSES["linear"], torch.randn(5, 3, dtype=F64), torch.randn(5, 3, dtype=F64)
    diffusion = curved(process)
    for t, s in [(1.0, 0.6), (0.5, 0.499), (0.1, 0.0)]:
        step = {v: leapstep.ddpm(v)(diffusion, x, time(t), time(s), None, lambda draw=0: z).x for v in ("beta", "none")}
        variance = 1 - (process.alpha(time(t)) / process.alpha(time(s))) ** 2 if s > 0 else time(0.0)
        torch.testing.assert_close(step["beta"] - step["none"], variance.sqrt() * z, rtol=1e-9, atol=1e-10)
    posterior = leapstep.ddpm("posterior")(diffusion, x, time(0.5), time(0.3), None, lambda draw=0: 0 * z).x
    bare = leapstep.ddpm("none")(diffusion, x, time(0.5), time(0.3), None, silent).x
    torch.testing.assert_close(posterior, bare)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_law_on_gaussian_data_is_the_closed_form(name, method, steps):
    """Data N(0, c) makes every step affine, x_s = g x_t + h z, so var(x) follows g^2 var + h^2.

    The sampler is probed with unit impulses, in the start noise and in the noise of each step; the sum of the squared
    responses is its exact variance, here against the recursion with g and h from the scalar formulas.
    """
    process, c = PROCESSES[name], 0.37
    diffusion = leapstep.GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.tensor([c], dtype=F64)).diffusion(process)
    path = leapstep.times(process, steps)
    impulse = torch.eye(steps + 1, dtype=F64)
    *_, last = leapstep.trajectory(
        diffusion, process.sigma(path[0]) * impulse[:, :1], path, METHODS[method],
        lambda step, draw=0: impulse[:, step : step + 1],
    )  # fmt: skip

    variance = process.sigma(path[0]).item() ** 2
    for t, s in zip(path[:-1].tolist(), path[1:].tolist(), strict=True):
        (a_t, s_t), (a_s, s_s) = ((process.alpha(time(u)).item(), process.sigma(time(u)).item()) for u in (t, s))
        total = a_t**2 * c + s_t**2
        fraction = 1 - (a_t * s_s / (s_t * a_s)) ** 2
        eta = {"ddim(0)": 0.0, "ddim(0.5)": 0.5}.get(method, 1.0)
        g = a_s * a_t * c / total + s_s * math.sqrt(max(1 - eta**2 * fraction, 0)) * s_t / total
        h = eta * s_s * math.sqrt(fraction)
        if method == "ddpm(beta)":
            h = s_t * math.sqrt(fraction) if s > 0 else 0.0
        if method == "ddpm(none)":
            h = 0.0
        variance = g**2 * variance + h**2
    assert last.x.square().sum().item() == pytest.approx(variance, abs=1e-10)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", [*METHODS, *(name for name in SOLVERS if name != "ddim")])
def test_mixed_times_equal_separate_runs(name, method):
    """A batch whose samples stand at different times, one of them finished, gives what each gives alone."""
    process = PROCESSES[name]
    diffusion = leapstep.GaussianMixture(
        torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=F64), torch.tensor([0.1, 0.2], dtype=F64)
    ).diffusion(process)
    x, z = torch.randn(2, 5, 2, dtype=F64, generator=torch.Generator().manual_seed(2))
    t, s = time([1.0, 0.5, 0.2, 0.001, 0.0]), time([0.7, 0.1, 0.199, 0.0, 0.0])
    transition = METHODS[method] if method in METHODS else leapstep.TRANSITIONS[method]()
    together = transition(diffusion, x, t, s, None, lambda draw=0: z)
    for i in range(5):
        row = slice(i, i + 1)
        alone = transition(diffusion, x[row], t[i], s[i], None, lambda draw=0, row=row: z[row])
        torch.testing.assert_close(together.x[row], alone.x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.x0[row], alone.x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.x[4], x[4])


def test_multistep_memory_is_each_samples_own():
    """Samples with paths of their own (another length, a wait at the data) go as each would alone."""
    process = PROCESSES["cosine"]
    diffusion = MIXTURE.diffusion(process)
    x = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(2))
    paths = [leapstep.times(process, n).tolist() for n in (8, 5, 3)]
    padded = time([path + [0.0] * (9 - len(path)) for path in paths]).T
    *_, together = leapstep.trajectory(diffusion, x, padded, leapstep.dpmpp_2m())
    for i, path in enumerate(paths):
        *_, alone = leapstep.trajectory(diffusion, x[i : i + 1], time(path), leapstep.dpmpp_2m())
        torch.testing.assert_close(together.x[i : i + 1], alone.x, rtol=1e-12, atol=1e-12)


# --- solvers of the ODE ---


def solved(diffusion, method, steps):
    """64 points taken from log-SNR -8 to 6 in even steps, where the data of the mixture is decided."""
    process = diffusion.process
    path = process.time(torch.linspace(-8, 6, steps + 1, dtype=F64))
    z = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    x = process.add_noise(MIXTURE.sample(64), path[0], z)
    *_, last = leapstep.trajectory(diffusion, x, path, leapstep.TRANSITIONS[method](), silent)
    return last


@lru_cache
def reference(name):
    return solved(MIXTURE.diffusion(PROCESSES[name]._replace(timesteps=None)), "rk4", 320).x


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", SOLVERS)
def test_convergence_order(name, method):
    """Over four step counts the error against a fine solution falls with the stated order, within 0.15."""
    diffusion = MIXTURE.diffusion(PROCESSES[name]._replace(timesteps=None))
    exact = reference(name)
    counts = [10, 20, 40, 80] if method == "rk4" else [40, 80, 160, 320]
    error = [(solved(diffusion, method, n).x - exact).square().mean().sqrt().item() for n in counts]
    slope = stats.linregress([math.log2(n) for n in counts], [math.log2(e) for e in error]).slope
    assert -slope == pytest.approx(SOLVERS[method], abs=0.15)


@pytest.mark.parametrize(
    ("method", "calls"), [("ddim", 10), ("heun", 19), ("rk4", 37), ("dpmpp_2m", 10), ("dpmpp_2s", 19)]
)
def test_calls(method, calls):
    """Ten steps to the data; the last one, to where there is no noise, is DDIM's and a single call."""
    diffusion = MIXTURE.diffusion(PROCESSES["linear"])
    path = leapstep.times(diffusion.process, 10)
    *_, last = leapstep.trajectory(diffusion, torch.randn(4, 2, dtype=F64), path, leapstep.TRANSITIONS[method]())
    assert last.calls == calls


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", SOLVERS)
def test_from_no_signal_to_no_noise(name, method):
    """Whole paths, with alpha = 0 at one end (flow) and sigma = 0 at the other, come near the fine solution."""
    diffusion = MIXTURE.diffusion(PROCESSES[name]._replace(timesteps=None))
    x = diffusion.process.sigma(time(1.0)) * torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    ends = {}
    for steps in (60, 300):
        path = leapstep.times(diffusion.process, steps, "log_snr")
        *_, last = leapstep.trajectory(diffusion, x, path, leapstep.TRANSITIONS[method]())
        ends[steps] = last.x
    assert (ends[60] - ends[300]).square().mean().sqrt() < (0.2 if method == "ddim" else 0.03)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
@pytest.mark.parametrize("steps", [4, 10, 25])
@pytest.mark.parametrize("method", ["heun", "dpmpp_2m"])
def test_solvers_are_those_of_diffusers(method, steps):
    """The same network, start and timesteps through diffusers' scheduler of that name; its betas are float32."""
    diffusers = pytest.importorskip("diffusers")
    betas = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
    scheduler = {
        "heun": lambda: diffusers.HeunDiscreteScheduler(**betas),
        "dpmpp_2m": lambda: diffusers.DPMSolverMultistepScheduler(**betas),
    }[method]()
    scheduler.set_timesteps(steps)
    diffusion = curved(PROCESSES["linear"])
    x = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    path = leapstep.times(diffusion.process, steps)
    assert torch.unique(scheduler.timesteps.long()).flip(0).tolist() == [
        round(1000 * t) - 1 for t in path[:-1].tolist()
    ]
    *_, ours = leapstep.trajectory(diffusion, x, path, leapstep.TRANSITIONS[method]())
    theirs = x / diffusion.process.alpha(path[0]) if method == "heun" else x  # diffusers' Heun lives in x / alpha
    for k in scheduler.timesteps:
        model_input = scheduler.scale_model_input(theirs, k)
        eps = torch.tanh(1.3 * model_input) + 0.1 * model_input * (k.double() / 1000)
        theirs = scheduler.step(eps, k, theirs).prev_sample
    torch.testing.assert_close(ours.x, theirs.double(), rtol=1e-4, atol=1e-4)


def test_float32_keeps_its_type_and_agrees_with_float64():
    diffusion = curved(PROCESSES["linear"])
    x = torch.randn(4, 3, dtype=F64)
    for t, s in [(time(0.5), time(0.3)), (time([0.9, 0.5, 0.2, 0.1]), time([0.5, 0.2, 0.1, 0.0]))]:
        high = leapstep.ddim()(diffusion, x, t, s, None, silent).x
        low = leapstep.ddim()(diffusion, x.float(), t, s, None, silent).x
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), high, rtol=1e-4, atol=1e-4)


def test_nothing_is_denoised_at_the_data():
    calls = []

    def net(x, k):
        calls.append(k)
        return x

    diffusion = leapstep.from_network(net, PROCESSES["linear"])
    x = torch.randn(3, 2)
    x0, eps = estimate(diffusion, x, time(0.0))
    assert not calls
    assert torch.equal(x0, x)
    assert torch.equal(eps, torch.zeros_like(x))


def test_younger_is_the_share_of_new_noise():
    process = PROCESSES["linear"]
    t, s = time(0.5), time(0.499)
    beta = 1 - (process.alpha(t) / process.alpha(s)) ** 2
    torch.testing.assert_close(younger(process, t, s), beta / process.sigma(t) ** 2)
    assert younger(process, t, time(0.0)).item() == 1
    assert younger(process, time(0.0), time(0.0)).item() == 0


def test_upwards_only_without_noise():
    diffusion, x = curved(PROCESSES["linear"]), torch.randn(2, 3, dtype=F64)
    assert leapstep.ddim(0.0)(diffusion, x, time(0.1), time(0.5), None, silent).x.isfinite().all()
    for method in ("ddim(0.5)", "ddpm(posterior)", "ddpm(none)"):
        with pytest.raises(ValueError, match="must be deterministic"):
            METHODS[method](diffusion, x, time([0.5, 0.1]), time([0.1, 0.5]), None, lambda draw=0: x)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_out_of_range(eta):
    with pytest.raises(ValueError, match="must lie between 0"):
        leapstep.ddim(eta)


def test_unknown_variance_lists_the_known():
    with pytest.raises(ValueError, match="'large': use posterior, beta or none"):
        leapstep.ddpm("large")
