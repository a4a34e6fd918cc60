"""The result of a diagnosis, and its text: in one sentence, and in full for a terminal.

What contradicts the reader comes first, then what was found and how sure it is, what is wrong and its cure, how well
the network denoises, whether sampling stays with the data, and the lines to paste.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from leapstep.core.convention import Convention
from leapstep.core.denoiser import Diffusion
from leapstep.doctor.evidence import GAIN, IGNORED, Concern, Curve, Finding, Level, Passage

WEIGHTS = {3: "spoils every sample", 2: "costs quality", 1: "worth knowing"}
"""What the weight of a concern means."""

NOUNS = {"predicts": "prediction"}
"""What a finding is called in a sentence, where that is not its name."""

ASCII = str.maketrans({"●": "*", "◐": "~", "○": "o", "◉": "@", "│": "|", "→": "->", "✗": "x"})
"""What stands for the marks of the text where a terminal has none of them."""

ROWS = 14
"""How many noise levels a table shows at most."""

ERRORS = "Mean squared error of x0, over the variance of the data: 1 is no better than their mean."


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        findings: range, prediction, clock, schedule and so on.
        concerns: what is wrong, the gravest first.
        code: the lines of Python to paste.
        convention: how the network is called, complete, so that it can be saved and read. With a scale for each feature
            or channel it is in the network's own range, as a convention has one scale; otherwise in the data's.
        diffusion: `from_network(net, convention)`; a conditional one is conditioned for the rows of the data that were
            used, all at once.
        curve: the schedule.
        levels: denoising errors, from data to noise.
        passages: the sampling check, from noise to data; empty where it was not made.
        parted: the time from which on sampling and data differ, None where they do not.
        contradictions: what speaks against what was assumed.
        calls: samples that went through the network.
        seconds: how long it took.
        eta: with which samples follow the data: 0 is DDIM, 1 where DDIM parts from them and DDPM's noise does not.
        cuts: what was cut for want of time, in words; empty where there was time for everything.
        counted: the share of the values in which the network's answer counts; None where no mask said so.
    """

    findings: tuple[Finding, ...]
    concerns: tuple[Concern, ...]
    code: str
    convention: Convention
    diffusion: Diffusion = field(repr=False)
    curve: Curve
    levels: tuple[Level, ...]
    passages: tuple[Passage, ...]
    parted: float | None
    contradictions: tuple[str, ...]
    calls: int
    seconds: float
    cuts: tuple[str, ...] = ()
    eta: float = 0.0
    counted: float | None = None

    def __post_init__(self) -> None:
        """Put the gravest concern first."""
        object.__setattr__(self, "concerns", tuple(sorted(self.concerns, key=lambda concern: -concern.weight)))

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        return next(finding for finding in self.findings if finding.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the network, as JSON has it."""
        fields = asdict(replace(self, diffusion=None, convention=None))  # type: ignore[arg-type]
        del fields["diffusion"]
        return fields | {"convention": self.convention.to_json()}

    def __str__(self) -> str:
        """The text, as the command line prints it."""
        return self.text()

    # --- in sentences ---

    def verdict(self) -> str:
        """The whole diagnosis in one or two sentences."""
        if wrong := len(self.contradictions):
            return f"{_counted(wrong, 'thing')} that you assumed {'does' if wrong == 1 else 'do'} not hold."
        if any(finding.value == IGNORED for finding in self.findings):
            return "The network ignores its timestep: does your wrapper pass it on?"
        if self._is_chance():
            return "Nothing that was tried fits: the network may be untrained, or the data not its own."
        likely = self._named("likely")
        grave = sum(concern.weight >= 3 for concern in self.concerns)
        sentence = "The convention is clear."
        if doubts := self._named("unsure"):
            sentence = f"Not sure of the {_listed(doubts)}."
        elif likely:
            verb = "are" if likely[1:] else "is"
            sentence = f"The convention is clear but for the {_listed(likely)}, which {verb} likely."
        if grave:
            return f"{sentence} {_counted(grave, 'thing')} {'spoils' if grave == 1 else 'spoil'} every sample."
        if self.passages and not self.concerns:
            return f"{sentence} Samples {'follow' if self.parted is None else 'leave'} the data."
        return f"{sentence} {_counted(len(self.concerns), 'concern')}." if self.concerns else sentence

    def _named(self, confidence: str) -> list[str]:
        """The nouns of the findings of this confidence."""
        return [NOUNS.get(row.name, row.name) for row in self.findings if row.confidence == confidence]

    def _is_chance(self) -> bool:
        """Whether range and prediction are unsure, and the network is nowhere better than a linear denoiser."""
        best = min((level.ratio for level in self.levels), default=0.0)
        return {"range", "prediction"} <= set(self._named("unsure")) and best > GAIN

    def title_of_code(self) -> str:
        """The heading of the lines of Python."""
        unsure = [name for name in ("range", "prediction") if name in self._named("unsure")]
        return f"To paste, but a guess: not sure of the {_listed(unsure)}" if unsure else "To paste"

    def sampled(self) -> str:
        """Whether sampling stays with the data, in one or two sentences with their numbers."""
        if not self.passages:
            return "Sampling was not checked."
        end = self.passages[-1]
        if self.parted is None:
            samples = f"Samples with eta = {self.eta:g}" if self.eta else "Samples"
            return (
                f"{samples} follow the data from noise to the end: there their spread is {short(end.spread)} of the "
                f"data's, their mean {short(end.mean)} standard deviations away, their shape off by "
                f"{short(end.shape)}, where up to {short(end.limits[3])} counts as following and luck alone makes "
                f"{short(end.luck)}."
            )
        first = next((passage for passage in self.passages if passage.t <= self.parted), end)
        text = f"Samples part from the data at t = {short(self.parted)}: {', '.join(first.failed())}."
        return text if first is end else f"{text} At the end: {', '.join(end.failed())}."

    def errors(self) -> str:
        """What the errors of `levels` are, and where they are measured."""
        if self.counted is None:
            return ERRORS
        share = f"{100 * self.counted:.3g} %"
        return f"{ERRORS} They are measured where the mask says that the answer counts, in {share} of the values."

    def effort(self) -> str:
        """What it took, and what there was no time for."""
        took = f"{self.calls:,} samples went through the network, in {self.seconds:.3g} s."
        if not self.cuts:
            return took
        return f"{took} For want of time {_listed(self.cuts)}: with a larger budget more is sure."

    def shown_levels(self) -> list[Level]:
        """Some of the levels, evenly chosen, the first and the last among them."""
        count = min(ROWS, len(self.levels))
        return [self.levels[round(i * (len(self.levels) - 1) / max(1, count - 1))] for i in range(count)]

    # --- for a terminal ---

    def text(self, width: int = 100, encoding: str = "utf-8") -> str:
        """The diagnosis for a terminal, without colours.

        Arguments:
            width: of the lines, in characters; lines of Python are never broken.
            encoding: of the terminal; what it does not have is written in ASCII.
        Returns:
            the text, without a last line break.
        """
        width = max(40, width)
        parts = [_wrapped(self.verdict(), width)]
        if self.contradictions:
            lines = [_wrapped(sentence(text), width, "  ✗ ") for text in self.contradictions]
            parts.append("\n".join(["WHAT YOU ASSUMED, AND WHAT SPEAKS AGAINST IT", *lines]))
        if self.findings:
            parts.append("\n".join(["WHAT THE NETWORK IS", *_findings(self.findings, width)]))
        if self.concerns:
            parts.append("\n".join(["WHAT IS WRONG, OR MAY BE", *_concerns(self.concerns, width)]))
        if self.levels:
            table = _levels(self.shown_levels(), width)
            parts.append("\n".join(["HOW WELL IT DENOISES", _wrapped(self.errors(), width, "  "), *table]))
        parts.append("\n".join(["WHETHER SAMPLES FOLLOW THE DATA", _wrapped(self.sampled(), width, "  ")]))
        parts.append(_wrapped(self.effort(), width))
        if self.code.strip():  # last, so that whoever copies to the end copies Python alone
            code = [_printable(line) for line in self.code.strip("\n").splitlines()]
            parts.append("\n".join([self.title_of_code().upper(), "", *code]))
        text = "\n\n".join(parts)
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.translate(ASCII).encode(encoding, "replace").decode(encoding)
        return text


def _counted(number: int, noun: str) -> str:
    words = {1: "One", 2: "Two", 3: "Three", 4: "Four"}
    return f"{words.get(number, number)} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def short(value: float) -> str:
    """A number with two or three digits, and no exponent where it can be avoided."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "nan"
    if 100 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"


def sentence(text: str) -> str:
    """The text with a full stop, and with a capital where it begins with a word and no symbol."""
    text = text.strip()
    first = text.split(maxsplit=1)[0].rstrip(",:") if text else ""
    if len(first) > 1 and re.fullmatch("[a-z]+", first) and first != "eps":
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".!?" else f"{text}."


def _findings(findings: Sequence[Finding], width: int) -> list[str]:
    """The name, how sure it is, and the value; below, what else it may be, and the evidence."""
    first = max(len(_printable(finding.name)) for finding in findings) + 2
    lines = []
    for finding in findings:
        mark = {"sure": "●", "likely": "◐"}.get(finding.confidence, "○")
        head = f"  {_printable(finding.name):<{first}}{mark} {_printable(finding.confidence):<8}"
        lines.append(_wrapped(finding.value, width, head))
        if alternative := finding.alternative():
            lines.append(_wrapped(alternative, width, " " * len(head)))
        if finding.evidence:
            lines.append(_wrapped(sentence(finding.evidence), width, " " * len(head)))
    return lines


def _concerns(concerns: Iterable[Concern], width: int) -> list[str]:
    lines = []
    for number, concern in enumerate(concerns, start=1):
        weight = WEIGHTS.get(concern.weight, WEIGHTS[1])
        lines += [f"  {number}. {weight.capitalize()}.", _wrapped(sentence(concern.what), width, "     ")]
        if concern.cure:
            lines.append(_wrapped(sentence(concern.cure), width, "     → "))
    return lines


def _levels(levels: Sequence[Level], width: int) -> list[str]:
    """A table, and on the right the network and the linear denoiser as dots on a logarithmic track."""
    room = min(width - 44, 46)
    track = _Track([value for level in levels for value in (level.error, level.linear)], room) if room >= 16 else None
    heads = f"  {'timestep':>10}{'log-SNR':>10}{'network':>10}{'linear':>10}"
    lines = [heads + (f"  {track.scale}".rstrip() if track else "")]
    for level in levels:
        cells = (level.timestep, level.log_snr, level.error, level.linear)
        row = "  " + "".join(f"{short(value):>10}" for value in cells)
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
            start = self._column(power)
            if all(mark == " " for mark in ticks[max(0, start - 1) : start + len(label) + 1]):
                ticks[start : start + len(label)] = label
        self.scale = "".join(ticks)

    def _column(self, power: float) -> int:
        share = (power - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * (self.width - 6))  # the last label needs room as well

    def row(self, level: Level) -> str:
        """The marks of one level."""
        marks = [" "] * self.width
        marks[self._column(0)] = "│"
        for value, mark in ((level.linear, "○"), (level.error, "●")):
            if math.isfinite(value):
                column = self._column(math.log10(max(value, 1e-6)))
                marks[column] = "◉" if marks[column] == "○" else mark
        return "".join(marks)


def _wrapped(text: str, width: int, first: str = "") -> str:
    """Lines no longer than the width, those after the first below where the first one's text begins."""
    return textwrap.fill(
        _printable(text),
        width,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor or colour it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
