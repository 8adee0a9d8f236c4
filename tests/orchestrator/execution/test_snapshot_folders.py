"""Folders for snapshots of the code: nobody else may be able to write there."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.code_snapshot import snapshot
from orchestrator.store.folders import exposed


def package(root: Path) -> Path:
    for name in ("nag/__init__.py", "orchestrator/__init__.py"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(f"NAME = {name!r}\n")
    return root


def test_a_snapshot_that_was_there_first(tmp_path: Path) -> None:
    """It must have equal content, not only equal sizes, and no other files."""
    root = package(tmp_path / "checkout")
    made = snapshot(tmp_path / "shared", root)
    good = (made / "nag/__init__.py").read_text()
    for plant in ("nag/__init__.py", "torch.py", "nag/evil.py", "sitecustomize/__init__.py"):
        (made / plant).parent.mkdir(exist_ok=True)
        (made / plant).write_text("x" * len(good))
        assert snapshot(tmp_path / "shared", root) == made
        assert {str(p.relative_to(made)) for p in made.rglob("*.py")} == {"nag/__init__.py", "orchestrator/__init__.py"}
        assert (made / "nag/__init__.py").read_text() == good
    (tmp_path / "evil").mkdir()
    shutil.rmtree(made)
    made.symlink_to(tmp_path / "evil")
    assert snapshot(tmp_path / "shared", root) == made
    assert not made.is_symlink()


def test_a_snapshot_goes_into_a_folder_of_ones_own(tmp_path: Path) -> None:
    root, shared = package(tmp_path / "checkout"), tmp_path / "group/shared"
    shared.mkdir(parents=True)
    shared.parent.chmod(0o777)  # who may rename `shared` may put another one in its place
    with pytest.raises(EnvironmentProblem, match=r"others can write to .*group, so they could put code"):
        snapshot(shared, root)
    shared.parent.chmod(0o1777)
    assert stat.S_IMODE(snapshot(shared, root).parent.stat().st_mode) & 0o022 == 0
    (shared / "code").chmod(0o777)
    assert stat.S_IMODE(snapshot(shared, root).parent.stat().st_mode) & 0o022 == 0
    if os.geteuid() == 0:
        os.chown(shared / "code", 1234, 1234)
        with pytest.raises(EnvironmentProblem, match=r"is not yours \(its owner is user 1234\)"):
            snapshot(shared, root)
        os.chown(shared / "code", 0, 0)
        os.chown(shared.parent, 0, 1234)
        shared.parent.chmod(0o775)
        with pytest.raises(EnvironmentProblem, match="others can write to"):
            snapshot(shared, root)


def test_links_on_the_way_to_a_folder_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open/link").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "open/link")
    assert exposed(tmp_path / "real") == ""
    assert exposed(tmp_path / "open/link") == f"others can write to {tmp_path / 'open'}"
    assert exposed(tmp_path / "link") == f"others can write to {tmp_path / 'open'}"
