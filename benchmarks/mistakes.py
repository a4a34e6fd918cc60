"""Mistakes that people make with a good network: what the samples look like, and the doctor's line on each.

    python benchmarks/mistakes.py --cache zoo --out docs         # about ten minutes on one idle core
    python benchmarks/mistakes.py clock loop --cache zoo         # two of them, without pictures

The networks are those of `benchmarks/zoo.py`, and one of the same kind with dropout and with two copies of its weights.
Each is sampled rightly and wrongly from the same start noise. What is printed for each mistake: the Fréchet distance of
the samples to held-out digits, clamped to pixels as a picture is (as many training digits come first), and what
`leapstep.diagnose` says when it is told of the wrong belief. With `--out` the first ten samples of each row become
`mistake-NAME.png`. Networks are trained where the cache does not have them.
"""

import argparse
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zoo
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import leapstep
from leapstep.data import pictures
from leapstep.evaluation.distances import frechet_distance

T = 1000
N = 400
FOLDER: list[Path | None] = [None]  # where the weights are kept


@dataclass(frozen=True)
class Mistake:
    """A mistake.

    Attributes:
        rows: samples as pixels, `[N, 1, 8, 8]`, by caption; the first is right.
        network: the network that the doctor is shown.
        assume: the wrong belief that it is told of.
        words: or what marks the concerns that it finds by itself; with neither, its sampling check speaks.
    """

    rows: Mapping[str, Callable[[], Tensor]]
    network: Callable[[], Any]
    assume: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()


# --- networks --------------------------------------------------------------------------------------------------------


@cache
def case(name: str) -> zoo.Case:
    return zoo.load(name, FOLDER[0])


def ddpm() -> nn.Module:
    return case("digits_ddpm").net


class Kept(nn.Module):
    """What a training script saves: the network as it was trained last, and the running mean of its weights."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.model, self.ema = net, copy.deepcopy(net)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """The answer of the network as it was trained last."""
        return self.model(x, timestep)


@cache
def kept() -> Kept:
    """The DDPM of the zoo with dropout, trained at a rate that does not fall."""
    torch.manual_seed(0)
    stranger = zoo.digits_ddpm()
    for block in (stranger.net.down, stranger.net.middle, stranger.net.deep, stranger.net.up):
        block.second.insert(2, nn.Dropout(0.2))
    both = Kept(stranger.net)
    file = None if FOLDER[0] is None else FOLDER[0] / "mistakes_dropout.safetensors"
    if file is not None and file.exists():
        both.load_state_dict(load_file(file))
        return both
    optimizer = torch.optim.Adam(both.model.parameters(), 3e-3)
    for step in range(2000):
        loss = stranger.loss(both.model, stranger.train[torch.randint(0, len(stranger.train), (64,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            pairs = zip(both.ema.parameters(), both.model.parameters(), strict=True)
            for mean, value in pairs:
                mean.lerp_(value, max(0.003, 9 / (10 + step)))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in both.state_dict().items()}, file)
    return both


# --- samples ---------------------------------------------------------------------------------------------------------


def pixels(x: Tensor, shift: float, scale: float) -> Tensor:
    """Samples as they come out of the network's range, as a picture file holds them."""
    return (x.double() * scale + shift).nan_to_num(0).round().clamp(0, 255).to(torch.uint8)


def by_truth(name: str, net: Any = None, **wrong: Any) -> Callable[[], Tensor]:
    """20 steps of a network of the zoo, by its truth but for what is said otherwise."""

    def draw() -> Tensor:
        truth = case(name).truth | wrong
        given = {key: truth[key] for key in ("predicts", "time", "fractional", "reverse", "reshape", "sigma_data")}
        diffusion = leapstep.from_network(net or case(name).net, truth["process"], clip=truth.get("clip"), **given)
        diffusion = diffusion._replace(origin=truth.get("origin", 0.0))
        return pixels(leapstep.sample(diffusion, (N, 1, 8, 8), steps=20), truth["shift"], truth["scale"])

    return draw


def in_mode(training: bool, averaged: bool) -> Callable[[], Tensor]:
    """The network with dropout."""

    def draw() -> Tensor:
        net = kept().ema if averaged else kept().model
        return by_truth("digits_ddpm", net.train(training))()

    return draw


def by_hand(n: int, right: bool) -> Callable[[], Tensor]:
    """DDIM as people write it, in n of the 1000 steps."""

    @torch.no_grad()
    def draw() -> Tensor:
        alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T), 0)
        timesteps = np.linspace(0, T - 1, n).round().astype(int)[::-1].tolist()
        x = leapstep.Noise(0, range(N), (1, 8, 8))(0)
        for t, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
            s = following if right else t - T // n
            a, b = alphas_cumprod[t], alphas_cumprod[s] if s >= 0 else torch.tensor(1.0)
            eps = ddpm()(x, torch.full((N,), t))
            x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
            x = b.sqrt() * x0 + (1 - b).sqrt() * eps
        return pixels(x, 127.5, 127.5)

    return draw


def average() -> Tensor:
    """The mean training digit, in [-1, 1]."""
    return torch.from_numpy(zoo.digits()[0]).float().mean(0) / 127.5 - 1


# --- the mistakes ----------------------------------------------------------------------------------------------------


MISTAKES = {
    "prediction": Mistake(
        {
            "right": by_truth("digits_v"),
            "v taken for eps": by_truth("digits_v", predicts="eps"),
            "eps taken for v": by_truth("digits_ddpm", predicts="v"),
        },
        lambda: case("digits_v").net,
        {"predicts": "eps"},
    ),
    "range": Mistake(
        {
            "right": by_truth("digits_v"),
            "[0, 1] read as [-1, 1]": by_truth("digits_v", shift=127.5, scale=127.5, clip=(-1, 1)),
            "[-1, 1] read as [0, 1]": by_truth("digits_ddpm", shift=0.0, scale=255.0, clip=(0, 1)),
        },
        lambda: case("digits_v").net,
        {"range": "[-1, 1]"},
    ),
    "clock": Mistake(
        {"right": by_truth("digits_ddpm"), "t / T for the index": by_truth("digits_ddpm", time="fraction")},
        ddpm,
        {"time": "fraction"},
    ),
    "schedule": Mistake(
        {
            "right": by_truth("digits_ddpm"),
            "cosine for linear": by_truth("digits_ddpm", process=leapstep.cosine(), clip=(-1, 1)),
            "scaled_linear": by_truth("digits_ddpm", process=leapstep.scaled_linear()),
        },
        ddpm,
        {"schedule": "cosine"},
    ),
    "direction": Mistake(
        {
            "right": by_truth("digits_flow"),
            "clock from the wrong end": by_truth("digits_flow", reverse=False),
            "velocity with the wrong sign": by_truth("digits_flow", predicts="flow"),
        },
        lambda: case("digits_flow").net,
        {"reverse": False, "predicts": "flow"},
    ),
    "loop": Mistake({"right, 600 steps": by_hand(600, True), "t - T // n": by_hand(600, False)}, ddpm),
    "weights": Mistake(
        {
            "right": in_mode(False, True),
            "left in train()": in_mode(True, True),
            "raw, not averaged": in_mode(False, False),
        },
        lambda: kept().train(),
        words=("train mode", "copies"),
    ),
    "start": Mistake(
        {"right": by_truth("digits_x0", origin=average()), "from noise alone": by_truth("digits_x0")},
        lambda: case("digits_x0").net,
        assume={"timesteps": 200},
        words=("at t = 1 the data",),
    ),
    "level": Mistake(
        {
            "right": by_truth("digits_ddpm"),
            "off by one level": by_truth("digits_ddpm", time="index_from_1"),
            "bfloat16 timesteps": by_truth("digits_ddpm", reshape=lambda k: k.bfloat16()),
        },
        lambda: case("digits_v").net,
        words=("bfloat16",),
    ),
}


# --- the report ------------------------------------------------------------------------------------------------------


def lines(mistake: Mistake) -> Iterator[str]:
    """What the doctor says of it."""
    diagnosis = leapstep.diagnose(mistake.network(), zoo.digits()[1], assume=mistake.assume, budget=math.inf)
    if mistake.assume:
        yield from diagnosis.contradictions or (() if mistake.words else ("NOTHING",))
    for word in mistake.words:
        yield next((f"{c.what} -> {c.cure}" for c in diagnosis.concerns if word in c.what), f"NOTHING on {word}")
    if not mistake.assume and not mistake.words:
        yield diagnosis.sampled()


def distance(digits: Tensor) -> float:
    """Fréchet distance of pixels to the held-out digits, in units of [-1, 1]."""
    held_out = torch.from_numpy(zoo.digits()[1])
    return frechet_distance(digits.double() / 127.5, held_out.double() / 127.5)


def main() -> None:
    parser = argparse.ArgumentParser(description="Sample good networks wrongly.")
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--cache", type=Path, help="keep the weights in this folder")
    parser.add_argument("--out", type=Path, help="save pictures in this folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MISTAKES):
        parser.error(f"there is no {', '.join(sorted(unknown))}: use some of {', '.join(MISTAKES)}")
    FOLDER[0] = arguments.cache
    print(f"training digits: {distance(torch.from_numpy(zoo.digits()[0][:N])):.2f}", flush=True)
    for name in arguments.names or MISTAKES:
        mistake = MISTAKES[name]
        rows = {caption: draw() for caption, draw in mistake.rows.items()}
        print(f"\n{name}\n" + "\n".join(f"  {caption:<30}{distance(x):>8.2f}" for caption, x in rows.items()))
        if arguments.out is not None:
            drawn = {caption: x[:10].numpy() for caption, x in rows.items()}
            pictures.save_image(pictures.table(drawn, size=16), arguments.out / f"mistake-{name}.png")
        print("\n".join(f"  {line}" for line in lines(mistake)), flush=True)


if __name__ == "__main__":
    main()
