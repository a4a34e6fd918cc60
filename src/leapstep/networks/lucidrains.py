"""The U-Net of lucidrains' denoising-diffusion-pytorch, under that project's own parameter names.

    init_conv -> downs -> mid_block1, mid_attn, mid_block2 -> ups -> final_res_block, final_conv

Every stage is two residual blocks, attention and a resampling; each block's and each attention's output meets its
counterpart on the way up, and the first feature map meets the last. A block is modulated by the time,

    h = SiLU(norm(conv(x)) (1 + scale) + shift),        y = shortcut(x) + SiLU(norm(conv(h))).

Attention is linear in the number of pixels where it is not full: keys are normalised over the pixels, queries over the
channels, and a d x d context is all that pixels exchange. A few trained keys and values (`mem_kv`) join those of the
pixels. The three families of releases differ as follows; their parameters tell the last two apart.

    0.31.1 .. 1.6.4     group norms in weight-standardised blocks, layer norms around attention (`legacy`)
    1.8.0 .. 1.11       group norms in the blocks, root-mean-square norms in attention; memories since 1.9.0
    2.0.0 ..            root-mean-square norms everywhere

The network is for sampling: it has no dropout, which has no parameters.

References:
    https://github.com/lucidrains/denoising-diffusion-pytorch
    Shen et al. (2021), Efficient Attention: Attention with Linear Complexities, arXiv:1812.01243.
    Qiao et al. (2019), Micro-Batch Training with Batch-Channel Normalization and Weight Standardization,
    arXiv:1903.10520.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_fields, check_images, check_stages, one_per_sample
from .embedding import Sinusoids

__all__ = ["LucidUNet", "LucidUNetConfig"]


@dataclass(frozen=True, kw_only=True)
class LucidUNetConfig:
    """The shape of a `LucidUNet`; the defaults are the project's own.

    Arguments:
        channels: channels of the data.
        out_channels: channels of the output; None for as many as the data. Twice as many hold a learned variance.
        self_condition: whether the network was trained to take its last estimate of x0 besides x; it gets zeros,
            as it was in half of its training.
        dim: the time embedding is four times as wide, and has as many sinusoids.
        first: channels of the first convolution; None for `dim`.
        widths: the channels that each stage ends with, finest first.
        full: for each stage, whether its attention is full rather than linear.
        heads: heads of each stage's attention; the middle has those of the last.
        head_channels: channels of a head, for each stage.
        memories: trained keys and values of each head.
        groups: groups of the blocks' normalisation; 0 for the root-mean-square norm.
        time_embedding: "sinusoidal", or "fourier" for trained or random frequencies.
        frequencies: how many of the latter.
        legacy: the layers of releases 0.31.1 to 1.6.4.

    Raises:
        ValueError: if the values do not fit together.
    """

    classes: ClassVar[None] = None

    channels: int = 3
    out_channels: int | None = None
    self_condition: bool = False
    dim: int = 64
    first: int | None = None
    widths: tuple[int, ...] = (64, 128, 256, 512)
    full: tuple[bool, ...] = (False, False, False, True)
    heads: tuple[int, ...] = (4, 4, 4, 4)
    head_channels: tuple[int, ...] = (32, 32, 32, 32)
    memories: int = 4
    groups: int = 0
    time_embedding: Literal["sinusoidal", "fourier"] = "sinusoidal"
    frequencies: int = 8
    legacy: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        stages = len(self.widths)
        check_stages(self, stages, "full", "heads", "head_channels")
        positive = (self.channels, self.out_channels or 1, self.dim, self.first or 1, self.frequencies, stages)
        if min(*positive, *self.widths, *self.heads, *self.head_channels) < 1 or min(self.memories, self.groups) < 0:
            raise ValueError("channels, widths, heads, frequencies and the number of stages must be at least 1")
        if self.groups and any(width % self.groups for width in (self.first or self.dim, *self.widths)):
            raise ValueError(f"widths {self.widths} are not all multiples of groups={self.groups}")
        if self.legacy and (self.memories or not self.groups):
            raise ValueError("a legacy network has group norms and no memories: give groups=8, memories=0")

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The channels at each boundary between stages: one more than there are stages."""
        return (self.first or self.dim, *self.widths)


class LucidUNet(nn.Module):
    """The `Unet` of denoising-diffusion-pytorch.

    Arguments:
        config: the network's shape; kept as `.config`.
        options: fields of `LucidUNetConfig` that replace those of `config`.

    Raises:
        ValueError: if the configuration does not fit together.
    """

    def __init__(self, config: LucidUNetConfig | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = replace(config or LucidUNetConfig(), **options)
        boundaries, stages = config.boundaries, range(len(config.widths))
        self.init_conv = nn.Conv2d(config.channels * (1 + config.self_condition), boundaries[0], 7, padding=3)
        fourier = config.time_embedding == "fourier"
        self.time_mlp = nn.Sequential(
            Waves(config.frequencies) if fourier else Sinusoids(config.dim),
            nn.Linear(2 * config.frequencies + 1 if fourier else config.dim, 4 * config.dim),
            nn.GELU(),
            nn.Linear(4 * config.dim, 4 * config.dim),
        )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for stage in stages:
            fine, coarse, is_last = boundaries[stage], boundaries[stage + 1], stage == stages[-1]
            blocks = (ResidualBlock(config, fine, fine) for _ in range(2))
            after = nn.Conv2d(fine, coarse, 3, padding=1) if is_last else halving(fine, coarse)
            self.downs.append(DownStage([*blocks, attention(config, stage, fine), after]))
        self.mid_block1 = ResidualBlock(config, boundaries[-1], boundaries[-1])
        self.mid_attn = Attention(config, stages[-1], boundaries[-1])
        self.mid_block2 = ResidualBlock(config, boundaries[-1], boundaries[-1])
        for stage in reversed(stages):
            fine, coarse = boundaries[stage], boundaries[stage + 1]
            blocks = (ResidualBlock(config, coarse + fine, coarse) for _ in range(2))
            after = doubling(coarse, fine) if stage else nn.Conv2d(coarse, fine, 3, padding=1)
            self.ups.append(UpStage([*blocks, attention(config, stage, coarse), after]))
        self.final_res_block = ResidualBlock(config, 2 * boundaries[0], boundaries[0])
        self.final_conv = nn.Conv2d(boundaries[0], config.out_channels or config.channels, 1)

    def forward(self, x: Tensor, timestep: Tensor | float) -> Tensor:
        """Evaluate the network.

        Arguments:
            x: images [b, c, h, w]; h and w multiples of 2^(stages - 1).
            timestep: [b], 0-dim or a number.

        Returns:
            [b, out_channels, h, w].

        Raises:
            ValueError: if x or the timestep has another shape.
        """
        check_images(x, self.config.channels, len(self.config.widths))
        features = self.time_mlp[0](one_per_sample(timestep, x))
        time = self.time_mlp[1:](features.to(self.init_conv.weight.dtype))
        if self.config.self_condition:
            x = torch.cat((torch.zeros_like(x), x), dim=1)
        first = x = self.init_conv(x)
        skips: list[Tensor] = []
        for stage in self.downs:
            x = stage(x, time, skips)
        x = self.mid_block1(x, time)
        x = self.mid_block2(x + self.mid_attn(x), time)
        for stage in self.ups:
            x = stage(x, time, skips)
        y: Tensor = self.final_conv(self.final_res_block(torch.cat((x, first), dim=1), time))
        return y


class DownStage(nn.ModuleList):
    """Two residual blocks, attention and a resampling on the way down, under the keys 0 to 3."""

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor]) -> Tensor:
        """Return the next stage's input; two feature maps are appended to `skips`."""
        before, after, attend, resample = iter(self)
        skips.append(before(x, time))
        x = after(skips[-1], time)
        skips.append(x + attend(x))
        y: Tensor = resample(skips[-1])
        return y


class UpStage(nn.ModuleList):
    """Two residual blocks, attention and a resampling on the way up, under the keys 0 to 3."""

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor]) -> Tensor:
        """Return the next stage's input; two feature maps are taken from the end of `skips`."""
        before, after, attend, resample = iter(self)
        x = before(torch.cat((x, skips.pop()), dim=1), time)
        x = after(torch.cat((x, skips.pop()), dim=1), time)
        y: Tensor = resample(x + attend(x))
        return y


class Waves(nn.Module):
    """The timestep itself, and its sines and cosines at trained or random frequencies."""

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(frequencies))

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed timesteps [b] as features [b, 1 + 2 frequencies], in the timesteps' dtype."""
        angles = 2 * math.pi * timestep[:, None] * self.weights.to(timestep.dtype)
        return torch.cat((timestep[:, None], angles.sin(), angles.cos()), dim=1)


class RMSNorm(nn.Module):
    """Each pixel's channels, scaled to a root mean square of 1, times a trained factor a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, c, h, w] to the same shape."""
        y: Tensor = F.normalize(x, dim=1) * (self.g * x.shape[1] ** 0.5)
        return y


class LayerNorm(RMSNorm):
    """Each pixel's channels, brought to mean 0 and variance 1, times a trained factor a channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, c, h, w] to the same shape."""
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        y: Tensor = (x - mean) * (variance + 1e-5).rsqrt() * self.g
        return y


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose filters are brought to mean 0 and variance 1."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve [b, c, h, w]."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        y: Tensor = self._conv_forward(input, (self.weight - mean) * (variance + 1e-5).rsqrt(), self.bias)
        return y


class Block(nn.Module):
    """A 3x3 convolution, a norm, perhaps a modulation, and a SiLU."""

    def __init__(self, config: LucidUNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        convolution = StandardisedConv2d if config.legacy else nn.Conv2d
        self.proj = convolution(in_channels, out_channels, 3, padding=1)
        self.norm = nn.GroupNorm(config.groups, out_channels) if config.groups else RMSNorm(out_channels)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Map [b, in_channels, h, w] to [b, out_channels, h, w]; modulation: scale and shift [b, 2 out_channels]."""
        x = self.norm(self.proj(x))
        if modulation is not None:
            scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
            x = x * (scale + 1) + shift
        return F.silu(x)


class ResidualBlock(nn.Module):
    """Two blocks, the first modulated by the time, around a shortcut."""

    def __init__(self, config: LucidUNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.dim, 2 * out_channels))
        self.block1 = Block(config, in_channels, out_channels)
        self.block2 = Block(config, out_channels, out_channels)
        self.res_conv = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map [b, in_channels, h, w] and the time embedding [b, 4 dim] to [b, out_channels, h, w]."""
        y: Tensor = self.res_conv(x) + self.block2(self.block1(x, self.mlp(time)))
        return y


class Attention(nn.Module):
    """Full self-attention among the pixels and the memories."""

    def __init__(self, config: LucidUNetConfig, stage: int, channels: int) -> None:
        super().__init__()
        self.heads, size = config.heads[stage], config.head_channels[stage]
        width = self.heads * size
        self.norm = LayerNorm(channels) if config.legacy else RMSNorm(channels)
        self.mem_kv: nn.Parameter | None = None
        if config.memories:
            self.mem_kv = nn.Parameter(self.arranged(torch.randn(2, self.heads, config.memories, size)))
        self.to_qkv = nn.Conv2d(channels, 3 * width, 1, bias=False)
        self.to_out: nn.Module = nn.Conv2d(width, channels, 1)

    def arranged(self, memories: Tensor) -> Tensor:
        """Turn memories [2, heads, n, head_channels] into what `mem_kv` is, or back."""
        return memories

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, c, h, w] to the same shape."""
        batch, _, height, width = x.shape
        q, k, v = self.to_qkv(self.norm(x)).reshape(batch, 3, self.heads, -1, height * width).transpose(3, 4).unbind(1)
        if self.mem_kv is not None:
            memories = self.arranged(self.mem_kv)[:, None].expand(-1, batch, -1, -1, -1)
            k, v = (torch.cat(pair, dim=2) for pair in zip(memories, (k, v), strict=True))
        y: Tensor = self.to_out(self.mix(q, k, v).transpose(2, 3).reshape(batch, -1, height, width))
        return y

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend, with queries, keys and values [b, heads, n, head_channels]."""
        return F.scaled_dot_product_attention(q, k, v)


class LinearAttention(Attention):
    """Attention at a cost that is linear in the number of pixels."""

    def __init__(self, config: LucidUNetConfig, stage: int, channels: int) -> None:
        super().__init__(config, stage, channels)
        self.averages = config.legacy
        self.to_out = nn.Sequential(self.to_out, LayerNorm(channels) if config.legacy else RMSNorm(channels))

    def arranged(self, memories: Tensor) -> Tensor:
        """Turn memories [2, heads, n, head_channels] into what `mem_kv` is, with n last, or back."""
        return memories.transpose(2, 3)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend, with queries, keys and values [b, heads, n, head_channels]."""
        context = k.softmax(dim=2).transpose(2, 3) @ (v / v.shape[2] if self.averages else v)
        y: Tensor = q.softmax(dim=3) @ context * q.shape[3] ** -0.5
        return y


def attention(config: LucidUNetConfig, stage: int, channels: int) -> Attention:
    """Build the attention that a stage has."""
    return (Attention if config.full[stage] else LinearAttention)(config, stage, channels)


def halving(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build what halves height and width: each 2x2 square of pixels becomes one, of four times the channels."""
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * in_channels, out_channels, 1))


def doubling(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build what doubles height and width: the nearest neighbour, then a 3x3 convolution."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(in_channels, out_channels, 3, padding=1)
    )
