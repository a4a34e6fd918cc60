"""The wheel and the source distribution as a stranger gets them: `make package` builds both and runs this."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import leapstep

pytestmark = pytest.mark.package

ROOT = Path(__file__).parent.parent
NAME = f"leapstep-{leapstep.__version__}"
WHEEL = ROOT / "dist" / f"{NAME}-py3-none-any.whl"
SOURCE = ROOT / "dist" / f"{NAME}.tar.gz"
PINS = ROOT / "constraints.txt"

UNPINNED = {"torch-fidelity", "torchvision"}
"""Of the extra `inception`, which no test installs: torchvision must be the one of the user's PyTorch."""

TRAINING = "--steps 2 --channels 8,8 --attention false,false --blocks 1 --groups 4 --device cpu"

USER = """
import torch

import leapstep

diffusion: leapstep.Diffusion = leapstep.from_network(lambda x, t: 0.1 * x, leapstep.linear(), predicts="eps")
x0 = leapstep.sample(diffusion, (2, 1, 4, 4), steps=2, transition=leapstep.ddim())
reveal_type(x0)
reveal_type(leapstep.SamplingSpec().method)
leapstep.sample(diffusion, shape="square")
"""
"""A program under `mypy --strict`: what two values are, and a mistake in its last line."""


def run(*command, folder, **given):
    """A process away from the source tree and from whatever else Python would import from, which must succeed."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, text=True, capture_output=True, **given
    )
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files(wheel):
    """The files of a wheel, with a hash of each."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def tracked(*paths):
    """The files that git knows in this clone."""
    listed = subprocess.run(["git", "ls-files", *paths], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone, so nothing says which files belong to it")
    return set(listed.stdout.splitlines())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stranger")


@pytest.fixture(scope="module")
def python(folder):
    """Python of an environment that has the wheel and what it requires, and no more."""
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", PINS, WHEEL, folder=folder)
    return python


@pytest.fixture(scope="module")
def metadata():
    with zipfile.ZipFile(WHEEL) as archive:
        return archive.read(f"{NAME}.dist-info/METADATA")


def test_the_wheel_holds_the_package_and_its_license():
    """Neither a file too few (the types' marker, the template of the page) nor one too many."""
    about = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    license = f"{NAME}.dist-info/licenses/LICENSE"
    package = {path.removeprefix("src/") for path in tracked("src")}
    assert {"leapstep/py.typed", "leapstep/__init__.pyi", "leapstep/views/report/page.html"} < package
    assert set(files(WHEEL)) == package | about | {license}
    assert files(WHEEL)[license] == hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()


def test_the_source_distribution_holds_what_the_clone_holds():
    with tarfile.open(SOURCE) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held == {name for name in tracked() if not name.startswith(".")} | {".gitignore", "PKG-INFO"}


def test_the_source_distribution_makes_the_same_wheel(folder):
    """dist/'s wheel was built from the source distribution; this one from the clone."""
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "built", ROOT, folder=folder)
    assert files(folder / "built" / WHEEL.name) == files(WHEEL)


def test_metadata_are_valid_and_the_description_leads_nowhere_but_to_the_web(metadata):
    """A package index shows the description beside no other file, so a link into the clone would be broken."""
    checked = Metadata.from_email(metadata, validate=True)
    assert (checked.license_expression, checked.license_files) == ("Apache-2.0", ["LICENSE"])
    assert checked.description_content_type == "text/markdown"
    prose = re.sub(r"^```.*?^```", "", checked.description, flags=re.DOTALL | re.MULTILINE)
    assert "# leapstep" in prose
    assert "## Documentation" in prose
    assert re.findall(r"\]\((?!https?:)|!\[|<img", prose) == []


def test_the_command_runs_in_an_empty_environment(python, folder):
    command, empty = python.with_name("leapstep"), folder / "empty"
    empty.mkdir()
    assert run(command, "--version", folder=empty) == f"leapstep {leapstep.__version__}\n"
    assert "leapstep demo" in run(command, "--help", folder=empty)
    origin = run(python, "-W", "error", "-c", "import leapstep; print(leapstep.__file__)", folder=empty)
    assert Path(origin.strip()).is_relative_to(folder / "venv")
    run(command, "train", "digits", "--out", "run", *TRAINING.split(), folder=empty)
    run(command, "sample", "run", "--out", "samples", "--n", 4, "--steps", 2, "--device", "cpu", folder=empty)
    assert len(list((empty / "samples").glob("*.png"))) >= 4


def test_every_extra_can_be_installed_and_is_pinned(python, folder, metadata):
    """All extras together, within constraints.txt, which names each package that they bring."""
    extras = ",".join(message_from_bytes(metadata).get_all("Provides-Extra"))
    install = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-", "--constraint", PINS]
    report = json.loads(run(*install, f"{WHEEL}[{extras}]", folder=folder))
    brought = {canonicalize_name(each["metadata"]["name"]) for each in report["install"]}
    pinned = {canonicalize_name(Requirement(line).name) for line in PINS.read_text().splitlines() if line[0] != "#"}
    assert "pytest" in brought
    assert brought - pinned - {"leapstep"} <= UNPINNED, "pip freeze says what to write into constraints.txt"


def test_a_typed_program_sees_the_types(python, folder):
    (folder / "user.py").write_text(USER)
    checker = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "user.py"]
    said = subprocess.run([str(word) for word in checker], cwd=folder, capture_output=True, text=True).stdout
    assert re.findall(r'Revealed type is "(.*)"', said) == ["torch._tensor.Tensor", "str"]
    assert re.findall(r"user\.py:(\d+): error", said) == ["10"], said
