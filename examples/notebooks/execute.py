"""Run the notebooks beside this program and keep their output in them.

    python examples/notebooks/execute.py           # all of them (`make notebooks`), about two minutes of one core
    python examples/notebooks/execute.py 2-ddim.ipynb

Each notebook remembers the hash of the code that its output is of. Needs the extra `test`.
"""

import argparse
import hashlib
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))


def sha256(notebook):
    """The hash of the code in a notebook, whatever its output."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def smaller(notebook, **parameters):
    """The same notebook with other values, set behind the cell with the tag `parameters`."""
    (at,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    for name in parameters:
        if f"\n{name} = " not in f"\n{notebook.cells[at].source}":
            raise ValueError(f"{name} is no parameter of this notebook")
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(source))
    return notebook


def client(notebook):
    """What runs the cells of a notebook, in the folder of this program; an error in a cell is raised."""
    return NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}})


def keep(path):
    """Run a notebook and write it with its output, and with nothing that differs from machine to machine."""
    notebook = nbformat.read(path, as_version=4)
    client(notebook).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # progress bars
            for output in cell.outputs:
                output.get("data", {}).pop("image/jpeg", None)  # the same picture as its PNG
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernelspec, "language_info": {"name": "python"}, "code_sha256": sha256(notebook)}
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run notebooks and keep their output in them.")
    parser.add_argument(
        "notebooks", nargs="*", type=Path, default=NOTEBOOKS, help="which; all of them if none is named"
    )
    for each in parser.parse_args().notebooks:
        keep(each)
