"""The page of a diagnosis: one HTML file with the contents of the terminal's text and figures."""

from __future__ import annotations

import html as markup
import math
from pathlib import Path

from leapstep import files
from leapstep.doctor.diagnosis import WEIGHTS, Diagnosis, sentence, short
from leapstep.doctor.evidence import Concern, Finding
from leapstep.text import clean
from leapstep.views import plots
from leapstep.views.doctor import figures

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


def write(path: Path, diagnosis: Diagnosis) -> None:
    """Write the page of a diagnosis; see `html`."""
    files.write_text(path, html(diagnosis))


def html(diagnosis: Diagnosis) -> str:
    """Write a diagnosis as one HTML file: no script, nothing fetched, readable in light, in dark and on a telephone.

    Raises:
        ValueError: matplotlib, which draws its figures, is not installed.
    """
    plots.require()
    parts = [f'<p class="lead">{_safe(diagnosis.verdict())}</p>']
    if diagnosis.contradictions:
        lines = "".join(f"<li>{_safe(sentence(text))}</li>" for text in diagnosis.contradictions)
        heading = "<h2>What you assumed, and what speaks against it</h2>"
        parts.append(f'<section class="wrong">{heading}<ul>{lines}</ul></section>')
    if diagnosis.findings:
        parts.append(f"<h2>What the network is</h2>\n<dl>{''.join(map(_term, diagnosis.findings))}</dl>")
    if diagnosis.concerns:
        items = "".join(map(_item, diagnosis.concerns))
        parts.append(f"<h2>What is wrong, or may be</h2>\n<ol>{items}</ol>")
    if diagnosis.code.strip():
        parts.append(
            f"<h2>{_safe(diagnosis.title_of_code())}</h2>\n<pre><code>{_safe(diagnosis.code.strip(chr(10)))}</code></pre>"
        )
    parts += _schedule(diagnosis)
    parts += _denoising(diagnosis)
    parts += _sampling(diagnosis)
    parts.append(f"<footer><p>{_safe(diagnosis.effort())}</p></footer>")
    return PAGE.format(style=STYLE, body="\n".join(parts))


def _term(finding: Finding) -> str:
    kind = finding.confidence if finding.confidence in ("sure", "likely") else "unsure"
    alternative = f"<p>{_safe(finding.alternative())}</p>" if finding.alternative() else ""
    return (
        f"<dt>{_safe(finding.name)}</dt><dd><strong>{_safe(finding.value)}</strong>"
        f'<span class="tag {kind}">{_safe(finding.confidence)}</span>{alternative}'
        f'<p class="quiet">{_safe(sentence(finding.evidence))}</p></dd>\n'
    )


def _item(concern: Concern) -> str:
    weight = concern.weight if concern.weight in WEIGHTS else 1
    cure = f"<p>→ {_safe(sentence(concern.cure))}</p>" if concern.cure else ""
    return (
        f'<li><span class="tag w{weight}">{WEIGHTS[weight]}</span><p>{_safe(sentence(concern.what))}</p>{cure}</li>\n'
    )


def _schedule(diagnosis: Diagnosis) -> list[str]:
    curve = diagnosis.curve
    if not any(value is not None and math.isfinite(value) for value in (*curve.read, *curve.named)):
        return []
    known = sum(value is not None for value in curve.low)
    caption = (
        f"The noise level that each timestep stands for: read from the network at {known} of {len(curve.timesteps)} "
        "timesteps, with the interval within which it cannot tell levels apart, and that of the schedule that was "
        "found. Where the curve stays away from filled points, the network was trained on another schedule. Hollow "
        "points do not count: at the two ends, with hardly any noise or hardly anything else, networks tell little."
    )
    picture = figures.schedule(curve, str(diagnosis.convention.time))
    return ["<h2>The schedule, as the network has it</h2>", _figure(picture, caption)]


def _denoising(diagnosis: Diagnosis) -> list[str]:
    levels = diagnosis.levels
    if not levels:
        return []
    cells = [(level.timestep, level.log_snr, level.error, level.linear) for level in diagnosis.shown_levels()]
    rows = "".join(f"<tr>{''.join(f'<td>{short(value)}</td>' for value in row)}</tr>\n" for row in cells)
    heads = "".join(f"<th>{name}</th>" for name in ("timestep", "log-SNR", "network", "linear"))
    table = f"<details><summary>The numbers</summary><table><tr>{heads}</tr>\n{rows}</table></details>"
    caption = (
        f"{diagnosis.errors()} A trained network is below the best linear denoiser at most levels. One that predicts "
        "eps may lie above 1 where there is almost nothing but noise, and one that predicts x0 above the linear one "
        "where there is almost none: neither costs much."
    )
    return ["<h2>How well it denoises</h2>", _figure(figures.denoising(levels), caption), table]


def _sampling(diagnosis: Diagnosis) -> list[str]:
    parts = ["<h2>Whether samples follow the data</h2>", f"<p>{_safe(diagnosis.sampled())}</p>"]
    if diagnosis.passages:
        caption = (
            "Samples on their way from noise to data, against data with as much noise on them. Above, their standard "
            "deviation over that of the data: 1 is right. Below, how far the variances along the data's principal axes "
            "are off, as the mean of |log of their ratio|; the shaded part is what luck alone does with so few, and up "
            "to the broken line they follow the data."
        )
        parts.append(_figure(figures.sampling(diagnosis.passages, diagnosis.parted), caption))
    return parts


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}\n<figcaption>{_safe(caption)}</figcaption></figure>"


def _safe(text: str) -> str:
    """Escaped, and without characters that act."""
    return markup.escape(clean(text))
