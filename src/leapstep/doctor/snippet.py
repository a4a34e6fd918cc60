"""The lines of Python to paste, complete but for what was passed to the doctor.

What was given has the names that it has there, `net`, `data`, `condition` and `counts`; the first line says which of
them are used. The command puts lines that load them in its place (`loaded`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from leapstep.doctor.conventions import family
from leapstep.doctor.refinement import Candidate
from leapstep.doctor.samples import Samples
from leapstep.doctor.warp import Told

DRAWN = 16
"""Samples that the lines draw."""


class Sampling(NamedTuple):
    """How samples are drawn.

    Attributes:
        origin: whether they start around the mean of the data.
        eta: of DDIM.
        device: where the network computes.
    """

    origin: bool
    eta: float
    device: str


def snippet(winner: Candidate, arguments: Mapping[str, Any], samples: Samples, sampling: Sampling) -> str:
    """The lines of Python that sample a network as it was found to be.

    Arguments:
        arguments: of `from_network`, see `arguments_of`.
        samples: what the network was asked about.
    """
    span, process = winner.trial.range, _process(winner)
    scaled = isinstance(span.scale, Tensor)
    before = _given(samples, sampling) + _values(samples, sampling, scaled)
    parts = [f"{name}={_literal(value)}" for name, value in arguments.items() if name != "clip" or not samples.masked]
    parts += ["condition=given"] if samples.given else []
    if samples.masked:
        bounded = f"x0.clamp{_literal(arguments['clip'])}" if "clip" in arguments else "x0"
        parts.append(f"clip=lambda x0: torch.where(kept, {bounded}, held)")
    call = f"diffusion = leapstep.from_network(net, {process}, {', '.join(parts)})"
    if len(call) > 100:
        call = "\n    ".join(["diffusion = leapstep.from_network(", *(f"{part}," for part in ("net", process, *parts))])
        call += "\n)"
    after = []
    if sampling.origin:
        mean = "((values - mean) / std).mean(0)" if scaled else "values.mean(0)"
        after.append(f"diffusion = diffusion._replace(origin={mean})")
    options = [f"shape={(DRAWN, *samples.values.shape[1:])}", "steps=20"]
    options += [f"transition=leapstep.ddim(eta={sampling.eta:g})"] if sampling.eta else []
    options += [f'device="{sampling.device}"'] if sampling.device != "cpu" else []
    back = "" if not scaled else " * std + mean" if sampling.device == "cpu" else ".cpu() * std + mean"
    after.append(f"x0 = leapstep.sample(diffusion, {', '.join(options)}){back}")
    body = "\n".join([*before, *([""] if before else []), call, *after])
    imports = ["import leapstep", *(f"import {name}" for name in ("numpy", "torch") if re.search(rf"\b{name}\.", body))]
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


def _process(winner: Candidate) -> str:
    """The schedule in Python."""
    if winner.levels is None:
        return winner.fits[0].code
    kind = family(winner.fits[0].route.schedule)
    return f"leapstep.from_log_snr({winner.levels}{'' if kind == 'vp' else f', family={kind!r}'})"


def _given(samples: Samples, sampling: Sampling) -> list[str]:
    """The conditions of what is drawn."""
    moved = f'.to("{sampling.device}")' if sampling.device != "cpu" else ""
    if samples.given == "function":
        return [f"given = condition(torch.arange({DRAWN}))  # of the first rows of the data"]
    if samples.given == "arrays":
        value = f"torch.as_tensor(value[:{DRAWN}]){moved}"
        return [f"given = {{name: {value} for name, value in condition.items()}}  # of the first rows of the data"]
    return []


def _values(samples: Samples, sampling: Sampling, scaled: bool) -> list[str]:
    """What is measured of the data, or kept of them."""
    if not (samples.masked or scaled or sampling.origin):
        return []
    means = "  # best all the training data" if scaled or sampling.origin else ""
    lines = [f"values = torch.as_tensor(data).float(){means}"]
    axes = (0, *range(2, samples.values.ndim))
    if samples.masked:
        lines.append("counted = torch.as_tensor(counts).bool()")
        if scaled:
            lines.append("known = torch.where(counted, values, torch.nan)")
    if scaled and samples.masked:
        lines += [
            f"mean = known.nanmean({axes}, keepdim=True)[0]",
            f"std = (known - mean).square().nanmean({axes}, keepdim=True)[0].sqrt()",
        ]
    elif scaled:
        lines.append(f"mean, std = values.mean({axes}, keepdim=True)[0], values.std({axes}, keepdim=True)[0]")
    if samples.masked:
        moved = f'.to("{sampling.device}")' if sampling.device != "cpu" else ""
        first = f"[:{DRAWN}]" if samples.masked == "each" else ""
        held = "((values - mean) / std)" if scaled else "values"
        lines.append(
            f"kept, held = counted{first}{moved}, {held}[:{DRAWN}]{moved}  # where it does not count, the data"
        )
    return lines


def _literal(value: Any) -> str:
    if isinstance(value, Told):
        return str(value)
    if isinstance(value, tuple):
        return f"({', '.join(f'{each:.6g}' for each in value)})"
    return f'"{value}"' if isinstance(value, str) else repr(value)
