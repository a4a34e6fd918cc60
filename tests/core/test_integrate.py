"""Runge-Kutta methods on equations whose solutions are known; the samplers' orders are in test_solvers.py."""

import pytest
import torch

from leapstep.core import integrate
from leapstep.core.integrate import Controller, Equation

F64 = torch.float64
TABLEAUX = {name: getattr(integrate, name) for name in ("HEUN", "RK4", "BOGACKI_SHAMPINE", "DORMAND_PRINCE")}
RATES = torch.tensor([[0.3, -1.0], [2.0, 0.1], [-0.5, 1.5]], dtype=F64)


@pytest.mark.parametrize("name", TABLEAUX)
def test_a_tableau_meets_the_conditions_of_its_order(name):
    """Butcher's conditions up to order 4, of the solution and, one order less, of the embedded one."""
    order, nodes, stages, weights, embedded = TABLEAUX[name]
    c = torch.tensor(nodes, dtype=F64)
    a = torch.stack([torch.tensor([*row, *[0.0] * (len(c) - len(row))], dtype=F64) for row in stages])
    torch.testing.assert_close(a.sum(1), c)
    for used, reached in ((weights, order), (embedded, order - 1)):
        if used is None:
            continue
        b = torch.tensor(used, dtype=F64)
        conditions = {
            1: [(b.sum(), 1)],
            2: [(b @ c, 1 / 2)],
            3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
            4: [(b @ c**3, 1 / 4), (b @ (c * (a @ c)), 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
        }
        for met in range(1, min(reached, 4) + 1):
            for value, expected in conditions[met]:
                assert value.item() == pytest.approx(expected, abs=1e-14), (met, used)


def solve(name, y, start, end, tolerance, seen=None):
    """The equation dy / dv = rate y / v of position log v, so y = y_0 (v / v_0)^rate."""
    rates = RATES[-len(y) :]
    equation = Equation(lambda y, t: (rates * y[0] / t[:, None],), lambda v: v, torch.exp)
    controller = Controller(
        lambda y, t, ahead, s, wrong: (wrong[0] / tolerance).square().mean(1).sqrt(), "tolerance", lambda _: 1e-9, 0.7
    )
    slope = equation.slope((y,), start.exp())
    size = torch.full((len(y),), 0.1, dtype=F64)
    return integrate.integrate(TABLEAUX[name], equation, controller, (y,), slope, start, end, size, seen)


@pytest.mark.parametrize("name", ["BOGACKI_SHAMPINE", "DORMAND_PRINCE"])
def test_each_sample_keeps_its_tolerance_on_a_way_of_its_own(name):
    """Upwards, downwards and nowhere at all; the slope at the end is the equation's."""
    y = torch.tensor([[1.0, 2.0], [0.5, -1.0], [1.5, 1.0]], dtype=F64)
    start, end = torch.tensor([0.0, 1.0, 0.4], dtype=F64), torch.tensor([2.0, -1.0, 0.4], dtype=F64)
    expected = y * ((end - start)[:, None] * RATES).exp()
    for tolerance in (1e-4, 1e-7):
        visited = []
        (found,), (slope,), size = solve(name, y, start, end, tolerance, visited.append)
        assert (found - expected).abs().max() < 20 * tolerance
        torch.testing.assert_close(slope, RATES * found / end.exp()[:, None])
        assert torch.equal(found[2], y[2])
        lengths = torch.stack([start, *visited]).diff(dim=0).abs()
        assert lengths.max() <= 0.7
        assert size[2] == 0.1
        assert torch.equal(visited[-1], end)


def test_a_sample_takes_the_same_steps_in_any_batch():
    """Bit for bit, also in batches that are long enough for vectorised powers to round differently."""
    y = torch.linspace(0.5, 2.0, 64, dtype=F64)[:, None]
    ends = torch.linspace(0.5, 3.0, 64, dtype=F64)

    def run(rows):
        equation = Equation(lambda y, t: (-y[0] * t[:, None],), lambda v: v, lambda p: p)
        controller = Controller(lambda y, t, ahead, s, wrong: wrong[0].abs()[:, 0] / 1e-6, "", lambda _: 1e-9)
        start, size = torch.zeros_like(ends[rows]), torch.full_like(ends[rows], 0.01)
        slope = equation.slope((y[rows],), start)
        return integrate.integrate(
            integrate.DORMAND_PRINCE, equation, controller, (y[rows],), slope, start, ends[rows], size
        )

    (whole,), _, sizes = run(slice(None))
    for rows in (slice(0, 1), slice(7, 12), slice(30, 64)):
        (part,), _, part_sizes = run(rows)
        assert torch.equal(part, whole[rows])
        assert torch.equal(part_sizes, sizes[rows])
    torch.testing.assert_close(whole, y * (-(ends**2) / 2).exp()[:, None], rtol=1e-4, atol=1e-5)
