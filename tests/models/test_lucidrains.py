"""Checkpoints of denoising-diffusion-pytorch give the same numbers here, on the process they were trained on.

`theirs` computes such a network from its state dict, written from the published key names; no module of ours is in it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import leapstep
from leapstep.models import checkpoint
from leapstep.models.importers import lucidrains

LEVELS = {"dim": 16, "ends": (16, 32), "full": (False, True)}
STYLES = {
    "2.0": {"grouped": False, "memories": 4},
    "1.9": {"grouped": True, "memories": 4},
    "1.8": {"grouped": True, "memories": 0},
    "1.5": {"grouped": True, "memories": 0, "full": (False, False), "wrapped": True},
}


class Store(dict[str, Tensor]):
    """Weights that come into being, random and nowhere zero, when they are first asked for."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype, self.random = dtype, torch.Generator().manual_seed(0)

    def ask(self, key: str, *shape: int) -> Tensor:
        if key not in self:
            noise = torch.randn(shape, generator=self.random, dtype=torch.float64)
            fan = math.prod(shape[1:]) if len(shape) > 1 and not key.endswith(".g") else 1
            positive = key.endswith((".g", "norm.weight"))
            value = 1 + 0.2 * noise if positive else 0.2 * noise if fan == 1 else noise / fan**0.5
            self[key] = value.float().to(self.dtype)  # as networks are stored
        return self[key]

    def conv(self, key: str, x: Tensor, out: int, kernel: int, bias: bool = True, **options: Any) -> Tensor:
        weight = self.ask(f"{key}.weight", out, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, self.ask(f"{key}.bias", out) if bias else None, padding=kernel // 2, **options)

    def linear(self, key: str, x: Tensor, out: int) -> Tensor:
        return F.linear(x, self.ask(f"{key}.weight", out, x.shape[1]), self.ask(f"{key}.bias", out))


def theirs(
    store: Store, x: Tensor, time: Tensor, *, dim: int, ends: tuple[int, ...], full: tuple[bool, ...], grouped: bool,
    memories: int, wrapped: bool = False, heads: int = 4, size: int = 32, out: int | None = None,
    first: int | None = None, twice: bool = False, waves: int = 0,
) -> Tensor:  # fmt: skip
    """The Unet of denoising-diffusion-pytorch; `wrapped` stands for the layers of releases 0.31.1 to 1.6.4."""
    channels = x.shape[1]

    def norm(key: str, h: Tensor) -> Tensor:
        g = store.ask(f"{key}.g", 1, h.shape[1], 1, 1)
        if wrapped:
            h = h - h.mean(1, keepdim=True)
            return h / (h.square().mean(1, keepdim=True) + 1e-5).sqrt() * g
        return h / h.square().sum(1, keepdim=True).sqrt() * math.sqrt(h.shape[1]) * g

    def block(key: str, h: Tensor, width: int) -> Tensor:
        if wrapped:
            weight, bias = (
                store.ask(f"{key}.proj.weight", width, h.shape[1], 3, 3),
                store.ask(f"{key}.proj.bias", width),
            )
            flat = weight.flatten(1)
            flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            h = F.conv2d(h, flat.reshape(weight.shape), bias, padding=1)
        else:
            h = store.conv(f"{key}.proj", h, width, 3)
        if not grouped:
            return norm(f"{key}.norm", h)
        scale, shift = store.ask(f"{key}.norm.weight", width), store.ask(f"{key}.norm.bias", width)
        return F.group_norm(h, 8, scale, shift)

    def residual(key: str, h: Tensor, width: int) -> Tensor:
        modulation = store.linear(f"{key}.mlp.1", F.silu(t), 2 * width)
        y = block(f"{key}.block1", h, width)
        y = F.silu(y * (1 + modulation[:, :width, None, None]) + modulation[:, width:, None, None])
        y = F.silu(block(f"{key}.block2", y, width))
        return y + (store.conv(f"{key}.res_conv", h, width, 1) if h.shape[1] != width else h)

    def attention(key: str, h: Tensor, is_full: bool) -> Tensor:
        batch, width, rows, columns = h.shape
        before, inside = (f"{key}.fn.norm", f"{key}.fn.fn") if wrapped else (f"{key}.norm", key)
        qkv = store.conv(f"{inside}.to_qkv", norm(before, h), 3 * heads * size, 1, bias=False)
        q, k, v = (part.reshape(batch, heads, size, rows * columns) for part in qkv.chunk(3, 1))  # [b, h, d, n]
        if wrapped and not is_full:
            v = v / (rows * columns)
        if memories:
            shape = (2, heads, memories, size) if is_full else (2, heads, size, memories)
            memory = store.ask(f"{inside}.mem_kv", *shape)
            for_k, for_v = (m.transpose(1, 2) if is_full else m for m in memory)
            k, v = (torch.cat((m.expand(batch, -1, -1, -1), y), 3) for m, y in ((for_k, k), (for_v, v)))
        if is_full:
            scores = torch.einsum("bhdi,bhdj->bhij", q, k) / math.sqrt(size)
            mixed = torch.einsum("bhij,bhdj->bhdi", scores.softmax(-1), v)
            y = store.conv(f"{inside}.to_out", mixed.reshape(batch, -1, rows, columns), width, 1)
        else:
            context = torch.einsum("bhdn,bhen->bhde", k.softmax(3), v)
            mixed = torch.einsum("bhde,bhdn->bhen", context, q.softmax(2)) / math.sqrt(size)
            y = norm(
                f"{inside}.to_out.1",
                store.conv(f"{inside}.to_out.0", mixed.reshape(batch, -1, rows, columns), width, 1),
            )
        return h + y

    time = time.to(x.dtype)
    if waves:
        angles = 2 * math.pi * time[:, None] * store.ask("time_mlp.0.weights", waves)
        t = torch.cat((time[:, None], angles.sin(), angles.cos()), 1)
    else:
        angles = time[:, None] * 10000 ** (-torch.arange(dim // 2, dtype=x.dtype) / (dim // 2 - 1))
        t = torch.cat((angles.sin(), angles.cos()), 1)
    t = store.linear("time_mlp.3", F.gelu(store.linear("time_mlp.1", t, 4 * dim)), 4 * dim)
    ways, last = (first or dim, *ends), len(ends) - 1
    h = start = store.conv("init_conv", torch.cat((torch.zeros_like(x), x), 1) if twice else x, ways[0], 7)
    skips = []
    for i in range(last + 1):
        skips.append(h := residual(f"downs.{i}.0", h, ways[i]))
        skips.append(h := attention(f"downs.{i}.2", residual(f"downs.{i}.1", h, ways[i]), full[i]))
        if i < last:
            corners = [h[:, :, r::2, c::2] for r in (0, 1) for c in (0, 1)]
            h = store.conv(f"downs.{i}.3.1", torch.stack(corners, 2).flatten(1, 2), ways[i + 1], 1)
        else:
            h = store.conv(f"downs.{i}.3", h, ways[i + 1], 3)
    h = attention("mid_attn", residual("mid_block1", h, ways[-1]), True)
    h = residual("mid_block2", h, ways[-1])
    for i in range(last + 1):
        level = last - i
        for j in (0, 1):
            h = residual(f"ups.{i}.{j}", torch.cat((h, skips.pop()), 1), ways[level + 1])
        h = attention(f"ups.{i}.2", h, full[level])
        if level:
            h = store.conv(f"ups.{i}.3.1", h.repeat_interleave(2, 2).repeat_interleave(2, 3), ways[level], 3)
        else:
            h = store.conv(f"ups.{i}.3", h, ways[0], 3)
    return store.conv("final_conv", residual("final_res_block", torch.cat((h, start), 1), ways[0]), out or channels, 1)


def buffers(betas: Tensor, objective: str | None = None, gamma: float = math.inf) -> dict[str, Tensor]:
    """What a GaussianDiffusion keeps beside its network, in float32."""
    signal = (1 - betas).cumprod(0)
    snr = signal / (1 - signal)
    clipped = snr.clamp(max=gamma)
    kept = {"betas": betas, "alphas_cumprod": signal, "sqrt_alphas_cumprod": signal.sqrt()}
    if objective is None:
        kept["p2_loss_weight"] = torch.ones_like(snr)
    else:
        kept["loss_weight"] = {"pred_noise": clipped / snr, "pred_x0": clipped, "pred_v": clipped / (snr + 1)}[
            objective
        ]
    return {name: value.float() for name, value in kept.items()}


LINEAR = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


def network(style: str = "2.0", dtype: torch.dtype = torch.float32, channels: int = 3, **options: Any) -> Any:
    """The state dict of a small network, and the network itself as a function of x and the time."""
    store, settings = Store(dtype), LEVELS | STYLES[style] | options

    def call(x: Tensor, time: Tensor) -> Tensor:
        return theirs(store, x, time, **settings)

    call(torch.zeros(1, channels, 8, 8, dtype=dtype), torch.zeros(1))
    return dict(store), call


def diffusion(style: str = "2.0", objective: str | None = "pred_v", **options: Any) -> dict[str, Tensor]:
    """The state dict of a GaussianDiffusion around a small network."""
    return {f"model.{key}": value for key, value in network(style, **options)[0].items()} | buffers(LINEAR, objective)


# --- the network ---


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    ("style", "options", "config"),
    [
        ("2.0", {}, {}),
        ("2.0", {"ends": (16, 32, 48), "full": (True, False, False), "heads": 2, "size": 8, "memories": 3}, {}),
        ("2.0", {"first": 24, "ends": (16,), "full": (False,), "channels": 1}, {}),
        ("2.0", {"twice": True}, {}),
        ("2.0", {"out": 6}, {}),
        ("2.0", {"twice": True, "out": 6}, {"channels": 3}),
        ("2.0", {"waves": 8}, {}),
        ("1.9", {}, {}),
        ("1.8", {}, {}),
        ("1.8", {"heads": 2, "size": 16}, {"attn_heads": 2}),
        ("1.5", {}, {"version": "1.5.4"}),
        ("1.5", {"twice": True}, {"version": "1.6.4"}),
    ],
    ids=str,
)
@torch.no_grad()
def test_the_same_numbers(
    style: str, options: dict[str, Any], config: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    state, call = network(style, dtype, **options)
    assert lucidrains.matches(state)
    model, evidence = lucidrains.read(state, {"image_size": 8} | config)
    net, channels = model.network.to(dtype), options.get("channels", 3)
    assert model.shape == (channels, 8, 8)
    assert all("\n" not in line for line in evidence)
    x, time = torch.randn(2, channels, 8, 8, dtype=dtype), torch.tensor([0.7, 3.0], dtype=dtype)
    expected = call(x, time)
    assert 0.1 < expected.std() < 10
    torch.testing.assert_close(net(x, time), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(net(x[1:], 3), expected[1:], rtol=0, atol=tolerance)


def test_one_layout_of_wrapped_names_is_told_by_its_buffer() -> None:
    state = diffusion("1.5", objective=None)
    model, evidence = lucidrains.read(state, {"image_size": 8})
    assert model.network.config.legacy
    assert model.predicts == "eps"
    assert any("p2_loss_weight" in line for line in evidence)


def test_a_network_of_one_size_refuses_others() -> None:
    model, _ = lucidrains.read(network()[0], {"image_size": 8})
    with pytest.raises(ValueError, match="multiples of 2"):
        model.network(torch.zeros(1, 3, 7, 8), 0)


# --- the diffusion ---


@pytest.mark.parametrize("gamma", [math.inf, 5.0])
@pytest.mark.parametrize(("objective", "predicts"), [("pred_noise", "eps"), ("pred_x0", "x0"), ("pred_v", "v")])
@torch.no_grad()
def test_the_buffers_tell_schedule_and_objective(objective: str, predicts: str, gamma: float) -> None:
    bare, call = network(dtype=torch.float64)
    state = {f"model.{key}": value for key, value in bare.items()} | buffers(LINEAR, objective, gamma)
    model, evidence = lucidrains.read(state, {"image_size": 8})
    assert model.predicts == predicts
    assert any(line.startswith(f"objective: {objective}, told by") for line in evidence)
    assert any("linear, told by" in line for line in evidence)

    index = torch.tensor([30, 800])  # as that project computes x0
    signal = (1 - LINEAR).cumprod(0)[index].reshape(2, 1, 1, 1)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    y = call(x, index)
    x0 = {
        "eps": (x - (1 - signal).sqrt() * y) / signal.sqrt(),
        "x0": y,
        "v": signal.sqrt() * x - (1 - signal).sqrt() * y,
    }[predicts].clamp(-1, 1)
    model.network.double()
    ours = model.diffusion().denoise(x, (index + 1).double() / 1000)
    torch.testing.assert_close(ours, x0, rtol=0, atol=1e-5)  # the buffers are float32


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_schedules_by_name_are_those_of_the_buffers(name: str) -> None:
    levels = torch.arange(101, dtype=torch.float64) / 100
    if name == "linear":
        betas = torch.linspace(1e-3, 0.2, 100, dtype=torch.float64)
    else:
        signal = torch.cos((levels + 0.008) / 1.008 * math.pi / 2) ** 2
        if name == "sigmoid":
            low, high = torch.sigmoid(torch.tensor([-3.0, 3.0], dtype=torch.float64))
            signal = (high - torch.sigmoid(6 * levels - 3)) / (high - low)
        betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    bare, _ = network()
    named, _ = lucidrains.read(bare, {"image_size": 8, "beta_schedule": name, "timesteps": 100})
    state = {f"model.{key}": value for key, value in bare.items()} | buffers(betas, "pred_v")
    told, evidence = lucidrains.read(state, {"image_size": 8, "timesteps": 100})
    expected = (1 - betas).cumprod(0).sqrt()
    for model in (named, told):
        torch.testing.assert_close(model.process.alpha(levels[1:]), expected, rtol=1e-5, atol=1e-6)
    assert any(f"{name}, told by" in line for line in evidence)


def test_a_schedule_without_a_name_is_taken_as_it_is() -> None:
    state = diffusion() | buffers(LINEAR * 0.7, "pred_v")
    model, evidence = lucidrains.read(state, {"image_size": 8})
    level = torch.tensor(0.5, dtype=torch.float64)
    assert model.process.alpha(level).item() == pytest.approx((1 - LINEAR[:500] * 0.7).prod().sqrt().item(), rel=1e-5)
    assert any("none that has a name" in line for line in evidence)


@pytest.mark.parametrize(
    ("options", "config"),
    [({}, {}), ({"out": 6}, {}), ({"waves": 8}, {"noise_schedule": "cosine"}), ({}, {"auto_normalize": False})],
    ids=str,
)
def test_it_samples(options: dict[str, Any], config: dict[str, Any]) -> None:
    model, _ = lucidrains.read(network(**options)[0], {"image_size": [8, 12]} | config)
    assert model.shape == (3, 8, 12)
    low, high = model.clip
    with torch.no_grad():
        x = leapstep.sample(model.diffusion(), (2, *model.shape), steps=3)
    assert low <= x.min() < x.max() <= high
    assert model.scaling.to_pixels(torch.tensor([low, high])).tolist() == [0, 255]


@pytest.mark.parametrize(("name", "power"), [("linear", 2), ("cosine", None)])
@torch.no_grad()
def test_a_network_in_continuous_time_is_told_log_snr(name: str, power: int | None) -> None:
    state, call = network(waves=8)
    model, _ = lucidrains.read(state, {"image_size": 8, "noise_schedule": name})
    t = torch.tensor([0.4], dtype=torch.float64)
    ratio = torch.expm1(1e-4 + 10 * t**2) if power else torch.tan((t + 0.008) / 1.008 * math.pi / 2) ** 2
    x, log_snr = torch.randn(1, 3, 8, 8), -ratio.log()
    signal = log_snr.sigmoid()
    assert model.process.log_snr(t).item() == pytest.approx(log_snr.item(), abs=2e-3)
    x0 = ((x - (1 - signal).sqrt() * call(x, log_snr)) / signal.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(model.diffusion().denoise(x, t).double(), x0.double(), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("style", "options"), [("2.0", {}), ("1.5", {}), ("2.0", {"waves": 8, "twice": True})], ids=str
)
@torch.no_grad()
def test_a_run_folder_keeps_it(style: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, _ = lucidrains.read(network(style, **options)[0], {"image_size": 8, "version": "1.5.0"})
    checkpoint.save(model, tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    x, t = torch.randn(2, 3, 8, 8), 0.3
    torch.testing.assert_close(loaded.diffusion().denoise(x, t), model.diffusion().denoise(x, t), rtol=0, atol=1e-5)


# --- containers ---


@pytest.mark.parametrize(("version", "style"), [("2.2.5", "2.0"), ("1.5.4", "1.5")])
def test_a_trainers_file_gives_the_averaged_weights(version: str, style: str) -> None:
    raw = diffusion(style)
    averages = {f"ema_model.{key}": value + 1 for key, value in raw.items() if key.startswith("model.")}
    averages |= {f"ema_model.{key}": value for key, value in raw.items() if not key.startswith("model.")}
    online = {f"online_model.{key}": value for key, value in raw.items()}
    ema = online | averages | {"initted": torch.tensor(True), "step": torch.tensor(7)}
    contents = {"step": 7, "model": raw, "opt": {}, "ema": ema, "scaler": None, "version": version}
    chosen = lucidrains.unpack(contents)
    assert chosen is not None
    assert any("EMA" in line for line in chosen.evidence)
    assert lucidrains.matches(chosen.state)
    model, _ = lucidrains.read(chosen.state, {"image_size": 8})
    torch.testing.assert_close(model.network.init_conv.weight, raw["model.init_conv.weight"] + 1)
    assert model.network.config.legacy == (style == "1.5")


@pytest.mark.parametrize("contents", [[], {}, {"model": {}}, {"model": {}, "ema": {}, "version": "1"}, torch.zeros(1)])
def test_other_containers_are_left_to_others(contents: Any) -> None:
    assert lucidrains.unpack(contents) is None


def test_other_keys_are_not_matched() -> None:
    assert not lucidrains.matches({"init_conv.weight": torch.zeros(1), "conv_in.weight": torch.zeros(1)})


# --- what is refused ---


def without(*starts: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(starts)}


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda s: {f"net.{k}": v for k, v in s.items()}, {}, "ElucidatedDiffusion"),
        (lambda s: {f"model.{k}": v for k, v in s.items()} | {"log_snr.net.0": torch.ones(1)}, {}, "learned noise sch"),
        (lambda s: s | {"classes_emb.weight": torch.ones(2, 2)}, {}, "classifier_free_guidance"),
        (lambda s: s | {"downs.0.0.ds_conv.weight": torch.ones(1)}, {}, "ConvNeXt"),
        (lambda s: s | {"downs.0.0.block1.block.0.weight": torch.ones(1)}, {}, "release before 0.20"),
        (lambda s: s | {"init_conv.weight": torch.ones(16, 3, 7)}, {}, "pictures"),
        (lambda s: s | {"final_conv.weight": torch.ones(8, 16, 1, 1)}, {}, "8 out is not supported"),
        (lambda s: s | {"extra.weight": torch.ones(1)}, {}, r"extra\.weight"),
        (without("ups.1.2.to_qkv"), {}, r"ups\.1\.2\.to_qkv\.weight"),
        (without("time_mlp.1"), {}, "time_mlp.1.weight"),
        (lambda s: s, {"sinusoidal_pos_emb_theta": 100}, "sinusoidal_pos_emb_theta=100 is not supported"),
        (lambda s: s, {"beta_schedule": "jsd"}, "beta_schedule=jsd is not one of"),
        (lambda s: s, {"objective": "pred_flow"}, "objective=pred_flow is not one of"),
        (lambda s: s, {"dim": 32}, "dim is given as 32"),
        (lambda s: s, {"image_sise": 32}, "no setting image_sise"),
    ],
)
def test_what_is_not_supported_is_named(change: Any, config: dict[str, Any], message: str) -> None:
    state = change(network()[0])
    assert lucidrains.matches(state)
    with pytest.raises(ValueError, match=message) as raised:
        lucidrains.read(state, {"image_size": 8} | config)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [({}, "say which, --set version="), ({"version": "1.7.2"}, "release 1.7.2 is not supported")],
)
def test_wrapped_names_need_their_release(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lucidrains.read(network("1.5")[0], {"image_size": 8} | config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"downs.0.2.fn.norm.b": torch.ones(1, 16, 1, 1)}, "biases"),
        (lambda s: without("downs.0.3.")(s) | {"downs.0.3.weight": torch.ones(16, 16, 4, 4)}, "strided 4x4"),
    ],
)
def test_early_releases_are_named(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lucidrains.read(change(network("1.5")[0]), {"image_size": 8, "version": "1.5.0"})


def test_the_size_of_the_pictures_must_be_given() -> None:
    with pytest.raises(ValueError, match="size of the pictures"):
        lucidrains.read(network()[0], {})


@pytest.mark.parametrize("size", [7, 0, [8, 7], [8], [8, 8, 8]])
def test_the_size_of_the_pictures_must_fit(size: Any) -> None:
    with pytest.raises(ValueError, match="image_size="):
        lucidrains.read(network()[0], {"image_size": size})


def test_continuous_time_knows_two_schedules() -> None:
    with pytest.raises(ValueError, match="noise_schedule=jsd is not supported"):
        lucidrains.read(network(waves=8)[0], {"image_size": 8, "noise_schedule": "jsd"})
