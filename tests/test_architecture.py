"""Which way imports run, how light `import leapstep` is, how large things are, and that what is public is described."""

import ast
import graphlib
import inspect
import re
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
    {"core", "workers"},
    {"networks", "data"},
    {"models"},
    {"inference"},
    {"training", "evaluation", "diffusers"},
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


GRAPH = {module: {n for n in imports(module) if n != module} for module in FILES}


def room(module):
    """The module or package right below leapstep."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [module for module in FILES if module != "leapstep"])
def test_imports_go_down(module):
    assert room(module) in FLOOR, f"{room(module)} has no floor: give it one on purpose"
    for name in GRAPH[module] - {"leapstep"}:
        here, there = FLOOR[room(module)], FLOOR[room(name)]
        assert room(name) == room(module) or there < here, f"{module} (floor {here}) imports {name} (floor {there})"


def test_the_documented_floors_are_these():
    """docs/architecture.md has a row for each floor, from the lowest to the highest."""
    page = (SOURCE.parent.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| \d+ \| ([^|]*) \|", page, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == FLOORS


def test_no_circle():
    """Not between packages, nor inside one; a package's front door may be opened by rooms of other packages only."""
    graphlib.TopologicalSorter({module: found - {"leapstep"} for module, found in GRAPH.items()}).prepare()


def fresh(program):
    """What a program prints in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light():
    """A --help and the completion of a word wait for no torch; the library, once used, for no application's stack.

    Nor does a model wait for torch._dynamo, which takes longer to import than all else that it is loaded with.
    """
    heavy = ["PIL", "accelerate", "datasets", "huggingface_hub", "sklearn", "tensorboard", "torch"]
    assert fresh(f"import leapstep, leapstep.cli, sys; print([m for m in {heavy} if m in sys.modules])") == "[]"
    heavy = ["PIL", "accelerate", "datasets", "huggingface_hub", "pydantic", "sklearn", "tensorboard", "typer"]
    program = f"""if True:
        import leapstep, sys
        leapstep.sample
        print([m for m in {heavy} if m in sys.modules])
        from leapstep.networks import UNet, weights
        weights.sketch(UNet, {{"channels": (8,), "attention": (False,), "groups": 8, "classes": 3}})
        print("torch._dynamo" in sys.modules)
    """
    assert fresh(program).split("\n") == ["[]", "False"]


def test_modules_and_names_are_there_once_they_are_asked_for():
    """Every module of the library is listed in the stub, and every name that it lists exists."""
    modules = {room(module) for module in FILES} - {"", "__main__"}
    assert modules <= set(leapstep.__all__)
    program = "import leapstep; from leapstep import *; print(leapstep.training.train, len(dir(leapstep)))"
    assert fresh(program).endswith(f" {len(leapstep.__all__)}")


def test_a_name_that_is_nearly_right():
    with pytest.raises(AttributeError, match=r"has no attribute 'ddmi': did you mean ddim\?"):
        _ = leapstep.ddmi


# --- sizes ---------------------------------------------------------------------------------------------------------


def too_large(module):
    """A command parses, calls the library and prints."""
    command = room(module) == "cli" and module.rpartition(".")[2] not in ("cli", "options", "parsing")
    return len(FILES[module].read_text().splitlines()) > (150 if command else 500)


def too_long(module):
    """The names of the functions of more than 60 lines, without their docstrings."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.FunctionDef):
            docstring = node.body[0] if ast.get_docstring(node) else None
            described = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
            if node.end_lineno - node.lineno + 1 - described > 60:
                yield f"{module}.{node.name}"


def test_no_module_is_too_large():
    assert [module for module in FILES if too_large(module)] == []


def test_no_function_is_too_long():
    assert [name for module in FILES for name in too_long(module)] == []


def test_tests_are_of_a_size_and_share_helpers_not_tests():
    """Fixtures for several files lie in conftest.py, plain helpers in modules of their own."""
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        assert len(path.read_text().splitlines()) <= 700, path
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.startswith(("test_", "conftest"))], path


# --- descriptions --------------------------------------------------------------------------------------------------

PLAIN = ("Process", "Transition", "Diffusion", "None")
"""What a function that is named for what it returns need not describe once more."""


def undescribed(function):
    """The sections that the docstring of a function lacks."""
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    needed = {
        "Arguments": bool(signature.parameters),
        "Returns": str(signature.return_annotation) not in PLAIN,
        "Raises": "raise ValueError" in inspect.getsource(function),
    }
    text = text.replace("Yields:", "Returns:")
    return {section for section, need in needed.items() if need and f"{section}:" not in text}


def test_public_functions_say_what_they_take_return_and_raise():
    functions = {name: getattr(leapstep, name) for name in leapstep.__all__}
    functions = {name: value for name, value in functions.items() if inspect.isfunction(value)}
    assert {name: undescribed(function) for name, function in functions.items() if undescribed(function)} == {}
