"""Denoisers: estimates of x0 from x_t, which are all that samplers need, made from any network.

The denoiser that minimises the squared error is the posterior mean, D(x, t) = E[x0 | x_t = x]. From it follow the
noise estimate eps = (x - alpha D) / sigma and the score -eps / sigma (Tweedie's formula), so a process and a denoiser
together (`Diffusion`) are all that there is to know of a trained model. This module makes them

- from anybody's network: `from_network`, which calls it as its `Convention` says;
- from other denoisers: `guided`, `clipped`, `scaled`.

All of them are values: they can be pickled, and called by several threads, as far as the network can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from leapstep.core import arguments, instead
from leapstep.core.calling import call
from leapstep.core.convention import Clip, Condition, Convention, DynamicThreshold, as_range, as_scaling, timestep_at
from leapstep.core.gaussian import Gaussian
from leapstep.core.printing import name_of, shown, summary
from leapstep.core.process import Process, along, as_time, curves, flat, somewhere
from leapstep.core.scaling import Scaling


class Denoiser(Protocol):
    """E[x0 | x_t]: takes x_t `[b, *d]` and one time, or one per sample `[b]`; returns x0 `[b, *d]`.

    One that knows more of the same call has a method `estimate` besides, which returns an `Estimate`.
    """

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor: ...  # noqa: D102


class Estimate(NamedTuple):
    """What one call of a denoiser knows.

    Attributes:
        x0: the estimate, `[b, *d]`.
        unbounded: the same before it was clipped, `[b, *d]`.
        learned: where the network learned the variance of its reverse steps: in [0, 1] or near it, `[b, *d]`, where its
            logarithm lies between those of the posterior's variance (0) and of beta (1). (Nichol and Dhariwal 2021,
            eq. 15, arXiv:2102.09672.)
    """

    x0: Tensor
    unbounded: Tensor
    learned: Tensor | None = None

    def __repr__(self) -> str:
        return summary(self, self._asdict().items())


class Diffusion(NamedTuple):
    """A process and a denoiser for it: all that a sampler needs to know of a model.

    Attributes:
        process: the curves alpha and sigma.
        denoise: estimates x0.
        origin: where the data lie, `[*d]` or a number: sampling starts from N(alpha(1) origin, sigma(1)^2 I), which
            matters where the process leaves some signal at t = 1. Or their law as a `Gaussian` N(m, C): sampling then
            starts from N(alpha m, alpha^2 C + sigma^2 I), which is near to the law of x_t at lower t too.
    """

    process: Process
    denoise: Denoiser
    origin: Tensor | float | Gaussian = 0.0

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        """Everything that a single call of the denoiser knows of x0, of x_t `[b, *d]` at one time or one each."""
        return estimate(self.denoise, x, t)

    def __repr__(self) -> str:
        fields = {"process": self.process, "denoise": self.denoise, "origin": self.origin}
        if isinstance(self.origin, float) and self.origin == 0:
            del fields["origin"]
        return summary(self, fields.items())


class Diffusible(Protocol):
    """What has a diffusion, such as a `leapstep.Model` that needs no conditions."""

    def diffusion(self) -> Diffusion: ...  # noqa: D102


def as_diffusion(value: Diffusion | Diffusible) -> Diffusion:
    """The diffusion that is meant: itself, or that of a model without conditions.

    Raises:
        ValueError: something else, such as a network whose process nobody named.
    """
    if isinstance(value, Diffusion):
        return value
    make = getattr(value, "diffusion", None)
    made = make() if callable(make) and not isinstance(value, type) and arguments.takes(make) else None
    if not isinstance(made, Diffusion):
        raise ValueError(f"diffusion is {instead.of_diffusion(value)}")
    return made


def as_diffusions(value: Diffusion | Diffusible | Callable[[Any], Diffusion]) -> Callable[[Any], Diffusion]:
    """From some rows of a batch to the diffusion that is conditioned for them: a function of rows, or one for all."""
    if callable(value) and not isinstance(value, torch.nn.Module | type) and arguments.takes(value, None):
        return lambda rows: as_diffusion(value(rows))
    diffusion = as_diffusion(value)  # type: ignore[arg-type]  # which tells what else it is
    return lambda rows: diffusion


def estimate(denoise: Denoiser, x: Tensor, t: Tensor) -> Estimate:
    """Everything that a single call of a denoiser knows of x0."""
    whole: Callable[[Tensor, Tensor], Estimate] | None = getattr(denoise, "estimate", None)
    if whole is not None:
        return whole(x, t)
    x0 = denoise(x, t)
    return Estimate(x0, x0)


def needed(learned: Tensor | None) -> Tensor:
    """The learned variance of an `Estimate`. Raises ValueError where there is none."""
    if learned is None:
        raise ValueError("the network learned no variance, which variance='learned' needs: use posterior or beta")
    return learned


class Counted:
    """A denoiser that counts its calls.

    Attributes:
        denoise: the denoiser.
        on_call: called with the number of samples of each call, before it.
        calls: so far.
    """

    def __init__(self, denoise: Denoiser, on_call: Callable[[int], object] | None = None) -> None:
        self.denoise, self.on_call, self.calls = denoise, on_call, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Estimate x0 `[b, *d]`."""
        self._count(x)
        return self.denoise(x, t)

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        """Everything that one call knows."""
        self._count(x)
        return estimate(self.denoise, x, t)

    def _count(self, x: Tensor) -> None:
        self.calls += 1
        if self.on_call is not None:
            self.on_call(len(x))


# --- networks ------------------------------------------------------------------------------------------------------


def from_network(
    net: Callable[..., Any],
    convention: Convention | Process | str,
    predicts: str = "eps",
    time: str | Callable[[Tensor], Tensor] = "index",
    *,
    timesteps: int | None = None,
    fractional: bool = False,
    reverse: bool = False,
    reshape: str | Callable[[Tensor], Tensor] = "[b]",
    scaling: Scaling | tuple[Any, float] | None = None,
    sigma_data: float | None = None,
    clip: Clip | None = None,
    learned_variance: bool | None = None,
    origin: Any = 0.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    guidance: float = 1.0,
    rescale: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Diffusion:
    """Adapt any network to the one convention of this library.

    Arguments:
        net: called as `net(x, timestep, **condition)` with x `[b, *d]` and timestep `[b]` on the device of x. Returns
            the prediction `[b, *d]`, or an object that holds it as `.sample`; a prediction with twice the channels
            `[b, 2c, ...]` is taken to carry a learned variance in its second half, from -1 (posterior) to 1 (beta).
        convention: how the network is called; or the process it was trained on, e.g. `leapstep.linear()` or "linear",
            with the other fields of a `Convention` as arguments of this function.
        predicts, time, timesteps, fractional, reverse, reshape, scaling, sigma_data, clip, learned_variance, origin: as
            of `Convention`. With a scaling you see your own range everywhere, also in the process of the result, whose
            sigma is `scale` times as large.
        condition: keyword arguments for every call of the network; tensors `[b, ...]` hold a value for each sample.
        null: what takes the place of the condition in the free half of classifier-free guidance; arguments that are not
            named stay as they are, and 0-dim tensors and numbers stand for all samples.
        guidance: its scale, see `guided`: 1 follows the condition.
        rescale: see `guided`.
        dtype: what x is cast to for a network whose weights are in it, e.g. `torch.bfloat16` after `net.bfloat16()`;
            the state of the sampler, the times and the timesteps keep their own. None: the dtype of x.
    Returns:
        the Diffusion; its denoiser raises ValueError when the network's output does not fit x.
    Raises:
        ValueError: fields that make no `Convention`, guidance without the two conditions between which it leads, or a
            network that takes other arguments.
    """
    fields: dict[str, Any] = {
        "predicts": predicts,
        "time": time,
        "timesteps": timesteps,
        "fractional": fractional,
        "reverse": reverse,
        "reshape": reshape,
        "scaling": scaling,
        "sigma_data": sigma_data,
        "clip": clip,
        "learned_variance": learned_variance,
        "origin": origin,
    }
    if not isinstance(convention, Convention):
        convention = Convention(convention, **fields)  # type: ignore[arg-type]
    elif changed := [name for name, value in fields.items() if repr(value) != repr(getattr(Convention, name))]:
        raise ValueError(
            f"{', '.join(changed)} beside a Convention, which has its own: use dataclasses.replace(convention, "
            f"{changed[0]}=...)"
        )
    condition, null = _conditions(convention, condition, null, guidance)
    arguments.checked(net, condition)
    denoise = NetworkDenoiser(net, convention, condition, null if guidance != 1 else None, dtype)
    diffusion = Diffusion(convention.process, denoise, _number_or_tensor(convention.origin))
    if guidance != 1:
        diffusion = guided(diffusion, guidance, rescale)
    clip, early = convention.clip, isinstance(convention.clip, DynamicThreshold)
    if clip is not None and early:
        diffusion = clipped(diffusion, clip)
    if convention.scaling is not None:
        diffusion = scaled(diffusion, *convention.scaling)
    return diffusion if clip is None or early else clipped(diffusion, clip)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NetworkDenoiser:
    """A network's estimate of x0, by its convention.

    Attributes:
        net: the network.
        convention: how it is called; `clip` and `scaling` are applied around this.
        condition: its keyword arguments.
        null: what takes their place in the second half of every batch, where there is guidance; None: there is none.
        dtype: what x is cast to for the network.
    """

    net: Callable[..., Any]
    convention: Convention
    condition: Mapping[str, Any]
    null: Mapping[str, Any] | None = None
    dtype: torch.dtype | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Estimate x0 `[b, *d]`."""
        return self.estimate(x, t).x0

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        """Estimate x0 and, where the network learned it, the variance."""
        process, convention, t = self.convention.process, self.convention, as_time(t)
        if convention.predicts.removeprefix("-") in ("eps", "score") and somewhere(curves(process, t)[0] == 0):
            raise ValueError(
                f"at alpha = 0 (zero terminal SNR) an {convention.predicts} prediction says nothing of x0: start from "
                "a list of times below 1, or use a network that predicts v, x0 or flow"
            )
        value, half = self.predict(x, t)
        x0 = process.convert(value, x, t, convention.predicts, "x0", convention.sigma_data or 1.0)
        return Estimate(x0, x0, None if half is None else (half + 1) / 2)

    def predict(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Call the network: its prediction `[b, *d]` in the dtype of x, and the half that is a learned variance."""
        convention = self.convention
        timestep = convention.timestep(t.expand(len(x))) if callable(convention.time) else timestep_at(convention, t)
        x = convention.process.normalized(x, t, convention.sigma_data)
        return call(
            self.net, x, timestep, self._keywords(x), convention.reshape, convention.learned_variance, self.dtype
        )

    def _keywords(self, x: Tensor) -> dict[str, Any]:
        """The keyword arguments for this batch: with guidance, for its conditional half and for its free half."""
        if not self.condition:
            return {}
        declared = {condition.name for condition in self.convention.conditions}
        free, n = self.null or {}, len(x) if self.null is None else len(x) // 2
        values: dict[str, Any] = {}
        for name, value in self.condition.items():
            shared = torch.as_tensor(value) if isinstance(value, np.ndarray | list) else value
            per_sample = isinstance(shared, Tensor) and shared.ndim > 0 and len(shared) == n
            if name in declared or name in free:
                value = _rows(name, value, n)
            if name in free:
                value = torch.cat([value, _rows(f"null {name}", free[name], n).to(value)])
            elif self.null is not None and (name in declared or per_sample):
                value = torch.cat([value if name in declared else shared] * 2)
            values[name] = value.to(x.device) if name in declared else value
        return values

    def __repr__(self) -> str:
        arguments = ", ".join(["x", shown(self.convention.time).strip("'"), *self.condition])
        return f"{name_of(self.net)}({arguments}) -> {self.convention.predicts}"


def _conditions(
    convention: Convention, condition: Mapping[str, Any] | None, null: Mapping[str, Any] | None, guidance: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network's keyword arguments, and those of its free half: as given, or else as the convention has them."""
    named: dict[str, Condition] = {entry.name: entry for entry in convention.conditions}
    nulls = {name: entry.null for name, entry in named.items() if entry.null is not None}
    if null and (unknown := sorted(set(null) - set(condition or {}))):
        raise ValueError(f"null names {', '.join(unknown)}, which condition does not: name the same arguments in both")
    values = nulls | dict(condition or {})
    if missing := sorted(set(named) - set(values)):
        raise ValueError(f"the network wants {', '.join(missing)}: pass condition={{{missing[0]!r}: ...}}")
    free = {name: value for name, value in nulls.items() if name in (condition or {})} | dict(null or {})
    if guidance != 1 and not free:
        raise ValueError(
            f"guidance={guidance} leads from a null condition to a condition: pass both, as in "
            "condition={'y': labels}, null={'y': 10}"
        )
    return values, free


def _rows(name: str, value: Any, n: int) -> Tensor:
    """A value for each of n samples, of a number, of one value for all, or of as many."""
    try:
        tensor = torch.as_tensor(value)
        return tensor.expand(n, *tensor.shape[1:])
    except (TypeError, ValueError, RuntimeError):
        arrived = f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
        raise ValueError(
            f"{name} is {arrived} for {n} samples: give a number, one value for all, or one for each"
        ) from None


def _number_or_tensor(value: Any) -> Tensor | float:
    return value if isinstance(value, int | float) else torch.tensor(value, dtype=torch.float64)


# --- denoisers from denoisers --------------------------------------------------------------------------------------


def clipped(diffusion: Diffusion | Diffusible, clip: Clip) -> Diffusion:
    """Bound the x0 estimate; eps and everything else that samplers use then follow from the bounded one.

    Only `ddim(eps="raw")` takes the eps of the network beside it.

    Arguments:
        clip: a range (low, high) that data cannot leave, or a function of x0 such as `dynamic_threshold()`.
    Raises:
        ValueError: a range with low >= high.
    """
    diffusion = as_diffusion(diffusion)
    return diffusion._replace(denoise=Clipped(diffusion.denoise, clip if callable(clip) else as_range(clip)))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Clipped:
    """A denoiser with the bound that `clipped` puts on it."""

    denoise: Denoiser
    clip: Clip

    def __repr__(self) -> str:
        return f"clipped({shown(self.denoise)}, {shown(self.clip)})"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:  # noqa: D102
        return self._bound(self.denoise(x, t))

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:  # noqa: D102
        inner = estimate(self.denoise, x, t)
        return inner._replace(x0=self._bound(inner.x0))

    def _bound(self, x0: Tensor) -> Tensor:
        return self.clip(x0) if callable(self.clip) else x0.clamp(*self.clip)


def dynamic_threshold(quantile: float = 0.995, limit: float = 1.0) -> DynamicThreshold:
    """Make a clip that bounds each x0 by its own quantile of absolute values; see `DynamicThreshold`.

    Arguments:
        quantile: share of the values that keep their size, in (0, 1].
        limit: the size that x0 is brought back to, and below which nothing is bounded.
    Returns:
        the clip, a function of x0 that can be compared and written down.
    """
    return DynamicThreshold(quantile, limit)


def guided(diffusion: Diffusion | Diffusible, scale: float, rescale: float = 0.0) -> Diffusion:
    """Classifier-free guidance: x0 = x0_free + scale (x0_conditional - x0_free), both halves in one call.

    Since x0 and eps are affine in each other at a given x_t, guiding either guides both. Papers that write
    (1 + w) conditional - w free mean scale = 1 + w.

    Arguments:
        diffusion: answers a batch of 2b whose first half it conditions and whose second half it does not, as
            `from_network(..., condition=, null=, guidance=)` does; clip after guidance.
        scale: 0 is unconditional, 1 conditional, above 1 exaggerates the condition.
        rescale: how far, from 0 to 1, the standard deviation of each guided estimate is brought back to that of the
            conditional one: strong guidance overshoots the data's contrast.
    Raises:
        ValueError: rescale outside [0, 1]; at call, rescale above 0 where a sample is a single number.
    References:
        Ho and Salimans 2022, eq. 6 (scale = 1 + w), arXiv:2207.12598; Lin et al. 2024, eq. 15, 16, arXiv:2305.08891.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale={rescale}: use a share from 0 (plain guidance) to 1")
    diffusion = as_diffusion(diffusion)
    return diffusion._replace(denoise=_Guided(diffusion.denoise, scale, rescale))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Guided:
    """It has no `estimate`: a learned variance is of one half, not of the mixture, and a bound acts after guidance."""

    denoise: Denoiser
    scale: float
    rescale: float

    def __repr__(self) -> str:
        return f"guided({shown(self.denoise)}, {self.scale:g})"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        twice = torch.cat([x, x]), t if t.ndim == 0 else torch.cat([t, t])
        conditional, free = self.denoise(*twice).chunk(2)
        x0 = torch.lerp(free, conditional, self.scale)
        if self.rescale == 0:
            return x0
        if x0[:1].numel() == 1:
            raise ValueError(
                f"rescale={self.rescale} is for the contrast within a sample, and a single number has none: use 0"
            )
        wanted, actual = (along(flat(y).std(1), x) for y in (conditional, x0))
        return torch.lerp(x0, x0 * (wanted / actual.clamp(min=1e-12)), self.rescale)


def scaled(diffusion: Diffusion | Diffusible, shift: Any, scale: float) -> Diffusion:
    """The same model for data in another range: yours = scale * the model's + shift.

    At every time, x_t = alpha x0 + sigma eps is scaled with it, to alpha (scale x0 + shift) + (scale sigma) eps: a
    process with the same alpha and `scale` times the sigma.

    Arguments:
        shift: a number, or a tensor that broadcasts to one sample `[*d]`.
        scale: one number for all values, so that noise stays the same in all directions; negative for inverted data.
    Raises:
        ValueError: a scale that is 0, or not one number.
    """
    diffusion, (frozen, factor) = as_diffusion(diffusion), as_scaling((shift, scale))
    offset = _number_or_tensor(frozen)
    denoise = _Scaled(diffusion.denoise, diffusion.process, offset, factor)
    alpha, sigma = _CurveOf(diffusion.process, "alpha"), _CurveOf(diffusion.process, "sigma", abs(factor))
    process = diffusion.process._replace(alpha=alpha, sigma=sigma)
    origin = diffusion.origin
    moved = origin.scaled(offset, factor) if isinstance(origin, Gaussian) else origin * factor + offset
    return Diffusion(process, denoise, moved)


class _CurveOf(NamedTuple):
    """A curve of a process times a number; it can be pickled wherever the process can."""

    process: Process
    name: str
    factor: float = 1.0

    def __call__(self, t: Tensor) -> Tensor:
        value: Tensor = self.factor * getattr(self.process, self.name)(t)
        return value


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Scaled:
    denoise: Denoiser
    process: Process
    shift: Tensor | float
    scale: float

    def __repr__(self) -> str:
        return f"scaled({shown(self.denoise)}, {shown(self.shift)}, {self.scale:g})"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self._outside(self.denoise(self._inside(x, t), t))

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        inner = estimate(self.denoise, self._inside(x, t), t)
        return Estimate(self._outside(inner.x0), self._outside(inner.unbounded), inner.learned)

    def _inside(self, x: Tensor, t: Tensor) -> Tensor:
        return (x - along(curves(self.process, as_time(t))[0], x) * self._shift(x)) / self.scale

    def _outside(self, x0: Tensor) -> Tensor:
        return x0 * self.scale + self._shift(x0)

    def _shift(self, x: Tensor) -> Tensor | float:
        return self.shift.to(x) if isinstance(self.shift, Tensor) else self.shift
