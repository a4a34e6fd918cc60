"""Every method of the table against exact answers: orders, laws, calls, ends, times of its own for each sample."""

import math
from functools import lru_cache, partial
from pathlib import Path

import pytest
import torch
from scipy import stats

import leapstep
from cases import MIXTURE, halved_3m, silent, time
from leapstep.core import integrate
from leapstep.core.transitions import ode

F64 = torch.float64
PROCESSES = {
    "linear": leapstep.linear(),
    "cosine": leapstep.cosine(),
    "ve": leapstep.ve(sigma_max=80),
    "flow": leapstep.flow(),
}
SOME = ["linear", "flow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cosine", "ve"))]
DETERMINISTIC = {name: method for name, method in leapstep.TRANSITIONS.items() if method.deterministic}
STOCHASTIC = {name: method for name, method in leapstep.TRANSITIONS.items() if not method.deterministic}
ORDERS = {name: (method.make(), method.order) for name, method in DETERMINISTIC.items()} | {
    "rk23": (ode.runge_kutta(integrate.BOGACKI_SHAMPINE), 3),  # at steps of a given length
    "rk45": (ode.runge_kutta(integrate.DORMAND_PRINCE), 5),
    "unipc(3)": (leapstep.unipc(3), 4),
    "deis(2)": (leapstep.deis(2), 2),
    "deis(2, log_snr)": (leapstep.deis(2, "log_snr"), 2),
    "deis(3, log_snr)": (leapstep.deis(3, "log_snr"), 3),
    "3M as elsewhere": (halved_3m, 2),
}


def loosely(method):
    """A method, of which those that choose their own steps take few: for what holds at any tolerance."""
    stated = leapstep.TRANSITIONS[method]
    return stated.make() if stated.calls else stated.make(rtol=0.1, atol=0.1)


def free(name):
    """A process without trained levels, so that any times are allowed."""
    return PROCESSES[name]._replace(timesteps=None)


def even(process, steps):
    """Times from log-SNR -8 to 6 in even steps, between which the data of the mixture is decided."""
    return process.time(torch.linspace(-8, 6, steps + 1, dtype=F64))


def solved(name, transition, steps):
    process = free(name)
    path = even(process, steps)
    z = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    x = process.add_noise(MIXTURE.sample(64), path[0], z)
    *_, last = leapstep.trajectory(MIXTURE.diffusion(process), x, path, transition, silent)
    return last.x


@lru_cache
def exact(name, steps=320):
    return solved(name, ode.runge_kutta(integrate.DORMAND_PRINCE), steps)


def slope(counts, errors):
    return stats.linregress([math.log2(n) for n in counts], [math.log2(abs(e)) for e in errors]).slope


MANY_CALLS = ("rk23", "rk4", "rk45")  # one process is enough for every day


@pytest.mark.parametrize(
    ("name", "method"),
    [
        pytest.param(name, method, marks=[pytest.mark.slow] * (name in ("cosine", "ve") or method in MANY_CALLS))
        for method in ORDERS
        for name in ("linear", "cosine", "ve")
    ]
    + [pytest.param("flow", method, marks=[pytest.mark.slow] * (method == "rk45")) for method in ORDERS],
)
def test_convergence_order(name, method):
    """Over several step counts the error falls with the stated order, within 0.15.

    The way begins in the noise, where the estimate hardly moves, so the first steps of multistep methods, of lower
    order, cost nothing.
    """
    transition, order = ORDERS[method]
    counts = {3: [40, 80, 160], 4: [10, 20, 40, 80], 5: [113, 160, 226, 320]}.get(order, [20, 40, 80])
    if method == "unipc(3)":
        counts = [80, 160, 320]
    end = exact(name, 640) if order == 5 else exact(name)
    errors = [(solved(name, transition, n) - end).square().mean().sqrt().item() for n in counts]
    assert -slope(counts, errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("method", [*STOCHASTIC, "ddim(0.5)", "sde_dpmpp_2m(0.5)", "edm(1)"])
def test_order_in_law(name, method):
    """On Gaussian data each step is affine, so the law of the result is known: its variance converges as stated.

    The sampler is probed with unit impulses, one for the start and one for each draw; the sum of the squared responses
    is its variance.
    """
    transition, order = {
        "ddim(0.5)": (leapstep.ddim(0.5), 1),
        "sde_dpmpp_2m(0.5)": (leapstep.sde_dpmpp_2m(0.5), 2),
        "edm(1)": (leapstep.edm(1.0), 2),
    }.get(method) or (STOCHASTIC[method].make(), STOCHASTIC[method].order)
    process, variance = free(name), 0.003
    diffusion = leapstep.GaussianMixture(torch.zeros(1, 1, dtype=F64), time([variance])).diffusion(process)
    counts, errors = [20, 40, 80, 160], []
    for n in counts:
        path, impulse = even(process, n), torch.eye(2 * n + 1, dtype=F64)
        start, end = (process.alpha(t) ** 2 * variance + process.sigma(t) ** 2 for t in (path[0], path[-1]))
        respond = lambda step, draw=0, impulse=impulse: impulse[:, 2 * step - 1 + draw, None]  # noqa: E731
        *_, last = leapstep.trajectory(diffusion, start.sqrt() * impulse[:, :1], path, transition, respond)
        errors.append(last.x.square().sum().item() / end.item() - 1)
    if order:
        assert -slope(counts, errors) == pytest.approx(order, abs=0.15)
    else:
        assert abs(errors[-1]) < 0.03  # a bias that stays ...
        assert abs(errors[-1]) > 0.5 * abs(errors[-2])


def test_the_bias_of_corrections_is_of_second_order_in_snr():
    """A correction of N(0, v) is affine, x <- a x + b z, and rests at the variance b^2 / (1 - a^2)."""
    process, bias, c, t = free("linear"), [], 0.37, time([0.3, 0.3])
    diffusion = leapstep.GaussianMixture(torch.zeros(1, 1, dtype=F64), time([c])).diffusion(process)
    sigma = process.sigma(t[0]).item()
    v = process.alpha(t[0]).item() ** 2 * c + sigma**2
    stay = lambda diffusion, x, t, s, memory, noise: leapstep.Step(x, x)  # noqa: E731
    unit = torch.eye(2, dtype=F64)
    for snr in (0.05, 0.1, 0.2):
        correct = leapstep.corrected(stay, 1, snr)
        a, b = correct(diffusion, unit[:, :1], t + 0.01, t, None, lambda draw: unit[:, 1:]).x.flatten().tolist()
        keep = 1 - math.sqrt(1 - 4 * snr**2)
        assert a == pytest.approx(1 - keep * sigma**2 / v)
        assert b == pytest.approx(2 * snr * sigma)
        bias.append(b**2 / (1 - a**2) / v - 1)
    assert bias[1] / bias[0] == pytest.approx(4, rel=0.05)
    assert bias[2] / bias[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("method", [*STOCHASTIC, "ddim"])
def test_law_on_a_mixture(name, method):
    """Mean, covariance and, on four projections, a two-sample test, against as many exact draws."""
    process, n = free(name), 2000
    transition = leapstep.TRANSITIONS[method].make()
    steps = 100 if leapstep.TRANSITIONS[method].order == 2 else 250
    path = torch.cat([even(process, steps), torch.zeros(1, dtype=F64)])
    noise = leapstep.Noise(5, range(n), (2,), F64)
    x = process.add_noise(MIXTURE.sample(n, seed=1), path[0], noise(0))
    with torch.no_grad():
        *_, last = leapstep.trajectory(MIXTURE.diffusion(process), x, path, transition, noise)
    data = MIXTURE.sample(n, seed=2)
    assert (last.x.mean(0) - data.mean(0)).abs().max() < 4 * math.sqrt(2 / n)
    assert (last.x.T.cov() - data.T.cov()).abs().max() < 0.12
    for angle in (0.0, 0.8, 1.6, 2.4):
        along = torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64)
        assert stats.ks_2samp((last.x @ along).numpy(), (data @ along).numpy()).pvalue > 0.01 / 4


def test_the_documented_table_is_ours():
    """docs/samplers.md has a row for each method, in order, with what `TRANSITIONS` says of it."""
    document = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text()
    rows = [line.split("|")[1:-1] for line in document.splitlines() if line.startswith("| `")]
    stated = [[cell.strip() for cell in row] for row in rows if len(row) == 5]
    assert stated == [
        [
            f"`{name}`",
            str(method.order) if method.order else "a bias remains",
            str(method.calls) if method.calls else "as many as the tolerance takes",
            "yes" if method.deterministic else "no",
            method.use,
        ]
        for name, method in leapstep.TRANSITIONS.items()
    ]


# --- times ---


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", leapstep.TRANSITIONS)
def test_samples_go_their_own_way(name, method):
    """Paths of different lengths, one from half the noise, waits at the data: each as it would go alone."""
    process = PROCESSES[name]
    diffusion = MIXTURE.diffusion(process)
    paths = [leapstep.times(process, n).tolist() for n in (8, 5, 3)] + [[0.5, 0.3, 0.3, 0.1, 0.0]]
    padded = time([path + [0.0] * (9 - len(path)) for path in paths]).T
    z = torch.randn(4, 40, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    transition = loosely(method)
    x = process.sigma(padded[0])[:, None] * z[:, 0]
    draw = lambda rows, step, number=0: z[rows, 4 * step + number]  # noqa: E731
    *_, together = leapstep.trajectory(diffusion, x, padded, transition, partial(draw, slice(0, 4)))
    for i, path in enumerate(paths):
        row = slice(i, i + 1)
        *_, alone = leapstep.trajectory(diffusion, x[row], time(path), transition, partial(draw, row))
        torch.testing.assert_close(together.x[row], alone.x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", DETERMINISTIC)
def test_from_no_signal_to_no_noise(name, method):
    """Whole paths, with alpha = 0 at one end (flow) and sigma = 0 at the other, come near the fine solution."""
    steps = 60 if DETERMINISTIC[method].calls else 6  # each of which takes as many as its tolerance asks for
    miss = (whole(name, method, steps) - whole(name, "rk4", 150)).square().mean().sqrt()
    assert miss < (0.3 if DETERMINISTIC[method].order == 1 else 0.03)


@lru_cache
def whole(name, method, steps):
    process = free(name)
    x = process.sigma(time(1.0)) * torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    path = leapstep.times(process, steps, "log_snr")
    *_, last = leapstep.trajectory(MIXTURE.diffusion(process), x, path, DETERMINISTIC[method].make(), silent)
    return last.x


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score", "flow"])
@pytest.mark.parametrize("method", leapstep.TRANSITIONS)
def test_what_the_network_predicts_changes_nothing(predicts, method):
    process = leapstep.linear()
    known = MIXTURE.diffusion(process)

    def net(x, k):
        x0 = known.denoise(x, k / 1000)
        return process.convert(x0, x, k / 1000, "x0", predicts)

    adapted = leapstep.from_network(net, process, predicts, "index_from_1", fractional=True)
    transition, path = loosely(method), leapstep.times(process, 6)
    x = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(4))
    noise = leapstep.Noise(3, range(5), (2,), F64)
    *_, a = leapstep.trajectory(known, x, path, transition, noise)
    *_, b = leapstep.trajectory(adapted, x, path, transition, noise)
    torch.testing.assert_close(a.x, b.x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", leapstep.TRANSITIONS)
def test_gradients_flow_through_mixed_times(name, method):
    """Also where some samples stand at the data, at pure noise, or wait."""
    process = PROCESSES[name]
    path = time([[1.0, 0.5, 0.0, 0.3], [0.6, 0.2, 0.0, 0.3], [0.0, 0.0, 0.0, 0.1]])
    x = torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(8)).requires_grad_()
    noise = leapstep.Noise(3, range(4), (2,), F64)
    *_, last = leapstep.trajectory(MIXTURE.diffusion(process), x, path, loosely(method), noise)
    (gradient,) = torch.autograd.grad(last.x.square().sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", [name for name, method in DETERMINISTIC.items() if method.calls])
def test_waiting_forgets_nothing(name, method):
    """A sample that waits in the middle of its way ends where it would without."""
    diffusion = MIXTURE.diffusion(PROCESSES[name])
    x = torch.randn(2, 2, dtype=F64, generator=torch.Generator().manual_seed(9))
    ways = [[0.9, 0.7, 0.7, 0.5, 0.3, 0.0], [0.9, 0.7, 0.5, 0.3, 0.0, 0.0]]
    *_, waited = leapstep.trajectory(diffusion, x[:1].expand(2, 2), time(ways).T, DETERMINISTIC[method].make(), silent)
    torch.testing.assert_close(waited.x[0], waited.x[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "steps"), [*[(method, steps) for method in ("heun", "rk4") for steps in (10, 20, 50)], ("dpm_2", 10)]
)
def test_steps_that_lose_nearly_all_signal_are_not_solved_in_rho(method, steps):
    """On `cosine` the first trailing step divides rho by hundreds; solvers are no worse than DDIM all the same."""
    fine = trailing("ddim", 1000)
    misses = {name: (trailing(name, steps) - fine).square().mean().sqrt().item() for name in ("ddim", method)}
    assert misses[method] < misses["ddim"]


@lru_cache
def trailing(method, steps):
    """What steps of `cosine` make of the same noise."""
    diffusion = MIXTURE.diffusion(PROCESSES["cosine"])
    x = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    path = leapstep.times(diffusion.process, steps)
    *_, last = leapstep.trajectory(diffusion, x, path, DETERMINISTIC[method].make(), silent)
    return last.x


# --- calls ---


@pytest.mark.parametrize("method", leapstep.TRANSITIONS)
def test_calls(method):
    """As the table says, but for the last step, to where there is no noise: a single call."""
    stated = leapstep.TRANSITIONS[method]
    if stated.calls == 0:
        pytest.skip("as many as its tolerance takes: see test_adaptive")
    diffusion = MIXTURE.diffusion(PROCESSES["linear"])
    path = leapstep.times(diffusion.process, 10)
    noise = leapstep.Noise(0, range(4), (2,), F64)
    *_, last = leapstep.trajectory(diffusion, noise(0), path, stated.make(), noise)
    assert last.calls == 9 * stated.calls + 1


@pytest.mark.parametrize("method", ["rk23", "rk45"])
def test_adaptive_methods_keep_their_tolerance(method):
    """The error falls with the tolerance, and calls rise less than a fixed step's would; a thin tolerance pays."""
    process = free("linear")
    path = even(process, 1)
    z = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    x = process.add_noise(MIXTURE.sample(64), path[0], z)
    calls, errors = [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        transition = leapstep.TRANSITIONS[method].make(rtol=tolerance, atol=tolerance)
        *_, last = leapstep.trajectory(MIXTURE.diffusion(process), x, path, transition, silent)
        errors.append((last.x - exact("linear")).square().mean().sqrt().item())
        calls.append(last.calls)
        assert errors[-1] < 10 * tolerance
    assert calls[0] < calls[1] < calls[2]
    assert errors[0] > errors[1] > errors[2]
    if method == "rk45":
        fixed = (solved("linear", leapstep.ddim(), 300) - exact("linear")).square().mean().sqrt()
        assert errors[2] < 1e-3 * fixed
        assert calls[2] < 300


@pytest.mark.parametrize("name", PROCESSES)
def test_adaptive_steps_are_each_samples_own(name):
    """One sample in a smooth place and one in a difficult one: what each gets does not depend on the other."""
    diffusion = MIXTURE.diffusion(free(name))
    x = diffusion.process.sigma(time(1.0)) * time([[4.0, 4.0], [0.01, -0.02]])
    *_, both = leapstep.trajectory(diffusion, x, time([1.0, 0.0]), leapstep.rk45(), silent)
    calls = []
    for i in range(2):
        *_, alone = leapstep.trajectory(diffusion, x[i : i + 1], time([1.0, 0.0]), leapstep.rk45(), silent)
        torch.testing.assert_close(both.x[i : i + 1], alone.x, rtol=1e-9, atol=1e-9)
        calls.append(alone.calls)
    assert max(calls) <= both.calls < sum(calls)


@pytest.mark.parametrize("name", leapstep.SCHEDULES)
@pytest.mark.parametrize(("method", "tolerance"), [("rk45", 1e-3), ("rk23", 1e-2)])
def test_one_adaptive_step_goes_up_as_well_as_down(name, method, tolerance):
    """From data to pure noise and back on N(0, 1/4), where both are a factor that is known in closed form.

    At the ends, where there is no noise or no signal, the factor is DDIM's, of the one step to the next level.
    """
    process, c = leapstep.SCHEDULES[name](), time(0.25)
    size = lambda t: (process.alpha(t) ** 2 * c + process.sigma(t) ** 2).sqrt()  # noqa: E731
    level = 1 / (process.timesteps or 1000)
    last = time(1.0) - (level if process.alpha(time(1.0)) == 0 else 0)
    zero, first, one = time(0.0), time(level), time(1.0)

    def leapt(t, s):
        kept = process.alpha(s) * process.alpha(t) * c + process.sigma(s) * process.sigma(t)
        return kept / size(t) ** 2

    up = leapt(zero, first) * size(last) / size(first) * leapt(last, one)
    down = leapt(one, last) * size(first) / size(last) * leapt(first, zero)
    diffusion = leapstep.GaussianMixture(torch.zeros(1, 4, dtype=F64), c[None]).diffusion(process)
    x0 = c.sqrt() * torch.randn(16, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    calls, transition = [], leapstep.TRANSITIONS[method].make()
    latent = leapstep.encode(diffusion, x0, 1, transition, on_step=lambda state: calls.append(state.calls))
    again = leapstep.decode(diffusion, up * x0, 1, transition, on_step=lambda state: calls.append(state.calls))
    assert (latent - up * x0).norm() < 3 * tolerance * (up * x0).norm()
    assert (again - down * up * x0).norm() < 3 * tolerance * x0.norm()
    assert max(calls) <= {"rk45": 97, "rk23": 49}[method]


@pytest.mark.parametrize("name", PROCESSES)
def test_adaptive_methods_encode_a_mixture(name):
    """The latents are those of a fine solution, whose first and last step, DDIM's, are of the same length."""
    process, data = PROCESSES[name], MIXTURE.sample(32)
    diffusion, levels = MIXTURE.diffusion(process), process.timesteps or 1000
    ends = torch.tensor([1 / levels, (levels - 1) / levels if process.alpha(time(1.0)) == 0 else 1.0], dtype=F64)
    low, high = process.log_snr(ends)
    fine = process.time(torch.lerp(high, low, torch.linspace(0, 1, 81, dtype=F64)))
    fine[0], fine[-1] = ends[1], ends[0]
    path = torch.cat([time([1.0])[: int(ends[1] < 1)], fine])
    exact = leapstep.encode(diffusion, data, path, leapstep.rk4())
    found = leapstep.encode(diffusion, data, 1, leapstep.rk45())
    assert (found - exact).norm() < 5e-3 * exact.norm()


def test_a_network_that_no_step_suits_is_told():
    diffusion = leapstep.Diffusion(free("linear"), lambda x, t: 0.5 * x / (t > 0.3).reshape(-1, 1))
    with pytest.raises(FloatingPointError, match=r"no step from t = 0\.3.* is not finite there, or jumps"):
        list(leapstep.trajectory(diffusion, torch.randn(2, 2), time([1.0, 0.0]), leapstep.rk45()))
    with pytest.raises(ValueError, match="tolerances must be positive"):
        leapstep.rk23(rtol=0)


# --- the same flow in a bounded time ---


@pytest.mark.parametrize(
    ("process", "slope_of"),
    [
        (leapstep.exponential(), lambda x, eps, t: 10 * t * (eps / math.sqrt(1 - math.exp(-10 * t**2)) - x)),
        (leapstep.exponential_s(), lambda x, eps, s: 5 * (eps / math.sqrt(1 - math.exp(-10 * s)) - x)),
    ],
)
def test_euler_in_time_is_the_textbook_form(process, slope_of):
    diffusion = MIXTURE.diffusion(process)
    x = torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(5))
    for t, s in [(1.0, 0.9), (0.5, 0.2), (0.01, 0.0)]:
        eps = process.split(diffusion.denoise(x, time(t)), x, time(t), "x0")[1]
        step = leapstep.pf_euler()(diffusion, x, time(t), time(s), None, silent)
        torch.testing.assert_close(step.x, x + (s - t) * slope_of(x, eps, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", [leapstep.flow(shift=3), leapstep.cosine()], ids=["flow", "cosine"])
def test_euler_in_time_and_ddim_agree_to_first_order_on_any_time_axis(process):
    diffusion = MIXTURE.diffusion(process)
    x = torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(5))
    steps = (
        make()(diffusion, x, time(0.5), time(0.5 - 1e-5), None, silent) for make in (leapstep.pf_euler, leapstep.ddim)
    )
    euler, ddim = ((step.x - x) / -1e-5 for step in steps)
    torch.testing.assert_close(euler, ddim, rtol=1e-3, atol=1e-3)


def test_what_coordinates_cost():
    """DDIM is the same map on both clocks; Euler in t is not. On the straight line of `flow` Euler in t is DDIM."""
    z = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(6))
    ends = {}
    for name, process in {"t": leapstep.exponential(), "s": leapstep.exponential_s()}.items():
        path = leapstep.exponential().time(torch.linspace(-8, 6, 31, dtype=F64))
        path = path**2 if name == "s" else path
        for method in ("ddim", "pf_euler"):
            transition = leapstep.TRANSITIONS[method].make()
            *_, last = leapstep.trajectory(MIXTURE.diffusion(process), z, path, transition, silent)
            ends[method, name] = last.x
    torch.testing.assert_close(ends["ddim", "t"], ends["ddim", "s"], rtol=1e-9, atol=1e-9)
    assert (ends["pf_euler", "t"] - ends["pf_euler", "s"]).abs().max() > 0.01
    path = leapstep.times(leapstep.flow(), 7)
    diffusion = MIXTURE.diffusion(leapstep.flow())
    *_, a = leapstep.trajectory(diffusion, z, path, leapstep.pf_euler(), silent)
    *_, b = leapstep.trajectory(diffusion, z, path, leapstep.ddim(), silent)
    torch.testing.assert_close(a.x, b.x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_ddim_is_the_euler_step(name):
    """In x / alpha and sigma / alpha, to 1e-12: the tableau of one stage gives DDIM."""
    euler = ode.runge_kutta(integrate.Tableau(1, (0,), ((),), (1,)))
    diffusion = MIXTURE.diffusion(PROCESSES[name])
    x = torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(7))
    for t, s in [(0.9, 0.6), (0.3, 0.31)]:
        ours = leapstep.ddim()(diffusion, x, time(t), time(s), None, silent).x
        torch.testing.assert_close(ours, euler(diffusion, x, time(t), time(s), None, silent).x, rtol=0, atol=1e-12)


# --- there and back ---


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", ["ddim", "heun"])
def test_the_inverse_is_exact(name, method):
    """Round trips through 50 steps to 1e-6 on a smooth denoiser, where encoding with the plain method is far off."""
    diffusion = MIXTURE.diffusion(free(name))
    data = MIXTURE.sample(32)
    transition = leapstep.TRANSITIONS[method].make()
    misses = {}
    for way, up in {"plain": transition, "exact": leapstep.inverted(transition)}.items():
        latent = leapstep.encode(diffusion, data, 50, up, spacing="log_snr")
        again = leapstep.decode(diffusion, latent, 50, transition, spacing="log_snr")
        misses[way] = (again - data).abs().max().item()
    assert misses["exact"] < 1e-6
    assert misses["exact"] < 1e-3 * misses["plain"]


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_an_inverse_that_is_found_to_rounding_is_not_called_missing(dtype):
    """Where the steps of a map cancel, its rounding is above 50 of its dtype (here 3e-14), and no search gets below."""
    diffusion, calls = MIXTURE.diffusion(leapstep.subvp()), []
    leapstep.encode(
        diffusion,
        MIXTURE.sample(32).to(dtype),
        10,
        leapstep.inverted(leapstep.heun()),
        spacing="leading",
        on_step=lambda state: calls.append(state.calls),
    )
    assert calls[-1] < 250  # of 375 that all tries would take


def test_an_inverse_that_is_not_found_is_told():
    """The last step of a model of two points leads to between them, so nothing leads to a third."""
    diffusion = leapstep.empirical(leapstep.cosine(), time([[1.0], [-1.0]]))
    with pytest.warns(UserWarning, match="take more steps"):
        leapstep.encode(diffusion, time([[5.0]]), 2, leapstep.inverted(leapstep.ddim(), limit=20))


# --- options ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: leapstep.unipc(4), "order=4: use 2 or 3"),
        (lambda: leapstep.deis(1), "order=1: use 2, 3 or 4"),
        (lambda: leapstep.deis(3, "lambda"), "variable='lambda': use t, log_snr or rho"),
        (lambda: leapstep.ipndm(5), "order=5: use 1, 2, 3 or 4"),
        (lambda: leapstep.dpmpp_2m("mean"), "average='mean': use middle or exact"),
        (lambda: leapstep.sde_dpmpp_2m(1.5), "eta=1.5: must lie between 0"),
        (lambda: leapstep.edm(-1.0), "churn=-1.0, low=0.0, high=inf"),
        (lambda: leapstep.edm(1.0, low=2.0, high=1.0), "low at most high"),
        (lambda: leapstep.pc(0), "corrections=0, snr=0.16"),
        (lambda: leapstep.pc(1, 0.7), "0 < snr <= 0.5"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", STOCHASTIC)
def test_noise_is_never_injected_on_the_way_up(method):
    diffusion, x = MIXTURE.diffusion(PROCESSES["linear"]), torch.randn(2, 2, dtype=F64)
    with pytest.raises(ValueError, match="must be deterministic"):
        leapstep.TRANSITIONS[method].make()(diffusion, x, time(0.1), time(0.5), None, lambda draw=0: x)


def test_noise_of_nested_methods_is_drawn_once():
    drawn = []

    def noise(draw=0):
        drawn.append(draw)
        return torch.ones(3, 2, dtype=F64)

    nested = leapstep.churned(leapstep.corrected(leapstep.corrected(leapstep.ddpm(), 2)))
    nested(MIXTURE.diffusion(free("linear")), torch.randn(3, 2, dtype=F64), time(0.5), time(0.4), None, noise)
    assert sorted(drawn) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="must be deterministic"):
        leapstep.encode(MIXTURE.diffusion(free("linear")), MIXTURE.sample(2), 5, leapstep.corrected(leapstep.ddim()))


def test_churn_between_its_bounds_only():
    """Outside of them edm is heun; and noise raises to at most sqrt 2 times the noise."""
    diffusion, x = MIXTURE.diffusion(free("linear")), torch.randn(3, 2, dtype=F64)
    plain = leapstep.heun()(diffusion, x, time(0.5), time(0.4), None, silent).x
    rho = torch.exp(-diffusion.process.log_snr(0.5) / 2).item()
    for bounds in ({"low": rho * 1.1}, {"high": rho * 0.9}, {"churn": 0.0}):
        stirred = leapstep.edm(**bounds)(diffusion, x, time(0.5), time(0.4), None, silent).x
        torch.testing.assert_close(stirred, plain, rtol=1e-12, atol=1e-12)
    nearly = leapstep.edm(churn=1e-12)(diffusion, x, time(0.05), time(0.0), None, lambda draw=0: x).x
    torch.testing.assert_close(
        nearly, leapstep.heun()(diffusion, x, time(0.05), time(0.0), None, silent).x, rtol=0, atol=1e-4
    )
    seen = []

    def watch(diffusion, x, t, s, memory, noise):
        seen.append(t.item())
        return leapstep.Step(x, x)

    leapstep.churned(watch, churn=9.0)(diffusion, x, time(0.5), time(0.1), None, lambda draw=0: x)
    assert torch.exp(-diffusion.process.log_snr(seen[0]) / 2).item() == pytest.approx(math.sqrt(2) * rho)
