"""The notebooks run, on less than they run on for a reader, and what is kept in them is what their code printed."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra test")
pytest.importorskip("ipykernel", reason="notebooks need the extra test")

PROGRAM = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "notebooks" / "execute.py"))
NOTEBOOKS = PROGRAM["NOTEBOOKS"]
SMALLER = {
    "1-ddpm-in-60-lines": {"TRAINING_STEPS": 100, "T": 100, "SAMPLES": 32},
    "2-ddim": {"TRAINING_STEPS": 100, "SAMPLES": 10, "FINE": 100},
    "3-your-own-network": {"TRAINING_STEPS": 100, "EXAMPLES": 60, "SAMPLES": 16},
    "4-solvers-and-guidance": {"POINTS": 60, "FINE": 200, "COUNTS": (10, 40, 80)},
    "5-three-calls": {"TRAINING_STEPS": 100, "NOISES": 32, "CALLS": (3,), "SAMPLES": 32},
}


def opened(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def desk(monkeypatch):
    """What the kernel of a notebook has: its folder, and plots that are drawn where it says so."""
    matplotlib = pytest.importorskip("matplotlib")
    pyplot = pytest.importorskip("matplotlib.pyplot")

    def show():
        for number in pyplot.get_fignums():
            pyplot.figure(number).canvas.draw()

    monkeypatch.chdir(NOTEBOOKS[0].parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(pyplot, "show", show)
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    pyplot.close("all")


def run(source, namespace):
    """What a kernel does with a cell: run it, and show the value of an expression at its end."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "a cell", "exec"), namespace)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "a cell", "eval"), namespace)
        assert value is None or repr(value)


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(SMALLER)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, desk):
    """In this process, as a kernel would import PyTorch again, which takes longer."""
    namespace = {"__name__": "__main__"}
    for cell in PROGRAM["smaller"](opened(path), **SMALLER[path.stem]).cells:
        if cell.cell_type == "code":
            run(cell.source, namespace)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_stands(path):
    """In a kernel of its own."""
    PROGRAM["client"](opened(path)).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_of_this_code(path):
    """`make notebooks` was run after the last change of the code, and left a small file without errors or paths."""
    notebook = opened(path)
    assert notebook.metadata["code_sha256"] == PROGRAM["sha256"](notebook), "run `make notebooks`"
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 150_000
    assert "/tmp" not in path.read_text()


def test_a_parameter_that_a_notebook_lacks_is_refused():
    with pytest.raises(ValueError, match="SAMPLE is no parameter"):
        PROGRAM["smaller"](opened(NOTEBOOKS[0]), SAMPLE=3)


def test_the_hash_is_of_code_alone():
    notebook = opened(NOTEBOOKS[0])
    before = PROGRAM["sha256"](notebook)
    notebook.cells.append(nbformat.v4.new_markdown_cell("more text"))
    assert PROGRAM["sha256"](notebook) == before
    notebook.cells.append(nbformat.v4.new_code_cell("1 + 1"))
    assert PROGRAM["sha256"](notebook) != before
