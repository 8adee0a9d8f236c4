"""Every command in the README runs, and every file that it names exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from nag.registry import METHODS
from tests.orchestrator import forked

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(?:bash|console|sh)\n(.*?)```", README, re.S)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
NAGBENCH = [line for line in COMMANDS if line.startswith("nagbench ")]


def test_the_two_commands() -> None:
    assert "make demo" in COMMANDS
    assert "make test" in COMMANDS
    for target in ("demo", "test", "lint"):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_nothing_else_is_promised() -> None:
    """Every line of a block is a nagbench command or a known other one."""
    for line in COMMANDS:
        assert line.split()[0] in ("nagbench", "make", "git", "cd", "pip", "source", "."), line


SMOKED = ("run", "plan", "status", "report", "check", "logs", "export", "du")
ELSEWHERE = (  # tested in tests/orchestrator, `ui` with a real server; on a real cluster in tests/slurm
    "nagbench ui",
    "nagbench submit",
    "nagbench cancel",
    "nagbench doctor",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sweeps, in which the README's commands are run one after the other."""
    path = tmp_path_factory.mktemp("readme")
    for name in ("sweeps", "sites"):
        (path / name).symlink_to(ROOT / name)
    return path


def test_every_command_runs(folder: Path) -> None:
    """In the README's order, in one folder. `run` is a smoke run here: CI runs the demonstration itself."""
    assert NAGBENCH
    for line in NAGBENCH:
        if line.startswith(ELSEWHERE):
            continue
        words = shlex.split(line)[1:]
        if words[0] in SMOKED:
            words.append("--smoke")
        if words[0] == "run":
            words += ["--workers", "1"]
        done = forked.run(words, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_every_guidance_is_in_the_readme_and_in_the_table_of_its_page() -> None:
    row = next(line for line in README.splitlines() if line.startswith("| guidance |"))
    page = (ROOT / "docs/guidance.md").read_text()
    table = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert table == set(METHODS["guidance"])
    assert [name for name in METHODS["guidance"] if f"`{name}`" not in row] == []


def test_every_file_is_there() -> None:
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in name:
            assert (ROOT / name).exists(), name
    tree = re.search(r"```text\n(nag/.*?)```", README, re.S)
    assert tree
    folder = ""
    for line in tree[1].splitlines():
        found = re.match(r"( *)([\w./]+)", line)
        if not found:
            continue
        indent, name = found.groups()
        if not indent:
            folder = name
        path = ROOT / (name if not indent else folder + name)
        assert path.exists(), path
