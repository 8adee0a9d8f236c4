"""Every command of the README and of docs/ runs, every file that they name exists, and every method is in a table."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from nag.registry import METHODS
from orchestrator.spec.reader import read_sweep
from tests.orchestrator import forked

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
README = PAGES["README.md"]


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|console|sh)\n(.*?)```", page, re.S)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_the_two_commands() -> None:
    assert {"make demo", "make test"} <= {*commands(README)}
    for target in ("demo", "test", "lint"):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_nothing_else_is_promised() -> None:
    """Every line of a block is a nagbench command or a known other one."""
    for line in [line for page in PAGES.values() for line in commands(page)]:
        words = line.split()
        if words[:2] == ["python", "-m"]:
            module = ROOT / words[2].replace(".", "/")
            assert module.is_dir() or module.with_suffix(".py").is_file(), line
            continue
        assert words[0] in ("nagbench", "make", "git", "cd", "pip", "source", "."), line


SMOKED = ("run", "plan", "status", "report", "check", "logs", "export", "du")
ELSEWHERE = (  # tested in tests/orchestrator, `ui` with a real server; on a real cluster in tests/slurm
    "nagbench ui",
    "nagbench compare",
    "nagbench submit",
    "nagbench cancel",
    "nagbench doctor",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sweeps, in which the pages' commands are run one after the other."""
    path = tmp_path_factory.mktemp("docs")
    for name in ("sweeps", "sites"):
        (path / name).symlink_to(ROOT / name)
    return path


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if "\nnagbench " in page])
def test_every_command_runs(name: str, folder: Path) -> None:
    """In the page's order. `run` is a smoke run here: CI runs the demonstration itself."""
    for line in commands(PAGES[name]):
        if not line.startswith("nagbench ") or line.startswith(ELSEWHERE):
            continue
        words = shlex.split(line)[1:]
        if words[0] in SMOKED:
            words.append("--smoke")
        if words[0] == "run":
            words += ["--workers", "1"]
        done = forked.run(words, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_every_file_is_there() -> None:
    for page, text in PAGES.items():
        for name in re.findall(r"\]\(([^)#]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
            if "://" not in name:
                assert ((ROOT / page).parent / name).exists(), (page, name)
    tree = re.search(r"```text\n(nag/.*?)```", PAGES["docs/architecture.md"], re.S)
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


def test_the_sweep_of_the_readme_is_the_demonstration(tmp_path: Path) -> None:
    """Without its measures."""
    block = re.search(r"```yaml\n(name: digits.*?)```", README, re.S)
    assert block
    (tmp_path / "digits.yaml").write_text(block[1])
    shown, real = read_sweep(tmp_path / "digits.yaml"), read_sweep(ROOT / "sweeps/digits.yaml")
    assert (shown.tune, shown.compare, shown.score) == (real.tune, real.compare, real.score)
    assert [arm.name for arm in shown.arms] == [arm.name for arm in real.arms]
    assert [cell.params for cell in shown.cells] == [cell.params for cell in real.cells]


@pytest.mark.parametrize(
    "family", ["models", "interpolants", "samplers", "guidance", "features", "metrics", "datasets"]
)
def test_every_method_is_in_the_table(family: str) -> None:
    shown = {name for name in METHODS[family] if name != "made_up"}  # the stand-in of smoke runs
    missing = [name for name in shown if f"`{name}`" not in PAGES["docs/sweep.md"]]
    assert not missing


def test_every_guidance_is_in_the_table_of_its_page() -> None:
    table = {line.split("`")[1] for line in PAGES["docs/guidance.md"].splitlines() if line.startswith("| `")}
    assert table == set(METHODS["guidance"])
