"""Which way imports run, and how light `import leapstep` is."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import leapstep

SOURCE = Path(__file__).parent.parent / "src" / "leapstep"

# A file imports only from floors below its own; the rooms of one floor do not know each other.
FLOORS = [
    {"text", "stopping", "launch", "remedies"},
    {"progress", "plugin", "files"},
    {"core"},
    {"networks", "data"},
    {"models"},
    {"inference"},
    {"training", "evaluation"},
    {"doctor"},
    {"views"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
"""Every module by its name."""


def imports(module):
    """The modules of leapstep that a module imports: at its top, inside functions, and relative to its package."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else origin for name in names if origin in FILES)


OPEN = {
    ("leapstep.evaluation.quality", "leapstep.views.plots"),
}
"""Imports that are still to be mended: this set must become empty."""

GRAPH = {module: {n for n in imports(module) if n != module and (module, n) not in OPEN} for module in FILES}


def room(module):
    """The module or package right below leapstep."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [module for module in FILES if module != "leapstep"])
def test_imports_go_down(module):
    assert room(module) in FLOOR, f"{room(module)} has no floor: give it one on purpose"
    for name in GRAPH[module] - {"leapstep"}:
        here, there = FLOOR[room(module)], FLOOR[room(name)]
        assert room(name) == room(module) or there < here, f"{module} (floor {here}) imports {name} (floor {there})"


def test_no_circle():
    """Not between packages, nor inside one; a package's front door may be opened by rooms of other packages only."""
    graphlib.TopologicalSorter({module: found - {"leapstep"} for module, found in GRAPH.items()}).prepare()


def fresh(program):
    """What a program prints in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("module", ["leapstep", "leapstep.cli"])
def test_import_is_light(module):
    """A --help and the completion of a word wait for no torch; the library, once used, for no application's stack."""
    heavy = ["PIL", "accelerate", "datasets", "huggingface_hub", "sklearn", "tensorboard", "torch"]
    assert fresh(f"import {module}, sys; print([m for m in {heavy} if m in sys.modules])") == "[]"
    heavy = ["PIL", "accelerate", "datasets", "huggingface_hub", "pydantic", "sklearn", "tensorboard", "typer"]
    assert fresh(f"import leapstep, sys; leapstep.sample; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_modules_and_names_are_there_once_they_are_asked_for():
    """Every module of the library is listed in the stub, and every name that it lists exists."""
    modules = {room(module) for module in FILES} - {"", "__main__"}
    assert modules <= set(leapstep.__all__)
    program = "import leapstep; from leapstep import *; print(leapstep.training.train, len(dir(leapstep)))"
    assert fresh(program).endswith(f" {len(leapstep.__all__)}")


def test_a_name_that_is_nearly_right():
    with pytest.raises(AttributeError, match=r"has no attribute 'ddmi': did you mean ddim\?"):
        _ = leapstep.ddmi
