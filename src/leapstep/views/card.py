"""The model card of a published model: README.md with the Hub's metadata, in Markdown.

Names of data, classes and files come from elsewhere. They are escaped so that they are shown as they are: no name can
become a link, a picture, HTML, a row of a table or a line of metadata.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from leapstep.evaluation.cells import LESS_IS_BETTER, NAMES, shown
from leapstep.evaluation.results import Comparison
from leapstep.models.description import describe
from leapstep.models.model import Model
from leapstep.text import duration, one_line, short

PICTURE = "samples.png"
"""The name of the picture of samples beside the card."""


class Card(NamedTuple):
    """What a card is about.

    Attributes:
        repo: `user/name`.
        model: with details that others may read.
        in_diffusers: whether `DDPMPipeline` opens the folder.
        license: an identifier of the Hub; None: not stated.
        datasets: names of data sets on the Hub.
        pictured: whether there is a picture of samples.
        measured: results of evaluations of these weights.
    """

    repo: str
    model: Model
    in_diffusers: bool
    license: str | None = None
    datasets: Sequence[str] = ()
    pictured: bool = False
    measured: Comparison | None = None


def escaped(value: Any) -> str:
    """A text as Markdown that shows it in one line, and does nothing."""
    text = html.escape(one_line(str(value)), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$:@/])", r"\\\1", text)


def written(card: Card) -> str:
    """The card as Markdown."""
    parts = [_metadata(card), f"# {escaped(card.repo.rpartition('/')[2])}", _lead(card)]
    if card.pictured:
        parts.append(f"![Samples, drawn while it was trained]({PICTURE})")
    parts += ["## Sample", _sampling(card), "## The model", _table(_facts(card.model))]
    if training := dict(_training(card.model.details)):
        parts += ["## Training", _table(training)]
    if card.measured is not None:
        parts += ["## Quality", _quality(card.measured)]
    parts += ["## License", _license(card.license)]
    return "\n\n".join(parts) + "\n"


def _metadata(card: Card) -> str:
    tags = ["leapstep", "diffusion", *(["ddpm"] if card.in_diffusers else [])]
    tags += ["image-generation"] * card.model.is_pictures
    values: dict[str, Any] = {"library_name": "diffusers" if card.in_diffusers else "leapstep", "tags": tags}
    if card.model.is_pictures and not card.model.classes:
        values["pipeline_tag"] = "unconditional-image-generation"
    if card.license is not None:
        values["license"] = card.license
    if card.datasets:
        values["datasets"] = list(card.datasets)
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _lead(card: Card) -> str:
    model = card.model
    kind = "pictures" if model.is_pictures else "samples"
    shape = escaped("x".join(map(str, model.shape)))
    of = f" of {len(model.classes)} classes" if model.classes else ""
    source = (model.details.get("data") or {}).get("source")
    trained = f", trained on {escaped(source)}" if source else ""
    return (
        f"A diffusion model that draws {kind} of shape {shape}{of}{trained}. It was published with leapstep, which "
        "samples it in few network calls."
    )


def _sampling(card: Card) -> str:
    label = " --label 0" if card.model.classes else ""
    guided = " --guidance 2" if card.model.classes and card.model.null_label is not None else ""
    method = " --method auto" if card.model.tuned is not None else ""
    blocks = [
        "With leapstep:",
        f"```sh\nleapstep sample {card.repo}{label}{guided}{method} --out samples\n```",
        f'```python\nimport leapstep\n\nmodel = leapstep.load("{card.repo}")\n```',
    ]
    if card.in_diffusers and not card.model.classes:
        blocks += [
            "With diffusers:",
            "```python\nfrom diffusers import DDPMPipeline\n\n"
            f'pipeline = DDPMPipeline.from_pretrained("{card.repo}")\npipeline(batch_size=4).images\n```',
        ]
    elif card.in_diffusers:
        blocks += [
            "diffusers opens the network and the schedule; its `DDPMPipeline` passes no labels, which it takes:",
            "```python\nfrom diffusers import DDPMScheduler, UNet2DModel\n\n"
            f'unet = UNet2DModel.from_pretrained("{card.repo}", subfolder="unet")\n'
            f'scheduler = DDPMScheduler.from_pretrained("{card.repo}", subfolder="scheduler")\n```',
        ]
    return "\n\n".join(blocks)


def _facts(model: Model) -> Mapping[str, Any]:
    said = describe(model)
    names = (
        "network",
        "weights",
        "sample_shape",
        "predicts",
        "noise_schedule",
        "noise_levels",
        "classes",
        "trained_on",
    )
    more = ("trained_steps", "began_with", "distilled_for", "teacher", "imported_from", "weights_sha256")
    facts = {name.replace("_", " "): said[name] for name in (*names, *more) if name in said}
    if isinstance(facts.get("weights"), int):
        facts["weights"] = f"{facts['weights']:,}"
    return facts


def _training(details: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from (details.get("training") or details.get("distillation") or {}).items()
    if details.get("seconds"):
        yield "took", duration(details["seconds"])
    losses = details.get("losses") or {}
    for name, when in (("last", "at the end"), ("least", "at its least")):
        if name in losses:
            one = losses[name]
            yield f"loss on held-out data {when}", f"{short(one['held_out'])} after step {one['step']:,}"


def _table(values: Mapping[str, Any]) -> str:
    lines = ["| | |", "| --- | --- |"]
    for name, value in values.items():
        if value is None or isinstance(value, Mapping):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        lines.append(f"| {escaped(name)} | {escaped(text)} |")
    return "\n".join(lines)


def _quality(compared: Comparison) -> str:
    names = [name for name in NAMES if any(name in row["metrics"] for row in compared.rows)]
    heads = [f"{NAMES[name]} ({'less' if name in LESS_IS_BETTER else 'more'} is better)" for name in names]
    lines = ["| method | steps | calls |" + "".join(f" {head} |" for head in heads), "|" + " --- |" * (3 + len(heads))]
    for row in compared.rows:
        mark = f" ({row['mark']})" if row["mark"] else ""
        values = [shown(row, name) if name in row["metrics"] else "" for name in names]
        cells = [f"{row.get('label', '')}{mark}", row.get("steps", ""), row.get("calls", ""), *values]
        lines.append("| " + " | ".join(escaped(cell) for cell in cells) + " |")
    conditions = compared.rows[0]["conditions"]
    told = ", ".join(f"{name} {value}" for name, value in conditions.items() if isinstance(value, str | int))
    notes = [f"\nMeasured with leapstep, ± is half of a 95 % interval. Conditions: {escaped(told)}"]
    notes += [f"\n{escaped(note)}" for note in compared.notes]
    return "\n".join(lines + notes)


def _license(name: str | None) -> str:
    if name is None:
        return "None was stated: ask the author before you use the model."
    return f"{escaped(name)}, for the weights and the other files here."
