"""The U-Net is the UNet2DModel of diffusers, weight for weight; both networks treat time and labels with care."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from leapstep.networks import MLP, MLPConfig, UNet, UNetConfig
from leapstep.networks.embedding import Sinusoids
from leapstep.networks.layout import FIXED, from_diffusers, modern_keys, to_diffusers

diffusers = pytest.importorskip("diffusers")
UNet2DModel = diffusers.UNet2DModel  # imported now: under the device meta its module cannot be

# config.json of google/ddpm-cifar10-32, a file from before many of today's keys.
CIFAR10: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
NARROW = CIFAR10 | {"block_out_channels": [32, 64, 64, 64]}
SMALL = CIFAR10 | {
    "block_out_channels": [16, 24],
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "cifar10": NARROW,
    "cifar10, heads": NARROW | {"attention_head_dim": 16},
    "small": SMALL,
    "padded all around": SMALL | {"downsample_padding": 1},
    "cosine first": SMALL | {"flip_sin_to_cos": True},
    "no frequency shift": SMALL | {"freq_shift": 0},
    "learned embedding": SMALL | {"time_embedding_type": "learned", "num_train_timesteps": 100},
    "labels": SMALL | {"num_class_embeds": 5},
    "heads": SMALL | {"attention_head_dim": 4},
    "no attention in the middle": SMALL | {"add_attention": False},
    "groups and epsilon": SMALL | {"norm_num_groups": 4, "norm_eps": 0.1},
    "one channel in, four out": SMALL | {"in_channels": 1, "out_channels": 4},
    "three blocks": SMALL | {"layers_per_block": 3},
    "swish": SMALL | {"act_fn": "swish", "attn_norm_num_groups": 8, "time_embedding_dim": 64},
    "scale and shift": SMALL | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
    "residual resampling": SMALL
    | {
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "add_attention": False,
    },
    "residual resampling, attention everywhere": SMALL
    | {
        "down_block_types": ["AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D"],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
    "one level": SMALL
    | {"block_out_channels": [16], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]},
    "attention at both ends": SMALL
    | {
        "block_out_channels": [16, 32, 24],
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
    },
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())

SMALL_UNET: dict[str, Any] = {
    "in_channels": 1,
    "channels": (16, 32),
    "attention": (False, True),
    "blocks": 1,
    "groups": 8,
}
BUILDERS: dict[str, Callable[..., Any]] = {
    "unet": lambda **options: UNet(**SMALL_UNET | options),
    "mlp": lambda **options: MLP(**{"shape": (1, 8, 8), "width": 32} | options),
}
builders = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def randomised(module: Any) -> Any:
    """Give every parameter a random value, so that none hides behind an initial zero or one."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.normal_(0, fan_in**-0.5 if parameter.ndim > 1 else 0.2)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module.eval()


def inputs(config: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Make rectangular images, timesteps, and labels where the network has them."""
    x, timestep = torch.randn(3, config["in_channels"], 16, 24), torch.tensor([0, 41, 99])
    return x, timestep, {"class_labels": torch.tensor([0, 4, 2])} if config.get("num_class_embeds") else {}


def reference(config: dict[str, Any]) -> Any:
    return UNet2DModel(**{key: value for key, value in config.items() if not key.startswith("_")})


@torch.no_grad()
def assert_equal(ours: UNet, theirs: Any, config: dict[str, Any]) -> None:
    x, timestep, labels = inputs(config)
    expected = theirs(x, timestep, **labels).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(x, timestep, **labels), expected, rtol=0, atol=1e-5)


# The same function as diffusers


@configs
def test_we_read_what_diffusers_saves(config: dict[str, Any], tmp_path: Path) -> None:
    theirs = randomised(reference(config))
    theirs.save_pretrained(tmp_path)
    ours = UNet(UNetConfig(**from_diffusers(json.loads((tmp_path / "config.json").read_text())))).eval()
    ours.load_state_dict(modern_keys(load_file(tmp_path / "diffusion_pytorch_model.safetensors")))
    assert_equal(ours, theirs, config)


@configs
def test_diffusers_reads_what_we_save(config: dict[str, Any], tmp_path: Path) -> None:
    ours = randomised(UNet(**from_diffusers(config)))
    (tmp_path / "config.json").write_text(json.dumps(to_diffusers(asdict(ours.config), sample_size=(16, 24))))
    save_file(ours.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    theirs = UNet2DModel.from_pretrained(tmp_path).eval()
    assert tuple(theirs.config.sample_size) == (16, 24)
    assert_equal(ours, theirs, config)


def test_the_default_is_the_published_cifar10_network() -> None:
    assert UNetConfig(**from_diffusers(CIFAR10)) == UNetConfig(out_channels=3)
    with torch.device("meta"):
        ours, theirs = UNet(), reference(CIFAR10)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 35_746_307
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_dropout_falls_where_it_does_in_diffusers() -> None:
    plain = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False}
    config = SMALL | plain | {"dropout": 0.5}  # no attention: a dropout of 0 that it has over there draws numbers too
    theirs, ours = randomised(reference(config)).train(), UNet(**from_diffusers(config)).train()
    ours.load_state_dict(theirs.state_dict())
    x, timestep, _ = inputs(config)
    outputs = []
    for call in (lambda: ours(x, timestep), lambda: theirs(x, timestep).sample):
        torch.manual_seed(1)
        outputs.append(call())
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("convolutions", [False, True], ids=["linear", "1x1 convolutions"])
def test_keys_of_old_checkpoints_are_renamed(convolutions: bool, tmp_path: Path) -> None:
    ours = randomised(UNet(**from_diffusers(SMALL)))
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, tensor in ours.state_dict().items():
        new, legacy = next(((n, o) for n, o in names.items() if f".{n}." in key), ("", ""))
        wide = convolutions and new and key.endswith("weight")
        old[key.replace(new, legacy)] = tensor[:, :, None, None] if wide else tensor
    assert not any(".to_" in key for key in old)

    modern = modern_keys(old)
    assert list(modern) == list(ours.state_dict())
    assert all(torch.equal(tensor, modern[key]) for key, tensor in ours.state_dict().items())
    assert modern_keys(modern) == modern
    if not convolutions:  # diffusers reads these too
        (tmp_path / "config.json").write_text(json.dumps(SMALL))
        save_file(old, tmp_path / "diffusion_pytorch_model.safetensors")
        assert_equal(ours, UNet2DModel.from_pretrained(tmp_path).eval(), SMALL)


# Configurations


@configs
def test_translating_there_and_back_changes_nothing(config: dict[str, Any]) -> None:
    ours = UNetConfig(**from_diffusers(config))
    theirs = to_diffusers(asdict(ours), sample_size=32)
    assert UNetConfig(**from_diffusers(theirs)) == ours
    with torch.device("meta"):
        full = dict(reference(theirs).config)
    assert set(full) - set(theirs) <= {"_use_default_values", "_name_or_path"}


def test_missing_keys_mean_what_they_mean_in_diffusers() -> None:
    required = ("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels")
    config = {key: NARROW[key] for key in (*required, "layers_per_block")}
    with torch.device("meta"):
        full = dict(reference(config).config)
    assert from_diffusers(config) == from_diffusers(full)
    for key in config:
        with pytest.raises(ValueError, match=f"lacks {key}"):
            from_diffusers({name: value for name, value in config.items() if name != key})


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("_class_name", "UNet2DConditionModel", "'UNet2DConditionModel'"),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"], "'SkipDownBlock2D'"),
        ("up_block_types", ["SkipUpBlock2D", "UpBlock2D"], "'SkipUpBlock2D'"),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"], "['UpBlock2D', 'AttnUpBlock2D']"),
        ("time_embedding_type", "fourier", "'fourier'"),
        ("time_embedding_dim", 128, "128"),
        ("resnet_time_scale_shift", "spatial", "'spatial'"),
        ("class_embed_type", "timestep", "'timestep'"),
        ("class_embed_type", "identity", "'identity'"),
        ("upsample_type", "fir", "'fir'"),
        ("center_input_sample", True, "True"),
        ("mid_block_type", None, "None"),
        ("mid_block_scale_factor", 2.0, "2.0"),
        ("act_fn", "gelu", "'gelu'"),
        ("attn_norm_num_groups", 4, "4"),
    ],
)
def test_what_cannot_be_translated_is_named(key: str, value: Any, named: str) -> None:
    with pytest.raises(ValueError, match="supported: ") as raised:
        from_diffusers(SMALL | {key: value})
    assert f"{key}={named}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_one_way_to_change_the_size() -> None:
    for mixed in (
        {"upsample_type": "resnet"},
        {"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"]},
        {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "down_block_types": ["AttnDownBlock2D"] * 2},
    ):
        config = SMALL | {"downsample_type": "conv"} | mixed
        with pytest.raises(ValueError, match=r"one kind throughout|mirror image"):
            from_diffusers(config)
    assert from_diffusers(SMALL | {"downsample_type": "resnet"})["resample"] == "conv"  # as diffusers ignores it there


def test_scale_and_shift_needs_to_know_of_the_norm_in_the_middle() -> None:
    """Without attn_norm_num_groups, diffusers builds the middle attention without its group norm."""
    scaled = SMALL | {"resnet_time_scale_shift": "scale_shift"}
    with pytest.raises(ValueError, match="attn_norm_num_groups=None is not supported; supported: 8"):
        from_diffusers(scaled)
    assert from_diffusers(scaled | {"add_attention": False})["scale_shift"]


def test_what_diffusers_has_no_word_for() -> None:
    base = asdict(UNetConfig(**from_diffusers(SMALL)))
    for change, named in (
        ({"heads": 2, "attention": (True, True)}, "heads=2"),
        ({"resample": "plain"}, "resample=plain"),
        ({"time_features": 8}, "time_features=8"),
        ({"time_scale": 0.25}, "time_scale=0.25"),
        ({"patch": 2}, "patch=2"),
    ):
        with pytest.raises(ValueError, match=f"UNet2DModel cannot express {named}"):
            to_diffusers(base | change)
    assert to_diffusers(base | {"heads": 2})["attention_head_dim"] == 12
    assert to_diffusers(base | {"time_features": 16}) == to_diffusers(base)


def test_a_number_of_heads_is_a_size_of_heads() -> None:
    config = UNetConfig(**from_diffusers(SMALL))
    several = randomised(UNet(config, heads=2))
    sized = UNet(config, head_channels=12).eval()
    sized.load_state_dict(several.state_dict())
    x, timestep, _ = inputs(SMALL)
    torch.testing.assert_close(several(x, timestep), sized(x, timestep), rtol=0, atol=0)
    assert not torch.allclose(several(x, timestep), same_weights(several, config)(x, timestep), atol=1e-3)


def same_weights(net: UNet, config: UNetConfig) -> UNet:
    other = UNet(config).eval()
    other.load_state_dict(net.state_dict())
    return other


def test_the_scale_of_time_is_that_of_the_sines() -> None:
    net = randomised(UNet(**SMALL_UNET, time_scale=0.25))
    plain = same_weights(net, UNetConfig(**SMALL_UNET))
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(net(x, torch.tensor([40, 8])), plain(x, torch.tensor([10, 2])))


def test_patches_are_pixels_of_more_channels() -> None:
    """The channels of a patch are its pixels in rows, channel by channel, as `pixel_unshuffle` has them."""
    net = randomised(UNet(**SMALL_UNET | {"in_channels": 3, "out_channels": 2, "patch": 2}))
    plain = same_weights(net, UNetConfig(**SMALL_UNET | {"in_channels": 12, "out_channels": 8}))
    x = torch.randn(2, 3, 8, 12)
    rows = x.reshape(2, 3, 4, 2, 6, 2)
    y = plain(rows.permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 4, 6), 7)
    expected = y.reshape(2, 2, 2, 2, 4, 6).permute(0, 1, 4, 2, 5, 3).reshape(2, 2, 8, 12)
    torch.testing.assert_close(net(x, 7), expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"8 x 10 pixels; with 2 stages on patches of 2 x 2 .* multiples of 4"):
        net(torch.zeros(2, 3, 8, 10), 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, "patch"),
        ({"heads": 3}, "heads=3 does not divide"),
        ({"heads": 2, "head_channels": 8}, "both given"),
        ({"resample": "fir"}, "resample is 'fir'"),
        ({"time_embedding": "learned", "time_scale": 0.5}, "learned table"),
    ],
)
def test_unet_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetConfig(**SMALL_UNET | options)


def test_every_fixed_setting_is_the_default_of_diffusers() -> None:
    defaults = dict(reference(SMALL).config) | {"_class_name": "UNet2DModel"}
    assert {key: defaults[key] for key in FIXED} == FIXED


def test_a_learned_embedding_needs_its_number_of_timesteps() -> None:
    with pytest.raises(ValueError, match="num_train_timesteps"):
        from_diffusers(SMALL | {"time_embedding_type": "learned"})


def test_incomplete_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="lacks attention"):
        to_diffusers({key: value for key, value in asdict(UNetConfig()).items() if key != "attention"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": (True,)}, "attention has 1 entries for 4 stages"),
        ({"groups": 48}, "not all multiples of groups=48"),
        ({"head_channels": 48}, "head_channels=48 does not divide"),
        ({"head_channels": 0}, "head_channels=0 does not divide"),
        ({"downsample_padding": 2}, "downsample_padding is 2"),
        ({"blocks": 0}, "at least 1"),
        ({"channels": (), "attention": ()}, "at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"classes": 0}, "classes is 0"),
        ({"time_embedding": "fourier"}, "time_embedding is 'fourier'"),
        ({"timesteps": 0}, "timesteps is 0"),
    ],
)
def test_configurations_that_do_not_fit_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        UNetConfig(**options)
    assert "\n" not in str(raised.value)


def test_heads_matter_only_where_there_is_attention() -> None:
    assert UNetConfig(channels=(32, 96, 64, 64), head_channels=24, middle_attention=False)
    with pytest.raises(ValueError, match="head_channels=24"):
        UNetConfig(channels=(32, 96, 64, 64), head_channels=24)


def test_sinusoids_need_an_even_number_of_features() -> None:
    for features in (7, 2):
        with pytest.raises(ValueError, match=f"cannot have {features} features"):
            Sinusoids(features, freq_shift=1)


def test_options_replace_fields_of_the_configuration() -> None:
    assert UNet(UNetConfig(**SMALL_UNET), classes=3).config == UNetConfig(**SMALL_UNET, classes=3)
    assert MLP(MLPConfig(width=8), depth=1).config == MLPConfig(width=8, depth=1)


@pytest.mark.parametrize("config", [UNetConfig(), MLPConfig(shape=(1, 8, 8))], ids=["unet", "mlp"])
def test_configurations_survive_json(config: UNetConfig | MLPConfig) -> None:
    assert type(config)(**json.loads(json.dumps(asdict(config)))) == config


# Time


@builders
def test_time_is_continuous(build: Callable[..., Any]) -> None:
    net, x = randomised(build().double()), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    slopes = [(net(x, 10 + h) - net(x, 10)) / h for h in (1e-4, 1e-9)]  # float32 could not tell 10 + 1e-9 from 10
    assert slopes[0].abs().max() > 1e-3
    torch.testing.assert_close(*slopes, rtol=1e-2, atol=1e-3)


@builders
@torch.no_grad()
def test_time_does_not_pass_through_bfloat16(build: Callable[..., Any]) -> None:
    net, x = randomised(build()), torch.randn(2, 1, 8, 8)
    exact = {k: net(x, k) for k in (996, 998, 999, 1000)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = {k: net(x, torch.tensor(k)) for k in (998, 999)}
    net.to(torch.bfloat16)
    rounded = {k: net(x.bfloat16(), torch.tensor(k)) for k in (998, 999)}
    for coarse in (mixed, rounded):
        for k, y in coarse.items():
            assert y.dtype == torch.bfloat16
            assert min(exact, key=lambda other: float((exact[other] - y).norm())) == k
            assert (y - exact[k]).norm() < 0.03 * exact[k].norm()


@builders
def test_every_form_of_timestep(build: Callable[..., Any]) -> None:
    net, x = randomised(build()), torch.randn(2, 1, 8, 8)
    expected = net(x, torch.tensor([7, 7]))
    for timestep in (7, 7.0, torch.tensor(7), torch.tensor(7.0, dtype=torch.float64), torch.tensor([7.0, 7.0])):
        assert torch.equal(net(x, timestep), expected)
    each = net(x, torch.tensor([7, 900]))
    torch.testing.assert_close(each[:1], net(x[:1], 7))
    torch.testing.assert_close(each[1:], net(x[1:], 900))
    assert (each - expected)[1].abs().max() > 1e-3


@builders
def test_a_learned_embedding_takes_the_nearest_row(build: Callable[..., Any]) -> None:
    net, x = randomised(build(time_embedding="learned", timesteps=10)), torch.randn(2, 1, 8, 8)
    assert net.time_proj.weight.shape[0] == 10
    assert torch.equal(net(x, 3.4), net(x, 3))
    assert torch.equal(net(x, torch.tensor([3.6, 3.6])), net(x, 4))
    assert not torch.equal(net(x, 3), net(x, 4))


@builders
@pytest.mark.parametrize("timestep", [torch.zeros(3), torch.zeros(2, 1), torch.tensor(7.0, dtype=torch.bfloat16)])
def test_timesteps_of_a_wrong_kind(build: Callable[..., Any], timestep: Tensor) -> None:
    with pytest.raises(ValueError, match=r"timestep (has shape|is torch\.bfloat16)"):
        build()(torch.zeros(2, 1, 8, 8), timestep)


# Labels


@builders
def test_labels_make_a_difference(build: Callable[..., Any]) -> None:
    net, x = randomised(build(classes=3)), torch.randn(2, 1, 8, 8)
    each = net(x, 5, torch.tensor([0, 2]))
    torch.testing.assert_close(each[:1], net(x[:1], 5, torch.tensor(0)))
    assert (each - net(x, 5, torch.tensor([0, 1])))[1].abs().max() > 1e-3


@builders
def test_labels_are_given_where_they_are_expected(build: Callable[..., Any]) -> None:
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="3 classes and was called without labels"):
        build(classes=3)(x, 5)
    with pytest.raises(ValueError, match="no classes"):
        build()(x, 5, torch.tensor([0, 1]))


# Shapes, initial values, dropout


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 7, 8), "7 x 8 pixels"),
        ((2, 1, 8, 9), "multiples of 2"),
        ((2, 3, 8, 8), "2, 3, 8, 8"),
        ((2, 1, 8), "1, 8"),
    ],
)
def test_images_of_a_wrong_shape(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**SMALL_UNET)(torch.zeros(shape), 5)


@pytest.mark.parametrize("shape", [(), (2,), (3, 4, 5)])
def test_an_mlp_takes_data_of_any_shape(shape: tuple[int, ...]) -> None:
    net, x = randomised(MLP(shape=shape, width=16, depth=1)), torch.randn(4, *shape)
    y = net(x, 5)
    assert y.shape == x.shape
    torch.testing.assert_close(net(x[2:], 5), y[2:])
    with pytest.raises(ValueError, match="this network takes"):
        net(torch.randn(4, 7), 5)


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": 0}, {"shape": (2, 0)}])
def test_an_mlp_has_no_empty_layers(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MLPConfig(**options)


def test_depth_and_width_of_an_mlp() -> None:
    net = MLP(shape=(2,), width=64, depth=5)
    assert len(net.blocks) == 5
    assert net.linear_in.weight.shape == (64, 2)


@builders
def test_a_new_network_is_zero_and_can_learn(build: Callable[..., Any]) -> None:
    net, x = build(classes=3), torch.randn(8, 1, 8, 8)
    labels = torch.arange(8) % 3
    assert torch.equal(net(x, 5, labels), torch.zeros_like(x))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        (net(x, 5, labels) - x).square().mean().backward()
        optimiser.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
    assert (net(x, 5, labels) - x).square().mean() < x.square().mean()


def test_new_blocks_are_their_shortcuts() -> None:
    net, h = UNet(**SMALL_UNET), torch.randn(2, 32, 4, 4)
    assert torch.equal(net.mid_block(h, torch.randn(2, 64)), h)
    block, h = MLP(width=16).blocks[0], torch.randn(2, 16)
    assert torch.equal(block(h, h), h)


@builders
def test_dropout_acts_in_training_only(build: Callable[..., Any]) -> None:
    net, x = randomised(build(dropout=0.5)), torch.randn(2, 1, 8, 8)
    assert torch.equal(net(x, 5), net(x, 5))
    net.train()
    assert not torch.equal(net(x, 5), net(x, 5))


# How it runs


@builders
def test_it_compiles_without_graph_breaks(build: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    net = randomised(build(classes=3))
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    labels = torch.tensor([0, 2])
    for x, timestep in ((torch.randn(2, 1, 8, 8), 5), (torch.randn(2, 1, 8, 8), torch.tensor([3, 4.5]))):
        torch.testing.assert_close(compiled(x, timestep, labels), net(x, timestep, labels))


def test_channels_last_changes_the_layout_alone() -> None:
    net, x = randomised(UNet(**SMALL_UNET)), torch.randn(2, 1, 8, 12)
    expected = net(x, 5)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last), 5), expected, rtol=0, atol=1e-5)
    kept = net.mid_block(torch.randn(2, 32, 4, 6).to(memory_format=torch.channels_last), torch.randn(2, 64))
    assert kept.is_contiguous(memory_format=torch.channels_last)
