"""Our transitions against diffusers' schedulers: the same network, start noise, noise and timesteps.

Their tables are float32, hence the tolerance of 1e-4. Where a scheduler differs on purpose, the test says how.
"""

import pytest
import torch

import leapstep
from cases import halved_3m

diffusers = pytest.importorskip("diffusers")
pytestmark = [  # inside diffusers
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

F64 = torch.float64
LINEAR = leapstep.linear()
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
START = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
NOISE = leapstep.Noise(7, range(5), (3,), F64)


def net(x, k):
    """Not linear in x and not exact, so that nothing cancels by luck."""
    return torch.tanh(1.3 * x) + 0.1 * x * (k.double() / 1000).reshape(-1, *[1] * (x.ndim - 1))


def ours(transition, path, process=LINEAR):
    """X after each step along the path, the start before them."""
    states = leapstep.trajectory(leapstep.from_network(net, process), START, path, transition, NOISE)
    return [START, *(state.x for state in states)]


def theirs(scheduler, start=START, noise=None):
    """The same from a scheduler whose timesteps are set."""
    xs = [start]
    for step, k in enumerate(scheduler.timesteps, start=1):
        model_input = scheduler.scale_model_input(xs[-1], k)
        extra = {} if noise is None else {"variance_noise": noise(step)}
        xs.append(scheduler.step(net(model_input, k[None]), k, xs[-1], **extra).prev_sample.double())
    return xs


def trailing(scheduler, steps):
    """Set a scheduler's timesteps, and make sure that they are ours."""
    scheduler.set_timesteps(steps)
    path = leapstep.times(LINEAR, steps)
    levels = list(dict.fromkeys(int(k) for k in scheduler.timesteps))  # Heun's come twice
    assert levels == [round(1000 * t) - 1 for t in path[:-1].tolist()]
    return path


def close(a, b):
    """Within 1e-4 of the size of a sample."""
    miss = (a - b).norm(dim=1) / a.norm(dim=1)
    assert miss.max() < 1e-4


@pytest.mark.parametrize("steps", [10, 25, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(steps, eta):
    """Where the step count divides T. Elsewhere diffusers' DDIM steps to t - T // n, which is not in its own list."""
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True)
    path = trailing(scheduler, steps)
    x = START
    for step, k in enumerate(scheduler.timesteps, start=1):
        x = scheduler.step(net(x, k[None]), k, x, eta=eta, variance_noise=NOISE(step)).prev_sample
    close(ours(leapstep.ddim(eta), path)[-1], x.double())


@pytest.mark.parametrize("steps", [4, 50])
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("bound", ["range", "quantile"])
def test_ddim_as_diffusers_has_it_by_default(steps, eta, bound):
    """Spacing `leading` from noise of size 1, and beside the bounded x0 the eps of the network: old samples again.

    By default ours has the eps that makes x_t of the bounded x0, and starts with the noise that the first time has.
    """
    thresholding = {"clip_sample": True} if bound == "range" else {"clip_sample": False, "thresholding": True}
    thresholding["sample_max_value"] = 1e6
    scheduler = diffusers.DDIMScheduler(**BETAS | {"timestep_spacing": "leading"}, **thresholding)
    scheduler.set_timesteps(steps)
    noise = leapstep.Noise(7, range(5), (3, 4, 4))
    x = noise(0)
    for step, k in enumerate(scheduler.timesteps, start=1):
        x = scheduler.step(net(x, k[None]).float(), k, x, eta=eta, variance_noise=noise(step)).prev_sample
    clip = (-1, 1) if bound == "range" else leapstep.dynamic_threshold(0.995)
    diffusion = leapstep.from_network(lambda x, k: net(x, k).to(x), LINEAR, clip=clip)
    old = leapstep.ddim(eta, eps="raw")
    mine = leapstep.sample(diffusion, x.shape, steps, old, spacing="leading", start="unit", seed=7)
    assert (mine - x).flatten(1).norm(dim=1).max() < 1e-4 * x.flatten(1).norm(dim=1).max()
    ours = leapstep.sample(diffusion, x.shape, steps, leapstep.ddim(eta), spacing="leading", start="unit", seed=7)
    assert (ours - x).abs().max() > 0.03
    if steps == 4:  # whose first time, 0.751, has a sigma of 0.998
        ours = leapstep.sample(diffusion, x.shape, steps, old, spacing="leading", seed=7)
        assert (ours - x).abs().max() > 1e-4


@pytest.mark.parametrize("steps", [10, 30, 1000])
@pytest.mark.parametrize(("variance", "their_name"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
def test_ddpm(monkeypatch, steps, variance, their_name):
    """Any subsequence. Beta: theirs is 1 - alpha_t^2 / alpha_s^2 = sigma_t^2 f, as ours.

    But unless the last timestep is 0, theirs adds that noise to the finished sample, too. Ours never does, so for beta
    the comparison ends a step before.
    """
    drawn = iter([])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(drawn))
    scheduler = diffusers.DDPMScheduler(**BETAS, clip_sample=False, variance_type=their_name)
    scheduler.set_timesteps(timesteps=(torch.round(1000 * leapstep.times(LINEAR, steps)[:-1]) - 1).int().tolist())
    path = leapstep.times(LINEAR, steps)
    drawn = (NOISE(step) for step in range(1, steps + 1))
    other = [START]
    for k in scheduler.timesteps:
        other.append(scheduler.step(net(other[-1], k[None]), k, other[-1]).prev_sample.double())
    last = steps - 1 if variance == "beta" else steps
    close(ours(leapstep.ddpm(variance), path)[last], other[last])


@pytest.mark.parametrize("steps", [4, 10, 25])
def test_euler_is_ddim(steps):
    """Theirs lives in x / alpha."""
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS)
    path = trailing(scheduler, steps)
    close(ours(leapstep.ddim(), path)[-1], theirs(scheduler, START / LINEAR.alpha(path[0]))[-1])


@pytest.mark.parametrize("steps", [4, 10, 25])
def test_euler_ancestral(monkeypatch, steps):
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor", lambda *_, **__: next(drawn)
    )
    drawn = (NOISE(step) for step in range(1, steps + 1))
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**BETAS)
    path = trailing(scheduler, steps)
    close(ours("euler_ancestral", path)[-1], theirs(scheduler, START / LINEAR.alpha(path[0]))[-1])


def test_euler_of_flow_matching():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(8)
    process = leapstep.flow()
    path = scheduler.sigmas.double()
    states = leapstep.trajectory(leapstep.from_network(net, process, "flow", "1000t"), START, path, "euler")
    x = START
    for k, state in zip(scheduler.timesteps, states, strict=True):
        x = scheduler.step(net(x, k[None]), k, x).prev_sample.double()
        close(state.x, x)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_schedulers_of_edm(name):
    """Which scale the network's input and output themselves."""
    scheduler = getattr(diffusers, name)(sigma_data=0.5)
    scheduler.set_timesteps(8)
    process = leapstep.ve(sigma_max=80)._replace(timesteps=None)

    def denoise(x, t):
        sigma = process.sigma(t).reshape(-1, *[1] * (x.ndim - 1))
        total = sigma**2 + 0.25
        return 0.25 / total * x + 0.5 * sigma / total.sqrt() * net(x / total.sqrt(), 0.25 * sigma.log())

    path = process.time(-2 * scheduler.sigmas.double().log())
    path[-1] = 0
    x = 80 * START
    states = leapstep.trajectory(leapstep.Diffusion(process, denoise), x, path, name)
    for k, state in zip(scheduler.timesteps, states, strict=True):
        model_input = scheduler.scale_model_input(x, k)
        x = scheduler.step(net(model_input.double(), k[None]), k, x).prev_sample.double()
        close(state.x, x)


@pytest.mark.parametrize("steps", [4, 10, 25])
def test_dpm_2(steps):
    """By a network that is not told the time, as they interpolate the timestep of a middle in their own way."""
    scheduler = diffusers.KDPM2DiscreteScheduler(**BETAS)
    scheduler.set_timesteps(steps)
    path = leapstep.times(LINEAR, steps)
    xs = [START / LINEAR.alpha(path[0])]

    def still(x, k):
        return net(x, torch.zeros_like(k))

    for k in scheduler.timesteps[:-1]:
        model_input = scheduler.scale_model_input(xs[-1], k)
        xs.append(scheduler.step(still(model_input, k[None]), k, xs[-1]).prev_sample.double())
    states = leapstep.trajectory(leapstep.from_network(still, LINEAR, fractional=True), START, path, "dpm_2")
    for i, state in enumerate(list(states)[:-1], start=1):
        close(state.x / LINEAR.alpha(path[i]), xs[2 * i])


@pytest.mark.parametrize("steps", [10, 25])
def test_lms(steps):
    """Theirs extrapolates eps in the last step, too, where no noise is left. Exact noise scales, as for DEIS."""
    scheduler = diffusers.LMSDiscreteScheduler(**BETAS)
    path = trailing(scheduler, steps)
    scheduler.sigmas = torch.exp(-LINEAR.log_snr(path) / 2)
    close(ours("lms", path)[-2], theirs(scheduler, START / LINEAR.alpha(path[0]))[-2] * LINEAR.alpha(path[-2]))


@pytest.mark.parametrize("steps", [3, 10, 25])
def test_ipndm(steps):
    """On noise scales of our choice, which they call betas, with v; theirs extrapolates eps in the last step, too."""
    process = leapstep.linear()._replace(timesteps=None)
    path = torch.linspace(0.9, 0, steps + 1, dtype=F64)
    scheduler = diffusers.IPNDMScheduler(trained_betas=process.sigma(path).tolist())
    scheduler.set_timesteps(steps)
    diffusion = leapstep.Diffusion(process, lambda x, t: process.split(net(x, 1000 * t), x, t, "v")[0])
    states = list(leapstep.trajectory(diffusion, START, path, "IPNDMScheduler"))
    x = START
    for k, state in zip(scheduler.timesteps, states[:-1], strict=False):
        x = scheduler.step(net(x, 1000 * state.t), k, x).prev_sample.double()
        close(state.x, x)


@pytest.mark.parametrize("steps", [4, 10, 25])
def test_heun(steps):
    scheduler = diffusers.HeunDiscreteScheduler(**BETAS)
    path = trailing(scheduler, steps)
    close(ours(leapstep.heun(), path)[-1], theirs(scheduler, START / LINEAR.alpha(path[0]))[-1])


@pytest.mark.parametrize("steps", [4, 10, 25])
@pytest.mark.parametrize(("average", "solver_type"), [("middle", "midpoint"), ("exact", "heun")])
def test_dpmpp_2m(steps, average, solver_type):
    scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, solver_type=solver_type)
    path = trailing(scheduler, steps)
    close(ours(leapstep.dpmpp_2m(average), path)[-1], theirs(scheduler)[-1])


@pytest.mark.parametrize("steps", [4, 10, 25])
def test_sde_dpmpp_2m(steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++")
    path = trailing(scheduler, steps)
    close(ours(leapstep.sde_dpmpp_2m(), path)[-1], theirs(scheduler, noise=NOISE)[-1])


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_dpmpp_3m_but_for_the_factor_of_the_parabola(steps):
    """Diffusers takes half of the parabola's second-order term, so we take half as well, for this comparison.

    With nodes at 0, -r0 and -(r0 + r1) the parabola through the estimates is D0 + D1 u + D2 u^2 with D2 the second
    divided difference (D1_0 - D1_1) / (r0 + r1). Averaging u^2 gives 2 phi_3 in the letters of the solver's code, which
    has phi_3: D2 is taken for a second derivative, of which it is half. `test_solvers` measures the order of both.
    """
    scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=3, lower_order_final=False)
    path = trailing(scheduler, steps)
    close(ours(halved_3m, path)[-1], theirs(scheduler)[-1])


@pytest.mark.parametrize("steps", [10, 25, 50])
@pytest.mark.parametrize("order", [2, 3])
def test_unipc(steps, order):
    """Up to where theirs lowers its order for the end: the last step at order 2, the last two at order 3."""
    scheduler = diffusers.UniPCMultistepScheduler(**BETAS, solver_order=order, final_sigmas_type="zero")
    path = trailing(scheduler, steps)
    mine, other = ours(leapstep.unipc(order), path), theirs(scheduler)
    last = steps if order == 2 else steps - 2
    close(mine[last], other[last])


@pytest.mark.parametrize("steps", [10, 25, 50])
@pytest.mark.parametrize("order", [2, 3])
def test_deis(steps, order):
    """Theirs is polynomial in log-SNR, and ends at the first trained level.

    Its coefficients are differences of large numbers, so its float32 noise scales are replaced by exact ones.
    """
    scheduler = diffusers.DEISMultistepScheduler(**BETAS, solver_order=order, lower_order_final=False)
    path = trailing(scheduler, steps)
    path[-1] = 1 / 1000
    scheduler.sigmas = torch.exp(-LINEAR.log_snr(path) / 2)
    close(ours(leapstep.deis(order, "log_snr"), path)[-1], theirs(scheduler)[-1])


def test_dpmpp_2s():
    """Theirs takes the middle of a step from its list, so the process is one where the middle of two levels is a level.

    Up to where theirs has to step to no noise.
    """
    process = leapstep.from_alphas_cumprod(torch.linspace(9, -9, 1000, dtype=F64).sigmoid())
    levels = torch.arange(0, 1001, dtype=F64) / 1000
    betas = 1 - (process.alpha(levels[1:]) / process.alpha(levels[:-1])) ** 2
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        trained_betas=betas.numpy(), solver_order=2, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(timesteps=[k - 1 for k in range(1000, 100, -50)])
    path = torch.arange(1000, 100, -100, dtype=F64) / 1000
    mine, other = ours(leapstep.dpmpp_2s(), path, process), theirs(scheduler)
    for step in range(1, 9):
        close(mine[step], other[2 * step])
