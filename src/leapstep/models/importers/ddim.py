"""Checkpoints of the DDIM code (ermongroup/ddim), and DDPM networks converted to it (pesser/pytorch_diffusion).

    temb.dense.0, temb.dense.1                      the time embedding
    conv_in
    down.1.block.0.norm1, conv1, temb_proj, ...     a residual block; nin_shortcut where the width changes
    down.1.attn.0.norm, q, k, v, proj_out           attention, with 1x1 convolutions
    down.1.downsample.conv, up.1.upsample.conv
    mid.block_1, mid.attn_1, mid.block_2
    norm_out, conv_out

A file is a list [model, optimiser, epoch, step, averaged model], or the averaged state dict alone. It is the network of
Ho et al. with one attention head, groups of 32 and sines before cosines, and nothing about the noise is in the weights:
`config` takes the project's own YAML (sections `data`, `model`, `diffusion`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.core.scaling import PIXELS
from leapstep.core.schedules import from_betas
from leapstep.models.importers.reading import Import, Settings, State, as_linear, square
from leapstep.models.model import Model
from leapstep.networks import UNet
from leapstep.networks.weights import fill, sketch

MODULES = {  # theirs, ours, in blocks
    "temb_proj": "time_emb_proj",
    "nin_shortcut": "conv_shortcut",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    "norm": "group_norm",
}
STEMS = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "norm_out": "conv_norm_out",
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
}
IGNORED = (  # what the project's configuration says of training and of its own sampler
    "training.", "sampling.", "optim.", "data.dataset", "data.category", "data.random_flip", "data.num_workers",
    "data.uniform_dequantization", "data.gaussian_dequantization",
    "model.ema", "model.ema_rate", "model.var_type",
)  # fmt: skip
GROUPS = 32


def matches(state: State) -> bool:
    """Whether these are the keys of that project."""
    return {"temb.dense.0.weight", "down.0.block.0.norm1.weight", "mid.block_1.norm1.weight"} <= set(state)


def read(state: State, config: Mapping[str, Any]) -> Import:
    """Make the model.

    Arguments:
        config: as in the project's YAML: `data.image_size` (needed), `diffusion.beta_schedule`, `beta_start`,
            `beta_end`, `num_diffusion_timesteps`; what the weights tell may be repeated.
    Raises:
        ValueError: keys that do not fit the layout, a setting that contradicts the weights, or one that is missing.
    """
    settings = Settings(config)
    if "logvar" in state:
        settings.say("logvar: ignored, the sampler chooses its variances")
    weights = {key: tensor for key, tensor in state.items() if key != "logvar"}
    fields = _fields(weights, settings)
    network = sketch(UNet, fields)
    names = {_renamed(key, len(fields["channels"])): key for key in weights}
    ours = {name: weights[key] for name, key in names.items()}
    network = fill(network, as_linear(ours, network), names)
    process = _process(settings)
    settings.refuse("model.type", ("simple", "bayesian"), "other types have other outputs")
    settings.refuse("data.rescaled", (True,), "data must lie in [-1, 1], as rescaled: true makes them")
    settings.refuse("data.logit_transform", (False,), "pictures must be pixels in [-1, 1]")
    size = square(settings, "data.image_size", fields["channels"])
    settings.say("time: trained levels counted from 0; predicts: eps; clip: to [-1, 1], where the data lie")
    convention = Convention(process, clip=(-1.0, 1.0), shape=(fields["in_channels"], size, size))
    return Import(Model(network.eval(), convention.scaled(PIXELS)), settings.finish(*IGNORED))


def _fields(state: State, settings: Settings) -> dict[str, Any]:
    """Fields of a `UNetConfig`, from shapes and keys."""
    levels = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down."))
    blocks = 1 + max(int(key.split(".")[3]) for key in state if key.startswith("down.0.block."))
    attention = tuple(f"down.{level}.attn.0.q.weight" in state for level in range(levels))
    try:
        channels = tuple(len(state[f"down.{level}.block.0.conv1.weight"]) for level in range(levels))
        first, inputs = state["conv_in.weight"].shape[:2]
        outputs = len(state["conv_out.weight"])
    except KeyError as error:
        raise ValueError(f"the key {error} is missing: this is not a whole network of that layout") from error
    if channels[0] != first or any(width % first for width in channels):
        raise ValueError(
            f"levels of {', '.join(map(str, channels))} channels after the {first} of conv_in are not supported, only "
            "a ch_mult that begins with 1 and holds whole numbers"
        )
    settings.agree("model.ch", first, "conv_in.weight")
    settings.agree("model.ch_mult", tuple(width // first for width in channels), "down.*.block.0.conv1.weight")
    settings.agree("model.num_res_blocks", blocks, "the keys down.0.block.*")
    settings.agree("model.in_channels", inputs, "conv_in.weight")
    settings.agree("data.channels", inputs, "conv_in.weight")
    settings.agree("model.out_ch", outputs, "conv_out.weight")
    convolves = levels == 1 or "down.0.downsample.conv.weight" in state
    settings.agree("model.resamp_with_conv", convolves, "the keys down.*.downsample.conv")
    where = [str(level) for level, attends in enumerate(attention) if attends]
    settings.say(f"attention: one head, at levels {', '.join(where) or 'none'} of {levels}, told by down.*.attn")
    settings.optional("model.attn_resolutions", list)
    dropout = settings.optional("model.dropout", float)
    return {
        "in_channels": inputs,
        "out_channels": outputs,
        "channels": channels,
        "blocks": blocks,
        "attention": attention,
        "middle_attention": "mid.attn_1.q.weight" in state,
        "resample": "conv" if convolves else "plain",
        "groups": GROUPS,
        "dropout": dropout or 0.0,
    }


def _renamed(key: str, levels: int) -> str:
    """Our name of a key. Their levels on the way up are numbered as on the way down, ours from the coarsest."""
    for theirs, ours in STEMS.items():
        if key.startswith(theirs + "."):
            key = ours + key.removeprefix(theirs)
    if match := re.fullmatch(r"(down|up)\.(\d+)\.(block|attn)\.(.*)", key):
        way, level, kind, rest = match.groups()
        place = int(level) if way == "down" else levels - 1 - int(level)
        key = f"{way}_blocks.{place}.{'resnets' if kind == 'block' else 'attentions'}.{rest}"
    elif match := re.fullmatch(r"(down|up)\.(\d+)\.(down|up)sample\.(.*)", key):
        way, level, _, rest = match.groups()
        place = int(level) if way == "down" else levels - 1 - int(level)
        key = f"{way}_blocks.{place}.{way}samplers.0.{rest}"
    if "_block" not in key:
        return key
    *path, module, kind = key.split(".")
    return ".".join([*path, MODULES.get(module, module), kind])


def _process(settings: Settings) -> Process:
    """The betas that the project makes of these settings."""
    name = settings.take("diffusion.beta_schedule", "linear", "schedule")
    start = settings.take("diffusion.beta_start", 1e-4, "first beta")
    end = settings.take("diffusion.beta_end", 0.02, "last beta")
    steps = settings.levels("diffusion.num_diffusion_timesteps", 1000, "trained levels")
    f64 = torch.float64
    schedules = {
        "linear": lambda: torch.linspace(start, end, steps, dtype=f64),
        "quad": lambda: torch.linspace(start**0.5, end**0.5, steps, dtype=f64) ** 2,
        "const": lambda: torch.full((steps,), end, dtype=f64),
        "jsd": lambda: 1 / torch.arange(steps, 0, -1, dtype=f64),
        "sigmoid": lambda: torch.linspace(-6, 6, steps, dtype=f64).sigmoid() * (end - start) + start,
    }
    if name not in schedules:
        raise ValueError(f"diffusion.beta_schedule={name} is not one of {', '.join(schedules)}")
    return from_betas(schedules[name]())
