"""A small network for points, vectors and other data that are not images: a residual multilayer perceptron.

The data [b, *d] is flattened, mapped to `width` features, refined by `depth` residual blocks

    h <- h + linear_2(dropout(SiLU(linear_1(SiLU(norm(h))) + time_emb_proj(embedding))))

and mapped back. As in the U-Net, each block's last layer and the network's last layer begin as zero.

References:
    Ho, Jain, Abbeel (2020), Denoising Diffusion Probabilistic Models, arXiv:2006.11239, for the time embedding.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .embedding import Conditioned, Conditioning, Sinusoids, zeroed

__all__ = ["MLP", "MLPConfig"]


@dataclass(frozen=True, kw_only=True)
class MLPConfig(Conditioning):
    """The shape of an `MLP`.

    Arguments:
        shape: shape of one sample; () for scalars.
        width: features of every layer; even.
        depth: residual blocks.
        time_embedding, timesteps, classes, dropout: see `Conditioning`.

    Raises:
        ValueError: if a size is below 1.
    """

    shape: tuple[int, ...] = (2,)
    width: int = 128
    depth: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.shape, self.width, self.depth) < 1:
            raise ValueError(f"shape={self.shape}, width={self.width} and depth={self.depth} must all be at least 1")


class MLP(Conditioned):
    """A residual multilayer perceptron conditioned on the timestep.

    Arguments:
        config: the network's shape; kept as `.config`.
        options: fields of `MLPConfig` that replace those of `config`: `MLP(shape=(3,))`.

    Raises:
        ValueError: if a size is below 1 or `width` is odd.
    """

    def __init__(self, config: MLPConfig | None = None, **options: Any) -> None:
        self.config = config = replace(config or MLPConfig(), **options)
        super().__init__(config, Sinusoids(config.width), config.width)
        size = math.prod(config.shape)
        self.linear_in = nn.Linear(size, config.width)
        self.blocks = nn.ModuleList(ResidualBlock(config.width, config.dropout) for _ in range(config.depth))
        self.linear_out = zeroed(nn.Linear(config.width, size))

    def forward(self, x: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Arguments:
            x: samples [b, *shape].
            timestep: [b], 0-dim or a number; integers, or fractions between them.
            class_labels: [b] or 0-dim, integers in 0 .. classes - 1; None for a network without labels.

        Returns:
            [b, *shape].

        Raises:
            ValueError: if x or the timestep has another shape, the timestep is half precision, or labels are missing
                or not expected.
        """
        if x.shape[1:] != self.config.shape:
            raise ValueError(f"x has shape {list(x.shape)}; this network takes {['batch', *self.config.shape]}")
        embedding = self.embed(x, timestep, class_labels)
        h = self.linear_in(x.reshape(x.shape[0], -1))
        for block in self.blocks:
            h = block(h, embedding)
        y: Tensor = self.linear_out(F.silu(h))
        return y.reshape(x.shape)


class ResidualBlock(nn.Module):
    """Two linear layers with the embedding added in between, around a shortcut."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, width)
        self.time_emb_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.linear_2 = zeroed(nn.Linear(width, width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Map features [b, width] and the embedding [b, width] to [b, width]."""
        u = self.linear_1(F.silu(self.norm(h))) + self.time_emb_proj(embedding)
        y: Tensor = h + self.linear_2(self.dropout(F.silu(u)))
        return y
