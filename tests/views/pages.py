"""What the tests of the page share: its reader, its model, a sweep beside it, and the same numbers by the library."""

import base64
import io
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import torch
from PIL import Image

import leapstep
from leapstep.evaluation.page import Plan
from leapstep.evaluation.page.extent import WHOLE
from leapstep.inference.spec import SamplingSpec

HOSTILE = "<img src=x onerror=alert(1)>\"' $x_1$ `id`"
CLASSES = ("ant", "-bee", HOSTILE)


def write_sweep(path, weights, **changes):
    """What `leapstep sweep` leaves: two methods in two numbers of steps."""
    path.mkdir()
    cells = [
        {
            "method": method,
            "options": options,
            "label": label,
            "steps": steps,
            "spacing": "trailing",
            "calls": calls * steps,
            "seconds": 2.5 * steps,
            "n": 500,
            "metrics": {"frechet": {"value": value / steps, "low": value / steps - 0.02, "high": value / steps + 0.02}},
        }
        for steps in (5, 10)
        for method, options, label, calls, value in (
            ("ddim", {"eta": 0.5}, f"ddim, η = 0.5 {HOSTILE}", 1, 3.0),
            ("ddpm", {"variance": "beta"}, "_ddpm, σ̂", 1, 30.0),
            ("heun", {}, "heun", 2, 2.0),
        )
    ]
    content = {"finished": True, "model": "m", "conditions": {"model_sha256": weights, "n": 500, "features": HOSTILE}}
    content |= {"cells": cells, "metric": "frechet", "advice": [f"best for 5 calls: {HOSTILE}"]} | changes
    (path / "results.json").write_text(json.dumps(content))
    return path


def planned(n=None, extent=WHOLE, **fields):
    """A plan of a page with these fields of a specification."""
    return Plan(SamplingSpec(**fields), n, extent)


STEPS = 7
SEED = 5


class Reader(HTMLParser):
    """All tags, the text, and the commands of a page."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.commands, self.inside = [], "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "pre":
            self.commands.append("")

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.inside and "script" not in self.inside:
            self.text += data
        if "code" in self.inside:
            self.commands[-1] += data

    def all(self, tag, **given):
        return [found for name, found in self.tags if name == tag and given.items() <= found.items()]


def decoded(uri):
    """The pixels of a data URI, with an alpha channel."""
    png = base64.b64decode(re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", uri)[1])
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def tiles(pixels, frames, side, columns, n):
    """The pictures of a sprite, [frames, n, side, side], and whether all around them is transparent."""
    gap = 1
    canvas = pixels.reshape(frames, -1, side + gap, columns, side + gap, 4)
    found = np.stack([canvas[:, i // columns, :side, i % columns, :side, 0] for i in range(n)], 1)
    opaque = (canvas[..., 3] == 255).sum()
    return found, opaque == frames * n * side**2


def drawn(model, n, steps, seed=SEED, transition=None):
    """Samples by the library, the classes in turn."""
    diffusion = model.diffusion(torch.arange(n) % 3)
    return leapstep.sample(diffusion, (n, *model.shape), steps, transition, seed=seed)


def unrolled(command):
    """The command lines that a shell makes of one on the page."""
    if (loop := re.fullmatch(r"for (\w+) in (.*); do (.*); done", command)) is None:
        return [shlex.split(command)]
    name, values, body = loop.groups()
    return [[part.replace(f"${name}", value) for part in shlex.split(body)] for value in shlex.split(values)]


def lines(read):
    return [line for command in read.commands for line in unrolled(command) if line[0] == "leapstep"]
