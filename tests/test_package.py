"""What `pip install nagbench` brings besides the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGINS = "share/nagbench/"


def test_a_wheel_has_every_example_and_what_it_names_at_the_same_places() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        placed = tomllib.load(file)["tool"]["setuptools"]["data-files"]
    there = {
        (folder.removeprefix(BEGINS), path.name)
        for folder, patterns in placed.items()
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }
    wanted = [
        path
        for folder in ("sweeps", "sites", "results/reference")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".yaml", ".py")
    ]
    wanted += [
        (path.parent / used).resolve()
        for path in (ROOT / "sweeps").rglob("*.yaml")
        for used in re.findall(r"use: (\S+\.py):", path.read_text())
    ]
    assert len(wanted) > 20
    assert {(path.parent.relative_to(ROOT).as_posix(), path.name) for path in wanted} <= there
