"""Transitions against the papers' own formulas and against closed forms, in float64."""

import math
import pickle
import re
from functools import partial

import pytest
import torch

import leapstep
from cases import silent, time
from leapstep.core.transitions import estimate, younger

F64 = torch.float64
PROCESSES = {"linear": leapstep.linear(), "cosine": leapstep.cosine(), "ve": leapstep.ve(), "flow": leapstep.flow()}
METHODS = {
    "ddim(0)": leapstep.ddim(0.0),
    "ddim(0.5)": leapstep.ddim(0.5),
    "ddim(1)": leapstep.ddim(1.0),
    "ddpm(posterior)": leapstep.ddpm("posterior"),
    "ddpm(beta)": leapstep.ddpm("beta"),
    "ddpm(none)": leapstep.ddpm("none"),
}


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
    with pytest.raises(ValueError, match="'large': use posterior, beta, none, learned or optimal"):
        leapstep.ddpm("large")


# --- optimal and learned variance ---


def gaussian(process, variance):
    return leapstep.GaussianMixture(torch.zeros(1, 2, dtype=F64), torch.tensor([variance], dtype=F64)).diffusion(
        process
    )


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("eta", [None, 0.0, 0.5, 1.0])
def test_the_optimal_variance_gives_the_exact_law_on_gaussian_data(name, steps, eta):
    """The spread of x0 is all that a Gaussian step lacks there: at any number of steps the last marginal is right."""
    process, c = PROCESSES[name], 0.37
    spread = lambda t: c * process.sigma(t) ** 2 / (process.alpha(t) ** 2 * c + process.sigma(t) ** 2)  # noqa: E731
    options = {"variance": "optimal", "spread": spread}
    transition = leapstep.ddpm(**options) if eta is None else leapstep.ddim(eta, **options)
    diffusion = leapstep.GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.tensor([c], dtype=F64)).diffusion(process)
    path = torch.cat([leapstep.times(process, steps)[:-1], time([0.0005])])
    impulse = torch.eye(steps + 1, dtype=F64)
    start = (process.alpha(path[0]) ** 2 * c + process.sigma(path[0]) ** 2).sqrt()
    *_, last = leapstep.trajectory(
        diffusion, start * impulse[:, :1], path, transition, lambda step, draw=0: impulse[:, step : step + 1]
    )
    exact = process.alpha(path[-1]) ** 2 * c + process.sigma(path[-1]) ** 2
    assert last.x.square().sum().item() == pytest.approx(exact.item(), rel=1e-9)


def test_the_optimal_variance_is_bounded_at_the_last_trained_level_only():
    process = PROCESSES["linear"]
    spread, x = lambda t: torch.full_like(t, 0.3), torch.randn(3, 2, dtype=F64)
    z = lambda draw=0: torch.ones_like(x)  # noqa: E731
    added = {}
    for limit in (None, 0.001):
        for s in (0.001, 0.002, 0.0):
            step = leapstep.ddpm("optimal", spread, limit)
            bare = leapstep.ddpm("none")(gaussian(process, 0.5), x, time(0.3), time(s), None, silent).x
            noisy = step(gaussian(process, 0.5), x, time(0.3), time(s), None, z).x
            added[limit, s] = (noisy - bare).mean().item()
    assert added[0.001, 0.001] == pytest.approx(0.001)
    assert added[0.001, 0.002] == pytest.approx(added[None, 0.002])
    assert added[None, 0.001] > 0.1
    assert added[None, 0.0] == added[0.001, 0.0] == 0


def test_a_learned_variance_lies_between_posterior_and_beta():
    process = PROCESSES["linear"]
    x = torch.randn(2, 3, dtype=F64)
    calls = []

    def diffusion(share):
        def net(x, k):
            calls.append(1)
            return torch.cat([torch.tanh(x), torch.full_like(x, 2 * share - 1)], 1)

        return leapstep.from_network(net, process)

    z = lambda draw=0: torch.ones_like(x)  # noqa: E731
    stds = {}
    for name, model in {"posterior": diffusion(0.0), "beta": diffusion(1.0), "middle": diffusion(0.5)}.items():
        learned = leapstep.ddpm("learned")(model, x, time(0.5), time(0.4), None, z).x
        stds[name] = learned - leapstep.ddpm("none")(model, x, time(0.5), time(0.4), None, silent).x
        if name != "middle":
            torch.testing.assert_close(learned, leapstep.ddpm(name)(model, x, time(0.5), time(0.4), None, z).x)
    torch.testing.assert_close(stds["middle"], (stds["posterior"] * stds["beta"]).sqrt())
    calls.clear()
    leapstep.ddpm("learned")(diffusion(0.5), x, time(0.5), time(0.4), None, z)
    assert len(calls) == 1  # the estimate and the variance are of one call


def test_learned_variance_of_a_network_without():
    diffusion, x = curved(PROCESSES["linear"]), torch.randn(2, 3, dtype=F64)
    with pytest.raises(ValueError, match="learned no variance"):
        leapstep.ddpm("learned")(diffusion, x, time(0.5), time(0.4), None, lambda draw=0: x)
    with pytest.raises(ValueError, match="learned no variance"):
        leapstep.ddpm("learned")(
            gaussian(PROCESSES["linear"], 1.0), x[:, :2], time(0.5), time(0.4), None, lambda draw=0: x
        )


@pytest.mark.parametrize("make", [leapstep.ddpm, leapstep.ddim])
def test_options_of_the_optimal_variance(make):
    with pytest.raises(ValueError, match="needs spread"):
        make(variance="optimal")
    with pytest.raises(ValueError, match="do not apply"):
        make(spread=lambda t: t)


def test_a_learned_variance_beyond_the_posterior_is_finite_for_finished_samples():
    net = lambda x, k: torch.cat([torch.tanh(x), torch.full_like(x, -1.02)], 1)  # noqa: E731
    diffusion, x = leapstep.from_network(net, PROCESSES["linear"]), torch.randn(3, 2, dtype=F64)
    step = leapstep.ddpm("learned")(diffusion, x, time([0.5, 0.5, 0.3]), time([0.0, 0.3, 0.3]), None, lambda draw=0: x)
    assert step.x.isfinite().all()


# --- names ---

MADE = {
    "unipc(order=3)": lambda: leapstep.unipc(order=3),
    "unipc()": lambda: leapstep.unipc(2),
    "ddim(eta=0.5)": lambda: leapstep.ddim(0.5),
    "ddpm(variance='beta')": lambda: leapstep.ddpm("beta"),
    "edm(churn=1.0, high=20.0)": lambda: leapstep.edm(1.0, high=20.0),
    "corrected(dpmpp_2m(), corrections=2)": lambda: leapstep.corrected(leapstep.dpmpp_2m(), 2),
    "inverted(heun())": lambda: leapstep.inverted(leapstep.heun()),
    "inpainted(ddim(), float32 [3], float32 [3], resample=2)": lambda: leapstep.inpainted(
        "ddim", torch.arange(3.0), torch.eye(3)[0], 2
    ),
}


@pytest.mark.parametrize("text", MADE)
def test_transitions_print_pickle_and_compare_by_name_and_options(text):
    transition = MADE[text]()
    again = pickle.loads(pickle.dumps(transition))
    assert repr(transition) == repr(again) == text
    assert len({transition, again, MADE[text]()}) == 1
    assert transition != leapstep.rk4()
    if not text.startswith("inverted"):
        noise = leapstep.Noise(0, range(2), (3,), F64)
        step = partial(transition, curved(PROCESSES["linear"]), noise(0), time(0.5), time(0.4), None)
        same = partial(again, curved(PROCESSES["linear"]), noise(0), time(0.5), time(0.4), None)
        assert torch.equal(step(partial(noise, 1)).x, same(partial(noise, 1)).x)


@pytest.mark.parametrize("method", ["unipc", leapstep.unipc, leapstep.unipc(), leapstep.TRANSITIONS["unipc"]])
def test_a_method_goes_by_its_name_or_uncalled(method):
    diffusion, x = curved(PROCESSES["linear"]), torch.randn(2, 3, dtype=F64)
    path = leapstep.times(diffusion.process, 5)
    calls = [
        lambda transition: leapstep.sample(diffusion, (2, 3), 5, transition),
        lambda transition: leapstep.encode(diffusion, x, 5, transition),
        lambda transition: leapstep.decode(diffusion, x, 5, transition),
        lambda transition: list(leapstep.trajectory(diffusion, x, path, transition))[-1].x,
    ]
    for call in calls:
        assert torch.equal(call(method), call(leapstep.unipc()))
        assert not torch.equal(call(method), call(None))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("unipcc", "unknown transition 'unipcc': did you mean unipc?"),
        (leapstep.churned, "transition=churned makes one of another: call it, as in leapstep.churned('heun')"),
        (5, "transition=5: pass a name such as 'unipc' (ddim, ddpm"),
        (leapstep.Process, "a transition such as leapstep.unipc(order=3)"),
    ],
)
def test_what_is_no_method_is_told_in_one_line(wrong, line):
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        leapstep.sample(curved(PROCESSES["linear"]), (2, 3), 5, wrong)
    assert "\n" not in str(error.value)
