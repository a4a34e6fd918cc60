"""Forward and training step of our U-Net beside UNet2DModel of diffusers with the same weights, and a matrix product.

    python benchmarks/network.py [--only cifar10]

The layouts are those of the presets cifar10 (google/ddpm-cifar10-32) and mnist. A training step is a forward pass in
training mode, the squared error, its gradient, and fused AdamW; both networks take it in the same way, in float32.
"""

import dataclasses
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

import timing
from leapstep.networks import UNet
from leapstep.networks.layout import to_diffusers
from leapstep.training import PRESETS

SIZES = {"cifar10": (3, 32, 32), "mnist": (1, 28, 28)}
SMALLEST = {"channels": (8, 16), "attention": (False, True), "groups": 8, "blocks": 1}
BATCHES = (1, 16, 64)


def layout(name, bench):
    """Options of our U-Net: those of a preset, or the smallest."""
    preset = PRESETS[name] if not bench.smoke else SMALLEST
    options = {key: preset[key] for key in ("channels", "attention", "groups", "blocks") if key in preset}
    return {"in_channels": SIZES[name][0], **options}


def filled(net):
    """The network with weights in place of the zeros that it begins with."""
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return net


def pair(name, bench):
    """Our U-Net and that of diffusers, as they come, with the same weights."""
    torch.manual_seed(0)
    ours = filled(UNet(**layout(name, bench)))
    theirs = UNet2DModel.from_config(to_diffusers(dataclasses.asdict(ours.config), SIZES[name][1]))
    theirs.load_state_dict(ours.state_dict())
    return ours.to(bench.device), theirs.to(bench.device)


def work(net, x, k):
    """Units of 1e9 floating-point operations of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, k)
    return counter.get_total_flops() / 1e9


@torch.no_grad()
def forward(net, x, k):
    out = net(x, k)
    return out if isinstance(out, torch.Tensor) else out.sample


def training(net, x, k):
    """A function that takes a training step."""
    optimizer, eps = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True), torch.randn_like(x)

    def step():
        out = net(x, k)
        F.mse_loss(out if isinstance(out, torch.Tensor) else out.sample, eps).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compared(name, mode, batch, bench):
    """The rows of a forward pass or a training step at one batch size."""
    ours, theirs = pair(name, bench)
    x = torch.randn(batch, *SIZES[name], device=bench.device)
    k = torch.randint(0, 1000, (batch,), device=bench.device)
    amount = work(ours, x, k) * (1 if mode == "forward" else 3)
    product, operations = timing.product(bench, "float32")
    if mode == "forward":
        torch.testing.assert_close(forward(ours.eval(), x, k), forward(theirs.eval(), x, k), rtol=1e-2, atol=1e-3)
        runs = {"leapstep": partial(forward, ours, x, k), "diffusers": partial(forward, theirs, x, k)}
    else:
        runs = {"leapstep": training(ours.train(), x, k), "diffusers": training(theirs.train(), x, k)}
    fewest = 1 if mode == "training step" and batch == BATCHES[-1] else 3  # rounds that take half a minute each
    seconds = bench.rounds({**runs, "matrix product": product}, 6.0, fewest)
    what = f"{mode}, {name} layout, batch {batch}, float32"
    yield seconds.speed(what, "leapstep", "diffusers", batch, "images")
    seconds["matrix product"] = [s * amount / operations for s in seconds["matrix product"]]
    yield seconds.speed(what, "leapstep", "matrix product", amount, "GFLOP")._replace(detail=batch != 16)


def case(name, mode):
    def run(bench):
        for batch in bench.least(BATCHES, (1,)):
            yield from compared(name, mode, batch, bench)

    return run


def products(bench):
    """What the machine's matrix products reach, by type."""
    made = {kind: timing.product(bench, kind) for kind in timing.PRODUCTS}
    seconds = bench.rounds({kind: run for kind, (run, _) in made.items()}, seconds=5.0)
    for kind, (_, operations) in made.items():
        if kind != "float32":
            yield seconds.speed(f"the machine's matrix product, {kind}", kind, "float32", operations, "GOP")


CASES = {"matrix product": products} | {
    f"{name}, {mode}": case(name, mode) for name in SIZES for mode in ("forward", "training step")
}


if __name__ == "__main__":
    timing.main(CASES, __doc__)
