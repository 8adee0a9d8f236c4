"""Snapshot of the code when a sweep is queued. Queued jobs run it, whatever is edited meanwhile.

It holds only the two packages. In a git repository: their tracked files, and untracked ones that are not ignored, since
these run here too. Elsewhere: all files in their folders. The user's own files (`use`) are in the store already.

A snapshot is trusted because of where it is, so nobody else may be able to write to that folder or replace it. One that
is there already is compared file by file.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import stat
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.identity import checksum, digest
from orchestrator.store.folders import closed_to_others, exposed

PACKAGES = ("nag", "orchestrator")
MAX_BYTES = 50_000_000
LARGEST = 5  # files that the error message names
EXCLUDED = ("__pycache__", ".*", "*.py[co]", "*~", "*.log", "*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.np[yz]")
GIT_S = 30.0
WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def snapshot(folder: Path, packages: Path | None = None, group: int | None = None) -> Path:
    """A folder below `folder`/code that holds the packages, for PYTHONPATH; the same one for the same code.

    packages: the folder to copy them from; None: the running ones. group: a group whose members may own the folders
    above it. Raises BadInput if they are too large, EnvironmentProblem if they cannot be written or others could
    replace them.
    """
    root = packages or Path(__file__).resolve().parents[2]
    try:
        content = {name: (root / name).read_bytes() for name in code_files(root)}
    except OSError as error:
        raise EnvironmentProblem(f"the code in {root} cannot be read: {error}") from error
    target = folder / "code" / digest({name: checksum(data) for name, data in content.items()})
    try:
        _make_own(target.parent, group)
        if not _is_whole(target, content):
            with closed_to_others():
                _write(target, content)
    except OSError as error:
        raise EnvironmentProblem(f"{target.parent} cannot be written: {error.strerror}") from error
    return target


def code_files(root: Path) -> list[str]:
    """The files of the packages, relative to `root`, sorted. Raises BadInput if they are too large."""
    listed = _listed_by_git(root)
    names = sorted(
        name
        for name in (_all_files(root) if listed is None else listed)
        if not any(fnmatch.fnmatch(part, pattern) for part in Path(name).parts for pattern in EXCLUDED)
        and (root / name).is_file()  # git also lists submodules, and files whose deletion is not committed yet
    )
    sizes = {name: (root / name).stat().st_size for name in names}
    if sum(sizes.values()) > MAX_BYTES:
        largest = sorted(names, key=lambda name: -sizes[name])[:LARGEST]
        listing = ", ".join(f"{name} ({sizes[name] / 1e6:.1f} MB)" for name in largest)
        raise BadInput(
            f"{root}: the code is {sum(sizes.values()) / 1e6:.0f} MB, at most {MAX_BYTES / 1e6:.0f} MB are copied to "
            f"a cluster. Move data out of the packages, or let git ignore it. Largest: {listing}."
        )
    return names


def _listed_by_git(root: Path) -> list[str] | None:
    """The packages' files that git lists; None if they are not in a repository (installed with pip)."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=GIT_S, check=False, stdin=subprocess.DEVNULL, env=clean
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    whole = all(f"{package}/__init__.py" in names for package in PACKAGES)  # a repository around them may ignore them
    return sorted(set(names)) if done.returncode == 0 and whole else None


def _all_files(root: Path) -> Iterator[str]:
    for package in PACKAGES:
        for path in (root / package).rglob("*"):
            yield path.relative_to(root).as_posix()


def _make_own(folder: Path, group: int | None) -> None:
    """Make a folder to which only this user can write. Raises EnvironmentProblem if others can, or could replace it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    about = folder.stat()
    if about.st_uid == os.geteuid():
        folder.chmod(stat.S_IMODE(about.st_mode) & ~WRITABLE)
    if why := exposed(folder, group):
        raise EnvironmentProblem(
            f"{folder}: {why}, so they could put code there that your jobs would run. "
            "Name a folder of your own as `folder` in the site file, or take away their right to write (chmod go-w); "
            "for the store of a group that you trust, set `group` there."
        )


def _is_whole(target: Path, content: dict[str, bytes]) -> bool:
    """Whether a snapshot has every file unchanged, and no others but Python's compiled ones. Some sites remove files
    that nobody has read for weeks.
    """
    try:
        for folder, names, others in os.walk(target):
            for name in (*names, *others):
                path = Path(folder, name)
                about, inside = path.lstat(), path.relative_to(target)
                if about.st_uid != os.geteuid() or stat.S_ISLNK(about.st_mode):
                    return False
                if name in others and inside.as_posix() not in content and inside.parent.name != "__pycache__":
                    return False
        return target.is_dir() and all((target / name).read_bytes() == data for name, data in content.items())
    except OSError:
        return False


def _write(target: Path, content: dict[str, bytes]) -> None:
    """Write under a temporary name and rename it, so that `target` is there whole or not at all."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for name, data in content.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if target.exists() and not _is_whole(target, content):
            target.rename(target.with_name(f".{target.name}.{uuid.uuid4().hex}.old"))
        try:
            temporary.rename(target)
        except OSError:
            if not _is_whole(target, content):  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
