"""Names in the text of pages become links: of public names to the reference, of commands to the command line."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from posixpath import relpath
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from leapstep.cli import JOURNEY
from navigation import THEMES

REFERENCE = "reference/"
COMMANDS = "reference/commands"
COMMAND = re.compile(r"leapstep ([a-z]+)(?: .*)?")
NAME = re.compile(r"(leapstep\.)?([A-Za-z]\w*(?:\.\w+)*)(\(.*\))?", re.DOTALL)


def target(app: Sphinx, document: str, text: str) -> str | None:
    """Where code in the text of a page leads to: the page and the anchor of a command or of a public name."""
    if command := COMMAND.fullmatch(text):
        known = any(command[1] in names for names in JOURNEY.values())
        return f"{app.builder.get_target_uri(COMMANDS)}#leapstep-{command[1]}" if known else None
    name = NAME.fullmatch(text)
    if name is None:
        return None
    prefix, path, call = name.groups()
    # Outside the reference a word such as `sample` or `linear` may be a command, an option or a value.
    plain = path.islower() and path.isalpha() and path not in THEMES["transitions"].names
    if plain and not (prefix or call or document.startswith(REFERENCE)):
        return None
    found = app.env.domains.python_domain.objects.get(f"leapstep.{path}")
    return f"{app.builder.get_target_uri(found.docname)}#{found.node_id}" if found else None


def link(app: Sphinx, doctree: nodes.document, document: str) -> None:
    """Put links around code in text, but for code that is within a link or a heading, or names what it stands in."""
    here = app.builder.get_target_uri(document)
    for node in list(doctree.findall(nodes.literal)):
        above = node.parent
        if isinstance(above, nodes.reference | nodes.title):
            continue
        uri = target(app, document, node.astext())
        if uri is None:
            continue
        page, _, anchor = uri.partition("#")
        around = above
        while around is not None and anchor not in around.get("ids", ()):
            around = around.parent
        if around is None:
            uri = f"#{anchor}" if page == here else f"{relpath(page, PurePosixPath(here).parent)}#{anchor}"
            node.replace_self(nodes.reference("", "", node.deepcopy(), refuri=uri, internal=True))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect it, behind all that makes names."""
    app.connect("doctree-resolved", link, priority=900)
    return {"version": "1", "parallel_read_safe": True}
