import itertools
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from leapstep.evaluation.distances import (
    METRICS,
    Estimate,
    arrival,
    balls,
    difference,
    frechet_distance,
    from_others,
    gaussian,
    inception_score,
    kernel_distance,
    measure,
    median_ratio,
    memorisation,
    metrics,
    nearest,
    neighbours,
    scores,
)
from leapstep.evaluation.distances.copies import fresh_share

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


@pytest.fixture(params=[2**22, 50], ids=["one block", "many blocks"])
def blocks(request, monkeypatch):
    for module in (balls, scores):
        monkeypatch.setattr(module, "PAIRS", request.param)


# --- kernel distance -----------------------------------------------------------------------------------------------


def kernel_by_hand(a, b):
    aa, bb, ab = polynomial_kernel(a), polynomial_kernel(b), polynomial_kernel(a, b)
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (aa, bb)]
    return sum(within) - 2 * ab.mean()


def expected_kernel(mean_a, covariance_a, mean_b, covariance_b):
    """E (x.y / d + 1)^3 of independent Gaussians: by their moments, of which x.y needs the first three."""
    d = len(mean_a)

    def moments(mean, covariance):
        mixed = np.einsum("i,jk->ijk", mean, covariance)
        third = np.einsum("i,j,k->ijk", mean, mean, mean) + mixed + mixed.transpose(1, 0, 2) + mixed.transpose(1, 2, 0)
        return mean, covariance + np.outer(mean, mean), third

    first, second, third = (
        (x * y).sum() / d**order
        for order, (x, y) in enumerate(
            zip(moments(mean_a, covariance_a), moments(mean_b, covariance_b), strict=True), 1
        )
    )
    return 1 + 3 * first + 3 * second + third


def test_kernel_distance_agrees_with_scikit_learn_and_a_jackknife_by_hand(blocks):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((13, 2, 3)) + 0.4, 1.5 * rng.standard_normal((9, 2, 3))
    estimate, a, b = kernel_distance(a, b), a.reshape(13, 6), b.reshape(9, 6)
    assert estimate.value == pytest.approx(kernel_by_hand(a, b), rel=1e-12)
    without_a = [kernel_by_hand(np.delete(a, i, 0), b) for i in range(13)]
    without_b = [kernel_by_hand(a, np.delete(b, i, 0)) for i in range(9)]
    error = np.sqrt(12 * np.var(without_a) + 8 * np.var(without_b))
    assert estimate.high - estimate.value == pytest.approx(scipy.stats.norm.ppf(0.975) * error, rel=1e-9)
    assert estimate.value - estimate.low == pytest.approx(estimate.high - estimate.value, rel=1e-9)
    back = kernel_distance(b, a)
    assert (back.value, back.low) == (pytest.approx(estimate.value, rel=1e-12), pytest.approx(estimate.low, rel=1e-9))


def test_a_set_is_not_taken_for_its_own_copy():
    a = np.random.default_rng(1).standard_normal((10, 3))
    assert kernel_distance(a, a).value == pytest.approx(kernel_by_hand(a, a), rel=1e-12)
    same = torch.tensor(a)
    assert kernel_distance(same, same).value == pytest.approx(kernel_by_hand(a, a), rel=1e-12)


@pytest.mark.parametrize(
    ("shift", "scale", "lowest", "highest"),
    [(0.3, 0.9, 0.92, 0.975), (0.0, 1.0, 0.95, 1.0)],  # where both are equal, it is cautious
    ids=["different", "equal"],
)
def test_kernel_distance_of_gaussians_is_unbiased_and_its_interval_holds_the_truth(shift, scale, lowest, highest):
    rng, d, reps = np.random.default_rng(2), 16, 500
    mix = rng.standard_normal((d, d)) / 4
    one, two = (np.full(d, shift), scale**2 * np.eye(d)), (np.zeros(d), np.eye(d))
    if shift:
        one = (one[0], mix @ mix.T)
    root = np.linalg.cholesky(one[1])
    truth = expected_kernel(*one, *one) + expected_kernel(*two, *two) - 2 * expected_kernel(*one, *two)
    estimates = [
        kernel_distance(one[0] + rng.standard_normal((100, d)) @ root.T, rng.standard_normal((150, d)))
        for _ in range(reps)
    ]
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean() - truth) < 3.5 * values.std() / reps**0.5
    assert (truth > 0.1) == (shift > 0)
    assert lowest < np.mean([estimate.low < truth < estimate.high for estimate in estimates]) <= highest


# --- nearest -------------------------------------------------------------------------------------------------------


def test_nearest_agrees_with_scikit_learn(blocks):
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((23, 2, 4)), rng.standard_normal((31, 2, 4))
    expected, which = (
        NearestNeighbors(n_neighbors=4, algorithm="kd_tree").fit(b.reshape(31, 8)).kneighbors(a.reshape(23, 8))
    )
    distances, indices = nearest(a, torch.tensor(b), 4)
    np.testing.assert_allclose(distances, expected, rtol=1e-13)
    assert np.array_equal(indices, which)
    first, index = nearest(a, b)
    assert torch.equal(first, distances[:, :1])
    assert torch.equal(index, indices[:, :1])


def test_nearest_tells_near_duplicates_apart_where_products_cannot(blocks):
    rng = np.random.default_rng(4)
    side = rng.choice([-1e6, 1e6], (40, 1))  # two heaps, so that no common centre helps
    b = side + 1e-3 * rng.standard_normal((40, 6))
    a = b[::-1] + 1e-7 * rng.standard_normal((40, 6))
    exact = np.linalg.norm(a[:, None] - b, axis=-1)
    distances, indices = nearest(a, b, 3)
    assert np.array_equal(indices, exact.argsort(1)[:, :3])
    assert np.array_equal(indices[:, 0], np.arange(40)[::-1])
    np.testing.assert_allclose(distances, np.sort(exact, 1)[:, :3], rtol=1e-12)
    products = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    assert (products.argmin(1) != indices[:, 0].numpy()).mean() > 0.3


def test_of_equally_near_the_first_comes_first():
    distances, indices = nearest(np.array([[0.0], [5.0]]), np.array([[1.0], [5.0], [-1.0], [5.0], [1.0]]), 3)
    assert indices.tolist() == [[0, 2, 4], [1, 3, 0]]
    assert distances.tolist() == [[1, 1, 1], [0, 0, 4]]


# --- neighbours ----------------------------------------------------------------------------------------------------


def neighbours_by_hand(samples, reference, k):
    def reach(points):
        return NearestNeighbors(n_neighbors=k).fit(points).kneighbors()[0][:, -1]  # without the points themselves

    between = np.linalg.norm(samples[:, None] - reference, axis=-1)
    inside = between <= reach(reference)
    return {
        "precision": inside.any(1).mean(),
        "recall": (between <= reach(samples)[:, None]).any(0).mean(),
        "density": inside.sum(1).mean() / k,
        "coverage": inside.any(0).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbours_agree_with_scikit_learn(blocks, k):
    rng = np.random.default_rng(5)
    samples, reference = 0.9 * rng.standard_normal((60, 4)) + 1, rng.standard_normal((45, 4))
    found = neighbours(samples.reshape(60, 2, 2), reference.reshape(45, 2, 2), k)
    assert found == pytest.approx(neighbours_by_hand(samples, reference, k), rel=1e-12)
    assert all(0.1 < value < 1 for value in found.values())


def test_neighbours_on_a_line():
    # balls of the reference reach 1, 1, 1 and 8 far; those of the samples 2.4, 2.4, 1 and 1
    reference, samples = np.array([0.0, 1.0, 2.0, 10.0]), np.array([0.5, 2.9, 30.0, 31.0])
    assert neighbours(samples, reference, k=1) == {"precision": 0.5, "recall": 0.75, "density": 1.0, "coverage": 1.0}
    # for the second neighbours 2, 1, 2 and 9; 29.5, 27.1, 27.1 and 28.1
    assert neighbours(samples, reference, k=2) == {
        "precision": 0.5,
        "recall": 1.0,
        "density": (3 + 2) / 2 / 4,
        "coverage": 1.0,
    }


def test_a_model_that_drops_modes_is_precise_and_one_that_invents_some_is_not():
    rng = np.random.default_rng(6)
    modes = rng.standard_normal((4, 50, 2)) * 0.1 + np.array([[0, 0], [0, 9], [9, 0], [9, 9]])[:, None]
    here, there = modes[:, :25].reshape(-1, 2), modes[:2, 25:].reshape(-1, 2)
    dropped, invented = neighbours(there, here), neighbours(here, there)
    assert dropped["precision"] > 0.9
    assert dropped["recall"] <= 0.5
    assert dropped["coverage"] <= 0.5
    assert invented["recall"] > 0.9
    assert invented["precision"] <= 0.5
    assert invented["coverage"] > 0.9
    assert invented["density"] == pytest.approx(dropped["density"] / 2, rel=0.2)


def test_copies_and_duplicates_lie_on_the_border_which_is_inside():
    rng = np.random.default_rng(7)
    points = rng.standard_normal((30, 3)) + 1e4
    everything = {"precision": 1.0, "recall": 1.0, "coverage": 1.0}
    assert neighbours(points, points[::-1], k=3) == everything | {"density": pytest.approx(4 / 3)}
    heaped = points.repeat(4, 0)  # so that the third neighbour is a duplicate
    assert neighbours(points, heaped, k=3) == everything | {"density": pytest.approx(4 / 3)}
    apart = neighbours(points + 1e-5, heaped, k=3)
    assert (apart["precision"], apart["density"], apart["coverage"]) == (0, 0, 0)
    grid = 0.1 * np.arange(20)  # all neighbours are ties, but for rounding
    assert neighbours(grid + 0.1, grid, k=1)["precision"] == 1
    assert neighbours(grid + 0.1, grid, k=2) == everything | {
        "density": pytest.approx((3 + 4 + 14 * 3 + 4 + 3 + 2 + 1) / 2 / 20)
    }


def test_equal_distributions_have_density_one_and_the_known_coverage():
    rng, k = np.random.default_rng(8), 3
    runs = [neighbours(rng.standard_normal((150, 4)), rng.standard_normal((150, 4)), k) for _ in range(30)]
    density, coverage = (np.mean([run[name] for run in runs]) for name in ("density", "coverage"))
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 2**-k, abs=0.015)


# --- inception score -----------------------------------------------------------------------------------------------


def test_inception_score_at_its_ends_and_by_entropies():
    assert inception_score(np.eye(7).repeat(3, 0)) == pytest.approx(7, rel=1e-12)
    assert inception_score(np.tile([0.2, 0.5, 0.3], (9, 1))) == pytest.approx(1, rel=1e-12)
    probabilities = np.random.default_rng(9).dirichlet(np.full(5, 0.3), 40)
    mean = scipy.stats.entropy(probabilities, probabilities.mean(0, keepdims=True), axis=1).mean()
    assert inception_score(probabilities) == pytest.approx(np.exp(mean), rel=1e-12)
    assert inception_score(torch.tensor(probabilities).float()) == pytest.approx(np.exp(mean), rel=1e-5)


# --- memorisation --------------------------------------------------------------------------------------------------


def test_copies_of_training_data_are_found():
    rng = np.random.default_rng(10)
    train, test = rng.standard_normal((400, 8)), rng.standard_normal((300, 8))
    copied = rng.permutation(400)[:50]
    copies = train[copied] + 1e-3 * rng.standard_normal((50, 8))
    found = memorisation(np.concatenate([copies, rng.standard_normal((50, 8))]), train, test)
    assert np.array_equal(found.index[:50], copied)
    assert found.ratio[:50].max() < 0.01
    assert found.ratio[50:].min() > 0.1
    assert float(found.ratio[50:].median()) == pytest.approx(1, abs=0.15)
    assert 0.5 <= found.share.value <= 0.55
    assert found.share.low > 0.4
    assert found.expected.high < 0.1


def test_fresh_samples_are_not_accused():
    rng = np.random.default_rng(11)
    within = []
    for _ in range(150):
        sets = [rng.standard_normal((n, 5)) for n in (60, 80, 120)]
        found = memorisation(*sets)
        within.append(found.expected.low <= found.share.value <= found.expected.high)
    assert np.mean(within) > 0.93
    assert found.expected.value == pytest.approx(0.01, abs=0.01)


def test_ratios_and_shares_on_a_line():
    train, test = np.arange(0, 100, 10.0), np.array([1.0, 12.0, 23.0, 34.0, 45.0])  # at distances 1 to 5
    found = memorisation(np.array([[90.5], [6.0], [21.0], [200.0]]), train[:, None], test[:, None])
    assert found.typical == 3
    assert found.ratio.tolist() == pytest.approx([0.5 / 3, 4 / 3, 1 / 3, 110 / 3])
    assert found.index.tolist() == [9, 1, 2, 9]
    assert found.threshold == pytest.approx(1 / 3)
    assert found.share.value == 0.5  # one at the very threshold
    assert found.expected.value == pytest.approx(1 / 6)


def test_test_data_that_are_training_data_leave_only_copies_under_suspicion():
    rng = np.random.default_rng(12)
    train, test = rng.standard_normal((50, 3)), rng.standard_normal((40, 3))
    test[:4] = train[:4]
    found = memorisation(np.concatenate([train[:2], train[2:4] + 1e-6, test[4:10]]), train, test)
    assert found.threshold == 0
    assert found.share.value == 0.2
    assert found.expected.value == pytest.approx(4 / 41)
    with pytest.raises(ValueError, match="at least half of 40 test samples are in the training set: pass held-out"):
        memorisation(test, np.concatenate([train, test[:20]]), test)


def test_the_nearest_of_a_large_set_are_found_in_its_parts(monkeypatch):
    rng = np.random.default_rng(13)
    samples, train = rng.standard_normal((40, 4)).astype(np.float32), rng.standard_normal((90, 4)).astype(np.float32)
    train[70:80] = train[:10]  # equals in other parts
    whole = [nearest(samples, train, 3), nearest(train[:20], train, 2), from_others(torch.from_numpy(train))]
    for rows in (1, 7):
        monkeypatch.setattr(arrival, "PART", 4 * rows)
        parts = [nearest(samples, train, 3), nearest(train[:20], train, 2), from_others(torch.from_numpy(train))]
        for found, expected in zip(parts, whole, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_without_test_data_training_samples_stand_in_each_for_its_nearest_among_the_others():
    train = np.array([0.0, 1.0, 3.0, 3.0, 7.0, 20.0])[:, None]  # two are equal: each is the nearest of the other
    assert from_others(train).tolist() == [1, 1, 0, 0, 4, 13]
    assert len(from_others(np.arange(30.0)[:, None], most=7)) == 7
    found = memorisation(np.array([[0.5], [9.0], [27.0], [4.0], [6.0]]), train)
    assert found.typical == 1
    assert found.ratio.tolist() == [0.5, 2, 7, 1, 1]
    rng = np.random.default_rng(14)
    train, fresh = rng.standard_normal((600, 6)), rng.standard_normal((500, 6))
    copies = train[:500] + 1e-3 * fresh
    assert memorisation(fresh, train).relative.low < 1 < memorisation(fresh, train).relative.high
    assert memorisation(copies, train).relative.high < 0.01
    assert memorisation(copies, train).share.value == 1
    with pytest.raises(ValueError, match="at least half of 20 training samples occur twice"):
        memorisation(train[:5], np.concatenate([train[:10], train[:10]]))


def test_the_interval_of_a_ratio_of_medians_holds_it_as_often_as_it_says():
    rng, within = np.random.default_rng(15), []
    for _ in range(200):
        a, b = (torch.from_numpy(rng.gamma(4, scale, n)) for scale, n in ((1.2, 80), (1.0, 60)))
        found = median_ratio(a, b, resamples=100)
        assert found.value == float(a.median() / b.median())
        within.append(found.low <= 1.2 <= found.high)
    assert 0.9 < np.mean(within) <= 1  # 0.95, with a standard error of 0.015


def test_shares_of_fresh_samples_follow_from_ranks():
    orders = list(itertools.combinations(range(7), 3))  # which of 7 ranks 3 fresh samples have, the test set the rest
    seconds = [sorted(set(range(7)) - set(order))[1] for order in orders]
    shares = [sum(rank < second for rank in order) / 3 for order, second in zip(orders, seconds, strict=True)]
    estimate = fresh_share(2, 4, 3)
    assert estimate.value == pytest.approx(np.mean(shares))
    low, high = (np.quantile(shares, q, method="inverted_cdf") for q in (0.025, 0.975))
    assert (estimate.low, estimate.high) == (low, high)
    large = fresh_share(100, 10_000, 5000)
    spread = (0.01 * 0.99 * (1 / 10_000 + 1 / 5000)) ** 0.5
    assert (large.low, large.high) == pytest.approx((0.01 - 1.96 * spread, 0.01 + 1.96 * spread), abs=3e-4)


# --- measure -------------------------------------------------------------------------------------------------------


def test_all_metrics_have_the_values_of_their_functions_within_their_intervals():
    rng = np.random.default_rng(13)
    samples, reference = rng.standard_normal((50, 2, 3)) + 0.3, rng.standard_normal((40, 2, 3))
    probabilities = rng.dirichlet(np.ones(4), 50)
    found = measure(samples, reference, probabilities=probabilities, k=3, resamples=20)
    assert tuple(found) == METRICS
    assert found["frechet"].value == frechet_distance(samples, reference)
    assert found["kernel"]._replace(replicates=()) == kernel_distance(samples, reference)
    assert found["inception_score"].value == pytest.approx(inception_score(probabilities), rel=1e-12)
    by_function = neighbours(samples, reference, 3)
    assert {name: found[name].value for name in by_function} == pytest.approx(by_function, rel=1e-12)
    assert neighbours(samples, reference, 5) != by_function
    for estimate in found.values():
        assert estimate.low < estimate.value < estimate.high
    assert tuple(measure(samples, reference)) == METRICS[:-1]


def test_what_is_not_asked_for_is_not_measured(monkeypatch):
    def unwanted(*_):
        raise AssertionError

    rng = np.random.default_rng(14)
    samples, reference = rng.standard_normal((8, 2)), rng.standard_normal((9, 2))  # too few for balls without a fifth
    expected = measure(rng.standard_normal((30, 2)), reference, metrics=("coverage", "recall"), resamples=2)
    assert tuple(expected) == ("recall", "coverage")
    for name in ("neighbours_of", "kernel_of", "scores_of"):
        monkeypatch.setattr(metrics, name, unwanted)
    assert measure(samples, reference, k=7, metrics=["frechet"])["frechet"].value == frechet_distance(
        samples, reference
    )


def test_intervals_depend_on_the_seed_and_little_on_the_resamples():
    rng = np.random.default_rng(15)
    samples, reference = rng.standard_normal((40, 3)) + 0.2, rng.standard_normal((40, 3))
    metrics = ("frechet", "recall", "coverage")
    first, again, other = (measure(samples, reference, seed=seed, metrics=metrics) for seed in (0, 0, 1))
    more = measure(samples, reference, resamples=800, metrics=metrics)
    assert first == again
    for name in metrics:
        widths = [found[name].value - found[name].low for found in (first, other, more)]
        assert widths[0] != widths[1]
        assert widths[0] == pytest.approx(widths[2], rel=0.35)


@pytest.mark.parametrize("n", [20, 90], ids=["few", "many"])  # fewer and more than dimensions
def test_the_distances_of_parts_are_those_of_the_function(n):
    rng = np.random.default_rng(16)
    samples, reference = rng.standard_normal((n, 30)) * np.logspace(0, 2, 30) + 40, rng.standard_normal((60, 30))
    kept = torch.ones(4, n, dtype=torch.bool)
    for part in kept[1:]:
        part[rng.permutation(n)[: n // 5]] = False
    found = gaussian.frechet_of_parts(torch.tensor(samples), gaussian.moments(torch.tensor(reference)), kept)
    assert found.tolist() == pytest.approx([frechet_distance(samples[part], reference) for part in kept], rel=1e-6)


def test_the_balls_of_parts_are_those_of_the_function(blocks):
    rng = np.random.default_rng(17)
    samples, reference = torch.tensor(rng.standard_normal((60, 3))), torch.tensor(rng.standard_normal((50, 3)))
    kept = torch.ones(5, 60, dtype=torch.bool)
    for part in kept[1:]:
        part[rng.permutation(60)[:12]] = False
    found = balls.neighbours_of(samples, reference, 2, kept)
    for i, part in enumerate(kept):
        assert {name: float(values[i]) for name, values in found.items()} == neighbours(samples[part], reference, 2)


def test_intervals_hold_the_mean_over_other_samples():
    rng = np.random.default_rng(18)
    reference = rng.standard_normal((100, 4))

    def draw():
        samples = 0.9 * rng.standard_normal((80, 4)) + 0.3
        odds = np.exp(samples)
        return samples, odds / odds.sum(1, keepdims=True)

    def values(samples, probabilities):
        found = neighbours(samples, reference, 3)
        return [frechet_distance(samples, reference), *found.values(), inception_score(probabilities)]

    many = np.array([values(*draw()) for _ in range(200)])
    names = [name for name in METRICS if name != "kernel"]
    truth, spread = (dict(zip(names, row, strict=True)) for row in (many.mean(0), many.std(0)))
    runs = []
    for _ in range(80):
        samples, probabilities = draw()
        runs.append(measure(samples, reference, probabilities=probabilities, k=3, resamples=30, metrics=names))
    for name in names:
        held = np.mean([run[name].low < truth[name] < run[name].high for run in runs])
        error = np.mean([run[name].high - run[name].low for run in runs]) / 2 / 1.96
        assert held >= 0.88, name
        assert 0.85 < error / spread[name] < 1.45, name


def test_intervals_of_differences_between_paired_samples_are_short_and_hold_their_mean():
    generator = torch.Generator().manual_seed(21)
    metrics = ("frechet", "kernel", "precision", "density")
    reference = torch.randn(150, 3, generator=generator)
    found = {name: [] for name in metrics}
    own = {name: [] for name in metrics}
    for seed in range(60):
        luck, more = torch.randn(2, 100, 3, generator=generator)
        near, far = (
            measure(x, reference, seed=seed, metrics=metrics) for x in (1.5 * luck, 1.5 * luck + 0.3 * more + 0.1)
        )
        for name in metrics:
            found[name].append(difference(far[name], near[name]))
            own[name].append(near[name].high - near[name].low)
            assert found[name][-1].value == far[name].value - near[name].value
    for name, differences in found.items():
        mean = np.mean([each.value for each in differences])
        assert np.mean([each.low <= mean <= each.high for each in differences]) >= 0.85, name
        spread = 2 * 1.96 * np.std([each.value for each in differences])
        lengths = np.mean([each.high - each.low for each in differences])
        assert 0.8 < lengths / spread < 1.5, name
        assert lengths < np.mean(own[name]), name
    assert difference(Estimate(1.0), Estimate(2.0)) is None
    assert difference(Estimate(1.0, replicates=(1.0, 2.0)), Estimate(2.0, replicates=(1.0, 2.0, 3.0))) is None


def test_a_share_of_all_or_none_keeps_an_interval():
    inside = measure(np.zeros((50, 2)), np.zeros((20, 2)), metrics=["precision"])["precision"]
    assert (inside.value, inside.high) == (1, 1)
    assert inside.low == pytest.approx(50 / (50 + 1.96**2), rel=1e-4)
    outside = measure(np.ones((50, 2)), np.zeros((20, 2)), metrics=["precision"])["precision"]
    assert (outside.value, outside.low) == (0, 0)
    assert outside.high == pytest.approx(1.96**2 / (50 + 1.96**2), rel=1e-4)


def test_intervals_stay_where_values_can_be():
    rng = np.random.default_rng(19)
    samples, reference = rng.standard_normal((12, 1)), rng.standard_normal((12, 1))
    probabilities = np.full((12, 3), 1 / 3) + rng.uniform(-1e-4, 1e-4, (12, 1)) * [1, -1, 0]
    found = measure(samples, reference, probabilities=probabilities, k=2)
    assert found["frechet"].low == 0
    assert found["recall"].high == 1
    assert found["coverage"].high <= 1
    assert found["inception_score"].low >= 1
    assert found["density"].low >= 0


def test_too_few_samples_for_a_distance_are_warned_of_once():
    rng = np.random.default_rng(20)
    samples, reference = rng.standard_normal((15, 8)), rng.standard_normal((40, 8))
    words = "15 and 40 samples for a Fréchet distance in 8 dimensions: .* too large; use at least 16, or"
    with pytest.warns(UserWarning, match=words) as caught:
        measure(samples, reference, metrics=["frechet"])
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="40 and 15 samples"):
        measure(reference, samples, metrics=["frechet"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(samples, reference, metrics=["kernel", "precision"])
        measure(rng.standard_normal((16, 8)), reference, metrics=["frechet"])


# --- mistakes ------------------------------------------------------------------------------------------------------


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


good = np.random.default_rng(21).standard_normal((8, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_distance(good[:2], good), r"samples of shape \[2, 3\]: a kernel .* needs at least 3 samples"),
        (lambda: kernel_distance(good, good[:, :2]), "samples of 3 and 2 features"),
        (
            lambda: neighbours(good, good[:5]),
            r"^5 samples: precision, .* with k=5 need at least 6; pass more, a",
        ),
        (lambda: neighbours(good, good, 0), "k=0: must be at least 1"),
        (lambda: nearest(good, good, 9), "count=9: there are 8 to be near to, pass 1 to 8"),
        (lambda: nearest(good, good, 0), "count=0"),
        (lambda: nearest(good, good[:0]), r"samples of shape \[0, 3\]: a distance needs at least 1 sample$"),
        (lambda: nearest(good, good[:, :0]), r"samples of shape \[8, 0\] have no features"),
        (lambda: memorisation(good, good, good * np.inf), "hold NaN or infinite"),
        (lambda: inception_score(np.array([[1.5, -0.5]])), "probabilities below 0, .* softmax"),
        (lambda: inception_score(np.abs(good)), "rows that do not sum to 1"),
        (lambda: inception_score(good[0]), r"probabilities of shape \[3\]: pass \[samples, classes\]"),
        (lambda: measure(good, good, metrics=["frechet", "fid"]), "metric fid: use one of frechet, kernel"),
        (lambda: measure(good, good, metrics=["inception_score"]), "inception_score needs the probabilities"),
        (lambda: measure(good, good, probabilities=np.ones((7, 1)), k=1), "of 7 samples, features of 8: pass those"),
        (lambda: measure(good, good, k=6), "8 samples: .* leaves a fifth out, and 7 must stay; pass at least 9"),
        (lambda: measure(good, good, k=0), "k=0: must be at least 1"),
        (lambda: measure(good, good, resamples=1, k=1), "resamples=1: must be at least 2"),
    ],
)
def test_mistakes_of_the_other_metrics(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_estimates_print_with_half_their_interval():
    assert str(Estimate(1.25, 1.0, 1.5)) == "1.25 ± 0.25"
    assert str(Estimate(1.25)) == "1.25"
