"""The trainer beside the bare step, the training example of diffusers, and the trainer of denoising-diffusion-pytorch.

    python benchmarks/training.py [--only mnist]

All train on the same folder of pictures with the same network and batch, as they come: leapstep in the precision that
it chooses by itself, the others in float32, which is their default. A step is all that happens between two steps, from
decoding or fetching pictures to what is written down. The bare step is the arithmetic alone, in the precision that
leapstep chose: pictures that are in memory, noise, forward, backward, clipping, fused AdamW and the averaged weights.

The step of diffusers is that of its unconditional example: DDPMScheduler, UNet2DModel, AdamW, EMAModel and accelerate,
with a data loader of the pictures. denoising-diffusion-pytorch is left out, with a word, where it is not installed; it
needs the torchvision that was built for this PyTorch.
"""

import contextlib
import copy
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from PIL import Image

import network
import timing
from leapstep.models.importers import lucidrains
from leapstep.training.configuration import configure
from leapstep.training.initial import Start
from leapstep.training.record import Record
from leapstep.training.trainer import Trainer

PICTURES = 512
BATCHES = {"cifar10": 16, "mnist": 64}


def write_pictures(folder, shape, n):
    """Pictures of noise as files."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        pixels = random.integers(0, 256, (*shape[1:], shape[0]), np.uint8).squeeze()
        Image.fromarray(pixels).save(folder / f"{i}.png")


class Pictures(torch.utils.data.Dataset):
    """The pictures of a folder in [-1, 1], decoded when they are asked for, as in the example of diffusers."""

    def __init__(self, folder):
        self.paths = sorted(folder.glob("*.png"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        pixels = np.asarray(Image.open(self.paths[i]))
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1) / np.float32(127.5) - 1).permute(2, 0, 1)


def endless(loader):
    while True:
        yield from loader


def our_trainer(name, pictures, batch, bench, precision="auto", start=None):
    """Our trainer, as `leapstep train` makes it."""
    layout = {key: value for key, value in network.layout(name, bench).items() if key != "in_channels"}
    settings = {"batch_size": batch, "precision": precision, "holdout": "no", "ema_decay": 0.999}
    config = configure(settings | (layout if start is None else {}))
    device = "cpu" if bench.device.type == "cpu" else None
    trainer = Trainer(config, str(pictures), device, progress=False, start=start)
    trainer.choose_precision()
    return trainer


def our_step(trainer, run):
    """A step of a run, and its record."""
    record = Record(run, trainer.config, 0, False, trainer.summary())

    def step():
        result = trainer.advance()
        record.add(trainer.step, result, {}, trainer.config.steps)

    return step


def bare_step(trainer, batch):
    """The arithmetic of a step alone, in the trainer's precision."""
    net, device = copy.deepcopy(trainer.unwrapped()), trainer.accelerator.device
    averaged = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    x0, alpha = torch.rand(batch, *trainer.data.shape, device=device) * 2 - 1, torch.tensor(0.6, device=device)

    def step():
        eps, k = torch.randn_like(x0), torch.randint(0, 1000, (batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=trainer.precision == "bf16"):
            out = net(alpha * x0 + (1 - alpha**2).sqrt() * eps, k)
        F.mse_loss(out.float(), eps).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, [parameter.detach() for parameter in net.parameters()], 0.001)

    return step


def diffusers_step(name, pictures, batch, bench):
    """The step of the unconditional example of diffusers."""
    _, net = network.pair(name, bench)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    accelerator = Accelerator(cpu=bench.device.type == "cpu")
    ema.to(accelerator.device)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    loader = torch.utils.data.DataLoader(Pictures(pictures), batch_size=batch, shuffle=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    net, optimizer, loader, rate = accelerator.prepare(net, optimizer, loader, rate)
    batches = endless(loader)

    def step():
        net.train()
        x0 = next(batches)
        eps = torch.randn_like(x0)
        k = torch.randint(0, 1000, (len(x0),), device=x0.device).long()
        noisy = scheduler.add_noise(x0, eps, k)
        with accelerator.accumulate(net):
            loss = F.mse_loss(net(noisy, k).sample.float(), eps.float())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        ema.step(net.parameters())
        return loss.detach().item()

    return step


def trained(name, bench):
    """Our trainer against the bare step and diffusers."""
    batch = bench.least(BATCHES[name], 2)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, "pictures")
        write_pictures(pictures, network.SIZES[name], bench.least(PICTURES, 4))
        by_default = our_trainer(name, pictures, batch, bench)
        exact = our_trainer(name, pictures, batch, bench, "float32")
        runs = {
            "leapstep": our_step(by_default, Path(folder, "auto")),
            "leapstep, float32": our_step(exact, Path(folder, "float32")),
            "bare step": bare_step(by_default, batch),
            "diffusers": diffusers_step(name, pictures, batch, bench),
        }
        seconds = bench.rounds(runs, seconds=25.0)
    what = f"training, {name} layout, batch {batch}"
    goal = timing.goal(bench.device, 1.8)
    yield seconds.speed(f"{what}, defaults ({by_default.precision})", "leapstep", "diffusers", batch, "images", goal)
    yield seconds.speed(f"{what}, float32", "leapstep, float32", "diffusers", batch, "images")
    yield seconds.speed(f"{what}, defaults ({by_default.precision})", "leapstep", "bare step", batch, "images", 0.97)


def their_trainer(bench):
    """Our trainer against that of denoising-diffusion-pytorch, on a network of that project."""
    try:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from denoising_diffusion_pytorch import Trainer as TheirTrainer
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another PyTorch
        print(f"denoising-diffusion-pytorch is left out: {error}")
        return
    batch, size = bench.least(64, 16), 28
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        pictures = Path(folder, "pictures")
        write_pictures(pictures, (1, size, size), bench.least(PICTURES, 100))
        torch.manual_seed(0)
        net = Unet(dim=bench.least(32, 8), dim_mults=(1, 2, 4), channels=1)
        diffusion = GaussianDiffusion(net, image_size=size, objective="pred_noise", beta_schedule="linear")
        model = lucidrains.read(copy.deepcopy(diffusion.state_dict()), {"image_size": size}).model
        theirs = TheirTrainer(
            diffusion,
            str(pictures),
            train_batch_size=batch,
            augment_horizontal_flip=False,
            train_num_steps=0,
            save_and_sample_every=10**9,
            calculate_fid=False,
        )
        ours = our_trainer("mnist", pictures, batch, bench, start=Start(model, {"source": "memory"}))

        def step():
            theirs.train_num_steps += 1
            theirs.train()

        runs = {"leapstep": our_step(ours, Path(folder, "run")), "denoising-diffusion-pytorch": step}
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            seconds = bench.rounds(runs, seconds=20.0)
    weights = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    what = f"training, Unet of that project ({weights:.1f}M weights, 28x28), batch {batch}, defaults ({ours.precision})"
    yield seconds.speed(what, "leapstep", "denoising-diffusion-pytorch", batch, "images")


CASES = {**{name: partial(trained, name) for name in BATCHES}, "denoising-diffusion-pytorch": their_trainer}


if __name__ == "__main__":
    timing.main(CASES, __doc__)
