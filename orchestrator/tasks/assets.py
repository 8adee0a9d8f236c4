"""Files that a sweep names (weights, references), in a store by their content: copied at submission, checked at use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from orchestrator import identity
from orchestrator.errors import CorruptFile
from orchestrator.store.layout import asset_folder
from orchestrator.store.store import Store, unreadable


def path(store: Store, content: str) -> str:
    """A local path of a file (or folder of weights). Raises CorruptFile, after setting aside what has other content."""
    found = _found(store, content)
    if found is None and not store.local:  # or is it the copy here that is damaged?
        shutil.rmtree(store.local_copy(asset_folder(content)))
        found = _found(store, content)
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
