"""Links from the pages to files that are no pages: source code, tests, configuration.

Each gets a page of its own in the site, with its lines highlighted, so that what works on a forge works without one.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

FENCE = re.compile(r"^(`{3,}|~{3,})(?![`{]).*?^\1[`~]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"`(\w+(?:\.\w+)?)(?:\([^)]*\))?`")
MODULE = re.compile(r"leapstep(?:\.\w+)+")
SCHEME = "source"


def definitions(path: Path) -> dict[str, int]:
    """The line of each function, class, method and variable of a module, by its name in it."""
    lines = {}
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        lines |= dict.fromkeys(names, node.lineno)
        if isinstance(node, ast.ClassDef):
            lines |= {
                f"{node.name}.{each.name}": each.lineno for each in node.body if isinstance(each, ast.FunctionDef)
            }
    return lines


def point_to_sources(app: Sphinx, document: str, content: list[str]) -> None:
    """Give links to files that are no pages, and to folders, a scheme of their own."""
    root, folder = Path(app.srcdir), document.rpartition("/")[0]

    def pointed(found: re.Match[str]) -> str:
        words, target = found.groups()
        name, _, anchor = target.partition("#")
        if not name or re.match(r"[a-z]+:", target):
            return found[0]
        path = name[1:] if name.startswith("/") else normpath(f"{folder}/{name}" if folder else name)
        if path.startswith("..") or not (root / path).exists() or app.project.path2doc(str(root / path)):
            return found[0]
        code = CODE.fullmatch(words)
        anchor = anchor or (code[1] if code and path.endswith(".py") and code[1] in definitions(root / path) else "")
        return f"[{words}]({SCHEME}:{path}" + (f"#{anchor})" if anchor else ")")

    text, parts, end = content[0], [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(pointed, text[end : fence.start()]), fence[0]]
        end = fence.end()
    content[0] = "".join([*parts, LINK.sub(pointed, text[end:])])


def module(root: Path, text: str) -> str | None:
    """The file of a module, where the code in a text is its name: leapstep.core.process."""
    if not MODULE.fullmatch(text):
        return None
    path = root / "src" / text.replace(".", "/")
    found = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return found.relative_to(root).as_posix() if found.exists() else None


def link(app: Sphinx, doctree: nodes.document) -> None:
    """Turn links of that scheme into links between pages, and names of modules too; remember which files need one."""
    document, root = app.env.current_document.docname, Path(app.srcdir)
    here = app.builder.get_target_uri(document)
    for code in list(doctree.findall(nodes.literal)):
        if not isinstance(code.parent, nodes.reference) and (path := module(root, code.astext())):
            code.replace_self(nodes.reference("", "", code.deepcopy(), refuri=f"{SCHEME}:{path}"))
    for node in doctree.findall(nodes.reference):
        scheme, _, rest = node.get("refuri", "").partition(":")
        if scheme == SCHEME:
            path, _, anchor = rest.partition("#")
            app.env.sources.setdefault(path.rstrip("/"), set()).add(document)
            node["refuri"] = relpath(f"{SCHEME}/{path.rstrip('/')}.html", Path(here).parent) + (
                f"#{anchor}" * bool(anchor)
            )
            node["internal"] = True


def highlighted(path: Path) -> str:
    """A file in HTML, with an anchor at each line of a definition."""
    text = path.read_text("utf-8")
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    lines = highlight(text, lexer, HtmlFormatter(nowrap=True)).splitlines()
    for name, line in definitions(path).items() if path.suffix == ".py" else ():
        lines[line - 1] = f'<span id="{html.escape(name)}" class="definition"></span>{lines[line - 1]}'
    return '<div class="highlight"><pre>' + "\n".join(lines) + "</pre></div>"


def listed(app: Sphinx, path: str, known: set[str]) -> str:
    """The files of a folder in HTML, each with the summary of its docstring, and a link if it has a page."""
    rows, root, here = [], Path(app.srcdir), Path(SCHEME, path).parent
    for file in sorted((root / path).iterdir()):
        name = file.relative_to(root).as_posix()
        if file.name.startswith((".", "__pycache__")):
            continue
        words = ast.get_docstring(ast.parse(file.read_text())) or "" if file.suffix == ".py" else ""
        page = app.project.path2doc(str(file)) if file.suffix in app.config.source_suffix else None
        target = app.builder.get_target_uri(page) if page else f"{SCHEME}/{name}.html" if name in known else None
        shown = f'<a href="{relpath(target, here)}">{file.name}</a>' if target else file.name
        first = words.partition("\n\n")[0].replace("\n", " ")
        rows.append(f"<li><code>{shown}</code> {html.escape(first)}</li>")
    return f"<ul>{''.join(rows)}</ul>"


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The pages of all files that a page links to, and of the files in folders that one links to."""
    root = Path(app.srcdir)
    paths = set(app.env.sources)
    paths |= {
        file.relative_to(root).as_posix()
        for path in paths
        for file in (root / path).glob("*.py")
        if (root / path).is_dir()
    }
    for path in sorted(paths):
        body = listed(app, path, paths) if (root / path).is_dir() else highlighted(root / path)
        title = html.escape(path)
        yield f"{SCHEME}/{path}", {"title": title, "body": f"<h1>{title}</h1>{body}", "parents": []}, "page.html"


def begin(app: Sphinx) -> None:
    """Have a place for the files that are linked to, each with the pages that do so."""
    if not hasattr(app.env, "sources"):
        app.env.sources = {}


def forget(app: Sphinx, environment: BuildEnvironment, document: str) -> None:
    """A page that is read anew, or gone, links to nothing."""
    for path in list(environment.sources):
        environment.sources[path].discard(document)
        if not environment.sources[path]:
            del environment.sources[path]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect all of it."""
    app.connect("builder-inited", begin)
    app.connect("source-read", point_to_sources, priority=900)
    app.connect("doctree-read", link)
    app.connect("env-purge-doc", forget)
    app.connect("html-collect-pages", pages)
    return {"version": "1", "parallel_read_safe": False}
