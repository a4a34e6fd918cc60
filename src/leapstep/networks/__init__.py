"""Networks from a noisy sample and a timestep to a prediction; they need torch only and know nothing of diffusion.

A network here is called as `net(x, timestep, class_labels=None)` and returns a tensor. leapstep samples any
other module that maps `(x, timestep)` as well.
"""

from torch import nn

from .lucidrains import LucidUNet, LucidUNetConfig
from .mlp import MLP, MLPConfig
from .score_sde import ScoreUNet, ScoreUNetConfig
from .unet import UNet, UNetConfig

__all__ = [
    "CONFIGURATIONS",
    "MLP",
    "NETWORKS",
    "LucidUNet",
    "LucidUNetConfig",
    "MLPConfig",
    "ScoreUNet",
    "ScoreUNetConfig",
    "UNet",
    "UNetConfig",
]

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet, "mlp": MLP, "lucidrains": LucidUNet, "score_sde": ScoreUNet}
"""Every network that a run folder can hold, by the name of its folder; its `.config` has all arguments to build it."""

CONFIGURATIONS: dict[str, type] = {
    "unet": UNetConfig,
    "mlp": MLPConfig,
    "lucidrains": LucidUNetConfig,
    "score_sde": ScoreUNetConfig,
}
"""The dataclasses of these `.config`s."""
