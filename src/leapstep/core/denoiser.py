"""A denoiser estimates x0 from x_t, and everything that samples needs only that.

The denoiser that minimises the squared error is the posterior mean, D(x, t) = E[x0 | x_t = x]. From it follow the
noise estimate eps = (x - alpha D) / sigma and the score -eps / sigma (Tweedie's formula), so a process and a denoiser
together (`Diffusion`) are all that there is to know of a trained model. This module makes them

- from anybody's network: `from_network` holds every convention (what is predicted, how timesteps are counted) so that
  no other module meets an integer timestep;
- from other denoisers: `clipped`, `guided`;
- exactly: `GaussianMixture` and `empirical`, whose posterior means have closed forms. They are the yardstick that every
  sampler is tested against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from leapstep.core.process import PREDICTIONS, Process, along, as_time, checked, flat
from leapstep.core.scaling import Scaling
from leapstep.text import SYNONYMS, allowed

CLOCKS = {
    "index": "k - 1, the trained levels counted from 0: most DDPM code, diffusers",
    "index_from_1": "k, from 1 to T",
    "fraction": "k / T, or t itself in continuous time",
    "fraction_from_0": "(k - 1) / T",
    "1000t": "1000 t in continuous time",
    "999t": "999 t in continuous time, as score-based SDE code has it",
    "sigma": "sigma(t)",
    "log_sigma/4": "log(sigma / alpha) / 4, EDM's c_noise",
    "log_snr": "log(alpha^2 / sigma^2)",
    "-log_snr": "its negative, which grows towards noise",
}
"""How networks count time, by name: what they are told at time t = k / T."""

SHAPES = ("[b]", "[b, 1]", "scalar")
"""In which shape networks take the timestep."""

Clip = tuple[float, float] | Callable[[Tensor], Tensor]


class Denoiser(Protocol):
    """E[x0 | x_t]: takes x_t `[b, *d]` and one time, or one per sample `[b]`; returns x0 `[b, *d]`."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor: ...  # noqa: D102


class Diffusion(NamedTuple):
    """A process and a denoiser for it: all that a sampler needs to know of a model.

    Attributes:
        process: the curves alpha and sigma.
        denoise: estimates x0.
        learned: where the network learned the variance of its reverse steps, takes (x `[b, *d]`, t) and returns, in
            [0, 1] or near it, `[b, *d]`, where its logarithm lies between those of the posterior's variance (0) and of
            beta (1); None where it is known that it did not. (Nichol and Dhariwal 2021, eq. 15, arXiv:2102.09672.)
        origin: where the data lie, `[*d]` or a number: sampling starts from N(alpha(1) origin, sigma(1)^2 I), which
            matters where the process leaves some signal at t = 1.
        raw: where the estimate is bounded, takes what `denoise` takes and returns two estimates of the same call of the
            network: what `denoise` returns, and the same before it was bounded; None: nothing bounds it.
    """

    process: Process
    denoise: Denoiser
    learned: Denoiser | None = None
    origin: Tensor | float = 0.0
    raw: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


# --- networks ------------------------------------------------------------------------------------------------------


def from_network(
    net: Callable[..., Any],
    process: Process,
    predicts: str = "eps",
    time: str | Callable[[Tensor], Tensor] = "index",
    *,
    timesteps: int | None = None,
    fractional: bool = False,
    reverse: bool = False,
    reshape: str | Callable[[Tensor], Tensor] = "[b]",
    scaling: Scaling | tuple[float, float] | None = None,
    sigma_data: float | None = None,
    clip: Clip | None = None,
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
        process: the process it was trained on, e.g. `leapstep.linear()`.
        predicts: "eps" (the noise), "x0", "v", "score", "flow" or EDM's "F", or one of them with a minus in front;
            defined in `leapstep.core.process`. diffusers' words for them ("epsilon", "sample", ...) are understood.
        time: how the network counts time: one of `CLOCKS` ("index" counts the trained levels from 0, as in the DDPM and
            diffusers code), or a function from t (`[b]`, float64) to the timestep.
        timesteps: number of trained levels, where the process does not say.
        fractional: whether an index may lie between two integers (sinusoidal embedding: yes; embedding table: no). If
            not, the nearest trained level is passed, as int64.
        reverse: whether the clock counts from noise to data: 1 - t for t, T - 1 - k for k.
        reshape: how the timestep is shaped, one of `SHAPES`, or a function of it `[b]` that touches it last. With
            "scalar" it is 0-dim, and samples at different times go through the network one time after the other.
        scaling: how the network's data relates to yours, (shift, scale) with network's = (yours - shift) / scale, such
            as (127.5, 127.5) for pixels and a network on [-1, 1]. You then see your own range everywhere: in samples,
            in `clip`, in the process of the result, whose sigma is `scale` times as large. The shift may be a tensor.
        sigma_data: standard deviation of the data that the network was trained on (in its own range), for networks that
            see x_t / sqrt(alpha^2 sigma_data^2 + sigma^2), of variance 1; "F" needs it. None: the network sees x_t.
        clip: bound on the x0 estimate, see `clipped`; it acts after guidance.
        condition: keyword arguments for every call of the network; tensors `[b, ...]` hold a value for each sample.
        null: what takes the place of the condition in the free half of classifier-free guidance; arguments that are not
            named stay as they are, and 0-dim tensors and numbers stand for all samples.
        guidance: its scale, see `guided`: 1 follows the condition.
        rescale: see `guided`.
        dtype: what x is cast to for the network, e.g. `torch.bfloat16`; the state of the sampler, the times and the
            timesteps keep their own. None: the dtype of x.
    Returns:
        the Diffusion; its denoiser raises ValueError when the network's output does not fit x.
    Raises:
        ValueError: an unknown prediction, clock or shape, a clock that counts levels that nobody has numbered, guidance
            without the two conditions between which it leads, or a scale that is not one number.
    References:
        Karras et al. 2022, section 5 and table 1 (preconditioning), arXiv:2206.00364.
    """
    checked(process)
    predicts = SYNONYMS.get(predicts, predicts)
    if predicts.removeprefix("-") not in PREDICTIONS:
        raise ValueError(f"unknown predicts={predicts!r}: {allowed(predicts, PREDICTIONS)}, or -flow and so on")
    if predicts.removeprefix("-") == "F" and sigma_data is None:
        raise ValueError("predicts='F' needs sigma_data, the standard deviation of the training data (EDM: 0.5)")
    if timesteps is not None and process.timesteps not in (None, timesteps):
        raise ValueError(f"timesteps={timesteps}, but the process has {process.timesteps} trained levels: leave it out")
    counted = time if callable(time) else clock(process, time, timesteps or process.timesteps, fractional, reverse)
    ask = _asking(net, reshape, _conditions(condition, null, guidance), dtype)

    def call(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        timestep = counted(t.expand(len(x)))
        if timestep.is_floating_point():
            timestep = timestep.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        seen = x if sigma_data is None else x / along(process.size(t, sigma_data), x)
        return ask(seen, timestep.to(x.device))

    last: list[Any] = []  # x, t and the learned half of the last call: denoise and learned are asked in turn

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        t = as_time(t)
        if predicts.removeprefix("-") in ("eps", "score") and (process.alpha(t) == 0).any():
            raise ValueError(
                f"at alpha = 0 (zero terminal SNR) an {predicts} prediction says nothing of x0: start from a list of "
                "times below 1, or use a network that predicts v, x0 or flow"
            )
        value, half = call(x, t)
        last[:] = [] if half is None else [x, t, half]
        return process.split(value, x, t, predicts, sigma_data or 1.0)[0]

    def learned(x: Tensor, t: Tensor) -> Tensor:
        t = as_time(t)
        half = last[2] if last and last[0] is x and torch.equal(last[1], t) else call(x, t)[1]
        last.clear()
        if half is None:
            raise ValueError("the network learned no variance: its output has as many channels as x, not twice as many")
        return (half + 1) / 2

    diffusion = Diffusion(process, denoise, learned)
    if guidance != 1:
        diffusion = guided(diffusion, guidance, rescale)
    if scaling is not None:
        diffusion = scaled(diffusion, *scaling)
    return diffusion if clip is None else clipped(diffusion, clip)


def clock(
    process: Process, kind: str, timesteps: int | None, fractional: bool = False, reverse: bool = False
) -> Callable[[Tensor], Tensor]:
    """The one place where a time becomes a timestep: a function from t `[b]`, float64, to what the network is told.

    Nothing is ever asked below the first trained level, k = 1. Arguments as of `from_network`.
    """
    if kind not in CLOCKS:
        raise ValueError(f"unknown time={kind!r}: {allowed(kind, CLOCKS)}, or a function of t")
    counts = kind.startswith("index") or kind == "fraction_from_0"
    if counts and timesteps is None:
        raise ValueError(
            f"time={kind!r} counts trained levels, but the process has none: pass timesteps=, or time='fraction'"
        )
    if reverse and kind in ("sigma", "log_sigma/4", "log_snr", "-log_snr"):
        raise ValueError(f"reverse is for clocks that count time, and {kind} measures noise: use a function of t")
    levels = timesteps or 1
    first = 0.0 if timesteps is None else 1 / timesteps

    def index(t: Tensor) -> Tensor:
        level = (t * levels).clamp(min=1) - int(kind == "index")
        level = (levels + (1 if kind == "index_from_1" else -1)) - level if reverse else level
        return level if fractional else level.round().long()

    def fraction(t: Tensor) -> Tensor:
        since = t.clamp(min=first) - (first if kind == "fraction_from_0" else 0)
        return (1 - first if kind == "fraction_from_0" else 1) - since if reverse else since

    return {
        "index": index,
        "index_from_1": index,
        "1000t": lambda t: 1000 * fraction(t),
        "999t": lambda t: 999 * fraction(t),
        "sigma": lambda t: process.sigma(t.clamp(min=first)),
        "log_sigma/4": lambda t: process.log_snr(t.clamp(min=first)) / -8,
        "log_snr": lambda t: process.log_snr(t.clamp(min=first)),
        "-log_snr": lambda t: -process.log_snr(t.clamp(min=first)),
    }.get(kind, fraction)


_Keywords = Callable[[int], dict[str, Any]]


def _conditions(condition: Mapping[str, Any] | None, null: Mapping[str, Any] | None, guidance: float) -> _Keywords:
    """The network's keyword arguments for a batch of so many: with guidance, the condition's half and the free half."""
    given, free = dict(condition or {}), dict(null or {})
    if unknown := sorted(set(free) - set(given)):
        raise ValueError(f"null names {', '.join(unknown)}, which condition does not: name the same arguments in both")
    if guidance == 1:
        return lambda _: given
    if not free:
        raise ValueError(
            f"guidance={guidance} leads from a null condition to a condition: pass both, as in "
            "condition={'y': labels}, null={'y': 10}"
        )

    def rows(name: str, value: Any, n: int) -> Tensor:
        try:
            tensor = torch.as_tensor(value)
            return tensor.expand(n, *tensor.shape[1:])
        except (TypeError, ValueError, RuntimeError):
            shape = getattr(value, "shape", None)
            arrived = repr(value) if shape is None else f"of shape {tuple(shape)}"
            raise ValueError(
                f"{name} is {arrived} for {n} samples: with guidance give a number, one value, or one for each sample"
            ) from None

    def keywords(size: int) -> dict[str, Any]:
        half, both = size // 2, {}
        for name, value in given.items():
            if name in free:
                conditional = rows(name, value, half)
                both[name] = torch.cat([conditional, rows(f"null {name}", free[name], half).to(conditional)])
                continue
            shared = torch.as_tensor(value) if isinstance(value, np.ndarray | list) else value
            per_sample = isinstance(shared, Tensor) and shared.ndim > 0 and len(shared) == half
            both[name] = torch.cat([shared, shared]) if per_sample else value
        return both

    return keywords


def _asking(
    net: Callable[..., Any],
    reshape: str | Callable[[Tensor], Tensor],
    keywords: _Keywords,
    dtype: torch.dtype | None,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]:
    """A call of the network on x `[b, *d]` and timesteps `[b]`, in the shape and the dtype that it wants."""
    if not callable(reshape) and reshape not in SHAPES:
        raise ValueError(f"unknown reshape={reshape!r}: {allowed(reshape, SHAPES)}, or a function of the timestep")

    def once(x: Tensor, timestep: Tensor, extra: dict[str, Any]) -> Any:
        return net(x if dtype is None else x.to(dtype), timestep, **extra)

    def ask(x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor | None]:
        extra = keywords(len(x))
        if reshape == "[b]":
            return _prediction(once(x, timestep, extra), x)
        if reshape == "[b, 1]":
            return _prediction(once(x, timestep[:, None], extra), x)
        if callable(reshape):
            return _prediction(once(x, reshape(timestep), extra), x)
        if (timestep == timestep[0]).all():
            return _prediction(once(x, timestep[0], extra), x)
        output: Tensor | None = None
        for value in torch.unique(timestep):
            rows = timestep == value
            own = {
                name: entry[rows] if isinstance(entry, Tensor) and entry.ndim and len(entry) == len(x) else entry
                for name, entry in extra.items()
            }
            part = _prediction_tensor(once(x[rows], value, own))
            output = part.new_empty(len(x), *part.shape[1:]) if output is None else output
            output[rows] = part
        return _prediction(output, x)

    return ask


def _prediction_tensor(output: Any) -> Tensor:
    value = output if isinstance(output, Tensor) else getattr(output, "sample", None)
    if not isinstance(value, Tensor):
        raise ValueError(f"the network returned {type(output).__name__}: return a tensor, or an object with .sample")
    return value


def _prediction(output: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The prediction in the dtype of x, and the half that speaks of the variance, if there is one."""
    value, half = _prediction_tensor(output), None
    if value.ndim == x.ndim > 1 and value.shape[1] == 2 * x.shape[1]:
        value, half = value.to(x.dtype).chunk(2, dim=1)
    if value.shape != x.shape:
        raise ValueError(f"the network returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}")
    return value.to(x.dtype), half


# --- denoisers from denoisers --------------------------------------------------------------------------------------


def clipped(diffusion: Diffusion, clip: Clip) -> Diffusion:
    """Bound the x0 estimate; eps and everything else that samplers use then follow from the bounded one.

    Only `ddim(eps="raw")` takes the eps of the network beside it.

    Arguments:
        clip: a range (low, high) that data cannot leave, or a function of x0 such as `dynamic_threshold()`.
    Raises:
        ValueError: a range with low >= high.
    """
    if callable(clip):
        bound = clip
    else:
        low, high = _range(clip)

        def bound(x0: Tensor) -> Tensor:
            return x0.clamp(low, high)

    def raw(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        bounded, before = diffusion.raw(x, t) if diffusion.raw else (diffusion.denoise(x, t),) * 2
        return bound(bounded), before

    return diffusion._replace(denoise=lambda x, t: bound(diffusion.denoise(x, t)), raw=raw)


def _range(clip: Any) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in clip)
    except (TypeError, ValueError):
        raise ValueError(f"clip={clip!r}: give a range (low, high), or a function of x0") from None
    if not low < high:
        raise ValueError(f"clip=({low:g}, {high:g}): the low end must lie below the high end")
    return low, high


def dynamic_threshold(quantile: float = 0.995, limit: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Bound each x0 by its own quantile s of absolute values, then divide by s / limit, wherever s exceeds the limit.

    Raises:
        ValueError: quantile outside (0, 1], or a limit that is not positive.
    References:
        Saharia et al. 2022 (Imagen), section 2.3, arXiv:2205.11487.
    """
    if not 0 < quantile <= 1 or not limit > 0:
        raise ValueError(f"dynamic_threshold({quantile}, {limit}): quantile must lie in (0, 1] and limit be above 0")

    def bound(x0: Tensor) -> Tensor:
        size = flat(x0).abs().float().quantile(quantile, dim=1).clamp(min=limit).to(x0.dtype)
        size = size.reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-size, size) * (limit / size)

    return bound


def guided(diffusion: Diffusion, scale: float, rescale: float = 0.0) -> Diffusion:
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
        Ho and Salimans 2022, eq. 6 (scale = 1 + w), arXiv:2207.12598; Lin et al. 2024, eq. 15 and 16 (rescale),
        arXiv:2305.08891.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale={rescale}: use a share from 0 (plain guidance) to 1")

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        twice = torch.cat([x, x]), t if t.ndim == 0 else torch.cat([t, t])
        conditional, free = diffusion.denoise(*twice).chunk(2)
        x0 = torch.lerp(free, conditional, scale)
        if rescale == 0:
            return x0
        if x0[:1].numel() == 1:
            raise ValueError(
                f"rescale={rescale} is for the contrast within a sample, and a single number has none: use 0"
            )
        wanted, found = (along(flat(y).std(1), x) for y in (conditional, x0))
        return torch.lerp(x0, x0 * (wanted / found.clamp(min=1e-12)), rescale)

    # the learned variance is of one half, not of the mixture; a bound acts before guidance
    return diffusion._replace(denoise=denoise, learned=None, raw=None)


def scaled(diffusion: Diffusion, shift: Tensor | float, scale: float) -> Diffusion:
    """The same model for data in another range: yours = scale * the model's + shift.

    At every time, x_t = alpha x0 + sigma eps is scaled with it, to alpha (scale x0 + shift) + (scale sigma) eps: a
    process with the same alpha and `scale` times the sigma.

    Arguments:
        shift: a number, or a tensor that broadcasts to one sample `[*d]`.
        scale: one number for all values, so that noise stays the same in all directions; negative for inverted data.
    Raises:
        ValueError: a scale that is 0, or not one number.
    """
    one = not isinstance(scale, str) and torch.as_tensor(scale).numel() == 1
    if not one or not math.isfinite(scale) or scale == 0:
        raise ValueError(
            f"scale={scale}: one number that is not 0 is folded in; with a scale for each feature, sample in the "
            "network's own range and multiply the samples"
        )
    scale = float(scale)
    process, size = diffusion.process, abs(scale)
    wide = process._replace(sigma=lambda t: size * process.sigma(t))

    def inside(x: Tensor, t: Tensor) -> Tensor:
        return (x - along(process.alpha(as_time(t)), x) * torch.as_tensor(shift).to(x)) / scale

    def outside(x0: Tensor) -> Tensor:
        return x0 * scale + torch.as_tensor(shift).to(x0)

    learned, raw = diffusion.learned, diffusion.raw

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert raw is not None
        bounded, before = raw(inside(x, t), t)
        return outside(bounded), outside(before)

    return Diffusion(
        wide,
        lambda x, t: outside(diffusion.denoise(inside(x, t), t)),
        None if learned is None else lambda x, t: learned(inside(x, t), t),
        diffusion.origin * scale + torch.as_tensor(shift),
        None if raw is None else both,
    )
