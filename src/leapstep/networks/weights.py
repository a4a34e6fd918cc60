"""Weights: reading them from files and loading them into a network, all of them or none.

A configuration is not trusted before it is compared with the weights. A network is first built as a `sketch` on the
meta device, where a billion channels take no memory. Only if the tensors of the file have the sketch's names and shapes
is it built with memory, so it is never larger than the file. Weights that are not floating point or not finite are
refused: one NaN would silently make every sample NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leapstep.files.reading import check_memory, regular
from leapstep.remedies import stands_in
from leapstep.text import one_line

Network = TypeVar("Network", bound=nn.Module)


class Misfit(ValueError):
    """The weights are those of another network."""


def read(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of a pickle that holds nothing but tensors by name.

    Raises:
        OSError: the file is missing, or cannot be read.
        ValueError: it is no such file, is truncated, or does not fit in memory.
    """
    path = regular(path)
    check_memory(path.stat().st_size, f"reading {path}")
    if placeholder := stands_in(path):
        raise ValueError(placeholder)
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            message = one_line(str(error))
            raise ValueError(f"{path} cannot be read ({message}): it is truncated or not a safetensors file") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; none of them may run the file's code
        raise ValueError(f"{path} was not loaded: it holds more than tensors, or is truncated") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} was not loaded: it holds more than tensors by name")
    check_sizes(state.items())
    return dict(state)


def check_sizes(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse tensors whose shape exceeds what the file stores, which a view with repeated values can do.

    Raises:
        ValueError: such a tensor.
    """
    for name, tensor in tensors:
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{one_line(name, 60)} claims the shape {list(tensor.shape)}, of which the file holds less"
            )


class _WithoutNormal(TorchFunctionMode):
    """Leave out `torch.nn.init.normal_`: a tensor without memory has no values, and there the call imports
    torch._dynamo, which takes longer than all else that it takes to load a model."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


def sketch(kind: type[Network], fields: Mapping[str, Any]) -> Network:
    """Build a network with names, shapes and a `config` but without memory; `fill` makes a real one from it.

    Arguments:
        kind: one of `leapstep.networks.NETWORKS`.
        fields: of its configuration.
    Raises:
        ValueError: fields that do not fit together.
    """
    try:
        with torch.device("meta"), _WithoutNormal():
            return kind(**fields)
    except (RuntimeError, ArithmeticError, TypeError) as error:  # as of more values than can be counted
        raise ValueError(
            f"no such network can be made ({one_line(str(error), 100)}): change its config.json"
        ) from error


def fill(network: Network, state: Mapping[str, Tensor], names: Mapping[str, str] | None = None) -> Network:
    """Build the network that a sketch describes, on the CPU, with these weights.

    Arguments:
        network: as `sketch` made it.
        state: under the network's own names.
        names: their names in the file, for error messages; default: the network's own.
    Raises:
        Misfit: tensors that are missing, unexpected or of another shape; the message names the first.
        ValueError: values that are not floating point where the network's are, or not finite; the first is named.
    """
    names = names or {}
    compare(network.state_dict(), state, names)
    real: Network = type(network)(network.config)
    real.load_state_dict(dict(state))
    check_finite(real, names)
    return real


def compare(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], names: Mapping[str, str] | None = None
) -> None:
    """Compare tensors with those that a network expects: names, shapes, and floating point or not.

    Raises:
        ValueError: as `fill`.
    """
    names = names or {}
    unexpected = [one_line(names.get(key, key), 100) for key in state if key not in expected]
    missing = [f"nothing for {key}" for key in expected if key not in state]
    if wrong := unexpected + missing:
        raise Misfit(f"{len(wrong)} keys did not fit, the first are {', '.join(wrong[:3])}")
    for key, value in expected.items():
        tensor, name = state[key], names.get(key, key)
        if tensor.shape != value.shape:
            raise Misfit(f"{name} did not fit: it is {list(tensor.shape)}, where {list(value.shape)} is expected")
        if value.is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{name} holds {kind}: weights are floating point; save the network before it is quantised"
            )


def check_finite(network: nn.Module, names: Mapping[str, str] | None = None) -> None:
    """Refuse a network with a weight or buffer that is NaN or infinite.

    Raises:
        ValueError: some are; the message names the first tensor.
    """
    for key, value in network.state_dict().items():
        if value.is_floating_point() and not (finite := value.isfinite()).all():
            bad = int((~finite).sum())
            raise ValueError(
                f"{(names or {}).get(key, key)} holds {bad} of {value.numel()} values that are NaN or infinite: the "
                "training diverged, or the file is damaged; take an earlier checkpoint"
            )
