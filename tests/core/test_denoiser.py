"""Every convention of a network gives the same denoiser, and the exact ones are posterior means."""

import math
from types import SimpleNamespace

import pytest
import torch

import leapstep
from leapstep.core.convention import DynamicThreshold
from leapstep.core.process import PREDICTIONS

F64 = torch.float64
MIXTURE = leapstep.GaussianMixture(
    torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=F64),
    torch.tensor([0.05, 0.2, 0.01], dtype=F64),
    torch.tensor([0.5, 0.2, 0.3], dtype=F64),
)
PROCESSES = {"linear": leapstep.linear(), "cosine": leapstep.cosine(), "ve": leapstep.ve(), "flow": leapstep.flow(1000)}
TO_TIME = {  # the inverse of each clock, as the network's author would have it
    "index": lambda process, k: (k + 1) / 1000,
    "index_from_1": lambda process, k: k / 1000,
    "fraction": lambda process, u: u,
    "fraction_from_0": lambda process, u: u + 1 / 1000,
    "1000t": lambda process, k: k / 1000,
    "999t": lambda process, k: k / 999,
    "log_sigma/4": lambda process, c: process.time(-8 * c),
    "log_snr": lambda process, value: process.time(value),
    "-log_snr": lambda process, value: process.time(-value),
}
REVERSED = {
    "index": lambda process, k: 1 - k / 1000,
    "index_from_1": lambda process, k: 1 - (k - 1) / 1000,
    "fraction": lambda process, u: 1 - u,
    "fraction_from_0": lambda process, u: 1 - u,
    "1000t": lambda process, k: 1 - k / 1000,
    "999t": lambda process, k: 1 - k / 999,
}


def network(process, predicts, clock, sigma_data=None, to_time=TO_TIME):
    """A perfect network that somebody else trained, in their convention."""
    exact = MIXTURE.diffusion(process)

    def net(x, timestep):
        t = to_time[clock](process, timestep.double()).clamp(0, 1)
        x = x if sigma_data is None else x * process.size(t, sigma_data)[:, None]
        x0 = exact.denoise(x, t)
        eps = process.convert(x0, x, t, "x0", "eps")
        a, b = process.mixture(predicts, t, sigma_data or 1.0)
        return a[:, None] * x0 + b[:, None] * eps

    return net


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("predicts", [*PREDICTIONS, "-flow"])
@pytest.mark.parametrize("clock", TO_TIME)
@pytest.mark.parametrize("per_sample", [False, True])
def test_every_convention_gives_the_same_denoiser(name, predicts, clock, per_sample):
    process, sigma_data = PROCESSES[name], 0.7 if predicts == "F" else None
    net = network(process, predicts, clock, sigma_data)
    diffusion = leapstep.from_network(net, process, predicts, clock, sigma_data=sigma_data)
    x = torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.02, 0.3, 0.7, 0.98], dtype=F64) if per_sample else torch.tensor(0.42, dtype=F64)
    torch.testing.assert_close(diffusion.denoise(x, t), MIXTURE.diffusion(process).denoise(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("clock", REVERSED)
def test_clocks_that_run_towards_data(clock):
    process = leapstep.linear()
    net = network(process, "v", clock, to_time=REVERSED)
    diffusion = leapstep.from_network(net, process, "v", clock, reverse=True)
    x, t = torch.randn(4, 2, dtype=F64), torch.tensor([0.02, 0.3, 0.7, 0.98], dtype=F64)
    torch.testing.assert_close(diffusion.denoise(x, t), MIXTURE.diffusion(process).denoise(x, t), rtol=1e-6, atol=1e-6)


def test_reverse_needs_a_clock_that_counts_time():
    with pytest.raises(ValueError, match="measures noise"):
        leapstep.from_network(lambda x, k: x, leapstep.linear(), time="log_snr", reverse=True)


def test_input_of_variance_one_with_any_prediction():
    """x / sqrt(alpha^2 d^2 + sigma^2) goes in, as networks on exploding noise want it; eps comes out."""
    process, t = leapstep.ve(), torch.tensor([0.1, 0.6, 1.0], dtype=F64)
    net = network(process, "eps", "index", sigma_data=1.3)
    x = process.add_noise(MIXTURE.sample(3), t, torch.randn(3, 2, dtype=F64))
    diffusion = leapstep.from_network(net, process, "eps", sigma_data=1.3)
    torch.testing.assert_close(diffusion.denoise(x, t), MIXTURE.diffusion(process).denoise(x, t), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="predicts='F' needs sigma_data"):
        leapstep.from_network(net, process, "F")


@pytest.mark.parametrize("scale", [2.0, -2.0])
def test_samples_in_the_users_range_are_the_networks_scaled(scale):
    """Sampling in one range or the other is the same, step by step, also with injected noise (up to its sign)."""
    process, shift = leapstep.linear(), torch.tensor([3.0, -1.0], dtype=F64)
    net = network(process, "eps", "index")
    plain = leapstep.from_network(net, process)
    theirs = leapstep.from_network(net, process, scaling=(shift, scale))
    noise = leapstep.Noise(0, range(5), (2,), F64)
    signed = lambda step, draw=0: math.copysign(1, scale) * noise(step, draw)  # noqa: E731
    times = leapstep.times(process, 7)
    x = process.sigma(times[0]) * noise(0)
    wide = scale * x + process.alpha(times[0]) * shift
    ours = leapstep.trajectory(plain, x, times, leapstep.ddim(0.5), noise)
    for state, other in zip(ours, leapstep.trajectory(theirs, wide, times, leapstep.ddim(0.5), signed), strict=True):
        torch.testing.assert_close(other.x, scale * state.x + process.alpha(state.s) * shift)
    assert theirs.process.sigma(times[0]) == abs(scale) * process.sigma(times[0])
    samples = leapstep.sample(theirs, (2000, 2), 50, dtype=F64)
    torch.testing.assert_close(samples.mean(0), scale * MIXTURE.sample(9999).mean(0) + shift, rtol=0, atol=0.1)


def test_a_scale_for_each_feature_is_refused():
    with pytest.raises(ValueError, match="one number that is not 0"):
        leapstep.from_network(lambda x, k: x, leapstep.linear(), scaling=(0.0, torch.ones(2)))
    for scale in (torch.tensor(2.0), MIXTURE.means.std().numpy()):  # what x.std() returns
        assert leapstep.from_network(lambda x, k: x, leapstep.linear(), scaling=(0.0, scale)).process.sigma(
            torch.tensor(1.0, dtype=F64)
        ) == pytest.approx(float(scale), rel=1e-3)


def test_samples_start_where_the_signal_that_is_left_puts_the_data():
    """With signal at t = 1, sampling in the user's range starts around alpha(1) shift: samples are the scaled ones."""
    process = leapstep.ve(1000, 0.01, 2.0)
    exact = MIXTURE.diffusion(process)
    wide = leapstep.scaled(exact, 127.5, 127.5)
    assert wide.origin == 127.5
    plain = leapstep.sample(exact, (50, 2), 20, dtype=F64)
    torch.testing.assert_close(leapstep.sample(wide, (50, 2), 20, dtype=F64), 127.5 * plain + 127.5)
    centered = exact._replace(origin=MIXTURE.means.mean(0))
    moved = leapstep.sample(centered, (5000, 2), 20, dtype=F64).mean(0) - MIXTURE.sample(5000).mean(0)
    still = leapstep.sample(exact, (5000, 2), 20, dtype=F64).mean(0) - MIXTURE.sample(5000).mean(0)
    assert moved.norm() < still.norm() + 0.05


def test_sigma_clock():
    seen = []
    net = lambda x, timestep: seen.append(timestep) or torch.zeros_like(x)  # noqa: E731
    process = leapstep.ve(sigma_min=0.1, sigma_max=10)
    leapstep.from_network(net, process, "score", "sigma").denoise(torch.zeros(2, 3), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(seen[0], torch.tensor([0.1, 10.0]))


@pytest.mark.parametrize(
    ("time", "fractional", "t", "expected"),
    [
        ("index", False, [1.0, 0.001, 0.0, 0.4996], torch.tensor([999, 0, 0, 499])),
        ("index_from_1", False, [1.0, 0.001, 0.0, 0.4996], torch.tensor([1000, 1, 1, 500])),
        ("index", True, [1.0, 0.001, 0.0, 0.4996], torch.tensor([999.0, 0.0, 0.0, 498.6])),
        ("fraction", False, [1.0, 0.0], torch.tensor([1.0, 0.001])),
        (lambda t: 2 * t, False, [1.0, 0.25], torch.tensor([2.0, 0.5])),
    ],
)
def test_timesteps_that_reach_the_network(time, fractional, t, expected):
    """Off-by-one, rounding and types: integers where an embedding table needs them, float32 elsewhere."""
    seen = []
    net = lambda x, timestep: seen.append(timestep) or torch.zeros_like(x)  # noqa: E731
    diffusion = leapstep.from_network(net, leapstep.linear(), "v", time, fractional=fractional)
    diffusion.denoise(torch.zeros(len(t), 3), torch.tensor(t))
    torch.testing.assert_close(seen[0], expected)


def test_one_time_for_all_reaches_the_network_as_a_batch():
    seen = []
    net = lambda x, timestep: seen.append(timestep) or torch.zeros_like(x)  # noqa: E731
    leapstep.from_network(net, leapstep.linear(), "v", reshape=lambda k: k[:, None]).denoise(
        torch.zeros(5, 3), torch.tensor(0.5)
    )
    assert seen[0].shape == (5, 1)
    assert (seen[0] == 499).all()


def test_a_scalar_timestep_is_asked_one_time_after_the_other():
    seen = []

    def net(x, timestep, shift):
        assert timestep.ndim == 0
        seen.append((len(x), int(timestep)))
        return SimpleNamespace(sample=torch.cat([x * timestep + shift, x], 1))

    shift = torch.tensor([[1.0], [2.0], [3.0]])
    diffusion = leapstep.from_network(
        net, leapstep.linear(), "x0", "index_from_1", reshape="scalar", condition={"shift": shift}
    )
    x0 = diffusion.denoise(torch.ones(3, 1), torch.tensor([0.5, 0.1, 0.5]))
    assert x0.tolist() == [[501.0], [102.0], [503.0]]
    assert seen == [(1, 100), (2, 500)]
    diffusion.denoise(torch.ones(3, 1), torch.tensor(0.2))
    assert seen[2:] == [(3, 200)]
    with pytest.raises(ValueError, match=r"unknown reshape='\[b, 2\]': did you mean \[b, 1\]\? use one of"):
        leapstep.from_network(net, leapstep.linear(), reshape="[b, 2]")


def test_continuous_process_needs_a_number_of_levels_for_an_index():
    with pytest.raises(ValueError, match="pass timesteps=, or time='fraction'"):
        leapstep.from_network(lambda x, k: x, leapstep.flow(), "flow", "index")
    with pytest.raises(ValueError, match="has 1000 trained levels: leave it out"):
        leapstep.from_network(lambda x, k: x, leapstep.linear(), timesteps=100)
    seen = []
    net = lambda x, timestep: seen.append(timestep) or torch.zeros_like(x)  # noqa: E731
    leapstep.from_network(net, leapstep.flow(), "flow", "index_from_1", timesteps=500).denoise(
        torch.zeros(1, 2), torch.tensor(0.5)
    )
    assert seen[0].tolist() == [250]


def test_outputs_as_objects_and_with_learned_variance():
    x, t = torch.randn(2, 3, 4, 4), torch.tensor(0.5)
    plain = leapstep.from_network(lambda x, k: 0.3 * x, leapstep.linear()).denoise(x, t)
    wrapped = leapstep.from_network(lambda x, k: SimpleNamespace(sample=0.3 * x), leapstep.linear()).denoise(x, t)
    learned = leapstep.from_network(lambda x, k: torch.cat([0.3 * x, 7 + x], 1), leapstep.linear()).denoise(x, t)
    torch.testing.assert_close(wrapped, plain)
    torch.testing.assert_close(learned, plain)


def test_condition_reaches_the_network_and_dtype_is_only_the_networks():
    def net(x, timestep, action, scale):
        assert x.dtype == torch.bfloat16
        assert timestep.dtype == torch.int64
        return (x * scale + action).to(torch.bfloat16)

    diffusion = leapstep.from_network(
        net, leapstep.linear(), "x0", condition={"action": torch.ones(2, 3), "scale": 0.0}, dtype=torch.bfloat16
    )
    x0 = diffusion.denoise(torch.randn(2, 3, dtype=F64), torch.tensor(0.5))
    assert x0.dtype == F64
    assert (x0 == 1).all()


@pytest.mark.parametrize("shape", [(2,), (3, 16), (2, 4, 5), (1, 3, 4, 5)])
def test_any_shape_inside_inference_mode(shape):
    with torch.inference_mode():
        diffusion = leapstep.from_network(lambda x, k: torch.zeros_like(x), leapstep.linear(), "flow")
        x = torch.randn(3, *shape)
        assert leapstep.sample(diffusion, (3, *shape), 3).shape == x.shape
        assert diffusion.denoise(x, torch.tensor([0.2, 0.5, 1.0])).shape == x.shape


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (lambda x, k: x[:, :1], {}, r"returned shape \(2, 1, 4\) for x of shape \(2, 3, 4\)"),
        (lambda x, k: None, {}, "returned NoneType"),
        (lambda x, k: x, {"predicts": "noise"}, "unknown predicts='noise': use one of eps, x0, v, score, flow, F"),
        (lambda x, k: x, {"time": "steps"}, "unknown time='steps': use one of index"),
        (lambda x, k: x, {"clip": (1, -1)}, "low end"),
        (lambda x, k, y: x, {"guidance": 2.0, "condition": {"y": 1}}, "pass both"),
        (lambda x, k, y: x, {"null": {"z": 1}, "condition": {"y": 1}}, "null names z, which condition does not"),
        (lambda x, k, y: x, {"guidance": 2.0, "condition": {"y": 1}, "null": {"y": 0}, "rescale": 2.0}, "rescale=2.0"),
        (
            lambda x, k, y: x,
            {"guidance": 2.0, "condition": {"y": 1}, "null": {"y": None}},
            "null y is None for 2 samples",
        ),
        (
            lambda x, k, y: x,
            {"guidance": 2.0, "condition": {"y": torch.zeros(5)}, "null": {"y": 0}},
            r"y is of shape \(5,\) for 2 samples: give a number",
        ),
    ],
)
def test_mistakes_get_one_line(net, arguments, message):
    with pytest.raises(ValueError, match=message):
        leapstep.from_network(net, leapstep.linear(), **arguments).denoise(torch.zeros(2, 3, 4), torch.tensor(0.5))


@pytest.mark.parametrize("predicts", ["eps", "score"])
def test_noise_prediction_without_signal_is_refused(predicts):
    process = leapstep.rescale_zero_terminal_snr(leapstep.linear())
    diffusion = leapstep.from_network(lambda x, k: x, process, predicts)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        diffusion.denoise(torch.zeros(2, 3), torch.tensor(1.0))


def test_clipping_bounds_x0_and_eps_follows():
    """A clipped estimate changes eps: x = alpha x0 + sigma eps holds with the bounded x0."""
    from leapstep.core.transitions import estimate

    process, t = leapstep.linear(), torch.tensor(0.4, dtype=F64)
    x = 3 * torch.randn(8, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    free = leapstep.from_network(lambda x, k: 0.1 * x, process)
    bounded = leapstep.from_network(lambda x, k: 0.1 * x, process, clip=(-1, 1))
    x0, eps = estimate(bounded, x, t)
    torch.testing.assert_close(x0, free.denoise(x, t).clamp(-1, 1))
    torch.testing.assert_close(process.alpha(t) * x0 + process.sigma(t) * eps, x)
    assert not torch.allclose(eps, 0.1 * x)


def test_the_estimate_before_the_bound_is_of_the_same_call():
    """Through bounds and ranges; where nothing bounds, and with guidance, it is the estimate itself."""
    process, calls = leapstep.linear(), []
    net = lambda x, k: calls.append(k) or torch.tanh(x)  # noqa: E731
    x, t = torch.randn(6, 3, dtype=F64), torch.tensor(0.7, dtype=F64)
    free = leapstep.from_network(net, process)
    bounded = leapstep.clipped(leapstep.clipped(free, (-1, 1)), (-0.5, 0.5))
    calls.clear()
    x0, before, learned = bounded.estimate(x, t)
    assert learned is None
    assert len(calls) == 1
    torch.testing.assert_close(x0, free.denoise(x, t).clamp(-0.5, 0.5))
    torch.testing.assert_close(before, free.denoise(x, t))
    shift, scale = torch.tensor([1.0, 2.0, 3.0], dtype=F64), -4.0
    wide, plain = leapstep.scaled(bounded, shift, scale), leapstep.scaled(free, shift, scale)
    torch.testing.assert_close(wide.estimate(x, t)[:2], (wide.denoise(x, t), plain.denoise(x, t)))
    mixed = leapstep.guided(bounded, 2.0).estimate(x, t)
    assert mixed.unbounded is mixed.x0


def test_dynamic_threshold_is_imagens():
    x0 = torch.linspace(-4, 4, 1001)[None].repeat(2, 1)
    x0[1] /= 8
    out = leapstep.dynamic_threshold(0.9)(x0)
    s = x0[0].abs().quantile(0.9)
    torch.testing.assert_close(out[0], x0[0].clamp(-s, s) / s)
    torch.testing.assert_close(out[1], x0[1])  # already inside [-1, 1]: untouched
    torch.testing.assert_close(leapstep.dynamic_threshold(0.9, limit=2.0)(x0)[0], 2 * out[0])
    torch.testing.assert_close(DynamicThreshold(0.9, most=2.0)(x0)[0], x0[0].clamp(-2, 2) / 2)
    with pytest.raises(ValueError, match="quantile"):
        leapstep.dynamic_threshold(1.5)
    with pytest.raises(ValueError, match="most not below it"):
        DynamicThreshold(0.9, limit=2.0, most=1.0)


def test_guidance_from_two_conditions_is_one_call():
    """Either formula: free + s (conditional - free), or (1 + w) conditional - w free with s = 1 + w."""
    calls = []

    def net(x, timestep, label, mask, strength):
        calls.append((label.tolist(), tuple(mask.shape), strength))
        return x * mask * strength + label[:, None]

    process, x, t = leapstep.linear(), torch.randn(3, 4), torch.tensor(0.5)
    mask = (torch.rand(3, 4) > 0.5).float()
    label, shared = torch.tensor([1.0, 2.0, 5.0]), {"mask": mask, "strength": 0.3}
    both = leapstep.from_network(
        net, process, condition={"label": label, **shared}, null={"label": 0.0}, guidance=3.0
    ).denoise(x, t)
    assert calls == [([1.0, 2.0, 5.0, 0.0, 0.0, 0.0], (6, 4), 0.3)]
    conditional, free = (
        leapstep.from_network(net, process, condition={"label": given, **shared}).denoise(x, t)
        for given in (label, torch.zeros(3))
    )
    w = 2.0
    torch.testing.assert_close(both, (1 + w) * conditional - w * free, rtol=1e-4, atol=1e-5)
    arrays = {"label": label.numpy(), **shared, "strength": [[0.3], [0.3], [0.3]]}  # doubled as tensors are
    again = leapstep.from_network(net, process, condition=arrays, null={"label": 0.0}, guidance=3.0)
    calls.clear()
    torch.testing.assert_close(again.denoise(x, t), both)
    assert tuple(calls[0][2].shape) == (6, 1)
    one = leapstep.from_network(net, process, condition={"label": 2.0, **shared}, null={"label": 0.0}, guidance=3.0)
    torch.testing.assert_close(one.denoise(x, t)[1], both[1])


def test_rescaled_guidance_has_the_contrast_of_the_conditional_estimate():
    process, x, t = leapstep.linear(), torch.randn(3, 400), torch.tensor(0.5)
    net = lambda x, k, y: torch.tanh(x) * y[:, None]  # noqa: E731
    options = {"condition": {"y": torch.tensor([0.2, 0.3, 0.4])}, "null": {"y": 0.0}, "guidance": 4.0}
    conditional = leapstep.from_network(net, process, condition=options["condition"]).denoise(x, t)
    plain, half, whole = (
        leapstep.from_network(net, process, **options, rescale=share).denoise(x, t) for share in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(whole.std(1), conditional.std(1))
    torch.testing.assert_close(half, (plain + whole) / 2)
    assert (plain.std(1) / conditional.std(1) - 1).abs().max() > 0.01  # so the test can tell


@pytest.mark.parametrize("per_sample", [False, True])
def test_guidance_is_affine_in_eps_and_one_call(per_sample):
    calls = []

    def net(x, timestep, class_labels):
        calls.append(len(x))
        return class_labels[:, None] * torch.tanh(x)

    process, labels = leapstep.linear(), torch.tensor([1.0, 2.0, 0.5])
    x = torch.randn(3, 4)
    t = torch.tensor([0.2, 0.5, 0.8]) if per_sample else torch.tensor(0.5)
    both = leapstep.from_network(net, process, condition={"class_labels": torch.cat([labels, torch.zeros(3)])})
    guided = leapstep.guided(both, 3.0).denoise(x, t)
    assert calls == [6]
    eps = process.convert(guided, x, t, "x0", "eps")
    torch.testing.assert_close(eps, 3.0 * labels[:, None] * torch.tanh(x), rtol=1e-4, atol=1e-5)


# --- exact denoisers ---


def full(mixture):
    """The same mixture through the full-covariance formula."""
    d = mixture.means[0].numel()
    return mixture._replace(covariances=mixture.covariances[:, None, None] * torch.eye(d, dtype=F64))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("mixture", [MIXTURE, full(MIXTURE)], ids=["isotropic", "full"])
def test_mixture_denoiser_obeys_tweedie(name, mixture):
    """E[x0 | x_t] from the score of log q(x_t), by autodiff: alpha x0 = x + sigma^2 grad log q."""
    process = PROCESSES[name]
    x = torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    for t in (torch.tensor(0.3, dtype=F64), torch.tensor([0.01, 0.1, 0.3, 0.5, 0.9, 0.97], dtype=F64)):
        (score,) = torch.autograd.grad(mixture.log_density(x, process, t).sum(), x)
        alpha, sigma = (c.reshape(-1, 1) for c in (process.alpha(t), process.sigma(t)))
        torch.testing.assert_close(
            mixture.diffusion(process).denoise(x, t), (x + sigma**2 * score) / alpha, rtol=1e-8, atol=1e-8
        )


def test_full_covariance_is_the_conjugate_posterior():
    """One correlated Gaussian: E[x0|x] = mu + alpha C (alpha^2 C + sigma^2 I)^-1 (x - alpha mu), by a linear solve."""
    torch.manual_seed(0)
    root, mu, x = torch.randn(5, 5, dtype=F64), torch.randn(5, dtype=F64), torch.randn(7, 5, dtype=F64)
    covariance, process, t = root @ root.T, leapstep.cosine(), torch.tensor(0.6, dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(5, dtype=F64))
    expected = mu + (x - alpha * mu) @ gain.T
    mixture = leapstep.GaussianMixture(mu[None], covariance[None])
    torch.testing.assert_close(mixture.diffusion(process).denoise(x, t), expected)


def test_log_density_is_that_of_torch():
    component = torch.distributions.Independent(
        torch.distributions.Normal(MIXTURE.means, MIXTURE.covariances.sqrt()[:, None]), 1
    )
    torch_mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(MIXTURE.weights), component)
    x = torch.randn(9, 2, dtype=F64)
    for mixture in (MIXTURE, full(MIXTURE)):
        torch.testing.assert_close(mixture.log_density(x), torch_mixture.log_prob(x))


@pytest.mark.parametrize("mixture", [MIXTURE, full(MIXTURE)], ids=["isotropic", "full"])
def test_mixture_samples_have_its_moments(mixture):
    n, weights = 200_000, MIXTURE.weights
    x = mixture.sample(n, seed=1)
    mean = weights @ MIXTURE.means
    second = torch.einsum("m,mi,mj->ij", weights, MIXTURE.means, MIXTURE.means) + (
        weights @ MIXTURE.covariances
    ) * torch.eye(2, dtype=F64)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=5 / math.sqrt(n))
    torch.testing.assert_close(x.T @ x / n, second, rtol=0, atol=10 / math.sqrt(n))


def test_isotropic_mixture_far_from_the_origin_in_float32():
    """Distances are between far points; they must not cancel."""
    means = torch.tensor([[1000.0, 1000.0], [1001.0, 1000.0]], dtype=F64)
    process, t = leapstep.linear(), torch.tensor(0.05, dtype=F64)
    x = process.alpha(t) * torch.tensor([[1000.52, 1000.05]], dtype=F64)
    low, high = (leapstep.empirical(process, means.to(d)).denoise(x.to(d), t).double() for d in (torch.float32, F64))
    torch.testing.assert_close(low, high, rtol=0, atol=0.02)


def test_point_masses_of_full_covariance_at_the_data():
    mixture = leapstep.GaussianMixture(torch.eye(2, dtype=F64), torch.zeros(2, 2, 2, dtype=F64))
    x = torch.tensor([[0.9, 0.0]], dtype=F64)
    torch.testing.assert_close(mixture.diffusion(leapstep.linear()).denoise(x, torch.tensor(0.0)), mixture.means[:1])


def test_empirical_denoiser_is_the_softmax_over_the_data():
    torch.manual_seed(0)
    data, x = torch.randn(11, 2, 3, dtype=F64), torch.randn(4, 2, 3, dtype=F64)
    process, t = leapstep.linear(), torch.tensor(0.3, dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    distance = (x[:, None] - alpha * data).flatten(2).square().sum(2)
    expected = torch.einsum("bn,nij->bij", (-distance / (2 * sigma**2)).softmax(1), data)
    diffusion = leapstep.empirical(process, data)
    torch.testing.assert_close(diffusion.denoise(x, t), expected)
    torch.testing.assert_close(diffusion.denoise(data, torch.tensor(0.0)), data)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (leapstep.GaussianMixture(torch.zeros(3, 2), torch.ones(2)), r"do not fit 3 means of 2 values"),
        (leapstep.GaussianMixture(torch.zeros(2, 2), torch.ones(2), torch.tensor([1.0, -1.0])), "positive"),
    ],
)
def test_bad_mixtures(mixture, message):
    with pytest.raises(ValueError, match=message):
        mixture.diffusion(leapstep.linear())
