"""What can be said of a network before it is called: whether it takes the arguments, and whether it is in training."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from leapstep.core.printing import name_of


class TrainingMode(UserWarning):
    """A network is in training mode, so that its samples are not what they could be."""


def takes(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> bool:
    """Whether a function can be called with these arguments, as far as its signature tells."""
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError:
        return False
    except ValueError:  # of a function without a signature
        return True
    return True


def checked(net: Any, conditions: Iterable[str]) -> None:
    """Check what can be told of a network without calling it.

    Raises:
        ValueError: it cannot be called as net(x, timestep), with these conditions besides.
    """
    if not callable(net) or isinstance(net, type):
        kind = "a class, not a network: make one of it" if isinstance(net, type) else "no network: pass what predicts"
        raise ValueError(f"net={name_of(net)} is {kind}, called as net(x, timestep)")
    function = net.forward if isinstance(net, nn.Module) else net
    keywords = dict.fromkeys(conditions)
    if not takes(function, None, None, **keywords):
        call = ", ".join(["x", "timestep", *(f"{name}=" for name in keywords)])
        raise ValueError(
            f"{name_of(net)} takes {inspect.signature(function)} and is called as net({call}): wrap it, as in "
            "lambda x, timestep: net(x, ...), or pass condition={...} for what it wants besides"
        )


def warn_of_training(net: Any) -> None:
    """Warn (`TrainingMode`) of a network that is in training mode, and has dropout or batch norm."""
    if isinstance(net, nn.Module) and (layer := next((part for part in net.modules() if _trains(part)), None)):
        warnings.warn(
            f"{name_of(net)} is in training mode, in which its {name_of(layer)} layers act otherwise: call net.eval()",
            TrainingMode,
            stacklevel=3,
        )


def _trains(layer: nn.Module) -> bool:
    """Whether a layer is in training mode, and does something else there."""
    if isinstance(layer, nn.MultiheadAttention):
        return layer.training and layer.dropout > 0
    drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
    return layer.training and (drops or isinstance(layer, nn.modules.batchnorm._NormBase))
