"""Which way imports run, and how light `import leapstep` is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import leapstep

SOURCE = Path(__file__).parent.parent / "src" / "leapstep"
FLOORS = [
    {"files", "finite", "launch", "remedies", "stopping", "text"},
    {"progress", "plugin", "reading"},
    {"folders"},
    {"process", "networks", "data", "pictures", "plots", "evaluation", "configuration", "schemas", "weights"},
    {"denoiser", "interpolation", "rotations", "holdout", "store", "pipelines"},
    {"transitions", "calibration", "conventions", "features"},
    {"sampling", "checkpoint", "likelihood"},
    {"training", "quality", "doctor", "foreign"},
    {"report"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def part_of(path):
    """The module, or the folder that it lies in, below leapstep."""
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path):
    """Names below leapstep that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = node.module.split(".")
            if parts[0] == "leapstep":
                yield from parts[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "leapstep" and len(parts) > 1:
                    yield parts[1]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_import_from_lower_floors_only(path):
    here = part_of(path)
    if here == "__init__":
        return  # the front door may open every room
    assert here in FLOOR, f"{here} has no floor: give it one on purpose"
    for name in imports(path):
        if name in FLOOR and name != here:
            assert FLOOR[name] < FLOOR[here], f"{here} (floor {FLOOR[here]}) imports {name} (floor {FLOOR[name]})"


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
    modules = {part_of(path) for path in SOURCE.rglob("*.py")} - {"__init__", "__main__", "cli"}
    assert modules <= set(leapstep.__all__)
    program = "import leapstep; from leapstep import *; print(leapstep.training.train, len(dir(leapstep)))"
    assert fresh(program).endswith(f" {len(leapstep.__all__)}")


def test_a_name_that_is_nearly_right():
    with pytest.raises(AttributeError, match=r"has no attribute 'ddmi': did you mean ddim\?"):
        _ = leapstep.ddmi
