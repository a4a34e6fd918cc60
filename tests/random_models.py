"""Models with random weights: enough wherever what counts is that numbers and pictures are the ones asked for."""

import torch

import leapstep
from leapstep.models import checkpoint

CLASSES = ("ant", "bee", "cat")


def filled(network, seed=0):
    """Give every parameter a random value, so that none hides behind an initial zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * fan_in**-0.5 + 0.5 * (parameter.ndim < 2)
            )
    return network.eval()


def small(network):
    """Give the layers that begin as zeros small random values, so that the flow of the network is smooth."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return network


def saved(path, network, **options):
    """The folder of a model with small random weights."""
    options = {"process": leapstep.linear(40), "predicts": "v", "clip": None} | options
    checkpoint.save(path, leapstep.Model(small(network), **options))
    return path
