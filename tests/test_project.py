"""What the project says about itself agrees: its version, its license, its commands and the versions it needs."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import leapstep
from leapstep.cli import JOURNEY

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [Requirement(each) for group in (PROJECT["dependencies"], *EXTRAS.values()) for each in group]

LIFTED = {"huggingface-hub", "typer"}
"""What the extra diffusers requires newer than leapstep does without it."""

APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""The hash of https://www.apache.org/licenses/LICENSE-2.0.txt."""


def pins(name):
    """The versions that a file of constraints names, by package."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    named = [Requirement(line) for line in lines]
    versions = {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in named}
    assert len(versions) == len(lines), "a package is named twice"
    return versions


def test_the_license_is_apache_2_and_whole():
    text = (ROOT / "LICENSE").read_text()
    assert text.count("Copyright 2026 The leapstep authors\n") == 1
    original = text.replace("Copyright 2026 The leapstep authors", "Copyright [yyyy] [name of copyright owner]")
    assert hashlib.sha256(original.encode()).hexdigest() == APACHE_2


def test_the_citation_is_of_this_version_and_license():
    assert CITATION["version"] == leapstep.__version__
    assert CITATION["license"] == PROJECT["license"] == "Apache-2.0"
    assert CITATION["authors"] == PROJECT["authors"] == [{"name": "The leapstep authors"}]


def test_the_changelog_begins_with_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == leapstep.__version__


def test_the_table_of_commands_has_every_command():
    """It names each command once, and no other."""
    rows = re.findall(r"^\| (`[^|]*) \|", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert sorted(named) == sorted(name for names in JOURNEY.values() for name in names)


def test_the_command_is_named_as_the_package():
    """So `pipx run leapstep demo` finds it."""
    assert PROJECT["scripts"].keys() == {PROJECT["name"]}


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-lowest.txt"])
def test_the_pinned_versions_are_allowed(file):
    pinned = pins(file)
    for each in NEEDED:
        if version := pinned.get(canonicalize_name(each.name)):
            assert each.specifier.contains(version, prereleases=True), f"{each} and {each.name}=={version} of {file}"


def test_the_lowest_versions_are_the_bounds():
    """What `make lowest` tests is what pyproject.toml allows."""
    lowest, bounds = pins("constraints-lowest.txt"), {}
    for each in NEEDED:
        bounds |= {canonicalize_name(each.name): s.version for s in each.specifier if s.operator == ">="}
    both = (bounds.keys() & lowest.keys()) - LIFTED
    assert {canonicalize_name(Requirement(each).name) for each in PROJECT["dependencies"]} <= both | LIFTED
    assert {name: Version(lowest[name]) for name in both} == {name: Version(bounds[name]) for name in both}
