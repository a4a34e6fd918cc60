"""Text from elsewhere, on its way to a terminal or a page; and names that are nearly right.

A file can hold anything: escape sequences that recolour, clear or drive a terminal, and marks that turn the reading
direction, so that a name reads as another. `clean` makes such characters visible.
"""

import difflib
import unicodedata
from collections.abc import Iterable


def clean(text: str, keep: str = "\n\t") -> str:
    r"""A text without characters that act rather than show, each replaced by its escape, such as `\x1b`.

    Replaced are control characters (C0, C1, DEL), format characters (Unicode category Cf: bidirectional overrides and
    isolates, zero-width marks), line and paragraph separators, lone surrogates and private-use characters.

    Arguments:
        text: what is to be shown.
        keep: characters that stay although they are of these kinds.
    """
    acting = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    return "".join(
        c if c in keep or unicodedata.category(c) not in acting else c.encode("unicode_escape").decode() for c in text
    )


def one_line(text: str, most: int = 300) -> str:
    """A text that others wrote in one line, cleaned, and cut where it is longer than `most` characters."""
    text = clean(" ".join(text[: 4 * most].split()))
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} ..."


def near(name: str, names: Iterable[str]) -> str | None:
    """The one of the names that was probably meant, or None."""
    plain = {each.lower().replace("-", "_"): each for each in names}
    wanted = name.lower().replace("-", "_")
    found = difflib.get_close_matches(wanted, plain, n=5, cutoff=0.6)
    found.sort(
        key=lambda each: sorted(each) != sorted(wanted)
    )  # letters swapped, of which difflib knows nothing, first
    return plain[found[0]] if found else None


def unknown(what: str, name: object, names: Iterable[str]) -> ValueError:
    """The error for a name that is none of those there are: what arrived, what was probably meant, what is allowed."""
    names = list(names)
    meant = near(str(name), names)
    guess = "" if meant is None else f" did you mean {meant}?"
    return ValueError(f"unknown {what} {one_line(str(name), 60)!r}:{guess} use one of {', '.join(names)}")
