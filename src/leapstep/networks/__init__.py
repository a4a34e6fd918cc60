"""Networks that estimate noise from a noisy sample and a timestep; they need torch only and know nothing of diffusion.

A network here is called as `net(x, timestep, class_labels=None)` and returns a tensor. Any other module that maps
`(x, timestep)` serves leapstep as well.
"""

from .mlp import MLP, MLPConfig
from .unet import UNet, UNetConfig

__all__ = ["MLP", "MLPConfig", "UNet", "UNetConfig"]
