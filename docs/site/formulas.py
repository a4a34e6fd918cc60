"""Formulas between dollars as MathML, which browsers draw themselves: no script, no network.

Brackets and roots grow with what they hold only in a font that is made for it. One comes with ziamath.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
FONT = files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"
LETTER = re.compile(r"\\(math(?:bb|bf|cal|frak))\s+(\w)")
OPERATOR, BAR, MINUS = r"<m[io]>(?:log|exp|max|min|tr|det|div)</m[io]>", "&#x0007C;", "&#x02212;"
BEFORE_SIGN = r"<mrow>|<mo[^>]*>(?:\[|&#x(?:00028|0002B|0002C|0003D|0003C|0003E|02212|02264|02265|02248|0221D);)</mo>"
REPAIRS = (
    (r'width="thinmathspace"', 'width="0.1667em"'),  # the widths that have names in MathML 3 have none in browsers
    (r'width="mediummathspace"', 'width="0.2222em"'),
    (r'width="thickmathspace"', 'width="0.2778em"'),
    (rf"({OPERATOR})(?!<mo|</)", r'\1<mspace width="0.1667em" />'),  # log p is not logp
    (rf"(</(?:mi|mn|msub|msup|mfrac)>)(?={OPERATOR})", r'\1<mspace width="0.1667em" />'),
    (rf"<mo( [^>]*)?>{BAR}", rf'<mo\1 lspace="0" rspace="0">{BAR}'),  # the bars of |x|; those of p(x | y) are others
    (rf"({BEFORE_SIGN})<mo>{MINUS}", rf'\1<mo form="prefix">{MINUS}'),  # a sign, not a difference
)
"""What the MathML of latex2mathml lacks."""
TEXT = re.compile(r">([^<]*\\[^<]*)<")


def mathml(node: nodes.math | nodes.math_block, display: str) -> str:
    """A formula as MathML. Warns of a command that is not known, which would be shown as it is."""
    latex = node.astext()
    try:
        made = convert(LETTER.sub(r"\\\1{\2}", latex), display=display)
    except Exception as error:  # of many kinds, by what is wrong
        logger.warning("the formula %r is not understood: %r", latex, error, location=node)
        return ""
    for unknown in TEXT.findall(made):
        logger.warning("the formula %r has %r, which is not understood", latex, unknown, location=node)
    for pattern, replacement in REPAIRS:
        made = re.sub(pattern, replacement, made)
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
