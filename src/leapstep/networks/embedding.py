"""The embedding of a timestep and a label.

A timestep k, an integer or a fraction, becomes c features in one of two ways:

    sinusoidal   sin(k f_i) and cos(k f_i) with f_i = 10000^(-i / (c/2 - shift)), i = 0 .. c/2 - 1
    learned      row k of a trained table

A two-layer perceptron turns the features into one embedding per sample, the label's embedding is added, and every block
of the network adds its own projection of the sum. Timesteps are float32 (float64 where the data is) until they are
features, whatever the network's dtype: bfloat16 cannot hold integers above 256.

References:
    Ho, Jain, Abbeel (2020), Denoising Diffusion Probabilistic Models, appendix B, arXiv:2006.11239.
    Vaswani et al. (2017), Attention Is All You Need, section 3.5, arXiv:1706.03762.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_fields, one_per_sample

__all__ = ["Conditioned", "Conditioning", "Sinusoids", "Table", "zeroed"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What a network is conditioned on, and how.

    Arguments:
        time_embedding: "sinusoidal", or "learned" for a table with one row per timestep.
        timesteps: rows of the learned table; the timesteps are 0 .. timesteps - 1.
        classes: number of labels, or None for a network without labels.
        dropout: probability with which each feature inside a residual block is dropped in training.

    Raises:
        ValueError: if a value lies outside of what is listed here.
    """

    time_embedding: Literal["sinusoidal", "learned"] = "sinusoidal"
    timesteps: int = 1000
    classes: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.timesteps < 1:
            raise ValueError(f"timesteps is {self.timesteps}; a network needs at least 1")
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"classes is {self.classes}; give at least 1, or None for a network without labels")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; give a probability in [0, 1)")


class Sinusoids(nn.Module):
    """Sines and cosines of the timestep, at frequencies from 1 down to about 1/10000.

    Arguments:
        features: number of features c; even.
        flip_sin_to_cos: cosines before sines.
        freq_shift: the `shift` in f_i = 10000^(-i / (c/2 - shift)): 1 makes 1/10000 the last frequency (Ho et al.),
            0 the one after the last.
        scale: what each timestep is multiplied by first.

    Raises:
        ValueError: if `features` is odd, or leaves no more than `freq_shift` frequencies.
    """

    def __init__(
        self, features: int, *, flip_sin_to_cos: bool = False, freq_shift: float = 1, scale: float = 1
    ) -> None:
        super().__init__()
        if features % 2 or features <= 2 * freq_shift:
            raise ValueError(
                f"a time embedding cannot have {features} features; give an even number above {2 * freq_shift}"
            )
        self.features = features
        self.flip_sin_to_cos = flip_sin_to_cos
        self.freq_shift = freq_shift
        self.scale = scale

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed timesteps [b] as features [b, c], in the timesteps' dtype."""
        half = self.features // 2
        exponent = torch.arange(half, dtype=timestep.dtype, device=timestep.device)
        frequencies = torch.exp(-math.log(10000) * exponent / (half - self.freq_shift))
        angles = (timestep * self.scale)[:, None] * frequencies
        waves = (angles.cos(), angles.sin()) if self.flip_sin_to_cos else (angles.sin(), angles.cos())
        return torch.cat(waves, dim=1)


class Table(nn.Embedding):
    """A trained row for every timestep; a fraction takes the nearest row."""

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed timesteps [b] as features [b, c], in the table's dtype."""
        return super().forward(timestep.round().long())


class Perceptron(nn.Module):
    """Two linear layers with a SiLU in between."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [b, c], of any floating dtype, to [b, width] in the weights' dtype."""
        embedding: Tensor = self.linear_2(F.silu(self.linear_1(features.to(self.linear_1.weight.dtype))))
        return embedding


class Conditioned(nn.Module):
    """A network that is called as `(x, timestep, class_labels)`: the part that handles the latter two.

    Arguments:
        conditioning: the choices.
        sinusoids: the timestep's features; a learned table has as many.
        width: width of the embedding.
    """

    def __init__(self, conditioning: Conditioning, sinusoids: Sinusoids, width: int) -> None:
        super().__init__()
        learned = conditioning.time_embedding == "learned"
        self.time_proj = Table(conditioning.timesteps, sinusoids.features) if learned else sinusoids
        self.time_embedding = Perceptron(sinusoids.features, width)
        self.class_embedding = nn.Embedding(conditioning.classes, width) if conditioning.classes else None

    def embed(self, x: Tensor, timestep: Tensor | float, class_labels: Tensor | None) -> Tensor:
        """Embed what the network is conditioned on.

        Arguments:
            x: the network's input [b, *d]; it determines batch size, device and precision.
            timestep: [b], 0-dim or a number.
            class_labels: [b] or 0-dim, integers in 0 .. classes - 1; None for a network without labels.

        Returns:
            The embedding [b, width], with the SiLU that each block's projection starts with already applied.

        Raises:
            ValueError: if the timestep has another shape or is half precision; if labels are missing or not expected.
        """
        embedding = self.time_embedding(self.time_proj(one_per_sample(timestep, x)))
        if self.class_embedding is not None:
            if class_labels is None:
                raise ValueError(
                    f"this network has {self.class_embedding.num_embeddings} classes and was called without labels;"
                    " pass class_labels"
                )
            embedding = embedding + self.class_embedding(class_labels)
        elif class_labels is not None:
            raise ValueError("this network has no classes and was called with class_labels; leave them out")
        return F.silu(embedding)


def zeroed(layer: Layer) -> Layer:
    """Set a layer's weights to zero, so that it contributes nothing until it is trained, and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
