"""Edits, inpainting and blends, against laws that are known in closed form."""

import re

import pytest
import torch

import leapstep
from cases import F64, MIXTURE
from leapstep.core.spacing import SPACINGS, times_below

MEAN, VARIANCE = 0.4, 0.3
FLOW = leapstep.flow(1000)
DATA = torch.tensor([[-1.0, 0.2, 0.9]], dtype=F64)


def gaussian(process, size=3):
    """The exact denoiser of N(MEAN, VARIANCE I)."""
    return leapstep.GaussianMixture(
        torch.full((1, size), MEAN, dtype=F64), torch.tensor([VARIANCE], dtype=F64)
    ).diffusion(process)


def edited_law(process, strength, x0, stochastic):
    """Mean and variance of an edit of x0: the flow, or the posterior, of x_t ~ N(alpha x0, sigma^2)."""
    t = torch.as_tensor(strength, dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    total = alpha**2 * VARIANCE + sigma**2
    slope = alpha * VARIANCE / total if stochastic else (VARIANCE / total).sqrt()
    left = VARIANCE * sigma**2 / total if stochastic else 0.0
    return MEAN + slope * alpha * (x0 - MEAN), slope**2 * sigma**2 + left


# --- the times below a strength ---


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("process", [leapstep.cosine(40), leapstep.flow()], ids=str)
def test_so_many_steps_lie_below_a_strength(process, spacing):
    for strength in (0.07, 0.3, 0.61, 0.93):
        for steps in (1, 2, 7):
            if process.timesteps is not None and steps > round(strength * process.timesteps):
                continue
            path = times_below(process, strength, steps, spacing)
            assert len(path) == steps + 1
            assert path[0] == pytest.approx(strength, abs=0.5 / (process.timesteps or 1e9))
            assert (path.diff() < 0).all()
            assert path[-1] == 0
    assert torch.equal(times_below(process, 1, 7, spacing), leapstep.times(process, 7, spacing))
    assert times_below(process, 0, 7, spacing).tolist() == [0]


def test_times_below_a_strength_are_a_part_of_longer_lists():
    assert times_below(FLOW, 0.6, 6).tolist() == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0])
    assert times_below(FLOW, 0.5, [0.9, 0.5, 0.3, 0.1]).tolist() == [0.5, 0.3, 0.1, 0]
    assert len(times_below(FLOW, 0.6)) == 21
    assert len(times_below(leapstep.cosine(40), 0.3)) == 13


# --- edit ---


@pytest.mark.parametrize("strength", [0.3, 0.9])
def test_an_edit_of_gaussian_data_is_the_flow_of_its_draw(strength):
    """Linear in its noise, so every value is known; rk4 follows the flow to its order."""
    x0 = DATA.expand(5, 3)
    x = leapstep.edit(gaussian(FLOW), x0, strength, 40, "rk4", spacing="log_snr", seed=4)
    mean, variance = edited_law(FLOW, strength, x0, stochastic=False)
    expected = mean + variance.sqrt() * leapstep.Noise(4, range(5), (3,), F64)(0)
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("method", "stochastic"), [("ddim", False), ("ddpm", True)])
def test_the_law_of_an_edit(method, stochastic):
    n = 5000
    x = leapstep.edit(gaussian(FLOW), DATA.expand(n, 3), 0.6, 60, method)
    mean, variance = edited_law(FLOW, 0.6, DATA[0], stochastic)
    assert ((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt() + 0.005).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * (2 / n) ** 0.5 + 0.01).all()


def test_the_ends_of_strength():
    calls = []
    diffusion, x0 = MIXTURE.diffusion(FLOW), MIXTURE.sample(4)
    assert torch.equal(leapstep.edit(diffusion, x0, 0, on_step=calls.append), x0)
    assert calls == []
    whole = leapstep.edit(diffusion, x0, 1, 9, "dpmpp_2m", seed=3, on_step=calls.append)
    assert torch.equal(whole, leapstep.sample(diffusion, (4, 2), 9, "dpmpp_2m", seed=3, dtype=F64))
    assert calls[-1].calls == 9
    leapstep.edit(diffusion, x0, 0.4, 6, "dpmpp_2m", on_step=calls.append)
    assert calls[-1].calls == 6
    assert calls[-6].t == 0.4


def test_a_row_of_an_edit_depends_on_its_own_seed_and_index():
    diffusion, x0 = gaussian(FLOW), MIXTURE.sample(6)[:, :1].expand(6, 3)
    whole = leapstep.edit(diffusion, x0, 0.5, 4, "ddpm", seed=2)
    assert torch.equal(whole[4:], leapstep.edit(diffusion, x0[4:], 0.5, 4, "ddpm", seed=2, first=4))
    assert not torch.equal(whole[4:], leapstep.edit(diffusion, x0[4:], 0.5, 4, "ddpm", seed=2))
    assert not torch.equal(whole, leapstep.edit(diffusion, x0, 0.5, 4, "ddpm", seed=3))


FITTED = leapstep.fitted([1.0, 0.5, 0.0], [[0.5, 0.5], [0.2, 0.3, 0.5]])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"strength": 1.2}, "strength=1.2: a time from 0"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"strength": 0.01, "steps": 11}, "below time 0.01 there are 10 of 1000 trained levels"),
        ({"steps": 0}, "at least 1 step"),
        ({"spacing": "even"}, "unknown spacing 'even'"),
        ({"transition": FITTED}, "an edit takes any other method"),
    ],
)
def test_edits_that_cannot_be_made(given, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        leapstep.edit(gaussian(FLOW), DATA, **given)


def test_words_from_elsewhere_are_told():
    with pytest.raises(TypeError, match=r"no argument 'eta': did you mean transition=leapstep.ddim\(eta=...\)"):
        leapstep.edit(gaussian(FLOW), DATA, eta=0.5)
    with pytest.raises(TypeError, match="no argument 'strenght': did you mean strength"):
        leapstep.edit(gaussian(FLOW), DATA, strenght=0.5)


# --- inpainting ---

SIZE = 8
CORRELATED = torch.exp(-(torch.arange(SIZE)[:, None] - torch.arange(SIZE)).abs() / 3).to(F64)
LAW = leapstep.GaussianMixture(torch.linspace(-0.5, 0.5, SIZE, dtype=F64)[None], CORRELATED[None])
HALF = torch.tensor([0.0, 1.0], dtype=F64).repeat_interleave(SIZE // 2)
KNOWN = LAW.sample(1, seed=3)[0].where(HALF == 0, torch.nan)


def distance(x):
    """The squared Wasserstein distance of the free half of samples, as a Gaussian, from the exact posterior."""
    free, given = HALF == 1, HALF == 0
    gain = CORRELATED[free][:, given] @ torch.linalg.inv(CORRELATED[given][:, given])
    mean = LAW.means[0][free] + gain @ (KNOWN - LAW.means[0])[given]
    covariance = CORRELATED[free][:, free] - gain @ CORRELATED[given][:, free]
    values, vectors = torch.linalg.eigh(covariance)
    root, found = vectors * values.sqrt() @ vectors.T, torch.cov(x[:, free].T)
    common = torch.linalg.eigvalsh(root @ found @ root).clamp(min=0).sqrt().sum()
    return ((x[:, free].mean(0) - mean).square().sum() + found.trace() + covariance.trace() - 2 * common).item()


@pytest.mark.parametrize("method", ["ddim", "dpmpp_2m"])
def test_resampling_comes_nearer_to_the_posterior(method):
    """0.36 is the prior's distance; the finite number of samples alone makes about 0.004."""
    diffusion = LAW.diffusion("cosine")
    found = []
    for resample in (1, 5):
        transition = leapstep.inpainted(method, KNOWN, HALF, resample)
        x = leapstep.sample(diffusion, (1500, SIZE), 40, transition, dtype=F64)
        assert torch.equal(x[:, : SIZE // 2], KNOWN[: SIZE // 2].expand(1500, -1))
        found.append(distance(x))
    free = distance(leapstep.sample(diffusion, (1500, SIZE), 40, dtype=F64))
    assert found[0] < free / 3
    assert found[1] < found[0] / 3


def test_each_step_is_taken_so_many_times():
    states = []
    transition = leapstep.inpainted("ddim", DATA[0], torch.tensor([0.0, 1.0, 1.0]), 4)
    leapstep.sample(gaussian(FLOW), (2, 3), 5, transition, on_step=states.append)
    assert states[-1].calls == 20


def test_a_mask_between_0_and_1_is_a_strength():
    """Values that know nothing of each other are edited each by its own strength, to the law of an edit."""
    n, mask = 5000, torch.tensor([0.2, 0.6, 0.9], dtype=F64)
    transition = leapstep.inpainted("ddim", DATA[0], mask)
    x = leapstep.sample(gaussian(FLOW), (n, 3), 60, transition, dtype=F64)
    mean, variance = edited_law(FLOW, mask, DATA[0], stochastic=False)
    assert ((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt() + 0.005).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * (2 / n) ** 0.5 + 0.02).all()


def test_masks_and_data_of_each_sample():
    diffusion, known = gaussian(FLOW), MIXTURE.sample(2)[:, :1].expand(2, 3)
    masks = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=F64)
    both = leapstep.sample(diffusion, (2, 3), 6, leapstep.inpainted("dpmpp_2m", known, masks, 2), dtype=F64)
    for i in range(2):
        alone = leapstep.inpainted("dpmpp_2m", known[i], masks[i], 2)
        (_, x), *_ = leapstep.sample_in_batches(diffusion, (1, 3), 6, alone, first=i, dtype=F64)
        assert torch.equal(both[i], x[0])
    assert torch.equal(both[0, 0], known[0, 0])
    assert torch.equal(both[1, 2], known[1, 2])


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: leapstep.inpainted("ddim", DATA[0], 1.5), "mask=1.5: its values lie between 0"),
        (lambda: leapstep.inpainted("ddim", DATA[0], torch.nan), "mask=nan"),
        (lambda: leapstep.inpainted("ddim", DATA[0], HALF, 0), "resample=0"),
        (lambda: leapstep.inpainted("unipc", DATA[0], HALF), "inpainted(unipc): its steps start from x of an earlier"),
        (lambda: leapstep.inpainted(leapstep.churned(FITTED), DATA[0], HALF), "inpainted(fitted)"),
        (lambda: leapstep.corrected("unipc"), "corrected(unipc): its steps start from x of an earlier"),
    ],
)
def test_wrappers_that_cannot_be(make, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        make()


def test_inpainting_that_does_not_fit():
    with pytest.raises(ValueError, match=re.escape("known has shape [8], the samples have [2, 3]")):
        leapstep.sample(gaussian(FLOW), (2, 3), 4, leapstep.inpainted("ddim", KNOWN, 1.0))
    with pytest.raises(ValueError, match="must be deterministic"):
        leapstep.encode(gaussian(FLOW), DATA, 4, leapstep.inpainted("ddim", DATA[0], 1.0))


# --- blends ---


def test_a_blend_of_gaussians_of_one_covariance_is_the_gaussian_between():
    one, other, between = (
        leapstep.GaussianMixture(torch.full((1, 3), mean, dtype=F64), torch.tensor([VARIANCE], dtype=F64)).diffusion(
            FLOW
        )
        for mean in (-1.0, 2.0, -0.25)
    )
    x = leapstep.sample(leapstep.blended(one, other, 0.25), (4, 3), 5, dtype=F64)
    torch.testing.assert_close(x, leapstep.sample(between, (4, 3), 5, dtype=F64))
    ends = leapstep.blended(one, other, torch.tensor([0.0, 1.0, 0.25]))
    x = leapstep.sample(ends, (3, 3), 5, dtype=F64)
    for i, diffusion in enumerate((one, other, between)):
        torch.testing.assert_close(x[i], leapstep.sample(diffusion, (3, 3), 5, dtype=F64)[i])
    with pytest.raises(ValueError, match="of different processes"):
        leapstep.blended(one, gaussian(leapstep.linear()), 0.5)
    with pytest.raises(ValueError, match=r"fraction=1\.5"):
        leapstep.blended(one, other, 1.5)
