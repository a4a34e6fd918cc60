"""Pipelines of diffusers as models over their latents: `from_pipeline`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from leapstep.core.convention import Condition
from leapstep.core.denoiser import Diffusion, from_network
from leapstep.diffusers.autoencoding import Autoencoding
from leapstep.diffusers.network import PipelineNetwork, Unknown, read_off
from leapstep.diffusers.recording import Recording, record, recorded_again
from leapstep.diffusers.scheduler import from_scheduler
from leapstep.models.model import Model
from leapstep.text import one_line

PROMPTS_AT_ONCE = 8
"""Conditions of more prompts are recorded in parts."""


@dataclasses.dataclass(frozen=True, repr=False)
class LatentModel(Model):
    """A pipeline of diffusers as a model over its latents: its network with its prompts, its scheduler's convention.

    It is a `leapstep.Model`, so whatever takes one takes it: a sample is a latent of the pipeline. Several prompts are
    its classes, which labels name.

    Attributes:
        guidance: the scale that the pipeline was called with, at which `diffusion()` samples.
        autoencoding: the pipeline's way from latents to pictures, videos or sound, and back.
    """

    guidance: float = 1.0
    autoencoding: Autoencoding | None = None

    def diffusion(
        self,
        labels: Tensor | None = None,
        guidance: float | None = None,
        dtype: torch.dtype | None = None,
        rescale: float | None = None,
        *,
        condition: Mapping[str, Any] | None = None,
    ) -> Diffusion:
        """The network over latents.

        Arguments:
            labels: the number of the prompt of each sample, `[b]`, or one for all; None: the only prompt, or one each
                for as many samples as there are prompts.
            guidance: its scale; None: that of the pipeline's call. 1 is none.
            dtype: the network keeps its own.
            rescale: as the pipeline's guidance_rescale; None: that of its call.
        Raises:
            ValueError: guidance that the pipeline was not called with and that cannot be changed.
        """
        network = self.network
        if not isinstance(network, PipelineNetwork):  # a copy in another dtype
            raise ValueError(
                "a pipeline's network computes in its own dtype: state that one, or move the pipeline to another"
            )
        if guidance is not None and guidance != self.guidance:
            network = network.guided(guidance)
        if rescale is not None and rescale != network.rescale:
            network = network.rescaled(rescale)
        values, convention = dict(condition or {}), self._inner
        if labels is None:
            convention = dataclasses.replace(convention, conditions=())
        else:
            self._check(labels, 1.0, False)
            values["prompt"] = labels
        return from_network(network, convention, condition=values)

    @property
    def rescale(self) -> float:
        """The pipeline's guidance_rescale, by which `diffusion()` samples."""
        return self.network.rescale if isinstance(self.network, PipelineNetwork) else 0.0

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, or class labels; empty where there is one."""
        return self.classes

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `[b, 3, h, w]` in [-1, 1] (videos `[b, frames, 3, h, w]`, sound as it is) of latents `[b, *d]`.

        The pipeline's own code makes them, from its autoencoder to its processors. Gradients flow where they are on.
        """
        assert self.autoencoding is not None
        return self.autoencoding.decode(latents)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents `[b, *d]` of pictures, videos or sound as `decode` makes them: the mode of the encoder's law."""
        assert self.autoencoding is not None
        return self.autoencoding.encode(pictures)


def from_pipeline(
    pipe: Any,
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    guidance: float | None = None,
    **call: Any,
) -> LatentModel:
    """Make a model of a diffusers pipeline and its prompts: a network over latents, for everything that takes one.

        pipe = diffusers.DiffusionPipeline.from_pretrained(NAME)
        model = leapstep.diffusers.from_pipeline(pipe, "a cat in the snow", guidance=5.0)
        latents = leapstep.sample(model, (4, *model.shape), steps=12, transition="unipc")
        pictures = model.decode(latents)

    The pipeline is run for three steps, which are recorded: how it calls its network with latents, timesteps and
    conditions, and how it combines the answers. What was read off is computed again and must equal what the pipeline
    gave its scheduler; else the pipeline is refused. The pipeline is not changed, and shares its weights with the
    result.

    Arguments:
        pipe: a `DiffusionPipeline`: of images, videos or sound, with or without text.
        prompt: one for all samples, or several; see `LatentModel.diffusion`.
        negative_prompt: one for all, or one for each prompt.
        guidance: the pipeline's `guidance_scale`; None: its default.
        call: further arguments of the pipeline's call, such as height, width, class_labels, image or
            guidance_rescale.
    Returns:
        the model. Its shape is that of the latents that the scheduler steps, as packed as the pipeline has them.
    Raises:
        ValueError: the pipeline refuses the arguments, or does something that no network of latents and a timestep
            does; or its scheduler's configuration is not known.
    """
    if not isinstance(getattr(pipe, "scheduler", None), SchedulerMixin):
        raise ValueError(
            f"{type(pipe).__name__} is no pipeline with a scheduler: open one, such as by "
            "diffusers.DiffusionPipeline.from_pretrained(NAME)"
        )
    call, taken = _arguments(pipe, prompt, negative_prompt, guidance, call)
    names, parts = _prompts(call)
    with torch.no_grad():
        networks, seen = zip(*(_recorded(pipe, part, taken) for part in parts), strict=True)
    network = functools.reduce(PipelineNetwork.joined, networks)
    convention, first = from_scheduler(pipe.scheduler, seen[0].mu), seen[0].steps[0]
    classes = tuple(one_line(name, 200) for name in names) if network.samples > 1 else ()
    convention = dataclasses.replace(
        convention,
        shape=tuple(first.sample.shape[1:]),
        fractional=convention.time == "index" and _is_fractional(network),
        learned_variance=False,
        conditions=(Condition("prompt", classes),) if classes else (),
    )
    scale = 1.0 if network.conditional is None else network.weights[network.conditional]
    way = Autoencoding(pipe, _single(call), first, networks[0].samples)
    return LatentModel(network, convention, guidance=scale, autoencoding=way)


def _recorded(
    pipe: Any, call: dict[str, Any], taken: Mapping[str, inspect.Parameter]
) -> tuple[PipelineNetwork, Recording]:
    """The network with the conditions of one call, and what the pipeline did in it."""
    seen = record(pipe, call)
    try:
        doubled = recorded_again(pipe, _doubled(call, taken), seen.steps[0])
        part = {made.part for step in seen.steps for made in step.calls}
        if len(part) != 1:
            raise Unknown(f"it calls {' and '.join(sorted(part)) or 'no network'} in its steps")
        network = read_off(getattr(pipe, part.pop()), seen.steps, doubled, _count(call, taken), _scales(call, taken))
    except Unknown as error:
        raise ValueError(
            f"{type(pipe).__name__} does not make its steps of one network of latents and a timestep: {error}. "
            "leapstep.diffusers.Scheduler works in it all the same"
        ) from error
    return network, seen


# --- the pipeline's call -------------------------------------------------------------------------------------------


def _arguments(
    pipe: Any, prompt: Any, negative: Any, guidance: float | None, call: Mapping[str, Any]
) -> tuple[dict[str, Any], Mapping[str, inspect.Parameter]]:
    """The arguments of a pipeline's call, and which it takes. Raises ValueError for those that it does not."""
    taken = inspect.signature(type(pipe).__call__).parameters
    named = {"prompt": prompt, "negative_prompt": negative, "guidance_scale": guidance}
    given = {**call, **{name: value for name, value in named.items() if value is not None}}
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    if count := next((len(given[name]) for name in FIRST if isinstance(given.get(name), list)), None):
        one = {name: value for name, value in given.items() if re.fullmatch(MANY, name) and isinstance(value, str)}
        given |= {name: [value] * count for name, value in one.items()}
    for name in ("num_inference_steps", "output_type", "return_dict", "latents"):
        if name in given:
            raise ValueError(f"{name}={given[name]!r}: a model over latents has its own, leave it out")
    if unknown := [name for name in given if name not in taken]:
        raise ValueError(f"{type(pipe).__name__} takes no {unknown[0]}: it takes {', '.join(list(taken)[1:])}")
    if "generator" in taken:
        given.setdefault("generator", torch.Generator().manual_seed(0))
    return given, taken


EACH = r"num_\w+_per_prompt|batch_size"
"""Names of the argument that says how many samples are made of a prompt."""

MANY = r"(negative_)?prompt(_\d)?|class_labels"
"""Names of arguments that are lists where there are several samples."""

FIRST = ("prompt", "class_labels")
"""Those of them that say how many."""


def _prompts(call: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of all prompts, and calls with some of them each."""
    name = next((name for name in FIRST if isinstance(call.get(name), list)), None)
    if name is None:
        return [], [call]
    prompts = call[name]
    if not prompts:
        raise ValueError(f"{name} is an empty list: name one or more")
    lists = [key for key, value in call.items() if isinstance(value, list) and re.fullmatch(MANY, key)]
    if uneven := [key for key in lists if len(call[key]) != len(prompts)]:
        raise ValueError(f"{len(call[uneven[0]])} of {uneven[0]} for {len(prompts)} of {name}: give one for each")
    calls = [
        call | {key: call[key][start : start + PROMPTS_AT_ONCE] for key in lists}
        for start in range(0, len(prompts), PROMPTS_AT_ONCE)
    ]
    return [str(prompt) for prompt in prompts], calls


def _count(call: Mapping[str, Any], taken: Mapping[str, Any]) -> int:
    """How many samples a call makes."""
    lists = [len(call[name]) for name in FIRST if isinstance(call.get(name), list)]
    embedded = [len(value) for name, value in call.items() if name == "prompt_embeds"]
    each = next((name for name in taken if re.fullmatch(EACH, name)), "")
    return next(iter([*lists, *embedded]), 1) * int(call.get(each) or 1)


def _doubled(call: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    """A call that makes two samples for each of another."""
    several = {name: value for name, value in call.items() if re.fullmatch(MANY, name)}
    if not several:
        return {**call, **{name: 2 * int(call.get(name) or 1) for name in taken if re.fullmatch(EACH, name)}}
    lists = {name: value if isinstance(value, list) else [value] for name, value in several.items()}
    return {**call, **{name: [item for item in value for _ in range(2)] for name, value in lists.items()}}


def _single(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call that makes the first of another's samples."""
    first = {name: value[:1] for name, value in call.items() if re.fullmatch(MANY, name) and isinstance(value, list)}
    embedded = {name: value[:1] for name, value in call.items() if "prompt" in name and isinstance(value, Tensor)}
    return {**call, **first, **embedded, **{name: 1 for name in call if re.fullmatch(EACH, name)}}


def _scales(call: Mapping[str, Any], taken: Mapping[str, inspect.Parameter]) -> dict[str, float]:
    """The numbers in a call that may be a scale of guidance."""
    values = {name: call.get(name, parameter.default) for name, parameter in taken.items()}
    return {
        name: float(value)
        for name, value in values.items()
        if re.search("guidance|cfg", name) and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _is_fractional(network: PipelineNetwork) -> bool:
    """Whether the network knows of times between two levels: by sines, and not by a table of embeddings."""
    return any(re.search("Timesteps|FourierProjection", type(part).__name__) for part in network.modules())
