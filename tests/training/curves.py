"""The loss curves of short runs, written by the first of the processes that run this: curves.py OUT KIND ..."""

import json
import sys
from unittest import mock

import torch

from leapstep.networks import MLP
from leapstep.training import Distiller, Trainer, trainer
from leapstep.training.configuration import DistillationConfig, configure
from random_models import model_of

STEPS = 3
COMPARED = 32
"""Samples whose loss is compared: for each call of a sharded network its processes wait for each other 25 times."""
SHAPED = {"channels": (8, 8), "attention": (False, True), "blocks": 1, "groups": 4, "batch_size": 16, "warmup": 2}
DEVICE = "cpu" if torch.accelerator.is_available() else None
"""No device is named where there is only one: processes without GPUs must train together then, too."""
ASKED = {**SHAPED, "labels": True, "flip": True, "precision": "float32"}


def learner(kind):
    """A run of one kind, as it begins."""
    if kind == "student":
        import leapstep

        torch.manual_seed(0)
        network = MLP(shape=(3,), width=16, depth=1)
        torch.nn.init.normal_(network.linear_out.weight, std=0.1)
        teacher = model_of(network, leapstep.cosine(20), "v", (3,))
        config = DistillationConfig(calls=2, batch_size=16, teacher_steps=4, accumulate=2, precision="float32")
        return Distiller(config, teacher, device=DEVICE, progress=False)
    parts = {"whole": {}, "parts": {"accumulate": 2}, "sharded": {"fsdp": True, "accumulate": 2}}[kind]
    return Trainer(configure({**ASKED, **parts}), "digits", device=DEVICE, progress=False)


def curve(run):
    """The losses of each sample, step by step, [STEPS, b]; the norms of the gradients; what the average loses."""
    results, compared = [], []
    with mock.patch.object(trainer, "COMPARED", COMPARED):
        for _ in range(STEPS):
            compared.append(list(run.compare().values()) if run.calls_average else [])
            results.append(run.advance())
    losses, norms = ([result[name] for result in results] for name in ("losses", "gradient_norm"))
    return [loss.tolist() for loss in losses], norms, compared


if __name__ == "__main__":
    torch.set_num_threads(1)
    said = {}
    for name in sys.argv[2:]:
        run = learner(name)
        said[name] = curve(run)
    if run.accelerator.is_main_process:
        with open(sys.argv[1], "w") as file:
            json.dump(said, file)
