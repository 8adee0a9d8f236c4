"""Assets: the files that a sweep names (weights, references), in the store under the hash of their content. They are
copied there at submission and checked before use.

Where others can write to an asset, they could swap it between check and use, so a private copy of this user is used.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from nag import cache
from orchestrator import identity
from orchestrator.errors import CorruptFile, file_errors
from orchestrator.store.folders import exposed
from orchestrator.store.layout import asset_folder
from orchestrator.store.store import Store, unreadable


def path(store: Store, content: str) -> str:
    """A local path of the file (or folder of weights) with this content. Nobody else can change it while it is used.

    Raises CorruptFile, after setting aside what has other content, and EnvironmentProblem if a private copy is needed
    and cannot be made.
    """
    checked = _checked_path(store, content)
    if checked is None and not store.local:  # perhaps only the copy on this machine is damaged
        shutil.rmtree(store.local_copy(asset_folder(content)))
        checked = _checked_path(store, content)
    if checked is not None and store.local:
        checked = _private_path(checked, content)
    if checked is None:
        set_aside(store, content)
        raise CorruptFile(f"{asset_folder(content)} has other content than its name says; it will be copied again")
    return checked


def _checked_path(store: Store, content: str) -> str | None:
    """The path of an asset; None if it is not there or has other content."""
    folder = store.local_copy(asset_folder(content))
    try:
        names = sorted(os.listdir(folder))
        at = folder if content.endswith("/") else os.path.join(folder, *names)
        is_file = content.endswith("/") or (len(names) == 1 and os.path.isfile(at))
        return at if names and is_file and identity.content(at) == content else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except PermissionError as error:
        raise unreadable(folder, error) from error


def _private_path(place: str, content: str) -> str | None:
    """The place itself, or, where others can write to it, this user's own copy; None if it has other content."""
    names = identity.members(place) if content.endswith("/") else [""]
    if not any(exposed(Path(place, name)) for name in names):
        return place
    kept = cache.folder("assets") / content.rstrip("/")
    at = kept if content.endswith("/") else kept / os.path.basename(place)
    if _is_private_copy(at, content):
        return str(at)
    with file_errors(f"others can write to {place}, and a private copy in {kept.parent} cannot be made"):
        temporary = _temporary_folder(kept)
        try:
            for name in names:
                if not _copy_regular_file(Path(place, name), temporary / (name or at.name)):
                    return None
            copy = temporary if content.endswith("/") else temporary / at.name
            if identity.content(str(copy)) != content:
                return None
            if temporary.parent != kept.parent:  # deleted when this process ends
                return str(copy)
            if kept.exists() and not _is_private_copy(at, content):
                shutil.rmtree(kept)
            with contextlib.suppress(OSError):  # another process was faster
                temporary.rename(kept)
            return str(at) if _is_private_copy(at, content) else None
        finally:
            if temporary.parent == kept.parent:
                shutil.rmtree(temporary, ignore_errors=True)


def _is_private_copy(at: Path, content: str) -> bool:
    """Whether a whole copy is there and nobody else can write to it."""
    names = identity.members(str(at)) if content.endswith("/") and at.is_dir() else [""]
    with contextlib.suppress(OSError):
        return not any(exposed(at / name) for name in names) and identity.content(str(at)) == content
    return False


def _temporary_folder(kept: Path) -> Path:
    """A new folder that only this user can enter: next to `kept` in the user's cache or, if others can write there or
    this user cannot, a temporary folder that is deleted when this process ends.
    """
    with contextlib.suppress(OSError):
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not exposed(kept.parent):
            return Path(tempfile.mkdtemp(prefix=".", dir=kept.parent))
    temporary = tempfile.mkdtemp(prefix="nagbench-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def _copy_regular_file(place: Path, target: Path) -> bool:
    """Copy a regular file. False if there is none: nothing, or something else, such as a pipe that never ends."""
    try:
        number = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    with open(number, "rb") as source:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return False
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 24)
    return True


def is_there(store: Store, content: str) -> bool:
    """Whether the store has an asset. The content of a remote one is only checked when it is used."""
    return _checked_path(store, content) is not None if store.local else bool(store.list(asset_folder(content)))


def set_aside(store: Store, content: str) -> list[str]:
    """Move the files of an asset to quarantine/; their names."""
    names = [f"{asset_folder(content)}/{name}" for name in store.list(asset_folder(content))]
    for name in names:
        store.remove(name)
    return names


def keep(store: Store, content: str, place: Path) -> list[str]:
    """Copy a file (or folder of weights) into the store. Returns the files in its place that were set aside."""
    others = set_aside(store, content)
    for file in [place / name for name in identity.members(str(place))] if place.is_dir() else [place]:
        store.create(f"{asset_folder(content)}/{file.name}", file.read_bytes())
    return others
