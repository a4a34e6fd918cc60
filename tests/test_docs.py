"""What the documents point to exists: files, the names in them, and tests. The course is complete, formulas are such as
GitHub renders, and what the theory says holds where no test of a single method shows it.
"""

import ast
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import leapstep
from leapstep.core.transitions.family import leap

F64 = torch.float64
MIXTURE = leapstep.GaussianMixture(
    torch.tensor([[1.0, 0.5], [-1.2, 0.2]], dtype=F64), torch.tensor([0.1, 0.2], dtype=F64)
)
PROCESSES = {"linear": leapstep.linear(), "cosine": leapstep.cosine(), "ve": leapstep.ve(), "flow": leapstep.flow()}
ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COURSE = sorted((ROOT / "docs" / "course").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
NAME = re.compile(r"`(\w+(?:\.\w+)?)(?:\([^)]*\))?`")
TEST = re.compile(r"\b(test_\w+\.py)::(\w+)")


def prose(path):
    """The text without its code blocks, fenced or indented, whose brackets are no links."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


@lru_cache
def names(path):
    """What a module defines: functions, classes, their methods as Class.method, and variables."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def anchors(path):
    """The anchors that GitHub gives to the headings of a page: lower case, hyphens for spaces, no punctuation."""
    return {re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for _, words in HEADING.findall(prose(path))}


def jumps(path):
    """The headings of a page, or of a notebook's text, that leave out a level below the heading before them."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    else:
        text = prose(path)
    level = 0
    for marks, words in HEADING.findall(text):
        if len(marks) > level + 1:
            yield words
        level = len(marks)


def missing(path):
    """What a document points to and is not there: files, headings of pages, names of code in files, and file::test."""
    text = prose(path)
    for words, target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue  # the web
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target
        elif file.suffix == ".py" and (name := NAME.fullmatch(words)) and name[1] not in {file.name, *names(file)}:
            yield f"{name[1]} in {target}"
    for file, name in TEST.findall(text):
        if not any(name in names(path) for path in (ROOT / "tests").rglob(file)):
            yield f"{file}::{name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_points_to_exists(path):
    assert list(missing(path)) == []


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: path.name)
def test_no_heading_leaves_out_a_level(path):
    """The site, which is made of these pages, takes it for a mistake."""
    assert list(jumps(path)) == []


def test_a_heading_that_leaves_out_a_level_is_found(tmp_path):
    page, notebook = tmp_path / "page.md", tmp_path / "notebook.ipynb"
    lines = ["# One", "### Three", "## Two", "```sh", "#### a comment", "```", "### Below", "## Two again", "#### Four"]
    page.write_text("\n".join(lines) + "\n")
    assert list(jumps(page)) == ["Three", "Four"]
    page.write_text("## Without a title\n")
    assert list(jumps(page)) == ["Without a title"]
    code, words = ({"cell_type": kind, "source": [text]} for kind, text in (("code", "# it"), ("markdown", "## Two")))
    notebook.write_text(json.dumps({"cells": [code, words]}))
    assert list(jumps(notebook)) == ["Two"]


def test_the_theory_lists_its_chapters_in_their_order():
    text = (ROOT / "docs" / "theory.md").read_text()
    listed = re.findall(r"\]\((course/[^)#]*)\)", text)
    assert listed == [f"course/{path.name}" for path in COURSE]
    assert [int(path.name[:2]) for path in COURSE] == list(range(1, 12))


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.name)
def test_a_chapter_names_its_code_and_tests_and_has_answers(path):
    """Every chapter points to functions and tests, has Python that runs, and answers every exercise in place."""
    text = path.read_text()
    code = [words for words, target in LINK.findall(prose(path)) if target.endswith(".py")]
    assert code
    assert all(NAME.fullmatch(words) for words in code)
    assert TEST.search(text)
    assert "```python" in text
    number = int(path.name[:2])
    assert text.startswith(f"# {number}. ")
    exercises = re.findall(r"^\*\*(\d+)\.(\d+)\*\* .*?\n\n<details markdown=\"1\"><summary>Answer", text, re.M | re.S)
    assert exercises == [(str(number), str(i + 1)) for i in range(len(exercises))]
    assert len(exercises) == text.count("<details") == text.count("</details>") >= 3
    following = [p.name for p in COURSE if int(p.name[:2]) == number + 1]
    assert all(f"]({name})" in text.splitlines()[-1] for name in following)


def formulas(text):
    """The formulas in a page: each with whether it stands in a block of its own."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    for block in re.findall(r"^\$\$$(.*?)^\$\$$", text, re.DOTALL | re.MULTILINE):
        yield block, True
    for line in re.sub(r"^\$\$$.*?^\$\$$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines():
        parts = re.split(r"(?<!\\)\$", line)
        assert len(parts) % 2, f"a formula is not closed in its line: {line}"
        yield from ((part, False) for part in parts[1::2])


WRONG = {
    r"(?<![A-Za-z0-9])_": "Markdown may take the underscore for emphasis",
    r"\\[^A-Za-z]": "Markdown eats a backslash before punctuation",
    r"[*<>]|~~|\]\(": "Markdown or HTML has a meaning of its own for this",
    r"(?m)^\s*(?:[-+] |#|=+\s*$)": "a line that begins so is a list or a heading",
}
"""What GitHub does not render in a formula, because it reads Markdown first."""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_formulas_survive_markdown(path):
    for formula, block in formulas(path.read_text()):
        assert formula.strip(), path
        assert block or formula == formula.strip(), formula
        assert formula.count("{") == formula.count("}"), formula
        assert formula.count(r"\left") - formula.count(r"\leftarrow") == formula.count(r"\right") - formula.count(
            r"\rightarrow"
        ), formula
        for pattern, why in WRONG.items():
            assert not re.search(pattern, formula), f"{why}: {formula}"


def glossary_rows(heading):
    """The rows of the tables below a heading of the glossary, each a list of cells."""
    section = re.split(r"^## ", (ROOT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)
    (section,) = [text for text in section if text.startswith(f"{heading}\n")]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [re.split(r" *(?<!\\)\| *", row) for row in rows if not row.startswith(("---", "word |"))]


def test_the_words_of_the_glossary_are_in_the_code():
    """Each word has one row, and what stands under "in code" is defined there: a name, a parameter or an option."""
    rows = glossary_rows("Words")
    assert len(rows) > 50
    words = [row[0] for row in rows]
    assert len(set(words)) == len(words)
    defined = set()
    for path in (ROOT / "src").rglob("*.py"):
        defined |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
            if isinstance(node, ast.Module | ast.ClassDef):
                targets = [
                    target for child in node.body for target in getattr(child, "targets", [getattr(child, "target", 0)])
                ]
                defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    code = [name for row in rows for name in re.findall(r"`([^`]+)`", row[2])]
    parts = {part for name in code for part in name.removesuffix(".json").strip("-=").replace("-", "_").split(".")}
    assert parts - defined == set()


STILL = {
    "digest": {
        "evaluation/features/space.py",
    },
    "fingerprint": {
        "evaluation/features/space.py",
        "models/beside.py",
    },
    "settings": {
        "doctor/assumptions.py",
        "evaluation/page/contents.py",
        "evaluation/page/cost.py",
        "evaluation/page/gathering.py",
        "evaluation/page/work.py",
        "models/importers/__init__.py",
        "models/importers/reading.py",
        "training/configuration.py",
        "training/estimate.py",
        "training/initial.py",
    },
    "span": {
        "doctor/behaviour.py",
        "doctor/conventions.py",
        "doctor/curve.py",
        "doctor/denoising.py",
        "doctor/examination.py",
        "doctor/passages.py",
        "doctor/trials.py",
    },
    "way": {
        "evaluation/page/contents.py",
        "views/report/commands.py",
        "views/report/figures.py",
    },
}
"""Words in public names of these modules that are still to be replaced: this must become empty."""


def public_names(path):
    """The functions and classes of a module, their parameters and fields, but for those with an underscore."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
            arguments = (
                node.args if isinstance(node, ast.FunctionDef) else ast.arguments([], [], None, [], [], None, [])
            )
            yield from (argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
            fields = [child.target for child in node.body if isinstance(child, ast.AnnAssign)]
            yield from (field.id for field in fields if isinstance(field, ast.Name))


def test_public_names_use_the_words_of_the_glossary():
    """No part of a public name is a word that the glossary says not to write."""
    refused = {
        word.strip()
        for row in glossary_rows("Words that mean one thing only")
        for words in re.findall(r"\bnot ([^;(]*)", row[2])
        for word in words.split(",")
    }
    assert {"fingerprint", "way", "settings"} <= refused
    found = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        parts = {part for name in public_names(path) for part in re.findall(r"[A-Z]?[a-z]+", name)}
        for word in {part.lower() for part in parts} & refused:
            found.setdefault(word, set()).add(path.relative_to(ROOT / "src" / "leapstep").as_posix())
    new = {word: paths - STILL.get(word, set()) for word, paths in found.items()}
    assert {word: paths for word, paths in new.items() if paths} == {}


def test_what_does_not_exist_is_found(tmp_path):
    family = ROOT / "src" / "leapstep" / "core" / "transitions" / "family.py"
    document = tmp_path / "page.md"
    document.write_text(
        f"[`leap`]({family}) [`Step`]({family}) [`family.py`]({family}) [here]({family}) [web](https://none.invalid)\n"
        f"[`hop`]({family}) [`leap`](gone.py) ![a picture](gone.png#part) [`Step.hop()`]({family})\n"
        "# A heading, `named`\n\n[there](#a-heading-named) [there](page.md#a-heading-named) [not there](#a-heading)\n"
        "```\n[x](code.md)\n```\n\n    [y](code.md)\n\n"
        "`test_docs.py::test_what_does_not_exist_is_found`, `tests/test_docs.py::test_gone`, `test_gone.py::test_it`\n"
    )
    found = list(missing(document))
    expected = [f"hop in {family}", "gone.py", "gone.png#part", f"Step.hop in {family}", "#a-heading"]
    assert found == [*expected, "test_docs.py::test_gone", "test_gone.py::test_it"]


# --- the theory ---


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_small_step_of_the_family_is_the_reverse_sde_with_eta_times_the_noise(name, eta):
    """dx = (f x - (1 + h^2)/2 g^2 score) dt + h g dw with h = eta, f and g from the curves by central differences."""
    process, t, d = PROCESSES[name], torch.tensor(0.4005, dtype=F64), 1e-6
    x = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    score = process.convert(MIXTURE.diffusion(process).denoise(x, t), x, t, "x0", "score")
    f = (process.alpha(t + d).log() - process.alpha(t - d).log()) / (2 * d)
    rho2 = [torch.exp(-process.log_snr(u)) for u in (t - d, t + d)]
    g2 = process.alpha(t) ** 2 * (rho2[1] - rho2[0]) / (2 * d)
    still, stirred = (
        leapstep.ddim(eta)(MIXTURE.diffusion(process), x, t, t - d, None, lambda draw=0, z=z: torch.full_like(x, z)).x
        for z in (0.0, 1.0)
    )
    torch.testing.assert_close((x - still) / d, f * x - (1 + eta**2) / 2 * g2 * score, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close((stirred - still) ** 2 / d, torch.full_like(x, eta**2 * g2), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "flow"])
def test_an_exact_step_is_ddims_with_averages(name):
    """Of x0 with weight e^lambda, or of eps with e^-lambda, by Simpson's rule along a fine solution."""
    process = PROCESSES[name]._replace(timesteps=None)
    diffusion, lam = MIXTURE.diffusion(process), torch.linspace(-0.5, 1, 21, dtype=F64)
    path = process.time(2 * lam)
    x = process.add_noise(MIXTURE.sample(4), path[0], torch.ones(4, 2, dtype=F64))
    ways = [x, *(state.x for state in leapstep.trajectory(diffusion, x, path, leapstep.rk4()))]
    known = [process.split(diffusion.denoise(y, t), y, t, "x0") for y, t in zip(ways, path, strict=True)]
    simpson = torch.tensor([1.0, *[4.0, 2.0] * 9, 4.0, 1.0], dtype=F64)
    for kind, values, weight in zip(("x0", "eps"), zip(*known, strict=True), (lam.exp(), (-lam).exp()), strict=True):
        share = simpson * weight / (simpson * weight).sum()
        average = torch.einsum("n,nbd->bd", share, torch.stack(values))
        step = leap(process, x, process.convert(average, x, path[0], kind, "x0"), path[0], path[-1])
        torch.testing.assert_close(step, ways[-1], rtol=0, atol=1e-5)
        assert (step - leapstep.ddim()(diffusion, x, path[0], path[-1], None, None).x).abs().max() > 0.01
