"""A pipeline's way from latents to pictures, videos or sound, and back.

Every pipeline ends with code of its own between its latents and the decoder of its autoencoder: it unpacks tokens,
divides by a scaling factor, adds a shift, a mean for each channel. `decode` runs that code: the pipeline makes one
step, in which the network answers from memory and the scheduler returns the latents that are to be decoded. The way
back is read off it: what reaches the decoder is z = a x[order] + b elementwise, and a, b and the order are seen by
sending zeros, ones and the numbers 0, 1, 2, ... that way.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leapstep.diffusers.recording import ASKED, Recorded, Step, mapped, run, stand_in

BASE = 64
"""The positions of latents are sent digit by digit, which half precision tells apart after a scale and a shift."""


class Affine(NamedTuple):
    """What reaches the decoder: z = scale x[order] + shift, each `[1, *z]`."""

    scale: Tensor
    shift: Tensor
    order: Tensor


class Autoencoding:
    """A pipeline's way from latents to pictures, videos or sound, and back.

    Attributes:
        pipe: the pipeline.
        call: arguments of its call.
        step: its first step, of a call with more samples.
        samples: how many these were.
    """

    def __init__(self, pipe: Any, call: Mapping[str, Any], step: Step, samples: int) -> None:
        self.pipe, self.call, self.step, self.samples = pipe, dict(call), step, samples

    def decode(self, latents: Tensor) -> Tensor:
        """What the pipeline makes of latents, sample by sample; pictures in [-1, 1]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and latents.requires_grad):
            made = torch.cat([self._finished(row[None]) for row in latents])
        return made if self._sound else 2 * made - 1

    def encode(self, pictures: Tensor) -> Tensor:
        """The inverse of `decode`, as far as the autoencoder has one.

        Raises:
            ValueError: pictures of another size than the latents are of, or a pipeline without an encoder.
        """
        if getattr(self.pipe, "vae", None) is None:
            return pictures
        vae, way = self.pipe.vae, self._affine
        x = pictures.to(vae.device, vae.dtype)
        encoded = vae.encode(x.transpose(1, 2) if way.scale.ndim == 5 else x)
        law = getattr(encoded, "latent_dist", None)
        z: Tensor = encoded.latents if law is None else law.mode()
        if z.shape[1:] != way.scale.shape[1:]:
            raise ValueError(
                f"{list(pictures.shape[1:])} becomes {list(z.shape[1:])} in the autoencoder, and the latents are "
                f"{list(way.scale.shape[1:])}: pass the sizes of these to from_pipeline"
            )
        values = ((z.float() - way.shift) / way.scale).flatten(1)
        result = torch.empty_like(values)
        result[:, way.order.flatten()] = values
        return result.reshape(len(z), *self.step.sample.shape[1:])

    @property
    def _sound(self) -> bool:
        return "audio" in type(self.pipe).__name__.lower()

    @functools.cached_property
    def _affine(self) -> Affine:
        """What reaches the decoder of some latents."""
        shape = self.step.sample.shape[1:]
        numbers = torch.arange(shape.numel()).view(1, *shape)
        with torch.no_grad():
            zero = torch.zeros(1, *shape)
            shift = self._sent(zero)
            scale = self._sent(zero + 1) - shift
            order, unit = torch.zeros_like(scale, dtype=torch.int64), 1
            while unit < shape.numel():
                digit = (self._sent((numbers // unit % BASE).float()) - shift) / scale
                order, unit = order + unit * digit.round().long(), unit * BASE
        if not torch.equal(order.flatten().sort().values, numbers.flatten().to(order.device)):
            raise ValueError(f"{type(self.pipe).__name__} does more to latents than to scale, shift and reorder them")
        return Affine(scale, shift, order)

    def _sent(self, latents: Tensor) -> Tensor:
        """What reaches the decoder of one sample, in float32."""
        seen: list[Tensor] = []

        def decoded(z: Tensor, *args: Any, **kwargs: Any) -> Any:
            seen.append(z.float())
            raise Recorded

        self._finished(latents, vae=stand_in(self.pipe.vae, decoded, "decode"))
        return seen[0]

    def _finished(self, latents: Tensor, **parts: Any) -> Any:
        """What the pipeline makes of the latents of one sample; None where a part of it ends the run."""
        answers = itertools.cycle(call.raw for call in self.step.calls)

        def called(part: str, network: Any, *args: Any, **kwargs: Any) -> Any:
            return mapped(next(answers), lambda value: value.reshape(-1, self.samples, *value.shape[1:])[:, 0])

        def stepped(step: Any, output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = step(output, timestep, sample, *args, **kwargs)
            rows = latents.to(sample).expand(len(sample), *latents.shape[1:])
            if isinstance(result, tuple):
                return (rows, *result[1:])
            result.prev_sample = rows
            return result

        call = {**self.call, "num_inference_steps": ASKED[-1], "output_type": "pt", "return_dict": False}
        result = run(self.pipe, call, called, stepped, **parts)
        if result is None:
            return None
        made = torch.as_tensor(result[0])[:1]
        return made if isinstance(result[0], Tensor) else made.movedim(-1, 1)  # the oldest pipelines know no "pt"
