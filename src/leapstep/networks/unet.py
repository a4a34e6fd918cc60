"""The U-Net of denoising diffusion: an image and a timestep in, an image out.

    conv_in -> down_blocks -> mid_block -> up_blocks -> conv_norm_out, SiLU, conv_out

Each stage halves the height and width, then the way up doubles them again; every feature map on the way down is
concatenated to its counterpart on the way up (skips). A stage is a row of residual blocks, each one followed by
self-attention where the stage has it:

    h = conv1(SiLU(norm1(x))) + time_emb_proj(embedding)
    y = shortcut(x) + conv2(dropout(SiLU(norm2(h))))

The embedding may enter after the second normalisation instead, as a scale and a shift (`scale_shift`):

    h = (1 + scale) norm2(conv1(SiLU(norm1(x)))) + shift        scale, shift = time_emb_proj(embedding)
    y = shortcut(x) + conv2(dropout(SiLU(h)))

All of it may work on squares of pixels instead of pixels (`patch`): [c, h, w] becomes [c patch^2, h / patch, w / patch]
before `conv_in`, and what `conv_out` gives becomes pixels again. Pixels then cost patch^2 times less.

It is the same function, with the same parameter names, as `UNet2DModel` of diffusers for every configuration that
`leapstep.networks.layout` translates, so that weights move between the two unchanged.

A network starts as zero: the last convolution of every residual block, the last projection of every attention and
`conv_out` begin with zero weights, as Ho et al. do, so that each block starts as its shortcut.

References:
    Ronneberger, Fischer, Brox (2015), U-Net, arXiv:1505.04597.
    Ho, Jain, Abbeel (2020), Denoising Diffusion Probabilistic Models, appendix B, arXiv:2006.11239.
    Nichol and Dhariwal (2021), section 3 (several heads, scale and shift), arXiv:2102.09672.
    Dhariwal and Nichol (2021), section 3 (head channels, residual resampling), arXiv:2105.05233.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_images, check_stages
from .embedding import Conditioned, Conditioning, Sinusoids, zeroed

__all__ = ["UNet", "UNetConfig"]


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Conditioning):
    """The shape of a `UNet`; the defaults are the CIFAR-10 network of Ho et al. (google/ddpm-cifar10-32).

    Arguments:
        in_channels: channels of the input.
        out_channels: channels of the output; None for as many as the input.
        patch: side of the squares of pixels that the stages see as one pixel of patch^2 as many channels; 1 for none.
        channels: feature channels of each stage, finest first; the time embedding is four times as wide as the first.
        blocks: residual blocks per stage on the way down; there is one more on the way up.
        attention: for each stage, whether self-attention follows each residual block.
        middle_attention: whether self-attention stands between the two residual blocks in the middle.
        head_channels: channels of an attention head; None for one head as wide as the stage.
        heads: attention heads at every stage, however wide; instead of `head_channels`.
        scale_shift: the embedding scales and shifts what the second normalisation gives, instead of being added before.
        resample: how a stage halves and doubles the size: "conv" (a 3x3 convolution), "resnet" (a residual block around
            averaging or repeating pixels), or "plain" (that alone).
        groups: groups of each group normalisation.
        norm_eps: what each group normalisation adds to the variance.
        downsample_padding: 1 pads all four sides before a strided convolution; 0 only the right and the bottom.
        flip_sin_to_cos: cosines before sines in the sinusoidal time embedding.
        freq_shift: see `Sinusoids`.
        time_features: features of a timestep, a quarter of the embedding's width; None for as many as `channels[0]`.
        time_scale: what a timestep is multiplied by before its sines are taken.
        time_embedding, timesteps, classes, dropout: see `Conditioning`.

    Raises:
        ValueError: if the values do not fit together.
    """

    in_channels: int = 3
    out_channels: int | None = None
    patch: int = 1
    channels: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int = 2
    attention: tuple[bool, ...] = (False, True, False, False)
    middle_attention: bool = True
    head_channels: int | None = None
    heads: int | None = None
    scale_shift: bool = False
    resample: Literal["conv", "resnet", "plain"] = "conv"
    groups: int = 32
    norm_eps: float = 1e-6
    downsample_padding: int = 0
    flip_sin_to_cos: bool = False
    freq_shift: float = 1
    time_features: int | None = None
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = (self.in_channels, self.out_channels or 1, self.patch, self.blocks, self.groups, len(self.channels))
        if min(counts) < 1:
            raise ValueError(
                "in_channels, out_channels, patch, blocks, groups and the number of stages must be at least 1"
            )
        check_stages(self, len(self.channels), "attention")
        if any(width < 1 or width % self.groups for width in self.channels):
            raise ValueError(
                f"channels {self.channels} are not all multiples of groups={self.groups};"
                " give widths that are, or other groups"
            )
        self._check_heads()
        if self.time_embedding == "learned" and self.time_scale != 1:
            raise ValueError(f"time_scale={self.time_scale} does not apply to a learned table; leave it at 1")
        if self.downsample_padding not in (0, 1):
            raise ValueError(
                f"downsample_padding is {self.downsample_padding}; use 0 (right and bottom) or 1 (all sides)"
            )

    def _check_heads(self) -> None:
        if self.heads is not None and self.head_channels is not None:
            raise ValueError(f"heads={self.heads} and head_channels={self.head_channels} are both given; give one")
        name = "head_channels" if self.heads is None else "heads"
        divisor = getattr(self, name)
        if divisor is not None and (divisor < 1 or any(width % divisor for width in self._attending())):
            raise ValueError(
                f"{name}={divisor} does not divide the channels {self._attending()} where attention stands;"
                " give a common divisor, or None for one head"
            )

    @property
    def embedding_width(self) -> int:
        """Width of the embedding that every residual block projects."""
        return 4 * (self.time_features or self.channels[0])

    def _attending(self) -> list[int]:
        """List the channels of the stages with attention, the middle's last."""
        stages = [width for width, attends in zip(self.channels, self.attention, strict=True) if attends]
        return stages + [self.channels[-1]] * self.middle_attention


class UNet(Conditioned):
    """The U-Net of Ho et al. (2020).

    Arguments:
        config: the network's shape; kept as `.config`.
        options: fields of `UNetConfig` that replace those of `config`: `UNet(in_channels=1)`.

    Raises:
        ValueError: if the configuration does not fit together.

    References:
        Ho, Jain, Abbeel (2020), appendix B, arXiv:2006.11239.
    """

    def __init__(self, config: UNetConfig | None = None, **options: Any) -> None:
        self.config = config = replace(config or UNetConfig(), **options)
        first, last = config.channels[0], config.channels[-1]
        sinusoids = Sinusoids(
            config.time_features or first,
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
            scale=config.time_scale,
        )
        super().__init__(config, sinusoids, width=config.embedding_width)

        self.conv_in = nn.Conv2d(config.in_channels * config.patch**2, first, 3, padding=1)
        skips = [first]  # the channels of every feature map that the way up will meet again
        self.down_blocks = nn.ModuleList(DownBlock(config, stage, skips) for stage in range(len(config.channels)))
        self.mid_block = MiddleBlock(config)
        self.up_blocks = nn.ModuleList()
        width = last
        for stage in reversed(range(len(config.channels))):
            self.up_blocks.append(UpBlock(config, stage, width, skips))
            width = config.channels[stage]
        self.conv_norm_out = nn.GroupNorm(config.groups, first, config.norm_eps)
        out_channels = (config.out_channels or config.in_channels) * config.patch**2
        self.conv_out = zeroed(nn.Conv2d(first, out_channels, 3, padding=1))

    def forward(self, x: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Arguments:
            x: images [b, c, h, w]; h and w multiples of patch 2^(stages - 1).
            timestep: [b], 0-dim or a number; integers, or fractions between them.
            class_labels: [b] or 0-dim, integers in 0 .. classes - 1; None for a network without labels.

        Returns:
            [b, out_channels, h, w].

        Raises:
            ValueError: if x or the timestep has another shape, the timestep is half precision, or labels are missing
                or not expected.
        """
        patch = self.config.patch
        check_images(x, self.config.in_channels, len(self.config.channels), patch)
        embedding = self.embed(x, timestep, class_labels)
        skips = [self.conv_in(F.pixel_unshuffle(x, patch) if patch > 1 else x)]
        for block in self.down_blocks:
            skips += block(skips[-1], embedding)
        h = self.mid_block(skips[-1], embedding)
        for block in self.up_blocks:
            h = block(h, embedding, skips)
        y: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return F.pixel_shuffle(y, patch) if patch > 1 else y


class DownBlock(nn.Module):
    """One stage on the way down; appends the channels of its feature maps to `skips`."""

    def __init__(self, config: UNetConfig, stage: int, skips: list[int]) -> None:
        super().__init__()
        width, attends = config.channels[stage], config.attention[stage]
        self.resnets = nn.ModuleList()
        for _ in range(config.blocks):
            self.resnets.append(ResidualBlock(config, skips[-1], width))
            skips.append(width)
        self.attentions = nn.ModuleList(attention(config, width, attends) for _ in self.resnets)
        self.downsamplers = nn.ModuleList()
        if stage < len(config.channels) - 1:
            residual = config.resample == "resnet"
            self.downsamplers.append(
                ResidualBlock(config, width, width, halved) if residual else Downsample(config, width)
            )
            skips.append(width)

    def forward(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """Return all feature maps; the last one is the next stage's input."""
        maps = []
        for resnet, attend in zip(self.resnets, self.attentions, strict=True):
            x = attend(resnet(x, embedding))
            maps.append(x)
        for downsample in self.downsamplers:
            maps.append(downsample(x, embedding))
        return maps


class MiddleBlock(nn.Module):
    """A residual block, attention, and another residual block, at the coarsest stage."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.channels[-1]
        self.resnets = nn.ModuleList(ResidualBlock(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([attention(config, width, config.middle_attention)])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map [b, c, h, w] to the same shape."""
        before, after = self.resnets
        y: Tensor = after(self.attentions[0](before(x, embedding)), embedding)
        return y


class UpBlock(nn.Module):
    """One stage on the way up; takes the channels that it concatenates from the end of `skips`."""

    def __init__(self, config: UNetConfig, stage: int, in_channels: int, skips: list[int]) -> None:
        super().__init__()
        width, attends = config.channels[stage], config.attention[stage]
        self.resnets = nn.ModuleList()
        for _ in range(config.blocks + 1):
            self.resnets.append(ResidualBlock(config, in_channels + skips.pop(), width))
            in_channels = width
        self.attentions = nn.ModuleList(attention(config, width, attends) for _ in self.resnets)
        self.upsamplers = nn.ModuleList()
        if stage > 0:
            residual = config.resample == "resnet"
            self.upsamplers.append(
                ResidualBlock(config, width, width, doubled) if residual else Upsample(config, width)
            )

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """Map [b, in_channels, h, w] to the next stage's input, taking feature maps from the end of `skips`."""
        for resnet, attend in zip(self.resnets, self.attentions, strict=True):
            x = attend(resnet(torch.cat((x, skips.pop()), dim=1), embedding))
        for upsample in self.upsamplers:
            x = upsample(x, embedding)
        return x


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions, the embedding coming in between, around a shortcut.

    Arguments:
        resample: changes the size of both what is convolved and what takes the shortcut; None leaves it.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        resample: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.scale_shift = config.scale_shift
        self.norm1 = nn.GroupNorm(config.groups, in_channels, config.norm_eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.embedding_width, out_channels * (2 if config.scale_shift else 1))
        self.norm2 = nn.GroupNorm(config.groups, out_channels, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map [b, in_channels, h, w] and the embedding [b, width] to [b, out_channels, h, w], or to another size."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h, condition = self.conv1(h), self.time_emb_proj(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, 1 + scale, self.norm2(h))
        else:
            h = self.norm2(h + condition)
        y: Tensor = self.conv_shortcut(x) + self.conv2(self.dropout(F.silu(h)))
        return y


class Attention(nn.Module):
    """Self-attention among the pixels of a feature map, around a shortcut."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.heads = config.heads or channels // (config.head_channels or channels)
        self.group_norm = nn.GroupNorm(config.groups, channels, config.norm_eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(zeroed(nn.Linear(channels, channels)))

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, c, h, w] to the same shape."""
        batch, channels, height, width = x.shape
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)  # [b, h w, c]
        q, k, v = (
            project(pixels).reshape(batch, height * width, self.heads, -1).transpose(1, 2)  # [b, heads, h w, c / heads]
            for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y: Tensor = x + self.to_out(mixed).transpose(1, 2).reshape(batch, channels, height, width)
        return y


def attention(config: UNetConfig, channels: int, attends: bool) -> nn.Module:
    """Build attention, or what stands in its place where there is none."""
    return Attention(config, channels) if attends else nn.Identity()


def halved(x: Tensor) -> Tensor:
    """Average each 2 x 2 pixels."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Repeat each pixel 2 x 2 times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, or averaging alone; the embedding is not used."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        convolves, self.padding = config.resample == "conv", config.downsample_padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=self.padding) if convolves else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map [b, c, h, w] to [b, c, h / 2, w / 2]."""
        if self.conv is None:
            return halved(x)
        y: Tensor = self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))
        return y


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution if there is one; the embedding is not used."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if config.resample == "conv" else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map [b, c, h, w] to [b, c, 2 h, 2 w]."""
        y: Tensor = self.conv(doubled(x))
        return y
