"""A scheduler for all pipelines of diffusers, with the methods, spacings and times of this library."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from leapstep.core.convention import Convention
from leapstep.core.denoiser import Estimate, from_network
from leapstep.core.printing import shown
from leapstep.core.spacing import SPACINGS
from leapstep.core.spacing import times as times_of
from leapstep.core.transitions import ddim
from leapstep.diffusers import steps
from leapstep.diffusers.methods import method_of, option_names
from leapstep.diffusers.replay import Halt, Plan
from leapstep.models import diffusers as configurations
from leapstep.text import allowed

SPACED = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "log_snr"}
"""Spacings, by the keys that ask for them in diffusers."""

READ = (
    "shift",
    "flow_shift",
    "use_dynamic_shifting",
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "sigma_max",
    *SPACED,
)
"""Keys of a configuration that may be given beside it, whether it has them or not."""


def from_scheduler(scheduler: Any, mu: float | None = None) -> Convention:
    """How networks that a diffusers scheduler samples are called, in their own range (pixels, or latents).

    Arguments:
        scheduler: a scheduler, its `config`, or the content of its `scheduler_config.json`.
        mu: how far time is shifted, where the configuration has `use_dynamic_shifting` and leaves that to the size of
            the image.
    Raises:
        ValueError: a scheduler of another kind, or a setting that is not supported.
    """
    return configured(_configuration(scheduler), mu)


def _configuration(scheduler: Any) -> dict[str, Any]:
    """A configuration, with the name of its class where that is known."""
    if isinstance(getattr(scheduler, "scheduler", None), SchedulerMixin):
        raise ValueError(f"{type(scheduler).__name__} is a pipeline: pass the configuration of its scheduler")
    if isinstance(scheduler, Mapping):
        config = dict(scheduler)
    elif isinstance(getattr(scheduler, "config", None), Mapping):
        config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    else:
        raise ValueError(f"{type(scheduler).__name__} is no scheduler of diffusers: pass one, or its config")
    config[configurations.ORIGIN] = configurations.class_of(config)
    return {name: value for name, value in config.items() if not name.startswith("_")}


def configured(config: Mapping[str, Any], mu: float | None = None) -> Convention:
    """The convention of a checked configuration."""
    try:
        return configurations.from_scheduler(config, mu)
    except KeyError as error:
        raise ValueError(
            f"the configuration of the scheduler has no {error}: pass that of a scheduler of betas, flow matching or "
            "EDM, such as pipe.scheduler.config"
        ) from None


@dataclasses.dataclass
class SchedulerOutput(BaseOutput):
    """What a step gives.

    Attributes:
        prev_sample: what the network sees next, or the sample, `[b, *d]`.
        pred_original_sample: the estimate of x0 that the network's answer is, `[b, *d]`.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class Scheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # both say config_name
    """Any method of this library that makes its calls at known times, as the scheduler of a diffusers pipeline.

    >>> pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, method="unipc", spacing="log_snr")
    >>> pipe("a photo", num_inference_steps=10)

    Steps are those of `leapstep.sample`: `num_inference_steps` is their number, and each has one or more calls. States
    are float32 at least, also from step to step of a pipeline in half precision; times and coefficients are float64. A
    scheduler holds where its trajectory stands, so each thread needs one of its own (`copy.deepcopy`), as with those of
    diffusers.

    Arguments:
        method: one of `leapstep.TRANSITIONS` but for rk23 and rk45, its name elsewhere, or "fitted".
        spacing: one of `leapstep.SPACINGS`; None: as the configuration has it.
        options: of the method.
        config: what the scheduler that the network was trained for says of it.
    Attributes:
        timesteps: what the network is told at each call, float32, on the device asked for.
        sigmas: the noise at each call and at the end, float32 on the CPU: sigma for flow matching, sigma / alpha else.
        num_inference_steps: the number of steps; None before `set_timesteps`.
        order: the most calls of a step.
    """

    _compatibles = sorted(
        {scheduler.name for scheduler in KarrasDiffusionSchedulers}
        | {*configurations.VARIANCE_PRESERVING, *configurations.FLOWS, *configurations.EDM}
    )

    def __init__(
        self,
        method: str = "ddim",
        spacing: str | None = None,
        options: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> None:
        if spacing is not None and spacing not in SPACINGS:
            raise ValueError(f"unknown spacing={spacing!r}: {allowed(spacing, SPACINGS)}")
        self._method = method_of(method, options or {})
        config = _configuration(config)
        if isinstance(config.get("trained_betas"), np.ndarray | Tensor):
            config["trained_betas"] = [float(beta) for beta in config["trained_betas"]]
        own = {"method": self._method.name, "spacing": spacing, "options": self._method.options}
        self.register_to_config(**{**config, **own})  # type: ignore[no-untyped-call]
        self._convention = self._shifted(None)
        levels = self._convention.levels or int(config.get("num_train_timesteps", 1000))
        self._show([1 - i / levels for i in range(levels)], None)
        few = times_of(self._convention.process, min(3, levels))
        self.order = 1 if self._method.counts else Plan(self._convention.process, self._method.transition(3), few).order
        self.num_inference_steps: int | None = None
        self._plan: Plan | None = None
        self._begin_index: int | None = None
        self._start_over()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **changes: Any) -> Any:
        """Make a scheduler of the configuration of any other, such as `pipe.scheduler.config`.

        Arguments:
            config: of a scheduler, or the scheduler itself; of one of this class, with its method.
            changes: `method` (default "ddim"; a transition such as `leapstep.unipc(order=3)` too), `spacing`, options
                of the method, or keys of the configuration with other values, such as `shift`. For method "fitted":
                `tuned`, the path or the content of a `tuned.json`, with the `guidance` that it was tuned for.
        Raises:
            ValueError: a configuration, method, option or spacing that is not supported.
        """
        known = _configuration(config)
        own = {name: known.pop(name, None) for name in ("method", "spacing", "options")}
        theirs = next((spacing for name, spacing in SPACED.items() if changes.get(name)), own["spacing"])
        spacing = changes.pop("spacing", theirs)
        method = changes.pop("method", None)
        options = dict(own["options"] or {}) if method is None else {}
        method = own["method"] or "ddim" if method is None else method
        taken = option_names(method)
        for name, value in changes.items():
            target = known if name not in taken and (name in known or name in READ) else options
            target[name] = value
        chosen = method_of(method, options)
        made = cls(chosen.name, spacing, chosen.options, **known)
        return (made, {}) if return_unused_kwargs else made

    def __len__(self) -> int:
        levels: int = self.config.get("num_train_timesteps", 1000)
        return levels

    # --- times -----------------------------------------------------------------------------------------------------

    def _shifted(self, mu: float | None) -> Convention:
        """How the network is called, for a shift of time. Timesteps may lie between trained ones."""
        convention = configured(self.config, mu)
        return dataclasses.replace(convention, fractional=True, learned_variance=None)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: steps.Numbers | None = None,
        sigmas: steps.Numbers | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the steps, of which exactly one way is given.

        Arguments:
            num_inference_steps: the number of steps, along the spacing.
            device: of `timesteps`.
            timesteps: what the network is told at the start of each step. For flow matching beside sigmas: 1000 times
                these, so that the network is told the time before it is shifted, as by CogView4's pipelines.
            sigmas: the noise at the start of each step: for flow matching what is then shifted, sigma / alpha else.
                The n even sigmas that pipelines pass of themselves only count the steps where there is a `spacing`.
            mu: how far time is shifted, for configurations with `use_dynamic_shifting`.
        Raises:
            ValueError: none or several ways, or steps that do not lead from noise to data.
        """
        if self.config.get("use_dynamic_shifting") and mu is None:
            raise ValueError(
                "use_dynamic_shifting leaves the shift to the size of the image: pass mu=, or make the scheduler with "
                "use_dynamic_shifting=False and a shift"
            )
        convention = self._shifted(mu)
        if timesteps is not None and sigmas is not None and is_flow(convention) and steps.are_times(timesteps, sigmas):
            convention, timesteps = dataclasses.replace(convention, time="1000t"), None
        if (timesteps is None) + (sigmas is None) + (num_inference_steps is None) != 2:
            raise ValueError("pass one of num_inference_steps, timesteps and sigmas")
        self._convention = convention
        path = self._path(num_inference_steps, timesteps, sigmas)
        self.num_inference_steps = len(path) - 1
        self._plan = Plan(self._convention.process, self._method.transition(len(path) - 1), path)
        self.order = self._plan.order
        self._show([call.t for call in self._plan.calls], device)
        self._begin_index = None
        self._start_over()

    def _path(self, number: int | None, timesteps: steps.Numbers | None, sigmas: steps.Numbers | None) -> Tensor:
        """The times of the steps, `[n + 1]`."""
        convention, spacing, own = self._convention, self.config["spacing"], self._method.counts
        if sigmas is not None and is_flow(convention) and (spacing or own) and steps.is_even(sigmas):
            number, sigmas = len(sigmas), None
        if own:
            if number is None:
                raise ValueError("a fitted solver has times of its own: pass num_inference_steps")
            return torch.tensor(self._method.transition(number).options["times"], dtype=torch.float64)
        if timesteps is not None:
            return steps.by_timesteps(convention, timesteps)
        if sigmas is None and spacing is not None:
            assert number is not None
            return times_of(convention.process, number, spacing)
        if sigmas is not None:
            path = steps.by_sigmas(convention, sigmas)
        else:
            assert number is not None
            path = steps.default(self.config, convention, number)
        return steps.stretched(self.config, convention, path) if is_flow(convention) else path

    def _show(self, times: Sequence[float], device: str | torch.device | None) -> None:
        """Tell the pipeline of the calls."""
        t = torch.tensor(times, dtype=torch.float64)
        process, inverted = self._convention.process, self._convention.predicts.startswith("-flow")
        noise = process.sigma(t) if is_flow(self._convention) else process.sigma(t) / process.alpha(t)
        self.timesteps = self._convention.timestep(t).float().to(device)
        self.sigmas = torch.cat([1 - noise if inverted else noise, noise.new_full((1,), float(inverted))]).float()

    @property
    def init_noise_sigma(self) -> float:
        """What pipelines multiply their first noise by: the root mean square of x_t for data of variance 1.

        Fitted solvers start from the noise alone.
        """
        t = self._time(0) if self._plan else torch.ones((), dtype=torch.float64)
        process = self._convention.process
        return float(process.sigma(t) if self._method.counts else process.size(t))

    def _time(self, index: int) -> Tensor:
        assert self._plan is not None
        return torch.tensor(self._plan.calls[index].t, dtype=torch.float64)

    # --- where the trajectory stands -------------------------------------------------------------------------------

    @property
    def step_index(self) -> int | None:
        """The number of the next call, from 0; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The number of the call that the pipeline begins with; None: it did not say."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with this call, as image-to-image does."""
        self._begin_index = begin_index

    def _start_over(self) -> None:
        self._step_index: int | None = None
        self._halt: Halt | None = None
        self._noises: dict[tuple[int, int], Tensor] = {}

    def _index(self, timestep: Tensor | float) -> int:
        """The number of this call: the next one, or the one that the pipeline begins with."""
        if self._plan is None:
            raise ValueError("there are no steps yet: call set_timesteps")
        if self._step_index == len(self._plan.calls):  # another trajectory on the same steps
            self._start_over()
        begins = self._step_index is None
        if self._step_index is None:
            self._halt = None
            self._step_index = self._nearest(timestep) if self._begin_index is None else self._begin_index
        if not begins or self._begin_index is not None:
            self._check_told(timestep, self._step_index)
        return self._step_index

    def _check_told(self, timestep: Tensor | float, index: int) -> None:
        """Raise ValueError where a timestep is of another call than this, up to a whole number that was cut off."""
        known = self.timesteps[index]
        if isinstance(timestep, Tensor) and timestep.data_ptr() == known.data_ptr():  # nothing to wait for on a GPU
            return
        told, due = float(torch.as_tensor(timestep).flatten()[0]), float(known)
        if told != int(due) and float(self.timesteps[self._nearest(told)]) != due:
            raise ValueError(
                f"timestep={told:g}, and the next call is number {index} at {due:g}: a scheduler follows one "
                "trajectory, call by call; begin another by set_timesteps, or in a copy.deepcopy of it"
            )

    def _nearest(self, timestep: Tensor | float) -> int:
        """The call with this timestep; of several, the one that opens a step."""
        assert self._plan is not None
        told = torch.as_tensor(timestep).flatten()[:1].float().cpu()
        distance = (self.timesteps.cpu() - told).abs()
        same: list[int] = (distance == distance.min()).nonzero().flatten().tolist()
        return next((index for index in same if self._plan.calls[index].opens), same[0])

    # --- steps -----------------------------------------------------------------------------------------------------

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """What the network sees of x_t: for EDM's, x_t / sqrt(sigma_data^2 + sigma^2); else x_t itself."""
        if self._convention.sigma_data is None:
            return sample
        t = self._time(self._index(self.timesteps[0] if timestep is None else timestep))
        seen = self._convention.process.normalized(_wide(sample), t, self._convention.sigma_data)
        return seen.to(sample.dtype)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Move on by the network's answer to a call.

        Arguments:
            model_output: the answer, `[b, *d]`, or `[b, 2c, ...]` with a learned variance in its second half.
            timestep: counts at the first call alone, if the pipeline did not say where it begins.
            sample: what the network was asked about (before `scale_model_input`), `[b, *d]`.
            eta: of the method ddim; 0: as configured.
            generator: of the noise; of a list, one for each sample.
            variance_noise: the first noise of the step, `[b, *d]`.
            return_dict: whether to return an object; else a tuple.
        Returns:
            `prev_sample`, what the network sees next or the sample, and `pred_original_sample`, the estimate of x0, in
            the dtype of `sample`.
        Raises:
            ValueError: no steps were chosen; an eta of another method; an argument that other schedulers have.
        """
        for name, value in others.items():
            if value is not None and value is not False:
                raise ValueError(f"{name}={shown(value, 60)}: this scheduler has no such argument of step")
        index = self._index(timestep)
        assert self._plan is not None
        self._stir(eta)
        number = self._plan.calls[index].step
        self._noises = {known: drawn for known, drawn in self._noises.items() if known[0] >= number}
        x, estimate = self._heard(model_output, sample, index)
        noise = partial(self._noise, sample, model_output.dtype, generator, variance_noise)
        self._halt = self._plan.advance(index, self._halt, x, estimate, noise)
        self._step_index = index + 1
        result = self._halt.x.to(sample.dtype, copy=True), estimate.x0.to(sample.dtype)  # it may be changed in place
        return SchedulerOutput(*result) if return_dict else result

    def _heard(self, model_output: Tensor, sample: Tensor, index: int) -> tuple[Tensor, Estimate]:
        """The sample in a wide dtype, and the network's answer to it as an estimate of x0."""
        x, value = self._unrounded(sample), _wide(model_output)
        diffusion = from_network(lambda _, timestep: value, self._convention)
        return x, diffusion.estimate(x, self._time(index))

    def _unrounded(self, sample: Tensor) -> Tensor:
        """A sample in a wide dtype: where it is what the step before gave, as that was before it was rounded."""
        x, state = _wide(sample), None if self._halt is None else self._halt.x
        if state is None or x.dtype == sample.dtype or state.shape != x.shape or state.device != x.device:
            return x
        return torch.where(state.to(sample.dtype) == sample, state.to(x.dtype), x)

    def _stir(self, eta: float) -> None:
        """Take the eta of a pipeline's call, where it says one."""
        assert self._plan is not None
        if eta == 0:
            return
        if self._method.name != "ddim":
            raise ValueError(f"eta={eta} is an option of the method ddim, and this is {self._method.name}: leave it 0")
        self._plan.transition = ddim(**{**self._method.options, "eta": eta})

    def _noise(
        self,
        sample: Tensor,
        dtype: torch.dtype,
        generator: torch.Generator | list[torch.Generator] | None,
        first: Tensor | None,
        step: int,
        draw: int = 0,
    ) -> Tensor:
        """The noise of a step, `[b, *d]`; the same for each of its calls."""
        if (step, draw) not in self._noises:
            if first is not None and not self._noises:
                drawn = first.to(sample.device)
            else:
                if isinstance(generator, list) and len(generator) not in (1, len(sample)):
                    raise ValueError(
                        f"{len(generator)} generators for {len(sample)} samples: pass one, or one for each"
                    )
                drawn = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=dtype)
            self._noises[step, draw] = _wide(drawn)
        return self._noises[step, draw]

    # --- noise on data ---------------------------------------------------------------------------------------------

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps of data `[b, *d]`, at the times of these timesteps, `[b]` or one for all."""
        t = self._convention.time_of(torch.as_tensor(timesteps).reshape(-1))
        t = t[0] if len(t) == 1 else t
        noisy = self._convention.process.add_noise(_wide(original_samples), t, _wide(noise))
        return noisy.to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor | float, noise: Tensor) -> Tensor:
        """The same in the order of arguments of the flow-matching schedulers."""
        return self.add_noise(sample, noise, torch.as_tensor(timestep))


def is_flow(convention: Convention) -> bool:
    """Whether a network predicts the velocity of a straight line."""
    return convention.predicts.removeprefix("-") == "flow"


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
