"""Files that a sweep names (weights, references), in a store by their content: copied at submission, checked at use.

Where others can write to them, they could be exchanged between the check and their use: then a copy is used, which is
this user's alone.
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
    """A local path of a file (or folder of weights) that has this content as long as it is used.

    Raises CorruptFile, after setting aside what has other content, and EnvironmentProblem where the copy of a file that
    others can write to cannot be made.
    """
    found = _found(store, content)
    if found is None and not store.local:  # or is it the copy here that is damaged?
        shutil.rmtree(store.local_copy(asset_folder(content)))
        found = _found(store, content)
    if found is not None and store.local:
        found = _private(found, content)
    if found is None:
        set_aside(store, content)
        raise CorruptFile(f"{asset_folder(content)} is not what was put there; it will be copied again")
    return found


def _found(store: Store, content: str) -> str | None:
    """Where it lies; None where it does not, or is something else."""
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


def _private(place: str, content: str) -> str | None:
    """The place itself, or, where others can write to it, a copy of this user's own; None if it has other content."""
    names = identity.members(place) if content.endswith("/") else [""]
    if not any(exposed(Path(place, name)) for name in names):
        return place
    kept = cache.folder("assets") / content.rstrip("/")
    at = kept if content.endswith("/") else kept / os.path.basename(place)
    if _is(at, content):
        return str(at)
    with file_errors(f"a copy of {place}, to which others can write, cannot be made in {kept.parent}"):
        made = _folder_beside(kept)
        try:
            for name in names:
                if not _copied(Path(place, name), made / (name or at.name)):
                    return None
            copy = made if content.endswith("/") else made / at.name
            if identity.content(str(copy)) != content:
                return None
            if made.parent != kept.parent:  # a folder of this process alone
                return str(copy)
            if kept.exists() and not _is(at, content):
                shutil.rmtree(kept)
            with contextlib.suppress(OSError):  # another process was faster
                made.rename(kept)
            return str(at) if _is(at, content) else None
        finally:
            if made.parent == kept.parent:
                shutil.rmtree(made, ignore_errors=True)


def _is(at: Path, content: str) -> bool:
    """Whether a copy is there, is whole, and nobody else can write to it."""
    names = identity.members(str(at)) if content.endswith("/") and at.is_dir() else [""]
    with contextlib.suppress(OSError):
        return not any(exposed(at / name) for name in names) and identity.content(str(at)) == content
    return False


def _folder_beside(kept: Path) -> Path:
    """A new folder that only this user can enter: in the user's cache, or, where nobody else is kept out of that or it
    cannot be written, a temporary one that goes with this process.
    """
    with contextlib.suppress(OSError):
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not exposed(kept.parent):
            return Path(tempfile.mkdtemp(prefix=".", dir=kept.parent))
    made = tempfile.mkdtemp(prefix="nagbench-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def _copied(place: Path, target: Path) -> bool:
    """Copy a regular file; False for anything else, such as a pipe that would never end, and where nothing is."""
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
    """Whether the store has it; a remote one is believed, and what it has is checked where it is used."""
    return _found(store, content) is not None if store.local else bool(store.list(asset_folder(content)))


def set_aside(store: Store, content: str) -> list[str]:
    names = [f"{asset_folder(content)}/{name}" for name in store.list(asset_folder(content))]
    for name in names:
        store.remove(name)
    return names


def keep(store: Store, content: str, place: Path) -> list[str]:
    """Copy a file (or folder of weights) into the store. Returns what was there instead, and is set aside."""
    others = set_aside(store, content)
    for file in [place / name for name in identity.members(str(place))] if place.is_dir() else [place]:
        store.create(f"{asset_folder(content)}/{file.name}", file.read_bytes())
    return others
