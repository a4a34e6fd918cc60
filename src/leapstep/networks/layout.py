"""The diffusers layout of a U-Net: its `config.json` and the keys of its state dict.

`UNet` bears the parameter names of today's diffusers, so a state dict moves between the two unchanged; only old
checkpoints (google/ddpm-cifar10-32 is one) need `modern_keys`. Configurations are translated by table: `NAMES` has the
arguments that merely have another name over there, `FIXED` the settings that `UNet` has at one value only.

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
}

# What `UNet` does, where UNet2DModel has a choice; always UNet2DModel's default.
FIXED: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "center_input_sample": False,
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
}

TIME_EMBEDDINGS = {"positional": "sinusoidal", "learned": "learned"}
DOWN_BLOCKS = {"DownBlock2D": False, "AttnDownBlock2D": True}
UP_BLOCKS = {"UpBlock2D": False, "AttnUpBlock2D": True}

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
    synonyms = {  # other ways to write what FIXED says
        "act_fn": "swish",
        "attn_norm_num_groups": full["norm_num_groups"],
        "time_embedding_dim": 4 * channels[0],
    }
    for key, default in FIXED.items():
        if full[key] not in (supported := [default, synonyms.get(key, default)]):
            raise _unsupported(key, full[key], supported)
    arguments = {ours: _require(full, theirs) for ours, theirs in NAMES.items()}
    arguments["channels"] = channels
    arguments["time_embedding"] = _look_up(TIME_EMBEDDINGS, "time_embedding_type", full["time_embedding_type"])
    arguments["attention"] = _attention(full)
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
        ValueError: if an argument is missing.
    """
    config = FIXED | {theirs: _require(arguments, ours) for ours, theirs in NAMES.items()}
    attention = _require(arguments, "attention")
    down, up, time = (
        {value: key for key, value in table.items()} for table in (DOWN_BLOCKS, UP_BLOCKS, TIME_EMBEDDINGS)
    )
    return config | {
        "sample_size": sample_size,
        "out_channels": config["out_channels"] or config["in_channels"],
        "block_out_channels": list(config["block_out_channels"]),
        "time_embedding_type": time[_require(arguments, "time_embedding")],
        "down_block_types": [down[attends] for attends in attention],
        "up_block_types": [up[attends] for attends in reversed(attention)],
    }


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
    """Read from the block types which levels have attention."""
    down, up = (
        tuple(_look_up(table, key, block) for block in _require(config, key))
        for key, table in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS))
    )
    if down != up[::-1]:
        raise _unsupported("up_block_types", config["up_block_types"], ["the mirror image of down_block_types"])
    return down


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
    """Say that a value cannot be translated, and what can."""
    return ValueError(f"{key}={value!r} is not supported; supported: {', '.join(map(str, dict.fromkeys(supported)))}")
