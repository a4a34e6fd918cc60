"""The documentation as a site: every page is in the navigation, every public name and every command in the reference.

That it builds without a warning, that its links lead somewhere and that a browser shows it, `make docs` checks.
"""

import runpy
from collections import Counter
from pathlib import Path
from types import ModuleType

import leapstep

ROOT = Path(__file__).parent.parent
NAVIGATION = runpy.run_path(str(ROOT / "docs" / "site" / "navigation.py"))
PAGES, THEMES = NAVIGATION["PAGES"], NAVIGATION["THEMES"]


def test_every_page_is_in_the_navigation_once():
    """The pages as they lie, without those that are made at build time, which exist by their theme."""
    listed = Counter(page for pages in PAGES.values() for page in pages)
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    made = {f"reference/{name}" for name in [*THEMES, "commands"]}
    assert set(listed) == written | made | {"CHANGELOG", "CONTRIBUTING", "SECURITY"}
    assert set(listed.values()) == {1}


def test_every_public_name_is_in_the_reference_once():
    names = Counter((theme.module, name) for theme in THEMES.values() for name in theme.names)
    public = {("leapstep", name) for name in leapstep.__all__ if not isinstance(getattr(leapstep, name), ModuleType)}
    assert set(names) == public
    assert set(names.values()) == {1}
