"""What a network computes in, chosen by measurement: for this network, on this machine, for this amount of work.

Arithmetic in bfloat16 takes about half the time of float32 where the processor has units for it, and many times as long
where it has none; which layout of the memory is faster depends on the network. So before a long job the network is
called a few times in each way, on its own inputs: a short trajectory from noise (`leapstep.inference.trial`).

- A job of less than `LONG` operations stays in float32, and nothing is measured.
- bfloat16 is taken where it is at least `MARGIN` times as fast, and the network's outputs differ from those in float32
  by no more than `TOLERANCE` of their root mean square, at each of the times where that was measured.
- Only the network computes in it. Times, timesteps, the state of the sampler and its arithmetic stay in float32 or
  float64; PyTorch takes the statistics of normalisations and the softmax of bfloat16 in float32.
- A measurement takes no longer than a tenth of the job, or a few calls for a single sample. It is remembered in the
  user's cache, so that the same command chooses the same again.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from leapstep.core.calling import as_tensor
from leapstep.core.printing import name_of
from leapstep.core.sampling import sample_in_batches
from leapstep.inference import trial
from leapstep.inference.fields import AUTO
from leapstep.inference.spec import DTYPES, SamplingSpec
from leapstep.inference.trial import Job, Trial
from leapstep.models.model import Model

LONG = {"cpu": 3e11, "cuda": 3e13}
"""From how many operations of the network on a job is worth measuring: about two seconds of float32. On other devices
nothing is measured."""

MARGIN = 1.1
"""How many times as fast as float32 bfloat16 must be; the small batches of a trial gain less than those of a job."""

LAYOUT_MARGIN = 1.05
"""How many times as fast as the usual layout of the memory channels_last must be to be taken."""

TOLERANCE = 0.03
"""By how much of its root mean square the output of a network may change in bfloat16."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a network is computed.

    Attributes:
        dtype: of its weights and inputs, by name.
        channels_last: whether the values of one pixel lie side by side in memory.
        speedup: how many times as fast as plain float32 it was when it was measured; None: it was not.
        error: relative error of the network's output in bfloat16, by root mean square; None: not measured.
        refusal: why bfloat16 was measured and not taken; empty otherwise.
    """

    dtype: str = "float32"
    channels_last: bool = False
    speedup: float | None = None
    error: float | None = None
    refusal: str = ""

    @classmethod
    def stated(cls, dtype: str, said: Any) -> Execution:
        """What a dtype and the JSON of `to_json` state."""
        return cls(dtype, isinstance(said, dict) and said.get("memory_format") == "channels_last")

    def applied(self, network: nn.Module) -> nn.Module:
        """The network as it is to be called: itself, or a copy. What keeps its dtype and layout is not copied."""
        dtype = DTYPES[self.dtype]
        if not self.channels_last and all(p.dtype == dtype or not p.is_floating_point() for p in network.parameters()):
            return network
        return Executed(network, dtype, self.channels_last)

    def of(self, model: Model) -> Model:
        """The model with its network as it is to be called."""
        network = self.applied(model.network)
        return model if network is model.network else dataclasses.replace(model, network=network)

    @property
    def condition(self) -> dict[str, str]:
        """What results depend on in it, where that is not as usual."""
        return {} if self.dtype == "float32" else {"dtype": self.dtype}

    @property
    def name(self) -> str:
        """What tells it from others in a trial."""
        return f"{self.dtype}{' channels_last' if self.channels_last else ''}"

    @property
    def line(self) -> str:
        """What was chosen by measurement and why, in one line for people; empty where nothing was measured."""
        if self.speedup is None:
            return ""
        said = f"computing in {self.name.replace(' ', ', ')}"
        if self.speedup > 1.005:
            said += f": {self.speedup:.1f} times as fast here as plain float32"
        if self.error is not None and self.dtype == "bfloat16":
            said += f", the network off by {self.error:.1%}"
        return said + (f"; {self.refusal}" if self.refusal else "")

    def to_json(self) -> dict[str, Any]:
        """As a manifest states it, beside the dtype in its specification."""
        measured = {"speedup": self.speedup, "error": self.error, "line": self.line or None}
        return {
            "memory_format": "channels_last" if self.channels_last else "contiguous",
            "threads": torch.get_num_threads(),
            **{name: value for name, value in measured.items() if value is not None},
        }


class Executed(nn.Module):
    """A network in another dtype or layout of the memory, called like the network itself.

    Arguments:
        network: it is left as it is; weights that need not change are shared with it.
        dtype: of weights and inputs. The timesteps, its second argument, keep their own.
        channels_last: whether the values of one pixel lie side by side in memory.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, channels_last: bool) -> None:
        super().__init__()
        self.dtype, self.channels_last = dtype, channels_last
        self.network = copy.deepcopy(network, {id(own): self._moved(own) for own in _tensors(network)})
        for layer in self.network.modules():
            if isinstance(layer, LAYERS):
                layer.register_forward_pre_hook(_as_its_weight)
        form = Execution(str(dtype).removeprefix("torch."), channels_last)
        self.__name__ = f"{name_of(network)}[{form.name.replace(' ', ', ')}]"  # as it prints in a diffusion

    def forward(self, x: Tensor, timestep: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """Call the network: x and other floating-point arguments in its dtype, the output in the dtype of x."""
        others = [self._cast(value) for value in args]
        named = {name: self._cast(value) for name, value in keywords.items()}
        output = self.network(self._moved(x), timestep, *others, **named)
        return as_tensor(output).to(x.dtype)

    def _cast(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _moved(self, tensor: Tensor) -> Tensor:
        """A tensor in the dtype and the layout; the same one where it has both."""
        layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim) if self.channels_last else None
        value = self._cast(tensor.detach())
        value = value if layout is None else value.contiguous(memory_format=layout)
        if not isinstance(tensor, nn.Parameter) or value.data_ptr() == tensor.data_ptr():
            return tensor if value.data_ptr() == tensor.data_ptr() else value
        return nn.Parameter(value, requires_grad=False)


LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
"""Layers that take an input in the dtype of their weights alone."""


def _as_its_weight(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs of a layer in the dtype of its weights: networks make values in float32 too, as of the timestep."""
    weight = cast(Tensor | None, layer.weight)
    if weight is None or not isinstance(first := inputs[0], Tensor) or first.dtype == weight.dtype:
        return inputs
    return (first.to(weight.dtype), *inputs[1:])


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


# --- the choice ----------------------------------------------------------------------------------------------------


def choose(model: Model, *specs: SamplingSpec) -> Execution:
    """Choose how to compute a network for the samples of some specifications.

    Arguments:
        specs: they are checked, and share all but method and steps. A dtype other than "auto" is kept, and nothing is
            measured then; nor for methods that choose their own steps, which would take the rounding of bfloat16 for
            errors of theirs.
    """
    spec = specs[0]
    if spec.dtype != AUTO:
        return Execution(spec.dtype)
    if any(each.entry.calls == 0 for each in specs):
        return Execution()
    rows = 1 if spec.guidance == 1 else 2
    calls = rows * sum(each.entry.calls * (each.steps or 1) * each.n for each in specs)
    first = 1.0 if spec.times is None else spec.times[0]

    def run(network: nn.Module, n: int, shares: Sequence[float]) -> None:
        other = dataclasses.replace(model, network=network)
        batches = sample_in_batches(
            lambda own: spec.diffusion(other, own),
            (min(max(1, n // rows), spec.n, spec.batch_size), *model.shape),
            [first * share for share in shares],
            seed=spec.seed,
            first=spec.first,
            device=model.device,
        )
        for _ in batches:
            pass

    return chosen(Job(model.network, model.shape, calls, rows * min(spec.n, spec.batch_size), model.device, run))


def as_specified(model: Model, spec: SamplingSpec) -> Model:
    """The model in the dtype of a specification, and in float32 where that is "auto": for what must be exact."""
    return Execution("float32" if spec.dtype == AUTO else spec.dtype).of(model)


def chosen(job: Job) -> Execution:
    """The choice for a job: float32 for a short one, else what its trial says, which is made where none is known."""
    least = LONG.get(job.device.type, math.inf)
    if any(parameter.dtype != torch.float32 for parameter in job.network.parameters()):
        return Execution()
    if job.calls * trial.most_operations(job.network, job.shape) < least:
        return Execution()
    found = trial.remembered(job)
    operations = trial.operations(job) if found is None else found.operations
    if job.calls * operations < least:
        return Execution()
    if found is None:
        forms = _forms(job)
        found = trial.measured(job, operations, {form.name: partial(form.applied, job.network) for form in forms})
        trial.remember(job, found)
    return decided(found)


def _forms(job: Job) -> list[Execution]:
    """The ways to try for a job, the usual one first."""
    layouts = [False, True] if len(job.shape) in (3, 4) else [False]
    if trial.halves_are_fast(job.device):
        return [Execution(), *(Execution("bfloat16", layout) for layout in layouts)]
    return [Execution(channels_last=layout) for layout in layouts]


def decided(found: Trial) -> Execution:
    """What a trial says: a function of what was measured alone."""
    plain = found.seconds["float32"]
    pace = {form.name: plain / found.seconds[form.name] for form in POSSIBLE if form.name in found.seconds}
    layout = pace.get("float32 channels_last", 1.0)
    usual = Execution(channels_last=layout >= LAYOUT_MARGIN, speedup=layout if layout >= LAYOUT_MARGIN else 1.0)
    if "bfloat16" not in found.seconds:
        why = found.failures.get("bfloat16", "a convolution takes longer in it on this machine")
        return dataclasses.replace(usual, refusal=f"not bfloat16: {why}")
    best = max((form for form in POSSIBLE if form.dtype == "bfloat16"), key=lambda form: pace.get(form.name, 0.0))
    gain, error = pace[best.name], found.errors[best.name]
    if gain < MARGIN * (usual.speedup or 1.0):
        return dataclasses.replace(usual, refusal=f"bfloat16 is {gain:.2f} times as fast here, which is too little")
    if error > TOLERANCE:
        why = f"bfloat16 is {gain:.1f} times as fast, but the network is off by {error:.1%} in it"
        return dataclasses.replace(usual, error=error, refusal=why)
    return dataclasses.replace(best, speedup=gain, error=error)


POSSIBLE = [Execution(dtype, layout) for dtype in ("float32", "bfloat16") for layout in (False, True)]
"""All that may be tried."""
