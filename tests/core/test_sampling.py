"""Lists of times, per-sample noise, the loop; and the law of what comes out."""

import io
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from tqdm import tqdm

import leapstep
from leapstep.core.noise import normal
from leapstep.core.sampling import network_device
from leapstep.core.spacing import SPACINGS

F64 = torch.float64
MIXTURE = leapstep.GaussianMixture(
    torch.tensor([[1.5, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=F64),
    torch.tensor([0.05, 0.2, 0.02], dtype=F64),
    torch.tensor([0.5, 0.2, 0.3], dtype=F64),
)


def levels(spacing, n, process=None):
    """The trained levels counted from zero, as DDPM code counts them, ascending."""
    path = leapstep.times(process or leapstep.linear(), n, spacing)
    return (path[:-1].flip(0) * 1000 - 1).tolist()


# --- times ---


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", leapstep.SCHEDULES)
def test_n_steps_are_n_steps(spacing, name):
    """For every n that could go wrong: exactly n steps, strictly decreasing, on trained levels, ending at 0."""
    for process in (leapstep.SCHEDULES[name](1000), leapstep.SCHEDULES[name](7)):
        some = (
            {1, 2, 3, 7, 53, 300, 333, 334, 501, 667, 998, 999, 1000} if process.timesteps == 1000 else set(range(1, 8))
        )
        for n in some:
            path = leapstep.times(process, n, spacing)
            assert path.dtype == F64
            assert len(path) == n + 1
            assert (path.diff() < 0).all()
            assert path[-1] == 0
            assert path[0] <= 1
            on_level = path * process.timesteps
            torch.testing.assert_close(on_level, on_level.round(), rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_n_from_1_to_t(spacing):
    for n in range(1, 1001):
        path = leapstep.times(leapstep.linear(), n, spacing)
        assert len(path) == n + 1
        assert (path.diff() < 0).all()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ["flow", "exponential"])
def test_continuous_processes_take_any_number_of_steps(spacing, name):
    for n in (1, 2, 50, 1000, 2500):
        path = leapstep.times(leapstep.SCHEDULES[name](), n, spacing)
        assert len(path) == n + 1
        assert (path.diff() < 0).all()
        assert path[-1] == 0


@pytest.mark.parametrize("n", [10, 20, 50, 100, 1000])
def test_leading_is_the_papers_uniform_subsequence(n):
    assert levels("leading", n) == list(range(0, 1000, 1000 // n))


@pytest.mark.parametrize("n", [10, 20, 50, 100, 1000])
def test_quad_is_the_papers_quadratic_subsequence(n):
    """int(linspace(0, sqrt(0.8 T), n)^2), as run for Table 1, exactly at 10 and 20 steps.

    From 50 steps on that rule repeats levels near 0, and such a step does nothing; ours puts the repeats on the nearest
    free levels instead, and agrees with the rule everywhere above them.
    """
    rule = [int(800 * i**2 / (n - 1) ** 2) for i in range(n)]
    ours = levels("quad", n)
    if n <= 20:
        assert ours == rule
    else:
        free = next(i for i in range(n) if ours[i:] == rule[i:]) if n < 1000 else n
        assert ours[:free] == list(range(free))


def test_known_lists():
    assert levels("trailing", 5) == [199, 399, 599, 799, 999]
    assert levels("trailing", 3) == [332, 666, 999]
    assert levels("linspace", 5) == [0, 250, 499, 749, 999]
    assert [levels(spacing, 1) for spacing in ("trailing", "linspace", "log_snr", "karras")] == [[999]] * 4


def test_log_snr_and_karras_are_even_in_what_they_say():
    process = leapstep.exponential()
    t = leapstep.times(process, 9, "log_snr")[:-1]
    gaps = process.log_snr(t).diff()
    torch.testing.assert_close(gaps, gaps[0].expand_as(gaps), rtol=1e-6, atol=0)
    t = leapstep.times(process, 9, "karras")[:-1]
    root = (process.sigma(t) / process.alpha(t)) ** (1 / 7)
    torch.testing.assert_close(root.diff(), root.diff()[0].expand(8), rtol=1e-6, atol=0)


def test_explicit_lists():
    process = leapstep.linear()
    assert leapstep.times(process, [1.0, 0.25, 0.0]).tolist() == [1.0, 0.25, 0.0]
    assert leapstep.times(process, torch.tensor([0.5, 0.25])).tolist() == [0.5, 0.25, 0.0]
    assert torch.equal(leapstep.times(process, np.int64(20)), leapstep.times(process, 20))
    for bad in ([0.1, 0.2], [1.5, 0.2], [0.5, -0.1], [], [[0.5]], [0.0], [math.nan]):
        with pytest.raises(ValueError, match=r"strictly decreasing|times lie in"):
            leapstep.times(process, bad)


@pytest.mark.parametrize(
    ("steps", "spacing", "message"),
    [
        (0, "trailing", "at least 1 step"),
        (1001, "trailing", "trained on 1000 levels"),
        (10, "uniform", "unknown spacing 'uniform': use one of trailing, leading, linspace, quad, log_snr, karras"),
    ],
)
def test_bad_steps(steps, spacing, message):
    with pytest.raises(ValueError, match=message):
        leapstep.times(leapstep.linear(), steps, spacing)


# --- noise ---


def test_noise_is_a_function_of_seed_row_and_step():
    noise = leapstep.Noise(5, range(10), (3, 5), F64)
    z = noise(4)
    for rows in (range(2, 7), range(9, 10)):
        part = leapstep.Noise(5, rows, (3, 5), F64)(4)
        assert torch.equal(part, z[rows.start : rows.stop])
    others = [noise(5), noise(4, draw=1), leapstep.Noise(6, range(10), (3, 5), F64)(4)]
    assert all(not torch.isclose(other, z).any() for other in others)


def test_noise_is_standard_normal_and_independent():
    """Kolmogorov-Smirnov and correlations between rows, steps and seeds, at a level of 1e-4 each."""
    z = leapstep.Noise(0, range(1000), (97,), F64)(0)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
    for other in (z[1:], leapstep.Noise(0, range(1000), (97,), F64)(1), leapstep.Noise(1, range(1000), (97,), F64)(0)):
        assert stats.pearsonr(z[: len(other)].flatten(), other.flatten()).pvalue > 1e-4


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed="):
        leapstep.sample(MIXTURE.diffusion(leapstep.linear()), (1, 2), 2, seed=seed)


@pytest.mark.parametrize("given", [(-1, 0), (2**64, 0), (0, -1), (0, 2**64), (0.5, 0)])
def test_bad_steps_of_noise(given):
    with pytest.raises(ValueError, match=r"(step|draw)=.*: must be an integer from 0 to 2\^64 - 1"):
        leapstep.Noise(0, range(2), (3,))(*given)


@pytest.mark.parametrize("rows", [range(-1, 2), [3, -1]])
def test_bad_rows_of_noise(rows):
    with pytest.raises(ValueError, match=r"rows=.*integers from 0 on"):
        leapstep.Noise(0, rows, (3,))


def test_noise_of_rows_at_steps_and_of_seeds_of_their_own():
    """Any rows in any order, neighbours or not, each at its own step and of its own seed: as each alone."""
    seeds, rows, steps = [5, 5, 5, 2**64 - 1, 5, 5], [3, 4, 4, 0, 2**70, 9], [1, 1, 2, 2, 0, 2**40]
    alone = [leapstep.Noise(seeds[i], [rows[i]], (3, 5), F64)(steps[i], draw=1) for i in range(6)]
    assert torch.equal(leapstep.Noise(seeds, rows, (3, 5), F64)(torch.tensor(steps), draw=1), torch.cat(alone))
    noise = leapstep.Noise(7, range(0, 6, 2), (3,))
    assert torch.equal(noise(4), leapstep.Noise(7, range(6), (3,))(4)[::2])
    with pytest.raises(ValueError, match="step has 2 values for 3 samples"):
        noise([1, 2])
    with pytest.raises(ValueError, match="seed has 2 values for 3 samples"):
        leapstep.Noise([1, 2], range(3), (3,))


def test_the_noise_of_every_row_and_step_is_its_own():
    """Also where a row, a step or the numbers before a row need more than 63 or 64 bits."""
    big = [0, 1, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**64, 2**64 + 1, 2**70]
    rows = [leapstep.Noise(0, range(i, i + 1), (9,), F64)(0) for i in big]
    steps = [leapstep.Noise(0, range(1), (9,), F64)(step) for step in big[1:7]]
    draws = [leapstep.Noise(0, range(1), (9,), F64)(0, draw) for draw in big[1:7]]
    seeds = [leapstep.Noise(seed, range(1), (9,), F64)(0) for seed in big[1:7]]
    together = torch.cat(rows + steps + draws + seeds)
    assert len(together.flatten().unique()) == together.numel()
    across = leapstep.Noise(0, range(2**64 - 1, 2**64 + 1), (9,), F64)(0)
    assert torch.equal(across, torch.cat(rows[6:8]))


def test_noise_is_that_of_box_and_muller():
    """Of the words of Philox, whose counter is of the row, the draw and the step; finite for every word."""
    words = np.random.Philox(key=7, counter=5 * 3 + (2 << 128) + (4 << 192)).random_raw(12)
    words[:4] = 0, 2**64 - 1, 2**32 - 1, 2**31
    halves = [((int(word) >> 32), int(word) % 2**32) for word in words]
    pairs = [((-2 * math.log((u + 0.5) / 2**32)) ** 0.5, math.pi * (a - (a >> 31 << 32)) / 2**31) for u, a in halves]
    expected = torch.tensor([[r * math.cos(angle), r * math.sin(angle)] for r, angle in pairs], dtype=F64).flatten()
    for kind, margin in ((np.float64, 1e-14), (np.float32, 2e-6)):
        z = np.empty(24, kind)
        normal(words, z)
        torch.testing.assert_close(torch.from_numpy(z).double(), expected, rtol=0, atol=margin)
    drawn = leapstep.Noise(7, range(5, 6), (20,), F64)(4, draw=2)[0]
    torch.testing.assert_close(drawn[8:], expected[8:20], rtol=0, atol=1e-14)


def test_noise_of_a_sample_is_the_same_to_the_bit_wherever_it_stands():
    """Also in float32, whose cosines are of vectors; in batches of more than one part, and in threads of their own."""
    together = leapstep.Noise(1, range(900), (3, 33))(4)
    alone = [leapstep.Noise(1, range(i, i + 1), (3, 33))(4)[0] for i in (0, 17, 643, 899)]
    assert torch.equal(together[[0, 17, 643, 899]], torch.stack(alone))
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(lambda i: leapstep.Noise(1, range(i, i + 1), (3, 33))(4)[0], range(40)))
    assert torch.equal(together[:40], torch.stack(others))


def test_noise_is_the_same_as_ever():
    """So that old samples come again; the last digits are the machine's own."""
    expected = [
        [-0.14072333685416288, -1.4757466193726325, -0.6168078883285425],
        [-0.7855333707308613, 0.10970901818590134, -0.06860926921452182],
    ]
    found = leapstep.Noise(2**40 + 3, range(5, 7), (3,), F64)(2, draw=1)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-13)


# --- the loop ---


@pytest.mark.parametrize("transition", [leapstep.ddim(0.0), leapstep.ddim(0.7), leapstep.ddpm("beta")])
def test_batch_size_does_not_change_a_sample(transition):
    diffusion = MIXTURE.diffusion(leapstep.cosine())
    whole = leapstep.sample(diffusion, (11, 2), 9, transition, seed=3, dtype=F64)
    for batch_size in (1, 4, 11, 50):
        split = leapstep.sample(diffusion, (11, 2), 9, transition, seed=3, dtype=F64, batch_size=batch_size)
        torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)
    more = leapstep.sample(diffusion, (30, 2), 9, transition, seed=3, dtype=F64)
    torch.testing.assert_close(more[:11], whole, rtol=0, atol=1e-12)
    assert not torch.allclose(leapstep.sample(diffusion, (11, 2), 9, transition, seed=4, dtype=F64), whole)


def test_batches_come_one_by_one():
    diffusion = MIXTURE.diffusion(leapstep.cosine())
    whole = leapstep.sample(diffusion, (11, 2), 3, dtype=F64)
    batches = list(leapstep.sample_in_batches(diffusion, (11, 2), 3, batch_size=4, dtype=F64))
    assert [rows for rows, _ in batches] == [range(4), range(4, 8), range(8, 11)]
    torch.testing.assert_close(torch.cat([x for _, x in batches]), whole)


def test_same_start_noise_whatever_the_steps_and_the_method():
    """With the same seed few steps and many start alike, so deterministic samples agree ever closer."""
    diffusion = MIXTURE.diffusion(leapstep.linear())
    fine = leapstep.sample(diffusion, (64, 2), 1000, dtype=F64)
    error = [(leapstep.sample(diffusion, (64, 2), n, dtype=F64) - fine).abs().mean().item() for n in (5, 20, 100)]
    assert error[0] > 2 * error[1] > 4 * error[2]


def test_conditions_of_each_sample_follow_it_into_its_batch():
    labels = torch.arange(7.0)

    def model(rows):
        condition = {"label": labels[rows.start : rows.stop]}
        return leapstep.from_network(
            lambda x, k, label: label[:, None].expand_as(x), leapstep.linear(), "x0", condition=condition
        )

    for batch_size in (2, 3, 7):
        x = leapstep.sample(model, (7, 2), 3, batch_size=batch_size)
        torch.testing.assert_close(x, labels[:, None].expand(7, 2))


def test_states_tell_where_the_trajectory_stands():
    diffusion = MIXTURE.diffusion(leapstep.linear())
    path = leapstep.times(diffusion.process, 5)
    x = torch.randn(3, 2, dtype=F64)
    states = list(leapstep.trajectory(diffusion, x, path))
    assert [state.step for state in states] == [1, 2, 3, 4, 5]
    assert [state.calls for state in states] == [1, 2, 3, 4, 5]
    assert torch.equal(torch.stack([state.t for state in states]), path[:-1])
    assert torch.equal(torch.stack([state.s for state in states]), path[1:])
    torch.testing.assert_close(states[0].x0, diffusion.denoise(x, path[0]))
    torch.testing.assert_close(states[-1].x, states[-1].x0)


def test_samples_with_paths_of_their_own():
    """Sample 0 takes 6 steps, sample 1 takes 3 and waits at the data; each as if alone."""
    diffusion = MIXTURE.diffusion(leapstep.linear())
    long, short = leapstep.times(diffusion.process, 6), leapstep.times(diffusion.process, 3)
    x = torch.randn(2, 2, dtype=F64)
    paths = torch.stack([long, torch.cat([short, torch.zeros(3, dtype=F64)])], 1)
    *_, together = leapstep.trajectory(diffusion, x, paths)
    for i, path in enumerate((long, short)):
        *_, alone = leapstep.trajectory(diffusion, x[i : i + 1], path)
        torch.testing.assert_close(together.x[i : i + 1], alone.x)


def test_the_loop_holds_one_state():
    """However many steps a trajectory has taken, it holds no more than two tensors of the size of x."""
    import gc
    import weakref

    alive = []
    process = leapstep.flow()
    diffusion = leapstep.from_network(lambda x, t: torch.zeros_like(x), process, "flow", "fraction")
    for state in leapstep.trajectory(diffusion, torch.randn(2, 3), leapstep.times(process, 60)):
        alive.append(weakref.ref(state.x))
        if state.step in (20, 60):  # to collect garbage takes long where many modules are loaded
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 2
    assert state.step == 60


def test_bad_numbers_of_samples():
    diffusion = MIXTURE.diffusion(leapstep.linear())
    for arguments in ({"shape": (0, 2)}, {"shape": (1, 2), "batch_size": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            leapstep.sample(diffusion, steps=2, **arguments)


@pytest.mark.parametrize("shape", [16, (2.5, 2), None, ()])
def test_what_is_no_shape_is_told_in_one_line(shape):
    with pytest.raises(ValueError, match=r"^shape=.*: pass the number of samples and the shape of one, such as .*$"):
        leapstep.sample(MIXTURE.diffusion(leapstep.linear()), shape)


def test_samples_are_made_where_the_network_is():
    """A network on a device without data ("meta") is enough to see where."""
    seen = []

    class Denoiser:
        def __init__(self, **inner):
            self.__dict__ |= inner

        def __call__(self, x, t):
            seen.append(str(x.device))
            return torch.zeros_like(x, device="cpu")

    diffusion = MIXTURE.diffusion(leapstep.linear())
    there = diffusion._replace(denoise=Denoiser(denoise=Denoiser(net=torch.nn.Linear(2, 2, device="meta"))))
    leapstep.sample(there, (3, 2), 1)
    leapstep.sample(there, (3, 2), 1, device="cpu")
    leapstep.sample(diffusion._replace(denoise=Denoiser(net=torch.tanh)), (3, 2), 1)
    leapstep.sample(diffusion._replace(denoise=Denoiser()), (3, 2), 1)
    assert seen == ["meta", "cpu", "cpu", "cpu"]
    network = leapstep.from_network(torch.nn.Bilinear(2, 2, 2, device="meta"), diffusion.process, clip=(-1, 1))
    assert str(network_device(leapstep.guided(leapstep.scaled(network, 0.5, 2.0), 2.0))) == "meta"


@pytest.mark.parametrize(
    ("options", "shown", "total"),
    [
        ({}, None, 4 * 9),
        ({"batch_size": None}, None, 9),
        ({"steps": [1.0, 0.5]}, None, 4 * 2),
        ({"progress": False}, False, 4 * 9),
        ({"on_step": id}, False, 4 * 9),
        ({"on_step": id, "progress": True}, True, 4 * 9),
    ],
)
def test_progress_counts_the_steps_of_all_batches(monkeypatch, options, shown, total):
    bars = []

    def bar(total, what, unit, *, show):
        bars.append((show, total, tqdm(total=total, file=io.StringIO())))
        return bars[-1][-1]

    monkeypatch.setattr("leapstep.core.sampling.progress_bar", bar)
    diffusion = MIXTURE.diffusion(leapstep.linear())
    leapstep.sample(diffusion, (11, 2), **{"steps": 9, "batch_size": 3, **options})
    assert [(show, of, bar.n) for show, of, bar in bars] == [(shown, total, total)]
    for travel in (leapstep.encode, leapstep.decode):
        travel(diffusion, torch.zeros(2, 2), 5, progress=False)
    assert [(show, of) for show, of, _ in bars[1:]] == [(False, 5)] * 2


# --- the law of the samples ---


def rejections(x, y, level):
    """Two-sample Kolmogorov-Smirnov tests on 8 projections; the family errs with probability at most `level`."""
    angles = torch.arange(8, dtype=F64) * math.pi / 8
    directions = torch.stack([angles.cos(), angles.sin()])
    pairs = zip((x @ directions).T.numpy(), (y @ directions).T.numpy(), strict=True)
    return sum(stats.ks_2samp(a, b).pvalue < level / 8 for a, b in pairs)


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_follow_the_data(name, eta):
    """2000 samples in 200 steps against 20,000 exact draws. A right sampler fails with probability 1e-3 or less."""
    diffusion = MIXTURE.diffusion(leapstep.SCHEDULES[name](1000))
    x = leapstep.sample(diffusion, (2000, 2), 200, leapstep.ddim(eta), dtype=F64, seed=1)
    assert rejections(x, MIXTURE.sample(20_000, seed=2), 1e-3) == 0


def test_the_two_sample_test_sees_mistakes():
    """The same test rejects the three classic mistakes: wrong prediction kind, timesteps off, too few steps of DDPM."""
    process, truth = leapstep.linear(), MIXTURE.sample(20_000, seed=2)
    exact = MIXTURE.diffusion(process)

    def net(x, k):
        return process.convert(exact.denoise(x, (k + 1) / 1000), x, (k + 1) / 1000, "x0", "eps")

    wrong = {
        "eps taken for v": (leapstep.from_network(net, process, "v"), leapstep.ddim()),
        "clock off by 30": (
            leapstep.from_network(net, process, time=lambda t: (t * 1000 - 31).clamp(min=0)),
            leapstep.ddim(),
        ),
        "the other schedule": (leapstep.from_network(net, leapstep.cosine()), leapstep.ddim()),
    }
    for name, (diffusion, transition) in wrong.items():
        x = leapstep.sample(diffusion, (2000, 2), 200, transition, dtype=F64, seed=1)
        assert rejections(x, truth, 1e-3) > 0, name
    x = leapstep.sample(exact, (2000, 2), 5, leapstep.ddpm("beta"), dtype=F64, seed=1)
    assert rejections(x, truth, 1e-3) > 0


# --- there and back ---


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_decode_inverts_encode_at_first_order(name):
    """The round trip's error halves when the steps double (slope 1 within 0.15), on a continuous clock."""
    process = leapstep.SCHEDULES[name]()._replace(timesteps=None)
    diffusion, x0 = MIXTURE.diffusion(process), MIXTURE.sample(256, seed=5)
    error = []
    for steps in (200, 400, 800):
        latent = leapstep.encode(diffusion, x0, steps)
        error.append((leapstep.decode(diffusion, latent, steps) - x0).square().mean().sqrt().item())
    slopes = [math.log2(a / b) for a, b in pairwise(error)]
    assert slopes == pytest.approx([1, 1], abs=0.15)
    assert error[-1] < 0.02


def test_encoded_data_is_noise():
    """The latent of data is standard normal (the same two-sample test against fresh normals)."""
    diffusion = MIXTURE.diffusion(leapstep.linear())
    latent = leapstep.encode(diffusion, MIXTURE.sample(2000, seed=3), 500)
    normal = torch.randn(20_000, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert rejections(latent, normal, 1e-3) == 0


def test_encoding_with_noise_is_refused():
    with pytest.raises(ValueError, match="must be deterministic"):
        leapstep.encode(MIXTURE.diffusion(leapstep.linear()), MIXTURE.sample(3), 10, leapstep.ddim(0.5))


@pytest.mark.parametrize("start", ["marginal", "unit"])
def test_where_samples_start(start):
    """sigma z about alpha origin, or z itself; seen by a network that returns x, in one step to where it started."""
    process, seen = leapstep.cosine(), []
    diffusion = leapstep.Diffusion(process, lambda x, t: seen.append(x) or x, origin=3.0)
    leapstep.sample(diffusion, (4, 2), [0.3], start=start, dtype=F64, seed=5)
    z, t = leapstep.Noise(5, range(4), (2,), F64)(0), torch.tensor(0.3, dtype=F64)
    expected = z if start == "unit" else process.sigma(t) * z + process.alpha(t) * 3
    torch.testing.assert_close(seen[0], expected)
    with pytest.raises(ValueError, match="unknown start='z': "):
        leapstep.sample(diffusion, (4, 2), 2, start="z")
