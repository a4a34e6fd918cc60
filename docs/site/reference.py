"""The reference: a page of Markdown for each theme, from the signatures and docstrings of the source, which is read and
not imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent, indent

import griffe

from navigation import THEMES, Theme

HEADING = re.compile(r"^(Arguments|Attributes|Raises|References|Returns|Warns|Yields):$")
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*|[\w.]+(?:, [\w.]+)*): ")
EXAMPLE = re.compile(r"(?:^ *(?:>>>|\.\.\.) .*\n?)+", re.MULTILINE)
LISTED = ("Arguments", "Attributes", "Raises", "Warns")


def resolved(package: griffe.Module, name: str) -> griffe.Object:
    """What a public name stands for: not the alias, and not a module whose name its function has, too."""
    item = package[name]
    item = item.final_target if item.is_alias else item
    return item[item.name] if item.is_module and item.name in item.members else item


def sections(docstring: str) -> Iterator[tuple[str, str]]:
    """The parts of a docstring by their headings, the first of which is empty, each without its indentation."""
    heading, lines = "", list[str]()
    for line in docstring.splitlines():
        if found := HEADING.match(line):
            yield heading, dedent("\n".join(lines)).strip()
            heading, lines = found[1], []
        elif heading and line and not line.startswith(" "):
            yield heading, dedent("\n".join(lines)).strip()
            heading, lines = "", [line]
        else:
            lines.append(line)
    yield heading, dedent("\n".join(lines)).strip()


def entries(text: str) -> Iterator[str]:
    """The items of a section `name: what it is`, each with the lines that go on with it."""
    item = list[str]()
    for line in text.splitlines():
        if item and line and not line.startswith(" "):
            yield "\n".join(item)
            item = []
        item.append(line)
    if item:
        yield "\n".join(item)


def as_item(entry: str) -> str:
    """An item of a list in Markdown, its name as code."""
    first, _, rest = entry.partition("\n")
    names = ENTRY.match(first)
    if names:
        shown = ", ".join(f"`{name}`" for name in names[1].split(", "))
        first = f"{shown}: {first[names.end() :]}"
    return f"- {first}" + (f"\n{indent(dedent(rest), '  ')}" if rest else "")


def fenced(example: re.Match[str]) -> str:
    """An example that is written as at Python's prompt, as a block of code."""
    lines = dedent(example[0]).splitlines()
    margin = " " * (len(example[0]) - len(example[0].lstrip()))
    return indent("\n".join(["```python", *(line[4:] for line in lines), "```", ""]), margin)


def body(docstring: griffe.Docstring | None) -> str:
    """A docstring as Markdown: its text, and a field for each section."""
    parts = []
    for heading, text in sections(EXAMPLE.sub(fenced, docstring.value if docstring else "")):
        if heading:
            shown = "\n".join(map(as_item, entries(text))) if heading in LISTED else text
            parts.append(f":{heading}:\n{indent(shown, '    ')}")
        elif text:
            parts.append(text)
    return "\n\n".join(parts)


def directive(kind: str, signature: str, options: Sequence[str], content: str) -> str:
    """A directive of MyST, with a fence that is longer than all within it."""
    longest = max(map(len, re.findall(r"^`{3,}", content, re.MULTILINE)), default=2)
    fence = "`" * (longest + 1)
    return "\n".join([f"{fence}{{py:{kind}}} {signature}", *options, "", content, fence])


def signature(function: griffe.Function, name: str, *, bound: bool) -> str:
    """Name, parameters with types and defaults, and the type of what is returned, in a line."""
    parameters = [each for i, each in enumerate(function.parameters) if not (bound and i == 0)]
    shown, star = [], False
    for i, each in enumerate(parameters):
        prefix = {"variadic positional": "*", "variadic keyword": "**"}.get(each.kind.value, "")
        if each.kind.value == "keyword-only" and not star:
            shown.append("*")
        star = star or each.kind.value in ("keyword-only", "variadic positional")
        text = prefix + each.name + (f": {each.annotation}" if each.annotation is not None else "")
        if each.default is not None and not prefix:
            text += f" = {each.default}" if each.annotation is not None else f"={each.default}"
        shown.append(text)
        last = i + 1 == len(parameters) or parameters[i + 1].kind.value != "positional-only"
        if each.kind.value == "positional-only" and last:
            shown.append("/")
    returns = f" -> {function.returns}" if function.returns is not None else ""
    return f"{name}({', '.join(shown)}){returns}".replace("\n", " ")


def source(item: griffe.Object) -> str:
    """Where an item is defined, as the option of its directive that makes the link."""
    root = Path(__file__).parents[2]
    return f"{item.filepath.relative_to(root).as_posix()}#{item.path.removeprefix(item.module.path + '.')}"


def described(item: griffe.Object, name: str) -> str:
    """A public name: its directive, with those of its public methods and properties."""
    place = f"\n[Source](source:{source(item)}){{.source}}"
    if item.is_function:
        return directive("function", signature(item, name, bound=False), (), body(item.docstring) + "\n" + place)
    if item.is_attribute:
        kind = (f":type: {item.annotation}",) if item.annotation is not None else ()
        return directive("data", name, kind, body(item.docstring) + "\n" + place)
    parts = [body(item.docstring), place]
    for member in item.all_members.values():
        public = not member.name.startswith("_") or member.name == "__call__"
        if not public or (member.is_alias and not member.inherited) or not member.docstring:
            continue
        member = member.final_target if member.is_alias else member
        if not member.path.startswith("leapstep."):
            continue
        if member.is_function:
            static = "staticmethod" in member.labels
            options = [f":{label}:" for label in ("classmethod", "staticmethod") if label in member.labels]
            text = signature(member, member.name, bound=not static)
            parts.append(directive("method", text, options, body(member.docstring)))
        elif "property" in member.labels:
            kind = (f":type: {member.annotation}",) if member.annotation is not None else ()
            parts.append(directive("property", member.name, kind, body(member.docstring)))
    return directive("class", constructor(item, name), (), "\n\n".join(filter(None, parts)))


def constructor(item: griffe.Class, name: str) -> str:
    """A class with what it is called with: of a protocol nothing, of a tuple or dataclass its fields."""
    bases = {str(base).split(".")[-1].split("[")[0] for base in item.bases}
    if "Protocol" in bases or bases & {"Exception", "UserWarning", "RuntimeWarning"}:
        return name
    if parameters := item.parameters:
        made = griffe.Function(name, parameters=parameters)
        return signature(made, name, bound=len(parameters) > 0 and parameters[0].name == "self")
    fields = [
        each
        for owner in [*reversed(item.mro()), item]
        for each in owner.members.values()
        if each.is_attribute and "instance-attribute" in each.labels and each.annotation is not None
    ]
    return f"{name}({', '.join(field_of(each) for each in fields)})" if fields else name


def field_of(field: griffe.Attribute) -> str:
    """A field as a parameter."""
    return f"{field.name}: {field.annotation}" + (f" = {field.value}" if field.value is not None else "")


def page(package: griffe.Module, theme: Theme) -> str:
    """A page of the reference."""
    parts = [f"# {theme.title}", theme.words, f"```{{py:currentmodule}} {theme.module}\n```"]
    for name in theme.names:
        item = resolved(package, f"{theme.module}.{name}".removeprefix("leapstep."))
        parts.append(described(item, name))
    return "\n\n".join(parts) + "\n"


def pages(root: Path) -> dict[str, str]:
    """All pages of the reference by name."""
    package = griffe.load("leapstep", search_paths=[root / "src"])
    return {name: page(package, theme) for name, theme in THEMES.items()}
