"""The ways between latents keep what they say they keep, exactly."""

import math

import pytest
import torch

from leapstep.core.interpolation import PATHS, interpolation_grid, slerp, spherical

F64 = torch.float64
GENERATOR = torch.Generator().manual_seed(0)


def latents(*shape, dtype=F64):
    return torch.randn(*shape, generator=GENERATOR, dtype=dtype)


def norms(z):
    return z.flatten(1).norm(dim=1)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_the_ends_are_the_ends_to_the_bit(path, dtype):
    z1, z2 = latents(5, 3, 4, 4, dtype=dtype), latents(5, 3, 4, 4, dtype=dtype)
    assert torch.equal(path(z1, z2, 0), z1)
    assert torch.equal(path(z1, z2, 1.0), z2)
    assert path(z1, z2, 0.3).dtype == dtype


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_way_back_is_the_way(path):
    z1, z2 = latents(5, 8), latents(5, 8)
    torch.testing.assert_close(path(z1, z2, 0.3), path(z2, z1, 0.7))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_latents_of_any_scale_are_interpolated_alike(path):
    """So a latent needs no division by sigma at the time where it stands."""
    z1, z2 = latents(5, 8), latents(5, 8)
    torch.testing.assert_close(path(80 * z1, 80 * z2, 0.3), 80 * path(z1, z2, 0.3))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_each_sample_goes_its_own_way(path):
    z1, z2, fraction = latents(4, 2, 3), latents(4, 2, 3), torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=F64)
    together = path(z1, z2, fraction)
    for i, alone in enumerate(fraction):
        torch.testing.assert_close(together[i], path(z1[i : i + 1], z2[i : i + 1], alone)[0], rtol=0, atol=1e-15)


# --- slerp ---


def test_slerp_is_equation_67():
    z1, z2 = latents(50, 6), 3 * latents(50, 6)
    angle = torch.arccos((z1 * z2).sum(1) / (z1.norm(dim=1) * z2.norm(dim=1)))[:, None]
    expected = ((0.7 * angle).sin() * z1 + (0.3 * angle).sin() * z2) / angle.sin()
    torch.testing.assert_close(slerp(z1, z2, 0.3), expected, rtol=1e-12, atol=1e-12)


def test_slerp_keeps_a_common_norm():
    z1, z2 = (7 * z / norms(z)[:, None] for z in (latents(50, 3), latents(50, 3)))
    for fraction in torch.linspace(0, 1, 11):
        torch.testing.assert_close(norms(slerp(z1, z2, fraction)), torch.full((50,), 7.0, dtype=F64))
    assert (norms((z1 + z2) / 2) < 6.9).any()


def test_slerp_goes_at_constant_speed():
    z1, z2 = torch.tensor([[2.0, 0.0]], dtype=F64), torch.tensor([[-1.0, 1.0]], dtype=F64) * 2**0.5
    for fraction in (0.1, 0.5, 0.8):
        angle = fraction * 3 * math.pi / 4
        expected = 2 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=F64)
        torch.testing.assert_close(slerp(z1, z2, fraction), expected)


def test_parallel_latents_among_others():
    """Where the angle is 0 the formula is 0 / 0; its limit is the line, for that sample alone."""
    z1, z2 = latents(4, 5), latents(4, 5)
    expected = slerp(z1, z2, 0.25)
    z2[0], z2[1] = z1[0], 3 * z1[1]
    z = slerp(z1, z2, 0.25)
    torch.testing.assert_close(z[0], z1[0])
    torch.testing.assert_close(z[1], 1.5 * z1[1])
    torch.testing.assert_close(z[2:], expected[2:], rtol=0, atol=0)


@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12])
def test_nearly_parallel_latents(gap):
    """An arc of angle a is within a^2 of the line. An arccos of the cosine would lose the angle below 1e-8."""
    z1, away = latents(3, 5), latents(3, 5)
    z2 = z1 + gap * away
    torch.testing.assert_close(slerp(z1, z2, 0.3), torch.lerp(z1, z2, 0.3), rtol=0, atol=10 * gap**2 + 1e-14)


def test_a_latent_of_zeros():
    z = latents(2, 5)
    assert torch.isfinite(slerp(torch.zeros_like(z), z, 0.5)).all()


def test_opposite_latents_have_no_shortest_arc():
    z1, z2 = latents(3, 5), latents(3, 5)
    z2[1] = -2 * z1[1]
    with pytest.raises(ValueError, match="z1 and z2 are opposite"):
        slerp(z1, z2, 0.5)
    assert torch.isfinite(spherical(z1, z2, 0.5)).all()


# --- spherical ---


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_spherical_keeps_the_variance_of_independent_latents(fraction):
    """Of independent z1 and z2 the mixture has the sum of the squared weights for variance: 1; on the line 1/2."""
    one, other = torch.eye(2, dtype=F64)[:, :, None]
    weights = spherical(one, other, fraction)
    assert weights.flatten().tolist() == pytest.approx(
        [math.cos(fraction * math.pi / 2), math.sin(fraction * math.pi / 2)], abs=1e-15
    )
    assert weights.square().sum().item() == pytest.approx(1, abs=1e-15)
    line = torch.lerp(one, other, fraction).square().sum().item()
    assert line == pytest.approx(1 - 2 * fraction * (1 - fraction))
    assert line == 0.5 if fraction == 0.5 else line > 0.5


def test_in_many_dimensions_both_agree():
    z1, z2 = latents(4, 100_000), latents(4, 100_000)
    torch.testing.assert_close(slerp(z1, z2, 0.4), spherical(z1, z2, 0.4), rtol=0, atol=0.02)


# --- among four ---


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_grid_has_its_corners_and_edges(path):
    corners = latents(4, 2, 3)
    grid = interpolation_grid(corners, 3, 5, path)
    assert grid.shape == (3, 5, 2, 3)
    for corner, (row, column) in zip(corners, [(0, 0), (0, -1), (-1, 0), (-1, -1)], strict=True):
        assert torch.equal(grid[row, column], corner)
    torch.testing.assert_close(grid[0, 1], path(corners[:1], corners[1:2], 0.25)[0])
    torch.testing.assert_close(grid[1, 0], path(corners[:1], corners[2:3], 0.5)[0])
    torch.testing.assert_close(grid[1, 4], path(corners[1:2], corners[3:], 0.5)[0])
    torch.testing.assert_close(grid[1, 3], path(grid[1:2, 0], grid[1:2, 4], 0.75)[0])


def test_a_spherical_grid_keeps_the_variance_everywhere():
    weights = interpolation_grid(torch.eye(4, dtype=F64), 4, 6, spherical)
    torch.testing.assert_close(weights.square().sum(2), torch.ones(4, 6, dtype=F64))


def test_the_default_of_a_grid_is_slerp():
    corners = latents(4, 3)
    assert torch.equal(interpolation_grid(corners, 3, 3), interpolation_grid(corners, 3, 3, slerp))
    assert not torch.allclose(interpolation_grid(corners, 3, 3), interpolation_grid(corners, 3, 3, spherical))


# --- mistakes ---


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (-0.1, r"fraction=-0.1: must lie between 0 \(z1\) and 1 \(z2\)"),
        (1.1, r"fraction=1.1"),
        (math.nan, r"fraction=nan"),
        ([0.5, 2.0, 0.5], r"fraction=\[0.5, 2.0, 0.5\]"),
        ([0.5, 0.5], r"fraction has shape \[2\]: pass one number, or one for each of 3"),
        ([[0.5], [0.5], [0.5]], r"fraction has shape \[3, 1\]"),
    ],
)
def test_wrong_fractions(path, fraction, message):
    with pytest.raises(ValueError, match=message) as caught:
        path(latents(3, 2), latents(3, 2), torch.tensor(fraction, dtype=F64))
    assert "\n" not in str(caught.value)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"z1 has shape \[3, 2\] and z2 \[1, 2\]"):
        slerp(latents(3, 2), latents(1, 2), 0.5)
    for corners, rows, columns in ((3, 4, 4), (4, 1, 4), (4, 4, 1)):
        with pytest.raises(ValueError, match=f"{corners} corners, {rows} rows, {columns} columns"):
            interpolation_grid(latents(corners, 2), rows, columns)
