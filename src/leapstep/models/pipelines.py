"""Pipelines of diffusers that are not run folders, and the lines of Python that sample their networks.

A `Model` is a network of pixels or values and a scheduler. A latent pipeline has more: an autoencoder around the
network, and something that makes its conditions. What leapstep samples of it is the network alone, by `from_network`,
on latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from leapstep.files.reading import read_json
from leapstep.text import one_line


class Pipeline(NamedTuple):
    """A kind of pipeline.

    Attributes:
        says: what it is.
        lines: Python that samples `pipe`, such a pipeline, with leapstep.
    """

    says: str
    lines: str


SCHEDULED = """
known = leapstep.models.diffusers.from_scheduler(pipe.scheduler.config)"""

DRAWN = """
latents = leapstep.sample(diffusion, (1, net.config.in_channels, *[net.config.sample_size] * 2), steps=20)
images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample"""
"""What the kinds have in common: the first line where a scheduler has betas, and the last of square latents."""

KINDS = {
    "DiTTransformer2DModel": Pipeline(
        "a transformer on the latents of an autoencoder, told a class",
        SCHEDULED
        + """
net, classes = pipe.transformer, torch.tensor([0])
condition, null = {'class_labels': classes}, {'class_labels': net.config.num_embeds_ada_norm}
diffusion = leapstep.from_network(net, known.process, known.predicts, condition=condition, null=null, guidance=4.0)"""
        + DRAWN,
    ),
    "UNet2DConditionModel": Pipeline(
        "a U-Net on the latents of an autoencoder, told a text",
        SCHEDULED
        + """
net, (text, free) = pipe.unet, pipe.encode_prompt('a photo', 'cpu', 1, True)[:2]
condition, null = {'encoder_hidden_states': text}, {'encoder_hidden_states': free}
diffusion = leapstep.from_network(net, known.process, known.predicts, condition=condition, null=null, guidance=7.5)"""
        + DRAWN,
    ),
    "StableDiffusionXLPipeline": Pipeline(
        "a U-Net on the latents of an autoencoder, told a text by two encoders, and sizes",
        SCHEDULED
        + """
net, (text, free, pooled, none) = pipe.unet, pipe.encode_prompt('a photo')
side = 8 * net.config.sample_size
told = lambda pooled: {'text_embeds': pooled, 'time_ids': torch.tensor([[side, side, 0, 0, side, side]] * len(pooled))}
call = lambda x, t, text, pooled: net(x, t, text, added_cond_kwargs=told(pooled))
condition, null = {'text': text, 'pooled': pooled}, {'text': free, 'pooled': none}
diffusion = leapstep.from_network(call, known.process, known.predicts, condition=condition, null=null, guidance=5.0)"""
        + DRAWN,
    ),
    "SD3Transformer2DModel": Pipeline(
        "a transformer on the latents of an autoencoder that predicts a flow's velocity, told a text",
        """
net, (text, free, pooled, none) = pipe.transformer, pipe.encode_prompt('a photo', None, None)
condition = {'encoder_hidden_states': text, 'pooled_projections': pooled}
null = {'encoder_hidden_states': free, 'pooled_projections': none}
call = lambda x, t, **given: net(x, timestep=t, **given)
options = {'condition': condition, 'null': null, 'guidance': 7.0}
diffusion = leapstep.from_network(call, leapstep.flow(), 'flow', '1000t', **options)
shift, even = pipe.scheduler.config.shift, torch.linspace(1, 0, 29)
times = shift * even / (1 + (shift - 1) * even)
latents = leapstep.sample(diffusion, (1, net.config.in_channels, *[net.config.sample_size] * 2), times)
images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample""",
    ),
}
"""By the class of the pipeline, where it calls its network in a way of its own, or of the network."""

OTHERS = Pipeline(
    "of which leapstep does not know how it is called",
    """
diffusion = leapstep.from_network(NETWORK, PROCESS, predicts=PREDICTION, condition={...})
latents = leapstep.sample(diffusion, SHAPE, steps=20)""",
)


def refuse(folder: Path, source: str) -> None:
    """Tell what a pipeline folder is that is no model of pixels or values, and how its network is sampled.

    Arguments:
        folder: any folder.
        source: what the user calls it: this folder, or a name on the Hub.
    Raises:
        ValueError: it is such a folder, or its `model_index.json` is not JSON.
    """
    path = folder / "model_index.json"
    index = read_json(path) if path.is_file() else None
    if not isinstance(index, Mapping):
        return
    parts = {name: str(of[1]) for name, of in index.items() if isinstance(of, list) and len(of) == 2 and of[1]}
    network = parts.get("unet", parts.get("transformer", ""))
    others = sorted(name for name in parts if name not in ("unet", "scheduler"))
    if not others and network not in KINDS:
        return
    name = str(index.get("_class_name"))
    kind = KINDS.get(name, KINDS.get(network, OTHERS))
    lines = [
        "import diffusers, leapstep, torch",
        "torch.set_grad_enabled(False)",
        f"pipe = diffusers.DiffusionPipeline.from_pretrained({source!r})",
        *kind.lines.split("\n")[1:],
    ]
    raise ValueError(
        f"{source} is a pipeline of another kind, {one_line(name, 60)}: {kind.says}, with "
        f"{one_line(', '.join(others), 200) or network}. Commands take a unet of pixels and a scheduler; its network "
        f"is sampled from Python (docs/checkpoints.md): {'; '.join(lines)}"
    )
