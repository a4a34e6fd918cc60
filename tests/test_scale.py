"""The model of a job on many GPUs, `benchmarks/scale.py`: its laws in closed form, and that nothing gets lost in it."""

import dataclasses
import math
import runpy
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
import simpy

scale = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "scale.py")))

FREE = 1e15
"""A rate at which nothing is waited for."""

EXACT = scale.Costs(
    sample=0.1,
    batch=10,
    shard_spread=0.0,
    gpu_spread=0.0,
    slow=0.0,
    ray=3.0,
    listing=0.01,
    start=7.0,
    start_spread=0.0,
    to_gpu=2.0,
    model=500.0,
    written=4.0,
    store=50.0,
    bandwidth=100.0,
    most_bandwidth=math.inf,
    creates=8.0,
    most_creates=math.inf,
    dispatch=0.25,
    worker_life=math.inf,
    node_life=math.inf,
)
"""Costs without chance, of which times can be added up by hand."""


def run(workers, samples, seed=0, layout=None, **changes):
    layout = layout or scale.Layout(seconds=1e9, fewest=4)
    return scale.Job(workers, dataclasses.replace(EXACT, **changes), layout, seed, samples).run()


def finishing(*users, rate=1.0, most=math.inf):
    """When users of a shared server are done: each comes at a time with an amount, and may leave at a time."""
    env = simpy.Environment()
    shared, done = scale.Shared(env, rate, most), {}

    def user(name, at, amount):
        yield env.timeout(at)
        try:
            yield from shared.use(amount)
            done[name] = env.now
        except simpy.Interrupt:
            pass

    def leaves(process, at):
        yield env.timeout(at)
        process.interrupt()

    for name, (at, amount, *leave) in enumerate(users):
        process = env.process(user(name, at, amount))
        for at in leave:
            env.process(leaves(process, at))
    env.run()
    return done


def test_a_shared_server_gives_each_user_the_same():
    assert finishing((0, 3), (1, 1)) == {0: 4.0, 1: 3.0}  # from 1 to 3 both have half of the rate
    assert finishing((0, 3), (1, 1), rate=10.0, most=0.5) == {0: 6.0, 1: 3.0}  # each has its most
    assert finishing((0, 3), (1, 9, 2)) == {0: 3.5}  # the second leaves after a second, having had half of it
    assert finishing((0, 2), (0, 2), (0, 2)) == {0: 6.0, 1: 6.0, 2: 6.0}


def test_one_worker_takes_the_sum_of_all_costs():
    outcome = run(1, 400)  # 4 shards of 100 samples
    begun = 3 + 4 * 0.01 + 7 + 500 / 50 + 2
    assert outcome.seconds == pytest.approx(begun + 4 * (0.25 + 10 + 1 / 8 + 400 / 100), rel=1e-12)
    spent = {"work": 40.0, "start": 10.04, "model": 12.0, "driver": 1.0, "write": 16.5}
    assert outcome.spent == pytest.approx(dict.fromkeys(scale.CAUSES, 0.0) | spent, abs=1e-9)


@pytest.mark.parametrize("workers", [2, 8, 24])
def test_equal_workers_take_turns_at_the_driver_and_share_the_rest(workers):
    """Where the driver costs nothing all write at once; where writing costs nothing, they pass the driver in turn."""
    rounds, nodes = 5, math.ceil(workers / 8)
    job = {"workers": workers, "samples": rounds * workers * 10, "layout": scale.Layout(seconds=1.0)}
    begun = 3 + 0.01 * rounds * workers + 7 + nodes * 500 / 50 + 2
    together = run(**job, dispatch=0.0).seconds
    assert together == pytest.approx(begun + rounds * (1 + workers / 8 + workers * 40 / 100), rel=1e-12)
    in_turn = run(**job, written=0.0, creates=FREE, dispatch=0.01).seconds
    assert in_turn == pytest.approx(begun + workers * 0.01 + 1 + (rounds - 1) * (0.01 + 1), rel=1e-12)


@pytest.mark.parametrize(("model", "seconds"), [("store", 2 * 500 / 50), ("node", 2 * 500 / 100), ("worker", 16 * 5)])
def test_the_model_travels_once_to_each_node_or_to_each_worker(model, seconds):
    outcome = run(16, 640, layout=scale.Layout(seconds=1.0, model=model))
    assert outcome.spent["model"] == pytest.approx(16 * (seconds + 2), rel=1e-12)


def test_a_file_for_each_sample_waits_for_the_file_system():
    one, many = (run(1, 640, layout=scale.Layout(tree=tree)).spent["write"] for tree in (False, True))
    assert many - one == pytest.approx((640 - 4) / 8, rel=1e-12)


def test_what_saturates_bounds_a_job():
    """With three times as many workers as the driver can serve, the job takes what the driver takes."""
    costs = dataclasses.replace(EXACT, dispatch=0.1, written=0.0, creates=FREE, model=0.0)
    layout = scale.Layout(seconds=1.0, fewest=1)
    assert scale.saturated(costs, layout, 3000) == {"driver": 10.0, "bandwidth": math.inf, "file creation": FREE}
    outcome = scale.Job(30, costs, layout, 0, 3000).run()
    begun = outcome.spent["start"] / 30 + outcome.spent["model"] / 30
    assert outcome.seconds == pytest.approx(begun + 300 * 0.1 + 1, rel=1e-9)
    assert max(outcome.spent, key=outcome.spent.get) == "driver"


def expected(seconds, life, back, start=0.0):
    """The mean time to finish a shard in closed form, where failures are exponential.

    A shard takes d seconds of a worker that lives 1/r in the mean. After a death a new one comes after b and starts for
    s, in which it may die, too. To get through a seconds without a death, where each is followed by b, takes
    G(a) = (e^(r a) - 1) (1/r + b). The first attempt has no start before it, so the shard takes
    (1 - e^(-r d)) (1/r + b + G(d + s)), which is G(d) for s = 0.
    """
    rate = 1 / life
    again = math.expm1(rate * (seconds + start)) * (life + back)
    return -math.expm1(-rate * seconds) * (life + back + again)


@pytest.mark.parametrize("start", [0.0, 3.0])
def test_failures_cost_what_the_closed_form_says(start):
    """One worker that lives 20 s in the mean and takes 10 s for a shard: the mean over 1,500 shards.

    The seconds of a shard have a standard deviation of less than 30, so their mean one of 0.8.
    """
    still = {"ray": 0.0, "listing": 0.0, "model": 0.0, "to_gpu": 0.0, "dispatch": 0.0, "written": 0.0, "creates": FREE}
    shards, layout = 1500, scale.Layout(seconds=10.0, fewest=1)
    outcome = run(1, 100 * shards, layout=layout, start=start, worker_life=20.0, worker_back=4.0, **still)
    mean = (outcome.seconds - start) / shards
    assert expected(10.0, 20.0, 4.0, start) == pytest.approx(mean, abs=3 * 0.8)
    assert expected(10.0, 20.0, 4.0) == pytest.approx((math.exp(0.5) - 1) * 24)
    lost = outcome.spent["failures"] / shards
    assert lost == pytest.approx(mean - 10.0, rel=1e-9)
    assert outcome.deaths > 500


@pytest.mark.parametrize("seed", range(3))
def test_whoever_dies_every_shard_is_finished_once_and_every_second_is_accounted_for(seed):
    """20 workers on three nodes, the last of four, each of which dies several times."""
    chance = {"worker_life": 60.0, "node_life": 150.0, "node_back": 20.0, "shard_spread": 0.3, "gpu_spread": 0.2}
    job = {"workers": 20, "samples": 20_003, "layout": scale.Layout(seconds=5.0), "seed": seed, **chance}
    outcome = run(**job)
    assert outcome.deaths > 40
    assert outcome.shards == dict.fromkeys(range(math.ceil(20_003 / 50)), 1)
    assert sum(outcome.spent.values()) == pytest.approx(20 * outcome.seconds, rel=1e-9)
    assert min(outcome.spent[cause] for cause in scale.CAUSES if cause != "slow") >= 0
    assert outcome.spent["work"] == pytest.approx(20_003 * 0.1)
    assert run(**job) == outcome


def test_every_cost_has_a_source():
    assert scale.SOURCES.keys() == {field.name for field in dataclasses.fields(scale.Costs)}
    assert all(
        text.partition(":")[0] in ("measured", "published", "assumed", "known") for text in scale.SOURCES.values()
    )


def test_the_factors_of_chance_have_mean_one():
    job = scale.Job(1, scale.Costs(slow=0.0), scale.Layout(), 0)
    for spread in (0.02, 0.5):
        drawn = [job._lognormal(spread) for _ in range(4000)]
        assert statistics.mean(drawn) == pytest.approx(1.0, abs=4 * math.sqrt(math.expm1(spread**2) / 4000))
