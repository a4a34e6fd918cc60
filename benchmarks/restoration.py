"""Pictures restored by a network: 4x super-resolution, deblurring and missing pixels, as PSNR and as a picture.

    python benchmarks/restoration.py RUN DATA [PICTURE.png]

The first held-out pictures of the data are observed with noise of 0.05 in [-1, 1], and restored: by `leapstep.restore`
with DDIM's method without and with noise, and missing pixels by `leapstep.inpainted` too, which takes them as exact.
PSNR is of one sample, which has the detail of a picture and its uncertainty, and of the mean of four, which is smoother
and nearer. The misfit is the root mean square of y - A x0, of which the noise alone is 0.05.
"""

import argparse

import torch
from torch import Tensor

import leapstep
from leapstep.core.operators import Operator
from leapstep.data import read
from leapstep.data.pictures import grid, save_image

STD, DRAWS = 0.05, 4


def psnr(x: Tensor, x0: Tensor) -> float:
    """The mean over pictures in [-1, 1], in dB."""
    return (10 * (4 / (x.clamp(-1, 1) - x0).square().flatten(1).mean(1)).log10()).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="PSNR of super-resolution, deblurring and missing pixels.")
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("picture", nargs="?", help="where to draw, for each task, data, observation and a sample")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    model = leapstep.load(arguments.run)
    x0 = model.scaling.to_model(read(arguments.data, split="test").values[: arguments.n])
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(x0.shape[2:], generator=generator) < 0.8
    tasks = {
        "4x super-resolution": leapstep.downsampled(4),
        "blur of 2 pixels": leapstep.blurred(2.0),
        "80 % missing": leapstep.masked(mask),
    }
    rows: list[Tensor] = []
    print("| task | method | PSNR of a sample | of the mean of 4 | misfit |\n| --- | --- | --- | --- | --- |")
    for task, operator in tasks.items():
        seen = operator(x0)
        y = seen + STD * torch.randn(seen.shape, generator=generator)
        if task == "80 % missing":
            y = operator(y)
        shown = torch.nn.functional.interpolate(y, x0.shape[2:])
        rows += [x0, shown]
        print(f"| {task} | as observed | {psnr(shown, x0):.1f} | | |")
        many, shape = y.repeat_interleave(DRAWS, 0), (DRAWS * len(x0), *x0.shape[1:])
        for method, transition in (("restore", None), ("restore, ddim()", leapstep.ddim())):
            x = leapstep.restore(model, operator, many, shape, arguments.steps, transition, std=STD)
            rows += [x[::DRAWS]] if transition is None else []
            report(task, method, x, x0, ((operator(x) - many).square().sum() / count(operator, x)).sqrt().item())
        if task == "80 % missing":
            transition = leapstep.inpainted(leapstep.ddim(eta=1.0), many, mask.float(), resample=5)
            x = leapstep.sample(model, shape, arguments.steps, transition)
            report(task, "inpainted, resample=5", x, x0, float("nan"))
    if arguments.picture:
        save_image(grid(model.scaling.to_pixels(torch.cat(rows)), columns=len(x0)), arguments.picture)


def count(operator: Operator, x: Tensor) -> int:
    """How many values are observed: an operator may make zeros of others."""
    return int((operator(torch.ones_like(x)) != 0).sum())


def report(task: str, method: str, x: Tensor, x0: Tensor, misfit: float) -> None:
    one, mean = psnr(x[::DRAWS], x0), psnr(x.reshape(len(x0), DRAWS, *x0.shape[1:]).mean(1), x0)
    print(f"| {task} | {method} | {one:.1f} | {mean:.1f} | {'' if misfit != misfit else f'{misfit:.3f}'} |", flush=True)


if __name__ == "__main__":
    main()
