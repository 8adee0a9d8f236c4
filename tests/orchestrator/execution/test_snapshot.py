"""The snapshot of the code that queued work runs: what is in it; equal code shares it; editing does not change it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.execution import code_snapshot as module
from orchestrator.execution.code_snapshot import PACKAGES, code_files, snapshot

ROOT = Path(__file__).parents[3]


def git(folder: Path, *arguments: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    settings = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "safe.directory=*"]
    subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True, env=clean)


@pytest.fixture
def code(tmp_path: Path) -> Callable[..., Path]:
    """Two small packages, in a repository or not."""

    def made(repository: bool = True) -> Path:
        root = tmp_path / "checkout"
        for name in ("nag/__init__.py", "nag/samplers/heun.py", "orchestrator/__init__.py", "tests/test_x.py"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"NAME = {name!r}\n")
        (root / "nag/__pycache__").mkdir()
        (root / "nag/__pycache__/heun.cpython-311.pyc").write_bytes(b"x")
        (root / "nag/weights.pt").write_bytes(b"x" * 1000)
        (root / ".gitignore").write_text("__pycache__/\nignored.py\n")
        if repository:
            if shutil.which("git") is None:
                pytest.skip("git is not installed")
            git(root, "init", "-q")
            git(root, "add", ".")
            git(root, "commit", "-q", "-m", "x")
        return root

    return made


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


EXPECTED = {"nag/__init__.py", "nag/samplers/heun.py", "orchestrator/__init__.py"}


@pytest.mark.parametrize("repository", [True, False])
def test_the_two_packages_and_nothing_else(code: Callable[..., Path], tmp_path: Path, repository: bool) -> None:
    made = snapshot(tmp_path / "shared", code(repository))
    assert set(content(made)) == EXPECTED
    assert made.parent == tmp_path / "shared/code"
    assert stat.S_IMODE(made.stat().st_mode) & 0o022 == 0
    assert os.listdir(made.parent) == [made.name]  # nothing temporary is left


def test_what_git_knows(code: Callable[..., Path]) -> None:
    root = code()
    (root / "nag/new.py").write_text("new, not added yet")
    (root / "nag/ignored.py").write_text("ignored")
    (root / "nag/samplers/heun.py").unlink()  # deleted, not committed
    (root / "nag/__init__.py").write_text("edited")
    assert code_files(root) == ["nag/__init__.py", "nag/new.py", "orchestrator/__init__.py"]


def test_a_repository_that_is_about_something_else(code: Callable[..., Path]) -> None:
    """The packages are installed inside another project's repository, which ignores them."""
    root = code(repository=False)
    (root / ".gitignore").write_text("*\n")
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git(root, "init", "-q")
    assert set(code_files(root)) == EXPECTED


def test_equal_code_is_one_folder_and_other_code_another(code: Callable[..., Path], tmp_path: Path) -> None:
    root, shared = code(), tmp_path / "shared"
    first = snapshot(shared, root)
    before = content(first)
    inode = first.stat().st_ino
    assert snapshot(shared, root) == first
    assert first.stat().st_ino == inode  # not written again
    (root / "nag/samplers/heun.py").write_text("edited\n")
    second = snapshot(shared, root)
    assert second != first
    assert content(first) == before
    assert content(second)["nag/samplers/heun.py"] == "edited\n"
    git(root, "commit", "-q", "-a", "-m", "y")
    assert snapshot(shared, root) == second  # what is committed does not matter, what is in the files does
    assert snapshot(tmp_path / "elsewhere", root).name == second.name


def test_a_folder_that_lost_files_is_made_again(code: Callable[..., Path], tmp_path: Path) -> None:
    """Some sites remove files that nobody has read for weeks."""
    root = code()
    made = snapshot(tmp_path, root)
    whole = content(made)
    (made / "nag/samplers/heun.py").unlink()
    assert snapshot(tmp_path, root) == made
    assert content(made) == whole


def test_many_at_once_make_one(code: Callable[..., Path], tmp_path: Path) -> None:
    root, found = code(), []
    threads = [threading.Thread(target=lambda: found.append(snapshot(tmp_path / "s", root))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert set(content(found[0])) == EXPECTED


def test_too_much(code: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = code()
    monkeypatch.setattr(module, "MAX_BYTES", 1_000_000)
    (root / "nag/table.csv").write_bytes(b"x" * 2_000_000)
    with pytest.raises(BadInput, match=r"the code is 2 MB, at most 1 MB .*Largest: nag/table\.csv \(2\.0 MB\)"):
        snapshot(tmp_path / "s", root)
    assert not (tmp_path / "s").exists()


def test_a_folder_that_cannot_be_written(code: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="cannot be written: File exists"):
        snapshot(tmp_path / "file", code())


def test_our_own_code_runs_from_it(tmp_path: Path) -> None:
    """A snapshot made of a snapshot is the same one: a reconcile job queues from a node."""
    made = snapshot(tmp_path)
    assert {path.name for path in made.iterdir()} == set(PACKAGES)
    program = "import nag, sys\nfrom pathlib import Path\nfrom orchestrator.execution.code_snapshot import snapshot\n"
    program += f"print(nag.__file__)\nprint(snapshot(Path({str(tmp_path)!r})))"
    env = os.environ | {"PYTHONPATH": str(made)}
    done = subprocess.run([sys.executable, "-c", program], env=env, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(made / "nag/__init__.py"), str(made)]
    sizes = sum(path.stat().st_size for path in made.rglob("*.py"))
    assert sizes < 3_000_000
