"""Text from elsewhere, on its way to a terminal or a page; names that are nearly right; and times as people write them.

A file can hold anything: escape sequences that recolour, clear or drive a terminal, and marks that turn the reading
direction, so that a name reads as another. `clean` makes such characters visible.
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
ACTING = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Kinds of characters that act: Unicode categories."""

OF_BARS = re.compile(r"\r|(?:\x1b\[A)+\Z")
"""What progress bars of other libraries begin with: a way to the start of a line, where we are whenever we write."""


def clean(text: str, keep: str = "\n\t") -> str:
    r"""A text without characters that act rather than show, each replaced by its escape, such as `\x1b`.

    Replaced are control characters (C0, C1, DEL), format characters (Unicode category Cf: bidirectional overrides and
    isolates, zero-width marks), line and paragraph separators, lone surrogates and private-use characters.

    Arguments:
        text: what is to be shown.
        keep: characters that stay although they are of these kinds.
    """

    def shown(found: re.Match[str]) -> str:
        c = found[0]
        acts = c not in keep and unicodedata.category(c) in ACTING
        return c.encode("unicode_escape").decode() if acts else c

    return UNUSUAL.sub(shown, text)


class Cleaned:
    """A text stream that shows whatever is written to it, and lets none of it act.

    What draws by escape sequences of its own, such as a progress bar, writes to the stream beneath: see `acting`.
    """

    def __init__(self, stream: Any) -> None:
        self.beneath = stream

    def write(self, text: str) -> int:
        """Write a text, cleaned."""
        start = OF_BARS.match(text)
        whole = start[0] if start else ""
        self.beneath.write(whole + clean(text[len(whole) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write some texts, cleaned."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "beneath"):  # bytes would pass by `write`
            raise AttributeError(name)
        return getattr(self.beneath, name)


def acting(stream: Any) -> Any:
    """The stream beneath a `Cleaned` one, for text that is all our own and is meant to act; any other as it is."""
    return stream.beneath if isinstance(stream, Cleaned) else stream


@contextlib.contextmanager
def cleaned_output() -> Iterator[None]:
    """Let nothing that is printed act, and all of it be shown: stdout and stderr are `Cleaned`.

    A character that the terminal's encoding does not have is shown by its escape.
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
    """A text that others wrote in one line, cleaned, and cut where it is longer than `most` characters."""
    text = clean(" ".join(text[: 4 * most].split()))
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} ..."


def reason(error: BaseException) -> str:
    """What an error of another library says, in one short line: its first; the kind of the error where it says none."""
    return one_line(next(iter(str(error).strip().splitlines()), "")) or type(error).__name__


SYNONYMS = {
    "epsilon": "eps",
    "sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "flow",
    "squaredcos_cap_v2": "cosine",
}
"""Words of diffusers for predictions and schedules, and ours, where they differ; theirs are understood as well."""


def near(name: str, names: Iterable[str]) -> str | None:
    """The one of the names that was probably meant, or None."""
    plain = {each.lower().replace("-", "_"): each for each in names}
    wanted = name.lower().replace("-", "_")
    if SYNONYMS.get(wanted) in plain:
        return plain[SYNONYMS[wanted]]
    swapped = [each for each in plain if sorted(each) == sorted(wanted)]  # letters, of which difflib knows nothing
    found = swapped or difflib.get_close_matches(wanted, plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def allowed(name: object, names: Iterable[str]) -> str:
    """What to use in place of a name that is none of these, for an error: what was probably meant, and all of them."""
    names = list(names)
    meant = near(str(name), names)
    guess = "" if meant is None else f"did you mean {meant}? "
    return f"{guess}use one of {', '.join(names)}"


def unknown(what: str, name: object, names: Iterable[str]) -> ValueError:
    """The error for a name that is none of those there are: what arrived, what was probably meant, what is allowed."""
    return ValueError(f"unknown {what} {one_line(str(name), 60)!r}: {allowed(name, names)}")


def duration(seconds: float) -> str:
    """Seconds as people read them: `12 ms`, `3.2 s`, `2 min 1 s`, `25 min`, `4 h 27 min`, `8 days`."""
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


def seconds(text: str) -> float:
    """The seconds in a duration such as `30s`, `2m`, `1h`, `1h30m`, `1 h 30 min` or `90`.

    Raises:
        ValueError: it is no duration, or none that is positive.
    """
    parts = re.fullmatch(r"(?:([\d.]+) ?h)? ?(?:([\d.]+) ?m(?:in)?)? ?(?:([\d.]+) ?s?)?", text.strip().lower())
    try:
        hours, minutes, rest = (float(part or 0) for part in parts.groups()) if parts else (0.0, 0.0, 0.0)
    except ValueError:  # two points
        hours, minutes, rest = 0.0, 0.0, 0.0
    total = 3600 * hours + 60 * minutes + rest
    if not 0 < total < math.inf:
        raise ValueError(f"{one_line(text, 60)!r} is no duration: write it as 30s, 2m or 1h")
    return total
