"""Checkpoints of OpenAI's improved-diffusion and guided-diffusion, which have the same keys.

    time_embed.0, time_embed.2                      the time embedding; label_emb with classes
    input_blocks.0.0                                the first convolution
    input_blocks.1.0.in_layers.0, in_layers.2, emb_layers.1, out_layers.0, out_layers.3, skip_connection
                                                    a residual block
    input_blocks.4.1.norm, qkv, proj_out            attention, with 1x1 convolutions over the flattened pixels
    input_blocks.3.0.op                             halving by a convolution; a residual block with resblock_updown;
                                                    no key at all without conv_resample
    middle_block.0, 1, 2
    output_blocks.0.0                               a residual block, maybe attention, maybe doubling at the end
    out.0, out.2

With n blocks a level there are n + 1 entries a level on both ways (the first convolution, and a halving after every
level but the last, fill the rows), so that one such landmark gives n. Groups of 32, cosines before sines. Heads, noise
schedule and picture size are not in the weights: `config` takes the projects' own flags. qkv has three rows for each
channel, in one of two orders: head by head (query, key and value of one head side by side), or, with guided-diffusion's
use_new_attention_order, all queries before all keys before all values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.core.scaling import PIXELS
from leapstep.core.schedules import cosine, linear
from leapstep.models import checkpoint
from leapstep.models.importers.reading import Import, Settings, State, as_linear, square
from leapstep.models.model import Model
from leapstep.networks import UNet
from leapstep.networks.weights import fill, sketch

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}
STEMS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
IGNORED = (  # flags of training, of the projects' own samplers, of their classifiers, and of memory and precision
    "batch_size", "microbatch", "lr", "lr_anneal_steps", "weight_decay", "ema_rate", "log_interval", "save_interval",
    "resume_checkpoint", "data_dir", "schedule_sampler", "use_kl", "rescale_learned_sigmas", "use_checkpoint",
    "use_fp16", "fp16_scale_growth", "sigma_small", "timestep_respacing", "use_ddim", "clip_denoised", "num_samples",
    "model_path", "classifier_path", "classifier_scale", "classifier_use_fp16", "classifier_width", "classifier_depth",
    "classifier_attention_resolutions", "classifier_use_scale_shift_norm", "classifier_resblock_updown",
    "classifier_pool", "attention_resolutions",
)  # fmt: skip
GROUPS = 32


UP_RESIDUAL = re.compile(r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight")


def matches(state: State) -> bool:
    """Whether these are the keys of either project."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight"} <= set(state)


def matches_improved(state: State) -> bool:
    """Whether these are keys that improved-diffusion has, too: it has no resblock_updown."""
    return matches(state) and not any(UP_RESIDUAL.fullmatch(key) for key in state)


def read_improved(state: State, config: Mapping[str, Any]) -> Import:
    """Make the model as `read_guided` does, with improved-diffusion's default of rescale_timesteps, true."""
    return _read(state, config, rescale=True)


def read_guided(state: State, config: Mapping[str, Any]) -> Import:
    """Make the model.

    Arguments:
        config: the projects' flags: `image_size` (needed), `num_heads` or `num_head_channels`, `noise_schedule`,
            `diffusion_steps`, `predict_xstart`, `rescale_timesteps`, `use_new_attention_order`; what the weights tell
            may be repeated.
    Raises:
        ValueError: keys that do not fit the layout, a network that `UNet` cannot be, a flag that contradicts the
            weights, or one that is missing.
    """
    return _read(state, config, rescale=False)


def _read(state: State, config: Mapping[str, Any], rescale: bool) -> Import:
    _refuse_others(state)
    settings = Settings(config)
    fields = _fields(state, settings)
    process = _process(settings)
    if settings.take("rescale_timesteps", rescale, "timesteps rescaled to 1000"):
        fields["time_scale"] = 1000 / process.timesteps if process.timesteps else 1.0
    network = sketch(UNet, fields | _heads(fields, settings))
    names = {_renamed(key, fields["blocks"] + 1): key for key in state}
    by_kind = settings.take("use_new_attention_order", False, "queries before keys before values, not head by head")
    weights = _separated({name: state[key] for name, key in names.items()}, names, network, by_kind)
    network = fill(network, as_linear(weights, network), names)
    predicts = "x0" if settings.take("predict_xstart", False, "x0 predicted instead of eps") else "eps"
    size = square(settings, "image_size", fields["channels"])
    settings.say("time: trained levels counted from 0; clip: to [-1, 1], where the data lie")
    convention = Convention(
        process,
        predicts,
        clip=(-1.0, 1.0),
        conditions=checkpoint.labels(fields["classes"]),
        shape=(fields["in_channels"], size, size),
    )
    return Import(Model(network.eval(), convention.scaled(PIXELS)), settings.finish(*IGNORED))


def _refuse_others(state: State) -> None:
    """Name the relatives of these networks that share their keys but not their function."""
    relatives = {
        "a classifier: it has no output_blocks": not any(key.startswith("output_blocks.") for key in state),
        "a network with cross-attention (transformer_blocks, encoder_kv)": any(
            ".transformer_blocks." in key or ".encoder_kv." in key for key in state
        ),
        "not for pictures: its convolutions are not of two dimensions": state["input_blocks.0.0.weight"].ndim != 4,
    }
    for what, found in relatives.items():
        if found:
            raise ValueError(f"this is {what}, which is not supported")


def _fields(state: State, settings: Settings) -> dict[str, Any]:
    """Fields of a `UNetConfig`, from shapes and keys."""
    row, resample = _rows(state)
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("input_blocks."))
    levels, rest = divmod(count, row)
    if rest or row < 2:
        raise ValueError(f"{count} input_blocks are not rows of {row}: levels of different lengths are not supported")
    try:
        starts = [f"input_blocks.{row * level + 1}" for level in range(levels)]
        channels = tuple(len(state[f"{start}.0.out_layers.3.weight"]) for start in starts)
        first, inputs = state["input_blocks.0.0.weight"].shape[:2]
        outputs, features = len(state["out.2.weight"]), state["time_embed.0.weight"].shape[1]
        scaled = len(state["input_blocks.1.0.emb_layers.1.weight"]) == 2 * channels[0]
    except KeyError as error:
        raise ValueError(f"the key {error} is missing: this is not a whole network of that layout") from error
    if first != channels[0]:
        raise ValueError(f"a first level of {channels[0]} channels after a convolution to {first} is not supported")
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(
            f"{inputs} channels in, {outputs} out (super-resolution?) are not supported, only as many or twice as many"
        )
    classes = len(state["label_emb.weight"]) if "label_emb.weight" in state else None
    attention = tuple(f"{start}.1.qkv.weight" in state for start in starts)
    settings.agree("num_channels", features, "time_embed.0.weight")
    settings.agree(
        "channel_mult", tuple(width / features for width in channels), "input_blocks.*.0.out_layers.3.weight"
    )
    settings.agree("num_res_blocks", row - 1, "the keys of input_blocks and output_blocks")
    settings.agree("resblock_updown", resample == "resnet", "the keys of output_blocks")
    settings.agree("conv_resample", resample == "conv" or levels == 1, "the keys input_blocks.*.0.op")
    settings.agree("use_scale_shift_norm", scaled, "input_blocks.1.0.emb_layers.1.weight")
    settings.agree("learn_sigma", outputs == 2 * inputs, "out.2.weight")
    settings.agree("class_cond", classes is not None, "the key label_emb.weight")
    where = [str(level) for level, attends in enumerate(attention) if attends]
    settings.say(f"attention: at levels {', '.join(where) or 'none'} of {levels}, told by input_blocks.*.1.qkv")
    return {
        "in_channels": inputs,
        "out_channels": outputs,
        "channels": channels,
        "blocks": row - 1,
        "attention": attention,
        "middle_attention": "middle_block.1.qkv.weight" in state,
        "scale_shift": scaled,
        "resample": resample,
        "groups": GROUPS,
        "norm_eps": 1e-5,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "time_features": None if features == first else features,
        "classes": classes,
        "dropout": settings.optional("dropout", float) or 0.0,
    }


def _rows(state: State) -> tuple[int, str]:
    """How many entries a level has, and how it changes the size, from the first landmark of each kind."""
    entries = {int(key.split(".")[1]) for key in state if key.startswith("input_blocks.")}
    convolutions = [int(key.split(".")[1]) for key in state if re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", key)]
    residuals = [int(match[1]) for key in state if (match := UP_RESIDUAL.fullmatch(key))]
    if convolutions:
        return min(convolutions), "conv"
    if residuals:
        return min(residuals) + 1, "resnet"
    if gaps := set(range(max(entries))) - entries:
        return min(gaps), "plain"
    return len(entries), "conv"  # a single level


def _renamed(key: str, row: int) -> str:
    """Our name of a key, where every level has `row` entries."""
    for theirs, ours in STEMS.items():
        if key.startswith(theirs + "."):
            return ours + key.removeprefix(theirs)
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)\.(\w+)", key):
        index, module, kind = match.groups()
        place = "attentions.0" if index == "1" else f"resnets.{int(index) // 2}"
        return f"mid_block.{place}.{(RESIDUAL | ATTENTION).get(module, module)}.{kind}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.([012])\.(.+)\.(\w+)", key)
    if match is None:
        return key
    side, entry, part, module, kind = match.groups()
    way = "down" if side == "input" else "up"
    level, block = divmod(int(entry), row)
    module = {"op": "conv", **RESIDUAL, **ATTENTION}.get(module, module)
    if way == "down" and block == 0:
        return f"down_blocks.{level - 1}.downsamplers.0.{module}.{kind}"
    block -= way == "down"
    if part == "0":
        return f"{way}_blocks.{level}.resnets.{block}.{module}.{kind}"
    if module in ATTENTION.values():
        return f"{way}_blocks.{level}.attentions.{block}.{module}.{kind}"
    return f"{way}_blocks.{level}.{way}samplers.0.{module}.{kind}"


def _separated(weights: State, names: dict[str, str], network: UNet, by_kind: bool) -> dict[str, Tensor]:
    """Cut each qkv into queries, keys and values; `names` learns the new names."""
    separated = {}
    for name, tensor in weights.items():
        path, _, kind = name.rpartition(".")
        if not path.endswith(".qkv"):
            separated[name] = tensor
            continue
        path = path.removesuffix(".qkv")
        try:
            attention: Any = network.get_submodule(path)
            heads = 1 if by_kind else int(attention.heads)
            size, rest = len(tensor) // (3 * heads), tensor.shape[1:2]  # a bias has no rest
            parts = tensor.reshape(heads, 3, size, *rest).transpose(0, 1).reshape(3, heads * size, *rest)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(f"{names[name]} did not fit: attention of that shape is not expected there") from error
        for letter, part in zip("qkv", parts, strict=True):
            separated[f"{path}.to_{letter}.{kind}"] = part
            names[f"{path}.to_{letter}.{kind}"] = names[name]
    return separated


def _heads(fields: Mapping[str, Any], settings: Settings) -> dict[str, int]:
    """The number or the size of the heads, as a `UNetConfig` has it: the size where there is only one."""
    widths = {width for width, attends in zip(fields["channels"], fields["attention"], strict=True) if attends}
    widths |= {fields["channels"][-1]} if fields["middle_attention"] else set()
    size = settings.take("num_head_channels", -1, "channels of a head (-1: as num_heads says)")
    heads = settings.take("num_heads", 4, "attention heads") if size == -1 else 0
    settings.refuse("num_heads_upsample", (-1, heads), "the way up has as many heads as the way down")
    if any(width % (heads or size) for width in widths):
        name = f"num_heads={heads}" if heads else f"num_head_channels={size}"
        raise ValueError(f"{name} does not divide the attention's channels {sorted(widths)}: give the right one")
    if size != -1:
        return {"head_channels": size}
    return {"head_channels": widths.pop() // heads} if len(widths) == 1 else {"heads": heads}


def _process(settings: Settings) -> Process:
    """The betas that the projects make of these settings."""
    name = settings.take("noise_schedule", "linear", "schedule")
    steps = settings.levels("diffusion_steps", 1000, "trained levels")
    if name not in ("linear", "cosine"):
        raise ValueError(f"noise_schedule={name}: use linear or cosine")
    return linear(steps) if name == "linear" else cosine(steps)
