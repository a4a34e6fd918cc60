"""A diagnosis as people read it: text for the terminal, and one HTML file with figures.

What contradicts the reader comes first, then what was found and how sure it is, what is wrong and its cure, how well
the network denoises, whether sampling stays with the data, and the lines to paste.
"""

from __future__ import annotations

import html as markup
import math
import re
import textwrap
from collections.abc import Iterable, Sequence

from leapstep.doctor import figures
from leapstep.doctor.diagnosis import IGNORED, Concern, Diagnosis, Finding, Level
from leapstep.doctor.health import GAIN, follows
from leapstep.text import clean
from leapstep.views import plots

WEIGHTS = {3: "spoils every sample", 2: "costs quality", 1: "worth knowing"}
"""What the weight of a concern says."""

NOUNS = {"predicts": "prediction"}
"""What a finding is called in a sentence, where that is not its name."""

ASCII = str.maketrans({"●": "*", "◐": "~", "○": "o", "◉": "@", "│": "|", "→": "->", "✗": "x"})
"""What stands for the marks of the text where a terminal has none of them."""

ROWS = 14
"""How many noise levels a table shows at most."""

ERRORS = "Mean squared error of x0, over the variance of the data: 1 is no better than their mean."


# --- what both say -------------------------------------------------------------------------------------------------


def verdict(diagnosis: Diagnosis) -> str:
    """The whole of it in one or two sentences."""
    if wrong := len(diagnosis.contradictions):
        return f"{_counted(wrong, 'thing')} that you assumed {'does' if wrong == 1 else 'do'} not hold."
    if any(finding.value == IGNORED for finding in diagnosis.findings):
        return "The network ignores its timestep: does your wrapper pass it on?"
    if _chance(diagnosis):
        return "Nothing that was tried fits: the network may be untrained, or the data not its own."
    doubts, likely = (
        [NOUNS.get(finding.name, finding.name) for finding in diagnosis.findings if finding.confidence == word]
        for word in ("unsure", "likely")
    )
    grave = sum(concern.weight >= 3 for concern in diagnosis.concerns)
    said = "The convention is clear."
    if doubts:
        said = f"Not sure of the {_listed(doubts)}."
    elif likely:
        said = f"The convention is clear but for the {_listed(likely)}, which {'are' if likely[1:] else 'is'} likely."
    if grave:
        return f"{said} {_counted(grave, 'thing')} {'spoils' if grave == 1 else 'spoil'} every sample."
    if diagnosis.passages and not diagnosis.concerns:
        return f"{said} " + ("Samples follow the data." if diagnosis.parted is None else "Samples leave the data.")
    return f"{said} {_counted(len(diagnosis.concerns), 'concern')}." if diagnosis.concerns else said


def _chance(diagnosis: Diagnosis) -> bool:
    """Whether the network is unsure in what matters most, and nowhere better than a linear denoiser as it was read."""
    words = {finding.name: finding.confidence for finding in diagnosis.findings}
    ratios = [level.error / max(level.linear, 1e-300) for level in diagnosis.levels]
    return words.get("range") == words.get("predicts") == "unsure" and min(ratios, default=0.0) > GAIN


def _paste(diagnosis: Diagnosis) -> str:
    """The heading of the lines of Python."""
    words = {finding.name: finding.confidence for finding in diagnosis.findings}
    unsure = [NOUNS.get(name, name) for name in ("range", "predicts") if words.get(name) == "unsure"]
    return f"To paste, but a guess: not sure of the {_listed(unsure)}" if unsure else "To paste"


def sampled(diagnosis: Diagnosis) -> str:
    """Whether sampling stays with the data, in one or two sentences with their numbers."""
    if not diagnosis.passages:
        return "Sampling was not checked."
    end = diagnosis.passages[-1]
    numbers = (
        f"their spread is {_short(end.spread)} of the data's, their mean {_short(end.mean)} standard deviations away, "
        f"their shape off by {_short(end.shape)}, where up to {_short(follows(end.luck))} counts as following and luck "
        f"alone makes {_short(end.luck)}"
    )
    if diagnosis.parted is None:
        which = f"Samples with eta = {diagnosis.eta:g}" if diagnosis.eta else "Samples"
        return f"{which} follow the data from noise to the end: there {numbers}."
    place = next((each for each in diagnosis.passages if each.t <= diagnosis.parted), end)
    said = f"Samples part from the data at t = {_short(diagnosis.parted)}: {', '.join(place.failed())}."
    return said if place is end else f"{said} At the end: {', '.join(end.failed())}."


def errors(diagnosis: Diagnosis) -> str:
    """What the errors are, and where they are measured."""
    if diagnosis.counted is None:
        return ERRORS
    share = f"{100 * diagnosis.counted:.3g} %"
    return f"{ERRORS} They are measured where the mask says that the answer counts, in {share} of the values."


def effort(diagnosis: Diagnosis) -> str:
    """What it took, and what there was no time for."""
    took = f"{diagnosis.calls:,} samples went through the network, in {diagnosis.seconds:.3g} s."
    if not diagnosis.cuts:
        return took
    return f"{took} For want of time {_listed(diagnosis.cuts)}: with a larger budget more is sure."


def _ordered(concerns: Sequence[Concern]) -> list[Concern]:
    return sorted(concerns, key=lambda concern: -concern.weight)


def _next_best(finding: Finding) -> str:
    """What else it may be, where that is open."""
    return "" if finding.confidence == "sure" or not finding.runner_up else f"The next best is {finding.runner_up}."


def _shown(levels: Sequence[Level]) -> list[Level]:
    """Some of the levels, evenly chosen, the first and the last among them."""
    count = min(ROWS, len(levels))
    return [levels[round(i * (len(levels) - 1) / max(1, count - 1))] for i in range(count)]


def _counted(number: int, what: str) -> str:
    words = {1: "One", 2: "Two", 3: "Three", 4: "Four"}
    return f"{words.get(number, number)} {what}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def _short(value: float) -> str:
    """A number as a reader wants it: two or three digits, no exponent where it can be avoided."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "nan"
    if 100 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"


def _sentence(said: str) -> str:
    """With a capital, where it begins with a word and no symbol, and with a full stop."""
    said = said.strip()
    first = said.split(maxsplit=1)[0].rstrip(",:") if said else ""
    if len(first) > 1 and re.fullmatch("[a-z]+", first) and first != "eps":
        said = said[0].upper() + said[1:]
    return said if not said or said[-1] in ".!?" else f"{said}."


# --- text ----------------------------------------------------------------------------------------------------------


def text(diagnosis: Diagnosis, width: int = 100) -> str:
    """Write a diagnosis for a terminal, without colours.

    Arguments:
        width: of the lines, in characters; lines of Python are never broken.
    Returns:
        the text, without a last line break.
    """
    width = max(40, width)
    parts = [_wrapped(verdict(diagnosis), width)]
    if diagnosis.contradictions:
        lines = [_wrapped(_sentence(said), width, "  ✗ ") for said in diagnosis.contradictions]
        parts.append("\n".join(["WHAT YOU ASSUMED, AND WHAT SPEAKS AGAINST IT", *lines]))
    if diagnosis.findings:
        parts.append("\n".join(["WHAT THE NETWORK IS", *_findings(diagnosis.findings, width)]))
    if diagnosis.concerns:
        parts.append("\n".join(["WHAT IS WRONG, OR MAY BE", *_concerns(diagnosis.concerns, width)]))
    if diagnosis.levels:
        lines = [
            "HOW WELL IT DENOISES",
            _wrapped(errors(diagnosis), width, "  "),
            *_levels(_shown(diagnosis.levels), width),
        ]
        parts.append("\n".join(lines))
    parts.append("\n".join(["WHETHER SAMPLES FOLLOW THE DATA", _wrapped(sampled(diagnosis), width, "  ")]))
    parts.append(_wrapped(effort(diagnosis), width))
    if diagnosis.code.strip():  # last, so that whoever copies to the end copies Python alone
        code = [_printable(line) for line in diagnosis.code.strip("\n").splitlines()]
        parts.append("\n".join([_paste(diagnosis).upper(), "", *code]))
    return "\n\n".join(parts)


def _findings(findings: Iterable[Finding], width: int) -> list[str]:
    """The name, how sure it is, and the value; below, what else it may be, and the evidence."""
    findings = list(findings)
    first = max(len(_printable(finding.name)) for finding in findings) + 2
    lines = []
    for finding in findings:
        mark = {"sure": "●", "likely": "◐"}.get(finding.confidence, "○")
        head = f"  {_printable(finding.name):<{first}}{mark} {_printable(finding.confidence):<8}"
        lines.append(_wrapped(finding.value, width, head))
        if after := _next_best(finding):
            lines.append(_wrapped(after, width, " " * len(head)))
        if finding.evidence:
            lines.append(_wrapped(_sentence(finding.evidence), width, " " * len(head)))
    return lines


def _concerns(concerns: Sequence[Concern], width: int) -> list[str]:
    lines = []
    for number, concern in enumerate(_ordered(concerns), start=1):
        weight = WEIGHTS.get(concern.weight, WEIGHTS[1])
        lines += [f"  {number}. {weight.capitalize()}.", _wrapped(_sentence(concern.what), width, "     ")]
        if concern.cure:
            lines.append(_wrapped(_sentence(concern.cure), width, "     → "))
    return lines


def _levels(levels: Sequence[Level], width: int) -> list[str]:
    """A table, and on the right the network and the linear denoiser as dots on a logarithmic track."""
    room = min(width - 44, 46)
    track = _Track([value for level in levels for value in (level.error, level.linear)], room) if room >= 16 else None
    heads = f"  {'timestep':>10}{'log-SNR':>10}{'network':>10}{'linear':>10}"
    lines = [heads + (f"  {track.scale}".rstrip() if track else "")]
    for level in levels:
        cells = (level.timestep, level.log_snr, level.error, level.linear)
        row = "  " + "".join(f"{_short(value):>10}" for value in cells)
        lines.append(row + (f"  {track.row(level)}".rstrip() if track else ""))
    if track:
        lines.append(_wrapped("● the network   ○ the best linear denoiser   ◉ both   │ 1, the mean", width, " " * 12))
    return lines


class _Track:
    """A logarithmic axis in characters, from a power of ten to another, with 1 on it."""

    def __init__(self, values: Sequence[float], width: int) -> None:
        known = [math.log10(max(value, 1e-6)) for value in values if math.isfinite(value)]
        self.low = min(-1, math.floor(min(known, default=-1)))
        self.high = max(0, math.ceil(max(known, default=0)))
        self.width = width
        ticks = [" "] * (width + 8)
        for power in range(self.low, self.high + 1):
            label = f"{10.0**power:g}"
            start = self._place(power)
            if all(mark == " " for mark in ticks[max(0, start - 1) : start + len(label) + 1]):
                ticks[start : start + len(label)] = label
        self.scale = "".join(ticks)

    def _place(self, power: float) -> int:
        share = (power - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * (self.width - 6))  # the last label needs room as well

    def row(self, level: Level) -> str:
        """The marks of one level."""
        marks = [" "] * self.width
        marks[self._place(0)] = "│"
        for value, mark in ((level.linear, "○"), (level.error, "●")):
            if math.isfinite(value):
                place = self._place(math.log10(max(value, 1e-6)))
                marks[place] = "◉" if marks[place] == "○" else mark
        return "".join(marks)


def _wrapped(said: str, width: int, first: str = "") -> str:
    """Lines no longer than the width, those after the first below where the first one's text begins."""
    return textwrap.fill(
        _printable(said),
        width,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _printable(said: str) -> str:
    """Without what would move a terminal's cursor or colour it."""
    return "".join(letter if letter.isprintable() else " " for letter in said)


# --- HTML ----------------------------------------------------------------------------------------------------------


STYLE = (
    plots.STYLE
    + """\
:root { --back: #fdfdfc; --quiet: #5a626c; --panel: #f3f4f5; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --quiet: #a3abb5; --panel: #1f242a; --wrong: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .6rem; }
.lead { font-size: 1.15rem; margin: 0 0 1rem; }
.quiet, figcaption, footer { color: var(--quiet); font-size: .9rem; }
.wrong { border-left: 4px solid var(--wrong); background: var(--panel); padding: .75rem 1rem; }
.wrong h2 { margin-top: 0; color: var(--wrong); }
.wrong ul { margin: 0; padding-left: 1.1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .7rem 1.25rem; margin: 0; }
dt { color: var(--quiet); }
dd { margin: 0; }
dd p, ol p { margin: .1rem 0 0; }
.tag { font-size: .8rem; border: 1px solid currentColor; border-radius: 1rem; padding: 0 .55rem; margin-left: .4rem;
  white-space: nowrap; color: var(--quiet); }
.tag.unsure, .tag.w3 { color: var(--wrong); }
ol { padding-left: 1.3rem; }
ol li { margin-bottom: .8rem; }
ol .tag { margin-left: 0; }
pre { background: var(--panel); padding: .9rem 1rem; overflow-x: auto; font: .85rem/1.5 ui-monospace, monospace; }
figure { margin: 1.5rem 0 0; }
svg { display: block; width: 100%; max-width: 38rem; height: auto; }
svg * { stroke-linejoin: round; }
svg text { font-family: system-ui, sans-serif !important; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; margin-top: .6rem; }
th, td { text-align: right; padding: .15rem .4rem .15rem .9rem; border-bottom: 1px solid var(--faint); }
th { font-weight: 600; }
summary { cursor: pointer; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .9rem; } }
"""
)

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Diagnosis of a diffusion network</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Diagnosis of a diffusion network</h1>
{body}
</main>
</body>
</html>
"""


def html(diagnosis: Diagnosis) -> str:
    """Write a diagnosis as one HTML file: no script, nothing fetched, readable in light, in dark and on a telephone.

    Raises:
        ValueError: matplotlib, which draws its figures, is not installed.
    """
    plots.require()
    parts = [f'<p class="lead">{_safe(verdict(diagnosis))}</p>']
    if diagnosis.contradictions:
        lines = "".join(f"<li>{_safe(_sentence(said))}</li>" for said in diagnosis.contradictions)
        heading = "<h2>What you assumed, and what speaks against it</h2>"
        parts.append(f'<section class="wrong">{heading}<ul>{lines}</ul></section>')
    if diagnosis.findings:
        parts.append(f"<h2>What the network is</h2>\n<dl>{''.join(map(_term, diagnosis.findings))}</dl>")
    if diagnosis.concerns:
        items = "".join(map(_item, _ordered(diagnosis.concerns)))
        parts.append(f"<h2>What is wrong, or may be</h2>\n<ol>{items}</ol>")
    if diagnosis.code.strip():
        parts.append(
            f"<h2>{_safe(_paste(diagnosis))}</h2>\n<pre><code>{_safe(diagnosis.code.strip(chr(10)))}</code></pre>"
        )
    parts += _schedule(diagnosis)
    parts += _denoising(diagnosis)
    parts += _sampling(diagnosis)
    parts.append(f"<footer><p>{_safe(effort(diagnosis))}</p></footer>")
    return PAGE.format(style=STYLE, body="\n".join(parts))


def _term(finding: Finding) -> str:
    kind = finding.confidence if finding.confidence in ("sure", "likely") else "unsure"
    after = f"<p>{_safe(_next_best(finding))}</p>" if _next_best(finding) else ""
    return (
        f"<dt>{_safe(finding.name)}</dt><dd><strong>{_safe(finding.value)}</strong>"
        f'<span class="tag {kind}">{_safe(finding.confidence)}</span>{after}'
        f'<p class="quiet">{_safe(_sentence(finding.evidence))}</p></dd>\n'
    )


def _item(concern: Concern) -> str:
    weight = concern.weight if concern.weight in WEIGHTS else 1
    cure = f"<p>→ {_safe(_sentence(concern.cure))}</p>" if concern.cure else ""
    return (
        f'<li><span class="tag w{weight}">{WEIGHTS[weight]}</span><p>{_safe(_sentence(concern.what))}</p>{cure}</li>\n'
    )


def _schedule(diagnosis: Diagnosis) -> list[str]:
    curve = diagnosis.curve
    if not any(value is not None and math.isfinite(value) for value in (*curve.read, *curve.named)):
        return []
    told = sum(value is not None for value in curve.low)
    said = (
        f"The noise level that each timestep stands for: read from the network at {told} of {len(curve.timesteps)} "
        "timesteps, with the interval within which it cannot tell levels apart, and that of the schedule that was "
        "found. Where the curve stays away from filled points, the network was trained on another schedule. Hollow "
        "points do not count: at the two ends, with hardly any noise or hardly anything else, networks tell little."
    )
    picture = figures.schedule(curve, str(diagnosis.arguments.get("time", "index")))
    return ["<h2>The schedule, as the network has it</h2>", _figure(picture, said)]


def _denoising(diagnosis: Diagnosis) -> list[str]:
    levels = diagnosis.levels
    if not levels:
        return []
    cells = [(each.timestep, each.log_snr, each.error, each.linear) for each in _shown(levels)]
    rows = "".join(f"<tr>{''.join(f'<td>{_short(value)}</td>' for value in row)}</tr>\n" for row in cells)
    heads = "".join(f"<th>{name}</th>" for name in ("timestep", "log-SNR", "network", "linear"))
    table = f"<details><summary>The numbers</summary><table><tr>{heads}</tr>\n{rows}</table></details>"
    said = (
        f"{errors(diagnosis)} A trained network is below the best linear denoiser at most levels. One that predicts "
        "eps may lie above 1 where there is almost nothing but noise, and one that predicts x0 above the linear one "
        "where there is almost none: neither costs much."
    )
    return ["<h2>How well it denoises</h2>", _figure(figures.denoising(levels), said), table]


def _sampling(diagnosis: Diagnosis) -> list[str]:
    parts = ["<h2>Whether samples follow the data</h2>", f"<p>{_safe(sampled(diagnosis))}</p>"]
    if diagnosis.passages:
        said = (
            "Samples on their way from noise to data, against data with as much noise on them. Above, their standard "
            "deviation over that of the data: 1 is right. Below, how far the variances along the data's principal axes "
            "are off, as the mean of |log of their ratio|; the shaded part is what luck alone does with so few, and up "
            "to the broken line they follow the data."
        )
        parts.append(_figure(figures.sampling(diagnosis.passages, diagnosis.parted), said))
    return parts


def _figure(picture: str, said: str) -> str:
    return f"<figure>{picture}\n<figcaption>{_safe(said)}</figcaption></figure>"


def _safe(said: str) -> str:
    """Escaped, and without characters that act."""
    return markup.escape(clean(said))
