"""What a run trains: a network, its average and the optimiser, a step of them, and their checkpoint.

Steps, averages and processes are PyTorch's and accelerate's: AdamW, AveragedModel, autocast, accumulation and clipping
of gradients. Made by hand is what they do not offer, a run that goes on from any step as if it had never stopped (bit
for bit on as many processes, to rounding on more or fewer), from a state without pickles:

- All randomness of step i is drawn anew from (seed, i, place in the batch): the step count is the whole state of the
  random numbers, no generator has to be kept, and any number of processes trains the same run, to rounding. But
  dropout inside the network is drawn by each process for the part of the batch that it computes.
- The learning rate is a function of the step. A scheduler would be more state, and `steps` may change on the way.
- `Accelerator.save_state` pickles the optimiser and the generators; a `Snapshot` holds tensors alone, whole
  ones however many processes share them.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from leapstep import launch
from leapstep.inference.execution import Execution
from leapstep.models import checkpoint
from leapstep.models.model import Model
from leapstep.networks import NETWORKS
from leapstep.networks.weights import sketch
from leapstep.text import duration
from leapstep.training import estimate, overfitting, precision, sharding
from leapstep.training.configuration import RunConfig, check_installed
from leapstep.training.deadline import Deadline
from leapstep.training.parts import accelerator, ema_update, keep_memory, learning_rate
from leapstep.training.previews import preview
from leapstep.training.saving import Snapshot

if TYPE_CHECKING:
    from PIL import Image

FEW = 20
"""The most steps for which no time is estimated."""

SLOW = 10.0
"""Seconds of a first step so slow that no second one is measured."""


class Learner(abc.ABC):
    """A run between two checkpoints: the network, its average, the optimiser, and where they stand.

    Arguments:
        config: of the run.
        device: "cpu" to leave a GPU alone; None: the best there is.
        progress: whether the run reports on its progress.
    """

    config: RunConfig
    network: nn.Module
    ema: AveragedModel
    optimizer: Any
    precision: precision.Precision | None
    """What the network computes in; None as long as it is to be chosen, which means float32."""

    def __init__(self, config: RunConfig, device: str | None, progress: bool) -> None:
        check_installed(config.log)
        keep_memory()
        self.accelerator = accelerator(config, device)
        self.precision = precision.known(config.precision, self.accelerator.device)
        self.config, self.step = config, 0
        self.deadline: Deadline | None = None
        self.course: overfitting.Course | None = None
        self.progress, self.reports = progress, progress and self.accelerator.is_main_process
        self.sharded = (config.fsdp or launch.shards()) and self.accelerator.num_processes > 1
        self.share, rest = divmod(config.batch_size, config.accumulate * self.accelerator.num_processes)
        if rest:
            raise ValueError(
                f"batch_size {config.batch_size} is not a multiple of accumulate {config.accumulate} times "
                f"{self.accelerator.num_processes} processes"
            )

    def prepare(self, network: nn.Module) -> None:
        """Put a network where it is trained, with its average and an optimiser that begin with it."""
        device, processes = self.accelerator.device, self.accelerator.num_processes
        if not self.sharded:  # which takes contiguous weights alone
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = AveragedModel(network, use_buffers=True)
        if self.sharded:
            sharding.shard(network, device, processes)
            sharding.shard(self.ema.module, device, processes)
        else:
            self.ema.to(device)
        self.ema.n_averaged = self.ema.n_averaged.cpu()  # a GPU would be waited for to read it
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=self.config.weight_decay, fused=True)
        if self.sharded:
            self.network, self.optimizer = network, self.accelerator.prepare(optimizer)
        else:
            self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.weights = list(self.network.parameters())  # listed once: modules take long to enumerate them
        averages = [[*part.parameters(), *part.buffers()] for part in (self.ema.module, self.unwrapped())]
        self.averages = [sharding.local(part) for part in averages] if self.sharded else averages

    @torch.no_grad()
    def average(self) -> None:
        """Update the average of the weights, which begins with the first of them."""
        averaged, current = self.averages
        if self.ema.n_averaged == 0:
            torch._foreach_copy_(averaged, current)
        else:
            ema_update(self.config.ema_decay)(averaged, current, self.ema.n_averaged)
        self.ema.n_averaged += 1

    def say(self, line: str) -> None:
        """Tell whoever started the run, once however many processes it has."""
        if self.reports:
            print(line, file=sys.stderr)

    # what a run is of

    @abc.abstractmethod
    def advance(self) -> dict[str, Any]:
        """Take one step.

        Returns:
            "loss"; "losses" and "times" of its samples, [b]; "gradient_norm" before clipping; "learning_rate".

        Raises:
            FloatingPointError: a loss or a gradient that is not finite; the weights are then as they were.
        """

    @abc.abstractmethod
    def trial(self, n: int) -> Tensor:
        """A mean loss that takes as long as that of n samples of a batch; its value says nothing."""

    @abc.abstractmethod
    def compare(self) -> dict[str, float]:
        """What the averaged weights lose on samples that are always the same, by name; it may be nothing."""

    def follow(self, compared: Mapping[str, float]) -> list[str]:
        """Note what `compare` returned, if anything, and say what is to be told of it, in lines."""
        if not compared or not all(map(math.isfinite, compared.values())):
            return []
        self.course = overfitting.after(self.course, self.step, compared)
        warning = self.course.warning()
        return [] if warning is None else [warning]

    @abc.abstractmethod
    def model(self, network: nn.Module | None = None) -> Model:
        """The trained model as it stands, with the averaged weights.

        Arguments:
            network: that has them; None: what `averaged` returns, for which all processes must ask.
        """

    @abc.abstractmethod
    def details(self) -> dict[str, Any]:
        """What `leapstep.json` records of the run as it stands."""

    @abc.abstractmethod
    def check_unchanged(self, run: Path, values: Mapping[str, Any]) -> None:
        """Raise ValueError where what a run was trained on is no longer what it was.

        Arguments:
            values: what the run's last checkpoint says.
        """

    def facts(self, done: int) -> Iterator[str]:
        """What whoever starts the run at this step should know of it, in lines."""
        yield f"network: {sum(weight.numel() for weight in self.weights):,} weights"

    @property
    def resumes_from_its_model(self) -> bool:
        """Whether a run that goes on needs the model in its folder, from the beginning on."""
        return False

    @property
    def lighter(self) -> str | None:
        """The name of a preset that takes less, where there is one."""
        return None

    # one step

    def choose_precision(self, resumed: Mapping[str, Any] | None = None) -> None:
        """Choose what the network computes in, where that is still open: bf16 if the run is long and it is faster here.

        Arguments:
            resumed: what the last checkpoint of a run says that goes on: it computes in what it began with.
        """
        if self.precision is not None:
            return
        self.precision = "float32"
        if resumed is not None:
            self.precision = resumed.get("precision", self.precision)
        elif self.sharded:  # of which a pass cannot be taken alone
            return
        elif precision.operations(self.trial) * self.config.batch_size * self.config.steps >= precision.LONG:
            parameters = [weight for weight in self.weights if weight.requires_grad]
            float32, bf16, n = precision.seconds(self.trial, parameters, self.share)
            if self.any_process(float32 >= precision.GAIN * bf16):
                self.precision = "bf16"
            self.say(
                f"precision: {self.precision}; a pass of {n} samples takes {duration(float32)} in float32 here and "
                f"{duration(bf16)} in bf16"
            )

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Let the network compute in the precision of the run."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def close(self) -> None:  # noqa: B027
        """End what the run does beside its steps, once there will be no more of them; `advance` begins it again."""

    def update(self, losses: Callable[[int], tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Change the weights once, by the gradient of a mean loss, and their average with them.

        Arguments:
            losses: of a part of the batch, the loss of each sample and the time that it is about, [b] each.
        Returns:
            what `advance` returns.
        Raises:
            FloatingPointError: a loss or a gradient that is not finite; the weights are then as they were.
        """
        of_each, rate = [], learning_rate(self.config, self.step)
        for part in range(self.config.accumulate):
            with self.accelerator.accumulate(self.network):
                with self.autocast():
                    loss, t = losses(part)
                self.accelerator.backward(loss.mean())  # the gradients are summed over processes with the last part
                of_each.append((loss.detach(), t))
                if self.accelerator.sync_gradients:
                    parts = torch.stack([torch.stack([loss.cpu().double(), t]) for loss, t in of_each])
                    loss, t = self.gathered(parts).unbind(1)
                    norm = self.accelerator.clip_grad_norm_(self.weights, self.config.clip_gradient)
                    norm = sharding.whole(norm) if self.sharded else norm
                    self.check_finite(loss, norm)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.average()
        result = {"loss": loss.mean().item(), "losses": loss.flatten(), "times": t.flatten()}
        return result | {"gradient_norm": float(norm), "learning_rate": rate}

    def check_finite(self, losses: Tensor, norm: Tensor) -> None:
        """Raise FloatingPointError where a loss or the gradient of a step is not finite, on all processes alike."""
        if not math.isfinite(mean := losses.mean().item()):
            raise FloatingPointError(f"the loss of step {self.step + 1} is {mean}")
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {self.step + 1} is not finite")

    def rows(self, part: int) -> range:
        """Which samples of a batch this process computes in a part: its neighbours compute those before and after."""
        first = (part * self.accelerator.num_processes + self.accelerator.process_index) * self.share
        return range(first, first + self.share)

    def gathered(self, values: Tensor) -> Tensor:
        """What all processes have, side by side along the last dimension, on the CPU."""
        if self.accelerator.num_processes == 1:
            return values.cpu()
        of_all = self.accelerator.gather(values[None].to(self.accelerator.device))
        return torch.cat([*of_all.cpu()], -1)

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is up on any process, so that all of them stop at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        raised = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum")
        return bool(raised.item() > 0)

    def mean_over_processes(self, value: float) -> float:
        """The mean of a number over all processes, so that all of them go by the same."""
        if self.accelerator.num_processes == 1:
            return value
        mean = self.accelerator.reduce(torch.tensor(float(value), device=self.accelerator.device), "mean")
        return float(mean.item())

    def unwrapped(self) -> nn.Module:
        """The network that is trained, without what several processes wrap it in."""
        network: nn.Module = self.accelerator.unwrap_model(self.network)
        return network

    # how long it takes

    def end_at(self, step: int) -> None:
        """Move the last step, which the learning rate reaches 0 at if it falls."""
        self.config = self.config.model_copy(update={"steps": step})

    def keep_to_deadline(self, saves: bool) -> None:
        """Move the last step after a step, where there is a deadline and it asks for that.

        Arguments:
            saves: whether a checkpoint follows, in which the last step is recorded.
        """
        if self.deadline is None or self.step >= self.config.steps:
            return
        if self.any_process(self.deadline.over(self.step)):
            self.end_at(self.step)
        elif saves:
            self.end_at(round(self.mean_over_processes(self.deadline.last_step(self.step))))

    def seconds_a_step(self) -> float | None:
        """Time a step and undo it: the second one, since the first warms up, unless that is slow already.

        Afterwards everything is as it was, to the bit. All processes of a run must take part.

        Returns:
            seconds; None if the step failed, which the run will report.
        """
        seconds: float | None = None
        with self.undone(), contextlib.suppress(FloatingPointError):
            for _ in range(2):
                began = time.perf_counter()
                self.advance()
                seconds = time.perf_counter() - began
                if self.any_process(seconds > SLOW):
                    break
        return seconds

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Restore the weights, their average and the optimiser's state at the end of the block."""
        parts = (self.network, self.ema, self.optimizer)
        before, step = [copy.deepcopy(part.state_dict()) for part in parts], self.step
        try:
            yield
        finally:
            self.optimizer.zero_grad()
            for part, state in zip(parts, before, strict=True):
                part.load_state_dict(state)
            self.step = step

    def foretell(self, steps: int) -> None:
        """Report how long a number of steps will take on this machine, unless they are few."""
        seconds = self.seconds_a_step() if steps > FEW else None
        if seconds is not None:
            self.say(estimate.report(seconds, steps, self.config.batch_size, self.lighter))

    # what is kept

    @property
    def calls_average(self) -> bool:
        """Whether this process calls the averaged network: the main one, and all of them where they share it."""
        return self.sharded or bool(self.accelerator.is_main_process)

    def averaged(self) -> nn.Module:
        """The network with the averaged weights; where processes share these, a whole copy on the CPU of each."""
        if not self.sharded:
            network: nn.Module = self.ema.module
            return network
        state = {name: sharding.whole(value).cpu() for name, value in self.ema.module.state_dict().items()}
        own: Any = self.unwrapped()
        network = _kind(own)(own.config)
        network.load_state_dict(state)
        return network

    def snapshot(self) -> Snapshot | None:
        """A copy of what a checkpoint holds, on the CPU of the main process; None on the others, which take part."""
        states = self.optimizer.state_dict()["state"]
        parts = {
            "network": self.unwrapped().state_dict(),
            "ema": self.ema.state_dict(),
            **{f"optimizer.{i}": state for i, state in states.items()},
        }
        main, tensors = self.accelerator.is_main_process, {}
        for part, values in parts.items():
            for name, value in values.items():
                value = sharding.whole(value) if self.sharded else value
                if main:
                    tensors[f"{part}.{name}"] = value.detach().to("cpu", copy=True)
        if not main:
            return None
        own: Any = self.unwrapped()
        network, start = sketch(_kind(own), dataclasses.asdict(own.config)), "ema.module."
        averaged = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        network.load_state_dict(averaged, assign=True)
        return Snapshot(self.step, tensors, self.details(), self.model(network))

    def restore(self, run: Path) -> None:
        """Go back to the last checkpoint of a run, on any number of processes.

        Raises:
            ValueError: there is none, or it belongs to another network.
        """
        path, values = checkpoint.find_state(run)
        like = {"network": self.unwrapped().state_dict(), "ema": self.ema.state_dict()}
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}}
        states: dict[int, dict[str, Tensor]] = {}
        with safetensors.safe_open(path, framework="pt") as file:
            for whole_name in file.keys():  # noqa: SIM118, it is no dictionary
                part, _, name = whole_name.partition(".")
                value = file.get_tensor(whole_name)
                if part == "optimizer":
                    index, _, name = name.partition(".")
                    value = self._as_weight(value, int(index)) if value.ndim else value
                    states.setdefault(int(index), {})[name] = value
                else:
                    own = like[part].get(name)
                    parts[part][name] = sharding.divided(value, own) if self.sharded and own is not None else value
        try:
            self.unwrapped().load_state_dict(parts["network"])
            self.ema.load_state_dict(parts["ema"])
        except RuntimeError as error:
            raise ValueError(f"the training state in {run} belongs to another network: {error}") from error
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        self.step, self.course = values["step"], overfitting.Course.of(values.get("losses"))

    def _as_weight(self, value: Tensor, index: int) -> Tensor:
        """A tensor with the memory layout of a weight, which fused AdamW needs and files do not keep."""
        weight = self.weights[index]
        return sharding.divided(value, weight) if self.sharded else torch.empty_like(weight).copy_(value)

    def preview(self, run: Path) -> Image.Image | None:
        """Show samples of the averaged weights as they stand, where they are pictures; see `previews.preview`."""
        if not self.calls_average or not (model := self.model(self.ema.module)).is_pictures:
            return None
        folder = run if self.accelerator.is_main_process else None
        execution = Execution() if self.sharded else None  # none is measured, which takes a network that can be copied
        return preview(model, folder, self.step, self.share, self.accelerator.device, execution=execution)

    def summary(self) -> dict[str, Any]:
        """What trackers store of the run: its settings, the network's size, and the last part of the data's name."""
        data = self.details().get("data") or {}
        source = {"data": Path(str(data["source"])).name, "samples": data.get("samples")} if "source" in data else {}
        settings = self.config.model_dump(mode="json", exclude={"log", "project"})
        return {**settings, "weights": sum(map(torch.numel, self.weights)), **source}


def _kind(network: nn.Module) -> type[nn.Module]:
    """Which of our networks one is, also where its weights are sharded, which makes a class of it of its own."""
    return next(kind for kind in NETWORKS.values() if isinstance(network, kind))
