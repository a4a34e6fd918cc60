"""Weights that several processes share, each keeping a part of every tensor: PyTorch's fully sharded data parallel.

Each process keeps an n-th of the rows of every weight, and the same of its average, its gradient and the optimiser's
moments. A block of the network is put together on all processes when it is called, and taken apart again after that.
So a network can be trained whose weights, gradients, average and moments, five tensors of a size, do not fit on one
device.

Checkpoints hold whole tensors, as those of one process do: they are put together one at a time and kept by the main
process, outside of its device, so any number of processes goes on from them, sharded or not.

References:
    Zhao et al. (2023), PyTorch FSDP, arXiv:2304.11277; version 2, `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def shard(network: nn.Module, device: torch.device, processes: int) -> None:
    """Keep of each weight of a network only this process's part, on a device, and put it together where it is called.

    What is put together at a time are the elements of its lists of modules (the blocks of our networks), and all the
    rest for the whole of a call. It is taken apart after every call, since weights and averages change between calls.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    blocks = [block for part in network.modules() if isinstance(part, nn.ModuleList) for block in part]
    for block in [*reversed(blocks), network]:  # those within others first
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    for buffer in network.buffers():
        buffer.data = buffer.to(device)


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's parts of tensors, which share their memory; of those that are not sharded, all of them."""
    from torch.distributed.tensor import DTensor

    with torch.no_grad():
        return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from all processes, which must all ask for it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided among the processes as another is, if that is; all of them must ask for it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def divided_as(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors by name, each divided as that of its name, if there is one."""
    return {name: divided(value, like[name]) if name in like else value for name, value in state.items()}
