r"""Formulas between dollars as MathML, which browsers draw themselves: no script, no font, no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
TEXT = re.compile(r">([^<]*\\[^<]*)<")


def mathml(node: nodes.math | nodes.math_block, display: str) -> str:
    """A formula as MathML. Warns of a command that is not known, which would be shown as it is."""
    latex = node.astext()
    try:
        made = convert(latex, display=display)
    except Exception as error:  # of many kinds, by what is wrong
        logger.warning("the formula %r is not understood: %r", latex, error, location=node)
        return ""
    for unknown in TEXT.findall(made):
        logger.warning("the formula %r has %r, which is not understood", latex, unknown, location=node)
    return made


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on lines of its own, which may be scrolled where the page is narrow."""
    translator.body.append(f'<div class="formula">{mathml(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Name the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"version": "1", "parallel_read_safe": True}
