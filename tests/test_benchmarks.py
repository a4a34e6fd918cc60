"""The benchmarks of speed: that they take turns and that their ratios are right, on a clock that calls set; and that
each of them runs in its smallest setting.
"""

import runpy
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import timing

    return timing


class Clock:
    """The seconds that calls say they take, and which calls there were."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def run(self, name, seconds):
        """A function that takes as many seconds as the next number says, the last one for ever."""
        left = list(seconds)

        def call():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_callables_take_turns_in_an_order_that_turns_around(timing):
    clock = Clock()
    runs = {name: clock.run(name, [1.0]) for name in "abc"}
    seconds = timing.rounds(runs, 10.0, limits=(2, 50), short=0.01, clock=clock)
    assert clock.calls == [*"abc", *"cba", *"abc", *"cba"]  # the first round warms up, and none begins after 10 s
    assert seconds == {name: [1.0] * 3 for name in "abc"}


def test_a_short_callable_is_called_again_until_it_can_be_timed(timing):
    clock = Clock()
    runs = {"short": clock.run("short", [5.0, 0.25]), "long": clock.run("long", [2.0])}
    seconds = timing.rounds(runs, 0.0, limits=(1, 1), short=1.0, clock=clock)
    assert clock.calls == ["short", "short", "long", "long", "long", *["short"] * 4]
    assert seconds == {"short": [0.25], "long": [2.0]}


def test_ratios_are_of_the_rounds_and_not_of_the_medians(timing):
    """A machine that slows down threefold in the middle changes no ratio."""
    slow = [1.0, 1.0, 3.0, 3.0, 1.0]
    seconds = timing.Seconds({"ours": [2 * s for s in slow], "peer": [5 * s for s in slow[:3]] + [15.0, 5.5]})
    speed = seconds.speed("sampling", "ours", "peer", amount=10, unit="images", goal=2.6)
    assert speed.ratio == (2.5, 2.5, 2.5)
    assert (speed.ours, speed.theirs, speed.unit, speed.met) == (5.0, 10 / 5.5, "images/s", False)
    cost = seconds.cost("loop", "ours", "peer", calls=4, goal=0.4)
    assert cost.ratio == (0.4, 0.4, 0.4)
    assert (cost.ours, cost.theirs, cost.unit, cost.met) == (500.0, 1375.0, "ms", True)
    assert (
        timing.markdown([cost]).splitlines()[-1]
        == "| loop | 500 ms | peer: 1,375 ms | 0.4 × the time | at most 0.4 | yes |"
    )


def test_a_row_without_a_goal_is_neither_met_nor_missed(timing):
    row = timing.Seconds({"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 1.0]}).cost("x", "a", "b")
    assert row.ratio == (2.0, 1.5, 2.5)
    assert row.met is None


SUBJECTS = ("network", "sampling", "training", "loop", "noise")
PROCESSES = ("startup", "memory", "quality")
"""Subjects that start processes, too slow to be tried here."""


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in schedulers of diffusers
@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_subject_runs(subject, timing, monkeypatch, tmp_path):
    """In its smallest setting, each case once: figures that are finite, beside a peer."""
    monkeypatch.setenv("LEAPSTEP_CACHE", str(tmp_path))
    cases = runpy.run_path(str(BENCHMARKS / f"{subject}.py"))["CASES"]
    bench = timing.Bench(torch.device("cpu"), smoke=True)
    for case in cases.values():
        rows = list(case(bench))
        assert rows or case.__name__ == "their_trainer"  # of denoising-diffusion-pytorch, which need not be there
        assert all(0 < value < float("inf") for row in rows for value in (row.ours, row.theirs, *row.ratio))


def test_the_subjects_are_all_there_are(timing):
    assert set(runpy.run_path(str(BENCHMARKS / "speed.py"))["SUBJECTS"]) == {*SUBJECTS, *PROCESSES}


def test_restoration_is_nearer_to_the_posterior_than_replacement():
    """In 20 calls; what differs by less than two sets of exact draws do is the same."""
    bench = runpy.run_path(str(BENCHMARKS / "editing.py"))["Bench"](n=200)
    chance = bench.mean_distance([posterior.sample(200, seed=4) for posterior in bench.posteriors])
    exact, given, isotropic, replaced = (
        bench.error(name, 20)
        for name in ("exact conditional denoiser", "given, iterations=3", "isotropic (PiGDM)", "replacement")
    )
    assert given < exact + chance
    assert given + chance < isotropic < replaced - chance
