"""Text for people: untrusted text made safe for a terminal or a page, suggestions for misspelt names, and durations.

A file can contain escape sequences that recolour, clear or control a terminal, and marks that change the reading
direction, so that one name looks like another. `clean` replaces such characters by visible escapes.
"""

import contextlib
import difflib
import io
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

UNUSUAL = re.compile(r"[^ -~]")
CONTROLS = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode categories of characters that control a display instead of appearing on it."""

BAR_START = re.compile(r"\r|(?:\x1b\[A)+\Z")
"""How progress bars of other libraries begin: a return to the start of the line."""


def clean(text: str, keep: str = "\n\t") -> str:
    r"""Replace each control character of a text by its escape, such as `\x1b`.

    These are control characters (C0, C1, DEL), format characters (Unicode category Cf: bidirectional overrides and
    isolates, zero-width marks), line and paragraph separators, lone surrogates and private-use characters.

    Arguments:
        text: any text.
        keep: control characters to keep.
    """

    def visible(match: re.Match[str]) -> str:
        c = match[0]
        controls = c not in keep and unicodedata.category(c) in CONTROLS
        return c.encode("unicode_escape").decode() if controls else c

    return UNUSUAL.sub(visible, text)


class Cleaned:
    """A text stream that cleans whatever is written to it.

    Code that needs escape sequences of its own, such as a progress bar, writes to the stream beneath: see `acting`.
    """

    def __init__(self, stream: Any) -> None:
        self.beneath = stream

    def write(self, text: str) -> int:
        """Write a text, cleaned, but for the start of a progress bar."""
        match = BAR_START.match(text)
        start = match[0] if match else ""
        self.beneath.write(start + clean(text[len(start) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, cleaned."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "beneath"):  # bytes would bypass `write`
            raise AttributeError(name)
        return getattr(self.beneath, name)


def acting(stream: Any) -> Any:
    """Return the stream beneath a `Cleaned` one, for escape sequences of our own; any other stream as it is."""
    return stream.beneath if isinstance(stream, Cleaned) else stream


@contextlib.contextmanager
def cleaned_output() -> Iterator[None]:
    """Clean everything that is printed to stdout and stderr.

    A character that the terminal's encoding lacks is replaced by its escape.
    """
    before = sys.stdout, sys.stderr
    strict = [stream for stream in before if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict"]
    for stream in strict:
        stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (stream if isinstance(stream, Cleaned) else Cleaned(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in strict:
            stream.reconfigure(errors="strict")


def one_line(text: str, most: int = 300) -> str:
    """Bring a text to one line: cleaned, and cut if it is longer than `most` characters."""
    text = clean(" ".join(text[: 4 * most].split()))
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} ..."


def reason(error: BaseException) -> str:
    """Summarise an error of another library by the first line of its message, or by its class if it has none."""
    return one_line(next(iter(str(error).strip().splitlines()), "")) or type(error).__name__


SYNONYMS = {
    "epsilon": "eps",
    "sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "flow",
    "squaredcos_cap_v2": "cosine",
}
"""Names of diffusers for predictions and schedules, and ours, where they differ; both are understood."""


def near(name: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant, or None."""
    plain = {candidate.lower().replace("-", "_"): candidate for candidate in names}
    wanted = name.lower().replace("-", "_")
    if SYNONYMS.get(wanted) in plain:
        return plain[SYNONYMS[wanted]]
    swapped = [candidate for candidate in plain if sorted(candidate) == sorted(wanted)]  # difflib misses these
    matches = swapped or difflib.get_close_matches(wanted, plain, n=1, cutoff=0.6)
    return plain[matches[0]] if matches else None


def allowed(name: object, names: Iterable[str], also: Iterable[str] = ()) -> str:
    """Write the end of an error about an unknown name: what was probably meant, and all names.

    Arguments:
        also: names that may be meant as well, but are not listed.
    """
    names = list(names)
    meant = near(str(name), [*names, *also])
    guess = "" if meant is None else f"did you mean {meant}? "
    return f"{guess}use one of {', '.join(names)}"


def unknown(what: str, name: object, names: Iterable[str]) -> ValueError:
    """Return the error for an unknown name: what arrived, what was probably meant, what is allowed."""
    return ValueError(f"unknown {what} {one_line(str(name), 60)!r}: {allowed(name, names)}")


def short(value: float | None) -> str:
    """A number as a reader wants it: three digits, and an exponent only where many zeros would take its place."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    digits = f"{value:,.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"
    return f"−{digits[1:]}" if digits.startswith("-") else digits


def with_error(value: float, error: float | None) -> str:
    """A number and how uncertain it is, with two digits of the latter; small ones with one exponent for both."""
    if error is None or not math.isfinite(error) or error <= 0 or not math.isfinite(value):
        return short(value)
    digits = 1 - int(f"{error:.1e}".partition("e")[2])
    exponent = math.floor(math.log10(max(abs(value), error)))
    if digits > 5 and exponent < 0:
        digits, scale = digits + exponent, 10.0**exponent
        return f"({value / scale:.{digits}f} ± {error / scale:.{digits}f})".replace("-", "−") + f"e{exponent:03}"
    return f"{value:,.{max(0, digits)}f} ± {error:,.{max(0, digits)}f}".replace("-", "−")


def percent(share: float, digits: int = 2) -> str:
    """A share in percent, with so many digits below 10 %."""
    value = 100 * share
    if not math.isfinite(value):
        return "–"
    if 0 < value < 0.01:
        return "less than 0.01 %"
    return f"{value:.0f} %" if value >= 9.5 else f"{float(f'{value:.{digits}g}'):g} %"


def counted(count: int, what: str = "step") -> str:
    """1 step, 2 steps."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Format seconds for people: `12 ms`, `3.2 s`, `2 min 1 s`, `25 min`, `4 h 27 min`, `8 days`."""
    if seconds < 99.5:
        if 0 < seconds < 0.0995:
            return f"{1000 * seconds:.2g} ms"
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{minutes / 60 / 24:.0f} days"


def memory(size: int) -> str:
    """Format a number of bytes for people: `336 B`, `1.192 MiB`, `16 GiB`."""
    power = min(max(size.bit_length() - 1, 0) // 10, 3)
    return f"{size / 1024**power:.4g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def seconds(text: str) -> float:
    """Parse a duration such as `30s`, `2m`, `1h`, `1h30m`, `1 h 30 min` or `90`, to seconds.

    Raises:
        ValueError: it is not a positive duration.
    """
    parts = re.fullmatch(r"(?:([\d.]+) ?h)? ?(?:([\d.]+) ?m(?:in)?)? ?(?:([\d.]+) ?s?)?", text.strip().lower())
    try:
        hours, minutes, rest = (float(part or 0) for part in parts.groups()) if parts else (0.0, 0.0, 0.0)
    except ValueError:  # two points
        hours, minutes, rest = 0.0, 0.0, 0.0
    total = 3600 * hours + 60 * minutes + rest
    if not 0 < total < math.inf:
        raise ValueError(f"{one_line(text, 60)!r} is not a duration: write it as 30s, 2m or 1h")
    return total
