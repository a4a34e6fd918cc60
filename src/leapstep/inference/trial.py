"""Short trials of a network before a long job: its operations, its pace in several forms, and how far they agree.

The forms of a network are called in turn on the same inputs, those of a few short trajectories from noise. What was
measured is kept in the user's cache under the machine, the network and the size of a batch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leapstep import files
from leapstep.core.calling import as_tensor
from leapstep.files import reading
from leapstep.files.cache import cache_folder
from leapstep.text import reason
from leapstep.workers import devices

TIMES = (1.0, 0.7, 0.35, 0.05)
"""Times of the path at which forms are compared, as shares of the first; the first of the calls is not timed."""

SHARE = 0.1
"""The share of a job that its trial may take, unless that is less than a sample."""

ROUNDS = 2
"""How often the trajectory is gone along where that is so few calls: the least of more times is disturbed by less."""

VALUES = 16
"""From how many values of each tensor a network is known again."""


class Job(NamedTuple):
    """What a network is to be called for.

    Attributes:
        network: it, in float32.
        shape: of a sample, `[*d]`.
        calls: of the network for single rows of a batch, in all.
        rows: of a batch, as the network sees it.
        device: where it is.
        run: called as run(network, n, times), it draws samples with another network in its place, as many as make a
            batch of n rows, but at least one.
    """

    network: nn.Module
    shape: Sequence[int]
    calls: float
    rows: int
    device: torch.device
    run: Callable[[nn.Module, int, Sequence[float]], object]


class Trial(NamedTuple):
    """What was measured of a network.

    Attributes:
        operations: of a call for one row.
        seconds: of a call, the shortest, by the name of the form.
        errors: by the name of the form: root mean square of the difference of its outputs from those of the first
            form, relative to theirs, at the worst of the times.
        failures: why forms cannot be used, by name.
    """

    operations: float
    seconds: Mapping[str, float]
    errors: Mapping[str, float]
    failures: Mapping[str, str]


def most_operations(network: nn.Module, shape: Sequence[int]) -> float:
    """About the most operations of a call for one row: every weight at every position; nothing is called.

    Arguments:
        shape: of a sample, `[*d]`; its smallest dimension is taken for that of the channels.
    """
    weights = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim > 1)
    return 2.0 * weights * math.prod(shape) / min(shape, default=1)


def operations(job: Job) -> float:
    """The operations of convolutions and linear layers in a call for one row, counted in a call.

    Hooks count them: a dispatch mode of PyTorch, which would see all products, takes seconds to start.
    """
    rows, total = 0, 0.0

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal rows, total
        if layer is job.network:
            rows += len(inputs[0])
            return
        weight = cast(Tensor, layer.weight)
        whole = inputs[0] if isinstance(layer, nn.modules.conv._ConvTransposeNd) else output
        total += 2 * weight.numel() * whole.numel() / weight.shape[0]

    layers = [layer for layer in job.network.modules() if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(count) for layer in {job.network, *layers}]
    try:
        job.run(job.network, 1, TIMES[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return total / max(rows, 1)


def measured(job: Job, operations: float, forms: Mapping[str, Callable[[], nn.Module]]) -> Trial:
    """Call a network in several forms.

    Arguments:
        operations: of a call for one row.
        forms: makes each of them, by name; the first is the one that the others are compared with.
    """
    networks: dict[str, nn.Module] = {}
    failures: dict[str, str] = {}
    for name, make in forms.items():
        try:
            networks[name] = make()
        except Exception as error:
            failures[name] = reason(error)
    compared = _Compared(networks, failures)
    rows = SHARE * job.calls / (len(forms) * len(TIMES))
    rounds = int(min(max(1, rows), ROUNDS))
    for _ in range(rounds):
        job.run(compared, max(1, int(rows / rounds)), TIMES)
    seconds = {name: min(series[1:]) for name, series in compared.seconds.items() if name not in failures}
    errors = {name: error for name, error in compared.errors.items() if name not in failures}
    return Trial(operations, seconds, errors, failures)


class _Compared(nn.Module):
    """Several forms of a network in the place of the first.

    Attributes:
        seconds: of each call, by the name of the form.
        errors: as of `Trial`.
    """

    def __init__(self, networks: Mapping[str, nn.Module], failures: dict[str, str]) -> None:
        super().__init__()
        self.networks, self.failures = networks, failures
        self.seconds: dict[str, list[float]] = {name: [] for name in networks}
        self.errors: dict[str, float] = {}

    def forward(self, x: Tensor, timestep: Tensor, *args: Any, **keywords: Any) -> Tensor:
        first: Tensor | None = None
        for name, network in self.networks.items():
            if name in self.failures:
                continue
            try:
                began = now(x.device)
                output = as_tensor(network(x, timestep, *args, **keywords))
                self.seconds[name].append(now(x.device) - began)
            except Exception as error:
                if first is None:
                    raise
                self.failures[name] = reason(error)
                continue
            if first is None:
                first = output
            elif math.isfinite(off := _difference(output, first)):
                self.errors[name] = max(off, self.errors.get(name, 0.0))
            else:
                self.failures[name] = "gives values that are not finite"
        assert first is not None
        return first


def now(device: torch.device) -> float:
    """The time, when the work of a device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _difference(output: Tensor, first: Tensor) -> float:
    """Root mean square of a difference, relative to that of the first."""
    scale = first.double().square().mean().sqrt()
    return float((output.double() - first.double()).square().mean().sqrt() / scale.clamp(min=1e-12))


@functools.cache
def halves_are_fast(device: torch.device) -> bool:
    """Whether a convolution in bfloat16 keeps up with float32; without units for it, it takes twice as long or more.

    No question to the processor tells: PyTorch's names for its kernels are those of older units. The two take turns, so
    that other work on the machine is no reason for the answer: which is faster is for the trial of the network.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator).to(device) for shape in ((1, 64, 32, 32), (64, 64, 3, 3)))
    seconds: dict[torch.dtype, float] = {}
    with torch.no_grad():
        inputs = {dtype: (x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
        for dtype in 8 * list(inputs):
            began = now(device)
            F.conv2d(*inputs[dtype], padding=1)
            seconds[dtype] = min(now(device) - began, seconds.get(dtype, math.inf))
    return seconds[torch.bfloat16] < 1.5 * seconds[torch.float32]


# --- what was measured before --------------------------------------------------------------------------------------


def remembered(job: Job) -> Trial | None:
    """What was measured of such a job on this machine; None where nothing was, or where it cannot be read."""
    from leapstep.files.schema import checked
    from leapstep.inference import schema

    try:
        value = reading.read_json(_path(job))
        checked(schema.Trial, value)
        found = Trial(**{name: value[name] for name in Trial._fields})
    except (OSError, ValueError):
        return None
    whole = "float32" in found.seconds and found.seconds.keys() - {"float32"} <= found.errors.keys()
    return found if whole else None


def remember(job: Job, trial: Trial) -> None:
    """Keep what was measured, if the cache can be written."""
    with contextlib.suppress(OSError, ValueError):
        path = _path(job)
        files.check_writable(path.parent)
        files.write_json(
            path, {"machine": _machine(job.device), "network": type(job.network).__name__} | trial._asdict()
        )


def _path(job: Job) -> Path:
    """The file of what was measured for such a job."""
    from leapstep import __version__

    kind = type(job.network)  # the same weights may be called by other code
    code = [__version__, kind.__module__, kind.__qualname__]
    whole = hashlib.sha256(json.dumps([code, _machine(job.device), list(job.shape), job.rows]).encode())
    for name, tensor in job.network.state_dict().items():
        values = tensor.detach().flatten()
        some = values[:: max(1, len(values) // VALUES)].to("cpu", torch.float64)
        whole.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode() + some.numpy().tobytes())
    return cache_folder() / "trials" / f"{whole.hexdigest()[:32]}.json"


def _machine(device: torch.device) -> dict[str, str]:
    """What the pace of a network depends on beside it."""
    kind, threads = devices.described(str(device)), devices.threads()
    return {"device": kind, "torch": str(torch.__version__), "threads": str(threads)}
