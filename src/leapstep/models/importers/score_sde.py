"""Checkpoints of score_sde_pytorch: the networks `ncsnpp` (NCSN++, DDPM++) and `ddpm`, on VE, VP and sub-VP SDEs.

    {"optimizer", "model", "ema", "step"}      "model" has `module.all_modules.0.W`, ..., "ema" a bare list of averages
                                               in the order of the trained parameters

Modules are numbered in the order in which they are called, so the kinds of the modules spell out the architecture. What
has no weights (the SDE, whether resampling filters, whether sums are rescaled) is what that project publishes for such
a network, unless a setting under its own name (`training.sde`, `model.fir`, ...) says otherwise.

    vesde       data in [0, 1], the network is told sigma and returns the score
    vpsde       data in [-1, 1], told 999 t or, trained on discrete levels, the level; the score is -output / std
    subvpsde    data in [-1, 1], told 999 t; the score is -output / std

With x_t = alpha x0 + std eps the score is -eps / std, so the last two predict eps.

References:
    Song et al. (2021), Score-Based Generative Modeling through Stochastic Differential Equations, appendices C and H,
    arXiv:2011.13456.
    https://github.com/yang-song/score_sde_pytorch
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.process import Process
from leapstep.core.scaling import PIXELS
from leapstep.core.schedules import SCHEDULES, from_betas, ve
from leapstep.files.schema import SIDE
from leapstep.models.importers.reading import Chosen, Import, Settings, State
from leapstep.models.model import UNIT_PIXELS, Model
from leapstep.networks.score_sde import ScoreUNet
from leapstep.networks.weights import fill, sketch

__all__ = ["matches", "read", "unpack"]

SDES = ("vesde", "vpsde", "subvpsde")
WRAPPER = "module."

# Sections and settings of that project that say nothing of how its networks are sampled here.
IGNORED = (
    *("sampling.", "eval.", "optim.", "seed", "device", "data.dataset", "data.tfrecords_path", "data.random_flip"),
    *("data.uniform_dequantization", "training.", "model.dropout", "model.ema_rate", "model.attention_type"),
    *("model.init_scale", "model.fourier_scale", "model.conv_size"),
    # and those that only some of its networks and SDEs read, but all of its configuration files have
    *("model.sigma_min", "model.sigma_max", "model.num_scales", "model.beta_min", "model.beta_max"),
    *("model.fir", "model.skip_rescale"),
)

# What every published network has, and no weights tell.
ALLOWED: dict[str, list[Any]] = {
    "model.name": ["ncsnpp", "ddpm"],
    "model.nonlinearity": ["swish"],
    "model.normalization": ["GroupNorm"],
    "model.conditional": [True],
    "model.resamp_with_conv": [True],
    "model.progressive_combine": ["sum"],
    "model.fir_kernel": [[1, 3, 3, 1], (1, 3, 3, 1)],
}


class Layer(NamedTuple):
    """One of `all_modules`: its number, what it is, and its weights."""

    number: int
    kind: str
    weights: dict[str, Tensor]


def matches(state: State) -> bool:
    """Whether these are the keys of such a network."""
    return any(key.startswith("all_modules.") and key.endswith(".GroupNorm_0.weight") for key in state)


def unpack(contents: Any) -> Chosen | None:
    """Take the averaged weights from a checkpoint: a list without names, in the order of the model's parameters.

    Raises:
        ValueError: the list does not fit the model.
    """
    if not isinstance(contents, Mapping) or not isinstance(contents.get("ema"), Mapping):
        return None
    averages, model = contents["ema"].get("shadow_params"), contents.get("model")
    if not isinstance(averages, list) or not isinstance(model, Mapping):
        return None
    state = {key.removeprefix(WRAPPER): value for key, value in model.items() if isinstance(value, Tensor)}
    if not matches(state):
        return None
    trained = [key for key, value in state.items() if key != "sigmas" and not _is_frequencies(key, value)]
    if [state[key].shape for key in trained] != [average.shape for average in averages]:
        raise ValueError(
            f"ema.shadow_params has {len(averages)} averages, which do not fit the {len(trained)} trained parameters "
            "of model: save model.state_dict() of the averaged network instead"
        )
    chosen = state | dict(zip(trained, averages, strict=True))
    return Chosen(chosen, ("weights: EMA, from ema.shadow_params in the order of the parameters in model",))


def read(state: State, config: Mapping[str, Any]) -> Import:
    """Read the network and the SDE it was trained on.

    Arguments:
        state: the state dict of an `NCSNpp` or a `DDPM`, `module.` cut off.
        config: settings of that project's configuration files, where the weights do not tell.
    Returns:
        the model, and what was concluded from what.
    Raises:
        ValueError: a variant that is not supported, named; keys that do not fit; a setting that is missing or wrong.
    """
    settings = Settings(config)
    weights = {key: value for key, value in state.items() if key != "sigmas"}
    shape = _shape(_layers(weights), settings)
    size = _size(shape, settings)
    sde = settings.take("training.sde", "vesde" if shape["time_embedding"] == "fourier" else "vpsde", "SDE")
    if sde not in SDES:
        raise ValueError(f"training.sde={sde} is not one of {', '.join(SDES)}")
    continuous = sde == "subvpsde" or settings.take(
        "training.continuous", shape["residual"] == "biggan", "trained in continuous time"
    )
    centered = settings.take("data.centered", sde != "vesde", "data in [-1, 1] rather than [0, 1]")
    divide = settings.take("model.scale_by_sigma", sde == "vesde", "output divided by sigma")
    if divide and sde != "vesde":
        raise ValueError(f"model.scale_by_sigma is not supported with {sde}: that project publishes no such network")
    sigmas = _sigmas(state, size, settings) if sde == "vesde" else None
    if sde == "vesde" and continuous != (shape["time_embedding"] == "fourier"):
        said = "continuous with sinusoids" if continuous else "not continuous with Fourier features"
        raise ValueError(
            f"a vesde network that is {said} is not supported: Fourier features see sigma in continuous time, "
            "sinusoids a level; correct training.continuous"
        )
    shape |= {"unit": not centered, "divide": divide, "sigmas": None if continuous else sigmas}
    network = fill(sketch(ScoreUNet, shape), weights)
    process = _process(sde, continuous, sigmas, settings)
    convention = Convention(
        process=process,
        predicts="score" if sde == "vesde" else "eps",
        shape=(network.config.channels, size, size),
        scaling=PIXELS if centered else UNIT_PIXELS,
        clip=(0.0, 255.0),
        time=("sigma" if sde == "vesde" else "999t") if continuous else "index",
    )
    return Import(Model(network.eval(), convention), settings.finish(*IGNORED))


# --- the network ---------------------------------------------------------------------------------------------------


def _is_frequencies(key: str, value: Tensor) -> bool:
    """Whether these are the frequencies of Fourier features, which are not trained."""
    return key == "all_modules.0.W" and value.ndim == 1


def _layers(weights: State) -> list[Layer]:
    """The numbered modules, in order; those without weights are missing."""
    numbered: dict[int, dict[str, Tensor]] = {}
    for key, value in weights.items():
        start, _, rest = key.partition(".")
        digits, _, name = rest.partition(".")
        if start != "all_modules" or not digits.isdigit():
            raise ValueError(f"the key {key} did not fit: all keys of a score_sde network begin with all_modules.")
        numbered.setdefault(int(digits), {})[name] = value
    return [Layer(number, _kind(number, numbered[number]), numbered[number]) for number in sorted(numbered)]


def _kind(number: int, weights: Mapping[str, Tensor]) -> str:
    """What a module is, by the names of its weights."""
    if set(weights) == {"weight", "bias"}:
        kinds = {1: "norm", 2: "linear", 4: "convolution"}
        return kinds.get(weights["weight"].ndim, "unknown")
    if set(weights) == {"Conv_0.weight", "Conv_0.bias"}:
        return "combine" if weights["Conv_0.weight"].shape[2:] == (1, 1) else "resample"
    signs = {
        "W": "frequencies",
        "GroupNorm_1.weight": "residual",
        "NIN_3.W": "attention",
        "Conv2d_0.weight": "filtered",
    }
    for sign, kind in signs.items():
        if sign in weights:
            return kind
    raise ValueError(
        f"the keys of all_modules.{number} did not fit ({', '.join(list(weights)[:3])}): not a known layer"
    )


def _shape(layers: list[Layer], settings: Settings) -> dict[str, Any]:
    """The arguments of `ScoreUNetConfig` that the weights tell, or that decide how they are used."""
    kinds = [layer.kind for layer in layers]
    fourier = kinds[0] == "frequencies"
    if kinds[fourier : fourier + 3] != ["linear", "linear", "convolution"]:
        raise ValueError(
            "a network without a conditioning on time (model.conditional False, ncsnv2) is not supported: all_modules."
            f"{int(fourier)} and the next two are {', '.join(kinds[fourier : fourier + 3])}"
        )
    width, channels = layers[fourier + 2].weights["weight"].shape[:2]
    blocks, multiples, attention, biggan = _levels(layers, width)
    inputs = _inputs(layers, biggan)
    outputs = kinds.count("norm") == len(multiples) > 1
    if any(
        layer.weights["weight"].shape[0] != channels for layer in layers[fourier + 3 :] if layer.kind == "convolution"
    ):
        raise ValueError("progressive='residual' is not supported: that project publishes no such network")
    kind, last = "biggan" if biggan else "ddpm", len(settings.evidence)
    for name, derived in {
        "model.nf": width,
        "data.num_channels": channels,
        "model.ch_mult": multiples,
        "model.num_res_blocks": blocks,
        "model.embedding_type": "fourier" if fourier else "positional",
        "model.resblock_type": kind,
        "model.progressive_input": inputs,
        "model.progressive": "output_skip" if outputs else "none",
    }.items():
        settings.agree(name, derived, "the kinds and shapes of all_modules")
    settings.evidence[last:] = [
        f"network: {blocks} {kind} blocks a level, nf {width}, ch_mult {multiples}, progressive_input {inputs}, told "
        "by the kinds and shapes of all_modules"
    ]
    for name, values in ALLOWED.items():
        settings.refuse(name, values, "that project publishes no other")
    name = "ncsnpp" if biggan else settings.take("model.name", "ddpm", "network")
    if biggan:
        settings.agree("model.name", name, "the BigGAN blocks")
    return {
        "channels": channels,
        "width": width,
        "multiples": multiples,
        "blocks": blocks,
        "attention": attention,
        "residual": kind,
        "groups": None if name == "ncsnpp" else 32,
        "rescale": name == "ncsnpp" and settings.take("model.skip_rescale", True, "sums divided by sqrt(2)"),
        "fir": biggan and _filters(layers, inputs, settings),
        "inputs": inputs,
        "outputs": outputs,
        "time_embedding": "fourier" if fourier else "sinusoidal",
    }


def _levels(layers: list[Layer], width: int) -> tuple[int, tuple[int, ...], tuple[bool, ...], bool]:
    """Blocks a level, each level's multiple of the width, whether it has attention; and whether blocks are BigGAN's."""
    residual = [layer for layer in layers if layer.kind == "residual"]
    biggan = any("Conv_2.weight" in layer.weights for layer in residual)
    resampling = [layer for layer in residual if biggan and _resamples(layer)]
    resamplings = len(resampling) if biggan else sum(layer.kind in ("resample", "filtered") for layer in layers)
    plain = [layer for layer in residual if not biggan or not _resamples(layer)]
    levels = resamplings // 2 + 1
    blocks, rest = divmod(len(plain) - 2 - levels, 2 * levels)
    if rest or blocks < 1:
        raise ValueError(
            f"{len(plain)} residual blocks and {resamplings} resamplings did not fit: no number of blocks a level "
            "gives them (networks whose resampling has no convolutions are not supported)"
        )
    kinds = {layer.number: layer.kind for layer in layers}
    firsts = [plain[level * blocks] for level in range(levels)]
    multiples = tuple(layer.weights["Conv_0.weight"].shape[0] // width for layer in firsts)
    return blocks, multiples, tuple(kinds.get(layer.number + 1) == "attention" for layer in firsts), biggan


def _resamples(layer: Layer) -> bool:
    """Whether a BigGAN block halves or doubles: only then it has a shortcut convolution between equal channels."""
    shortcut = layer.weights.get("Conv_2.weight")
    return shortcut is not None and shortcut.shape[0] == shortcut.shape[1]


def _inputs(layers: list[Layer], biggan: bool) -> str:
    """How the shrinking input joins the way down."""
    alone = {layer.kind for layer in layers} & {"resample", "filtered"}
    combined = [(layer, after) for layer, after in itertools.pairwise(layers) if layer.kind == "combine"]
    if combined and not biggan:
        raise ValueError(
            "progressive_input with 'ddpm' blocks is not supported: that project publishes no such network"
        )
    if "filtered" in alone and not biggan:
        raise ValueError("fir with 'ddpm' blocks is not supported: that project's own doubling fails with it")
    for layer, after in combined:
        if after.kind == "residual" and len(after.weights["GroupNorm_0.weight"]) != len(layer.weights["Conv_0.bias"]):
            raise ValueError("progressive_combine='cat' is not supported: that project publishes no such network")
    return "input_skip" if combined else "residual" if biggan and alone else "none"


def _filters(layers: list[Layer], inputs: str, settings: Settings) -> bool:
    """Whether halving and doubling filter: told where a convolution halves the input, which is then named otherwise."""
    if inputs == "residual":
        fir = any(layer.kind == "filtered" for layer in layers)
        return settings.agree("model.fir", fir, "the name of the convolutions that halve the input")
    return settings.take("model.fir", inputs == "input_skip", "halving and doubling filter")


def _size(shape: Mapping[str, Any], settings: Settings) -> int:
    """Height and width of the pictures; published networks attend at 16 x 16 pixels, which tells it."""
    levels = [level for level, attends in enumerate(shape["attention"]) if attends]
    what = "size of the pictures (published networks attend at 16 x 16 alone)"
    if len(levels) == 1:
        size: int = settings.take("data.image_size", 16 * 2 ** levels[0], what)
    else:
        size = settings.need("data.image_size", int, "size of the pictures")
    multiple = 2 ** (len(shape["multiples"]) - 1)
    if not 1 <= size <= SIDE or size % multiple:
        raise ValueError(f"data.image_size={size} must be a multiple of {multiple}, as every level but one halves it")
    derived = tuple(size // 2**level for level in levels)
    settings.agree("model.attn_resolutions", derived, "the levels that have attention, and the size of the pictures")
    return size


# --- the SDE -------------------------------------------------------------------------------------------------------


def _sigmas(state: State, size: int, settings: Settings) -> tuple[float, float, int]:
    """Smallest and largest sigma, and the number of levels."""
    if "sigmas" in state:
        levels = state["sigmas"].double()
        low, high = (float(f"{level:.6g}") for level in (levels[-1].item(), levels[0].item()))
        settings.agree("model.sigma_min", low, "the buffer sigmas")
        settings.agree("model.sigma_max", high, "the buffer sigmas")
        return low, high, settings.agree("model.num_scales", len(levels), "the buffer sigmas")
    low = settings.take("model.sigma_min", 0.01, "smallest sigma")
    if size == 32:
        high = settings.take("model.sigma_max", 50.0, "largest sigma")
    else:
        high = settings.need("model.sigma_max", float, "largest sigma")
    return low, high, settings.levels("model.num_scales", 1000, "noise levels")


def _process(sde: str, continuous: bool, sigmas: tuple[float, float, int] | None, settings: Settings) -> Process:
    """The process that the network was trained on."""
    if sigmas is not None:
        return ve(sigmas[2], sigmas[0], sigmas[1])
    low = settings.take("model.beta_min", 0.1, "beta(0)")
    high = settings.take("model.beta_max", 20.0, "beta(1)")
    if not continuous:
        levels = settings.levels("model.num_scales", 1000, "trained levels")
        return from_betas(torch.linspace(low / levels, high / levels, levels, dtype=torch.float64))
    return SCHEDULES[sde.removesuffix("sde")](beta_min=low, beta_max=high)
