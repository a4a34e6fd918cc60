"""Models with random weights: enough wherever what counts is that numbers and pictures are the ones asked for."""

import torch

import leapstep
from leapstep.models import checkpoint

CLASSES = ("ant", "bee", "cat")


def saved(path, network, **options):
    """A model whose weights are random but small, so that its flow is smooth."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    options = {"process": leapstep.linear(40), "predicts": "v", "clip": None} | options
    checkpoint.save(path, leapstep.Model(network, **options))
    return path
