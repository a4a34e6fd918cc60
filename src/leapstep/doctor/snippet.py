"""The lines of Python to paste, complete but for what was passed to the doctor.

What was given has the names that it has there, `net`, `data`, `condition` and `counts`; the first line says which of
them are used. The command puts lines that load them in its place (`loaded`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from leapstep.core.convention import Convention
from leapstep.doctor.fits import code, literal
from leapstep.doctor.samples import Samples

DRAWN = 16
"""Samples that the lines draw."""

ARGUMENTS = ("timesteps", "fractional", "reverse", "reshape", "sigma_data", "scaling", "clip", "learned_variance")
"""Fields of a convention that are arguments of `from_network` where they are not at their defaults."""


def snippet(convention: Convention, samples: Samples, standardized: bool, eta: float, device: str) -> str:
    """The lines of Python that sample a network by its convention.

    Arguments:
        convention: complete; where it has an origin, the lines take the mean of the data.
        samples: what the network was asked about.
        standardized: whether each feature or channel of the network's data has a scale of its own, which a convention
            does not hold.
        eta: of DDIM.
        device: where the network computes.
    """
    to_device = f'.to("{device}")' if device != "cpu" else ""
    origin = convention.origin != 0.0
    before = _conditions(samples, to_device) + _values(samples, standardized, origin, to_device)
    parts = [f'predicts="{convention.predicts}"', f'time="{convention.time}"']
    parts += [
        f"{name}={literal(tuple(value) if name == 'scaling' else value)}"
        for name in ARGUMENTS
        if (value := getattr(convention, name)) != getattr(Convention, name)
    ]
    parts += ["condition=given"] if samples.given else []
    call = f"diffusion = leapstep.from_network(net, {', '.join([code(convention.process), *parts])})"
    if len(call) > 100:
        lines = (f"{part}," for part in ("net", code(convention.process), *parts))
        call = "\n    ".join(["diffusion = leapstep.from_network(", *lines]) + "\n)"
    after = ["diffusion = leapstep.clipped(diffusion, lambda x0: torch.where(kept, x0, known))"] * bool(samples.masked)
    if origin:
        mean = "((values - mean) / std).mean(0)" if standardized else "values.mean(0)"
        after.append(f"diffusion = diffusion._replace(origin={mean})")
    options = [f"shape={(DRAWN, *samples.values.shape[1:])}", "steps=20"]
    options += [f"transition=leapstep.ddim(eta={eta:g})"] if eta else []
    options += [f'device="{device}"'] if device != "cpu" else []
    back = "" if not standardized else " * std + mean" if device == "cpu" else ".cpu() * std + mean"
    after.append(f"x0 = leapstep.sample(diffusion, {', '.join(options)}){back}")
    body = "\n".join([*before, *([""] if before else []), call, *after])
    imports = ["import leapstep", *(["import torch"] if re.search(r"\btorch\.", body) else [])]
    plain = re.sub(r"#.*", "", body)
    names = [name for name in ("net", "data", "condition", "counts") if re.search(rf"\b{name}\b(?!=)", plain)]
    return "\n".join([_uses(names), *imports, "", body])


def _uses(names: Sequence[str]) -> str:
    listed = " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
    return f"# {listed}: as you gave {'them' if names[1:] else 'it'} to leapstep.diagnose"


def loaded(code: str, lines: Mapping[str, Sequence[str]]) -> str:
    """The same lines with others after their imports that load what was given, imports of their own first.

    Arguments:
        lines: by the name of what they load, `net` and so on.
    """
    head, body = code.split("\n\n", 1)
    first, *imports = head.split("\n")
    names = re.findall(r"\w+", first.split(":")[0])
    used = list(dict.fromkeys(line for name in lines if name in names for line in lines[name]))
    own = [line for line in used if line.startswith(("import ", "from "))]
    return "\n".join([*dict.fromkeys([*own, *imports]), "", *(line for line in used if line not in own), "", body])


def _conditions(samples: Samples, to_device: str) -> list[str]:
    """The conditions of what is drawn."""
    if samples.given == "function":
        return [f"given = condition(torch.arange({DRAWN}))  # of the first rows of the data"]
    if samples.given == "arrays":
        value = f"torch.as_tensor(value[:{DRAWN}]){to_device}"
        return [f"given = {{name: {value} for name, value in condition.items()}}  # of the first rows of the data"]
    return []


def _values(samples: Samples, standardized: bool, origin: bool, to_device: str) -> list[str]:
    """What is measured of the data, or kept of them.

    Arguments:
        standardized: whether each feature or channel of the network's data has a scale of its own.
        origin: whether samples start around the mean of the data.
        to_device: what moves a tensor to where the network computes.
    """
    if not (samples.masked or standardized or origin):
        return []
    means = "  # best all the training data" if standardized or origin else ""
    lines = [f"values = torch.as_tensor(data).float(){means}"]
    axes = (0, *range(2, samples.values.ndim))
    if samples.masked:
        lines.append("counted = torch.as_tensor(counts).bool()")
    if standardized and samples.masked:
        lines += [
            "inside = torch.where(counted, values, torch.nan)",
            f"mean = inside.nanmean({axes}, keepdim=True)[0]",
            f"std = (inside - mean).square().nanmean({axes}, keepdim=True)[0].sqrt()",
        ]
    elif standardized:
        lines.append(f"mean, std = values.mean({axes}, keepdim=True)[0], values.std({axes}, keepdim=True)[0]")
    if samples.masked:
        first = f"[:{DRAWN}]" if samples.masked == "each" else ""
        known = "((values - mean) / std)" if standardized else "values"
        rows = f"[:{DRAWN}]{to_device}"
        lines.append(f"kept, known = counted{first}{to_device}, {known}{rows}  # where it does not count, the data")
    return lines
