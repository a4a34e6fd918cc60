"""Small networks of strangers: each really trained, by a loop written by hand, in a convention of its own.

    python benchmarks/zoo.py                              # all of them, about a minute each on one core
    python benchmarks/zoo.py digits_edm arm --cache zoo    # two of them, kept for the next time

They are what `leapstep doctor` is judged by: it is given the network and the data as they lie on disk, and must find
what `Case.truth` says. The training code below is written as people write theirs, with the betas worked out in place,
and takes nothing from leapstep; only `Case.truth` and the report do.

The report has, at several noise levels, the mean squared error of the network's estimate of x0 on held-out data, read
by `truth` (in the network's own units), beside that of the best linear estimate, which knows the mean and the
covariance of the training data: where data are not Gaussian, a network that has learned them does better. The samples'
Fréchet distance to held-out data is beside that of as many training data.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import leapstep
from leapstep.evaluation.distances import frechet_distance

HELD_OUT = 400


@dataclass(frozen=True)
class Case:
    """A trained network and all that there is to know of it.

    Attributes:
        name: its key in `ZOO`.
        net: called as `net(x, timestep)`, in eval mode, on the CPU.
        data: held-out data as they lie on disk, `[400, *d]`.
        truth: shift and scale (the network's value is (on disk - shift) / scale), predicts, time, fractional, reverse,
            timesteps, sigma_data and reshape as `leapstep.from_network` has them; process, and the name of its
            schedule, or None where it has no name.
    """

    name: str
    net: Callable[..., Any]
    data: np.ndarray
    truth: dict[str, Any]


@dataclass(frozen=True)
class Stranger:
    """A network before its training: `loss(net, x0)` on batches of `train`, which is in the network's units."""

    net: nn.Module
    loss: Callable[[nn.Module, Tensor], Tensor]
    train: Tensor
    data: np.ndarray
    truth: dict[str, Any]
    steps: int
    batch: int = 64
    rate: float = 2e-3


# --- networks --------------------------------------------------------------------------------------------------------


class Waves(nn.Module):
    """Sines and cosines of `scale` times a timestep `[b]`, at 32 frequencies, and a layer on them: `[b, size]`."""

    def __init__(self, size: int, scale: float = 1.0, log: bool = False) -> None:
        super().__init__()
        self.scale, self.log = scale, log
        self.layers = nn.Sequential(nn.Linear(64, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU())

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed `[b]`, or a single number."""
        value = timestep.float().log() if self.log else timestep.float()
        angles = self.scale * value[..., None] * torch.exp(-math.log(10_000) / 32 * torch.arange(32))
        return self.layers(torch.cat([angles.sin(), angles.cos()], -1))


class Block(nn.Module):
    """Group norm, SiLU and a convolution, twice, with the embedded timestep added in between."""

    def __init__(self, conv: Callable[..., nn.Module], into: int, out: int, embedded: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, into), nn.SiLU(), conv(into, out, 3, padding=1))
        self.time = nn.Linear(embedded, out)
        self.second = nn.Sequential(nn.GroupNorm(8, out), nn.SiLU(), conv(out, out, 3, padding=1))
        self.skip = conv(into, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x `[b, c, *d]` with an embedding `[b, e]`."""
        shift = self.time(embedding)
        return self.skip(x) + self.second(self.first(x) + shift.reshape(*shift.shape, *[1] * (x.ndim - 2)))


class UNet(nn.Module):
    """A U-Net of two resolutions for images or signals of one channel."""

    def __init__(self, embed: nn.Module, embedded: int, dimensions: int = 2, width: int = 24, coarse: int = 2) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d)[dimensions - 1]
        self.pool = (functional.avg_pool1d, functional.avg_pool2d)[dimensions - 1]
        self.embed, self.coarse = embed, coarse
        self.enter, self.leave = conv(1, width, 3, padding=1), conv(width, 1, 3, padding=1)
        self.down, self.middle = Block(conv, width, width, embedded), Block(conv, width, 2 * width, embedded)
        self.deep = Block(conv, 2 * width, 2 * width, embedded)
        self.up = Block(conv, 3 * width, width, embedded)
        self.to(memory_format=torch.channels_last) if dimensions == 2 else None

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """The prediction, `[b, 1, *d]`."""
        embedding = self.embed(timestep)
        fine = self.down(self.enter(x), embedding)
        coarse = self.deep(self.middle(self.pool(fine, self.coarse), embedding), embedding)
        return self.leave(
            self.up(torch.cat([fine, functional.interpolate(coarse, scale_factor=self.coarse)], 1), embedding)
        )


class Perceptron(nn.Module):
    """Three residual layers on the flattened sample, and beside them a share of x that depends on the timestep."""

    def __init__(self, embed: nn.Module, embedded: int, size: int, width: int = 192) -> None:
        super().__init__()
        self.embed, self.enter, self.leave = embed, nn.Linear(size, width), nn.Linear(width, size)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.times = nn.ModuleList(nn.Linear(embedded, width) for _ in range(3))
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.ins = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.share = nn.Linear(embedded, 1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """The prediction, in the shape of x `[b, *d]`."""
        h, embedding = self.enter(x.flatten(1)), self.embed(timestep)
        for norm, into, told, out in zip(self.norms, self.ins, self.times, self.outs, strict=True):
            h = h + out(functional.silu(into(norm(h)) + told(embedding)))
        return (self.leave(h) + self.share(embedding) * x.flatten(1)).reshape(x.shape)


class ColumnPerceptron(Perceptron):
    """The same, for timesteps `[b, 1]`."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """The prediction, in the shape of x `[b, d]`."""
        return super().forward(x, timestep[:, 0])


class ScoreOfSigma(nn.Module):
    """A score, the output of its body divided by the sigma that it is told."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score at x `[b, 1, 8, 8]`, whose noise has the standard deviation sigma `[b]`."""
        sigma_ = sigma[:, None, None, None]
        return self.body(x / (1 + sigma_**2).sqrt(), sigma) / sigma_


class ScoreOfLabel(nn.Module):
    """The same, of a network that is told the number of its sigma."""

    def __init__(self, body: nn.Module, sigmas: Tensor) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("sigmas", sigmas)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The score at x `[b, 1, 8, 8]` for labels `[b]`."""
        sigma = self.sigmas[label][:, None, None, None]
        return self.body(x / (1 + sigma**2).sqrt(), label) / sigma


# --- data, as they lie on disk ---------------------------------------------------------------------------------------


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's handwritten digits as uint8, `[n, 1, 8, 8]`: for training, held out."""
    images = np.round(load_digits().images[:, None] * (255 / 16)).astype(np.uint8)
    images = images[np.random.default_rng(0).permutation(len(images))]
    return images[HELD_OUT:], images[:HELD_OUT]


def signals() -> tuple[np.ndarray, np.ndarray]:
    """Two sines and a step each, `[n, 1, 64]`, with a trace of noise, from about 2 to 36: for training, held out."""
    rng, n, i = np.random.default_rng(1), 6000 + HELD_OUT, np.arange(64) / 64
    x = rng.uniform(8, 16, (n, 1)) + rng.normal(0, 0.2, (n, 64))
    for low, high, size in ((1, 2, 5), (3, 5, 2.5)):
        rate, phase = rng.uniform(low, high, (n, 1)), rng.uniform(0, 2 * np.pi, (n, 1))
        x += rng.uniform(0.4, 1, (n, 1)) * size * np.sin(2 * np.pi * rate * i + phase)
    x += rng.uniform(6, 16, (n, 1)) * (i > rng.uniform(0.2, 0.8, (n, 1)))
    x = x[:, None].astype(np.float32)
    return x[HELD_OUT:], x[:HELD_OUT]


def arms() -> tuple[np.ndarray, np.ndarray]:
    """Where the three joints of a robot arm stand, in cm, `[n, 6]`: for training, held out."""
    rng, n = np.random.default_rng(2), 6000 + HELD_OUT
    bends = rng.uniform([0.2, -2.0, -1.5], [2.8, -0.4, 1.5], (n, 3)).cumsum(1)
    joints = np.stack([np.cos(bends), np.sin(bends)], 2) * np.array([40.0, 30.0, 20.0])[:, None]
    x = (joints.cumsum(1).reshape(n, 6) + rng.normal(0, 0.3, (n, 6))).astype(np.float32)
    return x[HELD_OUT:], x[:HELD_OUT]


# --- the strangers ---------------------------------------------------------------------------------------------------


def _truth(process: leapstep.Process, schedule: str | None, predicts: str, time: str, **others: Any) -> dict[str, Any]:
    """What most have in common, and what this one has not."""
    common = {"shift": 0.0, "scale": 1.0, "reverse": False, "fractional": False, "sigma_data": None, "reshape": "[b]"}
    facts = {"process": process, "schedule": schedule, "predicts": predicts, "time": time}
    return common | {"timesteps": process.timesteps} | facts | others


def digits_ddpm() -> Stranger:
    """Ho et al.'s DDPM: eps, linear betas, pixels in [-1, 1]."""
    train, held_out = digits()
    betas = torch.linspace(1e-4, 0.02, 1000)
    alphas_cumprod = torch.cumprod(1 - betas, 0)

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        t, noise = torch.randint(0, 1000, (len(x0),)), torch.randn_like(x0)
        a = alphas_cumprod[t][:, None, None, None]
        return functional.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise)

    truth = _truth(leapstep.linear(), "linear", "eps", "index", shift=127.5, scale=127.5, fractional=True)
    x = torch.from_numpy(train).float() / 127.5 - 1
    return Stranger(UNet(Waves(96), 96), loss, x, held_out, truth, steps=1300)


def digits_v() -> Stranger:
    """v on the cosine schedule, pixels in [0, 1], timesteps looked up in a table."""
    train, held_out = digits()
    f = torch.cos((torch.linspace(0, 1, 1001, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    alphas_cumprod = torch.cumprod(1 - betas, 0).float()

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        t, noise = torch.randint(0, 1000, (len(x0),)), torch.randn_like(x0)
        a = alphas_cumprod[t][:, None, None, None]
        alpha, sigma = a.sqrt(), (1 - a).sqrt()
        return functional.mse_loss(net(alpha * x0 + sigma * noise, t), alpha * noise - sigma * x0)

    truth = _truth(leapstep.cosine(), "cosine", "v", "index", scale=255.0)
    table = nn.Embedding.from_pretrained(torch.randn(1000, 96) * 0.1, freeze=False)
    return Stranger(UNet(table, 96), loss, torch.from_numpy(train).float() / 255, held_out, truth, steps=1300)


def digits_x0() -> Stranger:
    """x0, levels counted from 1 to 200, with the betas that were meant for 1000 levels: they end in a visible image."""
    train, held_out = digits()
    T = 200
    betas = np.linspace(1e-4, 0.02, T)
    alpha_bar = torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        step = torch.randint(1, T + 1, (len(x0), 1, 1, 1))
        a = alpha_bar[step - 1]
        x = a.sqrt() * x0 + (1 - a).sqrt() * torch.randn_like(x0)
        return functional.mse_loss(net(x, step.flatten()), x0)

    process = leapstep.from_betas(torch.linspace(1e-4, 0.02, T, dtype=torch.float64))
    others = {"shift": 127.5, "scale": 127.5, "fractional": True}
    truth = _truth(process, "linear", "x0", "index_from_1", **others)
    x, net = torch.from_numpy(train) / 127.5 - 1, Perceptron(Waves(96), 96, 64)
    return Stranger(net, loss, x, held_out, truth, steps=3000, batch=256)


def digits_flow() -> Stranger:
    """A rectified flow whose time 1 is the data, and whose velocity points there: x0 - eps; standardised pixels."""
    train, held_out = digits()
    mean, std = float(train.mean()), float(train.std())

    def loss(net: nn.Module, x1: Tensor) -> Tensor:
        t, x_0 = torch.rand(len(x1)), torch.randn_like(x1)
        s = t[:, None, None, None]
        return functional.mse_loss(net((1 - s) * x_0 + s * x1, t), x1 - x_0)

    truth = _truth(leapstep.flow(), "flow", "-flow", "fraction", shift=mean, scale=std, reverse=True, fractional=True)
    x = (torch.from_numpy(train).float() - mean) / std
    return Stranger(UNet(Waves(96, scale=1000), 96), loss, x, held_out, truth, steps=1300)


def digits_edm() -> Stranger:
    """Karras et al.'s F with sigma_data = 0.5, told log(sigma) / 4 and shown x / sqrt(sigma^2 + 0.25)."""
    train, held_out = digits()

    def loss(net: nn.Module, y: Tensor) -> Tensor:
        sigma = (torch.randn(len(y), 1, 1, 1) * 1.2 - 1.2).exp()
        n = torch.randn_like(y) * sigma
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        F_x = net((y + n) / (sigma**2 + 0.25).sqrt(), sigma.flatten().log() / 4)
        denoised = c_skip * (y + n) + c_out * F_x
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        return (weight * (denoised - y) ** 2).mean()

    others = {"shift": 127.5, "scale": 127.5, "sigma_data": 0.5, "fractional": True}
    truth = _truth(leapstep.karras(), "karras", "F", "log_sigma/4", **others)
    x = torch.from_numpy(train).float() / 127.5 - 1
    return Stranger(UNet(Waves(96, scale=40), 96), loss, x, held_out, truth, steps=1300)


def signals_eps() -> Stranger:
    """eps of standardised signals, latent diffusion's betas, timesteps as floats."""
    train, held_out = signals()
    mean, std = float(train.mean()), float(train.std())
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        t, noise = torch.randint(0, 1000, (len(x0),)), torch.randn_like(x0)
        a = alphas_cumprod[t][:, None, None]
        return functional.mse_loss(net(a**0.5 * x0 + (1 - a) ** 0.5 * noise, t.float()), noise)

    others = {"shift": mean, "scale": std, "fractional": True}
    truth = _truth(leapstep.scaled_linear(), "scaled_linear", "eps", "index", **others)
    net = UNet(Waves(96), 96, dimensions=1, width=32, coarse=8)
    return Stranger(net, loss, torch.from_numpy((train - mean) / std), held_out, truth, steps=2000)


def arm() -> Stranger:
    """x0 of standardised vectors, 100 levels of the cosine schedule, timesteps `[b, 1]`."""
    train, held_out = arms()
    mean, std = float(train.mean()), float(train.std())

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((i + 1) / 100) / alpha_bar(i / 100), 0.999) for i in range(100)]
    alphas_cumprod = torch.tensor(betas).neg().add(1).cumprod(0)

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        t = torch.randint(0, 100, (len(x0), 1))
        a = alphas_cumprod[t]
        return functional.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * torch.randn_like(x0), t), x0)

    others = {"shift": mean, "scale": std, "reshape": "[b, 1]", "fractional": True}
    truth = _truth(leapstep.cosine(100), "cosine", "x0", "index", **others)
    net = ColumnPerceptron(Waves(96, scale=10), 96, 6, width=128)
    return Stranger(net, loss, torch.from_numpy((train - mean) / std), held_out, truth, steps=3000, batch=256)


def digits_score() -> Stranger:
    """A variance-exploding score, told sigma, pixels in [0, 1]."""
    train, held_out = digits()

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        sigma = 0.01 * (10 / 0.01) ** torch.rand(len(x))
        s, z = sigma[:, None, None, None], torch.randn_like(x)
        return ((net(x + s * z, sigma) * s + z) ** 2).mean()

    process = leapstep.ve(sigma_min=0.01, sigma_max=10.0)._replace(timesteps=None)
    truth = _truth(process, "ve", "score", "sigma", scale=255.0, fractional=True)
    net = ScoreOfSigma(UNet(Waves(96, scale=20, log=True), 96))
    return Stranger(net, loss, torch.from_numpy(train).float() / 255, held_out, truth, steps=1300)


def digits_ncsn() -> Stranger:
    """Song and Ermon's score network: 50 noise levels, numbered from the noisiest, pixels in [0, 1]."""
    train, held_out = digits()
    sigmas = torch.tensor(np.exp(np.linspace(np.log(10), np.log(0.01), 50)), dtype=torch.float32)

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        labels = torch.randint(0, len(sigmas), (len(x),))
        used = sigmas[labels].view(-1, 1, 1, 1)
        noise = torch.randn_like(x) * used
        return ((net(x + noise, labels) + noise / used**2) ** 2 * used**2).mean()

    truth = _truth(leapstep.ve(50, 0.01, 10.0), "ve", "score", "index", scale=255.0, reverse=True)
    net, x = ScoreOfLabel(Perceptron(nn.Embedding(50, 96), 96, 64), sigmas), torch.from_numpy(train).float() / 255
    return Stranger(net, loss, x, held_out, truth, steps=3000, batch=256)


def digits_unnamed() -> Stranger:
    """eps on a schedule that nobody has named: alpha-bar falls as a power of what is left, with a knee in it."""
    train, held_out = digits()
    k = np.arange(1, 1001) / 1000
    alpha_bar = (1 - 0.998 * k) ** 1.7 * np.where(k < 0.4, 1, np.exp(-3 * (k - 0.4)))
    alphas_cumprod = torch.tensor(alpha_bar, dtype=torch.float32)

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        t, noise = torch.randint(0, 1000, (len(x0),)), torch.randn_like(x0)
        a = alphas_cumprod[t][:, None, None, None]
        return functional.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise)

    others = {"shift": 127.5, "scale": 127.5, "fractional": True}
    truth = _truth(leapstep.from_alphas_cumprod(alpha_bar), None, "eps", "index", **others)
    x = torch.from_numpy(train).float() / 127.5 - 1
    return Stranger(UNet(Waves(96), 96), loss, x, held_out, truth, steps=1300)


def digits_vp() -> Stranger:
    """eps of the variance-preserving SDE in continuous time, one 0-dim timestep, 999 t, for the whole batch."""
    train, held_out = digits()

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        t = torch.rand(()) * (1 - 1e-3) + 1e-3
        log_mean = -(t**2) * (20 - 0.1) / 4 - t * 0.1 / 2
        z = torch.randn_like(x)
        return functional.mse_loss(net(log_mean.exp() * x + (1 - (2 * log_mean).exp()).sqrt() * z, 999 * t), z)

    others = {"shift": 127.5, "scale": 127.5, "reshape": "scalar", "fractional": True}
    truth = _truth(leapstep.vp(), "vp", "eps", "999t", **others)
    x, net = torch.from_numpy(train) / 127.5 - 1, Perceptron(Waves(96), 96, 64)
    return Stranger(net, loss, x, held_out, truth, steps=6000, batch=128, rate=1e-3)


STRANGERS: dict[str, Callable[[], Stranger]] = {
    "digits_ddpm": digits_ddpm,
    "digits_v": digits_v,
    "digits_x0": digits_x0,
    "digits_flow": digits_flow,
    "digits_edm": digits_edm,
    "signals": signals_eps,
    "arm": arm,
    "digits_score": digits_score,
    "digits_ncsn": digits_ncsn,
    "digits_unnamed": digits_unnamed,
    "digits_vp": digits_vp,
}
"""All of them, untrained, by name."""


# --- training --------------------------------------------------------------------------------------------------------


def _fit(stranger: Stranger) -> None:
    """Train with Adam on a rate that falls along a cosine, and leave the running mean of the weights in the network."""
    net, n = stranger.net.train(), len(stranger.train)
    optimizer = torch.optim.Adam(net.parameters(), stranger.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stranger.steps)
    mean = [p.detach().clone() for p in net.parameters()]
    for step in range(stranger.steps):
        loss = stranger.loss(net, stranger.train[torch.randint(0, n, (stranger.batch,))])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        torch._foreach_lerp_(mean, list(net.parameters()), max(0.005, 9 / (10 + step)))
    with torch.no_grad():
        for p, value in zip(net.parameters(), mean, strict=True):
            p.copy_(value)


def _trained(name: str, cache: Path | None) -> Stranger:
    torch.manual_seed(0)
    stranger = STRANGERS[name]()
    file = None if cache is None else cache / f"{name}.safetensors"
    if file is not None and file.exists():
        stranger.net.load_state_dict(load_file(file))
    else:
        _fit(stranger)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous() for key, value in stranger.net.state_dict().items()}, file)
    stranger.net.eval().requires_grad_(False)
    return stranger


def load(name: str, cache: Path | None = None) -> Case:
    """Train a network of the zoo, always the same, or read its weights where they lie in the cache already."""
    stranger = _trained(name, cache)
    return Case(name, stranger.net, stranger.data, stranger.truth)


ZOO: dict[str, Callable[[], Case]] = {name: partial(load, name) for name in STRANGERS}
"""Every network of the zoo, by name: trains it and returns its case."""


# --- the report ------------------------------------------------------------------------------------------------------


def diffusion(case: Case) -> leapstep.Diffusion:
    """Read the network by the truth, in the network's own units."""
    names = ("predicts", "time", "fractional", "reverse", "reshape", "sigma_data")
    given = {name: case.truth[name] for name in names}
    return leapstep.from_network(case.net, case.truth["process"], **given)


def _report(stranger: Stranger, case: Case) -> None:
    ours, truth = diffusion(case), case.truth
    process, levels = ours.process, truth["timesteps"]
    x0 = (torch.from_numpy(case.data).float() - truth["shift"]) / truth["scale"]
    flat = stranger.train.flatten(1).double()
    linear = leapstep.GaussianMixture(stranger.train.double().mean(0)[None], flat.T.cov()[None]).diffusion(process)
    spread = flat.var(0).mean().item()
    x0, generator = x0.double(), torch.Generator().manual_seed(0)
    print(f"  {'sigma / (alpha std)':<20}{'t':>7}{'network':>11}{'linear':>11}   mean squared error of x0 / variance")
    low, high = (-process.log_snr(torch.tensor(end)).item() / 2 for end in (1 / (levels or 1000), 0.9999))
    wanted = [ratio for ratio in (0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low < math.log(ratio * spread**0.5) < high]
    for ratio in wanted:
        t = process.time(-2 * math.log(ratio * spread**0.5))
        t = (t * levels).round() / levels if levels else t
        x = process.add_noise(x0, t, torch.randn(x0.shape, dtype=torch.float64, generator=generator))
        errors = [
            (d(y, t) - x0).square().mean().item() / spread for d, y in ((ours.denoise, x.float()), (linear.denoise, x))
        ]
        print(f"  {ratio:<20}{t.item():>7.3f}{errors[0]:>11.5f}{errors[1]:>11.5f}")
    began = time.perf_counter()
    steps = min(50, levels or 50)
    samples = leapstep.sample(ours, x0.shape, steps=steps, transition=leapstep.dpmpp_2m())
    real = stranger.train[torch.randperm(len(stranger.train), generator=generator)[: len(x0)]]
    distances = [frechet_distance(y.double() / spread**0.5, x0 / spread**0.5) for y in (samples, real)]
    seconds = time.perf_counter() - began
    print(f"  Fréchet distance, {steps} steps: {distances[0]:.3f} (training data: {distances[1]:.3f}), {seconds:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the zoo and say how well each network has learned.")
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--cache", type=Path, help="keep the weights in this folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(STRANGERS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: use some of {', '.join(STRANGERS)}")
    for name in arguments.names or STRANGERS:
        began = time.perf_counter()
        stranger = _trained(name, arguments.cache)
        seconds, weights = time.perf_counter() - began, sum(p.numel() for p in stranger.net.parameters())
        print(f"{name}: {weights:,} weights, {seconds:.0f} s", flush=True)
        _report(stranger, Case(name, stranger.net, stranger.data, stranger.truth))


if __name__ == "__main__":
    main()
