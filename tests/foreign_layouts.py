"""Networks laid out as other projects lay theirs out: their published key names, and what a key's layer does.

Written for these tests alone, plainly, so that they share nothing with the networks that they check.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def waves(k, features, last, cosine_first):
    """Sines and cosines whose frequencies fall from 1 to 1/10000 at index `last`."""
    frequencies = torch.exp(torch.arange(features // 2, dtype=k.dtype) * (-math.log(10000) / last))
    angles = k[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()] if cosine_first else [angles.sin(), angles.cos()], 1)


# --- ermongroup/ddim, pesser/pytorch_diffusion ---


class DdimBlock(nn.Module):
    def __init__(self, inputs, outputs, embedding):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, inputs, 1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.temb_proj = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(32, outputs, 1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, embedding):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class DdimAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bci,bcj->bij", q, k).div(q.shape[1] ** 0.5).softmax(2)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))


class Ddim(nn.Module):
    def __init__(self, ch=32, ch_mult=(1, 2), blocks=1, attention=(False, True), convolves=True, channels=3):
        super().__init__()
        self.ch, self.attention = ch, attention
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, 4 * ch), nn.Linear(4 * ch, 4 * ch)])
        self.conv_in = nn.Conv2d(channels, ch, 3, 1, 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        widths, skips, width = [ch * mult for mult in ch_mult], [ch], ch
        for level, out in enumerate(widths):
            stage = nn.Module()
            stage.block, stage.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks):
                stage.block.append(DdimBlock(width, out, 4 * ch))
                width = out
                skips.append(width)
                if attention[level]:
                    stage.attn.append(DdimAttention(width))
            if level < len(widths) - 1:
                stage.downsample = nn.Module()
                if convolves:
                    stage.downsample.conv = nn.Conv2d(width, width, 3, 2, 0)
                skips.append(width)
            self.down.append(stage)
        self.mid = nn.Module()
        self.mid.block_1 = DdimBlock(width, width, 4 * ch)
        self.mid.attn_1 = DdimAttention(width)
        self.mid.block_2 = DdimBlock(width, width, 4 * ch)
        for level, out in reversed(list(enumerate(widths))):
            stage = nn.Module()
            stage.block, stage.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks + 1):
                stage.block.append(DdimBlock(width + skips.pop(), out, 4 * ch))
                width = out
                if attention[level]:
                    stage.attn.append(DdimAttention(width))
            if level:
                stage.upsample = nn.Module()
                if convolves:
                    stage.upsample.conv = nn.Conv2d(width, width, 3, 1, 1)
            self.up.insert(0, stage)
        self.norm_out = nn.GroupNorm(32, width, 1e-6)
        self.conv_out = nn.Conv2d(width, channels, 3, 1, 1)

    def forward(self, x, k):
        first, second = self.temb.dense
        embedding = second(F.silu(first(waves(k.to(x.dtype), self.ch, self.ch // 2 - 1, cosine_first=False))))
        maps = [self.conv_in(x)]
        for stage in self.down:
            for index, block in enumerate(stage.block):
                h = block(maps[-1], embedding)
                maps.append(stage.attn[index](h) if len(stage.attn) else h)
            if hasattr(stage, "downsample"):
                h = maps[-1]
                convolves = hasattr(stage.downsample, "conv")
                maps.append(stage.downsample.conv(F.pad(h, (0, 1, 0, 1))) if convolves else F.avg_pool2d(h, 2))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(maps[-1], embedding)), embedding)
        for stage in reversed(self.up):
            for index, block in enumerate(stage.block):
                h = block(torch.cat([h, maps.pop()], 1), embedding)
                h = stage.attn[index](h) if len(stage.attn) else h
            if hasattr(stage, "upsample"):
                h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                h = stage.upsample.conv(h) if hasattr(stage.upsample, "conv") else h
        return self.conv_out(F.silu(self.norm_out(h)))


# --- openai/improved-diffusion, openai/guided-diffusion ---


class OpenaiBlock(nn.Module):
    def __init__(self, inputs, outputs, embedding, scaled, change=None):
        super().__init__()
        self.scaled, self.change = scaled, change
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, 1, 1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs * (1 + scaled)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, embedding):
        norm, silu, conv = self.in_layers
        h = silu(norm(x))
        if self.change is not None:
            h, x = self.change(h), self.change(x)
        h, extra = conv(h), self.emb_layers(embedding)[:, :, None, None]
        norm, silu, dropout, conv = self.out_layers
        if self.scaled:
            scale, shift = extra.chunk(2, 1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + extra)
        return self.skip_connection(x) + conv(dropout(silu(h)))


class OpenaiAttention(nn.Module):
    def __init__(self, width, heads, by_kind):
        super().__init__()
        self.heads, self.by_kind = heads, by_kind
        self.norm = nn.GroupNorm(32, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x):
        b, c, *_ = x.shape
        rows = self.qkv(self.norm(x).flatten(2))
        if self.by_kind:
            q, k, v = (part.reshape(b, self.heads, c // self.heads, -1) for part in rows.chunk(3, 1))
        else:
            q, k, v = rows.reshape(b, self.heads, 3 * c // self.heads, -1).chunk(3, 2)
        weights = torch.einsum("bhci,bhcj->bhij", q, k).div((c // self.heads) ** 0.5).softmax(3)
        h = torch.einsum("bhij,bhcj->bhci", weights, v).reshape(b, c, -1)
        return x + self.proj_out(h).reshape(x.shape)


class Halve(nn.Module):
    def __init__(self, width, convolves):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, 2, 1) if convolves else nn.AvgPool2d(2)

    def forward(self, x):
        return self.op(x)


class Double(nn.Module):
    def __init__(self, width=None):
        super().__init__()
        if width:
            self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x):
        h = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.conv(h) if hasattr(self, "conv") else h


class Openai(nn.Module):
    """`heads` a number of heads, or minus their size; `resample` is conv, resnet or plain."""

    def __init__(
        self, width=32, mult=(1, 2), blocks=1, attention=(False, True), heads=4, by_kind=False, scaled=True,
        resample="conv", channels=3, outputs=3, classes=None, rescale=None,
    ):  # fmt: skip
        super().__init__()
        self.width, self.rescale, wide = width, rescale, 4 * width

        def attend(size):
            return OpenaiAttention(size, heads if heads > 0 else size // -heads, by_kind)

        def change(size, layer, kind):
            return OpenaiBlock(size, size, wide, scaled, kind()) if resample == "resnet" else layer

        self.time_embed = nn.Sequential(nn.Linear(width, wide), nn.SiLU(), nn.Linear(wide, wide))
        if classes:
            self.label_emb = nn.Embedding(classes, wide)
        size = int(width * mult[0])
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(channels, size, 3, 1, 1)])])
        self.output_blocks, sizes = nn.ModuleList(), [size]
        for level, factor in enumerate(mult):
            out = int(width * factor)
            for _ in range(blocks):
                layers = [OpenaiBlock(size, out, wide, scaled)] + [attend(out)] * attention[level]
                size = out
                self.input_blocks.append(nn.ModuleList(layers))
                sizes.append(size)
            if level < len(mult) - 1:
                halve = change(size, Halve(size, resample == "conv"), lambda: nn.AvgPool2d(2))
                self.input_blocks.append(nn.ModuleList([halve]))
                sizes.append(size)
        around = (OpenaiBlock(size, size, wide, scaled), attend(size), OpenaiBlock(size, size, wide, scaled))
        self.middle_block = nn.ModuleList(around)
        for level, factor in reversed(list(enumerate(mult))):
            out = int(width * factor)
            for index in range(blocks + 1):
                layers = [OpenaiBlock(size + sizes.pop(), out, wide, scaled)] + [attend(out)] * attention[level]
                size = out
                if level and index == blocks:
                    layers.append(change(size, Double(size if resample == "conv" else None), Double))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(32, size), nn.SiLU(), nn.Conv2d(size, outputs, 3, 1, 1))

    def forward(self, x, k, y=None):
        k = k.to(x.dtype) * (1 if self.rescale is None else 1000 / self.rescale)
        embedding = self.time_embed(waves(k, self.width, self.width // 2, cosine_first=True))
        if y is not None:
            embedding = embedding + self.label_emb(y)

        def through(layers, h):
            for layer in layers:
                h = layer(h, embedding) if isinstance(layer, OpenaiBlock) else layer(h)
            return h

        maps, h = [], x
        for layers in self.input_blocks:
            h = through(layers, h)
            maps.append(h)
        h = through(self.middle_block, h)
        for layers in self.output_blocks:
            h = through(layers, torch.cat([h, maps.pop()], 1))
        return self.out(h)
