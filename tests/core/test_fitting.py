"""Solvers fitted to a network: what they share with all others, what they reach on exact data, what they refuse."""

import pytest
import torch

import leapstep
from cases import MIXTURE, silent
from leapstep.core.fitting.linear import coefficients, follow
from leapstep.core.fitting.reference import DRAW, SHARES
from leapstep.core.fitting.search import OwnPath, choices, descend, solve
from leapstep.core.transitions.memory import join, rows

F64 = torch.float64
LINEAR = ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "deis"]


def referred(process="linear", noises=64, **settings):
    return leapstep.refer(leapstep.Teacher(MIXTURE.diffusion(process), (2,), noises=noises, dtype=F64, **settings))


@pytest.fixture(scope="module")
def reference():
    return referred(noises=256)


def start(n=8):
    return torch.randn(n, 2, dtype=F64, generator=torch.Generator().manual_seed(1))


def solver(process, method, steps):
    path = leapstep.times(process, steps)
    matrix = coefficients(process, leapstep.TRANSITIONS[method].make(), path)
    return path, leapstep.fitted(path.tolist(), [row[: i + 2] for i, row in enumerate(matrix.tolist())])


# --- the transition ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", LINEAR)
def test_every_method_with_one_call_a_step_is_a_matrix(method):
    diffusion = MIXTURE.diffusion("linear")
    path, transition = solver(diffusion.process, method, 6)
    ours = leapstep.sample(diffusion, (8, 2), path, transition, dtype=F64)
    theirs = leapstep.sample(diffusion, (8, 2), path, method, dtype=F64)
    assert (ours - theirs).abs().max() < 1e-10


def test_a_method_with_two_calls_a_step_is_none():
    process = leapstep.linear()
    with pytest.raises(ValueError, match="made 11 calls in 6 steps"):
        coefficients(process, leapstep.heun(), leapstep.times(process, 6))


def test_a_batch_may_hold_samples_at_different_steps():
    diffusion = MIXTURE.diffusion("linear")
    path, transition = solver(diffusion.process, "unipc", 4)
    x = start()
    *_, alone = leapstep.trajectory(diffusion, x, path, transition, silent)
    early = list(leapstep.trajectory(diffusion, x[:3], path, transition, silent))[1]
    late = next(leapstep.trajectory(diffusion, x[3:], path, transition, silent))
    times = torch.stack([path[[2, 3, 4, 4]]] * 3 + [path[[1, 2, 3, 4]]] * 5, 1)  # the first three wait at the end
    memory = join([early.memory, late.memory], [3, 5])
    *_, last = leapstep.trajectory(
        diffusion,
        torch.cat([early.x, late.x]),
        times,
        transition,
        silent,
        memory=memory,
        taken=torch.tensor([2] * 3 + [1] * 5),
    )
    assert (last.x - alone.x).abs().max() < 1e-12
    assert rows(last.memory, slice(0, 3))["start"].equal(x[:3])


def test_a_fitted_solver_takes_only_its_own_steps_in_their_order():
    diffusion = MIXTURE.diffusion("linear")
    path, transition = solver(diffusion.process, "ddim", 4)
    for times in (leapstep.times(diffusion.process, 5), path[1:], path[[0, 2, 4]]):
        with pytest.raises(ValueError, match="takes its own steps, in their order"):
            leapstep.sample(diffusion, (2, 2), times, transition)
    with pytest.raises(ValueError, match="takes its own steps"):
        leapstep.encode(diffusion, torch.zeros(2, 2), path.tolist(), transition)


@pytest.mark.parametrize(
    ("times", "table", "message"),
    [
        ([0.5, 1.0, 0.0], [[1, 0], [1, 0, 0]], "strictly decreasing"),
        ([1.0, 0.5], [[1, 0]], "strictly decreasing"),
        ([1.5, 0.0], [[1, 0]], "strictly decreasing"),
        ([float("nan"), 0.0], [[1, 0]], "strictly decreasing"),
        ([1.0, 0.0], [[1, 0, 0]], "rows of 2, 3"),
        ([1.0, 0.5, 0.0], [[1, 0]], "2 steps need 2 rows"),
        ([1.0, 0.0], [[1, float("inf")]], "finite"),
    ],
)
def test_what_is_no_solver_is_refused(times, table, message):
    with pytest.raises(ValueError, match=message):
        leapstep.fitted(times, table)


# --- the teacher ---------------------------------------------------------------------------------------------------


def test_every_noise_has_one_part_and_none_is_of_a_sample():
    reference = referred(batch_size=10)
    parts = [getattr(reference, name) for name in SHARES]
    assert [sum(len(part.eps) for part in group) for group in parts] == [40, 8, 16]
    eps = torch.cat([part.eps for group in parts for part in group])
    noise = leapstep.Noise(0, range(64), (2,), F64)
    assert eps.equal(noise(0, DRAW))
    assert torch.cdist(eps, noise(0)).min() > 0
    assert reference.evaluations == 64 * 40


def test_only_the_noises_that_judge_are_measured():
    reference = referred()
    path = leapstep.times(reference.process, 5)
    distance = reference.measure("ddim", path)
    (part,) = reference.judge
    x = leapstep.decode(part.diffusion, part.eps * reference.process.sigma(path[0]), path)
    squares = (x - part.x[-1]).square().mean(1)
    assert distance.rms == pytest.approx(squares.mean().sqrt().item())
    assert distance.standard_error == pytest.approx((squares.std() / 4 / (2 * distance.rms)).item())


def test_samples_that_are_not_finite_teach_nothing():
    diffusion = leapstep.Diffusion(leapstep.linear(), lambda x, t: x / 0)
    with pytest.warns(leapstep.NotFinite), pytest.raises(FloatingPointError, match="not finite"):
        leapstep.refer(leapstep.Teacher(diffusion, (2,), noises=16, steps=3))


# --- the search ----------------------------------------------------------------------------------------------------


def test_least_squares_finds_the_coefficients_that_made_the_target():
    columns = torch.randn(3, 100, dtype=F64, generator=torch.Generator().manual_seed(0))
    row = torch.tensor([2.0, -1.0, 0.5], dtype=F64)
    assert solve(columns @ columns.T, columns @ (row @ columns), 0.0).allclose(row)
    assert solve(columns @ columns.T, columns @ (row @ columns), 1e9).abs().max() < 1e-6


def test_descent_finds_the_least_cost_and_stops_when_told():
    def cost(choice):
        return float(sum((i - j) ** 2 for i, j in zip(choice, (0, 7, 31), strict=True)) + 1)

    assert descend((0, 20, 22), 40, False, cost) == (0, 7, 31)
    left = iter([True, False])
    assert descend((0, 20, 22), 40, False, cost, lambda: next(left)) == (0, 14, 22)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("calls", [1, 2, 5, 19])
def test_choices_are_increasing_and_begin_where_they_may(calls, free):
    reference = referred(steps=20)
    if free:
        reference = reference.starting(leapstep.Gaussian.of(reference.samples))
    for choice in choices(reference.fit[0], reference.times, calls, free):
        assert len(choice) == calls
        assert list(choice) == sorted(set(choice))
        assert choice[-1] < 20
        assert free or choice[0] == 0


def test_the_error_on_a_students_own_path_is_that_of_its_samples():
    reference = referred()
    part, choice = reference.fit[0], (0, 20, 33)
    own = OwnPath(part, reference.times)
    error = own.error(choice)
    calls = own.evaluations
    assert calls == 3 * len(part.eps)
    own.error((0, 20, 30))
    assert own.evaluations == 4 * len(part.eps)  # all but the last call were known
    matrix = torch.zeros(3, 4, dtype=F64)
    columns = [part.eps * reference.process.sigma(reference.times[0])]
    for i, to in enumerate((20, 33, 40)):
        x = columns[0] if i == 0 else sum(c * v for c, v in zip(matrix[i - 1], columns, strict=False))
        columns.append(part.diffusion.denoise(x, reference.times[choice[i]]))
        stacked = torch.stack([column.flatten() for column in columns], 1)
        matrix[i, : i + 2] = torch.linalg.lstsq(stacked, part.x[to].flatten()).solution
    x, _ = follow(part.diffusion, matrix, reference.times[list(choice)], columns[:1])
    assert error == pytest.approx((x - part.x[-1]).square().mean().item(), rel=1e-2)  # but for the ridge


# --- the fit -------------------------------------------------------------------------------------------------------


def test_one_call_is_exact_on_a_round_gaussian():
    """There x at any time is a multiple of x at the start, up to the mean, and so is the estimate."""
    data = leapstep.GaussianMixture(torch.tensor([[1.0, -2.0]], dtype=F64), torch.tensor([0.25], dtype=F64))
    reference = leapstep.refer(leapstep.Teacher(data.diffusion("linear"), (2,), noises=64, steps=20, dtype=F64))
    solver = leapstep.fit(reference, 1)
    assert solver.distance.rms < 1e-3 * 0.5  # of the data's standard deviation; the ridge is what is left


@pytest.mark.parametrize("process", ["linear", pytest.param("cosine", marks=pytest.mark.slow)])
def test_fitted_calls_are_worth_many_untuned_ones(process):
    """On noises that nothing was fitted to."""
    reference = referred(process, noises=256)
    for calls in (3, 5):
        path = leapstep.times(reference.process, calls)
        best = min(reference.measure(method, path).rms for method in LINEAR)
        solver = leapstep.fit(reference, calls)
        assert solver.calls == len(solver.times) - 1 == calls
        assert solver.distance.rms < best / 1.5
        assert solver.distance == reference.measure(solver.transition, torch.tensor(solver.times, dtype=F64))


def test_a_fit_that_may_spend_nothing_is_no_worse_than_what_is_untuned(reference):
    """By the mean distance of samples, on the noises that choose, to which neither is fitted."""

    def error(transition, path):
        (part,) = reference.choose
        return (leapstep.decode(part.diffusion, part.eps, path, transition) - part.x[-1]).square().mean(1).sqrt().mean()

    solver = leapstep.fit(reference, 8, effort=0.0, budget=0.0)
    path = leapstep.times(reference.process, 8)
    for method in ("unipc", "dpmpp_2m", "deis"):
        assert error(solver.transition, solver.times) <= error(method, path) * (1 + 1e-9)


def test_a_start_from_the_gaussian_marginal_is_part_of_the_fit():
    """On Gaussian data it is all that is needed; from pure noise, one call cannot tell three directions apart."""
    covariance = torch.diag(torch.tensor([4.0, 0.5, 0.01], dtype=F64))
    data = leapstep.GaussianMixture(torch.zeros(1, 3, dtype=F64), covariance[None])
    reference = leapstep.refer(leapstep.Teacher(data.diffusion("linear"), (3,), noises=64, dtype=F64))
    law = leapstep.Gaussian.of(data.sample(10_000))
    solver = leapstep.fit(reference, 1, origin=law)
    assert solver.origin is law
    assert solver.times[0] < 1
    assert solver.distance.rms < leapstep.fit(reference, 1).distance.rms / 3


def test_tune_yields_what_sample_takes():
    diffusion = MIXTURE.diffusion("linear")
    solvers = list(leapstep.tune(diffusion, (2,), [1, 3], noises=64, steps=20, dtype=F64, effort=0.2))
    assert [solver.calls for solver in solvers] == [1, 3]
    solver = solvers[1]
    model = diffusion._replace(origin=solver.origin)
    x = leapstep.sample(model, (64, 2), transition=solver.transition, dtype=F64)
    fine = leapstep.sample(diffusion, (64, 2), 100, "unipc", dtype=F64)
    coarse = leapstep.sample(diffusion, (64, 2), 3, "unipc", dtype=F64)
    assert (x - fine).square().mean() < (coarse - fine).square().mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calls": [0]}, "calls=0"),
        ({"calls": [40]}, "fewer than the teacher's 40 steps"),
        ({"origin": "data"}, "pass samples, noise"),
        ({"noises": 15}, "noises=15"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_the_first_call(settings, message):
    diffusion = leapstep.Diffusion(leapstep.linear(), lambda x, t: pytest.fail("called"))
    with pytest.raises(ValueError, match=message):
        next(leapstep.tune(diffusion, (2,), **settings))


def test_the_number_of_calls_has_bounds(reference):
    for calls in (0, 40):
        with pytest.raises(ValueError, match=f"calls={calls}"):
            leapstep.fit(reference, calls)
