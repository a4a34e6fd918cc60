"""Perfect networks in the conventions of strangers, with the error of an imperfect training added.

Their data are those whose exact denoiser is known: the digits (the empirical denoiser), Gaussian mixtures in 2 and in
32 dimensions, and 1-D series (a mixture of smooth processes). `stranger` wraps an exact denoiser in any convention that
`from_network` can express, written down here a second time and from the other side.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import leapstep
import leapstep.doctor
from leapstep.core.process import Process

F64 = torch.float64


def _mixture(d: int, components: int, spread: float, seed: int) -> leapstep.GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    means = 1.5 * torch.randn(components, d, generator=generator, dtype=F64)
    roots = torch.randn(components, d, d, generator=generator, dtype=F64) * spread / math.sqrt(d)
    roots = roots * torch.rand(components, 1, 1, generator=generator, dtype=F64).add(0.4)
    weights = torch.rand(components, generator=generator, dtype=F64) + 0.2
    return leapstep.GaussianMixture(means + 0.7, roots @ roots.mT + 1e-3 * torch.eye(d, dtype=F64), weights)


def _series(length: int = 40) -> leapstep.GaussianMixture:
    """Two kinds of smooth curves around two trends."""
    t = torch.linspace(0, 1, length, dtype=F64)
    distance = (t[:, None] - t).abs()
    kernels = [0.6 * (-(distance**2) / 0.02).exp(), 0.3 * (-distance / 0.3).exp()]
    covariances = torch.stack(kernels) + 1e-4 * torch.eye(length, dtype=F64)
    means = torch.stack([2 * (6 * t).sin() + 0.5, 3 * t**2 - 2])
    return leapstep.GaussianMixture(means[:, None], covariances, torch.tensor([0.6, 0.4], dtype=F64))


def _blobs() -> leapstep.GaussianMixture:
    """Six round clusters in 64 dimensions, which cost little to denoise."""
    means = torch.randn(6, 64, generator=torch.Generator().manual_seed(4), dtype=F64) + 0.5
    return leapstep.GaussianMixture(means, torch.linspace(0.02, 0.1, 6, dtype=F64))


@functools.cache
def source(name: str) -> tuple[Tensor, Callable[[Tensor], leapstep.GaussianMixture]]:
    """Data as they lie on disk, and the exact law of (data - shift) / scale for any shift and scale."""
    if name == "digits":
        from sklearn.datasets import load_digits

        images = torch.from_numpy(load_digits().images[:, None] / 16 * 255).round()
        return images.to(torch.uint8), lambda map_to: leapstep.GaussianMixture(
            map_to(images), torch.zeros(len(images), dtype=F64)
        )
    laws: dict[str, Callable[[], leapstep.GaussianMixture]] = {
        "plane": lambda: _mixture(2, 6, 0.2, 1),
        "vectors": lambda: _mixture(32, 5, 0.35, 2),
        "series": _series,
        "blobs": _blobs,
    }
    mixture = laws[name]()
    raw = mixture.sample(400, seed=5)

    def law(map_to: Callable[[Tensor], Tensor]) -> leapstep.GaussianMixture:
        origin = map_to(torch.zeros_like(mixture.means))
        slope = (map_to(torch.ones_like(mixture.means)) - origin).flatten(1)[0]
        wide = mixture.covariances.ndim == 3
        covariances = mixture.covariances * (slope[:, None] * slope if wide else slope[0] ** 2)
        return mixture._replace(means=map_to(mixture.means), covariances=covariances)

    return raw, law


@dataclasses.dataclass(frozen=True)
class Stranger:
    """What somebody else's network follows; the fields are arguments of `from_network`.

    `pace` is the time of the process at a time that the network counts, where the two are not the same.
    """

    data: str
    range: str
    predicts: str
    schedule: str
    process: Process
    time: str
    timesteps: int | None = None
    reverse: bool = False
    reshape: str = "[b]"
    sigma_data: float | None = None
    error: float = 0.1
    table: bool = False
    pace: Callable[[Tensor], Tensor] | None = None

    def scaling(self) -> tuple[Any, Any]:
        """(shift, scale) from the data on disk to the network's range."""
        raw = source(self.data)[0].to(F64)
        low, high = (0.0, 255.0) if self.data == "digits" else (raw.min().item(), raw.max().item())
        if self.range == "standardised":
            return raw.mean().item(), raw.std().item()
        if self.range == "standardised per feature":
            return raw.mean(0), raw.std(0)
        if self.range == "as it is":
            return 0.0, 1.0
        if self.range == "[0, 255]":
            a, b = 0.0, 255.0
        else:
            a, b = (float(end) for end in self.range.strip("[]").split(","))
        scale = (high - low) / (b - a)
        return low - a * scale, scale

    def network(self) -> tuple[Callable[[Tensor, Tensor], Tensor], np.ndarray]:
        """The network, and 300 of its data as they lie on disk."""
        shift, scale = self.scaling()
        raw, law = source(self.data)
        exact = law(lambda y: (y.to(F64) - shift) / scale).diffusion(self.process._replace(timesteps=None))
        generator = torch.Generator().manual_seed(9)
        size = raw[0].numel()
        mix = torch.randn(size, size, generator=generator, dtype=F64) / math.sqrt(size)
        phase = 2 * math.pi * torch.rand(size, generator=generator, dtype=F64)

        def net(x: Tensor, timestep: Tensor) -> Tensor:
            self._check(timestep, len(x))
            t = self._time(timestep.reshape(-1).to(F64)).expand(len(x))
            wide = x.to(F64)
            if self.sigma_data is not None:
                wide = wide * self.process.size(t, self.sigma_data).reshape(-1, *[1] * (x.ndim - 1))
            x0 = exact.denoise(wide, t)
            if self.predicts == "x0":
                value = x0
            else:
                _, eps = self.process.split(x0, wide, t, "x0")
                a, b = (
                    c.reshape(-1, *[1] * (x.ndim - 1))
                    for c in self.process.mixture(self.predicts, t, self.sigma_data or 1.0)
                )
                value = a * x0 + b * eps
            flat, own = value.flatten(1), wide.flatten(1) / wide.flatten(1).std().clamp(min=1)
            wave = math.sqrt(2) * (2 * own @ mix + phase).cos()
            wrong = self.error * flat.square().mean(1, keepdim=True).sqrt() * wave
            return (value + wrong.reshape(value.shape)).to(x.dtype)

        rows = np.random.default_rng(0).permutation(len(raw))[:300]
        return net, raw.numpy()[rows]

    def _check(self, timestep: Tensor, batch: int) -> None:
        shapes = {"[b]": (batch,), "[b, 1]": (batch, 1), "scalar": ()}
        if tuple(timestep.shape) != shapes[self.reshape]:
            raise RuntimeError(f"timestep of shape {tuple(timestep.shape)}, not {shapes[self.reshape]}")
        if self.table:
            if timestep.is_floating_point():
                raise RuntimeError("expected an integer index")
            last = self.timesteps - (self.time == "index")
            if (timestep < 0).any() or (timestep > last).any():
                raise IndexError("index out of range in self")

    def _time(self, value: Tensor) -> Tensor:
        """The time at which the network believes to be; outside of what it was trained on, whatever comes."""
        return self._unbounded(value).clamp(1e-4, 1 - 1e-9)

    def _unbounded(self, value: Tensor) -> Tensor:
        levels = self.timesteps or 1000
        if self.time in ("log_snr", "-log_snr", "log_sigma/4"):
            t = self.process.time({"log_snr": value, "-log_snr": -value, "log_sigma/4": -8 * value}[self.time])
        elif self.time == "sigma":
            t = self.process.time(-2 * value.clamp(min=1e-9).log())
        else:
            t = {
                "index": (value + 1) / levels,
                "index_from_1": value / levels,
                "fraction": value,
                "fraction_from_0": value + 1 / levels,
                "1000t": value / 1000,
                "999t": value / 999,
            }[self.time]
            if self.reverse:
                t = 1 + ("index" in self.time or self.time == "fraction_from_0") / levels - t
            t = t if self.pace is None else self.pace(t.clamp(0, 1))
        return t


def near_size(found: float | None, true: float | None) -> bool:
    """Whether a sigma_data is the true one, within what a few hundred samples tell of their deviation."""
    return found == true if found is None or true is None else abs(found / true - 1) < 0.05


def verdict(stranger: Stranger, diagnosis: leapstep.doctor.Diagnosis) -> dict[str, tuple[bool, str]]:
    """Whether each finding is right, and how sure the doctor was of it.

    A clock that says the same at every trained level is the same clock, and a schedule is right if it is the true curve
    within 0.4 in log-SNR wherever the data and the noise are of comparable size.
    """
    (shift, scale), convention = stranger.scaling(), diagnosis.convention
    true, read = (shift, scale), convention.scaling or (0.0, 1.0)
    if isinstance(scale, float):
        near = abs(read[1] / scale - 1) < 0.08 and abs(read[0] - shift) < 0.05 * abs(scale)
        right = near and "per" not in diagnosis["range"].value
    else:
        right = "per feature" in diagnosis["range"].value
    clocks = [{"1000t": "index_from_1"}.get(name, name) for name in (convention.time, stranger.time)]
    same = all(getattr(convention, name) == getattr(stranger, name) for name in ("reverse", "reshape"))
    clock = clocks[0] == clocks[1] and same
    predicts = convention.predicts == stranger.predicts and near_size(convention.sigma_data, stranger.sigma_data)
    times = torch.tensor(diagnosis.curve.timesteps, dtype=F64)
    levels = stranger.process.log_snr(stranger._time(times))
    named = torch.tensor([math.nan if level is None else level for level in diagnosis.curve.named], dtype=F64)
    variance = ((source(stranger.data)[0].to(F64) - true[0]) / true[1]).var().log()
    compared = ((levels + variance).abs() < 4.5) & (stranger._unbounded(times) < 1 + 1e-9)
    schedule = bool(((levels - named)[compared].abs() < 0.4).all()) and compared.sum() > 1
    flags = {"range": right, "predicts": predicts, "time": clock, "schedule": bool(schedule)}
    return {name: (flag, diagnosis[name].confidence) for name, flag in flags.items()}


def _combinations() -> list[Stranger]:
    """All conventions of the bench: every range, prediction, clock, shape and schedule on several kinds of data."""
    linear, cosine, scaled, quadratic = leapstep.linear, leapstep.cosine, leapstep.scaled_linear, leapstep.quadratic
    made = functools.partial(Stranger, error=0.1)
    digits = functools.partial(made, "digits")
    vectors, plane, series = (functools.partial(made, name) for name in ("vectors", "plane", "series"))
    return [
        digits("[-1, 1]", "eps", "linear", linear(), "index", 1000),
        digits("[-1, 1]", "eps", "linear", linear(), "index", 1000, error=0.2, table=True),
        digits("[0, 1]", "eps", "linear", linear(), "index", 1000, error=0.05),
        digits("[-0.5, 0.5]", "eps", "cosine", cosine(), "index", 1000),
        digits("standardised", "eps", "scaled_linear", scaled(), "index", 1000),
        digits("[1, -1]", "eps", "linear", linear(), "index", 1000),
        digits("[-1, 1]", "eps", "cosine", cosine(100), "index", 100, reshape="[b, 1]"),
        digits("[-1, 1]", "eps", "quadratic", quadratic(), "index", 1000, error=0.2),
        digits("[-1, 1]", "eps", "sigmoid", leapstep.sigmoid(), "index", 1000),
        digits("[0, 1]", "v", "cosine", cosine(), "index", 1000, error=0.2),
        digits("[-1, 1]", "v", "linear", linear(), "1000t", 1000),
        digits("[-1, 1]", "v", "scaled_linear", scaled(), "index", 1000, reshape="scalar"),
        digits("standardised", "v", "cosine", cosine(), "log_snr"),
        digits("[-1, 1]", "v", "cosine", cosine(), "-log_snr", error=0.2),
        digits("[-1, 1]", "-v", "linear", linear(), "index", 1000),
        series("standardised", "x0", "linear", linear(), "index", 1000, error=0.05),
        digits("[0, 1]", "x0", "cosine", cosine(), "index", 1000, error=0.05),
        digits("[-0.5, 0.5]", "v", "linear", linear(), "fraction", 1000),
        vectors("as it is", "x0", "linear", linear(), "fraction", 1000, error=0.05),
        digits("[-1, 1]", "x0", "flow", leapstep.flow(), "fraction"),
        digits("[1, 0]", "v", "cosine", cosine(250), "index", 250, table=True),
        digits("[-1, 1]", "score", "linear", linear(), "fraction", 1000),
        digits("[-1, 1]", "score", "cosine", cosine(), "index", 1000, reverse=True),
        digits("[0, 1]", "score", "ve", leapstep.ve(), "index", 1000),
        digits("[0, 1]", "score", "ve", leapstep.ve(), "sigma", error=0.2),
        digits("[0, 255]", "score", "ve", leapstep.ve(), "index", 1000, reverse=True),
        digits("[-1, 1]", "eps", "ve", leapstep.ve(), "sigma"),
        digits("[-1, 1]", "x0", "karras", leapstep.karras(), "sigma"),
        digits("[-1, 1]", "F", "karras", leapstep.karras(), "log_sigma/4", sigma_data=0.5),
        digits("[0, 1]", "F", "karras", leapstep.karras(), "log_sigma/4", sigma_data=0.5, error=0.2),
        digits("standardised", "F", "karras", leapstep.karras(), "log_sigma/4", sigma_data=1.0),
        digits("[-1, 1]", "flow", "flow", leapstep.flow(), "fraction"),
        digits("[-1, 1]", "-flow", "flow", leapstep.flow(), "fraction", reverse=True),
        digits("standardised", "-flow", "flow", leapstep.flow(), "fraction", reverse=True, error=0.2),
        digits("[0, 1]", "-flow", "flow", leapstep.flow(), "fraction", reshape="[b, 1]"),
        digits("[-1, 1]", "flow", "flow", leapstep.flow(), "1000t"),
        digits("[-1, 1]", "flow", "flow", leapstep.flow(), "fraction", reverse=True, reshape="scalar"),
        digits("[-1, 1]", "eps", "linear", linear(), "index", 1000, reverse=True),
        digits("[-1, 1]", "eps", "linear", linear(4000), "index", 4000),
        vectors("as it is", "eps", "linear", linear(), "index", 1000),
        vectors("standardised", "eps", "cosine", cosine(), "index", 1000, error=0.2),
        vectors("standardised per feature", "eps", "linear", linear(100), "index", 100),
        vectors("standardised per feature", "v", "sigmoid", leapstep.sigmoid(), "index", 1000),
        vectors("as it is", "flow", "flow", leapstep.flow(), "1000t"),
        vectors("as it is", "-flow", "flow", leapstep.flow(), "fraction", reverse=True, error=0.2),
        vectors("standardised", "x0", "cosine", cosine(), "index", 1000, error=0.05),
        vectors("standardised", "v", "cosine", cosine(200), "index_from_1", 200, table=True),
        vectors("as it is", "score", "ve", leapstep.ve(1000, 0.01, 50), "sigma"),
        vectors("standardised", "F", "karras", leapstep.karras(), "log_sigma/4", sigma_data=1.0),
        vectors("standardised", "eps", "linear", linear(), "fraction", 1000, reverse=True),
        plane("as it is", "eps", "linear", linear(), "index", 1000),
        plane("standardised", "eps", "linear", linear(), "index", 1000, error=0.2),
        plane("standardised", "eps", "cosine", cosine(100), "index", 100, reshape="[b, 1]"),
        plane("as it is", "v", "cosine", cosine(), "index", 1000),
        plane("as it is", "flow", "flow", leapstep.flow(), "fraction", error=0.05),
        plane("standardised", "-flow", "flow", leapstep.flow(), "fraction", reverse=True),
        plane("as it is", "x0", "cosine", cosine(), "log_snr", error=0.05),
        plane("standardised", "v", "linear", linear(50), "index", 50, table=True, error=0.05),
        series("standardised", "eps", "linear", linear(), "index", 1000),
        series("standardised", "eps", "cosine", cosine(), "fraction", 1000),
        series("[-1, 1]", "eps", "linear", linear(250), "index_from_1", 250),
        series("[-1, 1]", "v", "cosine", cosine(), "index", 1000, error=0.2),
        series("standardised", "v", "cosine", cosine(250), "index", 250, table=True, reshape="[b, 1]"),
        series("standardised", "x0", "cosine", cosine(100), "index", 100),
        series("as it is", "x0", "linear", linear(), "index", 1000, error=0.05),
        series("as it is", "-flow", "flow", leapstep.flow(), "1000t", reverse=True),
        series("standardised", "score", "ve", leapstep.ve(), "sigma"),
        series("standardised", "F", "karras", leapstep.karras(), "log_sigma/4", sigma_data=1.0),
        series("[-1, 1]", "F", "karras", leapstep.karras(), "log_sigma/4", sigma_data=0.378),  # of all values
        digits("[-1, 1]", "F", "karras", leapstep.karras(), "log_sigma/4", sigma_data=0.752, error=0.2),  # likewise
        *_paced(),
        vectors("standardised", "eps", "quadratic", _plain(50, 1e-4, 0.5, 0.5), "index", 50),
        series("standardised", "eps", "linear", _plain(200, 1e-4, 0.02, 1.0), "index", 200),
        vectors("standardised", "eps", "linear", _plain(200, 1e-4, 0.02, 1.0), "fraction", 200),
    ]


def _paced() -> list[Stranger]:
    """Flow networks with clocks of their own: shifted by 3, by 2, by 1 / 3, and along a sine."""
    made = functools.partial(Stranger, range="standardised", schedule="flow", process=leapstep.flow(), time="fraction")
    return [
        made("vectors", predicts="flow", pace=lambda t: 3 * t / (1 + 2 * t)),
        made("series", predicts="-flow", reverse=True, pace=lambda t: 2 * t / (1 + t)),
        made("vectors", predicts="-flow", reverse=True, pace=lambda t: t / (3 - 2 * t), error=0.2),
        made("vectors", predicts="flow", pace=lambda t: (math.pi / 2 * t).sin() ** 2),
    ]


def _plain(levels: int, start: float, end: float, power: float) -> Process:
    """Betas even in this power, taken as they are however few the levels."""
    return leapstep.from_betas(torch.linspace(start**power, end**power, levels, dtype=F64) ** (1 / power))


COMBINATIONS = _combinations()


BLOBS = Stranger("blobs", "standardised", "v", "cosine", leapstep.cosine(100), "index", 100, table=True)
