"""Intervals of merged statistics with as many features as Inception has: seconds of the processor, and memory.

    python benchmarks/merged.py [--only memory]

The features are random numbers, and the only metric is the Fréchet distance, whose covariances are what costs.
"""

import functools
import time

import memory
import torch

import timing
from leapstep.evaluation.distances.gaussian import factor_of, frechet_of_moments
from leapstep.evaluation.distances.intervals import NORMAL
from leapstep.evaluation.distances.merged import (
    Blocks,
    Node,
    Tree,
    against,
    covariance_of,
    deviations,
    merged,
    without,
)

FEATURES = 2048
BLOCKS = (1024, 64)
"""Of how many blocks of 4,096 samples the memory is compared."""

TALLIED = """
import sys, merged
merged.estimates(*map(int, sys.argv[1:]))
"""


def features(n, k, seed=0):
    """Features [n, k] whose variances fall as those of networks do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator, dtype=torch.float64) / torch.arange(1, k + 1).sqrt()


def rule_of(k):
    """What samples are measured against."""
    return against(features(2 * k, k), metrics=["frechet"])


def estimates(count, k):
    """The metrics of so many blocks, which are copies of one."""
    rule, size = rule_of(k), 2 * k
    block, tree = rule.block(features(size, k, 1)), Tree(Blocks.of(count * size, k, size).level)
    for i in range(count):
        tree.add(Node(0, i, {name: value.clone() for name, value in block.items()}))
    return rule.estimates(tree.groups())


def anew(rule, groups):
    """The Fréchet distance of all, and without each group: every one from a decomposition of its own."""
    whole = functools.reduce(merged, groups)
    distance = frechet_of_moments((whole["mean"], factor_of(covariance_of(whole))), rule.moments)
    (mean, factor), left = rule.moments, []
    for group in groups:
        rest = without(whole, group)
        covariance = covariance_of(rest)
        overlap = torch.linalg.eigvalsh(factor @ covariance @ factor.T).clamp(min=0).sqrt().sum()
        far = (rest["mean"] - mean).square().sum()
        left.append(far + covariance.trace() + factor.square().sum() - 2 * overlap)
    shares = torch.full((len(groups),), 1 / len(groups), dtype=torch.float64)
    return NORMAL * float(deviations(distance, torch.stack(left), shares).std())


def intervals(bench):
    """The intervals of the Fréchet distance, and how wide they are, beside a decomposition of each matrix."""
    k = bench.least(FEATURES, 16)
    rule = rule_of(k)
    groups, widths = [rule.block(features(2 * k, k, seed)) for seed in range(1, bench.least(32, 5))], {}

    def leapstep():
        found = rule.estimates(groups)["frechet"]
        widths["leapstep"] = found.high - found.value

    def each_anew():
        widths["each anew"] = anew(rule, groups)

    runs = {"leapstep": leapstep, "each anew": each_anew}
    seconds = timing.rounds(runs, 0.0, limits=(1, 1), short=None, clock=time.process_time)
    ours, theirs = widths.values()
    what = (
        f"processor's time of intervals of {len(groups)} groups, {k} features (half of one: {ours:.4g}, {theirs:.4g})"
    )
    yield seconds.cost(what, *runs)


def peak(bench):
    """The largest resident set with many blocks, beside few."""
    k = bench.least(FEATURES, 16)
    many, few = bench.least(BLOCKS, (40, 20))
    peaks = [memory.peak("-c", TALLIED, count, k) for count in (many, few)]
    what = f"memory of merged statistics, {k} features, {many * 2 * k:,} samples"
    yield memory.row(what, *peaks, f"{few * 2 * k:,} samples")


CASES = {"intervals": intervals, "memory": peak}


if __name__ == "__main__":
    timing.main(CASES, __doc__)
