"""The diffusers layout of a U-Net: its `config.json` and the keys of its state dict.

`UNet` has the parameter names of today's diffusers, so a state dict moves between the two unchanged; only old
checkpoints (google/ddpm-cifar10-32 is one) need `modern_keys`. Configurations are translated by tables: `NAMES` has the
arguments whose name alone differs, `FIXED` the options of diffusers for which `UNet` has one value only.

Plain dictionaries in and out; no network is built here.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["from_diffusers", "modern_keys", "to_diffusers"]

# Ours: theirs.
NAMES = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "channels": "block_out_channels",
    "blocks": "layers_per_block",
    "middle_attention": "add_attention",
    "head_channels": "attention_head_dim",
    "dropout": "dropout",
    "classes": "num_class_embeds",
    "timesteps": "num_train_timesteps",
    "groups": "norm_num_groups",
    "norm_eps": "norm_eps",
    "downsample_padding": "downsample_padding",
    "flip_sin_to_cos": "flip_sin_to_cos",
    "freq_shift": "freq_shift",
}

# What UNet2DModel takes for a key that the file does not have, as files older than the key do not.
DEFAULTS: dict[str, Any] = {
    "add_attention": True,
    "attention_head_dim": 8,
    "dropout": 0.0,
    "num_class_embeds": None,
    "num_train_timesteps": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "time_embedding_type": "positional",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "resnet_time_scale_shift": "default",
    "attn_norm_num_groups": None,
}

# What `UNet` does, where UNet2DModel has a choice; always UNet2DModel's default.
FIXED: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "center_input_sample": False,
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "class_embed_type": None,
}

TIME_EMBEDDINGS = {"positional": "sinusoidal", "learned": "learned"}
SCALE_SHIFT = {"default": False, "scale_shift": True}
RESAMPLE = ("conv", "resnet")
DOWN_BLOCKS = {"DownBlock2D": False, "ResnetDownsampleBlock2D": False, "AttnDownBlock2D": True}
UP_BLOCKS = {"UpBlock2D": False, "ResnetUpsampleBlock2D": False, "AttnUpBlock2D": True}
PLAIN_BLOCKS = {  # stages without attention
    "conv": ("DownBlock2D", "UpBlock2D"),
    "resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
}

LEGACY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
LEGACY_KEY = re.compile(rf"(.*attentions\.\d+)\.({'|'.join(LEGACY)})\.(weight|bias)")


def from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of a diffusers `UNet2DModel` into arguments of `UNetConfig`.

    Arguments:
        config: the content of `config.json`. Keys that are missing take the value that diffusers gives them; keys that
            say nothing about the network (`sample_size`, `_diffusers_version`) are ignored.

    Returns:
        Keyword arguments of `UNetConfig`.

    Raises:
        ValueError: if a key that has no default is missing, or has a value that `UNet` cannot express.
    """
    full = {**FIXED, **DEFAULTS, **config}
    channels = tuple(_require(full, "block_out_channels"))
    synonyms = {  # other spellings of the values in FIXED
        "act_fn": "swish",
        "time_embedding_dim": 4 * channels[0],
    }
    for key, default in FIXED.items():
        if full[key] not in (supported := [default, synonyms.get(key, default)]):
            raise _unsupported(key, full[key], supported)
    arguments = {ours: _require(full, theirs) for ours, theirs in NAMES.items()}
    arguments["channels"] = channels
    arguments["time_embedding"] = _look_up(TIME_EMBEDDINGS, "time_embedding_type", full["time_embedding_type"])
    arguments["attention"] = _attention(full)
    arguments["scale_shift"] = _look_up(SCALE_SHIFT, "resnet_time_scale_shift", full["resnet_time_scale_shift"])
    arguments["resample"] = _resample(full)
    normed = [full["norm_num_groups"]] if arguments["scale_shift"] else [None, full["norm_num_groups"]]
    if full["attn_norm_num_groups"] not in normed and full["add_attention"]:
        raise _unsupported("attn_norm_num_groups", full["attn_norm_num_groups"], normed)
    if arguments["timesteps"] is None:
        if arguments["time_embedding"] == "learned":
            raise _unsupported("num_train_timesteps", None, ["the number of rows of the learned time embedding"])
        del arguments["timesteps"]
    return arguments


def to_diffusers(arguments: Mapping[str, Any], sample_size: int | tuple[int, int] | None = None) -> dict[str, Any]:
    """Translate arguments of `UNetConfig` into the configuration of a diffusers `UNet2DModel`.

    Arguments:
        arguments: all fields of a `UNetConfig`, as `dataclasses.asdict(net.config)` gives them.
        sample_size: height and width of the images, which diffusers pipelines read from here; one number if equal.

    Returns:
        The content of `config.json`: every argument of `UNet2DModel` and `_class_name`.

    Raises:
        ValueError: if an argument is missing, or UNet2DModel cannot express it (see `obstacle`).
    """
    if reason := obstacle(arguments):
        raise ValueError(f"diffusers' UNet2DModel cannot express {reason}")
    config = FIXED | {theirs: _require(arguments, ours) for ours, theirs in NAMES.items()}
    attention, resample, scaled = (_require(arguments, name) for name in ("attention", "resample", "scale_shift"))
    if sizes := _head_sizes(arguments):
        config["attention_head_dim"] = sizes.pop()
    time = {value: key for key, value in TIME_EMBEDDINGS.items()}
    down_plain, up_plain = PLAIN_BLOCKS[resample]
    down, up = {False: down_plain, True: "AttnDownBlock2D"}, {False: up_plain, True: "AttnUpBlock2D"}
    return config | {
        "sample_size": sample_size,
        "out_channels": config["out_channels"] or config["in_channels"],
        "block_out_channels": list(config["block_out_channels"]),
        "time_embedding_type": time[_require(arguments, "time_embedding")],
        "resnet_time_scale_shift": "scale_shift" if scaled else "default",
        "attn_norm_num_groups": config["norm_num_groups"] if scaled else None,
        "downsample_type": resample,
        "upsample_type": resample,
        "down_block_types": [down[attends] for attends in attention],
        "up_block_types": [up[attends] for attends in reversed(attention)],
    }


def obstacle(arguments: Mapping[str, Any]) -> str | None:
    """Name the first argument of a `UNetConfig` that diffusers' `UNet2DModel` cannot express, or None.

    Arguments:
        arguments: all fields of a `UNetConfig`.
    """
    if len(_head_sizes(arguments)) > 1:
        return f"heads={arguments['heads']} at stages of several widths, only one size of head"
    if _require(arguments, "resample") not in RESAMPLE:
        return f"resample={arguments['resample']}, only {' or '.join(RESAMPLE)}"
    if _require(arguments, "patch") != 1:
        return f"patch={arguments['patch']}, only 1"
    if _require(arguments, "time_features") not in (None, _require(arguments, "channels")[0]):
        return f"time_features={arguments['time_features']}, only as many as the first stage has channels"
    if _require(arguments, "time_scale") != 1:
        return f"time_scale={arguments['time_scale']}, only 1"
    return None


def _head_sizes(arguments: Mapping[str, Any]) -> set[int]:
    """The sizes of the attention heads, where their number is given."""
    heads, channels = _require(arguments, "heads"), _require(arguments, "channels")
    if heads is None:
        return set()
    attending = [width for width, attends in zip(channels, arguments["attention"], strict=True) if attends]
    return {width // heads for width in attending + [channels[-1]] * arguments["middle_attention"]}


def modern_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the attention weights of old checkpoints to what diffusers and `UNet` call them now.

    `query`, `key`, `value` and `proj_attn` become `to_q`, `to_k`, `to_v` and `to_out.0`; where they are 1x1
    convolutions [o, i, 1, 1] they become linear layers [o, i]. Everything else stays as it is.

    Arguments:
        state: a state dict, old or new.

    Returns:
        The state dict under today's keys.
    """
    modern = {}
    for key, tensor in state.items():
        if match := LEGACY_KEY.fullmatch(key):
            path, name, kind = match.groups()
            modern[f"{path}.{LEGACY[name]}.{kind}"] = tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
        else:
            modern[key] = tensor
    return modern


def _attention(config: Mapping[str, Any]) -> tuple[bool, ...]:
    """Read from the block types which stages have attention."""
    down, up = (
        tuple(_look_up(table, key, block) for block in _require(config, key))
        for key, table in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS))
    )
    if down != up[::-1]:
        raise _unsupported("up_block_types", config["up_block_types"], ["the mirror image of down_block_types"])
    return down


def _resample(config: Mapping[str, Any]) -> str:
    """Read how the stages halve and double the size: blocks with attention have a key for it, others a name."""
    kinds = set()
    for key, plain, blocks in (
        ("downsample_type", "DownBlock2D", config["down_block_types"][:-1]),  # the last stage changes nothing
        ("upsample_type", "UpBlock2D", config["up_block_types"][:-1]),
    ):
        for block in blocks:
            kinds.add(config[key] if block.startswith("Attn") else "conv" if block == plain else "resnet")
            if kinds - set(RESAMPLE):
                raise _unsupported(key, config[key], RESAMPLE)
    if len(kinds) > 1:
        blocks = ", ".join([*config["down_block_types"], *config["up_block_types"]])
        raise ValueError(
            f"the blocks {blocks} change the size some by convolutions and some by residual blocks, which is not"
            " supported; supported: one kind throughout"
        )
    return kinds.pop() if kinds else "conv"


def _look_up(table: Mapping[str, Any], key: str, value: str) -> Any:
    """Translate the value of a key."""
    if value not in table:
        raise _unsupported(key, value, table)
    return table[value]


def _require(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key that must be there."""
    if key not in config:
        raise ValueError(f"the configuration lacks {key}; it has only {', '.join(config)}")
    return config[key]


def _unsupported(key: str, value: Any, supported: Iterable[Any]) -> ValueError:
    """The error for a value that cannot be translated; it lists those that can."""
    return ValueError(f"{key}={value!r} is not supported; supported: {', '.join(map(str, dict.fromkeys(supported)))}")
