"""Sampling from end to end, a run folder in leapstep and the same folder in `DDIMPipeline` of diffusers.

    python benchmarks/sampling.py [--only cifar10]

From a model in memory to pictures in uint8, by DDIM without noise: leapstep with its defaults and in float32, the
pipeline as it comes, and a bare loop, which is DDIM in four lines. What leapstep measures before it chooses how to
compute is remembered, and therefore outside of the rounds; the cache is a fresh one.
"""

import os
import tempfile
from functools import partial
from pathlib import Path

import diffusers
import torch

import leapstep
import network
import timing
from leapstep.core.scaling import PIXELS
from leapstep.inference.engine import draw, values
from leapstep.inference.spec import SamplingSpec
from leapstep.models import checkpoint

JOBS = {"cifar10": (8, 10), "mnist": (16, 50)}
"""Samples and steps."""


def run_folder(name, bench, folder):
    """A run folder with random weights."""
    torch.manual_seed(0)
    net = network.filled(leapstep.networks.UNet(**network.layout(name, bench))).eval()
    convention = leapstep.Convention(leapstep.linear(), "eps", clip=(-1, 1), shape=network.SIZES[name])
    checkpoint.save(leapstep.Model(net, convention.scaled(PIXELS)), folder)
    return folder


def pipeline(folder, bench):
    """The pipeline of diffusers on a folder, without its progress bar."""
    diffusers.utils.logging.disable_progress_bar()  # of loading
    pipe = diffusers.DDIMPipeline.from_pretrained(folder).to(bench.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe, n, steps):
    """Samples of the pipeline as uint8, `[n, h, w, c]`."""
    pictures = pipe(batch_size=n, num_inference_steps=steps, output_type="np").images
    return (pictures * 255).round().astype("uint8")


def ours(model, spec):
    """All samples of a specification as uint8, `[n, c, h, w]`."""
    return [values(model, x) for _, x in draw(model, spec)]


@torch.no_grad()
def bare(net, shape, steps, device):
    """DDIM in four lines."""
    t = torch.arange(steps, -1, -1) / steps
    alpha, sigma = leapstep.linear().alpha(t).tolist(), leapstep.linear().sigma(t).tolist()
    x = torch.randn(shape, device=device)
    for i in range(steps):
        eps = net(x, torch.full((shape[0],), round(1000 * t[i].item()) - 1, device=device))
        x0 = ((x - sigma[i] * eps) / alpha[i]).clamp(-1, 1)
        x = alpha[i + 1] * x0 + sigma[i + 1] / sigma[i] * (x - alpha[i] * x0)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def sampled(name, bench):
    n, steps = bench.least(JOBS[name], (2, 2))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LEAPSTEP_CACHE"] = str(Path(folder, "cache"))
        run = run_folder(name, bench, Path(folder, "run"))
        pipe, model = pipeline(run, bench), checkpoint.load(run, bench.device)
        spec = SamplingSpec("ddim", n=n, steps=steps, batch_size=n)
        runs = {
            "leapstep": partial(ours, model, spec),
            "leapstep, float32": partial(ours, model, SamplingSpec("ddim", n=n, steps=steps, dtype="float32")),
            "DDIMPipeline": partial(theirs, pipe, n, steps),
            "bare loop": partial(bare, model.network, (n, *model.shape), steps, bench.device),
        }
        seconds = bench.rounds(runs, 30.0, fewest=2)
    what = f"sampling, {name} layout, {n} samples in {steps} steps"
    speed = partial(seconds.speed, amount=n, unit="images")
    goal = timing.goal(bench.device, 1.8, 1.1) if name == "cifar10" else None
    yield speed(f"{what}, defaults", "leapstep", "DDIMPipeline", goal=goal)
    yield speed(f"{what}, float32", "leapstep, float32", "DDIMPipeline")
    yield speed(f"{what}, float32", "leapstep, float32", "bare loop")


CASES = {name: partial(sampled, name) for name in JOBS}


if __name__ == "__main__":
    timing.main(CASES, __doc__)
