"""`leapstep import`: turn a checkpoint of another project into a run folder."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import options
from leapstep.cli.parsing import SETTINGS
from leapstep.text import one_line

FORMATS = "auto | diffusers | ddim | improved-diffusion | guided-diffusion | lucidrains | score-sde"
"""The names of all formats: a test compares them with the table, which is not imported for a --help."""

EXAMPLES = """**Examples**

`leapstep import ckpt.pth --config cifar10.yml --out runs/cifar10`

`leapstep import ema_0.9999_500000.pt --set image_size=64 --set diffusion_steps=4000 --set noise_schedule=cosine --out
runs/imagenet64`

`leapstep import model-10.pt --from lucidrains --out runs/flowers`
"""


def command(
    file: Annotated[Path, typer.Argument(help="A safetensors file, a torch pickle, or a diffusers folder.")],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    form: Annotated[str, typer.Option("--from", help=FORMATS)] = "auto",
    config: Annotated[
        Path | None,
        typer.Option(
            help="Configuration that the weights do not determine: that project's own YAML or JSON, or"
            " a text file of its flags."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar=SETTINGS, help="Single values of that configuration, such as data.image_size=32."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an imported model in the folder.")] = False,
) -> dict[str, Any]:
    """Turn a checkpoint of another project into a run folder, and say what was concluded from what."""
    import dataclasses

    from leapstep.models import folder

    given = _file(config) if config else {}
    names = [_set(given, text) for text in setting or []]
    options.check_free(out, overwrite, folder.IMPORTED)
    from leapstep.models import checkpoint
    from leapstep.models import importers as foreign

    model, evidence = foreign.load(file, form, given, names)
    record = {"imported": {"file": file.name, "sha256": _digest(file), "evidence": list(evidence)}}
    model = dataclasses.replace(model, details={**model.details, **record})
    options.claim(out, overwrite, folder.IMPORTED, record)
    checkpoint.save(model, out)
    for line in evidence:
        typer.echo(line)
    typer.echo(f"imported into {out}: leapstep sample {out} --out samples")
    return {"out": out, **record["imported"]}


def _file(path: Path) -> dict[str, Any]:
    """The settings in a file: JSON, YAML, or flags as on a command line."""
    from leapstep.files.reading import parse_json, parse_yaml, read_text

    try:
        text = read_text(path)
        if path.suffix == ".json":  # YAML takes 1e-05 for a text
            value = parse_json(text, str(path))
        else:
            value = _flags(text) if text.lstrip().startswith("--") else parse_yaml(text, str(path))
    except FileNotFoundError as error:
        raise ValueError(f"there is no configuration {path}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not YAML, JSON or flags ({error}): remove what is not plain values") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__} where settings by name are expected")
    return value


def _flags(text: str) -> dict[str, Any]:
    """Settings from `--name value --name value` or `--name=value`."""
    from leapstep.files.reading import parse_yaml

    words = shlex.split(text.replace("=", " "))
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError("flags must be pairs, --name value --name value")
    return {name.lstrip("-"): parse_yaml(value, name) for name, value in zip(words[::2], words[1::2], strict=True)}


def _set(given: dict[str, Any], text: str) -> str:
    """Put one NAME=VALUE, whose name may be dotted, among the settings; return the name."""
    from leapstep.files.reading import parse_yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set {text}: write it as NAME=VALUE")
    *sections, last = name.split(".")
    for section in sections:
        inner = given.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {text}: {section} is not a section, it is {inner}")
        given = inner
    given[last] = parse_yaml(value, f"--set {one_line(text, 60)}")
    return name


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None for a folder."""
    if path.is_dir():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
