"""The U-Nets of score_sde_pytorch, DDPM, DDPM++ and NCSN++, under that project's own parameter names.

All layers are numbered in one list, `all_modules`, in the order in which they are called:

    time embedding, 2 dense layers, first convolution
    every stage on the way down: blocks with or without attention, and at its end a halving
    two blocks around attention
    every stage on the way up: blocks, attention after the last, and at its end a doubling
    last norm and convolution

The images themselves may come along: a shrinking copy of the input joins each stage on the way down (`inputs`), and
with `outputs` every stage on the way up contributes to an image that grows. Residual blocks are those of BigGAN, which
halve and double by themselves, or those of DDPM. Halving and doubling may filter by (1, 3, 3, 1) / 8 in each direction
(`fir`), and sums may be divided by sqrt(2) (`rescale`), so that variances stay.

A network with Fourier features takes sigma itself, and sees its logarithm; one with sinusoids takes a noise level. With
`divide` the output is divided by sigma, which makes it a score.

The network is for sampling: it has no dropout, which has no parameters.

References:
    Song et al. (2021), Score-Based Generative Modeling through Stochastic Differential Equations, appendix H,
    arXiv:2011.13456.
    https://github.com/yang-song/score_sde_pytorch
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_fields, check_images, check_stages, one_per_sample
from .embedding import Sinusoids

__all__ = ["ScoreUNet", "ScoreUNetConfig"]


@dataclass(frozen=True, kw_only=True)
class ScoreUNetConfig:
    """The shape of a `ScoreUNet`; the defaults are DDPM++ for CIFAR-10.

    Arguments:
        channels: channels of the data.
        width: feature channels, which `multiples` multiplies; also the number of sinusoids or of frequencies.
        multiples: of each stage, finest first.
        blocks: residual blocks per stage on the way down; there is one more on the way up.
        attention: for each stage, whether it has self-attention; the middle always has.
        residual: "biggan" or "ddpm" blocks.
        groups: groups of each normalisation; None for a quarter of the channels, but 32 at most.
        rescale: whether sums are divided by sqrt(2).
        fir: whether halving and doubling filter.
        inputs: how the shrinking input joins: "none", "input_skip" (through 1x1 convolutions) or "residual".
        outputs: whether the output is the sum of what all stages contribute.
        time_embedding: "sinusoidal", or "fourier" for random frequencies of log sigma.
        unit: whether data is in [0, 1], which the network maps to [-1, 1] itself.
        divide: whether the output is divided by sigma.
        sigmas: smallest and largest sigma, and the number of noise levels, for a network with sinusoids that was
            trained on levels counted from the largest; its timesteps here still count from the smallest.

    Raises:
        ValueError: if the values do not fit together.
    """

    classes: ClassVar[None] = None

    channels: int = 3
    width: int = 128
    multiples: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[bool, ...] = (False, True, False, False)
    residual: Literal["biggan", "ddpm"] = "biggan"
    groups: int | None = None
    rescale: bool = True
    fir: bool = False
    inputs: Literal["none", "input_skip", "residual"] = "none"
    outputs: bool = False
    time_embedding: Literal["sinusoidal", "fourier"] = "sinusoidal"
    unit: bool = False
    divide: bool = False
    sigmas: tuple[float, float, int] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_stages(self, len(self.multiples), "attention")
        if min(self.channels, self.width, self.blocks, len(self.multiples), *self.multiples) < 1:
            raise ValueError("channels, width, multiples, blocks and the number of stages must be at least 1")
        if self.residual == "ddpm" and self.fir:
            raise ValueError("'ddpm' blocks resample by convolutions, which do not exist with fir; use 'biggan' blocks")
        if self.divide and self.time_embedding == "sinusoidal" and self.sigmas is None:
            raise ValueError(
                "a network with sinusoids that divides by sigma needs sigmas: smallest, largest and their number"
            )

    def norm(self, channels: int) -> nn.GroupNorm:
        """Build a normalisation."""
        return nn.GroupNorm(self.groups or min(channels // 4, 32), channels, eps=1e-6)


class ScoreUNet(nn.Module):
    """The networks `ddpm` and `ncsnpp` of score_sde_pytorch.

    Arguments:
        config: the network's shape; kept as `.config`.
        options: fields of `ScoreUNetConfig` that replace those of `config`.

    Raises:
        ValueError: if the configuration does not fit together.
    """

    def __init__(self, config: ScoreUNetConfig | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = replace(config or ScoreUNetConfig(), **options)
        fourier = config.time_embedding == "fourier"
        self.sinusoids = None if fourier else Sinusoids(config.width)
        self.all_modules = nn.ModuleList([Waves(config.width)] if fourier else [])
        self.all_modules.append(nn.Linear(config.width * (1 + fourier), 4 * config.width))
        self.all_modules.append(nn.Linear(4 * config.width, 4 * config.width))
        self.all_modules.append(nn.Conv2d(config.channels, config.width, 3, padding=1))
        skips = self._append_down()
        middle = skips[-1]
        block = ResidualBlock(config, middle, middle), Attention(config, middle), ResidualBlock(config, middle, middle)
        self.all_modules.extend(block)
        self._append_up(skips)

    def _append_down(self) -> list[int]:
        """Append the layers of the way down; return the channels of every feature map that the way up meets again."""
        config, add = self.config, self.all_modules.append
        channels, shrunk, skips = config.width, config.channels, [config.width]
        for stage, multiple in enumerate(config.multiples):
            for _ in range(config.blocks):
                add(ResidualBlock(config, channels, config.width * multiple))
                channels = config.width * multiple
                if config.attention[stage]:
                    add(Attention(config, channels))
                skips.append(channels)
            if stage < len(config.multiples) - 1:
                biggan = config.residual == "biggan"
                add(ResidualBlock(config, channels, channels, "down") if biggan else Halving(False, channels, channels))
                if config.inputs == "input_skip":
                    add(Halving(config.fir))
                    add(Combine(shrunk, channels))
                elif config.inputs == "residual":
                    add(Halving(config.fir, shrunk, channels))
                    shrunk = channels
                skips.append(channels)
        return skips

    def _append_up(self, skips: list[int]) -> None:
        """Append the layers of the way up."""
        config, add, channels, last = self.config, self.all_modules.append, skips[-1], len(self.config.multiples) - 1
        for stage in range(last, -1, -1):
            for _ in range(config.blocks + 1):
                width = config.width * config.multiples[stage]
                add(ResidualBlock(config, channels + skips.pop(), width))
                channels = width
            if config.attention[stage]:
                add(Attention(config, channels))
            if config.outputs:
                if stage < last:
                    add(Doubling(config.fir))
                self._append_output(channels)
            if stage:
                biggan = config.residual == "biggan"
                add(ResidualBlock(config, channels, channels, "up") if biggan else Doubling(False, channels))
        if not config.outputs:
            self._append_output(channels)

    def _append_output(self, channels: int) -> None:
        self.all_modules.append(self.config.norm(channels))
        self.all_modules.append(nn.Conv2d(channels, self.config.channels, 3, padding=1))

    def forward(self, x: Tensor, timestep: Tensor | float) -> Tensor:
        """Evaluate the network.

        Arguments:
            x: images [b, c, h, w]; h and w multiples of 2^(stages - 1).
            timestep: [b], 0-dim or a number: sigma for a network with Fourier features, else a noise level from 0.

        Returns:
            [b, c, h, w].

        Raises:
            ValueError: if x or the timestep has another shape.
        """
        check_images(x, self.config.channels, len(self.config.multiples))
        modules, timestep = iter(self.all_modules), one_per_sample(timestep, x)
        features, sigma = self._features(timestep, modules)
        first, second = next(modules), next(modules)
        time = F.silu(second(F.silu(first(features.to(x.dtype)))))  # every block begins with this SiLU
        skips = self._down(2 * x - 1 if self.config.unit else x, time, modules)
        h = next(modules)(skips[-1], time)
        h = next(modules)(h)
        h = next(modules)(h, time)
        y = self._up(h, time, skips, modules)
        return y / sigma.to(y.dtype)[:, None, None, None] if self.config.divide else y

    def _features(self, timestep: Tensor, modules: Iterator[nn.Module]) -> tuple[Tensor, Tensor]:
        """The features of the timestep, and sigma, which only some networks know."""
        if self.sinusoids is None:
            features: Tensor = next(modules)(timestep.log())
            return features, timestep
        if self.config.sigmas is None:
            return self.sinusoids(timestep), timestep
        low, high, levels = self.config.sigmas
        return self.sinusoids(levels - 1 - timestep), low * (high / low) ** (timestep / (levels - 1))

    def _down(self, x: Tensor, time: Tensor, modules: Iterator[nn.Module]) -> list[Tensor]:
        config, shrunk, skips = self.config, x, [next(modules)(x)]
        for stage, attends in enumerate(config.attention):
            for _ in range(config.blocks):
                h = next(modules)(skips[-1], time)
                skips.append(next(modules)(h) if attends else h)
            if stage < len(config.attention) - 1:
                h = next(modules)(skips[-1], time)
                if config.inputs != "none":
                    shrunk = next(modules)(shrunk)
                if config.inputs == "input_skip":
                    h = next(modules)(shrunk, h)
                elif config.inputs == "residual":
                    h = shrunk = summed(config, shrunk, h)
                skips.append(h)
        return skips

    def _up(self, h: Tensor, time: Tensor, skips: list[Tensor], modules: Iterator[nn.Module]) -> Tensor:
        config, last = self.config, len(self.config.attention) - 1
        image: Tensor | None = None
        for stage in range(last, -1, -1):
            for _ in range(config.blocks + 1):
                h = next(modules)(torch.cat((h, skips.pop()), dim=1), time)
            if config.attention[stage]:
                h = next(modules)(h)
            if config.outputs:
                grown = None if image is None else next(modules)(image)
                norm, convolution = next(modules), next(modules)
                image = convolution(F.silu(norm(h))) + (0 if grown is None else grown)
            if stage:
                h = next(modules)(h, time)
        if image is not None:
            return image
        norm, convolution = next(modules), next(modules)
        y: Tensor = convolution(F.silu(norm(h)))
        return y


class Waves(nn.Module):
    """Sines and cosines of log sigma at random frequencies."""

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.W = nn.Parameter(16 * torch.randn(frequencies), requires_grad=False)

    def forward(self, log_sigma: Tensor) -> Tensor:
        """Embed [b] as features [b, 2 frequencies], in its dtype."""
        angles = 2 * math.pi * log_sigma[:, None] * self.W.to(log_sigma.dtype)
        return torch.cat((angles.sin(), angles.cos()), dim=1)


class Dense(nn.Module):
    """A linear map of each pixel's channels, with the weights transposed."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(in_channels, out_channels) / in_channels**0.5)
        self.b = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, in_channels, h, w] to [b, out_channels, h, w]."""
        return torch.einsum("bihw,io->bohw", x, self.W) + self.b[:, None, None]


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions with the time added in between, around a shortcut; perhaps resampling."""

    def __init__(
        self,
        config: ScoreUNetConfig,
        in_channels: int,
        out_channels: int,
        direction: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.resample = config, nn.Identity() if direction is None else RESAMPLINGS[direction](config.fir)
        self.GroupNorm_0 = config.norm(in_channels)
        self.Conv_0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.Dense_0 = nn.Linear(4 * config.width, out_channels)
        self.GroupNorm_1 = config.norm(out_channels)
        self.Conv_1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = in_channels != out_channels or direction is not None
        if self.shortcut and config.residual == "biggan":
            self.Conv_2 = nn.Conv2d(in_channels, out_channels, 1)
        elif self.shortcut:
            self.NIN_0 = Dense(in_channels, out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map [b, in_channels, h, w] and the time's embedding, SiLU applied, to [b, out_channels, h', w']."""
        h = self.Conv_0(self.resample(F.silu(self.GroupNorm_0(x)))) + self.Dense_0(time)[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        x = self.resample(x)
        if self.shortcut:
            x = (self.Conv_2 if self.config.residual == "biggan" else self.NIN_0)(x)
        return summed(self.config, x, h)


class Attention(nn.Module):
    """Self-attention among the pixels of a feature map, with one head, around a shortcut."""

    def __init__(self, config: ScoreUNetConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.GroupNorm_0 = config.norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (Dense(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, c, h, w] to the same shape."""
        h = self.GroupNorm_0(x)
        q, k, v = (project(h).flatten(2).transpose(1, 2)[:, None] for project in (self.NIN_0, self.NIN_1, self.NIN_2))
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return summed(self.config, x, self.NIN_3(mixed))


class Combine(nn.Module):
    """Adds the shrunk input, through a 1x1 convolution, to a feature map."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, shrunk: Tensor, h: Tensor) -> Tensor:
        """Map [b, in_channels, h, w] and [b, out_channels, h, w] to the latter's shape."""
        y: Tensor = self.Conv_0(shrunk) + h
        return y


class Halving(nn.Module):
    """Halves height and width, by a mean or a filter, or by a 3x3 convolution of stride 2 on top of the filter."""

    def __init__(self, fir: bool, in_channels: int | None = None, out_channels: int | None = None) -> None:
        super().__init__()
        self.fir, self.name = fir, "Conv2d_0" if fir else "Conv_0"
        self.convolves = in_channels is not None and out_channels is not None
        if in_channels is not None and out_channels is not None:
            self.add_module(self.name, nn.Conv2d(in_channels, out_channels, 3, stride=2))

    def forward(self, x: Tensor, _time: Tensor | None = None) -> Tensor:
        """Map [b, in_channels, h, w] to [b, out_channels, h / 2, w / 2]."""
        if not self.convolves:
            return F.conv2d(x, taps(x), stride=2, padding=1, groups=x.shape[1]) if self.fir else F.avg_pool2d(x, 2)
        x = F.conv2d(x, taps(x), padding=2, groups=x.shape[1]) if self.fir else F.pad(x, (0, 1, 0, 1))
        y: Tensor = self.get_submodule(self.name)(x)
        return y


class Doubling(nn.Module):
    """Doubles height and width, by the nearest neighbour or a filter; after the former there may be a convolution."""

    def __init__(self, fir: bool, channels: int | None = None) -> None:
        super().__init__()
        self.fir = fir
        if channels is not None:
            self.Conv_0 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, _time: Tensor | None = None) -> Tensor:
        """Map [b, channels, h, w] to [b, channels, 2 h, 2 w]."""
        if self.fir:
            return F.conv_transpose2d(x, 4 * taps(x), stride=2, padding=1, groups=x.shape[1])
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.Conv_0(x) if hasattr(self, "Conv_0") else x


RESAMPLINGS = {"down": Halving, "up": Doubling}


def taps(x: Tensor) -> Tensor:
    """The filter (1, 3, 3, 1) / 8 in both directions, for each channel of x: [c, 1, 4, 4]."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    return (line[:, None] * line).expand(x.shape[1], 1, 4, 4)


def summed(config: ScoreUNetConfig, x: Tensor, h: Tensor) -> Tensor:
    """The sum of a shortcut and what it goes around."""
    return (x + h) / math.sqrt(2) if config.rescale else x + h
