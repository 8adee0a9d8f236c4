"""What `pip install nagbench` brings besides the code, and with which versions it was tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
BEGINS = "share/nagbench"


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)


def test_a_wheel_has_every_example_and_what_it_names_at_the_same_places(pyproject: dict[str, Any]) -> None:
    there = {
        (folder.removeprefix(BEGINS).strip("/"), path.name)
        for folder, patterns in pyproject["tool"]["setuptools"]["data-files"].items()
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }
    wanted = [
        path
        for folder in ("sweeps", "sites", "results/reference", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".yaml", ".py")
    ]
    wanted += [
        (path.parent / used).resolve()
        for path in (ROOT / "sweeps").rglob("*.yaml")
        for used in re.findall(r"use: (\S+\.py):", path.read_text())
    ]
    assert len(wanted) > 30
    assert {(path.parent.relative_to(ROOT).as_posix(), path.name) for path in wanted} <= there
    assert ("", "constraints.txt") in there


def constraints() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line) for line in lines]
    assert all(found), "each line is NAME==VERSION, without places, builds or markers"
    return {canonicalize_name(each[1]): Version(each[2]) for each in found if each}


def test_the_constraints_have_every_dependency_in_a_version_that_is_allowed(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    named = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    wanted = [requirement for requirement in map(Requirement, named) if requirement.name != project["name"]]
    assert len(wanted) > 30
    exact = constraints()
    missing = [each.name for each in wanted if canonicalize_name(each.name) not in exact]
    assert not missing
    refused = [str(each) for each in wanted if exact[canonicalize_name(each.name)] not in each.specifier]
    assert not refused
    assert project["name"] not in exact


def test_a_page_says_how_the_constraints_are_used() -> None:
    assert "pip install -c constraints.txt" in (ROOT / "docs/getting_started.md").read_text()


def test_one_version_everywhere(pyproject: dict[str, Any]) -> None:
    version = pyproject["project"]["version"]
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == version
    newest = re.search(r"(?m)^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text())
    assert newest
    assert newest[1] == version
