"""Checkpoints of lucidrains' denoising-diffusion-pytorch: a `Unet`, a `GaussianDiffusion`, or a trainer's file.

    init_conv.weight, time_mlp.1.weight, downs.0.0.block1.proj.weight ...           the network alone
    model.init_conv.weight ..., betas, alphas_cumprod, loss_weight ...              the diffusion: its buffers tell the
                                                                                    schedule, and mostly the objective
    {"step", "model", "opt", "ema", "scaler", "version"}                            the trainer's file

Our network has their parameter names. Releases 0.31.1 to 1.6.4 have one more pair of names around each attention, which
is cut out; since other releases of that layout compute something else under the same keys, it is read only where the
release is known: from the trainer's file, from the setting `version`, or from the buffer `p2_loss_weight` beside
downsampling by unshuffled pixels, which no other releases have.

References:
    https://github.com/lucidrains/denoising-diffusion-pytorch
    Hang et al. (2023), Min-SNR weighting, arXiv:2303.09556 (the loss weights that tell the objective).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.core.scaling import PIXELS
from leapstep.core.schedules import cosine, exponential, from_betas, linear
from leapstep.files.schema import SIDE
from leapstep.models.importers.reading import Chosen, Import, Settings, State
from leapstep.models.model import UNIT_PIXELS, Model
from leapstep.networks.lucidrains import LucidUNet, LucidUNetConfig
from leapstep.networks.weights import fill, sketch

__all__ = ["matches", "read", "unpack"]

OBJECTIVES = {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}
"""What the network predicts: that project's name, our name."""

LEGACY = ((0, 31, 1), (1, 6, 4))
RELEASE = "release"  # the key under which `unpack` hands on the release that wrote a trainer's file, as three numbers

REFUSED = {
    "net.init_conv.": "an ElucidatedDiffusion (its network is trained on Karras' preconditioned inputs)",
    "log_snr.": "a ContinuousTimeGaussianDiffusion with a learned noise schedule",
    "classes_emb.": "the Unet of classifier_free_guidance, with classes",
    "null_classes_emb": "the Unet of classifier_free_guidance, with classes",
    "downs.0.0.ds_conv.": "a Unet of ConvNeXt blocks, as in releases before 0.18",
    "downs.0.0.block1.block.": "a Unet of a release before 0.20",
    "downs.0.2.fn.norm.b": "a Unet whose layer norms have biases, as in early releases",
}
"""What a key that begins so is the sign of, where it is not supported."""

# Settings of that project that say nothing of how its networks are sampled here.
IGNORED = (
    *("sampling_timesteps", "ddim_sampling_eta", "loss_type", "min_snr_loss_weight", "min_snr_gamma", "immiscible"),
    *("offset_noise_strength", "p2_loss_weight_gamma", "p2_loss_weight_k", "dropout", "flash_attn", "num_sample_steps"),
)


def matches(state: State) -> bool:
    """Whether these are the keys of such a `Unet`, of any release, alone or in a diffusion."""
    starts = ("time_mlp.", "downs.0.0.", "mid_block1.", "final_conv.")
    return any(
        all(any(key.startswith(root + start) for key in state) for start in starts) for root in ("", "model.", "net.")
    )


def unpack(contents: Any) -> Chosen | None:
    """Take the averaged diffusion and the release from a trainer's file; None for any other container."""
    if not isinstance(contents, Mapping) or not isinstance(contents.get("model"), Mapping):
        return None
    raw, averages, version = contents["model"], contents.get("ema"), contents.get("version")
    if not isinstance(averages, Mapping) or not isinstance(version, str) or not matches(raw):
        return None
    averaged = {
        key.removeprefix("ema_model."): value for key, value in averages.items() if key.startswith("ema_model.")
    }
    evidence = ["weights: EMA, from ema, not the raw ones from model"] if averaged else ["weights: raw, from model"]
    state = {key: value for key, value in (averaged or raw).items() if isinstance(value, Tensor)}
    return Chosen(state | {RELEASE: torch.tensor(_numbers(version))}, (*evidence, f"release: {version}, from version"))


def read(state: State, config: Mapping[str, Any]) -> Import:
    """Read the network and its diffusion.

    Arguments:
        state: the state dict of a `Unet` or of a `GaussianDiffusion`.
        config: arguments of `Unet` and `GaussianDiffusion`, where the weights do not tell; `image_size` they never do.
    Returns:
        the model, and what was concluded from what.
    Raises:
        ValueError: a variant that is not supported, named; keys that do not fit; a setting that is missing or wrong.
    """
    settings = Settings(config)
    root = "model." if "model.init_conv.weight" in state else ""
    names = {_modern(key.removeprefix(root)): key for key in state if key.startswith(root) and key != RELEASE}
    weights = {ours: state[theirs] for ours, theirs in names.items()}
    buffers = {key: value for key, value in state.items() if root and not key.startswith(root)}
    _refuse(state, weights)
    legacy = _legacy(state, weights, buffers, settings)
    network = fill(sketch(LucidUNet, vars(_shape(weights, legacy, settings))), weights, names)
    process = _process(network.config, buffers, settings)
    predicts = OBJECTIVES[_objective(network.config, buffers, process, settings)]
    normalised = settings.take("auto_normalize", True, "data in [-1, 1] rather than [0, 1]")
    convention = Convention(
        process=process,
        predicts=predicts,
        shape=(network.config.channels, *_size(network.config, settings)),
        scaling=PIXELS if normalised else UNIT_PIXELS,
        clip=(0.0, 255.0),
        time="index" if network.config.time_embedding == "sinusoidal" else "log_snr",
    )
    return Import(Model(network.eval(), convention), settings.finish(*IGNORED))


# --- the network ---------------------------------------------------------------------------------------------------


def _modern(key: str) -> str:
    """A key as today's releases have it: without the wrappers that once stood around each attention."""
    return re.sub(r"\.fn\.(fn|norm)\.", lambda found: "." if found[1] == "fn" else ".norm.", key)


def _numbers(version: str) -> list[int]:
    numbers = [int(digits) for digits in re.findall(r"\d+", version)[:3]]
    return numbers + [0] * (3 - len(numbers))


def _refuse(state: State, weights: State) -> None:
    for start, name in REFUSED.items():
        if any(key.removeprefix("model.").startswith(start) for key in state):
            raise ValueError(
                f"{name} is not supported: its key {start} tells it; only the Unet of releases 0.31.1 on is"
            )
    if (convolution := weights.get("init_conv.weight")) is None or convolution.ndim != 4:
        kernel = "missing" if convolution is None else f"of shape {list(convolution.shape)}"
        raise ValueError(
            f"init_conv.weight is {kernel}: only Unets of pictures (two-dimensional kernels) are supported"
        )


def _legacy(state: State, weights: State, buffers: State, settings: Settings) -> bool:
    """Whether the layers are those of releases 0.31.1 to 1.6.4, which later releases of the same keys are not."""
    given = settings.optional("version", str)
    if not any(".fn.fn." in key for key in state):
        return False
    if "downs.1.0.mlp.1.weight" in weights and "downs.0.3.1.weight" not in weights:
        raise ValueError("a Unet that halves by strided 4x4 convolutions (releases before 0.31.1) is not supported")
    low, high = (".".join(map(str, bound)) for bound in LEGACY)
    if RELEASE in state or given:
        release = state[RELEASE].tolist() if RELEASE in state else _numbers(str(given))
        if not LEGACY[0] <= tuple(release) <= LEGACY[1]:
            written = ".".join(map(str, release))
            raise ValueError(f"a Unet of release {written} is not supported, only {low} to {high}, and 1.8.0 on")
        source = "the release"
    elif "p2_loss_weight" in buffers:
        source = "the buffer p2_loss_weight beside downs.0.3.1.weight"
    else:
        raise ValueError(
            f"this Unet is of a release before 1.8.0, which differ under the same keys: say which, --set version=1.5.4 "
            f"({low} to {high} are supported)"
        )
    settings.say(f"layers: those of releases {low} to {high}, told by {source}")
    return True


def _shape(weights: State, legacy: bool, settings: Settings) -> LucidUNetConfig:
    """The network's shape, from the shapes of its weights."""
    levels = range(sum(bool(re.fullmatch(r"downs\.\d+\.2\.to_qkv\.weight", key)) for key in weights))
    try:
        dim, first = weights["time_mlp.1.weight"].shape[0] // 4, weights["init_conv.weight"].shape[0]
        ends = [f"downs.{level}.3.1.weight" for level in levels[:-1]] + [
            f"downs.{level}.3.weight" for level in levels[-1:]
        ]
        widths = tuple(weights[key].shape[0] for key in ends)
        memory = weights.get("mid_attn.mem_kv")
        hidden = [weights[f"downs.{level}.2.to_qkv.weight"].shape[0] // 3 for level in levels]
        if memory is None:
            heads = (settings.take("attn_heads", 4, "heads of each attention"),) * len(levels)
        else:
            heads = tuple(weights[f"downs.{level}.2.mem_kv"].shape[1] for level in levels)
        rows, columns = weights["final_conv.weight"].shape[0], weights["init_conv.weight"].shape[1]
    except KeyError as error:
        raise ValueError(f"the key {error} is missing, which every Unet of denoising-diffusion-pytorch has") from error
    settings.agree("dim", dim, "time_mlp.1.weight")
    if all(width % dim == 0 for width in widths):
        settings.agree("dim_mults", tuple(width // dim for width in widths), f"the shapes of {ends[0]} and the like")
    settings.refuse("sinusoidal_pos_emb_theta", [10000], "the weights do not depend on it, and it is built in")
    channels, self_condition = _channels(columns, rows, settings)
    grouped = "mid_block1.block1.norm.weight" in weights
    waves = weights.get("time_mlp.0.weights")
    return LucidUNetConfig(
        channels=channels,
        out_channels=rows,
        self_condition=self_condition,
        dim=dim,
        first=first,
        widths=widths,
        full=tuple(f"downs.{level}.2.to_out.weight" in weights for level in levels),
        heads=heads,
        head_channels=tuple(width // count for width, count in zip(hidden, heads, strict=True)),
        memories=0 if memory is None else memory.shape[2],
        groups=settings.take("resnet_block_groups", 8, "groups of each normalisation") if grouped else 0,
        time_embedding="sinusoidal" if waves is None else "fourier",
        frequencies=8 if waves is None else len(waves),
        legacy=legacy,
    )


def _channels(columns: int, rows: int, settings: Settings) -> tuple[int, bool]:
    """Channels of the data, and whether the network takes its last estimate besides."""
    channels = settings.optional("channels", int) or min(columns, rows)
    if (
        (columns // channels, rows // channels) not in [(1, 1), (1, 2), (2, 1), (2, 2)]
        or columns % channels
        or rows % channels
    ):
        raise ValueError(
            f"a Unet with {columns} channels in and {rows} out is not supported for data of {channels}: as many or "
            "twice as many of each are (self_condition, learned_variance); correct --set channels=... if that is wrong"
        )
    settings.say(f"channels: {channels}, told by init_conv.weight and final_conv.weight")
    if rows == 2 * channels:
        settings.say("learned variance: told by final_conv.weight, which has twice the channels")
    if columns == 2 * channels:
        settings.say(
            "self-conditioning: told by init_conv.weight; the estimate is given as zeros, as in half of training"
        )
    return channels, columns == 2 * channels


def _size(network: LucidUNetConfig, settings: Settings) -> tuple[int, int]:
    """Height and width of the pictures, which are given as two numbers or as one."""
    pair, what = isinstance(settings.given.get("image_size"), list | tuple), "size of the pictures"
    size: Any = settings.need("image_size", tuple, what) if pair else settings.need("image_size", int, what)
    sides, multiple = tuple(size) if pair else (size, size), 2 ** (len(network.widths) - 1)
    if len(sides) != 2 or any(not isinstance(side, int) or not 1 <= side <= SIDE or side % multiple for side in sides):
        raise ValueError(
            f"image_size={size} must be one multiple of {multiple} or two, as every level but one halves it"
        )
    return sides[0], sides[1]


# --- the diffusion -------------------------------------------------------------------------------------------------


def sigmoid_betas(timesteps: int) -> Tensor:
    """Betas of the project's default schedule, whose alphas_cumprod falls along a logistic curve from -3 to 3, `[T]`.

    References:
        Jabri, Fleet, Chen 2022, Scalable Adaptive Computation for Iterative Generation, algorithm 1, arXiv:2212.11972.
    """
    curve = torch.linspace(-3, 3, timesteps + 1, dtype=torch.float64).sigmoid()
    signal = (curve[-1] - curve) / (curve[-1] - curve[0])
    return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)


def _sigmoid(timesteps: int) -> Process:
    return from_betas(sigmoid_betas(timesteps))


SCHEDULES: dict[str, Callable[[int], Process]] = {"linear": linear, "cosine": cosine, "sigmoid": _sigmoid}


def _process(network: LucidUNetConfig, buffers: State, settings: Settings) -> Process:
    """The process that the network was trained on."""
    if network.time_embedding == "fourier":  # the network is told log SNR itself, so that any clock leads to it
        name = settings.take("noise_schedule", "linear", "noise schedule, in continuous time")
        if name not in ("linear", "cosine"):
            raise ValueError(f"noise_schedule={name} is not supported, only linear or cosine")
        return exponential() if name == "linear" else cosine()
    if "betas" not in buffers:
        name = settings.take("beta_schedule", "sigmoid", "noise schedule")
        timesteps = settings.levels("timesteps", 1000, "trained levels")
        if name not in SCHEDULES:
            raise ValueError(f"beta_schedule={name} is not one of {', '.join(SCHEDULES)}")
        return SCHEDULES[name](timesteps)
    process = from_betas(buffers["betas"], falling=True)  # the network was trained on them, whatever they are
    t = torch.linspace(0, 1, len(buffers["betas"]) + 1, dtype=torch.float64)
    known = [
        name
        for name, schedule in SCHEDULES.items()
        if torch.allclose(schedule(len(t) - 1).alpha(t), process.alpha(t), rtol=0, atol=1e-5)
    ]
    settings.agree("timesteps", len(t) - 1, "the buffer betas")
    if known:
        settings.agree("beta_schedule", known[0], "the values of the buffer betas, which are used")
    else:
        settings.say("noise schedule: read from the buffer betas; none that has a name")
    return process


def _objective(network: LucidUNetConfig, buffers: State, process: Process, settings: Settings) -> str:
    """What the network predicts; the weights of the loss tell it, as they depend on it."""
    if "loss_weight" in buffers and process.timesteps:
        snr = process.log_snr(torch.arange(1, process.timesteps + 1, dtype=torch.float64) / process.timesteps).exp()
        for name, factor in {"pred_noise": snr, "pred_x0": torch.ones_like(snr), "pred_v": snr + 1}.items():
            clipped = buffers["loss_weight"].double() * factor  # min(snr, gamma), if it is this objective's
            if torch.allclose(clipped, snr.clamp(max=clipped.max().item()), rtol=1e-3):
                return settings.agree("objective", name, "the values of the buffer loss_weight")
    early = network.legacy or network.time_embedding == "fourier"
    name = settings.take("objective", "pred_noise" if early else "pred_v", "objective")
    if name not in OBJECTIVES:
        raise ValueError(f"objective={name} is not one of {', '.join(OBJECTIVES)}")
    return name
