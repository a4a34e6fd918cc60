"""The trainer: a run that learns to denoise data; the loss is in `objective`, a step and its checkpoint in `learner`.

The order of the data is a function of (seed, position) alone, see `samples`. A sampler with a data loader has to be
wound forward within an epoch, and ends each with a short batch or drops it; winding forward has given the wrong order
(accelerate, issues 2823 and 4195).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leapstep.core.convention import Condition, Convention
from leapstep.core.denoiser import from_network
from leapstep.core.schedules import SCHEDULES, rescale_zero_terminal_snr
from leapstep.data.ahead import Ahead
from leapstep.data.dataset import Data, resizing
from leapstep.data.values import threads_of
from leapstep.models.model import Model
from leapstep.networks import UNet
from leapstep.text import counted, percent
from leapstep.training import chance, initial, objective
from leapstep.training.configuration import CPU_PRESET, PRESETS, TrainingConfig
from leapstep.training.learner import Learner
from leapstep.training.parts import build_network, check_sides, largest
from leapstep.training.samples import COMPARED, Samples, read_samples


class Trainer(Learner):
    """A training run between two checkpoints, and the samples that it learns from."""

    config: TrainingConfig

    def __init__(
        self,
        config: TrainingConfig,
        source: str,
        device: str | None = None,
        progress: bool = True,
        resumed: Mapping[str, Any] | None = None,
        start: initial.Start | None = None,
        samples: Samples | None = None,
    ) -> None:
        config = config if start is None else initial.fitted(config, start)
        super().__init__(config, device, progress)
        self.start = start
        self.samples = samples or read_samples(config, source, start, resumed, self.reports)
        self.data = self.samples.data
        threads = threads_of(self.data.values)
        self.batches = Ahead(self._batch, 2 * threads, threads)
        if config.flip and not self.data.is_pictures:
            raise ValueError(f"flip mirrors pictures, but {source} holds arrays: train without --flip")
        torch.manual_seed(config.seed)
        if start is None:
            process = SCHEDULES[config.schedule](config.timesteps)
            process = rescale_zero_terminal_snr(process) if config.zero_terminal_snr else process
            self.null_label = len(self.data.classes) if config.labels and config.label_dropout > 0 else None
            network: nn.Module = build_network(config, self.data)
        else:
            process, self.null_label, network = start.model.process, start.model.null_label, start.model.network
            if isinstance(network, UNet):
                check_sides(self.data.shape, len(network.config.channels), network.config.patch)
        self.convention = Convention(
            process,
            config.predicts,
            fractional=getattr(network.config, "time_embedding", None) == "sinusoidal",
            conditions=(Condition("class_labels", self.data.classes, self.null_label),) if config.labels else (),
            shape=self.data.shape,
        )
        self.prepare(network)
        # a posterior mean of x0 lies in the convex hull of the data, so no estimate has a reason to leave this range
        self.bound = 1.0 if self.data.is_pictures else largest(self.data)

    # one step

    def advance(self) -> dict[str, Any]:
        """Take one optimiser step; see `Learner.advance`."""
        self.network.train()
        result = self.update(self.losses)
        self.step += 1
        return result

    def batch(self, part: int) -> tuple[Tensor, Tensor | None]:
        """This process's share of a part of the step's batch: samples [b, *d], and labels [b] where they are used."""
        x0, labels = self.batches.take(self.step * self.config.accumulate + part)
        return x0, labels if self.config.labels else None

    def _batch(self, number: int) -> tuple[Tensor, Tensor | None]:
        """The share of a part of a step's batch, where all parts of all steps are numbered."""
        config, (step, part) = self.config, divmod(number, self.config.accumulate)
        return self.samples.batch(config.seed, step * config.batch_size + self.rows(part).start, self.share)

    def losses(self, part: int) -> tuple[Tensor, Tensor]:
        """The loss of each sample of `batch`, [b], and the times at which they were noised, [b]."""
        config, device, rows = self.config, self.accelerator.device, self.rows(part)
        x0, labels = self.batch(part)
        drawn = chance.generator(config.seed, self.step)  # for the whole batch, of which each process takes its rows
        own, n = slice(rows.start, rows.stop), config.batch_size
        t = objective.stratified_times(n, config.timesteps, drawn)[own]
        mirrored, dropped = torch.rand(2, n, generator=drawn)[:, own]
        if config.flip:
            x0 = torch.where(mirrored.view(-1, 1, 1, 1) < 0.5, x0.flip(-1), x0)
        condition = {}
        if labels is not None:
            if self.null_label is not None:
                labels = torch.where(dropped < config.label_dropout, self.null_label, labels)
            condition["class_labels"] = labels.to(device)
        eps = chance.normal(config.seed, self.step, rows, self.data.shape, device)
        torch.manual_seed(chance.seeded(config.seed, self.step, part, self.accelerator.process_index))  # of dropout
        return self._weighted(self.network, x0.to(device), t, eps, condition), t

    def trial(self, n: int) -> Tensor:
        """A mean loss that takes as long as that of n samples; see `Learner.trial`."""
        device = self.accelerator.device
        condition = {"class_labels": torch.zeros(n, dtype=torch.long, device=device)} if self.config.labels else {}
        x0 = torch.zeros(n, *self.data.shape, device=device)
        t = torch.full((n,), 0.5, dtype=torch.float64)
        return self._weighted(self.unwrapped(), x0, t, torch.ones_like(x0), condition).mean()

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
        return {name: self._fixed_loss(data) for name, data in self.samples.compared.items()}

    @torch.no_grad()
    def _fixed_loss(self, data: Data) -> float:
        config, device = self.config, self.accelerator.device
        chance = torch.Generator().manual_seed(0)
        even = (torch.randperm(COMPARED, generator=chance, dtype=torch.float64) + 0.5) / COMPARED
        t = ((even * config.timesteps).floor() + 1) / config.timesteps
        eps = torch.randn(COMPARED, *data.shape, generator=chance)
        labels = torch.from_numpy(data.labels) if config.labels and data.labels is not None else None
        network, total = self.ema.module.eval(), 0.0
        for start in range(0, COMPARED, self.share):
            part = slice(start, start + self.share)
            condition = {} if labels is None else {"class_labels": labels[part].to(device)}
            x0 = data.batch(range(COMPARED)[part]).to(device)
            total += self._weighted(network, x0, t[part], eps[part].to(device), condition).sum().item()
        return total / COMPARED

    def close(self) -> None:
        """As of `Learner`: no batch is read ahead any more."""
        self.batches.close()

    # what is kept

    def model(self, network: nn.Module | None = None) -> Model:
        """The trained model as it stands, with the averaged weights; see `Learner.model`."""
        network = self.averaged() if network is None else network
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
            "precision": self.precision or "float32",
            "data": {
                "source": data.source,
                "samples": len(data),
                "holdout": self.samples.holdout and self.samples.holdout.model_dump(exclude_defaults=True),
                "shape": list(data.shape),
                "scaling": data.scaling._asdict(),
                "classes": list(data.classes) if self.config.labels else [],
            },
            "training": self.config.model_dump(mode="json", exclude=unsaid),
            **({} if self.deadline is None else {"seconds": self.deadline.elapsed()}),
            **({} if self.course is None else {"losses": self.course.record()}),
            **({} if self.start is None else {"init_from": self.start.record}),
        }

    def facts(self, done: int) -> Iterator[str]:
        """What whoever starts the run should know of its data and its network, in lines."""
        data, broken = self.data, len(self.data.skipped)
        yield from self.samples.notes
        yield from (f"skipped {line}" for line in data.skipped)
        if broken:
            yield f"skipped {broken} of {len(data) + broken} images, which could not be read"
        if line := resizing(data):
            yield line
        if (holdout := self.samples.holdout) is not None:
            yield (
                f"{holdout.samples} of {holdout.of} samples are held out: never trained on, they tell "
                "whether the model copies (--holdout no trains on all)"
            )
        if self.samples.test is not None:
            share = 2 * COMPARED / 3 / self.config.holdout_every / self.config.batch_size  # a step goes back as well
            yield (
                f"the loss on held-out samples, every {counted(self.config.holdout_every)}, takes about "
                f"{percent(share)} as long as the training"
            )
        if self.start is not None and done == 0:
            yield f"begins with the weights of {self.start.source}"
        yield from super().facts(done)

    @property
    def resumes_from_its_model(self) -> bool:
        """Whether the network of the run comes from a model: --resume takes it from the run folder."""
        return self.start is not None

    @property
    def lighter(self) -> str | None:
        """The preset for pictures on a CPU, for a run that is not that of it."""
        config, usual = self.config, PRESETS[CPU_PRESET]
        heavier = any(
            getattr(config, name) != usual[name] for name in ("channels", "attention", "blocks", "batch_size")
        )
        return CPU_PRESET if self.data.is_pictures and self.accelerator.device.type == "cpu" and heavier else None

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
