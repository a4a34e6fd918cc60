"""The documentation as a site: `make docs`. Sphinx reads the pages where they lie, as forges show them, too."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
import command_line
import formulas
import leapstep
import reference
from navigation import PAGES

project = "leapstep"
author = "The leapstep authors"
release = version = leapstep.__version__
html_title = f"leapstep {release}"

extensions = ["myst_parser", "formulas", "names", "notebooks", "sources"]
root_doc = "README"
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
include_patterns = ["*.md", "docs/**.md", "reference/*.md", "examples/notebooks/*.ipynb"]
exclude_patterns = [".*", "src", "tests", "benchmarks", "site", "runs", "demo", "dist"]

myst_enable_extensions = ["attrs_inline", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
myst_url_schemes = {"http": None, "https": None, "source": None}
html_math_renderer = "mathml"

add_module_names = False
maximum_signature_line_length = 88
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["static", str(formulas.FONT)]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"priority": 300})]  # behind the options that it changes
html_copy_source = False
html_show_sphinx = False
html_use_index = True


def write_reference(app: Sphinx) -> None:
    """Write the pages that are made from the source; those that say what they said stay untouched."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    made = reference.pages(Path(app.srcdir)) | {"commands": command_line.page()}
    for path in folder.glob("*.md"):
        if path.stem not in made:
            path.unlink()
    for name, text in made.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def add_navigation(app: Sphinx, document: str, content: list[str]) -> None:
    """Put the order of the pages behind the first of them, out of sight of forges."""
    if document == root_doc:
        for caption, pages in filter(all, PAGES.items()):
            content[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"


def begin_with_home(app: Sphinx, error: Exception | None) -> None:
    """The home page is what a browser opens first."""
    home = Path(app.outdir) / f"{root_doc}.html"
    if error is None and home.exists():
        (home.parent / "index.html").write_bytes(home.read_bytes())


def setup(app: Sphinx) -> None:
    """Connect what makes pages."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", add_navigation)
    app.connect("build-finished", begin_with_home)
