"""Models with random weights: enough wherever what counts is that numbers and pictures are the ones asked for."""

import dataclasses

import torch

import leapstep
from leapstep import Condition, Convention
from leapstep.core.scaling import PIXELS
from leapstep.models import checkpoint

CLASSES = ("ant", "bee", "cat")


def model_of(
    network,
    process,
    predicts="eps",
    shape=(),
    scaling=PIXELS,
    clip=(-1.0, 1.0),
    classes=(),
    null_label=None,
    details=None,
    **fields,
):
    """A model by what matters to a test; the clip is in model space, and fields are of `Convention`."""
    labels = (Condition("class_labels", classes, null_label),) if classes else ()
    convention = Convention(process, predicts, clip=clip, conditions=labels, shape=shape, **fields)
    return leapstep.Model(network, convention.scaled(scaling), details or {})


def changed(model, **changes):
    """The same model with other fields of its convention, the clip in model space, or with other labels."""
    labels = model.labels
    if {"classes", "null_label"} & set(changes):
        classes = changes.pop("classes", model.classes)
        null = changes.pop("null_label", model.null_label)
        changes["conditions"] = (dataclasses.replace(labels, classes=classes, null=null),) if classes else ()
    inner = dataclasses.replace(model.convention.inner(), **changes)
    return dataclasses.replace(model, convention=inner.scaled(model.scaling))


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
    checkpoint.save(model_of(small(network), **options), path)
    return path
