"""Names of methods in other libraries: each makes the same step as the method of ours that it stands for."""

import inspect
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import leapstep
from cases import MIXTURE, silent, time
from leapstep.core import names
from leapstep.core.spacing import SPACINGS
from leapstep.core.transitions import ELSEWHERE, OTHERS, ours
from leapstep.evaluation.planning import plan
from leapstep.inference.spec import SamplingSpec
from leapstep.models import folder
from leapstep.networks import NETWORKS

F64 = torch.float64
PROCESS = leapstep.cosine()._replace(timesteps=None)
PATH = PROCESS.time(torch.tensor([-6, -4.4, -3.5, -2, -1.1, 0.5, 1.2, 3, 5], dtype=F64))
RHO = [*torch.exp(-PROCESS.log_snr(PATH) / 2).tolist()]
NOISE = leapstep.Noise(3, range(4), (2,), F64)


# --- what k-diffusion's and ComfyUI's samplers compute, in x / alpha and rho, with D for the estimate of x0 ---------


def estimate(x, rho):
    """D(x; rho) of the mixture, of x / alpha."""
    t = PROCESS.time(-2 * time(rho).log())
    return MIXTURE.diffusion(PROCESS).denoise(PROCESS.alpha(t) * x, t)


def ancestral(rho, to):
    """Where to step to, and the noise to add there."""
    up = min(to, (to**2 * (rho**2 - to**2) / rho**2) ** 0.5)
    return (to**2 - up**2) ** 0.5, up


def euler(x, i, past, z):
    return x + (RHO[i + 1] - RHO[i]) * (x - past[-1]) / RHO[i]


def euler_ancestral(x, i, past, z):
    down, up = ancestral(RHO[i], RHO[i + 1])
    return x + (down - RHO[i]) * (x - past[-1]) / RHO[i] + up * z


def heun(x, i, past, z):
    slope, there = (x - past[-1]) / RHO[i], euler(x, i, past, z)
    return x + (RHO[i + 1] - RHO[i]) * (slope + (there - estimate(there, RHO[i + 1])) / RHO[i + 1]) / 2


def dpm_2(x, i, past, z):
    middle = (RHO[i] * RHO[i + 1]) ** 0.5
    there = x + (middle - RHO[i]) * (x - past[-1]) / RHO[i]
    return x + (RHO[i + 1] - RHO[i]) * (there - estimate(there, middle)) / middle


def lms(x, i, past, z, order=4):
    """Each Lagrange polynomial in rho, integrated over the step."""
    n = min(i + 1, order)
    nodes = RHO[i - n + 1 : i + 1]
    powers = torch.arange(n, dtype=F64)
    basis = torch.linalg.inv(torch.stack([time(node) ** powers for node in nodes]))  # coefficients of the powers
    integrals = (RHO[i + 1] ** (powers + 1) - RHO[i] ** (powers + 1)) / (powers + 1)
    return x + sum(weight * slope for weight, slope in zip(integrals @ basis, past.slopes[-n:], strict=True))


def ipndm(x, i, past, z):
    weights = {1: [1], 2: [-1 / 2, 3 / 2], 3: [5 / 12, -16 / 12, 23 / 12], 4: [-9 / 24, 37 / 24, -59 / 24, 55 / 24]}
    n = min(i + 1, 4)
    mean = sum(weight * slope for weight, slope in zip(weights[n], past.slopes[-n:], strict=True))
    return x + (RHO[i + 1] - RHO[i]) * mean


def dpmpp_2m(x, i, past, z):
    h = -(time(RHO[i + 1]) / RHO[i]).log()
    used = past[-1]
    if i > 0:
        r = -(time(RHO[i]) / RHO[i - 1]).log() / h
        used = (1 + 1 / (2 * r)) * past[-1] - 1 / (2 * r) * past[-2]
    return RHO[i + 1] / RHO[i] * x - torch.expm1(-h) * used


def res_multistep(x, i, past, z):
    h = -(time(RHO[i + 1]) / RHO[i]).log()
    if i == 0:
        return euler(x, i, past, z)
    c = (time(RHO[i]) / RHO[i - 1]).log() / h
    one = torch.expm1(-h) / -h
    two = (one - 1) / -h
    return torch.exp(-h) * x + h * ((one - two / c) * past[-1] + two / c * past[-2])


def dpmpp_2m_sde(x, i, past, z):
    h = -(time(RHO[i + 1]) / RHO[i]).log()
    moved = RHO[i + 1] / RHO[i] * torch.exp(-h) * x - torch.expm1(-2 * h) * past[-1]
    if i > 0:
        r = -(time(RHO[i]) / RHO[i - 1]).log() / h
        moved = moved - 0.5 * torch.expm1(-2 * h) / r * (past[-1] - past[-2])
    return moved + RHO[i + 1] * torch.sqrt(-torch.expm1(-2 * h)) * z


class Past(list):
    """Estimates of x0 so far, and the slopes (x - D) / rho."""

    def __init__(self):
        super().__init__()
        self.slopes = []


THEIRS = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "euler_a": euler_ancestral,
    "ddim": euler,
    "heun": heun,
    "dpm_2": dpm_2,
    "lms": lms,
    "ipndm": ipndm,
    "dpmpp_2m": dpmpp_2m,
    "res_multistep": res_multistep,
    "dpmpp_2m_sde": dpmpp_2m_sde,
}


@pytest.mark.parametrize("name", THEIRS)
def test_a_name_elsewhere_is_the_same_step_here(name):
    """After every step, with the same noise, on steps of different lengths."""
    x, past = NOISE(0) * RHO[0], Past()
    path = leapstep.trajectory(MIXTURE.diffusion(PROCESS), PROCESS.alpha(PATH[0]) * x, PATH, name, NOISE)
    for i, state in enumerate(path):
        past.append(estimate(x, RHO[i]))
        past.slopes.append((x - past[-1]) / RHO[i])
        x = THEIRS[name](x, i, past, NOISE(i + 1))
        torch.testing.assert_close(state.x / PROCESS.alpha(PATH[i + 1]), x, rtol=1e-9, atol=1e-9)
    assert i == len(PATH) - 2


def test_each_short_name_is_proven():
    """Those of schedulers are compared with diffusers itself, and uni_pc_bh2 with its, of order 3."""
    short = {name for name in ELSEWHERE if not name.endswith("Scheduler")}
    assert short - set(THEIRS) == {"uni_pc_bh2"}


# --- where names are taken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_is_taken_wherever_a_method_is_named(name):
    method, options = ours(name)
    transition = leapstep.TRANSITIONS[method].make(**options)
    diffusion = MIXTURE.diffusion(leapstep.linear())
    found = leapstep.sample(diffusion, (2, 2), 3, name, dtype=F64, progress=False)
    assert found.equal(leapstep.sample(diffusion, (2, 2), 3, transition, dtype=F64, progress=False))
    spec = SamplingSpec(method=name)
    assert (spec.method, spec.options) == (method, options)
    assert SamplingSpec.from_json(spec.to_json()) == spec
    assert name not in leapstep.TRANSITIONS


def test_a_sweep_takes_them_and_has_no_row_twice():
    model = SimpleNamespace(steps=None, process=leapstep.linear(), spacing=None)
    specs = plan(
        model, methods=["euler", "DDIMScheduler", "ddim", "UniPCMultistepScheduler", "unipc", "lms"], steps=[5]
    )
    assert [(spec.method, spec.options) for spec in specs] == [
        ("ddim", {"eta": 0.0}),
        ("ddim", {"eta": 1.0}),
        ("unipc", {}),
        ("deis", {"order": 4, "variable": "rho"}),
    ]
    with pytest.raises(ValueError, match="methods=dpm_fast: not here; the nearest is dpm_2"):
        plan(model, methods=["dpm_fast"])


def test_an_option_overrides_what_the_name_implies():
    spec = SamplingSpec(method="euler_ancestral", options={"eta": 0.5})
    assert (spec.method, spec.options) == ("ddim", {"eta": 0.5})


def test_a_method_that_is_not_here_is_told_with_the_nearest():
    for name, (nearest, _) in OTHERS.items():
        method = nearest.split()[0]
        assert method in leapstep.TRANSITIONS
        with pytest.raises(ValueError, match=f"unknown transition '{name}': not here; the nearest is {method}") as told:
            leapstep.sample(MIXTURE.diffusion(leapstep.linear()), (2, 2), 3, name)
        assert "\n" not in str(told.value)
    assert not set(OTHERS) & (set(ELSEWHERE) | set(leapstep.TRANSITIONS))
    with pytest.raises(ValueError, match=r"did you mean euler_ancestral.* k-diffusion, ComfyUI or diffusers"):
        leapstep.churned("euler_ancestrel")


def test_the_documented_names_are_ours():
    """docs/samplers.md has every name of the two tables, with the same method and options, and no other."""
    text = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text()
    part = text.split("\n## Names elsewhere\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("| `")]
    same, others = {}, {}
    for theirs, here, difference in rows:
        names = re.findall(r"`([^`]+)`", theirs)
        method, *options = re.findall(r"`([^`]+)`", here)
        options = dict(option.split("=") for option in options)
        if here.startswith("not here"):
            others |= dict.fromkeys(names, method)
            assert difference
        else:
            same |= dict.fromkeys(names, (method, options))
    assert same == {
        name: (method, {key: str(value) for key, value in options.items()})
        for name, (method, options) in ELSEWHERE.items()
    }
    assert others == {name: nearest.split()[0] for name, (nearest, _) in OTHERS.items()}


# --- weights --------------------------------------------------------------------------------------------------------


def errors_on_a_polynomial(transition, path, degree):
    """How far each step is from the exact integral where eps is a polynomial in rho, whatever x is."""
    powers = torch.arange(degree + 1, dtype=F64)
    factors = torch.linspace(1, -2, degree + 1, dtype=F64)
    rho = torch.exp(-PROCESS.log_snr(path) / 2)

    def denoise(x, t):
        eps = (factors * torch.exp(-PROCESS.log_snr(t) / 2).reshape(-1, 1) ** powers).sum(-1, keepdim=True)
        alpha, sigma = (curve(t).reshape(-1, 1) for curve in (PROCESS.alpha, PROCESS.sigma))
        return (x - sigma * eps) / alpha

    integral = (factors * rho[:, None] ** (powers + 1) / (powers + 1)).sum(-1)
    diffusion = leapstep.Diffusion(PROCESS, denoise)
    before, errors = torch.ones(1, 1, dtype=F64), []
    states = leapstep.trajectory(diffusion, before * PROCESS.alpha(path[0]), path, transition, silent)
    for i, state in enumerate(states):
        after = state.x / PROCESS.alpha(state.s)
        errors.append((after - before - integral[i + 1] + integral[i]).abs().item())
        before = after
    return errors


EVEN = PROCESS.time(-2 * torch.linspace(2, 0.2, 10, dtype=F64).log())
UNEVEN = PROCESS.time(-2 * time([2.0, 1.9, 1.5, 1.3, 0.9, 0.8, 0.3]).log())


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_is_exact_for_polynomials_on_even_steps_alone(order):
    """Of a degree below the order, once it has as many estimates; on uneven steps for a constant."""
    wrong = errors_on_a_polynomial(leapstep.ipndm(order), EVEN, order - 1)
    assert max(wrong[order - 1 :]) < 1e-12
    assert order == 1 or min(wrong[: order - 1]) > 1e-4
    assert min(errors_on_a_polynomial(leapstep.ipndm(order), EVEN, order)) > 1e-4
    if order > 1:
        assert min(errors_on_a_polynomial(leapstep.ipndm(order), UNEVEN, order - 1)) > 1e-4
    assert max(errors_on_a_polynomial(leapstep.ipndm(order), UNEVEN, 0)) < 1e-12


@pytest.mark.parametrize("order", [2, 3, 4])
def test_deis_in_rho_is_exact_for_polynomials_on_any_steps(order):
    wrong = errors_on_a_polynomial(leapstep.deis(order, "rho"), UNEVEN, order - 1)
    assert max(wrong[order - 1 :]) < 1e-12
    assert min(wrong[: order - 1]) > 1e-4


def test_ipndm_is_deis_in_rho_on_even_steps():
    """And with one point it is DDIM, without a memory."""
    diffusion = MIXTURE.diffusion(PROCESS)
    x = NOISE(0)
    for one, other in [(leapstep.ipndm(4), leapstep.deis(4, "rho")), (leapstep.ipndm(1), leapstep.ddim())]:
        *_, a = leapstep.trajectory(diffusion, x, EVEN, one, silent)
        *_, b = leapstep.trajectory(diffusion, x, EVEN, other, silent)
        torch.testing.assert_close(a.x, b.x, rtol=1e-10, atol=1e-10)
        assert (a.memory is None) == (b.memory is None)


def test_ipndm_is_of_order_one_where_the_lengths_of_steps_jump():
    """Every second step three times as long, on N(0, 0.3), whose exact solution is known."""
    c, process = 0.3, leapstep.flow()._replace(timesteps=None)
    diffusion = leapstep.GaussianMixture(torch.zeros(1, 1, dtype=F64), time([c])).diffusion(process)
    misses = []
    for n in (60, 120, 240):
        lengths = torch.tensor([1.0, 3.0], dtype=F64).repeat(n // 2)
        path = process.time(-8 + 14 * torch.cat([time([0.0]), lengths.cumsum(0) / lengths.sum()]))
        size = (process.alpha(path) ** 2 * c + process.sigma(path) ** 2).sqrt()
        *_, last = leapstep.trajectory(diffusion, size[:1, None], path, "ipndm", silent)
        misses.append((last.x - size[-1]).abs().item())
    assert all(a / b == pytest.approx(2, rel=0.15) for a, b in itertools.pairwise(misses))


def test_the_names_that_need_no_torch_are_those_of_the_tables():
    """Methods with their options and defaults (but for those of a calibration), spacings and networks."""
    for name, method in leapstep.TRANSITIONS.items():
        parameters = inspect.signature(method.make).parameters.values()
        options = {p.name: p.default for p in parameters if p.name not in ("spread", "last_std")}
        assert {key: (type(value), value) for key, value in options.items()} == {
            key: (type(value), value) for key, value in names.METHODS[name].items()
        }
    assert list(leapstep.TRANSITIONS) == list(names.METHODS)
    assert tuple(SPACINGS) == names.SPACINGS
    assert tuple(NETWORKS) == folder.KINDS
