"""What the sampling loop costs beside the network calls that it makes, and what transitions cost alone.

    python benchmarks/loop.py [--only "batch 16"]

The loop: `leapstep.sample` by every method around a U-Net of 0.7 million weights on 8x8 pictures, so small that all
else is seen; beside as many bare calls, and beside loops around schedulers of diffusers. Transitions: a network that
costs nothing, and steps of the same method of diffusers, or of its DDIM.
"""

import math
from functools import partial

import diffusers
import torch

import leapstep
import timing
from leapstep.networks import UNet

STEPS = 20
GOALS = {16: 1.02, 1: 1.05}
"""Of DDIM, by batch size: the time of the loop in units of bare calls."""

SHAPES = {"small": (16, 1, 8, 8), "large": (16, 3, 128, 128)}

METHODS = {
    "ddim, eta 0": leapstep.ddim(),
    "ddim, eta 1": leapstep.ddim(1.0),
    **{name: method.make() for name, method in leapstep.TRANSITIONS.items() if name != "ddim"},
}

PEERS = {
    "ddim, eta 0": (diffusers.DDIMScheduler, {}, {}),
    "ddim, eta 1": (diffusers.DDIMScheduler, {}, {"eta": 1.0}),
    "ddpm": (diffusers.DDPMScheduler, {}, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}, {}),
    "sde_dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}, {}),
    "deis": (diffusers.DEISMultistepScheduler, {}, {}),
    "ipndm": (diffusers.IPNDMScheduler, {}, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}, {}),
}
"""The schedulers of diffusers that do the same, with options of them and of their steps."""


def scheduler(name):
    """A scheduler of diffusers without clipping, and options of its steps."""
    kind, options, given = PEERS[name]
    clips = {"clip_sample": False} if kind in (diffusers.DDIMScheduler, diffusers.DDPMScheduler) else {}
    return kind(**options, **clips), given


@torch.no_grad()
def theirs(name, net, shape, device, steps):
    schedule, given = scheduler(name)
    schedule.set_timesteps(steps)
    x = torch.randn(shape, device=device) * schedule.init_noise_sigma
    for k in schedule.timesteps:
        output = net(schedule.scale_model_input(x, k), k)
        x = schedule.step(output, k, x, **given).prev_sample
    return x


@torch.no_grad()
def bare(net, x, steps):
    k = torch.full((len(x),), 500, device=x.device)
    for _ in range(steps):
        net(x, k)


def ours(transition, net, shape, steps):
    return leapstep.sample(leapstep.from_network(net, leapstep.linear()), shape, steps, transition)


class Counted(torch.nn.Module):
    """A network that counts its calls."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x, k):
        self.calls += 1
        return self.net(x, k)


def tiny(bench):
    torch.manual_seed(0)
    widths = (
        {"channels": (8,), "attention": (False,)} if bench.smoke else {"channels": (32, 64), "attention": (False, True)}
    )
    return UNet(in_channels=1, blocks=1, groups=8, **widths).eval().to(bench.device)


def around(net, names, shape, bench, seconds):
    """Seconds of a call in the loops by some methods, and of bare calls."""
    steps = bench.least(STEPS, 4)
    runs = {"bare calls": partial(bare, x=torch.randn(shape, device=bench.device), steps=steps)}
    for name in names:
        runs[name] = partial(ours, METHODS[name], shape=shape, steps=steps)
        if name in PEERS:
            runs[f"diffusers {name}"] = partial(theirs, name, shape=shape, device=bench.device, steps=steps)
    calls = {}
    for name, run in runs.items():
        counted = Counted(net)
        run(net=counted)
        calls[name] = counted.calls
    runs = {name: partial(run, net=net) for name, run in runs.items()}
    taken = bench.rounds(runs, seconds)
    return timing.Seconds({name: [s / calls[name] for s in series] for name, series in taken.items()})


def loop(batch, bench):
    """DDIM with a goal."""
    net, names, what = tiny(bench), list(METHODS)[:2], f"loop around a tiny network, batch {batch}, a call, "
    seconds = around(net, names, (batch, 1, 8, 8), bench, 15.0)
    for name in names:
        yield seconds.cost(what + name, name, "bare calls", goal=GOALS[batch])
        yield seconds.cost(what + name, name, f"diffusers {name}")


def methods(batch, bench):
    """All other methods, each by itself."""
    net, what = tiny(bench), f"loop around a tiny network, batch {batch}, a call, "
    for name in bench.least(list(METHODS)[2:], ["unipc"]):
        seconds = around(net, [name], (batch, 1, 8, 8), bench, 1.0)
        for peer in seconds.keys() - {name}:
            yield seconds.cost(what + name, name, peer)._replace(detail=True)


def transitions(size, bench):
    shape = SHAPES[size]
    eps = torch.randn(shape, device=bench.device)

    def net(x, k):
        return eps

    steps = bench.least(STEPS, 4)
    for name in bench.least(list(METHODS), ["unipc"]):
        peer = name if name in PEERS else "ddim, eta 0"
        runs = {
            name: partial(ours, METHODS[name], net, shape, steps),
            f"diffusers {peer}": partial(theirs, peer, net, shape, bench.device, steps),
        }
        seconds = bench.rounds(runs, 0.5)
        what = f"transition alone, {size} tensors ({math.prod(shape):,} numbers), a step, {name}"
        row = seconds.cost(what, name, f"diffusers {peer}", calls=steps)
        yield row._replace(detail=not name.startswith("ddim"))


CASES = {
    **{f"loop, batch {batch}": partial(loop, batch) for batch in GOALS},
    **{f"methods, batch {batch}": partial(methods, batch) for batch in GOALS},
    **{f"transitions, {size}": partial(transitions, size) for size in SHAPES},
}


if __name__ == "__main__":
    timing.main(CASES, __doc__)
