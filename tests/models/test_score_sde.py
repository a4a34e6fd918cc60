"""Checkpoints of score_sde_pytorch give the same numbers here, on the SDE they were trained on.

`theirs` computes such a network from its state dict, written from the published key names; no module of ours is in it.
Its filters insert zeros and convolve, where ours are strided and transposed convolutions.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import leapstep
from leapstep.models import checkpoint
from leapstep.models.importers import score_sde

SMALL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attention": (False, True)}
NCSNPP = SMALL | {"fourier": True, "fir": True, "rescale": True, "divide": True, "unit": True}
DDPMPP = SMALL | {"rescale": True}
DDPM = SMALL | {"nf": 32, "ddpm": True, "groups": 32}
VE = {"data.image_size": 32}


class Store(dict[str, Tensor]):
    """Weights that come into being, random and nowhere zero, when they are first asked for."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype, self.random = dtype, torch.Generator().manual_seed(0)

    def ask(self, key: str, *shape: int) -> Tensor:
        key = f"all_modules.{key}"
        if key not in self:
            noise = torch.randn(shape, generator=self.random, dtype=torch.float64)
            fan = shape[0] if key.endswith(".W") and len(shape) > 1 else math.prod(shape[1:])
            value = noise / fan**0.5 if len(shape) > 1 else 0.2 * noise
            if "GroupNorm" in key and key.endswith("weight"):
                value = 1 + value
            self[key] = value.float().to(self.dtype)  # as networks are stored
        return self[key]

    def conv(
        self, key: str, x: Tensor, out: int, kernel: int = 3, padding: int | None = None, stride: int = 1
    ) -> Tensor:
        weight = self.ask(f"{key}weight", out, x.shape[1], kernel, kernel)
        pad = kernel // 2 if padding is None else padding
        return F.conv2d(x, weight, self.ask(f"{key}bias", out), padding=pad, stride=stride)

    def linear(self, key: str, x: Tensor, out: int) -> Tensor:
        return F.linear(x, self.ask(f"{key}weight", out, x.shape[1]), self.ask(f"{key}bias", out))

    def nin(self, key: str, x: Tensor, out: int) -> Tensor:
        y = x.movedim(1, 3) @ self.ask(f"{key}W", x.shape[1], out) + self.ask(f"{key}b", out)
        return y.movedim(3, 1)

    def norm(self, key: str, x: Tensor, groups: int) -> Tensor:
        channels = x.shape[1]
        scale, shift = self.ask(f"{key}weight", channels), self.ask(f"{key}bias", channels)
        return F.group_norm(x, groups or min(channels // 4, 32), scale, shift, eps=1e-6)


def filtered(x: Tensor, up: int, down: int, before: int, after: int) -> Tensor:
    """Insert up - 1 zeros after each pixel, pad, filter with (1, 3, 3, 1) in both directions, keep each down-th."""
    batch, channels, height, width = x.shape
    wide = torch.zeros(batch, channels, height * up, width * up, dtype=x.dtype)
    wide[:, :, ::up, ::up] = x
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8 * up
    rows, columns = height * up + before + after, width * up + before + after
    flat = F.pad(wide, (before, after, before, after)).reshape(-1, 1, rows, columns)
    flat = F.conv2d(F.conv2d(flat, line.reshape(1, 1, 1, 4)), line.reshape(1, 1, 4, 1))
    return flat.reshape(batch, channels, rows - 3, columns - 3)[:, :, ::down, ::down]


def doubled(x: Tensor, fir: bool) -> Tensor:
    return filtered(x, 2, 1, 2, 1) if fir else x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x: Tensor, fir: bool) -> Tensor:
    corners = sum(x[:, :, r::2, c::2] for r in (0, 1) for c in (0, 1))
    return filtered(x, 1, 2, 1, 1) if fir else corners / 4


def theirs(
    store: Store, x: Tensor, labels: Tensor, *, nf: int, ch_mult: tuple[int, ...], num_res_blocks: int,
    attention: tuple[bool, ...], fourier: bool = False, fir: bool = False, rescale: bool = False, divide: bool = False,
    unit: bool = False, ddpm: bool = False, groups: int = 0, inputs: str = "none", outputs: bool = False,
    sigmas: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The network `ddpm` or `ncsnpp`."""
    count, channels, last, act = -1, x.shape[1], len(ch_mult) - 1, F.silu

    def new() -> str:
        nonlocal count
        count += 1
        return f"{count}."

    def add(a: Tensor, b: Tensor) -> Tensor:
        return (a + b) / (2**0.5 if rescale else 1)

    def residual(h: Tensor, out: int, resample: Any = None) -> Tensor:
        key, width = new(), h.shape[1]
        y = act(store.norm(f"{key}GroupNorm_0.", h, groups))
        if resample:
            y, h = resample(y, fir), resample(h, fir)
        y = store.conv(f"{key}Conv_0.", y, out) + store.linear(f"{key}Dense_0.", act(time), out)[:, :, None, None]
        y = store.conv(f"{key}Conv_1.", act(store.norm(f"{key}GroupNorm_1.", y, groups)), out)
        if ddpm and width != out:
            h = store.nin(f"{key}NIN_0.", h, out)
        elif not ddpm and (width != out or resample):
            h = store.conv(f"{key}Conv_2.", h, out, 1)
        return add(h, y)

    def attend(h: Tensor) -> Tensor:
        key, (batch, width, rows, columns) = new(), h.shape
        y = store.norm(f"{key}GroupNorm_0.", h, groups)
        q, k, v = (store.nin(f"{key}NIN_{i}.", y, width).reshape(batch, width, -1) for i in range(3))
        weights = (torch.einsum("bci,bcj->bij", q, k) / width**0.5).softmax(2)
        mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(batch, width, rows, columns)
        return add(h, store.nin(f"{key}NIN_3.", mixed, width))

    def ending(h: Tensor) -> Tensor:
        h = act(store.norm(new(), h, groups))
        return store.conv(new(), h, channels)

    if fourier:
        angles = labels.log()[:, None] * store.ask(f"{new()}W", nf) * 2 * math.pi
        used = labels
    else:
        exponents = torch.arange(nf // 2, dtype=x.dtype) / (nf // 2 - 1)
        angles = labels.to(x.dtype)[:, None] * 10000**-exponents
        used = labels if sigmas is None else sigmas[labels.long()]
    time = store.linear(new(), torch.cat((angles.sin(), angles.cos()), 1), 4 * nf)
    time = store.linear(new(), act(time), 4 * nf)
    h = pyramid = 2 * x - 1 if unit else x
    h = store.conv(new(), h, nf)
    skips = [h]
    for level, multiple in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            h = residual(h, nf * multiple)
            if attention[level]:
                h = attend(h)
            skips.append(h)
        if level == last:
            break
        if ddpm:
            h = store.conv(f"{new()}Conv_0.", F.pad(h, (0, 1, 0, 1)), h.shape[1], padding=0, stride=2)
        else:
            h = residual(h, h.shape[1], halved)
        if inputs == "input_skip":
            new()
            pyramid = halved(pyramid, fir)
            h = h + store.conv(f"{new()}Conv_0.", pyramid, h.shape[1], 1)
        elif inputs == "residual":
            wide = filtered(pyramid, 1, 1, 2, 2) if fir else F.pad(pyramid, (0, 1, 0, 1))
            name = "Conv2d_0." if fir else "Conv_0."
            h = pyramid = add(store.conv(f"{new()}{name}", wide, h.shape[1], padding=0, stride=2), h)
        skips.append(h)
    h = residual(attend(residual(h, h.shape[1])), h.shape[1])
    image: Any = 0
    for level in range(last, -1, -1):
        for _ in range(num_res_blocks + 1):
            h = residual(torch.cat((h, skips.pop()), 1), nf * ch_mult[level])
        if attention[level]:
            h = attend(h)
        if outputs:
            if level < last:
                new()
                image = doubled(image, fir)
            image = image + ending(h)
        if level and ddpm:
            h = store.conv(f"{new()}Conv_0.", doubled(h, False), h.shape[1])
        elif level:
            h = residual(h, h.shape[1], doubled)
    y = image if outputs else ending(h)
    return y / used.to(y.dtype)[:, None, None, None] if divide else y


def network(settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """The state dict of a small network, and the network itself as a function of x and the labels."""
    store = Store(dtype)

    def call(x: Tensor, labels: Tensor) -> Tensor:
        return theirs(store, x, labels, **settings)

    call(torch.zeros(1, 3, 16, 16, dtype=dtype), torch.ones(1))
    return dict(store), call


# --- the network ---


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    ("settings", "config"),
    [
        (NCSNPP | {"inputs": "residual"}, {}),  # cifar10_ncsnpp_continuous on the VE SDE
        (
            NCSNPP | {"inputs": "input_skip", "outputs": True, "ch_mult": (1, 2, 3), "attention": (False, True, False)},
            {},
        ),
        (NCSNPP | {"fir": False, "inputs": "residual"}, {}),
        (NCSNPP | {"fir": False, "inputs": "input_skip", "outputs": True}, {"model.fir": False}),
        (NCSNPP | {"rescale": False}, {"model.skip_rescale": False, "model": {"fir": True}}),
        (
            NCSNPP | {"unit": False, "divide": False},
            {"data": {"centered": True}, "model.scale_by_sigma": False, "model.fir": True},
        ),
        (DDPMPP, {}),  # cifar10_ddpmpp_continuous on the VP SDE
        (DDPMPP | {"num_res_blocks": 2}, {"training": {"sde": "subvpsde"}}),
        (DDPMPP | {"fir": True, "inputs": "residual"}, {}),  # cifar10_ncsnpp_continuous on the VP SDE
        (DDPMPP | {"ch_mult": (1,), "attention": (False,)}, {"data.image_size": 16}),
        (DDPMPP | {"fourier": True}, {"training.sde": "vpsde"}),
        (DDPM, {}),
        (DDPM | {"ch_mult": (1, 1, 2), "attention": (False, True, False), "num_res_blocks": 2}, {}),
        (DDPM | {"groups": 0, "nf": 64, "rescale": True}, {"model.name": "ncsnpp"}),
        (DDPM | {"unit": True}, {"data.centered": False}),
    ],
    ids=str,
)
@torch.no_grad()
def test_the_same_numbers(
    settings: dict[str, Any], config: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    state, call = network(settings, dtype)
    assert score_sde.matches(state)
    model, evidence = score_sde.read(state, config)
    assert all("\n" not in line for line in evidence)
    net = model.network.to(dtype)
    x, labels = torch.randn(2, 3, 16, 16, dtype=dtype), torch.tensor([0.7, 3.0], dtype=dtype)
    expected = call(x, labels)
    assert 0.1 < expected.std() < 10
    torch.testing.assert_close(net(x, labels), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(net(x[1:], 3.0), expected[1:], rtol=0, atol=tolerance)


def test_a_network_of_one_size_refuses_others() -> None:
    model, _ = score_sde.read(network(DDPMPP)[0], {})
    with pytest.raises(ValueError, match="multiples of 2"):
        model.network(torch.zeros(1, 3, 7, 8), 0)


# --- the SDE ---


def score(model: Any, x: Tensor, t: float) -> Tensor:
    """What our denoiser says of the score, (alpha x0 - x) / sigma^2."""
    process, time = model.process, torch.tensor(t, dtype=torch.float64)
    x0 = leapstep.from_network(model.network, process, model.predicts, model.time, fractional=True).denoise(x, time)
    return (process.alpha(time) * x0 - x) / process.sigma(time) ** 2


@pytest.mark.parametrize("t", [0.2, 0.9])
@pytest.mark.parametrize("sde", ["vpsde", "subvpsde"])
@torch.no_grad()
def test_vp_networks_are_told_999_t_and_give_minus_std_times_the_score(sde: str, t: float) -> None:
    state, call = network(DDPMPP, torch.float64)
    model, _ = score_sde.read(state, {"training.sde": sde, "model.beta_max": 15})
    model.network.double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    signal = math.exp(-0.5 * t * 0.1 - 0.25 * t**2 * (15 - 0.1))
    std = 1 - signal**2 if sde == "subvpsde" else math.sqrt(1 - signal**2)
    expected = -call(x, torch.full((2,), 999 * t, dtype=torch.float64)) / std
    torch.testing.assert_close(score(model, x, t), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("level", [1, 400, 1000])
@torch.no_grad()
def test_discrete_vp_networks_are_told_the_level(level: int) -> None:
    state, call = network(DDPM, torch.float64)
    model, _ = score_sde.read(state, {})
    model.network.double()
    signal = (1 - torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=torch.float64)).cumprod(0)[level - 1]
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = -call(x, torch.full((2,), level - 1)) / (1 - signal).sqrt()
    torch.testing.assert_close(score(model, x, level / 1000), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [0.2, 0.9])
@torch.no_grad()
def test_ve_networks_are_told_sigma_and_give_the_score(t: float) -> None:
    state, call = network(NCSNPP | {"inputs": "residual"}, torch.float64)
    sigmas = torch.linspace(math.log(378), math.log(0.02), 500, dtype=torch.float64).exp()
    model, evidence = score_sde.read(state | {"sigmas": sigmas}, {})
    model.network.double()
    assert any(line.startswith("model.sigma_max: 378.0, told by") for line in evidence)
    assert model.process.timesteps == 500
    assert model.process.sigma(torch.tensor(1.0, dtype=torch.float64)).item() == pytest.approx(378)
    assert model.process.sigma(torch.tensor(1 / 500, dtype=torch.float64)).item() == pytest.approx(0.02)
    sigma = model.process.sigma(torch.tensor(t, dtype=torch.float64))
    x = sigma * torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(score(model, x, t), call(x, sigma.expand(2)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("settings", [DDPM, DDPMPP | {"fir": True, "inputs": "residual"}])
@pytest.mark.parametrize("level", [1, 400, 1000])
@torch.no_grad()
def test_discrete_ve_networks_count_levels_from_the_largest_sigma(settings: dict[str, Any], level: int) -> None:
    sigmas = torch.linspace(math.log(50), math.log(0.01), 1000, dtype=torch.float64).exp()
    state, call = network(settings | {"divide": True, "unit": True, "sigmas": sigmas}, torch.float64)
    model, _ = score_sde.read(
        state, VE | {"training.sde": "vesde", "training.continuous": False, "model.attn_resolutions": [16]}
    )
    model.network.double()
    label = 1000 - level
    x = sigmas[label] * torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = call(x, torch.full((2,), label))
    assert model.process.sigma(torch.tensor(level / 1000, dtype=torch.float64)).item() == pytest.approx(
        sigmas[label].item()
    )
    torch.testing.assert_close(score(model, x, level / 1000), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "config", "low"),
    [
        (NCSNPP | {"inputs": "residual"}, {}, 0.0),
        (DDPMPP, {}, -1.0),
        (DDPMPP, {"training.sde": "subvpsde"}, -1.0),
        (DDPM, {}, -1.0),
        (DDPM, {"training.sde": "vesde"}, 0.0),
    ],
    ids=str,
)
@torch.no_grad()
def test_it_samples(settings: dict[str, Any], config: dict[str, Any], low: float) -> None:
    model, evidence = score_sde.read(network(settings)[0], config)
    assert model.shape == (3, 32, 32)
    assert any(line.startswith("size of the pictures") and "assumed" in line for line in evidence)
    x = leapstep.sample(model.diffusion(), (2, 3, 16, 16), steps=3)
    assert low <= x.min() < x.max() <= 1
    assert model.scaling.to_pixels(torch.tensor([low, 1.0])).tolist() == [0, 255]


def test_a_whole_configuration_of_that_project_is_understood() -> None:
    state, _ = network(DDPMPP)
    config = {
        "training": {"sde": "vpsde", "continuous": True, "batch_size": 128, "n_iters": 1300001, "reduce_mean": True},
        "sampling": {"method": "pc", "snr": 0.16},
        "eval": {"batch_size": 1024},
        "data": {"dataset": "CIFAR10", "image_size": 32, "centered": True, "num_channels": 3, "random_flip": True},
        "model": {
            "name": "ncsnpp", "sigma_min": 0.01, "sigma_max": 50, "num_scales": 1000, "beta_min": 0.1, "beta_max": 20.0,
            "dropout": 0.1, "embedding_type": "positional", "scale_by_sigma": False, "ema_rate": 0.9999, "nf": 8,
            "normalization": "GroupNorm", "nonlinearity": "swish", "ch_mult": [1, 2], "num_res_blocks": 1,
            "attn_resolutions": [16], "resamp_with_conv": True, "conditional": True, "fir": False,
            "fir_kernel": [1, 3, 3, 1], "skip_rescale": True, "resblock_type": "biggan", "progressive": "none",
            "progressive_input": "none", "progressive_combine": "sum", "attention_type": "ddpm", "init_scale": 0.0,
            "fourier_scale": 16, "conv_size": 3,
        },
        "optim": {"lr": 2e-4},
        "seed": 42,
    }  # fmt: skip
    _, evidence = score_sde.read(state, config)
    assert not any("assumed" in line for line in evidence)


@pytest.mark.parametrize(
    ("settings", "config"),
    [
        (NCSNPP | {"inputs": "residual"}, {}),
        (DDPMPP, {"training.sde": "subvpsde", "model.beta_max": 15}),
        (DDPM, {}),
        (DDPM, {"training.sde": "vesde"}),
    ],
    ids=str,
)
@torch.no_grad()
def test_a_run_folder_keeps_it(settings: dict[str, Any], config: dict[str, Any], tmp_path: Path) -> None:
    model, _ = score_sde.read(network(settings)[0], config)
    checkpoint.save(model, tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    x, t = torch.randn(2, 3, 16, 16), 0.3
    torch.testing.assert_close(loaded.diffusion().denoise(x, t), model.diffusion().denoise(x, t), rtol=0, atol=1e-5)
    assert loaded.scaling == model.scaling


# --- containers ---


def trained(settings: dict[str, Any], sigmas: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint of that project whose averages are one more than the raw weights, and the raw weights."""
    state, _ = network(settings)
    model = {f"module.{key}": value for key, value in state.items()}
    buffer = {"module.sigmas": torch.linspace(3.9, -4.6, 1000, dtype=torch.float64).exp()} if sigmas else {}
    shadow = [value + 1 for key, value in state.items() if not (key == "all_modules.0.W" and settings.get("fourier"))]
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow}
    return {"optimizer": {}, "model": buffer | model, "ema": ema, "step": 7}, state


@pytest.mark.parametrize("sigmas", [True, False])
@pytest.mark.parametrize("settings", [NCSNPP | {"inputs": "residual"}, DDPMPP])
def test_the_averaged_weights_are_taken_in_order(settings: dict[str, Any], sigmas: bool) -> None:
    contents, raw = trained(settings, sigmas)
    chosen = score_sde.unpack(contents)
    assert chosen is not None
    assert any("EMA" in line for line in chosen.evidence)
    model, _ = score_sde.read(chosen.state, {})
    for key, value in model.network.state_dict().items():
        frozen = key == "all_modules.0.W" and settings.get("fourier")
        torch.testing.assert_close(value, raw[key] if frozen else raw[key] + 1)


def test_averages_that_do_not_fit_are_refused() -> None:
    contents, _ = trained(DDPMPP)
    contents["ema"]["shadow_params"].pop()
    with pytest.raises(ValueError, match="do not fit"):
        score_sde.unpack(contents)


@pytest.mark.parametrize("contents", [[], {}, {"model": {}, "ema": {"shadow_params": []}}, {"ema": {}}, torch.zeros(1)])
def test_other_containers_are_left_to_others(contents: Any) -> None:
    assert score_sde.unpack(contents) is None


# --- what is refused ---


def dropped(number: int) -> Any:
    """The state dict without one module, those after it renumbered."""

    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = [(key.split(".", 2), value) for key, value in state.items()]
        kept = [(int(n) - (int(n) > number), name, value) for (_, n, name), value in parts if int(n) != number]
        return {f"all_modules.{n}.{name}": value for n, name, value in kept}

    return change


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a network with 'ddpm' blocks, as if its halving and doubling filtered."""

    def name(key: str) -> str:
        module = key.split("Conv_0")[0]
        return key if f"{module}GroupNorm_0.weight" in state else key.replace("Conv_0", "Conv2d_0")

    return {name(key): value for key, value in state.items()}


def concatenated(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict as if the input were concatenated to the second level rather than added."""
    (combine,) = (key for key, value in state.items() if "Conv_0.weight" in key and value.shape[2:] == (1, 1))
    number = int(combine.split(".")[1]) + 1
    return state | {f"all_modules.{number}.GroupNorm_0.weight": torch.ones(16)}


EXTRA = {"all_modules.99.weight": torch.ones(8, 8, 3, 3), "all_modules.99.bias": torch.ones(8)}


@pytest.mark.parametrize(
    ("settings", "change", "config", "message"),
    [
        (DDPMPP, None, {"training.sde": "edm"}, "training.sde=edm is not one of vesde, vpsde, subvpsde"),
        (DDPMPP, None, {"training.sde": "vesde", **VE}, "continuous with sinusoids"),
        (NCSNPP, None, {"training.continuous": False}, "not continuous with Fourier features"),
        (DDPMPP, None, {"model.scale_by_sigma": True}, "scale_by_sigma is not supported with vpsde"),
        (DDPMPP, None, {"model.nonlinearity": "elu"}, "model.nonlinearity=elu is not supported"),
        (DDPMPP, None, {"model.fir_kernel": [1, 2, 1]}, "model.fir_kernel"),
        (DDPMPP, None, {"model.progressive_combine": "cat"}, "model.progressive_combine=cat is not supported"),
        (DDPMPP, None, {"model.nf": 128}, "model.nf is given as 128"),
        (DDPMPP, None, {"model.attn_resolutions": [8]}, "model.attn_resolutions is given as"),
        (DDPMPP, None, {"data.image_size": 31}, "data.image_size=31 must be a multiple of 2"),
        (DDPMPP, None, {"model.nff": 128}, "no setting model.nff"),
        (DDPMPP | {"attention": (True, True)}, None, {}, "size of the pictures"),
        (NCSNPP | {"attention": (True, False)}, None, {}, "largest sigma"),
        (DDPMPP, dropped(0), {}, "conditioning on time"),
        (DDPMPP, dropped(3), {}, "no number of blocks"),
        (DDPMPP, lambda s: s | {"conv.weight": torch.ones(1)}, {}, "the key conv.weight did not fit"),
        (DDPMPP, lambda s: s | {"all_modules.99.extra": torch.ones(1)}, {}, r"the keys of all_modules\.99 did not fit"),
        (DDPMPP, lambda s: s | {"all_modules.3.extra": torch.ones(1)}, {}, r"all_modules\.3\.extra"),
        (DDPMPP, lambda s: s | EXTRA, {}, "progressive='residual' is not supported"),
        (DDPM | {"inputs": "input_skip"}, None, {}, "progressive_input with 'ddpm' blocks is not supported"),
        (NCSNPP | {"inputs": "input_skip"}, concatenated, {}, "progressive_combine='cat' is not supported"),
        (DDPM, None, {"model.name": "ncsnv2"}, "model.name=ncsnv2 is not supported"),
        (DDPM, renamed, {}, "fir with 'ddpm' blocks"),
    ],
)
def test_what_is_not_supported_is_named(settings: dict[str, Any], change: Any, config: Any, message: str) -> None:
    state, _ = network(settings)
    with pytest.raises(ValueError, match=message) as raised:
        score_sde.read(change(state) if change else state, config)
    assert "\n" not in str(raised.value)


def test_other_keys_are_not_matched() -> None:
    assert not score_sde.matches({"all_modules.0.weight": torch.zeros(1), "conv_in.weight": torch.zeros(1)})
