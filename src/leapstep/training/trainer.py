"""The trainer: a step, its state, and what is saved of it; the loss is in `objective`.

Steps, averages and processes are PyTorch's and accelerate's: AdamW, AveragedModel, accumulation and clipping of
gradients, mixed precision. Made by hand is what they do not offer, a run that goes on from any step, on the same number
of processes, as if it had never stopped, bit for bit, from a state without pickles:

- The order of the data is a function of (seed, position) alone, see `samples`. A sampler with a data loader has to be
  wound forward within an epoch, and ends each with a short batch or drops it; winding forward has given the wrong
  order (accelerate, issues 2823 and 4195).
- All other randomness of step i is drawn anew from (seed, i, part of the batch, process): the step count is the whole
  state of the random numbers, and no generator has to be kept.
- The learning rate is a function of the step. A scheduler would be more state, and `steps` may change on the way.
- `Accelerator.save_state` pickles the optimiser and the generators; `save` writes tensors alone.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from leapstep.core.convention import Condition, Convention
from leapstep.core.denoiser import from_network
from leapstep.core.schedules import SCHEDULES, rescale_zero_terminal_snr
from leapstep.data.dataset import Data
from leapstep.models import checkpoint
from leapstep.models.model import Model
from leapstep.networks import UNet
from leapstep.training import initial, objective
from leapstep.training.configuration import TrainingConfig
from leapstep.training.parts import accelerator, build_network, check_sides, ema_update, largest, learning_rate
from leapstep.training.previews import preview
from leapstep.training.samples import read_samples

COMPARED = 256
"""How many noised samples make a loss that is compared from step to step."""


class Trainer:
    """A training run between two checkpoints: the network, its average, the optimiser, and where they stand."""

    def __init__(
        self,
        config: TrainingConfig,
        source: str,
        device: str | None = None,
        progress: bool = True,
        resumed: Mapping[str, Any] | None = None,
        start: initial.Start | None = None,
    ) -> None:
        self.accelerator = accelerator(config, device)
        self.config = config = config if start is None else initial.fitted(config, start)
        self.start, self.step = start, 0
        self.progress, self.reports = progress, progress and self.accelerator.is_main_process
        self.samples = read_samples(config, source, start, resumed, self.reports)
        self.data = self.samples.data
        if config.flip and not self.data.is_pictures:
            raise ValueError(f"flip mirrors pictures, but {source} holds arrays: train without --flip")
        self.share, rest = divmod(config.batch_size, config.accumulate * self.accelerator.num_processes)
        if rest:
            raise ValueError(
                f"batch_size {config.batch_size} is not a multiple of accumulate {config.accumulate} times "
                f"{self.accelerator.num_processes} processes"
            )
        torch.manual_seed(config.seed)
        if start is None:
            process = SCHEDULES[config.schedule](config.timesteps)
            process = rescale_zero_terminal_snr(process) if config.zero_terminal_snr else process
            self.null_label = len(self.data.classes) if config.labels and config.label_dropout > 0 else None
            self.network: nn.Module = build_network(config, self.data)
        else:
            process, self.null_label, self.network = start.model.process, start.model.null_label, start.model.network
            if isinstance(self.network, UNet):
                check_sides(self.data.shape, len(config.channels))
        self.convention = Convention(
            process,
            config.predicts,
            fractional=getattr(self.network.config, "time_embedding", None) == "sinusoidal",
            conditions=(Condition("class_labels", self.data.classes, self.null_label),) if config.labels else (),
            shape=self.data.shape,
        )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = AveragedModel(self.network, multi_avg_fn=ema_update(config.ema_decay), use_buffers=True)  # type: ignore[arg-type]
        self.ema.to(self.accelerator.device)
        optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=config.weight_decay, fused=True)
        self.network, self.optimizer = self.accelerator.prepare(self.network, optimizer)
        # a posterior mean of x0 lies in the convex hull of the data, so no estimate has a reason to leave this range
        self.bound = 1.0 if self.data.is_pictures else largest(self.data)

    def say(self, line: str) -> None:
        """Tell whoever started the run, once however many processes it has."""
        if self.reports:
            print(line, file=sys.stderr)

    # one step

    def advance(self) -> dict[str, Any]:
        """Take one optimiser step.

        Returns:
            "loss"; "losses" and "times" of its samples, [b]; "gradient_norm" before clipping; "learning_rate".

        Raises:
            FloatingPointError: a loss or a gradient that is not finite; the weights are then as they were.
        """
        self.network.train()
        losses, times, rate = [], [], learning_rate(self.config, self.step)
        for part in range(self.config.accumulate):
            with self.accelerator.accumulate(self.network):
                loss, t = self.losses(part)
                mean = loss.mean()
                if not math.isfinite(mean.item()):
                    raise FloatingPointError(f"the loss of step {self.step + 1} is {mean.item()}")
                self.accelerator.backward(mean)
                if self.accelerator.sync_gradients:  # the last part
                    norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_gradient)
                    if not math.isfinite(norm):
                        raise FloatingPointError(f"the gradient of step {self.step + 1} is not finite")
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                self.optimizer.zero_grad()
            losses.append(loss.detach().cpu())
            times.append(t)
        self.ema.update_parameters(self.accelerator.unwrap_model(self.network))
        self.step += 1
        loss = torch.cat(losses)
        result = {"loss": loss.mean().item(), "losses": loss, "times": torch.cat(times)}
        return result | {"gradient_norm": float(norm), "learning_rate": rate}

    def batch(self, part: int) -> tuple[Tensor, Tensor | None]:
        """This process's share of a part of the step's batch: samples [b, *d], and labels [b] where they are used."""
        config, index = self.config, part * self.accelerator.num_processes + self.accelerator.process_index
        x0, labels = self.samples.batch(config.seed, self.step * config.batch_size + index * self.share, self.share)
        return x0, labels if config.labels else None

    def losses(self, part: int) -> tuple[Tensor, Tensor]:
        """The loss of each sample of `batch`, [b], and the times at which they were noised, [b]."""
        config, device = self.config, self.accelerator.device
        x0, labels = self.batch(part)
        entropy = (config.seed, self.step, part, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        if config.flip:
            x0 = torch.where(torch.rand(len(x0), 1, 1, 1) < 0.5, x0.flip(-1), x0)
        condition = {}
        if labels is not None:
            if self.null_label is not None:
                labels = torch.where(torch.rand(len(labels)) < config.label_dropout, self.null_label, labels)
            condition["class_labels"] = labels.to(device)
        t = objective.stratified_times(len(x0), config.timesteps)
        x0 = x0.to(device)
        return self._weighted(self.network, x0, t, torch.randn_like(x0), condition), t

    def _weighted(
        self, network: nn.Module, x0: Tensor, t: Tensor, eps: Tensor, condition: Mapping[str, Tensor]
    ) -> Tensor:
        """The loss of each sample."""
        config, diffusion = self.config, from_network(network, self.convention, condition=condition)
        return objective.loss(diffusion, x0, t, eps, config.loss or config.predicts, config.min_snr_gamma)

    def compare(self) -> dict[str, float]:
        """The loss of the averaged weights on samples that training never sees, and on as many that it does see.

        Samples, noise and times are always the same, mirroring and dropout are off: what changes from call to call is
        the network, and what differs between the two losses is whether it saw the samples.

        Returns:
            "held_out" and "training"; nothing where the run has no held-out samples.
        """
        test = self.samples.test
        if test is None:
            return {}
        return {
            "held_out": self._fixed_loss(test, np.arange(len(test))),
            "training": self._fixed_loss(self.data, self.samples.rows),
        }

    @torch.no_grad()
    def _fixed_loss(self, data: Data, rows: npt.NDArray[np.int64]) -> float:
        config, device = self.config, self.accelerator.device
        chosen = np.resize(np.random.default_rng(0).permutation(rows), COMPARED)  # again and again where they are few
        chance = torch.Generator().manual_seed(0)
        even = (torch.randperm(COMPARED, generator=chance, dtype=torch.float64) + 0.5) / COMPARED
        t = ((even * config.timesteps).floor() + 1) / config.timesteps
        eps = torch.randn(COMPARED, *data.shape, generator=chance)
        labels = torch.from_numpy(data.labels[chosen]) if config.labels and data.labels is not None else None
        network, total = self.ema.module.eval(), 0.0
        for start in range(0, COMPARED, self.share):
            part = slice(start, start + self.share)
            condition = {} if labels is None else {"class_labels": labels[part].to(device)}
            x0 = data.batch(chosen[part]).to(device)
            total += self._weighted(network, x0, t[part], eps[part].to(device), condition).sum().item()
        return total / COMPARED

    # what is kept

    def model(self) -> Model:
        """The trained model as it stands, with the averaged weights."""
        network: nn.Module = self.ema.module
        convention = dataclasses.replace(self.convention, clip=(-self.bound, self.bound)).scaled(self.data.scaling)
        return Model(network.eval(), convention, self.details())

    def details(self) -> dict[str, Any]:
        """What `leapstep.json` records of the run as it stands."""
        from leapstep import __version__

        data = self.data
        unsaid = set() if self.start is None else {*initial.OF_THE_NETWORK} - {*initial.settings(self.start.model)}
        return {
            "versions": {"leapstep": __version__, "torch": str(torch.__version__)},
            "step": self.step,
            "data": {
                "source": data.source,
                "samples": len(data),
                "holdout": self.samples.holdout and self.samples.holdout.model_dump(),
                "shape": list(data.shape),
                "scaling": data.scaling._asdict(),
                "classes": list(data.classes) if self.config.labels else [],
            },
            "training": self.config.model_dump(mode="json", exclude=unsaid),
            **({} if self.start is None else {"init_from": self.start.record}),
        }

    def save(self, run: Path) -> None:
        """Write a checkpoint, first the training state and then the model for sampling (on the main process only)."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"network.{name}": value for name, value in self._unwrapped().state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        states = self.optimizer.state_dict()["state"]
        tensors |= {f"optimizer.{i}.{name}": value for i, state in states.items() for name, value in state.items()}
        checkpoint.save_state(run, self.step, tensors, self.details())
        checkpoint.save(self.model(), run)

    def check_unchanged(self, run: Path, values: Mapping[str, Any]) -> None:
        """Make sure that the data are those that a run was trained on.

        Arguments:
            values: what the run's last checkpoint says.
        Raises:
            ValueError: they have changed since.
        """
        now = self.details()["data"]
        for name, before in values["data"].items():
            if name != "source" and now.get(name) != before:
                raise ValueError(
                    f"the data of {run} have changed since: {name} was {before}, now it is {now.get(name)}; a new run "
                    f"goes on with them from these weights: leapstep train {now['source']} --init-from {run} --out "
                    f"{run}-2"
                )

    def restore(self, run: Path) -> None:
        """Go back to the last checkpoint of a run on the same data.

        Raises:
            ValueError: there is none, or it belongs to another network.
        """
        path, values = checkpoint.find_state(run)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "optimizer": {}}
        for name, value in safetensors.torch.load_file(path).items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        try:
            self._unwrapped().load_state_dict(parts["network"])
            self.ema.load_state_dict(parts["ema"])
        except RuntimeError as error:
            raise ValueError(f"the training state in {run} belongs to another network: {error}") from error
        parameters = list(self.network.parameters())
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, rest = name.partition(".")
            if value.ndim:  # fused AdamW needs the memory layout of the parameter, which files do not keep
                value = torch.empty_like(parameters[int(index)]).copy_(value)
            states.setdefault(int(index), {})[rest] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        self.step = values["step"]

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is up on any process, so that all of them stop at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        raised = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum")
        return bool(raised.item() > 0)

    def _unwrapped(self) -> nn.Module:
        network: nn.Module = self.accelerator.unwrap_model(self.network)
        return network

    def preview(self, run: Path) -> None:
        """Show samples of the averaged weights as they stand, where they are pictures; see `previews.preview`."""
        if self.accelerator.is_main_process and self.data.is_pictures:
            preview(self.model(), run, self.step, self.share, self.accelerator.device)
