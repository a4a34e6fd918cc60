"""What text-books say of fast sampling and of training, each with a number from small networks of the digits.

    python benchmarks/claims.py --cache claims --out docs        # all of it
    python benchmarks/claims.py spacing ema --cache claims       # two of the claims, without the picture

A claim is a Markdown table. Networks are trained by `leapstep.training`, three of a kind from different seeds, and a
value is the mean over them, ± the standard deviation among them. Quality is the Fréchet distance of 500 samples, as
pixels in [-1, 1], to the held-out digits (as many training digits come first); the start noise is always the same.
`--cache` keeps the weights, and every number in claims.json, so that a run that was stopped goes on where it was: name
another folder when anything here has changed. `--out` gets `claims.png`.
"""

import argparse
import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import leapstep
from leapstep import files, training
from leapstep.core.process import along
from leapstep.core.scaling import PIXELS
from leapstep.core.schedules import SCHEDULES
from leapstep.core.transitions import younger
from leapstep.data import Data, pictures, read
from leapstep.evaluation.distances import frechet_distance, neighbours
from leapstep.training.configuration import TrainingConfig, configure

N = 500
SEEDS = (0, 1, 2)
ETAS = (0.0, 0.2, 0.5, 1.0)
FOLDER: list[Path | None] = [None]  # where weights and numbers are kept

Loss = Callable[..., Tensor]


# --- the data --------------------------------------------------------------------------------------------------------


@cache
def digits(split: str) -> Tensor:
    """All digits of a split in [-1, 1], `[n, 1, 8, 8]`."""
    data = data_of(split)
    return data.batch(range(len(data)))


@cache
def data_of(split: str) -> Data:
    return read("digits", split=split)


def real(seed: int) -> Tensor:
    """As many training digits as there are samples in a cell, drawn at random."""
    chosen = torch.randperm(len(digits("train")), generator=torch.Generator().manual_seed(seed))
    return digits("train")[chosen[:N]]


# --- the networks ----------------------------------------------------------------------------------------------------


def two_noises(
    diffusion: leapstep.Diffusion, x0: Tensor, t: Tensor, eps: Tensor, weight: str = "eps", gamma: float = 5.0
) -> Tensor:
    """`leapstep.training.loss` with the noise of the last step alone as the target: x_{t-1} is drawn as well as x_t.

    With x_t = a x_{t-1} + b z, the target sigma z / b has the mean eps given x_t and x0, so this loss has the gradient
    of the other in expectation. Given eps it is eps + sqrt(1/f - 1) z', where f = b^2 / sigma^2; as a target for the
    estimate of x0 this is x0 - sigma/alpha sqrt(1/f - 1) z'.
    """
    process = diffusion.process
    before = (t * process.timesteps - 1).round() / process.timesteps
    rest = (1 / younger(process, t, before) - 1).sqrt()
    target = x0 - along(process.sigma(t) / process.alpha(t) * rest, x0) * torch.randn_like(x0)
    error = diffusion.denoise(process.add_noise(x0, t, eps), t) - target
    w = training.WEIGHTS[weight](process, t, gamma).to(error.dtype)
    return w * error.square().flatten(1).mean(1)


@dataclass(frozen=True)
class Kind:
    """A kind of network: what differs from the preset `digits`, when its weights are kept, and its loss.

    Attributes:
        settings: fields of `TrainingConfig`.
        points: steps after which the weights are kept, besides the last.
        loss: takes the place of `leapstep.training.loss`.
    """

    settings: Mapping[str, Any]
    points: tuple[int, ...] = ()
    loss: Loss = training.loss

    def config(self, seed: int = 0) -> TrainingConfig:
        """The settings in force."""
        return configure({**self.settings, "seed": seed, "precision": "float32"}, "digits")


UNET = {"steps": 600}
MLP = {"network": "mlp"}
POINTS = (100, 200, 400)

KINDS = {
    "U-Net": Kind(UNET, POINTS),
    "U-Net, linear schedule": Kind({**UNET, "schedule": "linear"}),
    "U-Net, learned embedding": Kind({**UNET, "time_embedding": "learned"}),
    "U-Net, half as wide": Kind({"channels": (16, 32), "steps": 800}),
    "U-Net, one level": Kind({"channels": (24,), "attention": (False,), "steps": 800}),
    "MLP": Kind(MLP, POINTS),
    "MLP, linear schedule": Kind({**MLP, "schedule": "linear"}),
    "MLP, learned embedding": Kind({**MLP, "time_embedding": "learned"}),
    "MLP, constant rate": Kind({**MLP, "lr_schedule": "constant"}, POINTS),
    "MLP, two noises": Kind(MLP, POINTS, two_noises),
}


def train(kind: str, seed: int) -> dict[str, Tensor]:
    """Weights by "step.raw.name" and "step.ema.name"."""
    config, kept = KINDS[kind].config(seed), {}
    with patch.object(training.objective, "loss", KINDS[kind].loss):
        trainer = training.Trainer(config, "digits", device="cpu", progress=False)
        while trainer.step < config.steps:
            trainer.advance()
            if trainer.step in (*KINDS[kind].points, config.steps):
                for name, net in (("raw", trainer.network), ("ema", trainer.ema.module)):
                    state = net.state_dict().items()
                    kept |= {f"{trainer.step}.{name}.{key}": value.clone().contiguous() for key, value in state}
    return kept


@cache
def trained(kind: str, seed: int) -> dict[str, Tensor]:
    file = None if FOLDER[0] is None else FOLDER[0] / f"{kind.replace(', ', '-').replace(' ', '-')}-{seed}.safetensors"
    if file is not None and file.exists():
        return load_file(file)
    weights = train(kind, seed)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, file)
    return weights


def network(kind: str, seed: int, weights: str = "ema", point: int | None = None) -> nn.Module:
    """A network as it was after so many steps (None: the last), in eval mode."""
    config = KINDS[kind].config(seed)
    start = f"{point or config.steps}.{weights}."
    net = training.build_network(config, data_of("train"))
    net.load_state_dict(
        {key.removeprefix(start): value for key, value in trained(kind, seed).items() if key.startswith(start)}
    )
    return net.to(memory_format=torch.channels_last).eval()


def diffusion(kind: str, net: nn.Module, clip: bool = True) -> leapstep.Diffusion:
    process = SCHEDULES[KINDS[kind].config().schedule](1000)
    return leapstep.from_network(net, process, fractional=True, clip=(-1.0, 1.0) if clip else None)


# --- numbers ---------------------------------------------------------------------------------------------------------


@dataclass
class Book:
    """The numbers so far, by what they are of."""

    numbers: dict[str, dict[str, float]] = field(default_factory=dict)

    def get(self, key: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Look a number up, or measure it and write it down."""
        if key not in self.numbers:
            self.numbers[key] = measure()
            if FOLDER[0] is not None:
                files.write_json(FOLDER[0] / "claims.json", self.numbers)
        return self.numbers[key]


BOOK = Book()


def samples(kind: str, seed: int, steps: int = 20, eta: float = 0.0, n: int = N, **more: Any) -> Tensor:
    """Samples as a picture file holds them, in [-1, 1]."""
    spacing = more.pop("spacing", "trailing")
    model = diffusion(kind, network(kind, seed, **more))
    x = leapstep.sample(model, (n, 1, 8, 8), steps, leapstep.ddim(eta), spacing=spacing, batch_size=125)
    return PIXELS.to_model(PIXELS.to_pixels(x))


def cell(kind: str, seed: int, **settings: Any) -> dict[str, float]:
    """What there is to say of the samples of a network."""
    given = {"steps": 20, "eta": 0.0, "spacing": "trailing", "weights": "ema", "point": None} | settings
    key = " ".join([f"{kind}/{seed}", *(f"{name}={value}" for name, value in given.items())])
    return BOOK.get(key, lambda: figures(samples(kind, seed, **settings)))


def figures(x: Tensor) -> dict[str, float]:
    """Fréchet distance to the held-out digits; roughness and variety, each as a share of what the data have."""
    data, held_out = digits("train").double(), digits("test")
    near = neighbours(x, held_out, k=5)
    values, axes = torch.linalg.eigh(data.flatten(1).T.cov())
    across = x.double().flatten(1).T.cov()
    main = axes[:, -20:]
    logs = torch.linalg.slogdet(main.T @ across @ main)[1] - values[-20:].log().sum()
    return {
        "frechet": frechet_distance(x, held_out),
        "variation": variation(x.double()) / variation(data),
        "fine": fine(x.double()) / fine(data),
        "variance": float(across.trace() / values.sum()),
        "volume": float((logs / 20).exp()),
        "recall": near["recall"],
        "precision": near["precision"],
    }


def variation(x: Tensor) -> float:
    """Total variation: the mean absolute difference of neighbouring pixels."""
    return float(x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean())


def fine(x: Tensor) -> float:
    """Mean energy in the finer half of the frequencies, i + j > 7 of the discrete cosine transform."""
    i = torch.arange(8, dtype=x.dtype)
    basis = torch.cos(math.pi / 8 * i[:, None] * (i + 0.5))
    basis[0] /= math.sqrt(2)
    return float(((basis @ x @ basis.T).square() * (i[:, None] + i > 7)).mean())


def held_out_loss(kind: str, seed: int) -> dict[str, float]:
    """The simple loss on four noised copies of each held-out digit, always the same ones."""
    generator = torch.Generator().manual_seed(5)
    x0 = digits("test").repeat(4, 1, 1, 1)
    t = torch.randint(1, 1001, (len(x0),), generator=generator) / 1000
    eps = torch.randn(x0.shape, generator=generator)
    with torch.no_grad():
        each = training.loss(diffusion(kind, network(kind, seed), clip=False), x0, t.double(), eps)
    return {"loss": float(each.mean())}


# --- tables ----------------------------------------------------------------------------------------------------------


def over_seeds(measure: Callable[[int], float]) -> np.ndarray:
    return np.array([measure(seed) for seed in SEEDS])


def shown(values: np.ndarray, digits: int = 2) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def frechet(kind: str, digits: int = 2, **settings: Any) -> str:
    return shown(over_seeds(lambda seed: cell(kind, seed, **settings)["frechet"]), digits)


# --- the claims ------------------------------------------------------------------------------------------------------


def smooth() -> None:
    """Fewer steps are smoother and less diverse.

    Against the training digits: total variation, energy of the finer half of the frequencies, variance, and the
    geometric mean of the variance along the 20 main axes (the 20th root of a ratio of determinants).
    """
    names = ("frechet", "variation", "fine", "variance", "volume", "recall", "precision")

    def row(title: str, measure: Callable[[int], dict[str, float]]) -> list[str]:
        found = [measure(seed) for seed in SEEDS]
        return [title, *(shown(np.array([each[name] for each in found])) for name in names)]

    cells = [(steps, 0.0) for steps in (1, 2, 5, 10, 20, 50, 100)] + [(steps, 1.0) for steps in (5, 20, 50)]
    for kind in ("U-Net", "MLP"):
        rows = [
            row(f"{steps}, eta = {eta:g}", lambda seed, k=kind, n=steps, e=eta: cell(k, seed, steps=n, eta=e))
            for steps, eta in cells
        ]
        table([f"{kind}, steps", *names], [*rows, row("training digits", lambda seed: figures(real(seed)))])


def one_shot() -> None:
    """The estimate of x0 in one call fails where the iteration succeeds.

    From noise alone (t = 1), and from training digits that are noised to level t; always with eta = 0.
    """

    def after(kind: str, seed: int, t: float, steps: int) -> dict[str, float]:
        model = diffusion(kind, network(kind, seed))
        x = model.process.add_noise(real(seed), t, leapstep.Noise(0, range(N), (1, 8, 8))(0))
        path = (torch.arange(steps, 0, -1, dtype=torch.float64) * (t / steps * 1000)).round() / 1000
        return figures(PIXELS.to_model(PIXELS.to_pixels(leapstep.decode(model, x, path))))

    def distance(kind: str, seed: int, t: float, steps: int) -> float:
        if t == 1:
            return cell(kind, seed, steps=steps)["frechet"]
        return BOOK.get(f"{kind}/{seed} from={t} steps={steps}", lambda: after(kind, seed, t, steps))["frechet"]

    rows = [
        [f"{kind}, t = {t:g}"]
        + [shown(over_seeds(lambda seed, k=kind, t=t, n=n: distance(k, seed, t, n))) for n in (1, 2, 5, 10)]
        for kind in ("U-Net", "MLP")
        for t in (1.0, 0.9, 0.7, 0.5)
    ]
    table(["", "1 call", "2", "5", "10"], rows)
    average = digits("train").mean(0).expand(N, 1, 8, 8)
    print(f"The mean training digit, {N} times: {frechet_distance(average, digits('test')):.2f}\n")


def architecture() -> None:
    """Deterministic sampling depends more on the architecture.

    The last rows have the standard deviation among the means of the architectures, with a 95 % interval from drawing
    trainings anew.
    """
    kinds = ("U-Net", "U-Net, half as wide", "U-Net, one level", "MLP")
    settings = [(steps, eta) for steps in (20, 50) for eta in (0.0, 1.0)]
    values = np.array(
        [
            [[cell(kind, seed, steps=steps, eta=eta)["frechet"] for seed in SEEDS] for steps, eta in settings]
            for kind in kinds
        ]
    )
    rows = []
    for kind, found in zip(kinds, values, strict=True):
        loss = over_seeds(lambda seed, k=kind: BOOK.get(f"{k}/{seed} loss", lambda: held_out_loss(k, seed))["loss"])
        rows.append([kind, shown(loss, 4), *map(shown, found)])
    draws = np.random.default_rng(0).integers(0, len(SEEDS), (2000, *values.shape))
    again = np.take_along_axis(np.broadcast_to(values, draws.shape), draws, 3).mean(3)
    for title, n in (("deviation among the U-Nets", 3), ("deviation among all four", 4)):
        low, high = np.quantile(again[:, :n].std(1, ddof=1), [0.025, 0.975], axis=0)
        middle = values[:n].mean(2).std(0, ddof=1)
        rows.append([title, "", *(f"{m:.2f} ({a:.2f} to {b:.2f})" for m, a, b in zip(middle, low, high, strict=True))])
    table(["", "held-out loss", *(f"{steps} steps, eta = {eta:g}" for steps, eta in settings)], rows)


def embedding() -> None:
    """A fixed sinusoidal against a learned time embedding, at small eta."""
    rows = [
        [f"{net}, {name}", f"{steps}", *(frechet(kind, steps=steps, eta=eta) for eta in ETAS)]
        for net in ("U-Net", "MLP")
        for steps in (10, 20)
        for name, kind in (("sinusoidal", net), ("learned", f"{net}, learned embedding"))
    ]
    table(["", "steps", *(f"eta = {eta:g}" for eta in ETAS)], rows)


def spacing() -> None:
    """Quadratic against uniform times."""
    rows = [
        [kind, name, *(frechet(kind, steps=steps, spacing=name) for steps in (5, 10, 20))]
        for kind in ("U-Net", "U-Net, linear schedule", "MLP", "MLP, linear schedule")
        for name in ("quad", "leading", "trailing")
    ]
    table(["", "times", "5 steps", "10 steps", "20 steps"], rows)


def ema() -> None:
    """The running mean of the weights against the weights, in the middle of training and at its end."""
    rows = [
        [kind, name, *(frechet(kind, weights=weights, point=point) for point in (*POINTS, None))]
        for kind in ("U-Net", "MLP", "MLP, constant rate")
        for name, weights in (("as trained", "raw"), ("running mean", "ema"))
    ]
    table(["", "weights", *(f"step {point}" for point in POINTS), "last step"], rows)


# two noises against one


BATCHES, SIZE = 32, 64
LEVELS = (10, 100, 300, 500, 700, 900)
WAYS = {
    "one": "one noise",
    "two": "two noises: x_{t-1} is drawn as well",
    "again": "half the digits, two independent eps each",
    "opposite": "half the digits, eps and -eps",
}


def scatter(kind: str, seed: int, point: int | None, way: str, level: int | None = None) -> dict[str, float]:
    """Trace of the covariance of the gradient of 64 calls, and the squared length of its mean, less what noise adds.

    Arguments:
        point: after which step of the training.
        way: one of `WAYS`.
        level: the noise level of all calls; None: as in training, from all levels.
    """
    net = network(kind, seed, "raw", point)
    model = diffusion(kind, net, clip=False)
    loss = two_noises if way == "two" else training.loss
    copies = 1 if way in ("one", "two") else 2
    parameters, lengths = list(net.parameters()), 0.0
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    torch.manual_seed(seed)
    for _ in range(BATCHES):
        chosen = torch.randint(0, len(digits("train")), (SIZE // copies,)).repeat(copies)
        t = training.stratified_times(SIZE // copies, 1000).repeat(copies)
        t = t if level is None else torch.full_like(t, level / 1000)
        eps = torch.randn(SIZE, 1, 8, 8)
        if way == "opposite":
            eps[SIZE // 2 :] = -eps[: SIZE // 2]
        found = torch.autograd.grad(loss(model, digits("train")[chosen], t, eps).mean(), parameters)
        gradient = torch.cat([g.flatten() for g in found]).double()
        total += gradient
        lengths += float(gradient.square().sum())
    mean = float(total.square().sum()) / BATCHES**2
    trace = (lengths - BATCHES * mean) / (BATCHES - 1)
    return {"trace": trace, "mean": mean - trace / BATCHES}


def noises() -> None:
    """Two noises against one in the training loss: the variance of the gradient, and what it costs.

    The variance is the trace of the covariance of the gradient of a batch of 64 calls, as a multiple of that of one
    noise; early in training, when the mean can be told from noise, also as a multiple of the mean's square, which is
    the same for all.
    """

    def found(kind: str, seed: int, point: int | None, way: str, level: int | None = None) -> dict[str, float]:
        key = f"{kind}/{seed} point={point} level={level} gradient {way}"
        return BOOK.get(key, lambda: scatter(kind, seed, point, way, level))

    def ratio(kind: str, point: int | None, way: str, under: str = "trace", level: int | None = None) -> str:
        pairs = [[found(kind, seed, point, w, level) for w in (way, "one")] for seed in SEEDS]
        values = np.array([this["trace"] / one[under] for this, one in pairs])
        return shown(values, 0 if values.mean() > 10 else 2)

    early = POINTS[0]
    rows = [
        [kind, WAYS[way], ratio(kind, early, way), ratio(kind, early, way, "mean"), ratio(kind, None, way)]
        for kind in ("U-Net", "MLP")
        for way in WAYS
    ]
    table(["", "64 calls", f"variance, step {early}", f"/ mean², step {early}", "variance, last step"], rows)
    rows = [
        ["MLP", f"step {point}" if point else "last step", *(ratio("MLP", point, "two", level=k) for k in LEVELS)]
        for point in (early, None)
    ]
    table(["two noises / one", "", *(f"level {k}" for k in LEVELS)], rows)
    rows = [
        [title, *(frechet(kind, point=point) for point in (*POINTS, None))]
        for title, kind in (("one noise", "MLP"), ("two noises", "MLP, two noises"))
    ]
    table(["MLP trained with", *(f"step {point}" for point in POINTS), "last step"], rows)


CLAIMS = {
    "smooth": smooth,
    "one-shot": one_shot,
    "ema": ema,
    "noises": noises,
    "spacing": spacing,
    "embedding": embedding,
    "architecture": architecture,
}


def picture() -> Any:
    """The same start noises in one call and in more, and real digits."""
    rows = {f"{steps} step{'s' * (steps > 1)}": samples("U-Net", 0, steps, n=10) for steps in (1, 2, 5, 10, 20, 100)}
    rows["digits"] = digits("test")[:10]
    return pictures.table({caption: PIXELS.to_pixels(x) for caption, x in rows.items()}, size=16)


def main() -> None:
    parser = argparse.ArgumentParser(description="Put numbers to what text-books say.")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(CLAIMS)}; default: all")
    parser.add_argument("--cache", type=Path, help="keep weights and numbers in this folder")
    parser.add_argument("--out", type=Path, help="save the picture in this folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CLAIMS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: use some of {', '.join(CLAIMS)}")
    FOLDER[0] = arguments.cache
    if FOLDER[0] is not None and (FOLDER[0] / "claims.json").exists():
        BOOK.numbers = json.loads((FOLDER[0] / "claims.json").read_text())
    floor = np.array([frechet_distance(real(seed), digits("test")) for seed in range(10)])
    print(f"{N} training digits: {shown(floor)}\n", flush=True)
    for name in arguments.names or CLAIMS:
        began = time.process_time()
        print(f"## {name}\n\n{inspect.getdoc(CLAIMS[name])}\n", flush=True)
        CLAIMS[name]()
        print(f"({time.process_time() - began:.0f} s of CPU)\n", flush=True)
    if arguments.out is not None:
        pictures.save_image(picture(), arguments.out / "claims.png")


if __name__ == "__main__":
    main()
