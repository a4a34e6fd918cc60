"""Statistics that merge against the metrics of the same samples, closed forms and the laws of merging."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from leapstep.evaluation import tally
from leapstep.evaluation.distances import difference, frechet_distance, kernel_distance, measure
from leapstep.evaluation.distances import merged as merging
from leapstep.evaluation.distances.intervals import student
from leapstep.evaluation.distances.merged import Blocks, Node, Tree, against, merged, without
from leapstep.evaluation.drawing import Batch
from leapstep.evaluation.evaluate import evaluate
from leapstep.evaluation.features import Features
from leapstep.evaluation.yardstick import Measure, Yardstick
from leapstep.inference.spec import SamplingSpec


def gaussian(n, k=6, shift=0.0, seed=0):
    x = torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * torch.linspace(0.5, 2, k, dtype=torch.float64) + shift


def probabilities(x):
    return x[:, :3].softmax(1)


def statistics(rule, x, size, level=0):
    """The tree of samples that are cut into blocks."""
    parts = zip(x.split(size), probabilities(x).split(size), strict=True)
    return Tree(level, (Node(0, i, rule.block(*part)) for i, part in enumerate(parts)))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def rule():
    return against(gaussian(90, shift=0.3, seed=1), k=3, classified=True)


def test_merged_metrics_are_those_of_the_same_samples(rule):
    x = gaussian(500)
    found = rule.estimates(statistics(rule, x, 10, level=1).groups())
    plain = measure(x, rule.reference, probabilities=probabilities(x), k=3)
    assert list(found) == [name for name in plain if name != "recall"]
    for name in ("frechet", "density", "coverage", "precision", "inception_score"):
        assert found[name].value == pytest.approx(plain[name].value, rel=1e-12), name
    assert found["precision"][:3] == plain["precision"][:3]


def kernel_by_hand(blocks, reference):
    """Of pairs from two quarters of a block, of which each has a quarter of the samples."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = []
    for x in blocks:
        quarter = torch.arange(len(x)) * 4 // len(x)
        within.append(kernel(x, x)[quarter[:, None] != quarter])
    own = kernel(reference, reference).fill_diagonal_(0).sum() / (len(reference) * (len(reference) - 1))
    return float(torch.cat(within).mean() + own - 2 * kernel(torch.cat(list(blocks)), reference).mean())


def test_the_kernel_distance_is_of_pairs_from_two_quarters_of_a_block(rule):
    x = gaussian(120)
    found = rule.estimates(statistics(rule, x, 40).groups())["kernel"]
    assert found.value == pytest.approx(kernel_by_hand(x.split(40), rule.reference), rel=1e-10)
    plain = kernel_distance(x, rule.reference)  # of all pairs
    assert abs(found.value - plain.value) < (plain.high - plain.low) / 2


def test_a_kernel_distance_of_classes_in_turn_is_that_of_their_mixture():
    """Its mean over draws has the closed form. By all pairs of a block it is too small by over 5 standard errors."""
    size, spread, centres = 40, 0.1, torch.tensor([2.0, -2.0]).double()
    reference = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]
    rule = against(reference, metrics=["kernel"])
    noise = torch.randn(50, 5 * size, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * spread
    found = []
    for x in noise + centres.repeat(5 * size // 2)[:, None]:
        blocks = statistics(rule, x, size).groups()
        found.append(rule.estimates(blocks)["kernel"].value)
    found = torch.tensor(found, dtype=torch.float64)
    first, second = centres.mean(), centres.square().mean() + spread**2
    third = (centres**3 + 3 * centres * spread**2).mean()
    between = (1 + 3 * first * reference + 3 * second * reference**2 + third * reference**3).mean()
    mixed = 1 + 3 * first**2 + 3 * second**2 + third**2
    gram = (reference @ reference.T + 1) ** 3
    own = (gram.sum() - gram.trace()) / (25 * 24)
    error = found.std() / 50**0.5
    assert abs(found.mean() - (mixed + own - 2 * between)) < 4 * error
    thirds = centres**3 + 3 * centres * spread**2
    same = (1 + 3 * centres**2 + 3 * (centres**2 + spread**2) ** 2 + thirds**2).mean()  # of two samples of a class
    assert (same - mixed) / (size - 1) > 5 * error


def test_a_kernel_distance_takes_an_even_part_of_a_large_reference(monkeypatch):
    monkeypatch.setattr(merging, "PART", 30)
    x, reference = gaussian(60), gaussian(90, seed=1)
    rule = against(reference, metrics=["kernel"])
    assert rule.part.tolist() == list(range(0, 90, 3))
    assert rule._values(rule.block(x))["kernel"] == pytest.approx(kernel_by_hand([x], reference[::3]), rel=1e-10)


def test_the_distance_of_gaussians_with_given_moments_has_the_closed_form():
    def exact(x, mean, std):
        x = x - x.mean(0)
        return torch.linalg.solve(torch.linalg.cholesky(x.T.cov()), x.T).T * std + mean

    mean, std = torch.tensor([1.0, -2.0, 4.0]).double(), torch.tensor([1.0, 3.0, 0.0]).double()
    rule = against(exact(gaussian(50, 3), 0 * mean, 0 * std + 2), metrics=["frechet"])
    x = exact(gaussian(70, 3, seed=1), mean, std)
    found = rule.estimates(statistics(rule, x, 7).groups())["frechet"]
    assert found.value == pytest.approx(21 + 1 + 1 + 4, rel=1e-12)
    far = rule.estimates(statistics(rule, x + 1e6, 7).groups())["frechet"]  # no cancellation far from the origin
    assert far.value == pytest.approx(float((mean + 1e6).square().sum()) + 6, rel=1e-12)


def test_merging_is_associative_to_rounding_and_its_inverse_undoes_it(rule):
    a, b, c = (rule.block(x, probabilities(x)) for x in (gaussian(7), gaussian(30, shift=1), gaussian(2, seed=5)))
    left, right, back = merged(merged(a, b), c), merged(a, merged(b, c)), without(merged(a, b), b)
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-13, atol=1e-12)
        torch.testing.assert_close(back[name], a[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("level", [0, 2, 5])
def test_the_result_is_the_same_to_the_bit_however_blocks_are_cut_into_shards(rule, level, tmp_path):
    blocks = statistics(rule, gaussian(110), 5).nodes
    whole = Tree(level, blocks).groups()
    assert len(whole) == math.ceil(22 / 2**level)
    for cuts in ([0, 22], [0, 1, 2, 13, 22], [0, 5, 10, 15, 20, 22], range(23), [0, 16, 22]):
        shards = []
        for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
            np.savez(tmp_path / f"{i}.npz", **Tree(level, blocks[start:stop]).to_arrays())
            with np.load(tmp_path / f"{i}.npz") as arrays:
                shards += Tree.nodes_in(arrays)
        again = Tree(level, shards).groups()
        assert len(again) == len(whole)
        assert all(map(same, again, whole))


def test_a_tree_keeps_one_node_for_each_group_and_each_level_below(rule):
    x = gaussian(6, 6)
    block, tree, most = rule.block(x, probabilities(x)), Tree(6), 0
    for i in range(1000):
        tree.add(Node(0, i, block))
        most = max(most, len(tree.nodes))
    assert most <= math.ceil(1000 / 64) + 6


def test_blocks_are_whole_batches_and_groups_are_few_enough_for_the_memory():
    assert Blocks.of(10_000_000, 64, 250) == Blocks(10_000_000, 1000, 8)
    assert Blocks.of(10_000_000, 2048, 256).size == 4096
    for n, features, batch_size in itertools.product((60_000, 10**7), (8, 64, 2048, 4096), (1, 250, 3000)):
        blocks = Blocks.of(n, features, batch_size)
        assert blocks.size % batch_size == 0
        groups = math.ceil(math.ceil(n / blocks.size) / 2**blocks.level)
        assert 10 <= groups <= 64
        assert groups <= 20 or groups * 4 * features * (features + 1) <= 2**29
    assert Blocks.of(1000, 64, 10).size == 50  # few samples still make 20 groups


def test_a_file_holds_half_of_the_products(rule):
    x = gaussian(20)
    arrays = Tree(3, [Node(0, 4, rule.block(x, probabilities(x)))]).to_arrays()
    assert arrays["0.products"].shape == (6 * 7 // 2,)
    with pytest.raises(ValueError, match="no merged statistics"):
        list(Tree.nodes_in({name: value for name, value in arrays.items() if name != "0.mean"}))


def test_the_interval_of_a_mean_is_students_for_the_groups():
    x = gaussian(200, 1)
    left = [float(torch.cat([x[: 20 * i], x[20 * (i + 1) :]]).mean()) for i in range(10)]
    apart = merging.deviations(float(x.mean()), torch.tensor(left).double(), torch.full((10,), 0.1).double())
    means = x.view(10, 20).mean(1)
    error = float(means.std()) / math.sqrt(10) * scipy.stats.t.ppf(0.975, 9)
    assert float(apart.std()) * 1.959964 == pytest.approx(error, rel=1e-4)
    assert float(apart.mean()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_traces_without_a_group_are_those_of_the_direct_formula_to_first_order(shift):
    """Whose spread is that of the interval; the trace is concave, so that the first order is never below it."""
    reference, x = gaussian(400, 32, seed=1), gaussian(1600, 32, shift)
    rule = against(reference, metrics=["frechet"])
    overlap = rule._overlap(rule.block(x))
    left = [torch.cat([x[: 80 * i], x[80 * (i + 1) :]]).T.cov() for i in range(20)]
    near = torch.tensor([overlap.near(covariance) for covariance in left])
    own = reference.T.cov()
    exact = torch.tensor([float(torch.linalg.eigvals(covariance @ own).real.sqrt().sum()) for covariance in left])
    assert bool((near >= exact).all())
    assert float(near.std()) == pytest.approx(float(exact.std()), rel=0.02)
    whole = torch.linalg.eigvals(x.T.cov() @ own).real.sqrt().sum()
    assert overlap.value == pytest.approx(overlap.near(x.T.cov())) == pytest.approx(float(whole))


def test_singular_covariances_have_a_first_order_too():
    """Of 20 samples with 64 features in 5 groups: no NaN, and what no sample has counts for nothing."""
    x = gaussian(20, 64)
    x[:, 30:] = 1.0
    rule = against(gaussian(40, 64, seed=1), metrics=["frechet"])
    with pytest.warns(UserWarning, match="20 and 40 samples"):
        found = rule.estimates(statistics(rule, x, 4).groups())["frechet"]
    assert math.isfinite(found.low)
    assert found.low < found.value == pytest.approx(frechet_distance(x, rule.reference), rel=1e-6)


@pytest.mark.parametrize("freedom", [2, 5, 9, 19, 63])
def test_students_quantile(freedom):
    assert student(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=0.03 / freedom**2)


def test_paired_samples_have_short_differences(rule):
    x = gaussian(600)
    near = x + 0.02 * gaussian(600, seed=9) + 0.05
    a, b = (rule.estimates(statistics(rule, each, 30).groups()) for each in (x, near))
    for name in ("frechet", "kernel", "density"):
        gap = difference(a[name], b[name])
        assert gap.value == a[name].value - b[name].value
        assert gap.high - gap.low < 0.5 * (a[name].high - a[name].low), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rule: rule.block(gaussian(4, 5), probabilities(gaussian(4))), "5 and 6 features"),
        (lambda rule: rule.block(gaussian(4) / 0, probabilities(gaussian(4))), "NaN or infinite"),
        (lambda rule: rule.block(gaussian(4)), "probabilities of shape None"),
        (lambda rule: rule.estimates([rule.block(gaussian(4), probabilities(gaussian(4)))] * 2), "2 blocks"),
        (lambda rule: against(gaussian(9), metrics=["fid"]), "metric fid"),
        (lambda rule: against(gaussian(3), k=3), "at least 4"),
    ],
)
def test_mistakes(rule, call, message):
    with pytest.raises(ValueError, match=message):
        call(rule)


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "k", "groups"), [(0.2, 4, 20), (0.0, 4, 50), (0.5, 32, 32), (0.0, 64, 20)])
def test_intervals_hold_the_mean_over_other_samples(shift, k, groups):
    """400 draws; a share of 95 % has a standard error of 1.1 %. The jackknife is never too small in the mean."""
    reference = gaussian(400, k, seed=10**6)
    rule = against(reference, k=3)
    draws = []
    for seed in range(400):
        x = gaussian(groups * 40, k, shift, seed)
        draws.append(rule.estimates(Tree(0, (Node(0, i, rule.block(b)) for i, b in enumerate(x.split(40)))).groups()))
    for name in draws[0]:
        centre = np.mean([draw[name].value for draw in draws])
        hits = np.mean([draw[name].low <= centre <= draw[name].high for draw in draws])
        print(f"shift {shift}, {k} features, {groups} groups, {name}: {hits:.1%}")
        assert hits > 0.95 - 3 * 0.011, name


@pytest.mark.parametrize(("n", "batch_size"), [(4, 1), (40, 20), (1000, 500)])
def test_what_has_no_interval_is_refused_before_it_is_drawn(n, batch_size):
    with pytest.raises(ValueError, match=f"{n} samples in blocks of .* needs 3 blocks"):
        Blocks.of(n, 3, batch_size)


def test_blocks_have_pairs():
    assert Blocks.of(20, 3) == Blocks(20, 2, 0)


def test_seconds_are_those_of_all_samples(monkeypatch):
    """Also of those that are not kept, and of shards that hold none that is."""
    monkeypatch.setattr(tally, "FIRST", 10)
    space = Features("values", "", torch.from_numpy)
    rule = Yardstick(space, torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), {}, None, 2, 5)
    timing = torch.tensor([[0.5, 10.0]], dtype=torch.float64)
    drawn = [Batch(np.random.default_rng(i).normal(size=(10, 2)), 1, timing) for i in range(6)]
    blocks = Blocks.of(60, 2, 10)
    whole = tally.Tally(rule, blocks).add(drawn)
    assert whole.seconds == {"seconds": 3.0, "seconds_low": 3.0, "seconds_high": 3.0}
    shards = tally.Tally(rule, blocks)
    for start in (0, 30):
        shards.take(tally.Tally(rule, blocks, start).add(drawn[start // 10 : start // 10 + 3]).to_arrays())
    assert shards.seconds == whole.seconds


@pytest.mark.parametrize("labelled", [True, False])
def test_samples_that_lie_sorted_by_class_are_measured_as_their_mixture(labelled, tmp_path, monkeypatch):
    """Of an exact mixture of three classes; in the order in which they lie, the kernel distance is that of one class.

    In turn, or at random, each block and the first samples have all of them; the tolerance is an interval.
    """
    monkeypatch.setattr(tally, "FIRST", 150)
    centres = np.array([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [600, 300, 300])
    samples, real = (centres[labels] + random.normal(size=(1200, 2)) for _ in range(2))
    np.savez(tmp_path / "real.npz", x=real)
    np.savez(tmp_path / "sorted.npz", x=samples, **({"labels": labels} if labelled else {}))
    spec, given = SamplingSpec(n=1200, batch_size=250), {"metrics": ["kernel", "recall"], "resamples": 2}

    def found(n=1200, **measured):
        asked = Measure(**given, **measured)
        path, data = str(tmp_path / "sorted.npz"), str(tmp_path / "real.npz")
        return evaluate(path, data, dataclasses.replace(spec, n=n), asked, split="all", progress=False).metrics

    plain, merged_ = found(), found(merged=True)
    near = merged_["kernel"].high - merged_["kernel"].low
    assert abs(merged_["kernel"].value - plain["kernel"].value) < near
    x, y = (torch.from_numpy(values) for values in (samples, real))
    rule = against(y, metrics=["kernel"])
    lying = rule.estimates([rule.block(block) for block in x.split(60)])["kernel"].value
    assert lying - plain["kernel"].value > 10 * near
    assert merged_["recall"].first == 150
    assert merged_["recall"].value > 0.8  # a class alone reaches half of the data
    if labelled:
        assert found(n=150)["recall"].value > 0.8
