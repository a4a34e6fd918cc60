"""The documentation as a site: every page is in the navigation, every public name and every command in the reference.

That it builds without a warning, that its links lead somewhere and that a browser shows it, `make docs` checks.
"""

import importlib
import runpy
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import leapstep

ROOT = Path(__file__).parent.parent
NAVIGATION = runpy.run_path(str(ROOT / "docs" / "site" / "navigation.py"))
PAGES, THEMES = NAVIGATION["PAGES"], NAVIGATION["THEMES"]


def test_every_page_is_in_the_navigation_once():
    """The pages as they lie, without those that are made at build time, which exist by their theme."""
    listed = Counter(page for pages in PAGES.values() for page in pages)
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.ipynb")]
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in files} - {"README"}
    made = {f"reference/{name}" for name in [*THEMES, "commands"]}
    assert set(listed) == written | made
    assert set(listed.values()) == {1}


def test_every_public_name_is_in_the_reference_once():
    names = Counter((theme.module, name) for theme in THEMES.values() for name in theme.names)
    public = {("leapstep", name) for name in leapstep.__all__ if not isinstance(getattr(leapstep, name), ModuleType)}
    public |= {("leapstep.diffusers", name) for name in leapstep.diffusers.__all__}
    assert set(names) == public
    assert set(names.values()) == {1}


def test_formulas_become_mathml_as_they_are_meant(monkeypatch):
    """A function apart from its argument, a sign that is no difference, bars of a norm, letters that browsers have."""
    pytest.importorskip("latex2mathml", reason="the extra docs is not installed")
    pytest.importorskip("ziamath", reason="the extra docs is not installed")
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    from docutils import nodes

    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    formulas = importlib.import_module("formulas")
    monkeypatch.setattr(formulas.logger, "warning", lambda *words, **_: warnings.append(words[0] % words[1:]))
    warnings = []
    made = formulas.mathml(nodes.math("", r"-\log p = -|x|^2 \thinspace - \mathbb E_q[y \mid x]"), "inline")
    assert warnings == []
    assert made.count('form="prefix"') == 2
    assert '<mi>log</mi><mspace width="0.1667em" /><mi>p</mi>' in made
    assert made.count('lspace="0" rspace="0">&#x0007C;') == 2
    assert "&#x1D53C;" in made
    assert "mathspace" not in made
    formulas.mathml(nodes.math("", r"\nonsense x"), "inline")
    assert len(warnings) == 1
    assert r"\nonsense" in warnings[0]
