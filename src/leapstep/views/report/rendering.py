"""The page as one HTML file, from the template `page.html`, which escapes all text."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import Any

from leapstep.evaluation.page.contents import Page
from leapstep.text import clean
from leapstep.views import plots
from leapstep.views.report import commands, words
from leapstep.views.report.sections import Section, sections


def render(page: Page) -> str:
    """Write a page as one HTML file: nothing is fetched, and it is readable in light, in dark and on a telephone.

    Raises:
        ValueError: matplotlib or jinja2 is not installed.
    """
    more = "With --data, a page also shows reconstructions, errors by noise level and the nearest training data."
    return written(
        title=page.source or "A model",
        kind="report",
        lead=[text for text in (words.lead(page), words.quality(page), words.cost(page)) if text],
        next_steps=words.next_steps(page),
        next_commands=commands.next_steps(page),
        sections=sections(page),
        footer=[
            words.effort(page),
            ", ".join(f"{name} {version}" for name, version in page.versions.items()) + ".",
            *([] if page.data else [more]),
        ],
        again=commands.again(page),
    )


def written(
    *,
    title: str,
    kind: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    footer: Sequence[str],
    again: str,
    next_steps: str = "",
    next_commands: Sequence[str] = (),
) -> str:
    """A page of sections as one HTML file, which fetches nothing; all text in it is escaped.

    Arguments:
        title, kind: what the page is about, and what kind of page it is, for the title of the window.
        lead: sentences below the title.
        footer: sentences at the end.
        again: the command that makes the page.
        next_steps, next_commands: what to do about what is wrong, and how.
    Raises:
        ValueError: matplotlib or jinja2 is not installed.
    """
    plots.require()
    environment = require().Environment(
        autoescape=True, undefined=require().StrictUndefined, finalize=_printable, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"digest": _digest, "uri": _uri}
    text = importlib.resources.files("leapstep.views.report").joinpath("page.html").read_text("utf-8")
    html: str = environment.from_string(text).render(
        title=_printable(title),
        kind=kind,
        style=plots.STYLE,
        lead=lead,
        next_steps=next_steps,
        next_commands=next_commands,
        sections=sections,
        footer=footer,
        again=again,
    )
    return html.lstrip()


def require() -> Any:
    """Jinja2. Raises ValueError where it is not installed."""
    try:
        import jinja2
    except ImportError as error:
        raise ValueError("a report needs an extra: pip install 'leapstep[report]'") from error
    return jinja2


def _printable(value: Any) -> Any:
    return clean(value, keep="\n\t\r") if type(value) is str else value


def _digest(script: str) -> str:
    """What a Content-Security-Policy calls a script: no other script can run on the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
