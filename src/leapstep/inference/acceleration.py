"""Networks of one's own in what is fastest here: the choice that is made for a model (`execution`), for a Diffusion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from leapstep.core.convention import DynamicThreshold
from leapstep.core.denoiser import Denoiser, Diffusible, Diffusion, NetworkDenoiser, as_diffusions
from leapstep.core.gaussian import Gaussian
from leapstep.core.printing import name_of
from leapstep.core.sampling import checked_shape, sample_in_batches
from leapstep.inference.execution import chosen
from leapstep.inference.trial import Job

FIRST = 0.99
"""Where trials begin: below 1, where an eps network on zero terminal SNR would say nothing of x0."""


@overload
def accelerated(
    diffusion: Diffusion | Diffusible,
    shape: Sequence[int],
    calls: int,
    *,
    batch_size: int | None = None,
    tell: Callable[[str], object] = ...,
) -> Diffusion: ...


@overload
def accelerated(
    diffusion: Callable[[range], Diffusion],
    shape: Sequence[int],
    calls: int,
    *,
    batch_size: int | None = None,
    tell: Callable[[str], object] = ...,
) -> Callable[[range], Diffusion]: ...


def accelerated(
    diffusion: Any,
    shape: Sequence[int],
    calls: int,
    *,
    batch_size: int | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Any:
    """Compute a network in what is fastest here: float32 or bfloat16, in either layout of the memory.

    If the job is long enough, the network is called a few times in each, along a short trajectory from noise, or what
    was measured before is taken from the cache. bfloat16 is taken where it is clearly faster and the network's outputs
    differ by no more than 3 % of their root mean square; a network that fails in it stays in float32. See
    `leapstep.inference.execution`.

    Arguments:
        diffusion: as of `sample`, made by `from_network` without a dtype, of an `nn.Module` in float32, which is called
            and left as it is. Where it is a function of the sample indices, all its diffusions share the network.
        shape: `(n, *d)`, of the samples that are to be drawn.
        calls: of the network for each sample: as many as steps, or twice that with methods such as heun.
        batch_size: as of `sample`.
        tell: called with a line on what was chosen and why.
    Returns:
        a diffusion like the given one, or a function of indices like it, whose network computes in what was chosen; x,
        the times and the sampler keep their dtypes. It prints as `Net[bfloat16]`.
    Raises:
        ValueError: a denoiser without an `nn.Module`; one whose floating-point parameters are not in float32, or that
            has none; a dtype in `from_network`; numbers below 1.
    """
    n, *d = checked_shape(shape)
    batch = min(n, n if batch_size is None else batch_size)
    if min(batch, calls) < 1:
        raise ValueError(f"n={n}, calls={calls}, batch_size={batch_size}: at least 1 each")
    models, of_rows = as_diffusions(diffusion), callable(diffusion)
    first = models(range(batch))
    denoiser = _innermost(first.denoise)
    net = _checked(denoiser)
    device = next(net.parameters()).device
    twice = 1 if denoiser.null is None else 2  # with guidance

    def run(other: nn.Module, rows: int, shares: Sequence[float]) -> None:
        def one(here: range) -> Diffusion:
            few = models(here) if of_rows else _of_rows(first, len(here), batch)
            return _without_own(_calling(few, net, other), len(d))

        times = [FIRST * share for share in shares]
        for _ in sample_in_batches(one, (min(max(1, rows // twice), batch), *d), times, device=device):
            pass

    choice = chosen(Job(net, d, calls * n * twice, twice * batch, device, run))
    tell(choice.line or "computing in float32: nothing is measured for so short a job, or on such a device")
    fast = choice.applied(net)
    return (lambda here: _calling(models(here), net, fast)) if of_rows else _calling(first, net, fast)


def _innermost(denoise: Denoiser) -> NetworkDenoiser:
    """The network's own denoiser in one that is made of others."""
    inner: Any = denoise
    while (below := getattr(inner, "denoise", None)) is not None:
        inner = below
    if not isinstance(inner, NetworkDenoiser):
        raise ValueError(f"{name_of(inner)} is no network: pass what leapstep.from_network(net, ...) returns")
    return inner


def _checked(denoiser: NetworkDenoiser) -> nn.Module:
    """The network of a denoiser, where another dtype can be tried with it."""
    net, name = denoiser.net, name_of(denoiser.net)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name} is no nn.Module, whose weights could be cast: pass the module itself to from_network")
    if denoiser.dtype is not None:
        raise ValueError(f"from_network(..., dtype={denoiser.dtype}) has chosen already: leave the dtype out")
    kinds = {parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()}
    if kinds != {torch.float32}:
        held = f"parameters in {', '.join(sorted(map(str, kinds)))}" if kinds else "no floating-point parameters"
        raise ValueError(f"{name} has {held}: pass a network in float32, with which bfloat16 is compared")
    return net


def _rebuilt(denoise: Denoiser, change: Callable[[Denoiser], Denoiser]) -> Denoiser:
    """A denoiser anew, each of those that it is made of (clipped, guided, scaled, the network's) as `change` has it."""
    if (inner := getattr(denoise, "denoise", None)) is not None:
        denoise = dataclasses.replace(denoise, denoise=_rebuilt(inner, change))  # type: ignore[type-var]
    return change(denoise)


def _calling(diffusion: Diffusion, net: nn.Module, other: nn.Module) -> Diffusion:
    """A diffusion that calls another network wherever it called this one."""

    def change(layer: Denoiser) -> Denoiser:
        own = isinstance(layer, NetworkDenoiser) and layer.net is net
        return dataclasses.replace(layer, net=other) if own else layer  # type: ignore[type-var]

    return diffusion._replace(denoise=_rebuilt(diffusion.denoise, change))


# --- fewer samples than a diffusion was made for -------------------------------------------------------------------


def _of_rows(diffusion: Diffusion, rows: int, n: int) -> Diffusion:
    """A diffusion that was made for n samples, for the first of them: with their conditions."""

    def cut(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value[:rows] if _length(value) == n else value for name, value in values.items()}

    def change(layer: Denoiser) -> Denoiser:
        if not isinstance(layer, NetworkDenoiser):
            return layer
        null = None if layer.null is None else cut(layer.null)
        return dataclasses.replace(layer, condition=cut(layer.condition), null=null)

    return diffusion._replace(denoise=_rebuilt(diffusion.denoise, change))


def _length(value: Any) -> int | None:
    """Of a list, or of a table that has rows."""
    return len(value) if isinstance(value, list) or getattr(value, "ndim", 0) > 0 else None


def _without_own(diffusion: Diffusion, ndim: int) -> Diffusion:
    """A diffusion without what may have values for each sample of a batch: functions that bound x0, and origins."""

    def change(layer: Denoiser) -> Denoiser:
        clip = getattr(layer, "clip", None)
        return cast(Any, layer).denoise if callable(clip) and not isinstance(clip, DynamicThreshold) else layer

    law = diffusion.origin.mean if isinstance(diffusion.origin, Gaussian) else diffusion.origin
    origin = 0.0 if isinstance(law, Tensor) and law.ndim > ndim else diffusion.origin
    return diffusion._replace(denoise=_rebuilt(diffusion.denoise, change), origin=origin)
