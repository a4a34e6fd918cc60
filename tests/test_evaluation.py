import numpy as np
import pytest
import scipy.linalg
import torch

from leapstep.evaluation import frechet_distance

rng = np.random.default_rng(0)


def exact_samples(mean, covariance, n=50):
    """Samples whose mean and unbiased covariance are exactly those given."""
    noise = rng.standard_normal((n, len(mean)))
    noise -= noise.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(noise.T)), noise.T).T
    return mean + white @ np.linalg.cholesky(covariance).T


def test_commuting_gaussians_have_the_closed_form():
    a = exact_samples(np.array([1.0, 2.0, 3.0]), np.diag([1.0, 4.0, 9.0]))
    b = exact_samples(np.array([0.0, 2.0, 5.0]), np.diag([4.0, 1.0, 25.0]), n=80)
    # |m1 - m2|^2 + sum of (std1 - std2)^2
    assert frechet_distance(a, b) == pytest.approx((1 + 0 + 4) + (1 + 1 + 4), rel=1e-12)


def test_two_dimensions_have_the_closed_form():
    c1, c2 = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    a, b = exact_samples(np.zeros(2), c1), exact_samples(np.zeros(2), c2)
    # in 2 dimensions tr M^1/2 = sqrt(tr M + 2 sqrt(det M))
    root = np.sqrt(np.trace(c1 @ c2) + 2 * np.sqrt(np.linalg.det(c1 @ c2)))
    assert frechet_distance(a, b) == pytest.approx(np.trace(c1 + c2) - 2 * root, rel=1e-12)


def test_agrees_with_the_matrix_square_root_of_scipy():
    mix = rng.standard_normal((12, 12))
    a, b = rng.standard_normal((300, 3, 4)), (rng.standard_normal((200, 12)) @ mix + 0.3).reshape(200, 3, 4)
    flat_a, flat_b = a.reshape(300, 12), b.reshape(200, 12)
    c1, c2 = np.cov(flat_a.T), np.cov(flat_b.T)
    means = np.square(flat_a.mean(0) - flat_b.mean(0)).sum()
    expected = means + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("n", [10, 100])  # fewer and more samples than dimensions
def test_equal_sets_are_at_distance_zero_also_with_singular_covariances(n):
    a = rng.standard_normal((n, 40)) * np.logspace(0, 3, 40)
    a[:, ::3] = 7.0  # constant pixels
    assert 0 <= frechet_distance(a, a) < 1e-12 * np.var(a)
    assert 0 <= frechet_distance(a, a[::-1].copy()) < 1e-12 * np.var(a)


def test_a_singular_covariance_against_a_full_one():
    a, b = np.zeros((5, 2)), exact_samples(np.zeros(2), np.diag([1.0, 2.0]))
    assert frechet_distance(a, b) == pytest.approx(3.0, rel=1e-12)
    a = exact_samples(np.zeros(2), np.eye(2)) * [1, 0]
    assert frechet_distance(a, b) == pytest.approx(2.0, rel=1e-12)


def test_is_symmetric_and_a_shift_adds_its_square():
    a, b = rng.standard_normal((60, 5)), 2 * rng.standard_normal((9, 5))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a, a + 3) == pytest.approx(9 * 5, rel=1e-12)


def test_takes_tensors_arrays_and_integers_of_any_shape(tmp_path):
    pixels = rng.integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    other = torch.tensor(pixels[:12]).float().requires_grad_()
    expected = frechet_distance(pixels.reshape(20, 16).astype(float), pixels[:12].reshape(12, 16).astype(float))
    assert frechet_distance(np.load(tmp_path / "pixels.npy", mmap_mode="r"), other) == pytest.approx(expected)
    assert frechet_distance(np.array([0.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), r"samples of shape \[1, 3\]: a covariance needs at least 2"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "samples of 3 and 4 features: both sets must have the same dimension"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), r"samples of shape \[5, 3\] hold NaN or infinite"),
    ],
)
def test_mistakes(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)
