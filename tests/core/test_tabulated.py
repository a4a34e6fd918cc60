"""What a step costs besides the network: coefficients that are known before it, and passes over memory."""

import collections
import functools
import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import leapstep
from cases import F64, MIXTURE, time
from leapstep.core.process import weighted
from leapstep.core.tabulated import Table, is_tabulated, tabulated, tabulated_times

FIXED = [name for name, method in leapstep.TRANSITIONS.items() if method.calls]  # the others choose their own steps
SHAPE = (3, 2, 4)
FREE = {"view", "_unsafe_view", "unbind", "select", "slice", "expand", "detach", "alias", "unsqueeze", "reshape"}


class Operations(TorchDispatchMode):
    """Counts operations of PyTorch that compute: on single numbers in tensors, on others, and reads of values."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name in ("_local_scalar_dense", "is_nonzero", "equal"):
            self.counts["reads"] += 1
        elif name not in FREE:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            alone = tensors and all(value.ndim == 0 for value in tensors)
            self.counts["on numbers" if alone else "on samples"] += 1
        return function(*args, **(kwargs or {}))


def counted(method, diffusion, path):
    """What the fifth step of a trajectory costs, when the longest memory is full."""
    x = torch.randn(SHAPE, dtype=F64)
    states = leapstep.trajectory(diffusion, x, path, method, lambda step, draw=0: x)
    for _ in range(4):
        next(states)
    with torch.no_grad(), Operations() as operations:
        next(states)
    return operations.counts


@pytest.mark.parametrize(
    ("name", "calls", "terms"),
    [
        ("ddim", 1, 2),  # x and x0
        ("ddpm", 1, 3),  # and noise
        ("pf_euler", 1, 2),
        ("euler_maruyama", 1, 3),
        ("dpmpp_2m", 1, 3),  # x and two estimates
        ("sde_dpmpp_2m", 1, 4),
        ("dpmpp_3m", 1, 4),
        ("unipc", 1, 3 + 4),  # a prediction, and a correction with one estimate more
        ("ipndm", 1, 2 + 5),  # eps of x0, and the step
        ("deis", 1, 2 + 4),
        ("dpmpp_2s", 2, 2 + 2),
        ("dpm_2", 2, 2 + 2 + 2),  # eps of the second x0 too
        ("heun", 2, 12),
        ("pc", 2, 3 + 3),
    ],
)
def test_a_step_is_a_pass_over_memory_for_each_of_its_terms(name, calls, terms):
    """Besides a network that is one operation, its timestep, its x0 of x and eps, and the sum that finds NaN."""
    diffusion = leapstep.from_network(lambda x, k: 0.5 * x, leapstep.linear())
    counts = counted(leapstep.TRANSITIONS[name].make(), diffusion, leapstep.times(diffusion.process, 8))
    assert counts["on samples"] <= calls * 4 + terms + 1
    assert counts["on numbers"] <= 2  # the memory of a multistep method counts its steps
    assert counts["reads"] <= 8  # and knows their times, on the CPU


@pytest.mark.parametrize("options", [{}, {"predicts": "v"}, {"clip": (-1, 1)}, {"scaling": (2.0, 3.0)}])
def test_a_step_of_ddim_reads_nothing_and_computes_no_coefficient(options):
    diffusion = leapstep.from_network(lambda x, k: 0.5 * x, leapstep.linear(), **options)
    counts = counted(leapstep.ddim(1.0), diffusion, leapstep.times(diffusion.process, 8))
    assert counts["reads"] == counts["on numbers"] == 0


def without_a_table(diffusion, x, path, method, noise):
    """The loop by itself, so that every formula is evaluated for every step."""
    memory = None
    for step, (t, s) in enumerate(itertools.pairwise(path), start=1):
        x, _, memory = method(diffusion, x, t, s, memory, functools.partial(noise, step))
    return x


@pytest.mark.parametrize("each", [False, True], ids=["one time", "times each"])
@pytest.mark.parametrize("name", [*FIXED, "deis(variable='t', order=4)", "unipc(order=3)", "churned('heun')"])
def test_a_table_changes_nothing(name, each):
    method = eval(f"leapstep.{name}", {"leapstep": leapstep}) if "(" in name else leapstep.TRANSITIONS[name].make()
    diffusion = MIXTURE.diffusion(leapstep.cosine())
    path = leapstep.times(diffusion.process, 6)
    if each:
        path = torch.stack([path, leapstep.times(diffusion.process, 6, "log_snr")], 1)
    noise = leapstep.Noise(3, range(2), (2,), F64)
    with torch.no_grad():
        *_, last = leapstep.trajectory(diffusion, noise(0), path, method, noise)
        alone = without_a_table(diffusion, noise(0), path, method, noise)
    torch.testing.assert_close(last.x, alone, rtol=1e-11, atol=1e-11)


def test_a_formula_is_evaluated_once_for_all_steps():
    evaluated = []

    @tabulated
    def sums(name, t, s):
        evaluated.append(len(t))
        return t + 10 * s, t > s

    @tabulated_times
    def middle(t, s):
        return (t + s) / 2

    table = Table(torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=F64))
    with table:
        assert [sums("x", t, s) for t, s in itertools.pairwise(table.times)] == [(6, True), (3, True), (0.25, True)]
        assert evaluated == [3]
        assert sums("x", table.times[2], table.times[0]) == (10.25, False)  # two steps back
        assert evaluated == [3, 2]
        assert sums("x", time(0.5), time(0.25)) == (3, True)  # the same times, in other tensors
        assert [sums("x", middle(t, s), s)[0] for t, s in itertools.pairwise(table.times)] == [5.75, 2.875, 0.125]
        assert evaluated == [3, 2, 3]
        assert is_tabulated(middle(*table.times[:2]))
        t, s = time(0.7), time(0.5)
        assert isinstance(middle(t, s), torch.Tensor)  # of a time that is not in the table
    assert not is_tabulated(table.times[0])


def test_keywords_are_no_part_of_a_table():
    share = tabulated(lambda t, factor=1.0: factor * t)
    table = Table(torch.tensor([1.0, 0.5, 0.0], dtype=F64))
    with table:
        assert [float(share(table.times[0], factor=factor)) for factor in (2, 3)] == [2, 3]


def test_a_coefficient_that_has_a_gradient_is_not_tabulated():
    """As of a schedule that is learned."""
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    process = leapstep.Process(lambda t: torch.exp(-rate * t), lambda t: (1 - torch.exp(-2 * rate * t)).sqrt())
    x = torch.ones(2, 3, dtype=F64)
    path = torch.tensor([1.0, 0.5, 0.2], dtype=F64)
    *_, last = leapstep.trajectory(leapstep.Diffusion(process, lambda x, t: 0.5 * x), x, path)
    (slope,) = torch.autograd.grad(last.x.sum(), rate)
    ends = [
        last.x.sum()
        for value in (1 - 1e-5, 1 + 1e-5)
        for process in [leapstep.exponential(rate=value, power=1.0)]
        for *_, last in [leapstep.trajectory(leapstep.Diffusion(process, lambda x, t: 0.5 * x), x, path)]
    ]
    torch.testing.assert_close(slope, (ends[1] - ends[0]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_a_weighted_sum_leaves_out_what_counts_nothing_and_is_nobody_elses():
    x, y = torch.ones(2, 3), torch.full((2, 3), torch.nan)
    total = weighted((1.0, x), (0.0, y))
    assert torch.equal(total, x)
    total += 1
    assert torch.equal(x, torch.ones(2, 3))
    assert torch.equal(weighted((0.0, y), (0.0, x)), torch.zeros(2, 3))
    each = weighted((torch.tensor([1.0, 2.0], dtype=F64), x), (3.0, x), (torch.tensor(1.0, dtype=F64), x))
    assert torch.equal(each, torch.tensor([[5.0], [6.0]]).expand(2, 3))
    assert torch.equal(x, torch.ones(2, 3))
    assert each.dtype == torch.float32


def test_a_schedule_is_made_once():
    assert leapstep.linear(100) is leapstep.linear(100)
    assert leapstep.linear() is not leapstep.linear(1000, 1e-4, 0.01)
    table = torch.tensor([0.9, 0.5], dtype=F64)
    before = leapstep.from_alphas_cumprod(table)
    table[1] = 0.4
    assert leapstep.from_alphas_cumprod(table) != before
