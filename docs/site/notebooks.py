"""Notebooks as pages: text, code and what the code printed and drew when it last ran."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def text(value: str | list[str]) -> str:
    """A text, which a notebook may have in lines."""
    return value if isinstance(value, str) else "".join(value)


def shown(output: dict[str, Any]) -> Iterator[str]:
    """What a cell printed, returned or drew, as Markdown."""
    data = output.get("data", {})
    if picture := next((kind for kind in ("image/png", "image/gif", "image/jpeg") if kind in data), None):
        words, packed = html.escape(text(data.get("text/plain", "a picture"))), "".join(text(data[picture]).split())
        yield f'<img class="output" alt="{words}" src="data:{picture};base64,{packed}">'
    elif printed := text(output.get("text") or data.get("text/plain", "")).rstrip():
        yield f"````text\n{printed}\n````"


def markdown(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = text(cell["source"]).rstrip()
        parts.append(f"````python\n{source}\n````" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", ()):
            parts.extend(shown(output))
    return "\n\n".join(parts) + "\n"


def read(app: Sphinx, document: str, content: list[str]) -> None:
    """Turn a page that is a notebook into Markdown."""
    if Path(app.env.doc2path(document)).suffix == ".ipynb":
        content[0] = markdown(json.loads(content[0]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect it, before all else that reads pages."""
    app.connect("source-read", read, priority=100)
    return {"version": "1", "parallel_read_safe": True}
